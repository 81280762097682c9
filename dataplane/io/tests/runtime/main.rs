//! The runtime as a whole, in memory: real threads, no privileges.

mod commands;
mod fragments;
mod lab;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use lab::{Dice, Lab, Shape, count, drops, inside, outside};
use postern_core::burst::BURST_MAX;
use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tuple::protocol;
use postern_core::forward::neighbour::{Neighbour, NeighbourState};
use postern_core::pipeline::ConnectionId;
use postern_core::snapshot::{InterfaceAddress, Snapshot};
use postern_core::steering::{Inputs, StaticEndpoint, Steering};
use postern_core::units::InterfaceId;
use postern_core::verdict::DropReason;
use postern_io::frame::{FramePool, FrameSpan};
use postern_io::runtime::testing::{
    LAN, LAN_ADDRESS, PEER, STRANGER, WAN, WAN_ADDRESS, arp_request, read_udp, udp,
};
use postern_io::runtime::{Answer, Command, Door, Event, HostBudget, Idle, MemoryDoor, Node};
use postern_io::xdp::socket::{Kick, SocketError};

/// Packets out and back, for many connections, each packet by a queue drawn at random. Returns how many
/// went each way.
pub(crate) fn ping_pong(lab: &mut Lab, connections: u16, rounds: u64) -> u64 {
    ping_pong_while(lab, connections, rounds, |_| ())
}

/// The same, with something else done in between all the time.
pub(crate) fn ping_pong_while(
    lab: &mut Lab,
    connections: u16,
    rounds: u64,
    mut meanwhile: impl FnMut(&Lab),
) -> u64 {
    let mut dice = Dice(u64::from(connections));
    let queues = [lab.wires[0].len(), lab.wires[1].len()];
    let (mut sent, mut echoed, mut back) = (0, 0, 0);
    let total = u64::from(connections) * rounds;
    let mut external: HashSet<(u16, Vec<u8>)> = HashSet::new();
    let start = Instant::now();
    while back < total {
        meanwhile(lab);
        // A window, so that no ring can overflow.
        if sent < total && sent - back < 48 {
            let flow = (sent % u64::from(connections)) as u16;
            let from = inside(10 + (flow % 200) as u8, 10_000 + flow);
            let packet = udp(LAN, from, outside(53), &flow.to_be_bytes());
            lab.send(LAN, dice.below(queues[0]), &packet);
            sent += 1;
        }
        while let Some(packet) = lab.take(WAN) {
            let (from, to, payload) = read_udp(&packet);
            assert_eq!((*from.ip(), to), (WAN_ADDRESS, outside(53)));
            external.insert((from.port(), payload.to_vec()));
            let answer = udp(WAN, to, from, payload);
            lab.send(WAN, dice.below(queues[1]), &answer);
            echoed += 1;
        }
        while let Some(packet) = lab.take(LAN) {
            let (from, to, payload) = read_udp(&packet);
            let flow = u16::from_be_bytes(payload.try_into().expect("two bytes"));
            assert_eq!(from, outside(53));
            assert_eq!(to, inside(10 + (flow % 200) as u8, 10_000 + flow), "to whom it belongs");
            back += 1;
        }
        let values = lab.handle.values();
        assert!(
            start.elapsed() < lab::PATIENCE,
            "{sent} sent, {echoed} echoed, {back} back, {:?}",
            drops(&values)
        );
    }
    assert_eq!(external.len(), usize::from(connections), "one external port a connection");
    sent
}

#[test]
fn both_directions_meet_whatever_queue_they_arrive_on() {
    for workers in 1..=4 {
        let queues = usize::from(workers);
        let mut lab = Lab::new(Shape { workers, queues: [queues, queues], ..Shape::default() });
        let sent = ping_pong(&mut lab, 100, 20);
        let values = lab.settle();
        assert_eq!((values.received, values.forwarded), (2 * sent, 2 * sent), "{values:?}");
        assert_eq!((values.dropped(), values.connections_new), (0, 100));
        assert_eq!(values.handed_out > 0, workers > 1, "hand-over is used");
        let bytes = 44 * 2 * sent;
        assert_eq!((values.received_bytes, values.forwarded_bytes), (bytes, bytes));
        lab.stop();
    }
}

