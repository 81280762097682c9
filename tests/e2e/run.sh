#!/usr/bin/env bash
# End-to-end cases: real programs talk through the appliance, between network namespaces of its own. Needs root.
#
#   tests/e2e/run.sh [--workers N] [--later] [filter]
#
# A theme is a file here: its cases share one laboratory and run in the order of the file. `case_...` functions run
# with any number of workers, `once_...` functions with one only; `later_...` functions show what is known to fail: they
# are named at the end, and run with --later. Every laboratory ends with books that balance, a
# live appliance, and a log without a panic. A filter is part of "theme: name". POSTERN names the program.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
cd "$HERE/../.."

WORKERS=1 FILTER= LATER=false
while [ $# -gt 0 ]; do
    case $1 in
        --workers) WORKERS=${2:?how many}; shift 2 ;;
        --later) LATER=true; shift ;;
        --help | -h) sed -n '2,9s/^# \{0,1\}//p' "$HERE/run.sh"; exit 0 ;;
        -*) echo "run.sh: unknown option $1" >&2; exit 2 ;;
        *) FILTER=$1; shift ;;
    esac
done
export WORKERS
export POSTERN=${POSTERN:-${CARGO_TARGET_DIR:-target}/debug/postern}
# Longest a case may take, seconds.
CASE_LIMIT=${CASE_LIMIT:-120}
TOOLS="python3 $HERE/tools.py"

[ "$(id -u)" = 0 ] || { echo "run.sh: needs root, for namespaces and AF_XDP" >&2; exit 1; }
for tool in "$POSTERN" ip ethtool ping traceroute curl nginx dnsmasq dig iperf3 dhclient nc jq tcpdump python3 \
    sysctl setsid sha256sum turnserver turnutils_natdiscovery sipp; do
    command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing (deploy/setup.sh installs)" >&2; exit 1; }
done

