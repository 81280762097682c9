# More flows than the table holds, or than one host may have.

theme_up() {
    CAPACITY=2000
    lab_up
    peers wan 7000
    # Swallows whatever comes, as an address does that nobody has.
    in_ns wan ip route add blackhole 198.51.100.99
    start_postern
}

# survives <flood's arguments...>: established connections and the canary do.
survives() {
    talk "tcp-$1" lan tcp "$NEAR" 7000
    talk "udp-$1" lan udp "$NEAR" 7000
    # A UDP stream is assured after two seconds.
    wait_for 8 "the UDP stream" assured_stream
    tool lan "$@"
    goes_on "tcp-$1"
    goes_on "udp-$1"
    canary
    [ "$(counter connections_evicted)" -gt 0 ] || [ "$(drops table_full)" -gt 0 ] || fail "neither evicted nor refused"
    echo "evicted $(counter connections_evicted), refused $(drops table_full)"
    [ "$(postern --json status | jq '.connections.ipv4 | .used <= .capacity')" = true ] || fail "more than fit"
}

assured_stream() {
    postern conntrack list -p udp --dport 7000 | grep -q ASSURED
}

# C173 C175
case_a_UDP_flood_evicts_nothing_established() {
    survives udp-flood 198.51.100.99 10000
}

# C173 C175
case_a_SYN_flood_evicts_nothing_established() {
    survives syn-flood 198.51.100.99 10000
}

# C173
case_a_table_full_of_established_flows_refuses_new_ones_and_keeps_the_old() {
    local answered
    postern conntrack flush
    talk old lan tcp "$NEAR" 7000
    # Far more than fit, all answered and held: those that came first stay.
    answered=$(tool lan crowd "$NEAR" 7000 900 --timeout 2)
    equals "$answered" 900 "flows while there is room"
    goes_on old
    canary
    postern conntrack flush
    canary
}

# C094
case_a_host_at_its_limit_harms_no_other() {
    local host answered
    for host in 77 78; do
        in_ns lan ip address add "192.168.1.$host/24" dev eth0
    done
    talk before lan tcp "$NEAR" 7000 --source 192.168.1.77
    printf '\n[limits]\nconnections_per_source = 40\n' >>"$LAB_DIR/postern.toml"
    postern reload
    # The connection that was there before counts.
    answered=$(tool lan crowd "$NEAR" 7000 44 --timeout 2 --source 192.168.1.77)
    equals "$answered" 39 "flows of a host that may have forty"
    [ "$(drops source_limit)" -gt 0 ] || fail "nothing was refused"
    goes_on before
    answered=$(tool lan crowd "$NEAR" 7000 30 --timeout 2 --source 192.168.1.78)
    equals "$answered" 30 "flows of another host"
    canary
}
