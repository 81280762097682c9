//! SipHash-1-3 over whole 64-bit words: the keyed hash of tuples (Aumasson and Bernstein, 2012).
//!
//! Keyed, because addresses and ports are the attacker's to choose; with one compression round and
//! three at the end, because a tuple is hashed for every packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arch;

/// The 128-bit key: random per boot unless one is given.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct SipKey(pub [u64; 2]);

impl SipKey {
    /// Hash of `words`, as SipHash-1-3 of their little-endian bytes.
    #[inline(always)] // the number of words is known where it is called
    pub fn hash_words(&self, words: &[u64]) -> u64 {
        let mut state = Lanes::new(self);
        for &word in words {
            state.absorb(word);
        }
        // The last block is the input's length in its top byte; no bytes are left over.
        state.absorb((words.len() as u64 * 8) << 56);
        state.finish()
    }

    /// Hash of `bytes`, as SipHash-1-3 has it.
    pub fn hash_bytes(&self, bytes: &[u8]) -> u64 {
        let mut state = Lanes::new(self);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        // The last block is the input's length in its top byte, above what was left over.
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state.absorb(u64::from_le_bytes(last) | (bytes.len() as u64) << 56);
        state.finish()
    }

    /// Hashes of the first `count` pairs, several at a time; what follows them is of no meaning.
    #[inline]
    pub fn hash_pairs(&self, pairs: &Pairs, count: usize) -> [u64; ABREAST] {
        let mut hashes = [0; ABREAST];
        // A length that is not constant: else the loop is unrolled instead of put into vectors.
        let count = count.next_multiple_of(4).min(ABREAST);
        let (first, second, out) =
            (&pairs.first[..count], &pairs.second[..count], &mut hashes[..count]);
        arch::with_vectors(
            #[inline(always)]
            || {
                for ((&first, &second), hash) in first.iter().zip(second).zip(out) {
                    *hash = self.hash_words(&[first, second]);
                }
            },
        );
        hashes
    }
}

/// How many pairs are hashed at a time.
pub const ABREAST: usize = 8;

/// Pairs of words to be hashed together, the first ones apart from the second ones: so they fill vectors.
#[derive(Debug, Default)]
pub struct Pairs {
    /// The first word of each pair.
    pub first: [u64; ABREAST],
    /// The second word of each pair.
    pub second: [u64; ABREAST],
}

struct Lanes([u64; 4]);

impl Lanes {
    #[inline(always)]
    fn new(key: &SipKey) -> Self {
        // "somepseudorandomlygeneratedbytes", the four constants of the paper.
        Self([
            key.0[0] ^ 0x736f_6d65_7073_6575,
            key.0[1] ^ 0x646f_7261_6e64_6f6d,
            key.0[0] ^ 0x6c79_6765_6e65_7261,
            key.0[1] ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *c = c.wrapping_add(*d);
        *b = b.rotate_left(13) ^ *a;
        *d = d.rotate_left(16) ^ *c;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*b);
        *a = a.wrapping_add(*d);
        *b = b.rotate_left(17) ^ *c;
        *d = d.rotate_left(21) ^ *a;
        *c = c.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_another_implementation(
            key in any::<[u64; 2]>(),
            words in proptest::collection::vec(any::<u64>(), 0..6),
        ) {
            let mut other = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
            for word in &words {
                other.write(&word.to_le_bytes());
            }
            prop_assert_eq!(SipKey(key).hash_words(&words), other.finish());
        }

        #[test]
        fn bytes_hash_as_elsewhere(key in any::<[u64; 2]>(), bytes: std::vec::Vec<u8>) {
            let mut other = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
            other.write(&bytes);
            prop_assert_eq!(SipKey(key).hash_bytes(&bytes), other.finish());
        }

        #[test]
        fn pairs_hash_as_they_do_alone(
            key in any::<[u64; 2]>(),
            first in any::<[u64; ABREAST]>(),
            second in any::<[u64; ABREAST]>(),
            count in 0..=ABREAST,
        ) {
            let hashes = SipKey(key).hash_pairs(&Pairs { first, second }, count);
            for i in 0..count {
                prop_assert_eq!(hashes[i], SipKey(key).hash_words(&[first[i], second[i]]));
            }
        }
    }
}
