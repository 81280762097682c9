//! Is this segment expected? TCP's machine, as seen from the middle: states, classes of segments, and
//! one line for each transition.
//!
//! The states are ours, not the hosts': see RFC 9293 §3.3.2 for theirs and each variant's doc for what
//! we infer. What a transition needs besides the numbers (`window.rs`) is in `tcp_step.rs`.

use super::timeouts::TimeoutKind;
use super::tuple::Direction;
use crate::headers::tcp_flags;

/// Where a connection stands, inferred from what passed. Stored as a byte in
/// [`HotState::protocol_state`]; the numbers are Linux's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Nothing passed yet. Exists only while the first packet is looked at.
    None = 0,
    /// Original sent SYN and is in SYN-SENT. Reply: LISTEN, or not there.
    SynSent = 1,
    /// Reply answered with SYN/ACK and is in SYN-RECEIVED. Original: SYN-SENT or already ESTABLISHED.
    SynReceived = 2,
    /// Original's ACK passed: it is ESTABLISHED; reply is too as soon as the ACK arrives.
    Established = 3,
    /// One side sent FIN (FIN-WAIT-1); the other does not know yet or has not said so.
    FinWait = 4,
    /// The FIN was followed by an ACK: one side is in FIN-WAIT-2, the other in CLOSE-WAIT and may
    /// still send.
    CloseWait = 5,
    /// Both sent FIN: CLOSING or LAST-ACK; an ACK is still to come.
    LastAck = 6,
    /// Both FINs were followed by an ACK: TIME-WAIT at one side or both, CLOSED at the other.
    TimeWait = 7,
    /// A RST passed: CLOSED at its sender, and at its receiver once it arrives.
    Close = 8,
    /// Both sent SYN (simultaneous open): SYN-SENT or SYN-RECEIVED at both.
    SynSent2 = 9,
}

impl State {
    /// Number of states.
    pub const COUNT: usize = 10;

    /// All states, in order of their numbers.
    pub const ALL: [State; Self::COUNT] = [
        State::None,
        State::SynSent,
        State::SynReceived,
        State::Established,
        State::FinWait,
        State::CloseWait,
        State::LastAck,
        State::TimeWait,
        State::Close,
        State::SynSent2,
    ];

    /// The state stored as `number`; a number that is none reads as [`State::None`], in which
    /// nothing of a known connection is expected.
    #[inline]
    pub const fn from_number(number: u8) -> Self {
        if (number as usize) < Self::COUNT { Self::ALL[number as usize] } else { State::None }
    }

    /// As `conntrack -L` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::SynSent => "SYN_SENT",
            State::SynReceived => "SYN_RECV",
            State::Established => "ESTABLISHED",
            State::FinWait => "FIN_WAIT",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::SynSent2 => "SYN_SENT2",
        }
    }

    /// The timeout of an idle connection in this state.
    #[inline]
    pub const fn timeout(self) -> TimeoutKind {
        match self {
            State::None | State::SynSent | State::SynSent2 => TimeoutKind::TcpSynSent,
            State::SynReceived => TimeoutKind::TcpSynRecv,
            State::Established => TimeoutKind::TcpEstablished,
            State::FinWait => TimeoutKind::TcpFinWait,
            State::CloseWait => TimeoutKind::TcpCloseWait,
            State::LastAck => TimeoutKind::TcpLastAck,
            State::TimeWait => TimeoutKind::TcpTimeWait,
            State::Close => TimeoutKind::TcpClose,
        }
    }

    /// Whether the connection is on its way out: the tuple may have been taken up again already, so a
    /// RST is not checked any more. Differs: such an entry is evicted only once it is over (`CLOSED`); Linux takes it away from a
    /// half-closed connection too.
    #[inline]
    pub const fn is_closing(self) -> bool {
        matches!(
            self,
            State::FinWait | State::CloseWait | State::LastAck | State::TimeWait | State::Close
        )
    }
}

/// What a segment is to the machine, by its flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// SYN.
    Syn = 0,
    /// SYN and ACK.
    SynAck = 1,
    /// FIN, with or without ACK.
    Fin = 2,
    /// ACK alone: data, or not.
    Ack = 3,
    /// RST, with or without ACK.
    Rst = 4,
    /// None of these.
    None = 5,
}

