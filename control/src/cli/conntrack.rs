//! `conntrack ...`: lines in the format of `conntrack -L` (libnetfilter_conntrack), and JSON.

use std::fmt::Write as _;

use super::args::{ConntrackCommand, Extra, Filter, Show};
use super::client::{Client, Method, NO_BODY, with_query};
use super::text::{escaped, print_json, print_json_line};
use super::{CliError, FAILURE, Output};
use crate::api::connection::{Connection, Ids, TupleInfo};
use crate::api::filter::{ConnectionFilter, ConnectionQuery};
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
        ConntrackCommand::Flush => {
            let done: Deleted = client.call(Method::POST, "/v1/connections/flush", NO_BODY)?;
            deleted(done, output)?;
            Ok(0)
        }
    }
}

/// The query of a filter that makes sense.
fn query(filter: Filter) -> Result<(ConnectionQuery, ConnectionFilter), CliError> {
    let query = ConnectionQuery::from(filter);
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
    if show.output.contains(&Extra::Extended) {
        // The numbers are AF_INET and AF_INET6.
        let number = if c.family == Family::Ipv4 { 2 } else { 10 };
        let _ = write!(line, "{:<8} {number} ", c.family.name());
    }
    let protocol = c.protocol.name().unwrap_or("unknown");
    let _ = write!(line, "{protocol:<8} {} {} ", c.protocol_number, c.timeout_s);
    if let Some(state) = &c.state {
        let _ = write!(line, "{} ", escaped(state));
    }
    tuple(&c.original, &mut line);
    if !c.seen_reply {
        line.push_str("[UNREPLIED] ");
    }
    tuple(&c.reply, &mut line);
    if c.assured {
        line.push_str("[ASSURED] ");
    }
    let _ = write!(line, "mark={} ", c.mark);
    if c.zone != 0 {
        let _ = write!(line, "zone={} ", c.zone);
    }
    line.push_str("use=1");
    if show.output.contains(&Extra::Id) {
        let _ = write!(line, " id={}", c.id);
    }
    line
}

fn tuple(tuple: &TupleInfo, line: &mut String) {
    let _ = write!(line, "src={} dst={} ", tuple.src, tuple.dst);
    let _ = match tuple.ids {
        Ids::Ports { sport, dport } => write!(line, "sport={sport} dport={dport} "),
        Ids::Icmp { icmp_type, icmp_code, icmp_id } => {
            write!(line, "type={icmp_type} code={icmp_code} id={icmp_id} ")
        }
        Ids::Keys { srckey, dstkey } => write!(line, "srckey={srckey:#x} dstkey={dstkey:#x} "),
        Ids::None {} => Ok(()),
    };
    if let Some(counted) = tuple.counted {
        let _ = write!(line, "packets={} bytes={} ", counted.packets, counted.bytes);
    }
}

#[cfg(test)]
#[path = "conntrack_tests.rs"]
mod tests;
