//! One connection, in three parts, so that a packet touches whole cache lines and no more than it needs:
//!
//! - [`Hot`]: all that UDP and ICMP touch: both tuples, last seen, the cached decision, next hops, and
//!   the checksum differences that translation makes. One line for IPv4, two for IPv6.
//! - [`Warm`]: TCP's windows, and the counters. One line, behind the hot one and prefetched with it.
//! - [`Cold`]: wheel links and what only unusual packets need. Half a line, in an array of its own.
//!
//! Everything is plain bytes without padding, so that tables live on memory handed in and survive
//! the process. An IPv4 entry is 160 bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::timeouts::TimeoutPolicyId;
use super::tuple::{Direction, TupleV4, TupleV6};
use super::wheel::Span;
use crate::units::Stamps;

/// Flags of an entry ([`HotState::flags`]).
pub mod flags {
    /// The row is in use.
    pub const LIVE: u16 = 1 << 0;
    /// A packet in reply direction was seen (Linux `IPS_SEEN_REPLY`).
    pub const SEEN_REPLY: u16 = 1 << 1;
    /// Worth keeping under pressure (Linux `IPS_ASSURED`): TCP and SCTP after the handshake, and of other protocols a flow
    /// that lived long enough, both ways, to get the stream timeout.
    pub const ASSURED: u16 = 1 << 2;
    /// The source is translated (Linux `IPS_SRC_NAT`).
    pub const SNAT: u16 = 1 << 3;
    /// The destination is translated (Linux `IPS_DST_NAT`).
    pub const DNAT: u16 = 1 << 4;
    /// The translated source is an interface's current address: dies with it.
    pub const MASQUERADE: u16 = 1 << 5;
    /// The first packet came from the host (OUTPUT).
    pub const FROM_HOST: u16 = 1 << 6;
    /// The original direction ends at the host (INPUT).
    pub const TO_HOST: u16 = 1 << 7;
    /// A nat rule said how it is translated, or that it is not: addresses of interfaces do not decide over it.
    pub const RULED: u16 = 1 << 8;
    /// Expected by a helper: its packets before any reply are RELATED.
    pub const EXPECTED: u16 = 1 << 9;
    /// Closed: admits nothing new from outside; lingers for its timeout.
    pub const CLOSED: u16 = 1 << 10;
    /// It has a helper, and a record in the side pool: its packets take the long way.
    pub const HELPED: u16 = 1 << 11;
    /// A change of it waits in the log that stands for all that follow ([`changes`](super::super::changes)).
    pub const CHANGED: u16 = 1 << 12;
    /// Not a flag: the table keeps a [`Span`](super::super::wheel::Span) here.
    pub const ARMED: u16 = 7 << ARMED_SHIFT;
    pub(super) const ARMED_SHIFT: u32 = 13;
}

/// The part of the hot line that does not depend on the family. Thirty-two bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HotState {
    /// When its last packet was seen ([`Tick`](crate::time::Tick)).
    pub last_seen: u32,
    /// Idle timeout that applies now, milliseconds.
    pub timeout_ms: u32,
    /// What the decisions, and the interfaces and next hops, were made under.
    pub stamps: Stamps,
    /// The cached decision of each direction; 0 is none. See [`rules`](crate::rules).
    pub paths: [u16; 2],
    /// For each direction, the interface its packets come in by and leave by.
    pub interfaces: [[u8; 2]; 2],
    /// For each direction, the neighbour slot its packets are sent to.
    pub next_hops: [u16; 2],
    /// See [`flags`].
    pub flags: u16,
    /// The protocol machine's state: [`tcp::State`](super::tcp::State) for TCP, [`sctp::State`](super::sctp::State)
    /// for SCTP, else 0. Of a connection with timeouts of its own ([`has_timeout_policy`](Self::has_timeout_policy)) the
    /// high half is the number of its policy: see [`machine_state`](Self::machine_state).
    pub protocol_state: u8,
    /// The ctstate each cached decision was made for: original in bits 0-2, reply in bits 4-6. Bits 3 and 7 are set if the
    /// connection has timeouts of its own: whoever expects a state alone there sees that it is not so.
    pub path_states: u8,
    /// One's complement difference that translating the original direction makes to the IPv4 header
    /// checksum; the reply direction makes its complement.
    pub l3_delta: u16,
    /// The same for the transport checksum.
    pub l4_delta: u16,
}

