//! The compiled rules, the walk through them, and the counting.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::condition::{Condition, Findings, Packet, Pools, Rule, Step};
use super::lines::Lines;
use super::model::ChainPolicy;
use super::paths::{AcceptedPath, CountCell, PATH_RULES_MAX, PathTable};
use super::{
    Action, Answer, Count, DecidedBy, Family, Hook, HookSet, JUMPS_MAX, Judgement, PathId, RuleIdx,
    Subject, Translation,
};
use crate::limits::{Account, Ledger};
use crate::units::WorkerId;

/// The compiled tables of both families. See the [module](super).
#[derive(Debug)]
pub struct Policy {
    pub(super) rules: Box<[Rule]>,
    pub(super) conditions: Box<[Condition]>,
    pub(super) ranges: Box<[(u16, u16)]>,
    /// First and one past the last rule of every chain.
    pub(super) chains: Box<[(u32, u32)]>,
    /// The base chains, by family and hook: their place in `chains` and their policy.
    pub(super) base: [[(u32, ChainPolicy); Hook::COUNT]; 2],
    translations: Box<[Translation]>,
    ledger: Option<Arc<Ledger>>,
    /// The hooks at which there is something to ask, by family.
    asked: [HookSet; 2],
    workers: Box<[PerWorker]>,
}

/// What one worker counts.
#[derive(Debug)]
#[repr(align(128))]
struct PerWorker {
    paths: PathTable,
    /// Packets on no path, by rule.
    rules: Lines<CountCell, 8>,
    /// Packets on no path that a chain's policy decided.
    policies: [[CountCell; Hook::COUNT]; 2],
}

/// Every rule's and every chain policy's count, all workers together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyCounts {
    /// By [`RuleIdx`].
    pub rules: Vec<Count>,
    /// By [`Family`] and [`Hook`]: packets that no rule decided.
    pub policies: [[Count; Hook::COUNT]; 2],
}

/// One worker's interned paths.
#[derive(Clone, Copy, Debug)]
pub struct Paths<'a>(&'a PathTable);

impl<'a> Paths<'a> {
    /// The path that a cached decision names, if it accepts; as [`Policy::cached`].
    #[inline]
    pub fn accepted(self, path: PathId) -> Option<AcceptedPath<'a>> {
        self.0.accepted(path)
    }
}

/// The rules that matched so far. When there are too many for a path, they are counted one by one.
struct Trail<'a> {
    rules: [u32; PATH_RULES_MAX],
    len: usize,
    overflown: bool,
    counts: Option<&'a PerWorker>,
    packet_len: u32,
}

impl Trail<'_> {
    #[inline]
    fn push(&mut self, rule: u32) {
        if self.len == PATH_RULES_MAX {
            self.flush();
            self.overflown = true;
        }
        if let Some(slot) = self.rules.get_mut(self.len) {
            *slot = rule;
            self.len += 1;
        }
    }

    fn rules(&self) -> &[u32] {
        self.rules.get(..self.len).unwrap_or_default()
    }

    /// Counts the rules one by one and forgets them.
    fn flush(&mut self) {
        if let Some(counts) = self.counts {
            for &rule in self.rules() {
                if let Some(cell) = counts.rules.get(rule as usize) {
                    cell.add(self.packet_len);
                }
            }
        }
        self.len = 0;
    }
}

/// How a walk ends.
enum End {
    Verdict(Action),
    /// The translation at this place.
    Translate(u32),
}

impl Policy {
    #[allow(clippy::too_many_arguments)] // the parts of a policy
    pub(super) fn new(
        rules: Vec<Rule>,
        conditions: Vec<Condition>,
        ranges: Vec<(u16, u16)>,
        chains: Vec<(u32, u32)>,
        base: [[(u32, ChainPolicy); Hook::COUNT]; 2],
        translations: Vec<Translation>,
        ledger: Option<Arc<Ledger>>,
        workers: usize,
    ) -> Self {
        let per_worker = |_| PerWorker {
            paths: PathTable::new(),
            rules: Lines::new(rules.len()),
            policies: Default::default(),
        };
        let workers = (0..workers).map(per_worker).collect();
        let asked = base.map(|family| {
            let asks = |hook: &Hook| {
                let (chain, policy) = family[hook.index()];
                let (first, end) = chains.get(chain as usize).copied().unwrap_or_default();
                first < end || policy != ChainPolicy::Accept
            };
            let hooks: Vec<Hook> = Hook::ALL.into_iter().filter(asks).collect();
            HookSet::of(&hooks)
        });
        Self {
            rules: rules.into(),
            conditions: conditions.into(),
            ranges: ranges.into(),
            chains: chains.into(),
            base,
            translations: translations.into(),
            ledger,
            asked,
            workers,
        }
    }

