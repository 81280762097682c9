//! The differences that are wanted: what they look like is said here, why they are wanted in
//! `tests/differential/differences.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tcp::State;
use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::rules::Family;
use postern_core::verdict::DropReason;
use toml_edit::DocumentMut;

use super::fate::{Case, Difference, Fate, State as CtState, compare};
use super::flow::{Course, FORWARDS, Side, Slot};
use super::script::{Body, Conditions, Script, Segment, Shot, Tamper};
use crate::fragments::reassemble;
use crate::packet::{Pkt, flag};

/// A class of differences: its name, and whether a case is of it. As narrow as can be.
struct Class {
    name: &'static str,
    holds: fn(&Case<'_>) -> bool,
}

const CLASSES: &[Class] = &[
    Class {
        name: "closed-admits-nothing-new",
        holds: |case| {
            was_seen_to_close(case) && case.only_linux_lets_it_through(DropReason::ConnectionClosed)
                || is_kept_shorter(case)
        },
    },
    Class {
        name: "syn-ack-must-cover-the-syn",
        holds: |case| {
            is_answer_to_no_syn(case) && case.only_linux_lets_it_through(DropReason::TcpAckInvalid)
        },
    },
    Class {
        name: "only-an-answer-to-the-syn-refuses-it",
        holds: |case| is_refusal_of_nothing(case) || is_refusal_of_both(case),
    },
    Class { name: "the-last-syn-counts", holds: is_lower_syn },
    Class { name: "what-is-refused-teaches-nothing", holds: is_refused_word },
    Class {
        name: "a-rst-teaches-nothing",
        holds: |case| is_rst_with_news(case) || was_told_by_a_rst(case) || begins_after_a_rst(case),
    },
    Class { name: "a-rst-behind-all-data-is-exact", holds: is_rst_behind_all },
    Class { name: "only-an-exact-rst-ends-what-was-picked-up", holds: ends_what_was_picked_up },
    Class { name: "what-was-sent-may-be-acknowledged", holds: acknowledges_before_last },
    Class { name: "a-rst-must-fit-the-window", holds: is_rst_out_of_window },
    Class {
        name: "ipv6-needs-its-checksum",
        holds: |case| {
            matches!(case.shot.body.whole(), Body::Datagram { unsummed: true, .. })
                && case.flow.family == Family::V6
                && case.only_linux_lets_it_through(DropReason::TransportChecksum)
        },
    },
    Class { name: "an-atomic-fragment-stands-alone", holds: stands_alone },
    Class {
        name: "an-overlap-discards-the-datagram",
        holds: |case| {
            case.only_linux_lets_it_through(DropReason::FragmentOverlap) && is_contradicted(case)
        },
    },
    Class { name: "the-first-fragment-has-the-headers", holds: misses_its_header },
    Class { name: "a-quote-has-eight-bytes", holds: quotes_too_little },
    Class { name: "a-seen-handshake-ends-leniency", holds: is_lenient },
    Class { name: "simultaneous-opening-has-a-timeout", holds: opens_from_both_sides },
    Class { name: "a-fin-again-is-no-second-fin", holds: is_fin_again },
    Class { name: "forwarded-ports-are-not-taken", holds: takes_a_forwarded_port },
    Class { name: "a-forwards-target-may-change-its-port", holds: target_changes_its_port },
    Class {
        name: "a-taken-tuple-is-not-shared",
        holds: |case| case.only_linux_lets_it_through(DropReason::TupleInUse) && changes_peer(case),
    },
];

/// The connection is over for Postern, and it was seen why: a RST crossed, or a FIN of either side.
fn was_seen_to_close(case: &Case<'_>) -> bool {
    let said = |back, what: u8| case.past_segments(back).any(|s| s.flags & what != 0);
    let sides = [false, true];
    matches!(case.shot.body.whole(), Body::Segment(_))
        && case.postern.before.is_some_and(|(_, row)| row & flags::CLOSED != 0)
        && (sides.iter().any(|&back| said(back, flag::RST))
            || sides.iter().all(|&back| said(back, flag::FIN)))
}

/// A SYN/ACK while the connection opens whose ACK is too low for a SYN of the other side. Which one counts in an opening
/// from both sides is a matter of their numbers, not of which came last.
fn is_answer_to_no_syn(case: &Case<'_>) -> bool {
    let these = flag::SYN | flag::ACK | flag::RST;
    let Some(segment) = case.segment().filter(|s| s.flags & these == flag::SYN | flag::ACK) else {
        return false;
    };
    let mut syns = case
        .past_segments(!case.shot.back)
        .filter(|s| s.flags & (flag::SYN | flag::RST) == flag::SYN);
    case.is_opening() && syns.any(|syn| !acknowledges(segment, syn) && after(end(syn), segment.ack))
}

/// Whether a segment acknowledges a SYN, or some of the data in it.
fn acknowledges(segment: &Segment, syn: &Segment) -> bool {
    let within = segment.ack.wrapping_sub(syn.seq);
    segment.flags & flag::ACK != 0 && (1..=1 + u32::from(syn.len)).contains(&within)
}

/// Linux has forgotten a closed connection already: what still crossed gave it the short timeout of a connection in which
/// something is amiss. Here nothing that crosses changes how long it lingers.
fn is_kept_shorter(case: &Case<'_>) -> bool {
    let short = |kind: TimeoutKind| case.short >> kind as u8 & 1 != 0;
    let is_closed = case.postern.before.is_some_and(|(_, row)| row & flags::CLOSED != 0);
    let segment = case.past.iter().rev().find(|shot| shot.flow == case.shot.flow);
    case.difference == Some(Difference::Crossing)
        && case.linux.seen.is_empty()
        && case.was_in(State::Close)
        && is_closed
        && (short(TimeoutKind::TcpUnacknowledged) || short(TimeoutKind::TcpMaxRetrans))
        && !short(TimeoutKind::TcpClose)
        && segment.and_then(|shot| segment_of(shot)).is_some_and(|s| s.flags & flag::RST == 0)
}

/// A RST crosses both while the connection is SYN_SENT, and acknowledges nothing of the SYN: Linux ends the
/// connection, Postern leaves it to the client, which ignores the RST.
fn is_refusal_of_nothing(case: &Case<'_>) -> bool {
    let Some(rst) = case.segment().filter(|s| s.flags & flag::RST != 0 && case.shot.back) else {
        return false;
    };
    let syn = case
        .past_segments(false)
        .rev()
        .find(|syn| syn.flags & (flag::SYN | flag::ACK) == flag::SYN);
    (case.crosses() || case.only_linux_lets_it_through(DropReason::TcpRstSequence))
        && case.was_in(State::SynSent)
        && !syn.is_some_and(|syn| acknowledges(rst, syn))
}

/// While both sides open, a RST acknowledges the other's SYN, and Linux drops it for its sequence number.
fn is_refusal_of_both(case: &Case<'_>) -> bool {
    let theirs = case.past_segments(!case.shot.back).next_back();
    case.difference == Some(Difference::Crossing)
        && case.linux.seen.is_empty()
        && case.was_in(State::SynSent2)
        && case.segment().is_some_and(|rst| {
            rst.flags & (flag::RST | flag::ACK) == flag::RST | flag::ACK
                && theirs.is_some_and(|syn| syn.flags & flag::SYN != 0 && end(syn) == rst.ack)
        })
}

/// What both refuse teaches Linux all the same: the first word of a server, and a SYN with new numbers while opening.
/// Nor does it forget a SYN/ACK of the wrong side, which crosses.
fn is_refused_word(case: &Case<'_>) -> bool {
    let Some(segment) = case.segment() else { return false };
    let first_word = case.is_dropped() && case.shot.back && case.was_in(State::SynSent);
    // Linux begins anew with a SYN behind the last one.
    let mut syns = case.past_segments(case.shot.back).filter(|s| s.flags & flag::SYN != 0);
    let is_news = syns.clone().next().is_none() || syns.any(|s| after(end(segment), end(s)));
    let syn = segment.flags & flag::SYN != 0
        && case.is_opening()
        && is_news
        && (case.is_dropped()
            || case.crosses()
                && (!case.shot.back || case.was_in(State::SynReceived))
                && segment.flags & flag::ACK != 0);
    // Linux remembers it as the last segment, and the SYN before it no more.
    let is_late = case.crosses()
        && case.was_in(State::Close)
        && case
            .past_segments(!case.shot.back)
            .next_back()
            .is_some_and(|s| s.flags & flag::SYN != 0);
    let fin = segment.flags & flag::FIN != 0
        && (is_late
            || case.is_dropped() && case.postern.reason == Some(DropReason::ConnectionClosed));
    first_word || syn || fin
}

/// Whether one sequence number comes after another.
fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

/// The sequence number behind a segment.
fn end(segment: &Segment) -> u32 {
    let control =
        u32::from(segment.flags & flag::SYN != 0) + u32::from(segment.flags & flag::FIN != 0);
    segment.seq.wrapping_add(u32::from(segment.len) + control)
}

/// A RST that crosses both, whose numbers nobody sent before: Linux learns from it.
fn is_rst_with_news(case: &Case<'_>) -> bool {
    let Some(rst) = case.segment().filter(|s| s.flags & flag::RST != 0) else { return false };
    let mut past = case.past_segments(case.shot.back);
    // What was said before the last SYN is of another connection, and in SYN_SENT nothing that the server said was taken in.
    let last_syn = past.clone().enumerate().filter(|(_, s)| s.flags & flag::SYN != 0).last();
    let last_syn = last_syn.map_or(0, |(place, _)| place);
    let unheard =
        case.was_in(State::SynSent) || !past.clone().skip(last_syn).any(|s| end(s) == rst.seq);
    let acknowledges = rst.flags & flag::ACK != 0
        && past.all(|s| s.flags & flag::ACK == 0 || after(rst.ack, s.ack));
    case.crosses() && (unheard || acknowledges)
}

/// A RST told Linux of numbers that count for it now: it closed the connection, and its window lets more in, or shows
/// that what seems to be old is half the sequence space ahead; or what it claimed was sent is acknowledged.
fn was_told_by_a_rst(case: &Case<'_>) -> bool {
    let is_rst = |s: &&Segment| s.flags & flag::RST != 0;
    let mut resets = case.past_segments(case.shot.back).filter(is_rst);
    let mut others = case.past_segments(!case.shot.back).filter(is_rst);
    let reasons = [DropReason::TcpBeyondWindow, DropReason::TcpAckUnsent];
    let only_linux = reasons.iter().any(|&reason| case.only_linux_lets_it_through(reason));
    let Some(segment) = case.segment() else { return false };
    let acknowledges = only_linux
        && segment.flags & flag::ACK != 0
        && others.clone().any(|rst| !after(segment.ack, end(rst)));
    let is_far = case.difference == Some(Difference::Crossing)
        && case.linux.seen.is_empty()
        && case.past_segments(case.shot.back).all(|s| end(s).wrapping_sub(segment.seq) >= 1 << 30);
    acknowledges
        || case.was_in(State::Close)
            && (only_linux || is_far)
            && (resets.next().is_some() || others.next().is_some())
}

/// Who reset a connection begins another. Linux took in a segment of the other side since, by what the RST had told it,
/// and lets the SYN pass as part of the old one.
fn begins_after_a_rst(case: &Case<'_>) -> bool {
    let own = case.past_segments(case.shot.back).next_back();
    case.difference == Some(Difference::State)
        && case.was_in(State::Close)
        && case.segment().is_some_and(|s| s.flags & (flag::SYN | flag::ACK) == flag::SYN)
        && own.is_some_and(|s| s.flags & flag::RST != 0)
        && case.postern.seen.first().is_some_and(|seen| seen.state == Some(CtState::New))
}

/// A RST right behind all data, though not behind the last segment, which came out of order; or the other way round.
fn is_rst_behind_all(case: &Case<'_>) -> bool {
    let Some(rst) = case.segment().filter(|s| s.flags & flag::RST != 0) else { return false };
    let past = || case.past_segments(case.shot.back);
    let behind_all = past().all(|s| !after(end(s), rst.seq));
    // What passes unchecked is no last segment for Linux.
    let last = if case.is_picked_up() || case.liberal { past().count() } else { 1 };
    let behind_last = past().rev().take(last).any(|last| end(last) == rst.seq);
    case.crosses()
        && case.was_in(State::Established)
        && past().next().is_some()
        && behind_all != behind_last
}

/// A RST crosses that is not exact, and its receiver has sent nothing since the connection was picked up in the middle:
/// Linux did not take in what that acknowledged. Or it took it in, and refuses the exact one.
fn ends_what_was_picked_up(case: &Case<'_>) -> bool {
    let Some(rst) = case.segment().filter(|s| s.flags & flag::RST != 0) else { return false };
    let mut of_receiver = case.past_segments(!case.shot.back);
    // Exact by what its receiver said last, and too low by what the first segment claimed.
    let is_exact = of_receiver.clone().next_back().is_some_and(|last| last.ack == rst.seq)
        && of_receiver.clone().any(|s| after(s.ack, rst.seq))
        && case.difference == Some(Difference::Crossing)
        && case.linux.seen.is_empty();
    let acknowledged = of_receiver.next().map(|first| first.ack);
    let is_inexact = case.crosses()
        && acknowledged.is_some_and(|ack| ack != rst.seq)
        && of_receiver.next().is_none();
    case.was_in(State::Established) && case.is_picked_up() && (is_exact || is_inexact)
}

/// It acknowledges what was sent, but not by the last segment: where a sender goes beyond the window, Linux moves the
/// end of what was sent back with each older segment.
fn acknowledges_before_last(case: &Case<'_>) -> bool {
    let Some(segment) = case.segment() else { return false };
    let mut theirs = case.past_segments(!case.shot.back);
    let is_short = case.short >> TimeoutKind::TcpUnacknowledged as u8 & 1 != 0;
    // For Linux nothing is unacknowledged now, and the connection has its full timeout.
    let seems_all = case.crosses()
        && is_short
        && segment.flags & flag::ACK != 0
        && theirs.clone().next_back().is_some_and(|last| end(last) == segment.ack)
        && theirs.clone().any(|s| after(end(s), segment.ack));
    seems_all
        || case.difference == Some(Difference::Crossing)
            && case.linux.seen.is_empty()
            && segment.flags & flag::ACK != 0
            && theirs.clone().next_back().is_some_and(|last| after(segment.ack, end(last)))
            && theirs.any(|s| !after(segment.ack, end(s)))
}

/// Linux lets a RST through whose number is out of the window: in a simultaneous opening; in a connection picked up in
/// the middle, while it remembers no ACK of the RST's receiver; and where a RST without ACK has in that field what
/// the server's challenge ACK ended with.
fn is_rst_out_of_window(case: &Case<'_>) -> bool {
    if case.segment().is_none_or(|s| s.flags & flag::RST == 0) {
        return false;
    }
    if case.was_in(State::SynSent2) {
        let reasons = [DropReason::TcpRstSequence, DropReason::TcpAckUnsent];
        return case.crosses() || reasons.iter().any(|&r| case.only_linux_lets_it_through(r));
    }
    if !case.only_linux_lets_it_through(DropReason::TcpRstSequence) {
        return false;
    }
    // Linux reads the field though there is no ACK, and takes what the RST's sender said himself for the other side's. What
    // was out of its window is no last segment for Linux.
    let last = case.past.iter().rev().find(|shot| shot.flow == case.shot.flow);
    let open = [State::SynSent, State::SynReceived, State::Established];
    let answers_itself = open.iter().any(|&state| case.was_in(state))
        && last.zip(case.segment()).is_some_and(|(last, rst)| {
            let is_answer = rst.flags & flag::ACK != 0 && last.back != case.shot.back;
            !is_answer && case.past_segments(last.back).any(|s| end(s) == rst.ack)
        });
    // Whoever is to believe it has acknowledged more, or has not answered yet.
    let is_below = case.segment().is_some_and(|rst| {
        let mut acks = case.past_segments(!case.shot.back).filter(|s| s.flags & flag::ACK != 0);
        acks.clone().next().is_none() || acks.any(|s| after(s.ack, rst.seq))
    });
    let mut answered = case.past.iter().filter(|shot| shot.flow == case.shot.flow);
    let _ = answered.find(|shot| shot.back == case.shot.back);
    let unanswered = !answered.any(|shot| shot.back != case.shot.back);
    answers_itself
        || case.was_in(State::Established) && case.is_picked_up() && (unanswered || is_below)
}

/// An IPv6 packet that is all in one fragment, while others of its identification wait: Linux discards all of them.
/// Here it crosses as the packet that it is, or is dropped for what that is.
fn stands_alone(case: &Case<'_>) -> bool {
    let Some(part) = Part::of(case.shot) else { return false };
    let others_wait = case.datagram().any(|other| !other.is_all());
    let goes_its_own_way = match (case.postern.seen.as_slice(), case.postern.reason) {
        ([], Some(reason)) => !reason.name().starts_with("fragment"),
        ([out], None) => out.side == case.flow.leaves(case.shot.back) && is_all_of(case, &out.l3),
        _ => false,
    };
    case.flow.family == Family::V6
        && part.is_all()
        && others_wait
        && case.linux.seen.is_empty()
        && goes_its_own_way
}

/// Whether what came out is the packet that was sent in one fragment: all but the ends as it was, and its checksums right.
fn is_all_of(case: &Case<'_>, out: &[u8]) -> bool {
    let sent = case.shot.build(case.flow, Slot(0), case.postern.chosen);
    let sent = reassemble(&[sent]).ok().and_then(|sent| Pkt::read(&sent).ok());
    let out = Pkt::decode(out).ok();
    sent.zip(out)
        .is_some_and(|(sent, out)| out.from(sent.source()).to(sent.destination()) == sent.hop())
}

/// Two fragments of the datagram overlap, and are not the same one twice.
fn is_contradicted(case: &Case<'_>) -> bool {
    let parts: Vec<Part> = case.datagram().chain(Part::of(case.shot)).collect();
    let overlap = |a: &Part, b: &Part| a.begin < b.end && b.begin < a.end && a != b;
    Part::of(case.shot).is_some() && parts.iter().any(|a| parts.iter().any(|b| overlap(a, b)))
}

/// A first fragment in which the transport header is not all there, or what comes of its datagram behind it.
fn misses_its_header(case: &Case<'_>) -> bool {
    let is_short = |part: Part| part.begin == 0 && part.end < header_of(case.shot, part.forged);
    Part::of(case.shot).is_some_and(is_short)
        && case.only_linux_lets_it_through(DropReason::FragmentTiny)
        || Part::of(case.shot).is_some()
            && case.datagram().any(is_short)
            && case.only_linux_lets_it_through(DropReason::FragmentRefused)
}

/// How long a transport header says it is.
fn header_of(shot: &Shot, forged: bool) -> usize {
    match (shot.body.whole(), shot.tamper) {
        (Body::Segment(segment), tamper) => {
            let words = match tamper {
                Tamper::DataOffset(words) => usize::from(words),
                _ => 5 + segment.options.len() / 4,
            };
            // What is forged has this bit of every byte turned over.
            let words = if forged { words ^ 2 } else { words };
            4 * words.max(5)
        }
        _ => 8,
    }
}

/// A fragment: where its bytes belong, and whether they are others than its datagram's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part {
    begin: usize,
    end: usize,
    more: bool,
    forged: bool,
}

