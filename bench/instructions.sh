#!/usr/bin/env bash
# Instructions per packet of the packet path, counted by callgrind: the same on every run of one build, whatever else
# the machine does. Two runs of different length are subtracted, so that set-up does not count. Needs valgrind.
# guard.sh compares the output with what is committed.
#
#   bench/instructions.sh [flows]
set -euo pipefail
cd "$(dirname "$0")/.."
flows=${1:-640}
target=${CARGO_TARGET_DIR:-target}
command -v valgrind >/dev/null || { echo "instructions: needs valgrind" >&2; exit 1; }
cargo build --quiet --release --locked -p bench --bin core-bench

# count <packets> <core-bench options>: instructions inside the pipeline.
count() {
    local packets=$1 output
    shift
    output=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*process_burst*' \
        "$target/release/core-bench" "$@" --flows "$flows" --rounds 1 --packets "$packets" 2>&1 >/dev/null) ||
        { echo "$output" >&2; return 1; }
    awk '/Collected/ { print $4 }' <<<"$output"
}

# measure <name> <core-bench options>
measure() {
    local name=$1 short long
    shift
    short=$(count 6400 "$@")
    long=$(count 12800 "$@")
    # A quarter more is run to warm up: 8000 packets lie between the two.
    awk -v w="$name" -v a="$short" -v b="$long" 'BEGIN { printf "%-20s %6.0f\n", w, (b - a) / 8000 }'
}

measure established --work established
measure established_no_nat --work established --no-nat
measure established_v6 --work established --v6
measure tcp --work tcp
measure new --work new
measure full --work full
