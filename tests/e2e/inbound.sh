# What nobody asked for. Every "nothing arrives" follows a canary that did cross.

theme_up() {
    lab_up
    peers lan 7000
    in_ns wan ip route add 192.168.1.0/24 via "$WAN"
    start_postern
}

# The canary was seen to arrive, and it alone.
nothing_but_the_canary() {
    cat "$LAB_DIR/seen-$1.log"
    equals "$(seen "$1" 'ICMP echo reply')" 1 "the canary's answers seen"
    equals "$(seen "$1")" 1 "packets that came in (the canary's answer)"
}

# C013 C051 C149
case_unsolicited_packets_are_dropped_and_counted() {
    local before
    canary
    before=$(drops denied_by_policy)
    watch_link inbound lan eth0 "tcp or udp or icmp or (icmp6 and ip6[40] = 128)"
    equals "$(ask wan ask tcp "$WAN" 7000 --timeout 1)" silence "TCP to the WAN address"
    equals "$(ask wan ask udp "$WAN" 7000 --timeout 1)" silence "UDP to the WAN address"
    fails in_ns wan ping -n -q -c 2 -i 0.2 -W 1 "$WAN"
    equals "$(ask wan ask tcp 2001:db8:1::10 7000 --timeout 1)" silence "TCP to an IPv6 host inside"
    fails in_ns wan ping -n -q -c 2 -i 0.2 -W 1 2001:db8:1::10
    # At least: a SYN, a datagram, two pings, by IPv4; a SYN and two pings by IPv6.
    [ "$(drops denied_by_policy)" -ge $((before + 7)) ] || fail "not all counted: $(postern drops)"
    canary
    nothing_but_the_canary inbound
}

# C086
once_private_addresses_cannot_be_reached_from_outside() {
    watch_link private lan eth0 ip
    equals "$(ask wan ask tcp "$INSIDE" 7000 --timeout 1)" silence "TCP to an inside address"
    equals "$(ask wan ask udp "$INSIDE" 7000 --timeout 1)" silence "UDP to an inside address"
    fails in_ns wan ping -n -q -c 1 -W 1 "$INSIDE"
    canary
    nothing_but_the_canary private
}

# C087 C089
case_spoofed_sources_are_dropped() {
    local before
    canary
    before=$(dropped_in_all)
    watch_link spoofed lan eth0 ip
    watch_link answers wan eth0 ip
    # A LAN source on the WAN, loopback, broadcast, multicast, nobody's, our own (land).
    for source in 192.168.1.77 127.0.0.1 255.255.255.255 224.0.0.1 0.0.0.0 "$WAN"; do
        tool wan packet "$source" "$WAN" udp --sport 7000 --dport 7000
        tool wan packet "$source" "$INSIDE" udp --dport 7000
        tool wan packet "$source" "$WAN" tcp --sport 7000 --dport 7000
    done
    # A foreign source on the LAN.
    tool lan packet 198.51.100.7 "$FAR" udp
    tool lan packet 8.8.8.8 192.168.1.1 tcp
    canary
    nothing_but_the_canary spoofed
    # Nothing is answered, and the foreign sources stay inside.
    equals "$(seen answers 'ICMP echo request')" 1 "the canary"
    equals "$(seen answers)" 1 "packets on the WAN (the canary)"
    [ "$(dropped_in_all)" -ge $((before + 20)) ] || fail "not all counted: $(postern drops)"
}

# C014
once_impossible_TCP_flags_are_dropped() {
    local before flags
    canary
    before=$(drops tcp_flags)
    watch_link flags wan eth0 "dst port 7001 or icmp"
    # None; FIN; FIN PSH URG; SYN FIN; SYN RST; FIN RST; all.
    for flags in 0 0x01 0x29 0x03 0x06 0x05 0x3f; do
        tool lan packet "$INSIDE" "$FAR" tcp --dport 7001 --flags "$flags"
    done
    canary
    equals "$(seen flags 7001)" 0 "impossible segments on the WAN"
    [ "$(drops tcp_flags)" -ge $((before + 5)) ] || fail "not counted: $(postern drops)"
}

# C090
once_broadcasts_are_not_forwarded() {
    watch_link broadcast lan eth0 ip
    tool wan packet "$NEAR" 192.168.1.255 udp
    tool wan packet "$NEAR" 203.0.113.2 udp
    canary
    nothing_but_the_canary broadcast
}
