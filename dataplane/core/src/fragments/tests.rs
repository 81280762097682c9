//! The table of fragments against a naive one, and cutting against a reader of another make.

use std::collections::HashMap;
use std::vec::Vec;

use etherparse::{Ipv4HeaderSlice, Ipv4Slice};
use proptest::prelude::*;

use super::*;
use crate::burst::Origin;
use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::protocol;
use crate::headers::Kind;
use crate::parse::parse;
use crate::time::Tick;
use crate::units::{InterfaceId, WorkerId};
use crate::verdict::{DropReason, Verdict};
use crate::wire::testing::{frame, frame_with, interface, mend, tuple};

const ME: WorkerId = WorkerId(0);

/// A fragment of an IPv4 datagram of a protocol without ports, from one of several sources.
fn fragment(source: u8, id: u8, offset: u16, len: usize, more: bool, fill: u8) -> Vec<u8> {
    let tuple = tuple(&std::format!("198.51.100.{source}"), 0, "192.0.2.9", 0, protocol::GRE);
    let mut bytes = frame(&tuple, 64, &std::vec![fill; len]);
    bytes[18..20].copy_from_slice(&u16::from(id).to_be_bytes());
    let word = (offset / 8) | if more { 0x2000 } else { 0 };
    bytes[20..22].copy_from_slice(&word.to_be_bytes());
    mend(&mut bytes);
    bytes
}

fn take(gathering: &mut Gathering, bytes: &[u8], side: u8, now: Tick) -> Verdict {
    let headers = parse(bytes, &interface(), Origin::Wire, true).expect("a sound fragment");
    assert_eq!(headers.kind, Kind::Fragment);
    let interface = InterfaceId(side);
    let arrival =
        Arrival { bytes, headers: &headers, interface, origin: Origin::Wire, verify: true };
    gathering.take(&arrival, ME, now)
}

