//! Full tables and floods: what is established stays, what is new is a defined outcome.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_core::forward::NeighbourState;
use postern_core::pipeline::{WANTED_ASKERS_MAX, WANTED_SOURCE_MAX};
use postern_core::verdict::DropReason;
use postern_tests::packet::{echo_request, tcp, udp};
use postern_tests::{Firewall, Flow, HOST_WAN, Setup, WAN, for_workers, moved};

/// A client in the LAN, one of many.
fn client(number: u32) -> SocketAddr {
    let port = 10_000 + (number % 50_000) as u16;
    ([192, 168, 1, 100 + (number / 50_000) as u8], port).into()
}

fn established(count: u32, fw: &mut Firewall) -> Vec<Flow> {
    (0..count)
        .map(|i| {
            Flow::outward(SocketAddr::from(([192, 168, 1, 2], 2000 + i as u16)), "192.0.2.9:80")
        })
        .map(|flow| flow.open(fw))
        .collect()
}

/// C173, C039, C175
#[test]
fn a_syn_flood_evicts_only_half_open_connections() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup.capacity(128));
        let mut kept = established(20, &mut fw);
        fw.take_moved();
        for number in 0..3000 {
            fw.lan(tcp(client(number), "192.0.2.66:80").syn()).out(WAN);
        }
        assert!(fw.values().connections_evicted >= 3000 - 4 * 128);
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
        let mut canary = Flow::outward("192.168.1.3:3000", "192.0.2.9:80").open(&mut fw);
        canary.talk(&mut fw);
    });
}

/// C173: from outside against a forward.
#[test]
fn a_flood_through_a_forward_leaves_established_connections_alone() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup.capacity(64).forward_tcp(8080, "192.168.1.10:80"));
        let mut kept = established(10, &mut fw);
        let mut state = 7u32;
        for _ in 0..3000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, b, c, d] = state.to_be_bytes();
            let src: SocketAddr =
                ([198, 18 + (b & 1), c, d], 1024 + (state >> 7) as u16 % 60_000).into();
            fw.send(WAN, tcp(src, "203.0.113.2:8080").syn());
        }
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
    });
}

/// C175
#[test]
fn a_table_full_of_assured_connections_refuses_new_ones_and_harms_none() {
    let mut fw = Firewall::with(Setup::default().capacity(64));
    let mut kept = established(64, &mut fw);
    fw.take_moved();
    for number in 0..100 {
        let sent = fw.lan(udp(client(number), "192.0.2.66:53"));
        assert_eq!(sent.dropped(), DropReason::TableFull);
    }
    moved!(fw, received: 100, TableFull: 100);
    // As in conntrack, that is found before a rule is asked, whatever sort of packet it is.
    for first in [
        tcp("198.51.100.7:4000", "203.0.113.2:22").syn(),
        echo_request("198.51.100.7", "203.0.113.2", 7, 1),
    ] {
        assert_eq!(fw.wan(first).dropped(), DropReason::TableFull);
    }
    for flow in &mut kept {
        flow.talk(&mut fw);
    }
    // The other family has a table of its own.
    let mut v6 = Flow::outward("[2001:db8:1::2]:5000", "[2001:db8:9::9]:53");
    v6.exchange(&mut fw);
    // One goes, one comes.
    kept[0].client_fin(&mut fw);
    kept[0].server_fin(&mut fw);
    Flow::outward("192.168.1.3:3000", "192.0.2.9:80").open(&mut fw).talk(&mut fw);
    for flow in &mut kept[1..] {
        flow.talk(&mut fw);
    }
}

/// C175, C039: however few may go, each newcomer finds one; once all are assured, none.
#[test]
fn the_few_that_may_go_make_room_for_as_many_as_come() {
    let mut fw = Firewall::with(Setup::default().capacity(2000));
    let mut kept = established(1900, &mut fw);
    for number in 0..100 {
        fw.lan(udp(client(number), "192.0.2.66:53")).out(WAN);
    }
    fw.take_moved();
    let mut newcomers: Vec<_> = (0..100u16)
        .map(|i| Flow::outward(("192.168.1.4", 5000 + i), "192.0.2.9:80").open(&mut fw))
        .collect();
    assert_eq!(fw.values().connections_evicted, 100);
    let refused = fw.lan(udp("192.168.1.5:5000", "192.0.2.66:53"));
    assert_eq!(refused.dropped(), DropReason::TableFull);
    for flow in kept.iter_mut().chain(&mut newcomers) {
        flow.talk(&mut fw);
    }
}

