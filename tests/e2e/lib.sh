# What the cases share. Sourced by run.sh, after deploy/lib/lab.sh.

FAR=198.51.100.1          # a host beyond the WAN link
NEAR=203.0.113.1          # the same host, its address on the link
FAR6=2001:db8:ffff::1
INSIDE=192.168.1.10       # the LAN host
WAN=203.0.113.2           # the appliance's WAN address

fail() {
    echo "$*" >&2
    exit 1
}

# `! command` does not end a script under `set -e`; this does.
fails() {
    if "$@"; then
        echo "succeeded, and should not have: $*" >&2
        return 1
    fi
}

equals() {
    [ "$1" = "$2" ] || fail "$3: $1, expected $2"
}

# has <text> <pattern>: whether a line of the text matches.
has() {
    grep -qE -- "$2" <<<"$1" || fail "no line like /$2/ in: $1"
}

tool() {
    local space=$1
    shift
    # shellcheck disable=SC2086
    in_ns "$space" $TOOLS "$@"
}

# What asking a server of tools.py gives: "address port", or refused, silence, unreachable.
ask() {
    tool "$@" || true
}

# peers <space> <port>: a server that tells who asks.
peers() {
    # shellcheck disable=SC2086
    start_in "$1" "peers-$1-$2" $TOOLS server "$2"
    wait_for 10 "the server on port $2" grep -q ready "$LAB_DIR/peers-$1-$2.log"
}

# Like start_in, but what it starts ends with the case.
start_here() {
    local space=$1 name=$2
    shift 2
    in_ns "$space" "$@" >>"$LAB_DIR/$name.log" 2>&1 </dev/null &
    PID=$!
    echo "$PID" >>"$LAB_DIR/pids"
}

# talk <name> <space> <ask's arguments>: a conversation that goes on until it breaks.
talk() {
    local name=$1 space=$2
    shift 2
    # shellcheck disable=SC2086
    start_here "$space" "talk-$name" $TOOLS talk "$@"
    wait_for 10 "an answer to $name" grep -q answer "$LAB_DIR/talk-$name.log"
}

# Whether a conversation goes on: it is answered again now, and never broke.
goes_on() {
    local log=$LAB_DIR/talk-$1.log before
    before=$(wc -l <"$log")
    wait_for 6 "$1 to go on" longer_than "$log" "$((before + 2))"
    fails grep ended "$log"
}

longer_than() {
    [ "$(wc -l <"$1")" -gt "$2" ]
}

# Who the server says we are in a conversation.
who_is() {
    sed -n 's/^answer //p' "$LAB_DIR/talk-$1.log" | head -n 1
}

# A packet exchange that must cross: the barrier before any "nothing has arrived".
canary() {
    in_ns lan ping -n -q -c 1 -W 3 "$FAR" >/dev/null || no_canary
}

no_canary() {
    postern drops
    in_ns fw ip neigh
    in_ns lan ip neigh
    in_ns wan ip neigh
    fail "the canary did not cross"
}

canary6() {
    in_ns lan ping -n -q -c 1 -W 3 "$FAR6" >/dev/null || fail "the IPv6 canary did not cross"
}

# drops <reason>: how many packets were dropped for it.
drops() {
    postern --json drops | jq "[.reasons[] | select(.reason == \"$1\") | .packets] | add // 0"
}

dropped_in_all() {
    postern --json drops | jq .total
}

# Each reason with its packets, one to a line: "the_reason 12".
drops_by_reason() {
    postern --json drops | jq -r '.reasons | group_by(.reason)[] | {reason: .[0].reason, packets: (map(.packets) | add)} | select(.packets > 0) | "\(.reason) \(.packets)"'
}

counter() {
    postern --json status | jq ".counters.$1"
}

books_balance() {
    postern --json status | jq -e '.books.imbalance == 0'
}

# watch_link <name> <space> <device> <filter...>: notes what comes in by a device.
watch_link() {
    local name=$1 space=$2 device=$3
    shift 3
    start_here "$space" "seen-$name" tcpdump -l -n -e -p --immediate-mode -Q in -i "$device" "$@"
    wait_for 10 "tcpdump" grep -q 'listening on' "$LAB_DIR/seen-$name.log"
}

# How many packets it saw that match a pattern.
seen() {
    sleep 0.2
    grep -cE -- "^[0-9:.]+ .*${2:-}" "$LAB_DIR/seen-$1.log" || true
}

# A LAN server's or WAN server's page: page <space> <port> <text>.
page() {
    mkdir -p "$LAB_DIR/page-$1-$2"
    echo "$3" >"$LAB_DIR/page-$1-$2/index.html"
    serve "$1" "$2" "$LAB_DIR/page-$1-$2"
}

# fetch <space> <curl's arguments>
fetch() {
    local space=$1
    shift
    in_ns "$space" curl -sS --connect-timeout 4 --max-time 90 "$@"
}

# A second LAN host, 192.168.1.11, in a space of its own.
second_lan_host() {
    ip netns add "$LAB-lan2"
    echo "$LAB-lan2" >>"$LAB_DIR/spaces"
    in_ns lan ip link add link eth0 name second netns "$LAB-lan2" type macvlan mode bridge
    in_ns lan2 ip link set lo up
    in_ns lan2 ip link set second name eth0
    in_ns lan2 ip link set eth0 up
    in_ns lan2 ip addr add 192.168.1.11/24 dev eth0
    in_ns lan2 ip route add default via 192.168.1.1
}

# What a theme starts from, unless it says otherwise.
theme_up() {
    lab_up
    start_postern
}