    /// Judges a packet by a walk through the rules of its hook, and counts it.
    ///
    /// Only the thread of `worker` may call this with `worker`. The judgement's path is to be kept by the connection
    /// for its direction and state, with this policy's generation and the two interfaces.
    pub fn judge(&self, worker: WorkerId, hook: Hook, subject: &Subject<'_>) -> Judgement {
        self.judge_counted(worker, hook, subject, None)
    }

    /// [`judge`](Self::judge), for a packet whose connection may be counted under limits.
    pub(crate) fn judge_counted(
        &self,
        worker: WorkerId,
        hook: Hook,
        subject: &Subject<'_>,
        account: Option<&mut Account<'_>>,
    ) -> Judgement {
        let packet = Packet::new(subject);
        let counts = self.workers.get(worker.index());
        debug_assert!(counts.is_some(), "a worker that the policy was not compiled for");
        let mut trail = Trail {
            rules: [0; PATH_RULES_MAX],
            len: 0,
            overflown: false,
            counts,
            packet_len: subject.packet_len,
        };
        let varies = !packet.may_be_remembered();
        let mut findings = Findings { varies, untracked: false, account };
        let (end, by) = self.walk(hook, &packet, &mut trail, &mut findings);
        let End::Verdict(action) = end else {
            debug_assert!(false, "compile refuses translations in the filter table");
            return Judgement { action: Action::Drop, by, path: PathId::UNCACHED };
        };
        if !findings.varies && !trail.overflown {
            let path = counts
                .and_then(|c| Some((c, c.paths.intern(trail.rules(), action, by)?)))
                .and_then(|(c, id)| c.paths.count(id, subject.packet_len));
            if let Some(judgement) = path {
                return judgement;
            }
        }
        trail.flush();
        if let (Some(counts), DecidedBy::ChainPolicy(family, hook)) = (counts, by) {
            counts.policies[family.index()][hook.index()].add(subject.packet_len);
        }
        Judgement { action, by, path: PathId::UNCACHED }
    }

    /// Whether the rules of any of these hooks have anything to say to packets of this family.
    #[inline]
    pub fn asks(&self, family: Family, hooks: HookSet) -> bool {
        self.asked[family.index()].intersects(hooks)
    }

    /// Asks the rules of a hook of `raw` or `nat`, and counts the packet there. Sets `untracked` if one of them said that it
    /// is not to be tracked.
    ///
    /// Only the thread of `worker` may call this with `worker`.
    pub fn consult(
        &self,
        worker: WorkerId,
        hook: Hook,
        subject: &Subject<'_>,
        untracked: &mut bool,
    ) -> Answer {
        let packet = Packet::new(subject);
        let counts = self.workers.get(worker.index());
        let mut trail = Trail {
            rules: [0; PATH_RULES_MAX],
            len: 0,
            overflown: false,
            counts,
            packet_len: subject.packet_len,
        };
        let mut findings = Findings::default();
        let (end, by) = self.walk(hook, &packet, &mut trail, &mut findings);
        *untracked |= findings.untracked;
        trail.flush();
        if let (Some(counts), DecidedBy::ChainPolicy(family, hook)) = (counts, by) {
            counts.policies[family.index()][hook.index()].add(subject.packet_len);
        }
        match (end, by) {
            (End::Translate(place), _) => self
                .translations
                .get(place as usize)
                .map_or(Answer::Nothing, |&translation| Answer::Translate(translation)),
            (End::Verdict(Action::Accept), DecidedBy::Rule(_)) => Answer::Accept,
            (End::Verdict(Action::Accept), DecidedBy::ChainPolicy(..)) => Answer::Nothing,
            (End::Verdict(Action::Drop | Action::Reject(_)), by) => Answer::Drop(by),
        }
    }

    /// Has the connection of a packet counted under the limits that a walk through the rules of its hook comes to. Nothing else
    /// is counted or kept.
    pub(crate) fn enlist(&self, hook: Hook, subject: &Subject<'_>, account: &mut Account<'_>) {
        let mut trail = Trail {
            rules: [0; PATH_RULES_MAX],
            len: 0,
            overflown: false,
            counts: None,
            packet_len: 0,
        };
        let mut findings = Findings { account: Some(account), ..Findings::default() };
        self.walk(hook, &Packet::new(subject), &mut trail, &mut findings);
    }

