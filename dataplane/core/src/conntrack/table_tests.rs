use super::*;
use crate::conntrack::entry::{HotV4, HotV6};
use crate::conntrack::pressure::Room;
use crate::conntrack::tuple::{TupleV4, protocol};
use crate::limits::Books;
use proptest::prelude::*;
use std::collections::HashMap;
use std::vec;
use std::vec::Vec;

/// Zeroed memory aligned to a cache line, for as long as the test runs.
fn memory(bytes: usize) -> &'static mut [u8] {
    let lines: &'static mut [[u8; 64]] =
        vec![Line([0; 64]); bytes.div_ceil(64)].leak().as_mut_bytes_lines();
    &mut lines.as_flattened_mut()[..bytes]
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Line([u8; 64]);

trait Lines {
    fn as_mut_bytes_lines(&mut self) -> &mut [[u8; 64]];
}

impl Lines for [Line] {
    fn as_mut_bytes_lines(&mut self) -> &mut [[u8; 64]] {
        <[[u8; 64]]>::mut_from_bytes(self.as_mut_bytes()).expect("lines are arrays")
    }
}

fn table(capacity: u32) -> Table<'static, HotV4> {
    let layout = Layout::new::<HotV4>(capacity);
    Table::new(layout, memory(layout.bytes()), SipKey([1, 2]), Tick(0))
}

fn tuple(n: u32) -> TupleV4 {
    TupleV4 {
        src: n.to_be_bytes(),
        dst: [192, 0, 2, 1],
        src_id: (n % 50_000) as u16 + 1024,
        dst_id: 53,
        protocol: protocol::UDP,
        ..TupleV4::default()
    }
}

fn add(
    table: &mut Table<'_, HotV4>,
    n: u32,
    row_flags: u16,
    timeout_ms: u32,
    now: Tick,
) -> Result<EntryIdx, InsertError> {
    let mut hot = HotV4 { tuples: [tuple(n), tuple(n).inverted()], ..HotV4::default() };
    hot.state.flags = row_flags;
    hot.state.timeout_ms = timeout_ms;
    hot.state.last_seen = now.0;
    let hashes = [table.hash(&hot.tuples[0]), table.hash(&hot.tuples[1])];
    table.insert(&hot, &Warm::default(), &Cold::default(), hashes, 0)
}

fn find(table: &Table<'_, HotV4>, tuple: &TupleV4) -> Option<(EntryIdx, Direction)> {
    table.find(table.hash(tuple), tuple)
}

#[test]
fn ten_million_ipv4_connections_fit_in_two_gibibytes() {
    let layout = Layout::new::<HotV4>(10_000_000);
    assert!(layout.bytes() <= 192 * 10_000_000, "{}", layout.bytes());
    assert!(layout.bytes() <= 2 << 30);
    assert!(Layout::new::<HotV6>(1000).bytes() > Layout::new::<HotV4>(1000).bytes());
}

#[test]
fn a_connection_is_found_by_either_tuple_and_not_after_removal() {
    let mut table = table(16);
    let row = add(&mut table, 7, 0, 1000, Tick(0)).unwrap();
    assert_eq!(find(&table, &tuple(7)), Some((row, Direction::Original)));
    assert_eq!(find(&table, &tuple(7).inverted()), Some((row, Direction::Reply)));
    assert_eq!(find(&table, &tuple(8)), None);
    table.remove(row, Ended::Deleted, Tick(0), Books::NONE);
    assert_eq!(find(&table, &tuple(7)), None);
    assert_eq!(find(&table, &tuple(7).inverted()), None);
    assert!(table.is_empty());
}

#[test]
fn a_table_fills_to_its_capacity_and_refuses_the_next() {
    for capacity in [1, 2, 100, 20_000] {
        let mut table = table(capacity);
        for n in 0..capacity {
            add(&mut table, n, 0, 1000, Tick(0)).unwrap_or_else(|e| panic!("{e:?} at {n}"));
        }
        assert_eq!(add(&mut table, capacity, 0, 1000, Tick(0)), Err(InsertError::Full));
        assert!((0..capacity).all(|n| find(&table, &tuple(n)).is_some()));
    }
}

