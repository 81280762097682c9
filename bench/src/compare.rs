//! Systems side by side: from the runs that `bench/compare.sh` took to medians, spreads and ratios.
//!
//! A contended run counts nowhere. A ratio is taken round by round, of two runs that followed one another, so that
//! what drifts with the machine is in both.

use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use crate::rounds::median;

/// What runs at the rates of a system and a case are held against.
const CEILING: &str = "bare";
/// The one that is measured, and the one it wants to be better than.
const OURS: &str = "postern";
const THEIRS: &str = "nftables";
/// A system whose core was less busy than this was not what limited a flood.
const FULL: f64 = 0.9;

/// A line of `bench/compare.sh`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    /// About the machine; not read here.
    Machine {
        /// Where processor time was taken, in packets a second.
        rate: f64,
    },
    /// A system that could not be measured.
    Absent {
        /// Its name.
        system: String,
        /// Why not.
        state: String,
    },
    /// One measurement.
    Run(Run),
    /// What came of the runs: not read again.
    Row {},
    /// The same.
    Versus {},
}

/// One measurement.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Run {
    /// Of which system.
    pub system: String,
    /// Under which traffic.
    pub case: String,
    /// As much as went, or at a given rate.
    pub kind: Kind,
    /// Counted from 1.
    pub round: u32,
    /// Different packets that came out, a second.
    pub delivered_pps: f64,
    /// Packets sent, a second.
    pub offered_pps: f64,
    /// Sent.
    pub sent: u64,
    /// Sent and did not come out.
    pub lost: u64,
    /// Due at the given rate, and not sent for want of time.
    pub not_sent: u64,
    /// Wrong checksums.
    pub corrupted: u64,
    /// Connections, of `tcp`.
    pub connections: Option<Connections>,
    /// Processor time of the system for each packet that came out.
    pub dut_ns_per_packet: f64,
    /// Share of the system's core that the system used.
    pub dut_share: f64,
    /// Others had the cores for too long.
    pub contended: bool,
    /// There are no figures, for this reason.
    pub error: Option<String>,
}

/// At which rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// As many as go.
    #[default]
    Flood,
    /// A rate that every system should carry.
    Paced,
}

/// Connections of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
pub struct Connections {
    /// Completed, a second.
    pub per_second: f64,
}

/// Median, least and most.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of values; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let min = values.iter().copied().min_by(f64::total_cmp)?;
        let max = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Self { median: median(values), min, max })
    }
}

/// What came of a system under one traffic.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The traffic.
    pub case: String,
    /// The system.
    pub system: String,
    /// Million packets delivered a second, when as many as go are offered.
    pub mpps: Option<Spread>,
    /// The same over what bare forwarding delivered in the same round.
    pub of_bare: Option<Spread>,
    /// Million packets offered a second meanwhile.
    pub offered_mpps: Option<Spread>,
    /// `system`, or `generator` if the system's core was never full: it can do more than `mpps`.
    pub limited_by: Option<&'static str>,
    /// Processor time for each packet delivered meanwhile.
    pub flood_ns: Option<Spread>,
    /// Processor time for each packet delivered at the given rate.
    pub paced_ns: Option<Spread>,
    /// The most that was lost in a run at the given rate, of all sent.
    pub paced_loss_ratio: Option<f64>,
    /// The most that the generator had no time to send in a run at the given rate, of all that was due.
    pub paced_not_sent_ratio: Option<f64>,
    /// TCP connections completed a second.
    pub connections_per_second: Option<Spread>,
    /// Runs that count, of both kinds.
    pub runs: usize,
    /// Runs that were contended to the last try.
    pub contended: usize,
    /// Runs that gave no figures.
    pub failed: usize,
    /// Packets with wrong checksums, in all runs.
    pub corrupted: u64,
}

/// Postern beside nftables under one traffic.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Versus {
    /// The traffic.
    pub case: String,
    /// Packets that Postern delivered for each of nftables.
    pub mpps: Option<Spread>,
    /// Processor time that nftables took for each nanosecond of Postern, at the given rate.
    pub paced_ns: Option<Spread>,
    /// The same when as many as go are offered.
    pub flood_ns: Option<Spread>,
}

