//! What became of a shot, and whether two systems agree about it.

use postern_core::conntrack::sctp::State as SctpState;
use postern_core::conntrack::tcp::State as TcpState;
use postern_core::rules::Family;
use postern_core::verdict::DropReason;

use super::flow::{Course, FORWARDS, Flow, Side};
use super::script::{Body, Script, Shot};
use crate::fragments::{is_fragment, reassemble};
use crate::packet::{Body as PacketBody, Pkt};
use crate::wire::{adjusted, get16, set16};

/// What conntrack called a packet that crossed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    New,
    Established,
    Related,
}

/// A packet that a system let out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) side: Side,
    /// What it was called; `None` if that could not be seen.
    pub(super) state: Option<State>,
    pub(super) l3: Vec<u8>,
}

/// What became of one shot in one system.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fate {
    /// All that came out.
    pub(super) seen: Vec<Seen>,
    /// The flow's external port now, if it was seen.
    pub(super) chosen: Option<u16>,
    /// Whether this packet had another one than those before it, if there was one before.
    pub(super) moved: Option<bool>,
    /// Why it was dropped, if the system says so (Postern does).
    pub(super) reason: Option<DropReason>,
    /// State and flags of the flow's connection before the shot, if the system says so.
    pub(super) before: Option<(u8, u16)>,
}

impl Fate {
    /// Takes in what came out, fragments put together, and learns the external port from it.
    pub(super) fn of(seen: Vec<Seen>, shot: &Shot, flow: &Flow, known: Option<u16>) -> Self {
        let seen = joined(seen);
        let is_translated = flow.translated().is_some() && !shot.back;
        let is_error = matches!(shot.body, Body::Error { .. });
        let learnt = match seen.first() {
            Some(first) if is_translated && !is_error && first.side == flow.leaves(shot.back) => {
                Pkt::read(&first.l3).ok().map(|pkt| pkt.source().port())
            }
            _ => None,
        };
        let chosen = learnt.or(known);
        let moved = known.map(|known| chosen != Some(known));
        Self { seen, chosen, moved, reason: None, before: None }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let mut out = match (self.seen.as_slice(), self.reason) {
            ([], Some(reason)) => format!("dropped: {}", reason.name()),
            ([], None) => "dropped".to_string(),
            _ => String::new(),
        };
        for seen in &self.seen {
            let side = if seen.side == Side::Lan { "LAN" } else { "WAN" };
            let state = seen.state.map_or(String::new(), |state| format!("{state:?} "));
            out += &format!("out at the {side}: {state}{}", describe(&seen.l3));
        }
        if self.moved == Some(true) {
            out += " (from another port than before)";
        }
        out
    }
}

/// The datagram that fragments are of, if they are of one: how it is cut is the system's own affair.
fn joined(seen: Vec<Seen>) -> Vec<Seen> {
    if !seen.iter().any(|seen| is_fragment(&seen.l3)) {
        return seen;
    }
    let fragments: Vec<_> = seen.iter().map(|seen| seen.l3.clone()).collect();
    match (reassemble(&fragments), seen.first()) {
        (Ok(l3), Some(first))
            if seen.iter().all(|s| (s.side, s.state) == (first.side, first.state)) =>
        {
            vec![Seen { l3, ..first.clone() }]
        }
        _ => seen,
    }
}

/// The external port of each flow, as a system chose them.
#[derive(Clone, Debug)]
pub(super) struct Chosen(Vec<Option<u16>>);

impl Chosen {
    /// None is known yet.
    pub(super) fn new(script: &Script) -> Self {
        Self(vec![None; script.flows.len()])
    }

    /// That of a flow.
    pub(super) fn of(&self, flow: usize) -> Option<u16> {
        self.0[flow]
    }

    /// What a shot's fate says. A rival that had the same port has none any more: it must be over.
    pub(super) fn learn(&mut self, script: &Script, shot: &Shot, fate: &Fate) {
        if fate.chosen.is_some() && fate.chosen != self.0[shot.flow] {
            for rival in script.rivals(shot.flow) {
                if self.0[rival] == fate.chosen {
                    self.0[rival] = None;
                }
            }
        }
        self.0[shot.flow] = fate.chosen;
    }
}

/// A packet for people.
pub(super) fn describe(l3: &[u8]) -> String {
    match Pkt::decode(l3) {
        Ok(pkt) => format!("{pkt:?}"),
        Err(_) => match Pkt::read(l3) {
            Ok(pkt) => format!("{pkt:?}, damaged"),
            Err(_) => format!("{l3:02x?}"),
        },
    }
}

