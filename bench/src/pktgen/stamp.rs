//! The stamp in every datagram: which flow, which number, when.
//!
//! Eighteen bytes, because that is the payload of UDP over IPv4 in the smallest Ethernet frame:
//!
//! ```text
//!  0      2      4      5         8            12                  18
//!  | check | run  | kind |  flow   |  sequence  |  time, 48-bit ns  |
//! ```
//!
//! Addresses and ports are not in it: a device that translates changes those, and nothing else.

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 18;

/// One more than the largest flow number a stamp can carry.
pub const FLOWS_MAX: u32 = 1 << 24;

const TIME_MASK: u64 = (1 << 48) - 1;

/// What a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The first packet of a flow; the far side answers it.
    Open = 1,
    /// The answer.
    Answer = 2,
    /// Before the measurement: not counted.
    WarmUp = 3,
    /// Measured, original direction.
    Original = 4,
    /// Measured, reply direction.
    Reply = 5,
    /// Measured, original direction, first of a flow that took another's place; answered, too.
    OriginalOpen = 6,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Open,
            2 => Self::Answer,
            3 => Self::WarmUp,
            4 => Self::Original,
            5 => Self::Reply,
            6 => Self::OriginalOpen,
            _ => return None,
        })
    }
}

/// What a datagram says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The run it belongs to.
    pub run: u16,
    /// What it is for.
    pub kind: Kind,
    /// Its flow, below [`FLOWS_MAX`].
    pub flow: u32,
    /// Its number among all of its direction; the low 32 bits.
    pub sequence: u32,
    /// When it was written: nanoseconds of the generator's clock; the low 48 bits.
    pub time: u64,
}

impl Stamp {
    /// The bytes on the wire.
    #[inline]
    pub fn encode(&self) -> [u8; STAMP_LEN] {
        let head = u64::from(self.run) << 48
            | u64::from(self.kind as u8) << 40
            | u64::from(self.flow & (FLOWS_MAX - 1)) << 16
            | u64::from(self.sequence >> 16);
        let tail = u64::from(self.sequence) << 48 | self.time & TIME_MASK;
        let mut bytes = [0; STAMP_LEN];
        bytes[..2].copy_from_slice(&check(head, tail).to_be_bytes());
        bytes[2..10].copy_from_slice(&head.to_be_bytes());
        bytes[10..].copy_from_slice(&tail.to_be_bytes());
        bytes
    }

    /// The stamp at the beginning of a payload; `None` if there is none or a bit of it changed.
    #[inline]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; STAMP_LEN] = payload.first_chunk()?;
        let word = |at: usize| {
            bytes[at..at + 8].iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte))
        };
        let (head, tail) = (word(2), word(10));
        if u16::from_be_bytes([bytes[0], bytes[1]]) != check(head, tail) {
            return None;
        }
        Some(Self {
            run: (head >> 48) as u16,
            kind: Kind::of((head >> 40) as u8)?,
            flow: (head >> 16) as u32 & (FLOWS_MAX - 1),
            sequence: (head as u32) << 16 | (tail >> 48) as u32,
            time: tail & TIME_MASK,
        })
    }

    /// Nanoseconds from the stamp's writing to `now` of the same clock.
    #[inline]
    pub const fn age(&self, now: u64) -> u64 {
        now.wrapping_sub(self.time) & TIME_MASK
    }
}

/// Sixteen bits over the rest: a stray datagram passes for one of ours once in 65536.
#[inline]
fn check(head: u64, tail: u64) -> u16 {
    let mixed = (head ^ 0x706b_7467_656e_2031).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ tail.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 48) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamps() -> impl Strategy<Value = Stamp> {
        (any::<u16>(), 1u8..=6, 0..FLOWS_MAX, any::<u32>(), 0..=TIME_MASK).prop_map(
            |(run, kind, flow, sequence, time)| Stamp {
                run,
                kind: Kind::of(kind).expect("1 to 6"),
                flow,
                sequence,
                time,
            },
        )
    }

    proptest! {
        #[test]
        fn a_stamp_survives_the_wire(stamp in stamps()) {
            prop_assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        }

        #[test]
        fn a_changed_bit_is_seen(stamp in stamps(), bit in 0usize..STAMP_LEN * 8) {
            let mut bytes = stamp.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // Sixteen bits of check: a false stamp may pass, the same stamp never does.
            prop_assert_ne!(Stamp::decode(&bytes), Some(stamp));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Stamp::decode(&bytes);
        }
    }

    #[test]
    fn age_is_right_where_the_time_wraps() {
        let stamp = Stamp { run: 0, kind: Kind::Open, flow: 0, sequence: 0, time: TIME_MASK - 4 };
        assert_eq!(stamp.age((1 << 48) + 5), 10);
    }

    #[test]
    fn a_stamp_fits_the_smallest_frame() {
        assert_eq!(60 - 14 - 20 - 8, STAMP_LEN);
    }
}
