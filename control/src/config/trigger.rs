//! Port triggers as people write them, in the file and at run time.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use postern_core::nat::trigger::TRIGGERS_MAX;
use postern_core::time::TIMEOUT_MAX;

use super::forward::{ForwardError, ForwardProtocol, PortRange};
use super::{InterfaceSettings, show_duration};

/// How long a trigger may stay open without use.
pub(super) const TRIGGER_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=TIMEOUT_MAX;
/// How long it does if nothing is said.
pub const TRIGGER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a port trigger was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TriggerError {
    /// Its protocol or ports.
    #[error(transparent)]
    Part(#[from] ForwardError),
    /// Not a time to stay open.
    #[error("{} is not a time that a trigger can stay open: 1s to {}", show_duration(*.0), show_duration(TIMEOUT_MAX))]
    Timeout(Duration),
    /// There is no such interface.
    #[error("there is no interface `{0}`")]
    UnknownInterface(String),
    /// Another trigger opens one of these ports.
    #[error("opens ports that another trigger opens: {0}")]
    Overlap(TriggerSpec),
    /// There are as many as there may be.
    #[error("there are at most {TRIGGERS_MAX} triggers")]
    TooMany,
}

/// A port trigger: a host that connects out to one of some ports has others opened towards it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TriggerSpec {
    /// The interface outside.
    pub interface: String,
    /// TCP or UDP.
    pub protocol: ForwardProtocol,
    /// Destination ports that trigger.
    pub outbound: PortRange,
    /// Ports opened.
    pub inbound: PortRange,
    /// How long they stay open without use: 1 s to 10 days.
    pub timeout: Duration,
}

impl fmt::Display for TriggerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, protocol, outbound, inbound, .. } = self;
        write!(f, "{interface} {protocol} {outbound} opens {inbound}")
    }
}

impl TriggerSpec {
    /// Reads a trigger's texts: `wan`, `udp`, `6112`, `6113-6115`.
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub fn parse(
        interface: &str,
        protocol: &str,
        outbound: &str,
        inbound: &str,
        timeout: Option<Duration>,
    ) -> Result<Self, TriggerError> {
        let timeout = timeout.unwrap_or(TRIGGER_TIMEOUT);
        if !TRIGGER_TIMEOUTS.contains(&timeout) {
            return Err(TriggerError::Timeout(timeout));
        }
        Ok(Self {
            interface: interface.to_owned(),
            protocol: protocol.parse()?,
            outbound: outbound.parse()?,
            inbound: inbound.parse()?,
            timeout,
        })
    }

    /// Whether both open a port of one interface and protocol.
    pub fn overlaps(&self, other: &Self) -> bool {
        (&self.interface, self.protocol) == (&other.interface, other.protocol)
            && self.inbound.overlaps(other.inbound)
    }

    /// Whether it may stand beside others.
    ///
    /// # Errors
    /// `UnknownInterface`, `Overlap` naming the other one, or `TooMany`.
    pub fn check<'o>(
        &self,
        interfaces: &[InterfaceSettings],
        others: impl Iterator<Item = &'o Self>,
    ) -> Result<(), TriggerError> {
        if !interfaces.iter().any(|interface| interface.name == self.interface) {
            return Err(TriggerError::UnknownInterface(self.interface.clone()));
        }
        let mut count = 0;
        for other in others {
            if self.overlaps(other) {
                return Err(TriggerError::Overlap(other.clone()));
            }
            count += 1;
        }
        if count < TRIGGERS_MAX { Ok(()) } else { Err(TriggerError::TooMany) }
    }
}
