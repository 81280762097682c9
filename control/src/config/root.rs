//! The file as a whole: its top level, `[conntrack]`, `[[forward]]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tcp::TcpPolicy;
use postern_core::helper::{Kind as Helper, SIP_PORTS_MAX};
use postern_core::limits::PerSource;
use postern_core::nat::trigger::TRIGGERS_MAX;
use toml_edit::Table;

use super::fault::{At, Faults, Position, did_you_mean};
use super::forward::{ForwardError, ForwardSpec};
use super::reader::{Placed, Section, kind, kind_of_value};
use super::trigger::{TRIGGER_TIMEOUT, TRIGGER_TIMEOUTS, TriggerSpec};
use super::{
    ADAPTIVE_DEFAULT, CONTROL_DEFAULT, ConntrackSettings, ForwardSettings, Idle, InterfaceSettings,
    LimitSettings, Places, RUN_DIR_DEFAULT, Settings, TriggerSettings, WORKERS_MAX, Workers,
    headroom_default, interface, timeouts, value,
};
use crate::api::socket::reading_path;

/// Most connections that can be configured: entry indices are 32-bit, and this is 30 GiB.
const CAPACITY_MAX: i64 = 160_000_000;
/// Longest path a Unix socket can have: `sockaddr_un.sun_path` with its final zero.
const SOCKET_PATH_MAX: usize = 107;

/// Reads everything there is; what is faulty has its default, or is left out.
pub(super) fn read(file: &Path, table: &Table, faults: &Faults<'_>) -> Settings {
    let start = At(Position { line: 1, column: 1 });
    let mut top = Section::new(table, faults, "", start);
    let mut places = Places::default();

    let workers = workers(&mut top, &mut places);
    let control = absolute(&mut top, "control", CONTROL_DEFAULT);
    let control_read_group = group(&mut top, "control_read_group");
    // The socket for readers has the longer name.
    let longest = match control_read_group {
        Some(_) => reading_path(&control.value),
        None => control.value.clone(),
    };
    if longest.as_os_str().len() > SOCKET_PATH_MAX {
        let message = format!(
            "`control` is longer than the {SOCKET_PATH_MAX} bytes a socket's path can have"
        );
        faults.push(control.at, message);
    }
    let run_dir = absolute(&mut top, "run_dir", RUN_DIR_DEFAULT).value;
    let rules = rules_file(&mut top, file, "rules", &mut places.rules);
    let rules6 = rules_file(&mut top, file, "rules6", &mut places.rules6);
    let idle = idle(&mut top);
    let frames = top.integer("frames", 1_024..=1_048_576).map(|f| f.value as u32);
    let interfaces = interface::read_all(&mut top);
    let conntrack = top.section("conntrack").map_or_else(ConntrackSettings::default, conntrack);
    let tcp = TcpPolicy { loose: conntrack.loose, liberal: conntrack.liberal };
    let timeouts = top.section("timeouts");
    let (timeouts, timeout_policies) =
        timeouts.map_or_else(Default::default, |section| timeouts::read(section, tcp));
    let limits = top.section("limits").map_or_else(LimitSettings::default, limits);
    let forwards = forwards(&mut top, &interfaces);
    let triggers = triggers(&mut top, &interfaces);
    top.finish();

    let file = file.to_owned();
    Settings {
        file,
        workers,
        control: control.value,
        control_read_group,
        run_dir,
        rules,
        rules6,
        idle,
        frames,
        interfaces,
        conntrack,
        timeouts,
        timeout_policies,
        limits,
        forwards,
        triggers,
        places,
    }
}

