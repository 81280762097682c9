//! Rules to policies and back: what matches, and counters that survive every change of rules.

use std::net::{IpAddr, Ipv4Addr};

use postern_core::conntrack::ctstate::{CtState, CtStates};
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tuple::Tuple;
use postern_core::limits::Room;
use postern_core::rules::{Action, Family, Hook, RejectKind, Subject};
use postern_core::units::{InterfaceId, WorkerId};
use postern_rules::{Compiled, Counts, InterfaceRole, Rulesets, builtin, compile, execute};

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);
const NAMES: [(&str, InterfaceId); 2] = [("lan", LAN), ("wan", WAN)];

/// Room to count the connections of small tables.
const ROOM: Room = Room { rows: [64; 2], key: SipKey([1, 2]), per_source: None, before: None };

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The daemon in small: rulesets, the policy in use, and the one before it that workers may still use.
struct Daemon {
    rulesets: Rulesets,
    live: Compiled,
    retiring: Option<Compiled>,
}

impl Daemon {
    fn new(rulesets: Rulesets) -> Self {
        let live = compile(&rulesets, &NAMES, 2, &ROOM).expect("valid");
        Self { rulesets, live, retiring: None }
    }

    fn counts(&self) -> Counts {
        let mut counts = self.live.counts();
        if let Some(old) = &self.retiring {
            counts.add(&old.counts());
        }
        counts
    }

    fn iptables(&mut self, line: &str) -> String {
        let mut rulesets = self.rulesets.clone();
        let output = execute(Family::V4, &words(line), &mut rulesets, || self.counts());
        assert_eq!(output.code, 0, "{line}: {}", output.stderr);
        self.rulesets = rulesets;
        if output.changed {
            self.settle();
            let new = compile(&self.rulesets, &NAMES, 2, &ROOM).expect("valid");
            self.retiring = Some(std::mem::replace(&mut self.live, new));
        }
        output.stdout
    }

    /// The last worker has left the old policy.
    fn settle(&mut self) {
        if let Some(old) = self.retiring.take() {
            self.rulesets.settle(&old.counts());
        }
    }

    fn judge(
        &self,
        hook: Hook,
        from: InterfaceId,
        to: InterfaceId,
        state: CtStates,
        port: u16,
    ) -> Action {
        judge(&self.live, 0, hook, from, to, state, port)
    }
}

fn judge(
    policy: &Compiled,
    worker: u8,
    hook: Hook,
    ingress: InterfaceId,
    egress: InterfaceId,
    states: CtStates,
    port: u16,
) -> Action {
    let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    let tuple = Tuple::new(address(1), address(2), 1024, port, 6).expect("one family");
    let subject = Subject {
        tuple: &tuple,
        protocol: 6,
        icmp_type: 0,
        icmp_code: 0,
        icmp_query: false,
        tcp_flags: 2,
        ingress,
        egress,
        states,
        packet_len: 100,
    };
    policy.policy().judge(WorkerId(worker), hook, &subject).action
}

const NEW: CtStates = CtStates::of(CtState::New);

#[test]
fn a_rule_that_stays_keeps_its_count_through_edits_and_zeroing() {
    let mut daemon = Daemon::new(Rulesets::new());
    daemon.iptables("-A INPUT -p tcp --dport 22 -j ACCEPT");
    daemon.iptables("-P INPUT DROP");
    let send = |daemon: &Daemon, port| daemon.judge(Hook::Input, LAN, InterfaceId::NONE, NEW, port);
    assert_eq!(send(&daemon, 22), Action::Accept);
    assert_eq!(send(&daemon, 23), Action::Drop);
    let counts = |daemon: &mut Daemon| daemon.iptables("-S INPUT -v");
    let ssh = "-A INPUT -p tcp -m tcp --dport 22";
    assert_eq!(counts(&mut daemon), format!("-P INPUT DROP -c 1 100\n{ssh} -c 1 100 -j ACCEPT\n"));
    // An edit elsewhere: while both policies live, after the old one is settled, and with packets in between.
    let old = daemon.live.clone();
    daemon.iptables("-I INPUT -p tcp --dport 80 -j ACCEPT");
    judge(&old, 1, Hook::Input, LAN, InterfaceId::NONE, NEW, 22);
    send(&daemon, 22);
    let web = "-A INPUT -p tcp -m tcp --dport 80";
    let expected =
        format!("-P INPUT DROP -c 1 100\n{web} -c 0 0 -j ACCEPT\n{ssh} -c 3 300 -j ACCEPT\n");
    assert_eq!(counts(&mut daemon), expected);
    daemon.settle();
    assert_eq!(counts(&mut daemon), expected);
    // Zeroed while counting, then edited.
    daemon.iptables("-Z INPUT");
    send(&daemon, 22);
    daemon.iptables("-D INPUT 1");
    send(&daemon, 22);
    send(&daemon, 80);
    daemon.settle();
    let expected = format!("-P INPUT DROP -c 1 100\n{ssh} -c 2 200 -j ACCEPT\n");
    assert_eq!(counts(&mut daemon), expected);
    daemon.iptables("-Z INPUT 1");
    assert_eq!(counts(&mut daemon), format!("-P INPUT DROP -c 1 100\n{ssh} -c 0 0 -j ACCEPT\n"));
    assert_eq!(daemon.iptables("-L INPUT -v -Z").lines().count(), 3);
    assert!(counts(&mut daemon).starts_with("-P INPUT DROP -c 0 0\n"));
}

