//! What the benchmarks share: a world to forward in ([`world`]) and traffic to forward ([`traffic`]).

pub mod stopwatch;
pub mod traffic;
pub mod world;
