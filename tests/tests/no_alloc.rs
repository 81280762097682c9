//! After start the core allocates nothing and frees nothing, whatever it does: a counting allocator watches
//! every call into it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;

use postern_core::forward::NeighbourState;
use postern_core::helper::{Helpers, Kind};
use postern_core::pipeline::{Cursor, Filter};
use postern_core::rules::Independence;
use postern_core::units::WorkerId;
use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::fragments::cut_to;
use postern_tests::packet::{MORE_FRAGMENTS, Pkt, icmp, other, tcp, udp};
use postern_tests::sent::{arp, frame};
use postern_tests::setup::host_mac;
use postern_tests::{Firewall, Flow, LAN, Setup, WAN, for_workers};

struct Counting;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    if WATCHING.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is the system allocator's; counting touches nothing but two cells of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn watch(inside: bool) {
    if inside {
        CALLS.set(CALLS.get() + 1);
    }
    WATCHING.set(inside);
}

fn watched(setup: Setup) -> Firewall {
    let mut fw = Firewall::with(setup);
    fw.watch = watch;
    fw
}

/// Nothing was allocated, and the core was called at all.
#[track_caller]
fn nothing_was_allocated() {
    assert!(CALLS.take() > 0);
    assert_eq!(COUNT.take(), 0, "allocations, reallocations and frees within the core");
}

/// The watch itself works.
#[test]
fn an_allocation_would_be_seen() {
    watch(true);
    drop(std::hint::black_box(Box::new(1)));
    watch(false);
    assert_eq!(COUNT.take(), 2);
}

#[test]
fn first_packets_and_established_ones() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = watched(setup.forward_tcp(8080, "192.168.1.10:80"));
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        f.talk(&mut fw);
        f.client_fin(&mut fw);
        f.server_fin(&mut fw);
        Flow::outward("192.168.1.2:5000", "192.0.2.9:53").exchange(&mut fw);
        Flow::outward("192.168.1.3:5000", "192.0.2.9:53").exchange(&mut fw);
        Flow::outward("[2001:db8:1::2]:5000", "[2001:db8:9::9]:53").open(&mut fw).talk(&mut fw);
        Flow::inward("192.0.2.7:40000", "203.0.113.2:8080", "192.168.1.10:80")
            .open(&mut fw)
            .talk(&mut fw);
        let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 7);
        ping.ask(&mut fw, 1);
        ping.tell(&mut fw, 1);
        fw.lan(other("192.168.1.2", "192.0.2.9", 47, b"gre")).out(WAN);
    });
    nothing_was_allocated();
}

#[test]
fn drops_answers_and_errors() {
    let mut setup = Setup::default();
    setup.iptables("-I FORWARD -p tcp --dport 25 -j REJECT --reject-with tcp-reset");
    setup.iptables("-I FORWARD -p udp --dport 25 -j REJECT");
    let mut fw = watched(setup);
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    let arrived = f.c2s(&mut fw, &f.ask());
    fw.wan(icmp("198.51.100.1", "203.0.113.2", 11, 0, 0, &arrived.build())).out(LAN);
    fw.wan(icmp("198.51.100.1", "203.0.113.2", 11, 0, 0, &arrived.build()[..20]));
    fw.lan(f.ask().ttl(1)).answer(LAN);
    fw.lan(udp("[2001:db8:1::2]:5000", "[2001:db8:9::9]:53").ttl(1)).answer(LAN);
    fw.lan(f.ask().df().len(1501));
    fw.lan(udp("192.168.1.2:5000", "192.0.2.9:25")).answer(LAN);
    fw.lan(tcp("192.168.1.2:5000", "192.0.2.9:25").syn()).answer(LAN);
    fw.lan(tcp("192.168.1.2:5000", "192.0.2.9:80").ack(1));
    fw.lan(tcp("192.168.1.2:5000", "192.0.2.9:80").flags(0));
    fw.lan(Pkt { fragment: MORE_FRAGMENTS, ..f.ask() });
    fw.wan(udp("192.0.2.9:53", "203.0.113.2:9"));
    fw.wan(udp("192.168.1.2:53", "203.0.113.2:9"));
    let question = arp(
        1,
        (host_mac([192, 168, 1, 2].into()), [192, 168, 1, 2]),
        (host_mac([0; 4].into()), [192, 168, 1, 1]),
    );
    fw.send_frame(
        LAN,
        &frame(
            postern_core::units::Mac::BROADCAST,
            host_mac([192, 168, 1, 2].into()),
            0x0806,
            &question,
        ),
    );
    for len in 0..60 {
        let bytes = fw.frame(LAN, &f.ask().build());
        fw.send_frame(LAN, &bytes[..len.min(bytes.len())]);
    }
    nothing_was_allocated();
}

#[test]
fn fragments_gathered_refused_and_cut() {
    for_workers([1, 2], |setup| {
        let mut fw = watched(setup.mtu(WAN, 1_000));
        let long = udp("192.168.1.2:5000", "192.0.2.9:53").len(8_000);
        for id in 0..200 {
            let fragments = cut_to(&long.clone().id(id).build(), 0, 1_500);
            let count = if id % 3 == 0 { fragments.len() } else { 2 };
            fragments.into_iter().rev().take(count).for_each(|bytes| drop(fw.lan(bytes)));
        }
        fw.pass_secs(60);
        fw.lan(long.id(1).len(1_400));
        assert!(fw.values().generated > 100 && fw.values().dropped() > 100);
    });
    nothing_was_allocated();
}

