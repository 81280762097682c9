//! The traffic generator: see `bench::pktgen` and `bench/pktgen.md`.
//!
//! Exit status: 0 with figures; 1 if there are none (the device under test is gone, a device fails); 2 if
//! what was asked is refused.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;
use bench::pktgen::args::{Arguments, Command};
use bench::pktgen::topology::Refused;
use bench::pktgen::{replay, run, sink};
use clap::Parser;
use serde::Serialize;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(args) => run::run(&args).and_then(|report| print(&report, args.traffic.json)),
        Command::Search(args) => {
            run::search(&args).and_then(|report| print(&report, args.traffic.json))
        }
        Command::Sink(args) => sink::run(&args).and_then(|report| print(&report, args.json)),
        Command::Replay(args) => replay::run(&args).and_then(|report| print(&report, args.json)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            ExitCode::from(if error.downcast_ref::<Refused>().is_some() { 2 } else { 1 })
        }
    }
}

fn print(report: &(impl Serialize + Display), json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
