//! Fragments: gathered on the way in, cut on the way out.
//!
//! A fragment but the first has no ports, so nothing can be decided about it alone, and what the first one was allowed
//! must not be had by slipping other bytes over its own. So nothing is decided before all is there ([`Gathering`]):
//!
//! ```text
//! fragment ─► its collector ─► kept by the runtime until all are there ─► each one, the first first, on its way
//!             (keyed hash of     (Verdict::Gather; what overlaps,          as a packet whose tuple is known
//!              the datagram)      is too much or too late is dropped)      (Seen::Gathered), to its owner
//! ```
//!
//! The datagram is never put together: this crate keeps sums and digests of the fragments, the runtime their frames, and
//! what leaves is what came, fragment by fragment, translated, in order. The first fragment is a packet of its flow
//! like any other, tracked, judged and answered; the others go where it went, or are dropped as it was. Their transport
//! checksum, which only the first carries, is verified over all of them, and changes by the connection's constant.
//!
//! A helper that has to read or change a payload that came in fragments needs it in one piece: it would be given the
//! list of a whole datagram's slots before they are settled, copy them into a buffer of its own, and have the result cut
//! again by [`split`]. Nothing does so yet.
//!
//! Owner: one worker. Allocates: never after [`Gathering::new`]. Frames wait nowhere else, and none waits longer than
//! [`TIME_V6`].

mod gather;
mod split;
#[cfg(test)]
mod tests;

pub use gather::{Arrival, Gathering, Settled};
pub use split::{MTU_MIN, PARTS_MAX, Split, split};

use core::time::Duration;

use crate::burst::BURST_MAX;

/// Most fragments that wait with one worker.
pub const WAITING_MAX: usize = 512;
/// Most of those that came in by one interface: a flood from one side leaves room for the other.
pub const INTERFACE_MAX: usize = WAITING_MAX * 3 / 4;
/// Most of those of one source, an IPv4 address or an IPv6 network of 64 bits: two datagrams of the largest size.
pub const SOURCE_MAX: usize = WAITING_MAX / 4;
/// Most fragments of one datagram. The largest has 45 on Ethernet, and 54 of the least MTU of IPv6.
pub const DATAGRAM_MAX: usize = 64;
/// Most datagrams that wait with one worker, refused ones whose other fragments may still come among them.
pub const DATAGRAMS_MAX: usize = 128;

/// Numbers of slots for frames: those that wait, and what one burst adds before the runtime has taken out what it settled.
pub const SLOTS: usize = WAITING_MAX + BURST_MAX;

/// How long the fragments of an IPv4 datagram wait for each other, from the first one to arrive (as Linux's
/// ipfrag_time; RFC 1122 §3.3.2 says 60 to 120 s of hosts).
pub const TIME_V4: Duration = Duration::from_secs(30);
/// The same for IPv6 (RFC 8200 §4.5).
pub const TIME_V6: Duration = Duration::from_secs(60);
