//! Requests and answers, as they stand in JSON. Field names are a contract: add, never rename.

use std::collections::BTreeMap;
use std::net::IpAddr;

use postern_core::counters::Values;
use postern_core::verdict::DropReason;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Largest body of a request, bytes.
pub const BODY_MAX: usize = 1 << 20;
/// Largest text for `iptables-restore`, bytes.
pub const RESTORE_TEXT_MAX: usize = 16 << 20;

/// Every answer that is not 2xx.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What kind of error; stable: `bad_request`, `forbidden`, `not_found`, `method_not_allowed`,
    /// `timeout`, `conflict`, `too_large`, `invalid`, `unavailable`, `internal`.
    pub error: String,
    /// One sentence for people.
    pub detail: String,
    /// What is wrong with the configuration, if that is the error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<ConfigFault>,
}

/// Which program answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Always `postern`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Version of this API.
    pub api: String,
}

/// How the appliance does.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Seconds since start.
    pub uptime_s: u64,
    /// The newest snapshot published to the workers.
    pub generation: u32,
    /// The configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The workers, by id.
    pub workers: Vec<WorkerStatus>,
    /// Connection tables of all workers.
    pub connections: ConnectionCount,
    /// Where every packet went.
    pub books: Books,
    /// Every counter summed over the workers and the host thread, by name.
    pub counters: BTreeMap<String, u64>,
    /// Reasons with at least one drop.
    pub drops: Vec<DropCount>,
    /// External addresses that ran out of ports.
    #[serde(default)]
    pub exhausted: Vec<Shortage>,
    /// The interfaces, in the order of the configuration.
    pub interfaces: Vec<InterfaceStatus>,
    /// How many port forwards.
    pub forwards: u32,
    /// How many follow what happens to connections.
    #[serde(default)]
    pub followers: u32,
    /// How many rules.
    pub rules: RuleCounts,
    /// Things an operator should know of: a device in copy mode, small pages, policy routing unseen.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// An external address that ran out of ports for some protocol. The first 64 of each worker are told apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Shortage {
    /// The address that connections were to appear behind.
    pub address: String,
    /// The protocol's name, or its number.
    pub protocol: String,
    /// First packets that were dropped for it (`ports_exhausted`).
    pub packets: u64,
}

/// One worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    /// Its id, from 0.
    pub id: u8,
    /// The core it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<u32>,
    /// The snapshot it runs on.
    pub generation: u32,
    /// Frames taken from interfaces.
    pub received: u64,
    /// Frames sent, or to be sent, out of an interface.
    pub forwarded: u64,
    /// Frames given to the host.
    pub delivered: u64,
    /// All drops.
    pub dropped: u64,
    /// Its IPv4 connections.
    pub ipv4: TableUse,
    /// Its IPv6 connections.
    pub ipv6: TableUse,
}

/// How full a table is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TableUse {
    /// Connections in it.
    pub used: u64,
    /// Most it can hold.
    pub capacity: u64,
}

/// How many connections there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ConnectionCount {
    /// IPv4.
    pub ipv4: TableUse,
    /// IPv6.
    pub ipv6: TableUse,
}

impl ConnectionCount {
    /// Connections of both families.
    pub fn used(&self) -> u64 {
        self.ipv4.used + self.ipv6.used
    }
}

/// Where every packet went: `received + from_host + generated + handed_in + resumed = forwarded +
/// delivered + handed_out + dropped + held + imbalance`, and `imbalance` is 0 when nothing is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Books {
    /// Frames taken from interfaces.
    pub received: u64,
    /// Frames the host sent.
    pub from_host: u64,
    /// Packets we originated.
    pub generated: u64,
    /// Frames workers took over from one another.
    pub handed_in: u64,
    /// Held packets taken up again.
    pub resumed: u64,
    /// Frames sent out of an interface.
    pub forwarded: u64,
    /// Frames given to the host.
    pub delivered: u64,
    /// Frames workers handed to one another.
    pub handed_out: u64,
    /// All drops.
    pub dropped: u64,
    /// Packets put on hold for their next hop.
    pub held: u64,
    /// What came in less what is accounted for.
    pub imbalance: i64,
}

impl From<&Values> for Books {
    fn from(values: &Values) -> Self {
        Self {
            received: values.received,
            from_host: values.from_host,
            generated: values.generated,
            handed_in: values.handed_in,
            resumed: values.resumed,
            forwarded: values.forwarded,
            delivered: values.delivered,
            handed_out: values.handed_out,
            dropped: values.dropped(),
            held: values.held,
            imbalance: i64::try_from(values.imbalance()).unwrap_or(i64::MAX),
        }
    }
}

/// Drops of one reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DropCount {
    /// The reason's stable name.
    pub reason: String,
    /// The reason in a sentence.
    pub text: String,
    /// How many packets.
    pub packets: u64,
    /// The same by worker; the last one is the host thread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_worker: Vec<u64>,
}

/// All drop reasons with their counts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Drops {
    /// All drops together.
    pub total: u64,
    /// Every reason, also those with none, in the order of the packet's walk.
    pub reasons: Vec<DropCount>,
}

