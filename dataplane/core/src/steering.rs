//! Which worker owns a packet.
//!
//! Both directions of a connection must meet on one worker without a shared table, whatever the
//! device's RSS does. The owner is a pure function of the packet's two endpoints and of the steering
//! part of the snapshot, never of the interface it came in by. In this order:
//!
//! - (a) an endpoint is ours, or of a NAT pool, and not static: `block[its port]`, destination first;
//!   If mappings are endpoint-independent ([`NatSides::mapped`]) and the other endpoint is a host inside, the sum of the blocks
//!   of both ports (hairpin, below);
//! - (b) exactly one endpoint is static, or one is so itself and the other by its port alone: hash of the other one; both
//!   alike: hash of the one that lies inside, or if that tells nothing symmetric hash of both;
//! - (c) exactly one endpoint is exposed ([`NatSides::exposed`]): `block[its port]`; or else exactly one endpoint lies in the inside prefixes: `block[its port]`;
//! - (d) otherwise: symmetric hash of both.
//!
//! A fragment goes to its collector first, a keyed hash of the datagram, where all of them meet; whole, they go to the owner.
//!
//! "Ours" is any address of the appliance; "static" the outside or inside side of a port forward, or of a nat rule that
//! translates destinations ([`NatSides`]).
//! A worker takes external ports only from its own blocks, never a static one: so replies to a
//! translated connection meet their owner by (a), and an inside port names the same worker inside
//! (c) and out (a), which is what makes port preservation work.
//!
//! Two hosts A and B inside, with endpoint-independent mappings to ports a and b outside, talk by these: A's packets are from
//! A's own port to b, B's from B's own port to a. The port inside and the port outside of a mapping lie in blocks of one
//! worker, so the sum of two blocks is the same both ways. A connection between an external address and a host inside that
//! needs a port of its own gets it from the one worker's blocks that make the sum come out right ([`Steering::dealer`]).

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::net::{IpAddr, Ipv4Addr};

use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::{Tuple, TupleV4, protocol};
use crate::headers::Kind;
use crate::nat::mapping;
use crate::rules::Addresses;
use crate::snapshot::InterfaceAddress;
use crate::units::{WORKERS_MAX, WorkerId};

/// A fixed endpoint: one side of a port forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticEndpoint {
    /// Address.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// First port of the range.
    pub first: u16,
    /// Last port of the range.
    pub last: u16,
}

/// What the owner of a packet is computed from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Number of workers: 1..=[`WORKERS_MAX`].
    pub workers: u8,
    /// Hash key, the same for every worker and epoch of a run.
    pub key: SipKey,
    /// Every address of the appliance.
    pub ours: Vec<IpAddr>,
    /// Both sides of every port forward.
    pub statics: Vec<StaticEndpoint>,
    /// Networks behind interfaces that are masqueraded elsewhere.
    pub inside: Vec<InterfaceAddress>,
}

/// What nat rules add: the addresses they translate to and from. Whatever cannot be said so finds no owner for its
/// replies, and is refused when it begins ([`DropReason::RepliesElsewhere`](crate::verdict::DropReason::RepliesElsewhere)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatSides {
    /// Addresses that sources are translated to: their ports come from the owner's blocks, as those of our own addresses do.
    pub pools: Vec<Addresses>,
    /// Addresses translated one to one, and where to: static with all protocols and ports.
    pub networks: Vec<Addresses>,
    /// Both sides of rules for certain ports of certain addresses.
    pub endpoints: Vec<StaticEndpoint>,
    /// Protocol, first and last port of rules for these ports of any address. Our own addresses are among the
    /// [`endpoints`](Self::endpoints) besides.
    pub anywhere: Vec<(u8, u16, u16)>,
    /// Hosts that get whatever port of an address of ours, unchanged: the port names the worker on both sides.
    pub exposed: Vec<Addresses>,
    /// Whether a rule or an interface asks for endpoint-independent mappings.
    pub mapped: bool,
}

