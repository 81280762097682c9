#!/usr/bin/env bash
# Instructions per packet of the packet path, counted by callgrind: the same on every run of one build, whatever else
# the machine does. Two runs of different length are subtracted, so that set-up does not count. Needs valgrind.
# guard.sh compares the output with what is committed.
#
#   bench/instructions.sh [flows]            the whole path, by kind of packet
#   bench/instructions.sh --rooms [flows]    each room of it alone
set -euo pipefail
cd "$(dirname "$0")/.."
rooms=
if [[ ${1:-} == --rooms ]]; then
    rooms=1
    shift
fi
flows=${1:-640}
target=${CARGO_TARGET_DIR:-target}
command -v valgrind >/dev/null || { echo "instructions: needs valgrind" >&2; exit 1; }
cargo build --quiet --release --locked -p bench --bin core-bench --bin room-bench

# count <function> <packets> <command>: instructions inside the function.
count() {
    local function=$1 packets=$2 output
    shift 2
    output=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*$function*" \
        "$@" --flows "$flows" --rounds 1 --packets "$packets" 2>&1 >/dev/null) || { echo "$output" >&2; return 1; }
    output=$(awk '/Collected/ { print $4 }' <<<"$output")
    [[ $output -gt 0 ]] || { echo "instructions: nothing was counted in $function" >&2; return 1; }
    echo "$output"
}

# measure <name> <core-bench options>
measure() {
    local name=$1 short long
    shift
    short=$(count process_burst 6400 "$target/release/core-bench" "$@")
    long=$(count process_burst 12800 "$target/release/core-bench" "$@")
    # A quarter more is run to warm up: 8000 packets lie between the two.
    awk -v w="$name" -v a="$short" -v b="$long" 'BEGIN { printf "%-20s %6.0f\n", w, (b - a) / 8000 }'
}

if [[ $rooms ]]; then
    while read -r room; do
        short=$(count rooms::enter 6400 "$target/release/room-bench" --room "$room")
        long=$(count rooms::enter 12800 "$target/release/room-bench" --room "$room")
        # As many again to warm up.
        awk -v w="$room" -v a="$short" -v b="$long" 'BEGIN { printf "%-28s %6.0f\n", w, (b - a) / 12800 }'
    done < <("$target/release/room-bench" --names)
    exit
fi

measure established --work established
measure established_no_nat --work established --no-nat
measure established_v6 --work established --v6
measure tcp --work tcp
measure new --work new
measure full --work full
measure full_tcp --work full-tcp