/// In what two systems differ about a shot. The first that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Difference {
    /// It crossed here and not there.
    Crossing,
    /// It crossed as another packet.
    Packet,
    /// It was called something else.
    State,
    /// The flow kept its external port here and not there.
    Mapping,
}

/// A shot, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Case<'a> {
    pub(super) flow: &'a Flow,
    pub(super) shot: &'a Shot,
    /// Whether connections are picked up, whether segments out of their window pass, and the timeouts that are short.
    pub(super) loose: bool,
    pub(super) liberal: bool,
    pub(super) short: u32,
    /// All shots before that crossed Linux, of flows as they are now: without connections that are over.
    pub(super) past: &'a [&'a Shot],
    /// All fragments before, whatever became of them.
    pub(super) fragments: &'a [&'a Shot],
    pub(super) difference: Option<Difference>,
    pub(super) linux: &'a Fate,
    pub(super) postern: &'a Fate,
}

/// A difference in a line, so that similar ones can be counted.
pub(super) fn signature(
    what: Difference,
    shot: &Shot,
    flow: &Flow,
    linux: &Fate,
    postern: &Fate,
) -> String {
    let name = match shot.body.whole() {
        Body::Segment(s) => {
            let names = ["F", "S", "R", "P", "A", "U", "E", "C"].iter().enumerate();
            names.filter(|(bit, _)| s.flags >> bit & 1 != 0).map(|(_, name)| *name).collect()
        }
        Body::Datagram { .. } => "udp".to_string(),
        Body::Lite { .. } => "udp-lite".to_string(),
        Body::Part { .. } => "a part of a part".to_string(),
        Body::Chunks { kinds, .. } => format!("sctp {kinds:?}"),
        Body::Tunnel { .. } => "gre".to_string(),
        Body::Query { ask, .. } => if *ask { "ask" } else { "answer" }.to_string(),
        Body::Error { kind, code, keep, about, .. } => {
            let about = if matches!(**about, Body::Segment(_)) { "tcp" } else { "other" };
            format!("error {kind}/{code} about {about}, {keep} bytes quoted,")
        }
    };
    let name =
        if matches!(shot.body, Body::Part { .. }) { format!("part of {name}") } else { name };
    let state = |fate: &Fate| match (fate.seen.first(), fate.reason) {
        (Some(seen), _) => format!("{:?}", seen.state),
        (None, Some(reason)) => reason.name().to_string(),
        (None, None) => "dropped".to_string(),
    };
    let before = postern.before.map_or("nothing".to_string(), |(state, flags)| {
        let name = match flow.protocol {
            6 => TcpState::from_number(state).name(),
            132 => SctpState::from_number(state).name(),
            _ => "",
        };
        format!("{name} {:#x}", flags & 0x1fff)
    });
    let way = match flow.course {
        Course::Outward => "out",
        Course::Routed => "routed",
        Course::Inward(_) => "in",
        Course::Hairpin(_) => "hairpin",
    };
    let way = if flow.family == Family::V6 { format!("v6 {way}") } else { way.to_string() };
    let way = if shot.back { format!("{way}, back") } else { way.to_string() };
    let (linux, postern) = (state(linux), state(postern));
    format!("{what:?}: {name} ({way}), before {before}: linux {linux}, postern {postern}")
}

/// Whether two fates of a shot differ.
pub(super) fn compare(flow: &Flow, linux: &Fate, postern: &Fate) -> Option<Difference> {
    let sides = |fate: &Fate| fate.seen.iter().map(|seen| seen.side).collect::<Vec<_>>();
    if sides(linux) != sides(postern) {
        return Some(Difference::Crossing);
    }
    let pairs = || linux.seen.iter().zip(&postern.seen);
    let same = |(l, p): (&Seen, &Seen)| {
        (l.l3 == p.l3 && linux.chosen == postern.chosen) || {
            let (l, p) = (neutral(l, flow, linux.chosen), neutral(p, flow, postern.chosen));
            l.is_some() && l == p
        }
    };
    match () {
        () if !pairs().all(same) => Some(Difference::Packet),
        () if lends(flow, linux) != lends(flow, postern) => Some(Difference::Packet),
        () if pairs().any(|(l, p)| l.state != p.state) => Some(Difference::State),
        () if has_moved(linux) != has_moved(postern) => Some(Difference::Mapping),
        () => None,
    }
}

/// Whether a connection that was answered appears behind another port than before.
fn has_moved(fate: &Fate) -> bool {
    let answered = fate.seen.iter().any(|seen| seen.state == Some(State::Established));
    answered && fate.moved == Some(true)
}

