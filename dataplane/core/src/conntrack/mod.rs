//! Connection tracking: who talks with whom, and how far along they are.

pub mod changes;
pub mod ctstate;
pub mod datagram;
pub mod entry;
pub mod pressure;
pub mod rowset;
pub mod sctp;
mod sctp_machine;
pub mod siphash;
pub mod table;
pub mod tcp;
mod tcp_machine;
pub mod tcp_options;
mod tcp_step;
pub mod timeouts;
pub mod tuple;
pub mod wheel;
pub mod window;
