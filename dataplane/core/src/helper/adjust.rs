//! Sequence adjustment: what it takes to keep a TCP connection whole in which a text became longer or shorter.
//!
//! Each direction remembers its last few [`Change`]s: where, in the sender's own numbers, how long the text
//! was, and what is written instead. That is enough to shift every sequence number by the lengths changed before
//! it, to shift acknowledgments (and SACK blocks, RFC 2018) of the other side back, and to write the same text into
//! a segment that comes again. What was said before a change is not shifted by it, however late it comes.
//!
//! Tracking goes by each sender's own numbers, as in nf_conntrack: an acknowledgment is brought back to them before
//! it is looked at, a sequence number is shifted when the packet leaves.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{TEXT_MAX, Text};
use crate::conntrack::window::sequence::{after, before};

/// Changes of one direction that are remembered. Older ones still count, but what they wrote is forgotten.
pub const CHANGES_MAX: usize = 4;

/// One text that was written over another.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Change {
    /// Where the old text begins: a sequence number as its sender counts.
    pub position: u32,
    /// Length of the old text, bytes.
    pub old_len: u16,
    /// Length of the new text, bytes.
    pub new_len: u16,
    text: [u8; TEXT_MAX],
}

impl Change {
    /// The new text.
    pub fn text(&self) -> &[u8] {
        self.text.get(..usize::from(self.new_len)).unwrap_or_default()
    }

    /// By how much it makes the stream longer, modulo 2^32.
    pub const fn growth(&self) -> u32 {
        (self.new_len as u32).wrapping_sub(self.old_len as u32)
    }

    /// Where the old text ends, as its sender counts.
    pub const fn end(&self) -> u32 {
        self.position.wrapping_add(self.old_len as u32)
    }
}

/// The changes of one direction.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Adjustment {
    /// In the order of their positions; the first `len` count.
    changes: [Change; CHANGES_MAX],
    /// By how much all that came before them made the stream longer, modulo 2^32.
    base: u32,
    len: u32,
}

impl Adjustment {
    /// Whether nothing was ever changed.
    pub const fn is_none(&self) -> bool {
        self.len == 0 && self.base == 0
    }

    /// The changes that are remembered, in order.
    pub fn changes(&self) -> &[Change] {
        self.changes.get(..self.len as usize).unwrap_or_default()
    }

    /// Whether another change may be remembered: the one that would be forgotten for it must have arrived, as `acked`
    /// says, the highest number acknowledged, as the sender counts.
    pub fn has_room(&self, acked: u32) -> bool {
        (self.len as usize) < CHANGES_MAX || !after(self.changes[0].end(), acked)
    }

    /// Remembers a change behind all others.
    pub fn push(&mut self, position: u32, old_len: u16, text: &Text) {
        if self.len as usize >= CHANGES_MAX {
            self.base = self.base.wrapping_add(self.changes[0].growth());
            self.changes.rotate_left(1);
            self.len = CHANGES_MAX as u32 - 1;
        }
        let mut change =
            Change { position, old_len, new_len: text.len() as u16, text: [0; TEXT_MAX] };
        for (to, from) in change.text.iter_mut().zip(text) {
            *to = *from;
        }
        self.changes[self.len as usize % CHANGES_MAX] = change;
        self.len += 1;
    }

    /// Remembers a change whose text can be found again: only its length is kept.
    pub fn push_length(&mut self, position: u32, old_len: u16, new_len: u16) {
        self.push(position, old_len, &Text::new());
        if let Some(change) = self.changes.get_mut((self.len as usize).wrapping_sub(1)) {
            change.new_len = new_len;
        }
    }

    /// A sequence number of the sender's as the receiver has to see it. One within an old text becomes the new
    /// text's begin.
    pub fn shifted(&self, seq: u32) -> u32 {
        let mut shift = self.base;
        for change in self.changes() {
            if before(seq, change.end()) {
                let within = after(seq, change.position);
                return if within { change.position } else { seq }.wrapping_add(shift);
            }
            shift = shift.wrapping_add(change.growth());
        }
        seq.wrapping_add(shift)
    }

