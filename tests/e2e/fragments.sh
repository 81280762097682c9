# Datagrams in fragments, and packets that are cut for a smaller link.

theme_up() {
    WAN_CONFIG='mtu = 1400
address = ["203.0.113.2/24", "2001:db8:2::2/64"]
gateway = ["203.0.113.1", "2001:db8:2::1"]'
    lab_up
    in_ns wan ip link set eth0 mtu 1400
    # shellcheck disable=SC2086
    start_in wan echo $TOOLS echo 7007
    wait_for 10 "the echo server" grep -q ready "$LAB_DIR/echo.log"
    # shellcheck disable=SC2086
    start_in lan echo-inside $TOOLS echo 7008
    wait_for 10 "the echo server inside" grep -q ready "$LAB_DIR/echo-inside.log"
    # Bound, or its UDP answers would come from another address than the one asked.
    start_in wan iperf iperf3 -s -B "$FAR"
    start_postern
}

# C126 C129 C137
case_pings_of_4000_bytes_cross_both_ways() {
    # Cut for 1500 by the host inside, and once more for 1400 by the appliance; the answers for 1400.
    in_ns lan ping -n -M dont -s 4000 -c 5 -i 0.2 -W 2 "$FAR"
    in_ns lan ping -n -M dont -s 60000 -c 3 -i 0.2 -W 2 "$FAR"
    # Of one packet, that leaves in two.
    in_ns lan ping -n -M dont -s 1472 -c 3 -i 0.2 -W 2 "$FAR"
}

# C153
case_IPv6_pings_of_4000_bytes_cross_both_ways() {
    # The host learns of the smaller MTU first, and fragments for it.
    in_ns lan ping -n -s 4000 -c 1 -W 2 "$FAR6" || true
    in_ns lan ping -n -s 4000 -c 5 -i 0.2 -W 2 "$FAR6"
}

# C126 C127 C129
case_datagrams_of_any_size_are_echoed() {
    equals "$(ask lan echo-ask "$NEAR" 7007 1 1373 1472 1473 2000 8192 32000 65000)" echoed "by IPv4"
    equals "$(ask lan echo-ask 2001:db8:2::1 7007 1 1353 2000 8192 32000 65000)" echoed "by IPv6"
}

# C126
case_datagrams_in_fragments_reach_a_forward() {
    postern forward add udp 7008 192.168.1.10:7008
    equals "$(ask wan echo-ask "$WAN" 7008 100 2000 8192 32000)" echoed "by the forward"
}

# C126 C134
case_iperf_with_large_datagrams_loses_little() {
    local lost
    in_ns lan iperf3 -u -l 8000 -b 50M -c "$FAR" -t 3 --connect-timeout 5000 --json >"$LAB_DIR/iperf.json" ||
        fail "$(jq -r .error "$LAB_DIR/iperf.json")"
    lost=$(jq -r '.end.sum.lost_percent | floor' "$LAB_DIR/iperf.json")
    [ "$lost" -lt 5 ] || fail "$lost % lost; of them dropped here: $(drops_by_reason)"
    [ "$(drops fragment_overlap)" = 0 ] || fail "overlaps among honest fragments"
}