#[test]
fn a_full_table_and_exhausted_ports() {
    let mut fw = watched(Setup::default().capacity(32));
    for i in 0..32u16 {
        Flow::outward(SocketAddr::from(([192, 168, 1, 2], 2000 + i)), "192.0.2.9:80").open(&mut fw);
    }
    for i in 0..100u16 {
        let sent = fw.lan(udp(SocketAddr::from(([192, 168, 1, 3], 2000 + i)), "192.0.2.9:80"));
        assert_eq!(sent.dropped(), DropReason::TableFull);
    }
    let mut fw = watched(Setup::default().capacity(32));
    for i in 0..200u16 {
        fw.lan(udp(SocketAddr::from(([192, 168, 1, 3], 2000 + i)), "192.0.2.9:80")).out(WAN);
    }
    assert!(fw.values().connections_evicted > 100);
    let mut fw = watched(Setup::default().workers(16));
    for i in 2..100u8 {
        fw.lan(udp(SocketAddr::from(([192, 168, 1, i], 500)), "192.0.2.9:500"));
    }
    assert!(fw.values().drops[DropReason::PortsExhausted as usize] > 0);
    nothing_was_allocated();
}

#[test]
fn holding_resuming_and_refusing() {
    let mut fw = watched(Setup::default());
    fw.neighbour(WAN, "203.0.113.1", NeighbourState::Incomplete);
    let f = Flow::outward("192.168.1.2:5000", "192.0.2.9:53");
    for _ in 0..10 {
        f.try_c2s(&mut fw, &f.ask()).held();
    }
    assert!(fw.resume().is_silent());
    fw.neighbour(WAN, "203.0.113.1", NeighbourState::Reachable);
    assert_eq!(fw.resume().outs.len(), 10);
    fw.neighbour(WAN, "203.0.113.1", NeighbourState::Failed);
    f.try_c2s(&mut fw, &f.ask()).answer(LAN);
    nothing_was_allocated();
}

#[test]
fn helpers_expectations_and_triggers() {
    let mut setup = Setup::default().trigger_udp(6112, (6113, 6115), 60);
    setup.options.helpers = Kind::ALL.into_iter().fold(Helpers::NONE, Helpers::with);
    let mut fw = watched(setup);
    let mut f = Flow::outward("192.168.1.200:5000", "192.0.2.9:21").open(&mut fw);
    // Each of the two commands gets two bytes shorter.
    for (text, shorter) in [
        ("USER me\r\n", 0),
        ("PORT 192,168,1,200,156,64\r\n", 2),
        ("EPRT |1|192.168.1.200|40002|\r\n", 4),
    ] {
        fw.lan(f.client_segment().payload(text)).out(WAN);
        f.seq[0] += text.len() as u32;
        fw.wan(f.server_segment().ack(f.seq[0] - shorter)).out(LAN);
    }
    assert_eq!(fw.values().expectations_made, 2);
    fw.wan(tcp("192.0.2.9:20", "203.0.113.2:40002").syn()).out(LAN);
    fw.lan(udp("192.168.1.2:5000", "192.0.2.9:69").payload("\0\x01f\0octet\0")).out(WAN);
    fw.lan(udp("192.168.1.2:5000", "192.0.2.9:6112")).out(WAN);
    fw.wan(udp("192.0.2.77:5000", "203.0.113.2:6114")).out(LAN);
    fw.lan(f.client_segment().rst()).out(WAN);
    fw.pass_secs(10_000);
    assert_eq!(fw.snapshot().expectations.len(), 0);
    nothing_was_allocated();
}

#[test]
fn endpoint_independent_mappings() {
    let mut setup = Setup { mappings: 8, ..Setup::default().capacity(64) };
    setup.interfaces[1].independent = Some(Independence::Filtering);
    let mut fw = watched(setup);
    for port in 5000..5010 {
        let mut out = Flow::outward(("192.168.1.200", port), "192.0.2.9:53");
        out.exchange(&mut fw);
        // One place is for the host that dials from inside.
        if port < 5007 {
            Flow::inward("192.0.2.77:4000", out.seen(), out.client).exchange(&mut fw);
            let hairpin = Flow::between(LAN, ("192.168.1.201", 5000), LAN, out.client);
            Flow { dialled: out.seen(), ..hairpin }.exchange(&mut fw);
        }
    }
    assert!(fw.values().mappings_made == 8 && fw.values().mappings_refused > 0);
    fw.pass_secs(10_000);
    assert_eq!(fw.snapshot().mappings.len(), 0);
    nothing_was_allocated();
}

#[test]
fn changes_epochs_sweeps_expiry_and_dumps() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = watched(setup);
        let mut flows: Vec<_> = (0..20u16)
            .map(|i| Flow::outward(SocketAddr::from(([192, 168, 1, 2], 2000 + i)), "192.0.2.9:53"))
            .collect();
        for flow in &mut flows {
            flow.exchange(&mut fw);
        }
        for i in 0..3 {
            fw.change(|setup| {
                setup.add_forward(17, (2000 + 4 * i, 2000 + 4 * i), "192.168.1.10:53")
            });
            for flow in &mut flows {
                flow.exchange(&mut fw);
            }
        }
        watch(true);
        let now = fw.now;
        let mut seen = 0;
        fw.pipeline(0)
            .visit(WorkerId(0), Cursor::default(), 100, &Filter::default(), now, |_| seen += 1);
        watch(false);
        fw.change(|setup| setup.set_addresses(WAN, &["203.0.113.9/24"]));
        fw.pass_secs(1);
        assert!(fw.connections().is_empty());
        for flow in &mut flows {
            flow.seen = None;
            flow.exchange(&mut fw);
        }
        fw.pass_secs(1000);
        assert!(fw.connections().is_empty());
    });
    nothing_was_allocated();
}
