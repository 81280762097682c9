//! Timeouts: each works until its time, and no longer.

use std::net::SocketAddr;
use std::time::Duration;

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::timeouts::{TimeoutKind, Timeouts};
use postern_core::verdict::DropReason;
use postern_tests::flow::Ping;
use postern_tests::packet::{other, tcp, udp};
use postern_tests::{Firewall, Flow, LAN, Setup, WAN, for_workers};

fn dns() -> Flow {
    Flow::outward("192.168.1.2:5000", "192.0.2.9:53")
}

/// A moment before a timeout, and the moment of it.
fn around(seconds: u64) -> [Duration; 2] {
    [Duration::from_millis(seconds * 1000 - 1), Duration::from_secs(seconds)]
}

/// RFC 5382 REQ-5, RFC 7857 §2.1, RFC 4787 REQ-5, RFC 5508 REQ-2: what holds where nobody says otherwise.
#[test]
fn defaults_are_no_shorter_than_the_rfcs_want() {
    use TimeoutKind::*;
    const TRANSITORY: u64 = 4 * 60;
    let timeouts = Setup::default().timeouts;
    assert_eq!(timeouts, Timeouts::default());
    for (kind, least) in [
        (TcpEstablished, 2 * 60 * 60 + 4 * 60),
        (TcpSynSent, TRANSITORY),
        (TcpSynRecv, TRANSITORY),
        (TcpFinWait, TRANSITORY),
        (TcpCloseWait, TRANSITORY),
        (TcpLastAck, TRANSITORY),
        (TcpTimeWait, TRANSITORY),
        (TcpMaxRetrans, TRANSITORY),
        (TcpUnacknowledged, TRANSITORY),
        (UdpStream, 5 * 60),
        (Icmp, 60),
        (IcmpV6, 60),
    ] {
        let ms = timeouts.ms(kind);
        assert!(u64::from(ms) >= least * 1000, "{kind:?}: {ms} ms");
    }
}

/// C181
#[test]
fn an_unreplied_udp_mapping_works_until_its_timeout_and_not_after() {
    for linux in [false, true] {
        let setup = if linux { Setup::default().linux_timeouts() } else { Setup::default() };
        let [before, after] = around(30);
        let mut fw = Firewall::with(setup.clone());
        let mut flow = dns();
        flow.c2s(&mut fw, &flow.ask());
        fw.pass(before);
        flow.s2c(&mut fw, &flow.tell());

        let mut fw = Firewall::with(setup);
        flow.c2s(&mut fw, &flow.ask());
        fw.pass(after);
        assert_eq!(flow.try_s2c(&mut fw, &flow.tell()).dropped(), DropReason::DeniedByPolicy);
    }
}

/// C181: past its deadline an entry counts as absent although nobody tidied up.
#[test]
fn a_timeout_holds_to_the_millisecond_without_housekeeping() {
    let mut fw = Firewall::new();
    let mut flow = dns();
    flow.c2s(&mut fw, &flow.ask());
    fw.pass_untidied(Duration::from_secs(30));
    assert!(fw.connections().is_empty());
    assert_eq!(flow.try_s2c(&mut fw, &flow.tell()).dropped(), DropReason::DeniedByPolicy);
    // And its tuple may be taken up anew.
    flow.exchange(&mut fw);
    // By another inside endpoint too, although the old entry still stands in the table.
    fw.pass_untidied(Duration::from_secs(31));
    let mut rival = Flow::outward("192.168.1.3:5000", "192.0.2.9:53");
    rival.exchange(&mut fw);
    assert_eq!(rival.seen().port(), 5000);
    assert_eq!(fw.connections().len(), 1);
}

/// C182
#[test]
fn a_udp_stream_lives_longer_is_refreshed_outbound_and_ends() {
    for (setup, stream) in [(Setup::default(), 300), (Setup::default().linux_timeouts(), 120)] {
        let mut fw = Firewall::with(setup);
        let mut flow = dns();
        flow.exchange(&mut fw);
        fw.pass_secs(3);
        flow.exchange(&mut fw);
        assert_ne!(fw.connection().flags & flags::ASSURED, 0);
        let [before, after] = around(stream);
        fw.pass(before);
        flow.c2s(&mut fw, &flow.ask());
        fw.pass(before);
        flow.s2c(&mut fw, &flow.tell());
        fw.pass(after);
        assert!(fw.connections().is_empty());
        assert_eq!(flow.try_s2c(&mut fw, &flow.tell()).dropped(), DropReason::DeniedByPolicy);
    }
}

