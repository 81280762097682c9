//! Packets of connections that have a helper ([`helper`](crate::helper)): where the pure parts meet the walk.
//!
//! A connection gets its helper when it is confirmed ([`assign`]), of a datagram's that is what its first packet says, too. From then on it takes the long way, and twice on
//! it stops here: before *track* its acknowledgments are brought back to the numbers that the other side
//! counts by ([`arrive`]); before *rewrite* what it says is read, expectations are made, texts
//! and sequence numbers are changed ([`depart`]). A first packet that meets an expectation is in [`admit`](super::admit).

use core::net::IpAddr;

use super::admit::Expected;
use super::family::Family;
use super::leg::{self, Leg};
use super::refuse::Refusal;
use super::table_view::ConnectionId;
use super::{Context, Desk, calls, mapped};
use crate::burst::{Packet, Seen};
use crate::conntrack::entry::flags;
use crate::conntrack::table::{Table, deadline};
use crate::conntrack::tuple::{Direction, Tuple};
use crate::conntrack::window::sequence::{after, before};
use crate::fragments;
use crate::headers::{Headers, Kind as PacketKind, tcp_flags};
use crate::helper::expect::{ExpectError, Expectation, Term};
use crate::helper::pool::{Key, Record, side_flags};
use crate::helper::{EXPECT_MS, Finding, Kind, PORT_MIN, Style, edit, ftp, irc, tftp};
use crate::nat::plan::Random;
use crate::reply::IcmpErrorKind;
use crate::rules;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::units::{EntryIdx, InterfaceId};
use crate::verdict::DropReason;

/// Segments in a row that may be dropped because they run ahead of one that was not seen, until the helper gives up.
pub(super) const AHEAD_MAX: u16 = 8;

/// Ports tried for an expectation before giving up.
pub(super) const TRIES: usize = 64;

/// A master, as an expectation needs it.
pub(super) struct Master {
    pub(super) id: u64,
    kind: Kind,
    /// As packets of the direction that announces arrive, and as those of the other one do.
    pub(super) said: Tuple,
    pub(super) heard: Tuple,
    /// By which interface packets of the direction that announces come.
    pub(super) ingress: InterfaceId,
    deadline: Tick,
}

/// An endpoint that was announced, and what to write over it.
struct Announced {
    finding: Finding,
    /// Where the line begins in the segment's payload.
    line: usize,
    /// Whether the speaker may name itself by the address that the other side knows it by.
    by_outer_address: bool,
    /// Whether only the other side of this connection is expected, not anybody.
    from_peer: bool,
}

const fn key<H: Family>(row: EntryIdx) -> Key {
    Key::new(matches!(H::FAMILY, rules::Family::V6), row)
}

/// Gives a connection that was just confirmed its helper, if it is to have one and there is room. A first packet may say
/// something already; if it is refused for that, its connection has to go.
#[inline]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
pub(super) fn assign<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    row: EntryIdx,
    expected: &Expected,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    if context.snapshot.options.helpers.any() | context.raw {
        return assign_one(table, desk, packet, headers, row, expected, leg, context);
    }
    Ok(())
}

#[cold]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn assign_one<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    row: EntryIdx,
    expected: &Expected,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let reply: Tuple = (*table.hot(row).tuple(Direction::Reply)).into();
    // What a rule said comes first, but not for what was expected (nf_conntrack_core.c).
    let is_expected = table.hot(row).state().flags & flags::EXPECTED != 0;
    let said =
        packet.visit.assigned.helper.filter(|kind| {
            context.raw && !is_expected && kind.protocols().contains(&reply.protocol())
        });
    let helpers = context.snapshot.options.helpers;
    // A call to a registered endpoint is signalled as its registration was, whatever its port.
    let is_call = expected.as_ref().is_some_and(|(_, expected)| expected.term == Term::Lasting);
    let served = || helpers.of_service(reply.protocol(), reply.src_id());
    let kind = match is_call {
        true => Some(Kind::Sip).filter(|kind| helpers.has(*kind)),
        false => said.or_else(served),
    };
    let Some(kind) = kind else { return Ok(()) };
    let incarnation = table.cold(row).incarnation;
    let expectations = &context.snapshot.expectations;
    let key = key::<H>(row);
    let Some(record) = desk.helpers.insert(key, incarnation, kind, expectations) else {
        context.counters.helpers_declined.add(1);
        return Ok(());
    };
    table.row(row).hot.state_mut().flags |= flags::HELPED;
    if headers.kind != PacketKind::Tcp {
        let direction = Direction::Original;
        return datagram(table, desk, packet, headers, row, direction, leg, context);
    }
    // Of what is picked up in mid-stream nothing is known, nor is it if the SYN carries something.
    if headers.tcp.flags & tcp_flags::SYN != 0 && headers.tcp.payload_len == 0 {
        begin(record, Direction::Original, headers.tcp.seq);
    }
    Ok(())
}

