#!/usr/bin/env bash
# Firewalls side by side: Linux nftables, bare AF_XDP forwarding and Postern, in turn, with the same traffic on the
# same cores. Method, fairness and what the figures mean: bench/README.md. Needs root, two cores, nft, ethtool, jq.
#
#     core 0: [ gen: pktgen  g0 ]──veth──[ d0  dut: the system  d1 ]──veth──[ g1  gen: pktgen ]   core 1: dut
#
# Everything happens between two namespaces of its own. Two things outside may be raised, for as long as it runs: the
# kernel's limit of connections and the buckets of its table, which namespaces share (--keep-limits leaves them).
set -euo pipefail

usage() {
    cat <<TEXT
bench/compare.sh [options]
  --systems LIST      of nftables,bare,postern,testpmd,vpp (all)
  --cases LIST        of udp-1k,udp-64k,udp-1m,udp-N,new,tcp (udp-1k,udp-64k,udp-1m,new,tcp); N: 1 to 2000000
  --runs N            runs of each, the systems by turns: 1 to 100 (5)
  --seconds S         of each measurement: 1 to 60 (3)
  --rate PPS          where processor time is taken: 1000 to 5000000 (300000; of \`new\` half of it)
  --retries N         times a contended run is repeated: 0 to 20 (3)
  --gen-core N        of generator and ends (0)
  --dut-core N        of the system measured (1)
  --keep-contended    put contended runs into the table as well, where the machine is never quiet; it says so
  --busy-poll         Postern with \`busy_poll = true\`
  --keep-limits       leave the kernel's connection table as it is
  --json FILE         JSON lines: every run, and the rows of the table
  --bin DIR           where postern, pktgen, bare-forward and compare-table are (target/release)
TEXT
}

me=compare
. "$(dirname "$0")/lib/options.sh"

systems=nftables,bare,postern,testpmd,vpp
cases=udp-1k,udp-64k,udp-1m,new,tcp
runs=5 seconds=3 rate=300000 retries=3 keep_limits= keep_contended= busy_poll=false

while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --keep-limits) keep_limits=1; shift; continue ;;
    --keep-contended) keep_contended=1; shift; continue ;;
    --busy-poll) busy_poll=true; shift; continue ;;
    esac
    [ $# -ge 2 ] || refuse "$1: unknown, or without a value; --help lists the options"
    case $1 in
    --systems) systems=$2 ;;
    --cases) cases=$2 ;;
    --runs) number "$1" "$2" 1 100; runs=$2 ;;
    --seconds) number "$1" "$2" 1 60; seconds=$2 ;;
    --rate) number "$1" "$2" 1000 5000000; rate=$2 ;;
    --retries) number "$1" "$2" 0 20; retries=$2 ;;
    *) common "$1" "$2" ;;
    esac
    shift 2
done

# flows_of <case>: how many; of a case that does not exist, status 1.
flows_of() {
    case $1 in
    udp-1k) echo 1000 ;;
    udp-64k) echo 65536 ;;
    udp-1m) echo 1000000 ;;
    # Few enough at a time for the queues of veth (256 packets), many enough to fill the core.
    tcp) echo 128 ;;
    new) echo 0 ;;
    udp-*) [[ ${1#udp-} =~ ^[1-9][0-9]{0,6}$ ]] && [ "${1#udp-}" -le 2000000 ] && echo "${1#udp-}" ;;
    *) return 1 ;;
    esac
}

# capacity_of <case>: room for connections, in `capacity`, of every system.
capacity_of() {
    case $1 in
    # Every packet, or every sixth, is a connection that stays: more than come in that time.
    new | tcp) capacity=$(((seconds + 1) * 1000000)) ;;
    *) capacity=$(($(flows_of "$1") * 3 / 2 + 100000)) ;;
    esac
}

IFS=, read -ra system_list <<<"$systems"
IFS=, read -ra case_list <<<"$cases"
[ "${#system_list[@]}" -gt 0 ] && [ "${#case_list[@]}" -gt 0 ] || refuse "--systems and --cases: at least one each"
for system in "${system_list[@]}"; do
    case $system in
    nftables | bare | postern | testpmd | vpp) ;;
    *) refuse "--systems $system: nftables, bare, postern, testpmd or vpp" ;;
    esac
done
for case in "${case_list[@]}"; do
    flows_of "$case" >/dev/null || refuse "--cases $case: udp-1k, udp-64k, udp-1m, udp-N (1 to 2000000), new or tcp"
done
cd "$(dirname "$0")/.."
ready postern pktgen bare-forward compare-table -- nft
. bench/lib/dut.sh

# What namespaces share of the kernel's connection table, and what it was before.
limits=(/sys/module/nf_conntrack/parameters/hashsize /proc/sys/net/netfilter/nf_conntrack_max)
limits_before=("" "")
cleanup() {
    teardown
    # Of a comparison that was ended early: the runs that there are.
    [ -z "$json" ] || [ -s "$json" ] || cat "$tmp/all" >"$json" 2>/dev/null || true
    local at
    for at in 0 1; do
        [ -z "${limits_before[at]}" ] || echo "${limits_before[at]}" >"${limits[at]}" || true
    done
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start_nftables: the rules of Postern's built-in policy, between these two interfaces, and masquerading.
start_nftables() {
    in_dut ip addr add 192.168.1.1/24 dev "$d0"
    in_dut ip addr add 203.0.113.2/24 dev "$d1"
    neighbours "$d0" "$d1"
    in_dut sysctl -qw net.ipv4.ip_forward=1
    in_dut nft -f - <<NFT
table ip filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        ct state new iifname "$d0" oifname "$d1" accept
    }
}
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "$d1" masquerade
    }
}
NFT
}

# start_testpmd: DPDK's example, over its driver for AF_XDP: other MAC addresses and nothing else, as `bare`. It never sleeps, so
# that a paced run says what polling costs, not what a packet does.
start_testpmd() {
    # The first of the cores is of its console, and idle.
    ip netns exec "$dut" dpdk-testpmd --lcores "0@$gen_core,1@$dut_core" --no-pci --no-huge -m 256 --no-telemetry --file-prefix "$id" \
        --vdev "net_af_xdp0,iface=$d0" --vdev "net_af_xdp1,iface=$d1" \
        -- --forward-mode=mac --eth-peer="0,$g0_mac" --eth-peer="1,$g1_mac" --nb-cores=1 --total-num-mbufs=16384 --no-mlockall \
        --stats-period=600 >"$tmp/system.log" 2>&1 </dev/null 9>&- &
    system_pid=$!
    wait_for grep -q "Port statistics" "$tmp/system.log"
    # As it never sleeps, the kernel's threads would not get their turn. They have little to do: its driver takes packets in
    # with calls of its own (SO_PREFER_BUSY_POLL).
    polls=1
}

# Whether a system is there to be measured. vpp is only looked for: nobody has tried it here, so there is nothing to start it.
# Whoever has it adds a start_vpp beside the others.
state_of() {
    case $1 in
    testpmd)
        if ! command -v dpdk-testpmd >/dev/null; then
            echo "not installed"
        elif ! compgen -G "/usr/lib*/*/dpdk/pmds-*/librte_net_af_xdp.so*" >/dev/null; then
            echo "without its driver for AF_XDP"
        else
            echo ready
        fi
        ;;
    vpp) command -v vpp >/dev/null && echo "not tried" || echo "not installed" ;;
    *) echo ready ;;
    esac
}

# measure <case> <flows> <kind> <more options of pktgen...>: one run of pktgen; its report in $tmp/report.
measure() {
    local case=$1 flows=$2 kind=$3 accounts status=0 work=()
    shift 3
    case $case in
    udp-*) work=(--work udp --flows "$flows" --open-rate 150000) ;;
    new) work=(--work new) ;;
    tcp) work=(--work tcp --flows "$flows") ;;
    esac
    # Of nftables all is done in NAPI's threads; of the others a part.
    accounts=$({ napi_threads "$d0"; napi_threads "$d1"; echo "$system_pid"; } | grep . | paste -sd,)
    ends=$({ napi_threads "$g0"; napi_threads "$g1"; } | paste -sd,)
    # Opening at most 14 s a million flows, four times over, and the measurement: then it is ended.
    timeout -k 5 $((120 + 2 * seconds + flows / 20000)) ip netns exec "$gen" "$bin/pktgen" run \
        --tx "$g0" --rx "$g1" --tx-mac-dst "$d0_mac" --src 10.0.0.0/12 --dst 198.18.0.0/15 "${work[@]}" \
        --warmup 0.5 --seconds "$seconds" --core "$gen_core" --account "$accounts,$ends" --json "$@" \
        >"$tmp/report" 2>"$tmp/pktgen.log" </dev/null 9>&- &
    pktgen_pid=$!
    wait "$pktgen_pid" || status=$?
    pktgen_pid=
    if [ "$status" != 0 ]; then
        jq -cn --arg text "$(tail -n 1 "$tmp/pktgen.log")" --argjson status "$status" '{error: $text, status: $status}' \
            >"$tmp/report"
    fi
    # A line of what the table needs. Shares are of the core without what others did there.
    jq -c --arg system "$system" --arg case "$case" --arg kind "$kind" --argjson round "$round" \
        --argjson flows "$flows" --argjson ends "[$ends]" --argjson gen_core "$gen_core" --argjson dut_core "$dut_core" '
        {line: "run", $system, $case, $kind, $round} + (if .error then {error, status}
        elif .flows_opened and .flows_opened < $flows * 0.999 then {error: "only \(.flows_opened) of \($flows) flows opened"} else
        ([.accounts.processes[] | select(.pid | IN($ends[]))] | map(.cpu_ns) | add // 0) as $ends_ns
        | ([.accounts.processes[] | select(.pid | IN($ends[]) | not)] | map(.cpu_ns) | add // 0) as $dut_ns
        | (.seconds * 1e9) as $wall
        # What the ends had no time to take was forwarded all the same.
        | (.received + .lost_by_sink) as $delivered
        | {delivered_pps: ($delivered / .seconds), offered_pps: .tx_pps, sent, received, lost, lost_by_sink, corrupted, unexpected, not_sent,
           connections, latency_ns, flows_opened, seconds,
           dut_ns_per_packet: ($dut_ns / $delivered),
           dut_share: ($dut_ns / $wall), gen_share: (.cpu_share + $ends_ns / $wall),
           gen_free_share: (1 - .accounts.busy[$gen_core] + .cpu_share + $ends_ns / $wall),
           dut_free_share: (1 - .accounts.busy[$dut_core] + $dut_ns / $wall)}
        | .contended = (.gen_free_share < 0.85 or .dut_free_share < 0.85) end)' "$tmp/report" >"$tmp/line"
}

# start <system>: until it forwards, with the priority it needs.
start() {
    polls=
    "start_$1"
    PRIORITY=${polls:+2} settle
}

# attempt <system> <case> <round>: one system under one case, at both rates: lines in $tmp/lines.
attempt() {
    local case=$2 flows again=()
    system=$1 round=$3
    flows=$(flows_of "$case")
    capacity_of "$case"
    : >"$tmp/lines"
    cables
    start "$system"
    measure "$case" "$flows" flood --rate max
    cat "$tmp/line" >>"$tmp/lines"
    case $case in
    udp-*) again=(--no-open --rate "$rate") ;;
    new | tcp)
        # Connections that were never seen need a table that has not seen them.
        teardown
        cables
        start "$system"
        again=(--rate "$rate")
        [ "$case" = tcp ] || again=(--rate $((rate / 2)))
        ;;
    esac
    measure "$case" "$flows" paced "${again[@]}"
    cat "$tmp/line" >>"$tmp/lines"
    teardown
}

# raise <which limit> <to>: unless it is that high, or not there.
raise() {
    local now
    now=$(cat "${limits[$1]}" 2>/dev/null) && [ "$2" -gt "$now" ] || return 0
    limits_before[$1]=${limits_before[$1]:-$now}
    echo "$2" >"${limits[$1]}"
}
if [ -z "$keep_limits" ] && [[ ,$systems, = *,nftables,* ]]; then
    # A bucket for each connection of the largest case, as the kernel has by default; of the cases that open as many as
    # they can, for what nftables reaches.
    for case in "${case_list[@]}"; do
        capacity_of "$case"
        flows=$(flows_of "$case")
        case $case in new | tcp) flows=$((seconds * 300000)) ;; esac
        raise 0 "$flows"
        raise 1 "$capacity"
    done
fi

: >"$tmp/all"
jq -cn --arg kernel "$(uname -r)" --arg commit "$(git rev-parse --short HEAD 2>/dev/null || true)" \
    --arg cpu "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)" --arg buckets "$(cat "${limits[0]}" 2>/dev/null || true)" \
    --arg thp "$(cat /sys/kernel/mm/transparent_hugepage/shmem_enabled 2>/dev/null || true)" \
    --arg hugepages "$(cat /proc/sys/vm/nr_hugepages)" --argjson runs "$runs" --argjson seconds "$seconds" --argjson rate "$rate" \
    '{line: "machine", $kernel, $commit, $cpu, $buckets, $thp, $hugepages, $runs, $seconds, $rate}' >>"$tmp/all"
for system in "${system_list[@]}"; do
    state=$(state_of "$system")
    [ "$state" = ready ] ||
        jq -cn --arg system "$system" --arg state "$state" '{line: "absent", $system, $state}' >>"$tmp/all"
done

for case in "${case_list[@]}"; do
    for round_number in $(seq "$runs"); do
        for system_name in "${system_list[@]}"; do
            [ "$(state_of "$system_name")" = ready ] || continue
            for try in $(seq 0 "$retries"); do
                attempt "$system_name" "$case" "$round_number"
                jq -se 'any(.[]; .contended or .error) | not' "$tmp/lines" >/dev/null && break
                echo "compare: $system_name, $case, round $round_number: contended or failed, try $((try + 1))" >&2
            done
            cat "$tmp/lines" >>"$tmp/all"
            echo "compare: $system_name, $case, round $round_number of $runs done" >&2
        done
    done
done

if [ -n "$json" ]; then
    "$bin/compare-table" --json ${keep_contended:+--keep-contended} <"$tmp/all" >"$tmp/rows"
    cat "$tmp/all" "$tmp/rows" >"$json"
fi
"$bin/compare-table" ${keep_contended:+--keep-contended} <"$tmp/all"