#[test]
fn the_built_in_policy_lets_out_lets_back_and_lets_nothing_else_in() {
    let roles = [
        InterfaceRole { name: "lan", outside: false },
        InterfaceRole { name: "wan", outside: true },
    ];
    let daemon = Daemon::new(builtin(&roles).expect("valid"));
    let none = InterfaceId::NONE;
    let of = CtStates::of;
    for (hook, from, to, states, expected) in [
        (Hook::Forward, LAN, WAN, NEW, Action::Accept),
        (Hook::Forward, WAN, LAN, NEW, Action::Drop),
        (Hook::Forward, WAN, LAN, of(CtState::Established), Action::Accept),
        (Hook::Forward, WAN, LAN, of(CtState::Related), Action::Accept),
        (Hook::Forward, LAN, WAN, of(CtState::Invalid), Action::Drop),
        (Hook::Forward, WAN, LAN, NEW.union(CtStates::DNAT), Action::Accept),
        (Hook::Forward, LAN, LAN, NEW.union(CtStates::DNAT), Action::Accept),
        (Hook::Forward, WAN, WAN, NEW, Action::Drop),
        (Hook::Input, LAN, none, NEW, Action::Accept),
        (Hook::Input, WAN, none, NEW, Action::Drop),
        (Hook::Input, WAN, none, of(CtState::Established), Action::Accept),
        (Hook::Output, none, WAN, NEW, Action::Accept),
    ] {
        assert_eq!(
            daemon.judge(hook, from, to, states, 80),
            expected,
            "{hook:?} {from:?} {to:?} {states:?}"
        );
    }
}

#[test]
fn interface_names_wildcards_and_negations_are_resolved_when_compiled() {
    for (rule, lan, wan) in [
        ("-i lan", true, false),
        ("! -i lan", false, true),
        ("-i la+", true, false),
        ("-i +", true, true),
        ("! -i +", false, false),
        ("-i eth0", false, false),
        ("! -i eth0", true, true),
        ("! -o eth+", true, true),
        ("-o eth+", false, false),
    ] {
        let mut daemon = Daemon::new(Rulesets::new());
        daemon.iptables(&format!("-A FORWARD {rule} -j DROP"));
        for (from, matches) in [(LAN, lan), (WAN, wan)] {
            let action = daemon.judge(Hook::Forward, from, LAN, NEW, 80);
            assert_eq!(action == Action::Drop, matches, "{rule} from {from:?}");
        }
    }
}

#[test]
fn every_port_and_flag_match_reaches_the_policy() {
    for (rule, port, matches) in [
        ("-p tcp --dport 80", 80, true),
        ("-p tcp --dport 80", 81, false),
        ("-p tcp ! --dport 80", 81, true),
        ("-p tcp --dport 79:81 --sport 1024", 81, true),
        ("-p tcp --dport 79:81 --sport 1025", 81, false),
        ("-p tcp -m multiport --dports 1,80:90", 90, true),
        ("-p tcp -m multiport --dports 1,80:90", 91, false),
        ("-p tcp -m multiport ! --ports 1,1024", 91, false),
        ("-p tcp -m multiport ! --ports 1,1023", 91, true),
        ("-p tcp --syn", 80, true),
        ("-p tcp ! --syn", 80, false),
        ("-p udp", 80, false),
        ("! -p udp", 80, true),
        ("-s 192.0.2.0/24 -d 192.0.2.2", 80, true),
        ("! -s 192.0.2.0/24", 80, false),
        ("-m state --state NEW", 80, true),
        ("-m conntrack ! --ctstate NEW", 80, false),
        ("-m comment --comment x", 80, true),
    ] {
        let mut daemon = Daemon::new(Rulesets::new());
        daemon.iptables(&format!("-A INPUT {rule} -j REJECT"));
        let action = daemon.judge(Hook::Input, LAN, InterfaceId::NONE, NEW, port);
        let expected =
            if matches { Action::Reject(RejectKind::PortUnreachable) } else { Action::Accept };
        assert_eq!(action, expected, "{rule}, port {port}");
    }
}
