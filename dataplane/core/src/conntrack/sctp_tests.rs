//! SCTP tracking by its behaviour: chunks as bytes, one packet a row.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use Direction::{Original, Reply};
use DropReason::{SctpChunk, SctpState, SctpTag};

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// Tags that each side wants to be sent.
const CLIENT: u32 = 0x1111_0001;
const SERVER: u32 = 0x2222_0002;

fn chunk(kind: u8, flags: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![kind, flags];
    bytes.extend((4 + value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn packet_of(tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = std::vec![0x13, 0x88, 0x0f, 0x1c];
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(chunks.concat());
    bytes
}

/// A chunk as its sender would fill it.
fn usual(kind: u8, sender: Direction) -> Vec<u8> {
    let tag = if sender == Original { CLIENT } else { SERVER };
    let mut value = [0; 16];
    value[..4].copy_from_slice(&tag.to_be_bytes());
    let len = if matches!(kind, INIT | INIT_ACK) { 16 } else { 0 };
    chunk(kind, 0, &value[..len])
}

struct Wire {
    hot: HotState,
    warm: Warm,
    timeouts: Timeouts,
    now: Tick,
    live: bool,
}

/// direction, verification tag, type, what happens.
type Row = (Direction, u32, u8, Result<Outcome, DropReason>);
const PASS: Result<Outcome, DropReason> = Ok(Outcome::Pass);
const IGNORE: Result<Outcome, DropReason> = Ok(Outcome::Ignore);

impl Wire {
    fn new() -> Self {
        let timeouts = Timeouts::linux();
        let (hot, warm) = Default::default();
        Self { hot, warm, timeouts, now: Tick(1_000), live: false }
    }

    fn send(&mut self, direction: Direction, bytes: &[u8]) -> Result<Outcome, DropReason> {
        let Self { hot, warm, timeouts, now, live } = self;
        if !*live {
            first(bytes, timeouts, *now, hot, warm)?;
            *live = true;
            return PASS;
        }
        let before = (hot.protocol_state, hot.timeout_ms, hot.flags, warm.peers, warm.peer_flags);
        let outcome = packet(direction, bytes, timeouts, *now, hot, warm);
        if let Outcome::Invalid(reason) = outcome {
            let after =
                (hot.protocol_state, hot.timeout_ms, hot.flags, warm.peers, warm.peer_flags);
            assert_eq!(before, after, "what is INVALID changes nothing");
            return Err(reason);
        }
        Ok(outcome)
    }

    fn play(&mut self, rows: &[Row]) -> &mut Self {
        for (number, &(direction, tag, kind, expected)) in rows.iter().enumerate() {
            let bytes = packet_of(tag, &[usual(kind, direction)]);
            assert_eq!(self.send(direction, &bytes), expected, "row {number}");
        }
        self
    }

    fn is(&self, state: State) {
        assert_eq!(State::from_number(self.hot.protocol_state), state);
    }
}

const HANDSHAKE: [Row; 4] = [
    (Original, 0, INIT, PASS),
    (Reply, CLIENT, INIT_ACK, PASS),
    (Original, SERVER, COOKIE_ECHO, PASS),
    (Reply, CLIENT, COOKIE_ACK, PASS),
];

fn established() -> Wire {
    let mut wire = Wire::new();
    wire.play(&HANDSHAKE).is(State::Established);
    wire
}

#[test]
fn an_association_is_made_in_four_steps_and_ended_in_three() {
    // RFC 9260 §5.1, §9.2.
    let states = [
        (State::Closed, 10),
        (State::CookieWait, 3),
        (State::CookieEchoed, 3),
        (State::Established, 210),
        (State::ShutdownSent, 3),
        (State::ShutdownAckSent, 3),
        (State::Closed, 10),
    ];
    let end = [
        (Original, SERVER, SHUTDOWN, PASS),
        (Reply, CLIENT, SHUTDOWN_ACK, PASS),
        (Original, SERVER, SHUTDOWN_COMPLETE, PASS),
    ];
    let mut wire = Wire::new();
    for (row, (state, seconds)) in HANDSHAKE.into_iter().chain(end).zip(states) {
        wire.play(&[row]).is(state);
        assert_eq!(wire.hot.timeout_ms, seconds * 1000);
        let assured = wire.hot.flags & flags::ASSURED != 0;
        assert_eq!(assured, !matches!(row.2, INIT | INIT_ACK | COOKIE_ECHO));
    }
    let mut wire = established();
    wire.play(&[(Reply, CLIENT, SHUTDOWN, PASS)]).is(State::ShutdownReceived);
}

#[test]
fn a_wrong_verification_tag_takes_no_part() {
    // RFC 9260 §8.5: each side's own, neither the other's nor 0.
    for kind in
        [DATA, 3, INIT_ACK, SHUTDOWN, ERROR, COOKIE_ECHO, COOKIE_ACK, ABORT, SHUTDOWN_COMPLETE]
    {
        for (direction, right, others) in
            [(Original, SERVER, [CLIENT, 0, SERVER + 1]), (Reply, CLIENT, [SERVER, 0, CLIENT ^ 1])]
        {
            for wrong in others {
                established()
                    .play(&[(direction, wrong, kind, Err(SctpTag))])
                    .is(State::Established);
            }
            established().play(&[(direction, right, kind, PASS)]);
        }
    }
    established().play(&[(Original, SERVER, INIT, Err(SctpTag))]);
}

#[test]
fn abort_and_shutdown_complete_may_reflect_the_tag_if_they_say_so() {
    // RFC 9260 §8.5.1 (B), (C): with the T bit the tag is the other side's.
    for kind in [ABORT, SHUTDOWN_COMPLETE] {
        let mut wire = established();
        let reflected = |tag| packet_of(tag, &[chunk(kind, 1, &[])]);
        assert_eq!(wire.send(Reply, &reflected(CLIENT)), Err(SctpTag));
        assert_eq!(wire.send(Reply, &reflected(SERVER)), PASS);
        wire.is(if kind == ABORT { State::Closed } else { State::Established });
    }
}

#[test]
fn a_retransmitted_init_extends_nothing() {
    let mut wire = Wire::new();
    wire.play(&[(Original, 0, INIT, PASS)]);
    let began = wire.hot.last_seen;
    wire.now = Tick(5_000);
    wire.play(&[(Original, 0, INIT, IGNORE)]).is(State::Closed);
    assert_eq!(wire.hot.last_seen, began);
}

#[test]
fn out_of_the_blue_only_what_may_begin_something_begins_something() {
    // RFC 9260 §8.4.
    for kind in [DATA, 3, ABORT, COOKIE_ACK, SHUTDOWN_COMPLETE, 0xc0] {
        Wire::new().play(&[(Original, 7, kind, Err(SctpState))]);
    }
    for kind in [INIT_ACK, SHUTDOWN, ERROR, COOKIE_ECHO] {
        Wire::new().play(&[(Original, 7, kind, Err(SctpTag))]);
    }
    Wire::new().play(&[(Original, 7, INIT, Err(SctpTag))]);
    Wire::new().play(&[(Original, 7, SHUTDOWN_ACK, PASS)]).is(State::ShutdownAckSent);
}

#[test]
fn another_path_is_made_by_a_heartbeat_and_its_answer() {
    // RFC 9260 §8.3.
    let mut wire = Wire::new();
    wire.play(&[(Original, SERVER, HEARTBEAT, PASS)]).is(State::HeartbeatSent);
    assert_eq!(wire.hot.timeout_ms, 30_000);
    wire.play(&[
        (Reply, CLIENT, DATA, Err(SctpTag)),
        (Reply, CLIENT, HEARTBEAT_ACK, PASS),
        (Original, SERVER, DATA, PASS),
        (Reply, CLIENT, DATA, PASS),
    ])
    .is(State::Established);
}

#[test]
fn a_strange_heartbeat_counts_once_the_other_side_answers_it() {
    let mut wire = established();
    wire.play(&[
        (Reply, 77, HEARTBEAT_ACK, Err(SctpTag)), // nobody asked
        (Original, 99, HEARTBEAT, IGNORE),
        (Original, 99, HEARTBEAT_ACK, Err(SctpTag)), // nor may it answer itself
        (Original, 99, DATA, Err(SctpTag)),
        (Reply, 77, HEARTBEAT_ACK, PASS),
        (Reply, 77, DATA, PASS),
        (Original, 99, HEARTBEAT, PASS),
        (Original, 99, DATA, PASS),
        (Reply, CLIENT, DATA, Err(SctpTag)),
    ]);
}

#[test]
fn an_init_opens_the_way_for_the_tag_of_its_answer_once() {
    let mut wire = Wire::new();
    wire.play(&[
        (Original, 0, INIT, PASS),
        (Original, 99, HEARTBEAT, PASS), // whoever says that claims a tag of the server's
        (Reply, CLIENT, INIT_ACK, PASS),
        (Original, SERVER, COOKIE_ECHO, PASS),
        (Reply, CLIENT, COOKIE_ACK, PASS),
        (Original, 0, INIT, PASS), // late
    ]);
    let forged = chunk(INIT_ACK, 0, &[9; 16]);
    assert_eq!(wire.send(Reply, &packet_of(CLIENT, &[forged])), Err(SctpTag));
}

#[test]
fn an_init_ack_cannot_change_a_tag_that_was_told() {
    // RFC 9260 §5.2.3: an unexpected INIT ACK is discarded.
    let mut wire = established();
    let forged = chunk(INIT_ACK, 0, &[9; 16]);
    assert_eq!(wire.send(Reply, &packet_of(CLIENT, &[forged])), Err(SctpTag));
    wire.play(&[(Original, SERVER, DATA, PASS)]);
}

#[test]
fn chunks_that_do_not_travel_together_are_refused() {
    // RFC 9260 §6.10, §3.2.
    let one = |kind| usual(kind, Original);
    for chunks in [
        std::vec![],
        std::vec![one(DATA), one(COOKIE_ECHO)],
        std::vec![one(DATA), one(COOKIE_ACK)],
        std::vec![one(INIT), one(DATA)],
        std::vec![one(DATA), one(INIT)],
        std::vec![one(SHUTDOWN_COMPLETE), one(DATA)],
        std::vec![std::vec![0, 3, 0, 0]],
        std::vec![one(DATA), std::vec![3, 0, 0, 0]],
        std::vec![chunk(INIT, 0, &[0; 15])[..18].to_vec()],
    ] {
        let tag = if chunks.first().is_some_and(|c| c[0] == INIT) { 0 } else { SERVER };
        let mut wire = established();
        assert_eq!(wire.send(Original, &packet_of(tag, &chunks)), Err(SctpChunk), "{chunks:02x?}");
    }
    let mut wire = Wire::new();
    wire.play(&HANDSHAKE[..2]);
    let bundled = packet_of(SERVER, &[one(COOKIE_ECHO), one(DATA), one(3)]);
    assert_eq!(wire.send(Original, &bundled), PASS);
    wire.is(State::CookieEchoed);
}

#[test]
fn every_state_is_reached_and_left() {
    let chunks = (0..=u8::MAX).filter_map(Chunk::of);
    let all: Vec<_> = chunks.flat_map(|c| [(Original, c), (Reply, c)]).collect();
    for state in State::ALL {
        let leaves = all.iter().any(|&(d, c)| next(state, d, c).is_some_and(|to| to != state));
        let reached = State::ALL
            .into_iter()
            .filter(|&from| from != state)
            .any(|from| all.iter().any(|&(d, c)| next(from, d, c) == Some(state)));
        assert!(reached || state == State::None, "{state:?}");
        assert!(leaves || state == State::None, "{state:?}");
        assert_eq!(State::from_number(state as u8), state);
    }
    for (direction, chunk) in all {
        assert_ne!(next(State::None, direction, chunk), Some(State::None));
    }
}

proptest! {
    #[test]
    fn no_bytes_upset_an_association(
        packets in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..20),
    ) {
        let mut wire = established();
        for (reply, bytes) in packets {
            let _ = wire.send(Direction::from_index(u32::from(reply)), &bytes);
            prop_assert!(wire.hot.protocol_state < State::COUNT as u8);
            prop_assert!(wire.hot.protocol_state != State::None as u8);
        }
    }
}
