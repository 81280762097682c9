# The appliance itself as a host: its TAPs, its services, its clients.

theme_up() {
    lab_up
    page wan 80 "from the WAN"
    start_postern
    mkdir -p "$LAB_DIR/page-fw"
    echo "from the appliance" >"$LAB_DIR/page-fw/index.html"
    start_in fw service python3 -m http.server --directory "$LAB_DIR/page-fw" 8000
    wait_for 15 "the service" in_ns fw curl -s -o /dev/null http://127.0.0.1:8000/
    peers fw 7000
}

case_the_LAN_pings_the_appliance() {
    in_ns lan ping -n -q -c 5 -i 0.1 -W 2 192.168.1.1
    in_ns lan ping -n -q -c 5 -i 0.1 -W 2 2001:db8:1::1
    in_ns lan ping -n -q -c 3 -i 0.1 -W 2 "$WAN"
}

case_a_service_on_the_appliance_is_reached_from_the_LAN() {
    equals "$(fetch lan http://192.168.1.1:8000/)" "from the appliance" "the page"
    equals "$(ask lan ask tcp 192.168.1.1 7000 --sport 40000)" "192.168.1.10 40000" "the service's peer"
    equals "$(ask lan ask udp 192.168.1.1 7000 --sport 40000)" "192.168.1.10 40000" "the service's peer"
    has "$(postern conntrack list)" "src=192\.168\.1\.10 dst=192\.168\.1\.1 sport=40000 dport=7000 .*ASSURED"
    equals "$(ask lan ask tcp 192.168.1.1 7999)" refused "a closed port"
}

# C051
case_a_service_on_the_appliance_needs_a_rule_for_the_WAN() {
    equals "$(ask wan ask tcp "$WAN" 7000 --timeout 1)" silence "without a rule"
    fails in_ns wan ping -n -q -c 1 -W 1 "$WAN"
    postern iptables -A INPUT -i wan -p tcp --dport 7000 -j ACCEPT
    equals "$(ask wan ask tcp "$WAN" 7000 --sport 40001)" "203.0.113.1 40001" "with a rule"
    equals "$(ask wan ask tcp "$WAN" 8000 --timeout 1)" silence "another port"
    postern iptables -D INPUT -i wan -p tcp --dport 7000 -j ACCEPT
    equals "$(ask wan ask tcp "$WAN" 7000 --timeout 1)" silence "without it again"
}

case_a_client_on_the_appliance_reaches_out_and_is_tracked() {
    local listed
    equals "$(fetch fw "http://$FAR/")" "from the WAN" "the page"
    equals "$(fetch fw "http://[$FAR6]/")" "from the WAN" "the page by IPv6"
    in_ns fw ping -n -q -c 3 -i 0.1 -W 2 "$FAR"
    in_ns fw ping -n -q -c 3 -i 0.1 -W 2 "$INSIDE"
    listed=$(postern conntrack list)
    has "$listed" "^tcp .*src=203\.0\.113\.2 dst=198\.51\.100\.1 .*dport=80 .*ASSURED"
    has "$listed" "^icmp .*src=203\.0\.113\.2 dst=198\.51\.100\.1 "
    postern iptables -A OUTPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset
    fails fetch fw -o /dev/null "http://$FAR/"
    postern iptables -F OUTPUT
    fetch fw -o /dev/null "http://$FAR/"
}

# C159
once_neighbours_see_a_router() {
    in_ns lan ip -6 neigh flush dev eth0
    in_ns lan ping -n -q -c 1 -W 3 2001:db8:1::1
    has "$(in_ns lan ip -6 neigh show 2001:db8:1::1)" router
}

# C171
once_ARP_is_answered_for_our_own_addresses_only() {
    in_ns lan ip neigh flush dev eth0
    in_ns lan ping -n -q -c 1 -W 3 192.168.1.1
    has "$(in_ns lan ip neigh show 192.168.1.1)" "lladdr $(in_ns fw cat /sys/class/net/lan/address)"
    # Not for the other side's address: the kernel's ARP on `lan` must not give the WAN away to whoever asks.
    fails in_ns lan ping -n -q -c 1 -W 2 192.168.1.200
    has "$(in_ns lan ip neigh show 192.168.1.200)" "FAILED|INCOMPLETE"
}

# VRRP: protocol 112 to its groups, both ways, and the virtual router's own MAC on a macvlan.
once_VRRP_multicast_passes_both_ways() {
    postern iptables -I INPUT -p 112 -j ACCEPT
    postern ip6tables -I INPUT -p 112 -j ACCEPT
    watch_link vrrp-out wan eth0 "ip proto 112 or (ip6 and ip6[6] = 112)"
    watch_link vrrp-in fw wan "ip proto 112 or (ip6 and ip6[6] = 112)"
    tool fw multicast 112 224.0.0.18 wan
    tool fw multicast 112 ff02::12 wan
    wait_for 5 "IPv4 out" grep -q '203.0.113.2 > 224.0.0.18' "$LAB_DIR/seen-vrrp-out.log"
    wait_for 5 "IPv6 out" grep -q '> ff02::12' "$LAB_DIR/seen-vrrp-out.log"
    tool wan multicast 112 224.0.0.18 eth0
    tool wan multicast 112 ff02::12 eth0
    wait_for 5 "IPv4 in" grep -q '203.0.113.1 > 224.0.0.18' "$LAB_DIR/seen-vrrp-in.log"
    wait_for 5 "IPv6 in" grep -qE '2001:db8:2::1 > ff02::12|fe80::[0-9a-f:]+ > ff02::12' "$LAB_DIR/seen-vrrp-in.log"
    postern iptables -D INPUT 1
    postern ip6tables -D INPUT 1
}

once_a_macvlan_on_a_TAP_works() {
    # As keepalived's manual says, or the TAP answers for the macvlan's address with its own MAC.
    in_ns fw sysctl -qw net.ipv4.conf.lan.arp_ignore=1
    in_ns fw ip link add vrrp4 link lan address 00:00:5e:00:01:07 type macvlan mode bridge
    in_ns fw ip link set vrrp4 up
    in_ns fw ip addr add 192.168.1.7/24 dev vrrp4 noprefixroute
    in_ns lan ip neigh flush dev eth0
    wait_for 8 "the virtual address to answer" in_ns lan ping -n -q -c 1 -W 1 192.168.1.7
    has "$(in_ns lan ip neigh show 192.168.1.7)" "lladdr 00:00:5e:00:01:07"
    in_ns lan ping -n -q -c 3 -i 0.1 -W 2 192.168.1.7
    in_ns fw ping -n -q -c 2 -i 0.2 -W 2 -I 192.168.1.7 "$INSIDE"
    # As a gateway.
    in_ns lan ip route replace default via 192.168.1.7
    canary
    in_ns lan ip route replace default via 192.168.1.1
    in_ns fw ip link del vrrp4
    canary
}
