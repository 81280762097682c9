//! SCTP associations, as seen from the middle (RFC 9260).
//!
//! A packet is a common header and chunks. The header's verification tag is the receiver's, told to the sender in
//! INIT or INIT ACK: who does not know it does not take part (§8.5), and that is SCTP's window check. `sctp_machine.rs`
//! says where each chunk leads. What is INVALID is Linux 6.18's choice (nf_conntrack_proto_sctp.c), told in our own words,
//! but that a packet which is INVALID by one of its chunks leaves nothing behind of the chunks before it.
//!
//! Of a datagram in fragments the chunks in the first one count: later ones are DATA or part of one.
//!
//! Owner: one worker. Allocates: never. Reads the clock: never.

use super::entry::{HotState, Warm, flags};
use super::timeouts::Timeouts;
use super::tuple::Direction;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::{array, be16, be32, sctp as wire};

pub use super::sctp_machine::{Chunk, State, next};
pub use super::tcp::Outcome;

/// Flags of one endpoint, kept where TCP has its [`peer_flags`](super::entry::peer_flags).
mod end_flags {
    /// It sent an INIT that named a new tag, and no COOKIE ACK came since.
    pub(super) const INIT: u8 = 1 << 0;
    /// It sent the last HEARTBEAT, whose tag was not the one we know.
    pub(super) const STRANGE_HEARTBEAT: u8 = 1 << 1;
}

/// What is known of an association besides its state: a verification tag and flags for each direction, by direction of
/// the packets that carry the tag. Kept in [`Warm`] where TCP keeps its windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tags {
    /// 0: not known.
    tags: [u32; 2],
    flags: [u8; 2],
}

impl Tags {
    fn load(warm: &Warm) -> Self {
        Self { tags: warm.peers.map(|peer| peer.end), flags: warm.peer_flags }
    }

    fn store(self, warm: &mut Warm) {
        [warm.peers[0].end, warm.peers[1].end] = self.tags;
        warm.peer_flags = self.flags;
    }

    fn has(&self, direction: Direction, flag: u8) -> bool {
        self.flags[direction.index()] & flag != 0
    }
}

/// A packet's chunks: type, flags, and where the chunk begins. Ends where the packet does; lengths are padded to four
/// bytes (§3.2).
struct Chunks<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One chunk.
#[derive(Clone, Copy)]
struct Header<'a> {
    kind: u8,
    flags: u8,
    length: u16,
    /// Behind the chunk's header, to the packet's end.
    value: &'a [u8],
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        let header = array::<{ wire::CHUNK_HEADER_LEN }>(self.bytes, self.at)?;
        let length = be16(header, wire::CHUNK_LENGTH);
        let value = self.bytes.get(self.at + wire::CHUNK_HEADER_LEN..)?;
        // One of length 0 is refused by who looks at it; this ends all the same.
        self.at += usize::from(length.max(1)).next_multiple_of(4);
        Some(Header {
            kind: header[wire::CHUNK_TYPE],
            flags: header[wire::CHUNK_FLAGS],
            length,
            value,
        })
    }
}

/// A packet: its verification tag and chunks.
#[derive(Clone, Copy)]
struct Packet<'a> {
    tag: u32,
    /// Behind the common header.
    chunks: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header = array::<{ wire::HEADER_LEN }>(bytes, 0).ok_or(DropReason::SctpChunk)?;
        let packet = Self { tag: be32(header, wire::TAG), chunks: &bytes[wire::HEADER_LEN..] };
        packet.check()?;
        Ok(packet)
    }

    fn chunks(&self) -> Chunks<'a> {
        Chunks { bytes: self.chunks, at: 0 }
    }

    /// §6.10: INIT, INIT ACK and SHUTDOWN COMPLETE travel alone; COOKIE ECHO and COOKIE ACK come first. There is a
    /// chunk at least, and each has a length.
    fn check(&self) -> Result<(), DropReason> {
        let (mut count, mut alone) = (0, false);
        for chunk in self.chunks() {
            let kind = Chunk::of(chunk.kind);
            alone |= matches!(kind, Some(Chunk::Init | Chunk::InitAck | Chunk::ShutdownComplete));
            let leads = matches!(kind, Some(Chunk::CookieEcho | Chunk::CookieAck));
            if count > 0 && (alone || leads) || chunk.length == 0 {
                return Err(DropReason::SctpChunk);
            }
            count += 1;
        }
        if count == 0 { Err(DropReason::SctpChunk) } else { Ok(()) }
    }

    fn has(&self, kind: Chunk) -> bool {
        self.chunks().any(|chunk| Chunk::of(chunk.kind) == Some(kind))
    }

    fn has_data(&self) -> bool {
        self.chunks().any(|chunk| chunk.kind == wire::DATA)
    }
}

