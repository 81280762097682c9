//! Flows by number, and the frames of a flow. A flow is arithmetic on its number: no memory is touched to
//! make one, so that what is measured is the firewall's memory and not the generator's.

use std::net::IpAddr;

use crate::world::{LAN_MAC, PEER_MAC, WAN_MAC};

/// A 64-byte Ethernet frame without its FCS.
pub const FRAME_LEN: usize = 60;
/// An IPv6 frame needs two more for its headers.
pub const FRAME_LEN_V6: usize = 62;
/// As much payload as a 64-byte frame with IPv4 and TCP headers has room for.
pub const PAYLOAD_MAX: u8 = 6;
/// Bytes kept free before a frame.
pub const HEADROOM: usize = 128;
/// Bytes of the room around a frame.
pub const ROOM: usize = 512;

/// TCP numbers of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of payload, all zero: at most [`PAYLOAD_MAX`].
    pub payload: u8,
}

/// What transport a frame carries.
#[derive(Clone, Copy, Debug)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp(Segment),
}

/// The endpoints of flow `number`: source address (low 32 bits), source port, destination address, port.
pub fn endpoints(number: u32) -> (u32, u16, u32, u16) {
    // A bijection on 32 bits, so that neighbours in number are not neighbours in address.
    let mixed = number.wrapping_mul(0x9e37_79b1).rotate_left(11) ^ 0x5bd1_e995;
    let host = mixed & 0x00ff_ffff;
    let port = 1024 + (number % 64_000) as u16;
    let server = number / 64_000;
    (0x0a00_0000 | host, port, 0xc612_0000 + server, 443)
}

/// Source and destination address of flow `number`, as its frames carry them.
pub fn addresses(number: u32, v6: bool) -> (IpAddr, IpAddr) {
    let mut frame = [0; ROOM];
    outbound(&mut frame, number, v6, Transport::Udp);
    let v4 = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes").into();
    let wide = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes").into();
    if v6 { (wide(22), wide(38)) } else { (v4(26), v4(30)) }
}

/// Writes the original-direction frame of flow `number` into `frame`. Returns its length.
pub fn outbound(frame: &mut [u8], number: u32, v6: bool, transport: Transport) -> usize {
    let (src, src_port, dst, dst_port) = endpoints(number);
    frame[..6].copy_from_slice(&LAN_MAC.0);
    frame[6..12].copy_from_slice(&PEER_MAC.0);
    if v6 {
        ipv6(frame, (0xfd00, src), (0x2001_0db8, dst), transport, (src_port, dst_port))
    } else {
        ipv4(frame, src, dst, transport, (src_port, dst_port))
    }
}

/// Writes the reply-direction frame of flow `number` into `frame`, addressed to where its packets seem to come
/// from: `outside` is the address and port they were translated to. Returns its length.
pub fn inbound(
    frame: &mut [u8],
    number: u32,
    v6: bool,
    outside: Option<(u32, u16)>,
    transport: Transport,
) -> usize {
    let (src, src_port, dst, dst_port) = endpoints(number);
    let (to, to_port) = outside.unwrap_or((src, src_port));
    frame[..6].copy_from_slice(&WAN_MAC.0);
    frame[6..12].copy_from_slice(&PEER_MAC.0);
    if v6 {
        ipv6(frame, (0x2001_0db8, dst), (0xfd00, to), transport, (dst_port, to_port))
    } else {
        ipv4(frame, dst, to, transport, (dst_port, to_port))
    }
}

