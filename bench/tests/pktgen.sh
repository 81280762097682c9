#!/usr/bin/env bash
# The traffic generator against the kernel's own forwarding, in namespaces: accounting, refusals, and what it says
# when the device under test goes away. Needs root, ip, ethtool, python3. Nothing but these namespaces is touched.
#
#     [ gen: pktgen   g0 ]──veth──[ d0   dut: ip_forward   d1 ]──veth──[ g1   gen: pktgen ]
#
#   bench/tests/pktgen.sh [path of pktgen]
set -euo pipefail
cd "$(dirname "$0")/../.."
pktgen=${1:-${CARGO_TARGET_DIR:-target}/release/pktgen}
[ -x "$pktgen" ] || { echo "pktgen.sh: build it first: cargo build --release -p bench --bin pktgen" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "pktgen.sh: needs root" >&2; exit 1; }

gen=pkg$$-gen dut=pkg$$-dut
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pktgen-test.XXXXXX")
victim=
cleanup() {
    [ -z "$victim" ] || kill "$victim" 2>/dev/null || true
    ip netns del "$gen" 2>/dev/null || true
    ip netns del "$dut" 2>/dev/null || true
    rm -rf "$tmp"
}
trap cleanup EXIT

in_gen() { ip netns exec "$gen" "$@"; }
in_dut() { ip netns exec "$dut" "$@"; }
fail() { echo "FAIL: $*" >&2; exit 1; }
pass() { echo "ok: $*"; }

# check <what> <json file> <python condition on r>
check() {
    python3 - "$2" "$3" <<'PY' || fail "$1: $3: $(cat "$2")"
import json, sys
r = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)
PY
    pass "$1"
}

# refused <status> <words> <command...>: ends with the status and says the words.
refused() {
    local status=$1 words=$2 got=0
    shift 2
    "$@" >"$tmp/out" 2>&1 || got=$?
    [ "$got" = "$status" ] || fail "status $got, not $status, of: $*: $(cat "$tmp/out")"
    grep -q -- "$words" "$tmp/out" || fail "\`$words\` is not in: $(cat "$tmp/out")"
    pass "refused: $words"
}

ip netns add "$gen"
ip netns add "$dut"
for pair in 0 1; do
    ip link add "g$pair" netns "$gen" numrxqueues 2 numtxqueues 2 type veth \
        peer name "d$pair" netns "$dut" numrxqueues 2 numtxqueues 2
    in_gen ip link set "g$pair" address "02:00:00:00:0$pair:01"
    in_dut ip link set "d$pair" address "02:00:00:00:0$pair:02"
    in_gen ethtool -K "g$pair" tx off >/dev/null
    in_dut ethtool -K "d$pair" tx off >/dev/null
    in_gen sysctl -qw "net.ipv6.conf.g$pair.disable_ipv6=1"
    in_dut sysctl -qw "net.ipv6.conf.d$pair.accept_dad=0"
    in_gen ip link set "g$pair" up
    in_dut ip link set "d$pair" up
done
in_dut sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
in_dut ip addr add 192.168.1.1/24 dev d0
in_dut ip addr add 203.0.113.1/24 dev d1
in_dut ip -6 addr add fd00:1::1/64 dev d0 nodad
in_dut ip -6 addr add 2001:db8:1::1/64 dev d1 nodad
in_dut ip neigh add 192.168.1.2 lladdr 02:00:00:00:00:01 dev d0
in_dut ip neigh add 203.0.113.2 lladdr 02:00:00:00:01:01 dev d1
in_dut ip -6 neigh add fd00:1::2 lladdr 02:00:00:00:00:01 dev d0
in_dut ip -6 neigh add 2001:db8:1::2 lladdr 02:00:00:00:01:01 dev d1
in_dut ip route add 10.0.0.0/8 via 192.168.1.2
in_dut ip route add 198.18.0.0/15 via 203.0.113.2
in_dut ip -6 route add fd00:2::/64 via fd00:1::2
in_dut ip -6 route add 2001:db8:2::/64 via 2001:db8:1::2
# The dut's MAC is what --tx-mac-dst would say; the generator finds it as the only neighbour.
in_gen ip neigh add 192.168.1.1 lladdr 02:00:00:00:00:02 dev g0

