# More flows than the table holds, or than one host may have.

PLACES=1000

theme_up() {
    CAPACITY=$PLACES
    lab_up
    peers wan 7000
    # Swallows whatever comes, as an address does that nobody has.
    in_ns wan ip route add blackhole 198.51.100.99
    start_postern
}

# survives <flood's arguments...>: established connections and the canary do.
survives() {
    local evicted refused
    evicted=$(counter connections_evicted) refused=$(drops table_full)
    talk "tcp-$1" lan tcp "$NEAR" 7000
    talk "udp-$1" lan udp "$NEAR" 7000
    # A UDP stream is assured after two seconds.
    wait_for 8 "the UDP stream" assured_stream
    tool lan "$@"
    goes_on "tcp-$1"
    goes_on "udp-$1"
    canary
    evicted=$(($(counter connections_evicted) - evicted)) refused=$(($(drops table_full) - refused))
    echo "evicted $evicted, refused $refused"
    # Far more than the table holds, none of them answered: all but what fits gave way or was kept out.
    [ "$((evicted + refused))" -gt "$(($3 - PLACES - 500))" ] || fail "only $evicted evicted, $refused refused"
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

# C173 C175: all of them answered and held, to the last place of every worker that their server's connections belong to.
case_a_table_full_of_established_flows_refuses_new_ones_and_keeps_the_old() {
    local log=$LAB_DIR/fill.log filler held refused evicted rounds newcomer
    postern conntrack flush
    talk old lan tcp "$NEAR" 7000
    # shellcheck disable=SC2086
    start_here lan fill $TOOLS fill "$NEAR" 7000 "$((2 * PLACES))"
    filler=$PID
    wait_for 90 "the table to fill" grep -q full "$log"
    held=$(sed -n 's/^full //p' "$log")
    echo "$held held"
    [ "$held" -le "$PLACES" ] || fail "$held connections in $PLACES places"
    [ "$held" -ge "$((PLACES * 9 / 10))" ] || fail "refused with $held connections in $PLACES places"
    # Nobody else gets in, whatever it sends. (While it filled up, one whose handshake was under way may have made room.)
    refused=$(drops table_full) evicted=$(counter connections_evicted)
    for newcomer in tcp udp tcp udp; do
        equals "$(ask lan ask "$newcomer" "$NEAR" 7000 --timeout 0.5)" silence "a newcomer by $newcomer"
    done
    [ "$(($(drops table_full) - refused))" -ge 4 ] || fail "newcomers were not refused for want of room"
    # And nobody was put out: every one of them is answered, once more from begin to end.
    rounds=$(grep -c '^all answer' "$log") || true
    wait_for 60 "all to be answered" rounds_of "$log" "$((rounds + 2))"
    goes_on old
    equals "$(counter connections_evicted)" "$evicted" "connections evicted"
    kill -KILL "$filler"
    # With room again anybody gets in.
    postern conntrack flush
    canary
    equals "$(ask lan ask tcp "$NEAR" 7000 --timeout 3 | cut -d' ' -f1)" "$WAN" "a newcomer when there is room"
}

rounds_of() {
    [ "$(grep -c '^all answer' "$1")" -ge "$2" ]
}

# C094
case_a_host_at_its_limit_harms_no_other() {
    local host answered refused
    for host in 77 78; do
        in_ns lan ip address add "192.168.1.$host/24" dev eth0
    done
    talk before lan tcp "$NEAR" 7000 --source 192.168.1.77
    printf '\n[limits]\nconnections_per_source = 40\n' >>"$LAB_DIR/postern.toml"
    postern reload
    refused=$(drops source_limit)
    # The connection that was there before counts.
    answered=$(tool lan crowd "$NEAR" 7000 44 --timeout 2 --source 192.168.1.77)
    equals "$answered" 39 "flows of a host that may have forty"
    [ "$(drops source_limit)" -gt "$refused" ] || fail "nothing was refused"
    goes_on before
    answered=$(tool lan crowd "$NEAR" 7000 30 --timeout 2 --source 192.168.1.78)
    equals "$answered" 30 "flows of another host"
    canary
}
