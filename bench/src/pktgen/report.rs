//! Figures, for people and for programs.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::accounts::Accounts;
use super::search::{Found, LimitedBy};

/// Latency of all packets, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 90 in a hundred were quicker.
    pub p90: u64,
    /// 99 in a hundred were quicker.
    pub p99: u64,
    /// 999 in a thousand were quicker.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Latency {
    /// Of a histogram; `None` if nothing was recorded.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let max = histogram.max();
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
        })
    }
}

/// A histogram of three digits up to a minute; slower counts as a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are valid")
}

/// What traffic was: at the head of each report.
#[derive(Clone, Debug, Serialize)]
pub struct Traffic {
    /// What each flow does.
    pub work: String,
    /// How flows are chosen.
    pub dist: String,
    /// The size asked for.
    pub size: String,
    /// The longest frame sent, in bytes with FCS: more than asked if the stamp needs it.
    pub frame_bytes: usize,
    /// 4 or 6.
    pub ip_version: u8,
    /// VLAN identifier.
    pub vlan: Option<u16>,
    /// Flows at a time.
    pub flows: u32,
    /// New flows a second.
    pub churn: u32,
    /// Both ways.
    pub bidirectional: bool,
    /// How the sending device works.
    pub tx_mode: String,
    /// How the receiving device works.
    pub rx_mode: String,
}

/// TCP connections of a run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Connections {
    /// Begun.
    pub started: u64,
    /// All six packets arrived.
    pub completed: u64,
    /// A packet did not arrive within a second.
    pub failed: u64,
    /// Completed, a second.
    pub per_second: f64,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was sent.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Flows whose first packet came through and was answered, if they were opened.
    pub flows_opened: Option<u32>,
    /// The rate asked for, in packets a second; none for as many as go.
    pub rate_asked: Option<f64>,
    /// How long was sent.
    pub seconds: f64,
    /// Packets sent.
    pub sent: u64,
    /// Different packets received: `received + lost = sent`.
    pub received: u64,
    /// Sent and not received.
    pub lost: u64,
    /// `lost / sent`.
    pub loss_ratio: f64,
    /// Frames the generator's own receivers dropped: this many of the lost are not the device's fault.
    pub lost_by_sink: u64,
    /// Received more than once, each further time.
    pub duplicated: u64,
    /// Received after a later packet of their flow; none where a flow has one packet.
    pub reordered: Option<u64>,
    /// Received too late to tell what they were.
    pub stale: u64,
    /// Frames with a wrong checksum.
    pub corrupted: u64,
    /// Frames that are not of this run.
    pub unexpected: u64,
    /// Packets sent a second.
    pub tx_pps: f64,
    /// Packets received a second.
    pub rx_pps: f64,
    /// Packets that were due and not sent, because the generator was held up.
    pub not_sent: u64,
    /// New flows that took the place of others.
    pub flows_replaced: u64,
    /// TCP connections.
    pub connections: Option<Connections>,
    /// Latency one way through the device, in nanoseconds.
    pub latency_ns: Option<Latency>,
    /// Share of the time that the generator's thread was on its processor.
    pub cpu_share: f64,
    /// The share was below 0.85: do not use the figures.
    pub contended: bool,
    /// Processor time of others (`--account`).
    pub accounts: Option<Accounts>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.traffic)?;
        if let Some(opened) = self.flows_opened {
            writeln!(f, "  opened      {opened} of {} flows", self.traffic.flows)?;
        }
        let asked =
            self.rate_asked.map_or("as many as go".to_owned(), |pps| format!("{pps:.0} pps"));
        writeln!(
            f,
            "  sent        {} in {:.2} s, {:.0} pps ({asked} asked)",
            self.sent, self.seconds, self.tx_pps
        )?;
        writeln!(f, "  received    {}, {:.0} pps", self.received, self.rx_pps)?;
        writeln!(
            f,
            "  lost        {} ({:.4} %), {} of them by the sink",
            self.lost,
            self.loss_ratio * 100.0,
            self.lost_by_sink
        )?;
        let reordered = self.reordered.map_or("-".to_owned(), |count| count.to_string());
        writeln!(
            f,
            "  duplicated  {}   reordered {reordered}   stale {}",
            self.duplicated, self.stale
        )?;
        writeln!(f, "  corrupted   {}   unexpected {}", self.corrupted, self.unexpected)?;
        if self.not_sent > 0 {
            writeln!(f, "  not sent    {}: the generator was held up", self.not_sent)?;
        }
        if let Some(Connections { started, completed, failed, per_second }) = self.connections {
            writeln!(
                f,
                "  connections {completed} of {started} whole, {failed} failed, {per_second:.0} a second"
            )?;
        }
        if let Some(Latency { p50, p90, p99, p999, max }) = self.latency_ns {
            let us = |ns: u64| ns as f64 / 1e3;
            writeln!(
                f,
                "  latency     p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} us",
                us(p50),
                us(p90),
                us(p99),
                us(p999),
                us(max)
            )?;
        }
        let contended = if self.contended { ": CONTENDED, do not use these figures" } else { "" };
        writeln!(f, "  processor   {:.0} %{contended}", self.cpu_share * 100.0)
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, dist, size, frame_bytes, ip_version, flows, tx_mode, rx_mode, .. } = self;
        let mut more = String::new();
        if let Some(vlan) = self.vlan {
            write!(more, ", VLAN {vlan}")?;
        }
        if self.churn > 0 {
            write!(more, ", {} new flows a second", self.churn)?;
        }
        if self.bidirectional {
            more += ", both ways";
        }
        writeln!(
            f,
            "{work}, IPv{ip_version}, {flows} flows ({dist}), size {size} (up to {frame_bytes} bytes){more}; tx {tx_mode}, rx {rx_mode}"
        )
    }
}