v4="--tx g0 --rx g1 --src 10.1.0.0/16 --dst 198.18.0.0/24"
v6="--tx g0 --rx g1 --src fd00:2::/64 --dst 2001:db8:2::/64"
accounts="r['received'] + r['lost'] == r['sent'] and r['sent'] > 0"
clean="$accounts and r['lost'] == 0 and r['duplicated'] == 0 and r['corrupted'] == 0"
# shellcheck disable=SC2086
run() { in_gen "$pktgen" run --warmup 0.2 --json $1 >"$tmp/r" || fail "run $1"; }

run "$v4 --flows 1000 --rate 20000 --seconds 2"
check "UDP, every packet accounted for" "$tmp/r" "$clean and r['flows_opened'] == 1000 and r['reordered'] == 0"
check "the rate is kept, unless the machine is busy" "$tmp/r" "r['contended'] or 38000 <= r['sent'] <= 40100"
check "latency is there and ordered" "$tmp/r" \
    "0 < r['latency_ns']['p50'] <= r['latency_ns']['p99'] <= r['latency_ns']['p999'] <= r['latency_ns']['max']"
run "$v4 --flows 1000 --seconds 2"
check "as many as go" "$tmp/r" "$accounts and r['received'] > 10000"
run "$v4 --flows 500 --dist zipf --size imix --rate 10000 --bidirectional --seconds 1"
check "IMIX, Zipf, both ways" "$tmp/r" "$clean and r['sent'] > 15000 and r['frame_bytes'] == 1518"
run "$v4 --flows 100 --churn 1000 --rate 10000 --seconds 1"
check "churn" "$tmp/r" "$clean and 800 <= r['flows_replaced'] <= 1000"
run "$v6 --flows 200 --rate 10000 --seconds 1 --tx-mac-dst 02:00:00:00:00:02"
check "IPv6, in frames that hold the stamp" "$tmp/r" "$clean and r['frame_bytes'] == 84"
run "$v4 --work new --rate 10000 --seconds 1"
check "every packet a new flow" "$tmp/r" "$clean and r['reordered'] is None"
run "$v4 --work syn --rate 10000 --seconds 1"
check "SYN flood" "$tmp/r" "$clean"
run "$v4 --work tcp --flows 100 --rate 12000 --seconds 1"
check "TCP lives" "$tmp/r" "$clean and r['connections']['completed'] == r['connections']['started'] > 1500 and r['connections']['failed'] == 0 and r['sent'] == 6 * r['connections']['started']"

# Loss: one packet in ten of the measured flow's destinations is not routed.
in_dut ip route add blackhole 198.18.0.0/28
run "$v4 --flows 2000 --rate 20000 --seconds 1"
in_dut ip route del blackhole 198.18.0.0/28
check "what is lost is counted, no more and no less" "$tmp/r" "$accounts and 0.02 < r['loss_ratio'] < 0.12 and r['flows_opened'] < 2000"

# Tags, over a cable without a device under test.
ip link add b0 netns "$gen" address 02:00:00:00:02:01 type veth peer name b1 netns "$gen" address 02:00:00:00:02:02
for end in b0 b1; do
    in_gen sysctl -qw "net.ipv6.conf.$end.disable_ipv6=1"
    in_gen ip link set "$end" up
done
run "--tx b0 --rx b1 --tx-mac-dst 02:00:00:00:02:02 --src 172.16.1.0/24 --dst 172.16.2.0/24 --vlan 7 --flows 100 \
    --rate 5000 --seconds 1"
check "VLAN" "$tmp/r" "$clean and r['frame_bytes'] == 68 and r['flows_opened'] == 100"

# shellcheck disable=SC2086
in_gen "$pktgen" search $v4 --flows 100 --seconds 0.3 --warmup 0.1 --rate 40000 --resolution 10000 --tolerance 100 \
    --json >"$tmp/r" || fail "search"
check "a search ends" "$tmp/r" "r['limited_by'] in ('loss', 'highest_asked', 'generator') and 1 <= len(r['trials']) <= 8"

