# The control socket, the configuration and the connection table.

theme_up() {
    lab_up
    peers wan 7000
    peers lan 7000
    lab_config | sed '1i control_read_group = "games"' >"$LAB_DIR/postern.toml"
    confine >"$LAB_DIR/confined"
    chmod +x "$LAB_DIR/confined"
    POSTERN=$LAB_DIR/confined start_postern
}

# A program that runs the appliance with the capabilities that its systemd unit leaves it, and no others.
confine() {
    local capabilities
    capabilities=$(sed -n 's/^CapabilityBoundingSet=//p' "$HERE/../../deploy/systemd/postern.service" |
        tr 'A-Z ' 'a-z\n' | sed 's/^cap_/+/' | paste -sd,)
    printf '#!/bin/sh\nexec setpriv --bounding-set=-all,%s --inh-caps=-all --no-new-privs %q "$@"\n' \
        "$capabilities" "$(realpath "$POSTERN")"
}

socket() {
    echo "$LAB_DIR/run/control.sock"
}

# C201
once_the_socket_is_private_and_the_only_door() {
    equals "$(stat -c '%a %F' "$(socket)")" "660 socket" "mode"
    # No TCP listener, no abstract socket of ours.
    local pid
    pid=$(cat "$LAB_DIR/appliance")
    fails grep -q "pid=$pid," <<<"$(in_ns fw ss -ltnupH)"
    fails grep -q "@.*pid=$pid," <<<"$(in_ns fw ss -lxpH)"
    # Somebody else is refused.
    fails setpriv --reuid=65534 --regid=65534 --clear-groups "$POSTERN" --control "$(socket)" status
    postern status
}

once_the_capabilities_of_the_unit_are_enough() {
    # CAP_CHOWN, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK, CAP_BPF: bits 0, 12, 13, 14, 39.
    equals "$(awk '/^CapEff/ { print $2 }' "/proc/$(cat "$LAB_DIR/appliance")/status")" 0000008000007001 "capabilities"
    canary
}

