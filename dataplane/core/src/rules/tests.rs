use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;

use proptest::prelude::*;

use super::model::{
    BaseChain, ChainPolicy, ChainRef, Condition, FamilyTables, Network, Rule, Side, Tables, Target,
    Test,
};
use super::*;
use crate::conntrack::ctstate::{CtState, CtStates};
use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::protocol;
use crate::limits::{Of, Room};
use crate::units::WorkerId;

const W0: WorkerId = WorkerId(0);

fn rule(conditions: Vec<Test>, target: Target) -> Rule {
    Rule { conditions: conditions.into_iter().map(Condition::from).collect(), target }
}

/// Only IPv4 INPUT, policy DROP, and user chains.
fn input(rules: Vec<Rule>, chains: Vec<Vec<Rule>>) -> Tables {
    let mut filters = Tables::default();
    filters.0[0].base[0] = BaseChain { policy: ChainPolicy::Drop, rules };
    filters.0[0].chains = chains;
    filters
}

fn tuple(last: u8, dst_id: u16) -> Tuple {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    Tuple::new(address(last), address(1), 1000, dst_id, protocol::TCP).expect("one family")
}

fn subject(tuple: &Tuple) -> Subject<'_> {
    Subject {
        tuple,
        protocol: tuple.protocol(),
        icmp_type: 0,
        icmp_code: 0,
        icmp_query: false,
        tcp_flags: 0x02,
        ingress: InterfaceId(0),
        egress: InterfaceId::NONE,
        states: CtStates::of(CtState::New),
        packet_len: 100,
    }
}

fn packets(policy: &Policy) -> Vec<u64> {
    policy.counters().rules.iter().map(|count| count.packets).collect()
}

// --- the naive evaluator: recursion over the model, one counter array --------------------------

#[derive(Default, PartialEq, Debug)]
struct Naive {
    rules: Vec<Count>,
    policies: [[Count; Hook::COUNT]; 2],
}

enum End {
    Decided(Action, DecidedBy),
    Returned,
}

impl Naive {
    fn judge(&mut self, filters: &Tables, hook: Hook, s: &Subject<'_>) -> (Action, DecidedBy) {
        let family = Family::of(s.tuple);
        let filter = &filters.0[family.index()];
        match self.chain(filters, family, ChainRef::Base(hook), s) {
            End::Decided(action, by) => (action, by),
            End::Returned => {
                let count = &mut self.policies[family.index()][hook.index()];
                *count = count.plus(Count { packets: 1, bytes: s.packet_len.into() });
                let action = filter.base[hook.index()].policy.into();
                (action, DecidedBy::ChainPolicy(family, hook))
            }
        }
    }

    fn chain(&mut self, filters: &Tables, family: Family, at: ChainRef, s: &Subject<'_>) -> End {
        let earlier: usize = filters.0[..family.index()]
            .iter()
            .flat_map(FamilyTables::chains)
            .map(|c| c.1.len())
            .sum();
        let filter = &filters.0[family.index()];
        let before: usize = filter.chains().take_while(|c| c.0 != at).map(|c| c.1.len()).sum();
        let rules = filter.chains().find(|c| c.0 == at).expect("it exists").1;
        for (place, rule) in rules.iter().enumerate() {
            if !rule.conditions.iter().all(|c| holds(&c.test, s) != c.negated) {
                continue;
            }
            let idx = earlier + before + place;
            self.rules.resize(self.rules.len().max(idx + 1), Count::default());
            let count = &mut self.rules[idx];
            *count = count.plus(Count { packets: 1, bytes: s.packet_len.into() });
            let by = DecidedBy::Rule(RuleIdx(idx as u32));
            match rule.target {
                Target::Continue => {}
                Target::Accept => return End::Decided(Action::Accept, by),
                Target::Drop => return End::Decided(Action::Drop, by),
                Target::Reject(kind) => return End::Decided(Action::Reject(kind), by),
                Target::Return => return End::Returned,
                Target::Translate(_) | Target::NoTrack => panic!("not in the filter table"),
                Target::Jump(to) => {
                    let end = self.chain(filters, family, ChainRef::User(to), s);
                    if matches!(end, End::Decided(..)) {
                        return end;
                    }
                }
                Target::Goto(to) => return self.chain(filters, family, ChainRef::User(to), s),
            }
        }
        End::Returned
    }
}

