//! Arrays whose cache lines are nobody else's: what one worker writes for each packet must not share a line with what
//! another one does.

use alloc::boxed::Box;

/// Two cache lines: processors fetch them in pairs.
const LINES: usize = 128;

#[derive(Debug)]
#[repr(C, align(128))]
struct Block<T, const N: usize>([T; N]);

/// An array in blocks of `N`, which fill two lines.
#[derive(Debug)]
pub(super) struct Lines<T, const N: usize>(Box<[Block<T, N>]>);

impl<T: Default, const N: usize> Lines<T, N> {
    /// At least `len` elements.
    pub(super) fn new(len: usize) -> Self {
        const { assert!(size_of::<T>() * N == LINES, "a block is two lines") };
        let block = |_| Block(core::array::from_fn(|_| T::default()));
        Self((0..len.div_ceil(N)).map(block).collect())
    }
}

impl<T, const N: usize> Lines<T, N> {
    #[inline]
    pub(super) fn get(&self, place: usize) -> Option<&T> {
        self.0.get(place / N)?.0.get(place % N)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|block| &block.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn elements_follow_one_another_and_no_line_is_shared() {
        let lines = Lines::<[u64; 4], 4>::new(9);
        let at =
            |place: usize| core::ptr::from_ref(lines.get(place).expect("it is there")) as usize;
        assert_eq!(at(0) % LINES, 0);
        let places: Vec<usize> = (0..12).map(|place| at(place) - at(0)).collect();
        assert_eq!(places, (0..12).map(|place| place * 32).collect::<Vec<_>>());
        assert!(lines.get(12).is_none(), "whole blocks");
        assert_eq!(lines.iter().count(), 12);
    }
}
