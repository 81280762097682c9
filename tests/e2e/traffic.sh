# Real programs through the appliance.

theme_up() {
    lab_up
    mkdir -p "$LAB_DIR/www/small"
    head -c 100000000 /dev/urandom >"$LAB_DIR/www/100MB"
    head -c 20000000 "$LAB_DIR/www/100MB" >"$LAB_DIR/www/20MB"
    head -c 10000 "$LAB_DIR/www/100MB" >"$LAB_DIR/www/small/file"
    serve wan 80 "$LAB_DIR/www"
    # Bound, or its UDP answers would come from another address than the one asked.
    start_in wan iperf iperf3 -s -B "$FAR"
    start_in wan dns dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --no-resolv --no-hosts --pid-file= \
        --address=/postern.test/192.0.2.80 --txt-record=big.postern.test,"$(printf 'x%.0s' $(seq 200))"
    start_postern
}

# C001 C041 C049 C072
case_ping_crosses_by_ipv4_and_ipv6() {
    in_ns lan ping -n -c 5 -i 0.2 -W 2 "$FAR"
    in_ns lan ping -n -c 5 -i 0.2 -W 2 "$FAR6"
    # 1400 bytes, several identifiers at once.
    seq 4 | in_ns lan xargs -P 4 -I{} ping -n -q -e {} -s 1400 -c 5 -i 0.2 -W 2 "$FAR"
}

download() {
    fetch lan -o "$LAB_DIR/got" "$1/$2"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/$2"
}

# C001 C140
once_100_MB_arrive_byte_for_byte() {
    download "http://$FAR" 100MB
    equals "$(sha256sum <"$LAB_DIR/got")" "$(sha256sum <"$LAB_DIR/www/100MB")" "checksum"
}

# C001 C140
case_20_MB_arrive_byte_for_byte() {
    download "http://$FAR" 20MB
}

# C148
case_20_MB_arrive_by_IPv6_unchanged() {
    download "http://[$FAR6]" 20MB
}

# C001
case_200_downloads_at_once_all_arrive() {
    seq 200 | in_ns lan xargs -P 40 -I{} curl -sS --max-time 60 -o "$LAB_DIR/small-{}" "http://$FAR/small/file"
    for n in $(seq 200); do
        cmp "$LAB_DIR/small-$n" "$LAB_DIR/www/small/file"
        rm "$LAB_DIR/small-$n"
    done
}

# The rate in Mbit/s that iperf3 measured, and the share of datagrams lost.
iperf() {
    in_ns lan iperf3 -c "$FAR" -t "$SPELL" --connect-timeout 5000 --json "$@" >"$LAB_DIR/iperf.json" ||
        fail "$(jq -r .error "$LAB_DIR/iperf.json")"
    jq -r '.end | (.sum_received // .sum) | "\(.bits_per_second / 1e6 | floor) Mbit/s, \(.lost_percent // 0)% lost"' \
        "$LAB_DIR/iperf.json"
    jq -e '.end | (.sum_received // .sum) | .bits_per_second > 5e6 and (.lost_percent // 0) < 20' "$LAB_DIR/iperf.json"
}

case_iperf3_runs_TCP_both_ways() {
    SPELL=3
    [ "$WORKERS" = 1 ] || SPELL=2
    iperf
    iperf -R
    iperf -P 4
}

# C041 C044
case_iperf3_runs_UDP_both_ways() {
    SPELL=3
    [ "$WORKERS" = 1 ] || SPELL=2
    iperf -u -b 20M -l 1200
    iperf -u -b 20M -l 1200 -R
}

# C041
case_dig_is_answered_by_a_real_server() {
    local answer
    answer=$(in_ns lan dig +short +time=3 +tries=2 @"$FAR" www.postern.test)
    equals "$answer" 192.0.2.80 "the answer"
    in_ns lan dig +short +tcp +time=3 +tries=2 @"$FAR" big.postern.test txt | grep -q xxxx
    answer=$(in_ns lan dig +short +time=3 +tries=2 @"$FAR6" www.postern.test)
    equals "$answer" 192.0.2.80 "the answer over IPv6"
    # Many questions at once, each from a port of its own.
    seq 100 | in_ns lan xargs -P 20 -I{} dig +short +time=3 +tries=2 "@$FAR" "n{}.postern.test" >"$LAB_DIR/dug"
    equals "$(grep -c '^192.0.2.80$' "$LAB_DIR/dug")" 100 "answers"
}

# C053 C141 C151
once_traceroute_shows_the_firewall_and_the_target() {
    local hops
    hops=$(in_ns lan traceroute -n -w 3 -q 2 -m 4 "$FAR")
    has "$hops" "^ 1  192\.168\.1\.1 "
    has "$hops" "^ 2  198\.51\.100\.1 "
    hops=$(in_ns lan traceroute -6 -n -w 3 -q 2 -m 4 "$FAR6")
    has "$hops" "^ 1  2001:db8:1::1 "
    has "$hops" "^ 2  2001:db8:ffff::1 "
    hops=$(in_ns lan traceroute -I -n -w 3 -q 2 -m 4 "$FAR")
    has "$hops" "^ 1  192\.168\.1\.1 "
    has "$hops" "^ 2  198\.51\.100\.1 "
}

# Steering: the two directions of some flows arrive on different queues, and with more workers on different ones.
case_every_queue_of_every_device_carries_packets() {
    local device queue stats
    for device in nic-lan nic-wan; do
        stats=$(in_ns fw ethtool -S "$device")
        for queue in 0 1; do
            has "$stats" "rx_queue_${queue}_xdp_packets: [1-9]"
        done
    done
    [ "$WORKERS" = 1 ] || [ "$(postern --json status | jq '[.workers[] | select(.forwarded > 100)] | length')" = "$WORKERS" ] ||
        fail "a worker had nothing to do: $(postern status)"
}
