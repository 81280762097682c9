//! `conntrack ...`: lines in the format of `conntrack -L`, `-E` and `-L expect` (libnetfilter_conntrack), and JSON.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::args::{ConntrackCommand, Extra, Filter, Show, UnmarkedFilter};
use super::client::{Client, Method, NO_BODY, with_query};
use super::text::{escaped, print_json, print_json_line};
use super::{CliError, FAILURE, Output, local_time};
use crate::api::connection::{Connection, Ids, TupleInfo};
use crate::api::event::{ConnectionEdit, Event, EventKind, EventKinds, EventsQuery, Updated};
use crate::api::expectation::{Expectation, Expectations};
use crate::api::filter::{ConnectionFilter, ConnectionQuery};
use crate::api::mapping::{Mapping, Mappings};
use crate::api::model::{ConnectionCount, Deleted, Family};

/// Runs the command; the exit code.
///
/// # Errors
/// If the daemon says no, or printing fails.
pub fn run(
    client: &Client,
    command: ConntrackCommand,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    match command {
        ConntrackCommand::List { filter, show } => list(client, filter, &show, output),
        ConntrackCommand::Get { id, filter, show } => {
            get(client, id.as_deref(), filter, &show, output)
        }
        ConntrackCommand::Count => {
            let count: ConnectionCount =
                client.call(Method::GET, "/v1/connections/count", NO_BODY)?;
            if output.json {
                print_json(&count, output.out)?;
            } else {
                writeln!(output.out, "{}", count.used())?;
            }
            Ok(0)
        }
        ConntrackCommand::Delete { id, filter } => delete(client, id.as_deref(), filter, output),
        ConntrackCommand::Update { id, filter, mark, timeout } => {
            let (mark, mask) = mark.unzip();
            let edit = ConnectionEdit { mark, mask, timeout_s: timeout };
            update(client, id.as_deref(), filter, edit, output)
        }
        ConntrackCommand::Events { filter, events, show } => {
            follow(client, filter, events, &show, output)
        }
        ConntrackCommand::Expect => expect(client, output),
        ConntrackCommand::Mappings => mappings(client, output),
        ConntrackCommand::Flush => {
            let done: Deleted = client.call(Method::POST, "/v1/connections/flush", NO_BODY)?;
            deleted(done, output)?;
            Ok(0)
        }
    }
}

/// The query of a filter that makes sense.
fn query(
    filter: impl Into<ConnectionQuery>,
) -> Result<(ConnectionQuery, ConnectionFilter), CliError> {
    let query = filter.into();
    let filter =
        ConnectionFilter::try_from(&query).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok((query, filter))
}

fn list(
    client: &Client,
    filter: Filter,
    show: &Show,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (query, _) = query(filter)?;
    let mut shown = 0u64;
    if output.json {
        output.out.write_all(b"[")?;
    }
    each(client, &query, |connection| {
        if output.json {
            output.out.write_all(if shown == 0 { b"\n" } else { b",\n" })?;
            print_json_line(connection, output.out)?;
        } else {
            writeln!(output.out, "{}", line(connection, show))?;
        }
        shown += 1;
        Ok(())
    })?;
    if output.json {
        output.out.write_all(if shown == 0 { b"]\n" } else { b"\n]\n" })?;
    } else {
        // Connections first, where both go to one terminal.
        output.out.flush()?;
        writeln!(output.err, "postern: {shown} connections have been shown.")?;
    }
    Ok(0)
}

/// Hands over each connection that passes, as it arrives.
fn each(
    client: &Client,
    query: &ConnectionQuery,
    mut take: impl FnMut(&Connection) -> Result<(), CliError>,
) -> Result<(), CliError> {
    client.listing(&with_query("/v1/connections", query), |line| {
        let connection = serde_json::from_slice(line)
            .map_err(|error| CliError::Failed(format!("an answer not understood: {error}")))?;
        take(&connection)
    })
}

