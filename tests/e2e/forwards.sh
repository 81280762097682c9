# Port forwards, added and removed while traffic runs.

theme_up() {
    lab_up
    second_lan_host
    mkdir -p "$LAB_DIR/www"
    head -c 20000000 /dev/urandom >"$LAB_DIR/www/20MB"
    serve wan 80 "$LAB_DIR/www"
    peers wan 7000
    peers lan 7000
    peers lan 7001
    peers lan 7002
    start_postern
}

# C099 C101
case_a_forward_works_at_once_and_keeps_the_clients_address() {
    equals "$(ask wan ask tcp "$WAN" 8080 --timeout 1)" silence "before it is added"
    postern forward add --interface wan --protocol tcp --port 8080 --to "$INSIDE:7000"
    equals "$(ask wan ask tcp "$WAN" 8080 --sport 50001)" "203.0.113.1 50001" "the server's peer"
    has "$(postern forward list)" "^wan +tcp +8080 +-> +192\.168\.1\.10:7000"
    # Neighbours and the other protocol stay closed.
    equals "$(ask wan ask tcp "$WAN" 8079 --timeout 1)" silence "the port below"
    equals "$(ask wan ask tcp "$WAN" 8081 --timeout 1)" silence "the port above"
    equals "$(ask wan ask udp "$WAN" 8080 --timeout 1)" silence "the other protocol"
    has "$(postern conntrack list)" "dst=203\.0\.113\.2 sport=50001 dport=8080 .*src=192\.168\.1\.10 dst=203\.0\.113\.1 sport=7000 dport=50001"
    postern forward remove --interface wan --protocol tcp --port 8080
}

# C099
case_a_UDP_forward_works() {
    postern forward add udp 8081 "$INSIDE:7000"
    equals "$(ask wan ask udp "$WAN" 8081 --sport 50002)" "203.0.113.1 50002" "the server's peer"
    equals "$(ask wan ask tcp "$WAN" 8081 --timeout 1)" silence "the other protocol"
    postern forward remove udp 8081
}

# C100
case_two_clients_with_the_same_port_stay_apart() {
    in_ns wan ip addr add 203.0.113.66/24 dev eth0
    postern forward add tcp 8082 "$INSIDE:7000"
    talk client-one wan tcp "$WAN" 8082 --sport 50003 --source 203.0.113.1
    talk client-two wan tcp "$WAN" 8082 --sport 50003 --source 203.0.113.66
    equals "$(who_is client-one)" "203.0.113.1 50003" "the first client"
    equals "$(who_is client-two)" "203.0.113.66 50003" "the second client"
    goes_on client-one
    goes_on client-two
    postern forward remove tcp 8082
}

# C105
case_a_range_maps_one_to_one_with_an_offset() {
    local n
    postern forward add tcp 9000-9002 "$INSIDE:7000"
    for n in 0 1 2; do
        equals "$(ask wan ask tcp "$WAN" $((9000 + n)) --sport $((51000 + n)))" "203.0.113.1 $((51000 + n))" "port 900$n"
        has "$(postern conntrack list)" "dport=900$n .*src=192\.168\.1\.10 .*sport=700$n dport=5100$n"
    done
    equals "$(ask wan ask tcp "$WAN" 9003 --timeout 1)" silence "the port after the last"
    equals "$(ask wan ask tcp "$WAN" 8999 --timeout 1)" silence "the port before the first"
    postern forward remove tcp 9000-9002
}

# C095 C096
case_the_LAN_reaches_a_forward_by_the_WAN_address() {
    local protocol
    for protocol in tcp udp; do
        postern forward add "$protocol" 8083 "$INSIDE:7000"
        # The server sees the firewall, not its neighbour: its answer must come back this way. The port is the
        # owner's to choose.
        has "$(ask lan2 ask "$protocol" "$WAN" 8083 --sport 50004)" "^192\.168\.1\.1 [0-9]+$"
        # A server that asks for itself.
        has "$(ask lan ask "$protocol" "$WAN" 8083 --sport 50005)" "^192\.168\.1\.1 [0-9]+$"
        postern forward remove "$protocol" 8083
    done
}

# C104
case_removing_a_forward_refuses_new_connections_at_once() {
    postern forward add tcp 8084 "$INSIDE:7000"
    talk kept wan tcp "$WAN" 8084
    postern forward remove tcp 8084
    equals "$(ask wan ask tcp "$WAN" 8084 --timeout 1)" silence "a new connection"
    # The one that was open stays.
    goes_on kept
    fails postern forward remove tcp 8084
}

