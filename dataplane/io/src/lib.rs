//! The doors of Postern: everything that touches the kernel on a packet's way.
//!
//! ```text
//!            fill ──►┌────────┐──► rx            worker: receive → (pipeline) → transmit, kick
//!  NIC queue         │ kernel │                          refill, reclaim  ◄──►  FramePool ◄──► Depot
//!      completion ◄──└────────┘◄── tx
//! ```
//!
//! - [`umem`]: the frame memory, one for all interfaces and workers; [`frame`]: who owns which frame.
//! - [`xdp`]: AF_XDP sockets, layered as ABI ([`xdp::abi`]), syscalls, ring arithmetic
//!   ([`xdp::ring`]), socket ([`xdp::socket`]) and the XDP program ([`xdp::program`]).
//! - [`tap`]: the kernel's side of an interface. [`device`]: taking a raw device over and giving it back.
//! - [`runtime`]: the threads that carry packets between all these and the core.
//! - [`memory`]: huge, shared, zeroed memory for tables. [`wait`]: sleeping until something happens.
//!
//! A frame is a [`frame::FrameIdx`]: it is moved, never copied, so whoever holds the value owns the
//! bytes. Nothing here allocates per packet. All unsafe code of the appliance that talks to the
//! kernel is in this crate; every block says who keeps the promise it rests on.

pub mod device;
pub mod frame;
pub mod memory;
pub mod numa;
pub mod runtime;
pub mod tap;
pub mod umem;
pub mod wait;
pub mod xdp;

mod netdev;
mod netlink;
mod surplus;
mod sysctl;
