//! What a worker reads: a handle of immutable parts, swapped whole.
//!
//! Control builds a new [`Snapshot`] for every change, reusing the parts that did not change, and
//! hands it to the workers; it keeps a part until every worker runs on a newer one, so a worker never
//! frees memory. What a connection keeps of a snapshot, its decisions and its way out, it keeps with the
//! [`Stamps`] of the parts they were made from; where these are others now, it is made again on its next
//! packet. Forwards and timeouts have none: they are asked for first packets, and at every packet.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::net::IpAddr;

use arrayvec::ArrayVec;

use crate::conntrack::pressure::Pressure;
use crate::conntrack::tcp::TcpPolicy;
use crate::conntrack::timeouts::{TimeoutPolicies, TimeoutPolicyId, Timeouts};
use crate::conntrack::tuple::Tuple;
use crate::forward::{Neighbours, Routes};
use crate::helper::Helpers;
use crate::helper::expect::Expectations;
use crate::nat::NatRules;
use crate::nat::mapping::Mappings;
use crate::nat::trigger::Triggers;
use crate::rules::{Independence, Policy};
use crate::steering::Steering;
use crate::units::{Generation, InterfaceId, Mac, Stamps, WorkerId};

/// Most older steering epochs that are kept. With so many, every worker is asked for connections that none of them
/// leads to: even older ones may have been let go of.
pub const EPOCHS_MAX: usize = 7;

/// Everything a worker needs to judge and translate, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which snapshot this is.
    pub generation: Generation,
    /// Which policy, and which routes and addresses: [`following`](Self::following) sets them.
    pub stamps: Stamps,
    /// Counts the changes after which every connection is looked at once, used or not.
    pub reviews: u32,
    /// How often idle timeouts have changed: then no connection may be idle for longer than they say now.
    pub timeout_changes: u32,
    /// Interfaces and their addresses.
    pub interfaces: Arc<Interfaces>,
    /// The rules.
    pub policy: Arc<Policy>,
    /// Port forwards and masquerading.
    pub nat: Arc<NatRules>,
    /// Which worker owns which packet.
    pub steering: Arc<Steering>,
    /// The steering of older epochs whose connections may live on, newest first.
    pub older_steering: ArrayVec<Arc<Steering>, EPOCHS_MAX>,
    /// Routes.
    pub routes: Arc<Routes>,
    /// Neighbours, updated in place.
    pub neighbours: Arc<Neighbours>,
    /// Port triggers, with who holds them, changed in place by the workers.
    pub triggers: Arc<Triggers>,
    /// Connections that helpers expect, changed in place by the workers.
    pub expectations: Arc<Expectations>,
    /// Endpoint-independent mappings, changed in place by the workers.
    pub mappings: Arc<Mappings>,
    /// Idle timeouts.
    pub timeouts: Arc<Timeouts>,
    /// What some connections have in their place.
    pub timeout_policies: Arc<TimeoutPolicies>,
    /// Switches.
    pub options: Options,
}

impl Snapshot {
    /// Numbers this snapshot as the one after `before`, by which of its parts are others.
    #[must_use]
    pub fn following(mut self, before: &Self) -> Self {
        self.generation = before.generation.next();
        self.stamps = before.stamps;
        if !Arc::ptr_eq(&self.policy, &before.policy) {
            self.stamps.policy = Stamps::after(before.stamps.policy);
        }
        let same_addresses = self.steering.has_addresses_of(&before.steering);
        let same_way = same_addresses
            && self.interfaces == before.interfaces
            && Arc::ptr_eq(&self.routes, &before.routes)
            && Arc::ptr_eq(&self.neighbours, &before.neighbours);
        if !same_way {
            self.stamps.way = Stamps::after(before.stamps.way);
        }
        // Half way round the stamps, those from before half way are cleared.
        let half = |now: u16, then: u16| (now ^ then) & 0x8000 != 0;
        let stale = half(self.stamps.policy, before.stamps.policy)
            || half(self.stamps.way, before.stamps.way);
        let same_timeouts =
            self.timeouts == before.timeouts && self.timeout_policies == before.timeout_policies;
        self.timeout_changes = before.timeout_changes.wrapping_add(u32::from(!same_timeouts));
        // A ledger begins with nothing counted.
        let recount = self.policy.ledger().is_some() && self.stamps.policy != before.stamps.policy;
        let review = stale || recount || !same_addresses || !same_timeouts;
        self.reviews = before.reviews.wrapping_add(u32::from(review));
        self
    }