/// C182: a question and its answer do not make a stream.
#[test]
fn a_short_exchange_keeps_the_short_timeout() {
    let mut fw = Firewall::new();
    let mut flow = dns();
    flow.exchange(&mut fw);
    fw.pass_secs(31);
    assert!(fw.connections().is_empty());
}

/// C183
#[test]
fn an_unanswered_syn_goes_after_its_timeout_however_often_it_is_sent() {
    for (setup, timeout) in [(Setup::default(), 240), (Setup::default().linux_timeouts(), 120)] {
        let [before, after] = around(timeout);
        let mut fw = Firewall::with(setup.clone());
        let mut flow = Flow::outward("192.168.1.2:5000", "192.0.2.9:80");
        flow.c2s(&mut fw, &flow.syn());
        fw.pass(before);
        flow.s2c(&mut fw, &flow.syn_ack());

        let mut fw = Firewall::with(setup);
        flow.c2s(&mut fw, &flow.syn());
        fw.pass_secs(100);
        flow.c2s(&mut fw, &flow.syn());
        fw.pass(after - Duration::from_secs(100));
        assert!(fw.connections().is_empty(), "a retransmission extends nothing");
        assert_eq!(flow.try_s2c(&mut fw, &flow.syn_ack()).dropped(), DropReason::TcpNotSyn);
    }
}

/// C183: each state of TCP has the timeout of its row.
#[test]
fn every_state_of_tcp_has_its_own_timeout() {
    use TimeoutKind::{
        TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynRecv, TcpTimeWait,
    };
    // Each row another number of seconds.
    let kinds = [TcpSynRecv, TcpEstablished, TcpFinWait, TcpCloseWait, TcpLastAck, TcpTimeWait];
    let setup = kinds.iter().zip(1..).fold(Setup::default(), |setup, (&kind, n)| {
        setup.timeout(kind, Duration::from_secs(100 + 10 * n))
    });
    for (kind, n) in kinds.iter().zip(1..) {
        let mut fw = Firewall::with(setup.clone());
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80");
        f.c2s(&mut fw, &f.syn());
        f.s2c(&mut fw, &f.syn_ack());
        if *kind != TcpSynRecv {
            f.c2s(&mut fw, &f.client_segment());
        }
        if matches!(kind, TcpFinWait | TcpCloseWait | TcpLastAck | TcpTimeWait) {
            f.c2s(&mut fw, &f.client_segment().fin());
            f.seq[0] += 1;
        }
        if matches!(kind, TcpCloseWait | TcpLastAck | TcpTimeWait) {
            f.s2c(&mut fw, &f.server_segment());
        }
        if matches!(kind, TcpLastAck | TcpTimeWait) {
            f.s2c(&mut fw, &f.server_segment().fin());
            f.seq[1] += 1;
        }
        if *kind == TcpTimeWait {
            f.c2s(&mut fw, &f.client_segment());
        }
        let [before, after] = around(100 + 10 * n);
        fw.pass(before);
        assert_eq!(fw.connections().len(), 1, "{kind:?}");
        fw.pass(after - before);
        assert_eq!(fw.connections().len(), 0, "{kind:?}");
    }
}

/// C183: an established connection's default outlives two hours (RFC 5382 REQ-5).
#[test]
fn an_idle_established_connection_lives_for_two_hours_and_four_minutes() {
    let mut fw = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
    f.talk(&mut fw);
    let [before, after] = around(7440);
    fw.pass(before);
    f.talk(&mut fw);
    fw.pass(after);
    let data = f.server_segment().payload(b"late");
    assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::TcpNotSyn);
}

/// C183: data that is never acknowledged, and segments sent again and again, shorten it.
#[test]
fn unacknowledged_data_shortens_the_timeout() {
    let mut fw = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
    f.talk(&mut fw);
    let data = f.client_segment().payload([b'x'; 10]);
    f.c2s(&mut fw, &data);
    fw.pass_secs(299);
    f.c2s(&mut fw, &data);
    fw.pass_secs(301);
    assert!(fw.connections().is_empty());
}

/// C185
#[test]
fn an_icmp_query_works_until_its_timeout_and_not_after() {
    for (setup, timeout) in [(Setup::default(), 60), (Setup::default().linux_timeouts(), 30)] {
        let [before, after] = around(timeout);
        let mut fw = Firewall::with(setup.clone());
        let mut ping = Ping::outward("192.168.1.2", "192.0.2.9", 7);
        ping.ask(&mut fw, 1);
        fw.pass(before);
        ping.tell(&mut fw, 1);
        fw.pass(after);
        assert_eq!(fw.wan(ping.reply(1)).dropped(), DropReason::IcmpNotQuery);
    }
}

