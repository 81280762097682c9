//! What steering has to know of the `nat` table: the addresses and ports its rules translate to and from.
//!
//! A rule's own conditions are read, not those of the jumps that lead to it, so what is said here holds at least all that the
//! rule can translate. More than that does no harm but to how evenly connections spread; what cannot be said is left to
//! the check that each translated connection passes (`replies_elsewhere`).

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_core::rules::model::Side;
use postern_core::rules::{Addresses, Family, Hook, HookSet, Ports, TableId, Translation};
use postern_core::steering::{NatSides, StaticEndpoint};

use crate::model::{Interface, Match, Network, Rulesets, Spec, Table, Target};
use crate::print::prefix_length;

/// Most addresses that are listed one by one; of more, a rule counts as being for any address.
const LISTED_MAX: u128 = 256;

/// An interface's name and its addresses.
pub type NamedAddresses<'a> = (&'a str, Vec<IpAddr>);

/// The sides of all nat rules of both families, with these interfaces.
pub fn nat_sides(rulesets: &Rulesets, interfaces: &[NamedAddresses<'_>]) -> NatSides {
    let mut out = NatSides::default();
    for family in Family::ALL {
        let table = rulesets.family(family).table(TableId::Nat);
        out.pools.extend(rules(table).filter_map(|(spec, _)| match spec.target {
            Target::Nat(Translation::Source(addresses, _), _) => addresses,
            _ => None,
        }));
        out.mapped |= rules(table).any(|(spec, _)| match spec.target {
            Target::Nat(Translation::Source(_, ports) | Translation::Masquerade(ports), _) => {
                ports.independent.is_some()
            }
            _ => false,
        });
    }
    let mut sides = Sides { out, interfaces, family: Family::V4 };
    for family in Family::ALL {
        sides.family = family;
        for (spec, hooks) in rules(rulesets.family(family).table(TableId::Nat)) {
            if let Target::Nat(translation, _) = spec.target {
                sides.add(spec, hooks, translation);
            }
        }
    }
    let NatSides { pools, networks, endpoints, anywhere, exposed, mapped: _ } = &mut sides.out;
    for ranges in [pools, networks, exposed] {
        ranges.sort_by_key(|range| (range.first, range.last));
        ranges.dedup();
    }
    endpoints.sort();
    endpoints.dedup();
    anywhere.sort();
    anywhere.dedup();
    sides.out
}

/// Whether rules hide hosts of this family behind other addresses: then the port of a host inside has to name the worker.
pub fn hides_sources(rulesets: &Rulesets, family: Family) -> bool {
    rules(rulesets.family(family).table(TableId::Nat)).any(|(spec, hooks)| match spec.target {
        Target::Nat(Translation::Source(..) | Translation::Masquerade(_), _) => true,
        Target::Nat(Translation::Netmap { .. }, _) => hooks.contains(Hook::NatPostrouting),
        _ => false,
    })
}

/// The hosts that have the block of ports an external endpoint is of (`--port-blocks`): one, unless several rules share
/// a pool.
pub fn whose_block(rulesets: &Rulesets, address: Ipv4Addr, port: u16) -> BTreeSet<Ipv4Addr> {
    rules(rulesets.family(Family::V4).table(TableId::Nat))
        .filter_map(|(spec, _)| match spec.target {
            Target::Nat(Translation::Source(Some(pool), ports), _) => {
                ports.blocks?.owner(pool, address, port)
            }
            _ => None,
        })
        .collect()
}

/// Every rule of a table, and which hooks lead to it.
fn rules(table: &Table) -> impl Iterator<Item = (&Spec, HookSet)> {
    let reached: Vec<(Hook, HashSet<&str>)> =
        table.id.hooks().iter().map(|&hook| (hook, reached(table, hook))).collect();
    table.chains().flat_map(move |(name, chain)| {
        let leads = reached.iter().filter(|(_, chains)| chains.contains(name));
        let hooks = HookSet::of(&leads.map(|(hook, _)| *hook).collect::<Vec<_>>());
        chain.rules.iter().map(move |rule| (&*rule.spec, hooks))
    })
}

/// The chains that a hook leads to, its own among them.
fn reached(table: &Table, hook: Hook) -> HashSet<&str> {
    let mut reached = HashSet::new();
    let mut next = vec![hook.chain_name()];
    while let Some(name) = next.pop() {
        let Some(chain) = table.chain(name).filter(|_| reached.insert(name)) else { continue };
        next.extend(chain.rules.iter().filter_map(|rule| match &rule.spec.target {
            Target::Jump(to) => Some(to.as_str()),
            _ => None,
        }));
    }
    reached
}

struct Sides<'a> {
    out: NatSides,
    interfaces: &'a [NamedAddresses<'a>],
    /// Whose rules are being read.
    family: Family,
}