/// All that was measured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Table {
    /// In the order they were measured in.
    pub rows: Vec<Row>,
    /// One for each traffic that both were measured under.
    pub versus: Vec<Versus>,
    /// Systems that were not measured, and why not.
    pub absent: Vec<(String, String)>,
    /// Where processor time was taken, in packets a second.
    pub rate: f64,
    /// Whether contended runs are in the figures.
    pub contended: Contended,
}

/// What becomes of contended runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Contended {
    /// They are counted and told.
    #[default]
    LeftOut,
    /// They are in the figures, which are good for little then.
    Kept,
}

impl Table {
    /// Of the lines of a comparison.
    pub fn of(lines: impl IntoIterator<Item = Line>, contended: Contended) -> Self {
        let (mut runs, mut table) = (Vec::new(), Self::default());
        for line in lines {
            match line {
                Line::Run(run) if run.contended && contended == Contended::Kept => {
                    table.contended = Contended::Kept;
                    runs.push(Run { contended: false, ..run });
                }
                Line::Run(run) => runs.push(run),
                Line::Absent { system, state } => table.absent.push((system, state)),
                Line::Machine { rate } => table.rate = rate,
                Line::Row {} | Line::Versus {} => {}
            }
        }
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for run in &runs {
            let key = (run.case.as_str(), run.system.as_str());
            if !seen.contains(&key) {
                seen.push(key);
            }
        }
        table.rows = seen.iter().map(|&(case, system)| row(&runs, case, system)).collect();
        let both = |case: &str| seen.contains(&(case, OURS)) && seen.contains(&(case, THEIRS));
        let mut cases: Vec<&str> = seen.iter().map(|(case, _)| *case).collect();
        cases.dedup();
        table.versus =
            cases.into_iter().filter(|case| both(case)).map(|case| versus(&runs, case)).collect();
        table
    }
}

/// Runs that count.
fn sound<'a>(
    runs: &'a [Run],
    case: &'a str,
    system: &'a str,
    kind: Kind,
) -> impl Iterator<Item = &'a Run> {
    runs.iter().filter(move |run| {
        (run.case.as_str(), run.system.as_str(), run.kind) == (case, system, kind)
            && !run.contended
            && run.error.is_none()
    })
}

/// A figure of one system over that of another in the same round.
fn ratio(
    runs: &[Run],
    case: &str,
    [over, under]: [&str; 2],
    kind: Kind,
    figure: impl Fn(&Run) -> f64,
) -> Option<Spread> {
    let pair = |a: &Run| {
        let b = sound(runs, case, under, kind).find(|b| b.round == a.round)?;
        Some(figure(a) / figure(b))
    };
    Spread::of(sound(runs, case, over, kind).filter_map(pair))
}

fn row(runs: &[Run], case: &str, system: &str) -> Row {
    let of =
        |kind, figure: fn(&Run) -> f64| Spread::of(sound(runs, case, system, kind).map(figure));
    let all = || runs.iter().filter(|run| run.case == case && run.system == system);
    let share = of(Kind::Flood, |run| run.dut_share);
    let connections = sound(runs, case, system, Kind::Flood).filter_map(|run| run.connections);
    Row {
        case: case.to_owned(),
        system: system.to_owned(),
        mpps: of(Kind::Flood, mpps),
        of_bare: ratio(runs, case, [system, CEILING], Kind::Flood, mpps),
        offered_mpps: of(Kind::Flood, |run| run.offered_pps * 1e-6),
        limited_by: share.map(|share| if share.median < FULL { "generator" } else { "system" }),
        flood_ns: of(Kind::Flood, ns),
        paced_ns: of(Kind::Paced, ns),
        paced_loss_ratio: of(Kind::Paced, |run| run.lost as f64 / run.sent as f64)
            .map(|spread| spread.max),
        paced_not_sent_ratio: of(Kind::Paced, |run| {
            run.not_sent as f64 / (run.sent + run.not_sent) as f64
        })
        .map(|spread| spread.max),
        connections_per_second: Spread::of(connections.map(|connections| connections.per_second)),
        runs: all().filter(|run| !run.contended && run.error.is_none()).count(),
        contended: all().filter(|run| run.contended).count(),
        failed: all().filter(|run| run.error.is_some()).count(),
        corrupted: all().map(|run| run.corrupted).sum(),
    }
}

