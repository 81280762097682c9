//! The table of `bench/compare.sh`: its JSON lines on standard input.

use std::io;

use anyhow::{Context, Result};
use bench::compare::{Contended, Line, Row, Table, Versus};
use clap::Parser;
use serde::Serialize;

/// Makes a table of the lines that `bench/compare.sh --json` wrote.
#[derive(Parser, Debug)]
struct Arguments {
    /// Rows as JSON lines.
    #[arg(long)]
    json: bool,
    /// Contended runs are in the figures, too.
    #[arg(long)]
    keep_contended: bool,
}

#[derive(Serialize)]
#[serde(tag = "line", rename_all = "lowercase")]
enum Out<'a> {
    Row(&'a Row),
    Versus(&'a Versus),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let lines: Vec<Line> = io::stdin()
        .lines()
        .map(|line| {
            let line = line?;
            serde_json::from_str(&line).with_context(|| format!("not a line of compare.sh: {line}"))
        })
        .collect::<Result<_>>()?;
    let contended = if arguments.keep_contended { Contended::Kept } else { Contended::LeftOut };
    let table = Table::of(lines, contended);
    if !arguments.json {
        print!("{table}");
        return Ok(());
    }
    let rows = table.rows.iter().map(Out::Row).chain(table.versus.iter().map(Out::Versus));
    for row in rows {
        println!("{}", serde_json::to_string(&row)?);
    }
    Ok(())
}
