//! `status`, `drops`, `forward list` and `trigger list` as text.

use std::io::{self, Write};

use super::text::{Align, escaped, print_columns};
use crate::api::model::{
    DeviceMode, DropCount, Drops, Forward, ForwardOrigin, InterfaceStatus, Shortage, Status,
    TableUse, WorkerStatus,
};
use crate::api::trigger::Trigger;

use Align::{Left, Right};

/// Prints the whole status.
///
/// # Errors
/// If printing fails.
pub fn write_status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let up = duration(status.uptime_s);
    let version = escaped(&status.version);
    writeln!(out, "postern {version}, up {up}, generation {}", status.generation)?;
    if let Some(config) = &status.config {
        writeln!(out, "configuration {}", escaped(config))?;
    }
    for warning in &status.warnings {
        writeln!(out, "warning: {}", escaped(warning))?;
    }
    writeln!(out, "\nworkers")?;
    write_workers(&status.workers, out)?;
    writeln!(out, "\ninterfaces")?;
    write_interfaces(&status.interfaces, out)?;
    let (v4, v6) = (status.rules.ipv4, status.rules.ipv6);
    writeln!(
        out,
        "\nrules        ipv4: {} in {} chains, ipv6: {} in {} chains\nforwards     {}",
        v4.rules, v4.chains, v6.rules, v6.chains, status.forwards
    )?;
    let connections = &status.connections;
    writeln!(
        out,
        "connections  ipv4: {}, ipv6: {}",
        table_use(connections.ipv4),
        table_use(connections.ipv6)
    )?;
    write_books(status, out)?;
    writeln!(out, "\ndrops")?;
    write_reasons(&status.drops, out)?;
    write_shortages(&status.exhausted, out)
}

/// Prints which addresses ran out of ports, if any did.
fn write_shortages(exhausted: &[Shortage], out: &mut dyn Write) -> io::Result<()> {
    if exhausted.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nout of ports")?;
    for Shortage { address, protocol, packets } in exhausted {
        writeln!(out, "  {packets}  {}  {}", escaped(address), escaped(protocol))?;
    }
    Ok(())
}

