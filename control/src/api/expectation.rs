//! Connections that helpers expect, as they stand in JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connection::{ConnectionId, Protocol, TupleInfo};

/// A connection that a helper expects.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Expectation {
    /// Seconds until it is expected no more.
    pub timeout_s: u32,
    /// Its transport protocol, by name or number.
    #[schema(value_type = String)]
    pub protocol: Protocol,
    /// The protocol's number.
    pub protocol_number: u8,
    /// Who may begin it, from any port; absent if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub src: Option<IpAddr>,
    /// The address it is sent to, as it arrives here.
    #[schema(value_type = String)]
    pub dst: IpAddr,
    /// The port it is sent to, as it arrives here.
    pub dport: u16,
    /// The address that is meant; another one than `dst` if it is translated.
    #[schema(value_type = String)]
    pub to: IpAddr,
    /// The port that is meant.
    pub to_port: u16,
    /// The connection that announced it.
    #[schema(value_type = String)]
    pub master: ConnectionId,
    /// That one's original direction.
    pub master_original: TupleInfo,
    /// The helper: `ftp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
}

/// All that helpers expect.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Expectations {
    /// In no order.
    pub expectations: Vec<Expectation>,
}
