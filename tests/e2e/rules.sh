# The rules, in iptables' language, on live traffic.

theme_up() {
    lab_up
    mkdir -p "$LAB_DIR/www"
    head -c 20000000 /dev/urandom >"$LAB_DIR/www/20MB"
    serve wan 80 "$LAB_DIR/www"
    peers wan 7000
    start_postern
}

once_the_best_known_sentence_works_as_typed() {
    postern iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
    has "$(postern iptables -S INPUT)" "^-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT$"
    postern iptables -D INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
}

once_a_pasted_en_dash_gets_a_helpful_error() {
    local out code=0 before
    before=$(postern iptables -S)
    out=$(postern iptables -A INPUT –m conntrack –-ctstate ESTABLISHED,RELATED -j ACCEPT 2>&1) || code=$?
    equals "$code" 2 "exit code"
    has "$out" "en dash"
    has "$out" "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    equals "$(postern iptables -S)" "$before" "the rules"
}

once_what_is_not_supported_is_refused_and_named() {
    local out before
    before=$(postern iptables -S)
    out=$(fails postern iptables -A INPUT -m nonsense --foo -j ACCEPT 2>&1)
    has "$out" nonsense
    out=$(fails postern iptables -A NOWHERE -j ACCEPT 2>&1)
    has "$out" "No chain"
    fails postern iptables -A INPUT -j
    equals "$(postern iptables -S)" "$before" "the rules"
}

# C193
case_a_drop_rule_takes_effect_at_once() {
    talk live lan tcp "$NEAR" 7000
    talk other lan udp "$NEAR" 7000
    postern iptables -I FORWARD -p tcp --dport 7000 -j DROP
    equals "$(ask lan ask tcp "$NEAR" 7000 --timeout 1)" silence "a new flow"
    # Live connections are judged again on their next packet: this rule names this one.
    wait_for 10 "the live connection to starve" starved live
    goes_on other
    postern iptables -D FORWARD -p tcp --dport 7000 -j DROP
    has "$(ask lan ask tcp "$NEAR" 7000)" "^203\.0\.113\.2 "
}

starved() {
    grep -q 'ended silence' "$LAB_DIR/talk-$1.log"
}

# C193
case_a_drop_rule_for_new_flows_leaves_live_ones_alone() {
    talk settled lan tcp "$NEAR" 7000
    postern iptables -I FORWARD -p tcp --dport 7000 -m conntrack --ctstate NEW -j DROP
    equals "$(ask lan ask tcp "$NEAR" 7000 --timeout 1)" silence "a new flow"
    goes_on settled
    postern iptables -D FORWARD 1
    has "$(ask lan ask tcp "$NEAR" 7000)" "^203\.0\.113\.2 "
}

# rule_counts <chain> <comment>: packets and bytes.
rule_counts() {
    postern iptables -L "$1" -n -v -x | awk -v c="$2" 'index($0, c) { print $1, $2 }'
}

case_counters_are_exact() {
    postern iptables -I FORWARD 1 -p icmp -d "$FAR" -m comment --comment pings-out
    postern iptables -I FORWARD 1 -p icmp -s "$FAR" -m comment --comment pings-back
    in_ns lan ping -n -q -c 10 -i 0.05 -W 2 "$FAR"
    equals "$(rule_counts FORWARD pings-out)" "10 840" "ten pings out"
    equals "$(rule_counts FORWARD pings-back)" "10 840" "ten pings back"
    # Counts survive a change of other rules, and go on.
    postern iptables -A FORWARD -p tcp --dport 9 -j DROP
    in_ns lan ping -n -q -c 5 -i 0.05 -W 2 "$FAR"
    equals "$(rule_counts FORWARD pings-out)" "15 1260" "five more"
    postern iptables -Z FORWARD
    equals "$(rule_counts FORWARD pings-out)" "0 0" "zeroed"
    in_ns lan ping -n -q -c 3 -i 0.05 -W 2 "$FAR"
    equals "$(rule_counts FORWARD pings-out)" "3 252" "three since"
    postern iptables -D FORWARD -p tcp --dport 9 -j DROP
    postern iptables -D FORWARD 1
    postern iptables -D FORWARD 1
}