impl Part {
    fn of(shot: &Shot) -> Option<Self> {
        let Body::Part { offset, len, more, forged, .. } = shot.body else { return None };
        let begin = usize::from(offset) * 8;
        Some(Self { begin, end: begin + usize::from(len), more, forged })
    }

    /// Whether there is no other of its datagram.
    fn is_all(&self) -> bool {
        self.begin == 0 && !self.more
    }
}

/// An ICMP error that quotes less than eight bytes of the transport packet, about a connection that nobody translates.
fn quotes_too_little(case: &Case<'_>) -> bool {
    let header = if case.flow.family == Family::V4 { 20 } else { 40 };
    matches!(case.shot.body, Body::Error { keep, .. } if keep < header + 8)
        && case.only_linux_lets_it_through(DropReason::IcmpErrorQuote)
}

/// A connection that was picked up is opened anew before our eyes, and this is the SYN/ACK: Linux still checks no
/// window.
fn is_lenient(case: &Case<'_>) -> bool {
    let these = flag::SYN | flag::ACK | flag::RST;
    case.segment().is_some_and(|s| s.flags & these == flag::SYN | flag::ACK)
        && case.crosses()
        && case.is_picked_up()
        && case.past_segments(!case.shot.back).any(|s| s.flags & these == flag::SYN)
}

