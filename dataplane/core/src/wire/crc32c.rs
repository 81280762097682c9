//! CRC32c (Castagnoli), the checksum of SCTP (RFC 9260 appendix A).

/// The polynomial 0x1edc6f41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A CRC32c being computed over pieces.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of nothing yet.
    pub const START: Self = Self(u32::MAX);

    /// With `bytes` appended.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        Self(
            bytes
                .iter()
                .fold(self.0, |crc, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]),
        )
    }

    /// What the checksum of a message of `len` bytes changes by where its first four bytes change by `difference` (exclusive
    /// or): CRCs are linear, so nothing else of the message matters but how much follows.
    pub fn change(difference: [u8; 4], len: u16) -> u32 {
        let Self(start) = Self(0).update(&difference);
        multiply(power(u32::from(len).saturating_sub(4)), start)
    }

    /// The checksum. SCTP sends its least significant byte first.
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

/// The product of two polynomials modulo the CRC's, bits reversed: the highest bit is x^0.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 1 << 31);
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

/// x^(8n): what a CRC is multiplied by where `n` bytes of zero follow.
const fn power(mut n: u32) -> u32 {
    let (mut power, mut square) = (1 << 31, 1 << 23);
    while n != 0 {
        if n & 1 != 0 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        n >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn matches_the_published_check_value_and_rfc_3720_vectors() {
        let crc = |bytes: &[u8]| Crc32c::START.update(bytes).finish();
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        // RFC 3720 appendix B.4.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(Crc32c::START.update(b"1234").update(b"56789").finish(), 0xe306_9283);
    }

    #[test]
    fn a_change_of_the_first_four_bytes_changes_it_as_if_all_were_read_again() {
        for len in [4, 5, 12, 40, 1499, 1500, 65_515] {
            let mut message: Vec<u8> = (0..len as u32).map(|i| (i * 7) as u8).collect();
            let crc = |bytes: &[u8]| Crc32c::START.update(bytes).finish();
            let before = crc(&message);
            let difference = [0x13, 0x88, 0xff, 0x01];
            for (byte, change) in message.iter_mut().zip(difference) {
                *byte ^= change;
            }
            assert_eq!(crc(&message), before ^ Crc32c::change(difference, len), "{len}");
        }
    }
}
