//! Packets cut into fragments (RFC 791 §3.2, RFC 8200 §4.5), and what can become of those on the way.

use super::flow::{Flow, Slot};
use super::script::{Body, DATAGRAMS, Shot, Tamper};
use crate::draw::Draw;
use postern_core::rules::Family;

/// Most bytes of a piece: it fits the link, IPv6 header included.
const PIECE_MAX: usize = 1400;
/// Units of eight bytes that hold any transport header.
const HEADER: usize = 8;
/// A datagram that is longer than the link allows.
const LONG: u16 = 4000;

/// Fragments that are on their way.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    coming: Vec<Shot>,
    /// Packets that were cut.
    cut: u16,
}

impl Pieces {
    /// The next one, if it comes now.
    pub(super) fn next(&mut self, draw: &mut Draw) -> Option<Shot> {
        let comes = !self.coming.is_empty() && draw.below(100) < 80;
        comes.then(|| self.coming.remove(0))
    }

    /// Cuts a packet; `false` if it is not to be cut.
    pub(super) fn cut(&mut self, shot: &Shot, flows: &[Flow], draw: &mut Draw) -> bool {
        let mut whole = shot.body.clone();
        let flow = &flows[shot.flow];
        match &mut whole {
            // Errors in fragments are not supported, nor are SCTP's checksum and chunks there; nor is a checksum that
            // covers a part of UDP-Lite.
            Body::Error { .. } | Body::Chunks { .. } | Body::Part { .. } => return false,
            Body::Lite { .. } if shot.tamper != Tamper::Nothing => return false,
            _ if shot.tamper == Tamper::IpSum => return false, // every fragment has its own
            Body::Datagram { len, .. } if draw.below(3) == 0 => *len = LONG,
            _ => {}
        }
        let header = if flow.family == Family::V4 { 20 } else { 40 };
        let l3 = Shot { body: whole.clone(), ..shot.clone() }.build(flow, Slot(0), None);
        let len = l3.len() - header;
        let eights = (len - 1) / 8;
        let least = if draw.below(12) == 0 { 1 } else { HEADER };
        if eights < least || !self.coming.is_empty() || self.cut == DATAGRAMS {
            return false;
        }
        let id = self.cut;
        self.cut += 1;
        // A checksum that covers a part of UDP-Lite is not verified in fragments.
        let is_verified = !matches!(whole, Body::Lite { coverage: 1.., .. });
        let piece = |(begin, end): (usize, usize), forged: bool| {
            let (offset, more) = ((begin / 8) as u16, end < len);
            let forged = forged && is_verified;
            let (len, of) = ((end - begin) as u16, Box::new(whole.clone()));
            Shot { body: Body::Part { id, offset, len, more, forged, of }, ..shot.clone() }
        };
        let mut ends: Vec<usize> =
            (0..1 + draw.below(3)).map(|_| 8 * (least + draw.below(eights + 1 - least))).collect();
        ends.extend((PIECE_MAX..len).step_by(PIECE_MAX));
        ends.push(len);
        ends.sort_unstable();
        ends.dedup();
        let begins = [0].into_iter().chain(ends.iter().copied());
        let ranges: Vec<(usize, usize)> = begins.zip(ends.iter().copied()).collect();
        let mut pieces: Vec<Shot> = ranges.iter().map(|&range| piece(range, false)).collect();
        match draw.below(10) {
            0..5 => {}
            5 | 6 => pieces.reverse(),
            _ => (1..pieces.len()).for_each(|i| pieces.swap(i, draw.below(i + 1))),
        }
        let (any, place) = (draw.below(ranges.len()), draw.below(pieces.len() + 1));
        let (begin, end) = ranges[any];
        match draw.below(100) {
            0..12 => pieces.insert(place, pieces[any].clone()),
            12..17 => pieces.insert(place, piece((begin, end), true)),
            // It overlaps its neighbours, or lies within.
            17..22 if begin > 0 && end - begin < PIECE_MAX => {
                pieces.insert(place, piece((begin - 8, end), draw.below(2) == 0));
            }
            22..27 if end - begin > 8 => {
                let within = (begin, begin + 8);
                pieces.insert(place, piece(within, draw.below(2) == 0));
            }
            27..35 => drop(pieces.remove(any)),
            // All of it in one, with the header of a fragment: RFC 6946.
            35..41 if flow.family == Family::V6 && len <= PIECE_MAX => {
                pieces = vec![piece((0, len), false)];
            }
            _ => {}
        }
        self.coming = pieces;
        true
    }
}
