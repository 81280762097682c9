# A WAN link with a smaller MTU than the LAN's.

theme_up() {
    WAN_CONFIG='mtu = 1400
address = ["203.0.113.2/24", "2001:db8:2::2/64"]
gateway = ["203.0.113.1", "2001:db8:2::1"]'
    lab_up
    in_ns wan ip link set eth0 mtu 1400
    mkdir -p "$LAB_DIR/www"
    head -c 5000000 /dev/urandom >"$LAB_DIR/www/5MB"
    serve wan 80 "$LAB_DIR/www"
    page lan 80 "from the LAN"
    cp "$LAB_DIR/www/5MB" "$LAB_DIR/page-lan-80/5MB"
    start_postern
}

# C138
once_a_ping_too_big_for_the_WAN_is_told_its_MTU() {
    local out before
    canary
    before=$(drops mtu_exceeded)
    out=$(in_ns lan ping -n -M do -s 1472 -c 2 -i 0.3 -W 2 "$FAR" || true)
    # The first is answered by the firewall; the second is not sent, the host has learnt.
    has "$out" "[Ff]rag needed.*mtu = 1400"
    [ "$(drops mtu_exceeded)" -gt "$before" ] || fail "the drop was not counted"
    in_ns lan ping -n -M do -s 1372 -c 1 -W 2 "$FAR"
}

# C152
once_an_IPv6_ping_too_big_for_the_WAN_is_told_its_MTU() {
    local out
    canary6
    out=$(in_ns lan ping -n -M do -s 1452 -c 2 -i 0.3 -W 2 "$FAR6" || true)
    has "$out" "[Pp]acket too big.*mtu=1400"
    in_ns lan ping -n -M do -s 1352 -c 1 -W 2 "$FAR6"
}

# C054 C138 C152
case_downloads_and_uploads_find_their_way() {
    fetch lan -o "$LAB_DIR/got" "http://$FAR/5MB"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/5MB"
    fetch lan -o "$LAB_DIR/got" "http://[$FAR6]/5MB"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/5MB"
    # From the LAN outwards the sender must learn the smaller MTU; forget what the pings taught.
    in_ns lan ip route flush cache
    in_ns lan ip -6 route flush cache
    postern forward add tcp 8080 192.168.1.10:80
    fetch wan -o "$LAB_DIR/got" "http://$WAN:8080/5MB"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/5MB"
}

# C040
case_peers_are_told_at_once_what_fits() {
    # The far end's own link takes more, and would say so.
    in_ns wan ip link set eth0 mtu 1500
    peers wan 7000
    talk before lan tcp "$NEAR" 7000
    equals "$(mss wan 'sport = :7000')" 1448 "unclamped"
    sed -i 's/^mtu = 1400/&\nclamp_mss = "mtu"/' "$LAB_DIR/postern.toml"
    postern reload
    goes_on before
    talk clamped lan tcp "$NEAR" 7000 --sport 41000
    # Of 1400 bytes 40 are headers and 12 a timestamp.
    equals "$(mss wan 'dport = :41000')" 1348 "the server"
    equals "$(mss lan 'sport = :41000')" 1348 "the client"
    goes_on clamped
    in_ns wan ip link set eth0 mtu 1400
}

# mss <host> <filter of ss>: what its end of a connection sends at most in one segment.
mss() {
    in_ns "$1" ss -tinH "$2" | sed -n 's/.* mss:\([0-9]*\) .*/\1/p'
}
