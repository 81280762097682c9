//! Which requirement of an RFC is met, and what shows it: `tests/rfc/*.toml`, held against the tests that there are.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use toml_edit::{Document, Table};

/// The RFCs, and the clauses that each table must speak of: requirements `REQ-1` to this number; of RFC 7857, which updates
/// the others, sections from 2 on.
const RFCS: [(&str, &str, u8, u8); 4] = [
    ("rfc4787", "REQ-", 1, 14),
    ("rfc5382", "REQ-", 1, 10),
    ("rfc5508", "REQ-", 1, 11),
    ("rfc7857", "section-", 2, 12),
];

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
    /// What shows it: `file::test`, or `script::case`.
    pub tests: Vec<String>,
}

/// Reads all tables of the workspace at `root`; what is wrong with them comes second.
pub fn read(root: &Path) -> (Vec<Clause>, Vec<String>) {
    let (mut clauses, mut faults) = (Vec::new(), Vec::new());
    for (rfc, lead, first, last) in RFCS {
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
        for number in first..=last {
            let id = format!("{lead}{number}");
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
    Ok(Clause { rfc: rfc.to_owned(), id: id.to_owned(), level, text, met, tests })
}

/// Whether there is a test of this name: a Rust test, or a case of a script.
fn is_there(root: &Path, test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return false };
    let Ok(text) = fs::read_to_string(root.join(file)) else { return false };
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if file.ends_with(".sh") {
            if line.starts_with(&format!("{name}()")) {
                return true;
            }
        } else if line.starts_with("#[test]") {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            if is_test && rest.split(['(', '<']).next() == Some(name) {
                return true;
            }
            is_test = false;
        }
    }
    false
}

/// The tables, for people.
pub fn print(clauses: &[Clause]) -> String {
    let mut out = String::new();
    for clause in clauses {
        let (met, note) = match &clause.met {
            Met::Yes => ("met", ""),
            Met::Configured(how) => ("configured", how.as_str()),
            Met::No(why) => ("NOT MET", why.as_str()),
        };
        let Clause { rfc, id, level, text, tests, .. } = clause;
        let _ = writeln!(out, "{rfc} {id:<11} {level:<12} {met:<11} {text}");
        for line in
            tests.iter().map(String::as_str).chain([note].into_iter().filter(|n| !n.is_empty()))
        {
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
}
