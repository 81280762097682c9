//! Writing into a segment or a datagram: a segment's numbers, and another text over a part of the payload. Checksums are brought up
//! to date by what changed (RFC 1624), so one that arrived wrong leaves wrong.
//!
//! These functions trust [`Headers`] from parsing the same packet, and keep them true.

use crate::burst::Packet;
use crate::headers::{Headers, Kind};
use crate::wire::checksum::{Sum, apply, apply_udp, combine, delta, delta16};
use crate::wire::{array_mut, be16, ipv4, ipv6, put, put16, tcp, udp};

use super::adjust::each_sack_edge;

/// Writes the sequence number.
pub fn set_seq(packet: &mut Packet<'_>, headers: &mut Headers, seq: u32) {
    if seq != headers.tcp.seq {
        set_number(packet, headers, tcp::SEQ, [headers.tcp.seq, seq]);
        headers.tcp.seq = seq;
    }
}

/// Writes the acknowledgment number.
pub fn set_ack(packet: &mut Packet<'_>, headers: &mut Headers, ack: u32) {
    if ack != headers.tcp.ack {
        set_number(packet, headers, tcp::ACK, [headers.tcp.ack, ack]);
        headers.tcp.ack = ack;
    }
}

/// Writes a number into the TCP header.
fn set_number(packet: &mut Packet<'_>, headers: &Headers, at: usize, [old, new]: [u32; 2]) {
    let l4 = usize::from(headers.l4);
    let Some(header) = array_mut::<{ tcp::HEADER_LEN }>(packet.bytes_mut(), l4) else { return };
    let change = delta(&old.to_be_bytes(), &new.to_be_bytes());
    let sum = be16(header, tcp::CHECKSUM);
    put16(header, tcp::CHECKSUM, apply(sum, change));
    if at == tcp::SEQ {
        put(header, tcp::SEQ, new.to_be_bytes());
    } else {
        put(header, tcp::ACK, new.to_be_bytes());
    }
}

/// Rewrites the edges of all SACK blocks.
pub fn restore_sack(packet: &mut Packet<'_>, headers: &Headers, restore: impl Fn(u32) -> u32) {
    /// Longest options of a TCP header (RFC 9293 §3.1), bytes.
    const OPTIONS_MAX: usize = 40;
    let l4 = usize::from(headers.l4);
    let len = usize::from(headers.tcp.header_len).saturating_sub(tcp::HEADER_LEN);
    let bytes = packet.bytes_mut();
    let Some(options) = bytes.get_mut(l4 + tcp::HEADER_LEN..l4 + tcp::HEADER_LEN + len) else {
        return;
    };
    let mut before = [0; OPTIONS_MAX];
    let Some(before) = before.get_mut(..len) else { return };
    before.copy_from_slice(options);
    each_sack_edge(options, restore);
    let change = delta(before, options);
    let Some(header) = array_mut::<{ tcp::HEADER_LEN }>(bytes, l4) else { return };
    let sum = be16(header, tcp::CHECKSUM);
    put16(header, tcp::CHECKSUM, apply(sum, change));
}

/// Where the payload begins, and where it ends.
pub fn payload(headers: &Headers) -> core::ops::Range<usize> {
    let header_len = match headers.kind {
        Kind::Tcp => usize::from(headers.tcp.header_len),
        _ => udp::HEADER_LEN,
    };
    usize::from(headers.l4) + header_len..usize::from(headers.l3) + usize::from(headers.ip_len)
}

/// Whether a packet may grow by so many bytes within its frame.
pub fn has_room(packet: &Packet<'_>, headers: &Headers, growth: usize) -> bool {
    let end = usize::from(headers.l3) + usize::from(headers.ip_len) + growth;
    packet.start + end <= packet.room.len() && usize::from(headers.ip_len) + growth <= 0xffff
}

/// Writes `text` over `old_len` bytes of the payload of a TCP segment or UDP datagram, `at` counting from its begin. `false`, and nothing was
/// changed, if there is no room.
pub fn replace(
    packet: &mut Packet<'_>,
    headers: &mut Headers,
    at: usize,
    old_len: usize,
    text: &[u8],
) -> bool {
    if !has_room(packet, headers, text.len().saturating_sub(old_len)) {
        return false;
    }
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let end = l3 + usize::from(headers.ip_len);
    let begin = payload(headers).start + at;
    let Some(rest) = begin.checked_add(old_len).filter(|&rest| rest <= end) else { return false };
    let Some(new_ip_len) = (usize::from(headers.ip_len) + text.len()).checked_sub(old_len) else {
        return false;
    };
    let new_end = l3 + new_ip_len;
    let frame = &mut packet.room[packet.start..];

    // From a whole word on.
    let from = begin - (begin - l4) % 2;
    let before = Sum::ZERO.bytes(&frame[from..end]).fold();
    frame.copy_within(rest..end, begin + text.len());
    frame[begin..begin + text.len()].copy_from_slice(text);
    let after = Sum::ZERO.bytes(&frame[from..new_end]).fold();
    // The pseudo header has the segment's length too (RFC 9293 §3.1).
    let lengths = delta16((end - l4) as u16, (new_end - l4) as u16);
    let change = combine(combine(!before, after), lengths);
    if headers.kind == Kind::Tcp {
        if let Some(header) = array_mut::<{ tcp::HEADER_LEN }>(frame, l4) {
            let sum = be16(header, tcp::CHECKSUM);
            put16(header, tcp::CHECKSUM, apply(sum, change));
        }
    } else if let Some(header) = array_mut::<{ udp::HEADER_LEN }>(frame, l4) {
        // And UDP's header once more.
        let change = combine(change, lengths);
        let sum = be16(header, udp::CHECKSUM);
        put16(header, udp::CHECKSUM, apply_udp(sum, change));
        put16(header, udp::LENGTH, (new_end - l4) as u16);
    }

    let total = new_ip_len as u16;
    if headers.is_v4() {
        if let Some(header) = array_mut::<{ ipv4::HEADER_LEN }>(frame, l3) {
            let change = delta16(be16(header, ipv4::TOTAL_LEN), total);
            let sum = be16(header, ipv4::CHECKSUM);
            put16(header, ipv4::CHECKSUM, apply(sum, change));
            put16(header, ipv4::TOTAL_LEN, total);
        }
    } else if let Some(header) = array_mut::<{ ipv6::HEADER_LEN }>(frame, l3) {
        put16(header, ipv6::PAYLOAD_LEN, total.saturating_sub(ipv6::HEADER_LEN as u16));
    }
    // What Ethernet padded it with is not part of it any more.
    packet.len = new_end;
    headers.ip_len = new_ip_len as u16;
    if headers.kind == Kind::Tcp {
        headers.tcp.payload_len = (new_end - l4) as u16 - u16::from(headers.tcp.header_len);
    }
    true
}