/// The few of a full table that are not in their first bucket are promised, too, a little later.
#[test]
fn every_row_of_a_full_table_is_promised() {
    let mut table = table(20_000);
    for n in 0..20_000 {
        add(&mut table, n, 0, 1000, Tick(0)).unwrap();
    }
    let mut spilled = 0;
    for n in 0..20_000 {
        let (tuple, hash) = (tuple(n), table.hash(&tuple(n)));
        let mut promise = table.prefetch_row(hash);
        if promise == Promise::SPILLED {
            promise = table.prefetch_spilled_row(hash);
            spilled += usize::from(table.promised(promise, &tuple).is_some());
        }
        // Another one's tag may be the same: one in ten thousand.
        let found = table.find_promised(promise, hash, &tuple);
        assert_eq!(found, find(&table, &tuple));
    }
    assert!((200..4000).contains(&spilled), "{spilled}");
}

const ASSURED: u16 = flags::SEEN_REPLY | flags::ASSURED;

/// C175: unreplied connections go before assured ones, and assured ones never.
#[test]
fn eviction_takes_unreplied_then_unassured_or_closed_and_never_assured() {
    let mut table = table(8);
    for n in 0..8 {
        let row_flags = match n {
            3 => 0,
            5 => flags::SEEN_REPLY,
            6 => ASSURED | flags::CLOSED,
            _ => ASSURED,
        };
        add(&mut table, n, row_flags, 1000, Tick(0)).unwrap();
    }
    let mut left = Vec::new();
    while let Some(room) = table.make_room(Tick(1), 0, 0, Books::NONE) {
        assert_eq!(room, Room::Evicted);
        left.push((0..8).filter(|&n| find(&table, &tuple(n)).is_some()).count());
        assert!(find(&table, &tuple(3)).is_none(), "the unreplied one goes first");
    }
    assert_eq!(left, [7, 6, 5]);
    assert!([0, 1, 2, 4, 7].iter().all(|&n| find(&table, &tuple(n)).is_some()));
}

/// C175: however few of however many.
#[test]
fn the_one_that_may_go_is_found_wherever_it_is() {
    for place in [0, 1, 63, 64, 4095, 4096, 9999] {
        let mut table = table(10_000);
        for n in 0..10_000 {
            let row_flags = if n == place { 0 } else { ASSURED };
            add(&mut table, n, row_flags, 1000, Tick(0)).unwrap();
        }
        assert_eq!(table.make_room(Tick(1), 0, 0, Books::NONE), Some(Room::Evicted));
        assert!(find(&table, &tuple(place)).is_none());
        assert_eq!(table.make_room(Tick(1), 0, 0, Books::NONE), None);
    }
}

/// C175: a connection of the appliance itself that might go does not let others hope for its row, where rows are kept for such; where none
/// are, it does.
#[test]
fn a_table_is_packed_although_the_appliance_has_connections_that_may_go() {
    for (headroom, others) in [(2, 6), (0, 7)] {
        let mut table = table(8);
        add(&mut table, 7, flags::TO_HOST, 1000, Tick(0)).unwrap();
        for n in 0..others {
            assert!(!table.is_packed(Tick(0), headroom));
            add(&mut table, n, ASSURED, 1000, Tick(0)).unwrap();
        }
        let packed = headroom > 0;
        assert_eq!(table.is_packed(Tick(0), headroom), packed);
        assert!(table.may_have_own_room());
        assert_eq!(table.make_room(Tick(0), 0, headroom, Books::NONE).is_none(), packed);
    }
}

/// Under a flood each newcomer takes the place of the one that was there longest.
#[test]
fn a_newcomer_is_the_last_to_be_evicted() {
    let mut table = table(100);
    for n in 0..100 {
        add(&mut table, n, 0, 1000, Tick(0)).unwrap();
    }
    for n in 100..1000 {
        assert_eq!(table.make_room(Tick(1), 0, 0, Books::NONE), Some(Room::Evicted));
        assert!(find(&table, &tuple(n - 100)).is_none());
        add(&mut table, n, 0, 1000, Tick(1)).unwrap();
    }
}

/// What is past its deadline makes room, whatever it was, before anything that lives.
#[test]
fn the_expired_make_room_first() {
    let mut table = table(40);
    for n in 0..40 {
        let (row_flags, timeout_ms) = if n % 2 == 0 { (0, 10_000) } else { (ASSURED, 1000) };
        add(&mut table, n, row_flags, timeout_ms, Tick(0)).unwrap();
    }
    let now = Tick(1000 + wheel::UNIT_MS);
    table.expire(Tick(990), u32::MAX, Books::NONE);
    for left in (20..40).rev() {
        assert_eq!(table.make_room(now, 0, 0, Books::NONE), Some(Room::Expired));
        assert_eq!(table.len(), left);
    }
    assert!((0..40).all(|n| find(&table, &tuple(n)).is_some() == (n % 2 == 0)));
    assert_eq!(table.make_room(now, 0, 0, Books::NONE), Some(Room::Evicted));
}

