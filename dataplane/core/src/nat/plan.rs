//! Choosing a translation, once, for a connection's first packet.
//!
//! Mapping and filtering are address-and-port dependent (RFC 4787 §4.1, §5): what must be unique is the
//! whole reply tuple, so one external port serves many connections to different servers. The source
//! port is kept when it is free (REQ-3), stays in its class (REQ-3a: privileged or not), keeps its
//! parity while it can (REQ-4), and otherwise is picked at random (RFC 6056) among the ports that
//! belong to this worker and to no port forward.

use core::net::IpAddr;

use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::{Tuple, protocol};
use crate::rules::Ports;
use crate::steering::{Steering, has_ids};
use crate::units::WorkerId;

/// Ports tried before giving up; the search is bounded whatever the table holds.
const TRIES: usize = 128;

/// A source of unpredictable numbers: a keyed hash of a counter. Seeded once, by whoever makes the worker.
#[derive(Clone, Debug)]
pub struct Random {
    key: SipKey,
    count: u64,
}

impl Random {
    /// A generator whose sequence is determined by `key`.
    pub fn new(key: SipKey) -> Self {
        Self { key, count: 0 }
    }

    /// The next number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.count = self.count.wrapping_add(1);
        let number = self.key.hash_words(&[self.count]);
        ((u128::from(number) * bound as u128) >> 64) as usize
    }
}

/// Chooses the external identifier of a connection translated to `address`, any that will do.
///
/// See [`external_among`].
pub fn external(
    reply: Tuple,
    address: IpAddr,
    me: WorkerId,
    steering: &Steering,
    random: &mut Random,
    taken: impl FnMut(&Tuple) -> bool,
) -> Option<Tuple> {
    external_among(Ports::default(), reply, address, me, steering, random, taken)
}

/// Chooses the external identifier of a connection translated to `address` among `ports`.
///
/// `reply` is the connection's reply tuple so far, untranslated: its destination is the inside endpoint.
/// `taken` says whether a reply tuple is in use. Returns the reply tuple to use, or `None` if no port
/// was found free. An address that is translated one to one has every port for this one client.
pub fn external_among(
    among: Ports,
    reply: Tuple,
    address: IpAddr,
    me: WorkerId,
    steering: &Steering,
    random: &mut Random,
    mut taken: impl FnMut(&Tuple) -> bool,
) -> Option<Tuple> {
    let (wanted, protocol) = (reply.dst_id(), reply.protocol());
    let keep = reply.with_dst(address, wanted)?;
    if !has_ids(protocol) {
        // Nothing to choose: the address alone tells connections apart.
        return (!taken(&keep)).then_some(keep);
    }
    if steering.is_whole(address) && among == Ports::default() {
        return apart(keep, me, steering, random, taken);
    }
    let usable = |port: u16| !steering.is_static(address, protocol, port);
    let in_range =
        |port: u16| among.range.is_none_or(|(first, last)| (first..=last).contains(&port));
    let kept = !among.random && in_range(wanted) && steering.block(wanted) == me;
    if kept && usable(wanted) && !taken(&keep) {
        return Some(keep);
    }

    let ports = match among.range {
        Some(range) => own_of(steering, me, range),
        None => class(steering.ports(me), protocol, wanted),
    };
    let free = |port: &u16| usable(*port);
    let mut candidate = |port: u16| reply.with_dst(address, port).filter(|reply| !taken(reply));
    if ports.len() <= TRIES {
        return ports.iter().copied().filter(free).find_map(candidate);
    }
    (0..TRIES)
        .map(|attempt| {
            let port = ports[random.below(ports.len())];
            // Ports come to workers in pairs, so the other parity is this worker's too.
            let keep_parity = attempt < TRIES * 3 / 4;
            if keep_parity { port & !1 | wanted & 1 } else { port }
        })
        .filter(|port| match among.range {
            Some(_) => in_range(*port),
            None => class_holds(protocol, wanted, *port),
        })
        .filter(free)
        .find_map(&mut candidate)
}

