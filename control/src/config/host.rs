//! What only the host can say of a configuration.

use std::path::Path;

use postern_io::device::Device;
use postern_io::frame::MTU_MAX;

use super::fault::{Fault, did_you_mean, fault};
use super::{Settings, Workers};

/// What a configuration is held against. A trait, so that tests need no devices.
pub trait HostFacts {
    /// Names of the network devices there are.
    fn devices(&self) -> Vec<String>;
    /// The MTU of a device, bytes, if it can be had.
    fn mtu(&self, device: &str) -> Option<u32>;
    /// Cores this process may use, in ascending order.
    fn cores(&self) -> Vec<u16>;
    /// Whether there is a regular file that can be read.
    fn readable(&self, path: &Path) -> bool;
}

/// The host this process runs on, in its network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl HostFacts for ThisHost {
    fn devices(&self) -> Vec<String> {
        // SAFETY: if_nameindex has no arguments; it returns null or an array that ends with an entry
        // whose name is null, which stays ours until if_freenameindex below.
        let list = unsafe { libc::if_nameindex() };
        let mut names = Vec::new();
        if list.is_null() {
            return names;
        }
        let mut entry = list;
        loop {
            // SAFETY: `entry` is within the array: the loop ends at the entry whose name is null.
            let name = unsafe { (*entry).if_name };
            if name.is_null() {
                break;
            }
            // SAFETY: if_nameindex gives every entry a NUL-terminated name.
            names.push(unsafe { std::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned());
            // SAFETY: this was not the last entry, so the next one is within the array.
            entry = unsafe { entry.add(1) };
        }
        // SAFETY: the list came from if_nameindex and is not used after this.
        unsafe { libc::if_freenameindex(list) };
        names
    }

    fn mtu(&self, device: &str) -> Option<u32> {
        Device::open(device).ok().map(|device| device.mtu)
    }

    fn cores(&self) -> Vec<u16> {
        // SAFETY: all zero bytes are a valid, empty cpu_set_t.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a cpu_set_t of the size given, and lives through the call.
        let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        if result != 0 {
            let count = std::thread::available_parallelism().map_or(1, |n| n.get());
            return (0..count as u16).collect();
        }
        let highest = libc::CPU_SETSIZE as u16;
        // SAFETY: the core's number is below CPU_SETSIZE, so its bit is within the set.
        (0..highest).filter(|core| unsafe { libc::CPU_ISSET(usize::from(*core), &set) }).collect()
    }

    fn readable(&self, path: &Path) -> bool {
        std::fs::File::open(path).and_then(|f| f.metadata()).is_ok_and(|m| !m.is_dir())
    }
}

/// The faults that `config` has on this host: absent devices, cores and rules files, MTUs
/// that are too large. Empty: it can run.
pub fn check_host(config: &super::Config, host: &impl HostFacts) -> Vec<Fault> {
    check(config, host)
}

/// [`check_host`] for settings that may have other faults as well.
pub(super) fn check(settings: &Settings, host: &impl HostFacts) -> Vec<Fault> {
    let file = &settings.file;
    let mut faults = Vec::new();

    let devices = host.devices();
    for interface in &settings.interfaces {
        if !devices.contains(&interface.device) {
            let message =
                format!("there is no device `{}` on this host", interface.device.escape_debug());
            let hint = did_you_mean(&interface.device, devices.iter().map(String::as_str));
            faults.push(fault(file, interface.device_at, message, hint));
        } else if let Some(mtu) = host.mtu(&interface.device)
            && mtu > MTU_MAX
        {
            let device = &interface.device;
            let message =
                format!("device `{device}` has MTU {mtu}; at most {MTU_MAX} fits a frame");
            let hint = format!("for example: ip link set dev {device} mtu 1500");
            faults.push(fault(file, interface.device_at, message, Some(hint)));
        }
    }

    let cores = host.cores();
    if let Some(at) = settings.places.workers {
        match &settings.workers {
            Workers::Auto => {}
            Workers::Count(count) if usize::from(*count) > cores.len() => {
                let have = cores.len();
                let message =
                    format!("{count} workers need {count} cores; this host has {have} for us");
                faults.push(fault(file, at, message, None));
            }
            Workers::Count(_) => {}
            Workers::Cores(wanted) => {
                for core in wanted.iter().filter(|core| !cores.contains(core)) {
                    let message = format!("there is no core {core} on this host for us");
                    faults.push(fault(file, at, message, None));
                }
            }
        }
    }

    let rules =
        [(&settings.rules, settings.places.rules), (&settings.rules6, settings.places.rules6)];
    for (path, at) in rules {
        if let (Some(path), Some(at)) = (path, at)
            && !host.readable(path)
        {
            let message = format!("there is no readable file `{}`", path.display());
            faults.push(fault(file, at, message, None));
        }
    }
    faults.sort_by_key(|f| (f.line, f.column));
    faults
}
