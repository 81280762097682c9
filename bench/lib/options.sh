# What the measurements between namespaces have in common before they begin: sourced first, from their own folder, by
# a script that has set `me`. Nothing is touched before all of it is asked.

refuse() { echo "$me: $*" >&2; exit 2; }

# number <option> <value> <least> <most>
number() {
    [[ $2 =~ ^(0|[1-9][0-9]{0,7})$ ]] && [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] ||
        refuse "$1 $2: between $3 and $4"
}

gen_core=0 dut_core=1 json= bin=

# common <option> <value>: takes those that all have, or refuses.
common() {
    case $1 in
    --gen-core) number "$1" "$2" 0 1023; gen_core=$2 ;;
    --dut-core) number "$1" "$2" 0 1023; dut_core=$2 ;;
    --json) json=$(realpath -m -- "$2") ;;
    --bin) bin=$(realpath -- "$2") ;;
    *) refuse "$1: unknown; --help lists the options" ;;
    esac
}

# ready <programs of ours> -- <tools>: whether all is there that it takes. Two at a time would measure one another, and
# restore one another's limits.
ready() {
    local it
    [ "$gen_core" != "$dut_core" ] || refuse "--gen-core and --dut-core are one core: the figure would be of both"
    for it in "$gen_core" "$dut_core"; do
        taskset -c "$it" true 2>/dev/null || refuse "core $it: this process may use $(nproc) cores, not that one"
    done
    [ "$(id -u)" = 0 ] || refuse "needs root, for namespaces and AF_XDP"
    bin=${bin:-$(realpath -m -- "${CARGO_TARGET_DIR:-target}/release")}
    while [ "$1" != -- ]; do
        [ -x "$bin/$1" ] ||
            refuse "$bin/$1 is missing: cargo build --release --locked -p postern -p bench (or --bin DIR)"
        shift
    done
    shift
    for it in ethtool jq chrt taskset flock ip "$@"; do
        command -v "$it" >/dev/null || refuse "$it is missing: deploy/setup.sh installs it"
    done
    exec 9>/run/lock/postern-bench.lock
    flock -n 9 || refuse "another measurement is running"
    [ -z "$json" ] || { : >"$json"; } 2>/dev/null || refuse "--json $json: cannot be written"
}