/// The steering part of a snapshot.
#[derive(Debug)]
pub struct Steering {
    workers: u8,
    key: SipKey,
    ours_v4: Box<[u32]>,
    ours_v6: Box<[u128]>,
    /// By address, protocol, port.
    statics: Ranges<(IpAddr, u8, u16)>,
    /// By protocol and port, of any address.
    anywhere: Ranges<(u8, u16)>,
    /// With all protocols and ports.
    networks: Ranges<IpAddr>,
    pools: Ranges<IpAddr>,
    exposed: Ranges<IpAddr>,
    inside_v4: Ranges<u32>,
    inside_v6: Ranges<u128>,
    /// Whether there are endpoint-independent mappings.
    mapped: bool,
    /// All of the above, by IPv4 address.
    roles: Roles,
    /// Port -> worker.
    block: Box<[u8]>,
    /// Worker -> its ports, sorted.
    ports: Box<[Box<[u16]>]>,
}

impl Steering {
    /// Prepares `inputs` for look-ups.
    ///
    /// # Panics
    /// If the number of workers is not in 1..=[`WORKERS_MAX`]; configuration checks it first.
    pub fn new(inputs: Inputs) -> Self {
        Self::with_nat(inputs, &NatSides::default())
    }

    /// The same, with what nat rules translate.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_nat(mut inputs: Inputs, nat: &NatSides) -> Self {
        assert!((1..=WORKERS_MAX).contains(&usize::from(inputs.workers)));
        inputs.ours.sort();
        inputs.ours.dedup();
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(u32::from(*address)),
            IpAddr::V6(_) => None,
        };
        let v6 = |address: &IpAddr| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(u128::from(*address)),
        };
        let statics = inputs.statics.iter().chain(&nat.endpoints).map(|s| {
            let at = |port| (s.address, s.protocol, port);
            (at(s.first), at(s.last))
        });
        let owner = |port: u16| block_of(port, inputs.workers);
        let ports = |worker| (0..=u16::MAX).filter(|&port| owner(port) == worker).collect();
        let mut steering = Self {
            workers: inputs.workers,
            key: inputs.key,
            ours_v4: inputs.ours.iter().filter_map(v4).collect(),
            ours_v6: inputs.ours.iter().filter_map(v6).collect(),
            statics: Ranges::of(statics),
            anywhere: Ranges::of(
                nat.anywhere.iter().map(|&(p, first, last)| ((p, first), (p, last))),
            ),
            networks: Ranges::of(nat.networks.iter().map(both_ends)),
            pools: Ranges::of(nat.pools.iter().map(both_ends)),
            exposed: Ranges::of(nat.exposed.iter().map(both_ends)),
            inside_v4: Ranges::of(inputs.inside.iter().filter_map(network_v4)),
            inside_v6: Ranges::of(inputs.inside.iter().filter_map(network_v6)),
            mapped: nat.mapped,
            roles: Roles::default(),
            block: (0..=u16::MAX).map(owner).collect(),
            ports: (0..inputs.workers).map(ports).collect(),
        };
        steering.roles = Roles::of(&steering);
        steering
    }

    /// Number of workers.
    pub fn workers(&self) -> u8 {
        self.workers
    }

    /// The worker whose external ports `port` belongs to.
    #[inline]
    pub fn block(&self, port: u16) -> WorkerId {
        WorkerId(self.block[usize::from(port)])
    }

    /// The external ports of a worker, sorted.
    pub fn ports(&self, worker: WorkerId) -> &[u16] {
        self.ports.get(worker.index()).map_or(&[], |ports| ports)
    }

    /// Whether the address is one of the appliance's.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ours_v4.binary_search(&address.into()).is_ok(),
            IpAddr::V6(address) => self.ours_v6.binary_search(&address.into()).is_ok(),
        }
    }

    /// Whether connections appear behind the address: it is ours, or of a NAT pool.
    pub fn is_external(&self, address: IpAddr) -> bool {
        self.is_ours(address) || self.pools.hold(address)
    }

    /// Whether the address is translated one to one, with all protocols and ports.
    pub fn is_whole(&self, address: IpAddr) -> bool {
        self.networks.hold(address)
    }

    /// Whether a translation may rest on the address, whosever the ports: it is external, or translated as a whole.
    pub fn is_outer(&self, address: IpAddr) -> bool {
        self.is_external(address) || self.is_whole(address)
    }

    /// Whether the endpoint is one side of a port forward, or of a nat rule.
    pub fn is_static(&self, address: IpAddr, protocol: u8, port: u16) -> bool {
        // Of most addresses nothing is.
        let may_be = match address {
            IpAddr::V4(address) => self.roles.at(address.into()) & role::TRANSLATED != 0,
            IpAddr::V6(_) => true,
        };
        may_be && self.fixed(address, protocol, port) != Fixed::No
    }

    /// A number that stands for the address, the same in every epoch: which of several addresses it is paired with.
    pub fn pairing(&self, address: IpAddr) -> u64 {
        self.endpoint(address, 0)
    }

    /// How much a client, which its [`pairing`](Self::pairing) stands for, is drawn to one of the addresses it may be sent to.
    pub fn affinity(&self, client: u64, to: IpAddr) -> u64 {
        let to = wide(to);
        self.key.hash_words(&[client, (to >> 64) as u64, to as u64])
    }

    /// Whether there are endpoint-independent mappings at all.
    #[inline]
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// Whether an inside endpoint can have an endpoint-independent mapping: all it sends must come to one worker, whoever it
    /// is for. One side of a forward or of a nat rule has that for its mapping.
    pub fn is_mappable(&self, protocol: u8, address: Ipv4Addr, port: u16) -> bool {
        mapping::maps(protocol)
            && (self.workers == 1 || self.is_inside(address.into()))
            && !self.is_ours(address.into())
            && self.fixed(address.into(), protocol, port) == Fixed::No
    }

    /// The worker whose ports a connection that `me` makes gets behind `address`, so that the replies come to `me`; `reply`
    /// is its reply tuple so far.
    pub fn dealer(&self, reply: &Tuple, address: IpAddr, me: WorkerId) -> WorkerId {
        let (server, port) = (reply.src(), reply.src_id());
        let joint = self.mapped
            && mapping::maps(reply.protocol())
            && self.is_external(address)
            && self.is_host_inside(server)
            && self.fixed(server, reply.protocol(), port) == Fixed::No;
        if !joint {
            return me;
        }
        let (all, server) = (u16::from(self.workers), u16::from(self.block(port).0));
        WorkerId(((u16::from(me.0) + all - server) % all) as u8)
    }

    /// Whether the appliance has the same addresses in both.
    pub fn has_addresses_of(&self, other: &Self) -> bool {
        self.ours_v4 == other.ours_v4 && self.ours_v6 == other.ours_v6
    }

    /// Whether the two would steer every packet alike.
    pub fn same_inputs(&self, other: &Self) -> bool {
        self.workers == other.workers
            && self.key == other.key
            && self.has_addresses_of(other)
            && self.statics == other.statics
            && self.anywhere == other.anywhere
            && self.networks == other.networks
            && self.pools == other.pools
            && self.exposed == other.exposed
            && self.mapped == other.mapped
            && self.inside_v4 == other.inside_v4
            && self.inside_v6 == other.inside_v6
    }

    /// The worker that owns packets of this tuple, in either direction.
    #[inline]
    pub fn owner(&self, tuple: &Tuple) -> WorkerId {
        if self.workers == 1 { WorkerId(0) } else { self.owner_of_several(tuple) }
    }

    /// The worker that a parsed packet goes to: the owner, or for a fragment ([`Kind::Fragment`]) the one that gathers all
    /// of its datagram, which has one tuple.
    #[inline]
    pub fn owner_of(&self, tuple: &Tuple, kind: Kind) -> WorkerId {
        if kind == Kind::Fragment { self.collector(tuple) } else { self.owner(tuple) }
    }

    #[cold]
    fn collector(&self, tuple: &Tuple) -> WorkerId {
        let (src, dst) = (tuple.src(), tuple.dst());
        // Not symmetric: a datagram has one direction.
        let src = self.endpoint(src, tuple.src_id());
        let dst = self.endpoint(dst, tuple.dst_id());
        self.hashed(self.key.hash_words(&[src, dst, tuple.protocol().into()]))
    }

    fn owner_of_several(&self, tuple: &Tuple) -> WorkerId {
        let protocol = tuple.protocol();
        if !has_ids(protocol) {
            return WorkerId(protocol % self.workers);
        }
        if let Tuple::V4(v4) = tuple
            && let Some(owner) = self.owner_by_roles(v4)
        {
            return owner;
        }
        self.owner_by_endpoints(tuple)
    }

    /// The owner, if what the two addresses are says it: unless a forward or a nat rule may be about one of them, or
    /// neither is anything.
    #[inline]
    fn owner_by_roles(&self, tuple: &TupleV4) -> Option<WorkerId> {
        let [src, dst] =
            [tuple.src, tuple.dst].map(|address| self.roles.at(u32::from_be_bytes(address)));
        if (src | dst) & (role::TRANSLATED | role::MAPPED) != 0 {
            if (src | dst) & role::TRANSLATED != 0 {
                return None;
            }
            // An external address is never a host inside: that is what `MAPPED` tells apart.
            let host = |role: u8| role & (role::INSIDE | role::EXTERNAL) == role::INSIDE;
            if (host(src) || host(dst)) && mapping::maps(tuple.protocol) {
                return Some(self.joint(tuple.src_id, tuple.dst_id));
            }
        }
        let (by_src, by_dst) = (Some(self.block(tuple.src_id)), Some(self.block(tuple.dst_id)));
        match ((src | dst) & role::EXTERNAL != 0, dst & role::EXTERNAL != 0) {
            (true, true) => return by_dst,
            (true, false) => return by_src,
            (false, _) => {}
        }
        match (src & role::INSIDE != 0, dst & role::INSIDE != 0) {
            (true, false) => by_src,
            (false, true) => by_dst,
            _ => None,
        }
    }

    /// The owner, whatever the endpoints are: the order of the rules above.
    fn owner_by_endpoints(&self, tuple: &Tuple) -> WorkerId {
        let protocol = tuple.protocol();
        let (src, dst) = (tuple.src(), tuple.dst());
        let (src_id, dst_id) = (tuple.src_id(), tuple.dst_id());
        let dst_fixed = self.fixed(dst, protocol, dst_id);
        let src_fixed = self.fixed(src, protocol, src_id);
        let joint = |one, other| self.is_external(one) && self.is_host_inside(other);
        if self.mapped
            && mapping::maps(protocol)
            && (src_fixed, dst_fixed) == (Fixed::No, Fixed::No)
            && (joint(src, dst) || joint(dst, src))
        {
            return self.joint(src_id, dst_id);
        }
        if dst_fixed == Fixed::No && self.is_external(dst) {
            return self.block(dst_id);
        }
        if src_fixed == Fixed::No && self.is_external(src) {
            return self.block(src_id);
        }
        match src_fixed.cmp(&dst_fixed) {
            Ordering::Greater => return self.hashed(self.endpoint(dst, dst_id)),
            Ordering::Less => return self.hashed(self.endpoint(src, src_id)),
            Ordering::Equal if src_fixed != Fixed::No => {
                // An address of ours among the inside ones is not a host inside.
                let inside = |address| self.is_inside(address) && !self.is_ours(address);
                return match (inside(src), inside(dst)) {
                    (true, false) => self.hashed(self.endpoint(src, src_id)),
                    (false, true) => self.hashed(self.endpoint(dst, dst_id)),
                    _ => self.symmetric(src, src_id, dst, dst_id),
                };
            }
            Ordering::Equal => {}
        }
        match (self.exposed.hold(src), self.exposed.hold(dst)) {
            (true, false) => return self.block(src_id),
            (false, true) => return self.block(dst_id),
            _ => {}
        }
        match (self.is_inside(src), self.is_inside(dst)) {
            (true, false) => self.block(src_id),
            (false, true) => self.block(dst_id),
            _ => self.symmetric(src, src_id, dst, dst_id),
        }
    }

    /// How firmly the endpoint is one side of a translation.
    fn fixed(&self, address: IpAddr, protocol: u8, port: u16) -> Fixed {
        if self.statics.hold((address, protocol, port)) || self.networks.hold(address) {
            Fixed::Itself
        } else if self.anywhere.hold((protocol, port)) {
            Fixed::ByPort
        } else {
            Fixed::No
        }
    }

    /// Whether the address lies in the inside prefixes.
    fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.inside_v4.hold(address.into()),
            IpAddr::V6(address) => self.inside_v6.hold(address.into()),
        }
    }

    /// Whether the address lies in the inside prefixes and connections do not appear behind it.
    pub fn is_host_inside(&self, address: IpAddr) -> bool {
        self.is_inside(address) && !self.is_external(address)
    }

    /// The worker at the sum of the blocks of two ports.
    fn joint(&self, one: u16, other: u16) -> WorkerId {
        let sum = u16::from(self.block(one).0) + u16::from(self.block(other).0);
        WorkerId((sum % u16::from(self.workers)) as u8)
    }

    /// Hash of one endpoint.
    fn endpoint(&self, address: IpAddr, id: u16) -> u64 {
        let address = wide(address);
        self.key.hash_words(&[(address >> 64) as u64, address as u64, u64::from(id)])
    }

    /// Hash of both endpoints, the same whichever is the source.
    fn symmetric(&self, src: IpAddr, src_id: u16, dst: IpAddr, dst_id: u16) -> WorkerId {
        self.hashed(self.endpoint(src, src_id) ^ self.endpoint(dst, dst_id))
    }

    fn hashed(&self, hash: u64) -> WorkerId {
        WorkerId((((hash >> 32) * u64::from(self.workers)) >> 32) as u8)
    }
}

