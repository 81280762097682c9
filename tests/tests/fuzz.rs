//! What the fuzzer looks at, on what it once found, on what it begins with and on random bytes.

use std::fs;
use std::path::Path;

use postern_tests::Draw;
use postern_tests::fuzz::{TARGETS, seeds};

/// C152, C161: inputs that once were trouble are none any more.
#[test]
fn past_findings_stay_mended() {
    let regressions = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    for directory in fs::read_dir(&regressions).expect("the regressions") {
        let directory = directory.expect("an entry").path();
        if !directory.is_dir() {
            continue; // what this place is for
        }
        let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("no target is called {name}"));
        for input in fs::read_dir(&directory).expect("a directory") {
            let input = input.expect("an entry").path();
            println!("{}", input.display());
            (target.feed)(&fs::read(&input).expect("a file"));
        }
    }
}

/// C152, C161: nor are seeds, seeds with some bytes changed, and bytes that mean nothing.
#[test]
fn nothing_is_found_near_the_seeds() {
    let mut draw = Draw::new(1);
    let seeds = seeds();
    for target in &TARGETS {
        let mut fed = 0;
        for (_, seed) in seeds.iter().filter(|(name, _)| *name == target.name) {
            (target.feed)(seed);
            for _ in 0..60 {
                let mut bytes = seed.clone();
                for _ in 0..1 + draw.below(4) {
                    let place = draw.below(bytes.len());
                    bytes[place] = draw.bits() as u8;
                }
                (target.feed)(&bytes);
                fed += 1;
            }
        }
        for len in 0..60 {
            let bytes: Vec<u8> = (0..len * 5).map(|_| draw.bits() as u8).collect();
            (target.feed)(&bytes);
            fed += 1;
        }
        assert!(fed >= 60, "{}: hardly looked at", target.name);
    }
}
