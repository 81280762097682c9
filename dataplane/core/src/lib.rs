//! The packet path of Postern: what decides every packet, and nothing else.
//!
//! A burst walks through these rooms, in the order that [`pipeline`] writes down:
//!
//! ```text
//!  parse ─► steer ─► find ─► track ─┬─ established: cached decision ─────────────► rewrite ─► verdict
//!                                   └─ first packet: nat destination ─► route ─► limits ─►
//!                                      judge ─► nat source ─► confirm ───────────► rewrite ─► verdict
//! ```
//!
//! - [`parse`]: bytes to offsets and a tuple, or a named drop reason. [`steering`]: which worker owns it.
//! - [`conntrack`]: the tables, the protocol machines, the timers.
//! - [`fragments`]: datagrams in pieces, gathered before anything is decided; packets cut for a smaller MTU.
//! - [`nat`]: choosing a translation once, applying it always. [`forward`]: routes and next hops.
//! - [`helper`]: protocols that name endpoints in what they say; off unless asked for.
//! - [`rules`]: the filter and its cached decisions. [`reply`]: packets we originate.
//! - [`snapshot`]: what all of them read; [`counters`]: what they count; [`verdict`]: what comes out.
//!
//! The crate is pure: packet bytes, a snapshot and `now` go in, verdicts and rewritten bytes come out. It
//! cannot reach a socket, a clock, a log or a thread, and allocates nothing after start.
#![no_std]
#![deny(unsafe_code)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arch;
pub mod burst;
pub mod conntrack;
pub mod counters;
pub mod forward;
pub mod fragments;
pub mod headers;
pub mod helper;
pub mod limits;
pub mod nat;
pub mod parse;
pub mod pipeline;
pub mod reply;
pub mod rules;
pub mod snapshot;
pub mod steering;
pub mod time;
pub mod units;
pub mod verdict;
pub mod wire;