/// The initiate tag of INIT or INIT ACK (§3.3.2), if the chunk is whole as far as its fixed part goes.
fn initiate_tag(chunk: &Header<'_>) -> Result<u32, DropReason> {
    let fixed = array::<{ wire::INIT_LEN }>(chunk.value, 0).ok_or(DropReason::SctpChunk)?;
    Ok(be32(fixed, 0))
}

/// May this packet begin an association, or show one of its paths? Fills in the state of a new entry if so; changes
/// nothing if not. `bytes` begin with the common header.
#[cold]
pub fn first(
    bytes: &[u8],
    timeouts: &Timeouts,
    now: Tick,
    hot: &mut HotState,
    warm: &mut Warm,
) -> Result<(), DropReason> {
    let packet = Packet::read(bytes)?;
    // §8.4: out of the blue these are answered by nothing.
    if [Chunk::Abort, Chunk::ShutdownComplete, Chunk::CookieAck].into_iter().any(|c| packet.has(c))
    {
        return Err(DropReason::SctpState);
    }
    let mut tags = Tags::default();
    for chunk in packet.chunks() {
        match Chunk::of(chunk.kind) {
            None => return Err(DropReason::SctpState),
            // §8.5.1 (A).
            Some(Chunk::Init) if packet.tag != 0 => return Err(DropReason::SctpTag),
            Some(Chunk::Init) => tags.tags[1] = initiate_tag(&chunk)?,
            Some(Chunk::Heartbeat) => tags.tags[0] = packet.tag,
            // §8.4 (5), (8): SHUTDOWN COMPLETE comes back with this tag.
            Some(Chunk::ShutdownAck) => tags.tags[1] = packet.tag,
            Some(_) => {}
        }
    }
    let step = Step { direction: Direction::Original, is_first: true };
    let (state, _) = step.run(&packet, State::None, &mut tags)?;
    tags.store(warm);
    enter(State::None, state, timeouts, now, hot);
    Ok(())
}

/// Carries a known association on by one packet. `bytes` begin with the common header.
pub fn packet(
    direction: Direction,
    bytes: &[u8],
    timeouts: &Timeouts,
    now: Tick,
    hot: &mut HotState,
    warm: &mut Warm,
) -> Outcome {
    let old = State::from_number(hot.protocol_state);
    let mut tags = Tags::load(warm);
    let step = Step { direction, is_first: false };
    match Packet::read(bytes).and_then(|packet| step.run(&packet, old, &mut tags)) {
        Err(reason) => Outcome::Invalid(reason),
        Ok((state, refreshes)) => {
            tags.store(warm);
            if !refreshes {
                hot.protocol_state = state as u8;
                return Outcome::Ignore;
            }
            enter(old, state, timeouts, now, hot);
            Outcome::Pass
        }
    }
}

/// Takes a state over.
fn enter(old: State, new: State, timeouts: &Timeouts, now: Tick, hot: &mut HotState) {
    hot.protocol_state = new as u8;
    if new == State::Established && old != new {
        hot.flags |= flags::ASSURED;
    }
    // To be evicted although it is assured: see `is_closing`.
    if new.is_closing() || new == State::Closed && hot.flags & flags::ASSURED != 0 {
        hot.flags |= flags::CLOSED;
    } else {
        hot.flags &= !flags::CLOSED;
    }
    hot.timeout_ms = timeouts.ms(new.timeout());
    hot.last_seen = now.0;
}

/// A packet on its way through the machine.
#[derive(Clone, Copy)]
struct Step {
    direction: Direction,
    is_first: bool,
}

impl Step {
    /// Judges every chunk in turn. The state that the last one leads to, and whether the packet extends the
    /// association's life.
    fn run(
        self,
        packet: &Packet<'_>,
        old: State,
        tags: &mut Tags,
    ) -> Result<(State, bool), DropReason> {
        use Chunk::{
            Abort, CookieEcho, Heartbeat, HeartbeatAck, Init, ShutdownAck, ShutdownComplete,
        };
        let own = self.direction.index();
        // §8.5; the others have rules of their own, below.
        let own_rules =
            [Init, ShutdownComplete, CookieEcho, Abort, ShutdownAck, Heartbeat, HeartbeatAck];
        if !own_rules.into_iter().any(|c| packet.has(c)) && packet.tag != tags.tags[own] {
            return Err(DropReason::SctpTag);
        }
        let (mut state, mut refreshes) = (old, true);
        for chunk in packet.chunks() {
            let Some(kind) = Chunk::of(chunk.kind) else { continue };
            if !self.tag_fits(packet, &chunk, kind, tags, &mut refreshes)? {
                continue;
            }
            let new = next(state, self.direction, kind).ok_or(DropReason::SctpState)?;
            self.learn(&chunk, kind, tags)?;
            // A retransmitted INIT extends nothing: else a client could hold a port for ever.
            if kind == Init && !self.is_first && (state, new) == (State::Closed, State::Closed) {
                refreshes = false;
            }
            state = new;
        }
        Ok((state, refreshes))
    }

