# A generator and a device under test in two namespaces, each with a core of its own: sourced, not run.
#
#     core 0: [ gen: pktgen  g0 ]──veth──[ d0  dut: the system  d1 ]──veth──[ g1  gen: pktgen ]   core 1: dut
#
# The caller sets gen_core, dut_core, capacity (connections), bin (where the release binaries are) and, if it wants that of
# Postern, busy_poll (true), and ends with `teardown` and the removal of $tmp on every exit. File descriptor 9 may be a lock of
# the caller's: nobody here keeps it.

# Names are unique per run. Those of the devices are how NAPI's threads are found, so they are at most 15 long.
id=cmp$$
gen=$id-gen dut=$id-dut g0=${id}g0 g1=${id}g1 d0=${id}d0 d1=${id}d1
g0_mac=02:00:00:00:00:01 d0_mac=02:00:00:00:00:02 g1_mac=02:00:00:00:01:01 d1_mac=02:00:00:00:01:02
tmp=$(mktemp -d "${TMPDIR:-/tmp}/postern-compare.XXXXXX")
# The process that is the system (none of nftables, which is the kernel), and the generator.
system_pid= pktgen_pid=

# Ends one process of ours by its id: ten seconds, then it is killed.
end() {
    kill "$1" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$1" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

teardown() {
    [ -z "$pktgen_pid" ] || end "$pktgen_pid"
    [ -z "$system_pid" ] || end "$system_pid"
    system_pid= pktgen_pid=
    ip netns del "$gen" 2>/dev/null || true
    ip netns del "$dut" 2>/dev/null || true
    umount "$tmp/run/bpf" 2>/dev/null || true
    rm -rf "$tmp/run"
}

in_gen() { ip netns exec "$gen" "$@" 9>&-; }
in_dut() { ip netns exec "$dut" "$@" 9>&-; }

# The ids of NAPI's threads of a device.
napi_threads() {
    local comm
    # Threads that end meanwhile are none of ours.
    for comm in $(grep -ls "^napi/$1-" /proc/[0-9]*/comm || true); do
        comm=${comm#/proc/}
        echo "${comm%/comm}"
    done
}

# place <core> <device...>: what a device receives is taken in by a thread of the kernel on that core, before
# whatever else runs there, as it would be in an interrupt. PRIORITY: of that thread.
place() {
    local core=$1 device thread
    shift
    for device in "$@"; do
        for thread in $(napi_threads "$device"); do
            taskset -pc "$core" "$thread" >/dev/null
            chrt -f -p "${PRIORITY:-1}" "$thread"
        done
    done
}

# The system is up: what it does on its core gets the same priority as what the kernel does there for it. The two then
# take turns, each as long as it has something to do. With less, a flood would be received, and dropped for want of time
# to forward it.
settle() {
    local task
    place "$dut_core" "$d0" "$d1"
    for task in ${system_pid:+/proc/"$system_pid"/task/*}; do
        grep -q "^Cpus_allowed_list:.$dut_core\$" "$task/status" && chrt -f -p 1 "${task##*/}" || true
    done
}

# Two cables, one queue each. GRO is what makes the kernel receive by NAPI on veth without an XDP program, too, so
# that a thread can do it, and on the core it belongs to. Each device is polled every COALESCE_NS while traffic comes, as a
# card would hold its interrupt back, instead of waking a core for each packet.
COALESCE_NS=50000
cables() {
    local pair host device
    ip netns add "$gen"
    ip netns add "$dut"
    for pair in "$g0 $d0 $g0_mac $d0_mac" "$g1 $d1 $g1_mac $d1_mac"; do
        # shellcheck disable=SC2086
        set -- $pair
        ip link add "$1" netns "$gen" address "$3" numrxqueues 1 numtxqueues 1 type veth \
            peer name "$2" netns "$dut" address "$4" numrxqueues 1 numtxqueues 1
        for host in "$gen $1" "$dut $2"; do
            # shellcheck disable=SC2086
            set -- $host
            device=$2
            ip netns exec "$1" sh -ec "
                ethtool -K $device tx off tso off gso off gro on >/dev/null 2>&1
                sysctl -qw net.ipv6.conf.$device.disable_ipv6=1
                echo $COALESCE_NS >/sys/class/net/$device/gro_flush_timeout
                echo 100 >/sys/class/net/$device/napi_defer_hard_irqs
                ip link set $device up
                echo 1 >/sys/class/net/$device/threaded" 9>&-
        done
    done
    place "$gen_core" "$g0" "$g1"
    place "$dut_core" "$d0" "$d1"
}

start_bare() {
    # `ip netns exec` becomes the command, so its id is the command's own; by way of a function it would not be.
    ip netns exec "$dut" "$bin/bare-forward" --near "$d0" "$g0_mac" --far "$d1" "$g1_mac" --core "$dut_core" --sleep-after 1 \
        >"$tmp/system.log" 2>&1 </dev/null 9>&- &
    system_pid=$!
    wait_for grep -q ready "$tmp/system.log"
}

start_postern() {
    mkdir -p "$tmp/run/bpf"
    mount -t bpf bpf "$tmp/run/bpf"
    cat >"$tmp/postern.toml" <<TOML
workers = [$dut_core]
idle = "1us"
control = "$tmp/run/control.sock"
run_dir = "$tmp/run"

[interface.lan]
device = "$d0"
busy_poll = ${busy_poll:-false}
zone = "lan"
address = ["192.168.1.1/24"]

[interface.wan]
device = "$d1"
busy_poll = ${busy_poll:-false}
zone = "wan"
masquerade = true
address = ["203.0.113.2/24"]

[conntrack]
capacity = $capacity
TOML
    ip netns exec "$dut" "$bin/postern" run --config "$tmp/postern.toml" >"$tmp/system.log" 2>&1 </dev/null 9>&- &
    system_pid=$!
    wait_for "$bin/postern" --control "$tmp/run/control.sock" status
    neighbours lan wan
}

# neighbours <near> <far>: the ways to the generator's addresses.
neighbours() {
    in_dut ip neigh replace 192.168.1.2 lladdr "$g0_mac" dev "$1" nud permanent
    in_dut ip neigh replace 203.0.113.1 lladdr "$g1_mac" dev "$2" nud permanent
    in_dut ip route add 10.0.0.0/8 via 192.168.1.2
    in_dut ip route add 198.18.0.0/15 via 203.0.113.1
}

wait_for() {
    local until=$((SECONDS + 30))
    while ! "$@" >/dev/null 2>&1 9>&-; do
        kill -0 "$system_pid" 2>/dev/null && [ "$SECONDS" -lt "$until" ] || {
            echo "the system did not start: $(tail -n 5 "$tmp/system.log")" >&2
            return 1
        }
        sleep 0.1
    done
}
