//! Where a packet goes next: routes, next hops, and what the kernel knows of neighbours.

pub mod neighbour;
pub mod route;

pub use neighbour::{NeighbourState, Neighbours};
pub use route::{Route, RouteKind, Routes};