/// C185: protocols that Postern does not know by name.
#[test]
fn other_protocols_have_the_generic_timeout() {
    let mut fw = Firewall::new();
    fw.lan(other("192.168.1.2", "192.0.2.9", 50, b"esp")).out(WAN);
    let [before, after] = around(600);
    fw.pass(before);
    fw.wan(other("192.0.2.9", "203.0.113.2", 50, b"esp")).out(LAN);
    fw.pass(after);
    let late = other("192.0.2.9", "203.0.113.2", 50, b"esp");
    assert_eq!(fw.wan(late).dropped(), DropReason::DeniedByPolicy);
}

/// C186: per-rule timeouts are left for later; a longer default holds from a connection's next packet on, a shorter
/// one for idle connections too.
#[test]
fn a_longer_timeout_holds_from_the_next_packet_on_and_a_shorter_one_at_once() {
    let mut fw = Firewall::new();
    let mut first = dns();
    first.exchange(&mut fw);
    let mut second = Flow::outward("192.168.1.3:6000", "192.0.2.9:53");
    second.exchange(&mut fw);
    fw.change(|setup| setup.timeouts.set(TimeoutKind::Udp, Duration::from_secs(100)));
    second.c2s(&mut fw, &second.ask());
    fw.pass_secs(31);
    assert_eq!(fw.connection().original.src().to_string(), "192.168.1.3");
    fw.pass_secs(68);
    assert_eq!(fw.connections().len(), 1);
    fw.change(|setup| setup.timeouts.set(TimeoutKind::Udp, Duration::from_secs(10)));
    fw.pass_secs(11);
    assert!(fw.connections().is_empty());
}

/// C189, C177: a hundred thousand go within a second of their time, in slices.
#[test]
fn a_hundred_thousand_connections_expire_on_time_and_in_slices() {
    const COUNT: u32 = 100_000;
    let mut fw = Firewall::with(Setup::default().capacity(COUNT));
    for host in 0..COUNT / 1000 {
        for port in 0..1000u16 {
            let client = SocketAddr::from(([192, 168, 1, 2 + host as u8], 20_000 + port));
            let server = SocketAddr::from(([192, 0, 2, 2 + host as u8], 53));
            fw.lan(udp(client, server)).out(WAN);
        }
    }
    let live = |fw: &mut Firewall| fw.pipeline(0).connections();
    assert_eq!(live(&mut fw), COUNT);
    fw.pass(Duration::from_millis(29_990));
    assert_eq!(live(&mut fw), COUNT);
    // Not more than a slice at a time; and there are enough slices in a second.
    fw.pass_untidied(Duration::from_millis(110));
    let mut slices = 0;
    while live(&mut fw) > 0 {
        let before = live(&mut fw);
        fw.housekeep(1024);
        assert!(before - live(&mut fw) <= 1024);
        slices += 1;
        assert!(slices < 200);
    }
}

/// C189: after a pause of any length, as of a suspended machine, the wheel catches up.
#[test]
fn the_wheel_catches_up_after_any_pause() {
    for days in [0, 1, 9, 24, 49, 50, 100] {
        let mut fw = Firewall::new();
        let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(&mut fw);
        for _ in 0..days {
            fw.pass_secs(86_400);
        }
        fw.pass_secs(7440);
        assert!(fw.connections().is_empty(), "{days} days");
        f.reopen(&mut fw);
        f.talk(&mut fw);
    }
}

/// C181: the two directions of a connection time out together wherever they are received.
#[test]
fn timeouts_do_not_depend_on_the_worker() {
    for_workers([2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        for port in 5000..5032 {
            let mut flow = Flow::outward(("192.168.1.2", port), "192.0.2.9:53");
            flow.c2s(&mut fw, &flow.ask());
            fw.pass_secs(29);
            flow.s2c(&mut fw, &flow.tell());
            fw.pass_secs(30);
            assert_eq!(flow.try_s2c(&mut fw, &flow.tell()).dropped(), DropReason::DeniedByPolicy);
        }
        assert!(fw.lan(tcp("192.168.1.2:1", "192.0.2.9:80").ack(1)).is_silent());
    });
}
