# The wall clock jumps: years ahead, back again. The appliance goes by the monotonic one.

theme_up() {
    lab_up
    peers wan 7000
    # The program sees the wall clock that a file says, and the real monotonic one.
    local library
    library=$(dpkg-query -L libfaketime | grep '/libfaketimeMT\.so\.1$')
    wall_clock +0
    cat >"$LAB_DIR/postern-faked" <<SH
#!/bin/sh
export LD_PRELOAD=$library FAKETIME_TIMESTAMP_FILE=$LAB_DIR/wall-clock FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1
exec "$POSTERN" "\$@"
SH
    chmod +x "$LAB_DIR/postern-faked"
    POSTERN=$LAB_DIR/postern-faked start_postern
}

# wall_clock <offset>: what it says from now on, as faketime(1) has it.
wall_clock() {
    echo "$1" >"$LAB_DIR/wall-clock"
}

# The seconds since 1970 at which the connection from a port began, as the appliance says.
began() {
    postern --json conntrack list | jq "[.. | objects | select(.original?.sport? == $1)][0].start_unix_s"
}

# C188
case_a_jump_of_the_wall_clock_changes_nothing_but_what_time_is_told() {
    local id ago now
    talk tcp lan tcp "$NEAR" 7000 --sport 45001
    talk udp lan udp "$NEAR" 7000 --sport 45002
    for jump in +10y -10y +0; do
        wall_clock "$jump"
        goes_on tcp
        goes_on udp
        postern forward add tcp 8080 "$INSIDE:7001"
        postern forward remove tcp 8080
    done
    equals "$(counter connections_gone)" 0 "connections that went"
    # It is there: what is told of the time follows.
    now=$(date +%s)
    wall_clock +10y
    ago=$(($(began 45001) - now))
    [ "$ago" -gt 300000000 ] || fail "its wall clock is not ten years ahead: $ago s"
    # Timeouts go on as if nothing had been: 30 s of an unanswered datagram are not over, and not for ever.
    wall_clock +0
    ask lan ask udp "$FAR" 7009 --timeout 1 --sport 45003
    wall_clock -10y
    postern conntrack list -p udp | grep -q 'sport=45003' || fail "it went with the clock"
    wait_for 40 "it to expire" gone 45003
}

gone() {
    ! postern conntrack list -p udp | grep -q "sport=$1"
}