    /// What counts connections by address, if anything is to be counted.
    #[inline]
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    /// The same, for the policy that comes after ([`Room::before`](crate::limits::Room::before)).
    pub fn ledger_to_go_on_with(&self) -> Option<Arc<Ledger>> {
        self.ledger.clone()
    }

    /// How packets on this path are judged; counts one more. `None` if there is no such path: then [`judge`](Self::judge).
    ///
    /// Only the thread of `worker` may call this with `worker`, and only with a path that `judge` of this
    /// policy gave for this worker.
    #[inline]
    pub fn cached(&self, worker: WorkerId, path: PathId, packet_len: u32) -> Option<Judgement> {
        self.workers.get(worker.index())?.paths.count(path, packet_len)
    }

    /// The paths of a worker, to be looked up for many packets. Only the thread of `worker` may call this.
    #[inline]
    pub fn paths(&self, worker: WorkerId) -> Option<Paths<'_>> {
        self.workers.get(worker.index()).map(|counts| Paths(&counts.paths))
    }

    fn walk(
        &self,
        hook: Hook,
        packet: &Packet<'_>,
        trail: &mut Trail<'_>,
        findings: &mut Findings<'_, '_>,
    ) -> (End, DecidedBy) {
        let ledger = self.ledger.as_deref();
        let pools = Pools { conditions: &self.conditions, ranges: &self.ranges, ledger };
        let by_rule = |at: u32| DecidedBy::Rule(RuleIdx(at));
        let (base, policy) = self.base[packet.family.index()][hook.index()];
        let (mut at, mut end) = self.chain(base);
        let mut callers = [(0_u32, 0_u32); JUMPS_MAX];
        let mut depth = 0_usize;
        loop {
            let Some(rule) = (at < end).then(|| self.rules.get(at as usize)).flatten() else {
                // End of this chain: back to the caller, or to the policy.
                let Some(caller) = depth.checked_sub(1).and_then(|d| callers.get(d)) else {
                    let by = DecidedBy::ChainPolicy(packet.family, hook);
                    return (End::Verdict(policy.into()), by);
                };
                depth -= 1;
                (at, end) = *caller;
                continue;
            };
            let this = at;
            at += 1;
            if !rule.matches(packet, &pools, findings) {
                continue;
            }
            trail.push(this);
            match rule.step {
                Step::Continue => {}
                Step::Accept => return (End::Verdict(Action::Accept), by_rule(this)),
                Step::Drop => return (End::Verdict(Action::Drop), by_rule(this)),
                Step::Reject(kind) => {
                    return (End::Verdict(Action::Reject(kind)), by_rule(this));
                }
                Step::Translate(place) => return (End::Translate(place), by_rule(this)),
                Step::NoTrack => findings.untracked = true,
                Step::Return => at = end,
                Step::Goto(chain) => (at, end) = self.chain(chain),
                Step::Jump(chain) => {
                    if let Some(caller) = callers.get_mut(depth) {
                        *caller = (at, end);
                        depth += 1;
                    }
                    debug_assert!(depth <= JUMPS_MAX, "compile refuses deeper chains");
                    (at, end) = self.chain(chain);
                }
            }
        }
    }

    #[inline]
    fn chain(&self, place: u32) -> (u32, u32) {
        self.chains.get(place as usize).copied().unwrap_or_default()
    }

    /// Number of rules.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Number of workers it was compiled for.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// What every rule and every chain policy counted under this policy, all workers together. Exact when the
    /// workers are quiescent; otherwise at most the packets of this moment are missing.
    pub fn counters(&self) -> PolicyCounts {
        let mut sum = PolicyCounts {
            rules: vec![Count::default(); self.rules.len()],
            policies: Default::default(),
        };
        for worker in &self.workers {
            for (total, cell) in sum.rules.iter_mut().zip(worker.rules.iter()) {
                *total = total.plus(cell.get());
            }
            for family in Family::ALL.map(Family::index) {
                for hook in Hook::ALL.map(Hook::index) {
                    let total = &mut sum.policies[family][hook];
                    *total = total.plus(worker.policies[family][hook].get());
                }
            }
            worker.paths.read(|rules, by, count| {
                for rule in rules {
                    if let Some(total) = sum.rules.get_mut(rule as usize) {
                        *total = total.plus(count);
                    }
                }
                if let DecidedBy::ChainPolicy(family, hook) = by {
                    let total = &mut sum.policies[family.index()][hook.index()];
                    *total = total.plus(count);
                }
            });
        }
        sum
    }
}

impl From<ChainPolicy> for Action {
    fn from(policy: ChainPolicy) -> Self {
        match policy {
            ChainPolicy::Accept => Self::Accept,
            ChainPolicy::Drop => Self::Drop,
        }
    }
}
