//! Port triggers, as they stand in JSON.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::model::ForwardOrigin;

/// A port trigger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trigger {
    /// The interface outside.
    pub interface: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Destination ports that trigger: `6112` or `6112-6119`.
    pub outbound: String,
    /// Ports opened towards who triggered.
    pub inbound: String,
    /// Seconds they stay open without use.
    pub timeout_s: u32,
    /// Where it comes from, as with port forwards.
    pub origin: ForwardOrigin,
    /// Whom the ports are open to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// Who holds a trigger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Holder {
    /// The host inside.
    #[schema(value_type = String)]
    pub host: Ipv4Addr,
    /// Seconds until the ports close unless they are used.
    pub remaining_s: u32,
}

/// A port trigger to be added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// The interface outside; may be left out when only one masquerades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Destination ports that trigger: `6112` or `6112-6119`.
    pub outbound: String,
    /// Ports opened towards who triggered.
    pub inbound: String,
    /// Seconds they stay open without use: 1 to 864000; 60 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

/// What names a port trigger: no two open the same ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TriggerKey {
    /// The interface; may be left out when only one masquerades.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The ports opened, as it was added.
    pub inbound: String,
}

/// All port triggers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Triggers {
    /// Those of the file first, then in the order they were made.
    pub triggers: Vec<Trigger>,
}