fn workers(top: &mut Section<'_>, places: &mut Places) -> Workers {
    let Some(item) = top.item("workers") else { return Workers::Auto };
    places.workers = Some(item.at);
    let faults = top.faults();
    if let Some(count) = item.value.as_integer() {
        let placed = Placed { value: count, at: item.at };
        let count = top.within("workers", placed, 1..=WORKERS_MAX as i64);
        return count.map_or(Workers::Auto, |c| Workers::Count(c.value as u8));
    }
    let Some(list) = item.value.as_array() else {
        let message =
            format!("`workers` must be a number or a list of cores, not {}", kind(item.value));
        faults.push(item.at, message);
        return Workers::Auto;
    };
    let mut cores = Vec::new();
    for value in list {
        let at = faults.at(value.span());
        let Some(core) = value.as_integer() else {
            faults.push(at, format!("a core is a whole number, not {}", kind_of_value(value)));
            continue;
        };
        match u16::try_from(core) {
            Ok(core) if cores.contains(&core) => {
                faults.push(at, format!("core {core} is named twice"))
            }
            Ok(core) => cores.push(core),
            Err(_) => faults.push(at, format!("{core} is not a core")),
        }
    }
    if list.is_empty() {
        faults.push(item.at, "`workers` names no core");
    } else if list.len() > WORKERS_MAX {
        let message =
            format!("`workers` names {} cores; at most {WORKERS_MAX} are possible", list.len());
        faults.push(item.at, message);
    }
    if cores.is_empty() || cores.len() > WORKERS_MAX {
        Workers::Auto
    } else {
        Workers::Cores(cores)
    }
}

fn absolute(top: &mut Section<'_>, key: &'static str, default: &str) -> Placed<PathBuf> {
    let Some(Placed { value, at }) = top.string(key) else {
        return Placed { value: default.into(), at: top.at() };
    };
    if !value.starts_with('/') || value.contains('\0') {
        top.faults().push(
            at,
            format!("`{key}` must be an absolute path, not \"{}\"", value.escape_debug()),
        );
    }
    Placed { value: value.into(), at }
}

/// The name of a group. Whether there is one is looked at at the start, when it may not be known yet.
fn group(top: &mut Section<'_>, key: &'static str) -> Option<String> {
    let Placed { value, at } = top.string(key)?;
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':')
    {
        top.faults().push(at, format!("`{key}` must be the name of a group"));
        return None;
    }
    Some(value.to_owned())
}

fn rules_file(
    top: &mut Section<'_>,
    file: &Path,
    key: &'static str,
    place: &mut Option<At>,
) -> Option<PathBuf> {
    let Placed { value, at } = top.string(key)?;
    if value.is_empty() || value.contains('\0') {
        top.faults().push(at, format!("`{key}` must be the path of a file"));
        return None;
    }
    *place = Some(at);
    Some(file.parent().unwrap_or(Path::new("")).join(value))
}

fn idle(top: &mut Section<'_>) -> Option<Idle> {
    let Placed { value: text, at } = top.string("idle")?;
    if text == "spin" {
        return Some(Idle::Spin);
    }
    match value::duration(text) {
        Ok(after) if (Duration::from_micros(1)..=Duration::from_secs(10)).contains(&after) => {
            Some(Idle::SleepAfter(after))
        }
        Ok(_) => {
            top.faults().push(at, "`idle` must be \"spin\" or 1us to 10s");
            None
        }
        Err(_) => {
            let message = format!(
                "`idle` must be \"spin\" or a duration such as \"50us\", not \"{}\"",
                text.escape_debug()
            );
            top.faults().push_hint(at, message, did_you_mean(text, ["spin"]));
            None
        }
    }
}

