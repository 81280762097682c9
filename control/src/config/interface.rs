//! `[interface.NAME]`.

use std::net::IpAddr;

use postern_core::rules::Independence;
use postern_core::snapshot::{ClampMss, InterfaceAddress, ReversePath};
use postern_core::units::INTERFACES_MAX;
use postern_io::frame::MTU_MAX;

use super::fault::{At, Faults};
use super::reader::{Placed, Section};
use super::{InterfaceSettings, XdpMode, value};

/// Reads all interfaces, in the order of the file.
pub(super) fn read_all(top: &mut Section<'_>) -> Vec<InterfaceSettings> {
    let faults = top.faults();
    let Some(section) = top.section("interface") else {
        let hint = "begin one with [interface.lan] and device = \"enp1s0\"".to_owned();
        if top.item("interface").is_none() {
            faults.push_hint(top.at(), "no interface is configured", Some(hint));
        }
        return Vec::new();
    };
    let named = section.named("interface");
    let mut all: Vec<(At, InterfaceSettings)> = Vec::new();
    let mut taken: Vec<(InterfaceAddress, String, At)> = Vec::new();
    for (index, (name, section)) in named.into_iter().enumerate() {
        if index == INTERFACES_MAX {
            faults.push(name.at, format!("more than {INTERFACES_MAX} interfaces are configured"));
        }
        if let Err(message) = value::device_name(name.value) {
            faults.push(name.at, message);
        }
        if let Some(interface) = read(name.value, section, &mut taken) {
            all.push((name.at, interface));
        }
    }
    devices_differ(&all, faults);
    all.into_iter().map(|(_, interface)| interface).collect()
}

/// No device is taken over twice, and no TAP has a device's name.
fn devices_differ(all: &[(At, InterfaceSettings)], faults: &Faults<'_>) {
    for (i, (at, interface)) in all.iter().enumerate() {
        let InterfaceSettings { name, device, .. } = interface;
        if let Some((_, first)) = all[..i].iter().find(|(_, other)| other.device == *device) {
            let line = first.device_at.0.line;
            let message =
                format!("device `{device}` is already that of `{}` in line {line}", first.name);
            faults.push(interface.device_at, message);
        }
        if let Some((_, other)) = all.iter().find(|(_, other)| other.device == *name) {
            let line = other.device_at.0.line;
            let message =
                format!("`{name}` cannot be an interface's name: it is the device in line {line}");
            let hint = "the name is given to a TAP of its own, beside the device".to_owned();
            faults.push_hint(*at, message, Some(hint));
        }
    }
}

fn read(
    name: &str,
    mut section: Section<'_>,
    taken: &mut Vec<(InterfaceAddress, String, At)>,
) -> Option<InterfaceSettings> {
    let faults = section.faults();
    let device = section.string("device");
    let device = section.require(device, "device", "device = \"enp1s0\"");
    let zone = section.string("zone");
    if let Some(zone) = zone
        && (zone.value.is_empty() || !zone.value.bytes().all(|b| b.is_ascii_graphic()))
    {
        faults.push(zone.at, "`zone` must be a word of printable characters");
    }
    let conntrack_zone = section.integer("conntrack_zone", 0..=i64::from(u16::MAX));
    let addresses = addresses(name, &mut section, taken);
    let has_v6 = addresses.iter().any(|a| a.address.is_ipv6());
    let gateways = gateways(&mut section, &addresses);
    let masquerade = section.boolean("masquerade").is_some_and(|m| m.value);
    let kinds = [("mapping", Independence::Mapping), ("filtering", Independence::Filtering)];
    let independent = section.word("endpoint_independent", &kinds);
    if let Some(independent) = &independent
        && !masquerade
    {
        let message = "`endpoint_independent` says how to masquerade, and this interface does not";
        let hint = "masquerade = true, or the option --endpoint-independent of a nat rule";
        faults.push_hint(independent.at, message, Some(hint.to_owned()));
    }
    let independent = independent.map(|independent| independent.value);
    let dhcp = section.boolean("dhcp").map_or(addresses.is_empty(), |d| d.value);
    let modes =
        [("strict", ReversePath::Strict), ("loose", ReversePath::Loose), ("off", ReversePath::Off)];
    let reverse_path = section.word("rp_filter", &modes).map_or(ReversePath::Strict, |r| r.value);
    let mtu = mtu(&mut section, has_v6);
    // RFC 9293 §3.7.1: 536 is what is sent to who announces nothing.
    let clamp_mss = section
        .word_or_integer("clamp_mss", &[("mtu", ClampMss::ToMtu)], 536..=9_000, |most| {
            ClampMss::To(most as u16)
        })
        .map(|clamp| clamp.value);
    let accept_ra = section.boolean("accept_ra").is_some_and(|a| a.value);
    let queues = section.integer("queues", 1..=256).map(|q| q.value as u16);
    let modes = [
        ("auto", XdpMode::Auto),
        ("copy", XdpMode::Copy),
        ("zerocopy", XdpMode::ZeroCopy),
        ("generic", XdpMode::Generic),
    ];
    let mode = section.word("mode", &modes).map_or(XdpMode::Auto, |m| m.value);
    let busy_poll = section.boolean("busy_poll").is_some_and(|b| b.value);
    let promiscuous = section.boolean("promiscuous").is_some_and(|p| p.value);
    section.finish();

    let device = device?;
    if let Err(message) = value::device_name(device.value) {
        faults.push(device.at, message);
    }
    Some(InterfaceSettings {
        name: name.to_owned(),
        device: device.value.to_owned(),
        zone: zone.map_or(name, |z| z.value).to_owned(),
        conntrack_zone: conntrack_zone.map_or(0, |z| z.value as u16),
        addresses,
        gateways,
        masquerade,
        independent,
        dhcp,
        reverse_path,
        mtu,
        clamp_mss,
        accept_ra,
        queues,
        mode,
        busy_poll,
        promiscuous,
        device_at: device.at,
    })
}

