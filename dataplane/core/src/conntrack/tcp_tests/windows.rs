//! Windows: both sides of each equation, scaling, SACK, probes.

use super::*;

#[test]
fn equation_one_data_begins_within_the_offer() {
    // [C021] The server offered 8192 from 1001: 9193 is the last number it takes.
    let mut wire = established();
    unmoved(&mut wire, (Original, A, 100_001_001, 5_001, 8_192, 10, Refused(TcpBeyondWindow)));
    unmoved(&mut wire, (Reply, A, 100_005_001, 1_001, 8_192, 10, Refused(TcpBeyondWindow)));
    // Not more than one window beyond it is a careless sender: it passes without moving anything but
    // the upper bound of ACKs. The overshoot counts from the last number offered: 8191 + 1 <= 8192.
    wire.play(&[(Original, A, 9_193 + 8_192, 5_001, 8_192, 0, Refused(TcpBeyondWindow))]);
    wire.play(&[(Original, A, 9_193 + 8_191, 5_001, 8_192, 0, Ignored)]);
    assert_eq!(wire.warm.peers[0].end, 9_193 + 8_191);
    let mut wire = established();
    wire.play(&[(Original, A, 9_194, 5_001, 8_192, 0, Ignored)]);
    let mut wire = established();
    wire.play(&[(Original, A, 9_193, 5_001, 8_192, 0, Pass)]);
}

#[test]
fn what_overshot_the_window_may_be_sent_again_in_pieces() {
    let mut wire = established();
    wire.play(&[
        (Original, A, 9_000, 5_001, 8_192, 1_400, Pass), // begins inside, ends at 10400
        (Original, A, 9_500, 5_001, 8_192, 100, Ignored),
        (Reply, A, 5_001, 10_401, 8_192, 0, Refused(TcpAckUnsent)),
        (Reply, A, 5_001, 10_400, 8_192, 0, Pass),
    ]);
}

#[test]
fn equation_two_data_of_long_ago_passes_and_teaches_nothing() {
    // [C011] More than a window back: retransmitted after its ACK was lost.
    let mut wire = established();
    let mut seq = 1_001;
    for _ in 0..100 {
        wire.play(&[
            (Original, A, seq, 5_001, 8_192, 1_000, Pass),
            (Reply, A, 5_001, seq + 1_000, 8_192, 0, Pass),
        ]);
        seq += 1_000;
    }
    // sender.end 101_001, receiver's window 8192 (and 1 for the probes that never came).
    let oldest = seq - 8_192;
    unmoved(&mut wire, (Original, A, oldest - 1_001, 5_001, 8_192, 1_000, Ignored));
    unmoved(&mut wire, (Original, A, 1_001, 5_001, 8_192, 1_000, Ignored));
    wire.play(&[(Original, A, oldest - 1_000, 5_001, 8_192, 1_000, Pass)]);
}

#[test]
fn equation_three_nothing_unsent_is_acknowledged() {
    // [C023] Bare and with data.
    let mut wire = established();
    for len in [0, 10] {
        unmoved(&mut wire, (Original, A, 1_001, 1_005_001, 8_192, len, Refused(TcpAckUnsent)));
        unmoved(&mut wire, (Original, A, 1_001, 5_002, 8_192, len, Refused(TcpAckUnsent)));
        unmoved(&mut wire, (Reply, A, 5_001, 1_002, 8_192, len, Refused(TcpAckUnsent)));
    }
    wire.play(&[(Original, A, 1_001, 5_001, 8_192, 0, Pass)]);
}

#[test]
fn equation_four_old_acks_pass_and_teach_nothing() {
    let mut wire = established();
    let mut seq = 5_001;
    for _ in 0..100 {
        wire.play(&[
            (Reply, A, seq, 1_001, 8_192, 1_000, Pass),
            (Original, A, 1_001, seq + 1_000, 8_192, 0, Pass),
        ]);
        seq += 1_000;
    }
    // Windows are 8192, so the slack is 66000.
    unmoved(&mut wire, (Original, A, 1_001, seq - 66_001, 8_192, 0, Ignored));
    wire.play(&[(Original, A, 1_001, seq - 66_000, 8_192, 0, Pass)]);
}

/// A handshake with window scale 7 in both SYNs, and a window of 2048 << 7 = 262144.
fn scaled(client: &[u8], server: &[u8]) -> Wire {
    let mut wire = Wire::new();
    wire.with(client, (Original, S, 1_000, 0, 65_535, 0, New))
        .with(server, (Reply, S | A, 5_000, 1_001, 65_535, 0, Pass))
        .play(&[
            (Original, A, 1_001, 5_001, 2_048, 0, Pass),
            (Reply, A, 5_001, 1_001, 2_048, 0, Pass),
        ]);
    wire
}

