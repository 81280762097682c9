//! The table of requirements is complete: nobody cites what is not in it.

use std::path::Path;

use postern_tests::requirements::Table;

#[test]
fn every_requirement_that_a_test_cites_is_in_the_table() {
    let table = Table::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    assert!(table.requirements.len() > 100);
    assert_eq!(table.unknown(), Vec::<&str>::new());
}
