//! What a test's appliance is made of, and how that becomes a snapshot: what control does, in small.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::timeouts::{TimeoutKind, Timeouts};
use postern_core::conntrack::tuple::protocol;
use postern_core::forward::neighbour::Neighbour;
use postern_core::forward::route::Prefix;
use postern_core::forward::{NeighbourState, Neighbours, Route, RouteKind, Routes};
use postern_core::limits::{PerSource, Room};
use postern_core::nat::mapping::Mappings;
use postern_core::nat::trigger::{TriggerRule, Triggers};
use postern_core::nat::{Forward, NatRules};
use postern_core::rules::Family;
use postern_core::snapshot::{
    Interface, InterfaceAddress, Interfaces, Options, ReversePath, Snapshot,
};
use postern_core::steering::{Inputs, StaticEndpoint, Steering};
use postern_core::units::{Generation, InterfaceId, Mac, Stamps};

use postern_rules::{
    Counts, InterfaceRole, Rulesets, builtin, compile, execute, hides_sources, nat_sides,
};

use crate::packet::{Address, Endpoint};

/// Where a packet goes in or comes out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum At {
    /// On the wire of an interface.
    Wire(InterfaceId),
    /// At the host, through the TAP of an interface.
    Host(InterfaceId),
}

/// The wire of the LAN: 192.168.1.1/24, 2001:db8:1::1/64.
pub const LAN: At = At::Wire(InterfaceId(0));
/// The wire of the WAN: 203.0.113.2/24, 2001:db8:2::2/64.
pub const WAN: At = At::Wire(InterfaceId(1));
/// The wire of the second LAN, if there is one: 192.168.2.1/24, 2001:db8:3::1/64.
pub const LAN2: At = At::Wire(InterfaceId(2));
/// The host, by the LAN's TAP.
pub const HOST_LAN: At = At::Host(InterfaceId(0));
/// The host, by the WAN's TAP.
pub const HOST_WAN: At = At::Host(InterfaceId(1));

impl At {
    /// Which interface.
    pub const fn interface(self) -> InterfaceId {
        match self {
            At::Wire(id) | At::Host(id) => id,
        }
    }
}

/// What the appliance is made of. Changed at run time through
/// [`Firewall::change`](crate::Firewall::change).
#[derive(Clone, Debug)]
pub struct Setup {
    /// Number of workers; fixed at start.
    pub workers: u8,
    /// Most connections of each family, per worker; fixed at start.
    pub capacity: u32,
    /// Most endpoint-independent mappings, per worker; fixed at start.
    pub mappings: u32,
    /// Decides which worker receives which packet, and keys every hash; fixed at start.
    pub seed: u64,
    /// Interfaces: 0 is the LAN, 1 the WAN.
    pub interfaces: Vec<Interface>,
    /// Gateways of the default routes: IPv4, IPv6; by the WAN.
    pub gateways: Vec<IpAddr>,
    /// Further routes.
    pub routes: Vec<Prefix>,
    /// Port forwards.
    pub forwards: Vec<Forward>,
    /// Port triggers.
    pub triggers: Vec<TriggerRule>,
    /// Rules: at first the built-in policy.
    pub rules: Rulesets,
    /// How many connections a source may have.
    pub per_source: Option<PerSource>,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Switches.
    pub options: Options,
    /// Whether no packet may take the fast lane; fixed at start.
    pub long_way: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let mut lan = interface(0, &["192.168.1.1/24", "2001:db8:1::1/64"]);
        let mut wan = interface(1, &["203.0.113.2/24", "2001:db8:2::2/64"]);
        lan.masquerade = false;
        wan.masquerade = true;
        Self {
            workers: 1,
            capacity: 256,
            mappings: 256,
            seed: 1,
            interfaces: vec![lan, wan],
            gateways: vec!["203.0.113.1".address(), "2001:db8:2::1".address()],
            routes: Vec::new(),
            forwards: Vec::new(),
            triggers: Vec::new(),
            rules: policy(&NAMES[..2]),
            per_source: None,
            timeouts: Timeouts::rfc(),
            options: Options::default(),
            long_way: false,
        }
    }
}

impl Setup {
    /// With that many workers.
    pub fn workers(mut self, workers: u8) -> Self {
        self.workers = workers;
        self
    }

    /// With room for that many connections of each family, per worker.
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// With every packet going the long way, for a comparison. Their checksums are taken on trust.
    pub fn long_way(mut self) -> Self {
        self.long_way = true;
        self
    }

    /// With another seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With a port forward from the WAN's address: `protocol`, first and last port, target.
    pub fn forward(mut self, ip_protocol: u8, ports: (u16, u16), to: impl Endpoint) -> Self {
        self.add_forward(ip_protocol, ports, to);
        self
    }