/// What an address is.
mod role {
    /// Connections appear behind it.
    pub(super) const EXTERNAL: u8 = 1 << 0;
    /// It lies in the inside prefixes.
    pub(super) const INSIDE: u8 = 1 << 1;
    /// A forward or a nat rule may be about an endpoint with it.
    pub(super) const TRANSLATED: u8 = 1 << 2;
    /// Connections appear behind it, and mappings are endpoint-independent.
    pub(super) const MAPPED: u8 = 1 << 3;
}

/// What every IPv4 address is: where another kind begins, and what that is. One search for what is asked of every packet.
#[derive(Debug, Default)]
struct Roles(Box<[(u32, u8)]>);

impl Roles {
    /// As the rest of `steering` says.
    fn of(steering: &Steering) -> Self {
        let mut begins = vec![0];
        let mut range = |first: IpAddr, last: IpAddr| {
            if let (IpAddr::V4(first), IpAddr::V4(last)) = (first, last) {
                begins.push(u32::from(first));
                begins.extend(u32::from(last).checked_add(1));
            }
        };
        for ranges in [&steering.networks, &steering.pools, &steering.exposed] {
            ranges.0.iter().for_each(|&(first, last)| range(first, last));
        }
        for &((first, ..), (last, ..)) in &steering.statics.0 {
            range(first, last);
        }
        let of_v4 = |address: u32| IpAddr::from(Ipv4Addr::from(address));
        steering.ours_v4.iter().for_each(|&own| range(of_v4(own), of_v4(own)));
        steering.inside_v4.0.iter().for_each(|&(first, last)| range(of_v4(first), of_v4(last)));
        begins.sort_unstable();
        begins.dedup();

        let is_named = |address: IpAddr| {
            let statics = &steering.statics.0;
            // Each is of one address.
            let after = statics.partition_point(|&((of, ..), _)| of <= address);
            statics[..after].last().is_some_and(|&((of, ..), _)| of == address)
        };
        let role = |begin: u32| {
            let address = of_v4(begin);
            let translated = !steering.anywhere.0.is_empty()
                || is_named(address)
                || steering.networks.hold(address)
                || steering.exposed.hold(address);
            let mut role = 0;
            for (is, bit) in [
                (steering.is_external(address), role::EXTERNAL),
                (steering.is_inside(address), role::INSIDE),
                (translated, role::TRANSLATED),
                (steering.mapped && steering.is_external(address), role::MAPPED),
            ] {
                role |= if is { bit } else { 0 };
            }
            (begin, role)
        };
        let mut roles: Vec<(u32, u8)> = begins.into_iter().map(role).collect();
        roles.dedup_by_key(|&mut (_, role)| role);
        Self(roles.into())
    }