#[test]
fn devices_with_fewer_or_more_queues_than_workers() {
    for (workers, queues) in [(4, [1, 1]), (3, [2, 1]), (2, [4, 3]), (1, [3, 2])] {
        let mut lab = Lab::new(Shape { workers, queues, ..Shape::default() });
        let sent = ping_pong(&mut lab, 60, 10);
        let values = lab.settle();
        assert_eq!((values.forwarded, values.dropped()), (2 * sent, 0), "{:?}", drops(&values));
        lab.stop();
    }
}

/// A source port that worker `owner` owns, from inside.
fn port_of(lab: &Lab<impl Door>, owner: usize) -> u16 {
    let steering = &lab.snapshot.steering;
    (20_000..).find(|&port| steering.block(port).index() == owner).expect("every worker has ports")
}

#[test]
fn one_way_traffic_of_ten_times_the_frames_starves_nobody() {
    // What worker 0 receives, worker 1 sends: frames migrate with every packet.
    let mut lab = Lab::new(Shape { frames: 3072, ..Shape::default() });
    let packet = udp(LAN, inside(10, port_of(&lab, 1)), outside(53), b"one way");
    let total = 10 * lab.handle.frames_total();
    let (mut sent, mut out) = (0, 0);
    let start = Instant::now();
    while out < total {
        if sent < total && sent - out < 200 {
            lab.send(LAN, 0, &packet);
            sent += 1;
        }
        out += lab.wires[1].iter_mut().map(|wire| wire.drain(|_| ()) as u64).sum::<u64>();
        assert!(start.elapsed() < lab::PATIENCE, "{out} of {sent}: {:?}", lab.handle.values());
    }
    let values = lab.settle();
    assert_eq!((values.forwarded, values.dropped()), (total, 0), "{:?}", drops(&values));
    assert_eq!(lab.handle.workers[0].counters.values().handed_out, total);
    assert_eq!(lab.handle.workers[1].counters.values().forwarded, total);
    lab.stop();
}

#[test]
fn a_full_hand_over_ring_is_counted_and_the_books_balance() {
    let mut lab = Lab::new(Shape { ring: 16, ..Shape::default() });
    let packet = udp(LAN, inside(10, port_of(&lab, 1)), outside(53), b"flood");
    let mut sent = 0;
    for _ in 0..20_000 {
        sent += u64::from(lab.wires[0][0].send(&packet));
        lab.wires[1].iter_mut().for_each(|wire| _ = wire.drain(|_| ()));
    }
    let values = lab.settle();
    assert_eq!(values.received, sent);
    assert!(count(&values, DropReason::HandOverFull) > 0, "{values:?}");
    assert_eq!(values.forwarded + values.dropped(), sent, "{:?}", drops(&values));
    lab.stop();
}

#[test]
fn a_device_that_sends_nothing_is_counted_and_holds_no_frame_for_ever() {
    let mut lab = Lab::new(Shape { workers: 1, queues: [1, 1], ..Shape::default() });
    let packet = udp(LAN, inside(10, 4000), outside(53), b"stuck");
    for _ in 0..5_000 {
        lab.send(LAN, 0, &packet); // nobody takes anything from the wire of WAN
    }
    let values = lab.settle();
    assert_eq!(values.received, 5_000);
    // The line and the ring, of 256 packets each.
    assert_eq!(values.forwarded, 512, "{:?}", drops(&values));
    assert_eq!(count(&values, DropReason::TransmitFull), 5_000 - 512);
    assert_eq!(lab.handle.workers[0].gauges.read().queued, 0, "given up after a while");
    // It goes on as soon as the device does.
    let mut left = 0;
    lab.wait_for("the line to clear", |lab| {
        left += lab.wires[1][0].drain(|_| ());
        left == 512
    });
    lab.send(LAN, 0, &packet);
    lab.expect(WAN);
    lab.settle();
    lab.stop();
}