/// Connections past their deadline make room although nobody tidied up, before any that lives.
#[test]
fn the_expired_make_room_first_even_assured_ones() {
    let mut fw = Firewall::with(Setup::default().capacity(64));
    established(32, &mut fw);
    fw.pass(Duration::from_millis(7_439_900));
    for number in 0..32 {
        fw.lan(udp(client(number), "192.0.2.66:53")).out(WAN);
    }
    fw.pass_untidied(Duration::from_millis(200));
    fw.take_moved();
    let mut newcomers: Vec<_> = (0..32u16)
        .map(|i| Flow::outward(("192.168.1.4", 5000 + i), "192.0.2.9:80").open(&mut fw))
        .collect();
    let values = fw.values();
    assert_eq!((values.connections_gone, values.connections_evicted), (32, 0));
    for flow in &mut newcomers {
        flow.talk(&mut fw);
    }
    assert_eq!(fw.connections().len(), 64);
}

/// C175: of those that may go, the unreplied ones go first.
#[test]
fn unreplied_entries_go_before_replied_ones() {
    let mut fw = Firewall::with(Setup::default().capacity(16));
    let mut replied: Vec<_> = (0..8u16)
        .map(|i| Flow::outward(SocketAddr::from(([192, 168, 1, 2], 2000 + i)), "192.0.2.9:53"))
        .collect();
    for flow in &mut replied {
        flow.exchange(&mut fw);
    }
    let ids: Vec<_> = fw.connections().iter().map(|c| c.id).collect();
    for number in 0..200 {
        assert_eq!(fw.lan(echo_request("192.168.1.3", "192.0.2.66", number, 1)).outs.len(), 1);
    }
    let left: Vec<_> = fw.connections().iter().map(|c| c.id).collect();
    assert!(ids.iter().all(|id| left.contains(id)), "{ids:?}, {left:?}");
    for flow in &mut replied {
        flow.exchange(&mut fw);
    }
}

/// C177
#[test]
fn after_a_burst_the_count_returns_to_where_it_was() {
    for_workers([1, 4], |setup| {
        let mut fw = Firewall::with(setup.capacity(4096));
        let mut kept = established(10, &mut fw);
        for number in 0..3000 {
            fw.lan(udp(client(number), "192.0.2.66:53"));
        }
        assert_eq!(fw.connections().len(), 3010);
        fw.pass_secs(31);
        assert_eq!(fw.connections().len(), 10);
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
    });
}

/// C175: when others have filled the table with connections that may not be evicted, the appliance's own still get a place: to it, from it, and
/// theirs are not the ones to go when others come.
#[test]
fn the_appliance_itself_has_places_of_its_own() {
    for_workers([1, 2, 4], |setup| {
        let workers = u32::from(setup.workers);
        let mut setup = setup.capacity(64);
        setup.options.pressure.headroom = [16; 2];
        setup.iptables("-I INPUT -i wan -p tcp --dport 22 -j ACCEPT");
        let mut fw = Firewall::with(setup);
        let mut state = 1u32;
        while fw.connections().len() < 48 * workers as usize {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut flow = Flow::outward(client(state >> 16), "192.0.2.9:80");
            if fw.lan(flow.syn()).outs.len() == 1 {
                flow.reopen(&mut fw);
            }
        }
        let refused = fw.lan(udp("192.168.1.3:3000", "192.0.2.66:53"));
        assert_eq!(refused.dropped(), DropReason::TableFull);
        let refused = fw.lan(tcp("192.168.1.3:3000", "192.0.2.66:80").syn());
        assert_eq!(refused.dropped(), DropReason::TableFull);
        // A login, and a question of its own.
        for port in 0..8 {
            fw.wan(tcp(("198.51.100.7", 4000 + port), "203.0.113.2:22").syn()).out(HOST_WAN);
            fw.send(HOST_WAN, udp(("203.0.113.2", 5000 + port), "192.0.2.53:53")).out(WAN);
        }
        // None of them, though unanswered, makes room for others.
        for number in 0..100 {
            let refused = fw.lan(udp(client(number), "192.0.2.66:53"));
            assert_eq!(refused.dropped(), DropReason::TableFull);
        }
        for port in 0..8 {
            fw.wan(udp("192.0.2.53:53", ("203.0.113.2", 5000 + port))).out(HOST_WAN);
        }
    });
}