/// The server's SYN without ACK, while SYN_SENT has a timeout of its own: Linux has none for what follows.
fn opens_from_both_sides(case: &Case<'_>) -> bool {
    case.segment().is_some_and(|s| s.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN)
        && case.shot.back
        && case.difference.is_none()
        && !case.linux.seen.is_empty()
        && case.was_in(State::SynSent)
        && case.short >> TimeoutKind::TcpSynSent as u8 & 1 != 0
}

/// What a forward's target opens outwards has the worker of its peer, which may not own the port.
fn target_changes_its_port(case: &Case<'_>) -> bool {
    let port = |fate: &Fate| {
        let seen = fate.seen.first().filter(|seen| seen.side == Side::Wan)?;
        Some((seen.state?, Pkt::decode(&seen.l3).ok()?.source().port()))
    };
    let (linux, postern) = (port(case.linux), port(case.postern));
    case.difference.is_none()
        && matches!(case.flow.course, Course::Inward(_))
        && linux.is_some_and(|(state, _)| state == CtState::New)
        && linux != postern
}

/// A SYN with a lower number than the one before it, which nobody answered.
fn is_lower_syn(case: &Case<'_>) -> bool {
    let is_syn = |s: &&Segment| s.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
    let Some(syn) = case.segment().filter(is_syn) else { return false };
    let lower = |before: &Segment| (syn.seq.wrapping_sub(before.seq) as i32) < 0;
    case.difference.is_none()
        && !case.linux.seen.is_empty()
        && case.was_in(State::SynSent)
        && case.past_segments(case.shot.back).filter(is_syn).any(lower)
}

