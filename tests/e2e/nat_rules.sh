# The tables nat and raw, loaded by iptables-restore, under real programs.

POOL=192.0.2                # addresses beyond the appliance, routed to it

theme_up() {
    lab_up
    second_lan_host
    in_ns wan ip route add "$POOL.0/24" via "$WAN"
    peers wan 7000
    peers lan 7000
    peers lan 7001
    page lan 8081 one
    page lan2 8081 two
    page wan 80 far
    start_in wan names dnsmasq -k --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces \
        --listen-address="$NEAR" --address=/name.example/192.0.2.80 --pid-file=
    wait_for 10 "dnsmasq" answers_names
    start_postern
}

answers_names() {
    in_ns wan dig +short +time=1 +tries=1 @"$NEAR" name.example | grep -q 192.0.2.80
}

# load <rules of nat> [<rules of raw>]: the other rules stay.
load() {
    {
        printf '*nat\n%s\nCOMMIT\n' "$1"
        printf '*raw\n%s\nCOMMIT\n' "${2:-}"
    } | postern iptables-restore
}

# C072 C092
case_hosts_appear_behind_a_pool() {
    local first second
    load "-A POSTROUTING -o wan -j SNAT --to-source $POOL.8-$POOL.11"
    first=$(ask lan ask tcp "$NEAR" 7000 --sport 40001)
    has "$first" "^192\.0\.2\.(8|9|10|11) 40001$"
    second=$(ask lan ask udp "$NEAR" 7000 --sport 40002)
    equals "${second% *}" "${first% *}" "one host's address, again"
    has "$(ask lan2 ask tcp "$NEAR" 7000)" "^192\.0\.2\.(8|9|10|11) "
    equals "$(fetch lan "http://$NEAR/")" far "the page"
    in_ns lan ping -n -q -c 2 -i 0.2 -W 2 "$NEAR"
    has "$(postern iptables -t nat -L POSTROUTING -n -v -x)" "^ *[1-9][0-9]* .* SNAT .* to:192\.0\.2\.8-192\.0\.2\.11"
    load ""
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 40003)" "$WAN 40003" "the interface's own again"
}

# Each host has its ports, and by its port outside a host is found again.
case_a_port_outside_says_which_host_it_was() {
    local host seen code=0
    load "-A POSTROUTING -o wan -s 192.168.1.0/24 -j SNAT --to-source $POOL.8-$POOL.9 --port-blocks 500"
    for host in "lan 192.168.1.10" "lan2 192.168.1.11"; do
        for protocol in tcp udp tcp udp; do
            seen=$(ask "${host% *}" ask "$protocol" "$NEAR" 7000)
            has "$seen" "^192\.0\.2\.8 [67][0-9]{3}$"
            # shellcheck disable=SC2086
            equals "$(postern whose $seen)" "${host#* }" "who had $seen"
        done
    done
    postern whose "$POOL.8" 80 2>"$LAB_DIR/nobody" || code=$?
    equals "$code" 1 "exit code"
    has "$(cat "$LAB_DIR/nobody")" "no host has port 80"
    load ""
}

# C099: shared by client; a client stays with its server.
case_a_service_is_shared_between_two_servers() {
    local n first answers=
    load "-A PREROUTING -d $WAN -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.10-192.168.1.11:8081"
    for n in $(seq 101 112); do
        in_ns wan ip addr add "203.0.113.$n/24" dev eth0
        first=$(fetch wan --interface "203.0.113.$n" "http://$WAN:8080/")
        equals "$(fetch wan --interface "203.0.113.$n" "http://$WAN:8080/")" "$first" "the same client's server"
        answers+=" $first"
    done
    has "$answers" one
    has "$answers" two
    has "$(postern conntrack list -p tcp)" "dport=8080 .*src=192\.168\.1\.1[01] .*sport=8081"
    # C095: from inside, by the outside address.
    has "$(fetch lan2 "http://$WAN:8080/")" "^(one|two)$"
    load ""
}

