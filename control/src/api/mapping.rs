//! Endpoint-independent mappings, as they stand in JSON.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connection::Protocol;

/// An inside endpoint that appears as one external endpoint to everybody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Mapping {
    /// The transport protocol: `tcp` or `udp`.
    #[schema(value_type = String)]
    pub protocol: Protocol,
    /// The address of the host inside.
    #[schema(value_type = String)]
    pub inside: Ipv4Addr,
    /// Its port.
    pub inside_port: u16,
    /// Conntrack zone it is in.
    #[serde(default)]
    pub zone: u16,
    /// The address it appears behind.
    #[schema(value_type = String)]
    pub external: Ipv4Addr,
    /// The port it appears at.
    pub external_port: u16,
    /// Whether everybody gets in there (RFC 4787 REQ-8).
    pub open: bool,
    /// Connections that hold it.
    pub connections: u32,
    /// Seconds until it ends; absent while connections hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

/// All of them.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Mappings {
    /// In no order.
    pub mappings: Vec<Mapping>,
}
