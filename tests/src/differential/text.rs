//! Scripts as text, for regression files: a line a shot.
//!
//! `0> tcp SA 100 7 65535 020405b4 0` is a segment of flow 0 from client to server: flags, sequence and
//! acknowledgment number, window, options, length. `<` goes from server to client. Before the body may stand
//! `stranger`, `bad-sum`, `bad-ip-sum` and `offset 4`.

use std::fmt::Write;

use postern_core::conntrack::timeouts::ROWS;
use postern_core::rules::Family;
use toml_edit::{Array, DocumentMut, Item, value};

use super::flow::{Course, Flow};
use super::script::{Body, Conditions, Script, Segment, Shot, Tamper};

const FLAGS: [char; 8] = ['F', 'S', 'R', 'P', 'A', 'U', 'E', 'C'];

/// A script as a regression file.
pub(super) fn write(script: &Script, about: &str) -> String {
    let mut file = DocumentMut::new();
    let list = |lines: Vec<String>| {
        let mut array: Array = lines.into_iter().collect();
        array.iter_mut().for_each(|v| v.decor_mut().set_prefix("\n    "));
        array.set_trailing("\n");
        array
    };
    file["about"] = value(about);
    file["workers"] = value(i64::from(script.workers));
    file["loose"] = value(script.conditions.loose);
    file["liberal"] = value(script.conditions.liberal);
    file["masquerade6"] = value(script.conditions.masquerade6);
    file["short"] = value(script.conditions.short_names().into_iter().collect::<Array>());
    file["flows"] = value(list(script.flows.iter().map(flow).collect()));
    let mut sections: Array = Array::new();
    for section in &script.sections {
        sections.push(list(section.iter().map(shot).collect()));
    }
    file["sections"] = value(sections);
    file.to_string()
}

/// A script from a regression file.
///
/// # Errors
/// With what could not be read.
pub(super) fn read(text: &str) -> Result<Script, String> {
    let file: DocumentMut = text.parse().map_err(|error| format!("{error}"))?;
    let field = |name: &str| file.get(name).ok_or_else(|| format!("no {name}"));
    let strings = |array: &Array| -> Result<Vec<String>, String> {
        let string = |v: &toml_edit::Value| v.as_str().map(String::from).ok_or("no string");
        array.iter().map(string).collect::<Result<_, _>>().map_err(String::from)
    };
    let array = |item: &Item| item.as_array().cloned().ok_or_else(|| "no list".to_string());
    let mut short = 0;
    for name in strings(&array(field("short")?)?)? {
        let row = ROWS.iter().position(|row| row.name == name);
        short |= 1 << row.ok_or_else(|| format!("no timeout {name}"))?;
    }
    let flows = strings(&array(field("flows")?)?)?;
    let flows: Vec<Flow> =
        flows.iter().map(|line| parse(line, read_flow)).collect::<Result<_, _>>()?;
    let mut sections = Vec::new();
    for section in array(field("sections")?)?.iter() {
        let lines = strings(section.as_array().ok_or("no list of shots")?)?;
        let shots: Result<Vec<_>, _> = lines.iter().map(|line| parse(line, read_shot)).collect();
        sections.push(shots?);
    }
    if sections.iter().flatten().any(|shot| shot.flow >= flows.len()) {
        return Err("a shot of no flow".into());
    }
    let switch = |name: &str| field(name)?.as_bool().ok_or(format!("{name} is true or false"));
    let (loose, liberal) = (switch("loose")?, switch("liberal")?);
    let masquerade6 = switch("masquerade6")?;
    let workers = field("workers")?.as_integer().ok_or("workers is a number")? as u8;
    let conditions =
        Conditions { loose, liberal, masquerade6, short, pauses: sections.len().saturating_sub(1) };
    Ok(Script { seed: 0, workers, conditions, flows, sections })
}

