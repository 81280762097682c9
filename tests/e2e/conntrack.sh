# The connection table while it changes: events, updates, and followers that are slow or gone.

theme_up() {
    lab_up
    mkdir -p "$LAB_DIR/www"
    head -c 300000 /dev/urandom >"$LAB_DIR/www/300kB"
    serve wan 80 "$LAB_DIR/www"
    peers wan 7000
    start_postern
}

# follow <name> <options of conntrack events...>: what it prints is in $LAB_DIR/events-<name>.
follow() {
    local name=$1 before
    shift
    before=$(followers)
    "$POSTERN" --control "$LAB_DIR/run/control.sock" conntrack events "$@" >"$LAB_DIR/events-$name" 2>"$LAB_DIR/events-$name.err" </dev/null &
    PID=$!
    echo "$PID" >>"$LAB_DIR/pids"
    wait_for 10 "$name to follow" are_following "$((before + 1))"
}

followers() {
    postern --json status | jq .followers
}

are_following() {
    [ "$(followers)" = "$1" ]
}

told() {
    wait_for 10 "an event like /$2/" grep -qE -- "$2" "$LAB_DIR/events-$1"
}

# C194: a fetch through NAT, from its first packet to its end, to the byte.
case_a_fetch_is_followed_from_its_first_packet_to_its_end() {
    local lines end bytes
    postern conntrack flush
    follow text -p tcp --dport 80 -o timestamp,reason
    local text=$PID
    follow programs -p tcp --dport 80 --json
    local programs=$PID
    fetch lan -o "$LAB_DIR/got" "http://$FAR/300kB"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/300kB"
    told text 'TIME_WAIT'
    told programs 'TIME_WAIT'
    equals "$(postern conntrack list -p tcp --dport 80 | wc -l)" 1 "connections"
    bytes=$(postern --json conntrack list -p tcp --dport 80 | jq '.[0].reply.bytes')
    [ "$bytes" -gt 300000 ] || fail "only $bytes bytes"
    sleep 0.2 # how long it lived is told to 64 ms
    postern conntrack delete -p tcp --dport 80
    told text '\[DESTROY\]'
    told programs '"destroy"'
    lines=$(cat "$LAB_DIR/events-text")
    local tuple="src=192\.168\.1\.10 dst=198\.51\.100\.1 sport=[0-9]+ dport=80"
    local reply="src=198\.51\.100\.1 dst=203\.0\.113\.2 sport=80 dport=[0-9]+"
    has "$(head -n 1 <<<"$lines")" "^\[[0-9]{10}\.[0-9]{6}\]	    \[NEW\] tcp      6 240 SYN_SENT $tuple \[UNREPLIED\] $reply$"
    has "$lines" "	 \[UPDATE\] tcp      6 [0-9]+ ESTABLISHED $tuple $reply \[ASSURED\]$"
    has "$(tail -n 1 <<<"$lines")" "	\[DESTROY\] tcp      6 [0-9]+ TIME_WAIT $tuple packets=[0-9]+ bytes=[0-9]+ $reply packets=[0-9]+ bytes=$bytes \[ASSURED\] reason=deleted$"
    fails grep -q bytes= <<<"$(grep -vF '[DESTROY]' <<<"$lines")"
    end=$(tail -n 1 "$LAB_DIR/events-programs")
    equals "$(jq -r '[.event, .reason, .connection.reply.bytes, (.duration_ms > 0)] | @tsv' <<<"$end")" "destroy	deleted	$bytes	true" "the end"
    equals "$(jq -r .event "$LAB_DIR/events-programs" | head -n 1)" new "the first event"
    equals "$(jq -r .connection.id "$LAB_DIR/events-programs" | sort -u | wc -l)" 1 "ids"
    # Who is killed is missed by nobody.
    kill -KILL "$text" "$programs"
    wait_for 20 "the followers to be forgotten" are_following 0
    canary
}

