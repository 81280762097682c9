//! Where scripts are played, and who talks to whom in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use postern_core::conntrack::tuple::protocol;
use postern_core::rules::Family;

/// The appliance's address on the LAN.
pub(super) fn lan_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1).into(),
    }
}

/// The appliance's address on the WAN.
pub(super) fn wan_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, 2).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2).into(),
    }
}

/// A port forward from the WAN: protocol, port, host, its port.
pub(super) const FORWARDS: [(u8, u16, u8, u16); 5] = [
    (protocol::TCP, 8080, 0, 80),
    (protocol::TCP, 2222, 1, 2222),
    (protocol::UDP, 5353, 0, 53),
    (protocol::SCTP, 2905, 0, 3868),
    (protocol::UDP_LITE, 5354, 1, 54),
];
/// Hosts of a slot inside that forwards lead to or flows come from; the one after them is a router.
pub(super) const HOSTS: u8 = 3;
/// Of a slot's addresses outside: two peers, a router, a stranger.
pub(super) const ROUTER: u8 = 2;
/// See [`ROUTER`].
pub(super) const STRANGER: u8 = 3;
/// Addresses of a slot on either side.
pub(super) const PARTIES: u8 = 4;

/// A side of the appliance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Side {
    Lan,
    Wan,
}

/// Where a script is played: scripts in different slots share no address but the appliance's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// How many there are.
    pub(super) const COUNT: u16 = 512;
    const LAN: [u32; 2] = [0x0a01_0000, 0x0001_0000]; // 10.1.0.0, 2001:db8:1::1:0
    const WAN: [u32; 2] = [0xc612_0000, 0x0002_0000]; // 198.18.0.0 (RFC 2544), 2001:db8:f::2:0
    const LAN_NETWORK: u128 = 0x2001_0db8_0001 << 80;
    const WAN_NETWORK: u128 = 0x2001_0db8_000f << 80;

    /// An inside address of the slot.
    pub(super) fn host(self, family: Family, number: u8) -> IpAddr {
        self.address(family, Self::LAN_NETWORK, Self::LAN, number)
    }

    /// An outside address of the slot.
    pub(super) fn peer(self, family: Family, number: u8) -> IpAddr {
        self.address(family, Self::WAN_NETWORK, Self::WAN, number)
    }

    fn address(self, family: Family, network: u128, bases: [u32; 2], number: u8) -> IpAddr {
        let low = bases[family.index()] + u32::from(self.0) * 8 + u32::from(number);
        match family {
            Family::V4 => Ipv4Addr::from(low).into(),
            Family::V6 => Ipv6Addr::from(network | u128::from(low)).into(),
        }
    }

    /// Whose address it is.
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        let (family, low) = match address {
            IpAddr::V4(address) => (Family::V4, u32::from(address)),
            IpAddr::V6(address) => (Family::V6, u128::from(address) as u32),
        };
        let slots = [Self::WAN, Self::LAN].map(|bases| {
            let number = low.checked_sub(bases[family.index()])? / 8;
            (number < u32::from(Self::COUNT)).then_some(Self(number as u16))
        });
        let mut slots = slots.into_iter().flatten();
        slots.find(|slot| {
            (0..8).any(|n| [slot.host(family, n), slot.peer(family, n)].contains(&address))
        })
    }
}

/// From where to where a flow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// A host is the client of a peer, and appears behind the WAN's address.
    Outward,
    /// A host is the client of a peer, and appears as itself: IPv6, if it is not translated.
    Routed,
    /// A peer is the client of a host, by this port of the WAN's address.
    Inward(u16),
    /// A host (numbered as the flow's `peer`) is the client of a host, by this port of the WAN's address.
    Hairpin(u16),
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) family: Family,
    pub(super) protocol: u8,
    pub(super) course: Course,
    pub(super) host: u8,
    /// Port, or identifier of a query.
    pub(super) host_port: u16,
    pub(super) peer: u8,
    pub(super) peer_port: u16,
}

/// Source and destination.
pub(super) type Ends = (SocketAddr, SocketAddr);

impl Flow {
    /// The forwarded port that it goes by.
    pub(super) fn forward(&self) -> Option<u16> {
        match self.course {
            Course::Outward | Course::Routed => None,
            Course::Inward(port) | Course::Hairpin(port) => Some(port),
        }
    }

    /// Where a packet enters; `back` means from server to client.
    pub(super) fn enters(&self, back: bool) -> Side {
        match (self.course, back) {
            (Course::Hairpin(_), _)
            | (Course::Outward | Course::Routed, false)
            | (Course::Inward(_), true) => Side::Lan,
            (Course::Outward | Course::Routed, true) | (Course::Inward(_), false) => Side::Wan,
        }
    }

    /// Where it leaves.
    pub(super) fn leaves(&self, back: bool) -> Side {
        self.enters(!back)
    }

    /// The client's own port, and the address of the appliance that it appears behind, if any.
    pub(super) fn translated(&self) -> Option<(u16, IpAddr)> {
        match self.course {
            Course::Outward => Some((self.host_port, wan_address(self.family))),
            Course::Routed | Course::Inward(_) => None,
            Course::Hairpin(_) => Some((self.peer_port, lan_address(self.family))),
        }
    }

