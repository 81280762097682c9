//! What the benchmarks share: a world to forward in ([`world`]), traffic to forward ([`traffic`]), the works
//! that are measured ([`work`], [`steered`]), and what they are held against ([`floor`]).

pub mod compare;
pub mod floor;
pub mod pktgen;
pub mod plot;
pub mod rooms;
pub mod rounds;
pub mod skew;
pub mod steered;
pub mod stopwatch;
pub mod traffic;
pub mod work;
pub mod world;
