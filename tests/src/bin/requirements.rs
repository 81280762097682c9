//! Prints which test shows which requirement, and which has none; and of the RFCs on NAT, which clauses are met.

use std::path::Path;
use std::process::ExitCode;

use postern_tests::requirements::Table;
use postern_tests::rfc;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = Table::read(&root);
    print!("{}", table.print());
    let unknown = table.unknown();
    if !unknown.is_empty() {
        println!("cited, but not in requirements.toml: {}", unknown.join(" "));
    }
    let (clauses, faults) = rfc::read(&root);
    print!("\n{}", rfc::print(&clauses));
    faults.iter().for_each(|fault| println!("{fault}"));
    if unknown.is_empty() && faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
