//! A set of rows of a table that names its members in turn.
//!
//! A bit a row; over every sixty-four words of bits a word that says which of them are not empty; and so on, up
//! to a single word. Putting a row in, taking it out and finding the next member look at one word or two of
//! each level, of which there are at most five.
//!
//! Where the next member is sought is kept as a hand that goes round: a row that was just left and taken
//! again comes last in turn.

/// Rows a word speaks of.
const FAN: usize = 64;
/// Levels that 2^30 rows need.
const LEVELS_MAX: usize = 5;

const _: () = assert!(FAN.pow(LEVELS_MAX as u32) >= 1 << 30);

/// A set of rows, on memory handed in.
#[derive(Debug)]
pub struct RowSet<'m> {
    /// The words of all levels, finest first.
    words: &'m mut [u64],
    /// Where each level begins, and where the last ends.
    bounds: [usize; LEVELS_MAX + 1],
    /// How many levels there are.
    levels: usize,
    /// Where the next member is sought.
    hand: u32,
}

impl<'m> RowSet<'m> {
    /// How many words a set of the rows `0..rows` needs.
    pub const fn words(rows: usize) -> usize {
        let mut level = rows.div_ceil(FAN);
        let mut words = level;
        while level > 1 {
            level = level.div_ceil(FAN);
            words += level;
        }
        words
    }

    /// An empty set of the rows `0..rows`, on at least [`words`](Self::words), all zero.
    pub fn new(rows: usize, words: &'m mut [u64]) -> Self {
        assert!(words.len() >= Self::words(rows) && rows > 0);
        let mut bounds = [0; LEVELS_MAX + 1];
        let (mut levels, mut level) = (0, rows);
        while levels == 0 || level > 1 {
            level = level.div_ceil(FAN);
            bounds[levels + 1] = bounds[levels] + level;
            levels += 1;
        }
        Self { words, bounds, levels, hand: 0 }
    }

    /// Puts a row in that is not in it.
    pub fn insert(&mut self, row: u32) {
        debug_assert!(!self.contains(row));
        let mut at = row as usize;
        for level in 0..self.levels {
            let word = &mut self.words[self.bounds[level] + at / FAN];
            let before = *word;
            *word |= 1 << (at % FAN);
            if before != 0 {
                return; // the levels above know of this word
            }
            at /= FAN;
        }
    }

    /// Takes a row out that is in it.
    pub fn remove(&mut self, row: u32) {
        debug_assert!(self.contains(row));
        let mut at = row as usize;
        for level in 0..self.levels {
            let word = &mut self.words[self.bounds[level] + at / FAN];
            *word &= !(1 << (at % FAN));
            if *word != 0 {
                return;
            }
            at /= FAN;
        }
    }

    /// Whether it is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.words[self.bounds[self.levels - 1]] == 0
    }

    /// Whether a row is in it.
    pub fn contains(&self, row: u32) -> bool {
        self.words[row as usize / FAN] >> (row as usize % FAN) & 1 != 0
    }

    /// The member whose turn it is; it stays in.
    pub fn next_in_turn(&mut self) -> Option<u32> {
        let row = self.at_or_after(self.hand).or_else(|| self.at_or_after(0))?;
        self.hand = row + 1;
        Some(row)
    }

    /// The first member behind `row`, or of all if there is none; it stays in, and nobody's turn changes.
    pub fn next_after(&self, row: u32) -> Option<u32> {
        row.checked_add(1).and_then(|row| self.at_or_after(row)).or_else(|| self.at_or_after(0))
    }

    /// The first member that is `row` or after it.
    fn at_or_after(&self, row: u32) -> Option<u32> {
        let mut at = row as usize;
        // Up, to a word that has something from here on.
        for level in 0..self.levels {
            let words = &self.words[self.bounds[level]..self.bounds[level + 1]];
            let rest = words.get(at / FAN)? & (u64::MAX << (at % FAN));
            if rest != 0 {
                let found = at / FAN * FAN + rest.trailing_zeros() as usize;
                return Some(self.first_below(level, found));
            }
            at = at / FAN + 1;
        }
        None
    }

    /// The first member of those that place `at` of a level speaks of.
    fn first_below(&self, level: usize, mut at: usize) -> u32 {
        for level in (0..level).rev() {
            at = at * FAN + self.words[self.bounds[level] + at].trailing_zeros() as usize;
        }
        at as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn its_size_is_a_bit_a_row_and_a_little() {
        let cases =
            [(1, 1), (64, 1), (65, 3), (4096, 65), (4097, 65 + 1 + 2), (10_000_000, 158_732)];
        for (rows, words) in cases {
            assert_eq!(RowSet::words(rows), words, "{rows} rows");
        }
    }

    #[test]
    fn members_come_in_turn_and_a_row_taken_again_comes_last() {
        let mut words = vec![0; RowSet::words(5000)];
        let mut set = RowSet::new(5000, &mut words);
        assert_eq!(set.next_in_turn(), None);
        let members = [0, 63, 64, 4095, 4096, 4999];
        for row in members {
            set.insert(row);
        }
        for _ in 0..3 {
            for row in members {
                assert_eq!(set.next_in_turn(), Some(row));
                set.remove(row);
                set.insert(row);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_set(
            rows in prop_oneof![1u32..200, 4000u32..5000, 262_000u32..263_000],
            ops in proptest::collection::vec((0u8..3, any::<u32>()), 1..300),
        ) {
            let mut words = vec![0; RowSet::words(rows as usize)];
            let mut set = RowSet::new(rows as usize, &mut words);
            let mut model = BTreeSet::new();
            let mut hand = 0;
            for (op, number) in ops {
                let row = number % rows;
                match op {
                    0 if model.insert(row) => set.insert(row),
                    1 => {
                        let members: Vec<_> = model.iter().copied().collect();
                        if let Some(&row) = members.get(number as usize % members.len().max(1)) {
                            model.remove(&row);
                            set.remove(row);
                        }
                    }
                    _ => {
                        let next = model.range(hand..).next().or(model.first()).copied();
                        prop_assert_eq!(set.next_in_turn(), next);
                        hand = next.map_or(hand, |row| row + 1);
                    }
                }
                prop_assert_eq!(set.contains(row), model.contains(&row));
                let behind = model.range(row + 1..).next().or(model.first()).copied();
                prop_assert_eq!(set.next_after(row), behind);
            }
        }
    }
}
