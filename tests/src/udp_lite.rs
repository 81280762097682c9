//! UDP-Lite datagrams (RFC 3828).

use crate::packet::{Body, Endpoint, Pkt, other};
use crate::wire::{adjusted, get16, set16, transport_checksum};

/// The protocol's number.
pub const UDP_LITE: u8 = 136;

/// A datagram whose checksum covers this much of it, header included; 0 is all (§3.1).
pub fn udp_lite(src: impl Endpoint, dst: impl Endpoint, coverage: u16, data: &[u8]) -> Pkt {
    let (src, dst) = (src.endpoint(), dst.endpoint());
    let mut bytes = [src.port(), dst.port(), coverage, 0].map(u16::to_be_bytes).concat();
    bytes.extend(data);
    let covered = if coverage == 0 { bytes.len() } else { usize::from(coverage) };
    let mut pkt = other(src.ip(), dst.ip(), UDP_LITE, &bytes);
    // The pseudo header has the length of all of it: what is not covered counts as zeros.
    let mut summed = bytes;
    summed[covered..].fill(0);
    let sum = transport_checksum(pkt.src, pkt.dst, UDP_LITE, &summed);
    if let Body::Other { payload, .. } = &mut pkt.body {
        set16(payload, 6, if sum == 0 { 0xffff } else { sum });
    }
    pkt
}

/// Writes a port into a datagram. Its checksum is right after that if it was before.
pub fn set_port(datagram: &mut [u8], port: u16, source: bool) {
    let at = if source { 0 } else { 2 };
    let sum = adjusted(get16(datagram, 6), get16(datagram, at), port);
    set16(datagram, at, port);
    set16(datagram, 6, if sum == 0 { 0xffff } else { sum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_port_is_as_one_that_was_there() {
        for coverage in [0, 8, 12] {
            let lite =
                |port| udp_lite(("192.0.2.1", port), "192.0.2.2:7", coverage, b"sixteen bytes!!!");
            for port in [1, 5000, 0xffff] {
                assert_eq!(lite(4000).from(("192.0.2.1", port)), lite(port));
                assert_eq!(lite(port).source().port(), port);
                assert_eq!(lite(port).destination().port(), 7);
            }
        }
    }
}
