# Fail closed: what does not pass when there is no appliance. Nothing crosses to say "it works" then; the barrier is
# the XDP program's own count of what it dropped.

theme_up() {
    lab_up
    peers wan 7000
    peers lan 7000
    peers fw 7000
    in_ns wan ip route add 192.168.1.0/24 via "$WAN"
    in_ns fw sysctl -a 2>/dev/null | grep -E 'nic-(lan|wan)|ip_forward|forwarding' | sort >"$LAB_DIR/sysctls"
    in_ns fw ip -d link show >"$LAB_DIR/links"
    # Known neighbours: what is sent from here on needs no ARP.
    neighbours
}

neighbours() {
    in_ns lan ip neigh replace 192.168.1.1 lladdr "$(mac_of nic-lan)" dev eth0 nud permanent
    in_ns wan ip neigh replace "$WAN" lladdr "$(mac_of nic-wan)" dev eth0 nud permanent
}

mac_of() {
    in_ns fw cat "/sys/class/net/$1/address"
}

# Frames that reached the raw device `nic-...`, dropped by its program or not.
arrived() {
    in_ns fw cat "/sys/class/net/$1/statistics/rx_packets"
}

# Sends from both sides, and sees that all of it came to the devices and went nowhere.
nothing_passes() {
    local lan wan stack
    lan=$(arrived nic-lan) wan=$(arrived nic-wan)
    watch_link "closed-lan$1" lan eth0 "ip or arp"
    watch_link "closed-wan$1" wan eth0 "ip or arp"
    watch_link "closed-nic-lan$1" fw nic-lan
    watch_link "closed-nic-wan$1" fw nic-wan
    stack=$(stack_received)
    fails in_ns lan ping -n -q -c 3 -i 0.2 -W 1 "$FAR"
    fails in_ns wan ping -n -q -c 3 -i 0.2 -W 1 "$WAN"
    equals "$(ask lan ask tcp "$NEAR" 7000 --timeout 1)" silence "LAN to WAN"
    equals "$(ask wan ask tcp "$INSIDE" 7000 --timeout 1)" silence "WAN to LAN"
    equals "$(ask lan ask tcp 192.168.1.1 7000 --timeout 1)" silence "LAN to the appliance"
    equals "$(ask wan ask udp "$WAN" 7000 --timeout 1)" silence "WAN to the appliance"
    [ "$(arrived nic-lan)" -ge $((lan + 4)) ] || fail "the LAN's packets did not come to nic-lan"
    [ "$(arrived nic-wan)" -ge $((wan + 4)) ] || fail "the WAN's packets did not come to nic-wan"
    equals "$(seen "closed-lan$1")" 0 "packets that came to the LAN"
    equals "$(seen "closed-wan$1")" 0 "packets that came to the WAN"
    # The program drops before the stack; what it let through, this would have seen.
    equals "$(seen "closed-nic-lan$1")" 0 "packets that the stack saw on nic-lan"
    equals "$(seen "closed-nic-wan$1")" 0 "packets that the stack saw on nic-wan"
    equals "$(stack_received)" "$stack" "packets that the appliance's kernel received"
}

stack_received() {
    in_ns fw awk '$1 == "Ip:" && $3 ~ /^[0-9]/ { print $4 }' /proc/net/snmp
}

has_program() {
    grep -q 'xdp' <<<"$(in_ns fw ip -d link show "$1")"
}

# C197
once_guard_closes_before_the_start() {
    lab_config >"$LAB_DIR/postern.toml"
    in_ns fw "$POSTERN" guard --config "$LAB_DIR/postern.toml"
    has_program nic-lan
    has_program nic-wan
    nothing_passes 1
    start_postern
    # It takes over what guard attached.
    canary
    canary6
}

# C197
once_after_SIGTERM_everything_is_closed() {
    running
    end "$(cat "$LAB_DIR/appliance")"
    grep -q 'stopped; the devices are closed' "$LAB_DIR/postern.log"
    has_program nic-lan
    has_program nic-wan
    nothing_passes 2
    start_postern
    canary
}

# C198
case_after_kill_9_everything_is_closed() {
    running
    # Traffic that tries on, all the time.
    talk before-the-kill lan udp "$NEAR" 7000
    end "$(cat "$LAB_DIR/appliance")" -KILL
    has_program nic-lan
    has_program nic-wan
    nothing_passes 3
    start_postern
    canary
}

# Some cases need a running appliance, whichever ran before.
running() {
    if ! alive "$(cat "$LAB_DIR/appliance" 2>/dev/null || echo none)"; then
        start_postern
    fi
    canary
}

# C197
case_a_restart_refuses_stale_connections_and_serves_new_ones_at_once() {
    local before started
    running
    postern forward add tcp 8080 "$INSIDE:7000"
    talk stale lan tcp "$NEAR" 7000 --sport 44000
    talk stale-inbound wan tcp "$WAN" 8080
    end "$(cat "$LAB_DIR/appliance")" -KILL
    start_postern
    started=$SECONDS
    has "$(ask lan ask tcp "$NEAR" 7000 --sport 44001)" "^203\.0\.113\.2 "
    [ $((SECONDS - started)) -le 3 ] || fail "the first connection took $((SECONDS - started)) s"
    before=$(drops tcp_not_syn)
    wait_for 12 "the stale ones to end" both_ended
    [ "$(drops tcp_not_syn)" -gt 0 ] || [ "$before" -gt 0 ] || fail "nothing refused: $(postern drops)"
    equals "$(ask wan ask tcp "$WAN" 8080 --timeout 1)" silence "a forward added before the restart"
}

both_ended() {
    grep -q ended "$LAB_DIR/talk-stale.log" && grep -q ended "$LAB_DIR/talk-stale-inbound.log"
}