    /// Client and server as the client knows them.
    fn at_client(&self, slot: Slot) -> Ends {
        let family = self.family;
        let dialled = self.forward().map(|port| SocketAddr::from((wan_address(family), port)));
        let peer = SocketAddr::from((slot.peer(family, self.peer), self.peer_port));
        let client = match self.course {
            Course::Outward | Course::Routed => {
                (slot.host(family, self.host), self.host_port).into()
            }
            Course::Inward(_) => peer,
            Course::Hairpin(_) => (slot.host(family, self.peer), self.peer_port).into(),
        };
        (client, dialled.unwrap_or(peer))
    }

    /// Client and server as the server knows them. A client whose external port was not chosen yet (`chosen`) appears
    /// behind one that is nobody's.
    fn at_server(&self, slot: Slot, chosen: Option<u16>) -> Ends {
        let (client, _) = self.at_client(slot);
        let server = match self.course {
            Course::Outward | Course::Routed => (slot.peer(self.family, self.peer), self.peer_port),
            _ => (slot.host(self.family, self.host), self.host_port),
        };
        let seen = self
            .translated()
            .map(|(own, address)| SocketAddr::from((address, chosen.unwrap_or(own ^ 0x4000))));
        (seen.unwrap_or(client), server.into())
    }

    /// A packet's ends as it enters.
    pub(super) fn near(&self, slot: Slot, chosen: Option<u16>, back: bool) -> Ends {
        if back { swapped(self.at_server(slot, chosen)) } else { self.at_client(slot) }
    }

    /// A packet's ends as it leaves.
    pub(super) fn far(&self, slot: Slot, chosen: Option<u16>, back: bool) -> Ends {
        if back { swapped(self.at_client(slot)) } else { self.at_server(slot, chosen) }
    }

    /// Whether an external port that one of them has cannot be the other's: same protocol, server, and port of the client;
    /// where that is a forwarded one, also the flow of the host and port that it leads to.
    pub(super) fn is_rival_of(&self, other: &Flow) -> bool {
        let server = |f: &Flow| match f.course {
            Course::Hairpin(_) => (f.family, f.protocol, true, f.host, f.host_port),
            _ => (f.family, f.protocol, false, f.peer, f.peer_port),
        };
        let port = |f: &Flow| match f.course {
            Course::Hairpin(_) => f.peer_port,
            _ => f.host_port,
        };
        let target = FORWARDS.iter().find(|f| (f.0, f.1) == (other.protocol, other.host_port));
        let is_target = target.is_some_and(|to| (self.host, self.host_port) == (to.2, to.3));
        server(self) == server(other) && (port(self) == port(other) || is_target)
    }
}

fn swapped((a, b): Ends) -> Ends {
    (b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_knows_its_addresses() {
        for family in Family::ALL {
            for number in [0, 1, 511] {
                let slot = Slot(number);
                assert_eq!(Slot::of(slot.host(family, 3)), Some(slot));
                assert_eq!(Slot::of(slot.peer(family, 0)), Some(slot));
            }
            assert_eq!(Slot::of(lan_address(family)), None);
            assert_eq!(Slot::of(wan_address(family)), None);
        }
    }

    #[test]
    fn both_ends_of_a_flow_see_what_translation_leaves_them() {
        let flow = |course| Flow {
            family: Family::V4,
            protocol: protocol::TCP,
            course,
            host: 0,
            host_port: 80,
            peer: 1,
            peer_port: 5000,
        };
        let ends = |a: &str, b: &str| (a.parse().expect("one"), b.parse().expect("one"));
        let slot = Slot(0);
        let out = flow(Course::Outward);
        assert_eq!(out.near(slot, None, false), ends("10.1.0.0:80", "198.18.0.1:5000"));
        assert_eq!(out.far(slot, Some(99), false), ends("203.0.113.2:99", "198.18.0.1:5000"));
        assert_eq!(out.near(slot, Some(99), true), ends("198.18.0.1:5000", "203.0.113.2:99"));
        let inward = flow(Course::Inward(8080));
        assert_eq!(inward.near(slot, None, false), ends("198.18.0.1:5000", "203.0.113.2:8080"));
        assert_eq!(inward.far(slot, None, false), ends("198.18.0.1:5000", "10.1.0.0:80"));
        let hairpin = flow(Course::Hairpin(8080));
        assert_eq!(hairpin.near(slot, None, false), ends("10.1.0.1:5000", "203.0.113.2:8080"));
        assert_eq!(hairpin.far(slot, Some(99), false), ends("10.0.0.1:99", "10.1.0.0:80"));
        assert_eq!(hairpin.far(slot, Some(99), true), ends("203.0.113.2:8080", "10.1.0.1:5000"));
        let routed = Flow { family: Family::V6, ..flow(Course::Routed) };
        let both = ends("[2001:db8:1::1:0]:80", "[2001:db8:f::2:1]:5000");
        assert_eq!(routed.near(slot, None, false), both);
        assert_eq!(routed.far(slot, None, false), both);
    }
}