once_overlapping_forwards_are_refused() {
    local out
    postern forward add tcp 8100-8110 "$INSIDE:7000"
    out=$(fails postern forward add tcp 8105 "$INSIDE:7001" 2>&1)
    has "$out" overlap
    fails postern forward add tcp 0 "$INSIDE:7000"
    fails postern forward add sctp 8200 "$INSIDE:7000"
    fails postern forward add --interface nowhere --protocol tcp --port 8200 --to "$INSIDE:7000"
    equals "$(postern --json forward list | jq '[.. | objects | select(.protocol? == "tcp")] | length')" 1 "forwards"
    postern forward remove tcp 8100-8110
}

# C106
case_a_trigger_of_the_run_opens_for_who_pulled_it_and_lasts_over_a_reload() {
    local out
    postern trigger add --timeout 30s udp 6112 7001
    has "$(postern trigger list)" '^wan +udp +6112 +-> +7001 +closed \(opens for 30s\) +\(until the next start\)'
    equals "$(ask wan ask udp "$WAN" 7001 --timeout 1)" silence "before"
    ask lan ask udp "$NEAR" 6112 --timeout 1
    equals "$(ask wan ask udp "$WAN" 7001 --sport 50020)" "203.0.113.1 50020" "the server's peer"
    has "$(postern trigger list)" 'open to 192\.168\.1\.10 for (2[0-9]|30)s'
    postern reload
    has "$(postern trigger list)" 'open to 192\.168\.1\.10'
    equals "$(ask wan ask udp "$WAN" 7001 --sport 50021)" "203.0.113.1 50021" "after the reload"
    out=$(fails postern trigger add udp 9 7000-7002 2>&1)
    has "$out" 'another trigger opens: wan udp 6112 opens 7001'
    fails postern trigger add --interface nowhere udp 9 10
    fails postern trigger add sctp 9 10
    postern trigger remove udp 7001
    equals "$(ask wan ask udp "$WAN" 7001 --sport 50022 --timeout 1)" silence "removed"
    fails postern trigger remove udp 7001
    equals "$(postern trigger list)" "" "triggers"
}

# C190
case_forwards_come_and_go_while_a_transfer_runs() {
    local n transfer
    fetch lan --limit-rate 6M -o "$LAB_DIR/got" "http://$FAR/20MB" &
    transfer=$!
    talk steady lan tcp "$NEAR" 7000
    sleep 0.3
    for n in $(seq 10); do
        postern forward add tcp "$((8300 + n))" "$INSIDE:7000"
        equals "$(ask wan ask tcp "$WAN" "$((8300 + n))" --sport "$((52000 + n))")" "203.0.113.1 $((52000 + n))" "forward $n"
    done
    for n in $(seq 10); do
        postern forward remove tcp "$((8300 + n))"
    done
    wait "$transfer"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/20MB"
    goes_on steady
}

# C075 C190. Steering epochs: the port's packets belong to other workers from now on, but this connection's do not.
case_a_forward_leaves_a_connection_alone_that_has_its_port() {
    local port
    for port in 45000 45001 45002 45003; do
        holders "$port"
        postern forward add tcp "$port" "$INSIDE:7000"
        postern forward add udp "$port" "$INSIDE:7000"
        goes_on "holder-$port"
        goes_on "holder-udp-$port"
        # Others reach the forward.
        equals "$(ask wan ask tcp "$WAN" "$port" --sport $((port + 8000)))" "203.0.113.1 $((port + 8000))" "the forward on $port"
        goes_on "holder-$port"
        postern forward remove tcp "$port"
        postern forward remove udp "$port"
        goes_on "holder-$port"
        goes_on "holder-udp-$port"
    done
}

holders() {
    talk "holder-$1" lan tcp "$NEAR" 7000 --sport "$1"
    talk "holder-udp-$1" lan udp "$NEAR" 7000 --sport "$1"
    equals "$(who_is "holder-$1")" "$WAN $1" "preserved port"
}

# C190. Seven older epochs are kept (EPOCHS_MAX). After more changes than that a packet without a connection is offered
# to every worker, so that one whose port the first change took is still found.
case_more_than_seven_changes_leave_a_connection_alone() {
    local n port
    for port in 46000 46001 46002 46003; do
        holders "$port"
        postern forward add tcp "$port" "$INSIDE:7000"
        postern forward add udp "$port" "$INSIDE:7000"
    done
    for port in 46000 46001 46002 46003; do
        goes_on "holder-$port"
        goes_on "holder-udp-$port"
    done
    for n in $(seq 4); do
        postern forward remove tcp "$((45999 + n))"
        postern forward remove udp "$((45999 + n))"
    done
    for port in 46000 46001 46002 46003; do
        goes_on "holder-$port"
        goes_on "holder-udp-$port"
    done
}

# C103
once_a_forward_to_nobody_disturbs_nobody() {
    postern forward add tcp 8400 192.168.1.99:80
    has "$(ask wan ask tcp "$WAN" 8400 --timeout 4)" "^(silence|unreachable)"
    canary
    postern forward remove tcp 8400
}
