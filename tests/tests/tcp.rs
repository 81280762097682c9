//! TCP: opening, windows, data. Closing and resets are in `tcp_end.rs`.

use postern_core::conntrack::tcp::State;
use postern_core::verdict::DropReason;
use postern_tests::packet::flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
use postern_tests::packet::tcp;
use postern_tests::{Firewall, Flow, LAN, Pkt, Setup, WAN, for_workers, moved};

fn flow() -> Flow {
    Flow::outward("192.168.1.2:5000", "192.0.2.9:80")
}

fn state(fw: &Firewall) -> State {
    State::from_number(fw.connection().protocol_state)
}

/// C001: every segment of a whole life arrives with nothing changed but address, port and TTL.
#[test]
fn a_whole_life_crosses() {
    for_workers([1, 2, 4], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = flow();
        f.c2s(&mut fw, &f.syn());
        moved!(fw, received: 1, forwarded: 1, tracked: 1, connections_new: 1);
        assert_eq!(f.seen().to_string(), "203.0.113.2:5000");
        f.s2c(&mut fw, &f.syn_ack());
        moved!(fw, received: 1, forwarded: 1, tracked: 1, rerouted: 1, rejudged: 1);
        f.c2s(&mut fw, &f.client_segment());
        assert_eq!(state(&fw), State::Established);
        for _ in 0..5 {
            f.talk(&mut fw);
        }
        f.client_fin(&mut fw);
        f.server_fin(&mut fw);
        assert_eq!(state(&fw), State::TimeWait);
        moved!(fw, received: 25, forwarded: 25, tracked: 25, rejudged: 1);
    });
}

/// C002
#[test]
fn retransmitted_opening_segments_cross_and_keep_the_mapping() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        // Its port is taken, so it has one that would not be chosen twice by chance.
        Flow::outward("192.168.1.3:5000", "192.0.2.9:80").open(&mut fw);
        let mut f = flow();
        for _ in 0..3 {
            fw.pass_secs(1);
            f.c2s(&mut fw, &f.syn());
        }
        for _ in 0..3 {
            fw.pass_secs(1);
            f.s2c(&mut fw, &f.syn_ack());
        }
        f.c2s(&mut fw, &f.client_segment());
        f.talk(&mut fw);
        assert_ne!(f.seen().port(), 5000);
        assert_eq!(fw.connections().len(), 2);
    });
}

/// C008
#[test]
fn a_syn_ack_that_does_not_acknowledge_our_syn_is_dropped() {
    let mut fw = Firewall::new();
    let mut f = flow();
    f.c2s(&mut fw, &f.syn());
    for wrong in [f.seq[0] - 1, f.seq[0] - 1000, f.seq[0] + 1, f.seq[0] + 1000] {
        let bogus = f.syn_ack().seq(42).ack(wrong);
        assert_eq!(f.try_s2c(&mut fw, &bogus).dropped(), DropReason::TcpAckInvalid, "{wrong}");
    }
    f.c2s(&mut fw, &f.syn());
    f.s2c(&mut fw, &f.syn_ack());
    f.c2s(&mut fw, &f.client_segment());
    f.talk(&mut fw);
}

/// C009: the server still has an old connection; its challenge makes the client reset that one.
#[test]
fn a_syn_answered_by_a_challenge_ack_then_reset_opens_after_all() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = flow();
        f.c2s(&mut fw, &f.syn());
        let (old_seq, old_ack) = (77_000_000, 55_000_000);
        f.s2c(&mut fw, &f.server_segment().seq(old_seq).ack(old_ack));
        f.c2s(&mut fw, &tcp(f.client, f.dialled).rst().seq(old_ack));
        fw.pass_secs(1);
        f.reopen(&mut fw);
        f.talk(&mut fw);
        assert_eq!(fw.take_moved().iter().find(|(name, _)| name == "invalid"), None);
    });
}

/// C010: the client lost its memory and dials again with the same port.
#[test]
fn a_new_syn_on_a_live_tuple_leads_by_challenge_and_reset_to_a_fresh_session() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = flow().open(&mut fw);
        f.talk(&mut fw);
        let old = f.clone();
        f.seq = [3_000_000_000, 2_000_000_000];
        f.c2s(&mut fw, &f.syn());
        f.s2c(&mut fw, &old.server_segment());
        f.c2s(&mut fw, &tcp(f.client, f.dialled).rst().seq(old.seq[0]));
        fw.pass_secs(1);
        f.reopen(&mut fw);
        f.talk(&mut fw);
        assert_eq!(f.seen(), old.seen());
        fw.pass_secs(60);
        f.talk(&mut fw);
    });
}