    #[inline]
    fn at(&self, address: u32) -> u8 {
        let after = self.0.partition_point(|&(begin, _)| begin <= address);
        self.0[..after].last().map_or(0, |&(_, role)| role)
    }
}

/// How firmly an endpoint is one side of a translation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fixed {
    /// Not at all.
    No,
    /// A rule is for its port, of whatever address.
    ByPort,
    /// A forward or rule names it.
    Itself,
}

/// Ranges of keys, both ends in them, sorted and disjoint: every packet asks, so asking is one binary
/// search however many there are.
#[derive(Debug, PartialEq, Eq)]
struct Ranges<K>(Box<[(K, K)]>);

impl<K: Copy + Ord> Ranges<K> {
    /// What `ranges` hold together; they may overlap, and come in any order.
    fn of(ranges: impl Iterator<Item = (K, K)>) -> Self {
        let mut sorted: Vec<(K, K)> = ranges.filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(K, K)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged.into())
    }

    #[inline]
    fn hold(&self, key: K) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= key);
        self.0[..after].last().is_some_and(|&(_, last)| key <= last)
    }
}

/// An address as a number; an IPv4 one stands in the low 32 bits.
fn wide(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn both_ends(addresses: &Addresses) -> (IpAddr, IpAddr) {
    (addresses.first, addresses.last)
}

/// First and last address of an IPv4 network.
fn network_v4(network: &InterfaceAddress) -> Option<(u32, u32)> {
    let IpAddr::V4(address) = network.address else { return None };
    let host = u32::MAX.checked_shr(u32::from(network.length)).unwrap_or(0);
    let address = u32::from(address);
    Some((address & !host, address | host))
}

/// First and last address of an IPv6 network.
fn network_v6(network: &InterfaceAddress) -> Option<(u128, u128)> {
    let IpAddr::V6(address) = network.address else { return None };
    let host = u128::MAX.checked_shr(u32::from(network.length)).unwrap_or(0);
    let address = u128::from(address);
    Some((address & !host, address | host))
}

/// The worker whose block a port lies in. Ports go to workers in pairs, so that RTP and RTCP (an even port and the next) stay
/// together.
#[inline]
pub const fn block_of(port: u16, workers: u8) -> u8 {
    ((port / 2) % workers as u16) as u8
}

/// Whether the protocol's tuples carry ports or identifiers.
#[inline]
pub const fn has_ids(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP
            | protocol::UDP
            | protocol::ICMP
            | protocol::ICMPV6
            | protocol::SCTP
            | protocol::UDP_LITE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    fn steering(statics: Vec<StaticEndpoint>, inside: Vec<InterfaceAddress>) -> Steering {
        let key = SipKey([1, 2]);
        Steering::new(Inputs { workers: 4, key, ours: Vec::new(), statics, inside })
    }

    /// Eight bits of address space in either family, the last of 32 or 128, so that ranges nest, touch and
    /// reach both ends of it.
    fn address(v4: bool, low: u8) -> IpAddr {
        let all = u128::MAX << 8 | u128::from(low);
        if v4 { Ipv4Addr::from(all as u32).into() } else { Ipv6Addr::from(all).into() }
    }

    proptest! {
        #[test]
        fn inside_is_what_any_of_the_prefixes_holds(
            prefixes in proptest::collection::vec((any::<bool>(), any::<u8>(), 0u8..=8), 0..12),
            with_default in prop::option::of(any::<bool>()),
            probe in (any::<bool>(), any::<u8>()),
        ) {
            let network = |&(v4, low, length): &(bool, u8, u8)| {
                let length = length + if v4 { 24 } else { 120 };
                InterfaceAddress { address: address(v4, low), length }
            };
            let mut inside: Vec<InterfaceAddress> = prefixes.iter().map(network).collect();
            let everything = |v4| InterfaceAddress { address: address(v4, 1), length: 0 };
            inside.extend(with_default.map(everything));
            let steering = steering(Vec::new(), inside.clone());
            for probe in [address(probe.0, probe.1), "10.0.0.1".parse().unwrap()] {
                let any = inside.iter().any(|network| network.holds(probe));
                prop_assert_eq!(steering.is_inside(probe), any);
            }
        }

        /// The short way says nothing else than the long one, whatever ranges touch, nest or reach the ends of the space.
        #[test]
        fn roles_lead_to_the_same_owner(
            ours in proptest::collection::vec(0u8..40, 0..4),
            ranges in proptest::collection::vec((0u8..3, 0u8..40, 0u8..12), 0..6),
            inside in proptest::collection::vec((0u8..40, 0u8..=8), 0..3),
            forwards in proptest::collection::vec((0u8..40, 0u16..8), 0..3),
            anywhere in prop::option::of(0u16..8),
            mapped in any::<bool>(),
            probes in proptest::collection::vec((0u8..44, 0u8..44, 0u16..10, 0u16..10), 64),
        ) {
            // Forty addresses, half at each end of the space.
            let address = |low: u8| -> IpAddr {
                let low = u32::from(low);
                Ipv4Addr::from(if low < 20 { low } else { low.wrapping_sub(40) }).into()
            };
            let endpoint = |&(low, port): &(u8, u16)| StaticEndpoint {
                address: address(low),
                protocol: protocol::UDP,
                first: port,
                last: port + 2,
            };
            let mut nat = NatSides { mapped, ..NatSides::default() };
            for &(kind, low, more) in &ranges {
                let (a, b) = (address(low), address((low + more).min(39)));
                let range = Addresses { first: a.min(b), last: a.max(b) };
                match kind {
                    0 => nat.pools.push(range),
                    1 => nat.networks.push(range),
                    _ => nat.exposed.push(range),
                }
            }
            nat.anywhere.extend(anywhere.map(|port| (protocol::UDP, port, port + 1)));
            let inside = inside
                .iter()
                .map(|&(low, length)| InterfaceAddress { address: address(low), length: 24 + length });
            let inputs = Inputs {
                workers: 5,
                key: SipKey([1, 2]),
                ours: ours.iter().copied().map(address).collect(),
                statics: forwards.iter().map(endpoint).collect(),
                inside: inside.collect(),
            };
            let steering = Steering::with_nat(inputs, &nat);
            for (src, dst, src_port, dst_port) in probes {
                let (src, dst) = (address(src), address(dst));
                let tuple = Tuple::new(src, dst, src_port, dst_port, protocol::UDP).unwrap();
                prop_assert_eq!(steering.owner(&tuple), steering.owner_by_endpoints(&tuple));
            }
        }

        #[test]
        fn static_is_what_any_of_the_forwards_holds(
            forwards in proptest::collection::vec(
                (any::<bool>(), 0u8..3, any::<bool>(), 0u16..40, 0u16..12, any::<bool>()), 0..16),
            probe in (any::<bool>(), 0u8..3, any::<bool>(), 0u16..64, any::<bool>()),
        ) {
            let protocol_of = |udp| if udp { protocol::UDP } else { protocol::TCP };
            // Ports at the low end and at the high one.
            let port = |high: bool, port: u16| if high { u16::MAX - port } else { port };
            let statics: Vec<StaticEndpoint> = forwards
                .iter()
                .map(|&(v4, low, udp, first, more, high)| {
                    let (a, b) = (port(high, first), port(high, first + more));
                    let (first, last) = (a.min(b), a.max(b));
                    let protocol = protocol_of(udp);
                    StaticEndpoint { address: address(v4, low), protocol, first, last }
                })
                .collect();
            let steering = steering(statics.clone(), Vec::new());
            let (address, protocol) = (address(probe.0, probe.1), protocol_of(probe.2));
            let port = port(probe.4, probe.3);
            let any = statics.iter().any(|s| {
                (s.address, s.protocol) == (address, protocol) && (s.first..=s.last).contains(&port)
            });
            prop_assert_eq!(steering.is_static(address, protocol, port), any);
        }
    }

    #[test]
    fn ranges_that_overlap_become_one() {
        let forward = |port: u16| StaticEndpoint {
            address: address(true, 1),
            protocol: protocol::TCP,
            first: port,
            last: port + 1,
        };
        // One wide range over many small ones: a search that looks at all that begin before a port looks far.
        let mut statics: Vec<StaticEndpoint> = (1..2_000).map(|i| forward(i * 3)).collect();
        statics.push(StaticEndpoint { last: 100, ..forward(1) });
        let steering = steering(statics, Vec::new());
        assert_eq!(steering.statics.0.len(), 2_000 - 33, "what the wide one covers is one with it");
        assert!(steering.is_static(address(true, 1), protocol::TCP, 5_998));
        assert!(!steering.is_static(address(true, 1), protocol::TCP, 5_999));
        assert!(!steering.is_static(address(true, 1), protocol::UDP, 5_998));
    }
}
