//! Frames of fragments that wait for the rest of their datagram. Which waits for which, and for how long, the core knows
//! ([`postern_core::fragments`]); this is where their frames are meanwhile.

use postern_core::fragments::SLOTS;

use super::handover::Luggage;
use crate::frame::FrameSpan;

/// A worker's, by slot.
#[derive(Debug)]
pub(crate) struct GatheredFrames {
    slots: Vec<Option<(FrameSpan, Luggage)>>,
    count: usize,
}

impl GatheredFrames {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| None).collect(), count: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Keeps a frame; gives it back if the slot is not free, which the core never says.
    pub(crate) fn put(
        &mut self,
        slot: u16,
        span: FrameSpan,
        luggage: Luggage,
    ) -> Result<(), FrameSpan> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(place @ None) => {
                *place = Some((span, luggage));
                self.count += 1;
                Ok(())
            }
            _ => Err(span),
        }
    }

    /// Takes a frame out.
    pub(crate) fn take(&mut self, slot: u16) -> Option<(FrameSpan, Luggage)> {
        let taken = self.slots.get_mut(usize::from(slot))?.take()?;
        self.count -= 1;
        Some(taken)
    }

    /// Takes any frame out.
    pub(crate) fn take_any(&mut self) -> Option<FrameSpan> {
        let slot = self.slots.iter().position(Option::is_some)?;
        self.take(slot as u16).map(|(span, _)| span)
    }
}
