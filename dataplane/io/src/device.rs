//! A raw device: what Postern needs to know of it, what it changes on it, and how it gives it back.
//!
//! Beneath the XDP program the kernel still has the device. So that nothing happens there when the
//! program is gone, the device loses its addresses, IPv6, and the right to answer ARP. How it was
//! found is written to `<run_dir>/<device>.state.json` first; [`TakenOver::release`] puts it back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame::MTU_MAX;
use crate::netdev::Control;
use crate::netlink::{self, Netlink};
use crate::sysctl::{self, Sysctl};

/// Why a device cannot be taken over or given back.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is none.
    #[error("there is no device {0}")]
    Missing(String),
    /// Its packets do not fit a frame.
    #[error("device {name} has MTU {mtu}: at most {MTU_MAX} fits")]
    MtuTooLarge {
        /// Its name.
        name: String,
        /// Its MTU in bytes.
        mtu: u32,
    },
    /// A step failed: EPERM without CAP_NET_ADMIN.
    #[error("device {name}: {step}: {source}")]
    Step {
        /// Its name.
        name: String,
        /// What was being done, for people.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether there is a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// There is.
    Up,
    /// There is none.
    Down,
}

/// Which frames the device lets in beside its own unicast and broadcast.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Reception {
    /// All multicast (IFF_ALLMULTI).
    #[default]
    AllMulticast,
    /// Everything (IFF_ALLMULTI, IFF_PROMISC): for MAC addresses that the NIC does not know.
    Promiscuous,
}

/// Who has the device's queues looked at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Polling {
    /// Its interrupts.
    #[default]
    Interrupts,
    /// The workers' own calls ([`BusyPoll`](crate::xdp::socket::BusyPoll)); interrupts are put off as long as they come.
    Busy,
}

impl Polling {
    /// What the kernel's napi documentation advises (Documentation/networking/napi.rst, "Busy polling"): after so many
    /// empty polls, and so many nanoseconds without one, interrupts are back.
    const fn attributes(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Interrupts => &[],
            Self::Busy => &[("napi_defer_hard_irqs", "2"), ("gro_flush_timeout", "200000")],
        }
    }
}

impl Reception {
    const fn flags(self) -> (i32, i32) {
        match self {
            Self::AllMulticast => (libc::IFF_ALLMULTI, libc::IFF_PROMISC),
            Self::Promiscuous => (libc::IFF_ALLMULTI | libc::IFF_PROMISC, 0),
        }
    }
}

/// A network device as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The kernel's index of it. Good until the device is deleted, never to be stored.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
}

impl Device {
    /// Looks a device up by name, in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`DeviceError::Missing`]; [`DeviceError::Step`] if it is no Ethernet device.
    pub fn open(name: &str) -> Result<Self, DeviceError> {
        let step = |step| move |source| DeviceError::Step { name: name.to_owned(), step, source };
        let control = Control::open().map_err(step("control socket"))?;
        let ifindex = control.index(name).map_err(|source| match source.raw_os_error() {
            Some(libc::ENODEV) => DeviceError::Missing(name.to_owned()),
            _ => step("asking for its index")(source),
        })?;
        let mac = control.mac(name).map_err(step("asking for its MAC"))?;
        let mtu = control.mtu(name).map_err(step("asking for its MTU"))?;
        Ok(Self { name: name.to_owned(), ifindex, mac, mtu })
    }

    /// How many queues receive now. Ask again **after** attaching the program: virtio opens one more
    /// pair per processor then, delivers to those too, and tells ethtool nothing of it.
    ///
    /// # Errors
    /// [`DeviceError::Step`].
    pub fn rx_queues(&self) -> Result<u32, DeviceError> {
        let channels = Control::open()
            .and_then(|control| control.rx_channels(&self.name))
            .map_err(self.step("asking for its queues"))?;
        Ok(channels.unwrap_or(1).max(self.queues_in_sysfs().unwrap_or(1)))
    }