/// Reads from behind a SYN on.
fn begin(record: &mut Record, direction: Direction, syn: u32) {
    let side = &mut record.sides[direction.index()];
    side.next = syn.wrapping_add(1);
    side.flags = side_flags::KNOWN;
}

/// Before *track*: brings acknowledgments back to the numbers that whom they are for counts by.
#[cold]
pub(super) fn arrive<H: Family>(
    table: &Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    row: EntryIdx,
    direction: Direction,
) {
    let incarnation = table.cold(row).incarnation;
    let Some(record) = desk.helpers.get(key::<H>(row), incarnation) else { return };
    let adjustment = &record.sides[direction.opposite().index()].adjustment;
    if headers.kind != PacketKind::Tcp || adjustment.is_none() {
        return;
    }
    if headers.tcp.flags & tcp_flags::ACK != 0 {
        let ack = adjustment.restored(headers.tcp.ack);
        edit::set_ack(packet, headers, ack);
        edit::restore_sack(packet, headers, |edge| adjustment.restored(edge));
        packet.parsed = Some(*headers);
    }
}

/// Before *rewrite*: reads what is new, changes what has to be, shifts the sequence number.
#[cold]
#[allow(clippy::too_many_arguments)] // the corridor's luggage
pub(super) fn depart<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    row: EntryIdx,
    direction: Direction,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    if headers.kind != PacketKind::Tcp {
        return datagram(table, desk, packet, headers, row, direction, leg, context);
    }
    let expectations = &context.snapshot.expectations;
    let hot = table.hot(row);
    let incarnation = table.cold(row).incarnation;
    let Some(record) = desk.helpers.get(key::<H>(row), incarnation) else { return Ok(()) };
    if hot.state().flags & flags::CLOSED != 0 {
        record.release(expectations); // nothing more comes of what it announced
    }
    if headers.tcp.flags & tcp_flags::SYN != 0 {
        if record.sides[direction.index()].adjustment.is_none() && headers.tcp.payload_len == 0 {
            begin(record, direction, headers.tcp.seq);
        }
        return Ok(());
    }
    // A text in fragments is not in one frame. What is sent again whole is read.
    if headers.tcp.payload_len > 0 && matches!(packet.seen, Seen::Gathered(_)) {
        return Err(Refusal::Drop(DropReason::FragmentUnsupported));
    }
    let longest = longest(leg, headers, context);
    let acked = table.warm(row).peers[direction.opposite().index()].max_ack;
    if record.kind() == Some(Kind::Sip) {
        let is_expected = hot.state().flags & flags::EXPECTED != 0;
        let segment = calls::Segment { side: direction, acked, longest, is_expected };
        let master = master(table, row, Kind::Sip, direction, context);
        let random = &mut desk.random;
        if headers.tcp.payload_len > 0 {
            calls::listen(record, &master, packet, headers, segment, random, context)?;
        }
        return calls::adjust(record, &master, packet, headers, segment, random, context);
    }
    if let Some(kind) = record.kind()
        && headers.tcp.payload_len > 0
        && let Some(announced) = read(record, kind, packet, headers, direction)?
    {
        let master = master(table, row, kind, direction, context);
        let room = usize::from(longest).saturating_sub(usize::from(headers.ip_len));
        let side = direction.index();
        let made = expect(record, &master, &announced, &mut desk.random, context);
        if let Some((handle, text)) = made {
            let Finding { range, .. } = &announced.finding;
            let growth = text.as_ref().map_or(0, |text| text.len().saturating_sub(range.len()));
            let adjustment = &record.sides[side].adjustment;
            let has_room = growth <= room
                && edit::has_room(packet, headers, growth)
                && (text.is_none() || adjustment.has_room(acked));
            if !has_room {
                expectations.take(handle);
                context.counters.helpers_declined.add(1);
            } else {
                record.keep(kind, handle);
                context.counters.expectations_made.add(1);
                if let Some(text) = text {
                    let begin = (announced.line + range.start) as u32;
                    let position = headers.tcp.seq.wrapping_add(begin);
                    record.sides[side].adjustment.push(position, range.len() as u16, &text);
                }
            }
        }
    }
    adjust(record, packet, headers, direction, longest)
}

