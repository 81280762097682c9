//! The tray carried through the rooms: up to [`BURST_MAX`] packets, what is known of each, and
//! what becomes of it.

use arrayvec::ArrayVec;

use crate::headers::Headers;
use crate::parse::plain::Plain;
use crate::rules::Assignment;
use crate::units::{InterfaceId, WorkerId};
use crate::verdict::Verdict;

/// Most packets handled in one turn.
pub const BURST_MAX: usize = 64;

/// Where a packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Out of an interface's ring: FORWARD or INPUT.
    Wire,
    /// From the host, through the TAP of the packet's interface: OUTPUT.
    Host,
}

/// What a packet has behind it besides parsing: which workers it has been offered to while it looks for its owner
/// (see design, "steering changes"), and the rules, if it is on hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Visit {
    /// Bit mask of workers in whose table it was not found.
    pub visited: u16,
    /// Set once every candidate was asked: admit it here, or drop it.
    pub admit: bool,
    /// Set if one of them has a connection that holds the reply tuple this one would get.
    pub clash: bool,
    /// Set if the packet is on hold for its next hop.
    pub accepted: Option<Accepted>,
    /// What a rule of the raw table said about its connection: no rule is asked twice.
    pub assigned: Assignment,
}

/// What is known of a packet that was looked at before. Few bytes, to travel along with it: whoever needs the headers
/// reads them again, but nobody sums up a payload twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Seen {
    /// Nothing.
    #[default]
    Unseen,
    /// It parses, and its checksums are right or taken on trust.
    Sound,
    /// It is plain.
    Plain(Plain),
    /// It is a fragment of a datagram that is whole.
    Gathered(Gathered),
}

impl Visit {
    /// Nothing.
    pub const NONE: Self =
        Self { visited: 0, admit: false, clash: false, accepted: None, assigned: Assignment::NONE };
}

impl Seen {
    /// What is still true when a packet is steered anew: of a fragment, what its own bytes do not say.
    #[must_use]
    pub const fn anew(self) -> Self {
        match self {
            Self::Gathered(_) => self,
            Self::Unseen | Self::Sound | Self::Plain(_) => Self::Unseen,
        }
    }
}

/// What the other fragments of a datagram that is whole say of one of them; see [`fragments`](crate::fragments).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gathered {
    /// Of the tuple, as the first fragment has it.
    pub src_id: u16,
    /// Of the tuple, as the first fragment has it.
    pub dst_id: u16,
    /// Bytes that all fragments bring: the IP payload of the datagram, without what IPv6 does not fragment.
    pub len: u16,
    /// Which datagram of its collector: counted, and wraps.
    pub datagram: u16,
    /// The worker that gathered it.
    pub collector: WorkerId,
    /// The transport protocol.
    pub protocol: u8,
    /// What its transport checksum says.
    pub checksum: Checksum,
}

/// Whether a transport checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// It is, or there is none, or nobody asked.
    Right,
    /// It is not.
    Wrong,
}

/// What the rules said yes to before a packet was put on hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Under which policy ([`Stamps::policy`](crate::units::Stamps::policy)).
    pub policy: u16,
    /// To leave by which interface.
    pub egress: InterfaceId,
}

/// A packet in its frame.
///
/// `room` is the whole space the frame offers; the packet is `room[start..start + len]`, Ethernet
/// header first. Rewriting may move `start` and `len` (an ICMP error that we originate grows the packet).
#[derive(Debug)]
pub struct Packet<'f> {
    /// The frame's bytes, from its first usable one to its last.
    pub room: &'f mut [u8],
    /// Where the packet begins in `room`.
    pub start: usize,
    /// Its length, bytes, without FCS.
    pub len: usize,
    /// The interface it came in by, or whose TAP it came from.
    pub interface: InterfaceId,
    /// Wire or host.
    pub origin: Origin,
    /// What another worker, the host thread or an earlier walk found it to be.
    pub seen: Seen,
    /// Parse results, once the pipeline needed them; none going in.
    pub parsed: Option<Headers>,
    /// Which workers have been asked.
    pub visit: Visit,
}

impl Packet<'_> {
    /// The packet's bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + self.len]
    }

    /// The packet's bytes, to be rewritten.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.len]
    }
}

/// Packets going into [`Pipeline::process_burst`](crate::pipeline::Pipeline::process_burst), and their
/// verdicts coming out, index by index.
#[derive(Debug, Default)]
pub struct Burst<'f> {
    /// The packets.
    pub packets: ArrayVec<Packet<'f>, BURST_MAX>,
    /// One verdict a packet, filled by the pipeline.
    pub verdicts: ArrayVec<Verdict, BURST_MAX>,
}