fn holds(test: &Test, s: &Subject<'_>) -> bool {
    let within = |network: &Network, address| match (network.address, network.mask, address) {
        (IpAddr::V4(n), IpAddr::V4(m), IpAddr::V4(a)) => n & m == a & m,
        (IpAddr::V6(n), IpAddr::V6(m), IpAddr::V6(a)) => n & m == a & m,
        _ => panic!("families mixed"),
    };
    match test {
        Test::Ingress(set) => set.contains(s.ingress),
        Test::Egress(set) => set.contains(s.egress),
        Test::Source(network) => within(network, s.tuple.src()),
        Test::Destination(network) => within(network, s.tuple.dst()),
        Test::Protocol(number) => *number == s.protocol,
        Test::Ports { side, ranges } => {
            let any = |port: u16| ranges.iter().any(|r| r.0 <= port && port <= r.1);
            (*side != Side::Destination && any(s.tuple.src_id()))
                || (*side != Side::Source && any(s.tuple.dst_id()))
        }
        Test::States(states) => states.0 & s.states.0 != 0,
        Test::Icmp { kind, codes } => {
            kind.is_none_or(|k| k == s.icmp_type)
                && codes.0 <= s.icmp_code
                && s.icmp_code <= codes.1
        }
        Test::TcpFlags { mask, set } => s.tcp_flags & mask == *set,
        Test::Connections { .. } => {
            unreachable!("the generator makes none: they take more than a packet")
        }
    }
}

// --- random rulesets and traffic ----------------------------------------------------------------

fn interfaces() -> impl Strategy<Value = InterfaceSet> {
    (0_u8..8).prop_map(|bits| {
        let ids = (0..3).filter(|i| bits & (1 << i) != 0).map(InterfaceId);
        ids.fold(InterfaceSet::EMPTY, InterfaceSet::with)
    })
}

fn address(family: Family) -> impl Strategy<Value = IpAddr> {
    (0_u8..4, 0_u8..3).prop_map(move |(net, host)| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, net, host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, net.into(), 0, 0, 0, host.into())),
    })
}

fn network(family: Family) -> impl Strategy<Value = Network> {
    let v4 = prop_oneof![Just(0_u32), Just(!0), Just(!0 << 8), Just(0xff00_00ff)];
    (address(family), v4).prop_map(|(address, mask)| match address {
        IpAddr::V4(_) => Network { address, mask: IpAddr::V4(Ipv4Addr::from(mask)) },
        IpAddr::V6(_) => {
            let mask = Ipv6Addr::from(u128::from(mask) | if mask == 0 { 0 } else { !0 << 64 });
            Network { address, mask: IpAddr::V6(mask) }
        }
    })
}