    /// With a TCP forward of one port.
    pub fn forward_tcp(self, port: u16, to: impl Endpoint) -> Self {
        self.forward(protocol::TCP, (port, port), to)
    }

    /// With a UDP forward of one port.
    pub fn forward_udp(self, port: u16, to: impl Endpoint) -> Self {
        self.forward(protocol::UDP, (port, port), to)
    }

    /// Adds a port forward from the WAN's first address of the target's family.
    pub fn add_forward(&mut self, ip_protocol: u8, (first, last): (u16, u16), to: impl Endpoint) {
        let to = to.endpoint();
        let mut wan = self.interfaces[1].addresses.iter().map(|a| a.address);
        let address = wan.find(|a| a.is_ipv4() == to.is_ipv4()).expect("the WAN has one");
        let id = self.forwards.iter().map(|f| f.id + 1).max().unwrap_or(1);
        self.forwards.push(Forward {
            id,
            interface: InterfaceId(1),
            address,
            protocol: ip_protocol,
            first,
            last,
            to: to.ip(),
            to_port: to.port(),
        });
    }

    /// With a port trigger on the WAN, for UDP: the port that triggers, those opened, and for how many seconds.
    pub fn trigger_udp(mut self, outbound: u16, inbound: (u16, u16), seconds: u32) -> Self {
        self.triggers.push(TriggerRule {
            interface: InterfaceId(1),
            protocol: protocol::UDP,
            outbound: (outbound, outbound),
            inbound,
            timeout_ms: seconds * 1000,
        });
        self
    }

    /// With a limit of the connections of each source: an IPv4 address, or an IPv6 network of 64 bits.
    pub fn per_source(mut self, most: u32) -> Self {
        self.per_source = Some(PerSource { most, lengths: [32, 64] });
        self
    }

    /// With another value for a timeout.
    pub fn timeout(mut self, kind: TimeoutKind, value: Duration) -> Self {
        self.timeouts.set(kind, value);
        self
    }

    /// With the timeouts of profile `linux`.
    pub fn linux_timeouts(mut self) -> Self {
        self.timeouts = Timeouts::linux();
        self
    }

    /// With mid-stream pick-up.
    pub fn loose(mut self) -> Self {
        self.options.tcp.loose = true;
        self
    }

    /// Without window checks.
    pub fn liberal(mut self) -> Self {
        self.options.tcp.liberal = true;
        self
    }

    /// With another MTU on one interface.
    pub fn mtu(mut self, at: At, mtu: u16) -> Self {
        self.interfaces[at.interface().index()].mtu = mtu;
        self
    }

    /// With further addresses (`"203.0.113.3/24"`) on one interface.
    pub fn address(mut self, at: At, address: &str) -> Self {
        let interface = &mut self.interfaces[at.interface().index()];
        let mut addresses = interface.addresses.to_vec();
        addresses.push(parse_network(address));
        interface.addresses = addresses.into();
        self
    }

    /// With other addresses on one interface, of both families.
    pub fn set_addresses(&mut self, at: At, addresses: &[&str]) {
        self.interfaces[at.interface().index()].addresses =
            addresses.iter().map(|a| parse_network(a)).collect();
    }

    /// With a second LAN.
    pub fn second_lan(mut self) -> Self {
        self.interfaces.push(interface(2, &["192.168.2.1/24", "2001:db8:3::1/64"]));
        self.rules = policy(&NAMES);
        self
    }

    /// Runs `iptables` with these arguments.
    ///
    /// # Panics
    /// If it refuses.
    pub fn iptables(&mut self, args: &str) {
        self.edit_rules(Family::V4, args);
    }

    /// Runs `ip6tables` with these arguments.
    ///
    /// # Panics
    /// If it refuses.
    pub fn ip6tables(&mut self, args: &str) {
        self.edit_rules(Family::V6, args);
    }

    fn edit_rules(&mut self, family: Family, args: &str) {
        let words: Vec<_> = args.split_whitespace().map(String::from).collect();
        let done = execute(family, &words, &mut self.rules, Counts::default);
        assert_eq!(done.code, 0, "{args}: {}", done.stderr);
    }

    /// Without masquerading on the WAN.
    pub fn routed(mut self) -> Self {
        self.interfaces[1].masquerade = false;
        self
    }

    /// With a further route.
    pub fn route(mut self, network: &str, kind: RouteKind, out: At, gateway: Option<&str>) -> Self {
        let InterfaceAddress { address, length } = parse_network(network);
        let gateway = gateway.map(Address::address);
        let route = Route { kind, egress: out.interface(), gateway, mtu: 0 };
        self.routes.push(Prefix { address, length, metric: 0, route });
        self
    }