/// C010: a SYN alone, forged or not, ends nothing.
#[test]
fn a_syn_on_a_live_tuple_does_not_disturb_the_session() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    f.c2s(&mut fw, &f.syn().seq(123));
    f.talk(&mut fw);
    let forged = tcp(f.server, f.seen()).syn().seq(9);
    assert_eq!(fw.wan(forged).dropped(), DropReason::TcpState);
    f.talk(&mut fw);
}

/// C011
#[test]
fn data_acknowledged_long_ago_and_sent_again_is_not_invalid() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    let first = f.client_segment().payload(vec![b'c'; 1400]);
    for _ in 0..50 {
        f.client_data(&mut fw, 1400);
    }
    f.c2s(&mut fw, &first);
    f.talk(&mut fw);
}

/// C012
#[test]
fn simultaneous_open_works() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = flow();
        f.c2s(&mut fw, &f.syn());
        let server_syn = tcp(f.server, f.seen()).syn().seq(f.seq[1] - 1).mss(1460).wscale(7);
        f.s2c(&mut fw, &server_syn);
        f.c2s(&mut fw, &f.client_segment().seq(f.seq[0] - 1).syn().mss(1460).wscale(7));
        f.s2c(&mut fw, &f.syn_ack());
        f.c2s(&mut fw, &f.client_segment());
        f.talk(&mut fw);
        assert_eq!(state(&fw), State::Established);
    });
}

/// C013
#[test]
fn segments_without_a_session_are_dropped_both_ways() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        for flags in [SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, ACK | URG] {
            let there = tcp("192.168.1.2:5000", "192.0.2.9:80").flags(flags).seq(1).ack_number(1);
            assert_eq!(fw.lan(there).dropped(), DropReason::TcpNotSyn);
            let here = tcp("192.0.2.9:80", "203.0.113.2:5000").flags(flags).seq(1).ack_number(1);
            assert_eq!(fw.wan(here).dropped(), DropReason::TcpNotSyn);
        }
        moved!(fw, received: 14, invalid: 14, TcpNotSyn: 14);
    });
}

/// C013: and with pick-up configured, an ACK from inside begins a connection; one from outside does not.
#[test]
fn with_pick_up_a_session_from_before_our_time_goes_on_from_inside_only() {
    let mut fw = Firewall::with(Setup::default().loose());
    let mut f = flow();
    let here = tcp("192.0.2.9:80", "203.0.113.2:5000").seq(1).ack(1);
    assert_eq!(fw.wan(here).dropped(), DropReason::DeniedByPolicy);
    f.c2s(&mut fw, &f.client_segment());
    f.s2c(&mut fw, &f.server_segment());
    f.talk(&mut fw);
    for flags in [SYN | ACK, FIN | ACK, RST] {
        let pkt = tcp("192.168.1.2:5001", "192.0.2.9:80").flags(flags).seq(1).ack_number(1);
        assert_eq!(fw.lan(pkt).dropped(), DropReason::TcpNotSyn);
    }
}

/// C014
#[test]
fn impossible_flags_are_dropped_as_first_packets_and_later() {
    let mut fw = Firewall::new();
    let impossible = [
        0,
        FIN,
        PSH,
        URG,
        FIN | PSH | URG,
        SYN | FIN,
        SYN | FIN | ACK,
        SYN | RST,
        SYN | RST | ACK,
        FIN | RST,
        FIN | RST | ACK,
        FIN | SYN | RST | PSH | ACK | URG,
        0xff,
    ];
    for flags in impossible {
        let pkt = tcp("192.168.1.2:5000", "192.0.2.9:80").flags(flags);
        assert_eq!(fw.lan(pkt).dropped(), DropReason::TcpFlags, "{flags:#x}");
    }
    assert!(fw.connections().is_empty());
    let mut f = flow().open(&mut fw);
    for flags in impossible {
        let segment = f.client_segment().flags(flags);
        assert_eq!(f.try_c2s(&mut fw, &segment).dropped(), DropReason::TcpFlags, "{flags:#x}");
    }
    f.talk(&mut fw);
}

/// C017
#[test]
fn window_scaling_is_applied_from_the_syns() {
    let mut fw = Firewall::new();
    let mut f = flow();
    f.c2s(&mut fw, &f.syn().window(2048));
    f.s2c(&mut fw, &f.syn_ack().window(2048));
    f.c2s(&mut fw, &f.client_segment().window(2048));
    let ahead = |f: &Flow, by: u32| {
        f.server_segment().window(2048).seq(f.seq[1].wrapping_add(by)).payload([b's'; 1000])
    };
    // 2048 << 7 is 262,144 bytes.
    f.s2c(&mut fw, &ahead(&f, 200_000));
    let far = ahead(&f, 40_000_000);
    assert_eq!(f.try_s2c(&mut fw, &far).dropped(), DropReason::TcpBeyondWindow);
}

