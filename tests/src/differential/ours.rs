//! Postern plays a script: its core in memory, with a clock that the script turns.

use std::panic::{AssertUnwindSafe, catch_unwind};

use postern_core::forward::NeighbourState;
use postern_core::rules::{Family, TableId};
use postern_core::verdict::DropReason;

use super::fate::{Chosen, Fate, Seen, State};
use super::flow::{FORWARDS, PARTIES, Side, Slot};
use super::script::{PAUSE, Script};
use crate::firewall::Firewall;
use crate::sent::Sent;
use crate::setup::{At, LAN, Setup, WAN};

/// The states that rules of no effect count, in their order.
const COUNTED: [State; 3] = [State::New, State::Established, State::Related];

/// Fates of a script's shots, and the table at the end, for people.
pub(super) type Played = (Vec<Fate>, String);

/// Plays a script in a slot.
///
/// # Errors
/// With the core's last words, if it panics.
pub(super) fn play(script: &Script, slot: Slot) -> Result<Played, String> {
    let played = catch_unwind(AssertUnwindSafe(|| played(script, slot)));
    played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
    })
}

/// An appliance under the script's conditions.
fn setup(script: &Script, slot: Slot) -> Setup {
    let mut setup = Setup::default().workers(script.workers).seed(script.seed).capacity(64);
    setup.set_addresses(LAN, &["10.0.0.1/8", "2001:db8:1::1/64"]);
    setup.timeouts = script.conditions.timeouts();
    setup.options.tcp.loose = script.conditions.loose;
    setup.options.tcp.liberal = script.conditions.liberal;
    if script.conditions.masquerade6 {
        setup.ip6tables("-t nat -A POSTROUTING -o wan -j MASQUERADE");
    }
    for (family, (protocol, port, host, to_port)) in
        Family::ALL.into_iter().flat_map(|family| FORWARDS.map(|forward| (family, forward)))
    {
        setup.add_forward(protocol, (port, port), (slot.host(family, host), to_port));
    }
    for state in COUNTED {
        let name = format!("{state:?}").to_uppercase();
        let rule = format!("-I FORWARD 1 -m conntrack --ctstate {name}");
        setup.iptables(&rule);
        setup.ip6tables(&rule);
    }
    setup
}

fn played(script: &Script, slot: Slot) -> Played {
    let setup = setup(script, slot);
    // The last inserted stands first; FORWARD's rules stand behind INPUT's, and IPv6's behind all of IPv4's.
    let rules = |family, chain| rules_of(&setup, family, chain);
    let (v4, v6) = (Family::V4, Family::V6);
    let all_v4 = rules(v4, "INPUT") + rules(v4, "FORWARD") + rules(v4, "OUTPUT");
    let first = [rules(v4, "INPUT"), all_v4 + rules(v6, "INPUT")];
    let mut fw = Firewall::with(setup);
    for (family, number) in Family::ALL.into_iter().flat_map(|f| (0..PARTIES).map(move |n| (f, n)))
    {
        fw.neighbour(LAN, slot.host(family, number), NeighbourState::Reachable);
    }
    let mut chosen = Chosen::new(script);
    let mut fates = Vec::with_capacity(script.len());
    for (number, section) in script.sections.iter().enumerate() {
        if number > 0 {
            fw.pass(PAUSE);
        }
        for shot in section {
            let flow = &script.flows[shot.flow];
            let known = chosen.of(shot.flow);
            let before = connection(&fw, &flow.near(slot, known, shot.back), flow.protocol);
            let counts = |fw: &Firewall| {
                let counts = fw.snapshot().policy.counters().rules;
                [2, 1, 0].map(|place| counts[first[flow.family.index()] + place].packets)
            };
            let counted = counts(&fw);
            let l3 = shot.build(flow, slot, known);
            let at = if flow.enters(shot.back) == Side::Lan { LAN } else { WAN };
            let sent = fw.send(at, l3);
            let now = counts(&fw);
            let state = (0..3).find(|&i| now[i] != counted[i]).map(|i| COUNTED[i]);
            let mut fate = Fate::of(seen(&sent, state), shot, flow, known);
            (fate.reason, fate.before) = (reason(&sent), before);
            chosen.learn(script, shot, &fate);
            fates.push(fate);
        }
    }
    (fates, fw.table())
}

/// How many rules a chain that packets pass has.
fn rules_of(setup: &Setup, family: Family, chain: &str) -> usize {
    let chain = setup.rules.family(family).chain(TableId::Filter, chain);
    chain.map_or(0, |chain| chain.rules().len())
}

/// Why nothing came out. Fragments of a datagram whose first one was refused have a reason of their own: that one's counts.
fn reason(sent: &Sent) -> Option<DropReason> {
    let mut drops = sent.drops.iter();
    let first = drops.find(|&&reason| reason != DropReason::FragmentRefused);
    first.or(sent.drops.first()).copied()
}

fn seen(sent: &Sent, state: Option<State>) -> Vec<Seen> {
    let one = |out: &crate::sent::Out| {
        let side = match out.at {
            at if at == LAN => Side::Lan,
            at if at == WAN => Side::Wan,
            At::Wire(_) | At::Host(_) => return None, // to the host, which Linux keeps to itself too
        };
        let state = state.filter(|_| !out.generated);
        Some(Seen { side, state, l3: out.frame[14..].to_vec() })
    };
    sent.outs.iter().filter_map(one).collect()
}

/// State and flags of the connection that a packet of these ends meets.
fn connection(fw: &Firewall, (src, dst): &super::flow::Ends, protocol: u8) -> Option<(u8, u16)> {
    let meets = |tuple: &postern_core::conntrack::tuple::Tuple| {
        let ids = matches!(protocol, 1 | 58)
            || (tuple.src_id(), tuple.dst_id()) == (src.port(), dst.port());
        tuple.protocol() == protocol && (tuple.src(), tuple.dst()) == (src.ip(), dst.ip()) && ids
    };
    let connections = fw.connections();
    let found = connections.iter().find(|view| meets(&view.original) || meets(&view.reply));
    found.map(|view| (view.protocol_state, view.flags))
}
