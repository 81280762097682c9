//! `[timeouts]`, and `[timeouts.policy.NAME]` in it.

use std::time::Duration;

use postern_core::conntrack::tcp::TcpPolicy;
use postern_core::conntrack::timeouts::{ROWS, TimeoutPolicy, TimeoutPolicyId, Timeouts};
use postern_core::time::TIMEOUT_MAX;

use super::TimeoutPolicySettings;
use super::fault::{At, Faults};
use super::reader::Section;

/// Most characters of a policy's name (as in nfnetlink_cttimeout).
const NAME_MAX: usize = 31;

/// The timeouts to start from.
#[derive(Clone, Copy)]
enum Profile {
    Rfc,
    Linux,
}

/// Reads the general timeouts, and the policies, which differ from them and from `tcp` in what they say.
pub(super) fn read(
    mut section: Section<'_>,
    tcp: TcpPolicy,
) -> (Timeouts, Vec<TimeoutPolicySettings>) {
    let profiles = [("rfc", Profile::Rfc), ("linux", Profile::Linux)];
    let mut general = match section.word("profile", &profiles).map(|p| p.value) {
        Some(Profile::Linux) => Timeouts::linux(),
        Some(Profile::Rfc) | None => Timeouts::rfc(),
    };
    values(&mut section, &mut general);
    let policies = section.section("policy");
    section.finish();
    let policies = policies.map_or(Vec::new(), |section| policies_of(section, &general, tcp));
    (general, policies)
}

fn values(section: &mut Section<'_>, out: &mut Timeouts) {
    for row in ROWS {
        if let Some(given) = section.duration(row.name, Duration::from_millis(1)..=TIMEOUT_MAX) {
            out.set(row.kind, given.value);
        }
    }
}

fn policies_of(
    section: Section<'_>,
    general: &Timeouts,
    tcp: TcpPolicy,
) -> Vec<TimeoutPolicySettings> {
    let faults = section.faults();
    let mut all: Vec<TimeoutPolicySettings> = Vec::new();
    for (index, (name, section)) in section.named("timeouts.policy").into_iter().enumerate() {
        if index == TimeoutPolicyId::MAX {
            let most = TimeoutPolicyId::MAX;
            faults.push(name.at, format!("more than {most} timeout policies are configured"));
        }
        let is_word = name.value.bytes().all(|b| b.is_ascii_graphic());
        if !is_word || name.value.is_empty() || name.value.len() > NAME_MAX {
            let message =
                format!("a timeout policy's name is a word of at most {NAME_MAX} characters");
            faults.push(name.at, message);
        }
        let (policy, zones) = policy(section, general, tcp);
        for &(zone, at) in &zones {
            zone_is_free(zone, at, &all, faults);
        }
        let zones = zones.into_iter().map(|(zone, _)| zone).collect();
        all.push(TimeoutPolicySettings { name: name.value.to_owned(), policy, zones });
    }
    all
}

fn policy(
    mut section: Section<'_>,
    general: &Timeouts,
    mut tcp: TcpPolicy,
) -> (TimeoutPolicy, Vec<(u16, At)>) {
    let mut timeouts = general.clone();
    values(&mut section, &mut timeouts);
    tcp.loose = section.boolean("loose").map_or(tcp.loose, |loose| loose.value);
    tcp.liberal = section.boolean("liberal").map_or(tcp.liberal, |liberal| liberal.value);
    let zones = section.integers("zones", 1..=i64::from(u16::MAX));
    let zones = zones.into_iter().map(|zone| (zone.value as u16, zone.at)).collect();
    section.finish();
    (TimeoutPolicy { timeouts, tcp }, zones)
}

/// No zone has two policies.
fn zone_is_free(zone: u16, at: At, others: &[TimeoutPolicySettings], faults: &Faults<'_>) {
    if let Some(other) = others.iter().find(|other| other.zones.contains(&zone)) {
        faults.push(at, format!("zone {zone} has the timeout policy `{}` already", other.name));
    }
}