fn conntrack(mut section: Section<'_>) -> ConntrackSettings {
    let mut out = ConntrackSettings::default();
    if let Some(capacity) = section.integer("capacity", 1..=CAPACITY_MAX) {
        out.capacity = capacity.value as u32;
        out.capacity6 = (out.capacity / 4).max(1);
    }
    if let Some(capacity) = section.integer("capacity6", 1..=CAPACITY_MAX) {
        out.capacity6 = capacity.value as u32;
    }
    out.headroom = headroom_default(out.capacity);
    if let Some(headroom) = section.integer("headroom", 0..=i64::from((out.capacity - 1) / 2)) {
        out.headroom = headroom.value as u32;
    }
    let start = section.integer("adaptive_start", 0..=100);
    let end = section.integer("adaptive_end", 1..=1_000);
    let (default_start, default_end) = ADAPTIVE_DEFAULT;
    let percent = |given: Option<Placed<i64>>, default| given.map_or(default, |g| g.value as u16);
    out.adaptive = (percent(start, default_start), percent(end, default_end));
    if let Some(given) = end.or(start)
        && out.adaptive.0 >= out.adaptive.1
    {
        section.faults().push(given.at, "`adaptive_end` must be more than `adaptive_start`");
        out.adaptive = ADAPTIVE_DEFAULT;
    }
    let switches = [
        ("loose", &mut out.loose),
        ("liberal", &mut out.liberal),
        ("checksum", &mut out.checksum),
        ("accounting", &mut out.accounting),
    ];
    for (key, switch) in switches {
        if let Some(given) = section.boolean(key) {
            *switch = given.value;
        }
    }
    for helper in section.strings("helpers") {
        match Helper::from_name(helper.value) {
            Some(kind) => out.helpers = out.helpers.with(kind),
            None => {
                let names = Helper::ALL.map(Helper::name);
                let message = format!(
                    "there is no helper \"{}\"; there are {}",
                    helper.value.escape_debug(),
                    names.join(", ")
                );
                section.faults().push_hint(helper.at, message, did_you_mean(helper.value, names));
            }
        }
    }
    if let Some(given) = section.ports("sip_ports", SIP_PORTS_MAX) {
        out.helpers = out.helpers.with_sip_ports(&given);
    }
    if let Some(Placed { value: text, at }) = section.string("hash_key") {
        out.hash_key = hash_key(text);
        if out.hash_key.is_none() {
            section.faults().push(at, "`hash_key` must be 32 hexadecimal digits");
        }
    }
    section.finish();
    out
}

/// 32 hexadecimal digits: the key's two words, most significant digit first.
fn hash_key(text: &str) -> Option<SipKey> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let word = |digits| u64::from_str_radix(digits, 16).ok();
    Some(SipKey([word(&text[..16])?, word(&text[16..])?]))
}

/// Of an IPv6 source, the network counts: a host has all addresses of it to choose from (RFC 6177, RFC 8981).
const SOURCE6: u8 = 64;

fn limits(mut section: Section<'_>) -> LimitSettings {
    let at = section.at();
    let most = section.integer("connections_per_source", 1..=CAPACITY_MAX);
    let length = section.integer("source_prefix", 8..=32);
    let length6 = section.integer("source_prefix6", 16..=128);
    let faults = section.faults();
    section.finish();
    if most.is_none() && (length.is_some() || length6.is_some()) {
        faults.push(at, "there is a prefix and no `connections_per_source` to go with it");
    }
    let lengths = [
        length.map_or(32, |length| length.value as u8),
        length6.map_or(SOURCE6, |length| length.value as u8),
    ];
    let per_source = most.map(|most| PerSource { most: most.value as u32, lengths });
    LimitSettings { per_source }
}

fn forwards(top: &mut Section<'_>, interfaces: &[InterfaceSettings]) -> Vec<ForwardSettings> {
    let mut all: Vec<ForwardSettings> = Vec::new();
    for section in top.sections("forward") {
        let faults = section.faults();
        let Some(forward) = forward(section, interfaces) else { continue };
        for other in &all {
            let line = other.at.0.line;
            if forward.spec.overlaps(&other.spec) {
                let overlap = ForwardError::Overlap(other.spec.to_string());
                let message =
                    format!("the forward of line {} {overlap} of line {line}", forward.at.0.line);
                faults.push(forward.at, message);
            }
            if forward.id.is_some() && forward.id == other.id {
                faults.push(forward.at, format!("the forward of line {line} has the same `id`"));
            }
        }
        all.push(forward);
    }
    all
}

fn forward(mut section: Section<'_>, interfaces: &[InterfaceSettings]) -> Option<ForwardSettings> {
    let faults = section.faults();
    let at = section.at();
    let interface = section.string("interface");
    let interface = section.require(interface, "interface", "interface = \"wan\"");
    let protocol = section.string("protocol");
    let protocol = section.require(protocol, "protocol", "protocol = \"tcp\"");
    let port = port(&mut section, "port", "port = 8080");
    let to = section.string("to");
    let to = section.require(to, "to", "to = \"192.168.1.10:80\"");
    let id = section.string("id");
    if let Some(id) = id
        && (id.value.is_empty()
            || id.value.len() > 64
            || !id.value.bytes().all(|b| b.is_ascii_graphic()))
    {
        faults.push(id.at, "`id` must be 1 to 64 printable characters without spaces");
    }
    let comment = section.string("comment");
    section.finish();

    check_interface(faults, interface, interfaces);
    let protocol = protocol.and_then(|p| noted(faults, p.at, p.value.parse()));
    let ports = port.and_then(|p| noted(faults, p.at, p.value.parse()));
    let target = to.and_then(|t| noted(faults, t.at, t.value.parse()));
    let to_at = to.map_or(at, |t| t.at);
    let spec = ForwardSpec::new(interface?.value, protocol?, ports?, target?);
    let spec = noted(faults, to_at, spec)?;
    match spec.check_interface(interfaces) {
        Err(ForwardError::UnknownInterface(_)) | Ok(()) => {}
        Err(error) => faults.push(to_at, error.to_string()),
    }
    let text = |t: Option<Placed<&str>>| t.map(|t| t.value.to_owned());
    Some(ForwardSettings { spec, id: text(id), comment: text(comment), at })
}

