//! Which worker owns a packet.
//!
//! Both directions of a connection must meet on one worker without a shared table, whatever the
//! device's RSS does. The owner is a pure function of the packet's two endpoints and of the steering
//! part of the snapshot, never of the interface it came in by. In this order:
//!
//! - (a) an endpoint is ours and not static: `block[its port]`, destination first;
//! - (b) exactly one endpoint is static: hash of the other one; both: symmetric hash of both;
//! - (c) exactly one endpoint lies in the inside prefixes: `block[its port]`;
//! - (d) otherwise: symmetric hash of both.
//!
//! "Ours" is any address of the appliance; "static" the outside or inside side of a port forward.
//! A worker takes external ports only from its own blocks, never a static one: so replies to a
//! translated connection meet their owner by (a), and an inside port names the same worker inside
//! (c) and out (a), which is what makes port preservation work.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::{Tuple, protocol};
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

/// The steering part of a snapshot.
#[derive(Debug)]
pub struct Steering {
    workers: u8,
    key: SipKey,
    ours: Box<[IpAddr]>,
    statics: Box<[StaticEndpoint]>,
    inside: Box<[InterfaceAddress]>,
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
    pub fn new(mut inputs: Inputs) -> Self {
        assert!((1..=WORKERS_MAX).contains(&usize::from(inputs.workers)));
        inputs.ours.sort();
        inputs.ours.dedup();
        inputs.statics.sort();
        inputs.statics.dedup();
        // Ports go to workers in pairs, so that RTP and RTCP (an even port and the next) stay together.
        let owner = |port: u16| ((port / 2) % u16::from(inputs.workers)) as u8;
        let ports = |worker| (0..=u16::MAX).filter(|&port| owner(port) == worker).collect();
        Self {
            workers: inputs.workers,
            key: inputs.key,
            ours: inputs.ours.into(),
            statics: inputs.statics.into(),
            inside: inputs.inside.into(),
            block: (0..=u16::MAX).map(owner).collect(),
            ports: (0..inputs.workers).map(ports).collect(),
        }
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
        self.ours.binary_search(&address).is_ok()
    }

    /// Whether the endpoint is one side of a port forward.
    pub fn is_static(&self, address: IpAddr, protocol: u8, port: u16) -> bool {
        let upper = self
            .statics
            .partition_point(|s| (s.address, s.protocol, s.first) <= (address, protocol, port));
        // Ranges of one address and protocol may overlap (two forwards to one server): look at all
        // that begin at or before the port.
        self.statics[..upper]
            .iter()
            .rev()
            .take_while(|s| (s.address, s.protocol) == (address, protocol))
            .any(|s| s.last >= port)
    }

    /// Whether the appliance has the same addresses in both.
    pub fn has_addresses_of(&self, other: &Self) -> bool {
        self.ours == other.ours
    }

    /// Whether the two would steer every packet alike.
    pub fn same_inputs(&self, other: &Self) -> bool {
        self.workers == other.workers
            && self.key == other.key
            && self.ours == other.ours
            && self.statics == other.statics
            && self.inside == other.inside
    }

    /// The worker that owns packets of this tuple, in either direction.
    #[inline]
    pub fn owner(&self, tuple: &Tuple) -> WorkerId {
        if self.workers == 1 { WorkerId(0) } else { self.owner_of_several(tuple) }
    }

    fn owner_of_several(&self, tuple: &Tuple) -> WorkerId {
        let protocol = tuple.protocol();
        if !has_ids(protocol) {
            return WorkerId(protocol % self.workers);
        }
        let (src, dst) = (tuple.src(), tuple.dst());
        let (src_id, dst_id) = (tuple.src_id(), tuple.dst_id());
        let dst_static = self.is_static(dst, protocol, dst_id);
        let src_static = self.is_static(src, protocol, src_id);
        if !dst_static && self.is_ours(dst) {
            return self.block(dst_id);
        }
        if !src_static && self.is_ours(src) {
            return self.block(src_id);
        }
        match (src_static, dst_static) {
            (true, false) => return self.hashed(self.endpoint(dst, dst_id)),
            (false, true) => return self.hashed(self.endpoint(src, src_id)),
            (true, true) => return self.symmetric(src, src_id, dst, dst_id),
            (false, false) => {}
        }
        let inside = |address| self.inside.iter().any(|network| network.holds(address));
        match (inside(src), inside(dst)) {
            (true, false) => self.block(src_id),
            (false, true) => self.block(dst_id),
            _ => self.symmetric(src, src_id, dst, dst_id),
        }
    }

    /// Hash of one endpoint.
    fn endpoint(&self, address: IpAddr, id: u16) -> u64 {
        let wide = match address {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        let words = [(wide >> 64) as u64, wide as u64, u64::from(id)];
        self.key.hash_words(&words)
    }

    /// Hash of both endpoints, the same whichever is the source.
    fn symmetric(&self, src: IpAddr, src_id: u16, dst: IpAddr, dst_id: u16) -> WorkerId {
        self.hashed(self.endpoint(src, src_id) ^ self.endpoint(dst, dst_id))
    }

    fn hashed(&self, hash: u64) -> WorkerId {
        WorkerId((((hash >> 32) * u64::from(self.workers)) >> 32) as u8)
    }
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
