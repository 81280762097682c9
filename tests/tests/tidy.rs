//! What the tree promises about itself: who may know whom, where unsafe lives, how long files may be.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the tree").into()
}

/// Every Rust source below `folder` of the tree, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, out: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder of the tree").flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source of the tree");
                out.push((path, text));
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(folder), &mut out);
    assert!(!out.is_empty(), "{folder} has sources");
    out
}

/// Dependencies of a package of ours on other packages of ours.
fn knows(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(manifest)).expect("a manifest of the tree");
    let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    let name = |line: &str| line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    dependencies.lines().map(name).filter(|name| name.starts_with("postern")).collect()
}

#[test]
fn the_core_knows_nobody_and_the_arrows_point_one_way() {
    assert_eq!(knows("dataplane/core/Cargo.toml"), [""; 0]);
    assert_eq!(knows("dataplane/io/Cargo.toml"), ["postern-core"]);
    assert_eq!(knows("control/rules/Cargo.toml"), ["postern-core"]);
    let lib =
        fs::read_to_string(root().join("dataplane/core/src/lib.rs")).expect("the core's root");
    assert!(lib.contains("#![no_std]") && lib.contains("#![deny(unsafe_code)]"));
}

#[test]
fn the_core_has_unsafe_in_one_file_only() {
    for (path, text) in sources("dataplane/core/src") {
        let unsafe_block = text.lines().any(|l| l.contains("unsafe {") || l.contains("unsafe fn"));
        assert!(!unsafe_block || path.ends_with("arch.rs"), "{}", path.display());
    }
}

#[test]
fn no_file_is_longer_than_a_room() {
    const LINES_MAX: usize = 900;
    for folder in ["dataplane", "control", "bench", "tests"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn nothing_is_left_for_later_without_saying_so() {
    for folder in ["dataplane", "control", "bench", "tests"] {
        for (path, text) in sources(folder) {
            for word in ["TODO", "FIXME", "#[ignore]"] {
                let here = path.ends_with("tests/tidy.rs");
                assert!(here || !text.contains(word), "{word} in {}", path.display());
            }
        }
    }
}
