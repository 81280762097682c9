//! `postern.toml`: text -> checked configuration, or all its faults at once.
//!
//! [`parse`] is pure: text in, [`Config`] or faults out. What needs this host (are the devices there,
//! are there so many cores, is the rules file there) is [`check_host`], so that tests need no devices;
//! [`load`] does both and reports the faults of both together. A [`Config`] can be made by these
//! functions only, so whoever holds one holds a valid one.
//!
//! Interfaces keep the order of the file: the n-th `[interface.NAME]` is `InterfaceId(n)`.

use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::timeouts::{TimeoutPolicy, Timeouts};
use postern_core::helper::Helpers;
use postern_core::limits::PerSource;
use postern_core::rules::Independence;
use postern_core::snapshot::{ClampMss, InterfaceAddress, ReversePath};
use postern_core::units::InterfaceId;
use toml_edit::Document;

mod fault;
mod forward;
mod host;
mod interface;
mod reader;
mod root;
mod timeouts;
mod trigger;
mod value;

#[cfg(test)]
mod tests;

pub use fault::{At, Fault, Position};
pub use forward::{ForwardError, ForwardProtocol, ForwardSpec, ForwardTarget, PortRange};
pub use host::{HostFacts, ThisHost, check_host};
pub use trigger::{TRIGGER_TIMEOUT, TriggerError, TriggerSpec};
pub use value::{device_name, duration, interface_address, show_duration};

use fault::Faults;

/// Where the control socket is unless the configuration says otherwise.
pub const CONTROL_DEFAULT: &str = "/run/postern/control.sock";
/// Where the running appliance keeps its files unless the configuration says otherwise.
pub const RUN_DIR_DEFAULT: &str = "/run/postern";
/// Connections the tables of all workers hold together, unless the configuration says otherwise.
pub const CAPACITY_DEFAULT: u32 = 1_000_000;

/// Where timeouts begin to shrink and where nothing is left of them, unless the configuration says otherwise: percent of the
/// capacity, as pf has it. A full table leaves a third of them.
pub const ADAPTIVE_DEFAULT: (u16, u16) = (60, 120);

/// Connections kept for the appliance itself, unless the configuration says otherwise.
pub const fn headroom_default(capacity: u32) -> u32 {
    let share = capacity / 64;
    if share < 1_024 { share } else { 1_024 }
}

/// A valid configuration. Read it as the [`Settings`] it dereferences to.
#[derive(Clone, PartialEq, Debug)]
pub struct Config(Settings);

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

/// What a configuration says. Paths to the rules files are relative to the configuration's folder
/// and joined with it; all others are absolute.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// The configuration file, as it was named.
    pub file: PathBuf,
    /// Worker threads and their cores.
    pub workers: Workers,
    /// Path of the control socket.
    pub control: PathBuf,
    /// The group whose members may look at everything and change nothing, if there is to be one.
    pub control_read_group: Option<String>,
    /// Folder of the running appliance: bpffs, locks.
    pub run_dir: PathBuf,
    /// IPv4 rules in iptables-save format.
    pub rules: Option<PathBuf>,
    /// IPv6 rules in ip6tables-save format.
    pub rules6: Option<PathBuf>,
    /// What an idle worker does; `None` to decide by the number of cores.
    pub idle: Option<Idle>,
    /// UMEM frames per worker; `None` to decide by the number of rings.
    pub frames: Option<u32>,
    /// Interfaces by [`InterfaceId`]: 1..=32 of them.
    pub interfaces: Vec<InterfaceSettings>,
    /// Connection tracking.
    pub conntrack: ConntrackSettings,
    /// Idle timeouts: the profile with its overrides.
    pub timeouts: Timeouts,
    /// What connections may have in their place, by name.
    pub timeout_policies: Vec<TimeoutPolicySettings>,
    /// What each source may have.
    pub limits: LimitSettings,
    /// Port forwards, in the order of the file; no two overlap.
    pub forwards: Vec<ForwardSettings>,
    /// Port triggers, in the order of the file; no two open a port of one interface and protocol.
    pub triggers: Vec<TriggerSettings>,
    /// Places of what [`check_host`] looks at.
    places: Places,
}