/// C017: scaling needs both sides (RFC 7323 §2.2).
#[test]
fn window_scaling_is_not_applied_if_one_side_did_not_offer_it() {
    let mut fw = Firewall::new();
    let mut f = flow();
    f.c2s(&mut fw, &f.syn().window(2048));
    let bare = tcp(f.server, f.seen()).syn().seq(f.seq[1] - 1).ack(f.seq[0]).mss(1460).window(2048);
    f.s2c(&mut fw, &bare);
    f.c2s(&mut fw, &f.client_segment().window(2048));
    let far = f.server_segment().seq(f.seq[1] + 200_000).window(2048).payload([b's'; 1000]);
    assert_eq!(f.try_s2c(&mut fw, &far).dropped(), DropReason::TcpBeyondWindow);
}

/// C019
#[test]
fn sequence_numbers_wrap() {
    let mut fw = Firewall::new();
    let mut f = flow().seqs(0xffff_fe00, 0xffff_f000).open(&mut fw);
    for _ in 0..10 {
        f.talk(&mut fw);
    }
    assert!(f.seq[0] < 0x1000 && f.seq[1] < 0x10000, "both wrapped: {:x?}", f.seq);
    f.client_fin(&mut fw);
    f.server_fin(&mut fw);
    assert_eq!(state(&fw), State::TimeWait);
}

/// C021
#[test]
fn data_far_above_the_window_is_dropped_both_ways() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    f.talk(&mut fw);
    let up = f.client_segment().seq(f.seq[0] + 100_000_000).payload([0; 100]);
    let down = f.server_segment().seq(f.seq[1] + 100_000_000).payload([0; 100]);
    assert_eq!(f.try_c2s(&mut fw, &up).dropped(), DropReason::TcpBeyondWindow);
    assert_eq!(f.try_s2c(&mut fw, &down).dropped(), DropReason::TcpBeyondWindow);
    f.talk(&mut fw);
}

/// C021: the other half of the boundary: liberal lets it pass.
#[test]
fn liberal_lets_data_outside_the_window_pass() {
    let mut fw = Firewall::with(Setup::default().liberal());
    let mut f = flow().open(&mut fw);
    let up = f.client_segment().seq(f.seq[0] + 100_000_000).payload([0; 100]);
    f.c2s(&mut fw, &up);
}

/// C023
#[test]
fn an_acknowledgement_of_data_never_sent_is_dropped() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    for payload in [0, 100] {
        let up = f.client_segment().ack(f.seq[1] + 1_000_000).payload(vec![0; payload]);
        let down = f.server_segment().ack(f.seq[0] + 1_000_000).payload(vec![0; payload]);
        assert_eq!(f.try_c2s(&mut fw, &up).dropped(), DropReason::TcpAckUnsent);
        assert_eq!(f.try_s2c(&mut fw, &down).dropped(), DropReason::TcpAckUnsent);
    }
    f.talk(&mut fw);
}

/// C024
#[test]
fn a_zero_window_its_probes_and_the_update_cross() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    f.talk(&mut fw);
    // The client closes its window; the server probes with one byte beyond it, again and again.
    f.c2s(&mut fw, &f.client_segment().window(0));
    for wait in [1, 2, 4, 8] {
        fw.pass_secs(wait);
        f.s2c(&mut fw, &f.server_segment().payload([b'p']));
        f.c2s(&mut fw, &f.client_segment().window(0));
    }
    f.c2s(&mut fw, &f.client_segment().window(2048));
    f.talk(&mut fw);
}

/// C025
#[test]
fn keep_alives_cross_both_ways() {
    let mut fw = Firewall::new();
    let mut f = flow().open(&mut fw);
    f.talk(&mut fw);
    for payload in [&b""[..], b"k"] {
        fw.pass_secs(3600);
        f.c2s(&mut fw, &f.client_segment().seq(f.seq[0] - 1).payload(payload));
        f.s2c(&mut fw, &f.server_segment());
        fw.pass_secs(3600);
        f.s2c(&mut fw, &f.server_segment().seq(f.seq[1] - 1).payload(payload));
        f.c2s(&mut fw, &f.client_segment());
    }
    f.talk(&mut fw);
}

/// C031
#[test]
fn a_syn_with_data_crosses_and_its_data_counts() {
    let mut fw = Firewall::new();
    let mut f = flow();
    f.c2s(&mut fw, &f.syn().payload(b"hello"));
    f.seq[0] += 5;
    f.s2c(&mut fw, &f.syn_ack());
    f.c2s(&mut fw, &f.client_segment());
    f.talk(&mut fw);
}

