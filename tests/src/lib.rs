//! Postern seen from outside: packets in, packets out, with nothing but the pure core in between.
//!
//! - [`packet`]: packets as values, built and read back by code of their own (never the core's), every
//!   checksum the long way. A packet that decodes to the expected value has the expected bytes.
//! - [`firewall`]: the whole appliance in memory: any number of workers, a virtual clock, interfaces,
//!   routes, neighbours, rules, forwards; every counter accounted for. [`setup`] says what it is made of.
//! - [`flow`]: one connection's packets, sent across and checked on the other side. [`fragments`]: datagrams in pieces.
//!
//! A test says what goes in and states everything that comes out ([`moved!`]). There is no barrier to wait
//! for: what did not come out when [`Firewall::send`](firewall::Firewall::send) returns never will.

pub mod differential;
pub mod draw;
pub mod firewall;
pub mod flow;
pub mod fragments;
pub mod fuzz;
mod memory;
pub mod model;
pub mod oracle;
pub mod packet;
pub mod requirements;
pub mod rfc;
pub mod sctp;
pub mod sent;
pub mod setup;
pub mod udp_lite;
pub mod wire;

pub use draw::Draw;
pub use firewall::{Firewall, for_workers};
pub use flow::Flow;
pub use packet::Pkt;
pub use sent::Sent;
pub use setup::{At, HOST_LAN, HOST_WAN, LAN, LAN2, Setup, WAN};