/// The connection in a row, one side of which speaks.
fn master<H: Family>(
    table: &Table<'_, H>,
    row: EntryIdx,
    kind: Kind,
    direction: Direction,
    context: &Context<'_>,
) -> Master {
    let hot = table.hot(row);
    let is_v6 = matches!(H::FAMILY, rules::Family::V6);
    Master {
        id: ConnectionId::new(context.me, is_v6, row.0, table.cold(row).incarnation).0,
        kind,
        said: (*hot.tuple(direction)).into(),
        heard: (*hot.tuple(direction.opposite())).into(),
        ingress: InterfaceId(hot.state().interfaces[direction.index()][0]),
        deadline: deadline(hot.state()),
    }
}

/// How long a packet may grow: as what may leave, unless it may leave in fragments.
fn longest(leg: &Leg, headers: &Headers, context: &Context<'_>) -> u16 {
    let forwarded = leg.ingress != InterfaceId::NONE && leg.egress != InterfaceId::NONE;
    let egress = if leg.egress == InterfaceId::NONE { leg.ingress } else { leg.egress };
    let mtu = leg::mtu(egress, leg.route_mtu, context);
    let splits = forwarded && !headers.dont_fragment && mtu >= fragments::MTU_MIN;
    if splits { u16::MAX } else { mtu }
}

/// Writes a segment's texts and sequence number as the other side has to see them.
fn adjust(
    record: &Record,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    direction: Direction,
    longest: u16,
) -> Result<(), Refusal> {
    let adjustment = &record.sides[direction.index()].adjustment;
    if adjustment.is_none() {
        return Ok(());
    }
    let seq = headers.tcp.seq;
    let end = seq.wrapping_add(headers.tcp.payload_len.into());
    // First whether all can be done, then all of it.
    let mut growth = 0u32;
    for change in adjustment.changes() {
        let touched = before(seq, change.end()) && after(end, change.position);
        let whole = !before(change.position, seq) && !after(change.end(), end);
        if touched && !whole {
            // A part of an old text cannot be told as a part of the new one.
            return Err(Refusal::Drop(DropReason::HelperSplit));
        }
        if touched {
            growth = growth.wrapping_add(change.growth());
        }
    }
    if growth as i32 > 0 {
        let growth = growth as u16;
        if headers.ip_len.saturating_add(growth) > longest {
            let mtu = longest.saturating_sub(growth);
            let kind = IcmpErrorKind::PacketTooBig { mtu };
            return Err(Refusal::Icmp(DropReason::MtuExceeded, kind));
        }
        if !edit::has_room(packet, headers, growth.into()) {
            return Err(Refusal::Drop(DropReason::MtuExceeded));
        }
    }
    // The last first, so that those before stay where they are.
    for change in adjustment.changes().iter().rev() {
        if before(seq, change.end()) && after(end, change.position) {
            let at = change.position.wrapping_sub(seq) as usize;
            if !edit::replace(packet, headers, at, change.old_len.into(), change.text()) {
                debug_assert!(false, "it was seen to be possible");
                return Err(Refusal::Drop(DropReason::MtuExceeded));
            }
        }
    }
    edit::set_seq(packet, headers, adjustment.shifted(seq));
    packet.parsed = Some(*headers);
    Ok(())
}