/// A FIN of the side that sent the only one so far: Linux takes it for the other side's.
fn is_fin_again(case: &Case<'_>) -> bool {
    let is_fin = |s: &&Segment| s.flags & (flag::FIN | flag::SYN | flag::RST) == flag::FIN;
    case.segment().filter(is_fin).is_some()
        && case.difference.is_none()
        && !case.linux.seen.is_empty()
        && (case.was_in(State::FinWait) || case.was_in(State::CloseWait))
        && case.past_segments(case.shot.back).any(|s| is_fin(&s))
}

/// Linux lends a forwarded port to a connection outwards.
fn takes_a_forwarded_port(case: &Case<'_>) -> bool {
    let port = |fate: &Fate| {
        let seen = fate.seen.first().filter(|seen| seen.side == Side::Wan)?;
        Some(Pkt::decode(&seen.l3).ok()?.source().port())
    };
    let is_forwarded =
        |port: u16| FORWARDS.iter().any(|f| (f.0, f.1) == (case.flow.protocol, port));
    let (linux, postern) = (port(case.linux), port(case.postern));
    case.difference == Some(Difference::Packet)
        && linux.is_some_and(is_forwarded)
        && postern.is_some_and(|port| !is_forwarded(port))
        && case.linux.seen[0].state == Some(CtState::New)
}