    /// The device's folder in `/sys`; `None` where `/sys` is that of another network namespace.
    fn sysfs(&self) -> Option<PathBuf> {
        let directory = sysfs_of(&self.name);
        let index = fs::read_to_string(directory.join("ifindex")).ok()?;
        let address = fs::read_to_string(directory.join("address")).ok()?;
        let [a, b, c, d, e, f] = self.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        (index.trim().parse() == Ok(self.ifindex) && address.trim() == mac).then_some(directory)
    }

    /// The queues `/sys` shows.
    fn queues_in_sysfs(&self) -> Option<u32> {
        let queues = fs::read_dir(self.sysfs()?.join("queues")).ok()?.flatten();
        let count = queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"));
        u32::try_from(count.count()).ok()
    }

    /// Whether the device is up and has a link.
    ///
    /// # Errors
    /// [`DeviceError::Step`].
    pub fn carrier(&self) -> Result<Carrier, DeviceError> {
        let has_link = Control::open()
            .and_then(|control| control.has_link(&self.name))
            .map_err(self.step("asking for its link"))?;
        Ok(if has_link { Carrier::Up } else { Carrier::Down })
    }

    /// Records how the device was found, and that `tap` is the host's side of it; then takes it from the kernel's stack:
    /// no addresses, no IPv6, no ARP; multicast in; up; and, for busy polling, interrupts that wait. A record of an
    /// earlier run (a crash, a restart) is kept: it tells how the device was found before Postern, and which TAPs it has
    /// had. Attach the program first, so that nothing leaks between.
    ///
    /// # Errors
    /// [`DeviceError`]; the device may be half taken over then, and `release` undoes it.
    pub fn take_over(
        &self,
        run_dir: &Path,
        tap: &str,
        reception: Reception,
        polling: Polling,
    ) -> Result<TakenOver, DeviceError> {
        if self.mtu > MTU_MAX {
            return Err(DeviceError::MtuTooLarge { name: self.name.clone(), mtu: self.mtu });
        }
        let record = record_path(run_dir, &self.name);
        let earlier: Option<State> =
            read_record(&record).map_err(self.step("reading its record"))?;
        let write =
            |state: &State| write_record(&record, state).map_err(self.step("writing its record"));
        let mut found = match earlier {
            Some(state) if state.is_of(self.ifindex) => state,
            _ => self.present().map_err(self.step("recording its state"))?,
        };
        if !found.taps.iter().any(|known| known == tap) {
            found.taps.push(tap.to_owned());
            write(&found)?;
        }
        let attributes = self.attributes(polling).map_err(self.step("busy polling"))?;
        if found.attributes.is_empty() && !attributes.is_empty() {
            found.attributes = attributes;
            write(&found)?;
        }
        self.change(reception).map_err(self.step("taking it over"))?;
        // Those that an earlier run changed for its polling are as they were, if this one's does not change them.
        let (changed, restored): (Vec<_>, Vec<_>) = found
            .attributes
            .drain(..)
            .partition(|(name, _)| polling.attributes().iter().any(|(set, _)| set == name));
        found.attributes = changed;
        for (name, value) in &restored {
            set_attribute(&self.name, self.ifindex, name, value)
                .map_err(self.step("no busy polling"))?;
        }
        if !restored.is_empty() {
            write(&found)?;
        }
        for (name, value) in polling.attributes() {
            set_attribute(&self.name, self.ifindex, name, value)
                .map_err(self.step("busy polling"))?;
        }
        Ok(TakenOver { name: self.name.clone(), record, found })
    }

    fn present(&self) -> io::Result<State> {
        let mut netlink = Netlink::open()?;
        Ok(State {
            ifindex: self.ifindex,
            boot: boot_id(),
            flags: Control::open()?.flags(&self.name)? & FLAGS_CHANGED,
            sysctls: sysctl::present(&self.settings())?,
            attributes: Vec::new(),
            taps: Vec::new(),
            addresses: netlink.addresses(self.ifindex)?.iter().map(|bytes| to_hex(bytes)).collect(),
            routes: netlink.routes(self.ifindex)?.iter().map(|bytes| to_hex(bytes)).collect(),
        })
    }

