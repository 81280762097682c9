//! Translation: the reply tuple *is* the NAT state.
//!
//! A connection holds two tuples. Choosing a translation, once, for the first packet, means choosing the
//! reply tuple ([`plan`]); translating a packet means writing the other tuple, inverted ([`rewrite`]).
//! Order on a first packet: destination (before routing), then source (after the rules).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::units::InterfaceId;

pub mod exhausted;
pub mod mapping;
pub mod plan;
pub mod rewrite;
pub mod trigger;

/// A port forward: connections to one of the appliance's addresses go to a host inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Control's number for it.
    pub id: u32,
    /// The interface whose address is forwarded.
    pub interface: InterfaceId,
    /// The address forwarded: one of that interface's.
    pub address: IpAddr,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// First port forwarded.
    pub first: u16,
    /// Last port forwarded.
    pub last: u16,
    /// The host inside.
    pub to: IpAddr,
    /// Its port for the first port forwarded; the others follow.
    pub to_port: u16,
}

/// All port forwards, by address, protocol and port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatRules {
    forwards: Box<[Forward]>,
}

impl NatRules {
    /// Sorts `forwards` for look-ups. Ranges of one address and protocol must not overlap: control
    /// refuses such a configuration; here the one that begins last would win.
    pub fn new(mut forwards: Vec<Forward>) -> Self {
        forwards.sort_by_key(|f| (f.address, f.protocol, f.first));
        Self { forwards: forwards.into() }
    }

    /// The forward for this destination, and where it leads.
    pub fn forward(&self, dst: IpAddr, protocol: u8, port: u16) -> Option<(&Forward, u16)> {
        let after = self
            .forwards
            .partition_point(|f| (f.address, f.protocol, f.first) <= (dst, protocol, port));
        let forward = &self.forwards[after.checked_sub(1)?];
        let matches =
            forward.address == dst && forward.protocol == protocol && forward.last >= port;
        // Validated: `to_port + (last - first)` is a port, so the sum cannot overflow.
        matches.then(|| (forward, forward.to_port.wrapping_add(port - forward.first)))
    }

    /// Every forward.
    pub fn iter(&self) -> impl Iterator<Item = &Forward> {
        self.forwards.iter()
    }
}