/// A fault if an interface is named that does not exist.
fn check_interface(faults: &Faults, named: Option<Placed<&str>>, interfaces: &[InterfaceSettings]) {
    if let Some(given) = named
        && !interfaces.iter().any(|i| i.name == given.value)
    {
        let names = interfaces.iter().map(|i| i.name.as_str());
        let message = format!("there is no interface `{}`", given.value.escape_debug());
        faults.push_hint(given.at, message, did_you_mean(given.value, names));
    }
}

fn triggers(top: &mut Section<'_>, interfaces: &[InterfaceSettings]) -> Vec<TriggerSettings> {
    let mut all: Vec<TriggerSettings> = Vec::new();
    for section in top.sections("trigger") {
        let faults = section.faults();
        let Some(trigger) = trigger(section, interfaces) else { continue };
        for other in &all {
            if trigger.spec.overlaps(&other.spec) {
                let message =
                    format!("opens ports that the trigger of line {} opens", other.at.0.line);
                faults.push(trigger.at, message);
            }
        }
        if all.len() == TRIGGERS_MAX {
            faults.push(trigger.at, format!("there are at most {TRIGGERS_MAX} triggers"));
        }
        all.push(trigger);
    }
    all
}

fn trigger(mut section: Section<'_>, interfaces: &[InterfaceSettings]) -> Option<TriggerSettings> {
    let faults = section.faults();
    let at = section.at();
    let interface = section.string("interface");
    let interface = section.require(interface, "interface", "interface = \"wan\"");
    let protocol = section.string("protocol");
    let protocol = section.require(protocol, "protocol", "protocol = \"udp\"");
    let outbound = port(&mut section, "outbound", "outbound = 6112");
    let inbound = port(&mut section, "inbound", "inbound = \"6113-6115\"");
    let timeout = section.duration("timeout", TRIGGER_TIMEOUTS);
    section.finish();

    check_interface(faults, interface, interfaces);
    let protocol = protocol.and_then(|p| noted(faults, p.at, p.value.parse()));
    let ports = |p: Placed<String>| noted(faults, p.at, p.value.parse());
    let spec = TriggerSpec {
        interface: interface?.value.to_owned(),
        protocol: protocol?,
        outbound: outbound.and_then(ports)?,
        inbound: inbound.and_then(ports)?,
        timeout: timeout.map_or(TRIGGER_TIMEOUT, |t| t.value),
    };
    Some(TriggerSettings { spec, at })
}

/// `port = 8080` or `port = "8000-8010"`, as text.
fn port(
    section: &mut Section<'_>,
    key: &'static str,
    example: &'static str,
) -> Option<Placed<String>> {
    let Some(item) = section.item(key) else {
        return section.require(None, key, example);
    };
    let text = match (item.value.as_integer(), item.value.as_str()) {
        (Some(port), _) => port.to_string(),
        (_, Some(text)) => text.to_owned(),
        _ => {
            let message = format!(
                "`{key}` must be a number or a range such as \"8000-8010\", not {}",
                kind(item.value)
            );
            section.faults().push(item.at, message);
            return None;
        }
    };
    Some(Placed { value: text, at: item.at })
}

/// The value, or its error noted as a fault.
fn noted<T>(faults: &Faults<'_>, at: At, result: Result<T, ForwardError>) -> Option<T> {
    result.map_err(|error| faults.push(at, error.to_string())).ok()
}
