//! The packet path of Postern.
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
pub mod headers;
pub mod nat;
pub mod rules;
pub mod snapshot;
pub mod steering;
pub mod time;
pub mod units;
pub mod verdict;
