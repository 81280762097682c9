//! SIP on the walk ([`sip`](crate::helper::sip)): what a signalling connection announces is expected, and its messages say
//! endpoints that the other side can reach.
//!
//! A message is dealt with in this order: what it ends and begins (a call, a registration), which media its session
//! announces, then the text. Said again, it is answered the same ([`Calls`](crate::helper::calls::Calls)). Over UDP a datagram holds
//! one message. Over TCP a segment's messages are read once, in order; what was changed in one segment counts as one change
//! ([`Adjustment`](crate::helper::adjust::Adjustment)), of which only the lengths are kept: the text is found again from the
//! message. A message that does not end in the segment it begins in stays as it is, and opens nothing.
//!
//! As nf_conntrack_sip with its defaults: media are expected between the two ends of the signalling only
//! (`sip_direct_media`), calls to a registered endpoint from its registrar only (`sip_direct_signalling`).

use core::net::IpAddr;
use core::ops::Range;

use arrayvec::ArrayVec;

use super::Context;
use super::helped::{AHEAD_MAX, Master, TRIES, candidates, is_others};
use super::refuse::Refusal;
use crate::burst::{Packet, Seen};
use crate::conntrack::tuple::{Direction, protocol};
use crate::conntrack::window::sequence::{after, before};
use crate::headers::Headers;
use crate::helper::adjust::Change;
use crate::helper::calls::{Calls, MediumId};
use crate::helper::expect::{Expectation, Handle, Term};
use crate::helper::pool::{Record, side_flags};
use crate::helper::sdp::{self, Session};
use crate::helper::sip::{
    Contact, Edits, Expires, Framing, Message, Method, Reading, Start, TooMany, Transport, View,
    read,
};
use crate::helper::{PORT_MIN, edit};
use crate::nat::plan::Random;
use crate::reply::IcmpErrorKind;
use crate::verdict::DropReason;

/// How long media are expected, milliseconds: nf_conntrack_sip's three minutes.
const MEDIA_MS: u32 = 180_000;

/// How long a registrar may think, milliseconds: as long as a request is sent again (RFC 3261 §17.1.2.2, timer F), twice.
const REGISTRAR_MS: u32 = 64_000;

/// Longest time that a registration may last, seconds.
const EXPIRES_MAX: u32 = 86_400;

/// How long a signalling connection over UDP lives without a packet once it was answered, milliseconds (nf_conntrack_sip's
/// `sip_timeout`): what was registered by it lives no longer.
pub(super) const SIGNALLING_MS: u32 = 3_600_000;

/// Longest text that is written, bytes: no frame is longer.
const TEXT_MAX: usize = 2048;

type Text = ArrayVec<u8, TEXT_MAX>;

/// What a segment finds, besides what it says.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Who speaks.
    pub(super) side: Direction,
    /// Up to where the listener has acknowledged, as the speaker counts.
    pub(super) acked: u32,
    /// How long it may leave, bytes.
    pub(super) longest: u16,
    /// Whether its connection was expected.
    pub(super) is_expected: bool,
}

/// How a message is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// For what it says.
    New,
    /// For its text alone: it was taken before.
    Again,
}

/// One direction of a signalling connection.
pub(super) struct Conversation<'a, 'c> {
    pub(super) calls: &'a mut Calls,
    pub(super) master: &'a Master,
    /// Who speaks.
    pub(super) side: Direction,
    /// Whether the connection was expected: such a one registers nothing.
    pub(super) is_expected: bool,
    pub(super) random: &'a mut Random,
    pub(super) context: &'a Context<'c>,
}

/// A datagram of a signalling connection.
pub(super) fn datagram(
    mut conversation: Conversation<'_, '_>,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    longest: u16,
) -> Result<(), Refusal> {
    let counters = conversation.context.counters;
    let bytes = packet.bytes().get(edit::payload(headers)).unwrap_or_default();
    if matches!(packet.seen, Seen::Gathered(_)) {
        // A text in fragments is not in one frame.
        if conversation.is_translated() {
            return Err(Refusal::Drop(DropReason::FragmentUnsupported));
        }
        counters.helpers_declined.add(1);
        return Ok(());
    }
    let message = match read(bytes, Framing::Datagram) {
        Reading::Message(message) => message,
        Reading::Malformed => return Err(Refusal::Drop(DropReason::HelperMalformed)),
        Reading::Unfinished(_) => {
            counters.helpers_declined.add(1);
            return Ok(());
        }
        Reading::Foreign => return Ok(()),
    };
    let mut text = Text::new();
    conversation.take(bytes, &message, Take::New, &mut text).map_err(Refusal::Drop)?;
    if text.as_slice() != bytes.get(..message.len()).unwrap_or_default() {
        write(packet, headers, 0, message.len(), &text, longest)?;
    }
    Ok(())
}