/// Chooses another identifier for a client whose reply tuple somebody holds, among all of its class: its address is nobody
/// else's, so no worker's blocks count, but the replies have to come to `me` (Linux's null binding, and its `NETMAP`).
///
/// `reply` and `taken` as for [`external`].
pub fn apart(
    reply: Tuple,
    me: WorkerId,
    steering: &Steering,
    random: &mut Random,
    mut taken: impl FnMut(&Tuple) -> bool,
) -> Option<Tuple> {
    let (address, wanted, protocol) = (reply.dst(), reply.dst_id(), reply.protocol());
    if !taken(&reply) {
        return Some(reply);
    }
    if !has_ids(protocol) {
        return None;
    }
    let (first, last) = class_ends(protocol, wanted);
    (0..TRIES)
        .map(|_| first + random.below(usize::from(last - first) + 1) as u16)
        .filter_map(|port| reply.with_dst(address, port))
        .find(|reply| steering.owner(reply) == me && !taken(reply))
}

/// The ports of a range that belong to a worker.
pub fn own_of(steering: &Steering, me: WorkerId, (first, last): (u16, u16)) -> &[u16] {
    let ports = steering.ports(me);
    let begin = ports.partition_point(|&port| port < first);
    let end = ports.partition_point(|&port| port <= last);
    ports.get(begin..end).unwrap_or_default()
}

/// Whether a connection with source port `wanted` may be given `port`: RFC 4787 REQ-3a keeps
/// privileged ports among themselves, and 0 is no port; identifiers have no classes.
fn class_holds(protocol: u8, wanted: u16, port: u16) -> bool {
    let (first, last) = class_ends(protocol, wanted);
    (first..=last).contains(&port)
}

/// First and last port of the class of `wanted`.
fn class_ends(protocol: u8, wanted: u16) -> (u16, u16) {
    match protocol {
        protocol::ICMP | protocol::ICMPV6 => (0, u16::MAX),
        _ if wanted < 1024 => (1, 1023),
        _ => (1024, u16::MAX),
    }
}