impl Sides<'_> {
    fn add(&mut self, spec: &Spec, hooks: HookSet, translation: Translation) {
        let at = |hook| hooks.contains(hook);
        match translation {
            Translation::Source(..) | Translation::Masquerade(_) => {}
            Translation::Destination(to, ports) if at(Hook::NatPrerouting) => {
                let from = region(spec.destination.as_ref());
                self.destination(spec, from, to.or(from).into_iter().collect(), ports);
            }
            Translation::Redirect(ports) if at(Hook::NatPrerouting) => {
                let to = self.own_addresses(spec.ingress.as_ref()).map(Addresses::single).collect();
                self.destination(spec, region(spec.destination.as_ref()), to, ports);
            }
            Translation::Netmap { network, mask } => {
                let Some(to) = whole(network, mask) else { return };
                if at(Hook::NatPrerouting) {
                    self.one_to_one(region(spec.destination.as_ref()), to);
                }
                if at(Hook::NatPostrouting) {
                    match region(spec.source.as_ref()) {
                        Some(inside) => self.one_to_one(Some(to), inside),
                        None => self.out.pools.push(to),
                    }
                }
            }
            Translation::Destination(..) | Translation::Redirect(_) => {}
        }
    }

    /// A rule that translates destinations in `from` to one of `to`.
    fn destination(
        &mut self,
        spec: &Spec,
        from: Option<Addresses>,
        to: Vec<Addresses>,
        ports: Ports,
    ) {
        let protocol = spec.protocol.and_then(|(number, negated)| (!negated).then_some(number));
        let wanted = destination_ports(spec);
        let Some((protocol, wanted)) = protocol.zip(wanted) else {
            match (ports.range, from) {
                (None, _) => to.into_iter().for_each(|to| self.one_to_one(from, to)),
                (Some(range), Some(from)) if !self.is_external(&from) => {
                    self.out.networks.push(from);
                    let protocol = protocol.unwrap_or_default();
                    to.iter().for_each(|to| self.endpoints(Some(*to), protocol, &[range]));
                }
                // All ports of an address of ours to one port: no worker can own both sides.
                (Some(_), _) => {}
            }
            return;
        };
        self.endpoints(from, protocol, &wanted);
        let targets = ports.range.map_or(wanted, |range| vec![range]);
        to.iter().for_each(|to| self.endpoints(Some(*to), protocol, &targets));
    }

    /// Addresses `outside` that become those `inside`, with whatever port.
    fn one_to_one(&mut self, outside: Option<Addresses>, inside: Addresses) {
        // Not our own address with every port: that would leave none for anybody else.
        let inside = self.without_own(inside);
        match outside {
            // To our own address, whose ports come from the owners' blocks: so do the replies'.
            Some(outside) if inside.is_empty() => self.out.pools.push(outside),
            Some(outside) if !self.is_external(&outside) => {
                self.out.networks.push(outside);
                self.out.networks.extend(inside);
            }
            _ => {
                self.out.pools.extend(outside);
                self.out.exposed.extend(inside);
            }
        }
    }

    /// What is left of a range without our own addresses.
    fn without_own(&self, range: Addresses) -> Vec<Addresses> {
        let mut own: Vec<IpAddr> =
            self.interfaces.iter().flat_map(|(_, own)| own).copied().collect();
        own.retain(|address| range.hold(*address));
        own.sort();
        own.dedup();
        let mut out = Vec::new();
        let mut first = Some(range.first);
        for own in own {
            if let (Some(first), Some(last)) = (first, beside(own, false))
                && first < own
            {
                out.push(Addresses { first, last });
            }
            first = beside(own, true);
        }
        if let Some(first) = first.filter(|first| *first <= range.last) {
            out.push(Addresses { first, last: range.last });
        }
        out
    }

    fn endpoints(&mut self, addresses: Option<Addresses>, protocol: u8, ports: &[(u16, u16)]) {
        let mut listed = addresses.map(|range| list(&range)).unwrap_or_default();
        let anywhere = listed.is_empty();
        if anywhere {
            listed.extend(self.own_addresses(None));
        }
        for &(first, last) in ports {
            if anywhere {
                self.out.anywhere.push((protocol, first, last));
            }
            let one = |address| StaticEndpoint { address, protocol, first, last };
            self.out.endpoints.extend(listed.iter().copied().map(one));
        }
    }

    /// The addresses of the interfaces that `-i` means, or without it of all.
    fn own_addresses(&self, ingress: Option<&Interface>) -> impl Iterator<Item = IpAddr> {
        let is_in = move |name: &str| match ingress {
            Some(wanted) if !wanted.negated => match wanted.name.strip_suffix('+') {
                Some(start) => name.starts_with(start),
                None => name == wanted.name,
            },
            _ => true,
        };
        let interfaces = self.interfaces.iter().filter(move |(name, _)| is_in(name));
        let addresses = interfaces.flat_map(|(_, addresses)| addresses.iter().copied());
        let v4 = self.family == Family::V4;
        addresses.filter(move |address| address.is_ipv4() == v4)
    }

    fn is_own(&self, range: &Addresses) -> bool {
        self.interfaces.iter().flat_map(|(_, own)| own).any(|own| range.hold(*own))
    }

    fn is_external(&self, range: &Addresses) -> bool {
        let meets = |pool: &Addresses| pool.hold(range.first) || range.hold(pool.first);
        self.is_own(range) || self.out.pools.iter().any(meets)
    }
}

