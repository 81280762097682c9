#!/usr/bin/env bash
# Everything that CI runs, from a clean clone, as root: format, lints, unit, property, requirement and namespace
# tests, then real programs end to end, and the table requirement -> test. About 15 minutes on two idle cores.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "tests: need root, for namespaces and AF_XDP" >&2; exit 1; }

export CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never
# Nothing asks, nothing pages, nothing translates its messages.
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 RUST_BACKTRACE=1
# Everything is built once here: what speeds up the next build only takes disk.
export CARGO_INCREMENTAL=0
# Debug, release and their tests; a full disk would end in the middle of a build, in words of the compiler's.
readonly DISK_NEED_MB=6000
free_mb=$(df --output=avail -m . | tail -1)
if [ "$free_mb" -lt "$DISK_NEED_MB" ] && [ ! -d "${CARGO_TARGET_DIR:-target}" ]; then
    echo "tests: need $DISK_NEED_MB MB of disk for the build, there are $free_mb" >&2
    exit 1
fi

step() {
    local started=$SECONDS status=0
    printf '\n== %s\n' "$*"
    # Said outright: where `||` follows a step, errexit does not hold within it.
    "$@" || status=$?
    printf '== %s s (of %s s)\n' "$((SECONDS - started))" "$SECONDS"
    return "$status"
}

step ./deploy/setup.sh
step cargo fmt --all --check
step rustfmt --check --edition 2024 tests/fuzz/main.rs
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo test --workspace --locked
# The same packets through Linux and through Postern.
step cargo run --release --quiet --locked -p postern-tests --bin differential
# End to end with debug assertions and overflow checks (one worker), and as it is installed (two).
step cargo build --locked -p postern
step cargo build --release --locked -p postern -p bench --bins
export POSTERN=${CARGO_TARGET_DIR:-target}/debug/postern
step ./deploy/systemd/verify.sh
# Instructions per packet, against what is committed; then the traffic generator, on veth.
step bench/guard.sh
step bench/tests/pktgen.sh
step bench/tests/compare.sh
# One worker in full, two in the smaller set; both are run, whatever the first says.
outcome=0
step tests/e2e/run.sh --workers 1 || outcome=1
POSTERN=${POSTERN/debug/release}
step tests/e2e/run.sh --workers 2 || outcome=1
step cargo run --quiet --locked -p postern-tests --bin requirements

printf '\ntests: %s s in all\n' "$SECONDS"
if [ "$outcome" != 0 ]; then
    echo "tests: FAILED end to end, see above" >&2
    exit 1
fi
echo "tests: everything passed"