impl Class {
    /// Number of classes.
    pub const COUNT: usize = 6;

    /// The class of a segment with these [`tcp_flags`]. RST outweighs SYN outweighs FIN outweighs ACK.
    #[inline]
    pub const fn of(flags: u8) -> Self {
        use tcp_flags::{ACK, FIN, RST, SYN};
        match flags {
            f if f & RST != 0 => Class::Rst,
            f if f & (SYN | ACK) == SYN | ACK => Class::SynAck,
            f if f & SYN != 0 => Class::Syn,
            f if f & FIN != 0 => Class::Fin,
            f if f & ACK != 0 => Class::Ack,
            _ => Class::None,
        }
    }
}

/// Whether some host sends this combination of flags. PSH, ECE and CWR go with everything (RFC 3168
/// for the latter two); FIN never comes without ACK (RFC 9293 §3.10.4: it is sent with the ACK that
/// every segment after the handshake carries), SYN never with FIN or RST. Null, Xmas and FIN scans
/// are none of these.
#[inline]
pub const fn flags_valid(flags: u8) -> bool {
    use tcp_flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};
    const SYN_ACK: u8 = SYN | ACK;
    const SYN_URG: u8 = SYN | URG;
    const RST_ACK: u8 = RST | ACK;
    const FIN_ACK: u8 = FIN | ACK;
    const FIN_ACK_URG: u8 = FIN | ACK | URG;
    const ACK_URG: u8 = ACK | URG;
    matches!(
        flags & !(PSH | ECE | CWR),
        SYN | SYN_URG | SYN_ACK | RST | RST_ACK | FIN_ACK | FIN_ACK_URG | ACK | ACK_URG
    )
}

/// What the machine does about a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Move, if the window agrees.
    To(State),
    /// Stay, if the window agrees.
    Stay,
    /// We may be out of step with the peers: let it pass, change nothing, and remember it.
    Ignore,
    /// Not expected.
    Invalid,
}

