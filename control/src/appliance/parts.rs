//! Putting a snapshot together from its parts.

use std::sync::Arc;

use arrayvec::ArrayVec;
use postern_core::conntrack::siphash::SipKey;
use postern_core::forward::Neighbours;
use postern_core::limits::Room;
use postern_core::nat::mapping::Mappings;
use postern_core::nat::trigger::Triggers;
use postern_core::snapshot::Snapshot;
use postern_core::units::{Generation, InterfaceId, Stamps};
use postern_rules::{Compiled, Rulesets};

use crate::compile::{self, NumberedForward};
use crate::config::Settings;
use crate::netlink::KernelState;

/// Names and ids of the interfaces.
pub fn interface_ids(config: &Settings) -> Vec<(&str, InterfaceId)> {
    let names = config.interfaces.iter().map(|i| i.name.as_str());
    names.zip((0..).map(InterfaceId)).collect()
}

/// Compiles the rules for this configuration's interfaces; `before` is what was in force until now.
///
/// # Errors
/// Chains that packets could not leave.
pub fn compile_rules(
    config: &Settings,
    rulesets: &Rulesets,
    workers: u8,
    before: Option<&Compiled>,
) -> Result<Compiled, postern_rules::Error> {
    let before = before.and_then(|before| before.policy().ledger_to_go_on_with());
    let room = Room { before, ..compile::room(config, workers) };
    postern_rules::compile(rulesets, &interface_ids(config), usize::from(workers), &room)
}

/// What a first snapshot is made of.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The configuration.
    pub config: &'a Settings,
    /// The kernel's side.
    pub kernel: &'a KernelState,
    /// The forwards in force.
    pub forwards: &'a [NumberedForward],
    /// The rules.
    pub rulesets: &'a Rulesets,
    /// The same, compiled.
    pub rules: &'a Compiled,
    /// The neighbours, updated in place.
    pub neighbours: &'a Arc<Neighbours>,
    /// How many workers.
    pub workers: u8,
    /// Keys steering.
    pub key: SipKey,
}

/// The table of endpoint-independent mappings. Memory comes with the mappings.
fn mappings(config: &Settings, workers: u8, key: SipKey) -> Mappings {
    /// As many as the ports of one address for both protocols, of one worker alone.
    const PLACES_MAX: u32 = 1 << 17;
    let share = config.conntrack.capacity.div_ceil(workers.into());
    // Another key than steering's.
    let key = SipKey([key.hash_words(&[0]), key.hash_words(&[1])]);
    Mappings::new(workers, share.min(PLACES_MAX), key)
}

/// The first snapshot.
pub fn first_snapshot(inputs: Inputs<'_>) -> Snapshot {
    let Inputs { config, kernel, forwards, rulesets, rules, neighbours, workers, key } = inputs;
    let steering = compile::steering_inputs(config, kernel, forwards, rulesets, workers, key);
    let triggers = config.triggers.iter().map(|trigger| &trigger.spec);
    Snapshot {
        generation: Generation::default().next(),
        stamps: Stamps::FIRST,
        reviews: 0,
        timeout_changes: 0,
        interfaces: Arc::new(compile::interfaces(config, kernel)),
        policy: Arc::clone(rules.policy()),
        nat: Arc::new(compile::nat_rules(config, kernel, forwards)),
        steering: Arc::new(compile::steering(steering, config, kernel, rulesets)),
        older_steering: ArrayVec::new(),
        routes: Arc::new(compile::routes(kernel)),
        neighbours: Arc::clone(neighbours),
        triggers: Arc::new(compile::triggers(config, triggers, &Triggers::default())),
        expectations: Arc::default(),
        mappings: Arc::new(mappings(config, workers, key)),
        timeouts: Arc::new(compile::timeouts(config)),
        options: compile::options(config, workers),
    }
}