# Whoever is asked for names, one server answers; the client does not notice.
case_every_name_is_asked_of_one_server() {
    local asked
    load "-A PREROUTING -i lan -p udp --dport 53 -j DNAT --to-destination $NEAR"
    for asked in 8.8.8.8 9.9.9.9 "$FAR"; do
        equals "$(in_ns lan dig +short +time=2 +tries=2 "@$asked" name.example)" 192.0.2.80 "the answer of $asked"
    done
    load ""
}

# REDIRECT: a proxy on the appliance.
case_a_proxy_on_the_appliance_gets_the_LANs_web() {
    page fw 3128 proxy
    load "-A PREROUTING -i lan -p tcp --dport 80 -j REDIRECT --to-ports 3128"
    equals "$(fetch lan "http://$NEAR/")" proxy "the page"
    equals "$(fetch lan http://198.51.100.9/)" proxy "the page of nobody"
    load ""
    equals "$(fetch lan "http://$NEAR/")" far "the page, without the rule"
}

# NETMAP: the LAN as another network, both ways.
case_a_network_is_mapped_one_to_one() {
    load "-A PREROUTING -d $POOL.0/24 -j NETMAP --to 192.168.1.0/24
-A POSTROUTING -o wan -s 192.168.1.0/24 -j NETMAP --to $POOL.0/24"
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 40010)" "$POOL.10 40010" "how a host is seen"
    equals "$(ask lan2 ask udp "$NEAR" 7000 --sport 40010)" "$POOL.11 40010" "how another is seen"
    equals "$(ask wan ask tcp "$POOL.10" 7000 --sport 50010)" "$NEAR 50010" "who dials in"
    equals "$(ask wan ask udp "$POOL.10" 7001 --sport 50011)" "$NEAR 50011" "who dials in"
    in_ns wan ping -n -q -c 2 -i 0.2 -W 2 "$POOL.11"
    load ""
    equals "$(ask wan ask tcp "$POOL.10" 7000 --timeout 1)" silence "without the rule"
}

# NOTRACK: names are asked and answered without a connection.
case_what_is_not_tracked_leaves_no_connection() {
    in_ns wan ip route add 192.168.1.0/24 via "$WAN"
    load "" "-A PREROUTING -p udp --dport 53 -j NOTRACK
-A PREROUTING -p udp --sport 53 -j CT --notrack"
    postern iptables -I FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT
    canary
    equals "$(in_ns lan dig -b "$INSIDE#41053" +short +time=2 +tries=3 "@$NEAR" name.example)" 192.0.2.80 "the answer"
    equals "$(postern conntrack list -p udp | grep -c 'sport=41053 ' || true)" 0 "connections for names"
    has "$(ask lan ask udp "$NEAR" 7000 --sport 40020)" "^203\.0\.113\.2 40020$"
    postern iptables -D FORWARD 1
    load ""
    in_ns wan ip route del 192.168.1.0/24 via "$WAN"
    equals "$(in_ns lan dig -b "$INSIDE#41054" +short +time=2 +tries=2 "@$NEAR" name.example)" 192.0.2.80 "the answer, tracked"
    has "$(postern conntrack list -p udp)" "sport=41054 dport=53 "
}

# C091 C192
once_what_cannot_be_is_refused_and_nothing_changes() {
    local before out
    load "-A POSTROUTING -o wan -j SNAT --to-source $POOL.8"
    before=$(postern iptables-save)
    out=$(fails load "-A POSTROUTING -j SNAT --to-source 0.0.0.0" 2>&1)
    has "$out" "line 2"
    fails load "-A OUTPUT -j DNAT --to-destination $POOL.9"
    fails load "-A PREROUTING -j SNAT --to-source $POOL.9"
    fails load "-A PREROUTING -j DROP"
    equals "$(postern iptables-save)" "$before" "the rules"
    load ""
}