/// A segment of a signalling connection: reads what is new in it. The texts are written by [`adjust`].
pub(super) fn listen(
    record: &mut Record,
    master: &Master,
    packet: &Packet<'_>,
    headers: &Headers,
    segment: Segment,
    random: &mut Random,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let Segment { side, acked, longest, is_expected } = segment;
    let Record { sides, calls, .. } = record;
    let own = &mut sides[side.index()];
    if calls.lost[side.index()] != 0 {
        return Ok(());
    }
    let seq = headers.tcp.seq;
    let end = seq.wrapping_add(headers.tcp.payload_len.into());
    let known = own.flags & side_flags::KNOWN != 0;
    if known && after(seq, own.next) && own.ahead < AHEAD_MAX {
        // It runs ahead of what was not read, whose length may have to change: it comes again (C125).
        own.ahead += 1;
        return Err(Refusal::Drop(DropReason::HelperAhead));
    }
    if !known || after(seq, own.next) {
        // Nobody knows where the next message begins.
        calls.lost[side.index()] = 1;
        context.counters.helpers_declined.add(1);
        return Ok(());
    }
    if !after(end, own.next) {
        return Ok(()); // it comes again
    }
    if !own.adjustment.has_room(acked) {
        return Err(Refusal::Drop(DropReason::HelperAhead));
    }
    let skip = own.next.wrapping_sub(seq) as usize;
    let payload = packet.bytes().get(edit::payload(headers)).unwrap_or_default();
    let fresh = payload.get(skip..).unwrap_or_default();
    let mut left = calls.left[side.index()];
    let carried = fresh.len().min(left as usize);
    let mut at = carried;
    left -= at as u32;
    let mut conversation = Conversation { calls, master, side, is_expected, random, context };
    let heard = conversation.messages(fresh, &mut at, &mut left).map_err(Refusal::Drop)?;
    if let Some((old, text)) = &heard {
        let growth = text.len().saturating_sub(old.len());
        fits(packet, headers, growth, longest)?;
    }
    (own.next, own.ahead) = (end, 0);
    conversation.calls.left[side.index()] = left;
    if at < fresh.len() {
        conversation.calls.lost[side.index()] = 1;
    }
    let is_unfinished = left > 0 && carried < fresh.len();
    context.counters.helpers_declined.add(u64::from(at < fresh.len() || is_unfinished));
    if let Some((old, text)) = heard {
        let position = seq.wrapping_add((skip + old.start) as u32);
        own.adjustment.push_length(position, old.len() as u16, text.len() as u16);
    }
    Ok(())
}

/// Writes a segment's texts and sequence number as the other side has to see them.
pub(super) fn adjust(
    record: &mut Record,
    master: &Master,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    segment: Segment,
    random: &mut Random,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let Segment { side, longest, is_expected, .. } = segment;
    let adjustment = record.sides[side.index()].adjustment;
    if adjustment.is_none() {
        return Ok(());
    }
    let seq = headers.tcp.seq;
    let end = seq.wrapping_add(headers.tcp.payload_len.into());
    let touched = |change: &&Change| before(seq, change.end()) && after(end, change.position);
    let changes = || adjustment.changes().iter().filter(touched);
    let is_whole = |change: &Change| !before(change.position, seq) && !after(change.end(), end);
    if !changes().all(is_whole) {
        // A part of an old text cannot be told as a part of the new one.
        return Err(Refusal::Drop(DropReason::HelperSplit));
    }
    let growth = changes().fold(0u32, |sum, change| sum.wrapping_add(change.growth()));
    fits(packet, headers, (growth as i32).max(0) as usize, longest)?;
    let calls = &mut record.calls;
    let mut conversation = Conversation { calls, master, side, is_expected, random, context };
    // The last first, so that those before stay where they are.
    for change in changes().rev() {
        let at = change.position.wrapping_sub(seq) as usize;
        let old_len = usize::from(change.old_len);
        let payload = packet.bytes().get(edit::payload(headers)).unwrap_or_default();
        let old = payload.get(at..at + old_len).unwrap_or_default();
        let text = conversation.again(old);
        let Some(text) = text.filter(|text| text.len() == usize::from(change.new_len)) else {
            // What it announced is forgotten.
            return Err(Refusal::Drop(DropReason::HelperSplit));
        };
        write(packet, headers, at, old_len, &text, longest)?;
    }
    edit::set_seq(packet, headers, adjustment.shifted(seq));
    packet.parsed = Some(*headers);
    Ok(())
}

