//! Compiles the XDP program. Needs clang with the BPF target, nothing else.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=bpf/steer.c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.o");
    // -g: the layout of the maps is in the debug information (BTF).
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", "bpf/steer.c", "-o"])
        .arg(&out)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => {
            println!(
                "cargo::error=`{clang}` could not compile bpf/steer.c ({status}); it needs clang 11 or later with the BPF target (try `{clang} -print-targets`)"
            );
            exit(1);
        }
        Err(error) => {
            println!(
                "cargo::error=cannot run `{clang}`: {error}. The XDP program is compiled with clang: install it (`apt install clang`, `dnf install clang`) or name it in the environment variable CLANG"
            );
            exit(1);
        }
    }
}
