//! What is in force, and the snapshots made of it.
//!
//! The board holds every input: configuration, the kernel's side, rules, forwards. A change of one is
//! compiled into the parts it concerns, all others are taken over as they are, and the new snapshot is
//! published whole. Nothing here talks to anybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use postern_core::conntrack::siphash::SipKey;
use postern_core::forward::Neighbours;
use postern_core::nat::trigger::Triggers;
use postern_core::rules::Family;
use postern_core::snapshot::{EPOCHS_MAX, Snapshot};
use postern_core::units::Generation;
use postern_rules::{Compiled, Counts, Output, Rulesets};

use super::parts;
use super::policy::{self, PolicyError, Source, Sources};
use super::reload;
use crate::api::model::{ForwardOrigin, RulesProgram, RulesRequest};
use crate::compile::{self, NumberedForward};
use crate::config::{Config, ForwardError, ForwardSpec, TriggerError, TriggerSpec};
use crate::netlink::KernelState;

/// How long an older steering is kept before anybody asks whether a connection needs it.
const EPOCH_KEPT: Duration = Duration::from_secs(3600);

/// Why something cannot be put into force.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// A rules file.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A rule.
    #[error("{0}")]
    Rules(#[from] postern_rules::Error),
    /// The kernel or a card.
    #[error("{0}")]
    Kernel(String),
    /// A port forward.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// There is no such forward.
    #[error("there is no such forward")]
    NoForward,
    /// A forward of the configuration file.
    #[error("this forward stands in the configuration file: take it out there and reload")]
    ConfiguredForward,
    /// A port trigger.
    #[error(transparent)]
    Trigger(#[from] TriggerError),
    /// There is no such trigger.
    #[error("there is no such trigger")]
    NoTrigger,
    /// A trigger of the configuration file.
    #[error("this trigger stands in the configuration file: take it out there and reload")]
    ConfiguredTrigger,
}

/// A port forward in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveForward {
    /// Its number and what it says.
    pub forward: NumberedForward,
    /// Where it comes from.
    pub origin: ForwardOrigin,
}

/// A port trigger in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveTrigger {
    /// What it says.
    pub spec: TriggerSpec,
    /// Where it comes from.
    pub origin: ForwardOrigin,
}

/// A policy that some worker may still run on.
struct Retiring {
    /// The first generation without it.
    gone_by: Generation,
    compiled: Compiled,
}

/// See the [module](self).
pub struct Board {
    config: Config,
    kernel: KernelState,
    rulesets: Rulesets,
    sources: Sources,
    compiled: Compiled,
    retiring: Vec<Retiring>,
    forwards: Vec<ActiveForward>,
    next_forward: u32,
    triggers: Vec<ActiveTrigger>,
    workers: u8,
    key: SipKey,
    /// When each of the snapshot's older epochs ended, newest first.
    epochs_ended: ArrayVec<Instant, EPOCHS_MAX>,
    snapshot: Arc<Snapshot>,
}