/// Whether a packet may grow by so much: within its frame, and what may leave.
fn fits(
    packet: &Packet<'_>,
    headers: &Headers,
    growth: usize,
    longest: u16,
) -> Result<(), Refusal> {
    if growth == 0 {
        return Ok(());
    }
    if usize::from(headers.ip_len) + growth > usize::from(longest) {
        let mtu = longest.saturating_sub(growth as u16);
        return Err(Refusal::Icmp(DropReason::MtuExceeded, IcmpErrorKind::PacketTooBig { mtu }));
    }
    match edit::has_room(packet, headers, growth) {
        true => Ok(()),
        false => Err(Refusal::Drop(DropReason::MtuExceeded)),
    }
}

/// Writes a text over a part of a packet's payload.
fn write(
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    at: usize,
    old_len: usize,
    text: &[u8],
    longest: u16,
) -> Result<(), Refusal> {
    fits(packet, headers, text.len().saturating_sub(old_len), longest)?;
    if !edit::replace(packet, headers, at, old_len, text) {
        debug_assert!(false, "it was seen to be possible");
        return Err(Refusal::Drop(DropReason::MtuExceeded));
    }
    packet.parsed = Some(*headers);
    Ok(())
}

/// A part of a segment's payload, and what is to be written over it.
type Heard = Option<(Range<usize>, Text)>;

impl Conversation<'_, '_> {
    /// Whether either side's endpoint is another one for the other side.
    fn is_translated(&self) -> bool {
        let Master { said, heard, .. } = self.master;
        (said.src(), said.src_id()) != (heard.dst(), heard.dst_id())
            || (said.dst(), said.dst_id()) != (heard.src(), heard.src_id())
    }

    /// What the speaker's endpoints are for the listener.
    fn view(&self) -> View {
        let Master { said, heard, .. } = self.master;
        let contact = &self.calls.contact;
        let (ports, of) = match contact.is_of(self.side) {
            true => ([contact.inner, contact.outer], [said.src(), heard.dst()]),
            false => ([contact.outer, contact.inner], [said.dst(), heard.src()]),
        };
        let registered = (contact.inner != 0).then_some([(of[0], ports[0]), (of[1], ports[1])]);
        View {
            own: [(said.src(), said.src_id()), (heard.dst(), heard.dst_id())],
            peer: [(said.dst(), said.dst_id()), (heard.src(), heard.src_id())],
            registered,
        }
    }

    fn transport(&self) -> Transport {
        match self.master.said.protocol() {
            protocol::TCP => Transport::Tcp,
            _ => Transport::Udp,
        }
    }

    /// Takes in the messages of a segment from `at` on, one after another; `left` becomes what is to come of the last one. Stops at
    /// what is not SIP: `at` says where.
    fn messages(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        left: &mut u32,
    ) -> Result<Heard, DropReason> {
        let mut heard: Heard = None;
        while let Some(rest) = bytes.get(*at..).filter(|rest| !rest.is_empty()) {
            // RFC 3261 §7.5; RFC 5626 §4.4.1: empty lines keep a connection alive.
            let empty = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if empty > 0 {
                *at += empty;
                continue;
            }
            let message = match read(rest, Framing::Stream) {
                Reading::Message(message) => message,
                Reading::Malformed => return Err(DropReason::HelperMalformed),
                Reading::Unfinished(Some(len)) => {
                    *left = u32::try_from(len - rest.len()).unwrap_or(u32::MAX);
                    *at = bytes.len();
                    break;
                }
                Reading::Unfinished(None) | Reading::Foreign => break,
            };
            let mut text = Text::new();
            self.take(rest, &message, Take::New, &mut text)?;
            let old = rest.get(..message.len()).unwrap_or_default();
            if text.as_slice() != old {
                heard = Some(match heard {
                    None => (*at..*at + message.len(), text),
                    Some((range, mut before)) => {
                        let between = bytes.get(range.end..*at).unwrap_or_default();
                        let whole = before
                            .try_extend_from_slice(between)
                            .and_then(|()| before.try_extend_from_slice(&text));
                        whole.map_err(|_| DropReason::MtuExceeded)?;
                        (range.start..*at + message.len(), before)
                    }
                });
            }
            *at += message.len();
        }
        Ok(heard)
    }

