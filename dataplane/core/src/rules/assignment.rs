//! What a rule of the `raw` table may say about the connection of a packet, before it is looked for (`CT`).

use crate::conntrack::timeouts::TimeoutPolicyId;
use crate::conntrack::tuple::Direction;
use crate::helper;

/// What a connection is given. The default is nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Assignment {
    /// Where the connection is looked for, and begun.
    pub zone: Zoned,
    /// The helper it begins with, whatever its port.
    pub helper: Option<helper::Kind>,
    /// The timeouts it begins with.
    pub timeouts: TimeoutPolicyId,
}

impl Assignment {
    /// Nothing.
    pub const NONE: Self =
        Self { zone: Zoned::Unsaid, helper: None, timeouts: TimeoutPolicyId::NONE };
}

/// The zone that a packet is in, if it is another one than its interface's: for the direction of a connection in which the
/// packet may turn out to go (`--zone`, `--zone-orig`, `--zone-reply`; nf_conntrack_zones).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Zoned {
    /// Its interface's.
    #[default]
    Unsaid,
    /// Whichever direction it goes in.
    Both(u16),
    /// As a packet of the original direction; of the reply direction, its interface's.
    Original(u16),
    /// The other way round.
    Reply(u16),
}

impl Zoned {
    /// The zone of the packet as one of that direction, `own` being its interface's.
    pub const fn of(self, direction: Direction, own: u16) -> u16 {
        match (self, direction) {
            (Self::Both(zone), _)
            | (Self::Original(zone), Direction::Original)
            | (Self::Reply(zone), Direction::Reply) => zone,
            _ => own,
        }
    }

    /// The zone that replies to a connection's first packet are to come in, if it was said.
    pub const fn of_replies(self) -> Option<u16> {
        match self {
            Self::Both(zone) | Self::Reply(zone) => Some(zone),
            Self::Unsaid | Self::Original(_) => None,
        }
    }
}