fn addresses(
    name: &str,
    section: &mut Section<'_>,
    taken: &mut Vec<(InterfaceAddress, String, At)>,
) -> Vec<InterfaceAddress> {
    let faults = section.faults();
    let mut out = Vec::new();
    for Placed { value: text, at } in section.strings("address") {
        let network = match value::interface_address(text) {
            Ok(network) => network,
            Err((message, hint)) => {
                faults.push_hint(at, message, hint);
                continue;
            }
        };
        let address = network.address;
        if let Some((_, other, first)) = taken.iter().find(|(n, ..)| n.address == address) {
            let line = first.0.line;
            faults
                .push(at, format!("`{address}` is already an address of `{other}` in line {line}"));
        }
        taken.push((network, name.to_owned(), at));
        out.push(network);
    }
    out
}

fn gateways(section: &mut Section<'_>, addresses: &[InterfaceAddress]) -> Vec<IpAddr> {
    let faults = section.faults();
    let mut out: Vec<IpAddr> = Vec::new();
    for Placed { value: text, at } in section.strings("gateway") {
        let Ok(gateway) = text.parse::<IpAddr>() else {
            let hint = text.contains('/').then(|| "a gateway has no prefix length".to_owned());
            let message = format!("`{}` is not an IPv4 or IPv6 address", text.escape_debug());
            faults.push_hint(at, message, hint);
            continue;
        };
        if let Err((message, hint)) = value::host_address(gateway) {
            faults.push_hint(at, message, hint);
            continue;
        }
        if !value::on_link(addresses, gateway) {
            let hint = addresses.is_empty().then(|| {
                "without `address` the network manager that owns the TAP sets the gateway"
                    .to_owned()
            });
            let message = format!("gateway `{gateway}` is in none of the interface's networks");
            faults.push_hint(at, message, hint);
        } else if addresses.iter().any(|a| a.address == gateway) {
            faults.push(at, format!("gateway `{gateway}` is the interface's own address"));
        }
        if out.iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            let family = if gateway.is_ipv4() { "IPv4" } else { "IPv6" };
            faults.push(at, format!("more than one {family} gateway"));
        }
        out.push(gateway);
    }
    out
}

fn mtu(section: &mut Section<'_>, has_v6: bool) -> Option<u16> {
    let Placed { value: mtu, at } = section.integer("mtu", 576..=i64::from(MTU_MAX))?;
    // RFC 8200 §5: every link that carries IPv6 has an MTU of 1280 or more.
    if has_v6 && mtu < 1_280 {
        section
            .faults()
            .push(at, format!("`mtu` must be at least 1280 where there is IPv6, not {mtu}"));
    }
    Some(mtu as u16)
}
