//! SCTP packets (RFC 9260): chunks as bytes, and an association that is led from end to end.

use std::net::SocketAddr;

use crate::packet::{Body, Endpoint, Pkt, other};
use crate::wire::{crc32c, get16};

/// The protocol's number.
pub const SCTP: u8 = 132;

/// Types of chunks (RFC 9260 §3.2).
pub mod chunk_type {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const SACK: u8 = 3;
    pub const HEARTBEAT: u8 = 4;
    pub const HEARTBEAT_ACK: u8 = 5;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// A chunk with these flags and value, padded.
pub fn chunk_with(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, flags];
    bytes.extend((4 + value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A chunk of this type, as long as one of it usually is. INIT and INIT ACK have the initiate tag.
pub fn chunk(kind: u8, tag: u32) -> Vec<u8> {
    use chunk_type::{COOKIE_ECHO, DATA, HEARTBEAT, HEARTBEAT_ACK, INIT, INIT_ACK, SACK, SHUTDOWN};
    let value = match kind {
        INIT | INIT_ACK => {
            [&tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]].concat()
        }
        DATA => [&[0; 12][..], b"some data!"].concat(),
        SACK => vec![0; 12],
        HEARTBEAT | HEARTBEAT_ACK => vec![0, 1, 0, 8, 1, 2, 3, 4],
        COOKIE_ECHO => vec![0x55; 20],
        SHUTDOWN => vec![0, 0, 0, 1],
        _ => Vec::new(),
    };
    let flags = if kind == DATA { 3 } else { 0 };
    chunk_with(kind, flags, &value)
}

/// A packet of these chunks, its CRC32c right.
pub fn sctp(src: impl Endpoint, dst: impl Endpoint, tag: u32, chunks: &[Vec<u8>]) -> Pkt {
    let (src, dst) = (src.endpoint(), dst.endpoint());
    let mut bytes = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(chunks.concat());
    mend_crc(&mut bytes);
    other(src.ip(), dst.ip(), SCTP, &bytes).df()
}

/// Writes the CRC32c of an SCTP packet anew.
pub fn mend_crc(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let crc = crc32c(packet);
    packet[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// Writes a port into an SCTP packet. Its CRC32c is right after that if it was before.
pub fn set_port(packet: &mut [u8], port: u16, source: bool) {
    let crc = packet[8..12].to_vec();
    mend_crc(packet);
    let was_right = packet[8..12] == crc;
    let at = if source { 0 } else { 2 };
    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    if was_right {
        mend_crc(packet);
    } else {
        packet[8..12].copy_from_slice(&crc);
    }
}

/// The packet between other ends, its CRC32c made anew from all of it.
///
/// # Panics
/// If it is not SCTP.
pub fn between(pkt: &Pkt, src: SocketAddr, dst: SocketAddr) -> Pkt {
    let mut pkt = pkt.clone();
    (pkt.src, pkt.dst) = (src.ip(), dst.ip());
    let Body::Other { protocol: SCTP, payload } = &mut pkt.body else { panic!("{pkt:?}") };
    payload[..2].copy_from_slice(&src.port().to_be_bytes());
    payload[2..4].copy_from_slice(&dst.port().to_be_bytes());
    mend_crc(payload);
    pkt
}

/// The ends of an SCTP packet.
///
/// # Panics
/// If it is not SCTP.
pub fn ends(pkt: &Pkt) -> (SocketAddr, SocketAddr) {
    let Body::Other { protocol: SCTP, payload } = &pkt.body else { panic!("{pkt:?}") };
    ((pkt.src, get16(payload, 0)).into(), (pkt.dst, get16(payload, 2)).into())
}
