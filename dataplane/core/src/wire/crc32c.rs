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

    /// The checksum. SCTP sends its least significant byte first.
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
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
}
