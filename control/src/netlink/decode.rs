//! rtnetlink messages -> rows of what we need of them, still by ifindex.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteProtocol, RouteType,
};
use postern_core::forward::NeighbourState;
use postern_core::forward::route::RouteKind;
use postern_core::snapshot::InterfaceAddress;
use postern_core::units::Mac;

use super::OURS;

/// How a device sits on another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Upper {
    /// Its frames leave by the lower device as they are: macvlan, ipvlan.
    Plain,
    /// Its frames are changed on the way: VLAN.
    Tagged,
}

/// A device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinkRow {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) carrier: bool,
    pub(super) promiscuous: bool,
    /// The device it sits on, in this namespace, and how.
    pub(super) lower: Option<(u32, Upper)>,
}

pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

pub(super) fn link(message: LinkMessage) -> LinkRow {
    let flags = message.header.flags;
    let mut row = LinkRow {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        promiscuous: flags.contains(LinkFlags::Promisc),
        lower: None,
    };
    let (mut lower, mut upper, mut elsewhere) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => row.name = name,
            LinkAttribute::Address(bytes) => row.mac = mac(&bytes),
            LinkAttribute::Mtu(mtu) => row.mtu = mtu,
            LinkAttribute::Promiscuity(count) => row.promiscuous |= count > 0,
            LinkAttribute::Link(ifindex) => lower = Some(ifindex),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => upper = infos.iter().find_map(upper_kind),
            _ => {}
        }
    }
    if !elsewhere {
        row.lower = lower.zip(upper);
    }
    row
}

/// IFLA_LINK means other things for other kinds: a veth's is its peer.
fn upper_kind(info: &LinkInfo) -> Option<Upper> {
    match info {
        LinkInfo::Kind(
            InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap,
        ) => Some(Upper::Plain),
        LinkInfo::Kind(InfoKind::Vlan) => Some(Upper::Tagged),
        _ => None,
    }
}

/// An address of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AddressRow {
    pub(super) ifindex: u32,
    pub(super) address: InterfaceAddress,
    pub(super) deprecated: bool,
    /// Duplicate address detection found another host with it.
    pub(super) duplicate: bool,
    /// We added it.
    pub(super) ours: bool,
}

pub(super) fn address(message: AddressMessage) -> Option<AddressRow> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut address, mut local, mut ours) = (None, None, false);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(a) => address = Some(a),
            AddressAttribute::Local(a) => local = Some(a),
            AddressAttribute::Flags(f) => flags |= f,
            AddressAttribute::Protocol(p) => ours = p == AddressProtocol::Other(OURS),
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's where there is one; the prefix is then the peer's network.
    let peer = local.is_some() && address.is_some() && local != address;
    let address = local.or(address)?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let length = if peer { whole } else { message.header.prefix_len.min(whole) };
    Some(AddressRow {
        ifindex: message.header.index,
        address: InterfaceAddress { address, length },
        deprecated: flags.contains(AddressFlags::Deprecated),
        duplicate: flags.contains(AddressFlags::Dadfailed),
        ours,
    })
}

/// One way a route can lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hop {
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
    /// The gateway is of the other family (RTA_VIA).
    pub(super) foreign: bool,
    /// The kernel would not use it now.
    pub(super) dead: bool,
}

/// A route of table `local` or `main`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RouteRow {
    pub(super) local_table: bool,
    pub(super) address: IpAddr,
    pub(super) length: u8,
    pub(super) metric: u32,
    pub(super) kind: RouteKind,
    pub(super) mtu: u32,
    /// More than one for a multipath route; none for one that leads nowhere, or whose next hop object
    /// the kernel did not spell out.
    pub(super) hops: Vec<Hop>,
    /// It names a next hop object.
    pub(super) object: bool,
    /// It is for one type of service or one source only.
    pub(super) partial: bool,
    /// We added it.
    pub(super) ours: bool,
}

/// `None` for routes of other tables and kinds that forwarding has no use for.
pub(super) fn route(message: RouteMessage) -> Option<RouteRow> {
    let header = &message.header;
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::BlackHole => RouteKind::Blackhole,
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut table = u32::from(header.table);
    let mut row = RouteRow {
        local_table: false,
        address: any,
        length: header.destination_prefix_length,
        metric: 0,
        kind,
        mtu: 0,
        hops: Vec::new(),
        object: false,
        partial: header.tos != 0 || header.source_prefix_length != 0,
        ours: header.protocol == RouteProtocol::Other(OURS),
    };
    let dead = header.flags.contains(RouteFlags::Dead);
    let mut single = Hop { ifindex: 0, gateway: None, foreign: false, dead };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = t,
            RouteAttribute::Destination(a) => row.address = ip(&a)?,
            RouteAttribute::Priority(metric) => row.metric = metric,
            RouteAttribute::NhId(_) => row.object = true,
            RouteAttribute::Metrics(metrics) => {
                row.mtu = metrics.iter().find_map(route_mtu).unwrap_or(0);
            }
            RouteAttribute::MultiPath(hops) => {
                row.hops = hops
                    .iter()
                    .map(|hop| {
                        let mut out = Hop { ifindex: hop.interface_index, ..single };
                        out.dead |= hop.flags.contains(RouteNextHopFlags::Dead);
                        hop.attributes.iter().for_each(|a| hop_attribute(&mut out, a));
                        out
                    })
                    .collect();
            }
            other => hop_attribute(&mut single, &other),
        }
    }
    row.local_table = match table {
        255 => true,  // RT_TABLE_LOCAL
        254 => false, // RT_TABLE_MAIN
        _ => return None,
    };
    if row.hops.is_empty() && (single.ifindex != 0 || single.gateway.is_some()) {
        row.hops.push(single);
    }
    Some(row)
}

fn hop_attribute(hop: &mut Hop, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
        RouteAttribute::Gateway(address) => hop.gateway = ip(address),
        RouteAttribute::Via(_) => hop.foreign = true,
        _ => {}
    }
}

fn route_mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

/// A neighbour of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NeighbourRow {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    pub(super) state: NeighbourState,
}

/// `None` for what is no neighbour of IPv4 or IPv6 (bridge entries, proxies).
pub(super) fn neighbour(message: NeighbourMessage) -> Option<NeighbourRow> {
    let header = &message.header;
    if !matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                address = Some((*a).into())
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                address = Some((*a).into())
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            _ => {}
        }
    }
    let state = match (header.state, hardware) {
        (Nud::Failed, _) => NeighbourState::Failed,
        (Nud::Reachable | Nud::Permanent | Nud::Noarp, Some(_)) => NeighbourState::Reachable,
        (Nud::Stale | Nud::Delay | Nud::Probe, Some(_)) => NeighbourState::Stale,
        _ => NeighbourState::Incomplete,
    };
    let mac = hardware.unwrap_or_default();
    Some(NeighbourRow { ifindex: header.ifindex, address: address?, mac, state })
}
