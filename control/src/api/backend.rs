//! What the API needs of the appliance.

use async_trait::async_trait;

use super::connection::{Connection, ConnectionId};
use super::event::{ConnectionEdit, Events};
use super::expectation::Expectation;
use super::filter::ConnectionFilter;
use super::mapping::Mapping;
use super::model::{
    ConfigFault, ConnectionCount, Drops, Forward, ForwardKey, ForwardRequest, ReloadOutcome,
    RulesOutcome, RulesRequest, Status,
};
use super::trigger::{Trigger, TriggerKey, TriggerRequest};

/// Why the backend did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BackendError {
    /// What was asked about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request is understood but cannot be right, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// It is at odds with what is there already.
    #[error("{0}")]
    Conflict(String),
    /// The configuration was refused as a whole.
    #[error("the configuration was refused: {} fault(s)", .0.len())]
    Faults(Vec<ConfigFault>),
    /// Not now: starting, stopping, or a worker does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Our fault.
    #[error("{0}")]
    Internal(String),
}

/// Where a walk through the connection tables continues. Opaque to everyone but the backend; the
/// start is the default. Stays valid however the tables change: rows never move, so a connection that
/// lives throughout a walk is met exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor(pub u64);

/// Some connections, and where to go on.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPage {
    /// May be empty although there is more: rows that hold nothing, or nothing that matches.
    pub connections: Vec<Connection>,
    /// `None` at the end.
    pub next: Option<Cursor>,
}

/// A running appliance, seen from its control socket.
///
/// Called from a current-thread runtime, several calls at once. No call may block it; what takes long is
/// cut into slices by the backend.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// All figures of `status`.
    async fn status(&self) -> Result<Status, BackendError>;

    /// Drops by reason and worker, all reasons.
    async fn drops(&self) -> Result<Drops, BackendError>;

    /// Runs `iptables`, `iptables-save`, `iptables-restore` or their IPv6 twins. A command that is
    /// refused is an `Ok` with its exit code, as the tool would end.
    async fn rules(&self, request: RulesRequest) -> Result<RulesOutcome, BackendError>;

    /// All port forwards.
    async fn forwards(&self) -> Result<Vec<Forward>, BackendError>;

    /// Adds a port forward that lasts until it is removed or the appliance stops.
    async fn add_forward(&self, request: ForwardRequest) -> Result<Forward, BackendError>;

    /// Removes a port forward.
    async fn remove_forward(&self, key: ForwardKey) -> Result<Forward, BackendError>;

    /// All port triggers, with who holds them.
    async fn triggers(&self) -> Result<Vec<Trigger>, BackendError>;

    /// Adds a port trigger that lasts until it is removed or the appliance stops.
    async fn add_trigger(&self, request: TriggerRequest) -> Result<Trigger, BackendError>;

    /// Removes a port trigger.
    async fn remove_trigger(&self, key: TriggerKey) -> Result<Trigger, BackendError>;

    /// Walks the tables from `cursor`: a bounded slice of rows, those connections in it that pass
    /// `filter`. Nothing is held for the walk between two calls.
    async fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: Cursor,
    ) -> Result<ConnectionPage, BackendError>;

    /// One connection.
    async fn connection(&self, id: ConnectionId) -> Result<Connection, BackendError>;

    /// How many connections there are, and how many there could be.
    async fn connection_count(&self) -> Result<ConnectionCount, BackendError>;

    /// Deletes those that pass `filter`; returns how many. Whoever does not answer keeps nobody else from it.
    async fn delete_connections(&self, filter: &ConnectionFilter) -> Result<u64, BackendError>;

    /// Deletes one connection and returns what it was.
    async fn delete_connection(&self, id: ConnectionId) -> Result<Connection, BackendError>;

    /// Changes those that pass `filter`; returns how many. Whoever does not answer keeps nobody else from it.
    async fn update_connections(
        &self,
        filter: &ConnectionFilter,
        edit: &ConnectionEdit,
    ) -> Result<u64, BackendError>;

    /// Changes one connection and returns what it is now.
    async fn update_connection(
        &self,
        id: ConnectionId,
        edit: &ConnectionEdit,
    ) -> Result<Connection, BackendError>;

    /// What happens to connections, from when this returns. Whoever takes it slowly finds gaps, and how large they are.
    async fn events(&self) -> Result<Events, BackendError>;

    /// All connections that helpers expect.
    async fn expectations(&self) -> Result<Vec<Expectation>, BackendError>;

    /// All endpoint-independent mappings.
    async fn mappings(&self) -> Result<Vec<Mapping>, BackendError>;

    /// Deletes every connection; returns how many. Whoever does not answer keeps nobody else from it.
    async fn flush_connections(&self) -> Result<u64, BackendError>;

    /// What is wrong with this configuration text; nothing is changed. Empty: nothing.
    async fn check_config(&self, text: String) -> Result<Vec<ConfigFault>, BackendError>;

    /// Reads the configuration file again and puts it into effect, whole or not at all.
    async fn reload(&self) -> Result<ReloadOutcome, BackendError>;
}