/// A flow in a line.
pub(super) fn flow(flow: &Flow) -> String {
    let Flow { family, protocol, course, host, host_port, peer, peer_port } = flow;
    let protocol = match family {
        Family::V4 => protocol.to_string(),
        Family::V6 => format!("v6 {protocol}"),
    };
    match course {
        Course::Routed => {
            format!("{protocol} host {host}:{host_port} routed to peer {peer}:{peer_port}")
        }
        Course::Outward => format!("{protocol} host {host}:{host_port} to peer {peer}:{peer_port}"),
        Course::Inward(port) => {
            format!("{protocol} peer {peer}:{peer_port} by {port} to host {host}:{host_port}")
        }
        Course::Hairpin(port) => {
            format!("{protocol} host {peer}:{peer_port} by {port} to host {host}:{host_port}")
        }
    }
}

/// A shot in a line.
pub(super) fn shot(shot: &Shot) -> String {
    let mut out = format!("{}{}", shot.flow, if shot.back { '<' } else { '>' });
    if shot.stranger {
        out += " stranger";
    }
    match shot.tamper {
        Tamper::Nothing => {}
        Tamper::TransportSum => out += " bad-sum",
        Tamper::IpSum => out += " bad-ip-sum",
        Tamper::DataOffset(words) => {
            let _ = write!(out, " offset {words}");
        }
    }
    write_body(&mut out, &shot.body);
    out
}

