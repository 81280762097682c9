//! A packet that is too long for where it goes, cut (RFC 791 §3.2, "an example fragmentation procedure").
//!
//! Also what is a fragment already: its parts are fragments of the same datagram.

use crate::wire::checksum::Sum;
use crate::wire::ethernet::HEADER_LEN as L3;
use crate::wire::ipv4::{self, option};
use crate::wire::{array, be16, put16};

/// The least MTU that a packet is cut for: every network carries that much (RFC 791 §3.2).
pub const MTU_MIN: u16 = 68;

/// Most parts of one packet, so that one packet cannot fill a device's queue. One of 1770 bytes has 37 for the least MTU
/// and no options; more are not made.
pub const PARTS_MAX: usize = 64;

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Split<'p> {
    frame: &'p [u8],
    header: &'p [u8],
    data: &'p [u8],
    /// The header of all parts but the first.
    later: [u8; HEADER_MAX],
    later_len: usize,
    /// Bytes that the first part brings, and each other one but the last.
    steps: [usize; 2],
    parts: usize,
}

/// The longest IPv4 header.
const HEADER_MAX: usize = 60;

/// How the IPv4 packet in `frame` is cut for `mtu`; `None` if it is no IPv4 packet, may not be cut, or cannot be.
pub fn split(frame: &[u8], mtu: u16) -> Option<Split<'_>> {
    let fixed = array::<{ ipv4::HEADER_LEN }>(frame, L3)?;
    let header_len = ipv4::header_len(fixed[ipv4::VERSION_IHL])?;
    let header = frame.get(L3..L3 + header_len)?;
    let end = L3 + usize::from(be16(fixed, ipv4::TOTAL_LEN));
    let data = frame.get(L3 + header_len..end)?;
    let word = be16(fixed, ipv4::FRAGMENT);
    if word & ipv4::DONT_FRAGMENT != 0 || mtu < MTU_MIN || data.is_empty() {
        return None;
    }
    let (later, later_len) = header_of_later(header)?;
    let room = |header_len: usize| (usize::from(mtu) - header_len) & !7;
    let steps = [room(header_len), room(later_len)];
    let rest = data.len().saturating_sub(steps[0]);
    let parts = 1 + rest.div_ceil(steps[1]);
    // Offsets count eights in 13 bits; what was received as a fragment lies within a datagram's length already.
    let offset_max = usize::from(word & ipv4::OFFSET_MASK) * 8 + data.len();
    if parts > PARTS_MAX || offset_max > usize::from(u16::MAX) {
        return None;
    }
    Some(Split { frame, header, data, later, later_len, steps, parts })
}

/// The header of all fragments but the first: of the options only those that are to be copied (RFC 791 §3.1).
fn header_of_later(header: &[u8]) -> Option<([u8; HEADER_MAX], usize)> {
    let (fixed, mut rest) = header.split_first_chunk::<{ ipv4::HEADER_LEN }>()?;
    let mut later = [option::END; HEADER_MAX];
    later[..ipv4::HEADER_LEN].copy_from_slice(fixed);
    let mut len = ipv4::HEADER_LEN;
    // Each turn takes at least a byte of at most forty.
    while let [kind, after @ ..] = rest {
        match *kind {
            option::END => break,
            option::NO_OPERATION => rest = after,
            kind => {
                let option_len = usize::from(*after.first()?).max(2);
                let (this, next) = rest.split_at_checked(option_len)?;
                if kind & option::COPIED != 0 {
                    later.get_mut(len..len + option_len)?.copy_from_slice(this);
                    len += option_len;
                }
                rest = next;
            }
        }
    }
    let len = len.next_multiple_of(4);
    later[ipv4::VERSION_IHL] = 0x40 | (len / 4) as u8;
    Some((later, len))
}

impl Split<'_> {
    /// How many parts; at most [`PARTS_MAX`].
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Writes a part into `out`, Ethernet header first; how long it is. `None` if there is no such part, or no room for it.
    pub fn write(&self, part: usize, out: &mut [u8]) -> Option<usize> {
        if part >= self.parts {
            return None;
        }
        let [first, later] = self.steps;
        let begin = if part == 0 { 0 } else { first + (part - 1) * later };
        let step = if part == 0 { first } else { later };
        let data = self.data.get(begin..self.data.len().min(begin + step))?;
        let header = if part == 0 { self.header } else { &self.later[..self.later_len] };
        let (l4, len) = (L3 + header.len(), L3 + header.len() + data.len());
        out.get_mut(..L3)?.copy_from_slice(self.frame.get(..L3)?);
        out.get_mut(L3..l4)?.copy_from_slice(header);
        out.get_mut(l4..len)?.copy_from_slice(data);

        let header = out.get_mut(L3..l4)?;
        let fixed = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?;
        put16(fixed, ipv4::TOTAL_LEN, (len - L3) as u16);
        let word = be16(fixed, ipv4::FRAGMENT) + (begin / 8) as u16;
        let more = if part + 1 < self.parts { ipv4::MORE_FRAGMENTS } else { 0 };
        put16(fixed, ipv4::FRAGMENT, word | more);
        put16(fixed, ipv4::CHECKSUM, 0);
        let checksum = Sum::ZERO.bytes(header).checksum();
        put16(header.first_chunk_mut::<{ ipv4::HEADER_LEN }>()?, ipv4::CHECKSUM, checksum);
        Some(len)
    }
}
