//! A run from its refusals to its report; a search is several.

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use super::accounts::Accounts;
use super::args::{self, Dist, Size, Work};
use super::datagrams::Datagrams;
use super::frame::{FCS, Link, Template, udp_len_min};
use super::lives::Lives;
use super::port::{Bench, Side, pin};
use super::report::{Connections, Latency, Report, SearchReport, Traffic, histogram};
use super::schedule::IMIX;
use super::search::{Bounds, Trial, throughput};
use super::stamp::STAMP_LEN;
use super::topology::{Family, Flows, Refused, check_device, only_neighbour};
use super::tracker::Counts;
use crate::stopwatch::CONTENDED_BELOW;

/// What came of sending for a while.
#[derive(Debug)]
pub struct Measured {
    /// Packets sent.
    pub sent: u64,
    /// Packets received, both directions.
    pub counts: Counts,
    /// See [`Report`].
    pub corrupted: u64,
    /// See [`Report`].
    pub unexpected: u64,
    /// See [`Report`].
    pub lost_by_sink: u64,
    /// See [`Report`].
    pub not_sent: u64,
    /// See [`Report`].
    pub flows_replaced: u64,
    /// Whether flows have more than one packet, so that order means something.
    pub ordered: bool,
    /// TCP connections.
    pub connections: Option<Connections>,
    /// Of every packet, in nanoseconds.
    pub latency: Histogram<u64>,
    /// How long was sent, in seconds.
    pub seconds: f64,
    /// Of the generator's thread while it sent.
    pub cpu_share: f64,
    /// Of others, while it sent.
    pub accounts: Option<Accounts>,
}

impl Measured {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self {
            sent: 0,
            counts: Counts::default(),
            corrupted: 0,
            unexpected: 0,
            lost_by_sink: 0,
            not_sent: 0,
            flows_replaced: 0,
            ordered: true,
            connections: None,
            latency: histogram(),
            seconds: 0.0,
            cpu_share: 0.0,
            accounts: None,
        }
    }

    /// Whether the processor was somebody else's for too long.
    pub fn contended(&self) -> bool {
        self.cpu_share < CONTENDED_BELOW
    }

    /// Sent and not received.
    pub const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.counts.received)
    }

    fn trial(&self, rate: f64) -> Trial {
        Trial {
            asked_pps: rate,
            offered_pps: self.sent as f64 / self.seconds,
            sent: self.sent,
            lost: self.lost(),
            lost_by_sink: self.lost_by_sink,
            contended: self.contended(),
        }
    }
}

/// Something that sends one kind of work and takes it back.
pub trait Generator {
    /// Opens the flows; how many, if it has any to open.
    ///
    /// # Errors
    /// Nothing comes back; a device fails.
    fn open(&mut self) -> Result<Option<u32>>;

    /// Sends without counting, for so many seconds.
    ///
    /// # Errors
    /// Nothing comes back; a device fails.
    fn warm_up(&mut self, rate: Option<f64>, seconds: f64) -> Result<()>;

    /// Sends and counts, for so many seconds, and waits for stragglers.
    ///
    /// # Errors
    /// Nothing comes back; a device fails.
    fn measure(&mut self, rate: Option<f64>, seconds: f64) -> Result<Measured>;
}

/// All that is known before a device is touched.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As asked.
    pub args: args::Traffic,
    /// Whose processor time is reported.
    pub account: Vec<u32>,
    /// Every flow there can be.
    pub flows: Flows,
    /// Lengths of frames without FCS, sent in this order over and over.
    pub lengths: Vec<usize>,
}

