//! libFuzzer on one target of `postern_tests::fuzz`, which `POSTERN_FUZZ` names. `run.sh` builds and runs this.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern_tests::fuzz::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("POSTERN_FUZZ").unwrap_or_default();
    let found = TARGETS.into_iter().find(|target| target.name == wanted);
    found.unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        panic!("POSTERN_FUZZ must be one of {}", names.join(", "))
    })
});

fuzz_target!(|input: &[u8]| (TARGET.feed)(input));
