//! The command line, with the range of every number.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::topology::{Cidr, mac};

/// Flows at most: the stamp has 24 bits for them.
pub const FLOWS_MAX: i64 = 10_000_000;
const RATE_MAX: u32 = 200_000_000;

/// Generates traffic through a device under test and says what came of it.
#[derive(Parser, Debug)]
#[command(name = "pktgen", after_help = "Topologies, method and examples: bench/pktgen.md")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Send from one device, receive on another, and report.
    Run(Run),
    /// Find the highest rate without loss (RFC 2544).
    Search(Search),
    /// Count what arrives at a device.
    Sink(Sink),
    /// Send the frames of a capture.
    Replay(Replay),
}

/// What flows do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Work {
    /// UDP packets of flows that were opened and answered beforehand.
    Udp,
    /// UDP, every packet the first of a flow.
    New,
    /// Whole TCP connections: SYN, SYN/ACK, ACK, FIN, FIN, ACK.
    Tcp,
    /// SYNs that nobody answers.
    Syn,
}

/// How flows are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Dist {
    /// Each as often as any other.
    Uniform,
    /// In proportion to 1 / rank.
    Zipf,
}

/// Length of frames, in bytes with FCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// All alike.
    Fixed(u16),
    /// Seven of 64, four of 594, one of 1518.
    Imix,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Imix => write!(f, "imix"),
        }
    }
}

fn size(text: &str) -> Result<Size, String> {
    if text == "imix" {
        return Ok(Size::Imix);
    }
    let size = text.parse().ok().filter(|size| (64..=1518).contains(size)).map(Size::Fixed);
    size.ok_or_else(|| "a size is 64 to 1518 bytes (with FCS), or `imix`".to_owned())
}

/// Packets a second; none for as many as go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(pub Option<u32>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    let rate = text.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate));
    rate.map(|rate| Rate(Some(rate)))
        .ok_or_else(|| format!("a rate is 1 to {RATE_MAX} packets a second, or `max`"))
}

fn seconds(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (least..=most).contains(seconds));
    seconds.ok_or_else(|| format!("between {least} and {most} seconds"))
}

fn measured_seconds(text: &str) -> Result<f64, String> {
    seconds(text, 0.1, 86_400.0)
}

fn warmup_seconds(text: &str) -> Result<f64, String> {
    seconds(text, 0.0, 3_600.0)
}

fn tolerance(text: &str) -> Result<f64, String> {
    let ppm = text.parse().ok().filter(|ppm| (0.0..=100_000.0).contains(ppm));
    ppm.ok_or_else(|| "0 to 100000 packets in a million".to_owned())
}

/// What is common to all that sends and receives.
#[derive(Args, Clone, Debug)]
pub struct Traffic {
    /// The device where flows begin.
    #[arg(long, value_name = "DEV")]
    pub tx: String,
    /// The device where they come out.
    #[arg(long, value_name = "DEV")]
    pub rx: String,
    /// MAC address to send to: the device under test's. By default the only neighbour of --tx.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub tx_mac_dst: Option<[u8; 6]>,
    /// Where flows come from.
    #[arg(long, value_name = "CIDR")]
    pub src: Cidr,
    /// Where they go to.
    #[arg(long, value_name = "CIDR")]
    pub dst: Cidr,
    /// The port they go to.
    #[arg(long, value_name = "PORT", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub dport: u16,
    /// Flows: of `tcp`, connections at a time; of `new` and `syn`, without meaning.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    pub flows: u32,
    /// How flows are chosen.
    #[arg(long, value_enum, default_value = "uniform")]
    pub dist: Dist,
    /// What flows do.
    #[arg(long, value_enum, default_value = "udp")]
    pub work: Work,
    /// Flows a second that new ones take the place of (`udp`).
    #[arg(long, value_name = "RATE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub churn: u32,
    /// Length of frames with FCS: 64 to 1518, or `imix`.
    #[arg(long, default_value = "64", value_parser = size)]
    pub size: Size,
    /// VLAN tag on every frame.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// Packets a second in each direction, or `max`. Of a search: the highest tried.
    #[arg(long, value_name = "PPS", default_value = "max", value_parser = rate)]
    pub rate: Rate,
    /// How long to measure; of a search, each trial.
    #[arg(long, value_name = "S", value_parser = measured_seconds)]
    pub seconds: f64,
    /// How long to send before that.
    #[arg(long, value_name = "S", default_value = "1", value_parser = warmup_seconds)]
    pub warmup: f64,
    /// First packets a second while flows are opened.
    #[arg(long, value_name = "PPS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub open_rate: u32,
    /// Do not open flows beforehand.
    #[arg(long)]
    pub no_open: bool,
    /// Queues to send by, each flow by one of them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub tx_queues: u32,
    /// The processor of the one thread.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub core: Option<u16>,
    /// Send both ways (`udp`): answers go to the address and port the device gave the flow.
    #[arg(long)]
    pub bidirectional: bool,
    /// Seed of all choices.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `pktgen run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The traffic.
    #[command(flatten)]
    pub traffic: Traffic,
    /// Processes and threads whose processor time while packets are sent is reported: the device under test's.
    #[arg(long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub account: Vec<u32>,
}