case_reject_is_told_to_the_sender() {
    postern iptables -I FORWARD -p tcp --dport 7000 -j REJECT --reject-with tcp-reset
    equals "$(ask lan ask tcp "$NEAR" 7000)" refused "tcp-reset"
    postern iptables -R FORWARD 1 -p tcp --dport 7000 -j REJECT --reject-with icmp-port-unreachable
    equals "$(ask lan ask tcp "$NEAR" 7000)" refused "icmp-port-unreachable to TCP"
    postern iptables -R FORWARD 1 -p udp --dport 7000 -j REJECT
    equals "$(ask lan ask udp "$NEAR" 7000)" refused "the default, to UDP"
    [ "$(drops rejected_by_rule)" -ge 3 ] || fail "not counted: $(postern drops)"
    postern iptables -D FORWARD 1
    has "$(ask lan ask udp "$NEAR" 7000)" "^203\.0\.113\.2 "
    postern ip6tables -I FORWARD -p tcp --dport 7000 -j REJECT --reject-with tcp-reset
    equals "$(ask lan ask tcp 2001:db8:2::1 7000)" refused "tcp-reset by IPv6"
    postern ip6tables -D FORWARD 1
}

once_user_chains_multiport_and_negation_work() {
    postern iptables -N web
    postern iptables -A web -p tcp -m multiport --dports 80,7000:7009 -j RETURN
    postern iptables -A web -p tcp -j REJECT --reject-with tcp-reset
    postern iptables -I FORWARD -i lan '!' -d "$FAR" -p tcp -j web
    has "$(ask lan ask tcp "$NEAR" 7000)" "^203\.0\.113\.2 "
    fetch lan -o /dev/null "http://$NEAR/20MB" -r 0-99
    equals "$(ask lan ask tcp "$NEAR" 7777)" refused "a port that the chain rejects"
    fails postern iptables -X web
    postern iptables -D FORWARD 1
    postern iptables -F web
    postern iptables -X web
    fails postern iptables -L web
}

# C190
case_rules_changed_50_times_under_a_transfer_lose_nothing() {
    local n transfer pings before
    fetch lan --limit-rate 4M -o "$LAB_DIR/got" "http://$FAR/20MB" &
    transfer=$!
    in_ns lan ping -n -q -c 50 -i 0.05 -W 2 "$FAR" >"$LAB_DIR/pings" &
    pings=$!
    before=$(drops_by_reason)
    for n in $(seq 25); do
        postern iptables -I FORWARD 1 -p tcp --dport "$((10000 + n))" -j DROP
        postern iptables -D FORWARD 1
    done
    alive "$transfer" || fail "the transfer was over before the changes were"
    wait "$transfer"
    cmp "$LAB_DIR/got" "$LAB_DIR/www/20MB"
    wait "$pings"
    has "$(cat "$LAB_DIR/pings")" "50 received, 0% packet loss"
    equals "$(drops_by_reason)" "$before" "drops by reason, before and after"
}

# C192
once_a_saved_ruleset_can_be_restored_whole_or_not_at_all() {
    local saved
    postern iptables -A FORWARD -p tcp --dport 9 -m comment --comment "a note" -j DROP
    postern iptables-save >"$LAB_DIR/rules.v4"
    saved=$(postern iptables -S)
    postern iptables -F FORWARD
    canary_refused
    postern iptables-restore <"$LAB_DIR/rules.v4"
    equals "$(postern iptables -S)" "$saved" "the rules"
    canary
    { head -n 3 "$LAB_DIR/rules.v4"; echo "-A FORWARD -m nonsense -j DROP"; echo COMMIT; } >"$LAB_DIR/bad.v4"
    fails postern iptables-restore <"$LAB_DIR/bad.v4"
    equals "$(postern iptables -S)" "$saved" "the rules after a bad restore"
    canary
    postern iptables -D FORWARD -p tcp --dport 9 -m comment --comment "a note" -j DROP
}

canary_refused() {
    fails in_ns lan ping -n -q -c 1 -W 1 "$FAR"
}