fn versus(runs: &[Run], case: &str) -> Versus {
    Versus {
        case: case.to_owned(),
        mpps: ratio(runs, case, [OURS, THEIRS], Kind::Flood, mpps),
        paced_ns: ratio(runs, case, [THEIRS, OURS], Kind::Paced, ns),
        flood_ns: ratio(runs, case, [THEIRS, OURS], Kind::Flood, ns),
    }
}

fn mpps(run: &Run) -> f64 {
    run.delivered_pps * 1e-6
}

const fn ns(run: &Run) -> f64 {
    run.dut_ns_per_packet
}

/// A spread for people; `-` if there is none.
fn show(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or("-".to_owned(), |Spread { median, min, max }| {
        format!("{median:.decimals$} [{min:.decimals$}..{max:.decimals$}]")
    })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "case",
            "system",
            "Mpps, flood",
            "of bare",
            "ns/packet, flood",
            "ns/packet, paced",
            "remarks",
        ];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        for (system, state) in &self.absent {
            let mut cells = [const { String::new() }; 7];
            (cells[0], cells[1], cells[2]) = ("-".to_owned(), system.clone(), state.clone());
            lines.push(cells);
        }
        let width = |column: usize| {
            lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for cells in &lines {
            let mut text = String::new();
            for (cell, &width) in cells.iter().zip(&widths) {
                write!(text, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        for versus in self.versus.iter().filter(|v| v.mpps.or(v.paced_ns).is_some()) {
            writeln!(
                f,
                "{}: postern delivers {} x nftables' packets; nftables takes {} x postern's processor time a packet, \
                 in a flood {} x",
                versus.case,
                show(versus.mpps, 2),
                show(versus.paced_ns, 2),
                show(versus.flood_ns, 2),
            )?;
        }
        writeln!(f, "paced: {} packets a second, of new half of it", self.rate)?;
        if self.contended == Contended::Kept {
            writeln!(f, "CONTENDED RUNS ARE IN THESE FIGURES: do not use them")?;
        }
        Ok(())
    }
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let at_least = if self.limited_by == Some("generator") { ">= " } else { "" };
        [
            self.case.clone(),
            self.system.clone(),
            format!("{at_least}{}", show(self.mpps, 3)),
            show(self.of_bare, 2),
            show(self.flood_ns, 0),
            show(self.paced_ns, 0),
            self.remarks(),
        ]
    }

    fn remarks(&self) -> String {
        let mut remarks = Vec::new();
        if let Some(connections) = self.connections_per_second {
            let thousands = |value: f64| value * 1e-3;
            let Spread { median, min, max } = connections;
            let spread =
                Spread { median: thousands(median), min: thousands(min), max: thousands(max) };
            remarks.push(format!("{} thousand connections/s", show(Some(spread), 1)));
        }
        if self.limited_by == Some("generator") {
            remarks.push("not the limit".to_owned());
        }
        if let Some(loss) = self.paced_loss_ratio.filter(|&loss| loss > 0.0001) {
            remarks.push(format!("lost up to {:.2} % at the given rate", loss * 100.0));
        }
        if let Some(share) = self.paced_not_sent_ratio.filter(|&share| share > 0.02) {
            remarks.push(format!("up to {:.0} % of the given rate not sent", share * 100.0));
        }
        for (count, what) in [(self.contended, "contended"), (self.failed, "failed")] {
            if count > 0 {
                remarks.push(format!(
                    "{count} of {} runs {what}",
                    self.runs + self.contended + self.failed
                ));
            }
        }
        if self.corrupted > 0 {
            remarks.push(format!("{} WRONG CHECKSUMS", self.corrupted));
        }
        remarks.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(system: &str, kind: Kind, round: u32, delivered_pps: f64, ns: f64) -> Run {
        Run {
            system: system.to_owned(),
            case: "udp-1k".to_owned(),
            kind,
            round,
            delivered_pps,
            offered_pps: 2e6,
            sent: 1000,
            dut_ns_per_packet: ns,
            dut_share: 1.0,
            ..Run::default()
        }
    }

    fn table(runs: impl IntoIterator<Item = Run>) -> Table {
        Table::of(runs.into_iter().map(Line::Run), Contended::LeftOut)
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine is half as fast in the second round: the ratio does not see it.
        let table = table([
            run("bare", Kind::Flood, 1, 2e6, 500.0),
            run("postern", Kind::Flood, 1, 1e6, 1000.0),
            run("bare", Kind::Flood, 2, 1e6, 1000.0),
            run("postern", Kind::Flood, 2, 0.5e6, 2000.0),
        ]);
        assert_eq!(table.rows[1].of_bare, Some(Spread { median: 0.5, min: 0.5, max: 0.5 }));
        assert_eq!(table.rows[1].mpps.expect("two runs").max, 1.0);
    }

    #[test]
    fn contended_and_failed_runs_count_nowhere_and_are_told() {
        let contended = Run { contended: true, ..run("postern", Kind::Flood, 2, 9e6, 1.0) };
        let failed =
            Run { error: Some("gone".to_owned()), ..run("postern", Kind::Paced, 1, 9e6, 1.0) };
        let table = table([
            run("nftables", Kind::Flood, 1, 1e6, 800.0),
            run("nftables", Kind::Flood, 2, 1e6, 800.0),
            run("postern", Kind::Flood, 1, 1.5e6, 400.0),
            contended,
            failed,
        ]);
        let row = &table.rows[1];
        assert_eq!((row.runs, row.contended, row.failed), (1, 1, 1));
        assert_eq!(row.mpps.expect("one run").max, 1.5);
        assert_eq!(row.of_bare, None, "there was no ceiling");
        assert!(row.remarks().contains("1 of 3 runs contended, 1 of 3 runs failed"));
        let versus = &table.versus[0];
        assert_eq!(versus.mpps.expect("round 1").median, 1.5);
        assert_eq!(versus.flood_ns.expect("round 1").median, 2.0);
        assert_eq!(versus.paced_ns, None);
    }

    #[test]
    fn contended_runs_that_are_kept_are_told_loudly() {
        let contended = Run { contended: true, ..run("bare", Kind::Flood, 1, 2e6, 500.0) };
        let table = Table::of([Line::Run(contended)], Contended::Kept);
        assert_eq!(table.rows[0].mpps.expect("kept").median, 2.0);
        assert!(table.to_string().contains("CONTENDED RUNS"));
    }

    #[test]
    fn a_system_whose_core_was_not_full_was_not_the_limit() {
        let half = Run { dut_share: 0.5, ..run("bare", Kind::Flood, 1, 2e6, 250.0) };
        let text = table([half]).to_string();
        assert!(
            text.contains(">= 2.000 [2.000..2.000]") && text.contains("not the limit"),
            "{text}"
        );
    }

    #[test]
    fn lines_are_read_as_the_script_writes_them() {
        let lines = [
            r#"{"line":"machine","kernel":"6.18","rate":200000}"#,
            r#"{"line":"absent","system":"vpp","state":"not installed"}"#,
            r#"{"line":"run","system":"postern","case":"tcp","kind":"paced","round":1,"error":"no","status":1}"#,
            r#"{"line":"row","case":"tcp"}"#,
        ];
        let lines = lines.map(|line| serde_json::from_str::<Line>(line).expect(line));
        let text = Table::of(lines, Contended::LeftOut).to_string();
        assert!(text.contains("not installed") && text.contains("1 of 1 runs failed"), "{text}");
    }
}
