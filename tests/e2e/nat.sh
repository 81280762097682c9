# Masquerading, as servers and hosts see it.

theme_up() {
    lab_up
    second_lan_host
    peers wan 7000
    start_postern
}

# C072 C075
case_the_server_sees_the_WAN_address_and_the_same_port() {
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 40001)" "$WAN 40001" "the TCP server's peer"
    equals "$(ask lan ask udp "$NEAR" 7000 --sport 40002)" "$WAN 40002" "the UDP server's peer"
}

# C076
once_a_privileged_port_stays_privileged() {
    equals "$(ask lan ask udp "$NEAR" 7000 --sport 123)" "$WAN 123" "the server's peer"
}

# C148
case_IPv6_is_routed_untranslated() {
    equals "$(ask lan ask tcp 2001:db8:2::1 7000 --sport 40003)" "2001:db8:1::10 40003" "the TCP server's peer"
    equals "$(ask lan ask udp 2001:db8:2::1 7000 --sport 40004)" "2001:db8:1::10 40004" "the UDP server's peer"
}

# C073
case_two_hosts_with_the_same_port_both_get_through() {
    local protocol first second
    for protocol in tcp udp; do
        talk "one-$protocol" lan "$protocol" "$NEAR" 7000 --sport 41000
        talk "two-$protocol" lan2 "$protocol" "$NEAR" 7000 --sport 41000
        first=$(who_is "one-$protocol") second=$(who_is "two-$protocol")
        equals "$first" "$WAN 41000" "the first one's address"
        has "$second" "^203\.0\.113\.2 [0-9]+$"
        [ "$first" != "$second" ] || fail "both are $first"
        goes_on "one-$protocol"
        goes_on "two-$protocol"
    done
}

# C049
case_two_hosts_ping_with_the_same_identifier() {
    in_ns lan ping -n -q -e 77 -c 5 -i 0.2 -W 2 "$FAR" &
    in_ns lan2 ping -n -q -e 77 -c 5 -i 0.2 -W 2 "$FAR"
    wait $!
}

# C072
case_no_private_address_ever_appears_on_the_WAN() {
    watch_link private wan eth0 "net 192.168.0.0/16 or icmp"
    ask lan ask tcp "$NEAR" 7000
    ask lan ask udp "$NEAR" 7000
    # Refused ports, closed ports, errors with quotes.
    ask lan ask tcp "$NEAR" 7001
    ask lan ask udp "$NEAR" 7001
    in_ns lan traceroute -n -w 1 -q 1 -m 3 "$FAR"
    # Addresses nobody has, on this side and beyond.
    ask lan ask tcp 203.0.113.77 7000 --timeout 1
    canary
    [ "$(seen private 'ICMP echo')" -gt 0 ] || fail "the watch saw no ping"
    equals "$(seen private '192\.168\.')" 0 "packets with private addresses on the WAN"
}

# C052
once_refusals_come_back_as_refusals() {
    equals "$(ask lan ask tcp "$NEAR" 7001)" refused "a closed TCP port"
    equals "$(ask lan ask udp "$NEAR" 7001)" refused "a closed UDP port"
    equals "$(ask lan ask udp 2001:db8:2::1 7001)" refused "a closed UDP port by IPv6"
}

# C078 C079
case_a_third_party_cannot_use_a_mapping() {
    in_ns wan ip addr add 203.0.113.66/24 dev eth0
    talk mapped lan udp "$NEAR" 7000 --sport 42000
    watch_link third lan eth0 "src 203.0.113.66"
    equals "$(ask wan ask udp "$WAN" 42000 --source 203.0.113.66 --timeout 1)" silence "another host"
    equals "$(ask wan ask tcp "$WAN" 42000 --source 203.0.113.66 --timeout 1)" silence "another host"
    goes_on mapped
    equals "$(seen third)" 0 "packets of a third party on the LAN"
}

# C084
once_a_protocol_without_ports_is_translated_by_address() {
    watch_link proto wan eth0 "ip proto 253"
    tool lan packet "$INSIDE" "$NEAR" 253
    canary
    equals "$(seen proto '203\.0\.113\.2 > 203\.0\.113\.1')" 1 "translated packets"
    # Its answer comes back, another host's does not.
    watch_link answer lan eth0 "ip proto 253"
    tool wan packet "$NEAR" "$WAN" 253
    tool wan packet 203.0.113.66 "$WAN" 253
    canary
    equals "$(seen answer '203\.0\.113\.1 > 192\.168\.1\.10')" 1 "answers"
    equals "$(seen answer '203\.0\.113\.66')" 0 "a stranger's packets"
}
