#!/usr/bin/env bash
# Measures the packet path over numbers of connections and of workers, and draws both. Leaves the figures as JSON lines
# beside the charts: flows.jsonl, flows.svg, workers.jsonl, workers.svg.
#
#   bench/plot.sh <directory> [largest number of connections, default 1000000] [packets of a point, default 4000000]
set -euo pipefail
[[ $# -ge 1 ]] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
largest=${2:-1000000}
packets=${3:-4000000}
cd "$(dirname "$0")/.."
cargo build --quiet --release --locked -p bench --bin core-bench --bin bench-plot
bin=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)

: >"$out/flows.jsonl"
for work in established tcp new lives; do
    for flows in 1 10 100 1000 10000 64000 100000 1000000 10000000; do
        ((flows <= largest)) || continue
        "$bin/core-bench" --work $work --flows $flows --packets "$packets" --floor --json | tee -a "$out/flows.jsonl"
    done
done
"$bin/bench-plot" --kind flows <"$out/flows.jsonl" >"$out/flows.svg"

: >"$out/workers.jsonl"
most=$(nproc)
for ((workers = 1; workers <= most && workers <= 16; workers++)); do
    for steered in "" --steered; do
        "$bin/core-bench" --work established --flows 64000 --packets "$packets" --workers "$workers" $steered --json |
            tee -a "$out/workers.jsonl"
    done
done
"$bin/bench-plot" --kind workers <"$out/workers.jsonl" >"$out/workers.svg"

if grep -q '"contended":true' "$out"/*.jsonl; then
    echo "plot: some points were measured while others used the cores; measure again when it is quiet" >&2
fi
