# A WAN interface without an address of its own: a real DHCP client on its TAP, a real server, and renumbering.

theme_up() {
    WAN_CONFIG='dhcp = true'
    lab_up
    page wan 80 "from the WAN"
    peers wan 7000
    start_in wan dhcp dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --port=0 --pid-file= \
        --interface=eth0 --bind-interfaces --no-ping --log-dhcp --dhcp-leasefile="$LAB_DIR/dhcp-server.leases" \
        --dhcp-range=203.0.113.50,203.0.113.60,255.255.255.0,1h --dhcp-option=3,203.0.113.1
    cat >"$LAB_DIR/dhclient-script" <<'SCRIPT'
#!/bin/sh
case $reason in
    BOUND | RENEW | REBIND | REBOOT)
        ip addr flush dev "$interface" scope global
        ip addr add "$new_ip_address/24" dev "$interface"
        ip route replace default via $new_routers dev "$interface"
        ;;
    PREINIT) ip link set "$interface" up ;;
esac
exit 0
SCRIPT
    chmod +x "$LAB_DIR/dhclient-script"
    echo 'timeout 30; retry 5;' >"$LAB_DIR/dhclient.conf"
    start_postern
}

wan_address() {
    in_ns fw ip -4 -br addr show dev wan | awk '{ sub("/.*", "", $3); print $3 }'
}

once_a_DHCP_client_gets_an_address_and_the_LAN_is_masqueraded_behind_it() {
    local address
    # Without an address there is nothing to masquerade behind, and nothing leaves.
    fails in_ns lan ping -n -q -c 1 -W 1 "$NEAR"
    start_in fw dhclient dhclient -4 -d -v -sf "$LAB_DIR/dhclient-script" -lf "$LAB_DIR/dhclient.leases" \
        -pf "$LAB_DIR/dhclient.pid" -cf "$LAB_DIR/dhclient.conf" wan
    wait_for 40 "a lease" grep -q 'bound to' "$LAB_DIR/dhclient.log"
    wait_for 5 "the address" has_address
    address=$(wan_address)
    has "$address" "^203\.0\.113\.(5[0-9]|60)$"
    wait_for 10 "the LAN to reach the WAN" in_ns lan ping -n -q -c 1 -W 1 "$FAR"
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 40000)" "$address 40000" "the server's peer"
    equals "$(fetch lan "http://$FAR/")" "from the WAN" "the page"
}

has_address() {
    [ -n "$(wan_address)" ]
}

# The connections of a lost address go, exactly those.
case_renumbering_drops_exactly_the_connections_of_the_lost_address() {
    local old
    has_address || in_ns fw ip addr add 203.0.113.50/24 dev wan
    in_ns fw ip addr add 203.0.113.70/32 dev wan
    old=$(wan_address)
    in_ns fw ip route replace default via 203.0.113.1 dev wan
    wait_for 10 "the LAN to reach the WAN" in_ns lan ping -n -q -c 1 -W 1 "$FAR"
    talk lost lan tcp "$NEAR" 7000 --sport 41000
    talk lost-udp lan udp "$NEAR" 7000 --sport 41000
    equals "$(who_is lost)" "$old 41000" "before"
    # Connections that do not use the address: LAN to the appliance.
    peers fw 7000
    talk local lan tcp 192.168.1.1 7000
    in_ns fw ip addr flush dev wan scope global
    in_ns fw ip addr add 203.0.113.80/24 dev wan
    in_ns fw ip route replace default via 203.0.113.1 dev wan
    wait_for 15 "the old address's connections to vanish" none_of "$old"
    goes_on local
    wait_for 10 "the LAN to reach the WAN" in_ns lan ping -n -q -c 1 -W 1 "$FAR"
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 41001)" "203.0.113.80 41001" "the server's peer"
    has "$(postern conntrack list)" "src=192\.168\.1\.10 dst=192\.168\.1\.1 .*dport=7000"
}

none_of() {
    ! postern conntrack list | grep -q "dst=$1 .*sport=7000 dport=41000"
}
