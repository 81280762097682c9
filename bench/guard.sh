#!/usr/bin/env bash
# Fails when a packet takes more instructions than is committed in bench/instructions.toml, give or take its tolerance.
# The packets, flows and keys are fixed, so two runs of one build count the same. Needs valgrind.
#
#   bench/guard.sh            compare
#   bench/guard.sh --renew    write down what is counted now
set -euo pipefail
cd "$(dirname "$0")/.."
committed=bench/instructions.toml
compiler=$(rustc --version | cut -d' ' -f2)

# value <key>: of a top-level key or of [instructions_per_packet].
value() { sed -n "s/^$1 *= *\"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" "$committed"; }

tolerance=$(value tolerance_percent)
flows=$(value flows)
counted=$(bench/instructions.sh "$flows")

if [[ ${1:-} == --renew ]]; then
    {
        sed -n '/^#/p' "$committed"
        printf 'rustc = "%s"\nflows = %s\ntolerance_percent = %s\n\n[instructions_per_packet]\n' \
            "$compiler" "$flows" "$tolerance"
        awk '{ printf "%s = %s\n", $1, $2 }' <<<"$counted"
    } >"$committed.new"
    mv "$committed.new" "$committed"
    echo "guard: wrote $committed"
    exit
fi

failed=0
# What is no longer counted would never be too much.
while read -r path _; do
    if ! grep -q "^$path " <<<"$counted"; then
        echo "guard: $path is committed, and no longer counted"
        failed=1
    fi
done < <(sed -n '/^\[instructions_per_packet\]/,$ s/^\([a-z0-9_]*\) = .*/\1/p' "$committed")
printf '%-20s %9s %9s %8s\n' path committed counted change
while read -r path now; do
    then=$(value "$path")
    if [[ -z $then ]]; then
        printf '%-20s %9s %9s   not committed\n' "$path" - "$now"
        failed=1
        continue
    fi
    change=$(awk -v a="$then" -v b="$now" 'BEGIN { printf "%+.1f", (b - a) * 100 / a }')
    verdict=
    if awk -v c="$change" 'BEGIN { exit !(c < -30) }'; then
        echo "guard: $path: $now instructions instead of $then: is it still the packet path that is counted?" >&2
        failed=1
    fi
    if awk -v c="$change" -v t="$tolerance" 'BEGIN { exit !(c > t) }'; then
        verdict="  more than $tolerance % above"
        failed=1
    elif awk -v c="$change" -v t="$tolerance" 'BEGIN { exit !(c < -t) }'; then
        verdict="  better: renew, so that it stays so"
    fi
    printf '%-20s %9s %9s %7s%%%s\n' "$path" "$then" "$now" "$change" "$verdict"
done <<<"$counted"

if [[ $(value rustc) != "$compiler" ]]; then
    echo "guard: counted with rustc $compiler, committed with $(value rustc): some change may be the compiler's" >&2
fi
if ((failed)); then
    echo "guard: if the change is worth its price, renew with 'bench/guard.sh --renew' and commit $committed with it" >&2
    exit 1
fi