/// The part of `ports` (sorted) that [`class_holds`] for.
fn class(ports: &[u16], protocol: u8, wanted: u16) -> &[u16] {
    let (first, last) = class_ends(protocol, wanted);
    let begin = ports.partition_point(|&port| port < first);
    let end = ports.partition_point(|&port| port <= last);
    &ports[begin..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::{Inputs, StaticEndpoint};
    use core::net::Ipv4Addr;
    use std::collections::HashSet;
    use std::vec;

    const WAN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

    fn steering(workers: u8) -> Steering {
        Steering::new(Inputs {
            workers,
            key: SipKey([3, 4]),
            ours: vec![WAN],
            statics: vec![StaticEndpoint {
                address: WAN,
                protocol: protocol::TCP,
                first: 8000,
                last: 8001,
            }],
            inside: vec![],
        })
    }

    fn reply(port: u16, protocol: u8) -> Tuple {
        let server = Ipv4Addr::new(192, 0, 2, 9).into();
        let inside = Ipv4Addr::new(192, 168, 1, 2).into();
        Tuple::new(server, inside, 443, port, protocol).unwrap()
    }

    fn pick(port: u16, protocol: u8, taken: impl FnMut(&Tuple) -> bool) -> Option<u16> {
        let steering = steering(1);
        let mut random = Random::new(SipKey([9, 9]));
        let chosen =
            external(reply(port, protocol), WAN, WorkerId(0), &steering, &mut random, taken)?;
        assert_eq!(chosen.dst(), WAN);
        Some(chosen.dst_id())
    }

    /// C075
    #[test]
    fn a_free_port_is_preserved() {
        assert_eq!(pick(40_000, protocol::TCP, |_| false), Some(40_000));
        assert_eq!(pick(0, protocol::ICMP, |_| false), Some(0), "0 is a legal identifier");
    }

    /// C073, C076
    #[test]
    fn a_taken_port_is_replaced_by_one_of_its_class_and_parity() {
        for wanted in [1, 22, 1023, 1024, 40_000, 65_535] {
            let port = pick(wanted, protocol::UDP, |t| t.dst_id() == wanted).unwrap();
            assert_ne!(port, wanted);
            assert_ne!(port, 0);
            assert_eq!(port < 1024, wanted < 1024);
            assert_eq!(port % 2, wanted % 2);
        }
    }

    /// C109: an outbound flow never takes over a forwarded port.
    #[test]
    fn a_forwarded_port_is_never_given_to_an_outbound_connection() {
        assert_ne!(pick(8000, protocol::TCP, |_| false), Some(8000));
        assert_eq!(pick(8000, protocol::UDP, |_| false), Some(8000), "another protocol is free");
    }

    /// C080: bounded search, and a defined outcome.
    #[test]
    fn when_every_port_is_taken_the_search_ends() {
        let mut asked = 0;
        let count = |_: &Tuple| {
            asked += 1;
            true
        };
        assert_eq!(pick(40_000, protocol::TCP, count), None);
        assert!(asked <= TRIES + 1, "{asked}");
    }

    #[test]
    fn every_worker_takes_ports_from_its_own_blocks_only() {
        let steering = steering(4);
        let mut random = Random::new(SipKey([1, 1]));
        for me in (0..4).map(WorkerId) {
            let mut taken = HashSet::new();
            for wanted in 1024..3024 {
                let chosen =
                    external(reply(wanted, protocol::TCP), WAN, me, &steering, &mut random, |t| {
                        taken.contains(&t.dst_id())
                    });
                let port = chosen.expect("plenty are free").dst_id();
                assert_eq!(steering.block(port), me);
                taken.insert(port);
            }
        }
    }

    /// C080: a rule's range is searched to its end, by each worker its own part, and no further.
    #[test]
    fn a_range_of_ports_is_used_up_whole() {
        for (workers, range) in [(1, (40_000, 40_001)), (4, (40_001, 40_100)), (2, (1_000, 3_000))]
        {
            let steering = steering(workers);
            let mut random = Random::new(SipKey([3, 1]));
            let mut all = HashSet::new();
            for me in (0..workers).map(WorkerId) {
                let mut taken = HashSet::new();
                let among = Ports { range: Some(range), ..Ports::default() };
                let own = own_of(&steering, me, range);
                let rounds = if own.len() <= TRIES { own.len() } else { own.len() / 4 };
                for wanted in 0..rounds {
                    let reply = reply(wanted as u16 + 1, protocol::TCP);
                    let chosen =
                        external_among(among, reply, WAN, me, &steering, &mut random, |t| {
                            taken.contains(&t.dst_id())
                        });
                    let port = chosen.expect("one is free").dst_id();
                    assert!((range.0..=range.1).contains(&port) && taken.insert(port));
                    assert_eq!(steering.block(port), me);
                }
                if own.len() <= TRIES {
                    let none = |t: &Tuple| taken.contains(&t.dst_id());
                    let wanted = reply(50_000, protocol::TCP);
                    let chosen =
                        external_among(among, wanted, WAN, me, &steering, &mut random, none);
                    assert_eq!(chosen, None);
                }
                all.extend(taken);
            }
            assert!(all.len() >= 2);
        }
    }

    #[test]
    fn a_port_asked_for_at_random_is_not_the_one_it_came_from() {
        let steering = steering(1);
        let mut random = Random::new(SipKey([9, 9]));
        let among = Ports { random: true, ..Ports::default() };
        let wanted = reply(40_000, protocol::TCP);
        let mut kept = 0;
        for _ in 0..100 {
            let chosen =
                external_among(among, wanted, WAN, WorkerId(0), &steering, &mut random, |_| false);
            kept += usize::from(chosen.expect("all are free").dst_id() == 40_000);
        }
        assert!(kept < 5, "{kept}");
    }

    #[test]
    fn protocols_without_ports_have_one_connection_to_a_server() {
        assert_eq!(pick(0, protocol::GRE, |_| false), Some(0));
        assert_eq!(pick(0, protocol::GRE, |_| true), None);
    }
}
