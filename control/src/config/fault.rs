//! Faults of a configuration: where, what, and how to mend it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A place in a text: line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// Where a setting was written. Two settings are the same wherever they were written, so all `At`
/// are equal: that is what lets a reload compare two configurations with `==`.
#[derive(Clone, Copy, Eq, Debug)]
pub struct At(pub Position);

impl PartialEq for At {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// One fault. `Display` gives `file:line:column: message`; the alternate form (`{:#}`) adds the hint
/// on a line of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The configuration file, as it was named.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong, a sentence without its full stop.
    pub message: String,
    /// How to mend it, where that is obvious.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, hint } = self;
        write!(f, "{}:{line}:{column}: {message}", file.display())?;
        match hint {
            Some(hint) if f.alternate() => write!(f, "\n    hint: {hint}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// Finds line and column of byte offsets.
struct Lines<'a> {
    text: &'a str,
    /// Byte offset at which each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|&start| start <= offset); // at least 1: starts[0] is 0
        let column = self.text[self.starts[line - 1]..offset].chars().count() + 1;
        Position { line: line as u32, column: column as u32 }
    }
}

/// Collects the faults of one file.
pub(super) struct Faults<'a> {
    file: PathBuf,
    lines: Lines<'a>,
    found: RefCell<Vec<Fault>>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        Self { file: file.to_owned(), lines: Lines::new(text), found: RefCell::default() }
    }

    /// Position of the start of `span`; the start of the file when the parser gave none.
    pub(super) fn at(&self, span: Option<Range<usize>>) -> At {
        At(self.lines.position(span.map_or(0, |s| s.start)))
    }

    pub(super) fn push(&self, at: At, message: impl Into<String>) {
        self.push_hint(at, message, None);
    }

    pub(super) fn push_hint(&self, at: At, message: impl Into<String>, hint: Option<String>) {
        self.found.borrow_mut().push(fault(&self.file, at, message.into(), hint));
    }

    /// All faults in the order of the file.
    pub(super) fn into_sorted(self) -> Vec<Fault> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|f| (f.line, f.column));
        found
    }
}

/// A fault at a known place.
pub(super) fn fault(file: &Path, at: At, message: String, hint: Option<String>) -> Fault {
    let Position { line, column } = at.0;
    Fault { file: file.to_owned(), line, column, message, hint }
}

/// The known word most like `word`, if one is near enough to have been meant.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, k), k))
        .filter(|(distance, k)| *distance <= k.len().div_ceil(3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// The hint that goes with an unknown word.
pub(super) fn did_you_mean<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<String> {
    nearest(word, known).map(|k| format!("did you mean `{k}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let lines = Lines::new("a\nbé = 1\n\nlast");
        let at = |offset| {
            let Position { line, column } = lines.position(offset);
            (line, column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(2), (2, 1));
        assert_eq!(at(5), (2, 3), "é is one character of two bytes");
        assert_eq!(at(4), (2, 2), "inside a character counts as its start");
        assert_eq!(at(9 + 1), (3, 1));
        assert_eq!(at(usize::MAX), (4, 5));
        assert_eq!(Lines::new("").position(7), Position { line: 1, column: 1 });
    }

    #[test]
    fn hints_are_given_for_slips_only() {
        let known = ["device", "zone", "masquerade", "mtu"];
        assert_eq!(nearest("devcie", known), Some("device"));
        assert_eq!(nearest("Zone", known), Some("zone"));
        assert_eq!(nearest("masqerade", known), Some("masquerade"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
