//! Where an SCTP association stands: states, the chunks that move it, and one line for each transition.
//!
//! Seen from the middle, as nf_conntrack_proto_sctp.c sees it, in our own words. The states are the association's, not
//! an endpoint's (RFC 9260 §4): who is "client" is whoever sent the first packet. What a chunk needs besides, its
//! verification tag above all, is in `sctp.rs`.

use super::timeouts::TimeoutKind;
use super::tuple::Direction;

/// Where an association stands, inferred from the chunks that passed. Stored as a byte in
/// [`HotState::protocol_state`](super::entry::HotState::protocol_state); the numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Nothing passed yet. Exists only while the first packet is looked at.
    None = 0,
    /// INIT passed and nothing answered it; or the association is over.
    Closed = 1,
    /// INIT ACK passed: the client is in COOKIE-WAIT, the server keeps nothing yet.
    CookieWait = 2,
    /// COOKIE ECHO passed: the client is in COOKIE-ECHOED.
    CookieEchoed = 3,
    /// COOKIE ACK passed, or a path was confirmed by HEARTBEAT and its answer.
    Established = 4,
    /// Original sent SHUTDOWN.
    ShutdownSent = 5,
    /// Reply sent SHUTDOWN.
    ShutdownReceived = 6,
    /// SHUTDOWN ACK passed; SHUTDOWN COMPLETE is still to come.
    ShutdownAckSent = 7,
    /// HEARTBEAT began it: another path of an association that was made elsewhere (RFC 9260 §8.3).
    HeartbeatSent = 8,
}

impl State {
    /// Number of states.
    pub const COUNT: usize = 9;

    /// All states, in order of their numbers.
    pub const ALL: [State; Self::COUNT] = [
        State::None,
        State::Closed,
        State::CookieWait,
        State::CookieEchoed,
        State::Established,
        State::ShutdownSent,
        State::ShutdownReceived,
        State::ShutdownAckSent,
        State::HeartbeatSent,
    ];

    /// The state stored as `number`; a number that is none reads as [`State::None`].
    pub const fn from_number(number: u8) -> Self {
        if (number as usize) < Self::COUNT { Self::ALL[number as usize] } else { State::None }
    }

    /// As `conntrack -L` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::Closed => "CLOSED",
            State::CookieWait => "COOKIE_WAIT",
            State::CookieEchoed => "COOKIE_ECHOED",
            State::Established => "ESTABLISHED",
            State::ShutdownSent => "SHUTDOWN_SENT",
            State::ShutdownReceived => "SHUTDOWN_RECD",
            State::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            State::HeartbeatSent => "HEARTBEAT_SENT",
        }
    }

    /// The timeout of an idle association in this state.
    pub const fn timeout(self) -> TimeoutKind {
        match self {
            State::None | State::Closed => TimeoutKind::SctpClosed,
            State::CookieWait => TimeoutKind::SctpCookieWait,
            State::CookieEchoed => TimeoutKind::SctpCookieEchoed,
            State::Established => TimeoutKind::SctpEstablished,
            State::ShutdownSent => TimeoutKind::SctpShutdownSent,
            State::ShutdownReceived => TimeoutKind::SctpShutdownRecd,
            State::ShutdownAckSent => TimeoutKind::SctpShutdownAckSent,
            State::HeartbeatSent => TimeoutKind::SctpHeartbeatSent,
        }
    }

    /// Whether it is on its way out: it may be evicted although it is assured.
    pub const fn is_closing(self) -> bool {
        matches!(self, State::ShutdownSent | State::ShutdownReceived | State::ShutdownAckSent)
    }
}

/// A chunk that can move an association (RFC 9260 §3.2). DATA, SACK and all others move nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Chunk {
    /// INIT.
    Init = 0,
    /// INIT ACK.
    InitAck = 1,
    /// ABORT.
    Abort = 2,
    /// SHUTDOWN.
    Shutdown = 3,
    /// SHUTDOWN ACK.
    ShutdownAck = 4,
    /// ERROR.
    Error = 5,
    /// COOKIE ECHO.
    CookieEcho = 6,
    /// COOKIE ACK.
    CookieAck = 7,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete = 8,
    /// HEARTBEAT.
    Heartbeat = 9,
    /// HEARTBEAT ACK.
    HeartbeatAck = 10,
}

impl Chunk {
    /// Number of such chunks.
    pub const COUNT: usize = 11;

    /// The chunk of a type as it stands on the wire; `None` if it moves nothing.
    pub const fn of(chunk_type: u8) -> Option<Self> {
        // RFC 9260 §3.2, table 1.
        Some(match chunk_type {
            1 => Self::Init,
            2 => Self::InitAck,
            4 => Self::Heartbeat,
            5 => Self::HeartbeatAck,
            6 => Self::Abort,
            7 => Self::Shutdown,
            8 => Self::ShutdownAck,
            9 => Self::Error,
            10 => Self::CookieEcho,
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete,
            _ => return None,
        })
    }
}