/// In a direction's half of [`HotState::path_states`]: the connection has timeouts of its own.
pub const POLICED: u8 = 1 << 3;

impl HotState {
    /// Whether the connection has timeouts of its own.
    #[inline]
    pub const fn has_timeout_policy(&self) -> bool {
        self.path_states & POLICED != 0
    }

    /// The timeouts that it has.
    pub const fn timeout_policy(&self) -> TimeoutPolicyId {
        TimeoutPolicyId(if self.has_timeout_policy() { self.protocol_state >> 4 } else { 0 })
    }

    /// Gives it these timeouts for its life.
    pub fn set_timeout_policy(&mut self, id: TimeoutPolicyId) {
        let both = POLICED | POLICED << 4;
        self.protocol_state = self.machine_state() | id.0 << 4;
        self.path_states &= !both;
        if id != TimeoutPolicyId::NONE {
            self.path_states |= both;
        }
    }

    /// The protocol machine's state alone.
    #[inline]
    pub const fn machine_state(&self) -> u8 {
        self.protocol_state & 0x0f
    }

    /// Lets a protocol's machine at the state: `act` sees its state alone.
    #[inline(always)]
    pub fn with_machine<R>(state: &mut Self, act: impl FnOnce(&mut Self) -> R) -> R {
        let policy = state.protocol_state & 0xf0;
        state.protocol_state &= 0x0f;
        let result = act(state);
        state.protocol_state |= policy;
        result
    }

    /// The row's slot in the wheel fires no later than this after the last packet before it was armed.
    #[inline]
    pub(super) const fn armed(&self) -> Span {
        Span::from_number((self.flags & flags::ARMED) >> flags::ARMED_SHIFT)
    }

    /// Keeps how long the row is armed for.
    #[inline]
    pub(super) const fn set_armed(&mut self, span: Span) {
        self.flags = self.flags & !flags::ARMED | span.number() << flags::ARMED_SHIFT;
    }
}

/// Hot part of an IPv4 entry: one cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct HotV4 {
    /// As packets of each direction arrive here, before translation.
    pub tuples: [TupleV4; 2],
    /// The rest.
    pub state: HotState,
}

/// Hot part of an IPv6 entry: two cache lines.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct HotV6 {
    /// As packets of each direction arrive here, before translation.
    pub tuples: [TupleV6; 2],
    /// The rest.
    pub state: HotState,
    /// Zero.
    pub reserved: [u8; 16],
}

/// What is known of one TCP peer's sending (van Rooij's and Linux's names: td_end, td_maxend,
/// td_maxwin, td_maxack). Sixteen bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Peer {
    /// Highest sequence number sent, plus one.
    pub end: u32,
    /// Highest sequence number the other side allows: its ACK plus its window.
    pub max_end: u32,
    /// Largest window this peer ever offered, scaled, bytes.
    pub max_window: u32,
    /// Highest ACK this peer sent once [`peer_flags::MAX_ACK_SET`]; before that, the initial
    /// sequence number of its SYN.
    pub max_ack: u32,
}

/// Flags of one TCP peer ([`Warm::peer_flags`]).
pub mod peer_flags {
    /// Its SYN offered window scaling.
    pub const WINDOW_SCALE: u8 = 1 << 0;
    /// Its SYN permitted SACK.
    pub const SACK_PERMITTED: u8 = 1 << 1;
    /// It sent the first FIN.
    pub const CLOSE_INIT: u8 = 1 << 2;
    /// Window checks are off for its segments (liberal).
    pub const BE_LIBERAL: u8 = 1 << 3;
    /// It sent data that is not acknowledged yet.
    pub const DATA_UNACKNOWLEDGED: u8 = 1 << 4;
    /// [`Peer::max_ack`](super::Peer::max_ack) is set.
    pub const MAX_ACK_SET: u8 = 1 << 5;
    /// Of any protocol, and not about the peer. In the original peer's flags: the connection's source has an
    /// endpoint-independent mapping, which it holds. In the other's: it came in by one.
    pub const MAPPED: u8 = 1 << 6;
    /// Set in the original peer's flags only: the last segment was not an ordinary one, and
    /// `Cold::last_*` tell of it.
    pub const NOTED: u8 = 1 << 7;
}