    /// With a further route by a gateway, which has an MTU of its own.
    pub fn route_with_mtu(self, network: &str, out: At, gateway: &str, mtu: u16) -> Self {
        let mut setup = self.route(network, RouteKind::Unicast, out, Some(gateway));
        setup.routes.iter_mut().rev().take(1).for_each(|prefix| prefix.route.mtu = mtu);
        setup
    }

    /// The next hop and its interface for what is sent to `destination`; `None` if it is ours.
    pub fn next_hop(&self, destination: IpAddr) -> Option<(InterfaceId, IpAddr)> {
        let mut best: Option<(u8, InterfaceId, IpAddr)> = None;
        for prefix in self.prefixes() {
            let network = InterfaceAddress { address: prefix.address, length: prefix.length };
            let longer = best.is_none_or(|(length, ..)| prefix.length >= length);
            if network.holds(destination) && longer {
                let next = prefix.route.gateway.unwrap_or(destination);
                best = Some((prefix.length, prefix.route.egress, next));
            }
        }
        best.map(|(_, egress, next)| (egress, next))
    }

    /// Every address of the appliance.
    pub fn ours(&self) -> Vec<IpAddr> {
        self.interfaces.iter().flat_map(|i| i.addresses.iter().map(|a| a.address)).collect()
    }

    fn prefixes(&self) -> Vec<Prefix> {
        let mut prefixes = self.routes.clone();
        for (index, interface) in self.interfaces.iter().enumerate() {
            let egress = InterfaceId(index as u8);
            let mut add = |address, length, kind| {
                let route = Route { kind, egress, gateway: None, mtu: 0 };
                prefixes.push(Prefix { address, length, metric: 0, route });
            };
            for own in &interface.addresses {
                let host = if own.address.is_ipv4() { 32 } else { 128 };
                add(own.address, host, RouteKind::Local);
                add(own.address, own.length, RouteKind::Unicast);
                if let (IpAddr::V4(address), true) = (own.address, own.length < 31) {
                    let hosts = u32::MAX >> own.length;
                    let last = Ipv4Addr::from(u32::from(address) | hosts);
                    let first = Ipv4Addr::from(u32::from(address) & !hosts);
                    add(last.into(), 32, RouteKind::Broadcast);
                    add(first.into(), 32, RouteKind::Broadcast);
                }
            }
        }
        for gateway in &self.gateways {
            let address: IpAddr = if gateway.is_ipv4() { "0.0.0.0" } else { "::" }.address();
            let (egress, gateway) = (InterfaceId(1), Some(*gateway));
            let route = Route { kind: RouteKind::Unicast, egress, gateway, mtu: 0 };
            prefixes.push(Prefix { address, length: 0, metric: 0, route });
        }
        prefixes
    }

    /// A hash key of this run.
    pub fn key(&self, purpose: u64) -> SipKey {
        SipKey([self.seed ^ 0x6b65_7920_6f66_2061, purpose])
    }

    fn steering(&self) -> Steering {
        // As control does it: what is not the WAN, if its hosts are hidden.
        let masquerades = self.interfaces.iter().any(|interface| interface.masquerade);
        let hidden_v4 = masquerades || hides_sources(&self.rules, Family::V4);
        let hidden_v6 = hides_sources(&self.rules, Family::V6);
        let is_hidden =
            |own: &&InterfaceAddress| if own.address.is_ipv4() { hidden_v4 } else { hidden_v6 };
        let inside = (0..).map(InterfaceId).zip(&self.interfaces);
        let inside = inside.filter(|(id, _)| *id != WAN.interface());
        let networks = inside.flat_map(|(_, i)| i.addresses.iter()).filter(is_hidden);
        let side = |address, first, f: &Forward| StaticEndpoint {
            address,
            protocol: f.protocol,
            first,
            last: first + (f.last - f.first),
        };
        let sides = |f: &Forward| [side(f.address, f.first, f), side(f.to, f.to_port, f)];
        let inputs = Inputs {
            workers: self.workers,
            key: self.key(1),
            ours: self.ours(),
            statics: self.forwards.iter().flat_map(sides).collect(),
            inside: networks.copied().collect(),
        };
        let addresses = |i: &Interface| i.addresses.iter().map(|own| own.address).collect();
        let named: Vec<_> = NAMES.into_iter().zip(self.interfaces.iter().map(addresses)).collect();
        let mut sides = nat_sides(&self.rules, &named);
        sides.mapped |= self.interfaces.iter().any(|i| i.independent.is_some());
        Steering::with_nat(inputs, &sides)
    }

