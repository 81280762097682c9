//! TCP tracking by its behaviour: scenarios as rows of segments, the machine's cells, both sides of
//! each boundary, and random segments. Ids in brackets are those of the requirements.

use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::entry::{Cold, HotState, Warm, flags, peer_flags};
use super::*;
use Direction::{Original, Reply};
use DropReason::{
    ConnectionClosed, TcpAckInvalid, TcpAckUnsent, TcpBeyondWindow, TcpNotSyn, TcpRstSequence,
    TcpState,
};
use Expect::{Deleted, Ignored, New, Pass, Refused, Reopened};

mod any;
mod closing;
mod opening;
mod reset;
mod windows;

const S: u8 = tcp_flags::SYN;
const A: u8 = tcp_flags::ACK;
const F: u8 = tcp_flags::FIN;
const R: u8 = tcp_flags::RST;

/// What a row says happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// Begins a connection.
    New,
    /// Carries it on.
    Pass,
    /// Passes, changes nothing.
    Ignored,
    /// INVALID.
    Refused(DropReason),
    /// Ends the old connection and begins another.
    Reopened,
    /// Passes and ends the connection at once.
    Deleted,
}

/// direction, flags, seq, ack, window, payload length, what happens.
type Row = (Direction, u8, u32, u32, u16, u16, Expect);

/// One tuple's connection, driven as the pipeline drives it.
struct Wire {
    hot: HotState,
    warm: Warm,
    cold: Cold,
    policy: TcpPolicy,
    timeouts: Timeouts,
    now: Tick,
    live: bool,
}

impl Wire {
    fn new() -> Self {
        Self {
            hot: HotState::default(),
            warm: Warm::default(),
            cold: Cold::default(),
            policy: TcpPolicy::default(),
            timeouts: Timeouts::rfc(),
            now: Tick(1_000),
            live: false,
        }
    }

    fn loose() -> Self {
        let policy = TcpPolicy { loose: true, liberal: false };
        Self { policy, ..Self::new() }
    }

    fn state(&self) -> State {
        State::from_number(self.hot.protocol_state)
    }

    fn has(&self, flag: u16) -> bool {
        self.hot.flags & flag != 0
    }

    /// Milliseconds until the connection is idle for too long.
    fn left_ms(&self) -> i64 {
        i64::from(self.hot.timeout_ms) - i64::from(self.now.since(Tick(self.hot.last_seen)))
    }

    fn begin(&mut self, tcp: &TcpSummary, options: &[u8]) -> Result<(), DropReason> {
        self.hot = HotState::default();
        self.warm = Warm::default();
        self.cold = Cold::default();
        let Self { policy, timeouts, now, .. } = &*self;
        let (policy, timeouts, now) = (*policy, timeouts.clone(), *now);
        let (hot, warm, cold) = (&mut self.hot, &mut self.warm, &mut self.cold);
        first(tcp, options, &policy, &timeouts, now, hot, warm, cold)?;
        self.live = true;
        Ok(())
    }

    fn send(&mut self, direction: Direction, tcp: &TcpSummary, options: &[u8]) -> Expect {
        let mut tcp = *tcp;
        tcp.header_len = 20 + options.len() as u8;
        if self.live && self.left_ms() <= 0 {
            self.live = false;
        }
        if !self.live {
            return self.begin(&tcp, options).map_or_else(Refused, |()| New);
        }
        let timeouts = self.timeouts.clone();
        let (hot, warm, cold) = (&mut self.hot, &mut self.warm, &mut self.cold);
        let outcome =
            packet(direction, &tcp, options, &self.policy, &timeouts, self.now, hot, warm, cold);
        match outcome {
            Outcome::Pass | Outcome::Ignore => {
                if direction == Reply {
                    self.hot.flags |= flags::SEEN_REPLY;
                }
                if outcome == Outcome::Pass { Pass } else { Ignored }
            }
            Outcome::Invalid(reason) => Refused(reason),
            Outcome::Reopen => {
                self.live = false;
                self.begin(&tcp, options).map_or_else(Refused, |()| Reopened)
            }
            Outcome::Delete => {
                self.live = false;
                Deleted
            }
        }
    }

