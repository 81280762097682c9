//! The control side of Postern.
//!
//! ```text
//!  postern.toml ─► config ─┐                     ┌─► api ◄── control socket ◄── cli
//!  rtnetlink ──► netlink ──┼─► compile ─► appliance ─► snapshots ─► workers
//!  iptables ─► (postern-rules) ─┘
//! ```
//!
//! - [`config`]: the configuration file, checked; [`netlink`]: what the kernel knows; [`compile`]: both into
//!   parts of the core's snapshot.
//! - [`appliance`]: joins everything into one running thing.
//! - [`api`]: HTTP and JSON over the control socket; [`cli`]: the `postern` command.

pub mod api;
pub mod appliance;
pub mod cli;
pub mod compile;
pub mod config;
pub mod netlink;