impl Settings {
    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<(InterfaceId, &InterfaceSettings)> {
        let index = self.interfaces.iter().position(|i| i.name == name)?;
        Some((InterfaceId(index as u8), &self.interfaces[index]))
    }
}

/// Where things were written that only the host can judge.
#[derive(Clone, PartialEq, Debug, Default)]
struct Places {
    workers: Option<At>,
    rules: Option<At>,
    rules6: Option<At>,
}

/// Worker threads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Workers {
    /// Not said: all cores but one, at least one, at most 16.
    #[default]
    Auto,
    /// How many: 1..=16.
    Count(u8),
    /// One on each of these cores: 1..=16, all different.
    Cores(Vec<u16>),
}

impl Workers {
    /// The core of each worker, given the cores this process may use. Without a list the highest
    /// are taken, so that the first is left to the control side. Empty if `available` is.
    pub fn cores(&self, available: &[u16]) -> Vec<u16> {
        let count = match self {
            Self::Cores(cores) => return cores.clone(),
            Self::Count(count) => usize::from(*count),
            Self::Auto => available.len().saturating_sub(1).clamp(1, WORKERS_MAX),
        };
        available[available.len().saturating_sub(count)..].to_vec()
    }
}

const WORKERS_MAX: usize = postern_core::units::WORKERS_MAX;

/// What a worker does when no packets come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Keeps polling.
    Spin,
    /// Sleeps in poll(2) after so long without a packet: 1 µs ..= 10 s.
    SleepAfter(Duration),
}

/// How AF_XDP binds to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XdpMode {
    /// Zero-copy where the driver has it, else copy.
    #[default]
    Auto,
    /// Native mode, copying.
    Copy,
    /// Zero-copy or not at all.
    ZeroCopy,
    /// Generic (skb) mode, for drivers without XDP.
    Generic,
}

/// One `[interface.NAME]`.
#[derive(Clone, PartialEq, Debug)]
pub struct InterfaceSettings {
    /// Its name, which is also its TAP's.
    pub name: String,
    /// The network device taken over.
    pub device: String,
    /// Its zone; the interface's own name unless given.
    pub zone: String,
    /// The conntrack zone of its network: another one than 0 where the network's addresses are used elsewhere too.
    pub conntrack_zone: u16,
    /// Addresses to give its TAP; none: the operator's network manager owns the TAP.
    pub addresses: Vec<InterfaceAddress>,
    /// Default gateways to give the kernel, at most one for each family.
    pub gateways: Vec<IpAddr>,
    /// Whether IPv4 leaving by it is translated to its address.
    pub masquerade: bool,
    /// Whether that depends on the destination. Only where it masquerades.
    pub independent: Option<Independence>,
    /// Whether a DHCP client runs on its TAP. True unless it has addresses or the configuration says so.
    pub dhcp: bool,
    /// Source address check.
    pub reverse_path: ReversePath,
    /// Largest IP packet, bytes: 576..=[`MTU_MAX`](postern_io::frame::MTU_MAX); `None` for the device's own.
    pub mtu: Option<u16>,
    /// What TCP peers that talk through it are told to send at most.
    pub clamp_mss: Option<ClampMss>,
    /// Whether the kernel configures itself from router advertisements heard here.
    pub accept_ra: bool,
    /// Device queues to use; `None` for all.
    pub queues: Option<u16>,
    /// How AF_XDP binds.
    pub mode: XdpMode,
    /// Whether the workers' own calls drive the device instead of its interrupts.
    pub busy_poll: bool,
    /// Whether any destination MAC is accepted.
    pub promiscuous: bool,
    /// Where `device` was written.
    pub device_at: At,
}

impl InterfaceSettings {
    /// Whether it is on the outside: zone `wan`, or masquerading.
    pub fn is_outside(&self) -> bool {
        self.zone == "wan" || self.masquerade
    }
}

/// `[timeouts.policy.NAME]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeoutPolicySettings {
    /// Its name.
    pub name: String,
    /// The timeouts, and TCP's switches: the general ones with its overrides.
    pub policy: TimeoutPolicy,
    /// The zones whose connections have it.
    pub zones: Vec<u16>,
}