/// Protocol conditions with those that may only stand beside them.
fn transport(family: Family) -> impl Strategy<Value = Vec<Condition>> {
    let icmp = if family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
    let side = prop_oneof![Just(Side::Source), Just(Side::Destination), Just(Side::Either)];
    let range = (0_u16..8, 0_u16..3).prop_map(|(first, more)| (first, first + more));
    let ports = (side, prop::collection::vec(range, 1..4))
        .prop_map(|(side, ranges)| Test::Ports { side, ranges });
    let flags = (0_u8..8, 0_u8..8).prop_map(|(mask, set)| Test::TcpFlags { mask, set: set & mask });
    let kind = (prop::option::of(prop_oneof![Just(8_u8), Just(3), Just(0)]), any::<bool>());
    let types = kind.prop_map(|(kind, any)| Test::Icmp {
        kind,
        codes: if any { (0, u8::MAX) } else { (1, 2) },
    });
    let of = |number: u8, test: Test, negated| {
        vec![Test::Protocol(number).into(), Condition { negated, test }]
    };
    prop_oneof![
        2 => Just(vec![]),
        2 => (prop_oneof![Just(6), Just(17), Just(icmp)], any::<bool>())
            .prop_map(|(number, negated)| vec![Condition { negated, test: Test::Protocol(number) }]),
        3 => (prop_oneof![Just(6), Just(17)], ports, any::<bool>())
            .prop_map(move |(number, test, negated)| of(number, test, negated)),
        2 => (flags, any::<bool>()).prop_map(move |(test, negated)| of(6, test, negated)),
        2 => (types, any::<bool>()).prop_map(move |(test, negated)| of(icmp, test, negated)),
    ]
}

fn conditions(family: Family) -> impl Strategy<Value = Vec<Condition>> {
    let plain = prop_oneof![
        interfaces().prop_map(Test::Ingress),
        interfaces().prop_map(Test::Egress),
        network(family).prop_map(Test::Source),
        (0_u8..128).prop_map(|bits| Test::States(CtStates(bits))),
    ];
    let plain = (plain, any::<bool>()).prop_map(|(test, negated)| Condition { negated, test });
    (prop::option::of(plain), prop::option::of(network(family)), transport(family)).prop_map(
        |(plain, destination, mut conditions)| {
            // Per-packet conditions first: compile has to put them last.
            conditions.extend(plain);
            conditions.extend(destination.map(|network| Test::Destination(network).into()));
            conditions
        },
    )
}

/// Chain number `own` of `count` may jump to later ones only.
fn rules(family: Family, own: usize, count: usize) -> impl Strategy<Value = Vec<Rule>> {
    let verdict = prop_oneof![
        2 => Just(Target::Accept),
        2 => Just(Target::Drop),
        1 => Just(Target::Reject(RejectKind::PortUnreachable)),
        1 => Just(Target::Return),
        2 => Just(Target::Continue),
    ];
    let jump = (own..count.max(own + 1), any::<bool>()).prop_map(move |(to, goto)| {
        if to >= count {
            return Target::Return;
        }
        if goto { Target::Goto(to) } else { Target::Jump(to) }
    });
    let target = prop_oneof![verdict, jump];
    let rule =
        (conditions(family), target).prop_map(|(conditions, target)| Rule { conditions, target });
    prop::collection::vec(rule, 0..6)
}

fn filter(family: Family) -> impl Strategy<Value = FamilyTables> {
    let policy =
        || any::<bool>().prop_map(|d| if d { ChainPolicy::Drop } else { ChainPolicy::Accept });
    let base = move || {
        (policy(), rules(family, 0, 3)).prop_map(|(policy, rules)| BaseChain { policy, rules })
    };
    let user = (rules(family, 1, 3), rules(family, 2, 3), rules(family, 3, 3));
    ([base(), base(), base()], user).prop_map(|(filter, (a, b, c))| {
        let mut base: [BaseChain; Hook::COUNT] = Default::default();
        base[..3].clone_from_slice(&filter);
        FamilyTables { base, chains: vec![a, b, c] }
    })
}

#[derive(Clone, Debug)]
struct Connection {
    tuple: Tuple,
    icmp: (u8, bool),
    ingress: InterfaceId,
    egress: InterfaceId,
    state: CtState,
    translated: u8,
    hook: Hook,
}

