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

// ---- opening ----

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

// ---- windows ----

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

// ---- closing ----

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

// ---- RST ----

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

// ---- any segments ----

#[derive(Clone, Debug)]
struct Any {
    direction: Direction,
    flags: u8,
    /// Added to the next number the sender would send, or taken as it is.
    seq: (bool, i32),
    ack: (bool, i32),
    window: u16,
    payload_len: u16,
    options: Vec<u8>,
    wait_ms: u32,
}

/// Offsets that matter: none, near, window-sized, anything.
fn offset() -> impl Strategy<Value = (bool, i32)> {
    prop_oneof![
        6 => Just((true, 0)),
        3 => (-3..4i32).prop_map(|near| (true, near)),
        2 => (-150_000..150_000i32).prop_map(|far| (true, far)),
        1 => any::<i32>().prop_map(|number| (false, number)),
    ]
}

fn any_segment() -> impl Strategy<Value = Any> {
    let flags = prop_oneof![
        2 => Just(S), 2 => Just(S | A), 6 => Just(A), 2 => Just(F | A), 1 => Just(R),
        1 => Just(R | A), 1 => any::<u8>(),
    ];
    let window = prop_oneof![Just(0), Just(65_535), any::<u16>()];
    let payload = prop_oneof![3 => Just(0), 2 => 0..2_000u16, 1 => any::<u16>()];
    let options = prop_oneof![
        4 => Just(Vec::new()),
        1 => any::<u8>().prop_map(|shift| std::vec![3, 3, shift, 4, 2]),
        1 => any::<u32>().prop_map(|right| {
            let mut block = std::vec![1, 1, 5, 10, 0, 0, 0, 0];
            block.extend(right.to_be_bytes());
            block
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..=40),
    ];
    // At most the longest timeout: the wheel has visited every entry by then.
    let wait = prop_oneof![8 => 0..100u32, 1 => 0..864_000_000u32];
    (any::<bool>(), flags, offset(), offset(), window, payload, options, wait).prop_map(
        |(reply, flags, seq, ack, window, payload_len, options, wait_ms)| Any {
            direction: if reply { Reply } else { Original },
            flags,
            seq,
            ack,
            window,
            payload_len,
            options,
            wait_ms,
        },
    )
}

impl Wire {
    /// Sends a segment near what the peers said last.
    fn send_any(&mut self, any: &Any) -> Expect {
        let (from, to) = (any.direction.index(), any.direction.opposite().index());
        let near = |(relative, offset): (bool, i32), base: u32| {
            if relative { base.wrapping_add_signed(offset) } else { offset as u32 }
        };
        let tcp = TcpSummary {
            seq: near(any.seq, self.warm.peers[from].end),
            ack: near(any.ack, self.warm.peers[to].end),
            window: any.window,
            payload_len: any.payload_len,
            flags: any.flags,
            header_len: 20,
        };
        self.now = self.now.plus_ms(any.wait_ms);
        self.send(any.direction, &tcp, &any.options)
    }

    fn check_invariants(&self) -> Result<(), String> {
        let told = |what: &str| format!("{what}: {:?} {:#?}", self.hot, self.warm);
        if self.warm.scales & 0xf > 14 || self.warm.scales >> 4 > 14 {
            return Err(told("scale"));
        }
        // RFC 7323 §2.3: less than 2^30.
        if self.warm.peers.iter().any(|peer| peer.max_window >= 1 << 30) {
            return Err(told("window"));
        }
        if self.hot.protocol_state as usize >= State::COUNT {
            return Err(told("state"));
        }
        if self.state() == State::TimeWait && !self.has(flags::CLOSED) {
            return Err(told("TIME_WAIT is closed"));
        }
        if self.has(flags::CLOSED) && !matches!(self.state(), State::TimeWait | State::Close) {
            return Err(told("closed in another state"));
        }
        if self.live && self.hot.timeout_ms == 0 {
            return Err(told("no timeout"));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_segments_keep_the_invariants(
        segments in proptest::collection::vec(any_segment(), 1..60),
        opened in any::<bool>(),
        loose in any::<bool>(),
        liberal in any::<bool>(),
    ) {
        let mut wire = if opened { established() } else { Wire::new() };
        wire.policy = TcpPolicy { loose, liberal };
        for segment in &segments {
            let (hot, warm) = (wire.hot, wire.warm);
            let live = wire.live;
            let got = wire.send_any(segment);
            if let Err(what) = wire.check_invariants() {
                return Err(TestCaseError::fail(format!("after {segment:?}: {what}")));
            }
            if live && wire.live && matches!(got, Refused(_) | Ignored) {
                // A failed check leaves the connection as it was, but for a shortened timeout, the
                // note, and the end of a sender that overshot.
                prop_assert_eq!(wire.hot.protocol_state, hot.protocol_state);
                prop_assert_eq!(wire.hot.last_seen, hot.last_seen);
                prop_assert!(wire.left_ms() <= i64::from(hot.timeout_ms));
                for (now, then) in wire.warm.peers.iter().zip(&warm.peers) {
                    prop_assert_eq!(now.max_end, then.max_end);
                    prop_assert_eq!(now.max_window, then.max_window);
                    prop_assert_eq!(now.max_ack, then.max_ack);
                    if got != Ignored {
                        prop_assert_eq!(now.end, then.end);
                    }
                }
                prop_assert_eq!(wire.warm.scales, warm.scales);
                prop_assert_eq!(wire.warm.retransmissions, warm.retransmissions);
            }
        }
    }

    /// Peers that keep to the rules are never refused, whatever the numbers and windows, as long as
    /// their segments arrive in order.
    #[test]
    fn honest_peers_are_never_refused(
        isns in any::<[u32; 2]>(),
        windows in [1..=65_535u16, 1..=65_535u16],
        scales in proptest::option::of([0..=14u8, 0..=14u8]),
        turns in proptest::collection::vec((any::<bool>(), 0..1_400u16), 0..60),
        closer in any::<bool>(),
    ) {
        let mut wire = Wire::new();
        let options = scales.map(|shifts| shifts.map(|shift| std::vec![3, 3, shift]));
        let options = options.unwrap_or_default();
        let mut next = isns.map(|isn: u32| isn.wrapping_add(1));
        let rows = [(Original, S, 0), (Reply, S | A, next[0])];
        for (direction, flags, ack) in rows {
            let side = direction.index();
            let row = (direction, flags, isns[side], ack, windows[side], 0, Pass);
            let got = wire.row(row, &options[side]);
            prop_assert!(matches!(got, New | Pass), "{row:?} {got:?}");
        }
        prop_assert_eq!(wire.row((Original, A, next[0], next[1], windows[0], 0, Pass), &[]), Pass);
        for (reply, want) in turns {
            let (from, to) = if reply { (1, 0) } else { (0, 1) };
            let direction = if reply { Reply } else { Original };
            let len = want.min(windows[to]);
            let row = (direction, A, next[from], next[to], windows[from], len, Pass);
            prop_assert_eq!(wire.row(row, &[]), Pass, "{:?}", row);
            next[from] = next[from].wrapping_add(u32::from(len));
            // Its receiver acknowledges at once.
            let row = (direction.opposite(), A, next[to], next[from], windows[to], 0, Pass);
            prop_assert_eq!(wire.row(row, &[]), Pass, "{:?}", row);
        }
        prop_assert_eq!(wire.state(), State::Established);
        let (a, b) = if closer { (0, 1) } else { (1, 0) };
        let (first, second) = if closer { (Original, Reply) } else { (Reply, Original) };
        for row in [
            (first, F | A, next[a], next[b], windows[a], 0, Pass),
            (second, A, next[b], next[a].wrapping_add(1), windows[b], 0, Pass),
            (second, F | A, next[b], next[a].wrapping_add(1), windows[b], 0, Pass),
            (first, A, next[a].wrapping_add(1), next[b].wrapping_add(1), windows[a], 0, Pass),
        ] {
            prop_assert_eq!(wire.row(row, &[]), Pass, "{:?}", row);
        }
        prop_assert_eq!(wire.state(), State::TimeWait);
    }
}
