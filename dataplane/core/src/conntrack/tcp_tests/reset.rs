//! RST: RFC 5961 and what Linux makes of it.

use super::*;

#[test]
fn a_rst_below_or_far_above_the_window_is_invalid() {
    // [C003] RFC 5961 §3.2: outside the window: drop.
    let mut wire = established();
    wire.play(&[
        (Original, A, 1_001, 5_001, 8_192, 100, Pass),
        (Reply, A, 5_001, 1_101, 8_192, 100, Pass),
        (Original, A, 1_101, 5_101, 8_192, 0, Pass),
    ]);
    for seq in [5_000, 5_100, 1_005_101, 0] {
        unmoved(&mut wire, (Reply, R, seq, 0, 0, 0, Refused(TcpRstSequence)));
    }
    wire.wait_s(60);
    wire.play(&[(Reply, A, 5_101, 1_101, 8_192, 100, Pass)]).is(State::Established);
}

#[test]
fn an_exact_rst_ends_the_connection() {
    // [C005] and nothing more crosses, from either side.
    for direction in [Original, Reply] {
        let (seq, other_seq) = if direction == Reply { (5_001, 1_001) } else { (1_001, 5_001) };
        let other = direction.opposite();
        let mut wire = established();
        wire.play(&[(direction, R, seq, 0, 0, 0, Pass)]).is(State::Close);
        assert!(wire.has(flags::CLOSED));
        assert_eq!(wire.hot.timeout_ms, 10_000);
        wire.wait_s(1);
        wire.play(&[
            (direction, A, seq, other_seq, 8_192, 100, Refused(ConnectionClosed)),
            (direction, A, seq, other_seq, 8_192, 0, Refused(ConnectionClosed)),
            (direction, F | A, seq, other_seq, 8_192, 0, Refused(ConnectionClosed)),
            (other, A, other_seq, seq, 8_192, 100, Refused(ConnectionClosed)),
            (other, F | A, other_seq, seq, 8_192, 0, Refused(ConnectionClosed)),
            // What was reset may challenge (RFC 5961 §3.2), and RSTs may cross.
            (other, A, other_seq, seq, 8_192, 0, Pass),
        ]);
        assert_eq!(wire.left_ms(), 9_000, "none of this extends it");
        wire.play(&[(other, R, other_seq, 0, 0, 0, Pass), (direction, R, seq, 0, 0, 0, Pass)]);
        wire.wait_s(10);
        wire.play(&[(Reply, A, 5_001, 1_001, 8_192, 100, Refused(TcpNotSyn))]);
    }
}

#[test]
fn an_inexact_rst_inside_the_window_keeps_the_state_and_shortens_the_timer() {
    // RFC 5961 §3.2: the receiver answers with a challenge ACK; then an exact RST comes, or none.
    let mut wire = established();
    let warm = wire.warm;
    wire.play(&[(Reply, R, 5_101, 0, 0, 0, Pass)]).is(State::Established);
    assert_eq!(wire.hot.timeout_ms, 10_000);
    assert_eq!(wire.warm.peers, warm.peers, "a RST teaches nothing");
    assert!(!wire.has(flags::CLOSED));
    wire.play(&[(Original, A, 1_001, 5_001, 8_192, 0, Pass)]);
    assert_eq!(wire.hot.timeout_ms, 7_440_000);
    wire.play(&[(Reply, A, 5_001, 1_001, 8_192, 100, Pass)]);
}

#[test]
fn two_rsts_at_one_guess_inside_the_window_do_not_close() {
    let mut wire = established();
    for _ in 0..3 {
        wire.play(&[
            (Reply, R, 5_101, 0, 0, 0, Pass),
            (Original, A, 1_001, 5_001, 8_192, 0, Pass),
            (Reply, A, 5_001, 1_001, 8_192, 0, Pass),
        ]);
    }
    wire.is(State::Established);
}

#[test]
fn a_rst_right_behind_its_data_closes() {
    let mut wire = established();
    wire.play(&[(Reply, A, 5_001, 1_001, 8_192, 19, Pass), (Reply, R, 5_020, 0, 0, 0, Pass)]);
    wire.is(State::Close);
    assert!(wire.has(flags::CLOSED));
    // But not if the other side spoke in between.
    let mut wire = established();
    wire.play(&[
        (Reply, A, 5_001, 1_001, 8_192, 19, Pass),
        (Original, A, 1_001, 5_001, 8_192, 0, Pass),
        (Reply, R, 5_020, 0, 0, 0, Pass),
    ]);
    wire.is(State::Established);
}

