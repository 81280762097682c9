//! Plays seeded packet sequences into Postern and into Linux, and compares them packet by packet. Needs root.

use std::process::ExitCode;

use postern_tests::differential::{Kind, Options, run};

const USAGE: &str = "usage: differential [--sequences N] [--seed S] [--workers W] [--kind KIND] [--labs L] \
     [--show N] [--save NAME] [--regressions-only]";

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("differential: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("differential: {error}");
            ExitCode::from(2)
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        if word == "--regressions-only" {
            options.regressions_only = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word}: what?"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--sequences" => match number()? {
                0 => return Err("--sequences: one at least".into()),
                sequences => options.sequences = sequences as usize,
            },
            "--seed" => options.seed = number()?,
            "--workers" => match number()? {
                workers @ 1..=16 => options.workers = Some(workers as u8),
                _ => return Err("--workers: 1 to 16".into()),
            },
            "--kind" => {
                let kind = Kind::NAMES.iter().find(|(name, _)| *name == value);
                options.kind = Some(kind.ok_or(format!("--kind {value}: no such kind"))?.1);
            }
            "--labs" => options.labs = number()? as usize,
            "--show" => options.show = number()? as usize,
            "--save" => options.save = Some(value),
            _ => return Err(format!("{word} is unknown")),
        }
    }
    Ok(options)
}