    /// The text of messages that were taken before; `None` if it is not known any more.
    fn again(&mut self, bytes: &[u8]) -> Option<Text> {
        let mut text = Text::new();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let empty = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if empty > 0 {
                text.try_extend_from_slice(rest.get(..empty)?).ok()?;
                at += empty;
                continue;
            }
            let Reading::Message(message) = read(rest, Framing::Stream) else { return None };
            self.take(rest, &message, Take::Again, &mut text).ok()?;
            at += message.len();
        }
        Some(text)
    }

    /// Takes a message in, and adds to `text` what the listener is to be told.
    fn take(
        &mut self,
        bytes: &[u8],
        message: &Message,
        how: Take,
        text: &mut Text,
    ) -> Result<(), DropReason> {
        if how == Take::New {
            self.follow(bytes, message)?;
        }
        let mut edits = Edits::default();
        let too_many = |_| DropReason::HelperMalformed;
        edits.head(bytes, message, self.transport(), &self.view()).map_err(too_many)?;
        if announces(message)
            && let Some(session) = Session::read(bytes, message.body.clone())
        {
            self.session(message, &session, how, &mut edits)?;
        }
        let put = |piece: &[u8]| text.try_extend_from_slice(piece).map_err(|_| TooMany);
        edits.apply(bytes, message, put).map_err(|_| DropReason::MtuExceeded)
    }

    /// What a message begins and ends.
    fn follow(&mut self, bytes: &[u8], message: &Message) -> Result<(), DropReason> {
        let expectations = &self.context.snapshot.expectations;
        let Message { start, method, call, cseq, .. } = *message;
        match (start, method) {
            (Start::Request, Method::Invite) => self.calls.renew(call, cseq, expectations),
            (Start::Request, Method::Bye) => self.calls.end(call, expectations),
            (Start::Request, Method::Register) => return self.register(bytes, message),
            (Start::Response(300..), Method::Invite | Method::Update | Method::Prack) => {
                self.calls.refuse(call, cseq, expectations);
            }
            (Start::Response(code), Method::Register) => {
                return self.registered(bytes, message, code);
            }
            _ => {}
        }
        Ok(())
    }

    /// A session's media are expected; what is told of them is written.
    fn session(
        &mut self,
        message: &Message,
        session: &Session,
        how: Take,
        edits: &mut Edits,
    ) -> Result<(), DropReason> {
        let Master { said, heard, .. } = self.master;
        let (own, outer) = (said.src(), heard.dst());
        let too_many = |_| DropReason::HelperMalformed;
        // Before anything is expected: the message goes no further.
        let is_low = |media: &sdp::Media| {
            media.address == Some(own) && inner(media).iter().any(|port| *port < PORT_MIN)
        };
        if how == Take::New && session.media.iter().any(is_low) {
            self.context.counters.expectations_refused.add(1);
            return Err(DropReason::HelperMalformed);
        }
        for media in &session.media {
            // Nobody may speak for a third host, nor for nobody (a call on hold).
            if media.address != Some(own) {
                continue;
            }
            let id = MediumId { side: self.side, call: message.call, line: media.line };
            let [rtp, rtcp] = match how {
                Take::New => self.medium(id, message.cseq, media)?,
                Take::Again => match self.calls.find(id) {
                    Some(medium) => medium.outer,
                    None => continue,
                },
            };
            if rtp != media.port {
                edits.number(media.range.clone(), rtp.into()).map_err(too_many)?;
            }
            if let Some((port, range)) = &media.rtcp
                && rtcp != *port
            {
                edits.number(range.clone(), rtcp.into()).map_err(too_many)?;
            }
        }
        if let IpAddr::V4(address) = outer
            && outer != own
        {
            let named = session.addresses.iter().filter(|(_, named)| *named == own);
            for (range, _) in named {
                edits.address(range.clone(), address).map_err(too_many)?;
            }
        }
        Ok(())
    }

    /// Expects a medium. Returns the ports to tell for RTP and RTCP.
    fn medium(
        &mut self,
        id: MediumId,
        cseq: u32,
        media: &sdp::Media,
    ) -> Result<[u16; 2], DropReason> {
        let inner = inner(media);
        let context = self.context;
        let (own, outer) = (self.master.said.src(), self.master.heard.dst());
        let is_written = outer.is_ipv4() || outer == own;
        if context.snapshot.steering.is_ours(own) || !is_written {
            context.counters.expectations_refused.add(1);
            return Ok(inner); // the appliance lets nobody in by what it says itself
        }
        let expectations = &context.snapshot.expectations;
        let other = MediumId { side: id.side.opposite(), ..id };
        let other = self.calls.find(other).map(|other| (other.inner, other.outer));
        if self.calls.find(id).is_none() {
            self.calls.enter(id, expectations);
        }
        let Some(medium) = self.calls.find(id) else { return Err(DropReason::HelperFull) };
        if medium.inner == inner && medium.is_announced_by(cseq) {
            // Said again, or agreed to after a long ringing: for as long again, unless it has come or is over.
            let later = context.tick.plus_ms(MEDIA_MS);
            let renew = |handle| expectations.change(handle, |e| e.deadline = later);
            let [rtp, _] = medium.handles().map(renew);
            if rtp {
                return Ok(medium.outer);
            }
        }
        medium.end(expectations);
        let known = (medium.inner == inner).then_some(medium.outer);
        let wanted = [0, 1].map(|place| {
            let pair = other.map(|(inner, outer)| (inner[place], outer[place]));
            Expectation {
                pair: pair.filter(|(inner, outer)| inner != outer),
                ..expectation(self.master, protocol::UDP, inner[place], MEDIA_MS, context)
            }
        });
        let (master, random) = (self.master, &mut *self.random);
        let Some(made) = both(master, &wanted, known, random, context) else {
            context.counters.expectations_refused.add(1);
            return Err(DropReason::HelperFull);
        };
        let [rtp, rtcp] = made;
        (medium.inner, medium.outer) = (inner, [rtp.1, rtcp.1]);
        medium.expect(cseq, [rtp.0, rtcp.0]);
        context.counters.expectations_made.add(1 + u64::from(rtcp.0 != Handle(0)));
        self.introduce(id);
        Ok([rtp.1, rtcp.1])
    }

    /// Lets the other side's medium know from which port outside this side's comes.
    fn introduce(&mut self, id: MediumId) {
        let expectations = &self.context.snapshot.expectations;
        let Some(this) = self.calls.find(id) else { return };
        let (inner, outer) = (this.inner, this.outer);
        let other = self.calls.find(MediumId { side: id.side.opposite(), ..id });
        let Some(other) = other else { return };
        for (place, handle) in other.handles().into_iter().enumerate() {
            let pair = Some((inner[place], outer[place])).filter(|(inner, outer)| inner != outer);
            expectations.change(handle, |expectation| expectation.pair = pair);
        }
    }

    /// REGISTER: the endpoint that it names first may be called once the registrar agrees.
    fn register(&mut self, bytes: &[u8], message: &Message) -> Result<(), DropReason> {
        if self.is_expected {
            return Ok(());
        }
        let (context, side) = (self.context, self.side);
        if message.expires(bytes) == Some(0) && self.calls.contact.is_of(side) {
            // `Contact: *` (RFC 3261 §10.2.2) names none: what the registrar answers says what is left.
            self.calls.contact.cseq = message.cseq;
        }
        let Some(contact) = message.contacts(bytes).next() else { return Ok(()) };
        let Some(port) = self.own_port(&contact, self.master.said.src()) else { return Ok(()) };
        let expires = lasts(&contact, message.expires(bytes))?;
        let expectations = &context.snapshot.expectations;
        let known = self.calls.contact;
        self.calls.contact.cseq = message.cseq;
        if expires == Some(0) {
            return Ok(()); // it goes when the registrar has agreed
        }
        let steering = &context.snapshot.steering;
        let (own, outer) = (self.master.said.src(), self.master.heard.dst());
        if port < PORT_MIN || steering.is_ours(own) || !(outer.is_ipv4() || outer == own) {
            context.counters.expectations_refused.add(1);
            return Ok(());
        }
        let is_same = known.is_of(side) && known.inner == port;
        let later = context.tick.plus_ms(REGISTRAR_MS);
        let waits_on = |expectation: &mut Expectation| {
            if expectation.term == Term::Waiting {
                expectation.deadline = later;
            }
        };
        if is_same && expectations.change(known.handle(), waits_on) {
            return Ok(());
        }
        self.calls.contact.end(expectations);
        let said = self.master.said;
        let wanted = Expectation {
            term: Term::Waiting,
            ..expectation(self.master, said.protocol(), port, REGISTRAR_MS, context)
        };
        // The port that it has outside already, if it is the one that it sends from.
        let first = match is_same {
            true => known.outer,
            false if port == said.src_id() => self.master.heard.dst_id(),
            false => port,
        };
        let Some((handle, outer)) = one(self.master, &wanted, first, self.random, context) else {
            context.counters.expectations_refused.add(1);
            return Err(DropReason::HelperFull);
        };
        context.counters.expectations_made.add(1);
        self.calls.contact.set(side, [port, outer], handle);
        Ok(())
    }

    /// The registrar answers.
    fn registered(&mut self, bytes: &[u8], message: &Message, code: u16) -> Result<(), DropReason> {
        let contact = self.calls.contact;
        if contact.cseq != message.cseq || !contact.is_of(self.side.opposite()) {
            return Ok(());
        }
        let context = self.context;
        let expectations = &context.snapshot.expectations;
        match code {
            // RFC 3261 §22.2: it asks who that is, and is told in the next request.
            100..200 | 401 | 407 => return Ok(()),
            200..300 => {}
            _ => {
                self.calls.contact.end(expectations);
                return Ok(());
            }
        }
        let for_all = message.expires(bytes);
        for named in message.contacts(bytes) {
            if self.own_port(&named, self.master.said.dst()) != Some(contact.outer) {
                continue;
            }
            let seconds = lasts(&named, for_all)?.unwrap_or(0).min(EXPIRES_MAX);
            if seconds == 0 {
                break;
            }
            let deadline = context.tick.plus_ms(seconds * 1000);
            expectations.change(contact.handle(), |expectation| {
                (expectation.term, expectation.deadline) = (Term::Lasting, deadline);
            });
            return Ok(());
        }
        self.calls.contact.end(expectations);
        Ok(())
    }

    /// The port of a contact that is this address's own, over the connection's own protocol.
    fn own_port(&self, contact: &Contact, address: IpAddr) -> Option<u16> {
        let (host, port) = contact.host?;
        let is_own = [Transport::Unsaid, self.transport()].contains(&contact.transport);
        (host == address && is_own).then_some(port)
    }
}

