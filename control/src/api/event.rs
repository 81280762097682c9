//! What happens to connections, and what may be changed about them, as it stands in JSON.

use std::pin::Pin;
use std::str::FromStr;

use futures_util::Stream;
use postern_core::conntrack::changes::Ended;
use postern_core::time::TIMEOUT_MAX;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::connection::Connection;

/// One thing that happened to a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It was made: its first packet passed.
    New {
        /// When, milliseconds since 1970.
        time_unix_ms: u64,
        /// As it was then.
        connection: Connection,
    },
    /// Its state changed, or its mark or timeout was set. Changes may come as one when more happen than are fetched.
    Update {
        /// When, milliseconds since 1970.
        time_unix_ms: u64,
        /// As it was then.
        connection: Connection,
    },
    /// It is gone.
    Destroy {
        /// When, milliseconds since 1970.
        time_unix_ms: u64,
        /// As it was at its end; with accounting, its counters are final.
        connection: Connection,
        /// Why.
        reason: EndReason,
        /// How long it lived, milliseconds, to 64 ms.
        duration_ms: u64,
    },
    /// Some events are missing here: whoever follows was too slow, or too much happened at once. A listing tells what is
    /// there now.
    Overrun {
        /// When, milliseconds since 1970.
        time_unix_ms: u64,
        /// How many, of all connections: no filter was asked about them. 0 if that is not known.
        missed: u64,
    },
}

impl Event {
    /// Its kind and connection, if it is about one.
    pub const fn about(&self) -> Option<(EventKind, &Connection)> {
        Some(match self {
            Self::New { connection, .. } => (EventKind::New, connection),
            Self::Update { connection, .. } => (EventKind::Update, connection),
            Self::Destroy { connection, .. } => (EventKind::Destroy, connection),
            Self::Overrun { .. } => return None,
        })
    }

    /// When it happened, milliseconds since 1970.
    pub const fn time_unix_ms(&self) -> u64 {
        match self {
            Self::New { time_unix_ms, .. }
            | Self::Update { time_unix_ms, .. }
            | Self::Destroy { time_unix_ms, .. }
            | Self::Overrun { time_unix_ms, .. } => *time_unix_ms,
        }
    }
}

/// Events as they come, some at a time. Ends when the appliance does.
pub type Events = Pin<Box<dyn Stream<Item = Vec<Event>> + Send>>;

/// Why a connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It was not used for its timeout.
    Timeout,
    /// Its peers ended it, or one refused it.
    Closed,
    /// It was over, and another one of the same addresses and ports began.
    Reopened,
    /// The table was full, and it made room.
    Evicted,
    /// It was deleted, alone or by a filter.
    Deleted,
    /// All were deleted.
    Flushed,
    /// An address that its translation rests on, or its way out, is gone.
    AddressGone,
}

impl EndReason {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Reopened => "reopened",
            Self::Evicted => "evicted",
            Self::Deleted => "deleted",
            Self::Flushed => "flushed",
            Self::AddressGone => "address_gone",
        }
    }
}

impl From<Ended> for EndReason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Timeout => Self::Timeout,
            Ended::Closed => Self::Closed,
            Ended::Reopened => Self::Reopened,
            Ended::Evicted => Self::Evicted,
            Ended::Deleted => Self::Deleted,
            Ended::Flushed => Self::Flushed,
            Ended::AddressGone => Self::AddressGone,
        }
    }
}

/// A kind of event that can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// See [`Event::New`].
    New,
    /// See [`Event::Update`].
    Update,
    /// See [`Event::Destroy`].
    Destroy,
}

/// Which kinds of events are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventKinds(Vec<EventKind>);

impl EventKinds {
    /// Whether this kind is; with none named, all are.
    pub fn holds(&self, kind: EventKind) -> bool {
        self.0.is_empty() || self.0.contains(&kind)
    }
}

impl FromStr for EventKinds {
    type Err = String;

    /// Reads `NEW,DESTROY`; `ALL` is all.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut kinds = Vec::new();
        for name in text.split(',') {
            match name.to_ascii_uppercase().as_str() {
                "NEW" => kinds.push(EventKind::New),
                "UPDATE" | "UPDATES" => kinds.push(EventKind::Update),
                "DESTROY" => kinds.push(EventKind::Destroy),
                "ALL" => kinds.extend([EventKind::New, EventKind::Update, EventKind::Destroy]),
                _ => return Err(format!("events: `{name}` is not of NEW, UPDATE, DESTROY, ALL")),
            }
        }
        Ok(Self(kinds))
    }
}

/// Which kinds of events are wanted, as it stands in a query string.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Of `NEW`, `UPDATE`, `DESTROY`, `ALL`: several with commas between. All if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<String>,
}

/// What is to be changed about connections: at least one of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionEdit {
    /// Their mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Which bits of the mark change; all if left out. These are cleared, then `mark` is combined by XOR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// Seconds until they expire unless a packet comes, which gives them the timeout of their state again: 1 to 864000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

impl ConnectionEdit {
    /// What the core has to do.
    ///
    /// # Errors
    /// What does not make sense, in words.
    pub fn to_core(self) -> Result<postern_core::pipeline::Edit, String> {
        let most = TIMEOUT_MAX.as_secs() as u32;
        match self {
            Self { mark: None, mask: Some(_), .. } => Err("a mask needs a mark".to_owned()),
            Self { mark: None, timeout_s: None, .. } => {
                Err("nothing is to be changed: give a mark or a timeout".to_owned())
            }
            Self { timeout_s: Some(seconds), .. } if !(1..=most).contains(&seconds) => {
                Err(format!("a timeout is 1 to {most} seconds"))
            }
            Self { mark, mask, timeout_s } => Ok(postern_core::pipeline::Edit {
                mark: mark.map(|mark| (mark, mask.unwrap_or(u32::MAX))),
                timeout_ms: timeout_s.map(|seconds| seconds * 1000),
            }),
        }
    }
}

/// How many connections a request changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Updated {
    /// How many.
    pub updated: u64,
}