/// `pktgen search`.
#[derive(Args, Debug)]
pub struct Search {
    /// The traffic.
    #[command(flatten)]
    pub traffic: Traffic,
    /// Search until the answer is known to this; by default a hundredth of the highest rate.
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub resolution: Option<u32>,
    /// Packets in a million that may be lost; RFC 2544 says none.
    #[arg(long, value_name = "PPM", default_value = "0", value_parser = tolerance)]
    pub tolerance: f64,
}

/// `pktgen sink`.
#[derive(Args, Debug)]
pub struct Sink {
    /// The device.
    #[arg(long, value_name = "DEV")]
    pub rx: String,
    /// How long to listen.
    #[arg(long, value_name = "S", value_parser = measured_seconds)]
    pub seconds: f64,
    /// The processor of the one thread.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub core: Option<u16>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `pktgen replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// The device.
    #[arg(long, value_name = "DEV")]
    pub tx: String,
    /// The capture, in pcap format: at most a million frames.
    #[arg(long, value_name = "FILE")]
    pub pcap: PathBuf,
    /// Frames a second, or `max`.
    #[arg(long, value_name = "PPS", value_parser = rate)]
    pub rate: Rate,
    /// MAC address to put in place of the capture's.
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub tx_mac_dst: Option<[u8; 6]>,
    /// How often to send the capture.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub loops: u32,
    /// The processor of the one thread.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub core: Option<u16>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const RUN: &str = "pktgen run --tx a --rx b --src 10.0.0.0/24 --dst 198.18.0.0/24 --seconds 1";

    fn parse(more: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(RUN.split(' ').chain(more.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        assert!(parse("").is_ok());
    }

    #[test]
    fn both_ends_of_every_range_are_as_told() {
        let cases = [
            ("--flows", "1", "0"),
            ("--flows", "10000000", "10000001"),
            ("--size", "64", "63"),
            ("--size", "1518", "1519"),
            ("--size", "imix", "jumbo"),
            ("--vlan", "4094", "4095"),
            ("--rate", "max", "0"),
            ("--rate", "200000000", "200000001"),
            ("--warmup", "0", "-1"),
            ("--warmup", "3600", "inf"),
            ("--dport", "65535", "0"),
            ("--churn", "10000000", "10000001"),
            ("--tx-queues", "64", "65"),
            ("--tx-mac-dst", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff"),
        ];
        for (option, allowed, refused) in cases {
            assert!(parse(&format!("{option} {allowed}")).is_ok(), "{option} {allowed}");
            assert!(parse(&format!("{option}={refused}")).is_err(), "{option} {refused}");
        }
    }
}