/// `[limits]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitSettings {
    /// How many connections a source may have; `None` for as many as it likes.
    pub per_source: Option<PerSource>,
}

/// `[conntrack]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConntrackSettings {
    /// IPv4 connections the tables of all workers hold together.
    pub capacity: u32,
    /// Those of IPv6 besides.
    pub capacity6: u32,
    /// IPv4 connections of those that only the appliance itself may have; of IPv6 in proportion. Less than half.
    pub headroom: u32,
    /// The fills, in percent, where timeouts begin to shrink and where nothing is left of them.
    pub adaptive: (u16, u16),
    /// Mid-stream pick-up (nf_conntrack_tcp_loose).
    pub loose: bool,
    /// No window check (nf_conntrack_tcp_be_liberal).
    pub liberal: bool,
    /// Verify transport checksums (nf_conntrack_checksum).
    pub checksum: bool,
    /// Count packets and bytes per connection (nf_conntrack_acct).
    pub accounting: bool,
    /// Helpers, for connections to their standard ports (nf_conntrack_helper).
    pub helpers: Helpers,
    /// The tables' hash key; `None` for a random one each start.
    pub hash_key: Option<SipKey>,
}

impl Default for ConntrackSettings {
    fn default() -> Self {
        Self {
            capacity: CAPACITY_DEFAULT,
            capacity6: CAPACITY_DEFAULT / 4,
            headroom: headroom_default(CAPACITY_DEFAULT),
            adaptive: ADAPTIVE_DEFAULT,
            loose: false,
            liberal: false,
            checksum: true,
            accounting: true,
            helpers: Helpers::NONE,
            hash_key: None,
        }
    }
}

/// One `[[trigger]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TriggerSettings {
    /// What opens what.
    pub spec: TriggerSpec,
    /// Where it was written.
    pub at: At,
}

/// One `[[forward]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardSettings {
    /// What is forwarded where.
    pub spec: ForwardSpec,
    /// The operator's name for it, unique in the file.
    pub id: Option<String>,
    /// The operator's note.
    pub comment: Option<String>,
    /// Where it was written.
    pub at: At,
}

/// Reads a configuration and checks it against this host.
///
/// # Errors
/// All faults, in the order of the file. A file that cannot be read is one fault at 1:1.
pub fn load(path: &Path, host: &impl HostFacts) -> Result<Config, Vec<Fault>> {
    let text = std::fs::read(path).map_err(|error| {
        let start = At(Position { line: 1, column: 1 });
        vec![fault::fault(path, start, format!("cannot read the file: {error}"), None)]
    })?;
    let (settings, mut faults) = draft(path, &text);
    if let Some(settings) = &settings {
        faults.extend(host::check(settings, host));
        faults.sort_by_key(|f| (f.line, f.column));
    }
    settings.filter(|_| faults.is_empty()).map(Config).ok_or(faults)
}

/// Reads a configuration without looking at this host. `file` is its name in faults, and the folder
/// relative paths start from.
///
/// # Errors
/// All faults, in the order of the file.
pub fn parse(file: &Path, text: &[u8]) -> Result<Config, Vec<Fault>> {
    let (settings, faults) = draft(file, text);
    settings.filter(|_| faults.is_empty()).map(Config).ok_or(faults)
}

/// The settings as far as they could be read, and the faults. No settings: it is not TOML.
fn draft(file: &Path, text: &[u8]) -> (Option<Settings>, Vec<Fault>) {
    let valid = match str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let good = str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default();
            let faults = Faults::new(file, good);
            faults.push(
                faults.at(Some(good.len()..good.len())),
                "the file is not UTF-8 text from here on",
            );
            return (None, faults.into_sorted());
        }
    };
    let faults = Faults::new(file, valid);
    match Document::parse(valid) {
        Ok(document) => {
            let settings = root::read(file, document.as_table(), &faults);
            (Some(settings), faults.into_sorted())
        }
        Err(error) => {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            faults.push(faults.at(error.span()), message);
            (None, faults.into_sorted())
        }
    }
}