fn write_workers(workers: &[WorkerStatus], out: &mut dyn Write) -> io::Result<()> {
    let header = [
        "id",
        "core",
        "generation",
        "ipv4",
        "ipv6",
        "received",
        "forwarded",
        "delivered",
        "dropped",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(workers.iter().map(|w| {
        vec![
            w.id.to_string(),
            w.core.map_or_else(|| "-".to_owned(), |core| core.to_string()),
            w.generation.to_string(),
            table_use(w.ipv4),
            table_use(w.ipv6),
            w.received.to_string(),
            w.forwarded.to_string(),
            w.delivered.to_string(),
            w.dropped.to_string(),
        ]
    }));
    print_columns(&[Right; 9], &rows, "  ", out)
}

fn write_interfaces(interfaces: &[InterfaceStatus], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = interfaces
        .iter()
        .map(|i| {
            let mode = match i.mode {
                Some(DeviceMode::ZeroCopy) => "zero-copy",
                Some(DeviceMode::Copy) => "copy",
                None => "absent",
            };
            vec![
                i.name.clone(),
                i.device.clone(),
                if i.up { "up" } else { "down" }.to_owned(),
                i.mac.clone(),
                format!("mtu {}", i.mtu),
                match i.frames_without_socket {
                    0 => format!("{mode}, {} queues", i.queues),
                    n => format!("{mode}, {} queues, frames without socket: {n}", i.queues),
                },
                if i.masquerade { "masquerade" } else { "" }.to_owned(),
                if i.addresses.is_empty() {
                    "no address".to_owned()
                } else {
                    i.addresses.join(" ")
                },
            ]
        })
        .collect();
    print_columns(&[Left; 8], &rows, "  ", out)
}

fn write_books(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let b = &status.books;
    writeln!(out, "\nbooks")?;
    let side = |parts: &[(&str, u64)]| {
        let parts: Vec<_> = parts.iter().map(|(name, n)| format!("{name} {n}")).collect();
        parts.join(" + ")
    };
    writeln!(
        out,
        "  {}",
        side(&[
            ("received", b.received),
            ("from host", b.from_host),
            ("generated", b.generated),
            ("handed in", b.handed_in),
            ("resumed", b.resumed),
        ])
    )?;
    writeln!(
        out,
        "  = {}",
        side(&[
            ("forwarded", b.forwarded),
            ("delivered", b.delivered),
            ("handed out", b.handed_out),
            ("dropped", b.dropped),
            ("held", b.held),
        ])
    )?;
    match b.imbalance {
        0 => writeln!(out, "  balanced"),
        n => writeln!(out, "  {n} under way (0 when nothing is)"),
    }
}

/// Prints drops by reason, those that had any unless all are wanted.
///
/// # Errors
/// If printing fails.
pub fn write_drops(drops: &Drops, all: bool, out: &mut dyn Write) -> io::Result<()> {
    let shown: Vec<_> = drops.reasons.iter().filter(|r| all || r.packets > 0).cloned().collect();
    write_reasons(&shown, out)
}

/// Prints reasons with their counts.
///
/// # Errors
/// If printing fails.
pub fn write_reasons(reasons: &[DropCount], out: &mut dyn Write) -> io::Result<()> {
    if reasons.is_empty() {
        return writeln!(out, "  none");
    }
    let row = |r: &DropCount| vec![r.packets.to_string(), r.reason.clone(), r.text.clone()];
    let rows: Vec<_> = reasons.iter().map(row).collect();
    print_columns(&[Right, Left, Left], &rows, "  ", out)
}

/// Prints port forwards, a line each.
///
/// # Errors
/// If printing fails.
pub fn write_forwards(forwards: &[Forward], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = forwards
        .iter()
        .map(|f| {
            let origin = match f.origin {
                ForwardOrigin::Config => "",
                ForwardOrigin::Runtime => "(until the next start)",
            };
            let to = format!("-> {}", f.to);
            vec![f.interface.clone(), f.protocol.clone(), f.port.clone(), to, origin.to_owned()]
        })
        .collect();
    print_columns(&[Left; 5], &rows, "", out)
}

/// A port forward in a line: `wan tcp 8080 -> 192.168.1.10:80`.
pub fn forward_line(forward: &Forward) -> String {
    let Forward { interface, protocol, port, to, .. } = forward;
    escaped(&format!("{interface} {protocol} {port} -> {to}")).into_owned()
}

/// Prints port triggers, a line each.
///
/// # Errors
/// If printing fails.
pub fn write_triggers(triggers: &[Trigger], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = triggers
        .iter()
        .map(|t| {
            let opens = format!("-> {}", t.inbound);
            let holder = match t.holder {
                Some(holder) => format!("open to {} for {}s", holder.host, holder.remaining_s),
                None => format!("closed (opens for {}s)", t.timeout_s),
            };
            let origin = match t.origin {
                ForwardOrigin::Config => "",
                ForwardOrigin::Runtime => "(until the next start)",
            };
            let (interface, protocol) = (t.interface.clone(), t.protocol.clone());
            vec![interface, protocol, t.outbound.clone(), opens, holder, origin.to_owned()]
        })
        .collect();
    print_columns(&[Left; 6], &rows, "", out)
}

/// A port trigger in a line: `wan udp 6112 opens 6113-6115`.
pub fn trigger_line(trigger: &Trigger) -> String {
    let Trigger { interface, protocol, outbound, inbound, .. } = trigger;
    escaped(&format!("{interface} {protocol} {outbound} opens {inbound}")).into_owned()
}

/// `12 of 1000000 (0.0%)`
fn table_use(table: TableUse) -> String {
    let TableUse { used, capacity } = table;
    let share = if capacity == 0 { 0.0 } else { used as f64 * 100.0 / capacity as f64 };
    format!("{used} of {capacity} ({share:.1}%)")
}

/// `3d 04:05:06`
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    let clock = format!("{hours:02}:{minutes:02}:{seconds:02}");
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::Books;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            uptime_s: 2 * 86_400 + 3 * 3_600 + 4 * 60 + 5,
            generation: 17,
            config: Some("/etc/postern.toml".to_owned()),
            workers: vec![WorkerStatus {
                core: Some(1),
                generation: 17,
                received: 10,
                forwarded: 7,
                delivered: 1,
                dropped: 2,
                ipv4: TableUse { used: 3, capacity: 1000 },
                ..WorkerStatus::default()
            }],
            books: Books {
                received: 10,
                forwarded: 7,
                delivered: 1,
                dropped: 2,
                ..Books::default()
            },
            drops: vec![DropCount {
                reason: "denied_by_rule".to_owned(),
                text: "a rule said DROP".to_owned(),
                packets: 2,
                by_worker: vec![2],
            }],
            interfaces: vec![InterfaceStatus {
                name: "wan".to_owned(),
                device: "enp2s0".to_owned(),
                zone: None,
                up: true,
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: 1500,
                addresses: vec!["203.0.113.2/24".to_owned()],
                masquerade: true,
                mode: Some(DeviceMode::Copy),
                queues: 2,
                frames_without_socket: 0,
            }],
            ..Status::default()
        }
    }

    fn text(status: &Status) -> String {
        let mut out = Vec::new();
        write_status(status, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_status_says_it_all() {
        let text = text(&status());
        for part in [
            "postern 0.1.0, up 2d 03:04:05, generation 17",
            "3 of 1000 (0.3%)",
            "wan  enp2s0  up  02:00:00:00:00:01  mtu 1500  copy, 2 queues  masquerade  203.0.113.2/24",
            "received 10 + from host 0",
            "  balanced",
            "2  denied_by_rule  a rule said DROP",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn addresses_without_ports_are_shown_where_there_are_any() {
        let mut status = status();
        assert!(!text(&status).contains("out of ports"));
        status.exhausted = vec![Shortage {
            address: "203.0.113.2".to_owned(),
            protocol: "udp".to_owned(),
            packets: 7,
        }];
        assert!(text(&status).ends_with("\nout of ports\n  7  203.0.113.2  udp\n"));
    }

    #[test]
    fn frames_that_found_no_socket_are_shown_where_there_are_any() {
        let mut status = status();
        assert!(!text(&status).contains("socket"));
        status.interfaces[0].frames_without_socket = 7;
        assert!(text(&status).contains("copy, 2 queues, frames without socket: 7  masquerade"));
    }

    /// C204.
    #[test]
    fn a_name_cannot_forge_lines_of_the_status() {
        let mut status = status();
        status.interfaces[0].name = "wan\n  balanced\x1b[31m".to_owned();
        status.config = Some("a\nb".to_owned());
        let text = text(&status);
        assert_eq!(text.lines().filter(|line| *line == "  balanced").count(), 1);
        assert!(!text.contains('\x1b'));
    }
}
