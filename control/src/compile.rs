//! Configuration and kernel state -> parts of the core's snapshot. Pure functions.
//!
//! Each part is compiled from the whole of its inputs, so a part depends on nothing but them: the
//! caller compares or counts generations. Forwards follow the addresses: each becomes one core
//! [`Forward`] for every address its interface has in its family at the moment.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_core::conntrack::pressure::Pressure;
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tcp::TcpPolicy;
use postern_core::conntrack::timeouts::Timeouts;
use postern_core::forward::Routes;
use postern_core::forward::route::{Prefix, Route, RouteKind};
use postern_core::limits::Room;
use postern_core::nat::trigger::{TriggerRule, Triggers};
use postern_core::nat::{Forward, NatRules};
use postern_core::rules::Family;
use postern_core::snapshot::{Interface, InterfaceAddress, Interfaces, Options, is_link_local};
use postern_core::steering::{Inputs, StaticEndpoint, Steering};
use postern_core::units::{InterfaceId, Mac};

use postern_rules::{Rulesets, hides_sources, nat_sides};

use crate::config::{ConntrackSettings, ForwardError, ForwardSpec, Settings, TriggerSpec};
use crate::netlink::{KernelState, Link};

/// A forward in force, with control's number for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedForward {
    /// Unique among the forwards in force; what [`Forward::id`] becomes.
    pub id: u32,
    /// What is forwarded where.
    pub spec: ForwardSpec,
}

/// The forwards of the configuration, numbered from 1 in the order of the file.
pub fn configured_forwards(config: &Settings) -> Vec<NumberedForward> {
    let specs = config.forwards.iter().map(|f| f.spec.clone());
    (1..).zip(specs).map(|(id, spec)| NumberedForward { id, spec }).collect()
}

/// Whether a forward can be added at run time beside those in force.
///
/// # Errors
/// `UnknownInterface`, `Family`, or `Overlap` naming the other forward.
pub fn check_forward(
    config: &Settings,
    in_force: &[NumberedForward],
    new: &ForwardSpec,
) -> Result<(), ForwardError> {
    new.check(&config.interfaces, in_force.iter().map(|f| &f.spec))
}

/// The interfaces, by id. One whose TAP is absent is down and has no address.
pub fn interfaces(config: &Settings, kernel: &KernelState) -> Interfaces {
    let one = |(index, settings): (usize, &crate::config::InterfaceSettings)| {
        let id = InterfaceId(index as u8);
        let link = kernel.link(id);
        let mtu = link.map_or(1_500, |l| l.mtu.min(u32::from(u16::MAX)) as u16);
        Interface {
            mac: link.map_or(Mac::default(), |l| l.mac),
            other_macs: link.map_or_else(Box::default, |l| l.upper_macs.clone().into()),
            promiscuous: settings.promiscuous || link.is_some_and(|l| l.promiscuous),
            mtu,
            up: link.is_some_and(|l| l.up && l.carrier),
            masquerade: settings.masquerade,
            independent: settings.independent,
            clamp_mss: settings.clamp_mss,
            dhcp: settings.dhcp,
            reverse_path: settings.reverse_path,
            addresses: kernel.addresses(id).into(),
        }
    };
    Interfaces(config.interfaces.iter().enumerate().map(one).collect())
}

/// The port forwards, one for each address of the interface in the target's family. Link-local IPv6
/// addresses are not forwarded. A forward whose interface has no address, or is gone, is left out.
pub fn nat_rules(
    config: &Settings,
    kernel: &KernelState,
    forwards: &[NumberedForward],
) -> NatRules {
    let mut out = Vec::new();
    for NumberedForward { id, spec } in forwards {
        let Some((interface, _)) = config.interface(spec.interface()) else { continue };
        for address in forwarded_addresses(kernel, interface, spec) {
            out.push(Forward {
                id: *id,
                interface,
                address,
                protocol: spec.protocol().number(),
                first: spec.ports().first(),
                last: spec.ports().last(),
                to: spec.to(),
                to_port: spec.to_port(),
            });
        }
    }
    NatRules::new(out)
}