#[test]
fn a_slow_or_flooded_host_costs_ordinary_packets_but_no_arp() {
    let budget = HostBudget { rate: 1, burst: 100 };
    let mut lab = Lab::new(Shape { budget, ..Shape::default() });
    let to_host = udp(WAN, outside(7), SocketAddrV4::new(WAN_ADDRESS, 9), b"for the appliance");
    for _ in 0..2_000 {
        lab.send(WAN, 0, &to_host);
    }
    lab.send(LAN, 0, &arp_request(LAN, *inside(10, 0).ip()));
    let values = lab.settle();
    assert_eq!((values.received, values.forwarded), (2_001, 0));
    assert_eq!(lab.host[1].drain(|_| ()), 100, "the burst of the budget");
    assert_eq!(lab.expect_host(LAN), arp_request(LAN, *inside(10, 0).ip()));
    assert_eq!(values.delivered, 101);
    assert_eq!(count(&values, DropReason::HostQueueFull), 1_900, "{:?}", drops(&values));
    lab.stop();
}

/// A flood of packets that anybody can send must not keep an operator from his login, nor answers from the host.
#[test]
fn a_flood_of_first_packets_costs_no_packet_of_an_answered_connection() {
    let budget = HostBudget { rate: 1, burst: 100 };
    let mut lab = Lab::new(Shape { budget, ..Shape::default() });
    let (operator, login) = (outside(40_000), SocketAddrV4::new(WAN_ADDRESS, 22));
    let ask = udp(WAN, operator, login, b"who is there?");
    lab.send(WAN, 0, &ask);
    assert_eq!(lab.expect_host(WAN), ask);
    let mut answer = udp(WAN, login, operator, b"the appliance");
    answer[..6].copy_from_slice(&PEER.0);
    answer[6..12].copy_from_slice(&postern_io::runtime::testing::MACS[1].0);
    assert!(lab.host[1].send(&answer));
    assert_eq!(lab.expect(WAN), answer);

    // Both queues, so that either worker's rings see it.
    let flood = |port| udp(WAN, outside(port), SocketAddrV4::new(WAN_ADDRESS, 9), b"?");
    let mut reached = 0;
    for burst in 0..50 {
        for port in 0..40 {
            lab.send(WAN, usize::from(port % 2), &flood(1_024 + burst * 40 + port));
        }
        lab.send(WAN, 0, &ask);
        lab.wait_for("the login", |lab| {
            while let Some(packet) = lab.host[1].take() {
                if packet == ask {
                    return true;
                }
                reached += 1;
            }
            false
        });
    }
    let values = lab.settle();
    while lab.host[1].take().is_some() {
        reached += 1;
    }
    // The burst, less the first packet of all, and one for each second that this took.
    assert!((99..150).contains(&reached), "{reached} of the flood reached the host");
    let turned_away = count(&values, DropReason::HostQueueFull);
    assert_eq!(turned_away, 50 * 40 - reached, "{:?}", drops(&values));
    lab.stop();
}

#[test]
fn the_host_talks_to_the_world_through_its_tap() {
    for workers in 1..=4 {
        let mut lab = Lab::new(Shape { workers, ..Shape::default() });
        for port in 30_000..30_040 {
            let us = SocketAddrV4::new(WAN_ADDRESS, port);
            // The kernel writes the link-layer header itself.
            let mut query = udp(WAN, us, outside(53), b"query");
            query[..6].copy_from_slice(&PEER.0);
            query[6..12].copy_from_slice(&postern_io::runtime::testing::MACS[1].0);
            assert!(lab.host[1].send(&query));
            assert_eq!(lab.expect(WAN), query, "it leaves as the kernel wrote it");
            let answer = udp(WAN, outside(53), us, b"answer");
            let queue = usize::from(port) % lab.wires[1].len();
            lab.send(WAN, queue, &answer);
            assert_eq!(lab.expect_host(WAN), answer);
        }
        let values = lab.settle();
        assert_eq!((values.from_host, values.delivered, values.forwarded), (40, 40, 40));
        assert_eq!(values.connections_new, 40, "{:?}", drops(&values));
        lab.stop();
    }
}

