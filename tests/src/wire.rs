//! Checksums and byte order, the long way: the tests' own arithmetic, never the core's.

use std::net::IpAddr;

/// The Internet checksum of `bytes` (RFC 1071), word by word, carries folded at the end.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a transport packet with its pseudo header (RFC 768, RFC 9293 §3.1, RFC 8200 §8.1).
pub fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(transport.len() + 40);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend([0, protocol]);
            bytes.extend((transport.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend((transport.len() as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
        }
        _ => panic!("a packet from {src} to {dst}"),
    }
    bytes.extend(transport);
    checksum(&bytes)
}

/// The Castagnoli CRC (RFC 9260 appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, byte)
}

/// A checksum after a word that it covers became another (RFC 1624 equation 3).
pub fn adjusted(sum: u16, old: u16, new: u16) -> u16 {
    let total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    let folded = (total & 0xffff) + (total >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Two bytes, network order.
pub fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Four bytes, network order.
pub fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) << 16 | u32::from(get16(bytes, at + 2))
}

/// Writes two bytes, network order.
pub fn set16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Makes the IPv4 header checksum right again after the header was tampered with. The header length is
/// believed if it is possible, and taken for 20 otherwise.
pub fn mend_ip_checksum(l3: &mut [u8]) {
    let len = (usize::from(l3[0] & 15) * 4).clamp(20, l3.len());
    set16(l3, 10, 0);
    let sum = checksum(&l3[..len]);
    set16(l3, 10, sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §3 gives the sum of these bytes: ddf2.
    #[test]
    fn the_checksum_is_that_of_the_rfcs_example() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    /// RFC 3720 §B.4: 32 bytes of zeros, and of ones.
    #[test]
    fn the_crc_is_that_of_the_rfcs_examples() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }
}