#[test]
fn a_shorter_timeout_takes_effect_at_once_and_a_longer_one_when_the_slot_fires() {
    let mut table = table(4);
    let row = add(&mut table, 1, 0, 100_000, Tick(0)).unwrap();
    let before = *table.hot(row).state();
    table.row(row).hot.state.timeout_ms = 500;
    table.settle(row, before.flags, before.timeout_ms);
    assert_eq!(table.expire(Tick(499), u32::MAX, Books::NONE).0, 0);
    assert_eq!(table.expire(Tick(500 + wheel::UNIT_MS), u32::MAX, Books::NONE).0, 1);

    let row = add(&mut table, 2, 0, 500, Tick(1000)).unwrap();
    table.row(row).hot.state.last_seen = 1400; // touched, lazily
    assert_eq!(table.expire(Tick(1600), u32::MAX, Books::NONE).0, 0);
    assert_eq!(table.expire(Tick(1900 + wheel::UNIT_MS), u32::MAX, Books::NONE).0, 1);
}

#[test]
fn a_timeout_made_shorter_than_a_row_has_been_idle_ends_it_at_the_next_turn() {
    let mut table = table(4);
    let row = add(&mut table, 1, 0, 7_440_000, Tick(0)).unwrap();
    table.expire(Tick(100_000), u32::MAX, Books::NONE);
    let before = *table.hot(row).state();
    table.row(row).hot.state.timeout_ms = 20_000;
    table.settle(row, before.flags, before.timeout_ms);
    assert_eq!(table.expire(Tick(100_000), u32::MAX, Books::NONE).0, 1);
}

/// Data shortens the timeout of a TCP connection and its acknowledgment lengthens it again: that must not cost a
/// place in the wheel each time.
#[test]
fn a_timeout_that_goes_up_and_down_leaves_the_row_where_it_is() {
    let mut table = table(4);
    let row = add(&mut table, 1, ASSURED, 7_440_000, Tick(0)).unwrap();
    let (mut places, mut moves) = (table.cold(row).wheel_prev, 0);
    for ms in (0..250_000).step_by(100) {
        for timeout_ms in [300_000, 7_440_000] {
            table.expire(Tick(ms), u32::MAX, Books::NONE);
            let before = *table.hot(row).state();
            let state = &mut table.row(row).hot.state;
            (state.last_seen, state.timeout_ms) = (ms, timeout_ms);
            table.settle(row, before.flags, before.timeout_ms);
            moves += u32::from(places != table.cold(row).wheel_prev);
            places = table.cold(row).wheel_prev;
        }
    }
    assert_eq!(moves, 1);
    let before = *table.hot(row).state();
    table.row(row).hot.state.timeout_ms = 300_000;
    table.settle(row, before.flags, before.timeout_ms);
    let deadline = deadline(table.hot(row).state());
    assert_eq!(table.expire(Tick(deadline.0 - 1), u32::MAX, Books::NONE).0, 0);
    assert_eq!(table.expire(deadline.plus_ms(wheel::UNIT_MS), u32::MAX, Books::NONE).0, 1);
}

/// C189, C177: all of a burst of entries go within T..T+1 s, in bounded steps.
#[test]
fn a_hundred_thousand_entries_expire_within_a_second_of_their_deadline() {
    let mut table = table(100_000);
    for n in 0..100_000 {
        add(&mut table, n, 0, 30_000, Tick(n / 1000)).unwrap();
    }
    assert_eq!(table.expire(Tick(29_999), u32::MAX, Books::NONE).0, 0);
    let mut gone = 0;
    for ms in 30_000..31_000 {
        gone += table.expire(Tick(ms), 256, Books::NONE).0;
    }
    assert_eq!(gone, 100_000);
    assert!(table.is_empty());
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, u32),
    /// Another packet: these flags are set, those cleared, and this is the timeout.
    Become(u32, u16, u16, u32),
    /// Another timeout, and no packet.
    Wait(u32, u32),
    Remove(u32),
    MakeRoom,
    Pass(u32),
}

fn timeout_ms() -> impl Strategy<Value = u32> {
    prop_oneof![1u32..5000, 1u32..5_000_000, 1u32..864_000_000]
}

fn standing_flags() -> impl Strategy<Value = u16> {
    let one = |bit: u16| prop_oneof![Just(0), Just(bit)];
    let all = (one(flags::SEEN_REPLY), one(flags::ASSURED), one(flags::CLOSED));
    all.prop_map(|(seen_reply, assured, closed)| seen_reply | assured | closed)
}