fn get(
    client: &Client,
    id: Option<&str>,
    filter: Filter,
    show: &Show,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (query, filter) = query(filter)?;
    let connection = match id {
        Some(id) => client.call(Method::GET, &id_path(id)?, NO_BODY)?,
        None if filter.is_empty() => {
            return Err(CliError::Usage("conntrack get needs an id or a filter".to_owned()));
        }
        None => {
            let mut found = Vec::new();
            each(client, &query, |connection| {
                found.push(connection.clone());
                if found.len() < 2 {
                    return Ok(());
                }
                Err(CliError::Failed("more than one connection passes the filter".to_owned()))
            })?;
            found.pop().ok_or_else(|| CliError::Failed("no such connection".to_owned()))?
        }
    };
    if output.json {
        print_json(&connection, output.out)?;
    } else {
        writeln!(output.out, "{}", line(&connection, show))?;
    }
    Ok(0)
}

fn delete(
    client: &Client,
    id: Option<&str>,
    filter: Filter,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (query, filter) = query(filter)?;
    let done = match id {
        Some(_) if !filter.is_empty() => {
            return Err(CliError::Usage("conntrack delete takes an id or a filter".to_owned()));
        }
        Some(id) => {
            client.call::<Connection>(Method::DELETE, &id_path(id)?, NO_BODY)?;
            Deleted { deleted: 1 }
        }
        None if filter.is_empty() => {
            return Err(CliError::Usage(
                "conntrack delete needs an id or a filter; conntrack flush deletes all".to_owned(),
            ));
        }
        None => client.call(Method::DELETE, &with_query("/v1/connections", &query), NO_BODY)?,
    };
    deleted(done, output)?;
    Ok(if done.deleted == 0 { FAILURE } else { 0 })
}

fn update(
    client: &Client,
    id: Option<&str>,
    filter: UnmarkedFilter,
    edit: ConnectionEdit,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (query, filter) = query(filter)?;
    edit.to_core().map_err(CliError::Usage)?;
    let done = match id {
        Some(_) if !filter.is_empty() => {
            return Err(CliError::Usage("conntrack update takes an id or a filter".to_owned()));
        }
        Some(id) => {
            client.call::<Connection>(Method::PATCH, &id_path(id)?, Some(&edit))?;
            Updated { updated: 1 }
        }
        None if filter.is_empty() => {
            return Err(CliError::Usage("conntrack update needs an id or a filter".to_owned()));
        }
        None => client.call(Method::PATCH, &with_query("/v1/connections", &query), Some(&edit))?,
    };
    if output.json {
        print_json(&done, output.out)?;
    } else {
        writeln!(output.err, "postern: {} connections have been updated.", done.updated)?;
    }
    Ok(if done.updated == 0 { FAILURE } else { 0 })
}

/// Prints events as they come. It ends when the appliance does, or whoever reads.
fn follow(
    client: &Client,
    filter: Filter,
    events: Option<String>,
    show: &Show,
    output: &mut Output<'_>,
) -> Result<u8, CliError> {
    let (query, _) = query(filter)?;
    if let Some(events) = &events {
        events.parse::<EventKinds>().map_err(CliError::Usage)?;
    }
    let path = with_query("/v1/connections/events", &query);
    let kinds = with_query("", &EventsQuery { events });
    let path = if path.contains('?') { path + &kinds.replace('?', "&") } else { path + &kinds };
    client.listing(&path, |line| {
        if line.is_empty() {
            return Ok(()); // it is quiet
        }
        let event = serde_json::from_slice(line)
            .map_err(|error| CliError::Failed(format!("an answer not understood: {error}")))?;
        if output.json {
            print_json_line(&event, output.out)?;
            writeln!(output.out)?;
        } else if let Event::Overrun { missed, .. } = event {
            writeln!(output.err, "postern: {missed} events were missed: list the table again")?;
        } else {
            writeln!(output.out, "{}", event_line(&event, show))?;
        }
        Ok::<_, CliError>(output.out.flush()?)
    })?;
    writeln!(output.err, "postern: the appliance stops")?;
    Ok(FAILURE)
}