fn connection() -> impl Strategy<Value = Connection> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let tuple = family.prop_flat_map(|family| {
        let icmp = if family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
        let number = prop_oneof![Just(protocol::TCP), Just(protocol::UDP), Just(icmp)];
        (address(family), address(family), 0_u16..9, 0_u16..9, number)
            .prop_map(|(src, dst, a, b, n)| Tuple::new(src, dst, a, b, n).expect("one family"))
    });
    let interface =
        || prop_oneof![4 => (0_u8..3).prop_map(InterfaceId), 1 => Just(InterfaceId::NONE)];
    let state = prop_oneof![
        2 => Just(CtState::New),
        2 => Just(CtState::Established),
        1 => Just(CtState::Related),
        1 => Just(CtState::Invalid),
        1 => Just(CtState::Untracked),
    ];
    let icmp = (prop_oneof![Just(8_u8), Just(3), Just(0)], any::<bool>());
    let hook = prop_oneof![Just(Hook::Input), Just(Hook::Forward), Just(Hook::Output)];
    (tuple, icmp, interface(), interface(), state, 0_u8..4, hook).prop_map(
        |(tuple, icmp, ingress, egress, state, translated, hook)| Connection {
            tuple,
            icmp,
            ingress,
            egress,
            state,
            translated,
            hook,
        },
    )
}

#[derive(Clone, Debug)]
struct Sent {
    connection: usize,
    flags: u8,
    code: u8,
    kind: u8,
    len: u32,
}

fn sent() -> impl Strategy<Value = Sent> {
    (0_usize..64, 0_u8..8, 0_u8..4, prop_oneof![Just(8_u8), Just(3), Just(0)], 20_u32..1500)
        .prop_map(|(connection, flags, code, kind, len)| Sent {
            connection,
            flags,
            code,
            kind,
            len,
        })
}