/// Reads what was not read yet of what a segment says, each byte once and in order; what it announces, if
/// anything.
fn read(
    record: &mut Record,
    kind: Kind,
    packet: &Packet<'_>,
    headers: &Headers,
    direction: Direction,
) -> Result<Option<Announced>, Refusal> {
    let payload_len = headers.tcp.payload_len;
    let begin = usize::from(headers.l4) + usize::from(headers.tcp.header_len);
    let payload = packet.bytes().get(begin..begin + usize::from(payload_len)).unwrap_or_default();
    let seq = headers.tcp.seq;
    let end = seq.wrapping_add(payload_len.into());
    let ends_line = payload.last() == Some(&b'\n');
    let awaited = direction == Direction::Original || record.talk().asked > 0;
    let side = &mut record.sides[direction.index()];
    if side.flags & side_flags::KNOWN == 0 || after(seq, side.next) {
        if side.flags & side_flags::KNOWN != 0 && awaited && side.ahead < AHEAD_MAX {
            // It runs ahead of what was not read, whose length may have to change: it comes again (C125).
            side.ahead += 1;
            return Err(Refusal::Drop(DropReason::HelperAhead));
        }
        // What was missed is lost on us: from the next line on.
        (side.next, side.ahead) = (end, 0);
        side.flags = if ends_line { side_flags::KNOWN } else { 0 };
        return Ok(None);
    }
    if !after(end, side.next) {
        return Ok(None); // it comes again
    }
    let skip = side.next.wrapping_sub(seq) as usize;
    let fresh = payload.get(skip..).unwrap_or_default();
    let mid_line = side.flags & side_flags::MID_LINE != 0;
    (side.next, side.ahead) = (end, 0);
    side.flags = side_flags::KNOWN | if ends_line { 0 } else { side_flags::MID_LINE };

    let mut announced = None;
    let mut at = skip;
    let lines = fresh.split_inclusive(|&b| b == b'\n');
    for (number, line) in lines.enumerate() {
        let here = at;
        at += line.len();
        let whole = line.ends_with(b"\n") && !(number == 0 && mid_line);
        if !whole {
            continue;
        }
        // Only what a segment begins with counts: a body that holds lines is not a command (C121).
        let counts = here == 0;
        let said = match (kind, direction) {
            (Kind::Ftp, _) => {
                let mut talk = record.talk();
                let said = match direction {
                    Direction::Original => ftp::client(&mut talk, line),
                    Direction::Reply => ftp::server(&mut talk, line),
                };
                record.set_talk(talk);
                said
            }
            (Kind::Irc, Direction::Original) => {
                irc::client(line).map_or(ftp::Said::Nothing, ftp::Said::Here)
            }
            _ => ftp::Said::Nothing,
        };
        match said {
            ftp::Said::Here(finding) if counts => {
                announced = Some(Announced {
                    finding,
                    line: here,
                    by_outer_address: kind == Kind::Irc || direction == Direction::Reply,
                    from_peer: kind != Kind::Irc,
                });
            }
            ftp::Said::Foreign => {
                record.give_up();
                return Ok(None);
            }
            _ => {}
        }
    }
    Ok(announced)
}

/// Makes an expectation of what was announced; and the text to write over it, if another one is to stand there.
fn expect(
    record: &mut Record,
    master: &Master,
    announced: &Announced,
    random: &mut Random,
    context: &Context<'_>,
) -> Option<(crate::helper::expect::Handle, Option<crate::helper::Text>)> {
    let made = try_expect(record, master, announced, random, context);
    if made.is_none() {
        context.counters.expectations_refused.add(1);
    }
    made
}

fn try_expect(
    record: &mut Record,
    master: &Master,
    announced: &Announced,
    random: &mut Random,
    context: &Context<'_>,
) -> Option<(crate::helper::expect::Handle, Option<crate::helper::Text>)> {
    let Finding { address, port, style, .. } = announced.finding;
    let (own, outer) = (master.said.src(), master.heard.dst());
    let steering = &context.snapshot.steering;
    let named = address.unwrap_or(own);
    // Nobody may speak for a third host, nor for us (RFC 2577 §3, §4).
    let is_own = named == own || announced.by_outer_address && named == outer;
    if !is_own || port < PORT_MIN || steering.is_ours(own) {
        return None;
    }
    let expectations = &context.snapshot.expectations;
    record.make_room(master.kind, expectations);
    let expectation = expectation(master, port, announced.from_peer, context.tick);
    // An address that is translated one to one has every port for this one host.
    let handle = if outer == own || steering.is_whole(outer) {
        expectations.insert(&expectation, context.tick).ok().map(|handle| (handle, port))
    } else {
        with_port(expectation, random, context)
    };
    let (handle, outer_port) = handle?;
    let text = style.write(outer, outer_port);
    let port_only = style == Style::Port;
    let stays = outer_port == port && (named == outer || port_only);
    if !stays && text.is_none() {
        expectations.take(handle);
        return None;
    }
    Some((handle, text.filter(|_| !stays)))
}

/// A connection to `port` of whoever announces it, from whoever it tells.
fn expectation(master: &Master, port: u16, from_peer: bool, now: Tick) -> Expectation {
    let peer = master.heard.src();
    let known_as = master.said.dst();
    let latest = now.plus_ms(EXPECT_MS);
    Expectation {
        master: master.id,
        protocol: master.said.protocol(),
        src: from_peer.then_some(peer),
        zone: master.heard.zone(),
        dst: master.heard.dst(),
        dst_port: port,
        to: (master.said.src(), port),
        via: master.ingress,
        appear_as: (known_as != peer).then_some(known_as),
        pair: None,
        term: Term::Once,
        deadline: if latest.reached(master.deadline) { master.deadline } else { latest },
    }
}

