//! Rows by ifindex -> the state by interface. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use postern_core::forward::route::{Prefix, Route, RouteKind};
use postern_core::units::{InterfaceId, Mac};

use super::decode::{LinkRow, RouteRow, Upper};
use super::follow::Rows;
use super::{KernelState, Link};

/// Devices can sit on devices; nobody has more floors than this.
const FLOORS_MAX: usize = 8;

/// The TAP below a device and whether everything between is plain; the device itself if it is one.
fn below<'r>(
    row: &'r LinkRow,
    links: &'r [LinkRow],
    names: &[String],
) -> Option<(InterfaceId, bool)> {
    let (mut row, mut plain) = (row, true);
    for _ in 0..FLOORS_MAX {
        if let Some(index) = names.iter().position(|name| *name == row.name) {
            return Some((InterfaceId(index as u8), plain));
        }
        let (lower, upper) = row.lower?;
        plain &= upper == Upper::Plain;
        row = links.iter().find(|l| l.ifindex == lower)?;
    }
    None
}

/// The interface each device's frames leave by: the TAPs, and what sits plainly on them.
pub(super) fn interfaces(links: &[LinkRow], names: &[String]) -> BTreeMap<u32, InterfaceId> {
    let plain = |row: &LinkRow| {
        let (id, plain) = below(row, links, names)?;
        plain.then_some((row.ifindex, id))
    };
    links.iter().filter_map(plain).collect()
}

/// The state by interface. `warn` is told what is not followed.
pub(super) fn state(rows: &Rows, names: &[String], warn: &mut impl FnMut(String)) -> KernelState {
    let links = names.iter().map(|name| link(name, rows, names)).collect();
    let addresses =
        (0..names.len()).map(|i| addresses(InterfaceId(i as u8), rows, names)).collect();
    let routes = rows.routes.iter().filter_map(|row| route(row, rows, warn)).collect();
    KernelState { links, addresses, routes }
}

fn link(name: &str, rows: &Rows, names: &[String]) -> Option<Link> {
    let tap = rows.links.iter().find(|l| l.name == name)?;
    let id = *rows.interfaces.get(&tap.ifindex)?;
    let own = tap.mac.unwrap_or_default();
    let mut upper_macs: Vec<Mac> = rows
        .links
        .iter()
        .filter(|l| below(l, &rows.links, names).is_some_and(|(at, _)| at == id))
        .filter_map(|l| l.mac)
        .filter(|mac| *mac != own)
        .collect();
    upper_macs.sort_unstable();
    upper_macs.dedup();
    Some(Link {
        ifindex: tap.ifindex,
        mac: own,
        mtu: tap.mtu,
        up: tap.up,
        carrier: tap.carrier,
        promiscuous: tap.promiscuous,
        upper_macs,
    })
}

fn addresses(
    id: InterfaceId,
    rows: &Rows,
    names: &[String],
) -> Vec<postern_core::snapshot::InterfaceAddress> {
    let is_tap =
        |ifindex| rows.links.iter().any(|l| l.ifindex == ifindex && l.name == names[id.index()]);
    let mut of_interface: Vec<_> = rows
        .addresses
        .iter()
        .filter(|row| !row.duplicate && rows.interfaces.get(&row.ifindex) == Some(&id))
        .collect();
    of_interface.sort_by_key(|row| (!is_tap(row.ifindex), row.deprecated));
    let mut out = Vec::with_capacity(of_interface.len());
    for row in of_interface {
        if !out.contains(&row.address) {
            out.push(row.address);
        }
    }
    out
}

fn route(row: &RouteRow, rows: &Rows, warn: &mut impl FnMut(String)) -> Option<Prefix> {
    if row.partial {
        warn("routes for one type of service or one source are not followed".to_owned());
        return None;
    }
    let metric = if row.local_table { 0 } else { row.metric.saturating_add(1) };
    let prefix = |egress, gateway| {
        let mtu = row.mtu.min(u32::from(u16::MAX)) as u16;
        let route = Route { kind: row.kind, egress, gateway, mtu };
        Some(Prefix { address: row.address, length: row.length, metric, route })
    };
    let interface = |ifindex| rows.interfaces.get(&ifindex).copied();
    if row.kind != RouteKind::Unicast {
        let egress = row.hops.first().and_then(|hop| interface(hop.ifindex));
        return prefix(egress.unwrap_or(InterfaceId::NONE), None);
    }
    if row.hops.len() > 1 {
        warn("multipath routes are followed by their first next hop only".to_owned());
    }
    if row.hops.is_empty() {
        if row.object {
            warn("next hop objects are not followed (net.ipv4.nexthop_compat_mode=1 spells them out)".to_owned());
        }
        return None;
    }
    if row.hops.iter().any(|hop| hop.foreign) {
        warn("routes whose gateway is of the other family are not followed".to_owned());
    }
    let usable = |hop: &&super::decode::Hop| !hop.dead && !hop.foreign;
    // The first that leads out of an interface of ours, else any: it then leads nowhere we forward to.
    let mut hops = row.hops.iter().filter(usable);
    let hop = hops.clone().find(|hop| interface(hop.ifindex).is_some()).or_else(|| hops.next())?;
    let gateway = hop.gateway.filter(|g: &IpAddr| !g.is_unspecified());
    prefix(interface(hop.ifindex).unwrap_or(InterfaceId::NONE), gateway)
}

#[cfg(test)]
mod tests {
    use super::super::decode::{AddressRow, Hop};
    use super::*;
    use postern_core::snapshot::InterfaceAddress;

