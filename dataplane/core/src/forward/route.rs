//! Longest prefix match over the kernel's routes.
//!
//! A compiled table is a sorted list of disjoint address intervals: a lookup is one binary search. It
//! is immutable, built anew by control on every (batched) change, and read on first packets only.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::units::{INTERFACES_MAX, InterfaceId};

/// What a route does with a packet (rtnetlink's RTN_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// Forward it.
    Unicast,
    /// The destination is the appliance.
    Local,
    /// A broadcast address of one of the appliance's networks.
    Broadcast,
    /// Refuse with "host unreachable".
    Unreachable,
    /// Refuse with "administratively prohibited".
    Prohibit,
    /// Drop silently.
    Blackhole,
}

/// One route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// What it does.
    pub kind: RouteKind,
    /// The interface it leads out of; [`InterfaceId::NONE`] if it is not one of ours.
    pub egress: InterfaceId,
    /// The gateway; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's own MTU, bytes; 0 for the interface's.
    pub mtu: u16,
}

/// A route with its destination, as control hands it in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// Network address; bits past the length are ignored.
    pub address: IpAddr,
    /// Prefix length: 0..=32 or 0..=128.
    pub length: u8,
    /// Lower wins among equal prefixes.
    pub metric: u32,
    /// What to do.
    pub route: Route,
}

/// The compiled routes, both families.
#[derive(Debug, Default)]
pub struct Routes {
    v4: Intervals,
    v6: Intervals,
    /// The routes that lead out of one interface only, by interface: a reply leaves by the
    /// interface its connection came in by.
    by_egress: Box<[(Intervals, Intervals)]>,
}

impl Routes {
    /// Compiles `prefixes`; order does not matter.
    pub fn compile(prefixes: &[Prefix]) -> Self {
        let family = |v4: bool, egress: Option<InterfaceId>| {
            let chosen = prefixes
                .iter()
                .filter(|p| p.address.is_ipv4() == v4)
                .filter(|p| egress.is_none_or(|egress| p.route.egress == egress));
            Intervals::compile(chosen.copied().collect(), if v4 { 32 } else { 128 })
        };
        let interfaces = prefixes
            .iter()
            .filter(|p| p.route.egress.index() < INTERFACES_MAX)
            .map(|p| p.route.egress.index() + 1)
            .max()
            .unwrap_or(0);
        let by_egress = (0..interfaces)
            .map(|i| InterfaceId(i as u8))
            .map(|id| (family(true, Some(id)), family(false, Some(id))))
            .collect();
        Self { v4: family(true, None), v6: family(false, None), by_egress }
    }

    /// The route of the longest prefix that holds `destination`.
    pub fn lookup(&self, destination: IpAddr) -> Option<&Route> {
        match destination {
            IpAddr::V4(_) => self.v4.lookup(key(destination)),
            IpAddr::V6(_) => self.v6.lookup(key(destination)),
        }
    }

    /// The same among the routes that lead out of `egress`.
    pub fn lookup_via(&self, destination: IpAddr, egress: InterfaceId) -> Option<&Route> {
        let (v4, v6) = self.by_egress.get(egress.index())?;
        match destination {
            IpAddr::V4(_) => v4.lookup(key(destination)),
            IpAddr::V6(_) => v6.lookup(key(destination)),
        }
    }
}

/// The address as a number, so that both families sort alike.
fn key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Disjoint intervals in order: each begins at its key and ends where the next begins.
#[derive(Debug, Default)]
struct Intervals {
    starts: Box<[u128]>,
    /// Parallel to `starts`; `None` where no prefix reaches.
    routes: Box<[Option<Route>]>,
}

impl Intervals {
    fn compile(mut prefixes: Vec<Prefix>, bits: u8) -> Self {
        // Outer prefixes before inner ones; of equal prefixes the lowest metric first.
        let masked = |p: &Prefix| key(p.address) & mask(p.length.min(bits), bits);
        prefixes.sort_by_key(|p| (masked(p), p.length, p.metric));
        prefixes.dedup_by_key(|p| (masked(p), p.length));

        let last = mask(bits, bits);
        let mut cuts: Vec<(u128, Option<Route>)> = Vec::new();
        cuts.push((0, None));
        let mut open: Vec<(u128, Route)> = Vec::new(); // enclosing prefixes: last address, route
        let close = |cuts: &mut Vec<_>, open: &mut Vec<(u128, Route)>, before: Option<u128>| {
            while let Some(&(end, _)) = open.last() {
                if before.is_some_and(|start| end >= start) {
                    break;
                }
                open.pop();
                if end < last {
                    cuts.push((end + 1, open.last().map(|&(_, route)| route)));
                }
            }
        };
        for prefix in &prefixes {
            let start = masked(prefix);
            close(&mut cuts, &mut open, Some(start));
            cuts.push((start, Some(prefix.route)));
            open.push((start | (last & !mask(prefix.length.min(bits), bits)), prefix.route));
        }
        close(&mut cuts, &mut open, None);

        // Of several cuts at one address the last one written is the innermost.
        let mut starts: Vec<u128> = Vec::with_capacity(cuts.len());
        let mut routes: Vec<Option<Route>> = Vec::with_capacity(cuts.len());
        for (start, route) in cuts {
            if starts.last() == Some(&start) {
                *routes.last_mut().expect("starts and routes grow together") = route;
            } else {
                starts.push(start);
                routes.push(route);
            }
        }
        Self { starts: starts.into(), routes: routes.into() }
    }

