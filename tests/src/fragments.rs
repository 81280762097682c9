//! Datagrams cut and put together again, by code of the tests' own: never the core's.

use crate::draw::Draw;
use crate::packet::MORE_FRAGMENTS;
use crate::wire::{get16, mend_ip_checksum, set16};

/// Cuts an IP packet at these offsets of its payload, multiples of eight, ascending. IPv6 fragments get identification `id`;
/// extension headers are cut with the rest.
pub fn cut(l3: &[u8], id: u32, at: &[usize]) -> Vec<Vec<u8>> {
    let payload_at = payload_at(l3);
    let payload = &l3[payload_at..];
    let mut fragments = Vec::new();
    let mut begin = 0;
    for &end in at.iter().chain([&payload.len()]) {
        let more = end < payload.len();
        fragments.push(fragment(l3, id, begin, &payload[begin..end], more));
        begin = end;
    }
    fragments
}

/// Cuts an IP packet into fragments of at most `mtu` bytes, as its sender would.
pub fn cut_to(l3: &[u8], id: u32, mtu: usize) -> Vec<Vec<u8>> {
    let head = if l3[0] >> 4 == 4 { payload_at(l3) } else { 48 };
    let step = (mtu - head) / 8 * 8;
    let len = l3.len() - payload_at(l3);
    let at: Vec<_> = (1..len.div_ceil(step)).map(|i| i * step).collect();
    cut(l3, id, &at)
}

/// Cuts an IP packet anywhere, into `fragments` at most, the first of at least `first` bytes.
pub fn cut_anywhere(
    l3: &[u8],
    id: u32,
    fragments: usize,
    first: usize,
    draw: &mut Draw,
) -> Vec<Vec<u8>> {
    let eights = (l3.len() - payload_at(l3) - 1) / 8;
    let least = first.div_ceil(8);
    let mut at: Vec<_> =
        (1..fragments).map(|_| (least + draw.below(eights + 1 - least)) * 8).collect();
    at.sort_unstable();
    at.dedup();
    cut(l3, id, &at)
}

/// One fragment of an IP packet: `data` at `offset` of its payload.
pub fn fragment(l3: &[u8], id: u32, offset: usize, data: &[u8], more: bool) -> Vec<u8> {
    let mut bytes = l3[..payload_at(l3)].to_vec();
    let word = (offset / 8) as u16;
    if l3[0] >> 4 == 4 {
        bytes.extend(data);
        let len = bytes.len() as u16;
        set16(&mut bytes, 2, len);
        let flags = get16(l3, 6) & !MORE_FRAGMENTS & !0x1fff;
        set16(&mut bytes, 6, flags | word | if more { MORE_FRAGMENTS } else { 0 });
        mend_ip_checksum(&mut bytes);
    } else {
        let next = std::mem::replace(&mut bytes[6], 44);
        bytes.extend([next, 0]);
        bytes.extend((word << 3 | u16::from(more)).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(data);
        let len = bytes.len() as u16 - 40;
        set16(&mut bytes, 4, len);
    }
    bytes
}

/// Whether an IP packet is a fragment.
pub fn is_fragment(l3: &[u8]) -> bool {
    match l3.first().map(|byte| byte >> 4) {
        Some(4) => l3.len() >= 20 && get16(l3, 6) & !0xc000 != 0,
        _ => l3.len() >= 48 && l3[6] == 44,
    }
}

/// The low half of a fragment's identification.
pub fn identification(l3: &[u8]) -> u16 {
    get16(l3, if l3[0] >> 4 == 4 { 4 } else { 46 })
}

/// Writes the low half of a fragment's identification.
pub fn renumber(l3: &mut [u8], id: u16) {
    if l3[0] >> 4 == 4 {
        set16(l3, 4, id);
        mend_ip_checksum(l3);
    } else {
        set16(l3, 46, id);
    }
}

/// Puts the fragments of one datagram together, in any order. All headers must be as the first one's, nothing may
/// overlap, nothing be missing.
pub fn reassemble(fragments: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    let mut parts = Vec::new();
    let mut headers = Vec::new();
    for bytes in fragments {
        let (header, part) = open(bytes)?;
        headers.push(header);
        parts.push(part);
    }
    parts.sort();
    headers.dedup();
    let [(header, _)] = &headers[..] else {
        return Err(format!("not one datagram: {headers:02x?}"));
    };
    let mut payload = Vec::new();
    for (index, (offset, more, data)) in parts.iter().enumerate() {
        if *offset != payload.len() || *more != (index + 1 < parts.len()) {
            return Err(format!("at {} comes {offset}, more: {more}", payload.len()));
        }
        payload.extend(data);
    }
    let mut whole = [&header[..], &payload].concat();
    if whole[0] >> 4 == 4 {
        let len = whole.len() as u16;
        set16(&mut whole, 2, len);
        mend_ip_checksum(&mut whole);
    } else {
        set16(&mut whole, 4, payload.len() as u16);
    }
    Ok(whole)
}

/// A fragment's header, as the whole datagram would have it but for its length, with its identification.
type Header = (Vec<u8>, u32);

/// Where it belongs, whether more follow, what it brings.
type Part = (usize, bool, Vec<u8>);

fn open(bytes: &[u8]) -> Result<(Header, Part), String> {
    let mut header = bytes[..payload_at(bytes)].to_vec();
    if bytes[0] >> 4 == 4 {
        if usize::from(get16(bytes, 2)) != bytes.len() {
            return Err("a wrong length".into());
        }
        let mut mended = bytes.to_vec();
        mend_ip_checksum(&mut mended);
        if mended != bytes {
            return Err("a wrong header checksum".into());
        }
        let word = get16(bytes, 6);
        set16(&mut header, 6, word & 0xc000);
        set16(&mut header, 2, 0);
        set16(&mut header, 10, 0);
        let data = bytes[header.len()..].to_vec();
        let (id, more) = (get16(bytes, 4), word & MORE_FRAGMENTS != 0);
        return Ok(((header, id.into()), (usize::from(word & 0x1fff) * 8, more, data)));
    }
    if bytes[6] != 44 || usize::from(get16(bytes, 4)) != bytes.len() - 40 {
        return Err(format!("no fragment, or a wrong length: {bytes:02x?}"));
    }
    header[6] = bytes[40];
    set16(&mut header, 4, 0);
    let word = get16(bytes, 42);
    let id = u32::from(get16(bytes, 44)) << 16 | u32::from(get16(bytes, 46));
    Ok(((header, id), (usize::from(word & !7), word & 1 != 0, bytes[48..].to_vec())))
}

fn payload_at(l3: &[u8]) -> usize {
    if l3[0] >> 4 == 4 { usize::from(l3[0] & 15) * 4 } else { 40 }
}