/// The addresses that a condition holds for, if they are one range.
fn region(network: Option<&Network>) -> Option<Addresses> {
    let network = network.filter(|network| !network.negated)?;
    whole(network.address, network.mask)
}

/// The address after or before this one, if there is one.
fn beside(address: IpAddr, after: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let number = u32::from(address);
            let next = if after { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|next| Ipv4Addr::from(next).into())
        }
        IpAddr::V6(address) => {
            let number = u128::from(address);
            let next = if after { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|next| Ipv6Addr::from(next).into())
        }
    }
}

/// First and last address of a network whose mask has no holes.
pub(crate) fn whole(address: IpAddr, mask: IpAddr) -> Option<Addresses> {
    prefix_length(mask)?;
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            let (address, mask) = (u32::from(address), u32::from(mask));
            let first = Ipv4Addr::from(address & mask).into();
            Some(Addresses { first, last: Ipv4Addr::from(address | !mask).into() })
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => {
            let (address, mask) = (u128::from(address), u128::from(mask));
            let first = Ipv6Addr::from(address & mask).into();
            Some(Addresses { first, last: Ipv6Addr::from(address | !mask).into() })
        }
        _ => None,
    }
}

/// The addresses of a range one by one, unless they are too many.
fn list(range: &Addresses) -> Vec<IpAddr> {
    match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let (first, last) = (u32::from(first), u32::from(last));
            if u128::from(last - first) >= LISTED_MAX {
                return Vec::new();
            }
            (first..=last).map(|address| Ipv4Addr::from(address).into()).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let (first, last) = (u128::from(first), u128::from(last));
            if last - first >= LISTED_MAX {
                return Vec::new();
            }
            (first..=last).map(|address| Ipv6Addr::from(address).into()).collect()
        }
        _ => Vec::new(),
    }
}