/// TCP's windows and the counters: one cache line. SCTP keeps its verification tags where the windows are; see `sctp`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Warm {
    /// By direction.
    pub peers: [Peer; 2],
    /// By direction: bytes seen, and in the low twelve bits the high bits of the packets seen. Read with
    /// [`bytes`](Self::bytes) and [`packets`](Self::packets).
    pub volumes: [u64; 2],
    /// By direction: the low bits of the packets seen.
    pub packets_low: [u32; 2],
    /// Mix of the last ACK segment's direction, seq, ack, end and window: equal means retransmitted.
    pub last_segment: u32,
    /// See [`peer_flags`], by direction.
    pub peer_flags: [u8; 2],
    /// Window scale of each peer, 0..=14: original in the low four bits, reply in the high four.
    pub scales: u8,
    /// Retransmissions of the last segment seen so far.
    pub retransmissions: u8,
}

/// How many bits of the packets seen are beside the bytes: 44 bits of packets (200 days at a million a
/// second) and 52 of bytes (41 days at 10 Gb/s).
const PACKETS_HIGH_BITS: u32 = 12;

impl Warm {
    /// Counts a packet of `ip_len` bytes.
    #[inline]
    pub fn count(&mut self, direction: Direction, ip_len: u16) {
        let d = direction.index();
        let (low, carry) = self.packets_low[d].overflowing_add(1);
        self.packets_low[d] = low;
        let volume = u64::from(ip_len) << PACKETS_HIGH_BITS | u64::from(carry);
        self.volumes[d] = self.volumes[d].wrapping_add(volume);
    }

    /// Packets seen, by direction, modulo 2^44.
    pub fn packets(&self) -> [u64; 2] {
        [0, 1].map(|d| {
            let high = self.volumes[d] & ((1 << PACKETS_HIGH_BITS) - 1);
            high << u32::BITS | u64::from(self.packets_low[d])
        })
    }

    /// Bytes seen (IP packet lengths), by direction, modulo 2^52.
    pub fn bytes(&self) -> [u64; 2] {
        self.volumes.map(|volume| volume >> PACKETS_HIGH_BITS)
    }
}

/// What only unusual packets and the wheel touch: half a cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(32))]
pub struct Cold {
    /// Next entry of the wheel slot, or of the free list.
    pub wheel_next: u32,
    /// Previous entry of the wheel slot, or the slot itself.
    pub wheel_prev: u32,
    /// How many connections this row has held: with the row it makes the id
    /// ([`ConnectionId`](crate::pipeline::ConnectionId)).
    pub incarnation: u32,
    /// When the connection was made ([`Instant::moment`](crate::time::Instant::moment)).
    pub created: u32,
    /// Connection mark.
    pub mark: u32,
    /// TCP: end of the last segment that was let through without a state change (a SYN we may have
    /// to resynchronise on). UDP: when its first packet came ([`Tick`](crate::time::Tick)).
    pub last_end: u32,
    /// TCP: its acknowledgment number.
    pub last_ack: u32,
    /// TCP: its window, unscaled.
    pub last_window: u16,
    /// TCP: its kind and direction; see `tcp`.
    pub last_kind: u8,
    /// TCP: its window scale and options; see `tcp`.
    pub last_options: u8,
}

const _: () = assert!(size_of::<HotState>() == 32 && TimeoutPolicyId::MAX == 0xf0 >> 4);
const _: () = assert!(size_of::<HotV4>() == 64, "an IPv4 flow's packet touches one hot line");
const _: () = assert!(size_of::<HotV6>() == 128);
const _: () = assert!(size_of::<Warm>() == 64 && size_of::<Cold>() == 32);