/// What steering depends on, but for the sides of nat rules. Both sides of every forward are static; networks behind
/// interfaces that are not outside are inside, if their hosts are hidden: by an interface that masquerades, or by `rules`.
pub fn steering_inputs(
    config: &Settings,
    kernel: &KernelState,
    forwards: &[NumberedForward],
    rules: &Rulesets,
    workers: u8,
    key: SipKey,
) -> Inputs {
    let ours = kernel.addresses.iter().flatten().map(|a| a.address).collect();
    let mut statics = Vec::new();
    for NumberedForward { spec, .. } in forwards {
        let Some((interface, _)) = config.interface(spec.interface()) else { continue };
        let protocol = spec.protocol().number();
        let (first, last) = (spec.ports().first(), spec.ports().last());
        for address in forwarded_addresses(kernel, interface, spec) {
            statics.push(StaticEndpoint { address, protocol, first, last });
        }
        let (first, last) = (spec.to_port(), spec.to_last());
        statics.push(StaticEndpoint { address: spec.to(), protocol, first, last });
    }
    statics.sort();
    statics.dedup();
    Inputs { workers, key, ours, statics, inside: inside(config, kernel, rules) }
}

/// The steering part: the [inputs](steering_inputs), and what the nat rules translate.
pub fn steering(
    inputs: Inputs,
    config: &Settings,
    kernel: &KernelState,
    rules: &Rulesets,
) -> Steering {
    let interfaces: Vec<_> = (0..)
        .map(InterfaceId)
        .zip(&config.interfaces)
        .map(|(id, interface)| {
            let addresses = kernel.addresses(id).iter().map(|own| own.address);
            (interface.name.as_str(), addresses.collect())
        })
        .collect();
    let mut sides = nat_sides(rules, &interfaces);
    sides.mapped |= config.interfaces.iter().any(|interface| interface.independent.is_some());
    Steering::with_nat(inputs, &sides)
}

/// The kernel's routes, compiled.
pub fn routes(kernel: &KernelState) -> Routes {
    Routes::compile(&kernel.routes)
}

/// The idle timeouts.
pub fn timeouts(config: &Settings) -> Timeouts {
    config.timeouts.clone()
}

/// Rows of each worker's tables, IPv4 then IPv6.
pub fn rows(config: &Settings, workers: u8) -> [u32; 2] {
    let ConntrackSettings { capacity, capacity6, .. } = config.conntrack;
    [capacity, capacity6].map(|capacity| capacity.div_ceil(workers.max(1).into()).max(1))
}

/// What it takes to count connections. Each policy's counters are keyed by chance.
pub fn room(config: &Settings, workers: u8) -> Room {
    let state = RandomState::new();
    let key = SipKey([0_u8, 1].map(|half| state.hash_one(half)));
    let (rows, per_source) = (rows(config, workers), config.limits.per_source);
    Room { rows, key, per_source, before: None }
}

/// A port trigger; `None` if its interface does not exist.
pub fn trigger(config: &Settings, trigger: &TriggerSpec) -> Option<TriggerRule> {
    let (interface, _) = config.interface(&trigger.interface)?;
    Some(TriggerRule {
        interface,
        protocol: trigger.protocol.number(),
        outbound: (trigger.outbound.first(), trigger.outbound.last()),
        inbound: (trigger.inbound.first(), trigger.inbound.last()),
        timeout_ms: trigger.timeout.as_millis() as u32,
    })
}

/// The port triggers; those that were there `before` keep their holders.
pub fn triggers<'t>(
    config: &Settings,
    specs: impl Iterator<Item = &'t TriggerSpec>,
    before: &Triggers,
) -> Triggers {
    Triggers::new(specs.filter_map(|spec| trigger(config, spec)).collect(), before)
}

