//! Any segments at all, and honest peers.

use super::*;

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
