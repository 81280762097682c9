//! Which test shows which requirement: doc comments of tests (`/// C042: ...`) against `requirements.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A line of `requirements.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Whether the appliance does it today.
    pub now: bool,
    /// What it is.
    pub text: String,
    /// What shows it where no Rust test can.
    pub shown: Option<String>,
}

/// The requirements, and the tests that cite them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By id.
    pub requirements: BTreeMap<String, Requirement>,
    /// Tests (`file::name`) by the id they cite.
    pub tests: BTreeMap<String, Vec<String>>,
}

impl Table {
    /// Reads everything of the workspace at `root`.
    ///
    /// # Panics
    /// If `requirements.toml` is not as it should be.
    pub fn read(root: &Path) -> Self {
        let text =
            fs::read_to_string(root.join("tests/requirements.toml")).expect("requirements.toml");
        let mut table = Self {
            requirements: text.lines().filter_map(requirement).collect(),
            ..Self::default()
        };
        for folder in ["dataplane", "control", "tests", "bench", "deploy"] {
            table.scan(root, &root.join(folder));
        }
        for tests in table.tests.values_mut() {
            tests.sort();
        }
        table
    }

    fn scan(&mut self, root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                self.scan(root, &path);
            } else if path.extension().is_some_and(|e| e == "rs" || e == "sh") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                self.scan_file(&name, &text);
            }
        }
    }

    /// Collects the ids cited above each test function; `# C042` in a shell script cites for the script.
    fn scan_file(&mut self, file: &str, text: &str) {
        let (mut cited, mut is_test) = (Vec::new(), false);
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("# ").filter(|_| file.ends_with(".sh")) {
                for id in ids(comment) {
                    self.tests.entry(id).or_default().push(file.to_string());
                }
            } else if let Some(comment) = line.strip_prefix("///") {
                cited.extend(ids(comment));
            } else if line.starts_with("#[test]") {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                for id in cited.drain(..) {
                    self.tests.entry(id).or_default().push(format!("{file}::{name}"));
                }
                is_test = false;
            } else if !line.starts_with("#[") {
                (cited, is_test) = (Vec::new(), false);
            }
        }
    }

    /// Ids that are in scope now and have nothing to show them.
    pub fn missing(&self) -> Vec<&str> {
        let bare = |(id, r): &(&String, &Requirement)| {
            r.now && r.shown.is_none() && !self.tests.contains_key(id.as_str())
        };
        self.requirements.iter().filter(bare).map(|(id, _)| id.as_str()).collect()
    }

    /// Ids that tests cite and nobody knows.
    pub fn unknown(&self) -> Vec<&str> {
        self.tests
            .keys()
            .filter(|id| !self.requirements.contains_key(*id))
            .map(String::as_str)
            .collect()
    }

    /// The table, for people.
    pub fn print(&self) -> String {
        let mut out = String::new();
        for (id, requirement) in &self.requirements {
            let tests = self.tests.get(id).map_or(&[][..], Vec::as_slice);
            let Requirement { now, text, shown } = requirement;
            let scope = if *now { "now  " } else { "later" };
            let _ = writeln!(out, "{id} {scope} {text}");
            for test in tests.iter().chain(shown) {
                let _ = writeln!(out, "             {test}");
            }
            if *now && tests.is_empty() && shown.is_none() {
                let _ = writeln!(out, "             NOT SHOWN BY ANY TEST");
            }
        }
        let now = self.requirements.values().filter(|r| r.now).count();
        let by_test = |r: &(&String, &Requirement)| self.tests.contains_key(r.0);
        let tested = self.requirements.iter().filter(|r| r.1.now).filter(by_test).count();
        let later = self.requirements.iter().filter(|r| !r.1.now).filter(by_test).count();
        let _ = writeln!(
            out,
            "\nin scope now: {now}, shown by a test: {tested}; of those for later, tested already: {later}"
        );
        let elsewhere = self.requirements.iter().filter(|r| r.1.shown.is_some() && !by_test(r));
        let elsewhere: Vec<_> = elsewhere.map(|(id, _)| id.as_str()).collect();
        let _ = writeln!(out, "shown elsewhere: {}", elsewhere.join(" "));
        let _ = writeln!(out, "not shown: {}", self.missing().join(" "));
        out
    }
}

/// Every `C` with three digits.
fn ids(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id =
        |w: &&str| w.len() == 4 && w.starts_with('C') && w[1..].bytes().all(|b| b.is_ascii_digit());
    words.filter(is_id).map(String::from).collect()
}

fn requirement(line: &str) -> Option<(String, Requirement)> {
    let (id, rest) = line.split_once(" = { ")?;
    let field = |name: &str| {
        let (_, after) = rest.split_once(&format!("{name} = \""))?;
        Some(after.split('"').next()?.to_string())
    };
    let scope = field("scope").unwrap_or_else(|| panic!("no scope: {line}"));
    assert!(["now", "later"].contains(&scope.as_str()), "{line}");
    let text = field("text").unwrap_or_else(|| panic!("no text: {line}"));
    Some((id.to_string(), Requirement { now: scope == "now", text, shown: field("shown") }))
}