/// The switches.
pub fn options(config: &Settings, workers: u8) -> Options {
    let conntrack = &config.conntrack;
    // Of IPv6 as large a part, of each worker its share.
    let share = |(capacity, rows): (u32, u32)| {
        let all = u64::from(conntrack.headroom) * u64::from(capacity);
        let divisor = u64::from(conntrack.capacity.max(1)) * u64::from(workers.max(1));
        // However small, most of a table is for everybody.
        (all.div_ceil(divisor) as u32).min(rows.saturating_sub(1) / 2)
    };
    let capacities = [conntrack.capacity, conntrack.capacity6];
    let [rows_v4, rows_v6] = rows(config, workers);
    Options {
        tcp: TcpPolicy { loose: conntrack.loose, liberal: conntrack.liberal },
        verify_checksums: conntrack.checksum,
        accounting: conntrack.accounting,
        helpers: conntrack.helpers,
        pressure: Pressure {
            adaptive: (conntrack.adaptive.0 < 100).then_some(conntrack.adaptive),
            headroom: [(capacities[0], rows_v4), (capacities[1], rows_v6)].map(share),
        },
    }
}

fn forwarded_addresses<'a>(
    kernel: &'a KernelState,
    interface: InterfaceId,
    spec: &'a ForwardSpec,
) -> impl Iterator<Item = IpAddr> + 'a {
    let v4 = spec.to().is_ipv4();
    let addresses = kernel.addresses(interface).iter().map(|a| a.address);
    addresses.filter(move |a| a.is_ipv4() == v4 && (v4 || !is_link_local(*a)))
}

/// Networks behind the interfaces that are not outside, sorted, none within another; none of a family whose hosts nothing
/// hides, because then hashing both endpoints spreads better.
fn inside(config: &Settings, kernel: &KernelState, rules: &Rulesets) -> Vec<InterfaceAddress> {
    let masquerades = config.interfaces.iter().any(|i| i.masquerade);
    let hidden_v4 = masquerades || hides_sources(rules, Family::V4);
    let hidden_v6 = hides_sources(rules, Family::V6);
    let is_inside =
        |id: InterfaceId| config.interfaces.get(id.index()).is_some_and(|i| !i.is_outside());
    let is_hidden = |address: IpAddr| if address.is_ipv4() { hidden_v4 } else { hidden_v6 };
    let mut networks: Vec<(IpAddr, u8)> = kernel
        .routes
        .iter()
        .filter(|p| p.route.kind == RouteKind::Unicast && p.length > 0 && is_inside(p.route.egress))
        .filter(|p| is_hidden(p.address) && !is_link_local(p.address))
        .map(|p| (masked(p.address, p.length), p.length))
        .collect();
    networks.sort_unstable();
    let mut out: Vec<InterfaceAddress> = Vec::new();
    for (address, length) in networks {
        // Sorted: whatever could hold this network came before it, and the last one kept is the
        // only one that reaches this far.
        if !out.last().is_some_and(|outer| outer.length <= length && outer.holds(address)) {
            out.push(InterfaceAddress { address, length });
        }
    }
    out
}

/// The address of the network of that length.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & mask_v4(length)).into(),
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