impl Plan {
    /// Checks what the command line cannot.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn new(args: &args::Traffic) -> Result<Self, Refused> {
        let refuse = |condition: bool, text: &str| {
            if condition { Err(Refused::Meaningless(text.to_owned())) } else { Ok(()) }
        };
        let flows = Flows::new(args.src, args.dst, args.dport)?;
        let datagrams = matches!(args.work, Work::Udp | Work::New);
        refuse(args.tx == args.rx, "--tx and --rx are one device: a device under test has two")?;
        refuse(
            args.work != Work::Udp && (args.bidirectional || args.churn > 0),
            "--bidirectional and --churn are for --work udp",
        )?;
        refuse(
            !datagrams && args.size != Size::Fixed(64),
            "--size is for --work udp and new: TCP segments here carry no data",
        )?;
        refuse(
            args.work == Work::Tcp && args.flows > 1 << 20,
            "--flows of --work tcp is connections at a time: at most 1048576",
        )?;
        refuse(
            args.rate.0.is_some_and(|rate| rate < args.churn),
            "--churn is more than --rate: a new flow takes a packet",
        )?;
        if args.work == Work::Udp && u64::from(args.flows) > flows.capacity() {
            let text = format!(
                "--flows {}: --src and --dst make {} different ones at most",
                args.flows,
                flows.capacity()
            );
            return Err(Refused::Meaningless(text));
        }
        check_device(&args.tx)?;
        check_device(&args.rx)?;
        let shortest = udp_len_min(flows.family(), args.vlan);
        let lengths = match args.size {
            Size::Fixed(size) => vec![usize::from(size) - FCS],
            Size::Imix => IMIX.iter().map(|&size| usize::from(size) - FCS).collect(),
        };
        let lengths = lengths.into_iter().map(|len| len.max(shortest)).collect();
        Ok(Self { args: args.clone(), account: Vec::new(), flows, lengths })
    }

    /// The longest frame without FCS.
    fn longest(&self) -> usize {
        let link = Link { dst: [0; 6], src: [0; 6], vlan: self.args.vlan };
        match self.args.work {
            Work::Udp | Work::New => self.lengths.iter().copied().max().unwrap_or(0),
            Work::Tcp | Work::Syn => Template::tcp(self.flows.family(), link).len(),
        }
    }

    fn check_mtu(&self, bench: &Bench) -> Result<()> {
        let link = 14 + if self.args.vlan.is_some() { 4 } else { 0 };
        for side in [Side::Near, Side::Far] {
            let device = bench.port(side).device();
            let needed = self.longest() - link;
            ensure!(
                needed <= device.mtu as usize,
                "device {} has MTU {}: {needed} is needed",
                device.name,
                device.mtu
            );
        }
        Ok(())
    }

    /// Opens the devices and makes the generator of the work asked for.
    fn generator(&self) -> Result<(Box<dyn Generator>, Traffic)> {
        let args = &self.args;
        let mac = args.tx_mac_dst.or_else(|| only_neighbour(&args.tx)).with_context(|| {
            format!("{} has not exactly one neighbour: say --tx-mac-dst", args.tx)
        })?;
        pin(args.core.map(usize::from))?;
        let bench = Bench::open(Some(&args.tx), Some(&args.rx), args.tx_queues)?;
        self.check_mtu(&bench)?;
        let link = Link { dst: mac, src: bench.port(Side::Near).device().mac, vlan: args.vlan };
        let traffic = self.traffic(&bench);
        let generator: Box<dyn Generator> = match args.work {
            Work::Tcp => Box::new(Lives::new(self, bench, link)),
            _ => Box::new(Datagrams::new(self, bench, link)),
        };
        Ok((generator, traffic))
    }

    fn traffic(&self, bench: &Bench) -> Traffic {
        let args = &self.args;
        let (work, dist) = (format!("{:?}", args.work), format!("{:?}", args.dist));
        Traffic {
            work: work.to_lowercase(),
            dist: dist.to_lowercase(),
            size: args.size.to_string(),
            frame_bytes: self.longest() + FCS,
            ip_version: if self.flows.family() == Family::V4 { 4 } else { 6 },
            vlan: args.vlan,
            flows: args.flows,
            churn: args.churn,
            bidirectional: args.bidirectional,
            tx_mode: bench.port(Side::Near).mode().to_owned(),
            rx_mode: bench.port(Side::Far).mode().to_owned(),
        }
    }

    fn rate(&self) -> Option<f64> {
        self.args.rate.0.map(f64::from)
    }

    /// Whether the flows are Zipf's.
    pub fn zipf(&self) -> bool {
        self.args.dist == Dist::Zipf
    }
}

