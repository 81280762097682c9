//! Printing. What a user, a file or a packet made may hold anything; it reaches a terminal or a listing
//! with every character that could act there made visible instead.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};

/// Whether a character does something rather than show something: controls, and those that hide or
/// reorder their neighbours (Unicode's bidirectional and zero-width format characters).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line, safe to print.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, |_| false)
}

/// Several lines, safe to print: newlines and tabs stay.
pub fn escaped_lines(text: &str) -> Cow<'_, str> {
    escaped_but(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped_but(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let acts = |c: char| acts(c) && !keep(c);
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            let _ = write!(shown, "{}", c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Prints a value as indented JSON, safe to print.
///
/// # Errors
/// If printing fails.
pub fn print_json(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let formatter = SafeFormatter(PrettyFormatter::new());
    value.serialize(&mut Serializer::with_formatter(&mut *out, formatter))?;
    writeln!(out)
}

/// Prints a value as JSON on one line, safe to print, without the newline.
///
/// # Errors
/// If printing fails.
pub fn print_json_line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let formatter = SafeFormatter(serde_json::ser::CompactFormatter);
    Ok(value.serialize(&mut Serializer::with_formatter(&mut *out, formatter))?)
}

/// Writes what acts as `\uXXXX`: the same JSON, and nothing in it acts on a terminal.
struct SafeFormatter<F>(F);

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> io::Result<()> {
            self.0.$name(writer $(, $argument)*)
        })*
    };
}

impl<F: Formatter> Formatter for SafeFormatter<F> {
    delegate! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
        write_char_escape(escape: CharEscape);
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(acts) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let c = rest[at..].chars().next().expect("find found a character here");
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// How a column is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Prints rows in columns, two spaces apart, each as wide as its widest cell. Cells are made safe.
///
/// # Errors
/// If printing fails.
pub fn print_columns(
    align: &[Align],
    rows: &[Vec<String>],
    indent: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let rows: Vec<Vec<_>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..align.len()).map(width).collect();
    for row in &rows {
        let mut line = String::from(indent);
        for ((cell, align), &width) in row.iter().zip(align).zip(&widths) {
            match align {
                Align::Left => _ = write!(line, "{cell:<width$}  "),
                Align::Right => _ = write!(line, "{cell:>width$}  "),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C204.
    #[test]
    fn nothing_that_acts_is_printed() {
        let nasty = "a\nb\x1b[2Jc\u{202e}d\u{9b}e\u{7f}\r";
        let shown = escaped(nasty);
        assert!(!shown.contains(acts), "{shown:?}");
        assert_eq!(shown, "a\\nb\\u{1b}[2Jc\\u{202e}d\\u{9b}e\\u{7f}\\r");
        assert_eq!(escaped_lines("a\n\tb\x07"), "a\n\tb\\u{7}");
        assert!(matches!(escaped("größer – ok"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_is_the_same_but_harmless() {
        let value = serde_json::json!({"a\u{9b}": "\u{202e}x\u{e0041}\n\x1b\u{7f}\"\\é"});
        let (mut pretty, mut line) = (Vec::new(), Vec::new());
        print_json(&value, &mut pretty).unwrap();
        print_json_line(&value, &mut line).unwrap();
        for bytes in [pretty, line] {
            let text = String::from_utf8(bytes).unwrap();
            assert!(!text.contains(|c| acts(c) && c != '\n'), "{text:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "1000".to_owned()]];
        let mut out = Vec::new();
        print_columns(&[Align::Left, Align::Right], &rows, "  ", &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "  a        1\n  long  1000\n");
    }
}
