//! What every room of the packet path costs alone, as a table or as JSON lines.

use anyhow::Result;
use bench::rooms;
use clap::Parser;

/// Measures each room of the packet path alone.
#[derive(Parser, Debug)]
struct Arguments {
    /// Connections in the table.
    #[arg(long, default_value_t = 64_000, value_parser = clap::value_parser!(u32).range(64..=10_000_000))]
    flows: u32,
    /// Packets of each room, in all rounds together.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(64..=1_000_000_000))]
    packets: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only the room of this name.
    #[arg(long, value_name = "NAME")]
    room: Option<String>,
    /// Print the names of the rooms, a line each.
    #[arg(long)]
    names: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let Arguments { flows, packets, rounds, room, names, json } = Arguments::parse();
    if names {
        rooms::names().for_each(|name| println!("{name}"));
        return Ok(());
    }
    core_affinity::get_core_ids()
        .unwrap_or_default()
        .first()
        .map(|core| core_affinity::set_for_current(*core));
    let costs = rooms::measure(flows, packets, rounds, room.as_deref())?;
    if json {
        for cost in &costs {
            println!("{}", serde_json::to_string(cost)?);
        }
        return Ok(());
    }
    println!("{flows} connections              ns a packet");
    for cost in &costs {
        let mark = if cost.established { "*" } else { " " };
        let contended = if cost.contended { "  contended" } else { "" };
        println!("{mark} {:<28} {:>8.1}{contended}", cost.room, cost.burst_ns_p50);
    }
    let sum: f64 = costs.iter().filter(|c| c.established).map(|c| c.burst_ns_p50).sum();
    println!("* a packet of an established connection: {sum:.1} in all");
    Ok(())
}