#[test]
fn a_packet_waits_for_its_next_hop_and_leaves_when_it_is_known() {
    let mut lab = Lab::new(Shape::default());
    let to = SocketAddrV4::new(STRANGER, 9);
    for payload in 0..5u8 {
        lab.send(LAN, 0, &udp(LAN, inside(10, 4000), to, &[payload]));
    }
    let wanted = lab.handle.wanted.recv_timeout(lab::PATIENCE).expect("asked for");
    assert_eq!((wanted.interface, wanted.address), (WAN, IpAddr::V4(STRANGER)));
    lab.wait_for("five on hold", |lab| {
        lab.handle.workers.iter().map(|w| w.gauges.read().held).sum::<u64>() == 5
    });
    let values = lab.settle();
    assert_eq!((values.held, values.resumed, values.forwarded), (5, 0, 0));

    let known = Neighbour { mac: PEER, state: NeighbourState::Reachable };
    lab.snapshot.neighbours.set(WAN, STRANGER.into(), known).expect("room");
    for payload in 0..5u8 {
        let packet = lab.expect(WAN);
        assert_eq!(read_udp(&packet).2, [payload], "in order");
        assert_eq!(packet[..6], PEER.0);
    }
    let values = lab.settle();
    assert_eq!((values.held, values.resumed, values.forwarded), (5, 5, 5));
    lab.stop();
}

#[test]
fn a_next_hop_that_does_not_answer_costs_its_packets_after_a_while() {
    let mut lab = Lab::new(Shape { workers: 1, ..Shape::default() });
    let to = SocketAddrV4::new(STRANGER, 9);
    for port in 0..100 {
        lab.send(LAN, 0, &udp(LAN, inside(10, 4000 + port), to, b"?"));
    }
    let values = lab.settle();
    assert_eq!(
        (values.held, count(&values, DropReason::HoldFull)),
        (32, 68),
        "{:?}",
        drops(&values)
    );
    lab.wait_for("nothing on hold", |lab| lab.handle.workers[0].gauges.read().held == 0);
    let values = lab.settle();
    assert_eq!((values.resumed, count(&values, DropReason::HeldTooLong)), (32, 32));

    // And one that failed: the sender is told.
    let failed = Neighbour { mac: PEER, state: NeighbourState::Failed };
    lab.snapshot.neighbours.set(WAN, STRANGER.into(), failed).expect("room");
    lab.send(LAN, 0, &udp(LAN, inside(11, 4000), to, b"?"));
    let told = lab.expect(LAN);
    assert_eq!((told[23], told[34], told[35]), (1, 3, 1), "host unreachable");
    let values = lab.settle();
    assert_eq!((values.generated, count(&values, DropReason::NeighbourFailed)), (1, 1));
    lab.stop();
}