/// The ports that a medium comes to. RFC 3550 §11: RTP has an even port and RTCP the next one, unless another is said.
fn inner(media: &sdp::Media) -> [u16; 2] {
    [media.port, media.rtcp.as_ref().map_or(media.port ^ 1, |(port, _)| *port)]
}

/// How long a contact is to count, seconds, by itself or as `Expires` says of all; `None` if nothing is said.
fn lasts(contact: &Contact, for_all: Option<u32>) -> Result<Option<u32>, DropReason> {
    match contact.expires {
        Expires::After(seconds) => Ok(Some(seconds)),
        Expires::Unsaid => Ok(for_all),
        Expires::Unreadable => Err(DropReason::HelperMalformed),
    }
}

/// Whether the session that a message describes is one to come: in a request that may carry an offer or an answer, and in
/// responses to those that do not refuse it (RFC 3264 §5; RFC 3262 §5; RFC 3311 §5.1).
fn announces(message: &Message) -> bool {
    let carries = match message.start {
        Start::Request => {
            matches!(message.method, Method::Invite | Method::Ack | Method::Update | Method::Prack)
        }
        Start::Response(code) => {
            let offers = matches!(message.method, Method::Invite | Method::Update | Method::Prack);
            offers && code < 300
        }
    };
    carries && message.has_session
}

