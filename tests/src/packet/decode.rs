//! Bytes to packets, strictly.

use std::net::IpAddr;

use super::{Body, Pkt, Tcp};
use crate::wire::{get16, get32};

impl Pkt {
    /// Reads a packet, all of `bytes`, and verifies every length and checksum in it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let pkt = Self::read(bytes)?;
        // Building it again settles the rest: reserved bits, lengths, checksums.
        let again = pkt.build();
        if again == bytes {
            return Ok(pkt);
        }
        let at = (0..bytes.len()).find(|&i| again.get(i) != Some(&bytes[i])).unwrap_or(bytes.len());
        Err(format!(
            "{pkt:?}: byte {at} is not as it should be:\n  is     {bytes:02x?}\n  should {again:02x?}"
        ))
    }

    /// Reads a packet without verifying more than that its headers are all there.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("too short: {bytes:02x?}");
        let pkt = match bytes.first().ok_or_else(short)? >> 4 {
            4 if bytes.len() >= 20 => {
                let header_len = usize::from(bytes[0] & 15) * 4;
                if usize::from(get16(bytes, 2)) != bytes.len()
                    || !(20..=bytes.len()).contains(&header_len)
                {
                    return Err(format!("a wrong IPv4 length: {bytes:02x?}"));
                }
                let address =
                    |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four").into();
                let transport = &bytes[header_len..];
                let fragment = get16(bytes, 6) & 0x3fff;
                let protocol = if fragment & 0x1fff == 0 { bytes[9] } else { 255 };
                let mut pkt =
                    Self::new(address(12), address(16), read_body(protocol, transport, true)?);
                if let Body::Other { protocol, .. } = &mut pkt.body {
                    *protocol = bytes[9];
                }
                (pkt.df, pkt.fragment) = (bytes[6] & 0x40 != 0, fragment);
                (pkt.tos, pkt.id, pkt.ttl) = (bytes[1], get16(bytes, 4), bytes[8]);
                pkt.options = bytes[20..header_len].to_vec();
                pkt
            }
            6 if bytes.len() >= 40 => {
                let address =
                    |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen").into();
                let (mut next, mut at, mut extensions) = (bytes[6], 40, Vec::new());
                // What follows the header of a later fragment is from the middle of something.
                let mut later = false;
                while !later && matches!(next, 0 | 43 | 44 | 60) && at + 8 <= bytes.len() {
                    let len = if next == 44 { 8 } else { 8 + usize::from(bytes[at + 1]) * 8 };
                    let header = bytes.get(at..at + len).ok_or_else(short)?;
                    later = next == 44 && get16(header, 2) & !7 != 0;
                    extensions.push((next, header[1..].to_vec()));
                    (next, at) = (header[0], at + len);
                }
                let body = if later {
                    Body::Other { protocol: next, payload: bytes[at..].to_vec() }
                } else {
                    read_body(next, &bytes[at..], false)?
                };
                let mut pkt = Self::new(address(8), address(24), body);
                pkt.tos = bytes[0] << 4 | bytes[1] >> 4;
                (pkt.id, pkt.ttl, pkt.extensions) = (get16(bytes, 2), bytes[7], extensions);
                pkt
            }
            _ => return Err(short()),
        };
        Ok(pkt)
    }

    /// The packet that an ICMP error quotes, if all of it is there.
    pub fn quoted(&self) -> Result<Pkt, String> {
        match &self.body {
            Body::Icmp { payload, .. } => Pkt::decode(payload),
            _ => Err("no ICMP message".into()),
        }
    }

    /// Source and destination of the packet that an ICMP error quotes.
    pub fn quoted_addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let error = match &self.body {
            Body::Icmp { kind, .. } if self.src.is_ipv4() => matches!(kind, 3 | 4 | 5 | 11 | 12),
            Body::Icmp { kind, .. } => *kind < 128,
            _ => false,
        };
        let Body::Icmp { payload, .. } = &self.body else { return None };
        if !error {
            return None;
        }
        if self.src.is_ipv4() {
            let address =
                |at| Some(IpAddr::from(<[u8; 4]>::try_from(payload.get(at..at + 4)?).ok()?));
            Some((address(12)?, address(16)?))
        } else {
            let address =
                |at| Some(IpAddr::from(<[u8; 16]>::try_from(payload.get(at..at + 16)?).ok()?));
            Some((address(8)?, address(24)?))
        }
    }
}

fn read_body(protocol: u8, bytes: &[u8], v4: bool) -> Result<Body, String> {
    let enough = |len: usize| match bytes.len() {
        n if n >= len => Ok(()),
        n => Err(format!("protocol {protocol} with {n} bytes")),
    };
    Ok(match (protocol, v4) {
        (17, _) => {
            enough(8)?;
            Body::Udp {
                src: get16(bytes, 0),
                dst: get16(bytes, 2),
                unsummed: get16(bytes, 6) == 0,
                payload: bytes[8..].to_vec(),
            }
        }
        (6, _) => {
            enough(20)?;
            let header_len = usize::from(bytes[12] >> 4) * 4;
            enough(header_len.max(20))?;
            Body::Tcp(Tcp {
                src: get16(bytes, 0),
                dst: get16(bytes, 2),
                seq: get32(bytes, 4),
                ack: get32(bytes, 8),
                flags: bytes[13],
                window: get16(bytes, 14),
                urgent: get16(bytes, 18),
                options: bytes.get(20..header_len).unwrap_or_default().to_vec(),
                payload: bytes[header_len.max(20)..].to_vec(),
            })
        }
        (1, true) | (58, false) => {
            enough(8)?;
            Body::Icmp {
                kind: bytes[0],
                code: bytes[1],
                rest: [bytes[4], bytes[5], bytes[6], bytes[7]],
                payload: bytes[8..].to_vec(),
            }
        }
        _ => Body::Other { protocol, payload: bytes.to_vec() },
    })
}