#[test]
fn a_rst_at_a_hole_lingers_for_its_timeout() {
    // [C036] 5001..5101 arrived, 5101..5201 is missing, 5201..5301 arrived.
    let mut wire = established();
    wire.play(&[
        (Reply, A, 5_001, 1_001, 8_192, 100, Pass),
        (Original, A, 1_001, 5_101, 8_192, 0, Pass),
        (Reply, A, 5_201, 1_001, 8_192, 100, Pass),
        (Original, A, 1_001, 5_101, 8_192, 0, Pass),
        (Reply, R, 5_101, 0, 0, 0, Pass),
    ]);
    assert!(wire.live);
    assert_eq!((wire.state(), wire.left_ms()), (State::Close, 10_000));
}

#[test]
fn while_closing_an_inexact_rst_still_crosses() {
    // [C007]
    let mut wire = established();
    wire.play(&[
        (Reply, A, 5_001, 1_001, 8_192, 100, Pass),
        (Reply, F | A, 5_101, 1_001, 8_192, 0, Pass),
        (Original, R, 1_001, 0, 0, 0, Pass),
        (Reply, R | A, 5_001, 1_001, 0, 0, Pass),
    ]);
    wire.is(State::Close);
    // One that is far off ends the state too, but the data of a half-closed connection goes on.
    let mut wire = established();
    wire.play(&[
        (Original, F | A, 1_001, 5_001, 8_192, 0, Pass),
        (Reply, A, 5_001, 1_002, 8_192, 0, Pass),
        (Reply, R, 3_000_000_000, 0, 0, 0, Pass),
    ]);
    wire.is(State::Close);
    assert!(!wire.has(flags::CLOSED));
    wire.play(&[(Reply, A, 5_001, 1_002, 8_192, 1_000, Pass)]);
    assert_eq!(wire.left_ms(), 10_000);
}

#[test]
fn a_rst_that_answers_an_ignored_syn_closes() {
    // The server is gone: RFC 9293 §3.5.2 has <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>.
    let mut wire = established();
    wire.play(&[
        (Original, S, 90_000, 0, 8_192, 0, Ignored),
        (Reply, R | A, 0, 90_001, 0, 0, Pass),
        (Original, S, 95_000, 0, 8_192, 0, Ignored),
        (Reply, S | A, 7_000, 95_001, 8_192, 0, Pass),
        (Original, A, 95_001, 7_001, 8_192, 10, Pass),
    ]);
    wire.is(State::Established);
    assert!(!wire.has(flags::CLOSED));
    // A RST that answers nothing does not.
    let mut wire = established();
    wire.play(&[
        (Original, S, 90_000, 0, 8_192, 0, Ignored),
        (Reply, R | A, 0, 90_002, 0, 0, Refused(TcpAckUnsent)),
    ]);
    wire.is(State::Established);
}

#[test]
fn a_rst_in_the_handshake_ends_it() {
    let opening =
        &[(Original, S, 1_000, 0, 8_192, 0, New), (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass)];
    play(opening).play(&[(Original, R, 1_001, 0, 0, 0, Pass)]).is(State::Close);
    play(opening).play(&[(Reply, R, 5_001, 0, 0, 0, Pass)]).is(State::Close);
    play(opening).play(&[(Original, R, 1_000_000, 0, 0, 0, Refused(TcpRstSequence))]);
}

#[test]
fn a_connection_picked_up_by_a_forged_segment_is_ended_by_its_peers_exact_rst() {
    // [C005] The first segment claims what the server never said; the client itself says what is true.
    let mut wire = Wire::loose();
    wire.play(&[
        (Original, A, 5_000_000, 1_100_002, 8_192, 1, New),
        (Reply, A, 100_002, 1_202_458_276, 1_000, 0, Pass),
        (Original, A, 1_202_458_276, 100_002, 8_192, 0, Pass),
    ]);
    // [C003] Whoever guesses is refused as before.
    unmoved(&mut wire, (Reply, R, 100_001, 0, 0, 0, Refused(TcpRstSequence)));
    wire.play(&[(Reply, R, 100_002, 0, 0, 0, Pass)]).is(State::Close);
    assert!(wire.has(flags::CLOSED));
}