/// Linux gave the peer outside another port, so that its connection differs from one that was there before.
fn changes_peer(case: &Case<'_>) -> bool {
    let port = case.linux.seen.first().and_then(|seen| Pkt::decode(&seen.l3).ok());
    port.is_some_and(|pkt| pkt.source().port() != case.flow.peer_port)
}

impl Case<'_> {
    /// The segment, if it is one and was not damaged.
    fn segment(&self) -> Option<&Segment> {
        segment_of(self.shot)
    }

    /// Segments of the flow that crossed before, in one direction.
    fn past_segments(&self, back: bool) -> impl DoubleEndedIterator<Item = &Segment> + Clone {
        let same = move |shot: &&&Shot| shot.flow == self.shot.flow && shot.back == back;
        self.past.iter().filter(same).filter_map(|shot| segment_of(shot))
    }

    /// The fragments of the shot's datagram that came before it.
    fn datagram(&self) -> impl Iterator<Item = Part> {
        let id = |shot: &Shot| match shot.body {
            Body::Part { id, .. } => Some((shot.flow, id)),
            _ => None,
        };
        let own = id(self.shot);
        let others = self.fragments.iter().filter(move |shot| own.is_some() && id(shot) == own);
        others.filter_map(|shot| Part::of(shot))
    }

    /// Whether the connection was opening before.
    fn is_opening(&self) -> bool {
        let opening = [State::SynSent, State::SynReceived, State::SynSent2];
        opening.iter().any(|&state| self.was_in(state))
    }

    /// Whether the flow began in the middle of a connection.
    fn is_picked_up(&self) -> bool {
        let mut past = self.past.iter().filter(|shot| shot.flow == self.shot.flow);
        let first = past.next().and_then(|shot| segment_of(shot));
        self.loose && first.is_some_and(|s| s.flags & flag::SYN == 0)
    }

    /// Whether it crosses both alike.
    fn crosses(&self) -> bool {
        self.difference.is_none() && !self.linux.seen.is_empty()
    }

    /// Whether both drop it.
    fn is_dropped(&self) -> bool {
        self.difference.is_none() && self.linux.seen.is_empty()
    }

    /// Whether the connection was in this state before.
    fn was_in(&self, state: State) -> bool {
        self.postern.before.is_some_and(|(number, _)| number == state as u8)
    }

    /// Linux let it through, and Postern dropped it for this reason.
    fn only_linux_lets_it_through(&self, reason: DropReason) -> bool {
        self.difference == Some(Difference::Crossing)
            && !self.linux.seen.is_empty()
            && self.postern.seen.is_empty()
            && self.postern.reason == Some(reason)
    }
}