# A capture, and a sink in a process of its own.
python3 - "$tmp" <<'PY'
import struct, sys
def frame(src, dst):
    ip = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 46, 0, 0, 64, 17, 0, bytes(src), bytes(dst))
    s = sum(struct.unpack('>10H', ip)); s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16)
    ip = ip[:10] + struct.pack('>H', ~s & 0xffff) + ip[12:]
    return bytes.fromhex('020000000002020000000001 0800') + ip + struct.pack('>HHHH', 5, 9, 26, 0) + bytes(18)
def write(name, frames):
    with open(name, 'wb') as out:
        out.write(struct.pack('<IHHiIII', 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for f in frames:
            out.write(struct.pack('<IIII', 0, 0, len(f), len(f)) + f)
write(sys.argv[1] + '/good.pcap', [frame((10, 0, 0, i), (198, 18, 0, i)) for i in range(1, 101)])
write(sys.argv[1] + '/bad.pcap', [frame((10, 0, 0, 1), (8, 8, 8, 8))])
PY
in_gen "$pktgen" sink --rx g1 --seconds 2 --json >"$tmp/sink" &
victim=$!
sleep 0.7
in_gen "$pktgen" replay --tx g0 --pcap "$tmp/good.pcap" --rate 1000 --loops 2 --json >"$tmp/r" || fail "replay"
check "a capture is sent twice" "$tmp/r" "r['sent'] == 200 and r['frames'] == 100"
wait "$victim" || fail "sink"
victim=
check "and arrives at a sink" "$tmp/sink" "r['frames'] >= 200 and r['lost_by_sink'] == 0"

# Refusals.
# shellcheck disable=SC2086
refused 2 "outside its own topology" in_gen "$pktgen" replay --tx g0 --pcap "$tmp/bad.pcap" --rate 10
refused 2 "outside its own topology" in_gen "$pktgen" run --tx g0 --rx g1 --src 10.0.0.0/8 --dst 8.8.8.0/24 --seconds 1
refused 2 "outside its own topology" in_gen "$pktgen" run --tx g0 --rx g1 --src 2600::/64 --dst 2001:db8::/64 --seconds 1
# shellcheck disable=SC2086
for absurd in "--flows 0" "--flows 99999999" "--size 63" "--rate 0" "--vlan 4095" "--core 99999" "--churn 99999999"; do
    refused 2 "${absurd%% *}" in_gen "$pktgen" run $v4 --seconds 1 $absurd
done
in_gen ip addr add 192.168.1.2/24 dev g0
in_gen ip route add default via 192.168.1.1
# shellcheck disable=SC2086
refused 2 "default route" in_gen "$pktgen" run $v4 --seconds 1
in_gen ip route del default
# shellcheck disable=SC2086
refused 1 "no device nowhere" in_gen "$pktgen" run --tx nowhere --rx g1 --tx-mac-dst 02:00:00:00:00:02 \
    --src 10.0.0.0/8 --dst 198.18.0.0/24 --seconds 1

# The device under test stops under way, is not there, goes away.
# shellcheck disable=SC2086
in_gen "$pktgen" run $v4 --flows 10 --rate 5000 --seconds 8 --json >"$tmp/r" 2>"$tmp/err" &
victim=$!
sleep 3
in_dut sysctl -qw net.ipv4.ip_forward=0
status=0
wait "$victim" || status=$?
victim=
{ [ "$status" = 1 ] && [ ! -s "$tmp/r" ] && grep -q "nothing has come back" "$tmp/err"; } ||
    fail "lost peer: status $status: $(cat "$tmp/r" "$tmp/err")"
pass "a device under test that stops is told, without figures"
# shellcheck disable=SC2086
refused 1 "gone or does not forward" in_gen "$pktgen" run $v4 --seconds 1
# shellcheck disable=SC2086
refused 1 "gone or does not forward" in_gen "$pktgen" run $v4 --work tcp --seconds 3
ip netns del "$dut"
sleep 0.5
# shellcheck disable=SC2086
refused 1 "no device" in_gen "$pktgen" run $v4 --tx-mac-dst 02:00:00:00:00:02 --seconds 1
echo "pktgen.sh: all passed"