RESULTS=$(mktemp -d "${TMPDIR:-/tmp}/postern-e2e.XXXXXX")
THEME=
finish() {
    # A theme cleans up after itself when it is told to stop.
    if [ -n "$THEME" ]; then
        kill -TERM "$THEME" 2>/dev/null || true
        wait "$THEME" 2>/dev/null || true
    fi
    rm -rf "$RESULTS"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# The cases of a theme in the order of its file.
cases_of() {
    local kinds='case'
    [ "$WORKERS" != 1 ] || kinds='case|once'
    [ "$LATER" != true ] || kinds='later'
    sed -nE "s/^(($kinds)_[A-Za-z0-9_]+)\(\) .*/\1/p" "$1"
}

title_of() {
    local words=${1#*_}
    echo "$2: ${words//_/ }"
}

wanted() {
    [ -z "$FILTER" ] || [[ $1 == *"$FILTER"* ]]
}

# report <ok|FAILED> <title> <seconds> [log]
report() {
    printf '%-6s %s (W=%s, %ss)\n' "$1" "$2" "$WORKERS" "$3"
    echo "$1 $2" >>"$RESULTS/all"
    if [ "$1" = FAILED ]; then
        sed 's/^/       | /' "$4" | tail -n 30
        if [ -s "$LAB_DIR/postern.log" ]; then
            echo "       the appliance's log:"
            sed 's/^/       | /' "$LAB_DIR/postern.log" | tail -n 15
        fi
    fi
}

# Runs a function in a process group of its own, for CASE_LIMIT seconds at most; what it leaves running ends with it.
# The outcome is in CODE: called as a condition, bash would ignore `set -e` in all that it runs.
bounded() {
    CODE=0
    local function=$1 log=$2 group until
    set -m
    (
        set +m
        trap - EXIT INT TERM HUP
        set -eEuo pipefail
        trap 'echo "line $LINENO, in ${FUNCNAME[0]:-}: $BASH_COMMAND" >&2' ERR
        "$function"
    ) >"$log" 2>&1 </dev/null &
    group=$!
    set +m
    until=$((SECONDS + CASE_LIMIT))
    while alive "$group" && [ "$SECONDS" -lt "$until" ]; do
        sleep 0.05
    done
    if alive "$group"; then
        echo "not finished after $CASE_LIMIT s" >>"$log"
        kill -KILL -- "-$group" 2>/dev/null || true
        wait "$group" 2>/dev/null || true
        CODE=1
        return
    fi
    wait "$group" 2>/dev/null || CODE=$?
    kill -TERM -- "-$group" 2>/dev/null || true
}

# What must be true of every laboratory at its end.
lab_ends_well() {
    wait_for 10 "the books to balance" books_balance
    alive "$(cat "$LAB_DIR/appliance")" || fail "the appliance is dead"
    equals "$(postern --json status | jq '.workers | length')" "$WORKERS" "workers"
    end "$(cat "$LAB_DIR/appliance")"
    grep -q 'stopped; the devices are closed' "$LAB_DIR/postern.log" || fail "no orderly end in the log"
    if grep -nE 'panick|ERROR|Died' "$LAB_DIR/postern.log"; then
        fail "the appliance's log has errors"
    fi
}

run_theme() {
    local file=$1 theme cases=() name started up=false log
    theme=$(basename "$file" .sh)
    mapfile -t cases < <(cases_of "$file")
    # shellcheck source=/dev/null
    . "$file"
    trap 'lab_down' EXIT
    trap 'exit 130' INT TERM HUP
    for name in "${cases[@]}"; do
        wanted "$(title_of "$name" "$theme")" || continue
        log=$RESULTS/log
        started=$SECONDS
        if [ "$up" = false ]; then
            [ "$FRESH" = true ] || fresh_lab
            FRESH=false
            # In this shell, so that the laboratory outlives it.
            bounded theme_up "$log"
            if [ "$CODE" != 0 ]; then
                report FAILED "$(title_of "$name" "$theme") (its laboratory)" "$((SECONDS - started))" "$log"
                lab_down
                continue
            fi
            up=true
        fi
        bounded "$name" "$log"
        if [ "$CODE" = 0 ]; then
            report ok "$(title_of "$name" "$theme")" "$((SECONDS - started))"
        else
            report FAILED "$(title_of "$name" "$theme")" "$((SECONDS - started))" "$log"
            # The next case gets a laboratory that this one has not touched.
            lab_down
            up=false
        fi
    done
    [ "$up" = true ] || return 0
    started=$SECONDS
    bounded lab_ends_well "$RESULTS/log"
    if [ "$CODE" = 0 ]; then
        report ok "$theme: the books balance and nothing panicked" "$((SECONDS - started))"
    else
        report FAILED "$theme: the books balance and nothing panicked" "$((SECONDS - started))" "$RESULTS/log"
    fi
}

fresh_lab() {
    LAB=pst$BASHPID-$((LABS += 1)) FRESH=true
    # shellcheck source=deploy/lib/lab.sh
    . deploy/lib/lab.sh
}

touch "$RESULTS/all"
for file in "$HERE"/*.sh; do
    case $(basename "$file") in run.sh | lib.sh) continue ;; esac
    wants=false
    while read -r name; do
        ! wanted "$(title_of "$name" "$(basename "$file" .sh)")" || wants=true
    done < <(cases_of "$file")
    [ "$wants" = true ] || continue
    (
        LABS=0
        fresh_lab
        . "$HERE/lib.sh"
        run_theme "$file"
    ) &
    THEME=$!
    wait "$THEME" || echo "FAILED $(basename "$file" .sh): the theme ended early" | tee -a "$RESULTS/all"
    THEME=
done

if [ "$LATER" = false ]; then
    grep -hoE '^later_[A-Za-z0-9_]+' "$HERE"/*.sh | sed 's/^later_/not yet: /; s/_/ /g' || true
fi
passed=$(grep -c '^ok' "$RESULTS/all" || true)
failed=$(grep -c '^FAILED' "$RESULTS/all" || true)
echo "end to end, $WORKERS workers, $SECONDS s"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