/// A connection to `port` of the speaker, from the listener.
fn expectation(
    master: &Master,
    over: u8,
    port: u16,
    lasts_ms: u32,
    context: &Context<'_>,
) -> Expectation {
    let Master { said, heard, .. } = master;
    Expectation {
        master: master.id,
        protocol: over,
        src: Some(heard.src()),
        zone: heard.zone(),
        dst: heard.dst(),
        dst_port: port,
        to: (said.src(), port),
        via: master.ingress,
        appear_as: (said.dst() != heard.src()).then_some(said.dst()),
        pair: None,
        term: Term::Once,
        deadline: context.tick.plus_ms(lasts_ms),
    }
}

/// Whether the port outside may be another one: not if nothing is translated, or the address as a whole.
fn is_free(master: &Master, context: &Context<'_>) -> bool {
    let outer = master.heard.dst();
    outer != master.said.src() && !context.snapshot.steering.is_whole(outer)
}

/// The ports outside that may stand for `inner`, `first` before all others.
fn ports<'r>(
    master: &Master,
    inner: u16,
    first: u16,
    random: &'r mut Random,
    context: &'r Context<'_>,
) -> impl Iterator<Item = u16> + use<'r> {
    let others = candidates(inner, random, context);
    let tries = if is_free(master, context) { TRIES } else { 0 };
    core::iter::once(first).chain(others.take(tries))
}