fn check(filters: &Tables, connections: &[Connection], traffic: &[Sent]) {
    let policy = Policy::compile(filters, 2).expect("the generator makes valid models only");
    let plain = Policy::compile(filters, 1).expect("as above");
    let mut naive = Naive::default();
    let mut remembered: HashMap<usize, PathId> = HashMap::new();
    let mut begun = vec![false; connections.len()];
    for packet in traffic {
        let number = packet.connection % connections.len();
        let c = &connections[number];
        let worker = WorkerId((number % 2) as u8);
        let is_icmp = matches!(c.tuple.protocol(), protocol::ICMP | protocol::ICMPV6);
        let (kind, query) = c.icmp;
        // As in netfilter: the first packet's source is not translated yet when it is judged.
        let first = !core::mem::replace(&mut begun[number], true);
        let beginning = matches!(c.state, CtState::New | CtState::Related);
        let translated = if first && beginning { c.translated & !1 } else { c.translated };
        let subject = Subject {
            tuple: &c.tuple,
            protocol: c.tuple.protocol(),
            icmp_type: if !is_icmp {
                0
            } else if query {
                kind
            } else {
                packet.kind
            },
            icmp_code: if is_icmp { packet.code } else { 0 },
            icmp_query: is_icmp && query,
            tcp_flags: packet.flags,
            ingress: c.ingress,
            egress: c.egress,
            states: CtStates::of(c.state).union(CtStates(translated << 5)),
            packet_len: packet.len,
        };
        let expected = naive.judge(filters, c.hook, &subject);
        let path = remembered.get(&number).copied().unwrap_or_default();
        let judged = policy.cached(worker, path, packet.len).unwrap_or_else(|| {
            let judged = policy.judge(worker, c.hook, &subject);
            remembered.insert(number, judged.path);
            judged
        });
        assert_eq!((judged.action, judged.by), expected);
        let uncached = plain.judge(W0, c.hook, &subject);
        assert_eq!((uncached.action, uncached.by), expected);
    }
    naive.rules.resize(policy.rule_count(), Count::default());
    for policy in [policy, plain] {
        let counted = policy.counters();
        assert_eq!(counted.rules, naive.rules);
        assert_eq!(counted.policies, naive.policies);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn cached_and_walked_judgements_agree_with_the_naive_evaluator_and_so_do_all_counters(
        v4 in filter(Family::V4),
        v6 in filter(Family::V6),
        connections in prop::collection::vec(connection(), 1..16),
        traffic in prop::collection::vec(sent(), 1..120),
    ) {
        check(&Tables([v4, v6]), &connections, &traffic);
    }
}

#[test]
fn a_cached_packet_counts_on_every_rule_of_its_path_including_jumps_and_the_policy() {
    let filters = input(
        vec![rule(vec![], Target::Jump(0)), rule(vec![], Target::Continue)],
        vec![vec![rule(vec![Test::Protocol(17)], Target::Accept), rule(vec![], Target::Return)]],
    );
    let policy = Policy::compile(&filters, 1).expect("valid");
    let tuple = tuple(9, 80);
    let judged = policy.judge(W0, Hook::Input, &subject(&tuple));
    assert_eq!(judged.by, DecidedBy::ChainPolicy(Family::V4, Hook::Input));
    assert_eq!(judged.drop_reason(), Some(DropReason::DeniedByPolicy));
    assert_ne!(judged.path, PathId::UNCACHED);
    assert_eq!(policy.cached(W0, judged.path, 50), Some(judged));
    assert_eq!(packets(&policy), [2, 2, 0, 2]);
    let drops = policy.counters().policies[0][0];
    assert_eq!(drops, Count { packets: 2, bytes: 150 });
}

#[test]
fn rules_that_look_at_flags_are_asked_for_every_packet_only_if_they_are_reached() {
    let syn = vec![Test::Protocol(6), Test::TcpFlags { mask: 0x17, set: 0x02 }];
    let port = Test::Ports { side: Side::Destination, ranges: vec![(80, 80)] };
    let filters = input(
        vec![
            rule(vec![Test::Protocol(6), port], Target::Accept),
            rule(syn, Target::Drop),
            rule(vec![], Target::Accept),
        ],
        vec![],
    );
    let policy = Policy::compile(&filters, 1).expect("valid");
    let (web, other) = (tuple(9, 80), tuple(9, 81));
    assert_ne!(policy.judge(W0, Hook::Input, &subject(&web)).path, PathId::UNCACHED);
    let syn = policy.judge(W0, Hook::Input, &subject(&other));
    assert_eq!((syn.action, syn.path), (Action::Drop, PathId::UNCACHED));
    let ack = policy.judge(W0, Hook::Input, &Subject { tcp_flags: 0x10, ..subject(&other) });
    assert_eq!((ack.action, ack.path), (Action::Accept, PathId::UNCACHED));
    assert_eq!(packets(&policy), [1, 1, 1]);
}

#[test]
fn when_the_path_table_is_full_packets_are_judged_uncached_and_counted_all_the_same() {
    // Thirteen rules that only count, one for each bit of the source: 8192 paths, twice the room.
    let bits = (0..13).map(|bit| {
        let mask = IpAddr::V4(Ipv4Addr::from(1_u32 << bit));
        rule(vec![Test::Source(Network { address: mask, mask })], Target::Continue)
    });
    let policy = Policy::compile(&input(bits.collect(), vec![]), 1).expect("valid");
    let mut cached = 0;
    for address in 0..8192_u32 {
        let src = IpAddr::V4(Ipv4Addr::from(address));
        let tuple = Tuple::new(src, src, 1, 1, 17).expect("one family");
        let judged = policy.judge(W0, Hook::Input, &subject(&tuple));
        assert_eq!(judged.action, Action::Drop);
        cached += usize::from(judged.path != PathId::UNCACHED);
    }
    assert_eq!(cached, PATHS_MAX);
    assert_eq!(packets(&policy), [4096; 13]);
    assert_eq!(policy.counters().policies[0][0].packets, 8192);
    assert_eq!(policy.cached(W0, PathId::UNCACHED, 1), None);
    assert_eq!(policy.cached(W0, PathId(u16::MAX), 1), None);
}

#[test]
fn a_packet_that_matches_more_rules_than_a_path_holds_is_counted_on_each() {
    for matching in [paths::PATH_RULES_MAX, paths::PATH_RULES_MAX + 1, 200] {
        let rules = (0..matching).map(|_| rule(vec![], Target::Continue)).collect();
        let policy = Policy::compile(&input(rules, vec![]), 1).expect("valid");
        let tuple = tuple(9, 80);
        let judged = policy.judge(W0, Hook::Input, &subject(&tuple));
        assert_eq!(judged.path == PathId::UNCACHED, matching > paths::PATH_RULES_MAX);
        assert_eq!(packets(&policy), vec![1; matching]);
    }
}

#[test]
fn negated_interface_matches_hold_for_packets_without_that_interface() {
    let lan = InterfaceSet::EMPTY.with(InterfaceId(0));
    let mut filters = input(vec![rule(vec![Test::Egress(lan)], Target::Accept)], vec![]);
    filters.0[0].base[0].rules[0].conditions[0].negated = true;
    let policy = Policy::compile(&filters, 1).expect("valid");
    let tuple = tuple(9, 80);
    let judged = policy.judge(W0, Hook::Input, &subject(&tuple));
    assert_eq!(judged.action, Action::Accept);
    let out_of_lan = Subject { egress: InterfaceId(0), ..subject(&tuple) };
    assert_eq!(policy.judge(W0, Hook::Input, &out_of_lan).action, Action::Drop);
}

#[test]
fn an_untracked_or_invalid_packet_or_an_icmp_error_is_never_cached() {
    let policy = Policy::compile(&input(vec![], vec![]), 1).expect("valid");
    let tcp = tuple(9, 80);
    for (state, cached) in [
        (CtState::New, true),
        (CtState::Established, true),
        (CtState::Related, true),
        (CtState::Invalid, false),
        (CtState::Untracked, false),
    ] {
        let states = CtStates::of(state);
        let judged = policy.judge(W0, Hook::Input, &Subject { states, ..subject(&tcp) });
        assert_eq!(judged.path != PathId::UNCACHED, cached, "{state:?}");
    }
    let error = Subject { protocol: 1, icmp_type: 3, ..subject(&tcp) };
    assert_eq!(policy.judge(W0, Hook::Input, &error).path, PathId::UNCACHED);
    let query = Subject { protocol: 1, icmp_type: 8, icmp_query: true, ..subject(&tcp) };
    assert_ne!(policy.judge(W0, Hook::Input, &query).path, PathId::UNCACHED);
}

// --- what compile refuses -------------------------------------------------------------------------

fn fault(filters: &Tables) -> Option<Fault> {
    Policy::compile(filters, 1).err().map(|error| error.fault)
}

#[test]
fn connections_are_counted_in_the_filter_table_by_a_few_rules_and_where_there_is_room() {
    let counting = || {
        let mask = IpAddr::V4(Ipv4Addr::BROADCAST);
        rule(vec![Test::Connections { of: Of::Source, mask, above: 3 }], Target::Drop)
    };
    let room = Room { rows: [16; 2], key: SipKey([1, 2]), per_source: None, before: None };
    let fault = |filters: &Tables, room| {
        Policy::compile_counting(filters, 1, room).err().map(|error| error.fault)
    };
    let many = |count| input((0..count).map(|_| counting()).collect(), vec![]);
    assert_eq!(fault(&many(31), Some(&room)), None);
    assert_eq!(fault(&many(32), Some(&room)), Some(Fault::TooManyLimits));
    assert_eq!(fault(&many(1), None), Some(Fault::Uncounted));
    let mut elsewhere = Tables::default();
    elsewhere.0[0].base[Hook::RawPrerouting.index()].rules = vec![counting()];
    assert_eq!(fault(&elsewhere, Some(&room)), Some(Fault::CountsElsewhere));
}

/// `jumps` chains, each jumping to the next, from INPUT.
fn nested(jumps: usize) -> Tables {
    let jump = |to: usize| vec![rule(vec![], Target::Jump(to))];
    let chains = (1..=jumps).map(|next| if next == jumps { vec![] } else { jump(next) });
    input(jump(0), chains.collect())
}

#[test]
fn jumps_may_nest_sixteen_deep_and_no_deeper() {
    let policy = Policy::compile(&nested(16), 1).expect("sixteen are allowed");
    let tuple = tuple(9, 80);
    assert_eq!(policy.judge(W0, Hook::Input, &subject(&tuple)).action, Action::Drop);
    assert_eq!(fault(&nested(17)), Some(Fault::TooDeep));
    assert_eq!(fault(&nested(5000)), Some(Fault::TooDeep));
}

#[test]
fn loops_are_refused_even_where_no_packet_comes() {
    let jump = |to: usize| vec![rule(vec![], Target::Jump(to))];
    assert_eq!(fault(&input(vec![], vec![jump(0)])), Some(Fault::Loop));
    assert_eq!(fault(&input(vec![], vec![jump(1), jump(0)])), Some(Fault::Loop));
    let goto = vec![rule(vec![], Target::Goto(0))];
    assert_eq!(fault(&input(jump(0), vec![goto])), Some(Fault::Loop));
    assert_eq!(fault(&input(jump(1), vec![vec![]])), Some(Fault::NoSuchChain));
}

#[test]
fn chains_that_double_the_way_at_every_level_are_refused() {
    let twice = |to: usize| vec![rule(vec![], Target::Jump(to)); 8];
    let chains = |n: usize| (1..=n).map(move |next| if next == n { vec![] } else { twice(next) });
    assert_eq!(fault(&input(twice(0), chains(5).collect())), None);
    assert_eq!(fault(&input(twice(0), chains(10).collect())), Some(Fault::TooLong));
}

#[test]
fn what_a_protocol_does_not_have_is_refused() {
    let one = |tests: Vec<Test>, target| input(vec![rule(tests, target)], vec![]);
    let ports = |ranges: Vec<(u16, u16)>| Test::Ports { side: Side::Source, ranges };
    let (tcp, v6) = (Test::Protocol(6), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let accept = Target::Accept;
    let cases = [
        (one(vec![ports(vec![(1, 1)])], accept), Some(Fault::Protocol)),
        (one(vec![ports(vec![(1, 1)]), tcp.clone()], accept), None),
        (one(vec![ports(vec![(2, 1)]), tcp.clone()], accept), Some(Fault::Ports)),
        (one(vec![ports(vec![]), tcp.clone()], accept), Some(Fault::Ports)),
        (one(vec![ports(vec![(1, 1); 15]), tcp.clone()], accept), None),
        (one(vec![ports(vec![(1, 1); 16]), tcp.clone()], accept), Some(Fault::Ports)),
        (one(vec![tcp.clone(), tcp.clone()], accept), Some(Fault::Duplicate)),
        (one(vec![Test::TcpFlags { mask: 2, set: 2 }], accept), Some(Fault::Protocol)),
        (one(vec![], Target::Reject(RejectKind::TcpReset)), Some(Fault::Protocol)),
        (one(vec![tcp], Target::Reject(RejectKind::TcpReset)), None),
        (one(vec![], Target::Reject(RejectKind::NoRoute)), Some(Fault::RejectKind)),
        (
            one(vec![Test::Source(Network { address: v6, mask: v6 })], accept),
            Some(Fault::WrongFamily),
        ),
    ];
    for (filters, expected) in cases {
        assert_eq!(fault(&filters), expected, "{filters:?}");
    }
    assert!(Policy::compile(&Tables::default(), 0).is_err());
    assert!(Policy::compile(&Tables::default(), 16).is_ok());
    assert!(Policy::compile(&Tables::default(), 17).is_err());
}