/// The machine, one line a transition. A cell not named here is [`Next::Invalid`]. Until the reply
/// direction has spoken, "original" is the client; sections are RFC 9293's unless said.
const TRANSITIONS: &[(State, Direction, Class, Next)] = {
    use Class::*;
    use Direction::*;
    use Next::{Ignore, Stay, To};
    use State::{
        CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, SynSent2, TimeWait,
    };
    const CLOSE: Next = To(State::Close);
    &[
        // Opening, §3.5.
        (State::None, Original, Syn, To(SynSent)), // the client begins
        (State::None, Original, Ack, To(Established)), // mid-stream, if pick-up is allowed
        (SynSent, Original, Syn, Stay),            // SYN retransmitted
        (SynSent, Reply, SynAck, To(SynReceived)), // the server agrees
        (SynSent, Reply, Ack, Ignore),             // half-open at the server: a challenge, figure 9
        (SynReceived, Original, Ack, To(Established)), // handshake complete
        (SynReceived, Original, Syn, Ignore),      // SYN retransmitted, the SYN/ACK was lost
        (SynReceived, Reply, SynAck, Ignore),      // SYN/ACK retransmitted, the ACK was lost
        (SynReceived, Reply, Ack, Stay),           // answers a SYN retransmitted late
        // Simultaneous open, figure 8.
        (SynSent, Reply, Syn, To(SynSent2)),
        (SynSent2, Original, Syn, Stay), // either SYN retransmitted
        (SynSent2, Reply, Syn, Stay),
        (SynSent2, Original, SynAck, To(SynReceived)), // either answers first
        (SynSent2, Reply, SynAck, To(SynReceived)),
        (SynReceived, Original, SynAck, Stay), // answered again, or second
        (SynSent2, Reply, Ack, Ignore),        // as in SynSent
        // Open, §3.8. A SYN may come from a client that lost its memory: the server's answer, a
        // challenge ACK (RFC 5961 §4) or a SYN/ACK, tells which of us is right.
        (Established, Original, Ack, Stay),
        (Established, Reply, Ack, Stay),
        (Established, Original, Syn, Ignore),
        (Established, Reply, SynAck, Ignore), // retransmitted, or answers a SYN that was ignored
        // Closing, §3.6: the first FIN, the second, and an ACK after each.
        (SynReceived, Original, Fin, To(FinWait)), // closed right after connecting
        (SynReceived, Reply, Fin, To(FinWait)),    // §3.10.4: CLOSE in SYN-RECEIVED
        (Established, Original, Fin, To(FinWait)),
        (Established, Reply, Fin, To(FinWait)),
        (FinWait, Original, Ack, To(CloseWait)),
        (FinWait, Reply, Ack, To(CloseWait)),
        (FinWait, Original, Fin, To(LastAck)), // §3.6 figure 13: both at once; or retransmitted
        (FinWait, Reply, Fin, To(LastAck)),
        (FinWait, Original, Syn, Ignore),
        (FinWait, Reply, SynAck, Ignore),
        (CloseWait, Original, Ack, Stay), // half-closed: the other side still sends
        (CloseWait, Reply, Ack, Stay),
        (CloseWait, Original, Fin, To(LastAck)),
        (CloseWait, Reply, Fin, To(LastAck)),
        (CloseWait, Original, Syn, Ignore),
        (CloseWait, Reply, SynAck, Ignore),
        (LastAck, Original, Ack, To(TimeWait)),
        (LastAck, Reply, Ack, To(TimeWait)),
        (LastAck, Original, Fin, Stay), // FIN retransmitted
        (LastAck, Reply, Fin, Stay),
        (LastAck, Original, Syn, Ignore),
        (LastAck, Reply, SynAck, Ignore),
        (TimeWait, Original, Ack, Stay), // late segments: that is what it waits for
        (TimeWait, Reply, Ack, Stay),
        (TimeWait, Original, Fin, Stay),
        (TimeWait, Reply, Fin, Stay),
        (TimeWait, Original, Syn, To(SynSent)), // §3.6.1: may be reopened (RFC 6191)
        (TimeWait, Reply, Syn, To(SynSent)),    // with roles exchanged
        (TimeWait, Reply, SynAck, Ignore),
        // After a RST, §3.5.3.
        (State::Close, Original, Syn, To(SynSent)), // a new connection on the tuple
        (State::Close, Reply, SynAck, Ignore),      // answers a SYN that was ignored
        (State::Close, Original, Ack, Stay),        // crossed the RST
        (State::Close, Reply, Ack, Stay),
        (State::Close, Original, Fin, Stay),
        (State::Close, Reply, Fin, Stay),
        // RST, §3.10.7 and RFC 5961 §3: ends whatever there is, if it is believed.
        (SynSent, Original, Rst, CLOSE), // the client gives up
        (SynSent, Reply, Rst, CLOSE),    // refused
        (SynReceived, Original, Rst, CLOSE),
        (SynReceived, Reply, Rst, CLOSE),
        (Established, Original, Rst, CLOSE),
        (Established, Reply, Rst, CLOSE),
        (FinWait, Original, Rst, CLOSE),
        (FinWait, Reply, Rst, CLOSE),
        (CloseWait, Original, Rst, CLOSE),
        (CloseWait, Reply, Rst, CLOSE),
        (LastAck, Original, Rst, CLOSE),
        (LastAck, Reply, Rst, CLOSE),
        (TimeWait, Original, Rst, CLOSE),
        (TimeWait, Reply, Rst, CLOSE),
        (State::Close, Original, Rst, CLOSE),
        (State::Close, Reply, Rst, CLOSE),
        (SynSent2, Original, Rst, CLOSE),
        (SynSent2, Reply, Rst, CLOSE),
    ]
};

/// The machine as an array: state, direction, class.
const TABLE: [[[Next; Class::COUNT]; 2]; State::COUNT] = {
    let mut table = [[[Next::Invalid; Class::COUNT]; 2]; State::COUNT];
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let (state, direction, class, next) = TRANSITIONS[i];
        let cell = &mut table[state as usize][direction as usize][class as usize];
        assert!(matches!(*cell, Next::Invalid), "two transitions for one cell");
        *cell = next;
        i += 1;
    }
    table
};

/// What is expected of a segment of `class` in `state`.
#[inline]
pub const fn next(state: State, direction: Direction, class: Class) -> Next {
    TABLE[state as usize][direction as usize][class as usize]
}
