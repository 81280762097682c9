//! The interned paths of one worker under one policy.
//!
//! A path is what one walk found: the rules that matched, in order, and who spoke the last word. The worker interns
//! paths as it meets them, into room that was set aside when the policy was compiled; a full table means
//! "not cached", never an error. The worker alone writes. Control reads at any time: a path is written
//! first and published by its number (`used`, release); after that only its counters move.

use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::lines::Lines;
use super::{Action, Count, DecidedBy, Family, Hook, Judgement, PathId, RejectKind, RuleIdx};
use crate::counters::Counter;

/// Most paths one worker interns under one policy.
pub const PATHS_MAX: usize = 4096;
/// Room for the rules of all paths: eight a path on average.
const STEPS_ROOM: usize = PATHS_MAX * 8;
/// Index slots: at most half full.
const SLOTS: usize = PATHS_MAX * 2;
/// Most rules of one path; a packet that matched more is counted rule by rule.
pub(super) const PATH_RULES_MAX: usize = 48;

const _: () = assert!(PATHS_MAX < u16::MAX as usize, "a path's number plus one fits a PathId");
const _: () = assert!(SLOTS.is_power_of_two());

/// Packets and bytes, written by one worker.
#[derive(Debug, Default)]
pub(super) struct CountCell {
    packets: Counter,
    bytes: Counter,
}

impl CountCell {
    #[inline]
    pub(super) fn add(&self, packet_len: u32) {
        self.packets.add(1);
        self.bytes.add(u64::from(packet_len));
    }

    pub(super) fn get(&self) -> Count {
        Count { packets: self.packets.get(), bytes: self.bytes.get() }
    }
}

/// A path whose packets are accepted: what is left to do is to count them.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedPath<'a>(&'a CountCell);

impl AcceptedPath<'_> {
    /// Counts a packet.
    #[inline]
    pub fn count(self, packet_len: u32) {
        self.0.add(packet_len);
    }
}

/// A path: all that a cached packet touches, in half a cache line.
#[derive(Debug, Default)]
#[repr(C, align(32))]
struct Path {
    count: CountCell,
    /// Where its rules begin in `steps`.
    start: AtomicU32,
    /// The rule that decided; meaningless if a policy did.
    rule: AtomicU32,
    len: AtomicU16,
    action: AtomicU8,
    by: AtomicU8,
}

const _: () = assert!(size_of::<Path>() == 32, "two paths a cache line, none across two");

/// What `by` says when a rule decided; otherwise it is the base chain's number.
const BY_RULE: u8 = u8::MAX;

const HOOKS: u8 = Hook::COUNT as u8;

const ACCEPT: u8 = 0;

fn encode_action(action: Action) -> u8 {
    match action {
        Action::Accept => ACCEPT,
        Action::Drop => 1,
        Action::Reject(kind) => 2 + kind as u8,
    }
}

#[inline]
fn decode_action(code: u8) -> Action {
    match code {
        ACCEPT => Action::Accept,
        1 => Action::Drop,
        kind => RejectKind::ALL
            .get(usize::from(kind - 2))
            .map_or(Action::Drop, |&kind| Action::Reject(kind)),
    }
}

fn encode_by(by: DecidedBy) -> (u8, u32) {
    match by {
        DecidedBy::Rule(rule) => (BY_RULE, rule.0),
        DecidedBy::ChainPolicy(family, hook) => ((family as u8) * HOOKS + hook as u8, 0),
    }
}