/// `pktgen run`.
///
/// # Errors
/// [`Refused`]; a device fails; nothing comes back.
pub fn run(args: &args::Run) -> Result<Report> {
    let mut plan = Plan::new(&args.traffic)?;
    plan.account.clone_from(&args.account);
    let (mut generator, traffic) = plan.generator()?;
    let flows_opened = generator.open()?;
    generator.warm_up(plan.rate(), args.traffic.warmup)?;
    let measured = generator.measure(plan.rate(), args.traffic.seconds)?;
    let per_second = |count: u64| count as f64 / measured.seconds;
    Ok(Report {
        traffic,
        flows_opened,
        rate_asked: plan.rate(),
        seconds: measured.seconds,
        sent: measured.sent,
        received: measured.counts.received,
        lost: measured.lost(),
        loss_ratio: measured.lost() as f64 / measured.sent as f64,
        lost_by_sink: measured.lost_by_sink,
        duplicated: measured.counts.duplicated,
        reordered: measured.ordered.then_some(measured.counts.reordered),
        stale: measured.counts.stale,
        corrupted: measured.corrupted,
        unexpected: measured.unexpected,
        tx_pps: per_second(measured.sent),
        rx_pps: per_second(measured.counts.received),
        not_sent: measured.not_sent,
        flows_replaced: measured.flows_replaced,
        connections: measured.connections,
        latency_ns: Latency::of(&measured.latency),
        cpu_share: measured.cpu_share,
        contended: measured.contended(),
        accounts: measured.accounts,
    })
}

/// `pktgen search`.
///
/// # Errors
/// As for [`run`].
pub fn search(args: &args::Search) -> Result<SearchReport> {
    let plan = Plan::new(&args.traffic)?;
    let seconds = args.traffic.seconds;
    let (mut generator, traffic) = plan.generator()?;
    generator.open()?;
    generator.warm_up(plan.rate(), args.traffic.warmup)?;
    let highest_pps = match plan.rate() {
        Some(rate) => rate,
        None => generator.measure(None, seconds)?.trial(0.0).offered_pps,
    };
    let resolution_pps = args.resolution.map_or(highest_pps / 100.0, f64::from);
    let bounds = Bounds { highest_pps, resolution_pps, tolerance_ppm: args.tolerance };
    let found = throughput(&bounds, |rate| {
        generator.measure(Some(rate), seconds).map(|measured| measured.trial(rate))
    })?;
    // Preamble and gap take 20 bytes of the wire's time.
    let wire_bytes = match (args.traffic.work, args.traffic.size) {
        (Work::Udp | Work::New, Size::Imix) => None,
        _ => Some(traffic.frame_bytes + 20),
    };
    let wire_bps = wire_bytes.map(|bytes| bytes as f64 * 8.0 * found.throughput_pps);
    let contended = found.trials.iter().any(|trial| trial.contended);
    Ok(SearchReport {
        traffic,
        trial_seconds: seconds,
        tolerance_ppm: args.tolerance,
        found,
        wire_bps,
        contended,
    })
}

const _: () = assert!(STAMP_LEN == 60 - 14 - 20 - 8, "the smallest frame has room for a stamp");

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Arguments, Command};
    use super::*;

    fn plan(src: &str, more: &str) -> Result<Plan, Refused> {
        let line =
            format!("pktgen run --tx a --rx b --src {src} --dst 198.18.0.0/24 --seconds 1 {more}");
        let arguments = Arguments::try_parse_from(line.split_whitespace()).expect("well-formed");
        let Command::Run(run) = arguments.command else { panic!("run") };
        Plan::new(&run.traffic)
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(plan("10.0.0.0/24", "").is_ok());
        let cases = [
            ("8.8.8.0/24", "", "outside its own topology"),
            ("fd00::/64", "", "two IP versions"),
            ("10.0.0.0/24", "--work tcp --size 128", "no data"),
            ("10.0.0.0/24", "--work new --churn 5", "for --work udp"),
            ("10.0.0.0/24", "--work syn --bidirectional", "for --work udp"),
            ("10.0.0.0/24", "--work tcp --flows 2000000", "at most 1048576"),
            ("10.0.0.0/24", "--rate 10 --churn 11", "more than --rate"),
        ];
        for (src, more, expected) in cases {
            let error = plan(src, more).expect_err(more).to_string();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }

    #[test]
    fn frames_are_as_long_as_the_stamp_needs() {
        assert_eq!(plan("10.0.0.0/24", "").expect("fine").longest() + FCS, 64);
        assert_eq!(plan("10.0.0.0/24", "--vlan 5").expect("fine").longest() + FCS, 68);
        assert_eq!(plan("10.0.0.0/24", "--size imix").expect("fine").longest() + FCS, 1518);
        assert_eq!(plan("10.0.0.0/24", "--work syn").expect("fine").longest() + FCS, 64);
    }
}