/// The kernel state to be expected of a configuration alone: every TAP up with carrier, the configured
/// addresses and gateways and the routes that come of them. For `postern replay` and for tests, where
/// there is no kernel to follow. The n-th interface has MAC `02:00:00:00:00:n`.
pub fn assumed_kernel(config: &Settings) -> KernelState {
    let mut out = KernelState::default();
    for (index, interface) in config.interfaces.iter().enumerate() {
        let egress = InterfaceId(index as u8);
        out.links.push(Some(Link {
            ifindex: index as u32 + 1,
            mac: Mac([2, 0, 0, 0, 0, index as u8]),
            mtu: u32::from(interface.mtu.unwrap_or(1_500)),
            up: true,
            carrier: true,
            promiscuous: interface.promiscuous,
            upper_macs: Vec::new(),
        }));
        out.addresses.push(interface.addresses.clone());
        let prefix = |kind, address, length, metric, gateway| Prefix {
            address,
            length,
            metric,
            route: Route { kind, egress, gateway, mtu: 0 },
        };
        for InterfaceAddress { address, length } in &interface.addresses {
            let (address, length) = (*address, *length);
            let whole = if address.is_ipv4() { 32 } else { 128 };
            out.routes.push(prefix(RouteKind::Local, address, whole, 0, None));
            if length < whole {
                out.routes.push(prefix(RouteKind::Unicast, address, length, 1, None));
            }
            if let IpAddr::V4(v4) = address
                && length < 31
            {
                let broadcast = IpAddr::V4(Ipv4Addr::from(u32::from(v4) | !mask_v4(length)));
                out.routes.push(prefix(RouteKind::Broadcast, broadcast, 32, 0, None));
            }
        }
        for gateway in &interface.gateways {
            let any = match gateway {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            };
            out.routes.push(prefix(RouteKind::Unicast, any, 0, index as u32 + 1, Some(*gateway)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Config};

    const TEXT: &str = "
        [interface.lan]
        device = 'eth0'
        address = ['192.168.1.1/24', 'fd00::1/64']
        rp_filter = 'loose'
        [interface.wan]
        device = 'eth1'
        zone = 'wan'
        address = ['203.0.113.2/24', '203.0.113.3/24', '2001:db8::2/64']
        gateway = ['203.0.113.1', 'fe80::1']
        masquerade = true
        mtu = 1492
        [conntrack]
        loose = true
        checksum = false
        [timeouts]
        udp = 10
        [[forward]]
        interface = 'wan'
        protocol = 'tcp'
        port = '8000-8010'
        to = '192.168.1.10:80'
        [[forward]]
        interface = 'wan'
        protocol = 'udp'
        port = 53
        to = 'fd00::53'
        ";

    fn config() -> Config {
        config::parse(Path::new("t.toml"), TEXT.as_bytes()).unwrap()
    }

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn unicast(address: &str, length: u8, egress: u8) -> Prefix {
        let route =
            Route { kind: RouteKind::Unicast, egress: InterfaceId(egress), gateway: None, mtu: 0 };
        Prefix { address: at(address), length, metric: 1, route }
    }

    #[test]
    fn interfaces_come_from_both_sides() {
        let config = config();
        let mut kernel = assumed_kernel(&config);
        let both = interfaces(&config, &kernel);
        let wan = both.get(InterfaceId(1)).unwrap();
        assert_eq!((wan.mtu, wan.up, wan.masquerade, wan.dhcp), (1492, true, true, false));
        assert_eq!(wan.addresses.len(), 3);
        assert_eq!(
            both.get(InterfaceId(0)).unwrap().reverse_path,
            postern_core::snapshot::ReversePath::Loose
        );

        let link = kernel.links[1].as_mut().unwrap();
        (link.carrier, link.mtu, link.promiscuous) = (false, 100_000, true);
        link.upper_macs = vec![Mac([0, 0, 0x5e, 0, 1, 5])];
        kernel.links[0] = None;
        let both = interfaces(&config, &kernel);
        let wan = both.get(InterfaceId(1)).unwrap();
        assert_eq!(
            (wan.mtu, wan.up, wan.promiscuous, wan.other_macs.len()),
            (65_535, false, true, 1)
        );
        assert!(!both.get(InterfaceId(0)).unwrap().up);
        assert!(
            interfaces(&config, &KernelState::default())
                .0
                .iter()
                .all(|i| !i.up && i.addresses.is_empty())
        );
    }

    #[test]
    fn a_forward_stands_on_every_address_of_its_family_and_follows_them() {
        let config = config();
        let mut kernel = assumed_kernel(&config);
        kernel.addresses[1].push(InterfaceAddress { address: at("fe80::2"), length: 64 });
        let forwards = configured_forwards(&config);
        let shown = |kernel: &KernelState| {
            let rules = nat_rules(&config, kernel, &forwards);
            rules.iter().map(|f| format!("{} {} {}", f.id, f.address, f.to)).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&kernel),
            ["1 203.0.113.2 192.168.1.10", "1 203.0.113.3 192.168.1.10", "2 2001:db8::2 fd00::53",]
        );
        let rules = nat_rules(&config, &kernel, &forwards);
        let (forward, port) = rules.forward(at("203.0.113.3"), 6, 8010).unwrap();
        assert_eq!((forward.interface, forward.to, port), (InterfaceId(1), at("192.168.1.10"), 90));
        assert!(rules.forward(at("203.0.113.3"), 6, 8011).is_none());
        assert!(rules.forward(at("192.168.1.1"), 6, 8000).is_none());

        kernel.addresses[1] = vec![InterfaceAddress { address: at("198.51.100.7"), length: 24 }];
        assert_eq!(shown(&kernel), ["1 198.51.100.7 192.168.1.10"]);
        kernel.addresses[1].clear();
        assert!(shown(&kernel).is_empty());
    }

    #[test]
    fn steering_knows_ours_both_sides_of_forwards_and_the_inside() {
        let config = config();
        let mut kernel = assumed_kernel(&config);
        kernel.routes.push(unicast("10.1.0.0", 16, 0));
        kernel.routes.push(unicast("10.0.0.0", 8, 0));
        kernel.routes.push(unicast("10.255.255.0", 24, 0));
        kernel.routes.push(unicast("11.0.0.0", 8, 1));
        kernel.routes.push(unicast("0.0.0.0", 0, 0));
        let inputs = steering_inputs(
            &config,
            &kernel,
            &configured_forwards(&config),
            &Rulesets::new(),
            4,
            SipKey([1, 2]),
        );
        assert_eq!((inputs.workers, inputs.ours.len()), (4, 5));
        let inside: Vec<_> =
            inputs.inside.iter().map(|n| format!("{}/{}", n.address, n.length)).collect();
        assert_eq!(inside, ["10.0.0.0/8", "192.168.1.0/24"]);
        let steering = Steering::new(inputs);
        for (address, protocol, port, expected) in [
            ("203.0.113.2", 6, 8000, true),
            ("203.0.113.3", 6, 8010, true),
            ("203.0.113.3", 6, 8011, false),
            ("203.0.113.3", 17, 8000, false),
            ("192.168.1.10", 6, 80, true),
            ("192.168.1.10", 6, 90, true),
            ("192.168.1.10", 6, 91, false),
            ("2001:db8::2", 17, 53, true),
            ("fd00::53", 17, 53, true),
        ] {
            assert_eq!(
                steering.is_static(at(address), protocol, port),
                expected,
                "{address} {port}"
            );
        }
        assert!(steering.is_ours(at("192.168.1.1")) && !steering.is_ours(at("192.168.1.10")));
    }

    #[test]
    fn what_nothing_hides_is_not_inside() {
        let text = TEXT.replace("masquerade = true", "");
        let config = config::parse(Path::new("t.toml"), text.as_bytes()).unwrap();
        let kernel = assumed_kernel(&config);
        let mut rules = Rulesets::new();
        let inside = |rules: &Rulesets| {
            let inputs = steering_inputs(&config, &kernel, &[], rules, 1, SipKey([0, 0]));
            inputs.inside.iter().map(|n| format!("{}/{}", n.address, n.length)).collect::<Vec<_>>()
        };
        assert!(inside(&rules).is_empty());
        // What a rule hides is.
        for (family, known) in
            [(Family::V4, &["192.168.1.0/24"][..]), (Family::V6, &["192.168.1.0/24", "fd00::/64"])]
        {
            let rule = "-t nat -A POSTROUTING -o wan -j MASQUERADE";
            let words: Vec<String> = rule.split(' ').map(str::to_owned).collect();
            let output = postern_rules::execute(family, &words, &mut rules, Default::default);
            assert_eq!(output.code, 0, "{}", output.stderr);
            assert_eq!(inside(&rules), known);
        }
    }

    #[test]
    fn endpoint_independent_mappings_make_the_networks_inside_known() {
        let text = TEXT.replace("masquerade = true", "");
        let config = config::parse(Path::new("t.toml"), text.as_bytes()).unwrap();
        let kernel = assumed_kernel(&config);
        let mut rules = Rulesets::new();
        let steer = |config: &Settings, rules: &Rulesets| {
            let inputs = steering_inputs(config, &kernel, &[], rules, 4, SipKey([0, 0]));
            let steering = steering(inputs, config, &kernel, rules);
            let host = std::net::Ipv4Addr::new(192, 168, 1, 77);
            (steering.is_mapped(), steering.is_mappable(17, host, 5000))
        };
        assert_eq!(steer(&config, &rules), (false, false));
        let rule = "-t nat -A POSTROUTING -o wan -j MASQUERADE --endpoint-independent mapping";
        let words: Vec<_> = rule.split(' ').map(str::to_owned).collect();
        let done = postern_rules::execute(
            postern_core::rules::Family::V4,
            &words,
            &mut rules,
            Default::default,
        );
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(steer(&config, &rules), (true, true));
        let text = TEXT
            .replace("masquerade = true", "masquerade = true\nendpoint_independent = 'mapping'");
        let config = config::parse(Path::new("t.toml"), text.as_bytes()).unwrap();
        assert_eq!(steer(&config, &Rulesets::new()), (true, true));
    }

    #[test]
    fn however_small_a_table_is_not_all_kept_for_the_appliance() {
        let text = TEXT.replace("loose = true", "capacity = 1000\ncapacity6 = 4");
        let config = config::parse(Path::new("t.toml"), text.as_bytes()).unwrap();
        for (workers, headroom) in [(1, [15, 1]), (4, [4, 0])] {
            assert_eq!(options(&config, workers).pressure.headroom, headroom, "{workers}");
        }
    }

    #[test]
    fn the_order_of_the_kernels_routes_does_not_steer() {
        let config = config();
        let mut kernel = assumed_kernel(&config);
        kernel.routes.push(unicast("10.1.0.0", 16, 0));
        let forwards = configured_forwards(&config);
        let steering = |kernel: &KernelState| {
            Steering::new(steering_inputs(
                &config,
                kernel,
                &forwards,
                &Rulesets::new(),
                2,
                SipKey([1, 2]),
            ))
        };
        let before = steering(&kernel);
        kernel.routes.reverse();
        assert!(before.same_inputs(&steering(&kernel)));
    }

    #[test]
    fn the_assumed_kernel_routes_as_a_real_one_would() {
        let config = config();
        let routes = routes(&assumed_kernel(&config));
        let kind = |address| routes.lookup(at(address)).map(|r| (r.kind, r.egress.0, r.gateway));
        assert_eq!(kind("192.168.1.7"), Some((RouteKind::Unicast, 0, None)));
        assert_eq!(kind("192.168.1.1"), Some((RouteKind::Local, 0, None)));
        assert_eq!(kind("192.168.1.255"), Some((RouteKind::Broadcast, 0, None)));
        assert_eq!(kind("9.9.9.9"), Some((RouteKind::Unicast, 1, Some(at("203.0.113.1")))));
        assert_eq!(kind("2001:db8:9::1"), Some((RouteKind::Unicast, 1, Some(at("fe80::1")))));
        assert_eq!(kind("fd00::1"), Some((RouteKind::Local, 0, None)));
    }

    #[test]
    fn switches_and_timeouts_are_handed_on() {
        let options = options(&config(), 2);
        assert_eq!((options.tcp.loose, options.tcp.liberal), (true, false));
        assert_eq!((options.verify_checksums, options.accounting), (false, true));
        let udp = postern_core::conntrack::timeouts::TimeoutKind::Udp;
        assert_eq!(timeouts(&config()).ms(udp), 10_000);
    }

    #[test]
    fn a_forward_added_at_run_time_must_not_overlap() {
        let config = config();
        let mut in_force = configured_forwards(&config);
        let check = |in_force: &[NumberedForward], interface, port, to| {
            let spec = ForwardSpec::parse(interface, "tcp", port, to).unwrap();
            check_forward(&config, in_force, &spec).map_err(|e| e.to_string())
        };
        assert_eq!(
            check(&in_force, "wan", "8010-8020", "192.168.1.11"),
            Err("overlaps the forward wan tcp 8000-8010 to 192.168.1.10:80-90".into())
        );
        assert_eq!(
            check(&in_force, "dmz", "1", "192.168.1.11"),
            Err("there is no interface `dmz`".into())
        );
        assert_eq!(check(&in_force, "wan", "8011", "192.168.1.11"), Ok(()));
        in_force.remove(0);
        assert_eq!(check(&in_force, "wan", "8010-8020", "192.168.1.11"), Ok(()));
    }
}