    fn row(&mut self, row: Row, options: &[u8]) -> Expect {
        let (direction, flags, seq, ack, window, payload_len, _) = row;
        let tcp = TcpSummary { seq, ack, window, payload_len, flags, header_len: 20 };
        self.send(direction, &tcp, options)
    }

    /// Plays rows without options.
    #[track_caller]
    fn play(&mut self, rows: &[Row]) -> &mut Self {
        for (i, &row) in rows.iter().enumerate() {
            let got = self.row(row, &[]);
            assert_eq!(got, row.6, "row {i}: {row:?} in {:?}\n{:#?}", self.state(), self.warm);
        }
        self
    }

    /// Plays one row with options.
    #[track_caller]
    fn with(&mut self, options: &[u8], row: Row) -> &mut Self {
        let got = self.row(row, options);
        assert_eq!(got, row.6, "{row:?} in {:?}\n{:#?}", self.state(), self.warm);
        self
    }

    #[track_caller]
    fn is(&mut self, state: State) -> &mut Self {
        assert_eq!(self.state(), state);
        self
    }

    fn wait_s(&mut self, seconds: u32) -> &mut Self {
        self.now = self.now.plus_ms(seconds * 1_000);
        self
    }
}

fn play(rows: &[Row]) -> Wire {
    let mut wire = Wire::new();
    wire.play(rows);
    wire
}