    fn lookup(&self, key: u128) -> Option<&Route> {
        let after = self.starts.partition_point(|&start| start <= key);
        self.routes.get(after.checked_sub(1)?)?.as_ref()
    }
}

/// The `length` highest of `bits` bits, as a number of `bits` bits.
const fn mask(length: u8, bits: u8) -> u128 {
    if length == 0 {
        return 0;
    }
    let all = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
    match all.checked_shr(length as u32) {
        Some(host) => all & !host,
        None => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    fn prefix(address: [u8; 4], length: u8, egress: u8, metric: u32) -> Prefix {
        let route =
            Route { kind: RouteKind::Unicast, egress: InterfaceId(egress), gateway: None, mtu: 0 };
        Prefix { address: Ipv4Addr::from(address).into(), length, metric, route }
    }

    /// The long way: look at every prefix.
    fn naive(prefixes: &[Prefix], address: IpAddr) -> Option<Route> {
        prefixes
            .iter()
            .filter(|p| {
                let m = mask(p.length, 32);
                key(p.address) & m == key(address) & m
            })
            .min_by_key(|p| (core::cmp::Reverse(p.length), p.metric))
            .map(|p| p.route)
    }

    #[test]
    fn longest_prefix_wins_and_the_default_catches_the_rest() {
        let routes = Routes::compile(&[
            prefix([0, 0, 0, 0], 0, 1, 0),
            prefix([10, 0, 0, 0], 8, 2, 0),
            prefix([10, 1, 0, 0], 16, 3, 0),
            prefix([255, 255, 255, 255], 32, 4, 0),
        ]);
        let egress = |a: [u8; 4]| routes.lookup(Ipv4Addr::from(a).into()).unwrap().egress.0;
        assert_eq!(egress([9, 255, 255, 255]), 1);
        assert_eq!(egress([10, 0, 255, 255]), 2);
        assert_eq!(egress([10, 1, 0, 0]), 3);
        assert_eq!(egress([10, 1, 255, 255]), 3);
        assert_eq!(egress([10, 2, 0, 0]), 2);
        assert_eq!(egress([11, 0, 0, 0]), 1);
        assert_eq!(egress([255, 255, 255, 255]), 4);
        assert_eq!(egress([255, 255, 255, 254]), 1);
        let via = routes.lookup_via(Ipv4Addr::new(10, 1, 0, 1).into(), InterfaceId(2)).unwrap();
        assert_eq!(via.egress, InterfaceId(2));
    }

    #[test]
    fn no_prefix_no_route() {
        let routes = Routes::compile(&[prefix([10, 0, 0, 0], 8, 2, 0)]);
        assert!(routes.lookup(Ipv4Addr::new(11, 0, 0, 0).into()).is_none());
        assert!(routes.lookup(Ipv4Addr::new(9, 255, 255, 255).into()).is_none());
        assert!(routes.lookup(core::net::Ipv6Addr::LOCALHOST.into()).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_the_long_way(
            given in proptest::collection::vec((any::<u8>(), 0u8..=8, 0u8..6, 0u32..3), 0..20),
            probe in any::<u8>(),
        ) {
            // Eight bits of address space, so that prefixes nest and touch often.
            let mut prefixes: Vec<Prefix> = given
                .iter()
                .map(|&(a, length, egress, metric)| prefix([a, 0, 0, 0], length, egress, metric))
                .collect();
            // Equal prefixes of equal metric have no defined winner: keep one.
            prefixes.sort_by_key(|p| (key(p.address) & mask(p.length, 32), p.length, p.metric));
            prefixes.dedup_by_key(|p| (key(p.address) & mask(p.length, 32), p.length, p.metric));
            let address = IpAddr::from(Ipv4Addr::new(probe, 0, 0, 0));
            prop_assert_eq!(Routes::compile(&prefixes).lookup(address).copied(), naive(&prefixes, address));
        }
    }
}