#[test]
fn sleeping_workers_wake_for_packets_parcels_and_commands() {
    let idle = Idle::SleepAfter(Duration::ZERO);
    let mut lab = Lab::new(Shape { idle, ..Shape::default() });
    let packet = udp(LAN, inside(10, port_of(&lab, 1)), outside(53), b"wake up");
    let mut times = Vec::new();
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(3)); // long enough for everyone to fall asleep
        let start = Instant::now();
        lab.send(LAN, 0, &packet); // wakes worker 0 by its door, then worker 1 by its bell
        lab.expect(WAN);
        times.push(start.elapsed());
        let start = Instant::now();
        let nobody = Command::Get { id: ConnectionId(0) };
        let answer = lab.handle.workers[0].commands.ask(nobody, lab::PATIENCE);
        assert!(matches!(answer, Ok(Answer::Got(_))));
        times.push(start.elapsed());
    }
    times.sort();
    // A lost wake-up would cost the rest of the longest sleep, 7 ms here; machines under load cost some.
    assert!(times[times.len() / 2] < Duration::from_millis(5), "{times:?}");
    assert!(lab.handle.workers.iter().all(|worker| worker.gauges.read().sleeps > 50));
    lab.settle();
    lab.stop();
}

#[test]
fn the_real_doors_fit_and_the_handle_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<postern_io::runtime::Handle>();
    moved::<postern_io::runtime::Runtime<postern_io::xdp::socket::Socket, postern_io::tap::Tap>>();
    moved::<postern_io::runtime::Threads<postern_io::xdp::socket::Socket, postern_io::tap::Tap>>();
    let _ = postern_io::runtime::Runtime::<
        postern_io::xdp::socket::Socket,
        postern_io::tap::Tap,
    >::build;
}

#[test]
fn spinning_workers_do_the_same() {
    let idle = Idle::Spin;
    let mut lab = Lab::new(Shape { workers: 1, queues: [1, 1], idle, ..Shape::default() });
    ping_pong(&mut lab, 20, 20);
    assert_eq!(lab.handle.workers[0].gauges.read().sleeps, 0);
    lab.stop();
}

#[test]
fn a_thousand_snapshots_under_traffic_lose_no_packet_and_no_memory() {
    let mut lab = Lab::new(Shape::default());
    let mut seen: Vec<Weak<Snapshot>> = Vec::new();
    let mut latest = Snapshot::clone(&lab.snapshot);
    lab.snapshot = Arc::new(latest.clone()); // not one of those that are counted
    let mut sent = 0;
    for _ in 0..100 {
        for _ in 0..10 {
            latest.generation = latest.generation.next();
            let snapshot = Arc::new(latest.clone());
            seen.push(Arc::downgrade(&snapshot));
            lab.handle.publish(snapshot);
        }
        sent += ping_pong(&mut lab, 16, 4);
    }
    let values = lab.settle();
    assert_eq!((values.forwarded, values.dropped()), (2 * sent, 0), "{:?}", drops(&values));
    assert!(values.rejudged > 0);
    lab.wait_for("adoption", |lab| lab.handle.snapshots().is_adopted());
    let alive = seen.iter().filter(|snapshot| snapshot.strong_count() > 0).count();
    assert_eq!(alive, 1, "only the newest snapshot is kept");
    for reader in 0..3 {
        assert_eq!(lab.handle.snapshots().adopted(reader), Some(latest.generation));
    }
    lab.stop();
}

/// Workers adopt each change in their own time, with packets handed over in between: from one that is ahead to one
/// that is behind, and the other way.
#[test]
fn connections_are_found_however_often_their_ports_change_owners() {
    for workers in [2, 4] {
        let queues = usize::from(workers);
        let mut lab = Lab::new(Shape { workers, queues: [queues, queues], ..Shape::default() });
        ping_pong(&mut lab, 100, 1);
        let mut latest = Snapshot::clone(&lab.snapshot);
        let mut turns = 0u16;
        let sent = ping_pong_while(&mut lab, 100, 60, |lab| {
            turns = turns.wrapping_add(1);
            if !turns.is_multiple_of(16) {
                return;
            }
            let first = 10_000 + turns / 16 % 100;
            let ports = StaticEndpoint {
                address: WAN_ADDRESS.into(),
                protocol: protocol::UDP,
                first,
                last: first + 50,
            };
            let steering = Steering::new(Inputs {
                workers,
                key: SipKey([1, u64::from(workers)]),
                ours: vec![LAN_ADDRESS.into(), WAN_ADDRESS.into()],
                statics: vec![ports],
                inside: vec![InterfaceAddress { address: LAN_ADDRESS.into(), length: 24 }],
            });
            let older = std::mem::replace(&mut latest.steering, Arc::new(steering));
            if latest.older_steering.is_full() {
                latest.older_steering.pop();
            }
            latest.older_steering.insert(0, older);
            latest.generation = latest.generation.next();
            lab.handle.publish(Arc::new(latest.clone()));
        });
        let values = lab.settle();
        assert_eq!((values.dropped(), values.connections_new), (0, 100), "{:?}", drops(&values));
        assert_eq!(values.forwarded, 2 * (sent + 100));
        lab.stop();
    }
}

