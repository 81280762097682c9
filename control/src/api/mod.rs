//! The control socket: what a program may ask of a running appliance, and how.
//!
//! * [`model`], [`connection`]: requests and answers, as they stand in JSON. Interfaces go by name.
//! * [`event`], [`expectation`], [`mapping`], [`trigger`]: the same, for what happens to connections, what helpers expect, endpoint-independent
//!   mappings, port triggers.
//! * [`backend`]: what the API needs of the appliance; the appliance implements it, tests fake it.
//! * [`routes`]: paths to backend calls, and the OpenAPI document made from the same list.
//! * [`socket`]: the socket file: where, whose, with which mode, and gone at the end.
//! * [`peer`]: who is at the other end, and whether that one may change anything.
//! * [`server`]: connections: how many, how long, and what happens to garbage.
//! * [`stall`]: a stream whose reader must keep up.
//!
//! Everything a client sends is bounded (bytes, seconds, connections) and nothing it does is felt by
//! a worker: listings are pulled from the backend a page at a time, when the client has taken the last one.

pub mod backend;
pub mod connection;
pub mod event;
pub mod expectation;
pub mod filter;
pub mod mapping;
pub mod model;
pub mod peer;
pub mod routes;
pub mod server;
pub mod socket;
mod stall;
pub mod trigger;