# C194: mark and remaining time, and what comes of them.
case_connections_are_updated() {
    local side
    postern conntrack flush
    talk marked lan udp "$NEAR" 7000 --sport 43010
    talk other lan udp "$NEAR" 7000 --sport 43011
    follow updates --dport 7000 -o reason
    postern conntrack update -p udp --sport 43010 --mark 0x35/0xff
    postern conntrack update -p udp --sport 43010 --mark 0x40/0xf0
    has "$(postern conntrack list -m 0x45)" '^udp .*sport=43010 .* mark=69 use=1$'
    equals "$(postern conntrack list -m 0x40/0xf0 -p udp | wc -l)" 1 "with these bits"
    told updates '\[UPDATE\] udp .*sport=43010 .*mark=(53|69)$'
    fails postern conntrack update -p udp --sport 43012 --mark 1
    fails postern conntrack update --mark 1
    # A second, unless a packet comes: they do come.
    postern conntrack update -p udp --dport 7000 --timeout 1
    sleep 2
    goes_on marked
    goes_on other
    for side in lan wan; do
        equals "$(postern --json conntrack list -i "$side" -p udp --dport 7000 | jq length)" 2 "connections by $side"
    done
    # And here none comes.
    fetch lan -o "$LAB_DIR/got" "http://$FAR/300kB"
    follow ends -p tcp -e DESTROY -o reason
    postern conntrack update -p tcp --dport 80 --timeout 1
    told ends '\[DESTROY\] tcp      6 TIME_WAIT .* reason=closed$'
    ask lan ask udp "$NEAR" 9 --timeout 1 --sport 43013
    follow idle --sport 43013
    postern conntrack update -p udp --sport 43013 --timeout 1
    told idle '\[DESTROY\] udp      17 src=.* packets=0 bytes=0$'
    postern conntrack flush
    told updates 'reason=flushed$'
}

# C202: one that does not read holds nobody up, and learns how much it missed.
case_a_slow_follower_is_told_how_much_it_missed() {
    local slow first before made missed heard
    # Those of the case before ended with it.
    wait_for 20 "earlier followers to be forgotten" are_following 0
    postern conntrack flush
    first=$(counter connections_new)
    follow slow -e NEW --json
    slow=$PID
    before=$(counter connections_new)
    kill -STOP "$slow"
    tool lan udp-flood "$FAR" 14000
    canary
    made=$(($(counter connections_new) - before))
    [ "$made" -gt 12000 ] || fail "only $made connections"
    kill -CONT "$slow"
    told slow '"overrun"'
    wait_for 20 "the rest" all_heard "$made"
    missed=$(missed_by slow)
    heard=$(grep -c '"event":"new"' "$LAB_DIR/events-slow")
    echo "$made made, $heard heard, $missed missed"
    [ "$missed" -gt 0 ] && [ "$heard" -gt 1000 ] || fail "$heard heard, $missed missed"
    [ "$((heard + missed))" -le "$(($(counter connections_new) - first))" ] || fail "more was told than happened"
    kill -KILL "$slow"
    wait_for 20 "the follower to be forgotten" are_following 0
    postern conntrack flush
}

missed_by() {
    jq -s '[.[] | select(.event == "overrun") | .missed] | add // 0' "$LAB_DIR/events-$1"
}

all_heard() {
    [ $(($(grep -c '"event":"new"' "$LAB_DIR/events-slow") + $(missed_by slow))) -ge "$1" ]
}

are_used() {
    [ "$(postern --json status | jq .connections.ipv4.used)" -ge "$1" ]
}

# C195: listed while as many come and go as can.
case_a_listing_under_churn_repeats_nothing() {
    local flood listed round
    postern conntrack flush
    tool lan udp-flood "$FAR" 12000 &
    flood=$!
    # More than one page, and nothing of it ends by itself meanwhile.
    wait_for 20 "the flood" are_used 1000
    for round in 1 2 3 4; do
        listed=$(postern --json conntrack list | jq -r '.[].id')
        equals "$(sort <<<"$listed" | uniq -d | wc -l)" 0 "ids listed twice"
        [ "$round" != 1 ] || [ "$(wc -l <<<"$listed")" -ge 1000 ] || fail "only $(wc -l <<<"$listed") listed"
        postern conntrack flush
    done
    wait "$flood"
    canary
}