    /// What `/sys` says now of what polling would change there.
    fn attributes(&self, polling: Polling) -> io::Result<Vec<(String, String)>> {
        let names = polling.attributes();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let elsewhere = || io::Error::other("/sys is that of another network namespace");
        let directory = self.sysfs().ok_or_else(elsewhere)?;
        let read = |&(name, _): &(&str, _)| {
            let value = fs::read_to_string(directory.join(name))?;
            Ok((name.to_owned(), value.trim_end().to_owned()))
        };
        names.iter().map(read).collect()
    }

    fn change(&self, reception: Reception) -> io::Result<()> {
        self.settings().iter().try_for_each(Sysctl::apply)?;
        let mut netlink = Netlink::open()?;
        for address in netlink.addresses(self.ifindex)? {
            if netlink::family(&address) == libc::AF_INET {
                netlink.remove_address(&address)?;
            }
        }
        let (set, clear) = reception.flags();
        Control::open()?.change_flags(&self.name, set | libc::IFF_UP, clear)
    }

    fn settings(&self) -> Vec<Sysctl> {
        let name = &self.name;
        vec![
            Sysctl::new(format!("ipv6/conf/{name}/disable_ipv6"), "1"),
            Sysctl::new(format!("ipv4/conf/{name}/arp_ignore"), "8"),
            Sysctl::new(format!("ipv4/conf/{name}/rp_filter"), "1"),
            Sysctl::new(format!("ipv4/conf/{name}/forwarding"), "0"),
        ]
    }

    fn step(&self, step: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
        move |source| DeviceError::Step { name: self.name.clone(), step, source }
    }
}

/// The flags that taking over may change.
const FLAGS_CHANGED: i32 = libc::IFF_UP | libc::IFF_ALLMULTI | libc::IFF_PROMISC;

/// How a device was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    ifindex: u32,
    /// Of which boot that index is: of another it may be any device's. Empty if it is not known.
    #[serde(default)]
    boot: String,
    /// `IFF_*`, those of [`FLAGS_CHANGED`].
    flags: i32,
    sysctls: Vec<Sysctl>,
    /// Of the device's folder in `/sys`, those that busy polling changed: name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<(String, String)>,
    /// The host's side of it, by each name that the configuration has had for it since.
    #[serde(default)]
    taps: Vec<String>,
    /// The kernel's own messages (`ifaddrmsg` with attributes), in hexadecimal: lifetimes, labels and
    /// peers go back as they were.
    addresses: Vec<String>,
    /// Likewise (`rtmsg`), for routes that somebody made.
    routes: Vec<String>,
}

impl State {
    /// Whether it is about the device that has this index now: between two boots none is used twice.
    fn is_of(&self, ifindex: u32) -> bool {
        self.ifindex == ifindex && (self.boot.is_empty() || self.boot == boot_id())
    }
}

/// The kernel's name for the time since it was started; empty if it does not tell.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}

/// A device that was taken over. Dropping it changes nothing: the device stays closed until
/// [`release`](Self::release).
#[derive(Debug)]
pub struct TakenOver {
    name: String,
    record: PathBuf,
    found: State,
}

impl TakenOver {
    /// The record that an earlier run left for the device `name`, if there is one.
    ///
    /// # Errors
    /// [`DeviceError::Step`] if it cannot be read.
    pub fn load(run_dir: &Path, name: &str) -> Result<Option<Self>, DeviceError> {
        let record = record_path(run_dir, name);
        let found = read_record(&record).map_err(|source| DeviceError::Step {
            name: name.to_owned(),
            step: "reading its record",
            source,
        })?;
        Ok(found.map(|found| Self { name: name.to_owned(), record, found }))
    }