impl Board {
    /// The board at start, and with it the first snapshot.
    ///
    /// # Errors
    /// If a rules file cannot be read, understood or compiled.
    pub fn new(
        config: Config,
        kernel: KernelState,
        neighbours: Arc<Neighbours>,
        workers: u8,
        key: SipKey,
    ) -> Result<Self, BoardError> {
        let forwards = configured(&config, 1);
        let numbered = numbers(&forwards);
        let mut rulesets = policy::load(&config)?;
        policy::set_forwards(&mut rulesets, &numbered)?;
        let compiled = parts::compile_rules(&config, &rulesets, workers, None)?;
        let snapshot = parts::first_snapshot(parts::Inputs {
            config: &config,
            kernel: &kernel,
            forwards: &numbered,
            rulesets: &rulesets,
            rules: &compiled,
            neighbours: &neighbours,
            workers,
            key,
        });
        let next_forward = forwards.len() as u32 + 1;
        Ok(Self {
            sources: policy::sources(&config),
            triggers: configured_triggers(&config),
            config,
            kernel,
            rulesets,
            compiled,
            retiring: Vec::new(),
            forwards,
            next_forward,
            workers,
            key,
            epochs_ended: ArrayVec::new(),
            snapshot: Arc::new(snapshot),
        })
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The rules in force.
    pub fn rulesets(&self) -> &Rulesets {
        &self.rulesets
    }

    /// The port forwards in force.
    pub fn forwards(&self) -> &[ActiveForward] {
        &self.forwards
    }

    /// The port triggers in force.
    pub fn triggers(&self) -> &[ActiveTrigger] {
        &self.triggers
    }

    /// Takes over the kernel's side. Returns the snapshot to publish, if anything changed.
    pub fn set_kernel(&mut self, kernel: &KernelState) -> Option<Arc<Snapshot>> {
        let routes_changed = kernel.routes != self.kernel.routes;
        self.kernel = kernel.clone();
        let mut next = (*self.snapshot).clone();
        let interfaces = compile::interfaces(&self.config, &self.kernel);
        let mut changed = false;
        if interfaces != *next.interfaces {
            next.interfaces = Arc::new(interfaces);
            changed = true;
        }
        if routes_changed {
            next.routes = Arc::new(compile::routes(&self.kernel));
            changed = true;
        }
        changed |= self.refresh_forwards(&mut next);
        changed.then(|| self.publish(next))
    }

    /// Puts another neighbour array in the old one's place. Returns the snapshot to publish: its generation
    /// has every connection look its next hops up again.
    pub fn set_neighbours(&mut self, neighbours: Arc<Neighbours>) -> Arc<Snapshot> {
        let next = Snapshot { neighbours, ..(*self.snapshot).clone() };
        self.publish(next)
    }

    /// Adds a port forward. Returns the snapshot to publish.
    ///
    /// # Errors
    /// If it overlaps another, or its interface does not exist.
    pub fn add_forward(
        &mut self,
        spec: ForwardSpec,
    ) -> Result<(ActiveForward, Arc<Snapshot>), BoardError> {
        compile::check_forward(&self.config, &numbers(&self.forwards), &spec)?;
        let forward = NumberedForward { id: self.next_forward, spec };
        let added = ActiveForward { forward, origin: ForwardOrigin::Runtime };
        let mut forwards = self.forwards.clone();
        forwards.push(added.clone());
        let snapshot = self.set_forwards(forwards)?;
        self.next_forward += 1;
        Ok((added, snapshot))
    }

    /// Removes the port forward that `is_it` points at. Returns the snapshot to publish.
    ///
    /// # Errors
    /// If there is none, or it stands in the configuration file.
    pub fn remove_forward(
        &mut self,
        is_it: impl Fn(&ForwardSpec) -> bool,
    ) -> Result<(ActiveForward, Arc<Snapshot>), BoardError> {
        let place = self.forwards.iter().position(|f| is_it(&f.forward.spec));
        let place = place.ok_or(BoardError::NoForward)?;
        if self.forwards[place].origin == ForwardOrigin::Config {
            return Err(BoardError::ConfiguredForward);
        }
        let mut forwards = self.forwards.clone();
        let removed = forwards.remove(place);
        let snapshot = self.set_forwards(forwards)?;
        Ok((removed, snapshot))
    }

    /// Adds a port trigger. Returns the snapshot to publish.
    ///
    /// # Errors
    /// If another one opens a port of it, there are too many, or its interface does not exist.
    pub fn add_trigger(
        &mut self,
        spec: TriggerSpec,
    ) -> Result<(ActiveTrigger, Arc<Snapshot>), BoardError> {
        spec.check(&self.config.interfaces, self.triggers.iter().map(|t| &t.spec))?;
        let added = ActiveTrigger { spec, origin: ForwardOrigin::Runtime };
        self.triggers.push(added.clone());
        Ok((added, self.publish_triggers()))
    }

    /// Removes the port trigger that `is_it` points at; what it let in goes on. Returns the snapshot to publish.
    ///
    /// # Errors
    /// If there is none, or it stands in the configuration file.
    pub fn remove_trigger(
        &mut self,
        is_it: impl Fn(&TriggerSpec) -> bool,
    ) -> Result<(ActiveTrigger, Arc<Snapshot>), BoardError> {
        let place = self.triggers.iter().position(|t| is_it(&t.spec));
        let place = place.ok_or(BoardError::NoTrigger)?;
        if self.triggers[place].origin == ForwardOrigin::Config {
            return Err(BoardError::ConfiguredTrigger);
        }
        let removed = self.triggers.remove(place);
        Ok((removed, self.publish_triggers()))
    }

    fn publish_triggers(&mut self) -> Arc<Snapshot> {
        let triggers = self.compiled_triggers();
        let next = Snapshot { triggers, ..(*self.snapshot).clone() };
        self.publish(next)
    }

    /// The triggers in force, compiled; those that were there before keep their holders.
    fn compiled_triggers(&self) -> Arc<Triggers> {
        let specs = self.triggers.iter().map(|trigger| &trigger.spec);
        Arc::new(compile::triggers(&self.config, specs, &self.snapshot.triggers))
    }

    /// Runs one of the iptables programs. Returns what it printed, and the snapshot to publish if the rules
    /// are others now.
    pub fn rules(&mut self, request: &RulesRequest) -> (Output, Option<Arc<Snapshot>>) {
        let family = match request.family {
            crate::api::model::Family::Ipv4 => Family::V4,
            crate::api::model::Family::Ipv6 => Family::V6,
        };
        let mut edited = self.rulesets.clone();
        let live = || self.live_counts();
        let args = &request.args;
        let output = match request.program {
            RulesProgram::Iptables => postern_rules::execute(family, args, &mut edited, live),
            RulesProgram::Save => postern_rules::execute_save(family, args, &edited, live),
            RulesProgram::Restore => {
                let dump = request.stdin.as_deref().unwrap_or_default();
                postern_rules::execute_restore(family, args, dump, &mut edited, live)
            }
        };
        if output.code != 0 {
            return (output, None);
        }
        if !output.changed {
            self.rulesets = edited; // counters may have been zeroed
            return (output, None);
        }
        match self.set_rules(edited) {
            Ok(snapshot) => {
                self.sources[family.index()] = Source::Operator;
                (output, Some(snapshot))
            }
            Err(error) => {
                let stderr = format!("{}: {error}\n", request.program_name());
                (Output { stderr, code: 1, ..Output::default() }, None)
            }
        }
    }

    /// What every policy that was not settled yet has counted.
    pub fn live_counts(&self) -> Counts {
        let mut counts = self.compiled.counts();
        for retiring in &self.retiring {
            counts.add(&retiring.compiled.counts());
        }
        counts
    }

    /// Takes over the counts of policies that no worker runs on any more. `adopted` is the oldest
    /// generation that some worker still runs on.
    pub fn settle(&mut self, adopted: Generation) {
        let (left, still): (Vec<_>, Vec<_>) = std::mem::take(&mut self.retiring)
            .into_iter()
            .partition(|retiring| adopted.0.wrapping_sub(retiring.gone_by.0) as i32 >= 0);
        self.retiring = still;
        for retiring in left {
            self.rulesets.settle(&retiring.compiled.counts());
        }
    }

    /// Puts another configuration into force, of which nothing [needs a restart](reload::needs_restart).
    /// `reconfigure` takes the kernel from the old one to the new, or leaves it as it was; it is called last,
    /// once nothing else can fail. Returns what changed, in words, and the snapshot to publish.
    ///
    /// # Errors
    /// If its rules cannot be read, its forwards do not go with those of the run, or the kernel refuses.
    /// Nothing has changed then.
    pub fn reload(
        &mut self,
        config: Config,
        reconfigure: impl FnOnce(&Config, &Config) -> Result<(), String>,
    ) -> Result<(Vec<String>, Arc<Snapshot>), BoardError> {
        let mut changes = reload::differences(&self.config, &config);
        let (mut rulesets, mut sources) = (self.rulesets.clone(), self.sources);
        let both = [&*self.config, &*config];
        changes.extend(policy::reload(both, &mut rulesets, &mut sources, &self.live_counts())?);
        let mut forwards = configured(&config, self.next_forward);
        let runtime = self.forwards.iter().filter(|f| f.origin == ForwardOrigin::Runtime).cloned();
        for kept in runtime {
            compile::check_forward(&config, &numbers(&forwards), &kept.forward.spec)?;
            forwards.push(kept);
        }
        let mut triggers = configured_triggers(&config);
        let runtime = self.triggers.iter().filter(|t| t.origin == ForwardOrigin::Runtime).cloned();
        for kept in runtime {
            kept.spec.check(&config.interfaces, triggers.iter().map(|t| &t.spec))?;
            triggers.push(kept);
        }
        let before: Vec<_> = self.forwards.iter().map(|f| f.forward.spec.clone()).collect();
        if forwards.iter().map(|f| &f.forward.spec).ne(&before) {
            changes.push(format!("{} port forwards are in force", forwards.len()));
        }
        if config.timeouts != self.config.timeouts {
            changes.push("the idle timeouts changed".to_owned());
        }
        policy::set_forwards(&mut rulesets, &numbers(&forwards))?;
        let compiled =
            parts::compile_rules(&config, &rulesets, self.workers, Some(&self.compiled))?;
        reconfigure(&self.config, &config).map_err(BoardError::Kernel)?;

        self.next_forward += forwards.len() as u32;
        let mut next = (*self.snapshot).clone();
        self.config = config;
        self.forwards = forwards;
        self.triggers = triggers;
        self.rulesets = rulesets;
        self.sources = sources;
        self.retire(compiled);
        next.policy = Arc::clone(self.compiled.policy());
        next.interfaces = Arc::new(compile::interfaces(&self.config, &self.kernel));
        next.timeouts = Arc::new(compile::timeouts(&self.config));
        next.triggers = self.compiled_triggers();
        next.options = compile::options(&self.config, self.workers);
        self.refresh_forwards(&mut next);
        Ok((changes, self.publish(next)))
    }

    /// Whether there are steering epochs that ended long ago: the snapshot under which to ask how many of them
    /// connections need ([`Snapshot::epochs_needed`]).
    pub fn epochs_to_ask_about(&self, now: Instant) -> Option<Arc<Snapshot>> {
        let old = self.epochs_kept_anyway(now) < self.epochs_ended.len();
        old.then(|| Arc::clone(&self.snapshot))
    }

    /// Forgets the steering epochs that ended long ago, but the newest `needed`. That many connections needed when
    /// all of them were looked at once, while every worker ran on `asked` or a newer snapshot. Returns the snapshot
    /// to publish if any was forgotten.
    pub fn forget_epochs(
        &mut self,
        asked: &Snapshot,
        needed: usize,
        now: Instant,
    ) -> Option<Arc<Snapshot>> {
        if !Arc::ptr_eq(&asked.steering, &self.snapshot.steering) {
            return None; // steering has changed since: that was another question
        }
        let kept = self.epochs_kept_anyway(now).max(needed);
        if kept >= self.epochs_ended.len() {
            return None;
        }
        let mut next = (*self.snapshot).clone();
        self.epochs_ended.truncate(kept);
        next.older_steering.truncate(kept);
        Some(self.publish(next))
    }

    fn epochs_kept_anyway(&self, now: Instant) -> usize {
        let young = |end: &&Instant| now.saturating_duration_since(**end) < EPOCH_KEPT;
        self.epochs_ended.iter().take_while(young).count()
    }

    fn set_forwards(&mut self, forwards: Vec<ActiveForward>) -> Result<Arc<Snapshot>, BoardError> {
        let mut rulesets = self.rulesets.clone();
        policy::set_forwards(&mut rulesets, &numbers(&forwards))?;
        let compiled =
            parts::compile_rules(&self.config, &rulesets, self.workers, Some(&self.compiled))?;
        self.rulesets = rulesets;
        self.forwards = forwards;
        self.retire(compiled);
        let mut next = (*self.snapshot).clone();
        next.policy = Arc::clone(self.compiled.policy());
        self.refresh_forwards(&mut next);
        Ok(self.publish(next))
    }

    fn set_rules(&mut self, rulesets: Rulesets) -> Result<Arc<Snapshot>, BoardError> {
        let compiled =
            parts::compile_rules(&self.config, &rulesets, self.workers, Some(&self.compiled))?;
        self.rulesets = rulesets;
        self.retire(compiled);
        let mut next = (*self.snapshot).clone();
        next.policy = Arc::clone(self.compiled.policy());
        self.refresh_forwards(&mut next);
        Ok(self.publish(next))
    }

    /// Puts a newer policy in the old one's place, whose counts are settled when the workers have left it.
    fn retire(&mut self, newer: Compiled) {
        let compiled = std::mem::replace(&mut self.compiled, newer);
        let gone_by = self.snapshot.generation.next();
        self.retiring.push(Retiring { gone_by, compiled });
    }

    /// Compiles NAT and steering anew; whether either changed.
    fn refresh_forwards(&mut self, next: &mut Snapshot) -> bool {
        let forwards = numbers(&self.forwards);
        let nat = compile::nat_rules(&self.config, &self.kernel, &forwards);
        let inputs = compile::steering_inputs(
            &self.config,
            &self.kernel,
            &forwards,
            &self.rulesets,
            self.workers,
            self.key,
        );
        let steering = compile::steering(inputs, &self.config, &self.kernel, &self.rulesets);
        let nat_changed = nat != *next.nat;
        if nat_changed {
            next.nat = Arc::new(nat);
        }
        let steering_changed = !steering.same_inputs(&next.steering);
        if steering_changed {
            let older = std::mem::replace(&mut next.steering, Arc::new(steering));
            if self.workers > 1 {
                if next.older_steering.is_full() {
                    next.older_steering.pop();
                    self.epochs_ended.pop();
                }
                next.older_steering.insert(0, older);
                self.epochs_ended.insert(0, Instant::now());
            }
        }
        nat_changed || steering_changed
    }

    fn publish(&mut self, next: Snapshot) -> Arc<Snapshot> {
        self.snapshot = Arc::new(next.following(&self.snapshot));
        Arc::clone(&self.snapshot)
    }
}

fn numbers(forwards: &[ActiveForward]) -> Vec<NumberedForward> {
    forwards.iter().map(|f| f.forward.clone()).collect()
}

fn configured(config: &Config, first: u32) -> Vec<ActiveForward> {
    let forwards = compile::configured_forwards(config).into_iter();
    (first..)
        .zip(forwards)
        .map(|(id, forward)| ActiveForward {
            forward: NumberedForward { id, ..forward },
            origin: ForwardOrigin::Config,
        })
        .collect()
}

fn configured_triggers(config: &Config) -> Vec<ActiveTrigger> {
    let active =
        |spec: &TriggerSpec| ActiveTrigger { spec: spec.clone(), origin: ForwardOrigin::Config };
    config.triggers.iter().map(|settings| active(&settings.spec)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::api::model::Family as ApiFamily;
    use crate::config;

    const TEXT: &str = "
        [interface.lan]
        device = 'eth0'
        address = ['192.168.1.1/24']
        [interface.wan]
        device = 'eth1'
        zone = 'wan'
        address = ['203.0.113.2/24']
        [interface.dmz]
        device = 'eth2'
        address = ['192.168.2.1/24']
        ";

    fn config(text: &str) -> Config {
        config::parse(Path::new("/etc/postern/t.toml"), text.as_bytes()).unwrap()
    }

    fn board() -> Board {
        board_of(1)
    }

    fn board_of(workers: u8) -> Board {
        let config = config(TEXT);
        let kernel = compile::assumed_kernel(&config);
        Board::new(config, kernel, Arc::new(Neighbours::new(64)), workers, SipKey([1, 2])).unwrap()
    }

    fn add_forward(board: &mut Board, port: &str) {
        let spec = ForwardSpec::parse("wan", "tcp", port, "192.168.1.9").unwrap();
        board.add_forward(spec).unwrap();
    }

    fn iptables(board: &mut Board, family: ApiFamily, line: &str) -> String {
        let args = line.split_whitespace().map(str::to_owned).collect();
        let request = RulesRequest { family, program: RulesProgram::Iptables, args, stdin: None };
        let (output, _) = board.rules(&request);
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout
    }

    fn reload(board: &mut Board, config: Config) -> Vec<String> {
        board.reload(config, |_, _| Ok(())).unwrap().0
    }

    const DMZ_OUT: &str = "-A FORWARD -i lan -o dmz -j ACCEPT";

    #[test]
    fn the_built_in_rules_follow_the_zones() {
        let mut board = board();
        let outside = config(&TEXT.replace("'eth2'", "'eth2'\nzone = 'wan'"));
        assert!(!iptables(&mut board, ApiFamily::Ipv4, "-S").contains(DMZ_OUT));
        let before = board.snapshot().generation;
        assert_eq!(
            reload(&mut board, outside.clone()),
            [
                "interface dmz: zone is wan",
                "the built-in IPv4 rules were made anew",
                "the built-in IPv6 rules were made anew"
            ]
        );
        assert_ne!(board.snapshot().generation, before);
        for family in [ApiFamily::Ipv4, ApiFamily::Ipv6] {
            let rules = iptables(&mut board, family, "-S");
            assert!(rules.contains(DMZ_OUT) && !rules.contains("-A INPUT -i dmz"), "{rules}");
        }
        assert!(reload(&mut board, outside).is_empty(), "the same again");
        assert_eq!(reload(&mut board, config(TEXT)).len(), 3);
        assert!(!iptables(&mut board, ApiFamily::Ipv4, "-S").contains(DMZ_OUT));
    }

    #[test]
    fn rules_that_were_edited_stay_and_the_reload_says_so() {
        let mut board = board();
        // Looking, counters and refused edits are none.
        iptables(&mut board, ApiFamily::Ipv6, "-Z");
        iptables(&mut board, ApiFamily::Ipv6, "-L");
        iptables(&mut board, ApiFamily::Ipv4, "-A INPUT -p tcp --dport 22 -j DROP");
        assert!(reload(&mut board, config(TEXT)).is_empty(), "nothing to say");
        let outside = config(&TEXT.replace("'eth2'", "'eth2'\nzone = 'wan'"));
        let changes = reload(&mut board, outside);
        assert_eq!(
            changes[1..],
            [
                "the IPv4 rules stay as they are: they are no longer the built-in ones",
                "the built-in IPv6 rules were made anew"
            ]
        );
        let rules = iptables(&mut board, ApiFamily::Ipv4, "-S");
        assert!(rules.contains("--dport 22 -j DROP") && !rules.contains(DMZ_OUT), "{rules}");
        assert!(iptables(&mut board, ApiFamily::Ipv6, "-S").contains(DMZ_OUT));
    }

    #[test]
    fn a_forward_survives_built_in_rules_made_anew() {
        let mut board = board();
        let spec = ForwardSpec::parse("wan", "tcp", "80", "192.168.1.9").unwrap();
        board.add_forward(spec).unwrap();
        reload(&mut board, config(&TEXT.replace("'eth2'", "'eth2'\nzone = 'wan'")));
        let rules = iptables(&mut board, ApiFamily::Ipv4, "-S");
        assert!(rules.contains("-A FORWARD -j POSTERN-FORWARD"), "{rules}");
        assert!(rules.contains("-A POSTERN-FORWARD -d 192.168.1.9/32"), "{rules}");
        assert_eq!(board.forwards().len(), 1);
    }

    #[test]
    fn a_kernel_that_refuses_leaves_everything_as_it_was() {
        let mut board = board();
        let (before, rules) = (Arc::clone(board.snapshot()), board.rulesets().clone());
        let changed = config(&format!(
            "{}[timeouts]\nudp = 7\n[[forward]]\ninterface = 'wan'\nprotocol = 'tcp'\nport = 80\n\
             to = '192.168.1.9'\n",
            TEXT.replace("zone = 'wan'", "masquerade = true\nzone = 'x'")
        ));
        let refused = board.reload(changed.clone(), |old, new| {
            assert_eq!((old.interfaces[1].masquerade, new.interfaces[1].masquerade), (false, true));
            Err("no such address".to_owned())
        });
        assert!(matches!(refused, Err(BoardError::Kernel(text)) if text == "no such address"));
        assert!(Arc::ptr_eq(&before, board.snapshot()));
        assert_eq!(*board.config(), config(TEXT));
        assert!(board.forwards().is_empty() && *board.rulesets() == rules);
        // And it can be tried again.
        let changes = reload(&mut board, changed);
        assert_eq!(
            changes,
            [
                "interface wan: zone is x",
                "interface wan: masquerade is on",
                "1 port forwards are in force",
                "the idle timeouts changed"
            ]
        );
        let interface = board.snapshot().interfaces.get(postern_core::units::InterfaceId(1));
        assert!(interface.unwrap().masquerade);
    }

    #[test]
    fn another_neighbour_array_is_another_generation_and_nothing_else() {
        let mut board = board();
        let (before, array) = (Arc::clone(board.snapshot()), Arc::new(Neighbours::new(64)));
        let snapshot = board.set_neighbours(Arc::clone(&array));
        assert!(Arc::ptr_eq(&snapshot.neighbours, &array));
        assert_eq!(snapshot.generation, before.generation.next());
        assert!(Arc::ptr_eq(&snapshot.policy, &before.policy));
    }

    #[test]
    fn an_older_steering_is_kept_for_an_hour_and_while_a_connection_needs_it() {
        let mut board = board_of(2);
        add_forward(&mut board, "80");
        add_forward(&mut board, "81");
        let long_ago = Instant::now() + EPOCH_KEPT - Duration::from_secs(60);
        let later = Instant::now() + EPOCH_KEPT;
        let epochs = |board: &Board| board.snapshot().older_steering.len();
        assert!(board.epochs_to_ask_about(long_ago).is_none(), "not an hour yet");
        let asked = board.epochs_to_ask_about(later).expect("there are two");

        let days_later = later + Duration::from_secs(100 * 24 * 3600);
        assert!(board.forget_epochs(&asked, 2, days_later).is_none(), "both are needed");
        let snapshot = board.forget_epochs(&asked, 1, days_later).expect("the older one is not");
        assert_eq!((snapshot.older_steering.len(), epochs(&board)), (1, 1));
        assert!(Arc::ptr_eq(&snapshot.older_steering[0], &asked.older_steering[0]));

        // Asked, and steering changes before the answer comes.
        add_forward(&mut board, "82");
        assert!(board.forget_epochs(&asked, 0, days_later).is_none());
        let asked = board.epochs_to_ask_about(later).expect("two again");
        assert!(board.forget_epochs(&asked, 0, long_ago).is_none(), "they are young");
        assert!(board.forget_epochs(&asked, 0, days_later).is_some());
        assert!(board.epochs_to_ask_about(days_later).is_none() && epochs(&board) == 0);
    }

    fn trigger(text: &str) -> TriggerSpec {
        let words: Vec<_> = text.split(' ').collect();
        TriggerSpec::parse(words[0], words[1], words[2], words[3], None).unwrap()
    }

    fn inbound(board: &Board) -> Vec<(u16, u16)> {
        board.snapshot().triggers.iter().map(|trigger| trigger.rule.inbound).collect()
    }

    /// C106: one of a run lasts over a reload, and whoever holds it goes on holding it; one of the file is changed there.
    #[test]
    fn triggers_come_and_go_and_a_reload_keeps_those_of_the_run_and_every_holder() {
        let of_file = |ports: &str| {
            format!(
                "{TEXT}[[trigger]]\ninterface = 'wan'\nprotocol = 'udp'\noutbound = 6112\ninbound = '{ports}'\n"
            )
        };
        let mut board = board();
        reload(&mut board, config(&of_file("6113-6115")));
        let (_, snapshot) = board.add_trigger(trigger("wan udp 7000 7001")).unwrap();
        assert!(Arc::ptr_eq(&snapshot, board.snapshot()));
        board.add_trigger(trigger("wan tcp 7000 6113-6115")).unwrap();
        assert_eq!(inbound(&board), [(6113, 6115), (7001, 7001), (6113, 6115)]);
        let now = postern_core::time::Tick(1000);
        let held = board.snapshot().triggers.get(1).unwrap().clone();
        assert!(held.hold([192, 168, 1, 2].into(), now.plus_ms(60_000), now));

        let overlap = board.add_trigger(trigger("wan udp 1 6115-6116"));
        assert!(matches!(overlap, Err(BoardError::Trigger(TriggerError::Overlap(_)))));
        let nowhere = board.add_trigger(trigger("dsl udp 1 2"));
        assert!(matches!(nowhere, Err(BoardError::Trigger(TriggerError::UnknownInterface(_)))));
        // One that the run's would open as well is refused whole.
        let clash = board.reload(config(&of_file("7001")), |_, _| Ok(()));
        assert!(matches!(clash, Err(BoardError::Trigger(TriggerError::Overlap(_)))));
        assert_eq!(inbound(&board).len(), 3);

        reload(&mut board, config(TEXT));
        assert_eq!(inbound(&board), [(7001, 7001), (6113, 6115)]);
        let holder = board.snapshot().triggers.get(0).unwrap().look(now);
        assert_eq!(holder, Some(([192, 168, 1, 2].into(), now.plus_ms(60_000))));
        reload(&mut board, config(&of_file("8000")));
        let of_file = |spec: &TriggerSpec| spec.inbound == trigger("wan udp 1 8000").inbound;
        assert!(matches!(board.remove_trigger(of_file), Err(BoardError::ConfiguredTrigger)));
        board.remove_trigger(|spec| *spec == trigger("wan udp 7000 7001")).unwrap();
        let gone = board.remove_trigger(|spec| *spec == trigger("wan udp 7000 7001"));
        assert!(matches!(gone, Err(BoardError::NoTrigger)));
        assert_eq!(inbound(&board), [(8000, 8000), (6113, 6115)]);
    }

    #[test]
    fn there_are_as_many_triggers_as_there_may_be_and_no_more() {
        let mut board = board();
        for port in 1..=postern_core::nat::trigger::TRIGGERS_MAX {
            board.add_trigger(trigger(&format!("wan udp 9 {port}"))).unwrap();
        }
        let more = board.add_trigger(trigger("wan udp 9 9999"));
        assert!(matches!(more, Err(BoardError::Trigger(TriggerError::TooMany))));
    }

    #[test]
    fn a_single_worker_has_no_older_steering() {
        let mut board = board();
        add_forward(&mut board, "80");
        let days_later = Instant::now() + Duration::from_secs(100 * 24 * 3600);
        assert!(board.epochs_to_ask_about(days_later).is_none());
    }
}
