//! The tables are complete: nobody cites a requirement that is not there, and of every clause of the RFCs it is said whether
//! it is met, and by which test, which is there.

use std::path::Path;

use postern_tests::requirements::Table;
use postern_tests::rfc;

#[test]
fn every_requirement_that_a_test_cites_is_in_the_table() {
    let table = Table::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    assert!(table.requirements.len() > 100);
    assert_eq!(table.unknown(), Vec::<&str>::new());
}

#[test]
fn every_clause_of_the_rfcs_is_spoken_of_and_what_shows_it_is_there() {
    let (clauses, faults) = rfc::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    assert_eq!(faults, Vec::<String>::new());
    assert!(clauses.len() > 60, "{}", clauses.len());
}
