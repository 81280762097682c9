//! Prints how steering spreads uneven traffic over workers: a table, or a JSON line for each case.

use anyhow::Result;
use bench::skew::{Skew, simulate};
use clap::Parser;

/// Simulates steering under uneven traffic.
#[derive(Parser, Debug)]
struct Arguments {
    /// Workers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Packets of each case.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    packets: u64,
    /// The same seed gives the same figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A JSON line for each case.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let Arguments { workers, packets, seed, json } = Arguments::parse();
    if !json {
        println!(
            "{:<16} {:>11} {:>10} {:>6} {:>22}",
            "traffic", "handed over", "imbalance", "busy", "imbalance as received"
        );
    }
    for skew in Skew::ALL {
        let spread = simulate(skew, workers, packets, seed);
        if json {
            println!("{}", serde_json::to_string(&spread)?);
        } else {
            println!(
                "{:<16} {:>10.1}% {:>10.2} {:>3}/{:<2} {:>22.2}",
                spread.skew,
                spread.hand_over_share * 100.0,
                spread.imbalance,
                spread.busy,
                workers,
                spread.imbalance_received
            );
        }
    }
    Ok(())
}
