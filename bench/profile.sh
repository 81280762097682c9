#!/usr/bin/env bash
# Where the time goes between namespaces: how many nanoseconds of the core under test a delivered packet takes, by who
# spends it and in which function. Under a flood of 64-byte UDP. Needs root, two cores, perf (Debian: linux-perf).
set -euo pipefail

usage() {
    cat <<TEXT
bench/profile.sh [options]
  --system NAME       bare or postern (postern)
  --flows N           connections: 1 to 2000000 (1000)
  --seconds S         of the measurement: 1 to 60 (4)
  --functions N       how many functions are listed: 0 to 200 (12)
  --gen-core N        of generator and ends (0)
  --dut-core N        of the system measured (1)
  --bin DIR           where postern, pktgen and bare-forward are (target/release)
TEXT
}

me=profile
. "$(dirname "$0")/lib/options.sh"

system=postern flows=1000 seconds=4 functions=12
while [ $# -gt 0 ]; do
    case $1 in --help | -h) usage; exit 0 ;; esac
    [ $# -ge 2 ] || refuse "$1: unknown, or without a value; --help lists the options"
    case $1 in
    --system)
        [ "$2" = bare ] || [ "$2" = postern ] || refuse "--system $2: bare or postern"
        system=$2
        ;;
    --flows) number "$1" "$2" 1 2000000; flows=$2 ;;
    --seconds) number "$1" "$2" 1 60; seconds=$2 ;;
    --functions) number "$1" "$2" 0 200; functions=$2 ;;
    --json) refuse "--json: there is none" ;;
    *) common "$1" "$2" ;;
    esac
    shift 2
done
cd "$(dirname "$0")/.."
ready postern pktgen bare-forward -- perf

. bench/lib/dut.sh
trap 'teardown; rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# generate <more options of pktgen...>: its report in $tmp/report.
generate() {
    in_gen timeout -k 5 $((120 + flows / 20000)) "$bin/pktgen" run --tx "$g0" --rx "$g1" --tx-mac-dst "$d0_mac" \
        --src 10.0.0.0/12 --dst 198.18.0.0/15 --flows "$flows" --core "$gen_core" --json "$@" >"$tmp/report" 2>"$tmp/pktgen.log" ||
        { echo "profile: pktgen: $(tail -n 1 "$tmp/pktgen.log")" >&2; return 1; }
}

capacity=$((flows * 3 / 2 + 100000))
cables
"start_$system"
settle
generate --open-rate 150000 --rate 100000 --warmup 0 --seconds 0.5
# What is sampled begins after the generator has, and ends before it.
generate --no-open --rate max --warmup 0.5 --seconds $((seconds + 2)) &
pktgen_pid=$!
sleep 1.5
perf record -q -e cpu-clock -F 4000 -C "$dut_core" -o "$tmp/samples" -- sleep "$seconds" 9>&- >/dev/null 2>&1
wait "$pktgen_pid"
pktgen_pid=
perf script -i "$tmp/samples" -F comm,ip,sym,dso 2>/dev/null >"$tmp/lines"
delivered=$(jq '(.received + .lost_by_sink) / .seconds' "$tmp/report")
awk -v pps="$delivered" -v seconds="$seconds" -v functions="$functions" -v name="$system" '
    {
        kernel = $NF ~ /^\(\[/
        if ($1 ~ /^napi\//) who = "kernel, receiving (NAPI)"
        else if ($1 == "swapper") who = "idle"
        else if ($1 !~ /^(bare-forward|postern)/) who = "others"
        else who = kernel ? "kernel, asked by the system (sendto, poll)" : "the system itself"
        time[who]++
        symbol[who ": " $3]++
    }
    END {
        ns = 1e9 / 4000 / (pps * seconds)
        printf "%s: %.3f Mpps delivered; ns of the core a packet:\n", name, pps / 1e6
        for (who in time) { printf "%8.0f  %s\n", time[who] * ns, who | "sort -rn"; sum += time[who] }
        close("sort -rn")
        printf "%8.0f  all\n", sum * ns
        if (functions > 0) {
            print "functions:"
            for (what in symbol) printf "%8.0f  %s\n", symbol[what] * ns, what | "sort -rn | head -n " functions
        }
    }' "$tmp/lines"