fn segment_of(shot: &Shot) -> Option<&Segment> {
    match shot.body.whole() {
        // With an offset too high and data enough its data are options: what crosses like that is a segment all the same.
        Body::Segment(segment)
            if matches!(shot.tamper, Tamper::Nothing | Tamper::DataOffset(_)) && !shot.stranger =>
        {
            Some(segment)
        }
        _ => None,
    }
}

/// Why a class of differences is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) requirement: String,
    pub(super) reason: String,
}

/// The classes with their reasons.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) reasons: BTreeMap<String, Reason>,
}

impl Known {
    /// Reads `differences.toml`.
    ///
    /// # Errors
    /// If it names a class that is not here, or misses one that is, or gives no reason.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let file: DocumentMut = text.parse().map_err(|error| format!("{error}"))?;
        let mut reasons = BTreeMap::new();
        for (name, item) in file.iter() {
            let field = |field: &str| {
                let text = item.get(field).and_then(|item| item.as_str()).map(String::from);
                text.filter(|text| !text.is_empty()).ok_or_else(|| format!("{name}: no {field}"))
            };
            if !CLASSES.iter().any(|class| class.name == name) {
                return Err(format!("{name} is no class of differences"));
            }
            let reason = Reason { requirement: field("requirement")?, reason: field("reason")? };
            reasons.insert(name.to_string(), reason);
        }
        match CLASSES.iter().find(|class| !reasons.contains_key(class.name)) {
            Some(class) => Err(format!("no reason is given for {}", class.name)),
            None => Ok(Self { reasons }),
        }
    }
}

/// What a script showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Shots that were compared.
    pub(super) compared: usize,
    /// The wanted differences.
    pub(super) listed: Vec<&'static str>,
    /// The first difference that is not: the shot's place and what differs.
    pub(super) unlisted: Option<(usize, Difference)>,
}

