//! Opening: handshakes, refusals, challenges, simultaneous opens.

use super::*;

#[test]
fn a_syn_ack_that_does_not_cover_the_syn_is_dropped_and_the_right_one_crosses() {
    // [C008] RFC 9293 §3.10.7.3: "If SEG.ACK =< ISS, or SEG.ACK > SND.NXT". The server's right number
    // may be above or below that of the stale answer; the client's ACK of it crosses.
    for stale_seq in [1_000_000, 4_999, 5_001, 4_000_000_000] {
        for stale_ack in [0, 999, 1_000, 1_002, 70_000, 3_000_000_000] {
            let stale = (Reply, S | A, stale_seq, stale_ack, 65_535, 0, Refused(TcpAckInvalid));
            let mut wire = play(&[
                (Original, S, 1_000, 0, 8_192, 0, New),
                stale,
                stale,
                (Original, S, 1_000, 0, 8_192, 0, Pass),
                (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
                (Original, A, 1_001, 5_001, 8_192, 10, Pass),
                (Reply, A, 5_001, 1_011, 8_192, 10, Pass),
            ]);
            wire.is(State::Established);
        }
    }
}

#[test]
fn a_syn_with_data_is_accounted() {
    // [C031] RFC 7413 §4.1.2: the answer acknowledges the SYN with the data, or the SYN alone.
    for ack in [1_001, 1_003, 1_006] {
        play(&[
            (Original, S, 1_000, 0, 8_192, 5, New),
            (Reply, S | A, 5_000, ack, 8_192, 0, Pass),
            (Original, A, ack, 5_001, 8_192, 5, Pass),
            (Reply, A, 5_001, ack + 5, 8_192, 0, Pass),
        ]);
    }
    play(&[
        (Original, S, 1_000, 0, 8_192, 5, New),
        (Reply, S | A, 5_000, 1_007, 8_192, 0, Refused(TcpAckInvalid)),
        (Reply, S | A, 5_000, 1_000, 8_192, 0, Refused(TcpAckInvalid)),
    ]);
}

#[test]
fn simultaneous_open_works() {
    // [C012] RFC 9293 §3.5 figure 8.
    let mut wire =
        play(&[(Original, S, 1_000, 0, 8_192, 0, New), (Reply, S, 5_000, 0, 8_192, 0, Pass)]);
    wire.is(State::SynSent2);
    wire.play(&[(Original, S | A, 1_000, 5_001, 8_192, 0, Pass)]).is(State::SynReceived);
    wire.play(&[(Reply, S | A, 5_000, 1_001, 8_192, 0, Ignored)]).is(State::SynReceived);
    wire.play(&[(Reply, A, 5_001, 1_001, 8_192, 50, Pass)]).is(State::Established);
    wire.play(&[
        (Original, A, 1_001, 5_051, 8_192, 50, Pass),
        (Reply, A, 5_051, 1_051, 8_192, 0, Pass),
    ]);
    assert!(wire.has(flags::ASSURED));
}

#[test]
fn simultaneous_open_checks_both_answers() {
    let opening: &[Row] =
        &[(Original, S, 1_000, 0, 8_192, 0, New), (Reply, S, 5_000, 0, 8_192, 0, Pass)];
    play(opening).play(&[
        (Original, S | A, 1_000, 5_002, 8_192, 0, Refused(TcpAckInvalid)),
        (Original, S | A, 1_000, 5_000, 8_192, 0, Refused(TcpAckInvalid)),
        (Reply, S | A, 5_000, 1_002, 8_192, 0, Refused(TcpAckInvalid)),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
        (Original, A, 1_001, 5_001, 8_192, 0, Pass),
    ]);
}

#[test]
fn a_challenge_ack_to_a_syn_and_the_rst_that_follows_cross() {
    // [C009] The server still has an old connection: RFC 9293 §3.5 figure 9.
    let mut wire = play(&[
        (Original, S, 1_000, 0, 8_192, 0, New),
        (Reply, A, 700_000, 300_000, 8_192, 0, Ignored),
        (Original, R, 300_000, 0, 0, 0, Pass),
        (Original, S, 1_000, 0, 8_192, 0, Reopened),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
        (Original, A, 1_001, 5_001, 8_192, 0, Pass),
    ]);
    wire.is(State::Established);
}

#[test]
fn a_syn_on_a_live_tuple_opens_afresh_after_the_servers_challenge() {
    // [C010] The client lost its memory, the server did not: RFC 5961 §4.
    let mut wire = established();
    wire.play(&[
        (Original, S, 90_000, 0, 8_192, 0, Ignored),
        (Reply, A, 5_001, 1_001, 8_192, 0, Pass),
        (Original, R, 1_001, 0, 0, 0, Pass),
        (Original, S, 90_000, 0, 8_192, 0, Reopened),
        (Reply, S | A, 7_000, 90_001, 8_192, 0, Pass),
        (Original, A, 90_001, 7_001, 8_192, 100, Pass),
        (Reply, A, 7_001, 90_101, 8_192, 100, Pass),
    ]);
    wire.is(State::Established);
    // Numbers below the old ones do as well.
    let mut wire = established();
    wire.play(&[
        (Original, S, 7, 0, 8_192, 0, Ignored),
        (Reply, A, 5_001, 1_001, 8_192, 0, Pass),
        (Original, R, 1_001, 0, 0, 0, Pass),
        (Original, S, 7, 0, 8_192, 0, Reopened),
    ]);
}

#[test]
fn a_syn_ack_that_answers_an_ignored_syn_brings_us_in_step() {
    // The old connection ended out of our sight; window scale 3 and 2 count from now on.
    let mut wire = established();
    wire.with(&[3, 3, 3, 4, 2], (Original, S, 90_000, 0, 8_192, 0, Ignored))
        .is(State::Established)
        .with(&[3, 3, 2], (Reply, S | A, 7_000, 90_001, 8_192, 0, Pass))
        .is(State::SynReceived);
    assert_eq!(wire.warm.scales, 0x23);
    assert_eq!(
        wire.warm.peer_flags[0] & !peer_flags::NOTED,
        peer_flags::WINDOW_SCALE | peer_flags::SACK_PERMITTED
    );
    wire.play(&[(Original, A, 90_001, 7_001, 8_192, 10, Pass)]).is(State::Established);
    // The old numbers are no more.
    wire.play(&[(Original, A, 1_001, 5_001, 8_192, 10, Ignored)]);
    assert_eq!(wire.warm.peers[0].end, 90_011);
}

#[test]
fn a_syn_ack_that_answers_nothing_changes_nothing() {
    let mut wire = established();
    wire.play(&[(Original, S, 90_000, 0, 8_192, 0, Ignored)]);
    for ack in [90_000, 90_002, 1_001] {
        let mut wire = Wire { timeouts: wire.timeouts.clone(), ..wire };
        unmoved(&mut wire, (Reply, S | A, 7_000, ack, 8_192, 0, Ignored));
    }
}

#[test]
fn a_syn_ack_that_is_refused_does_not_bring_us_in_step() {
    // A SACK block of what was never sent, in a SYN/ACK.
    let mut wire = established();
    wire.with(&[4, 2], (Original, S, 90_000, 0, 8_192, 0, Ignored));
    let warm = wire.warm;
    let block = [1, 1, 5, 10, 0, 0, 0, 0, 0, 2, 0, 0];
    wire.with(&block, (Reply, S | A, 7_000, 90_001, 8_192, 0, Refused(TcpAckUnsent)));
    assert_eq!(wire.warm.peers, warm.peers);
    wire.is(State::Established);
}

#[test]
fn a_refusal_reaches_the_client_and_it_may_try_again() {
    // [C033] RFC 9293 §3.5.2: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    play(&[
        (Original, S, 1_000, 0, 8_192, 0, New),
        (Reply, R | A, 0, 1_001, 0, 0, Deleted),
        (Original, S, 500, 0, 8_192, 0, New),
        (Reply, S | A, 5_000, 501, 8_192, 0, Pass),
    ]);
}

