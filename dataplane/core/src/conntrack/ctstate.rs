//! The conntrack verdict on a packet: Linux's words, Linux's meaning (`nf_conntrack_common.h`).

/// What `-m conntrack --ctstate` matches. Exactly one of the first five holds for a packet;
/// [`CtStates`] adds the virtual SNAT and DNAT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CtState {
    /// Fits no connection and may not begin one.
    Invalid = 0,
    /// Original direction, no reply seen yet.
    New = 1,
    /// Reply direction, or original direction once a reply was seen. Nothing to do with TCP's ESTABLISHED.
    Established = 2,
    /// Belongs to a connection without being part of it: an ICMP error, an expected connection.
    Related = 3,
    /// Never tracked: neighbour discovery, or by a NOTRACK rule.
    Untracked = 4,
}

/// A set of conntrack states, one bit each; SNAT and DNAT are properties of the packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CtStates(pub u8);

impl CtStates {
    /// The source was, or will be, translated: the reply destination is not the original source.
    pub const SNAT: Self = Self(1 << 5);
    /// The destination was translated: the reply source is not the original destination.
    pub const DNAT: Self = Self(1 << 6);

    /// The set of one state.
    #[inline]
    pub const fn of(state: CtState) -> Self {
        Self(1 << state as u8)
    }

    /// Both sets together.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the two sets share a state.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