    /// The first snapshot, or the one after another, made of another set-up: what did not change is taken over,
    /// as control does.
    ///
    /// # Panics
    /// If the rules do not compile.
    pub fn snapshot(&self, before: Option<(&Self, &Snapshot)>) -> Snapshot {
        let policy = match before {
            Some((old, before))
                if (&old.rules, old.per_source) == (&self.rules, self.per_source) =>
            {
                before.policy.clone()
            }
            _ => {
                let ids = (0..).map(InterfaceId);
                let names: Vec<_> =
                    NAMES.into_iter().zip(ids).take(self.interfaces.len()).collect();
                let room = Room {
                    rows: [self.capacity; 2],
                    key: self.key(3),
                    per_source: self.per_source,
                    before: before.and_then(|(_, before)| before.policy.ledger_to_go_on_with()),
                };
                let rules = compile(&self.rules, &names, usize::from(self.workers), &room);
                rules.expect("the rules compile").policy().clone()
            }
        };
        let routes = match before {
            Some((old, before)) if old.prefixes() == self.prefixes() => before.routes.clone(),
            _ => Arc::new(Routes::compile(&self.prefixes())),
        };
        let before = before.map(|(_, before)| before);
        let steering = Arc::new(self.steering());
        let mut older = before.map(|b| b.older_steering.clone()).unwrap_or_default();
        let steering = match before {
            Some(before) if before.steering.same_inputs(&steering) => before.steering.clone(),
            Some(before) => {
                if older.is_full() {
                    older.pop(); // as control does
                }
                older.insert(0, before.steering.clone());
                steering
            }
            None => steering,
        };
        let neighbours =
            before.map_or_else(|| Arc::new(Neighbours::new(4096)), |b| b.neighbours.clone());
        let snapshot = Snapshot {
            generation: Generation(1),
            stamps: Stamps::FIRST,
            reviews: 0,
            timeout_changes: 0,
            interfaces: Arc::new(Interfaces(self.interfaces.clone().into())),
            policy,
            nat: Arc::new(NatRules::new(self.forwards.clone())),
            steering,
            older_steering: older,
            routes,
            neighbours,
            triggers: Arc::new(Triggers::new(
                self.triggers.clone(),
                before.map_or(&Triggers::default(), |b| &b.triggers),
            )),
            expectations: before.map_or_else(Arc::default, |b| b.expectations.clone()),
            mappings: before.map_or_else(
                || Arc::new(Mappings::new(self.workers, self.mappings, self.key(3))),
                |b| b.mappings.clone(),
            ),
            timeouts: Arc::new(self.timeouts.clone()),
            options: self.options,
        };
        match before {
            Some(before) => snapshot.following(before),
            None => snapshot,
        }
    }
}

/// The interfaces' names, for rules.
const NAMES: [&str; 3] = ["lan", "wan", "lan2"];

/// The built-in policy.
fn policy(names: &[&str]) -> Rulesets {
    let role = |name| InterfaceRole { name, outside: name == "wan" };
    let roles: Vec<_> = names.iter().copied().map(role).collect();
    builtin(&roles).expect("the names are right")
}

/// An interface whose MAC is its number.
fn interface(number: u8, addresses: &[&str]) -> Interface {
    Interface {
        mac: interface_mac(InterfaceId(number)),
        other_macs: Box::default(),
        promiscuous: false,
        mtu: 1500,
        up: true,
        masquerade: false,
        independent: None,
        clamp_mss: None,
        dhcp: false,
        reverse_path: ReversePath::Strict,
        addresses: addresses.iter().map(|a| parse_network(a)).collect(),
    }
}

/// The MAC of an interface of the appliance.
pub fn interface_mac(id: InterfaceId) -> Mac {
    Mac([0x02, 0xf0, 0, 0, 0, id.0])
}

/// The MAC of the host with this address.
pub fn host_mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            Mac([0x02, 4, a, b, c, d])
        }
        IpAddr::V6(a) => {
            let o = a.octets();
            Mac([0x02, 6, o[5], o[13], o[14], o[15]])
        }
    }
}

/// A neighbour that answers.
pub fn reachable(address: IpAddr) -> Neighbour {
    Neighbour { mac: host_mac(address), state: NeighbourState::Reachable }
}

/// `"192.168.1.1/24"`.
pub fn parse_network(text: &str) -> InterfaceAddress {
    let (address, length) = text.split_once('/').expect("address/length");
    InterfaceAddress { address: address.address(), length: length.parse().expect("a length") }
}