    fn device(ifindex: u32, name: &str, lower: Option<(u32, Upper)>) -> LinkRow {
        LinkRow {
            ifindex,
            name: name.to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, ifindex as u8])),
            mtu: 1500,
            up: true,
            carrier: true,
            promiscuous: false,
            lower,
        }
    }

    fn address(ifindex: u32, address: &str, deprecated: bool) -> AddressRow {
        let (address, length) = address.split_once('/').unwrap();
        let address =
            InterfaceAddress { address: address.parse().unwrap(), length: length.parse().unwrap() };
        AddressRow { ifindex, address, deprecated, duplicate: false, ours: false }
    }

    fn names() -> Vec<String> {
        vec!["lan".to_owned(), "wan".to_owned()]
    }

    /// lan is 5, wan is 7 with a macvlan 8 on it and a VLAN 9, which has a macvlan 10.
    fn rows() -> Rows {
        let links = vec![
            device(5, "lan", None),
            device(10, "on-vlan", Some((9, Upper::Plain))),
            device(7, "wan", None),
            device(8, "vrrp", Some((7, Upper::Plain))),
            device(9, "wan.5", Some((7, Upper::Tagged))),
            device(11, "other", None),
            device(12, "on-other", Some((11, Upper::Plain))),
        ];
        let interfaces = interfaces(&links, &names());
        Rows { links, interfaces, ..Rows::default() }
    }

    fn row(kind: RouteKind, hops: &[(u32, Option<&str>)]) -> RouteRow {
        let hop = |(ifindex, gateway): &(u32, Option<&str>)| Hop {
            ifindex: *ifindex,
            gateway: gateway.map(|g| g.parse().unwrap()),
            foreign: false,
            dead: false,
        };
        RouteRow {
            local_table: false,
            address: "10.0.0.0".parse().unwrap(),
            length: 8,
            metric: 100,
            kind,
            mtu: 0,
            hops: hops.iter().map(hop).collect(),
            object: false,
            partial: false,
            ours: false,
        }
    }

    #[test]
    fn devices_on_a_tap_lend_it_their_macs_and_plain_ones_their_addresses() {
        let mut rows = rows();
        assert_eq!(
            rows.interfaces,
            [(5, InterfaceId(0)), (7, InterfaceId(1)), (8, InterfaceId(1))].into()
        );
        rows.addresses = vec![
            address(8, "192.0.2.9/24", false),
            address(7, "2001:db8::1/64", true),
            address(7, "192.0.2.1/24", false),
            address(9, "198.51.100.1/24", false),
            address(11, "203.0.113.1/24", false),
        ];
        let state = state(&rows, &names(), &mut |w| panic!("{w}"));
        let macs: Vec<u8> =
            state.links[1].as_ref().unwrap().upper_macs.iter().map(|m| m.0[5]).collect();
        assert_eq!(macs, [8, 9, 10]);
        let wan: Vec<_> = state.addresses[1].iter().map(|a| a.address.to_string()).collect();
        assert_eq!(wan, ["192.0.2.1", "2001:db8::1", "192.0.2.9"]);
        assert!(state.addresses[0].is_empty());
    }

    #[test]
    fn an_absent_tap_has_no_link() {
        let mut rows = rows();
        rows.links.retain(|l| l.name != "wan");
        rows.interfaces = interfaces(&rows.links, &names());
        let state = state(&rows, &names(), &mut |_| {});
        assert!(state.links[0].is_some() && state.links[1].is_none());
    }

    #[test]
    fn routes_lead_out_of_interfaces() {
        let mut warned = Vec::new();
        let mut one = |row: &RouteRow| route(row, &rows(), &mut |w| warned.push(w));
        let plain = one(&row(RouteKind::Unicast, &[(8, Some("10.9.9.9"))])).unwrap();
        assert_eq!((plain.route.egress, plain.metric), (InterfaceId(1), 101));
        assert_eq!(plain.route.gateway, Some("10.9.9.9".parse().unwrap()));
        let tagged = one(&row(RouteKind::Unicast, &[(9, None)])).unwrap();
        assert_eq!(tagged.route.egress, InterfaceId::NONE);
        let refusing = one(&row(RouteKind::Prohibit, &[])).unwrap();
        assert_eq!(
            (refusing.route.kind, refusing.route.egress),
            (RouteKind::Prohibit, InterfaceId::NONE)
        );
        let local = RouteRow { local_table: true, ..row(RouteKind::Local, &[(1, None)]) };
        assert_eq!(one(&local).unwrap().metric, 0);

        let many =
            one(&row(RouteKind::Unicast, &[(11, Some("1.1.1.1")), (5, Some("2.2.2.2"))])).unwrap();
        assert_eq!(
            (many.route.egress, many.route.gateway),
            (InterfaceId(0), Some("2.2.2.2".parse().unwrap()))
        );
        assert!(one(&RouteRow { object: true, ..row(RouteKind::Unicast, &[]) }).is_none());
        let mut foreign = row(RouteKind::Unicast, &[(5, None)]);
        foreign.hops[0].foreign = true;
        assert!(one(&foreign).is_none());
        assert!(
            one(&RouteRow { partial: true, ..row(RouteKind::Unicast, &[(5, None)]) }).is_none()
        );
        let mut dead = row(RouteKind::Unicast, &[(5, None)]);
        dead.hops[0].dead = true;
        assert!(one(&dead).is_none());
        assert_eq!(warned.len(), 4, "{warned:#?}");
    }
}
