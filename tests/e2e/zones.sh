# Zones, timeout policies and helpers by rule: two customers with the same addresses, seen by curl and vsftpd.

theme_up() {
    lab_up
    # The other customer: another 192.168.1.10, behind an interface of its own.
    add_space bob
    cable bob eth0 fw nic-bob
    in_ns bob ip addr add 192.168.1.10/24 dev eth0
    in_ns bob ip route add default via 192.168.1.254
    MORE_CONFIG='[interface.bob]
device = "nic-bob"
address = ["192.168.1.254/24"]
conntrack_zone = 2

[timeouts.policy.brief]
udp = "7s"
udp_stream = "9s"

[timeouts.policy.customers]
tcp_established = "11m"
zones = [2]'
    lab_config | sed 's/^zone = "lan"/&\nconntrack_zone = 1/' >"$LAB_DIR/postern.toml"
    page wan 80 "who asks"
    peers wan 7000
    head -c 300000 /dev/urandom >"$LAB_DIR/page-wan-80/300kB"
    mkdir -p "$LAB_DIR/ftp" "$LAB_DIR/empty"
    chmod 755 "$LAB_DIR" "$LAB_DIR/ftp" "$LAB_DIR/empty"
    cp "$LAB_DIR/page-wan-80/300kB" "$LAB_DIR/ftp/300kB"
    chmod 644 "$LAB_DIR/ftp/300kB"
    file_server_elsewhere
    start_postern
}

# A vsftpd for anybody, on port 2121.
file_server_elsewhere() {
    cat >"$LAB_DIR/vsftpd.conf" <<CONF
listen=YES
listen_port=2121
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
anon_root=$LAB_DIR/ftp
secure_chroot_dir=$LAB_DIR/empty
port_enable=YES
seccomp_sandbox=NO
CONF
    start_in wan vsftpd vsftpd "$LAB_DIR/vsftpd.conf"
    wait_for 10 "vsftpd" in_ns wan curl -s -o /dev/null "ftp://127.0.0.1:2121/"
}

got() {
    cmp "$LAB_DIR/got" "$LAB_DIR/ftp/$1"
    rm -f "$LAB_DIR/got"
}

# C186: from the same address and port, to the same server, at the same time.
case_customers_with_the_same_addresses_fetch_side_by_side() {
    local space
    for space in lan bob; do
        talk "$space" "$space" tcp "$FAR" 7000 --sport 40000
    done
    goes_on lan
    goes_on bob
    [ "$(who_is lan)" != "$(who_is bob)" ] || fail "both are seen as $(who_is lan)"
    for space in lan bob lan bob; do
        equals "$(fetch "$space" "http://$FAR/")" "who asks" "the page, to $space"
        fetch "$space" -o "$LAB_DIR/got" "http://$FAR/300kB"
        got 300kB
    done
    has "$(postern conntrack -L --orig-zone 1 --sport 40000)" 'src=192\.168\.1\.10 .*sport=40000 dport=7000 zone-orig=1 '
    equals "$(postern conntrack -L --orig-zone 2 --sport 40000 2>/dev/null | wc -l)" 1 "connections of zone 2"
    equals "$(postern conntrack -L -w 1 2>/dev/null | wc -l)" 0 "connections of zone 1 both ways"
}

# C186: the zone's own, and one that a rule names.
case_timeout_policies_are_seen_in_the_listing() {
    local left
    fetch bob "http://$FAR/" >/dev/null
    talk policed bob tcp "$FAR" 7000 --sport 40100
    left=$(postern --json conntrack list -p tcp --orig-zone 2 --sport 40100 | jq '.[0].timeout_s')
    [ "$left" -ge 640 ] && [ "$left" -le 660 ] || fail "an established connection of zone 2 has $left s left"
    postern iptables -t raw -A PREROUTING -i lan -p udp --dport 7001 -j CT --timeout brief
    has "$(postern iptables-save -t raw)" '-A PREROUTING -i lan -p udp -m udp --dport 7001 -j CT --timeout brief'
    in_ns lan bash -c "echo x >/dev/udp/$FAR/7001"
    in_ns lan bash -c "echo x >/dev/udp/$FAR/7002"
    has "$(postern conntrack -L -p udp --dport 7001)" '^udp +17 [567] '
    has "$(postern conntrack -L -p udp --dport 7002)" '^udp +17 (29|30|28) '
    # What a rule names stays.
    cp "$LAB_DIR/postern.toml" "$LAB_DIR/before.toml"
    sed -i '/policy.brief/,/^$/d' "$LAB_DIR/postern.toml"
    has "$(postern reload 2>&1 || true)" 'timeout policy .brief'
    cp "$LAB_DIR/before.toml" "$LAB_DIR/postern.toml"
    fails postern iptables -t raw -A PREROUTING -p udp -j CT --timeout nosuch
    postern iptables -t raw -F
    postern reload
}

# C110 C112: whatever its port, and only there; of the customer who asked.
case_a_rule_names_the_helper_of_a_server_elsewhere() {
    local space
    fails fetch lan --ftp-port - --disable-eprt -o "$LAB_DIR/got" --max-time 6 "ftp://$FAR:2121/300kB"
    for space in lan bob; do
        postern iptables -t raw -A PREROUTING -i "$space" -p tcp --dport 2121 -j CT --helper ftp
    done
    has "$(postern iptables -t raw -S)" '-A PREROUTING -i bob -p tcp -m tcp --dport 2121 -j CT --helper ftp'
    for space in lan bob; do
        fetch "$space" --ftp-port - --disable-eprt -o "$LAB_DIR/got" "ftp://$FAR:2121/300kB"
        got 300kB
        fetch "$space" -o "$LAB_DIR/got" "ftp://$FAR:2121/300kB"
        got 300kB
    done
    equals "$(counter expectations_met)" 4 "expectations that came true"
    fails postern iptables -t raw -A PREROUTING -p udp -j CT --helper ftp
    postern iptables -t raw -F
}
