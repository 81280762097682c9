//! `replay`: the whole packet path over a capture file, with no privileges and no devices.
//!
//! * [`capture`]: reading and writing pcap and pcapng.
//! * [`driver`]: the pipeline on a kernel that is assumed from the configuration.
//!
//! A packet comes in by the interface that the capture names (pcapng, by an interface's name or device;
//! `host:NAME` is the host sending through that interface), else by the one that has the packet's
//! destination MAC, else by `--ingress`. The n-th interface of the configuration has MAC
//! `02:00:00:00:00:n` from 0 on, unless `--mac` says another. Next hops answer at once, with the MAC that
//! the capture shows for them or else one made from their address. Timestamps are the time. The random
//! choices are the same each time, so the same input gives the same output, byte for byte.

pub mod capture;
pub mod driver;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use postern_core::burst::Origin;
use postern_core::units::{InterfaceId, Mac};
use serde::Serialize;

use super::args::ReplayArgs;
use super::text::{escaped, print_json};
use super::{CliError, FAILURE, Output, status, write_faults};
use crate::api::model::{Books, ConfigFault, DropCount, Drops};
use crate::config::{self, Config};
use capture::{CaptureError, Frame, Reader, Writer};
use driver::{Driver, Fate};

/// What a replay found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Packets read.
    pub packets: u64,
    /// Of those, not replayed: no interface to come in by.
    pub unassigned: u64,
    /// Of those replayed, cut short by the capture.
    pub cut: u64,
    /// Packets written.
    pub written: u64,
    /// Connections alive at the end.
    pub connections: u32,
    /// Where every packet went.
    pub books: Books,
    /// Reasons with at least one drop.
    pub drops: Vec<DropCount>,
    /// Every counter that is not 0, by name.
    pub counters: BTreeMap<String, u64>,
}

/// Runs the command; the exit code.
///
/// # Errors
/// If a file cannot be read or written.
pub fn run(arguments: &ReplayArgs, output: &mut Output<'_>) -> Result<u8, CliError> {
    let text = std::fs::read(&arguments.config).map_err(|error| named(&arguments.config, error))?;
    let config = match config::parse(&arguments.config, &text) {
        Ok(config) => config,
        Err(faults) => {
            let faults: Vec<_> = faults.iter().map(ConfigFault::from).collect();
            write_faults(&faults, output.err)?;
            return Ok(FAILURE);
        }
    };
    let ingress = arguments.ingress.as_deref().map(|name| interface(&config, name)).transpose()?;
    let macs = arguments
        .mac
        .iter()
        .map(|text| mac_of_interface(&config, text))
        .collect::<Result<Vec<_>, _>>()?;
    let report = replay(&config, arguments, ingress, &macs, output)?;
    if output.json {
        print_json(&report, output.out)?;
    } else {
        write_report(&report, output.out)?;
    }
    Ok(0)
}

fn replay(
    config: &Config,
    arguments: &ReplayArgs,
    ingress: Option<InterfaceId>,
    macs: &[(InterfaceId, Mac)],
    output: &mut Output<'_>,
) -> Result<Report, CliError> {
    let failed =
        |error: CaptureError, path: &Path| CliError::Failed(format!("{}: {error}", path.display()));
    let open = || {
        let file = File::open(&arguments.input).map_err(|error| named(&arguments.input, error))?;
        Reader::new(BufReader::new(file)).map_err(|error| failed(error, &arguments.input))
    };
    let mut driver =
        Driver::new(config, macs).map_err(|error| CliError::Failed(error.to_string()))?;

    // Once through for the MACs that the capture shows, then once for real.
    let mut reader = open()?;
    while let Some(frame) = reader.next_frame().map_err(|error| failed(error, &arguments.input))? {
        if let Some((id, Origin::Wire)) = assign(config, &driver, ingress, &frame) {
            driver.learn(id, &frame.bytes);
        }
    }

    let names: Vec<_> = config.interfaces.iter().map(|i| i.name.as_str()).collect();
    let file = File::create(&arguments.output).map_err(|error| named(&arguments.output, error))?;
    let with_names = arguments.output.extension().is_some_and(|extension| extension == "pcapng");
    let mut writer = Writer::new(BufWriter::new(file), with_names, &names)
        .map_err(|error| failed(error, &arguments.output))?;
    let (mut packets, mut unassigned, mut cut, mut written) = (0, 0, 0, 0);
    let mut reader = open()?;
    while let Some(frame) = reader.next_frame().map_err(|error| failed(error, &arguments.input))? {
        packets += 1;
        let Some((id, origin)) = assign(config, &driver, ingress, &frame) else {
            unassigned += 1;
            continue;
        };
        cut += u64::from(frame.cut);
        let fate = driver.pass(id, origin, frame.time, &frame.bytes);
        if arguments.verbose && !output.json {
            writeln!(output.out, "{packets} {} {}", names[id.index()], fate_line(&fate, &names))?;
        }
        while let Some(out) = driver.next_out() {
            let wrote = writer.write(out.interface, out.to_host, frame.time, &out.bytes);
            written += u64::from(wrote.map_err(|error| failed(error, &arguments.output))?);
        }
    }
    writer.finish().map_err(|error| named(&arguments.output, error))?;

    let values = driver.values();
    let drops = Drops::from_values(std::slice::from_ref(&values)).reasons;
    let counters = values.named().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n));
    Ok(Report {
        packets,
        unassigned,
        cut,
        written,
        connections: driver.connections(),
        books: Books::from(&values),
        drops: drops.into_iter().filter(|drop| drop.packets > 0).collect(),
        counters: counters.collect(),
    })
}

