//! An SCTP association's life as its two ends would lead it (RFC 9260 §5, §9), with what others may add.

use super::script::Body;
use crate::draw::Draw;
use crate::sctp::chunk_type::*;

/// Which step comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Init,
    InitAck,
    CookieEcho,
    CookieAck,
    Open,
    /// The server answers a shutdown of the client's, or the other way round.
    ShutdownAck {
        by_client: bool,
    },
    ShutdownComplete {
        by_client: bool,
    },
}

/// An association between two ends.
#[derive(Clone, Debug)]
pub(super) struct Association {
    step: Step,
    /// What the packets of each direction bear: the other end's tag.
    tags: [u32; 2],
    /// Where it may be told of by a heartbeat alone: another path of it.
    is_path: bool,
}

impl Association {
    pub(super) fn new(draw: &mut Draw) -> Self {
        let tags = [draw.bits() as u32 | 1, draw.bits() as u32 | 1];
        Self { step: Step::Init, tags, is_path: draw.below(8) == 0 }
    }

    /// The next packet: whether from server to client, and what.
    pub(super) fn next(&mut self, draw: &mut Draw) -> (bool, Body) {
        if draw.below(100) < 15 {
            return self.forged(draw);
        }
        if draw.below(100) < 8 {
            return self.packet(draw.below(2) == 1, &[*draw.of(&[HEARTBEAT, HEARTBEAT_ACK])]);
        }
        if self.is_path {
            let back = draw.below(2) == 1;
            return self.packet(back, &[if back { HEARTBEAT_ACK } else { HEARTBEAT }]);
        }
        let goes_on = draw.below(100) < 88;
        let (back, kinds, next): (bool, &[u8], Step) = match self.step {
            Step::Init => (false, &[INIT], Step::InitAck),
            Step::InitAck => (true, &[INIT_ACK], Step::CookieEcho),
            Step::CookieEcho => {
                (false, *draw.of(&[&[COOKIE_ECHO][..], &[COOKIE_ECHO, DATA]]), Step::CookieAck)
            }
            Step::CookieAck => {
                (true, *draw.of(&[&[COOKIE_ACK][..], &[COOKIE_ACK, SACK]]), Step::Open)
            }
            Step::Open => {
                let back = draw.below(2) == 1;
                let next = Step::ShutdownAck { by_client: back };
                match draw.below(10) {
                    0 => (back, &[SHUTDOWN], next),
                    1 => (back, &[ABORT], Step::Init),
                    2 => (back, &[ERROR], Step::Open),
                    _ => (
                        back,
                        *draw.of(&[&[DATA][..], &[SACK, DATA], &[DATA, DATA], &[SACK]]),
                        Step::Open,
                    ),
                }
            }
            Step::ShutdownAck { by_client } => {
                (!by_client, &[SHUTDOWN_ACK], Step::ShutdownComplete { by_client: !by_client })
            }
            Step::ShutdownComplete { by_client } => (!by_client, &[SHUTDOWN_COMPLETE], Step::Init),
        };
        let packet = self.packet(back, kinds);
        if goes_on {
            self.step = next;
            if next == Step::Init && draw.below(2) == 0 {
                self.tags = [draw.bits() as u32 | 1, draw.bits() as u32 | 1];
            }
        }
        packet
    }

    fn packet(&self, back: bool, kinds: &[u8]) -> (bool, Body) {
        let [own, other] = [self.tags[usize::from(back)], self.tags[usize::from(!back)]];
        let tag = if kinds == [INIT] { 0 } else { own };
        (back, Body::Chunks { kinds: kinds.to_vec(), tag, init: other, flags: 0 })
    }

    /// A packet that neither end sent, more or less believable.
    fn forged(&self, draw: &mut Draw) -> (bool, Body) {
        let back = draw.below(2) == 1;
        let kind = *draw.of(&[
            DATA,
            INIT,
            INIT_ACK,
            SACK,
            HEARTBEAT,
            HEARTBEAT_ACK,
            ABORT,
            ABORT,
            SHUTDOWN,
            SHUTDOWN_ACK,
            ERROR,
            COOKIE_ECHO,
            COOKIE_ACK,
            SHUTDOWN_COMPLETE,
            0xc0,
        ]);
        let mut kinds = vec![kind];
        if draw.below(5) == 0 {
            kinds.insert(draw.below(2), DATA);
        }
        let any = draw.bits() as u32;
        let tag = *draw.of(&[self.tags[0], self.tags[1], self.tags[0], self.tags[1], 0, any]);
        let init = *draw.of(&[self.tags[0], self.tags[1], any]);
        (back, Body::Chunks { kinds, tag, init, flags: draw.below(2) as u8 })
    }
}
