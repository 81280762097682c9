//! What is wrong with a command or a dump, said so that a person can mend it.

use std::fmt;

/// Shown after the program's name, as iptables shows its own version.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), " (postern)");

/// Who is to blame, and so the exit code and the first words of the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The command line cannot be understood: exit code 2.
    Usage,
    /// It was understood, but cannot be done: exit code 1.
    Refused,
}

/// Why a command was refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    token: Option<usize>,
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into(), hint: None, token: None }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, message: message.into(), hint: None, token: None }
    }

    /// iptables' words for a chain that is not there.
    pub(crate) fn no_chain() -> Self {
        Self::refused("No chain/target/match by that name.")
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the token it is about, unless a narrower place is known already.
    #[must_use]
    pub(crate) fn at(mut self, token: usize) -> Self {
        self.token.get_or_insert(token);
        self
    }

    /// Exit code: 2 for a command that cannot be understood, 1 for one that cannot be done.
    pub fn code(&self) -> i32 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Refused => 1,
        }
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The token it is about, by its place in the command line.
    pub fn token(&self) -> Option<usize> {
        self.token
    }

    /// As `program` writes it to standard error.
    pub fn render(&self, program: &str) -> String {
        let hint = self.hint.as_deref().map_or(String::new(), |hint| format!("hint: {hint}\n"));
        match self.kind {
            Kind::Usage => format!(
                "{program} {VERSION}: {}\n{hint}Try `{program} -h' or '{program} --help' for more information.\n",
                self.message
            ),
            Kind::Refused => format!("{program}: {}\n{hint}", self.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Error {}

/// Why a dump was refused, and where. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreError {
    /// Line, from 1.
    pub line: usize,
    /// Column of the token, in characters from 1; 1 if the line as a whole is meant.
    pub column: usize,
    /// The token as it stands in the dump, made printable; empty if the line as a whole is meant.
    pub token: String,
    /// What is wrong with it.
    pub error: Error,
}

impl RestoreError {
    /// As `program` writes it to standard error.
    pub fn render(&self, program: &str) -> String {
        let hint = self.error.advice().map_or(String::new(), |hint| format!("hint: {hint}\n"));
        format!("{program} {VERSION}: {self}\n{hint}Error occurred at line: {}\n", self.line)
    }
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)?;
        if !self.token.is_empty() {
            write!(f, ", at `{}'", self.token)?;
        }
        write!(f, ": {}", self.error.message())
    }
}

impl std::error::Error for RestoreError {}

/// Whether a character could make output say what it does not: controls, line separators, text direction.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
}

/// The text with every deceptive character written as its number, cut after 80 characters.
pub(crate) fn visible(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out = String::new();
    for c in text.chars().take(LONGEST) {
        if is_deceptive(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        out.push_str("...");
    }
    out
}

/// Looks for characters that a web page or word processor puts in place of ASCII: dashes, quotes, odd spaces.
///
/// `program` and `tokens` make up the corrected line that the error shows. A comment's own text may hold what it likes.
pub(crate) fn check_spelling(program: &str, tokens: &[String]) -> Result<(), Error> {
    let mut comment = false;
    for (at, token) in tokens.iter().enumerate() {
        let is_text = std::mem::replace(&mut comment, token == "--comment");
        if is_text {
            continue;
        }
        if let Some((c, name)) = token.chars().find_map(|c| Some((c, odd_name(c)?))) {
            let fixed: Vec<_> = tokens.iter().map(|token| ascii(token)).collect();
            let message = format!(
                "{name} (U+{:04X}) in `{}', as copied from a web page or document",
                c as u32,
                visible(token)
            );
            let spelling = visible(&fixed.join(" "));
            let hint = format!("in plain ASCII: {program} {spelling}");
            return Err(Error::usage(message).hint(hint).at(at));
        }
    }
    Ok(())
}

fn odd_name(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{2013}' => "an en dash",
        '\u{2014}' | '\u{2015}' => "an em dash",
        '\u{2010}' | '\u{2011}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => {
            "a dash that is not ASCII's"
        }
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{ab}' | '\u{bb}' => "a curly quote",
        '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' => "a curly apostrophe",
        '\u{a0}' | '\u{202f}' | '\u{2000}'..='\u{200a}' | '\u{3000}' => {
            "a non-breaking or odd space"
        }
        '\u{200b}' | '\u{2060}' | '\u{ad}' | '\u{feff}' => "an invisible character",
        _ => return None,
    })
}

/// The token as it was probably meant. Before a long option's name stood two dashes, else one.
fn ascii(token: &str) -> String {
    let is_dash = |c: char| c == '-' || odd_name(c).is_some_and(|name| name.contains("dash"));
    let body = token.trim_start_matches(is_dash);
    let has_odd_dash = token[..token.len() - body.len()].chars().any(|c| c != '-');
    let word = body.split('=').next().unwrap_or_default();
    let dashes = match has_odd_dash {
        false => &token[..token.len() - body.len()],
        true if crate::options::is_long(word) => "--",
        true => "-",
    };
    let mut out = dashes.to_owned();
    for c in body.chars() {
        match odd_name(c) {
            None => out.push(c),
            Some(name) if name.contains("dash") => out.push('-'),
            Some(name) if name.contains("quote") => out.push('"'),
            Some(name) if name.contains("apostrophe") => out.push('\''),
            Some(name) if name.contains("space") => out.push(' '),
            Some(_) => {}
        }
    }
    out
}