/// Client from 1000, server from 5000, no options, windows of 8192; then ESTABLISHED and assured.
const HANDSHAKE: &[Row] = &[
    (Original, S, 1_000, 0, 8_192, 0, New),
    (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
    (Original, A, 1_001, 5_001, 8_192, 0, Pass),
];

fn established() -> Wire {
    let mut wire = play(HANDSHAKE);
    wire.is(State::Established);
    assert!(wire.has(flags::ASSURED) && wire.has(flags::SEEN_REPLY));
    wire
}

/// Everything but the timeout must be as it was.
#[track_caller]
fn unmoved(wire: &mut Wire, row: Row) {
    let (hot, warm) = (wire.hot, wire.warm);
    wire.play(&[row]);
    assert_eq!(wire.hot.protocol_state, hot.protocol_state);
    assert_eq!((wire.hot.timeout_ms, wire.hot.last_seen), (hot.timeout_ms, hot.last_seen));
    assert_eq!(wire.warm.peers, warm.peers);
    let sent = |warm: &Warm| warm.peer_flags.map(|flags| flags & !peer_flags::NOTED);
    assert_eq!(sent(&wire.warm), sent(&warm));
    assert_eq!(wire.warm.scales, warm.scales);
}

// ---- the machine ----

/// Every cell in Linux's words, states in order of their numbers: `--` is invalid, `ig` ignored. From
/// the drawing in RFC 9293 §3.3.2 and Linux's documented behaviour, typed independently of the list.
const CELLS: [(Direction, Class, &str); 12] = [
    //                        NO SS SR ES FW CW LA TW CL S2
    (Original, Class::Syn, "SS SS ig ig ig ig ig SS SS S2"),
    (Original, Class::SynAck, "-- -- SR -- -- -- -- -- -- SR"),
    (Original, Class::Fin, "-- -- FW FW LA LA LA TW CL --"),
    (Original, Class::Ack, "ES -- ES ES CW CW TW TW CL --"),
    (Original, Class::Rst, "-- CL CL CL CL CL CL CL CL CL"),
    (Original, Class::None, "-- -- -- -- -- -- -- -- -- --"),
    (Reply, Class::Syn, "-- S2 -- -- -- -- -- SS -- S2"),
    (Reply, Class::SynAck, "-- SR ig ig ig ig ig ig ig SR"),
    (Reply, Class::Fin, "-- -- FW FW LA LA LA TW CL --"),
    (Reply, Class::Ack, "-- ig SR ES CW CW TW TW CL ig"),
    (Reply, Class::Rst, "-- CL CL CL CL CL CL CL CL CL"),
    (Reply, Class::None, "-- -- -- -- -- -- -- -- -- --"),
];

#[test]
fn every_cell_of_the_machine_is_as_written_down() {
    const CODES: [&str; State::COUNT] =
        ["NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2"];
    for (direction, class, cells) in CELLS {
        for (state, expected) in State::ALL.into_iter().zip(cells.split(' ')) {
            let got = match next(state, direction, class) {
                Next::To(to) => CODES[to as usize],
                Next::Stay => CODES[state as usize],
                Next::Ignore => "ig",
                Next::Invalid => "--",
            };
            assert_eq!(got, expected, "{state:?} {direction:?} {class:?}");
        }
    }
}

#[test]
fn every_state_is_reached_and_left() {
    let leads = |from: State, to: State| {
        [Original, Reply].into_iter().any(|direction| {
            [Class::Syn, Class::SynAck, Class::Fin, Class::Ack, Class::Rst]
                .into_iter()
                .any(|class| next(from, direction, class) == Next::To(to))
        })
    };
    for state in State::ALL {
        let others = || State::ALL.into_iter().filter(move |&other| other != state);
        assert!(state == State::None || others().any(|from| leads(from, state)), "{state:?}");
        assert!(others().any(|to| leads(state, to)), "{state:?} cannot be left");
    }
}

#[test]
fn states_read_back_from_their_numbers_and_have_their_names_and_timeouts() {
    let names = "NONE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE \
                 SYN_SENT2";
    for (i, (state, name)) in State::ALL.into_iter().zip(names.split_whitespace()).enumerate() {
        assert_eq!(state as usize, i);
        assert_eq!(State::from_number(i as u8), state);
        assert_eq!(state.name(), name);
    }
    assert_eq!(State::from_number(10), State::None);
    assert_eq!(State::from_number(255), State::None);
    let linux = Timeouts::linux();
    let seconds = State::ALL.map(|state| linux.ms(state.timeout()) / 1_000);
    assert_eq!(seconds[1..], [120, 60, 432_000, 120, 60, 30, 120, 10, 120]);
}

#[test]
fn only_flags_that_hosts_send_are_valid() {
    const U: u8 = tcp_flags::URG;
    // [C014] null, FIN only, Xmas, and every pair of SYN, FIN, RST.
    for scan in
        [0, F, F | tcp_flags::PSH | U, S | F, S | R, F | R, S | F | A, F | R | A, 0xff, 0x3f]
    {
        assert!(!flags_valid(scan), "{scan:#04x}");
    }
    for odd in [S | R | A, R | U, U, S | A | U, tcp_flags::PSH] {
        assert!(!flags_valid(odd), "{odd:#04x}");
    }
    let good = [S, S | U, S | A, R, R | A, F | A, F | A | U, A, A | U];
    for flags in good {
        // [C034] PSH and the ECN bits go with each: RFC 3168 §6.1.1 has SYN+ECE+CWR and SYN+ACK+ECE.
        for more in [0, 0x08, 0x40, 0x80, 0xc8] {
            assert!(flags_valid(flags | more), "{flags:#04x} {more:#04x}");
        }
    }
    let count = (0..=255).filter(|&flags| flags_valid(flags)).count();
    assert_eq!(count, good.len() * 8, "no others");
}

// ---- first segments ----

#[test]
fn only_a_syn_begins_a_connection() {
    // [C013]
    for flags in [S | A, A, A | tcp_flags::PSH, F | A, R, R | A] {
        play(&[(Original, flags, 1, 1, 100, 0, Refused(TcpNotSyn))]);
    }
    play(&[(Original, S, 1, 0, 100, 0, New)]).is(State::SynSent);
    // RFC 3168 §6.1.1: an ECN-setup SYN. [C034]
    play(&[(Original, S | 0xc0, 1, 0, 100, 0, New)]);
}

#[test]
fn a_refused_first_segment_leaves_the_entry_alone() {
    let mut wire = Wire::new();
    let tcp = TcpSummary { flags: A, seq: 7, ack: 7, window: 7, ..TcpSummary::default() };
    let (mut hot, mut warm, mut cold) = (wire.hot, wire.warm, wire.cold);
    hot.timeout_ms = 77;
    warm.scales = 0x77;
    let got =
        first(&tcp, &[], &wire.policy, &wire.timeouts, wire.now, &mut hot, &mut warm, &mut cold);
    assert_eq!(got, Err(TcpNotSyn));
    assert_eq!((hot.timeout_ms, warm.scales, cold.last_kind), (77, 0x77, 0));
    assert_eq!(wire.send(Original, &tcp, &[]), Refused(TcpNotSyn));
}

#[test]
fn loose_picks_up_an_ack_and_nothing_else() {
    for flags in [S | A, F | A, R, R | A] {
        Wire::loose().play(&[(Original, flags, 1, 1, 100, 0, Refused(TcpNotSyn))]);
    }
    let mut wire = Wire::loose();
    wire.play(&[(Original, A, 1_000, 9_000, 500, 10, New)]).is(State::Established);
    // Not the timeout of an established connection before anybody answers: 300 s, not 7440.
    assert_eq!(wire.hot.timeout_ms, 300_000);
    // Window scales are unknown: anything goes, until the RST.
    wire.play(&[
        (Reply, A, 9_000, 1_010, 500, 1_000, Pass),
        (Original, A, 1_010, 10_000, 500, 0, Pass),
        (Reply, A, 3_000_000, 1_010, 500, 1_000, Pass),
        (Original, A, 1_010, 3_001_000, 500, 0, Pass),
    ]);
    assert!(wire.has(flags::ASSURED));
    assert_eq!(wire.hot.timeout_ms, 7_440_000);
    wire.play(&[(Reply, R, 9_000, 0, 0, 0, Refused(TcpRstSequence))]);
}

#[test]
fn a_picked_up_connection_is_assured_by_the_second_segment_after_an_answer() {
    let mut wire = Wire::loose();
    wire.play(&[(Original, A, 1_000, 9_000, 500, 0, New), (Reply, A, 9_000, 1_000, 500, 0, Pass)]);
    assert!(!wire.has(flags::ASSURED));
    wire.play(&[(Original, A, 1_000, 9_000, 500, 0, Pass)]);
    assert!(wire.has(flags::ASSURED));
}

// ---- a whole life ----

#[test]
fn a_connection_lives_from_handshake_to_time_wait() {
    // [C001]
    let mut wire = established();
    wire.play(&[
        (Original, A, 1_001, 5_001, 8_192, 100, Pass),
        (Reply, A, 5_001, 1_101, 8_192, 200, Pass),
        (Original, A, 1_101, 5_201, 8_192, 0, Pass),
        (Original, F | A, 1_101, 5_201, 8_192, 0, Pass),
    ]);
    wire.is(State::FinWait);
    wire.play(&[(Reply, A, 5_201, 1_102, 8_192, 0, Pass)]).is(State::CloseWait);
    wire.play(&[(Reply, F | A, 5_201, 1_102, 8_192, 0, Pass)]).is(State::LastAck);
    wire.play(&[(Original, A, 1_102, 5_202, 8_192, 0, Pass)]).is(State::TimeWait);
    assert!(wire.has(flags::CLOSED));
    assert_eq!(wire.hot.timeout_ms, 240_000);
}

#[test]
fn each_state_gets_its_timeout() {
    let mut wire = Wire::new();
    wire.timeouts = Timeouts::linux();
    let mut step = |rows: &[Row], seconds: u32| {
        wire.play(rows);
        assert_eq!(wire.hot.timeout_ms, seconds * 1_000, "{:?}", wire.state());
    };
    step(&[(Original, S, 1_000, 0, 8_192, 0, New)], 120);
    step(&[(Reply, S | A, 5_000, 1_001, 8_192, 0, Pass)], 60);
    step(&[(Original, A, 1_001, 5_001, 8_192, 0, Pass)], 432_000);
    // Data that nobody acknowledged.
    step(&[(Original, A, 1_001, 5_001, 8_192, 10, Pass)], 300);
    step(&[(Reply, A, 5_001, 1_011, 8_192, 0, Pass)], 432_000);
    // A closed window.
    step(&[(Reply, A, 5_001, 1_011, 0, 0, Pass)], 300);
    step(&[(Reply, A, 5_001, 1_011, 8_192, 0, Pass)], 432_000);
    step(&[(Original, F | A, 1_011, 5_001, 8_192, 0, Pass)], 120);
    step(&[(Reply, A, 5_001, 1_012, 8_192, 0, Pass)], 60);
    step(&[(Reply, F | A, 5_001, 1_012, 8_192, 0, Pass)], 30);
    step(&[(Original, A, 1_012, 5_002, 8_192, 0, Pass)], 120);
    step(&[(Original, R, 1_012, 0, 0, 0, Pass)], 10);
}

#[test]
fn three_retransmissions_shorten_the_timeout_and_an_answer_restores_it() {
    let mut wire = established();
    wire.timeouts.set(TimeoutKind::TcpUnacknowledged, core::time::Duration::from_secs(9_000));
    let data = (Original, A, 1_001, 5_001, 8_192, 10, Pass);
    wire.play(&[data, data, data]);
    assert_eq!(wire.hot.timeout_ms, 7_440_000, "sent once, and twice again");
    wire.play(&[data]);
    assert_eq!(wire.hot.timeout_ms, 300_000, "three times again");
    wire.play(&[(Reply, A, 5_001, 1_011, 8_192, 0, Pass)]);
    assert_eq!(wire.hot.timeout_ms, 7_440_000);
}

#[test]
fn retransmitted_syns_and_syn_acks_pass_and_extend_nothing() {
    // [C002] [C039]
    let mut wire = play(&[(Original, S, 1_000, 0, 8_192, 0, New)]);
    wire.wait_s(10);
    wire.play(&[(Original, S, 1_000, 0, 8_192, 0, Pass)]);
    assert_eq!(wire.left_ms(), 230_000, "240 s from the first SYN");
    assert!(!wire.has(flags::SEEN_REPLY) && !wire.has(flags::ASSURED));
    wire.play(&[
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Ignored),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Ignored),
        (Original, S, 1_000, 0, 8_192, 0, Ignored),
        (Reply, S | A, 5_000, 1_001, 8_192, 0, Pass),
        (Original, A, 1_001, 5_001, 8_192, 0, Pass),
    ]);
    wire.is(State::Established);
}

