//! Closing: FINs, half-closed connections, TIME_WAIT.

use super::*;

#[test]
fn a_half_closed_connection_carries_data_the_other_way() {
    // [C026] Also after the first FIN was retransmitted.
    let mut wire = established();
    wire.play(&[
        (Original, F | A, 1_001, 5_001, 8_192, 0, Pass),
        (Original, F | A, 1_001, 5_001, 8_192, 0, Pass),
    ]);
    wire.is(State::FinWait);
    wire.play(&[(Reply, A, 5_001, 1_002, 8_192, 0, Pass)]).is(State::CloseWait);
    wire.play(&[(Original, F | A, 1_001, 5_001, 8_192, 0, Pass)]).is(State::CloseWait);
    for i in 0..5 {
        wire.play(&[
            (Reply, A, 5_001 + i * 1_000, 1_002, 8_192, 1_000, Pass),
            (Original, A, 1_002, 6_001 + i * 1_000, 8_192, 0, Pass),
        ]);
    }
    wire.is(State::CloseWait);
    wire.play(&[
        (Reply, F | A, 10_001, 1_002, 8_192, 0, Pass),
        (Original, A, 1_002, 10_002, 8_192, 0, Pass),
    ]);
    wire.is(State::TimeWait);
}

#[test]
fn a_close_by_the_server_ends_the_same_way() {
    let mut wire = established();
    wire.play(&[
        (Reply, F | A, 5_001, 1_001, 8_192, 0, Pass),
        (Original, A, 1_001, 5_002, 8_192, 0, Pass),
        (Original, A, 1_001, 5_002, 8_192, 500, Pass),
        (Reply, A, 5_002, 1_501, 8_192, 0, Pass),
        (Original, F | A, 1_501, 5_002, 8_192, 0, Pass),
        (Original, F | A, 1_501, 5_002, 8_192, 0, Pass),
        (Reply, A, 5_002, 1_502, 8_192, 0, Pass),
    ]);
    wire.is(State::TimeWait);
}

#[test]
fn a_simultaneous_close_ends_in_time_wait() {
    // [C037] RFC 9293 §3.6 figure 13.
    let mut wire = established();
    wire.play(&[
        (Original, F | A, 1_001, 5_001, 8_192, 0, Pass),
        (Reply, F | A, 5_001, 1_001, 8_192, 0, Pass),
    ]);
    wire.is(State::LastAck);
    wire.play(&[
        (Original, A, 1_002, 5_002, 8_192, 0, Pass),
        (Reply, A, 5_002, 1_002, 8_192, 0, Pass),
    ]);
    wire.is(State::TimeWait).wait_s(239);
    assert!(wire.left_ms() > 0);
    wire.wait_s(1);
    assert!(wire.left_ms() <= 0, "gone after the timeout");
}

#[test]
fn a_fin_outside_the_window_is_not_believed() {
    // [C020]
    let mut wire = established();
    unmoved(&mut wire, (Reply, F | A, 5_005_001, 1_001, 8_192, 0, Refused(TcpBeyondWindow)));
    wire.wait_s(400);
    wire.play(&[
        (Reply, A, 5_001, 1_001, 8_192, 100, Pass),
        (Original, A, 1_001, 5_101, 8_192, 100, Pass),
        (Reply, A, 5_101, 1_101, 8_192, 0, Pass),
    ]);
    wire.is(State::Established);
}

#[test]
fn a_refused_rst_that_answers_a_refused_fin_lets_go_sooner() {
    // Both peers insist, we do not understand: not 7440 s, but 300 from now.
    let mut wire = established();
    wire.wait_s(1_000);
    wire.play(&[(Reply, F | A, 5_005_001, 1_001, 8_192, 0, Refused(TcpBeyondWindow))]);
    assert_eq!(wire.left_ms(), 6_440_000);
    wire.play(&[(Original, R | A, 1_000_000, 5_001, 0, 0, Refused(TcpRstSequence))]);
    assert_eq!(wire.left_ms(), 300_000);
    wire.play(&[(Original, A, 1_001, 5_001, 8_192, 0, Pass)]);
    assert_eq!(wire.left_ms(), 7_440_000, "it lives after all");
}

fn time_wait() -> Wire {
    let mut wire = established();
    wire.play(&[
        (Original, F | A, 1_001, 5_001, 8_192, 0, Pass),
        (Reply, F | A, 5_001, 1_002, 8_192, 0, Pass),
        (Original, A, 1_002, 5_002, 8_192, 0, Pass),
    ]);
    wire.is(State::TimeWait);
    wire
}

#[test]
fn time_wait_takes_late_segments_and_nothing_new() {
    time_wait().play(&[
        (Reply, F | A, 5_001, 1_002, 8_192, 0, Pass),
        (Original, A, 1_002, 5_002, 8_192, 0, Pass),
        (Reply, A, 5_001, 1_002, 8_192, 1, Pass),
        (Reply, A, 5_001, 1_002, 8_192, 2, Refused(ConnectionClosed)),
        (Original, A, 1_002, 5_002, 8_192, 100, Refused(ConnectionClosed)),
        (Reply, F | A, 5_002, 1_002, 8_192, 0, Refused(ConnectionClosed)),
    ]);
}

#[test]
fn time_wait_is_reopened_by_a_syn_from_either_side() {
    // [C029]
    for (direction, seq) in [(Original, 2_000_000), (Original, 7), (Reply, 2_000_000)] {
        let mut wire = time_wait();
        wire.play(&[(direction, S, seq, 0, 8_192, 0, Reopened)]).is(State::SynSent);
        assert!(!wire.has(flags::CLOSED) && !wire.has(flags::SEEN_REPLY));
        wire.play(&[
            (Reply, S | A, 9_000_000, seq + 1, 8_192, 0, Pass),
            (Original, A, seq + 1, 9_000_001, 8_192, 100, Pass),
            (Reply, A, 9_000_001, seq + 101, 8_192, 100, Pass),
        ]);
    }
}

#[test]
fn a_challenge_ack_does_not_pass_for_the_last_ack() {
    let mut wire = established();
    wire.play(&[
        (Reply, F | A, 5_001, 1_001, 8_192, 0, Pass),
        (Original, F | A, 1_001, 5_002, 8_192, 0, Pass),
    ]);
    wire.is(State::LastAck);
    wire.play(&[
        (Original, S, 90_000, 0, 8_192, 0, Ignored),
        (Reply, A, 5_002, 1_002, 8_192, 0, Ignored),
    ]);
    wire.is(State::LastAck);
    wire.play(&[(Reply, A, 5_002, 1_002, 8_192, 0, Pass)]).is(State::TimeWait);
}

#[test]
fn a_segment_without_ack_fin_syn_or_rst_fits_nowhere() {
    for state in 0..State::COUNT as u8 {
        let mut wire = established();
        wire.hot.protocol_state = state;
        wire.play(&[(Original, 0, 1_001, 0, 0, 0, Refused(TcpState))]);
    }
}