# C198
case_restarts_again_and_again_take_over_in_place() {
    local n
    running
    for n in 1 2 3; do
        end "$(cat "$LAB_DIR/appliance")" -KILL
        start_postern
        canary
        canary6
    done
}

# An interface that gets another name leaves no TAP behind; one that is no longer in the file stays closed, every start says
# so, and `release` gives it back too.
case_what_is_no_longer_configured_is_not_forgotten() {
    running
    end "$(cat "$LAB_DIR/appliance")"
    mv "$LAB_DIR/postern.toml" "$LAB_DIR/postern.toml.whole"
    sed 's/^\[interface\.wan\]/[interface.uplink]/' "$LAB_DIR/postern.toml.whole" >"$LAB_DIR/postern.toml"
    start_postern
    in_ns fw ip link show uplink >/dev/null
    fails in_ns fw ip link show wan
    canary
    end "$(cat "$LAB_DIR/appliance")"
    sed '/^\[interface\.wan\]/,/^$/d' "$LAB_DIR/postern.toml.whole" >"$LAB_DIR/postern.toml"
    start_postern
    fails in_ns fw ip link show uplink
    has_program nic-wan
    has "$(postern status)" "nic-wan is not configured any more; it stays closed"
    end "$(cat "$LAB_DIR/appliance")"
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    fails has_program nic-wan
    fails has_program nic-lan
    equals "$(cd "$LAB_DIR/run" && ls -d ./*.state.json ./bpf 2>/dev/null)" "" "what is left in the run directory"
    # A record that does not say which TAPs there are.
    mv "$LAB_DIR/postern.toml.whole" "$LAB_DIR/postern.toml"
    start_postern
    canary
    end "$(cat "$LAB_DIR/appliance")"
    jq 'del(.taps)' "$LAB_DIR/run/nic-wan.state.json" >"$LAB_DIR/no-taps"
    cp "$LAB_DIR/no-taps" "$LAB_DIR/run/nic-wan.state.json"
    mv "$LAB_DIR/postern.toml" "$LAB_DIR/postern.toml.whole"
    sed '/^\[interface\.wan\]/,/^$/d' "$LAB_DIR/postern.toml.whole" >"$LAB_DIR/postern.toml"
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    fails in_ns fw ip link show wan
    fails has_program nic-wan
    mv "$LAB_DIR/postern.toml.whole" "$LAB_DIR/postern.toml"
    start_postern
    canary
}

# The workers' calls drive the cards, whose interrupts wait; all of it is as found after `release`.
case_busy_polling_carries_traffic_and_is_given_back() {
    local found
    running
    end "$(cat "$LAB_DIR/appliance")"
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    found=$(put_off nic-lan; put_off nic-wan)
    mv "$LAB_DIR/postern.toml" "$LAB_DIR/postern.toml.before"
    sed 's/^device = .*/&\nbusy_poll = true/' "$LAB_DIR/postern.toml.before" >"$LAB_DIR/postern.toml"
    start_postern
    equals "$(put_off nic-lan; put_off nic-wan)" $'2 200000\n2 200000' "the cards' interrupts"
    canary
    canary6
    has "$(ask lan ask tcp "$NEAR" 7000)" "^203\.0\.113\.2 "
    # After an idle second, when its workers slept.
    sleep 1
    in_ns lan ping -n -q -c 20 -i 0.05 -W 2 "$FAR" >"$LAB_DIR/busy-ping.log"
    grep -q ' 0% packet loss' "$LAB_DIR/busy-ping.log"
    end "$(cat "$LAB_DIR/appliance")"
    # Switched off in the file, and on again.
    mv "$LAB_DIR/postern.toml" "$LAB_DIR/postern.toml.busy"
    cp "$LAB_DIR/postern.toml.before" "$LAB_DIR/postern.toml"
    start_postern
    equals "$(put_off nic-lan; put_off nic-wan)" "$found" "the cards' interrupts without busy polling"
    canary
    end "$(cat "$LAB_DIR/appliance")"
    mv "$LAB_DIR/postern.toml.busy" "$LAB_DIR/postern.toml"
    start_postern
    equals "$(put_off nic-lan; put_off nic-wan)" $'2 200000\n2 200000' "the cards' interrupts again"
    end "$(cat "$LAB_DIR/appliance")"
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    equals "$(put_off nic-lan; put_off nic-wan)" "$found" "the cards' interrupts after the release"
    mv "$LAB_DIR/postern.toml.before" "$LAB_DIR/postern.toml"
    start_postern
    canary
}

# For how long a card's interrupts are put off: so many empty polls, so many nanoseconds.
put_off() {
    in_ns fw sh -c "cd /sys/class/net/$1 && echo \$(cat napi_defer_hard_irqs gro_flush_timeout)"
}

# Once: it ends the laboratory's appliance for good, and begins a new one at the end.
case_release_gives_everything_back() {
    running
    end "$(cat "$LAB_DIR/appliance")"
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    fails has_program nic-lan
    fails has_program nic-wan
    fails in_ns fw ip link show lan
    fails in_ns fw ip link show wan
    in_ns fw sysctl -a 2>/dev/null | grep -E 'nic-(lan|wan)|ip_forward|forwarding' | sort | grep -vE '\.(lan|wan)\.' >"$LAB_DIR/sysctls-after"
    diff "$LAB_DIR/sysctls" "$LAB_DIR/sysctls-after"
    fails grep -qE 'ALLMULTI|PROMISC' <<<"$(in_ns fw ip link show nic-lan) $(in_ns fw ip link show nic-wan)"
    # Releasing what is released is no error, and it can start again.
    in_ns fw "$POSTERN" release --config "$LAB_DIR/postern.toml"
    start_postern
    canary
}