    /// The devices that runs with this directory have left a record of.
    ///
    /// # Errors
    /// What reading the directory said; that there is none is no error.
    pub fn recorded(run_dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(run_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let device = name.to_str().and_then(|name| name.strip_suffix(RECORD));
            names.extend(device.filter(|&device| device != HOST).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The host's side of it, by each name that the configuration has had for it since it was found.
    pub fn taps(&self) -> &[String] {
        &self.found.taps
    }

    /// Changes what the device lets in.
    ///
    /// # Errors
    /// [`DeviceError::Step`].
    pub fn set_reception(&self, reception: Reception) -> Result<(), DeviceError> {
        let (set, clear) = reception.flags();
        Control::open()
            .and_then(|control| control.change_flags(&self.name, set, clear))
            .map_err(self.step("changing its flags"))
    }

    /// Gives the device back as it was found: settings, flags, addresses, routes. All of it is tried, whatever fails. A
    /// device that is gone, or is another one under the same name, needs nothing. Removes the record.
    ///
    /// # Errors
    /// [`DeviceError::Step`] with everything that failed; the record stays, so that it can be tried again.
    pub fn release(self) -> Result<(), DeviceError> {
        let present = Control::open()
            .map_err(self.step("control socket"))?
            .index(&self.name)
            .is_ok_and(|ifindex| self.found.is_of(ifindex));
        if present {
            self.restore().map_err(self.step("giving it back"))?;
        }
        fs::remove_file(&self.record).map_err(self.step("removing its record"))
    }

    fn restore(&self) -> io::Result<()> {
        let State { flags, sysctls, attributes, addresses, routes, .. } = &self.found;
        let attribute = |(name, value): &(String, String)| {
            set_attribute(&self.name, self.found.ifindex, name, value)
        };
        let flags = Control::open()
            .and_then(|control| control.change_flags(&self.name, *flags, FLAGS_CHANGED & !flags));
        let mut done = vec![flags];
        done.extend(attributes.iter().map(attribute));
        done.extend(sysctls.iter().map(Sysctl::apply));
        match Netlink::open() {
            Ok(mut netlink) => {
                let add = |bytes: &String| netlink.add_address(&from_hex(bytes)?);
                done.extend(addresses.iter().map(add));
                // A route through a gateway needs the route to the gateway first; their order is not known.
                let mut add = |bytes: &&String| netlink.add_route(&from_hex(bytes)?);
                let left: Vec<_> = routes.iter().filter(|route| add(route).is_err()).collect();
                done.extend(left.iter().map(add));
            }
            Err(error) => done.push(Err(error)),
        }
        sysctl::try_all(done)
    }

    fn step(&self, step: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
        let name = self.name.clone();
        move |source| DeviceError::Step { name, step, source }
    }
}

fn sysfs_of(device: &str) -> PathBuf {
    Path::new("/sys/class/net").join(device)
}

/// Writes an attribute of the device that has this name and index, and of no other: `/sys` may be that of another network
/// namespace.
fn set_attribute(device: &str, ifindex: u32, name: &str, value: &str) -> io::Result<()> {
    let directory = sysfs_of(device);
    let write = || {
        let index = fs::read_to_string(directory.join("ifindex"))?;
        if index.trim().parse() != Ok(ifindex) {
            return Err(io::Error::other("it is that of another network namespace"));
        }
        fs::write(directory.join(name), value)
    };
    write().map_err(|error| io::Error::new(error.kind(), format!("/sys: {name}: {error}")))
}

/// How the names of records end.
const RECORD: &str = ".state.json";

/// Under this name the run directory has the host's own record.
pub(crate) const HOST: &str = "host";

pub(crate) fn record_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("{name}{RECORD}"))
}

/// Writes a record whole or not at all, and to the disk.
pub(crate) fn write_record(path: &Path, record: &impl Serialize) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    serde_json::to_writer_pretty(&mut file, record)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Reads a record; `None` if there is none.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> io::Result<Vec<u8>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "a record that is not hexadecimal");
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    digits.collect::<Option<_>>().ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)).expect("hexadecimal"), bytes);
        assert!(from_hex("0").is_err() && from_hex("0g").is_err() && from_hex("é").is_err());
    }
}
