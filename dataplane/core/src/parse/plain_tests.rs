//! `plain` against `parse`: what it calls plain, parsing accepts with the same result; and ordinary packets are
//! plain.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::burst::Origin;
use crate::conntrack::tuple::Tuple;
use crate::parse::parse;
use crate::wire::testing::*;

fn glance(bytes: &[u8], interface: &Interface, verify: bool) -> Option<(Plain, Tuple)> {
    let v4 = glance_v4(bytes, interface, verify).map(|(plain, tuple)| (plain, tuple.into()));
    v4.or_else(|| glance_v6(bytes, interface, verify).map(|(plain, tuple)| (plain, tuple.into())))
}

/// A plain packet of any shape.
fn any_plain() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..100);
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>());
    (any::<bool>(), any::<bool>(), 1u16.., 1u16.., 2u8.., payload, numbers).prop_map(
        |(v4, is_tcp, src_id, dst_id, ttl, payload, (seq, ack, window))| {
            let (src, dst) = if v4 {
                ("198.51.100.7", "203.0.113.9")
            } else {
                ("2001:db8:7::7", "2001:db8:9::9")
            };
            let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
            let tuple = tuple(src, src_id, dst, dst_id, protocol);
            let mut bytes = if is_tcp {
                let change = |header: &mut etherparse::TcpHeader| {
                    (header.ack, header.sequence_number) = (true, seq);
                    (header.acknowledgment_number, header.window_size) = (ack, window);
                };
                tcp_frame(&tuple, change, &payload)
            } else {
                frame(&tuple, ttl, &payload)
            };
            bytes[if v4 { 22 } else { 21 }] = ttl;
            mend(&mut bytes);
            bytes
        },
    )
}

/// Whatever is said of `bytes` is what parsing says.
fn agrees(bytes: &[u8], interface: &Interface, verify: bool) -> Result<bool, TestCaseError> {
    let parsed = parse(bytes, interface, Origin::Wire, verify);
    let Some((plain, tuple)) = glance(bytes, interface, verify) else {
        return Ok(false);
    };
    let headers = parsed.expect("a plain packet parses");
    prop_assert_eq!(super::headers(bytes, plain), Some(headers));
    prop_assert_eq!(headers.tuple, tuple);
    prop_assert!(headers.ttl > 1 && !headers.l2_group && headers.invalid.is_none());
    let l4 = if plain.shape.is_v4() { L4_V4 } else { L4_V6 };
    prop_assert_eq!((usize::from(headers.l3), usize::from(headers.l4)), (L3, l4));
    let again = if plain.shape.is_v4() {
        tuple_v4(bytes, plain.zone).map(Tuple::V4)
    } else {
        tuple_v6(bytes, plain.zone).map(Tuple::V6)
    };
    prop_assert_eq!(again, Some(tuple));
    if plain.shape.is_tcp() {
        let (summary, options) = segment(bytes, l4, plain.ip_len).expect("a whole header");
        prop_assert_eq!(summary, headers.tcp);
        prop_assert_eq!(options.len(), usize::from(headers.tcp.header_len) - 20);
    }
    Ok(true)
}

proptest! {
    #[test]
    fn ordinary_packets_are_plain(bytes in any_plain(), padding in 0usize..20) {
        let padded = [&bytes[..], &[0xff; 20][..padding]].concat();
        for verify in [false, true] {
            prop_assert!(agrees(&padded, &interface(), verify)?, "{padded:02x?}");
        }
    }

    /// Mutations of any byte, checksums right or not, whole or cut.
    #[test]
    fn what_is_called_plain_parses_to_the_same(
        bytes in any_plain(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        mended: bool,
        verify: bool,
        dhcp: bool,
        mtu in prop::sample::select(std::vec![80u16, 1500]),
    ) {
        let mut bytes = bytes;
        for (at, value) in changes {
            let at = at.index(bytes.len().min(80));
            bytes[at] = value;
        }
        if mended {
            mend(&mut bytes);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        agrees(&bytes, &Interface { dhcp, mtu, ..interface() }, verify)?;
    }
}

/// Each line makes a plain packet one that is not.
#[test]
fn what_is_out_of_the_ordinary_is_not_plain() {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, bool, Change); 16] = [
        ("another station's MAC", false, |b| b[5] ^= 1),
        ("a group address", false, |b| b[0] |= 1),
        ("another EtherType", false, |b| b[12] = 9),
        ("an option", false, |b| b[14] = 0x46),
        ("a first fragment", false, |b| b[20] |= 0x20),
        ("a later fragment", false, |b| b[21] = 1),
        ("the last hop", false, |b| b[22] = 1),
        ("a protocol without ports", false, |b| b[23] = 47),
        ("source port 0", false, |b| b[34..36].fill(0)),
        ("destination port 0", false, |b| b[36..38].fill(0)),
        ("a datagram shorter than its packet", false, |b| b[39] -= 1),
        ("a SYN", true, |b| b[47] = 0x02),
        ("a FIN", true, |b| b[47] = 0x11),
        ("a RST", true, |b| b[47] = 0x14),
        ("urgent data", true, |b| b[47] = 0x30),
        ("a header that ends behind the packet", true, |b| b[46] = 0xf0),
    ];
    for (what, is_tcp, change) in changes {
        let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
        let tuple = tuple("198.51.100.7", 5000, "203.0.113.9", 53, protocol);
        let ack = |header: &mut etherparse::TcpHeader| header.ack = true;
        let mut bytes =
            if is_tcp { tcp_frame(&tuple, ack, b"data") } else { frame(&tuple, 64, b"data") };
        assert!(glance(&bytes, &interface(), true).is_some(), "before: {what}");
        change(&mut bytes);
        mend(&mut bytes);
        assert_eq!(glance(&bytes, &interface(), true), None, "{what}");
    }
}

#[test]
fn a_wrong_checksum_is_not_plain_unless_nobody_verifies() {
    for (protocol, at) in [(protocol::UDP, 40), (protocol::TCP, 50)] {
        let tuple = tuple("198.51.100.7", 5000, "203.0.113.9", 53, protocol);
        let ack = |header: &mut etherparse::TcpHeader| header.ack = true;
        let good = if protocol == protocol::TCP {
            tcp_frame(&tuple, ack, b"data")
        } else {
            frame(&tuple, 64, b"data")
        };
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        assert_eq!(glance(&bytes, &interface(), true), None);
        assert!(glance(&bytes, &interface(), false).is_some());
        let mut bytes = good;
        bytes[25] ^= 0x10; // that of IPv4 is always verified
        assert_eq!(glance(&bytes, &interface(), false), None);
    }
}