    /// §8.5.1, and what a HEARTBEAT may tell. `false`: the chunk passes and moves nothing.
    fn tag_fits(
        self,
        packet: &Packet<'_>,
        chunk: &Header<'_>,
        kind: Chunk,
        tags: &mut Tags,
        refreshes: &mut bool,
    ) -> Result<bool, DropReason> {
        let (own, other) = (self.direction.index(), self.direction.opposite().index());
        let fits = match kind {
            Chunk::Init => packet.tag == 0,
            Chunk::Abort | Chunk::ShutdownComplete => {
                let reflected = chunk.flags & wire::FLAG_T != 0;
                packet.tag == tags.tags[if reflected { other } else { own }]
            }
            Chunk::CookieEcho => packet.tag == tags.tags[own],
            Chunk::Heartbeat | Chunk::HeartbeatAck => {
                return self.heartbeat(packet, kind, tags, refreshes);
            }
            _ => true,
        };
        if fits { Ok(true) } else { Err(DropReason::SctpTag) }
    }

    /// A path that we saw before may belong to another association by now, after a restart of its peers. A HEARTBEAT with a
    /// strange tag passes; if the other side answers it, its tag is the right one.
    fn heartbeat(
        self,
        packet: &Packet<'_>,
        kind: Chunk,
        tags: &mut Tags,
        refreshes: &mut bool,
    ) -> Result<bool, DropReason> {
        let (own, other) = (self.direction.index(), self.direction.opposite().index());
        let asked = |tags: &Tags, by| tags.has(by, end_flags::STRANGE_HEARTBEAT);
        let forget = |tags: &mut Tags| {
            tags.flags.iter_mut().for_each(|flags| *flags &= !end_flags::STRANGE_HEARTBEAT);
        };
        if tags.tags[own] == 0 {
            tags.tags[own] = packet.tag;
            return Ok(true);
        }
        if packet.tag == tags.tags[own] {
            forget(tags);
            return Ok(true);
        }
        if packet.has_data() || !*refreshes {
            return Err(DropReason::SctpTag);
        }
        if kind == Chunk::Heartbeat {
            forget(tags);
            tags.flags[own] |= end_flags::STRANGE_HEARTBEAT;
            *refreshes = false;
            return Ok(false);
        }
        if !asked(tags, self.direction.opposite()) {
            return Err(DropReason::SctpTag);
        }
        forget(tags);
        tags.tags[own] = packet.tag;
        tags.tags[other] = 0;
        Ok(true)
    }

    /// Takes over what INIT, INIT ACK and COOKIE ACK say.
    fn learn(self, chunk: &Header<'_>, kind: Chunk, tags: &mut Tags) -> Result<(), DropReason> {
        let (own, other) = (self.direction, self.direction.opposite());
        match kind {
            Chunk::Init => {
                let tag = initiate_tag(chunk)?;
                if !self.is_first && tags.tags[other.index()] == tag {
                    return Ok(()); // it comes again, or late: nobody begins anew
                }
                if tags.has(own, end_flags::INIT) {
                    tags.flags[other.index()] &= !end_flags::INIT;
                }
                tags.flags[own.index()] |= end_flags::INIT;
                tags.tags[other.index()] = tag;
            }
            Chunk::InitAck => {
                let tag = initiate_tag(chunk)?;
                let known = tags.tags[other.index()];
                let asked = tags.has(other, end_flags::INIT);
                // §5.2.1: both asked: then its INIT and its INIT ACK name one tag.
                let both = asked && tags.has(own, end_flags::INIT);
                if (!asked && known != 0 || both) && known != tag {
                    return Err(DropReason::SctpTag);
                }
                tags.tags[other.index()] = tag;
            }
            Chunk::CookieAck => {
                tags.flags.iter_mut().for_each(|flags| *flags &= !end_flags::INIT);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "sctp_tests.rs"]
mod tests;