/// A hot part of either family.
pub trait Hot: Copy + Default + FromBytes + IntoBytes + Immutable + KnownLayout + 'static {
    /// The family's tuple.
    type Tuple: super::tuple::FamilyTuple;
    /// As packets of `direction` arrive here.
    fn tuple(&self, direction: Direction) -> &Self::Tuple;
    /// Sets both tuples.
    fn set_tuples(&mut self, original: Self::Tuple, reply: Self::Tuple);
    /// The rest.
    fn state(&self) -> &HotState;
    /// The rest, to be changed.
    fn state_mut(&mut self) -> &mut HotState;
    /// It with the warm part behind it, as the table keeps them.
    type Pair: Pair<Self>;
}

/// A hot part and the warm part of the same row, side by side: lines of one page, that a processor may well fetch
/// together.
pub trait Pair<H>: FromBytes + IntoBytes + Immutable + KnownLayout + 'static {
    /// The hot part.
    fn hot(&self) -> &H;
    /// The warm part.
    fn warm(&self) -> &Warm;
    /// Both, to be changed.
    fn both(&mut self) -> (&mut H, &mut Warm);
}

macro_rules! hot {
    ($type:ident, $tuple:ident, $pair:ident) => {
        /// See [`Pair`].
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C, align(64))]
        pub struct $pair {
            hot: $type,
            warm: Warm,
        }

        impl Pair<$type> for $pair {
            #[inline]
            fn hot(&self) -> &$type {
                &self.hot
            }

            #[inline]
            fn warm(&self) -> &Warm {
                &self.warm
            }

            #[inline]
            fn both(&mut self) -> (&mut $type, &mut Warm) {
                (&mut self.hot, &mut self.warm)
            }
        }

        impl Hot for $type {
            type Tuple = $tuple;
            type Pair = $pair;

            #[inline]
            fn tuple(&self, direction: Direction) -> &$tuple {
                &self.tuples[direction.index()]
            }

            #[inline]
            fn set_tuples(&mut self, original: $tuple, reply: $tuple) {
                self.tuples = [original, reply];
            }

            #[inline]
            fn state(&self) -> &HotState {
                &self.state
            }

            #[inline]
            fn state_mut(&mut self) -> &mut HotState {
                &mut self.state
            }
        }
    };
}

hot!(HotV4, TupleV4, PairV4);
hot!(HotV6, TupleV6, PairV6);

#[cfg(test)]
mod tests {
    use super::*;

    /// C186
    #[test]
    fn a_policy_and_the_machines_state_share_a_byte() {
        let mut state = HotState { protocol_state: 11, path_states: 0x21, ..HotState::default() };
        assert_eq!(state.timeout_policy(), TimeoutPolicyId::NONE);
        for number in [1, 15, 7] {
            state.set_timeout_policy(TimeoutPolicyId(number));
            assert_eq!((state.timeout_policy().0, state.machine_state()), (number, 11));
            assert_eq!(state.path_states, 0xa9, "neither direction's is a state alone");
            let seen = HotState::with_machine(&mut state, |state| {
                std::mem::replace(&mut state.protocol_state, 11)
            });
            assert_eq!((seen, state.timeout_policy().0), (11, number));
        }
        state.set_timeout_policy(TimeoutPolicyId::NONE);
        assert_eq!((state.protocol_state, state.path_states), (11, 0x21));
    }

    #[test]
    fn packets_are_counted_beyond_what_a_word_holds() {
        let mut warm = Warm::default();
        warm.count(Direction::Original, 1500);
        warm.count(Direction::Reply, 40);
        for (before, after) in [(u32::MAX.into(), 1 << 32), ((1 << 44) - 2, (1 << 44) - 1)] {
            let before: u64 = before;
            warm.packets_low[1] = before as u32;
            warm.volumes[1] = 40 << PACKETS_HIGH_BITS | before >> 32;
            warm.count(Direction::Reply, u16::MAX);
            assert_eq!((warm.packets(), warm.bytes()), ([1, after], [1500, 65_575]));
        }
    }

    #[test]
    fn bytes_begin_anew_after_four_pebibytes_and_leave_packets_alone() {
        let mut warm = Warm { volumes: [u64::MAX - 1, 0], ..Warm::default() };
        let packets = warm.packets()[0];
        warm.count(Direction::Original, 1);
        assert_eq!((warm.packets()[0], warm.bytes()[0]), (packets + 1, 0));
    }
}