fn expect(client: &Client, output: &mut Output<'_>) -> Result<u8, CliError> {
    let Expectations { expectations } = client.call(Method::GET, "/v1/expectations", NO_BODY)?;
    if output.json {
        print_json(&expectations, output.out)?;
        return Ok(0);
    }
    for expectation in &expectations {
        writeln!(output.out, "{}", expectation_line(expectation))?;
    }
    output.out.flush()?;
    writeln!(output.err, "postern: {} expectations have been shown.", expectations.len())?;
    Ok(0)
}

fn mappings(client: &Client, output: &mut Output<'_>) -> Result<u8, CliError> {
    let Mappings { mappings } = client.call(Method::GET, "/v1/mappings", NO_BODY)?;
    if output.json {
        print_json(&mappings, output.out)?;
        return Ok(0);
    }
    for mapping in &mappings {
        writeln!(output.out, "{}", mapping_line(mapping))?;
    }
    output.out.flush()?;
    writeln!(output.err, "postern: {} mappings have been shown.", mappings.len())?;
    Ok(0)
}

fn id_path(id: &str) -> Result<String, CliError> {
    let id: u64 =
        id.parse().map_err(|_| CliError::Usage(format!("`{id}` is not the id of a connection")))?;
    Ok(format!("/v1/connections/{id}"))
}

fn deleted(done: Deleted, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.json {
        print_json(&done, output.out)?;
    } else {
        writeln!(output.err, "postern: {} connections have been deleted.", done.deleted)?;
    }
    Ok(())
}

/// A connection as `conntrack -L` prints it (libnetfilter_conntrack, snprintf_default.c).
pub fn line(connection: &Connection, show: &Show) -> String {
    let c = connection;
    let mut line = String::with_capacity(256);
    family(c, show, &mut line);
    head(c, true, &mut line);
    tuples(c, Counters::Shown, &mut line);
    let _ = write!(line, "mark={} ", c.mark);
    zone(c, &mut line);
    if show.output.contains(&Extra::Ktimestamp) {
        let start = local_time::asctime(c.start_unix_s);
        let _ = write!(line, "delta-time={} [start={start}] ", c.age_s);
    }
    if let Some(helper) = &c.helper {
        let _ = write!(line, "helper={} ", escaped(helper));
    }
    line.push_str("use=1");
    if show.output.contains(&Extra::Id) {
        let _ = write!(line, " id={}", c.id);
    }
    line
}

/// What happened to a connection, as `conntrack -E` prints it: counters at the end only.
fn event_line(event: &Event, show: &Show) -> String {
    let mut line = String::with_capacity(256);
    let Some((kind, c)) = event.about() else { return line };
    if show.output.contains(&Extra::Timestamp) {
        let time = event.time_unix_ms();
        let _ = write!(line, "[{:<8}.{:06}]\t", time / 1000, time % 1000 * 1000);
    }
    line.push_str(match kind {
        EventKind::New => "    [NEW] ",
        EventKind::Update => " [UPDATE] ",
        EventKind::Destroy => "[DESTROY] ",
    });
    family(c, show, &mut line);
    // At the end of a time there is none left.
    let destroyed = kind == EventKind::Destroy;
    head(c, !destroyed || c.timeout_s != 0, &mut line);
    tuples(c, if destroyed { Counters::Shown } else { Counters::Hidden }, &mut line);
    if c.mark != 0 {
        let _ = write!(line, "mark={} ", c.mark);
    }
    zone(c, &mut line);
    if show.output.contains(&Extra::Ktimestamp) {
        let start = local_time::asctime(c.start_unix_s);
        let _ = write!(line, "delta-time={} [start={start}] ", c.age_s);
        if destroyed {
            let stop = local_time::asctime(event.time_unix_ms() / 1000);
            let _ = write!(line, "[stop={stop}] ");
        }
    }
    if let Event::Destroy { reason, .. } = event
        && show.output.contains(&Extra::Reason)
    {
        let _ = write!(line, "reason={} ", reason.name());
    }
    if show.output.contains(&Extra::Id) {
        let _ = write!(line, "id={} ", c.id);
    }
    line.truncate(line.trim_end().len());
    line
}

