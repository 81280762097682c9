//! A TCP connection's life as its two ends would lead it, with what can go wrong on the way, and forgeries.

use super::script::{Body, Segment};
use crate::draw::Draw;
use crate::packet::flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

/// What one end believes.
#[derive(Clone, Debug, Default)]
struct End {
    /// Its first sequence number, and its next.
    first: u32,
    next: u32,
    /// What the other end acknowledged.
    acknowledged: u32,
    /// What it expects of the other end.
    expects: u32,
    /// It sent a SYN; it has the other end's.
    spoke: bool,
    heard: bool,
    finished: bool,
    window: u16,
    scale: Option<u8>,
    sack: bool,
    timestamps: bool,
}

/// A connection between two ends, and whatever an attacker adds.
#[derive(Clone, Debug)]
pub(super) struct Life {
    ends: [End; 2],
    over: bool,
}

impl Life {
    pub(super) fn new(draw: &mut Draw) -> Self {
        let mut life = Self { ends: Default::default(), over: false };
        life.begin(draw);
        if draw.below(100) < 7 {
            // In the middle.
            let [a, b] = &mut life.ends;
            (a.spoke, a.heard, b.spoke, b.heard) = (true, true, true, true);
            (a.next, b.next) = (a.first.wrapping_add(1), b.first.wrapping_add(1));
            (a.expects, b.expects) = (b.next, a.next);
            (a.acknowledged, b.acknowledged) = (a.next, b.next);
        }
        life
    }

    fn begin(&mut self, draw: &mut Draw) {
        for end in &mut self.ends {
            let first = match draw.below(10) {
                0 => 0xffff_ff00_u32.wrapping_add(draw.below(256) as u32), // about to wrap
                1 => end.next.wrapping_sub(100_000),
                2 => end.next.wrapping_add(1),
                3..6 => end.next.wrapping_add(100_000),
                _ => draw.bits() as u32,
            };
            *end = End {
                first,
                next: first,
                acknowledged: first,
                window: *draw.of(&[65_535, 64_240, 29_200, 8_192, 1_000]),
                scale: *draw.of(&[None, Some(0), Some(2), Some(7), Some(7), Some(14)]),
                sack: draw.below(2) == 0,
                timestamps: draw.below(4) == 0,
                ..End::default()
            };
        }
        self.over = false;
    }

    /// The next segment: whether from server to client, and what.
    pub(super) fn next(&mut self, draw: &mut Draw) -> (bool, Body) {
        if draw.below(100) < 13 {
            return self.forged(draw);
        }
        if self.over && draw.below(3) == 0 {
            self.begin(draw);
        }
        let who = self.turn(draw);
        let segment = self.segment(who, draw);
        if draw.below(100) < 88 {
            self.hear(1 - who, &segment);
        }
        (who == 1, Body::Segment(segment))
    }

    fn turn(&self, draw: &mut Draw) -> usize {
        let [client, server] = &self.ends;
        let rarely = draw.below(100) < 12;
        match () {
            () if !client.spoke => usize::from(draw.below(100) < 4),
            () if !server.heard => usize::from(draw.below(100) < 5), // again, or from both sides
            () if !server.spoke || !client.heard => usize::from(!rarely),
            () => draw.below(2),
        }
    }

