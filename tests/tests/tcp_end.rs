//! TCP: closing and resets.

use postern_core::conntrack::entry::flags;
use postern_core::conntrack::tcp::State;
use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::verdict::DropReason;
use postern_tests::packet::tcp;
use postern_tests::{Firewall, Flow, Setup, for_workers};
use std::time::Duration;

/// `tcp_close` of both profiles, and a second.
const AFTER_CLOSE: u64 = 11;
/// The transitory timeouts of profile `rfc`, and a second.
const AFTER_TRANSITORY: u64 = 241;

fn open(fw: &mut Firewall) -> Flow {
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(fw);
    f.talk(fw);
    f
}

fn state(fw: &Firewall) -> State {
    State::from_number(fw.connection().protocol_state)
}

/// C003
#[test]
fn a_reset_below_or_far_above_the_window_is_invalid_and_the_session_stays() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = open(&mut fw);
        for (side, seq) in [(0, f.seq[0] - 100), (1, 899_999), (0, f.seq[0] + 100_000_000)] {
            let reset = if side == 0 { tcp(f.client, f.dialled) } else { tcp(f.server, f.seen()) };
            let at = if side == 0 { f.client_at } else { f.server_at };
            let sent = fw.send(at, reset.rst().seq(seq));
            assert_eq!(sent.dropped(), DropReason::TcpRstSequence, "{seq}");
        }
        fw.pass_secs(AFTER_CLOSE);
        f.talk(&mut fw);
        assert_eq!(state(&fw), State::Established);
    });
}

/// C003: within the window but not exact, it is let through as RFC 5961 §3 has it, and ends nothing if
/// the session goes on.
#[test]
fn an_inexact_reset_within_the_window_does_not_end_a_session_that_goes_on() {
    let mut fw = Firewall::new();
    let mut f = open(&mut fw);
    f.s2c(&mut fw, &tcp(f.server, f.seen()).rst().seq(f.seq[1] + 1000));
    // The client's challenge ACK.
    f.c2s(&mut fw, &f.client_segment());
    fw.pass_secs(AFTER_CLOSE);
    f.talk(&mut fw);
}

/// C005
#[test]
fn an_exact_reset_crosses_and_the_session_ends() {
    for from_server in [true, false] {
        for_workers([1, 2], |setup| {
            let mut fw = Firewall::with(setup);
            let mut f = open(&mut fw);
            if from_server {
                f.s2c(&mut fw, &tcp(f.server, f.seen()).rst().seq(f.seq[1]));
            } else {
                f.c2s(&mut fw, &tcp(f.client, f.dialled).rst().seq(f.seq[0]));
            }
            assert_eq!(state(&fw), State::Close);
            assert_ne!(fw.connection().flags & flags::CLOSED, 0);
            let data = f.server_segment().payload(b"late");
            assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::ConnectionClosed);
            fw.pass_secs(AFTER_CLOSE);
            assert!(fw.connections().is_empty());
            assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::TcpNotSyn);
        });
    }
}

/// C007
#[test]
fn while_closing_a_reset_with_an_old_sequence_number_still_crosses() {
    let mut fw = Firewall::new();
    let mut f = open(&mut fw);
    let old = f.seq[1] - 500;
    f.s2c(&mut fw, &f.server_segment().fin());
    f.c2s(&mut fw, &tcp(f.client, f.dialled).rst().seq(f.seq[0]));
    f.s2c(&mut fw, &tcp(f.server, f.seen()).rst().seq(old));
}

/// C020
#[test]
fn a_forged_fin_outside_the_window_is_not_believed() {
    let mut fw = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80");
    f.c2s(&mut fw, &f.syn().window(1024));
    f.s2c(&mut fw, &f.syn_ack().window(1024));
    f.c2s(&mut fw, &f.client_segment().window(1024));
    let forged = f.server_segment().fin().seq(f.seq[1] + 5_000_000);
    assert_eq!(f.try_s2c(&mut fw, &forged).dropped(), DropReason::TcpBeyondWindow);
    fw.pass_secs(AFTER_TRANSITORY);
    f.talk(&mut fw);
    assert_eq!(state(&fw), State::Established);
}

