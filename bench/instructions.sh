#!/usr/bin/env bash
# Instructions per packet of the packet path, counted by callgrind: the same on every run of one build, whatever else
# the machine does. Two runs of different length are subtracted, so that set-up does not count. Needs valgrind.
#
#   bench/instructions.sh [flows]
set -euo pipefail
cd "$(dirname "$0")/.."
flows=${1:-640}
command -v valgrind >/dev/null || { echo "instructions: needs valgrind" >&2; exit 1; }
cargo build --quiet --release --locked -p bench

# count <work> <packets>: instructions inside the pipeline.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*process_burst*' \
        target/release/core-bench --work "$1" --flows "$flows" --packets "$2" 2>&1 >/dev/null |
        awk '/Collected/ { print $4 }'
}

for work in established tcp new full; do
    short=$(count "$work" 6400)
    long=$(count "$work" 12800)
    # An eighth more is run to warm up.
    awk -v w="$work" -v a="$short" -v b="$long" 'BEGIN { printf "%-12s %6.0f\n", w, (b - a) / 7200 }'
done