/// The destination ports that a rule demands.
fn destination_ports(spec: &Spec) -> Option<Vec<(u16, u16)>> {
    spec.matches.iter().find_map(|one| match one {
        Match::Transport { destination: Some(test), .. } if !test.negated => {
            Some(vec![test.range]).filter(|ranges| ranges[0] != (0, u16::MAX))
        }
        Match::Multiport { side: Side::Destination, ranges, negated: false } => {
            Some(ranges.clone())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, execute};

    fn sides(family: Family, lines: &str) -> NatSides {
        let mut rulesets = Rulesets::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let args: Vec<_> =
                format!("-t nat {line}").split_whitespace().map(str::to_owned).collect();
            let output = execute(family, &args, &mut rulesets, Counts::default);
            assert_eq!(output.code, 0, "{line}: {}", output.stderr);
        }
        let at = |address: &str| address.parse().unwrap();
        let lan = vec![at("192.168.1.1"), at("2001:db8:1::1")];
        nat_sides(&rulesets, &[("lan", lan), ("wan", vec![at("203.0.113.2")])])
    }

    fn shown(sides: &NatSides) -> String {
        let NatSides { pools, networks, endpoints, anywhere, exposed, mapped } = sides;
        let mut out = String::new();
        for (name, ranges) in [("pool", pools), ("net", networks), ("exposed", exposed)] {
            for Addresses { first, last } in ranges {
                out += &format!("{name} {first}-{last}\n");
            }
        }
        for StaticEndpoint { address, protocol, first, last } in endpoints {
            out += &format!("{address} {protocol} {first}-{last}\n");
        }
        for (protocol, first, last) in anywhere {
            out += &format!("any {protocol} {first}-{last}\n");
        }
        out += if *mapped { "mapped\n" } else { "" };
        out
    }

    #[test]
    fn a_rule_for_certain_ports_has_static_endpoints_on_both_sides() {
        let of = |lines| shown(&sides(Family::V4, lines));
        let line = "-A PREROUTING -d 203.0.113.2 -p tcp --dport 80 -j DNAT --to 192.168.1.9:8080";
        assert_eq!(of(line), "192.168.1.9 6 8080-8080\n203.0.113.2 6 80-80\n");
        let line = "-A PREROUTING -i lan -p udp --dport 53 -j DNAT --to 10.0.0.2";
        let own = "192.168.1.1 17 53-53\n203.0.113.2 17 53-53\n";
        assert_eq!(of(line), format!("10.0.0.2 17 53-53\n{own}any 17 53-53\n"));
        let line = "-A PREROUTING -i lan -p tcp -m multiport --dports 80,8000:8001 -j REDIRECT --to-ports 3128";
        assert_eq!(
            of(line),
            "192.168.1.1 6 80-80\n192.168.1.1 6 3128-3128\n192.168.1.1 6 8000-8001\n\
             203.0.113.2 6 80-80\n203.0.113.2 6 8000-8001\nany 6 80-80\nany 6 8000-8001\n"
        );
        let line = "-A PREROUTING -d 10.0.0.0/8 -p udp --dport 53 -j REDIRECT";
        assert_eq!(of(line), format!("{own}any 17 53-53\n"));
    }

    #[test]
    fn one_to_one_is_static_as_a_whole_unless_its_ports_are_others_too() {
        let of = |lines| shown(&sides(Family::V4, lines));
        let both = "-A PREROUTING -d 198.51.100.0/28 -j NETMAP --to 192.168.1.0/28
                    -A POSTROUTING -s 192.168.1.16/28 -j NETMAP --to 198.51.100.16/28";
        // The LAN's own address lies in the first inside network.
        assert_eq!(
            of(both),
            "net 192.168.1.0-192.168.1.0\nnet 192.168.1.2-192.168.1.15\n\
             net 192.168.1.16-192.168.1.31\n\
             net 198.51.100.0-198.51.100.15\nnet 198.51.100.16-198.51.100.31\n"
        );
        assert_eq!(
            of("-A PREROUTING -d 198.51.100.9 -j DNAT --to 192.168.1.9"),
            "net 192.168.1.9-192.168.1.9\nnet 198.51.100.9-198.51.100.9\n"
        );
        assert_eq!(
            of("-A PREROUTING -d 203.0.113.2 -j DNAT --to 192.168.1.9"),
            "pool 203.0.113.2-203.0.113.2\nexposed 192.168.1.9-192.168.1.9\n"
        );
        assert_eq!(
            of("-A PREROUTING -d 198.51.100.9 -j DNAT --to 192.168.1.9
                -A POSTROUTING -s 192.168.1.9 -j SNAT --to-source 198.51.100.9"),
            "pool 198.51.100.9-198.51.100.9\nexposed 192.168.1.9-192.168.1.9\n"
        );
    }

    #[test]
    fn a_chain_is_read_for_the_hooks_that_lead_to_it() {
        let lines =
            "-N map\n-A map -s 192.168.1.16/28 -d 198.51.100.0/28 -j NETMAP --to 10.0.0.0/28";
        let of = |more: &str| shown(&sides(Family::V4, &format!("{lines}\n{more}")));
        assert_eq!(of(""), "");
        assert_eq!(
            of("-A PREROUTING -j map"),
            "net 10.0.0.0-10.0.0.15\nnet 198.51.100.0-198.51.100.15\n"
        );
        assert_eq!(
            of("-N b\n-A b -j map\n-A POSTROUTING -j b"),
            "net 10.0.0.0-10.0.0.15\nnet 192.168.1.16-192.168.1.31\n"
        );
        assert_eq!(
            shown(&sides(
                Family::V6,
                "-A POSTROUTING -j SNAT --to-source 2001:db8:9::1-2001:db8:9::5"
            )),
            "pool 2001:db8:9::1-2001:db8:9::5\n"
        );
    }
}