/// Inserts an expectation under the port `first` outside, or another one.
fn one(
    master: &Master,
    wanted: &Expectation,
    first: u16,
    random: &mut Random,
    context: &Context<'_>,
) -> Option<(Handle, u16)> {
    let (over, address) = (wanted.protocol, wanted.dst);
    // The one by which the speaker is seen already is its own, whatever it belongs to.
    let own = (over == master.heard.protocol()).then(|| master.heard.dst_id());
    let is_free = is_free(master, context);
    ports(master, wanted.to.1, first, random, context).find_map(|port| {
        if is_free && own != Some(port) && is_others(over, address, port, context) {
            return None;
        }
        let wanted = Expectation { dst_port: port, ..*wanted };
        let made = context.snapshot.expectations.replace(&wanted, context.tick);
        made.ok().map(|handle| (handle, port))
    })
}

/// Inserts the expectations of RTP and RTCP: under two ports of a pair if they are one inside, under the `known` ones if these are
/// free. One, if there is one port for both (RFC 5761).
fn both(
    master: &Master,
    wanted: &[Expectation; 2],
    known: Option<[u16; 2]>,
    random: &mut Random,
    context: &Context<'_>,
) -> Option<[(Handle, u16); 2]> {
    let expectations = &context.snapshot.expectations;
    let [rtp, rtcp] = wanted;
    let [first, first_rtcp] = known.unwrap_or([rtp.to.1, rtcp.to.1]);
    if rtp.to.1 == rtcp.to.1 {
        let (handle, port) = one(master, rtp, first, random, context)?;
        return Some([(handle, port), (Handle(0), port)]);
    }
    if rtp.to.1 ^ 1 != rtcp.to.1 {
        let (handle, port) = one(master, rtp, first, random, context)?;
        let made = one(master, rtcp, first_rtcp, random, context);
        if made.is_none() {
            expectations.take(handle);
        }
        return made.map(|made| [(handle, port), made]);
    }
    let is_free = is_free(master, context);
    let parity = rtp.to.1 & 1;
    ports(master, rtp.to.1, first, random, context).find_map(|port| {
        let pair = [port & !1 | parity, port & !1 | parity ^ 1];
        let taken = |port: &u16| is_others(rtp.protocol, rtp.dst, *port, context);
        if is_free && pair.iter().any(taken) {
            return None;
        }
        let insert = |wanted: &Expectation, dst_port| {
            expectations.replace(&Expectation { dst_port, ..*wanted }, context.tick)
        };
        let handle = insert(rtp, pair[0]).ok()?;
        match insert(rtcp, pair[1]) {
            Ok(other) => Some([(handle, pair[0]), (other, pair[1])]),
            Err(_) => {
                expectations.take(handle);
                None
            }
        }
    })
}