fn write_body(out: &mut String, body: &Body) {
    let _ = match body {
        Body::Segment(Segment { flags, seq, ack, window, options, len }) => {
            let set = FLAGS.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 != 0);
            let mut set: String = set.map(|(_, name)| *name).collect();
            let mut bytes: String = options.iter().map(|byte| format!("{byte:02x}")).collect();
            for text in [&mut set, &mut bytes] {
                if text.is_empty() {
                    text.push('-');
                }
            }
            write!(out, " tcp {set} {seq} {ack} {window} {bytes} {len}")
        }
        Body::Datagram { len, unsummed } => {
            write!(out, " udp {len} {}", if *unsummed { "unsummed" } else { "summed" })
        }
        Body::Lite { len, coverage } => write!(out, " udplite {len} {coverage}"),
        Body::Part { id, offset, len, more, forged, of } => {
            let (more, bytes) =
                (if *more { "more" } else { "last" }, if *forged { "forged" } else { "true" });
            let _ = write!(out, " part {id} {offset} {len} {more} {bytes} of");
            write_body(out, of);
            Ok(())
        }
        Body::Chunks { kinds, tag, init, flags } => {
            let kinds: Vec<String> = kinds.iter().map(u8::to_string).collect();
            write!(out, " sctp {tag} {init} {flags} {}", kinds.join(","))
        }
        Body::Tunnel { version, len } => write!(out, " gre {version} {len}"),
        Body::Query { ask, timestamp, number } => {
            let kind = if *timestamp { "timestamp" } else { "echo" };
            write!(out, " {} {kind} {number}", if *ask { "ask" } else { "answer" })
        }
        Body::Error { kind, code, rest, router, keep, slip, about } => {
            let who = if *router { "router" } else { "end" };
            let _ = write!(out, " error {kind} {code} {rest} {who} {keep} {slip} about");
            write_body(out, about);
            Ok(())
        }
    };
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn parse<T>(line: &str, read: fn(&mut Words<'_>) -> Option<T>) -> Result<T, String> {
    let mut words = line.split_whitespace().peekable();
    let read = read(&mut words);
    read.filter(|_| words.next().is_none()).ok_or_else(|| format!("cannot be read: {line}"))
}

fn number<T: std::str::FromStr>(words: &mut Words<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

fn endpoint(words: &mut Words<'_>) -> Option<(u8, u16)> {
    let (party, port) = words.next()?.split_once(':')?;
    Some((party.parse().ok()?, port.parse().ok()?))
}

fn read_flow(words: &mut Words<'_>) -> Option<Flow> {
    let family = if words.next_if_eq(&"v6").is_some() { Family::V6 } else { Family::V4 };
    let protocol = number(words)?;
    let from_peer = words.next()? == "peer";
    let client = endpoint(words)?;
    let course = match words.next_if_eq(&"by") {
        None if words.next_if_eq(&"routed").is_some() => Course::Routed,
        None => Course::Outward,
        Some(_) if from_peer => Course::Inward(number(words)?),
        Some(_) => Course::Hairpin(number(words)?),
    };
    let forward = matches!(course, Course::Inward(_) | Course::Hairpin(_));
    words.next_if_eq(&"to")?;
    words.next()?;
    let server = endpoint(words)?;
    let ((host, host_port), (peer, peer_port)) =
        if forward { (server, client) } else { (client, server) };
    Some(Flow { family, protocol, course, host, host_port, peer, peer_port })
}

fn read_shot(words: &mut Words<'_>) -> Option<Shot> {
    let head = words.next()?;
    let back = head.ends_with('<');
    let flow = head.strip_suffix(['<', '>'])?.parse().ok()?;
    let stranger = words.next_if_eq(&"stranger").is_some();
    let tamper = match *words.peek()? {
        "bad-sum" => Tamper::TransportSum,
        "bad-ip-sum" => Tamper::IpSum,
        "offset" => {
            words.next();
            Tamper::DataOffset(words.peek()?.parse().ok()?)
        }
        _ => Tamper::Nothing,
    };
    if tamper != Tamper::Nothing {
        words.next();
    }
    Some(Shot { flow, back, stranger, tamper, body: read_body(words)? })
}

fn read_body(words: &mut Words<'_>) -> Option<Body> {
    Some(match words.next()? {
        "tcp" => {
            let set = words.next()?;
            let bit = |c| FLAGS.iter().position(|flag| *flag == c).map(|bit| 1_u8 << bit);
            let mut flags = 0;
            for flag in set.chars().filter(|c| *c != '-') {
                flags |= bit(flag)?;
            }
            let (seq, ack, window) = (number(words)?, number(words)?, number(words)?);
            let bytes = words.next()?.trim_matches('-');
            let byte = |at| u8::from_str_radix(bytes.get(at..at + 2)?, 16).ok();
            let options = (0..bytes.len()).step_by(2).map(byte).collect::<Option<_>>()?;
            Body::Segment(Segment { flags, seq, ack, window, options, len: number(words)? })
        }
        "udp" => Body::Datagram { len: number(words)?, unsummed: words.next()? == "unsummed" },
        "part" => {
            let (id, offset, len) = (number(words)?, number(words)?, number(words)?);
            let (more, forged) = (words.next()? == "more", words.next()? == "forged");
            words.next_if_eq(&"of")?;
            let of = Box::new(read_body(words)?);
            Body::Part { id, offset, len, more, forged, of }
        }
        "udplite" => Body::Lite { len: number(words)?, coverage: number(words)? },
        "sctp" => {
            let (tag, init, flags) = (number(words)?, number(words)?, number(words)?);
            let kinds = words.next()?.split(',').map(|kind| kind.parse().ok());
            Body::Chunks { kinds: kinds.collect::<Option<_>>()?, tag, init, flags }
        }
        "gre" => Body::Tunnel { version: number(words)?, len: number(words)? },
        asked @ ("ask" | "answer") => {
            let timestamp = words.next()? == "timestamp";
            Body::Query { ask: asked == "ask", timestamp, number: number(words)? }
        }
        "error" => {
            let (kind, code, rest) = (number(words)?, number(words)?, number(words)?);
            let router = words.next()? == "router";
            let (keep, slip) = (number(words)?, number(words)?);
            words.next_if_eq(&"about")?;
            let about = Box::new(read_body(words)?);
            Body::Error { kind, code, rest, router, keep, slip, about }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::generate;

    #[test]
    fn every_script_reads_back_as_it_was_written() {
        for seed in 0..300 {
            let script = generate::script(seed, 2, &generate::conditions(seed, None), None);
            let again = read(&write(&script, "a test")).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(again, Script { seed: 0, ..script });
        }
    }
}
