//! Draws what core-bench measured: JSON lines on standard input, SVG on standard output.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result, ensure};
use bench::plot::{Chart, Scale, Series};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

/// Draws what core-bench measured.
#[derive(Parser, Debug)]
struct Arguments {
    /// What is drawn.
    #[arg(long, value_enum)]
    kind: Kind,
    /// Above the chart.
    #[arg(long)]
    title: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Kind {
    /// Nanoseconds a packet against connections.
    Flows,
    /// Packets a second against workers.
    Workers,
}

/// What is read of a line; other systems' figures may stand beside ours under a name of their own.
#[derive(Deserialize, Debug)]
struct Line {
    system: Option<String>,
    #[serde(default)]
    work: String,
    flows: f64,
    #[serde(default = "one")]
    workers: f64,
    #[serde(default)]
    nat: bool,
    #[serde(default)]
    v6: bool,
    ns_per_packet: f64,
    floor_ns_per_packet: Option<f64>,
    mpps: Option<f64>,
    hand_over_share: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Line {
    fn name(&self) -> String {
        if let Some(system) = &self.system {
            return system.clone();
        }
        let family = if self.v6 { ", IPv6" } else { "" };
        let nat = if self.nat { ", NAT" } else { "" };
        let steered = if self.hand_over_share.is_some() { ", handed over" } else { "" };
        format!("{}{nat}{family}{steered}", self.work)
    }
}

fn main() -> Result<()> {
    let Arguments { kind, title } = Arguments::parse();
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(io::stdin().lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            let line: Line =
                serde_json::from_str(&line).with_context(|| format!("line {number}"))?;
            lines.push(line);
        }
    }
    ensure!(!lines.is_empty(), "nothing to draw on standard input");
    print!("{}", chart(kind, title, &lines).svg());
    Ok(())
}

fn chart(kind: Kind, title: Option<String>, lines: &[Line]) -> Chart {
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut add = |name: String, x: f64, y: f64| series.entry(name).or_default().push((x, y));
    for line in lines {
        match kind {
            Kind::Flows => {
                add(line.name(), line.flows, line.ns_per_packet);
                if let Some(floor) = line.floor_ns_per_packet {
                    add("memory alone".to_owned(), line.flows, floor);
                }
            }
            Kind::Workers => {
                let mpps = line.mpps.unwrap_or(1e3 / line.ns_per_packet * line.workers);
                add(line.name(), line.workers, mpps);
            }
        }
    }
    let one_each = |(name, points)| Series { name, points: medians(points) };
    let series = series.into_iter().map(one_each).collect();
    let (of, x, y) = match kind {
        Kind::Flows => ("Cost of a packet", ("connections".to_owned(), Scale::Log), "ns a packet"),
        Kind::Workers => ("Throughput", ("workers".to_owned(), Scale::Count), "Mpps"),
    };
    Chart { title: title.unwrap_or_else(|| of.to_owned()), x, y: y.to_owned(), series }
}

/// One point for each x, in order: the median of its values. The floor stands beside every work.
fn medians(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    points.chunk_by(|a, b| a.0 == b.0).map(|same| same[same.len() / 2]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect()
    }

    #[test]
    fn lines_of_one_work_become_one_series_and_the_floor_another() {
        let lines = lines(concat!(
            r#"{"work":"established","flows":1,"nat":true,"ns_per_packet":50,"floor_ns_per_packet":25}"#,
            "\n",
            r#"{"work":"established","flows":1000,"nat":true,"ns_per_packet":60,"floor_ns_per_packet":26}"#,
            "\n",
            r#"{"system":"another","flows":1000,"ns_per_packet":70}"#,
        ));
        let chart = chart(Kind::Flows, None, &lines);
        let names: Vec<_> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["another", "established, NAT", "memory alone"]);
        assert_eq!(chart.series[1].points, [(1.0, 50.0), (1000.0, 60.0)]);
        assert_eq!(chart.series[2].points, [(1.0, 25.0), (1000.0, 26.0)]);
    }

    #[test]
    fn floors_of_several_works_are_one_line_from_left_to_right() {
        let points = vec![(2.0, 9.0), (1.0, 5.0), (2.0, 7.0), (1.0, 4.0), (2.0, 8.0)];
        assert_eq!(medians(points), [(1.0, 5.0), (2.0, 8.0)]);
    }

    #[test]
    fn workers_that_hand_over_are_told_from_those_that_do_not() {
        let lines = lines(concat!(
            r#"{"work":"established","flows":1,"workers":2,"ns_per_packet":50,"mpps":39.5}"#,
            "\n",
            r#"{"work":"established","flows":1,"workers":2,"ns_per_packet":50,"mpps":30,"hand_over_share":0.5}"#,
        ));
        let chart = chart(Kind::Workers, None, &lines);
        let names: Vec<_> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["established", "established, handed over"]);
        assert_eq!(chart.series[0].points, [(2.0, 39.5)]);
    }
}
