//! TCP options, as far as tracking needs them: window scale, SACK permitted, and SACK blocks.
//!
//! Reading is bounded by the slice and stops at the first option whose length makes no sense: what
//! was read before it still holds. Options that are not ours are stepped over.

use super::window::sequence::after;

/// Option kinds (IANA "TCP Option Kind Numbers").
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
}

/// The largest shift count in use. RFC 7323 §2.3: "If a Window Scale option is received with a
/// shift.cnt value larger than 14, the TCP SHOULD log the error but MUST use 14".
pub const WINDOW_SCALE_MAX: u8 = 14;

/// What a SYN or SYN/ACK offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// Window scale, at most [`WINDOW_SCALE_MAX`]; `None` if not offered.
    pub window_scale: Option<u8>,
    /// Whether SACK may be sent to it (RFC 2018 §2).
    pub sack_permitted: bool,
}

/// Steps through options; yields kind and data of each that is whole.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, tail) = self.rest.split_first()?;
            match kind {
                kind::END => return None,
                kind::NO_OPERATION => self.rest = tail,
                _ => {
                    // The length counts kind and length themselves (RFC 9293 §3.1).
                    let data_len = usize::from(*tail.first()?).checked_sub(2)?;
                    let data = tail.get(1..)?.get(..data_len)?;
                    self.rest = tail.get(1 + data_len..)?;
                    return Some((kind, data));
                }
            }
        }
    }
}

/// Reads what a SYN or SYN/ACK offers.
#[cold]
pub fn offer(options: &[u8]) -> Offer {
    let mut offer = Offer::default();
    for option in (Walk { rest: options }) {
        match option {
            (kind::WINDOW_SCALE, &[shift]) => {
                offer.window_scale = Some(shift.min(WINDOW_SCALE_MAX));
            }
            (kind::SACK_PERMITTED, &[]) => offer.sack_permitted = true,
            _ => {}
        }
    }
    offer
}

/// The maximum segment size that a SYN announces (RFC 9293 §3.7.1), and where among the options it stands; of several, the first.
#[cold]
pub fn maximum_segment_size(options: &[u8]) -> Option<(usize, u16)> {
    let mut walk = Walk { rest: options };
    while let Some((kind, data)) = walk.next() {
        if let (kind::MAXIMUM_SEGMENT_SIZE, &[high, low]) = (kind, data) {
            let at = options.len() - walk.rest.len() - data.len();
            return Some((at, u16::from_be_bytes([high, low])));
        }
    }
    None
}

/// The only options of most segments: two NOPs and a timestamp (RFC 7323 appendix A).
#[inline]
pub(super) fn only_timestamp(options: &[u8]) -> bool {
    options.len() == 12 && options.first_chunk() == Some(&[1, 1, 8, 10])
}

/// The highest number a segment acknowledges: its ACK, or the right edge of a SACK block beyond it
/// (RFC 2018 §3).
#[cold]
pub fn highest_acknowledged(options: &[u8], ack: u32) -> u32 {
    let mut highest = ack;
    for (kind, data) in (Walk { rest: options }) {
        if kind != kind::SACK || data.len() % 8 != 0 {
            continue;
        }
        for block in data.chunks_exact(8) {
            if let &[_, _, _, _, a, b, c, d] = block {
                let right = u32::from_be_bytes([a, b, c, d]);
                if after(right, highest) {
                    highest = right;
                }
            }
        }
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_and_scales_clamped() {
        let both = offer(&[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2]);
        assert_eq!(both, Offer { window_scale: Some(7), sack_permitted: true });
        assert_eq!(offer(&[3, 3, 14]).window_scale, Some(14), "RFC 7323 §2.3: the largest");
        assert_eq!(
            offer(&[3, 3, 15]).window_scale,
            Some(14),
            "RFC 7323 §2.3: one more is used as 14"
        );
        assert_eq!(offer(&[3, 3, 255]).window_scale, Some(14));
        assert_eq!(offer(&[3, 3, 0]).window_scale, Some(0), "an offer of no shift is an offer");
        assert_eq!(offer(&[]), Offer::default());
    }

    #[test]
    fn malformed_options_end_the_reading_and_keep_what_was_read() {
        for rest in [&[5, 0][..], &[5, 1], &[5], &[8, 10, 0, 0], &[254, 255], &[0, 3, 3, 9]] {
            let mut bytes = std::vec![3, 3, 2];
            bytes.extend_from_slice(rest);
            bytes.extend_from_slice(&[]);
            assert_eq!(offer(&bytes).window_scale, Some(2), "{rest:?}");
        }
        // Wrong lengths of known options are not those options.
        assert_eq!(offer(&[3, 4, 2, 0, 4, 3, 0]), Offer::default());
        // A length that would step past the end.
        assert_eq!(offer(&[3, 3]), Offer::default());
    }

    #[test]
    fn the_furthest_sack_edge_counts() {
        let sack = [1, 1, 5, 18, 0, 0, 0, 10, 0, 0, 0, 20, 0, 0, 0, 30, 0, 0, 0, 40];
        assert_eq!(highest_acknowledged(&sack, 5), 40);
        assert_eq!(highest_acknowledged(&sack, 41), 41, "an old block moves nothing");
        // Half a block: RFC 2018 §3 knows none.
        assert_eq!(highest_acknowledged(&[5, 6, 0, 0, 0, 99], 5), 5);
        assert_eq!(highest_acknowledged(&[5, 10, 0, 0, 0, 0, 0, 0, 0], 5), 5, "cut short");
        // Across the wrap.
        let wrapped = [5, 10, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3];
        assert_eq!(highest_acknowledged(&wrapped, 0xffff_fff0), 3);
    }

    #[test]
    fn a_lone_timestamp_is_known_by_its_shape() {
        assert!(only_timestamp(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]));
        assert!(
            !only_timestamp(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            "a SACK of the same length"
        );
        assert!(!only_timestamp(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]));
    }
}