/// Inserts an expectation under an external port: that of the inside endpoint if it is free, else another one of the worker that
/// the inside endpoint's packets belong to, so that both directions meet there.
fn with_port(
    wanted: Expectation,
    random: &mut Random,
    context: &Context<'_>,
) -> Option<(crate::helper::expect::Handle, u16)> {
    let Snapshot { expectations, .. } = context.snapshot;
    let port = wanted.dst_port;
    let others = candidates(port, random, context).take(TRIES);
    for dst_port in core::iter::once(port).chain(others) {
        if is_others(wanted.protocol, wanted.dst, dst_port, context) {
            continue;
        }
        match expectations.insert(&Expectation { dst_port, ..wanted }, context.tick) {
            Ok(handle) => return Some((handle, dst_port)),
            // Another port is another shard.
            Err(ExpectError::Clash | ExpectError::Full) => {}
        }
    }
    None
}

/// Ports outside of the worker that a port inside belongs to, without end.
pub(super) fn candidates<'r>(
    port: u16,
    random: &'r mut Random,
    context: &'r Context<'_>,
) -> impl Iterator<Item = u16> + use<'r> {
    let steering = &context.snapshot.steering;
    let ports = steering.ports(steering.block(port));
    let ports = &ports[ports.partition_point(|&port| port < PORT_MIN)..];
    core::iter::from_fn(move || ports.get(random.below(ports.len())).copied())
}

/// Whether an endpoint outside belongs to a forward or a nat rule, or to a mapping.
pub(super) fn is_others(protocol: u8, address: IpAddr, port: u16, context: &Context<'_>) -> bool {
    context.snapshot.steering.is_static(address, protocol, port)
        || context.mapped && mapped::owns(protocol, address, port, context)
}

/// A datagram of a connection that has a helper.
#[allow(clippy::too_many_arguments)] // the corridor's luggage
fn datagram<H: Family>(
    table: &mut Table<'_, H>,
    desk: &mut Desk,
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    row: EntryIdx,
    direction: Direction,
    leg: &Leg,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let incarnation = table.cold(row).incarnation;
    let Some(record) = desk.helpers.get(key::<H>(row), incarnation) else { return Ok(()) };
    match record.kind() {
        Some(Kind::Sip) => {
            let row_flags = table.hot(row).state().flags;
            let master = master(table, row, Kind::Sip, direction, context);
            let conversation = calls::Conversation {
                calls: &mut record.calls,
                master: &master,
                side: direction,
                is_expected: row_flags & flags::EXPECTED != 0,
                random: &mut desk.random,
                context,
            };
            let longest = longest(leg, headers, context);
            let said = calls::datagram(conversation, packet, headers, longest);
            // Not for whoever knocks and is answered: records are few.
            if row_flags & flags::SEEN_REPLY != 0 && record.calls.is_engaged() {
                let state = table.row(row).hot.state_mut();
                state.timeout_ms = state.timeout_ms.max(calls::SIGNALLING_MS);
            }
            said
        }
        Some(Kind::Tftp) if direction == Direction::Original => {
            request(table, record, packet, headers, row, context);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A datagram of a client's: TFTP's server answers from another port.
fn request<H: Family>(
    table: &Table<'_, H>,
    record: &mut Record,
    packet: &Packet<'_>,
    headers: &Headers,
    row: EntryIdx,
    context: &Context<'_>,
) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let end = l3 + usize::from(headers.ip_len);
    let payload = packet.bytes().get(l4 + crate::wire::udp::HEADER_LEN..end).unwrap_or_default();
    if !tftp::is_request(payload) {
        return;
    }
    let kind = Kind::Tftp;
    let master = master(table, row, kind, Direction::Original, context);
    let Master { said, heard, .. } = &master;
    // The port is the client's already, whatever it is.
    let refused = context.snapshot.steering.is_ours(said.src());
    let expectations = &context.snapshot.expectations;
    let wanted = Expectation {
        dst_port: heard.dst_id(),
        ..expectation(&master, said.src_id(), true, context.tick)
    };
    record.make_room(kind, expectations);
    match expectations.insert(&wanted, context.tick) {
        Ok(handle) if !refused => {
            record.keep(kind, handle);
            context.counters.expectations_made.add(1);
        }
        Ok(handle) => {
            expectations.take(handle);
            context.counters.expectations_refused.add(1);
        }
        Err(_) => context.counters.expectations_refused.add(1),
    }
}