#[inline]
fn decode_by(by: u8, rule: u32) -> DecidedBy {
    let (family, hook) = if by < HOOKS { (Family::V4, by) } else { (Family::V6, by - HOOKS) };
    match Hook::ALL.get(usize::from(hook)) {
        Some(&hook) => DecidedBy::ChainPolicy(family, hook),
        None => DecidedBy::Rule(RuleIdx(rule)),
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct PathTable {
    paths: Lines<Path, 4>,
    /// The rules of all paths, one after the other.
    steps: Box<[AtomicU32]>,
    /// Hash to path number plus one; zero is empty. The worker's own.
    slots: Box<[AtomicU16]>,
    /// Paths published.
    used: AtomicU32,
    /// Steps written. The worker's own.
    steps_used: AtomicU32,
}

impl PathTable {
    pub(super) fn new() -> Self {
        Self {
            paths: Lines::new(PATHS_MAX),
            steps: (0..STEPS_ROOM).map(|_| AtomicU32::new(0)).collect(),
            slots: (0..SLOTS).map(|_| AtomicU16::new(0)).collect(),
            used: AtomicU32::new(0),
            steps_used: AtomicU32::new(0),
        }
    }

    /// Counts a packet on a known path and tells how it ends.
    #[inline]
    pub(super) fn count(&self, id: PathId, packet_len: u32) -> Option<Judgement> {
        let place = usize::from(id.0).checked_sub(1)?;
        if place >= self.used.load(Relaxed) as usize {
            return None;
        }
        let path = self.paths.get(place)?;
        path.count.add(packet_len);
        let by = decode_by(path.by.load(Relaxed), path.rule.load(Relaxed));
        Some(Judgement { action: decode_action(path.action.load(Relaxed)), by, path: id })
    }

    /// The path, if packets on it are accepted.
    #[inline]
    pub(super) fn accepted(&self, id: PathId) -> Option<AcceptedPath<'_>> {
        let place = usize::from(id.0).wrapping_sub(1);
        if place >= self.used.load(Relaxed) as usize {
            return None;
        }
        let path = self.paths.get(place)?;
        (path.action.load(Relaxed) == ACCEPT).then_some(AcceptedPath(&path.count))
    }

    /// The path of these rules and this end, interned now if it is new. `None` if there is no room.
    pub(super) fn intern(&self, rules: &[u32], action: Action, by: DecidedBy) -> Option<PathId> {
        let (by, rule) = encode_by(by);
        let mut slot = hash(rules, by) & (SLOTS - 1);
        for _ in 0..SLOTS {
            let id = self.slots.get(slot)?.load(Relaxed);
            if id == 0 {
                return self.add(slot, rules, encode_action(action), (by, rule));
            }
            if self.is_same(id, rules, by) {
                return Some(PathId(id));
            }
            slot = (slot + 1) & (SLOTS - 1);
        }
        None
    }

    fn is_same(&self, id: u16, rules: &[u32], by: u8) -> bool {
        let Some(path) = self.paths.get(usize::from(id).wrapping_sub(1)) else { return false };
        path.by.load(Relaxed) == by
            && usize::from(path.len.load(Relaxed)) == rules.len()
            && self.steps_of(path).zip(rules).all(|(step, &rule)| step == rule)
    }

    fn steps_of(&self, path: &Path) -> impl Iterator<Item = u32> {
        let start = path.start.load(Relaxed) as usize;
        let end = start + usize::from(path.len.load(Relaxed));
        self.steps.get(start..end).unwrap_or_default().iter().map(|step| step.load(Relaxed))
    }

    fn add(&self, slot: usize, rules: &[u32], action: u8, by: (u8, u32)) -> Option<PathId> {
        let used = self.used.load(Relaxed);
        let start = self.steps_used.load(Relaxed);
        let path = self.paths.get(used as usize)?;
        let room = self.steps.get(start as usize..start as usize + rules.len())?;
        for (step, &rule) in room.iter().zip(rules) {
            step.store(rule, Relaxed);
        }
        path.start.store(start, Relaxed);
        path.len.store(rules.len() as u16, Relaxed);
        path.rule.store(by.1, Relaxed);
        path.action.store(action, Relaxed);
        path.by.store(by.0, Relaxed);
        self.steps_used.store(start + rules.len() as u32, Relaxed);
        // Publishes the path to readers in control.
        self.used.store(used + 1, Release);
        let id = used as u16 + 1;
        self.slots.get(slot)?.store(id, Relaxed);
        Some(PathId(id))
    }

    /// Calls `spread` with each path's rules, end and count. For control.
    pub(super) fn read(
        &self,
        mut spread: impl FnMut(&mut dyn Iterator<Item = u32>, DecidedBy, Count),
    ) {
        let used = self.used.load(Acquire) as usize;
        for path in self.paths.iter().take(used) {
            let by = decode_by(path.by.load(Relaxed), path.rule.load(Relaxed));
            spread(&mut self.steps_of(path), by, path.count.get());
        }
    }
}

/// FNV-1a over the rules and the end: the input is the operator's own, nobody can aim at it.
fn hash(rules: &[u32], by: u8) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(by);
    for &rule in rules {
        hash = (hash ^ u64::from(rule)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (hash ^ (hash >> 29)) as usize
}
