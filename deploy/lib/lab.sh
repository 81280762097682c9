# A laboratory of network namespaces for the demo and the tests: sourced, not run.
#
#     lan host ──veth── [ fw: postern ] ──veth── wan host
#   192.168.1.10      192.168.1.1  203.0.113.2      203.0.113.1, 198.51.100.1
#
# Names are unique per run ($LAB), processes are ended by their id, everything goes on every exit. Nothing but
# these namespaces is touched.

LAB=${LAB:-pst$$}
LAB_DIR=$(mktemp -d "${TMPDIR:-/tmp}/postern-lab.XXXXXX")
POSTERN=${POSTERN:-${CARGO_TARGET_DIR:-target}/release/postern}

# Runs a command in a namespace: in lan ping ...
in_ns() {
    local space=$1
    shift
    ip netns exec "$LAB-$space" "$@"
}

# Starts a command in the background of a namespace; its output goes to $LAB_DIR/<name>.log, its id to PID.
start_in() {
    local space=$1 name=$2
    shift 2
    # A session of its own, so that it outlives the subshell that starts it. setsid and `ip netns exec` become
    # the command, so $! is the command's own id.
    setsid ip netns exec "$LAB-$space" "$@" >>"$LAB_DIR/$name.log" 2>&1 </dev/null &
    PID=$!
    # In a file, not in an array: the shell that cleans up knows what its subshells started, too.
    echo "$PID" >>"$LAB_DIR/pids"
}

# Whether a process runs; one that has ended, with all its threads, and was not waited for does not.
alive() {
    local stat threads
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    threads=("/proc/$1/task/"*)
    stat=${stat##*) }
    [ "${stat%% *}" != Z ] || [ "${#threads[@]}" -gt 1 ]
}

# end <id> [signal]: ends one process by its id and waits for it, ten seconds at most before it is killed.
end() {
    kill "${2:--TERM}" "$1" 2>/dev/null || true
    for _ in $(seq 100); do
        alive "$1" || break
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

add_space() {
    local space
    for space in "$@"; do
        ip netns add "$LAB-$space"
        echo "$LAB-$space" >>"$LAB_DIR/spaces"
        in_ns "$space" ip link set lo up
        in_ns "$space" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    done
}

# cable <space> <device> <space> <device>: a veth pair with two queues. The first end is a host's: its
# offloads go off, so that what it sends is what a wire would carry.
cable() {
    local host=$1 host_device=$2 far=$3 far_device=$4
    ip link add "$host_device" netns "$LAB-$host" numrxqueues 2 numtxqueues 2 type veth \
        peer name "$far_device" netns "$LAB-$far" numrxqueues 2 numtxqueues 2
    in_ns "$host" ethtool -K "$host_device" tx off tso off gso off >/dev/null 2>&1 || true
    in_ns "$host" ip link set "$host_device" up
    in_ns "$far" ip link set "$far_device" up
}

lab_up() {
    add_space lan fw wan
    cable lan eth0 fw nic-lan
    cable wan eth0 fw nic-wan
    in_ns lan ip addr add 192.168.1.10/24 dev eth0
    in_ns lan ip addr add 2001:db8:1::10/64 dev eth0 nodad
    in_ns lan ip route add default via 192.168.1.1
    in_ns lan ip -6 route add default via 2001:db8:1::1
    in_ns wan ip addr add 203.0.113.1/24 dev eth0
    in_ns wan ip addr add 2001:db8:2::1/64 dev eth0 nodad
    in_ns wan ip addr add 198.51.100.1/32 dev lo
    in_ns wan ip -6 addr add 2001:db8:ffff::1/128 dev lo nodad
    in_ns wan ip -6 route add 2001:db8:1::/64 via 2001:db8:2::2
    # Pinned XDP links live in a bpffs of our own; mounted here, it outlives the appliance's own processes.
    mkdir -p "$LAB_DIR/run/bpf"
    mount -t bpf bpf "$LAB_DIR/run/bpf"
}

# The laboratory's configuration. WORKERS and CAPACITY set these; WAN_CONFIG takes the place of the WAN
# interface's addresses, MORE_CONFIG comes at the end.
lab_config() {
    local wan='address = ["203.0.113.2/24", "2001:db8:2::2/64"]
gateway = ["203.0.113.1", "2001:db8:2::1"]'
    wan=${WAN_CONFIG-$wan}
    cat <<TOML
workers = ${WORKERS:-1}
control = "$LAB_DIR/run/control.sock"
run_dir = "$LAB_DIR/run"

[interface.lan]
device = "nic-lan"
zone = "lan"
address = ["192.168.1.1/24", "2001:db8:1::1/64"]

[interface.wan]
device = "nic-wan"
zone = "wan"
masquerade = true
$wan

[conntrack]
capacity = ${CAPACITY:-100_000}

${MORE_CONFIG-}
TOML
}

# The postern command, talking to the laboratory's appliance.
postern() {
    "$POSTERN" --control "$LAB_DIR/run/control.sock" "$@"
}

# Starts the appliance and waits until it answers; its id is in APPLIANCE.
start_postern() {
    [ -e "$LAB_DIR/postern.toml" ] || lab_config >"$LAB_DIR/postern.toml"
    start_in fw postern "$POSTERN" run --config "$LAB_DIR/postern.toml"
    APPLIANCE=$PID
    echo "$PID" >"$LAB_DIR/appliance"
    wait_for 20 "the appliance to answer" postern status
}

# wait_for <seconds> <what> <command...>: until the command succeeds.
wait_for() {
    local limit=$1 what=$2 until
    shift 2
    until=$((SECONDS + limit))
    while ! "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "gave up waiting for $what: $*" >&2
            [ -e "$LAB_DIR/postern.log" ] && tail -n 20 "$LAB_DIR/postern.log" >&2
            return 1
        fi
        sleep 0.1
    done
}

# One nginx in a namespace, serving a folder on a port: serve <space> <port> <folder>.
serve() {
    local space=$1 port=$2 folder=$3 conf
    conf=$LAB_DIR/nginx-$space-$port
    mkdir -p "$conf"
    cat >"$conf/nginx.conf" <<CONF
daemon off; master_process off; pid $conf/pid; error_log $conf/error.log;
events { worker_connections 1024; }
http { access_log off; sendfile on; client_body_temp_path $conf; proxy_temp_path $conf;
  fastcgi_temp_path $conf; uwsgi_temp_path $conf; scgi_temp_path $conf;
  server { listen $port; listen [::]:$port; root $folder; } }
CONF
    start_in "$space" "nginx-$space-$port" nginx -p "$conf" -c "$conf/nginx.conf" -e "$conf/error.log"
    wait_for 10 "nginx in $space" in_ns "$space" curl -s -o /dev/null "http://127.0.0.1:$port/"
}

lab_down() {
    local pid pids=() space spaces=()
    [ ! -e "$LAB_DIR/spaces" ] || mapfile -t spaces <"$LAB_DIR/spaces"
    [ ! -e "$LAB_DIR/pids" ] || mapfile -t pids <"$LAB_DIR/pids"
    for pid in "${pids[@]}"; do
        # Only what still is ours: an id may have been taken by another process since.
        ip netns identify "$pid" 2>/dev/null | grep -q "^$LAB-" && kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        for _ in $(seq 50); do
            alive "$pid" && ip netns identify "$pid" 2>/dev/null | grep -q "^$LAB-" || continue 2
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    for space in "${spaces[@]}"; do
        ip netns del "$space" 2>/dev/null || true
    done
    umount "$LAB_DIR/run/bpf" 2>/dev/null || true
    rm -rf "$LAB_DIR"
}