#[test]
fn a_rst_that_does_not_acknowledge_the_syn_ends_nothing() {
    // RFC 9293 §3.10.7.3, both sides of the boundary.
    play(&[
        (Original, S, 1_000, 0, 8_192, 0, New),
        (Reply, R, 0, 0, 0, 0, Ignored),
        (Reply, R, 77, 0, 0, 0, Ignored),
        (Reply, R | A, 0, 0, 0, 0, Ignored),
        (Reply, R | A, 0, 1_000, 0, 0, Ignored),
        (Reply, R | A, 0, 1_002, 0, 0, Refused(TcpRstSequence)),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
        (Original, A, 1_001, 5_001, 8_192, 0, Pass),
    ]);
}

#[test]
fn a_client_that_starts_over_is_followed() {
    // RFC 9293 §3.4.3: another attempt, another number, lower or higher.
    for isn in [900, 400_000, 4_000_000_000] {
        play(&[
            (Original, S, 1_000, 0, 8_192, 0, New),
            (Original, S, isn, 0, 8_192, 0, Pass),
            (Reply, S | A, 5_000, 1_001, 8_192, 0, Refused(TcpAckInvalid)),
            (Reply, S | A, 5_000, isn + 1, 8_192, 0, Pass),
            (Original, A, isn + 1, 5_001, 8_192, 0, Pass),
        ])
        .is(State::Established);
    }
}

#[test]
fn data_that_only_the_second_syn_carries_is_accounted() {
    for (direction, seq, expect) in
        [(Original, 1_006, Deleted), (Original, 1_007, Refused(TcpRstSequence))]
    {
        play(&[
            (Original, S, 1_000, 0, 8_192, 0, New),
            (Original, S, 1_000, 0, 8_192, 5, Pass),
            (direction, R, seq, 0, 0, 0, expect),
        ]);
    }
}

#[test]
fn a_client_that_gives_up_before_an_answer_leaves_nothing() {
    play(&[(Original, S, 1_000, 0, 8_192, 0, New), (Original, R, 1_001, 0, 0, 0, Deleted)]);
}