#[test]
fn an_unplugged_device_is_reported_and_the_others_go_on() {
    let mut lab = Lab::new(Shape::default());
    ping_pong(&mut lab, 10, 2);
    lab.wires[1].iter().for_each(postern_io::runtime::Wire::unplug);
    for _ in 0..2 {
        let event = lab.handle.events.recv_timeout(lab::PATIENCE).expect("reported by each worker");
        let expected =
            matches!(event, Event::Door { interface: WAN, error: SocketError::DeviceGone, .. });
        assert!(expected, "{event:?}");
    }
    lab.send(LAN, 0, &udp(LAN, inside(10, 4000), outside(53), b"nowhere to go"));
    lab.send(LAN, 1, &arp_request(LAN, *inside(10, 0).ip()));
    lab.expect_host(LAN);
    lab.wait_for("the drop", |lab| count(&lab.handle.values(), DropReason::InterfaceDown) == 1);
    lab.settle();
    assert!(lab.handle.events.try_recv().is_err(), "said once");
    lab.stop();
}

#[test]
fn stopping_in_the_middle_of_traffic_accounts_for_every_frame() {
    for workers in 1..=4u8 {
        let queues = usize::from(workers);
        let mut lab = Lab::new(Shape { workers, queues: [queues, queues], ..Shape::default() });
        let mut dice = Dice(9);
        for port in 0..3_000 {
            let to = if port % 7 == 0 { STRANGER } else { *outside(0).ip() };
            let packet = udp(LAN, inside(10, 5_000 + port), SocketAddrV4::new(to, 53), b"cut off");
            lab.wires[0][dice.below(queues)].send(&packet);
        }
        lab.stop();
    }
}

/// A door that does something before it receives.
struct Watched<F> {
    door: MemoryDoor,
    before: F,
}

impl<F: FnMut() + Send + 'static> Door for Watched<F> {
    fn receive(&mut self, max: u32, out: impl FnMut(FrameSpan)) -> Result<u32, SocketError> {
        (self.before)();
        self.door.receive(max, out)
    }
    fn refill(&mut self, pool: &mut FramePool) -> u32 {
        self.door.refill(pool)
    }
    fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        self.door.transmit(batch)
    }
    fn kick(&mut self) -> Result<Kick, SocketError> {
        self.door.kick()
    }
    fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        self.door.reclaim(pool)
    }
    fn waiting(&self) -> u32 {
        self.door.waiting()
    }
    fn frames_in_kernel(&self) -> u32 {
        self.door.frames_in_kernel()
    }
    fn poll_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.door.poll_fd()
    }
}