    /// The general terms.
    #[inline]
    pub fn terms(&self) -> Terms<'_> {
        Terms { timeouts: &self.timeouts, tcp: &self.options.tcp }
    }

    /// The terms of connections with this policy: the general ones, if it is gone.
    pub fn terms_of(&self, id: TimeoutPolicyId) -> Terms<'_> {
        match self.timeout_policies.get(id) {
            Some(policy) => Terms { timeouts: &policy.timeouts, tcp: &policy.tcp },
            None => self.terms(),
        }
    }

    /// How many of the older steering epochs, newest first, it takes to find a connection of worker `holder`, whatever
    /// the direction of the packet; `tuples` are as packets of each arrive.
    pub fn epochs_needed(&self, holder: WorkerId, tuples: [&Tuple; 2]) -> usize {
        let needed = |tuple| {
            let mut epochs = core::iter::once(&self.steering).chain(&self.older_steering);
            let found = epochs.position(|steering| steering.owner(tuple) == holder);
            let asks_everybody = self.older_steering.is_full();
            found.unwrap_or(if asks_everybody { EPOCHS_MAX } else { 0 })
        };
        tuples.into_iter().map(needed).max().unwrap_or(0)
    }
}

/// By what a connection lives.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Its idle timeouts.
    pub timeouts: &'a Timeouts,
    /// Mid-stream pick-up and window checks.
    pub tcp: &'a TcpPolicy,
}

/// Switches of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Mid-stream pick-up and window checks.
    pub tcp: TcpPolicy,
    /// Verify transport checksums (nf_conntrack_checksum). A packet whose checksum is wrong is INVALID.
    pub verify_checksums: bool,
    /// Count packets and bytes of each connection (nf_conntrack_acct).
    pub accounting: bool,
    /// Which helpers connections get by the port of their server.
    pub helpers: Helpers,
    /// What is done about a table that fills up.
    pub pressure: Pressure,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tcp: TcpPolicy::default(),
            verify_checksums: true,
            accounting: true,
            helpers: Helpers::NONE,
            pressure: Pressure::default(),
        }
    }
}

/// How strictly the source of a first packet is held against the routes (net.ipv4.conf.*.rp_filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReversePath {
    /// The best route back must lead out of the ingress interface (RFC 3704 §2.2).
    #[default]
    Strict,
    /// There must be a route back (RFC 3704 §2.4).
    Loose,
    /// Not checked.
    Off,
}

/// An address of an interface with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The appliance's address.
    pub address: IpAddr,
    /// Prefix length of its network.
    pub length: u8,
}

impl InterfaceAddress {
    /// Whether `other` lies in the same network.
    pub fn holds(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let shift = 32 - u32::from(self.length.min(32));
                (u32::from(a) ^ u32::from(b)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let shift = 128 - u32::from(self.length.min(128));
                (u128::from(a) ^ u128::from(b)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its MAC, which is its TAP's.
    pub mac: Mac,
    /// Further MACs accepted: those of devices on top of the TAP (VRRP, macvlan).
    pub other_macs: Box<[Mac]>,
    /// Whether any destination MAC is accepted.
    pub promiscuous: bool,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Whether it is up and has carrier.
    pub up: bool,
    /// IPv4 leaving by it is translated to one of its addresses.
    pub masquerade: bool,
    /// Whether that depends on the destination: see [`Independence`].
    pub independent: Option<Independence>,
    /// What TCP peers that talk through it are told to send at most.
    pub clamp_mss: Option<ClampMss>,
    /// A DHCP client runs on its TAP: server replies pass before any state or rule.
    pub dhcp: bool,
    /// See [`ReversePath`].
    pub reverse_path: ReversePath,
    /// The conntrack zone of the packets that come in by it, and of the host's own that leave by it: 0, or another one where
    /// its network uses addresses that others use too.
    pub zone: u16,
    /// Its addresses; the first of a family is its primary one.
    pub addresses: Box<[InterfaceAddress]>,
}

/// How the maximum segment size in SYNs that are forwarded in or out by an interface is lowered (netfilter's TCPMSS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClampMss {
    /// To what fits the smaller MTU of the ways there and back (`--clamp-mss-to-pmtu`).
    ToMtu,
    /// To this many bytes (`--set-mss`, which never raises it either).
    To(u16),
}

impl Interface {
    /// The address to answer or masquerade from, towards `next_hop`: one of its network if there is
    /// one, else the first global one of its family (as the kernel's inet_select_addr).
    pub fn address_towards(&self, next_hop: IpAddr) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(|a| a.address.is_ipv4() == next_hop.is_ipv4());
        family()
            .find(|a| a.holds(next_hop))
            .or_else(|| family().find(|a| !is_link_local(a.address)))
            .or_else(|| family().next())
            .map(|a| a.address)
    }
}

/// Whether an address is of link-local scope (RFC 3927, RFC 4291 §2.5.6).
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// All interfaces, by [`InterfaceId`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Interfaces(pub Box<[Interface]>);

impl Interfaces {
    /// The interface, unless the id is [`InterfaceId::NONE`] or unknown.
    #[inline]
    pub fn get(&self, id: InterfaceId) -> Option<&Interface> {
        self.0.get(id.index())
    }
}
