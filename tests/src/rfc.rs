//! Which requirement of an RFC is met, and what shows it: `tests/rfc/*.toml`, held against the tests that there are.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use toml_edit::{Document, Table};

/// What each table must speak of.
struct Wanted {
    rfc: &'static str,
    /// Begins every clause.
    lead: &'static str,
    /// First and last number.
    numbers: [u8; 2],
    /// What stands below them.
    parts: &'static [&'static str],
}

/// The RFCs, and their clauses: requirements from `REQ-1` on; of RFC 7857, which updates the others, sections from 2 on.
const RFCS: [Wanted; 4] = [
    Wanted {
        rfc: "rfc4787",
        lead: "REQ-",
        numbers: [1, 14],
        parts: &["3a", "5a", "5b", "5c", "6a", "8a", "9a", "10a", "12a", "12b", "13a", "14a"],
    },
    Wanted {
        rfc: "rfc5382",
        lead: "REQ-",
        numbers: [1, 10],
        parts: &["2a", "3a", "3b", "4a", "5a", "8a"],
    },
    Wanted {
        rfc: "rfc5508",
        lead: "REQ-",
        numbers: [1, 11],
        parts: &["1a", "2a", "3a", "3b", "3c", "3d", "5c", "7a"],
    },
    Wanted { rfc: "rfc7857", lead: "section-", numbers: [2, 12], parts: &["2.1", "2.2", "7.1"] },
];

impl Wanted {
    fn ids(&self) -> impl Iterator<Item = String> {
        let [first, last] = self.numbers;
        let numbers = (first..=last).map(|number| number.to_string());
        let all = numbers.chain(self.parts.iter().map(|part| part.to_string()));
        all.map(|part| format!("{}{part}", self.lead))
    }
}

/// Whether a requirement is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// Always.
    Yes,
    /// If it is configured so.
    Configured(String),
    /// It is not, for this reason.
    No(String),
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// `rfc4787`.
    pub rfc: String,
    /// `REQ-1`.
    pub id: String,
    /// MUST, SHOULD and so on.
    pub level: String,
    /// What it wants, in our words.
    pub text: String,
    /// Whether it is met.
    pub met: Met,
    /// What a reader should know besides, if anything.
    pub note: Option<String>,
    /// What shows it: `file::test`, or `script::case`.
    pub tests: Vec<String>,
}

/// Reads all tables of the workspace at `root`; what is wrong with them comes second.
pub fn read(root: &Path) -> (Vec<Clause>, Vec<String>) {
    let (mut clauses, mut faults) = (Vec::new(), Vec::new());
    for wanted in RFCS {
        let rfc = wanted.rfc;
        let path = root.join(format!("tests/rfc/{rfc}.toml"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                faults.push(format!("{rfc}: {error}"));
                continue;
            }
        };
        for (id, item) in document.as_table() {
            match item.as_table().ok_or("not a table").and_then(|table| clause(rfc, id, table)) {
                Ok(clause) => clauses.push(clause),
                Err(fault) => faults.push(format!("{rfc} {id}: {fault}")),
            }
        }
        for id in wanted.ids() {
            if !document.as_table().contains_key(&id) {
                faults.push(format!("{rfc}: nothing is said of {id}"));
            }
        }
    }
    for clause in &clauses {
        for test in clause.tests.iter().filter(|test| !is_there(root, test)) {
            faults.push(format!("{} {}: there is no {test}", clause.rfc, clause.id));
        }
    }
    (clauses, faults)
}

fn clause(rfc: &str, id: &str, table: &Table) -> Result<Clause, &'static str> {
    let word = |key| table.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let tests: Vec<String> = table
        .get("tests")
        .and_then(|value| value.as_array())
        .map(|tests| tests.iter().filter_map(|test| test.as_str()).map(str::to_owned).collect())
        .unwrap_or_default();
    let met = match word("met").as_deref() {
        Some("yes") => Met::Yes,
        Some("configured") => Met::Configured(word("how").ok_or("configured, but how?")?),
        Some("no") => Met::No(word("why").ok_or("not met, but why?")?),
        _ => return Err("`met` is yes, configured or no"),
    };
    if tests.is_empty() && !matches!(met, Met::No(_)) {
        return Err("nothing shows it");
    }
    let (level, text) = (word("level").ok_or("no level")?, word("text").ok_or("no text")?);
    let note = word("note");
    Ok(Clause { rfc: rfc.to_owned(), id: id.to_owned(), level, text, met, note, tests })
}