/// How soon a connection has to go for others: 0 is first, 2 never.
fn rank(row_flags: u16) -> u8 {
    let has = |bit: u16| row_flags & bit != 0;
    match (has(flags::ASSURED) && !has(flags::CLOSED), has(flags::SEEN_REPLY)) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u32..64, timeout_ms()).prop_map(|(n, ms)| Op::Insert(n, ms)),
        4 => (0u32..64, standing_flags(), standing_flags(), timeout_ms())
            .prop_map(|(n, set, cleared, ms)| Op::Become(n, set, cleared, ms)),
        2 => (0u32..64, timeout_ms()).prop_map(|(n, ms)| Op::Wait(n, ms)),
        2 => (0u32..64).prop_map(Op::Remove),
        1 => Just(Op::MakeRoom),
        1 => (0u32..3000).prop_map(Op::Pass),
        1 => (0u32..3_000_000).prop_map(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec(op(), 1..400)) {
        let mut table = table(16);
        let mut model: HashMap<u32, (Tick, u16)> = HashMap::new();
        let mut now = Tick(u32::MAX - 10_000);
        table.wheel = Wheel::new(vec![0; wheel::SLOTS_ALL].leak(), now);
        for op in ops {
            match op {
                Op::Insert(n, ms) if !model.contains_key(&n) => {
                    match add(&mut table, n, 0, ms, now) {
                        Ok(_) => { model.insert(n, (now.plus_ms(ms), 0)); }
                        Err(InsertError::Full) => prop_assert_eq!(model.len(), 16),
                        Err(InsertError::BucketFull) => {}
                    }
                }
                Op::Insert(..) => {}
                Op::Remove(n) => {
                    let found = find(&table, &tuple(n));
                    prop_assert_eq!(found.is_some(), model.remove(&n).is_some());
                    if let Some((row, _)) = found {
                        table.remove(row, Ended::Deleted, Tick(0), Books::NONE);
                    }
                }
                Op::Become(n, set, cleared, ms) => {
                    if let Some((row, _)) = find(&table, &tuple(n)) {
                        let before = *table.hot(row).state();
                        let row_flags = before.flags & !cleared | set;
                        let state = &mut table.row(row).hot.state;
                        (state.last_seen, state.timeout_ms) = (now.0, ms);
                        state.flags = row_flags;
                        table.settle(row, before.flags, before.timeout_ms);
                        model.insert(n, (now.plus_ms(ms), row_flags));
                    }
                }
                Op::Wait(n, ms) => {
                    if let Some((row, _)) = find(&table, &tuple(n)) {
                        let before = *table.hot(row).state();
                        table.row(row).hot.state.timeout_ms = ms;
                        table.settle(row, before.flags, before.timeout_ms);
                        model.get_mut(&n).expect("both have it").0 = deadline(table.hot(row).state());
                    }
                }
                Op::MakeRoom => {
                    let room = table.make_room(now, 0, 0, Books::NONE);
                    let (left, gone): (HashMap<_, _>, HashMap<_, _>) =
                        model.iter().partition(|&(&n, _)| find(&table, &tuple(n)).is_some());
                    let lowest = model.values().map(|&(_, row_flags)| rank(row_flags)).min();
                    match (room, gone.values().next()) {
                        (None, None) => prop_assert!(lowest.is_none_or(|rank| rank == 2)),
                        (Some(Room::Expired), Some((deadline, _))) => {
                            prop_assert!(now.reached(*deadline));
                        }
                        (Some(Room::Evicted), Some((_, row_flags))) => {
                            prop_assert_eq!(Some(rank(*row_flags)), lowest);
                            prop_assert_ne!(lowest, Some(2));
                        }
                        _ => prop_assert!(false, "{:?}, and {:?} went", room, gone),
                    }
                    prop_assert!(gone.len() <= 1);
                    model = left;
                }
                Op::Pass(ms) => {
                    now = now.plus_ms(ms);
                    table.expire(now, u32::MAX, Books::NONE);
                    // Nothing goes early; what is a unit past its deadline is gone.
                    for (&n, &(deadline, _)) in &model {
                        let there = find(&table, &tuple(n)).is_some();
                        prop_assert!(there || now.reached(deadline));
                        prop_assert!(!there || !now.reached(deadline.plus_ms(wheel::UNIT_MS)));
                    }
                    model.retain(|&n, _| find(&table, &tuple(n)).is_some());
                }
            }
            prop_assert_eq!(table.len() as usize, model.len());
            for &n in model.keys() {
                prop_assert!(find(&table, &tuple(n)).is_some());
                prop_assert!(find(&table, &tuple(n).inverted()).is_some());
            }
        }
    }
}
