//! What can be typed.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::CliError;
use crate::api::filter::ConnectionQuery;
use crate::api::model::{Family, RulesProgram};
use crate::config::CONTROL_DEFAULT;

/// A stateful firewall and NAT appliance.
#[derive(Parser, Debug)]
#[command(name = "postern", version, about, max_term_width = 100)]
pub struct Cli {
    /// The control socket of the appliance to talk to.
    #[arg(long, global = true, value_name = "SOCKET", default_value = CONTROL_DEFAULT)]
    pub control: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the appliance, in the foreground.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Says everything that is wrong with a configuration; exit code 1 if anything is.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows workers, tables, books, drops and interfaces.
    Status,
    /// Shows why packets were dropped, and how many.
    Drops {
        /// Also the reasons that had none.
        #[arg(long)]
        all: bool,
    },
    /// Says which host inside has a port outside, where a rule gives each host a block of ports (SNAT --port-blocks).
    Whose {
        /// The address outside.
        address: Ipv4Addr,
        /// The port outside, or the identifier of an ICMP query.
        port: u16,
    },
    /// The rules, in the language of iptables(8).
    #[command(flatten)]
    Rules(RulesCommand),
    /// Port forwards.
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Port triggers.
    #[command(subcommand)]
    Trigger(TriggerCommand),
    /// The connection table.
    #[command(subcommand)]
    Conntrack(Box<ConntrackCommand>),
    /// Reads the configuration again and puts it into effect, whole or not at all.
    Reload,
    /// Sends the packets of a capture through the packet path and writes what comes out.
    Replay(ReplayArgs),
    /// Closes the configured devices, before the network comes up.
    Guard {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Gives devices, TAPs and settings back as they were found.
    Release {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints the OpenAPI document of the control socket.
    Api,
    /// Prints the version.
    Version,
}

/// Programs of the iptables language. Everything after the name is theirs.
#[derive(Subcommand, Debug)]
pub enum RulesCommand {
    /// Edits and lists IPv4 rules, as iptables(8).
    #[command(disable_help_flag = true)]
    Iptables(Raw),
    /// Edits and lists IPv6 rules, as ip6tables(8).
    #[command(disable_help_flag = true)]
    Ip6tables(Raw),
    /// Prints all IPv4 rules, as iptables-save(8).
    #[command(disable_help_flag = true)]
    IptablesSave(Raw),
    /// Prints all IPv6 rules, as ip6tables-save(8).
    #[command(disable_help_flag = true)]
    Ip6tablesSave(Raw),
    /// Loads IPv4 rules from standard input or a file, as iptables-restore(8).
    #[command(disable_help_flag = true)]
    IptablesRestore(Raw),
    /// Loads IPv6 rules from standard input or a file, as ip6tables-restore(8).
    #[command(disable_help_flag = true)]
    Ip6tablesRestore(Raw),
}

impl RulesCommand {
    /// Which tables, which program, and its arguments.
    pub fn into_parts(self) -> (Family, RulesProgram, Vec<String>) {
        use {Family::*, RulesProgram::*};
        let (family, program, raw) = match self {
            Self::Iptables(raw) => (Ipv4, Iptables, raw),
            Self::Ip6tables(raw) => (Ipv6, Iptables, raw),
            Self::IptablesSave(raw) => (Ipv4, Save, raw),
            Self::Ip6tablesSave(raw) => (Ipv6, Save, raw),
            Self::IptablesRestore(raw) => (Ipv4, Restore, raw),
            Self::Ip6tablesRestore(raw) => (Ipv6, Restore, raw),
        };
        (family, program, raw.args)
    }
}

/// Arguments that are not ours to read.
#[derive(Args, Debug)]
pub struct Raw {
    /// Passed on as they stand.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// `forward ...`
#[derive(Subcommand, Debug)]
pub enum ForwardCommand {
    /// Adds a port forward, in effect at once: forward add tcp 8080 192.168.1.10:80
    Add(ForwardAdd),
    /// Lists the port forwards.
    List,
    /// Removes a port forward: forward remove tcp 8080
    Remove(ForwardRemove),
}

/// `forward add`: options, or the three values in order.
#[derive(Args, Debug)]
pub struct ForwardAdd {
    /// The interface whose addresses are forwarded from; needed if more than one masquerades.
    #[arg(short, long)]
    pub interface: Option<String>,
    /// tcp or udp.
    #[arg(short, long, conflicts_with = "values")]
    pub protocol: Option<String>,
    /// A port, or a range such as 8000-8010.
    #[arg(long, conflicts_with = "values")]
    pub port: Option<String>,
    /// Where to: 192.168.1.10:80, [2001:db8::10]:80, or an address alone for the same ports.
    #[arg(long, conflicts_with = "values")]
    pub to: Option<String>,
    /// PROTOCOL PORT TO
    #[arg(value_names = ["PROTOCOL", "PORT", "TO"], num_args = 3)]
    pub values: Vec<String>,
}

impl ForwardAdd {
    /// Protocol, port and target.
    ///
    /// # Errors
    /// If one is missing.
    pub fn parts(&self) -> Result<[String; 3], CliError> {
        if let Ok(parts) = self.values.clone().try_into() {
            return Ok(parts);
        }
        match (&self.protocol, &self.port, &self.to) {
            (Some(protocol), Some(port), Some(to)) => Ok([protocol, port, to].map(String::clone)),
            _ => Err(CliError::Usage(
                "forward add needs --protocol, --port and --to, or PROTOCOL PORT TO".to_owned(),
            )),
        }
    }
}

/// `forward remove`: options, or the two values in order.
#[derive(Args, Debug)]
pub struct ForwardRemove {
    /// The interface; needed if more than one has such a forward.
    #[arg(short, long)]
    pub interface: Option<String>,
    /// tcp or udp.
    #[arg(short, long, conflicts_with = "values")]
    pub protocol: Option<String>,
    /// The port or range, as it was added.
    #[arg(long, conflicts_with = "values")]
    pub port: Option<String>,
    /// PROTOCOL PORT
    #[arg(value_names = ["PROTOCOL", "PORT"], num_args = 2)]
    pub values: Vec<String>,
}

impl ForwardRemove {
    /// Protocol and port.
    ///
    /// # Errors
    /// If one is missing.
    pub fn parts(&self) -> Result<[String; 2], CliError> {
        if let Ok(parts) = self.values.clone().try_into() {
            return Ok(parts);
        }
        match (&self.protocol, &self.port) {
            (Some(protocol), Some(port)) => Ok([protocol, port].map(String::clone)),
            _ => Err(CliError::Usage(
                "forward remove needs --protocol and --port, or PROTOCOL PORT".to_owned(),
            )),
        }
    }
}

/// `trigger ...`
#[derive(Subcommand, Debug)]
pub enum TriggerCommand {
    /// Adds a port trigger, in effect at once: trigger add udp 6112 6113-6115 --timeout 60s
    Add(TriggerAdd),
    /// Lists the port triggers, with who holds them.
    List,
    /// Removes a port trigger, named by the ports it opens: trigger remove udp 6113-6115
    Remove(TriggerRemove),
}

/// `trigger add`
#[derive(Args, Debug)]
pub struct TriggerAdd {
    /// The interface outside; needed if more than one masquerades.
    #[arg(short, long)]
    pub interface: Option<String>,
    /// How long the ports stay open without use: 90s, 5m; a minute if not said.
    #[arg(long, value_parser = crate::config::duration)]
    pub timeout: Option<Duration>,
    /// tcp or udp.
    pub protocol: String,
    /// The destination ports that trigger: 6112, or 6112-6119.
    pub outbound: String,
    /// The ports opened towards who triggered.
    pub inbound: String,
}

/// `trigger remove`
#[derive(Args, Debug)]
pub struct TriggerRemove {
    /// The interface; needed if more than one masquerades.
    #[arg(short, long)]
    pub interface: Option<String>,
    /// tcp or udp.
    pub protocol: String,
    /// The ports opened, as it was added.
    pub inbound: String,
}

/// `conntrack ...`
#[derive(Subcommand, Debug)]
pub enum ConntrackCommand {
    /// Lists connections, a line each as `conntrack -L`.
    #[command(visible_alias = "-L")]
    List {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Shows one connection, by id or by filter.
    #[command(visible_alias = "-G")]
    Get {
        /// Its id, as `list -o id` shows it.
        id: Option<String>,
        /// Which one.
        #[command(flatten)]
        filter: Filter,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Prints how many connections there are.
    #[command(visible_alias = "-C")]
    Count,
    /// Deletes connections, by id or by filter; exit code 1 if there was none.
    #[command(visible_alias = "-D")]
    Delete {
        /// Its id, as `list -o id` shows it.
        id: Option<String>,
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
    },
    /// Sets mark or remaining time of connections, by id or by filter; exit code 1 if there was none.
    #[command(visible_alias = "-U")]
    Update {
        /// Its id, as `list -o id` shows it.
        id: Option<String>,
        /// Which ones.
        #[command(flatten)]
        filter: UnmarkedFilter,
        /// The mark to set: VALUE, or VALUE/MASK for the bits of MASK alone.
        #[arg(short = 'm', long, value_name = "MARK", value_parser = crate::api::filter::mark)]
        mark: Option<(u32, u32)>,
        /// Seconds until they expire unless a packet comes.
        #[arg(short = 't', long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Deletes every connection.
    #[command(visible_alias = "-F")]
    Flush,
    /// Shows what happens to connections, a line each as `conntrack -E`, until it is ended.
    #[command(visible_alias = "-E")]
    Events {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Of NEW, UPDATE, DESTROY, ALL; several with commas between. All if left out.
        #[arg(short = 'e', long = "event-mask", value_name = "EVENTS")]
        events: Option<String>,
        /// How.
        #[command(flatten)]
        show: Show,
    },
    /// Lists the connections that helpers expect, a line each as `conntrack -L expect`.
    Expect,
    /// Lists the endpoint-independent mappings: who inside appears as what.
    Mappings,
}

/// How connections are listed.
#[derive(Args, Debug, Default)]
pub struct Show {
    /// What to show besides, several with commas between.
    #[arg(short = 'o', long, value_delimiter = ',', value_enum, value_name = "WHAT")]
    pub output: Vec<Extra>,
}

/// What a line can show besides.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extra {
    /// The connection's id.
    Id,
    /// The address family, in front.
    Extended,
    /// When it was made, and for how long it has been there.
    Ktimestamp,
    /// Of an event: when it happened, in front.
    Timestamp,
    /// Of an end: why.
    Reason,
}

/// conntrack(8)'s filter options.
#[derive(Args, Debug, Default)]
pub struct Filter {
    #[command(flatten)]
    others: UnmarkedFilter,
    /// Connection mark: VALUE or VALUE/MASK.
    #[arg(short = 'm', long, value_name = "MARK")]
    mark: Option<String>,
}

/// All but the mark.
#[derive(Args, Debug, Default)]
pub struct UnmarkedFilter {
    /// Transport protocol, by name or number.
    #[arg(short = 'p', long = "protonum", visible_alias = "proto", value_name = "PROTO")]
    protocol: Option<String>,
    /// Source of the original direction: an address or a network.
    #[arg(short = 's', long = "orig-src", visible_alias = "src", value_name = "IP")]
    src: Option<String>,
    /// Destination of the original direction.
    #[arg(short = 'd', long = "orig-dst", visible_alias = "dst", value_name = "IP")]
    dst: Option<String>,
    /// Source of the reply direction.
    #[arg(short = 'r', long = "reply-src", value_name = "IP")]
    reply_src: Option<String>,
    /// Destination of the reply direction.
    #[arg(short = 'q', long = "reply-dst", value_name = "IP")]
    reply_dst: Option<String>,
    /// Source port of the original direction.
    #[arg(long = "sport", visible_alias = "orig-port-src", value_name = "PORT")]
    sport: Option<String>,
    /// Destination port of the original direction.
    #[arg(long = "dport", visible_alias = "orig-port-dst", value_name = "PORT")]
    dport: Option<String>,
    /// Source port of the reply direction.
    #[arg(long = "reply-port-src", value_name = "PORT")]
    reply_sport: Option<String>,
    /// Destination port of the reply direction.
    #[arg(long = "reply-port-dst", value_name = "PORT")]
    reply_dport: Option<String>,
    /// ICMP type.
    #[arg(long = "icmp-type", visible_alias = "icmpv6-type", value_name = "TYPE")]
    icmp_type: Option<String>,
    /// ICMP identifier.
    #[arg(long = "icmp-id", visible_alias = "icmpv6-id", value_name = "ID")]
    icmp_id: Option<String>,
    /// TCP state, such as ESTABLISHED.
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Of ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED, SRC_NAT, DST_NAT; several with commas between.
    #[arg(short = 'u', long, value_name = "STATUS")]
    status: Option<String>,
    /// Source translated, to this address if one is given.
    #[arg(short = 'n', long = "src-nat", value_name = "IP", num_args = 0..=1, default_missing_value = "any")]
    src_nat: Option<String>,
    /// Destination translated, to this address if one is given.
    #[arg(short = 'g', long = "dst-nat", value_name = "IP", num_args = 0..=1, default_missing_value = "any")]
    dst_nat: Option<String>,
    /// Source or destination translated, to this address if one is given.
    #[arg(short = 'j', long = "any-nat", value_name = "IP", num_args = 0..=1, default_missing_value = "any")]
    any_nat: Option<String>,
    /// Conntrack zone of both directions.
    #[arg(short = 'w', long, value_name = "ZONE")]
    zone: Option<String>,
    /// Conntrack zone of the original direction alone.
    #[arg(long, value_name = "ZONE")]
    orig_zone: Option<String>,
    /// Conntrack zone of the reply direction alone.
    #[arg(long, value_name = "ZONE")]
    reply_zone: Option<String>,
    /// ipv4 or ipv6.
    #[arg(short = 'f', long, value_name = "FAMILY")]
    family: Option<String>,
    /// Interface its packets come in by or leave by.
    #[arg(short = 'i', long, value_name = "NAME")]
    interface: Option<String>,
}

impl From<Filter> for ConnectionQuery {
    fn from(Filter { others, mark }: Filter) -> Self {
        Self { mark, ..others.into() }
    }
}

impl From<UnmarkedFilter> for ConnectionQuery {
    fn from(f: UnmarkedFilter) -> Self {
        Self {
            family: f.family,
            protocol: f.protocol,
            src: f.src,
            dst: f.dst,
            reply_src: f.reply_src,
            reply_dst: f.reply_dst,
            sport: f.sport,
            dport: f.dport,
            reply_sport: f.reply_sport,
            reply_dport: f.reply_dport,
            icmp_type: f.icmp_type,
            icmp_id: f.icmp_id,
            state: f.state,
            status: f.status,
            src_nat: f.src_nat,
            dst_nat: f.dst_nat,
            any_nat: f.any_nat,
            mark: None,
            zone: f.zone,
            orig_zone: f.orig_zone,
            reply_zone: f.reply_zone,
            interface: f.interface,
        }
    }
}

/// `replay`
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// The configuration; its devices need not exist.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The interface packets come in by, where neither the capture's interface names nor the
    /// destination MAC say.
    #[arg(long, value_name = "NAME")]
    pub ingress: Option<String>,
    /// An interface's MAC, such as lan=02:00:00:00:00:01.
    #[arg(long, value_name = "NAME=MAC")]
    pub mac: Vec<String>,
    /// Says what became of each packet.
    #[arg(short, long)]
    pub verbose: bool,
    /// The capture to read, pcap or pcapng.
    pub input: PathBuf,
    /// The capture to write: what leaves; named .pcapng by which interface, and what the host gets, too.
    pub output: PathBuf,
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