/// Sixteen workers, one queue out: what fifteen hand to its owner at once is more than waits for a ring that is full, and
/// this one is empty.
#[test]
fn bursts_of_all_workers_at_once_leave_by_one_queue() {
    const WORKERS: u8 = 16;
    let shut = Arc::new(AtomicBool::new(true));
    let shape = Shape {
        workers: WORKERS,
        queues: [WORKERS.into(), 1],
        frames: 49_152, // more than the doors hold between them
        depth: 2048,
        ..Shape::default()
    };
    let mut doors = 0;
    let mut lab = Lab::with_doors(shape, |door| {
        doors += 1;
        let shut = (doors == 1).then(|| Arc::clone(&shut)); // LAN, queue 0: worker 0
        let before = move || {
            while shut.as_ref().is_some_and(|shut| shut.load(Ordering::Relaxed)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Watched { door, before }
    });
    let sent = (WORKERS as usize - 1) * BURST_MAX;
    for worker in 1..usize::from(WORKERS) {
        let packet = udp(LAN, inside(10, port_of(&lab, worker)), outside(53), b"all at once");
        (0..BURST_MAX).for_each(|_| lab.send(LAN, worker, &packet));
    }
    lab.wait_for("all to be handed over", |lab| lab.handle.values().handed_out == sent as u64);
    shut.store(false, Ordering::Relaxed);
    let values = lab.settle();
    assert_eq!((values.forwarded, values.dropped()), (sent as u64, 0), "{:?}", drops(&values));
    lab.stop();
}

/// A packet on hold is looked at when something has changed that it may depend on, and now and then besides.
#[test]
fn held_packets_are_left_alone_while_nothing_changes() {
    let mut lab = Lab::new(Shape { workers: 1, queues: [1, 1], ..Shape::default() });
    let start = Instant::now();
    lab.send(LAN, 0, &udp(LAN, inside(10, 4000), SocketAddrV4::new(STRANGER, 53), b"wait"));
    lab.wait_for("the packet to be held", |lab| lab.handle.values().held == 1);
    std::thread::sleep(Duration::from_millis(250));
    let asked = lab.handle.wanted.try_iter().count();
    // Once as it came, and once in 100 ms.
    let most = 2 + start.elapsed().as_millis() as usize / 100;
    assert!((1..=most).contains(&asked), "its next hop was asked for {asked} times");
    let known = Neighbour { mac: PEER, state: NeighbourState::Reachable };
    lab.snapshot.neighbours.set(WAN, STRANGER.into(), known).expect("room");
    lab.expect(WAN);
    lab.settle();
    lab.stop();
}

#[test]
fn a_worker_that_panics_is_reported_and_what_it_owned_passes_nobody() {
    let lit = Arc::new(AtomicBool::new(false));
    let mut doors = 0;
    let mut lab = Lab::with_doors(Shape::default(), |door| {
        doors += 1;
        let lit = (doors == 2).then(|| Arc::clone(&lit)); // LAN, queue 1: worker 1
        let before = move || {
            let lit = lit.as_ref().is_some_and(|lit| lit.load(Ordering::Relaxed));
            assert!(!lit, "a bomb, as the test wants it");
        };
        Watched { door, before }
    });
    lit.store(true, Ordering::Relaxed);
    let event = lab.handle.events.recv_timeout(lab::PATIENCE).expect("reported");
    assert!(matches!(event, Event::Died(Node::Worker(id)) if id.index() == 1), "{event:?}");
    lab.wait_for("its end", |lab| lab.threads.any_finished());
    // The other goes on with what it owns; what the dead one owned goes nowhere.
    fn send(lab: &mut Lab<impl Door>, owner: usize, interface: InterfaceId) {
        let packet = udp(interface, inside(10, port_of(lab, owner)), outside(53), b"?");
        lab.send(interface, 0, &packet);
    }
    for _ in 0..2_000 {
        send(&mut lab, 1, LAN);
    }
    send(&mut lab, 0, LAN);
    lab.expect(WAN);
    assert!(lab.take(WAN).is_none());
    let values = lab.handle.workers[0].counters.values();
    assert!(count(&values, DropReason::HandOverFull) >= 2_000 - 512, "{:?}", drops(&values));
    assert_eq!(values.imbalance(), 0);
    lab.handle.stop();
    let remains = lab.threads.join();
    assert!(remains.workers[0].is_ok() && remains.workers[1].is_err() && remains.host.is_ok());
}