/// C033
#[test]
fn a_refusal_reaches_the_client_and_a_new_attempt_crosses() {
    for_workers([1, 2], |setup| {
        let mut fw = Firewall::with(setup);
        let mut f = flow();
        for attempt in 0..3 {
            f.seq = [5_000_000 + attempt * 70_000, 6_000_000];
            f.c2s(&mut fw, &f.syn());
            f.s2c(&mut fw, &tcp(f.server, f.seen()).rst().seq(0).ack(f.seq[0]).window(0));
        }
        f.seq = [9_000_000, 1];
        f.reopen(&mut fw);
        f.talk(&mut fw);
    });
}

/// C034
#[test]
fn ecn_urgent_data_timestamps_sack_and_unknown_options_cross_unchanged() {
    let mut fw = Firewall::new();
    let mut f = flow();
    let sack_permitted = [4, 2];
    let timestamps = [8, 10, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1];
    let unknown = [253, 6, 0xf9, 0x89, 1, 2];
    let options = [&sack_permitted[..], &timestamps, &unknown].concat();
    f.c2s(&mut fw, &f.syn().flags(SYN | ECE | CWR).tcp_options(&options));
    f.s2c(&mut fw, &f.syn_ack().flags(SYN | ACK | ECE).tcp_options(&options));
    f.c2s(&mut fw, &f.client_segment().tcp_options(&timestamps).tos(2));
    let urgent = f.client_segment().flags(ACK | PSH | URG | CWR).tcp_options(&timestamps);
    let Pkt { body, .. } = urgent.clone();
    let postern_tests::packet::Body::Tcp(segment) = body else { unreachable!() };
    let segment = postern_tests::packet::Tcp { urgent: 3, payload: b"urgent".to_vec(), ..segment };
    f.c2s(&mut fw, &Pkt { body: postern_tests::packet::Body::Tcp(segment), ..urgent });
    f.seq[0] += 6;
    let sack = [5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    f.s2c(&mut fw, &f.server_segment().flags(ACK | ECE).tcp_options(&sack).tcp_options(&unknown));
    f.talk(&mut fw);
}

/// C034: options that lie about their length harm nobody.
#[test]
fn malformed_options_cross_and_do_no_harm() {
    let mut fw = Firewall::new();
    for (port, options) in [
        (1, vec![3, 0, 0, 0]),
        (2, vec![3, 255, 0, 0]),
        (3, vec![8, 10, 0, 0]),
        (4, vec![5, 3, 0, 0]),
        (5, vec![3, 3, 255, 0]),
        (6, vec![1, 1, 1, 3]),
        (7, vec![2; 40]),
    ] {
        let mut f = Flow::outward(("192.168.1.2", 5000 + port), "192.0.2.9:80");
        f.c2s(&mut fw, &tcp(f.client, f.dialled).syn().seq(f.seq[0] - 1).tcp_options(&options));
        f.s2c(
            &mut fw,
            &tcp(f.server, f.seen()).syn().seq(f.seq[1] - 1).ack(f.seq[0]).tcp_options(&options),
        );
        f.c2s(&mut fw, &f.client_segment().tcp_options(&options));
        f.talk(&mut fw);
    }
}

/// C163
#[test]
fn a_data_offset_below_five_or_past_the_end_is_dropped() {
    let mut fw = Firewall::new();
    for words in [0, 1, 4, 6, 15] {
        let mut bytes = tcp("192.168.1.2:5000", "192.0.2.9:80").syn().build();
        bytes[32] = words << 4;
        assert_eq!(fw.lan(bytes).dropped(), DropReason::TruncatedTransport, "{words} words");
    }
    assert!(fw.connections().is_empty());
}

/// C164
#[test]
fn a_segment_with_a_wrong_checksum_creates_and_ends_nothing() {
    let mut fw = Firewall::new();
    let corrupt = |pkt: Pkt| {
        let mut bytes = pkt.build();
        bytes[36] ^= 0x10;
        bytes
    };
    let mut f = flow();
    assert_eq!(fw.lan(corrupt(f.syn())).dropped(), DropReason::TransportChecksum);
    assert!(fw.connections().is_empty());
    f.reopen(&mut fw);
    let rst = tcp(f.server, f.seen()).rst().seq(f.seq[1]);
    assert_eq!(fw.wan(corrupt(rst)).dropped(), DropReason::TransportChecksum);
    fw.pass_secs(15);
    f.talk(&mut fw);
}

/// C044, C001: the whole handshake in one burst, as a capture file would give it.
#[test]
fn a_handshake_within_one_burst_crosses() {
    let mut fw = Firewall::new();
    let mut f = flow();
    f.seen = Some("203.0.113.2:5000".parse().unwrap());
    let packets = [(LAN, f.syn()), (WAN, f.syn_ack()), (LAN, f.client_segment())];
    let sent = fw.burst(&packets);
    assert_eq!(sent.outs.iter().map(|out| out.at).collect::<Vec<_>>(), [WAN, LAN, WAN]);
    f.talk(&mut fw);
}