/// An endpoint-independent mapping, in the manner of `conntrack -L`.
fn mapping_line(mapping: &Mapping) -> String {
    let Mapping { protocol, inside, inside_port, external, external_port, .. } = mapping;
    let mut line = format!(
        "{protocol} inside={inside}:{inside_port} external={external}:{external_port} connections={}",
        mapping.connections
    );
    if mapping.zone != 0 {
        let _ = write!(line, " zone={}", mapping.zone);
    }
    if let Some(seconds) = mapping.timeout_s {
        let _ = write!(line, " timeout={seconds}");
    }
    line.push_str(if mapping.open { " [OPEN]" } else { "" });
    line
}

/// What a helper expects, as `conntrack -L expect` prints it.
fn expectation_line(expectation: &Expectation) -> String {
    let e = expectation;
    let mut line = format!("{} proto={} ", e.timeout_s, e.protocol_number);
    let (nobody, all) = match e.dst {
        IpAddr::V4(_) => (IpAddr::from([0; 4]), IpAddr::from([u8::MAX; 4])),
        IpAddr::V6(_) => (IpAddr::from([0; 16]), IpAddr::from([u8::MAX; 16])),
    };
    let src_mask = if e.src.is_some() { all } else { nobody };
    let _ =
        write!(line, "src={} dst={} sport=0 dport={} ", e.src.unwrap_or(nobody), e.dst, e.dport);
    let _ = write!(line, "mask-src={src_mask} mask-dst={all} sport=0 dport=65535 ");
    let master = &e.master_original;
    let _ = write!(line, "master-src={} master-dst={} ", master.src, master.dst);
    ids(master, &mut line);
    line.push_str("class=0");
    if let Some(helper) = &e.helper {
        let _ = write!(line, " helper={}", escaped(helper));
    }
    line
}

/// Whether counters are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counters {
    Shown,
    Hidden,
}

fn family(c: &Connection, show: &Show, line: &mut String) {
    if show.output.contains(&Extra::Extended) {
        // The numbers are AF_INET and AF_INET6.
        let number = if c.family == Family::Ipv4 { 2 } else { 10 };
        let _ = write!(line, "{:<8} {number} ", c.family.name());
    }
}

/// Protocol, remaining time and state.
fn head(c: &Connection, timeout: bool, line: &mut String) {
    let protocol = c.protocol.name().unwrap_or("unknown");
    let _ = write!(line, "{protocol:<8} {} ", c.protocol_number);
    if timeout {
        let _ = write!(line, "{} ", c.timeout_s);
    }
    if let Some(state) = &c.state {
        let _ = write!(line, "{} ", escaped(state));
    }
}

fn tuples(c: &Connection, counters: Counters, line: &mut String) {
    tuple(&c.original, "orig", counters, line);
    if !c.seen_reply {
        line.push_str("[UNREPLIED] ");
    }
    tuple(&c.reply, "reply", counters, line);
    if c.assured {
        line.push_str("[ASSURED] ");
    }
}

fn zone(c: &Connection, line: &mut String) {
    if c.zone != 0 {
        let _ = write!(line, "zone={} ", c.zone);
    }
}

fn tuple(tuple: &TupleInfo, side: &str, counters: Counters, line: &mut String) {
    let _ = write!(line, "src={} dst={} ", tuple.src, tuple.dst);
    ids(tuple, line);
    if tuple.zone != 0 {
        let _ = write!(line, "zone-{side}={} ", tuple.zone);
    }
    if let (Some(counted), Counters::Shown) = (tuple.counted, counters) {
        let _ = write!(line, "packets={} bytes={} ", counted.packets, counted.bytes);
    }
}

fn ids(tuple: &TupleInfo, line: &mut String) {
    let _ = match tuple.ids {
        Ids::Ports { sport, dport } => write!(line, "sport={sport} dport={dport} "),
        Ids::Icmp { icmp_type, icmp_code, icmp_id } => {
            write!(line, "type={icmp_type} code={icmp_code} id={icmp_id} ")
        }
        Ids::Keys { srckey, dstkey } => write!(line, "srckey={srckey:#x} dstkey={dstkey:#x} "),
        Ids::None {} => Ok(()),
    };
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
