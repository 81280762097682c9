//! The iptables language: command lines and dumps to rules, rules to listings, dumps and the core's policy.
//!
//! ```text
//! command line --parse--> Command --apply--> Rulesets --compile--> core::rules::Policy
//! dump ---------restore-----------------------^   |
//!                                       -L -S save
//! ```
//!
//! [`Rulesets`] is the model: both families' tables, chains by name, rules as they were written. Every change is made to a copy
//! and swapped in whole, so an error leaves everything as it was. The tables are `raw`, `filter` and `nat`; whatever is not
//! supported is refused by name and place, never skipped.
//!
//! # Counters
//! A rule keeps its [`RuleId`] for as long as it exists, and a `base` that is added to what the live policies count. When a
//! policy has been replaced and its last worker has left it, [`Rulesets::settle`] adds its final [`Compiled::counts`] to the
//! bases; so a rule that stays keeps its count. `-Z` sets the base to minus the live count; no worker is disturbed.
//!
//! # Reserved chains
//! Chains named [`RESERVED_PREFIX`]`...` belong to the daemon ([`Rulesets::set_reserved`]). The user sees them and their
//! counters, but cannot edit them. The jump to one is an ordinary line of the base chain: rules can be inserted before it, and `-D` takes
//! it away. `-F` and a restored dump leave it, because the scripts that begin with `-F` know nothing of port forwards and must not
//! cut them off.
#![deny(unsafe_code)]

mod apply;
mod builtin;
mod command;
mod compile;
mod connlimit;
mod ct;
mod error;
mod execute;
mod list;
mod model;
mod names;
mod nat;
mod options;
mod parse;
mod print;
mod save;
mod sides;
mod spec;
mod values;

pub use builtin::{InterfaceRole, builtin, builtin_dump};
pub use compile::{Compiled, compile};
pub use error::{Error, RestoreError, VERSION};
pub use execute::{Output, execute, execute_restore, execute_save};
pub use model::{Chain, Counts, Rule, RuleId, Ruleset, Rulesets, Spec};
pub use save::{RestoreOptions, Restored, restore, save};
pub use sides::{NamedAddresses, hides_sources, nat_sides, whose_block};

use postern_core::rules::Family;

/// How the names of chains begin that belong to the daemon.
pub const RESERVED_PREFIX: &str = "POSTERN-";

/// The program that edits a family's rules.
pub fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}