    /// A number that the receiver acknowledges, as the sender counts. One within a new text acknowledges nothing of
    /// the old one.
    pub fn restored(&self, ack: u32) -> u32 {
        let mut number = ack.wrapping_sub(self.base);
        for change in self.changes() {
            if !after(number, change.position) {
                break;
            }
            if before(number, change.position.wrapping_add(u32::from(change.new_len))) {
                return change.position;
            }
            number = number.wrapping_sub(change.growth());
        }
        number
    }
}

/// Rewrites the edges of all SACK blocks (RFC 2018 §3) in a segment's options. Stops at what makes no sense.
pub fn each_sack_edge(options: &mut [u8], restore: impl Fn(u32) -> u32) {
    let mut rest = options;
    loop {
        match rest {
            [] | [0, ..] => return,
            [1, tail @ ..] => rest = tail,
            [kind, len, tail @ ..] => {
                let is_sack = *kind == 5;
                let Some(data_len) = usize::from(*len).checked_sub(2) else { return };
                let Some((data, tail)) = tail.split_at_mut_checked(data_len) else { return };
                if is_sack && data_len % 8 == 0 {
                    for edge in data.as_chunks_mut::<4>().0 {
                        *edge = restore(u32::from_be_bytes(*edge)).to_be_bytes();
                    }
                }
                rest = tail;
            }
            [_] => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;
    use zerocopy::FromZeros;

    use super::*;

    fn text(len: usize) -> Text {
        (0..len).map(|i| b'a' + (i % 26) as u8).collect()
    }

    /// C125
    #[test]
    fn what_was_said_before_a_change_is_not_shifted_and_what_comes_after_is_once() {
        let mut adjustment = Adjustment::new_zeroed();
        assert!(adjustment.is_none());
        adjustment.push(u32::MAX - 4, 15, &text(18)); // across the wrap
        for (seq, shifted) in
            [(u32::MAX - 20, u32::MAX - 20), (u32::MAX - 4, u32::MAX - 4), (10, 13), (100, 103)]
        {
            assert_eq!(adjustment.shifted(seq), shifted);
            assert_eq!(adjustment.restored(shifted), seq);
        }
        for within in [u32::MAX - 3, 0, 9, 12] {
            assert_eq!(adjustment.restored(within), u32::MAX - 4, "part of the new text");
        }
    }

    #[test]
    fn sack_edges_are_restored_wherever_they_stand() {
        let mut options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 5, 10, 0, 0, 0, 30, 0, 0, 0, 40, 0];
        each_sack_edge(&mut options, |edge| edge - 3);
        assert_eq!(options[12..], [5, 10, 0, 0, 0, 27, 0, 0, 0, 37, 0]);
    }

    proptest! {
        /// The new stream, built the long way, has each byte of the old one where `shifted` says.
        #[test]
        fn numbers_agree_with_the_streams(
            begin: u32,
            lengths in prop::collection::vec((1u32..40, 1u16..30, 0usize..TEXT_MAX), 0..CHANGES_MAX),
        ) {
            let mut adjustment = Adjustment::new_zeroed();
            let (mut old, mut new) = (begin, begin);
            let mut pairs = Vec::new(); // a byte's place in both streams
            let plain = |old: &mut u32, new: &mut u32, n: u32, pairs: &mut Vec<(u32, u32)>| {
                for _ in 0..n {
                    pairs.push((*old, *new));
                    *old = old.wrapping_add(1);
                    *new = new.wrapping_add(1);
                }
            };
            for (gap, old_len, new_len) in lengths {
                plain(&mut old, &mut new, gap, &mut pairs);
                pairs.push((old, new));
                adjustment.push(old, old_len, &text(new_len));
                old = old.wrapping_add(old_len.into());
                new = new.wrapping_add(new_len as u32);
            }
            plain(&mut old, &mut new, 20, &mut pairs);
            for (old, new) in pairs {
                prop_assert_eq!(adjustment.shifted(old), new);
            }
            prop_assert_eq!(adjustment.restored(new), old);
        }

        #[test]
        fn no_options_make_it_panic(mut options in prop::collection::vec(any::<u8>(), 0..40)) {
            each_sack_edge(&mut options, |edge| !edge);
        }
    }
}
