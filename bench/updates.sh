#!/usr/bin/env bash
# Updates under load: at a fixed rate through Postern, quiet runs and runs during which a port forward comes and goes and
# the policy is swapped ten times a second, and the connection table is listed. Nothing may be lost; printed is how much
# later the slowest packets came. Method: bench/README.md. Needs root, two cores, ethtool, jq.
set -euo pipefail

usage() {
    cat <<TEXT
bench/updates.sh [options]
  --flows N           connections in the table, all of them used: 1 to 2000000 (100000)
  --rate PPS          1000 to 5000000 (50000)
  --runs N            of each kind, by turns: 1 to 100 (3)
  --seconds S         of each: 1 to 60 (5)
  --gen-core N        of generator and ends (0)
  --dut-core N        of Postern's worker, and of what tells it the updates (1)
  --json FILE         JSON lines: every run
  --bin DIR           where postern and pktgen are (target/release)
TEXT
}

me=updates
. "$(dirname "$0")/lib/options.sh"

flows=100000 rate=50000 runs=3 seconds=5

while [ $# -gt 0 ]; do
    case $1 in --help | -h) usage; exit 0 ;; esac
    [ $# -ge 2 ] || refuse "$1: unknown, or without a value; --help lists the options"
    case $1 in
    --flows) number "$1" "$2" 1 2000000; flows=$2 ;;
    --rate) number "$1" "$2" 1000 5000000; rate=$2 ;;
    --runs) number "$1" "$2" 1 100; runs=$2 ;;
    --seconds) number "$1" "$2" 1 60; seconds=$2 ;;
    *) common "$1" "$2" ;;
    esac
    shift 2
done
cd "$(dirname "$0")/.."
ready postern pktgen -- python3
. bench/lib/dut.sh
updaters=()
cleanup() {
    [ "${#updaters[@]}" = 0 ] || stop_updates
    teardown
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

ask() { "$bin/postern" --control "$tmp/run/control.sock" "$@"; }

# every <microseconds> <command>: until it is killed. What takes longer than that is begun again at once.
every() {
    local period=$1 next
    shift
    while :; do
        next=$((${EPOCHREALTIME/./} + period))
        "$@"
        next=$((next - ${EPOCHREALTIME/./}))
        [ "$next" -le 0 ] || sleep "$(printf '%d.%06d' $((next / 1000000)) $((next % 1000000)))"
    done
}

# What was done is in $tmp/updates, a letter each.
list() {
    ask conntrack list >"$tmp/listing" && mv "$tmp/listing" "$tmp/listed" && printf l >>"$tmp/updates"
}

# On the cores that packets need least: on the generator's, it would be the generator that is late.
start_updates() {
    ask iptables-save >"$tmp/rules.0"
    sed 's/^COMMIT$/-A FORWARD -s 192.0.2.0\/24 -j DROP\nCOMMIT/' "$tmp/rules.0" >"$tmp/rules.1"
    : >"$tmp/updates"
    python3 bench/lib/updates.py "$tmp/run/control.sock" "$tmp/updates" "$tmp/rules.0" "$tmp/rules.1" 9>&- 2>"$tmp/updates.log" &
    updaters=($!)
    every 1000000 list 9>&- 2>>"$tmp/updates.log" &
    updaters+=($!)
    local updater
    for updater in "${updaters[@]}"; do
        taskset -pc "$dut_core" "$updater" >/dev/null
        renice -n -10 -p "$updater" >/dev/null
    done
    sleep 0.2
}

stop_updates() {
    local updater
    for updater in "${updaters[@]}"; do end "$updater"; done
    updaters=()
}

# measure <more options of pktgen...>: its report in $tmp/report.
measure() {
    local status=0 accounts
    accounts=$({ napi_threads "$d0"; napi_threads "$d1"; echo "$system_pid"; } | paste -sd,)
    ends=$({ napi_threads "$g0"; napi_threads "$g1"; } | paste -sd,)
    timeout -k 5 $((120 + 2 * seconds + flows / 20000)) ip netns exec "$gen" chrt -f 1 "$bin/pktgen" run \
        --tx "$g0" --rx "$g1" --tx-mac-dst "$d0_mac" --src 10.0.0.0/12 --dst 198.18.0.0/15 --flows "$flows" --rate "$rate" \
        --open-rate "$rate" --core "$gen_core" --account "$accounts,$ends" --json "$@" \
        >"$tmp/report" 2>"$tmp/pktgen.log" </dev/null 9>&- &
    pktgen_pid=$!
    wait "$pktgen_pid" || status=$?
    pktgen_pid=
    [ "$status" = 0 ] || { echo "updates: pktgen: $(tail -n 1 "$tmp/pktgen.log")" >&2; exit 1; }
}

capacity=$((flows * 3 / 2 + 100000))
cables
# A generator that others hold up is what the slowest packets would tell of: it is ahead of them here, and what arrives
# for it ahead of it.
PRIORITY=2 place "$gen_core" "$g0" "$g1"
start_postern
settle
# Control keeps off the worker's core, where there is another. Here the other is the generator's, which leaves nothing.
for task in /proc/"$system_pid"/task/*; do
    grep -q "^Cpus_allowed_list:.$dut_core\$" "$task/status" || taskset -pc "$dut_core" "${task##*/}" >/dev/null