# C205
once_a_reader_may_look_and_change_nothing() {
    local out what
    local reader=(setpriv --reuid=65533 --regid=65533 --groups=60 "$LAB_DIR/for-all" --control "$(socket)")
    equals "$(stat -c '%a %F %G' "$LAB_DIR/run/control-ro.sock")" "660 socket games" "mode"
    # Where other users get at it.
    cp "$POSTERN" "$LAB_DIR/for-all"
    chmod 711 "$LAB_DIR"
    chmod 755 "$LAB_DIR/for-all"
    "${reader[@]}" status
    has "$("${reader[@]}" conntrack count)" '^[0-9]+$'
    has "$("${reader[@]}" iptables-save)" '^\*filter'
    # Following is looking, too: it begins, and says nothing of what it may not.
    canary
    timeout 10 "${reader[@]}" conntrack events -p icmp >"$LAB_DIR/read-events" &
    local following=$!
    wait_for 10 "the reader to follow" reader_follows
    canary
    wait_for 5 "an event for the reader" grep -q NEW "$LAB_DIR/read-events"
    kill "$following"
    "${reader[@]}" trigger list
    "${reader[@]}" conntrack expect
    for what in 'iptables -F' 'conntrack flush' 'forward add tcp 99 192.168.1.10:99' reload \
        'conntrack update -p tcp --mark 1' 'conntrack delete -p tcp' 'trigger add udp 1 2' 'trigger remove udp 2'; do
        # shellcheck disable=SC2086
        out=$(fails "${reader[@]}" $what 2>&1)
        has "$out" 'may look but not change'
    done
    # Past our own command line, too.
    out=$(setpriv --reuid=65533 --regid=65533 --groups=60 curl -s -X POST \
        --unix-socket "$LAB_DIR/run/control-ro.sock" http://localhost/v1/connections/flush)
    has "$out" 'only reading is allowed'
    chmod 700 "$LAB_DIR"
    rm "$LAB_DIR/for-all"
}

reader_follows() {
    [ "$(postern --json status | jq .followers)" = 1 ]
}

once_a_second_instance_is_refused_and_the_first_undisturbed() {
    local out code=0
    talk first lan tcp "$NEAR" 7000
    out=$(in_ns fw timeout 20 "$POSTERN" run --config "$LAB_DIR/postern.toml" 2>&1) || code=$?
    equals "$code" 1 "exit code"
    has "$out" "another instance"
    # With a socket and a folder of its own, but the same device.
    sed "s|control.sock|second.sock|; s|^run_dir = .*|run_dir = \"$LAB_DIR/run2\"|" "$LAB_DIR/postern.toml" >"$LAB_DIR/second.toml"
    mkdir -p "$LAB_DIR/run2"
    code=0
    out=$(in_ns fw timeout 20 "$POSTERN" run --config "$LAB_DIR/second.toml" 2>&1) || code=$?
    equals "$code" 1 "exit code on the same device: $out"
    has "$out" "nic-lan|interface lan"
    goes_on first
    canary
}

# C202
case_nonsense_on_the_socket_disturbs_nothing() {
    local what
    talk patient lan tcp "$NEAR" 7000
    local pings
    in_ns lan ping -n -q -c 100 -i 0.05 -W 2 "$FAR" >"$LAB_DIR/pings" &
    pings=$!
    for what in garbage oversized truncated slow crowd; do
        tool fw control "$(socket)" "$what"
        postern status >/dev/null
    done
    wait "$pings"
    has "$(cat "$LAB_DIR/pings")" "100 received, 0% packet loss"
    goes_on patient
    [ "$(awk '/VmRSS/ { print $2 }' "/proc/$(cat "$LAB_DIR/appliance")/status")" -lt 1000000 ] || fail "it has grown"
}

once_check_lists_every_fault_with_its_place() {
    local out code=0
    cat >"$LAB_DIR/bad.toml" <<TOML
workers = "many"
colour = "blue"

[interface.lan]
device = "no-such-device"
zone = "lan"

[interface.wan]
device = "nic-wan"
masqerade = true
mtu = 12

[[forward]]
interface = "wan"
protocol = "tcp"
port = "8000-8010"
to = "192.168.1.10:80"

[[forward]]
interface = "wan"
protocol = "tcp"
port = 8005
to = "192.168.1.11:80"
TOML
    out=$(in_ns fw "$POSTERN" check --config "$LAB_DIR/bad.toml" 2>&1) || code=$?
    echo "$out"
    equals "$code" 1 "exit code"
    has "$out" "bad.toml:1:[0-9]+: .*workers"
    has "$out" "bad.toml:2:1: .*colour"
    has "$out" "bad.toml:5:[0-9]+: .*no-such-device"
    has "$out" "bad.toml:10:1: .*masqerade"
    has "$out" "masquerade"
    has "$out" "bad.toml:11:[0-9]+: .*mtu"
    has "$out" "bad.toml:(19|2[0-9]):[0-9]+: .*overlap"
    in_ns fw "$POSTERN" check --config "$LAB_DIR/postern.toml"
}

# C192
case_a_reload_with_a_bad_file_changes_nothing_and_says_why() {
    local out code=0 forwards rules
    cp "$LAB_DIR/postern.toml" "$LAB_DIR/good.toml"
    talk calm lan tcp "$NEAR" 7000
    forwards=$(postern forward list) rules=$(postern iptables -S)
    echo 'nonsense = 1' >>"$LAB_DIR/postern.toml"
    printf '\n[[forward]]\ninterface = "wan"\nprotocol = "tcp"\nport = 8080\nto = "192.168.1.10:7000"\n' >>"$LAB_DIR/postern.toml"
    out=$(postern reload 2>&1) || code=$?
    cp "$LAB_DIR/good.toml" "$LAB_DIR/postern.toml"
    equals "$code" 1 "exit code"
    has "$out" "postern.toml:[0-9]+:[0-9]+: .*nonsense"
    equals "$(postern forward list)" "$forwards" "forwards"
    equals "$(postern iptables -S)" "$rules" "rules"
    equals "$(ask wan ask tcp "$WAN" 8080 --timeout 1)" silence "the bad file's forward"
    goes_on calm
    canary
}

# C190
case_a_reload_applies_a_forward_and_disturbs_nothing() {
    cp "$LAB_DIR/postern.toml" "$LAB_DIR/good.toml"
    talk along lan tcp "$NEAR" 7000
    printf '\n[[forward]]\ninterface = "wan"\nprotocol = "tcp"\nport = 8080\nto = "192.168.1.10:7000"\n' >>"$LAB_DIR/postern.toml"
    postern reload
    equals "$(ask wan ask tcp "$WAN" 8080 --sport 50000)" "203.0.113.1 50000" "the new forward"
    # By signal as well.
    cp "$LAB_DIR/good.toml" "$LAB_DIR/postern.toml"
    kill -HUP "$(cat "$LAB_DIR/appliance")"
    wait_for 5 "the forward to go" no_forwards
    equals "$(ask wan ask tcp "$WAN" 8080 --timeout 1)" silence "the forward that went"
    goes_on along
}

no_forwards() {
    [ "$(postern --json status | jq .forwards)" = 0 ]
}

# C194
case_deleting_one_connection_ends_only_that_one() {
    local id
    talk doomed lan udp "$NEAR" 7000 --sport 43001
    talk spared lan udp "$NEAR" 7000 --sport 43002
    # A filter that matches nothing deletes nothing, and says so.
    fails postern conntrack delete -p udp --sport 43003
    fails postern conntrack delete 123456789
    goes_on doomed
    # So that it cannot simply begin anew.
    postern iptables -I FORWARD -p udp --sport 43001 -m conntrack --ctstate NEW -j DROP
    goes_on doomed
    id=$(postern --json conntrack list -p udp --sport 43001 | jq -r '.[].id')
    has "$(postern conntrack get "$id")" "sport=43001"
    postern conntrack delete "$id"
    wait_for 10 "it to end" grep -q 'ended silence' "$LAB_DIR/talk-doomed.log"
    goes_on spared
    postern iptables -D FORWARD 1
}

# C195
case_the_connection_table_lists_counts_and_flushes() {
    local listed n crowd
    postern conntrack flush
    equals "$(tool lan crowd "$NEAR" 7000 300)" 300 "flows answered"
    listed=$(postern conntrack list -p udp --dport 7000)
    equals "$(grep -c '^udp ' <<<"$listed")" 300 "connections listed"
    equals "$(grep '^udp ' <<<"$listed" | grep -o 'sport=[0-9]*' | awk 'NR % 2' | sort -u | wc -l)" 300 "different ones"
    has "$listed" "^udp +17 [0-9]+ src=192\.168\.1\.10 dst=203\.0\.113\.1 sport=[0-9]+ dport=7000 packets=3 bytes=87 src=203\.0\.113\.1 dst=203\.0\.113\.2 sport=7000 dport=[0-9]+ packets=3 "
    [ "$(postern conntrack count)" -ge 300 ] || fail "count: $(postern conntrack count)"
    # Listing while it changes: no duplicates, and it ends.
    tool lan crowd "$NEAR" 7000 300 &
    crowd=$!
    for n in 1 2 3; do
        listed=$(postern --json conntrack list | jq -r '.[].id')
        equals "$(sort <<<"$listed" | uniq -d | wc -l)" 0 "ids listed twice"
    done
    wait "$crowd"
    postern conntrack flush
    [ "$(postern conntrack count)" -lt 300 ] || fail "not flushed"
    canary
}

once_the_API_document_names_what_it_serves() {
    has "$("$POSTERN" api)" '"openapi"'
    in_ns fw curl -sS --max-time 5 --unix-socket "$(socket)" http://postern/v1/status | jq -e .books
    equals "$(in_ns fw curl -sS --max-time 5 -o /dev/null -w '%{http_code}' --unix-socket "$(socket)" http://postern/v1/nowhere)" 404 "an unknown path"
}