/// The interface a packet comes in by, and whether from the wire or from the host.
fn assign(
    config: &Config,
    driver: &Driver,
    ingress: Option<InterfaceId>,
    frame: &Frame,
) -> Option<(InterfaceId, Origin)> {
    let named = |name: &str| {
        let at = config.interfaces.iter().position(|i| i.name == name || i.device == name);
        at.map(|at| InterfaceId(at as u8)) // at most 32 interfaces
    };
    if let Some(name) = &frame.interface {
        if let Some(id) = name.strip_prefix("host:").and_then(named) {
            return Some((id, Origin::Host));
        }
        if let Some(id) = named(name) {
            return Some((id, Origin::Wire));
        }
    }
    driver.interface_of(&frame.bytes).or(ingress).map(|id| (id, Origin::Wire))
}

fn fate_line(fate: &Fate, names: &[&str]) -> String {
    match fate {
        Fate::Sent(egress) => format!("-> {}", names[egress.index()]),
        Fate::Delivered(interface) => format!("-> host by {}", names[interface.index()]),
        Fate::Answered { egress, to_host, .. } => {
            let to = if *to_host { "host" } else { names[egress.index()] };
            format!("answered to {to}")
        }
        Fate::Waits => "waits for the rest of its datagram".to_owned(),
        Fate::Dropped(reason) => format!("dropped: {} ({})", reason.name(), reason.text()),
    }
}

fn interface(config: &Config, name: &str) -> Result<InterfaceId, CliError> {
    let found = config.interface(name).map(|(id, _)| id);
    found.ok_or_else(|| CliError::Usage(format!("the configuration has no interface `{name}`")))
}

/// `lan=02:00:00:00:00:01`
fn mac_of_interface(config: &Config, text: &str) -> Result<(InterfaceId, Mac), CliError> {
    let bad = || CliError::Usage(format!("`{text}` is not like lan=02:00:00:00:00:01"));
    let (name, mac) = text.split_once('=').ok_or_else(bad)?;
    let octets = mac.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<u8> = octets.collect::<Result<_, _>>().map_err(|_| bad())?;
    Ok((interface(config, name)?, Mac(octets.try_into().map_err(|_| bad())?)))
}

fn named(path: &Path, error: io::Error) -> CliError {
    CliError::Failed(format!("{}: {error}", path.display()))
}

fn write_report(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Report { packets, unassigned, cut, written, connections, books, drops, .. } = report;
    writeln!(
        out,
        "{packets} packets read, {written} written, {connections} connections at the end"
    )?;
    if *unassigned > 0 {
        writeln!(
            out,
            "{unassigned} packets not replayed: no interface name or MAC says where they come in; \
             see --ingress and --mac"
        )?;
    }
    if *cut > 0 {
        writeln!(out, "{cut} packets were cut short by the capture")?;
    }
    writeln!(
        out,
        "forwarded {}, delivered {}, originated {}, dropped {}",
        books.forwarded, books.delivered, books.generated, books.dropped
    )?;
    if books.imbalance != 0 {
        writeln!(out, "{} packets unaccounted for", escaped(&books.imbalance.to_string()))?;
    }
    status::write_reasons(drops, out)
}

#[cfg(test)]
mod tests;
