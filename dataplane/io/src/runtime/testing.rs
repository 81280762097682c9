//! A small appliance for tests and benchmarks: a LAN, a WAN behind masquerade, everything accepted.
//!
//! LAN is 192.168.1.0/24 with the appliance at .1; WAN is 203.0.113.0/24 with the appliance at .2 and a
//! gateway at .1 that the default route leads to. Hosts .10 to .250 of the LAN and the gateway are known
//! neighbours; [`STRANGER`] is not.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use arrayvec::ArrayVec;
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::timeouts::Timeouts;
use postern_core::forward::neighbour::{Neighbour, NeighbourState, Neighbours};
use postern_core::forward::route::{Prefix, Route, RouteKind, Routes};
use postern_core::nat::NatRules;
use postern_core::pipeline::{Limits, Pipeline};
use postern_core::rules::Policy;
use postern_core::rules::model::Tables;
use postern_core::snapshot::{
    Interface, InterfaceAddress, Interfaces, Options, ReversePath, Snapshot,
};
use postern_core::steering::{Inputs, Steering};
use postern_core::time::Instant;
use postern_core::units::{Generation, InterfaceId, Mac, Stamps};

use crate::memory::SharedMemory;

/// The inside.
pub const LAN: InterfaceId = InterfaceId(0);
/// The outside.
pub const WAN: InterfaceId = InterfaceId(1);
/// The appliance's MAC on each.
pub const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
/// The MAC of every host inside, and of the gateway.
pub const PEER: Mac = Mac([2, 0, 0, 0, 1, 0]);
/// The appliance inside.
pub const LAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The appliance outside.
pub const WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The way to everywhere else.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A host outside, on the link, whose MAC is not known.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);

const KEY: SipKey = SipKey([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

/// A snapshot of that appliance.
///
/// # Panics
/// If there cannot be that number of workers.
pub fn snapshot(workers: u8) -> Snapshot {
    let lan = InterfaceAddress { address: LAN_ADDRESS.into(), length: 24 };
    let wan = InterfaceAddress { address: WAN_ADDRESS.into(), length: 24 };
    let interface = |id: InterfaceId, address, masquerade| Interface {
        mac: MACS[id.index()],
        other_macs: Box::new([]),
        promiscuous: false,
        mtu: 1500,
        up: true,
        masquerade,
        independent: None,
        clamp_mss: None,
        dhcp: false,
        reverse_path: ReversePath::Strict,
        zone: 0,
        addresses: Box::new([address]),
    };
    let link = |address: Ipv4Addr, length, egress, gateway: Option<Ipv4Addr>| Prefix {
        address: address.into(),
        length,
        metric: 0,
        route: Route { kind: RouteKind::Unicast, egress, gateway: gateway.map(IpAddr::V4), mtu: 0 },
    };
    let routes = Routes::compile(&[
        link(Ipv4Addr::new(192, 168, 1, 0), 24, LAN, None),
        link(Ipv4Addr::new(203, 0, 113, 0), 24, WAN, None),
        link(Ipv4Addr::UNSPECIFIED, 0, WAN, Some(GATEWAY)),
    ]);
    let neighbours = Neighbours::new(1024);
    let known = Neighbour { mac: PEER, state: NeighbourState::Reachable };
    neighbours.set(WAN, GATEWAY.into(), known).expect("room");
    for host in 10..=250 {
        let address = Ipv4Addr::new(192, 168, 1, host);
        neighbours.set(LAN, address.into(), known).expect("room");
    }
    let steering = Steering::new(Inputs {
        workers,
        key: KEY,
        ours: vec![LAN_ADDRESS.into(), WAN_ADDRESS.into()],
        statics: Vec::new(),
        inside: vec![lan],
    });
    let interfaces = [interface(LAN, lan, false), interface(WAN, wan, true)];
    Snapshot {
        generation: Generation(1),
        stamps: Stamps::FIRST,
        reviews: 0,
        timeout_changes: 0,
        interfaces: Arc::new(Interfaces(Box::new(interfaces))),
        policy: Arc::new(
            Policy::compile(&Tables::default(), workers.into()).expect("no rules, no faults"),
        ),
        nat: Arc::new(NatRules::default()),
        steering: Arc::new(steering),
        older_steering: ArrayVec::new(),
        routes: Arc::new(routes),
        neighbours: Arc::new(neighbours),
        triggers: Arc::default(),
        expectations: Arc::default(),
        mappings: Arc::default(),
        timeouts: Arc::new(Timeouts::rfc()),
        timeout_policies: Arc::default(),
        options: Options::default(),
    }
}

/// Tables for `connections` IPv4 connections, in memory that is never given back.
///
/// # Panics
/// If there is no memory.
pub fn pipeline(connections: u32, now: Instant) -> Pipeline<'static> {
    let limits = Limits { connections_v4: connections, connections_v6: 64 };
    let memory = limits.bytes().map(|bytes| {
        SharedMemory::new("postern-test-table", bytes).expect("memory for the tables").leak().0
    });
    Pipeline::new(limits, memory, KEY, KEY, now)
}

/// A UDP datagram to `interface` with `payload`, without a UDP checksum.
pub fn udp(
    interface: InterfaceId,
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(42 + payload.len());
    packet.extend(MACS[interface.index()].0);
    packet.extend(PEER.0);
    packet.extend([0x08, 0x00]);
    let ip_len = 28 + payload.len() as u16;
    packet.extend([0x45, 0]);
    packet.extend(ip_len.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let checksum = header_checksum(&packet[14..34]);
    packet[24..26].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// An ARP request from a host on `interface` for the appliance's address there.
pub fn arp_request(interface: InterfaceId, from: Ipv4Addr) -> Vec<u8> {
    let target = [LAN_ADDRESS, WAN_ADDRESS][interface.index()];
    let mut packet = vec![0xff; 6];
    packet.extend(PEER.0);
    packet.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    packet.extend(PEER.0);
    packet.extend(from.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

/// Source, destination and payload of a UDP datagram in IPv4.
///
/// # Panics
/// If it is none.
pub fn read_udp(packet: &[u8]) -> (SocketAddrV4, SocketAddrV4, &[u8]) {
    assert_eq!((&packet[12..14], packet[14], packet[23]), (&[0x08, 0x00][..], 0x45, 17));
    assert_eq!(header_checksum(&packet[14..34]), 0, "a wrong IPv4 header checksum");
    let endpoint = |address: usize, port: usize| {
        let address: [u8; 4] = packet[address..address + 4].try_into().expect("four bytes");
        let port: [u8; 2] = packet[port..port + 2].try_into().expect("two bytes");
        SocketAddrV4::new(address.into(), u16::from_be_bytes(port))
    };
    (endpoint(26, 34), endpoint(30, 36), &packet[42..])
}

/// RFC 791 §3.1; zero over a header whose checksum is right.
fn header_checksum(header: &[u8]) -> u16 {
    let sum: u32 =
        header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
