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
use postern_core::rules::Family;
use postern_core::snapshot::{EPOCHS_MAX, Snapshot};
use postern_core::steering::Steering;
use postern_core::units::Generation;
use postern_rules::{Compiled, Counts, Output, Rulesets};

use super::parts;
use super::policy::{self, PolicyError};
use crate::api::model::{ForwardOrigin, RulesProgram, RulesRequest};
use crate::compile::{self, NumberedForward};
use crate::config::{Config, ForwardError, ForwardSpec};
use crate::netlink::KernelState;

/// How long connections made under an older steering are still looked for. A connection that a change of
/// forwards or addresses concerns may lose its owner after that.
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
    /// A port forward.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// There is no such forward.
    #[error("there is no such forward")]
    NoForward,
    /// A forward of the configuration file.
    #[error("this forward stands in the configuration file: take it out there and reload")]
    ConfiguredForward,
}

/// A port forward in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActiveForward {
    /// Its number and what it says.
    pub forward: NumberedForward,
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
    compiled: Compiled,
    retiring: Vec<Retiring>,
    forwards: Vec<ActiveForward>,
    next_forward: u32,
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
        let compiled = parts::compile_rules(&config, &rulesets, workers)?;
        let snapshot = parts::first_snapshot(parts::Inputs {
            config: &config,
            kernel: &kernel,
            forwards: &numbered,
            rules: &compiled,
            neighbours: &neighbours,
            workers,
            key,
        });
        let next_forward = forwards.len() as u32 + 1;
        Ok(Self {
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
            Ok(snapshot) => (output, Some(snapshot)),
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

    /// Puts another configuration into force; its devices, workers and tables must be those of the old
    /// one. Returns what changed, in words, and the snapshot to publish.
    ///
    /// # Errors
    /// If its rules cannot be read. Nothing has changed then.
    pub fn reload(&mut self, config: Config) -> Result<(Vec<String>, Arc<Snapshot>), BoardError> {
        let mut changes = Vec::new();
        let mut rulesets = self.rulesets.clone();
        if config.rules.is_some() || config.rules6.is_some() {
            policy::load_files(&config, &mut rulesets, &self.live_counts())?;
            changes.push("the rules files were read again".to_owned());
        }
        let mut forwards = configured(&config, self.next_forward);
        let runtime = self.forwards.iter().filter(|f| f.origin == ForwardOrigin::Runtime).cloned();
        for kept in runtime {
            compile::check_forward(&config, &numbers(&forwards), &kept.forward.spec)?;
            forwards.push(kept);
        }
        let before: Vec<_> = self.forwards.iter().map(|f| f.forward.spec.clone()).collect();
        if forwards.iter().map(|f| &f.forward.spec).ne(&before) {
            changes.push(format!("{} port forwards are in force", forwards.len()));
        }
        if config.timeouts != self.config.timeouts {
            changes.push("the idle timeouts changed".to_owned());
        }
        policy::set_forwards(&mut rulesets, &numbers(&forwards))?;
        let compiled = parts::compile_rules(&config, &rulesets, self.workers)?;
        self.next_forward += forwards.len() as u32;

        let mut next = (*self.snapshot).clone();
        self.config = config;
        self.forwards = forwards;
        self.rulesets = rulesets;
        self.retire(compiled);
        next.policy = Arc::clone(self.compiled.policy());
        next.interfaces = Arc::new(compile::interfaces(&self.config, &self.kernel));
        next.timeouts = Arc::new(compile::timeouts(&self.config));
        next.options = compile::options(&self.config);
        self.refresh_forwards(&mut next);
        Ok((changes, self.publish(next)))
    }

    /// Forgets steering epochs that ended long ago. Returns the snapshot to publish if there were any.
    pub fn forget_old_epochs(&mut self, now: Instant) -> Option<Arc<Snapshot>> {
        let kept = self.epochs_ended.iter().take_while(|&&end| now - end < EPOCH_KEPT).count();
        if kept == self.epochs_ended.len() {
            return None;
        }
        let mut next = (*self.snapshot).clone();
        self.epochs_ended.truncate(kept);
        next.older_steering.truncate(kept);
        Some(self.publish(next))
    }

    fn set_forwards(&mut self, forwards: Vec<ActiveForward>) -> Result<Arc<Snapshot>, BoardError> {
        let mut rulesets = self.rulesets.clone();
        policy::set_forwards(&mut rulesets, &numbers(&forwards))?;
        let compiled = parts::compile_rules(&self.config, &rulesets, self.workers)?;
        self.rulesets = rulesets;
        self.forwards = forwards;
        self.retire(compiled);
        let mut next = (*self.snapshot).clone();
        next.policy = Arc::clone(self.compiled.policy());
        self.refresh_forwards(&mut next);
        Ok(self.publish(next))
    }

    fn set_rules(&mut self, rulesets: Rulesets) -> Result<Arc<Snapshot>, BoardError> {
        let compiled = parts::compile_rules(&self.config, &rulesets, self.workers)?;
        self.rulesets = rulesets;
        self.retire(compiled);
        let mut next = (*self.snapshot).clone();
        next.policy = Arc::clone(self.compiled.policy());
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
        let inputs =
            compile::steering_inputs(&self.config, &self.kernel, &forwards, self.workers, self.key);
        let steering = Steering::new(inputs);
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

    fn publish(&mut self, mut next: Snapshot) -> Arc<Snapshot> {
        next.generation = self.snapshot.generation.next();
        self.snapshot = Arc::new(next);
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
