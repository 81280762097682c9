//! Fragments: their frames wait, go on, are cut, and are all found again.

use std::collections::HashMap;
use std::net::SocketAddrV4;

use postern_core::fragments::{SOURCE_MAX, WAITING_MAX};
use postern_core::verdict::DropReason;
use postern_io::runtime::testing::{LAN, WAN, WAN_ADDRESS, read_udp, udp};

use crate::lab::{Dice, Lab, Shape, count, drops, inside, outside};

/// A UDP datagram with `id` cut into fragments of `step` bytes; without a UDP checksum.
fn fragments(
    from: SocketAddrV4,
    to: SocketAddrV4,
    id: u16,
    len: usize,
    step: usize,
) -> Vec<Vec<u8>> {
    let interface = if from.ip().is_private() { LAN } else { WAN };
    let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let whole = udp(interface, from, to, &payload);
    let data = &whole[34..];
    let mut offset = 0;
    data.chunks(step)
        .map(|chunk| {
            let mut frame = [&whole[..34], chunk].concat();
            let more = offset + chunk.len() < data.len();
            frame[16..18].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            let word = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            mend(&mut frame);
            offset += chunk.len();
            frame
        })
        .collect()
}

/// Makes the IPv4 header checksum right.
fn mend(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// The datagram that the next fragments by an interface make, which come in order.
fn whole(lab: &mut Lab, interface: postern_core::units::InterfaceId) -> Vec<u8> {
    let mut datagram = lab.expect(interface);
    loop {
        let last = datagram[20] & 0x20 == 0;
        let len = datagram.len() - 14;
        if last {
            datagram[16..18].copy_from_slice(&(len as u16).to_be_bytes());
            mend(&mut datagram);
            return datagram;
        }
        let next = lab.expect(interface);
        assert_eq!(next[18..20], datagram[18..20], "of the same datagram");
        let word = u16::from_be_bytes([next[20], next[21]]);
        assert_eq!(usize::from(word & 0x1fff) * 8, len - 20, "what comes next");
        datagram[20] = next[20] & 0x20;
        datagram.extend(&next[34..]);
    }
}

#[test]
fn datagrams_in_fragments_cross_whatever_queues_they_arrive_on() {
    for workers in [1, 2, 4] {
        let queues = usize::from(workers);
        let mut lab = Lab::new(Shape { workers, queues: [queues; 2], ..Shape::default() });
        let mut dice = Dice(7);
        let mut sent = 0;
        for id in 0..60 {
            let from = inside(10 + (id % 50) as u8, 7_000 + id);
            let mut there = fragments(from, outside(53), id, 3_000, 1_000);
            if id % 2 == 0 {
                there.reverse();
            }
            for fragment in &there {
                lab.send(LAN, dice.below(queues), fragment);
                sent += 1;
            }
            let datagram = whole(&mut lab, WAN);
            let (source, to, payload) = read_udp(&datagram);
            assert_eq!((*source.ip(), to, payload.len()), (WAN_ADDRESS, outside(53), 3_000));
            let back = fragments(to, source, id, 2_500, 1_400);
            for fragment in &back {
                lab.send(WAN, dice.below(queues), fragment);
                sent += 1;
            }
            let datagram = whole(&mut lab, LAN);
            let (_, to, payload) = read_udp(&datagram);
            assert_eq!((to, payload.len()), (from, 2_500));
        }
        let values = lab.settle();
        assert_eq!((values.forwarded, values.dropped()), (sent, 0), "{:?}", drops(&values));
        assert_eq!((values.held, values.resumed), (sent, sent));
        lab.stop();
    }
}

#[test]
fn frames_of_fragments_that_wait_are_counted_and_given_back_at_the_end() {
    let mut lab = Lab::new(Shape::default());
    for id in 0..1_000 {
        // Never the last one.
        let these = fragments(inside(10, 4_000), outside(53), id, 3_000, 1_000);
        lab.send(LAN, usize::from(id % 2), &these[0]);
        lab.send(LAN, usize::from(id % 2), &these[1]);
    }
    let values = lab.settle();
    let waiting = values.held - values.resumed;
    let gauges = lab.handle.workers.iter().map(|worker| worker.gauges.read().held).sum::<u64>();
    assert_eq!(gauges, waiting);
    assert!(waiting > 0 && waiting <= 2 * SOURCE_MAX as u64, "{waiting} of one source");
    assert_eq!(count(&values, DropReason::FragmentLimit), 2_000 - waiting);
    for host in 10..250 {
        for id in 0..8 {
            let these = fragments(inside(host, 4_000), outside(53), id, 3_000, 1_000);
            lab.send(LAN, usize::from(id % 2), &these[1]);
        }
    }
    let values = lab.settle();
    assert!(values.held - values.resumed <= 2 * WAITING_MAX as u64);
    // And what is whole still goes.
    for fragment in fragments(inside(249, 4_001), outside(53), 9, 3_000, 1_000) {
        lab.send(LAN, 0, &fragment);
    }
    assert_eq!(read_udp(&whole(&mut lab, WAN)).2.len(), 3_000);
    lab.settle();
    let values = lab.stop();
    assert_eq!(values.held, values.resumed, "all were taken out");
}

/// Has the interface outside carry no longer IP packets than that.
fn narrow(lab: &mut Lab, mtu: u16) {
    let mut smaller = postern_core::snapshot::Snapshot::clone(&lab.snapshot);
    let mut interfaces = smaller.interfaces.0.clone();
    interfaces[WAN.index()].mtu = mtu;
    smaller.interfaces = std::sync::Arc::new(postern_core::snapshot::Interfaces(interfaces));
    let smaller = smaller.following(&lab.snapshot);
    lab.handle.publish(std::sync::Arc::new(smaller));
    lab.wait_for("adoption", |lab| lab.handle.snapshots().is_adopted());
}

#[test]
fn a_packet_for_a_smaller_link_leaves_in_parts() {
    let mut lab = Lab::new(Shape { workers: 1, queues: [1, 1], ..Shape::default() });
    narrow(&mut lab, 576);
    let mut packet = udp(LAN, inside(10, 4_000), outside(53), &[7; 1_400]);
    packet[20] = 0;
    mend(&mut packet);
    for _ in 0..50 {
        lab.send(LAN, 0, &packet);
        assert_eq!(read_udp(&whole(&mut lab, WAN)).2, [7; 1_400]);
    }
    // In fragments, which are cut once more.
    for fragment in fragments(inside(10, 4_000), outside(53), 1, 3_000, 1_400) {
        lab.send(LAN, 0, &fragment);
    }
    assert_eq!(read_udp(&whole(&mut lab, WAN)).2.len(), 3_000);
    let values = lab.settle();
    assert_eq!(values.forwarded, 50 * 3 + 3 + 3 + 1, "{values:?}");
    assert_eq!((values.generated, values.dropped()), (50 * 2 + 4, 0));
    lab.stop();
}

/// The parts of a burst are more than the queue of a device has room for, and more than a burst of parcels: of each
/// packet leave all or none. The device itself takes everything: what waits for one that does not is given up one by one.
#[test]
fn a_burst_that_is_cut_leaves_whole_or_not_at_all() {
    const PACKETS: u16 = 200;
    let parts = 1_408usize.div_ceil(48);
    // By the worker's own queue, and by that of another one.
    for (workers, queues) in [(1, [1, 1]), (2, [2, 1])] {
        let mut lab = Lab::new(Shape {
            workers,
            queues,
            frames: 32_768,
            depth: usize::from(PACKETS) * parts,
            ..Shape::default()
        });
        narrow(&mut lab, 68);
        let last = usize::from(workers) - 1;
        let port = crate::port_of(&lab, last);
        let mut packet = udp(LAN, inside(10, port), outside(53), &[7; 1_400]);
        packet[20] = 0;
        for id in 0..PACKETS {
            packet[18..20].copy_from_slice(&id.to_be_bytes());
            mend(&mut packet);
            lab.send(LAN, last, &packet);
        }
        let values = lab.settle();
        let mut came = HashMap::<u16, usize>::new();
        for wire in &mut lab.wires[WAN.index()] {
            wire.drain(|frame| {
                *came.entry(u16::from_be_bytes([frame[18], frame[19]])).or_default() += 1;
            });
        }
        assert!(came.values().all(|&count| count == parts), "{came:?}");
        let refused = count(&values, DropReason::HandOverFull);
        assert_eq!(came.len() as u64 + refused, u64::from(PACKETS), "{:?}", drops(&values));
        assert!(workers > 1 || refused == 0);
        lab.stop();
    }
}
