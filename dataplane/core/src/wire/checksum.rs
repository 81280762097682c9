//! The Internet checksum: the sum (RFC 1071) and its update (RFC 1624). Nothing protocol-specific but the
//! rule about UDP's zero.
//!
//! Sums are kept in the machine's byte order and swapped once, when folded: RFC 1071 §2 (B), "byte order
//! independence". Eight bytes are added at a time with the carry brought round, which is congruent modulo
//! 2^16 - 1 to adding 16-bit words.
//!
//! A *delta* is the one's complement difference that a change makes to the sum. Deltas add up
//! ([`combine`]), turn round by complement ([`reverse`]) and are applied by RFC 1624 eqn. 3, so a
//! checksum that was wrong before stays wrong by as much.

/// A one's complement sum under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

/// Adds with the carry brought round.
#[inline(always)]
const fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    // After a carry `sum` is at most 2^64 - 2.
    sum + carry as u64
}

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// With another sum added.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// With a 16-bit number in host order added.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, value: u16) -> Self {
        Self(add(self.0, value.to_be() as u64))
    }

    /// With four bytes added.
    #[inline(always)]
    #[must_use]
    pub const fn four(self, bytes: [u8; 4]) -> Self {
        Self(add(self.0, u32::from_ne_bytes(bytes) as u64))
    }

    /// With eight bytes added.
    #[inline(always)]
    #[must_use]
    pub const fn eight(self, bytes: [u8; 8]) -> Self {
        Self(add(self.0, u64::from_ne_bytes(bytes)))
    }

    /// With `bytes` added, which begin at an even offset of what is summed; an odd last byte counts as if a
    /// zero followed.
    #[inline(always)]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (mut sum, mut rest) = match bytes.len() {
            0..LONG => (self.0, bytes),
            _ => long(self.0, bytes),
        };
        // Less than 64 bytes: each power of two once, without a loop.
        if let Some((block, after)) = rest.split_first_chunk::<32>() {
            (sum, rest) = (words(sum, block), after);
        }
        if let Some((block, after)) = rest.split_first_chunk::<16>() {
            (sum, rest) = (words(sum, block), after);
        }
        if let Some((block, after)) = rest.split_first_chunk::<8>() {
            (sum, rest) = (words(sum, block), after);
        }
        if !rest.is_empty() {
            sum = add(sum, last_word(bytes, rest.len()));
        }
        Self(sum)
    }

    /// The 16-bit one's complement sum, host order. 0xffff for a sum that is right, checksum included.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let (sum, carry) = (self.0 as u32).overflowing_add((self.0 >> 32) as u32);
        let sum = sum + carry as u32;
        let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
        u16::from_be(sum + carry as u16)
    }

    /// The checksum to write: the sum's complement.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether what was summed, its checksum included, is right.
    #[inline(always)]
    pub const fn is_right(self) -> bool {
        self.fold() == 0xffff
    }
}

/// Adds a block of a constant number of words.
#[inline(always)]
fn words<const N: usize>(sum: u64, block: &[u8; N]) -> u64 {
    block.as_chunks::<8>().0.iter().fold(sum, |sum, word| add(sum, u64::from_ne_bytes(*word)))
}

/// From how many bytes on four sums side by side pay.
const LONG: usize = 64;

/// Adds all whole blocks of 32 bytes in four sums side by side, so that the carries of one do not wait for
/// another's. Returns what is left.
#[inline(never)]
fn long(sum: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [sum, 0, 0, 0];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = add(*lane, u64::from_ne_bytes(*word));
        }
    }
    (add(add(lanes[0], lanes[1]), add(lanes[2], lanes[3])), rest)
}

/// The `len` bytes at the end of `bytes`, one to seven, as a word with zeros behind: the last eight bytes,
/// those before shifted out.
#[inline(always)]
fn last_word(bytes: &[u8], len: usize) -> u64 {
    match bytes.last_chunk::<8>() {
        Some(last) => (u64::from_le_bytes(*last) >> ((8 * (8 - len)) & 63)).to_le(),
        None => {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            u64::from_ne_bytes(word)
        }
    }
}

/// The delta of one 16-bit word: `~m + m'`.
#[inline(always)]
pub const fn delta16(old: u16, new: u16) -> u16 {
    combine(!old, new)
}

/// The delta of changing `old` into `new`, big-endian words of one length; a byte missing to a word counts
/// as zero. No change at all is 0.
pub fn delta(old: &[u8], new: &[u8]) -> u16 {
    debug_assert!(old.len() == new.len());
    if old == new {
        return 0;
    }
    combine(!Sum::ZERO.bytes(old).fold(), Sum::ZERO.bytes(new).fold())
}