    fn segment(&mut self, who: usize, draw: &mut Draw) -> Segment {
        let end = &mut self.ends[who];
        let (mut seq, mut flags, mut len) = (end.next, ACK, 0);
        let mut window = end.window;
        let mut options = Vec::new();
        if !end.spoke
            || !end.heard
            || (end.next == end.first.wrapping_add(1) && draw.below(20) == 0)
        {
            flags = if end.heard { SYN | ACK } else { SYN };
            if !end.heard && draw.below(10) == 0 {
                flags |= ECE | CWR;
            }
            seq = end.first;
            len = if draw.below(20) == 0 { 5 } else { 0 };
            end.next = end.first.wrapping_add(1 + u32::from(len));
            end.spoke = true;
            options = end.syn_options();
        } else {
            if end.timestamps {
                options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
            }
            match draw.below(100) {
                0..40 if !end.finished => {
                    len = *draw.of(&[1, 5, 100, 536, 1400, 1400]);
                    flags |= PSH;
                    end.next = end.next.wrapping_add(u32::from(len));
                }
                0..64 => {}
                64..76 if end.finished => {
                    flags |= FIN;
                    seq = end.next.wrapping_sub(1);
                }
                64..76 => {
                    flags |= FIN;
                    end.next = end.next.wrapping_add(1);
                    end.finished = true;
                }
                76..80 => {
                    seq = end.next.wrapping_sub(1); // keep-alive
                    len = draw.below(2) as u16;
                }
                80..84 => window = 0,
                84..89 => {
                    seq = end.acknowledged; // again
                    len = end.next.wrapping_sub(end.acknowledged).min(500) as u16;
                }
                89..92 if end.sack => {
                    let from = end.expects.wrapping_add(*draw.of(&[100, 1400, 100_000]));
                    options = vec![1, 1, 5, 10];
                    options.extend(from.to_be_bytes());
                    options.extend(from.wrapping_add(100).to_be_bytes());
                }
                92..96 => {
                    flags = *draw.of(&[RST, RST | ACK]);
                    self.over = true;
                }
                96..98 => {
                    let room = u32::from(end.window);
                    seq = seq.wrapping_add(*draw.of(&[room - 1, room, room + 1, 2 * room]));
                    len = 100;
                }
                _ => {
                    flags |= URG;
                    len = 1;
                    end.next = end.next.wrapping_add(1);
                }
            }
        }
        let ack = if flags & ACK != 0 { end.expects } else { 0 };
        Segment { flags, seq, ack, window, options, len }
    }

    fn hear(&mut self, who: usize, segment: &Segment) {
        let end = &mut self.ends[who];
        let control = u32::from(segment.flags & FIN) + u32::from(segment.flags & SYN != 0);
        let last = segment.seq.wrapping_add(u32::from(segment.len) + control);
        if segment.flags & RST != 0 {
            self.over = true;
            return;
        }
        if segment.flags & SYN != 0 {
            end.heard = true;
            end.expects = last;
        } else if segment.seq == end.expects {
            end.expects = last;
        }
        if segment.flags & ACK != 0 && segment.ack.wrapping_sub(end.acknowledged) < 1 << 30 {
            end.acknowledged = segment.ack;
        }
        if self.ends.iter().all(|end| end.finished && end.acknowledged == end.next) {
            self.over = true;
        }
    }

    /// A segment that neither end sent, more or less believable.
    fn forged(&self, draw: &mut Draw) -> (bool, Body) {
        let who = draw.below(2);
        let (end, other) = (&self.ends[who], &self.ends[1 - who]);
        let flags = *draw.of(&[
            RST,
            RST,
            RST | ACK,
            RST | ACK,
            SYN,
            SYN,
            SYN | ACK,
            ACK,
            ACK | PSH,
            FIN | ACK,
            0,
            FIN,
            SYN | FIN,
            FIN | PSH | URG,
            SYN | RST,
        ]);
        let slips = [
            0,
            0,
            0,
            1,
            -1,
            1000,
            -1000,
            66_000,
            -70_000,
            1_000_000,
            -1_000_000,
            100_000_000,
            5_000_000,
        ];
        let mut near = |base: &[u32]| {
            let slip: i32 = *draw.of(&slips);
            draw.of(base).wrapping_add_signed(slip)
        };
        let seq = near(&[end.next, end.next, other.expects, other.expects, end.first, 0]);
        let ack = near(&[end.expects, end.expects, other.next, other.next, other.first, 0]);
        let ack = if flags & ACK != 0 || draw.below(4) == 0 { ack } else { 0 };
        let len = if flags & RST == 0 { *draw.of(&[0, 0, 1, 100]) } else { 0 };
        let options = if flags & SYN != 0 { end.syn_options() } else { Vec::new() };
        let segment = Segment { flags, seq, ack, window: end.window, options, len };
        (who == 1, Body::Segment(segment))
    }
}

impl End {
    fn syn_options(&self) -> Vec<u8> {
        let mut options = vec![2, 4, 5, 180];
        if self.sack {
            options.extend([1, 1, 4, 2]);
        }
        if self.timestamps {
            options.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
        }
        if let Some(shift) = self.scale {
            options.extend([1, 3, 3, shift]);
        }
        options
    }
}