/// Above the first fill timeouts of what may be evicted shrink in proportion; those of others do not.
#[test]
fn in_a_table_that_fills_up_the_unanswered_go_sooner() {
    let adaptive = |fill: u32, seconds: u64| {
        let mut setup = Setup::default().capacity(100);
        setup.options.pressure.adaptive = Some((60, 120));
        let mut fw = Firewall::with(setup);
        let mut kept = established(10, &mut fw);
        for number in 10..fill {
            fw.lan(udp(client(number), "192.0.2.66:53")).out(WAN);
        }
        fw.pass_secs(seconds);
        for flow in &mut kept {
            flow.talk(&mut fw);
        }
        assert_eq!(fw.values().connections_evicted, 0);
        fw.connections().len()
    };
    assert_eq!(adaptive(60, 29), 60, "not yet");
    assert_eq!(adaptive(90, 14), 90, "half of thirty seconds");
    // As they go there is less reason to: of 88 each has 16 seconds, of 87 half a second more.
    assert_eq!(adaptive(90, 16), 87);
    assert_eq!(adaptive(100, 9), 100);
    assert_eq!(adaptive(100, 29), 61, "hardly further than to where it begins");
    assert_eq!(adaptive(100, 31), 10);
}

/// C093: adjacent tuples fill the whole table without a bucket overflowing.
#[test]
fn adjacent_tuples_fill_the_table_without_crowding() {
    const COUNT: u32 = 100_000;
    let mut fw = Firewall::with(Setup::default().capacity(COUNT).routed());
    fw.private_may_leave = true;
    for number in 0..COUNT {
        let sent = fw.lan(udp(client(number), "192.0.2.66:53"));
        assert_eq!(sent.outs.len(), 1, "number {number}: {}", sent.describe());
    }
    let values = fw.values();
    assert_eq!(values.connections_new, u64::from(COUNT));
    assert_eq!(values.drops[DropReason::BucketFull as usize], 0);
    assert_eq!(values.connections_evicted, 0);
}

/// C080, C147: what is refused for want of room costs no state and no answer.
#[test]
fn a_refused_first_packet_leaves_nothing_behind() {
    let mut fw = Firewall::new();
    let refused = [
        udp("192.0.2.9:53", "203.0.113.2:5000"),
        tcp("192.0.2.9:53", "203.0.113.2:80").syn(),
        echo_request("192.0.2.9", "203.0.113.2", 1, 1),
        udp("192.0.2.9:53", "192.168.1.2:5000"),
    ];
    for pkt in refused.iter().cycle().take(1000) {
        assert_eq!(fw.wan(pkt).dropped(), DropReason::DeniedByPolicy);
    }
    moved!(fw, received: 1000, DeniedByPolicy: 1000);
    assert!(fw.connections().is_empty());
}

/// A scan of a network on the link by one host: what others want is asked for all the same, be it what the scan
/// wants, too, and the scanner gets its share.
#[test]
fn a_scan_leaves_room_for_what_its_neighbours_want() {
    let on_link = |host: u8| format!("203.0.113.{host}:9");
    let mut fw = Firewall::with(Setup::default().capacity(1024));
    for host in 10..=252 {
        fw.neighbour(WAN, IpAddr::from([203, 0, 113, host]), NeighbourState::Incomplete);
    }
    for host in 10..=250 {
        fw.lan(udp("192.168.1.50:4000", on_link(host).as_str())).held();
    }
    let wanted_by_all = [251, 10];
    for host in wanted_by_all {
        fw.lan(udp("192.168.1.60:4000", on_link(host).as_str())).held();
    }
    let wanted = fw.wanted();
    assert_eq!(wanted.len(), WANTED_SOURCE_MAX + wanted_by_all.len());
    for (place, host) in (WANTED_SOURCE_MAX..).zip(wanted_by_all) {
        assert_eq!(wanted[place], (WAN.interface(), [203, 0, 113, host].into()));
    }
    assert!(fw.wanted().is_empty());
    // A next hop that everybody wants takes a few places, not all.
    for host in 70..150 {
        let from = format!("192.168.1.{host}:4000");
        fw.lan(udp(from.as_str(), on_link(251).as_str())).held();
    }
    fw.lan(udp("192.168.1.60:4001", on_link(252).as_str())).held();
    assert_eq!(fw.wanted().len(), WANTED_ASKERS_MAX + 1);
}
