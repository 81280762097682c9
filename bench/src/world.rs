//! A gateway in memory: a LAN of ten million hosts' worth of addresses behind one masquerading WAN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Result;
use postern_core::conntrack::ctstate::{CtState, CtStates};
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tcp::TcpPolicy;
use postern_core::conntrack::timeouts::Timeouts;
use postern_core::forward::neighbour::{Neighbour, NeighbourState, Neighbours};
use postern_core::forward::route::{Prefix, Route, RouteKind, Routes};
use postern_core::nat::NatRules;
use postern_core::pipeline::{Limits, Pipeline};
use postern_core::rules::model::{
    BaseChain, ChainPolicy, FamilyTables, Rule, Tables, Target, Test,
};
use postern_core::rules::{Hook, InterfaceSet, Policy};
use postern_core::snapshot::{
    Interface, InterfaceAddress, Interfaces, Options, ReversePath, Snapshot,
};
use postern_core::steering::{Inputs, Steering};
use postern_core::time::Instant;
use postern_core::units::{Generation, InterfaceId, Mac, Stamps};
use postern_io::memory::{Pages, SharedMemory};

/// The inside interface.
pub const LAN: InterfaceId = InterfaceId(0);
/// The outside interface.
pub const WAN: InterfaceId = InterfaceId(1);
/// MAC of the inside interface.
pub const LAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// MAC of the outside interface.
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// The outside interface's IPv4 address, behind which it masquerades.
pub const WAN_ADDRESS: u32 = u32::from_be_bytes([203, 0, 113, 2]);
/// The one host, or router, on each side.
pub const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

const LAN_GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 16, 0, 9)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9)),
];
/// The router outside, of each family.
pub const WAN_GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1)),
];

/// The snapshot of the gateway with so many workers: state, filter and, with `nat`, masquerade.
pub fn snapshot(nat: bool, key: SipKey, workers: u8) -> Result<Snapshot> {
    let address = |address: &str, length| -> Result<_> {
        Ok(InterfaceAddress { address: address.parse()?, length })
    };
    let interface = |mac, masquerade, addresses: Vec<InterfaceAddress>| Interface {
        mac,
        other_macs: Box::default(),
        promiscuous: false,
        mtu: 1500,
        up: true,
        masquerade,
        independent: None,
        clamp_mss: None,
        dhcp: false,
        reverse_path: ReversePath::Strict,
        zone: 0,
        addresses: addresses.into(),
    };
    let lan = vec![address("172.16.0.1", 24)?, address("fd00:0:0:1::1", 64)?];
    let wan = vec![address("203.0.113.2", 24)?, address("2001:db8:0:2::2", 64)?];
    let steering = Steering::new(Inputs {
        workers,
        key,
        ours: lan.iter().chain(&wan).map(|a| a.address).collect(),
        statics: vec![],
        inside: vec![address("10.0.0.0", 8)?],
    });
    let neighbours = Neighbours::new(64);
    let known = Neighbour { mac: PEER_MAC, state: NeighbourState::Reachable };
    for family in 0..2 {
        neighbours.set(LAN, LAN_GATEWAY[family], known);
        neighbours.set(WAN, WAN_GATEWAY[family], known);
    }
    Ok(Snapshot {
        generation: Generation(1),
        stamps: Stamps::FIRST,
        reviews: 0,
        timeout_changes: 0,
        interfaces: Arc::new(Interfaces(
            vec![interface(LAN_MAC, false, lan), interface(WAN_MAC, nat, wan)].into(),
        )),
        policy: Arc::new(Policy::compile(&filters(), usize::from(workers))?),
        nat: Arc::new(NatRules::default()),
        steering: Arc::new(steering),
        older_steering: Default::default(),
        routes: Arc::new(Routes::compile(&prefixes()?)),
        neighbours: Arc::new(neighbours),
        triggers: Arc::default(),
        expectations: Arc::default(),
        mappings: Arc::default(),
        timeouts: Arc::new(Timeouts::rfc()),
        timeout_policies: Arc::default(),
        options: Options { tcp: TcpPolicy::default(), ..Options::default() },
    })
}

fn prefixes() -> Result<Vec<Prefix>> {
    let prefix = |address: &str, length, egress, gateway| -> Result<_> {
        let route = Route { kind: RouteKind::Unicast, egress, gateway: Some(gateway), mtu: 0 };
        Ok(Prefix { address: address.parse()?, length, metric: 0, route })
    };
    Ok(vec![
        prefix("10.0.0.0", 8, LAN, LAN_GATEWAY[0])?,
        prefix("fd00::", 16, LAN, LAN_GATEWAY[1])?,
        prefix("0.0.0.0", 0, WAN, WAN_GATEWAY[0])?,
        prefix("::", 0, WAN, WAN_GATEWAY[1])?,
    ])
}

/// `-m conntrack --ctstate INVALID -j DROP`, `ESTABLISHED,RELATED -j ACCEPT`, `-i lan -o wan NEW -j ACCEPT`,
/// policy DROP.
fn filters() -> Tables {
    let states = |states: &[CtState]| {
        let all = states.iter().fold(CtStates::default(), |sum, &s| sum.union(CtStates::of(s)));
        Test::States(all)
    };
    let only = |interface| InterfaceSet::EMPTY.with(interface);
    let rule = |tests: Vec<Test>, target| Rule {
        conditions: tests.into_iter().map(Into::into).collect(),
        target,
    };
    let forward = BaseChain {
        policy: ChainPolicy::Drop,
        rules: vec![
            rule(vec![states(&[CtState::Invalid])], Target::Drop),
            rule(vec![states(&[CtState::Established, CtState::Related])], Target::Accept),
            rule(vec![Test::Ingress(only(LAN)), Test::Egress(only(WAN))], Target::Accept),
        ],
    };
    let mut filter = FamilyTables::default();
    filter.base[Hook::Forward.index()] = forward;
    Tables([filter.clone(), filter])
}

/// A pipeline of one worker with room for `capacity` connections of the family that is used, and what kind of
/// pages its table got: the largest there are, unless they are to be small.
pub fn pipeline(
    capacity: u32,
    v6: bool,
    key: SipKey,
    small_pages: bool,
) -> Result<(Pipeline<'static>, Pages)> {
    let limits = Limits {
        connections_v4: if v6 { 1 } else { capacity },
        connections_v6: if v6 { capacity } else { 1 },
    };
    let memory = if small_pages { SharedMemory::in_small_pages } else { SharedMemory::new };
    let regions = limits.bytes().map(|bytes| memory("bench-table", bytes));
    let [v4, v6_region, helpers] = regions;
    let (v4, v6_region) = (v4?, v6_region?);
    let pages = if v6 { v6_region.pages() } else { v4.pages() };
    let memory = [v4.leak().0, v6_region.leak().0, helpers?.leak().0];
    Ok((Pipeline::new(limits, memory, key, SipKey([5, 6]), Instant(0)), pages))
}

/// The kind of pages in one word.
pub fn pages_name(pages: Pages) -> &'static str {
    match pages {
        Pages::HugeTlb => "hugetlb",
        Pages::Transparent => "transparent",
        Pages::Small => "small",
    }
}