/// Compares what two systems did with a script. Behind a wanted difference, or where the two are known to go
/// different ways though the packet fares alike, they are in different states: its flow, and flows that stand in
/// its way, are not compared any more.
pub(super) fn judge(script: &Script, linux: &[Fate], postern: &[Fate]) -> Judgement {
    let mut judgement = Judgement::default();
    let mut apart = vec![false; script.flows.len()];
    let mut past = Vec::with_capacity(script.len());
    let (mut fragments, mut begun) = (Vec::new(), BTreeMap::new());
    for (place, ((shot, linux), postern)) in script.shots().zip(linux).zip(postern).enumerate() {
        // A packet whose fragments are for an external port that its flow has no more is not the same for both.
        if let Body::Part { id, .. } = shot.body {
            let chosen = (linux.chosen, postern.chosen);
            apart[shot.flow] |= *begun.entry((shot.flow, id)).or_insert(chosen) != chosen;
        }
        if !apart[shot.flow] {
            judgement.compared += 1;
            let flow = &script.flows[shot.flow];
            let difference = compare(flow, linux, postern);
            let Conditions { loose, liberal, short, .. } = script.conditions;
            let case = Case {
                flow,
                shot,
                loose,
                liberal,
                short,
                past: &past,
                fragments: &fragments,
                difference,
                linux,
                postern,
            };
            match (CLASSES.iter().find(|class| (class.holds)(&case)), difference) {
                (Some(class), _) => {
                    judgement.listed.push(class.name);
                    script.rivals(shot.flow).for_each(|rival| apart[rival] = true);
                }
                (None, Some(difference)) => {
                    judgement.unlisted = Some((place, difference));
                    return judgement;
                }
                (None, None) => {}
            }
        }
        if !linux.seen.is_empty() {
            if postern.before.is_none() {
                past.retain(|before: &&Shot| before.flow != shot.flow); // another connection
            }
            past.push(shot);
        }
        if matches!(shot.body, Body::Part { .. }) {
            fragments.push(shot);
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::fate::Seen;
    use crate::differential::flow::Flow;

    fn is_of(name: &str, case: &Case<'_>) -> bool {
        let class = CLASSES.iter().find(|class| class.name == name).expect("there is such a class");
        (class.holds)(case)
    }

    fn flow(family: Family, protocol: u8) -> Flow {
        let course = Course::Routed;
        Flow { family, protocol, course, host: 0, host_port: 5000, peer: 0, peer_port: 53 }
    }

    /// As a packet that nobody has changed but for its hop limit.
    fn crossed(shot: &Shot, flow: &Flow) -> Fate {
        let sent = shot.build(flow, Slot(0), None);
        let whole = reassemble(std::slice::from_ref(&sent)).unwrap_or(sent);
        let pkt = Pkt::read(&whole).expect("it was just built");
        let (side, l3) = (flow.leaves(shot.back), pkt.hop().build());
        Fate { seen: vec![Seen { side, state: Some(CtState::New), l3 }], ..Fate::default() }
    }

    fn dropped(reason: DropReason, state: State, flags: u16) -> Fate {
        let before = Some((state as u8, flags));
        Fate { reason: Some(reason), before, ..Fate::default() }
    }

    fn case<'a>(
        flow: &'a Flow,
        shots: [&'a Shot; 1],
        past: &'a [&'a Shot],
        [linux, postern]: [&'a Fate; 2],
    ) -> Case<'a> {
        let difference = compare(flow, linux, postern);
        let [shot] = shots;
        Case {
            flow,
            shot,
            loose: false,
            liberal: false,
            short: 0,
            past,
            fragments: past,
            difference,
            linux,
            postern,
        }
    }

    fn segment(back: bool, flags: u8, seq: u32, ack: u32) -> Shot {
        let options = Vec::new();
        let segment = Segment { flags, seq, ack, window: 8192, options, len: 0 };
        Shot::new(0, back, Body::Segment(segment))
    }

    /// A part of a datagram of 40 bytes and its header.
    fn part(offset: u16, len: u16) -> Shot {
        let of = Box::new(Body::Datagram { len: 40, unsummed: false });
        let more = offset * 8 + len < 48;
        Shot::new(0, false, Body::Part { id: 0, offset, len, more, forged: false, of })
    }

    #[test]
    fn an_atomic_fragment_crosses_as_its_packet_or_that_is_a_difference() {
        const CLASS: &str = "an-atomic-fragment-stands-alone";
        let flow = flow(Family::V6, 17);
        let (atomic, waits) = (part(0, 48), part(1, 40));
        let out = crossed(&atomic, &flow);
        let lost = dropped(DropReason::DeniedByPolicy, State::None, 0);
        let nothing = Fate::default();
        let is_wanted = |past: &[&Shot], fates| is_of(CLASS, &case(&flow, [&atomic], past, fates));
        assert!(is_wanted(&[&waits], [&nothing, &out]));
        assert!(is_wanted(&[&waits], [&nothing, &lost]), "both drop it; Linux what waits, too");
        let mut garbled = out.clone();
        *garbled.seen[0].l3.last_mut().expect("it has bytes") ^= 1;
        let taken = dropped(DropReason::FragmentOverlap, State::None, 0);
        assert!(!is_wanted(&[&waits], [&nothing, &garbled]));
        assert!(!is_wanted(&[&waits], [&nothing, &taken]));
        assert!(!is_wanted(&[&waits], [&out, &lost]));
        assert!(!is_wanted(&[], [&out, &lost]));
        assert!(!is_wanted(&[], [&nothing, &out]), "nothing waits that it could overlap");
    }

    #[test]
    fn an_overlap_needs_fragments_that_overlap() {
        const CLASS: &str = "an-overlap-discards-the-datagram";
        let flow = flow(Family::V4, 17);
        let whole = Shot::new(0, false, Body::Datagram { len: 40, unsummed: false });
        let (first, last, over) = (part(0, 24), part(3, 24), part(2, 32));
        let refused = dropped(DropReason::FragmentOverlap, State::None, 0);
        let out = crossed(&whole, &flow);
        let is_wanted =
            |shot, past: &[&Shot]| is_of(CLASS, &case(&flow, [shot], past, [&out, &refused]));
        assert!(is_wanted(&over, &[&first]));
        assert!(is_wanted(&last, &[&first, &over]));
        assert!(!is_wanted(&last, &[&first]));
        assert!(!is_wanted(&first, &[&first]), "the same again is no contradiction");
        assert!(!is_wanted(&whole, &[&first, &over]));
    }

    #[test]
    fn a_first_fragment_is_refused_only_if_it_is_short() {
        const CLASS: &str = "the-first-fragment-has-the-headers";
        let flow = flow(Family::V4, 6);
        let syn = segment(false, flag::SYN, 1, 0);
        let piece = |offset, len| {
            let of = Box::new(syn.body.clone());
            let more = offset == 0;
            Shot::new(0, false, Body::Part { id: 0, offset, len, more, forged: false, of })
        };
        let out = crossed(&syn, &flow);
        let [tiny, refused] = [DropReason::FragmentTiny, DropReason::FragmentRefused]
            .map(|reason| dropped(reason, State::None, 0));
        let is_wanted = |shot, past: &[&Shot], postern| {
            is_of(CLASS, &case(&flow, [shot], past, [&out, postern]))
        };
        let (short, long, last) = (piece(0, 16), piece(0, 24), piece(2, 4));
        assert!(is_wanted(&short, &[&last], &tiny));
        assert!(is_wanted(&last, &[&short], &refused));
        assert!(!is_wanted(&long, &[&last], &tiny));
        assert!(!is_wanted(&last, &[&long], &refused));
        assert!(!is_wanted(&syn, &[&short], &refused));
    }

    #[test]
    fn a_connection_is_closed_by_a_rst_or_two_fins() {
        const CLASS: &str = "closed-admits-nothing-new";
        let flow = flow(Family::V4, 6);
        let opening = [
            segment(false, flag::SYN, 1, 0),
            segment(true, flag::SYN | flag::ACK, 100, 2),
            segment(false, flag::ACK, 2, 101),
        ];
        let [fin, fin_back] = [(false, 2, 101), (true, 101, 3)]
            .map(|(back, seq, ack)| segment(back, flag::FIN | flag::ACK, seq, ack));
        let rst = segment(true, flag::RST, 101, 0);
        let late = segment(true, flag::ACK, 101, 2);
        let out = crossed(&late, &flow);
        let refused = |flags| dropped(DropReason::ConnectionClosed, State::Close, flags);
        let is_wanted = |ends: &[&Shot], flags| {
            let past: Vec<&Shot> = opening.iter().chain(ends.iter().copied()).collect();
            is_of(CLASS, &case(&flow, [&late], &past, [&out, &refused(flags)]))
        };
        assert!(is_wanted(&[&rst], flags::CLOSED));
        assert!(is_wanted(&[&fin, &fin_back], flags::CLOSED));
        assert!(!is_wanted(&[], flags::CLOSED));
        assert!(!is_wanted(&[&fin], flags::CLOSED));
        assert!(!is_wanted(&[&rst], 0));
    }

    #[test]
    fn only_a_syn_ack_while_opening_has_a_syn_to_cover() {
        const CLASS: &str = "syn-ack-must-cover-the-syn";
        let flow = flow(Family::V4, 6);
        let syn = segment(false, flag::SYN, 1000, 0);
        let is_wanted = |flags, ack, state| {
            let shot = segment(true, flags, 100, ack);
            let (out, refused) =
                (crossed(&shot, &flow), dropped(DropReason::TcpAckInvalid, state, 0));
            is_of(CLASS, &case(&flow, [&shot], &[&syn], [&out, &refused]))
        };
        assert!(is_wanted(flag::SYN | flag::ACK, 900, State::SynSent));
        assert!(!is_wanted(flag::SYN | flag::ACK, 1001, State::SynSent), "it is the answer");
        assert!(!is_wanted(flag::ACK, 900, State::SynSent));
        assert!(!is_wanted(flag::SYN | flag::ACK, 900, State::Established));
    }
}
