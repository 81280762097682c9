#!/usr/bin/env bash
# Fuzzes: libFuzzer guided by coverage, on stable Rust. Not part of tests/run.sh, which feeds past findings and some
# random bytes to the same functions.
#
#   tests/fuzz/run.sh [--seconds N] [target...]     N seconds for each of the targets, or of all; default 600
#
# What is found is left in <build directory>/fuzz/found/<target>/; mend it, then keep the input in
# tests/fuzz/regressions/<target>/ under a name that says what it was.
set -euo pipefail
cd "$(dirname "$0")"
readonly all=(parser core sequence ftp irc tftp sip control_connection rules)
# A single input may take so long and a process so much, in seconds and megabytes.
readonly TIMEOUT=20 MEMORY=3000

seconds=600
if [[ ${1:-} == --seconds ]]; then
    seconds=${2:?how many?}
    shift 2
fi
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=("${all[@]}")
for target in "${targets[@]}"; do
    [[ " ${all[*]} " == *" $target "* ]] || { echo "fuzz: no target $target; there are ${all[*]}" >&2; exit 1; }
done
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] || { echo "fuzz: $seconds is not a number of seconds from 1 to 999999" >&2; exit 1; }

build=${CARGO_TARGET_DIR:-$PWD/../../target}/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
# What libFuzzer reads: which edges were taken, and what was compared with what.
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-$option"
done
export RUSTFLAGS
CARGO_TARGET_DIR=$build cargo build --quiet --release --locked --target "$triple"
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
(unset RUSTFLAGS; cd ../..; cargo run --quiet --locked -p postern-tests --bin fuzz-seeds -- "$seeds")

failed=0
for target in "${targets[@]}"; do
    mkdir -p "$build/corpus/$target" "$build/found/$target" "$seeds/$target" # not all have seeds
    inputs=("$build/corpus/$target" "$seeds/$target")
    [[ -d regressions/$target ]] && inputs+=("regressions/$target")
    echo "== $target, $seconds s"
    POSTERN_FUZZ=$target "$build/$triple/release/postern-fuzz" "${inputs[@]}" -max_total_time="$seconds" \
        -max_len=8192 -timeout=$TIMEOUT -rss_limit_mb=$MEMORY -artifact_prefix="$build/found/$target/" \
        -print_final_stats=1 -verbosity=0 2>&1 | grep -v '^INFO' || failed=1
done
[[ $failed == 0 ]] || { echo "fuzz: FAILED, see $build/found" >&2; exit 1; }
echo "fuzz: nothing was found"