/// Whether a connection outwards was given a forwarded port.
fn lends(flow: &Flow, fate: &Fate) -> bool {
    let of_a_forward = |port: u16| FORWARDS.iter().any(|f| (f.0, f.1) == (flow.protocol, port));
    fate.seen.iter().any(|seen| {
        let port = || Pkt::read(&seen.l3).ok().map(|pkt| pkt.source().port());
        (seen.side, seen.state) == (Side::Wan, Some(State::New)) && port().is_some_and(of_a_forward)
    })
}

/// The packet with the external port replaced by the flow's own, outside and in a quote; `None` if any of its
/// checksums is wrong.
fn neutral(seen: &Seen, flow: &Flow, chosen: Option<u16>) -> Option<Pkt> {
    let mut pkt = Pkt::decode(&seen.l3).ok()?;
    let is_inward = matches!(flow.course, Course::Inward(_));
    if is_inward && (seen.side, seen.state) == (Side::Wan, Some(State::New)) {
        // The target of a forward opens a connection of its own, from some port.
        let src = pkt.src;
        return Some(pkt.from((src, flow.host_port)));
    }
    let (Some(chosen), Some((own, address))) = (chosen, flow.translated()) else {
        return Some(pkt);
    };
    if (pkt.src, pkt.source().port()) == (address, chosen) {
        pkt = pkt.from((address, own));
    }
    let about = pkt.quoted_addresses().map(|(_, dst)| dst);
    if let PacketBody::Icmp { payload, .. } = &mut pkt.body
        && about == Some(address)
    {
        neutral_quote(payload, chosen, own);
    }
    Some(pkt)
}

/// Replaces the destination's port in a quote, which is of an answer on its way in.
fn neutral_quote(quote: &mut [u8], chosen: u16, own: u16) {
    let Some(&first) = quote.first() else { return };
    let (l4, protocol) = match first >> 4 {
        4 => (usize::from(first & 15) * 4, 9),
        _ => (40, 6),
    };
    let (port, sum) = match quote.get(protocol) {
        Some(6) => (l4 + 2, l4 + 16),
        Some(17 | 136) => (l4 + 2, l4 + 6),
        Some(1 | 58) => (l4 + 4, l4 + 2),
        // No more than the ports is quoted of it.
        Some(132) => (l4 + 2, quote.len()),
        _ => return,
    };
    if quote.len() < port + 2 || get16(quote, port) != chosen {
        return;
    }
    set16(quote, port, own);
    if quote.len() >= sum + 2 && get16(quote, sum) != 0 {
        let old = get16(quote, sum);
        set16(quote, sum, adjusted(old, chosen, own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::flow::Slot;
    use postern_core::rules::Family;

    fn flow() -> Flow {
        let course = Course::Outward;
        let family = Family::V4;
        Flow { family, protocol: 17, course, host: 0, host_port: 5000, peer: 0, peer_port: 53 }
    }

    fn out(chosen: u16, state: State, len: u16) -> Fate {
        let shot = Shot::new(0, false, Body::Datagram { len, unsummed: false });
        let pkt = Pkt::decode(&shot.build(&flow(), Slot(0), None)).expect("it was just built");
        let l3 = pkt.from(("203.0.113.2", chosen)).hop().build();
        let seen = Seen { side: Side::Wan, state: Some(state), l3 };
        Fate::of(vec![seen], &shot, &flow(), None)
    }

    #[test]
    fn which_external_port_was_chosen_makes_no_difference() {
        let (a, b) = (out(5000, State::New, 4), out(6001, State::New, 4));
        assert_eq!((a.chosen, b.chosen), (Some(5000), Some(6001)));
        assert_eq!(compare(&flow(), &a, &b), None);
    }

    #[test]
    fn anything_else_does() {
        let a = out(5000, State::New, 4);
        let nothing = Fate::default();
        let case = |b: &Fate| compare(&flow(), &a, b);
        assert_eq!(case(&nothing), Some(Difference::Crossing));
        assert_eq!(case(&out(5000, State::New, 5)), Some(Difference::Packet));
        assert_eq!(case(&out(5000, State::Established, 4)), Some(Difference::State));
        let (a, b) = (out(5000, State::Established, 4), out(5000, State::Established, 4));
        let b = Fate { moved: Some(true), ..b };
        assert_eq!(compare(&flow(), &a, &b), Some(Difference::Mapping));
        let (a, b) = (out(5353, State::New, 4), out(6000, State::New, 4));
        assert_eq!(compare(&flow(), &a, &b), Some(Difference::Packet));
    }
}
