#!/usr/bin/env bash
# Shows the appliance at work between network namespaces, on real traffic: sets up, builds, and goes through the main
# job step by step. Exits 0 only if every step did what it says. Needs root; touches only namespaces of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "demo: needs root, for namespaces and AF_XDP" >&2; exit 1; }

./deploy/setup.sh
cargo build --release --locked -p postern

. deploy/lib/lab.sh
trap lab_down EXIT

step() { printf '\n== %s\n' "$*"; }
fail() { echo "demo: FAILED: $*" >&2; tail -n 30 "$LAB_DIR/postern.log" >&2; exit 1; }

step "Three namespaces: a LAN host, the firewall, a server on the WAN side"
lab_up
mkdir -p "$LAB_DIR/www-wan" "$LAB_DIR/www-lan"
head -c 20000000 /dev/urandom >"$LAB_DIR/www-wan/file"
echo "hello from the LAN server" >"$LAB_DIR/www-lan/index.html"
serve wan 80 "$LAB_DIR/www-wan"
serve lan 80 "$LAB_DIR/www-lan"
echo "   192.168.1.10 -- [192.168.1.1 postern 203.0.113.2] -- 203.0.113.1, 198.51.100.1"

step "The appliance starts with one worker"
start_postern
postern status

step "The LAN host pings and downloads through NAT (nginx, curl)"
in_ns lan ping -c 3 -i 0.2 -W 2 198.51.100.1 || fail "ping through NAT"
in_ns lan curl -sS --max-time 60 -o "$LAB_DIR/got" http://198.51.100.1/file || fail "download"
cmp "$LAB_DIR/got" "$LAB_DIR/www-wan/file" || fail "the downloaded file differs"
echo "   20 MB downloaded, byte for byte the same"

step "What nobody asked for is dropped, and counted with its reason"
in_ns wan curl -sS --max-time 2 http://203.0.113.2:8080/ && fail "unsolicited connection got in"
in_ns wan ping -c 1 -W 1 203.0.113.2 >/dev/null && fail "unsolicited ping was answered"
postern drops
dropped=$(postern --json drops | jq .total)
[ "$dropped" -gt 0 ] || fail "no drop was counted"

step "A port forward is added while a transfer runs"
in_ns lan curl -sS --limit-rate 8M --max-time 60 -o "$LAB_DIR/got2" http://198.51.100.1/file &
transfer=$!
sleep 0.7
postern forward add --interface wan --protocol tcp --port 8080 --to 192.168.1.10:80
kill -0 "$transfer" 2>/dev/null || fail "the transfer was over before the forward came"
answer=$(in_ns wan curl -sS --max-time 5 http://203.0.113.2:8080/) || fail "the forwarded port"
echo "   the WAN host asks 203.0.113.2:8080 and gets: $answer"
[ "$answer" = "hello from the LAN server" ] || fail "wrong answer through the forward"
wait "$transfer" || fail "the running transfer broke"
cmp "$LAB_DIR/got2" "$LAB_DIR/www-wan/file" || fail "the running transfer was damaged"
echo "   the transfer went on undisturbed"

step "The connection table, the rules, the counters"
postern forward list
postern conntrack list
postern iptables -L -n -v
postern status
[ "$(postern conntrack count)" -gt 0 ] || fail "the connection table is empty"

step "kill -9: nothing passes without the appliance (fail closed), then it comes back"
end "$APPLIANCE" -KILL
in_ns lan ping -c 2 -i 0.2 -W 1 198.51.100.1 >/dev/null && fail "traffic passed without a firewall"
echo "   closed"
start_postern
in_ns lan ping -c 2 -i 0.2 -W 2 198.51.100.1 || fail "ping after the restart"

step "release gives the devices back"
end "$APPLIANCE"
in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml" || fail "release"
in_ns fw ip -d link show nic-wan | grep -q xdp && fail "an XDP program is left on the device"
echo "   no program left on the devices"

printf '\ndemo: every step did what it says\n'
