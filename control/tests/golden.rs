//! Golden cases: capture in, capture and counters out, compared to the byte.
//!
//! A folder of `tests/golden` is a case: one sentence in `README`, `config.toml`, `in.pcap`, and what `postern replay`
//! makes of them, `out.pcap` and `report.json`. `REGEN=1` writes the last two anew: read the difference before it is
//! committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut cases: Vec<_> =
        fs::read_dir(folder).expect("the cases").flatten().map(|entry| entry.path()).collect();
    cases.sort();
    cases
}

/// Replays a case: the capture that comes out, and the report.
fn replay(case: &Path) -> (Vec<u8>, String) {
    let out = std::env::temp_dir().join(format!(
        "postern-golden-{}-{}.pcap",
        std::process::id(),
        case.file_name().and_then(|name| name.to_str()).expect("a case has a name")
    ));
    let done = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["--json", "replay", "--config"])
        .args([case.join("config.toml"), case.join("in.pcap"), out.clone()])
        .output()
        .expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let capture = fs::read(&out).expect("the capture it wrote");
    fs::remove_file(&out).expect("our own file");
    (capture, String::from_utf8(done.stdout).expect("JSON is text"))
}

#[test]
fn every_case_comes_out_as_it_did() {
    let regenerate = std::env::var_os("REGEN").is_some();
    let cases = cases();
    assert!(cases.len() >= 7, "the cases are there");
    for case in cases {
        let (capture, report) = replay(&case);
        let (capture_file, report_file) = (case.join("out.pcap"), case.join("report.json"));
        if regenerate {
            fs::write(capture_file, capture).expect("the case is ours to write");
            fs::write(report_file, report).expect("the case is ours to write");
            continue;
        }
        let sentence = fs::read_to_string(case.join("README")).expect("a sentence");
        let expected = fs::read_to_string(report_file).expect("a report");
        assert_eq!(report, expected, "{}: {sentence}", case.display());
        assert!(
            fs::read(capture_file).expect("a capture") == capture,
            "{}: other bytes came out. {sentence}",
            case.display()
        );
    }
}