/// The delta of both changes.
#[inline(always)]
pub const fn combine(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    // After a carry `sum` is at most 0xfffe.
    sum + carry as u16
}

/// The delta of the change undone.
#[inline(always)]
pub const fn reverse(delta: u16) -> u16 {
    if delta == 0 { 0 } else { !delta }
}

/// A checksum after the change: RFC 1624 eqn. 3, `HC' = ~(~HC + ~m + m')`.
#[inline(always)]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    // Which is HC - delta, borrowing from the other end.
    let (difference, borrow) = checksum.overflowing_sub(delta);
    difference.wrapping_sub(borrow as u16)
}

/// A UDP checksum after the change (RFC 768): zero means that there is none and stays; a computed zero is
/// sent as all ones.
#[inline(always)]
pub const fn apply_udp(checksum: u16, delta: u16) -> u16 {
    if checksum == 0 { 0 } else { udp(apply(checksum, delta)) }
}

/// A computed UDP checksum as it is sent: zero as all ones (RFC 768).
#[inline(always)]
pub const fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The long way: 16-bit words, one by one.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn sums_the_example_of_rfc_1071() {
        // RFC 1071 §3: 00 01 f2 03 f4 f5 f6 f7 sums to ddf2, carries brought round.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&bytes).fold(), 0xddf2);
        assert_eq!(Sum::ZERO.bytes(&bytes).checksum(), 0x220d);
    }

    #[test]
    fn updates_the_example_of_rfc_1624() {
        // RFC 1624 §4: HC = dd2f, m = 5555, m' = 3285; eqn. 2 would give ffff, eqn. 3 gives 0000.
        assert_eq!(apply(0xdd2f, delta16(0x5555, 0x3285)), 0x0000);
        assert_eq!(apply_udp(0xdd2f, delta16(0x5555, 0x3285)), 0xffff);
    }

    #[test]
    fn no_change_changes_no_checksum_not_even_a_zero() {
        let none = delta(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        assert_eq!(none, 0);
        for checksum in [0, 1, 0x1234, 0xfffe, 0xffff] {
            assert_eq!(apply(checksum, none), checksum);
            assert_eq!(apply(checksum, reverse(none)), checksum);
            assert_eq!(apply_udp(checksum, none), checksum);
        }
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_long_way(bytes: Vec<u8>, repeat in 1usize..40) {
            for end in 0..bytes.len().min(70) {
                prop_assert_eq!(Sum::ZERO.bytes(&bytes[..end]).fold(), slow(&bytes[..end]));
            }
            let mut long = bytes.repeat(repeat);
            prop_assert_eq!(Sum::ZERO.bytes(&long).fold(), slow(&long));
            long.fill(0xff);
            prop_assert_eq!(Sum::ZERO.bytes(&long).fold(), slow(&long));
        }

        #[test]
        fn pieces_sum_to_the_whole(a: [u8; 8], b: [u8; 4], c: u16, d: Vec<u8>) {
            let whole = [&a[..], &b, &c.to_be_bytes(), &d].concat();
            let pieces = Sum::ZERO.eight(a).four(b).word(c).plus(Sum::ZERO.bytes(&d));
            prop_assert_eq!(pieces.fold(), slow(&whole));
        }

        #[test]
        fn update_agrees_with_summing_anew(mut bytes in prop::collection::vec(any::<u8>(), 8..64),
                                           new: [u8; 8], at in 0usize..4) {
            bytes[0] |= 1; // a sum of nothing but zeros has two checksums
            let at = (at * 2).min((bytes.len() - 8) & !1) + if bytes.len() >= 10 { 2 } else { 0 };
            let at = at.min((bytes.len() - 8) & !1);
            prop_assume!(at >= 2 || new.iter().any(|b| *b != 0));
            let before = Sum::ZERO.bytes(&bytes).checksum();
            let change = delta(&bytes[at..at + 8], &new);
            let old: Vec<u8> = bytes[at..at + 8].to_vec();
            bytes[at..at + 8].copy_from_slice(&new);
            let after = Sum::ZERO.bytes(&bytes).checksum();
            prop_assert_eq!(apply(before, change), after);
            prop_assert_eq!(apply(after, reverse(change)), before);
            prop_assert_eq!(apply(after, delta(&new, &old)), before);
        }
    }
}
