#!/usr/bin/env bash
# The comparison with parameters so small that it ends soon: each system delivers, the lines can be read, everything is
# cleaned up, nonsense is refused. Nothing here depends on how fast or how quiet the machine is. Needs root, nft, jq.
#
#   bench/tests/compare.sh [folder of the release binaries]
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${1:-${CARGO_TARGET_DIR:-target}/release}
[ -x "$bin/compare-table" ] ||
    { echo "compare.sh: build it first: cargo build --release -p postern -p bench" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "compare.sh: needs root" >&2; exit 1; }
[ "$(nproc)" -ge 2 ] || { echo "compare.sh: needs two cores" >&2; exit 1; }
command -v nft >/dev/null || { echo "compare.sh: needs nft (deploy/setup.sh)" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/compare-test.XXXXXX")
victim=
cleanup() {
    [ -z "$victim" ] || kill "$victim" 2>/dev/null || true
    rm -rf "$tmp"
}
trap cleanup EXIT

fail() { echo "FAIL: $*" >&2; exit 1; }
pass() { echo "ok: $*"; }

limits() { cat /sys/module/nf_conntrack/parameters/hashsize /proc/sys/net/netfilter/nf_conntrack_max 2>/dev/null || true; }

# clean <process id of a comparison>: nothing that bears its name is left.
clean() {
    local left
    left=$({ ip netns list; grep -hs "^napi/cmp$1[gd]" /proc/[0-9]*/comm; mount; ls "$tmp"; } |
        grep -E "cmp${1:-none}|postern-compare\." || true)
    [ -z "$left" ] || fail "left behind: $left"
    [ "$(limits)" = "$limits_before" ] || fail "limits are $(limits), not $limits_before"
}

# refused <words> <options...>: ends with status 2 and says the words.
refused() {
    local words=$1 status=0
    shift
    bench/compare.sh --bin "$bin" "$@" >"$tmp/out" 2>&1 || status=$?
    [ "$status" = 2 ] || fail "status $status, not 2, of $*: $(cat "$tmp/out")"
    grep -q -- "$words" "$tmp/out" || fail "\`$words\` is not in: $(cat "$tmp/out")"
    pass "refused: $*"
}

refused "between 1 and 100" --runs 0
refused "between 1 and 60" --seconds 61
refused "between 1 and 60" --seconds one
refused "between 1 and 60" --seconds 08
refused "cannot be written" --json /nowhere/at/all
refused "between 1000 and 5000000" --rate 999
refused "between 0 and 20" --retries 21
refused "udp-1k, udp-64k" --cases udp-2000001
refused "udp-1k, udp-64k" --cases nonsense
refused "nftables, bare, postern" --systems nonsense
refused "one core" --gen-core 0 --dut-core 0
refused "not that one" --dut-core 1023
refused "without a value" --runs
refused "unknown" --unknown 1

export TMPDIR=$tmp
limits_before=$(limits)
bench/compare.sh --bin "$bin" --runs 1 --seconds 1 --retries 0 --rate 2000 --cases udp-100,new,tcp --json "$tmp/json" \
    >"$tmp/table" 2>"$tmp/err" 9>&- &
victim=$!
wait "$victim" || fail "status $?: $(cat "$tmp/err")"
comparison=$victim victim=
cat "$tmp/table"
clean "$comparison"
pass "a comparison ends, and leaves nothing"
jq -se 'length > 0' "$tmp/json" >/dev/null || fail "not JSON lines: $(cat "$tmp/json")"
for system in nftables bare postern; do
    for case in udp-100 new tcp; do
        for kind in flood paced; do
            jq -se --arg system "$system" --arg case "$case" --arg kind "$kind" '
                [.[] | select(.line == "run" and .system == $system and .case == $case and .kind == $kind)]
                | length == 1 and all(.[]; .error == null and .received > 0 and .corrupted == 0 and .dut_ns_per_packet > 0)
                ' "$tmp/json" >/dev/null || fail "$system, $case, $kind: $(grep "\"$system\"" "$tmp/json")"
        done
        jq -se --arg system "$system" --arg case "$case" \
            'any(.[]; .line == "row" and .system == $system and .case == $case)' "$tmp/json" >/dev/null ||
            fail "no row of $system, $case"
    done
    pass "$system delivers, of every case, at both rates"
done
for system in testpmd vpp; do
    # How somebody else's program does is not for us to test.
    grep -Eq "$system +(not (installed|tried)|without its driver)" "$tmp/table" ||
        jq -se --arg system "$system" '[.[] | select(.line == "row" and .system == $system)] | length == 3' "$tmp/json" >/dev/null ||
        fail "$system is neither measured nor said not to be"
done
pass "what is not measured is said"

bench/compare.sh --bin "$bin" --runs 1 --seconds 30 --systems bare,postern --cases udp-100 >"$tmp/table" 2>"$tmp/err" 9>&- &
victim=$!
for _ in $(seq 200); do
    ip netns list | grep -q "^cmp$victim-dut" && break
    sleep 0.1
done
sleep 3
refused "another measurement" --runs 1
kill "$victim"
status=0
wait "$victim" || status=$?
comparison=$victim victim=
[ "$status" = 143 ] || fail "status $status after SIGTERM"
clean "$comparison"
pass "a comparison that is ended under way leaves nothing"

updates() { bench/updates.sh --bin "$bin" "$@" 9>&- >"$tmp/out" 2>&1; }
for absurd in "--flows 0" "--rate 999" "--runs 101" "--seconds 0" "--gen-core 1"; do
    status=0
    # shellcheck disable=SC2086
    updates $absurd || status=$?
    [ "$status" = 2 ] || fail "status $status, not 2, of updates.sh $absurd: $(cat "$tmp/out")"
done
pass "refused: nonsense of updates.sh"
bench/updates.sh --bin "$bin" --flows 100 --rate 2000 --runs 1 --seconds 2 --json "$tmp/json" >"$tmp/out" 2>&1 9>&- &
victim=$!
wait "$victim" || fail "updates.sh: status $?: $(cat "$tmp/out")"
victim=
jq -se 'length == 2 and all(.[]; .received > 0 and .lost == 0 and .corrupted == 0)
    and .[1].swapped > 0 and .[1].added > 0 and .[1].lines_listed >= 100' "$tmp/json" >/dev/null ||
    fail "updates.sh: $(cat "$tmp/json")"
clean ""
pass "nothing is lost while forwards come and go and policies change"
echo "compare.sh: all passed"