/// What a search found, with the traffic it was found for.
#[derive(Clone, Debug, Serialize)]
pub struct SearchReport {
    /// What was sent.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Seconds of each trial.
    pub trial_seconds: f64,
    /// Packets in a million that were allowed to be lost.
    pub tolerance_ppm: f64,
    /// The answer.
    #[serde(flatten)]
    pub found: Found,
    /// Bits a second on the wire at that rate, with preamble and gap; none for mixed sizes.
    pub wire_bps: Option<f64>,
    /// A trial was contended: do not use the answer.
    pub contended: bool,
}

impl fmt::Display for SearchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.traffic)?;
        for trial in &self.found.trials {
            let mark = if trial.contended { "  contended" } else { "" };
            writeln!(
                f,
                "  {:>12.0} pps asked  {:>12.0} sent  {:>10} lost{mark}",
                trial.asked_pps, trial.offered_pps, trial.lost
            )?;
        }
        let why = match self.found.limited_by {
            LimitedBy::Loss => "more is lost",
            LimitedBy::HighestAsked => "no higher rate was asked for",
            LimitedBy::Generator => "the generator sends no faster: the device may do more",
        };
        writeln!(f, "  throughput  {:.0} pps ({why})", self.found.throughput_pps)?;
        if self.contended {
            writeln!(f, "  CONTENDED: do not use this figure")?;
        }
        Ok(())
    }
}

/// What a sink saw.
#[derive(Clone, Debug, Serialize)]
pub struct SinkReport {
    /// How long it listened.
    pub seconds: f64,
    /// Frames of any kind.
    pub frames: u64,
    /// Measured packets, each once.
    pub received: u64,
    /// Numbers up to the highest seen that did not arrive.
    pub missing: u64,
    /// As in [`Report`].
    pub duplicated: u64,
    /// As in [`Report`].
    pub reordered: u64,
    /// As in [`Report`].
    pub corrupted: u64,
    /// As in [`Report`].
    pub unexpected: u64,
    /// Frames the sink itself dropped.
    pub lost_by_sink: u64,
    /// Frames a second.
    pub rx_pps: f64,
    /// As in [`Report`].
    pub cpu_share: f64,
    /// As in [`Report`].
    pub contended: bool,
}

impl fmt::Display for SinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  frames      {} in {:.2} s, {:.0} pps",
            self.frames, self.seconds, self.rx_pps
        )?;
        writeln!(
            f,
            "  measured    {}, {} missing, {} by the sink",
            self.received, self.missing, self.lost_by_sink
        )?;
        writeln!(f, "  duplicated  {}   reordered {}", self.duplicated, self.reordered)?;
        writeln!(f, "  corrupted   {}   unexpected {}", self.corrupted, self.unexpected)
    }
}

/// What a replay sent.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayReport {
    /// Frames in the capture that can be sent.
    pub frames: usize,
    /// Frames left out: no IP, too long or too short.
    pub skipped: usize,
    /// Frames sent.
    pub sent: u64,
    /// How long that took.
    pub seconds: f64,
    /// Frames a second.
    pub tx_pps: f64,
    /// As in [`Report`].
    pub cpu_share: f64,
    /// As in [`Report`].
    pub contended: bool,
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  capture     {} frames, {} left out", self.frames, self.skipped)?;
        writeln!(f, "  sent        {} in {:.2} s, {:.0} pps", self.sent, self.seconds, self.tx_pps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut histogram = histogram();
        assert_eq!(Latency::of(&histogram), None);
        (1..=1000).for_each(|value| histogram.saturating_record(value * 1000));
        let latency = Latency::of(&histogram).expect("recorded");
        let close = |got: u64, expected: u64| got.abs_diff(expected) * 1000 <= expected;
        assert!(close(latency.p50, 500_000) && close(latency.p99, 990_000), "{latency:?}");
        assert!(close(latency.max, 1_000_000) && latency.p999 <= latency.max, "{latency:?}");
    }
}
