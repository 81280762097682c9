//! Prints which test shows which requirement, and which has none.

use std::path::Path;
use std::process::ExitCode;

use postern_tests::requirements::Table;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = Table::read(&root);
    print!("{}", table.print());
    let unknown = table.unknown();
    if !unknown.is_empty() {
        println!("cited, but not in requirements.toml: {}", unknown.join(" "));
    }
    if unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