/// The machine, one line a transition; sections are RFC 9260's. Where none is named an association stays as it
/// is ([`stays`] says where that is not so).
const TRANSITIONS: &[(State, Direction, Chunk, State)] = {
    use Chunk::*;
    use Direction::*;
    use State::{
        Closed, CookieEchoed, CookieWait, Established, HeartbeatSent, None, ShutdownAckSent,
        ShutdownReceived, ShutdownSent,
    };
    &[
        // Setting up, §5.1.
        (None, Original, Init, Closed),       // the client asks
        (Closed, Reply, InitAck, CookieWait), // the server answers
        (CookieWait, Original, CookieEcho, CookieEchoed),
        (CookieWait, Reply, CookieEcho, CookieEchoed), // §5.2.4: both asked, and this side goes on
        (CookieEchoed, Reply, CookieAck, Established),
        (CookieEchoed, Original, CookieAck, Established),
        (CookieEchoed, Reply, Error, Closed), // §5.2.6: the cookie was stale
        // Another path, §8.3.
        (None, Original, Heartbeat, HeartbeatSent),
        (HeartbeatSent, Reply, HeartbeatAck, Established),
        (HeartbeatSent, Original, Init, CookieWait),
        // Shutting down, §9.2.
        (Established, Original, Shutdown, ShutdownSent),
        (Established, Reply, Shutdown, ShutdownReceived),
        (ShutdownSent, Original, ShutdownAck, ShutdownAckSent), // both shut down at once
        (ShutdownSent, Reply, ShutdownAck, ShutdownAckSent),
        (ShutdownReceived, Original, ShutdownAck, ShutdownAckSent),
        (ShutdownReceived, Reply, ShutdownAck, ShutdownAckSent),
        (ShutdownAckSent, Original, ShutdownComplete, Closed),
        (ShutdownAckSent, Reply, ShutdownComplete, Closed),
        // A new association on the tuple, §5.2.2.
        (ShutdownSent, Original, Init, Closed),
        (ShutdownReceived, Original, Init, Closed),
        // The last word of an association that is unknown here, §8.4 (5).
        (None, Original, ShutdownAck, ShutdownAckSent),
        (HeartbeatSent, Original, ShutdownAck, ShutdownAckSent),
        // ABORT ends whatever there is, §9.1.
        (CookieWait, Original, Abort, Closed),
        (CookieWait, Reply, Abort, Closed),
        (CookieEchoed, Original, Abort, Closed),
        (CookieEchoed, Reply, Abort, Closed),
        (Established, Original, Abort, Closed),
        (Established, Reply, Abort, Closed),
        (ShutdownSent, Original, Abort, Closed),
        (ShutdownSent, Reply, Abort, Closed),
        (ShutdownReceived, Original, Abort, Closed),
        (ShutdownReceived, Reply, Abort, Closed),
        (ShutdownAckSent, Original, Abort, Closed),
        (ShutdownAckSent, Reply, Abort, Closed),
    ]
};

/// What becomes of `state` by a chunk that [`TRANSITIONS`] does not name; `None`: nothing that is expected.
const fn stays(state: State, direction: Direction, chunk: Chunk) -> Option<State> {
    let heartbeat = matches!(chunk, Chunk::Heartbeat | Chunk::HeartbeatAck);
    match (state, direction) {
        // Any other chunk out of the blue, or where only a path was probed, is of nothing that we know.
        (State::None, Direction::Original) => Some(State::Closed),
        (State::HeartbeatSent, Direction::Original) if !heartbeat => Some(State::Closed),
        (State::None, Direction::Reply) => None,
        (State::HeartbeatSent, Direction::Reply) if !heartbeat => None,
        _ => Some(state),
    }
}

/// The machine as an array: state, direction, chunk.
const TABLE: [[[Option<State>; Chunk::COUNT]; 2]; State::COUNT] = {
    let mut table = [[[Option::None; Chunk::COUNT]; 2]; State::COUNT];
    let mut named = [[[false; Chunk::COUNT]; 2]; State::COUNT];
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let (state, direction, chunk, next) = TRANSITIONS[i];
        let at = (state as usize, direction as usize, chunk as usize);
        assert!(!named[at.0][at.1][at.2], "two transitions for one cell");
        named[at.0][at.1][at.2] = true;
        table[at.0][at.1][at.2] = Some(next);
        i += 1;
    }
    let (mut s, mut c) = (0, 0);
    while s < State::COUNT {
        if !named[s][0][c] {
            table[s][0][c] = stays(State::ALL[s], Direction::Original, ALL_CHUNKS[c]);
        }
        if !named[s][1][c] {
            table[s][1][c] = stays(State::ALL[s], Direction::Reply, ALL_CHUNKS[c]);
        }
        c += 1;
        if c == Chunk::COUNT {
            (s, c) = (s + 1, 0);
        }
    }
    table
};

const ALL_CHUNKS: [Chunk; Chunk::COUNT] = {
    use Chunk::*;
    [
        Init,
        InitAck,
        Abort,
        Shutdown,
        ShutdownAck,
        Error,
        CookieEcho,
        CookieAck,
        ShutdownComplete,
        Heartbeat,
        HeartbeatAck,
    ]
};

/// What becomes of `state` by a chunk; `None` if it is not expected there.
pub const fn next(state: State, direction: Direction, chunk: Chunk) -> Option<State> {
    TABLE[state as usize][direction as usize][chunk as usize]
}