impl Drops {
    /// The drops in what each worker, and last the host thread, counted.
    pub fn from_values(values: &[Values]) -> Self {
        let reasons: Vec<_> = DropReason::ALL
            .iter()
            .map(|&reason| {
                let by_worker: Vec<_> = values.iter().map(|v| v.drops[reason as usize]).collect();
                DropCount {
                    reason: reason.name().to_owned(),
                    text: reason.text().to_owned(),
                    packets: by_worker.iter().sum(),
                    by_worker,
                }
            })
            .collect();
        Self { total: reasons.iter().map(|r| r.packets).sum(), reasons }
    }
}

/// How a device's frames reach us.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceMode {
    /// The device writes into our memory.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name, which is its TAP's.
    pub name: String,
    /// The network device behind it.
    pub device: String,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Up, with carrier.
    pub up: bool,
    /// Its MAC address.
    pub mac: String,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Its addresses with prefix length.
    pub addresses: Vec<String>,
    /// Whether what leaves by it is masqueraded.
    pub masquerade: bool,
    /// How frames reach us; absent while the device is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DeviceMode>,
    /// Queues of the device that we serve.
    pub queues: u32,
    /// Frames dropped before they reached us, because their queue had no socket: it is not served, or the
    /// appliance was starting. Since this start; on no other count.
    #[serde(default)]
    pub frames_without_socket: u64,
}

/// Rules loaded, of both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RuleCounts {
    /// What `iptables` edits.
    pub ipv4: FamilyRuleCounts,
    /// What `ip6tables` edits.
    pub ipv6: FamilyRuleCounts,
}

/// Rules of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FamilyRuleCounts {
    /// Chains, base chains included.
    pub chains: u32,
    /// Rules in them.
    pub rules: u32,
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// As in JSON and in `conntrack -L -o extended`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// One of the three programs of the iptables language.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RulesProgram {
    /// `iptables`, `ip6tables`.
    Iptables,
    /// `iptables-save`, `ip6tables-save`.
    Save,
    /// `iptables-restore`, `ip6tables-restore`.
    Restore,
}

/// A command in the iptables language.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RulesRequest {
    /// Which tables.
    pub family: Family,
    /// Which program.
    pub program: RulesProgram,
    /// Its arguments, without the program's name.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its standard input: the text to restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
}

/// Which rules are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RulesQuery {
    /// Which tables.
    pub family: Family,
    /// With packet and byte counters.
    #[serde(default)]
    pub counters: bool,
}

impl RulesRequest {
    /// The program's name as people type it: the first word of its messages.
    pub const fn program_name(&self) -> &'static str {
        match (self.family, self.program) {
            (Family::Ipv4, RulesProgram::Iptables) => "iptables",
            (Family::Ipv4, RulesProgram::Save) => "iptables-save",
            (Family::Ipv4, RulesProgram::Restore) => "iptables-restore",
            (Family::Ipv6, RulesProgram::Iptables) => "ip6tables",
            (Family::Ipv6, RulesProgram::Save) => "ip6tables-save",
            (Family::Ipv6, RulesProgram::Restore) => "ip6tables-restore",
        }
    }
}

/// What the command printed, and its exit code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RulesOutcome {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// 0 success, 1 refused, 2 wrong usage, as iptables(8).
    pub code: u8,
}

/// Where a port forward comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardOrigin {
    /// The configuration file: back at the next start or reload.
    Config,
    /// Added while running: kept over a reload, gone at the next start.
    Runtime,
}

/// A port forward.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Forward {
    /// The interface whose addresses are forwarded from.
    pub interface: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `8080` or `8000-8010`.
    pub port: String,
    /// `192.168.1.10:80`, `[2001:db8::10]:80`.
    pub to: String,
    /// See [`ForwardOrigin`].
    pub origin: ForwardOrigin,
}

/// A port forward to be added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRequest {
    /// The interface; may be left out when only one masquerades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `8080` or `8000-8010`.
    pub port: String,
    /// `192.168.1.10:80`, or an address alone for the same ports.
    pub to: String,
}

/// What names a port forward.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ForwardKey {
    /// The interface; may be left out when only one has such a forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `8080` or `8000-8010`, as it was added.
    pub port: String,
}

/// All port forwards.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Forwards {
    /// In the order they were made.
    pub forwards: Vec<Forward>,
}

/// How many connections a request deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    /// How many.
    pub deleted: u64,
}

/// A configuration to be looked at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The text of a `postern.toml`.
    pub text: String,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckOutcome {
    /// Empty: nothing.
    pub faults: Vec<ConfigFault>,
}

/// One thing wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigFault {
    /// The file, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub text: String,
    /// How to mend it, where that is obvious.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&crate::config::Fault> for ConfigFault {
    fn from(fault: &crate::config::Fault) -> Self {
        Self {
            file: Some(fault.file.display().to_string()),
            line: fault.line,
            column: fault.column,
            text: fault.message.clone(),
            hint: fault.hint.clone(),
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReloadOutcome {
    /// The snapshot that carries the new configuration; all workers run on it.
    pub generation: u32,
    /// What changed, in words; empty: nothing.
    pub changes: Vec<String>,
}