done
: >"$tmp/all"
measure --warmup 0 --seconds 0.5
jq -e --argjson flows "$flows" '.flows_opened >= $flows * 0.999' "$tmp/report" >/dev/null ||
    { echo "updates: only $(jq .flows_opened "$tmp/report") of $flows flows opened" >&2; exit 1; }
for round in $(seq "$runs"); do
    for kind in quiet updates; do
        : >"$tmp/updates"
        : >"$tmp/listed"
        [ "$kind" = quiet ] || start_updates
        measure --no-open --warmup 0.2 --seconds "$seconds"
        [ "$kind" = quiet ] || stop_updates
        done_of() { tr -cd "$1" <"$tmp/updates" | wc -c; }
        jq -c --arg kind "$kind" --argjson round "$round" --argjson added "$(done_of a)" --argjson swapped "$(done_of s)" \
            --argjson removed "$(done_of r)" --argjson listed "$(done_of l)" --argjson dut_core "$dut_core" \
            --argjson gen_core "$gen_core" --argjson ends "[$ends]" --argjson lines "$(cat "$tmp/listed" 2>/dev/null | wc -l)" '
            def share(f): [.accounts.processes[] | select(.pid | f) | .cpu_ns] | add / 1e9;
            {line: "updates", $kind, $round, sent, received, lost, lost_by_sink, not_sent, corrupted, latency_ns, cpu_share, $added,
             $swapped, $removed, $listed, lines_listed: $lines,
             contended: (1 - .accounts.busy[$gen_core] + .cpu_share + share(IN($ends[])) / .seconds < 0.85 or
                 1 - .accounts.busy[$dut_core] + share(IN($ends[]) | not) / .seconds < 0.85)}' \
            "$tmp/report" >>"$tmp/all"
        tail -n 1 "$tmp/all" | jq -r '"\(.kind) \(.round): \(.sent) sent, \(.lost) lost (\(.lost_by_sink) by the sink), p50 \(.latency_ns.p50) p99.9 \(.latency_ns.p999) ns, \(.added) forwards added, \(.removed) removed, \(.swapped) policies, \(.listed) lists of \(.lines_listed) lines\(if .contended then ", CONTENDED" else "" end)"'
        if [ "$kind" = updates ] && [ "$(done_of s)" -lt "$seconds" ]; then
            echo "updates: fewer than one a second could be made: $(tail -n 3 "$tmp/updates.log")" >&2
            exit 1
        elif [ "$kind" = updates ] && [ "$(done_of s)" -lt $((8 * seconds)) ]; then
            echo "updates: only $(done_of s) policies in $seconds s: this machine is too busy for a figure" >&2
        fi
    done
done
[ -z "$json" ] || cp "$tmp/all" "$json"
jq -rs '
    def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor]
        else (.[length / 2] + .[length / 2 - 1]) / 2 end;
    # Contended runs count only where there are no others.
    def of(kind): [.[] | select(.kind == kind)] | (map(select(.contended | not)) | select(length > 0)) // .;
    (of("updates") | map(.latency_ns.p999) | median) as $updates | (of("quiet") | map(.latency_ns.p999) | median) as $quiet
    | "p99.9 under updates over quiet: \($updates / $quiet * 100 | round / 100)   (\($updates) over \($quiet) ns, medians of \(of("updates") | length) and \(of("quiet") | length) runs, \(map(select(.contended)) | length) contended)",
      "lost: \(map(select(.kind == "updates") | .lost - .lost_by_sink) | add) under updates, \(map(select(.kind == "quiet") | .lost - .lost_by_sink) | add) quiet, of \(map(.sent) | add) sent"' \
    "$tmp/all"
# A packet lost in quiet runs, too, is not the updates' fault, but no figure either.
if jq -se 'any(.[]; .lost > .lost_by_sink)' "$tmp/all" >/dev/null; then
    echo "updates: packets were lost" >&2
    exit 1
fi