/// C026
#[test]
fn after_one_fin_the_other_direction_carries_data_until_its_own() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = open(&mut fw);
        f.client_fin(&mut fw);
        for _ in 0..5 {
            fw.pass_secs(100);
            f.server_data(&mut fw, 1000);
        }
        assert_eq!(state(&fw), State::CloseWait);
        f.server_fin(&mut fw);
        assert_eq!(state(&fw), State::TimeWait);
    });
}

/// C028
#[test]
fn after_both_fins_and_time_wait_nothing_from_outside_crosses() {
    let mut fw = Firewall::new();
    let mut f = open(&mut fw);
    f.client_fin(&mut fw);
    f.server_fin(&mut fw);
    // While it lingers: what was sent before may come again, nothing new may.
    f.s2c(&mut fw, &f.server_segment().seq(f.seq[1] - 1).fin());
    let data = f.server_segment().payload(b"more");
    assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::ConnectionClosed);
    fw.pass_secs(AFTER_TRANSITORY);
    assert!(fw.connections().is_empty());
    for late in [f.server_segment(), data] {
        assert_eq!(f.try_s2c(&mut fw, &late).dropped(), DropReason::TcpNotSyn);
    }
}

/// C029
#[test]
fn a_tuple_in_time_wait_is_reopened_by_a_syn() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = open(&mut fw);
        let seen = f.seen();
        f.client_fin(&mut fw);
        f.server_fin(&mut fw);
        assert_eq!(state(&fw), State::TimeWait);
        fw.pass_secs(1);
        f.seq = [f.seq[0] + 100_000, 77];
        f.reopen(&mut fw);
        f.talk(&mut fw);
        assert_eq!(f.seen(), seen);
        assert_eq!(state(&fw), State::Established);
        fw.pass_secs(AFTER_TRANSITORY);
        f.talk(&mut fw);
    });
}

/// C036: the receiver misses a segment; a reset at the first byte it misses.
#[test]
fn a_reset_before_a_gap_does_not_make_the_session_vanish_at_once() {
    let mut fw = Firewall::new();
    let mut f = open(&mut fw);
    // 1000 bytes are lost before us; the next 1000 cross, and are not acknowledged.
    f.s2c(&mut fw, &f.server_segment().seq(f.seq[1] + 1000).payload([b's'; 1000]));
    f.c2s(&mut fw, &f.client_segment());
    f.s2c(&mut fw, &tcp(f.server, f.seen()).rst().seq(f.seq[1]));
    assert_eq!(fw.connections().len(), 1);
    fw.pass_secs(AFTER_CLOSE);
    assert!(fw.connections().is_empty());
}

/// C037
#[test]
fn simultaneous_close_ends_in_time_wait() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = open(&mut fw);
        f.c2s(&mut fw, &f.client_segment().fin());
        f.s2c(&mut fw, &f.server_segment().fin());
        f.seq = [f.seq[0] + 1, f.seq[1] + 1];
        f.c2s(&mut fw, &f.client_segment());
        f.s2c(&mut fw, &f.server_segment());
        assert_eq!(state(&fw), State::TimeWait);
        fw.pass_secs(AFTER_TRANSITORY);
        assert!(fw.connections().is_empty());
    });
}

/// C005, C039: a reset before any reply takes the entry with it.
#[test]
fn a_client_that_gives_up_leaves_nothing_behind() {
    let mut fw = Firewall::new();
    let mut f = Flow::outward("192.168.1.2:5000", "192.0.2.9:80");
    f.c2s(&mut fw, &f.syn());
    f.c2s(&mut fw, &tcp(f.client, f.dialled).rst().seq(f.seq[0]));
    assert!(fw.connections().is_empty());
}

/// C026: the half-closed state has its own timeout.
#[test]
fn a_half_closed_session_goes_after_its_timeout() {
    let setup = Setup::default().timeout(TimeoutKind::TcpCloseWait, Duration::from_secs(50));
    let mut fw = Firewall::with(setup);
    let mut f = open(&mut fw);
    f.client_fin(&mut fw);
    fw.pass_secs(49);
    f.server_data(&mut fw, 10);
    fw.pass_secs(51);
    let data = f.server_segment().payload(b"late");
    assert_eq!(f.try_s2c(&mut fw, &data).dropped(), DropReason::TcpNotSyn);
}