#[test]
fn late_syn_ack_does_not_reopen_an_established_connection() {
    let mut wire = established();
    unmoved(&mut wire, (Reply, S | A, 5_000, 1_001, 8_192, 0, Ignored));
    wire.is(State::Established);
    wire.play(&[(Original, S | A, 1_000, 5_001, 8_192, 0, Refused(TcpState))]);
}

#[test]
fn sequence_numbers_wrap() {
    // [C019] ISN 0xfffffe00: 512 bytes to the wrap.
    let mut wire = play(&[
        (Original, S, 0xffff_fe00, 0, 65_535, 0, New),
        (Reply, S | A, 0xffff_ffff, 0xffff_fe01, 65_535, 0, Pass),
        (Original, A, 0xffff_fe01, 0, 65_535, 1_000, Pass),
        (Reply, A, 0, 0x0000_01e9, 65_535, 1_000, Pass),
        (Original, A, 0x0000_01e9, 1_000, 65_535, 0, Pass),
        (Original, A, 0xffff_fe01, 1_000, 65_535, 1_000, Pass),
        (Original, A, 0x0000_01e9, 1_001, 65_535, 0, Refused(TcpAckUnsent)),
        (Original, F | A, 0x0000_01e9, 1_000, 65_535, 0, Pass),
        (Reply, F | A, 1_000, 0x0000_01ea, 65_535, 0, Pass),
        (Original, A, 0x0000_01ea, 1_001, 65_535, 0, Pass),
    ]);
    wire.is(State::TimeWait);
}

#[test]
fn every_beginning_of_the_sequence_space_works() {
    for isn in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff] {
        for server in [0u32, 0x7fff_fffe, 0x8000_0001, 0xffff_ffff] {
            let (c, s) = (u32::wrapping_add(isn, 1), server.wrapping_add(1));
            let mut wire = play(&[
                (Original, S, isn, 0, 8_192, 0, New),
                (Reply, S | A, server, c, 8_192, 0, Pass),
                (Original, A, c, s, 8_192, 100, Pass),
                (Reply, A, s, c.wrapping_add(100), 8_192, 100, Pass),
                (Reply, A, s, c.wrapping_add(101), 8_192, 100, Refused(TcpAckUnsent)),
                (Reply, R, s.wrapping_sub(1), 0, 0, 0, Refused(TcpRstSequence)),
                (Original, R, c.wrapping_add(100), 0, 0, 0, Pass),
            ]);
            wire.is(State::Close);
        }
    }
}