#[derive(Clone, Debug)]
enum Op {
    Arrives { source: u8, id: u8, piece: u8, more: bool, fill: u8, side: u8 },
    TakeOut { count: usize },
    Pass { seconds: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (0u8..6, 0u8..40, 0u8..70, any::<bool>(), 0u8..20, 0u8..2).prop_map(
            |(source, id, piece, more, fill, side)| {
                // Mostly nothing is wrong with them.
                let fill = u8::from(fill == 0);
                Op::Arrives { source, id, piece, more: more || piece % 8 != 0 || piece == 0, fill, side }
            },
        ),
        3 => (1usize..80).prop_map(|count| Op::TakeOut { count }),
        1 => (1u32..20).prop_map(|seconds| Op::Pass { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes: a slot is given to one fragment at a time, every fragment is settled once, and there are never
    /// more than may be.
    #[test]
    fn every_fragment_is_kept_once_and_settled_once(ops in prop::collection::vec(op(), 1..3_000)) {
        let mut gathering = Gathering::new(SipKey([1, 2]));
        let mut kept: HashMap<u16, u8> = HashMap::new();
        let mut now = Tick(5);
        let mut unsettled = 0;
        for op in ops {
            match op {
                Op::Arrives { source, id, piece, more, fill, side } => {
                    // The caller takes everything out once a burst.
                    if unsettled == crate::burst::BURST_MAX {
                        while let Some((slot, _)) = gathering.next_settled() {
                            prop_assert!(kept.remove(&slot).is_some(), "{slot} was not kept");
                        }
                        unsettled = 0;
                    }
                    unsettled += 1;
                    let bytes = fragment(source, id, u16::from(piece) * 8, 8, more, fill);
                    if let Verdict::Gather { slot } = take(&mut gathering, &bytes, side, now) {
                        prop_assert!(kept.insert(slot, source).is_none(), "{slot} is taken");
                    }
                }
                Op::TakeOut { count } => {
                    for _ in 0..count {
                        let Some((slot, _)) = gathering.next_settled() else { break };
                        prop_assert!(kept.remove(&slot).is_some(), "{slot} was not kept");
                    }
                }
                Op::Pass { seconds } => {
                    now = now.plus_ms(seconds * 1_000);
                    gathering.expire(now);
                }
            }
            prop_assert!(gathering.waiting() <= kept.len());
            prop_assert!(gathering.waiting() <= WAITING_MAX && kept.len() <= SLOTS);
        }
        gathering.expire(now.plus_ms(61_000));
        while let Some((slot, _)) = gathering.next_settled() {
            prop_assert!(kept.remove(&slot).is_some());
        }
        prop_assert!(kept.is_empty() && gathering.waiting() == 0);
    }

    /// RFC 791 §3.2, whatever the options, the MTU, and whether it was a fragment before.
    #[test]
    fn parts_are_valid_fit_and_make_the_packet_again(
        len in 1usize..1_700,
        mtu in 68u16..1_500,
        options in 0usize..4,
        offset in 0u16..1_000,
        more: bool,
    ) {
        let all: [&[u8]; 4] =
            [&[], &[148, 4, 0, 0], &[7, 7, 4, 0, 0, 0, 0, 1], &[1, 130, 3, 9, 7, 3, 4, 0]];
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        let gre = tuple("198.51.100.7", 0, "192.0.2.9", 0, protocol::GRE);
        let mut packet = frame_with(&gre, 64, all[options], &payload);
        let word = offset | if more { 0x2000 } else { 0 };
        packet[20..22].copy_from_slice(&word.to_be_bytes());
        mend(&mut packet);

        let split = split(&packet, mtu).expect("it may be cut");
        let mut at = usize::from(offset) * 8;
        let mut again = Vec::new();
        for part in 0..split.parts() {
            let mut out = [0xaa; 2_048];
            let len = split.write(part, &mut out).expect("room");
            prop_assert!(len <= 14 + usize::from(mtu));
            prop_assert_eq!(&out[..14], &packet[..14]);
            let ip = Ipv4Slice::from_slice(&out[14..len]).expect("a packet");
            let header: Ipv4HeaderSlice<'_> = ip.header();
            prop_assert_eq!(usize::from(header.total_len()), len - 14);
            prop_assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            prop_assert_eq!(usize::from(header.fragments_offset().value()) * 8, at);
            let last = part + 1 == split.parts();
            prop_assert_eq!(header.more_fragments(), more || !last);
            let copied = [all[0], all[1], all[0], &[130, 3, 9, 0]];
            let expected = if part == 0 { all[options] } else { copied[options] };
            prop_assert_eq!(header.options(), expected);
            let data = ip.payload().payload;
            prop_assert!(last || data.len() % 8 == 0);
            at += data.len();
            again.extend_from_slice(data);
        }
        prop_assert_eq!(again, payload);
        prop_assert!(split.write(split.parts(), &mut [0; 2_048]).is_none());
    }
}

#[test]
fn what_may_not_or_cannot_be_cut_is_not() {
    let gre = tuple("198.51.100.7", 0, "192.0.2.9", 0, protocol::GRE);
    let mut packet = frame(&gre, 64, &[1; 1_000]);
    assert!(split(&packet, 576).is_none(), "Don't Fragment is set");
    packet[20] = 0;
    mend(&mut packet);
    assert!(split(&packet, 576).is_some());
    assert!(split(&packet, 68).is_some());
    assert!(split(&packet, 67).is_none());
    assert!(split(&packet[..500], 68).is_none());
    assert!(
        split(&frame(&tuple("2001:db8::7", 1, "2001:db8::1", 2, 17), 64, &[1; 900]), 576).is_none()
    );
    let mut out = [0; 100];
    assert!(split(&packet, 576).expect("cut").write(0, &mut out).is_none(), "no room");
}

/// The oldest leaves, of whoever has his share.
#[test]
fn shares_are_of_sources_then_of_interfaces_then_of_all() {
    let mut gathering = Gathering::new(SipKey([1, 2]));
    let mut arrive = |source: u8, id: u8, side: u8| {
        let bytes = fragment(source, id, 0, 8, true, 0);
        let verdict = take(&mut gathering, &bytes, side, Tick(0));
        assert!(matches!(verdict, Verdict::Gather { .. }), "{verdict:?}");
        let mut left = Vec::new();
        while let Some((_, settled)) = gathering.next_settled() {
            left.push(settled);
        }
        left.len()
    };
    // A quarter of the datagrams for one source.
    assert_eq!((0..32).map(|id| arrive(1, id, 0)).sum::<usize>(), 0);
    assert_eq!((32..40).map(|id| arrive(1, id, 0)).sum::<usize>(), 8);
    // Three quarters for one interface.
    assert_eq!((2..66).map(|source| arrive(source, 0, 0)).sum::<usize>(), 0);
    assert_eq!((66..80).map(|source| arrive(source, 0, 0)).sum::<usize>(), 14);
    // The rest for others.
    assert_eq!((2..34).map(|source| arrive(source, 0, 1)).sum::<usize>(), 0);
    assert_eq!((34..44).map(|source| arrive(source, 0, 1)).sum::<usize>(), 10);
}

#[test]
fn a_refused_datagram_stays_so_until_its_time_is_over() {
    let mut gathering = Gathering::new(SipKey([1, 2]));
    let first = fragment(1, 1, 0, 16, true, 0);
    let over = fragment(1, 1, 8, 16, true, 0);
    let last = fragment(1, 1, 16, 5, false, 0);
    assert!(matches!(take(&mut gathering, &first, 0, Tick(0)), Verdict::Gather { .. }));
    let overlap = Verdict::Drop(DropReason::FragmentOverlap);
    assert_eq!(take(&mut gathering, &over, 0, Tick(1)), overlap);
    assert_eq!(take(&mut gathering, &first, 0, Tick(29_999)), overlap);
    assert!(matches!(
        gathering.next_settled(),
        Some((0, Settled::Drop(DropReason::FragmentOverlap)))
    ));
    assert!(!gathering.has_settled());
    for bytes in [&last, &first] {
        assert!(matches!(take(&mut gathering, bytes, 0, Tick(30_000)), Verdict::Gather { .. }));
    }
    let order: Vec<_> = std::iter::from_fn(|| gathering.next_settled()).collect();
    assert!(matches!(order[..], [(a, Settled::Go(x)), (b, Settled::Go(y))] if a != b && x == y));
}