/// Whether there is a test of this name that is run: a Rust test, or a case of a script.
fn is_there(root: &Path, test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return false };
    let Ok(text) = fs::read_to_string(root.join(file)) else { return false };
    if file.ends_with(".sh") { is_case(&text, name) } else { is_test(&text, name) }
}

/// Whether a script has a case of this name. Others than these are not run, or only when they are asked for.
fn is_case(script: &str, name: &str) -> bool {
    let is_run = name.starts_with("case_") || name.starts_with("once_");
    is_run && script.lines().any(|line| line.starts_with(&format!("{name}() ")))
}

/// What stands before a test that is left out, in two pieces: no file of the tree has it.
const IGNORED: &str = concat!("#[", "ignore");

/// Whether a file has a test of this name that is not ignored.
fn is_test(text: &str, name: &str) -> bool {
    let (mut is_test, mut is_ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with(IGNORED) {
            is_ignored = true;
        } else if let Some(rest) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            if is_test && rest.split(['(', '<']).next() == Some(name) {
                return !is_ignored;
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    false
}

/// The tables, for people.
pub fn print(clauses: &[Clause]) -> String {
    let mut out = String::new();
    for clause in clauses {
        let (met, reason) = match &clause.met {
            Met::Yes => ("met", None),
            Met::Configured(how) => ("configured", Some(how)),
            Met::No(why) => ("NOT MET", Some(why)),
        };
        let Clause { rfc, id, level, text, note, tests, .. } = clause;
        let _ = writeln!(out, "{rfc} {id:<11} {level:<12} {met:<11} {text}");
        for line in tests.iter().chain(reason).chain(note) {
            let _ = writeln!(out, "             {line}");
        }
    }
    let count = |is: fn(&Met) -> bool| clauses.iter().filter(|clause| is(&clause.met)).count();
    let _ = writeln!(
        out,
        "\nof {} clauses: met {}, when configured {}, not met {}",
        clauses.len(),
        count(|met| *met == Met::Yes),
        count(|met| matches!(met, Met::Configured(_))),
        count(|met| matches!(met, Met::No(_)))
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_missed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert!(is_there(&root, "tests/src/rfc.rs::a_test_that_is_not_there_is_missed"));
        assert!(is_there(&root, "tests/e2e/nat_rules.sh::case_hosts_appear_behind_a_pool"));
        for missing in [
            "tests/src/rfc.rs::is_there",
            "tests/src/rfc.rs::a_test_that_is_not_there",
            "tests/src/no.rs::print",
            "tests/e2e/nat_rules.sh::case_hosts",
        ] {
            assert!(!is_there(&root, missing), "{missing}");
        }
    }

    #[test]
    fn what_is_not_run_shows_nothing() {
        let file = format!(
            "#[test]\nfn a() {{}}\n#[test]\n{IGNORED} = \"slow\"]\nfn b() {{}}\n{IGNORED}]\n#[test]\nfn c() {{}}\n\
             fn d() {{}}\n#[test]\nfn e() {{}}\n"
        );
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|name| is_test(&file, name)),
            [true, false, false, false, true]
        );
        let script =
            "case_a() {\n}\nlater_b() {\n}\nonce_c() {\n}\nd() {\n}\n# case_e() is not there\n";
        let names = ["case_a", "later_b", "once_c", "d", "case_e", "case_"];
        assert_eq!(
            names.map(|name| is_case(script, name)),
            [true, false, true, false, false, false]
        );
    }

    #[test]
    fn parts_of_a_requirement_are_wanted_too() {
        let wanted = Wanted { rfc: "rfc0", lead: "REQ-", numbers: [1, 2], parts: &["1a"] };
        assert_eq!(wanted.ids().collect::<Vec<_>>(), ["REQ-1", "REQ-2", "REQ-1a"]);
    }
}