#[test]
fn windows_are_scaled_if_both_syns_say_so() {
    // [C017]
    let mut wire = scaled(&[3, 3, 7], &[1, 3, 3, 7]);
    assert_eq!(wire.warm.scales, 0x77);
    wire.play(&[
        (Original, A, 201_001, 5_001, 2_048, 1_000, Pass),
        (Original, A, 40_000_000, 5_001, 2_048, 1_000, Refused(TcpBeyondWindow)),
        (Reply, A, 5_001 + 262_144, 1_001, 2_048, 1, Pass),
        (Reply, A, 5_001 + 40_000_000, 1_001, 2_048, 1, Refused(TcpBeyondWindow)),
    ]);
    // RFC 7323 §2.2: the window of a SYN is not scaled, that of all others is.
    assert_eq!(wire.warm.peers[0].max_window, 262_144 + 1);
}

#[test]
fn windows_are_not_scaled_if_only_one_side_offers() {
    for (client, server) in [(&[3, 3, 7][..], &[][..]), (&[], &[3, 3, 7])] {
        let mut wire = scaled(client, server);
        assert_eq!(wire.warm.scales, 0);
        wire.play(&[(Original, A, 201_001, 5_001, 2_048, 1_000, Refused(TcpBeyondWindow))]);
    }
}

#[test]
fn the_largest_scale_is_fourteen() {
    // RFC 7323 §2.3: 65535 << 14 = 1073725440.
    let mut wire = scaled(&[3, 3, 15], &[3, 3, 255]);
    assert_eq!(wire.warm.scales, 0xee);
    wire.play(&[(Original, A, 1_001, 5_001, 65_535, 0, Pass)]);
    assert_eq!(wire.warm.peers[0].max_window, 1_073_725_440);
    wire.play(&[(Reply, A, 5_001 + 1_073_725_440, 1_001, 0, 0, Pass)]);
}

#[test]
fn a_sack_block_counts_for_the_upper_bound_of_acks() {
    let permit = [4, 2];
    let block = |right: u32| {
        let mut options = [1, 1, 5, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        options[8..12].copy_from_slice(&right.to_be_bytes());
        options
    };
    let mut wire = Wire::new();
    wire.with(&permit, (Original, S, 1_000, 0, 8_192, 0, New))
        .with(&permit, (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass))
        .play(&[
            (Original, A, 1_001, 5_001, 8_192, 0, Pass),
            (Original, A, 1_001, 5_001, 8_192, 1_000, Pass),
            (Original, A, 2_001, 5_001, 8_192, 1_000, Pass),
        ]);
    wire.with(&block(3_002), (Reply, A, 5_001, 1_001, 8_192, 0, Refused(TcpAckUnsent)));
    wire.with(&block(3_001), (Reply, A, 5_001, 1_001, 8_192, 0, Pass));
    // Without permission blocks are not read.
    let mut wire = established();
    wire.with(&block(999_999), (Reply, A, 5_001, 1_001, 8_192, 0, Pass));
}

#[test]
fn a_closed_window_is_probed_and_opened() {
    // [C024] RFC 9293 §3.8.6.1.
    let mut wire = established();
    wire.play(&[
        (Original, A, 1_001, 5_001, 8_192, 8_192, Pass),
        (Reply, A, 5_001, 9_193, 0, 0, Pass),
        (Original, A, 9_193, 5_001, 8_192, 1, Pass),
        (Reply, A, 5_001, 9_193, 0, 0, Pass),
        (Original, A, 9_193, 5_001, 8_192, 1, Pass),
        (Reply, A, 5_001, 9_193, 8_192, 0, Pass),
        (Original, A, 9_193, 5_001, 8_192, 4_096, Pass),
        (Reply, A, 5_001, 13_289, 8_192, 0, Pass),
    ]);
}

#[test]
fn keep_alives_cross_both_ways() {
    // [C025] RFC 9293 §3.8.4: SEG.SEQ = SND.NXT-1, with or without one garbage octet.
    let mut wire = established();
    for len in [0, 1] {
        wire.play(&[
            (Original, A, 1_000, 5_001, 8_192, len, Pass),
            (Reply, A, 5_001, 1_001, 8_192, 0, Pass),
            (Reply, A, 5_000, 1_001, 8_192, len, Pass),
            (Original, A, 1_001, 5_001, 8_192, 0, Pass),
        ]);
    }
    assert_eq!(wire.hot.timeout_ms, 7_440_000);
}

#[test]
fn liberal_lets_everything_pass_but_wrong_rsts() {
    let mut wire = established();
    wire.policy.liberal = true;
    wire.play(&[
        (Original, A, 100_001_001, 5_001, 8_192, 10, Pass),
        (Original, A, 1_001, 1_005_001, 8_192, 10, Pass),
        (Reply, R, 5_000, 0, 0, 0, Refused(TcpRstSequence)),
    ]);
    assert_eq!(wire.warm.peers[0].end, 1_001, "nothing is learnt from them");
}