/// The source port of a frame of ours.
pub fn source_port(frame: &[u8], v6: bool) -> u16 {
    let at = if v6 { 54 } else { 34 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Turns a frame that left by the WAN into the answer to it: addresses and ports exchanged.
pub fn answer(frame: &mut [u8], len: usize, v6: bool, transport: Transport) {
    frame[..6].copy_from_slice(&WAN_MAC.0);
    frame[6..12].copy_from_slice(&PEER_MAC.0);
    let l4 = if v6 { 54 } else { 34 };
    let port = |at: usize, frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let ports = (port(l4 + 2, frame), port(l4, frame));
    let word = |at: usize, frame: &[u8]| {
        u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"))
    };
    if v6 {
        let (src, dst) = ((word(22, frame), word(34, frame)), (word(38, frame), word(50, frame)));
        ipv6(frame, (dst.0, dst.1), (src.0, src.1), transport, ports);
    } else {
        let (src, dst) = (word(26, frame), word(30, frame));
        ipv4(frame, dst, src, transport, ports);
    }
    debug_assert!(len >= FRAME_LEN);
}

fn ipv4(frame: &mut [u8], src: u32, dst: u32, transport: Transport, ports: (u16, u16)) -> usize {
    let total = match transport {
        Transport::Udp => (FRAME_LEN - 14) as u16,
        // The rest of the frame is padding.
        Transport::Tcp(Segment { payload, .. }) => 40 + u16::from(payload),
    };
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..34];
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[9] = protocol(transport);
    ip[12..16].copy_from_slice(&src.to_be_bytes());
    ip[16..20].copy_from_slice(&dst.to_be_bytes());
    let sum = fold(sum(ip));
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    let pseudo = sum_of(src) + sum_of(dst) + u32::from(protocol(transport)) + u32::from(total - 20);
    l4(&mut frame[34..14 + usize::from(total)], transport, ports, pseudo);
    frame[14 + usize::from(total)..FRAME_LEN].fill(0);
    FRAME_LEN
}

fn ipv6(
    frame: &mut [u8],
    src: (u32, u32),
    dst: (u32, u32),
    transport: Transport,
    ports: (u16, u16),
) -> usize {
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let len = match transport {
        Transport::Udp => 8,
        Transport::Tcp(Segment { payload, .. }) => 20 + u16::from(payload),
    };
    let ip = &mut frame[14..54];
    ip.fill(0);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip[6] = protocol(transport);
    ip[7] = 64;
    let high = |word: u32| if word < 0x1_0000 { word << 16 } else { word };
    ip[8..12].copy_from_slice(&high(src.0).to_be_bytes());
    ip[20..24].copy_from_slice(&src.1.to_be_bytes());
    ip[24..28].copy_from_slice(&high(dst.0).to_be_bytes());
    ip[36..40].copy_from_slice(&dst.1.to_be_bytes());
    let pseudo = sum(&ip[8..40]) + u32::from(protocol(transport)) + u32::from(len);
    l4(&mut frame[54..54 + usize::from(len)], transport, ports, pseudo);
    (54 + usize::from(len)).max(FRAME_LEN_V6)
}

fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 17,
        Transport::Tcp(_) => 6,
    }
}

fn l4(bytes: &mut [u8], transport: Transport, ports: (u16, u16), pseudo: u32) {
    bytes.fill(0);
    bytes[..2].copy_from_slice(&ports.0.to_be_bytes());
    bytes[2..4].copy_from_slice(&ports.1.to_be_bytes());
    let checksum = match transport {
        Transport::Udp => {
            let len = bytes.len() as u16;
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            6
        }
        Transport::Tcp(Segment { seq, ack, flags, .. }) => {
            bytes[4..8].copy_from_slice(&seq.to_be_bytes());
            bytes[8..12].copy_from_slice(&ack.to_be_bytes());
            bytes[12] = 0x50;
            bytes[13] = flags;
            bytes[14..16].copy_from_slice(&0xffffu16.to_be_bytes());
            16
        }
    };
    let sum = fold(pseudo + sum(bytes));
    let value = if sum == 0xffff { 0xffff } else { !sum };
    bytes[checksum..checksum + 2].copy_from_slice(&value.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum()
}

fn sum_of(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Transport = Transport::Tcp(Segment { seq: 7, ack: 9, flags: 0x10, payload: 3 });

    #[test]
    fn the_inbound_frame_is_the_answer_to_the_outbound_one() {
        for (v6, transport) in [(false, Transport::Udp), (false, DATA), (true, Transport::Udp)] {
            let mut answered = [0; ROOM];
            let len = outbound(&mut answered, 64_001, v6, transport);
            answer(&mut answered, len, v6, transport);
            let mut direct = [0; ROOM];
            assert_eq!(inbound(&mut direct, 64_001, v6, None, transport), len);
            assert_eq!(answered, direct);
        }
    }

    #[test]
    fn what_is_translated_is_answered_to_the_translated_address() {
        let mut frame = [0; ROOM];
        inbound(&mut frame, 5, false, Some((0xcb00_7102, 4000)), Transport::Udp);
        assert_eq!(frame[30..34], [203, 0, 113, 2]);
        assert_eq!(frame[36..38], 4000u16.to_be_bytes());
        assert_eq!(source_port(&frame, false), 443);
    }

    #[test]
    fn no_two_of_a_million_flows_are_alike() {
        let mut all: Vec<_> = (0..1_000_000).map(endpoints).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[0] != two[1]));
    }
}
