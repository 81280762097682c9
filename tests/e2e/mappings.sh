# Endpoint-independent mapping and filtering, as coturn's discovery (RFC 5780) and real programs see them.

theme_up() {
    lab_up
    second_lan_host
    start_in wan stun turnserver -n -S --no-tls --no-dtls --no-cli -L "$NEAR" -L "$FAR" -p 3478 \
        --alt-listening-port 3479 --log-file stdout --pidfile "$LAB_DIR/turn.pid" --userdb "$LAB_DIR/turn.db"
    peers wan 7000
    start_postern
}

# rule [mapping|filtering]: what a rule of nat asks for; without one the interface masquerades as ever.
rule() {
    postern iptables -t nat -F POSTROUTING
    [ -z "${1-}" ] || postern iptables -t nat -A POSTROUTING -o wan -j MASQUERADE --endpoint-independent "$1"
}

# discover <option> <port> [space] [address]: what the client finds out from that port of its own.
discover() {
    in_ns "${3-lan}" timeout 30 turnutils_natdiscovery "$1" -L "${4-192.168.1.10}" -l "$2" "$NEAR" 2>&1
}

# The other host takes the port towards the first address, so that mappings that depend on it show.
conflict() {
    has "$(discover -m "$1" lan2 192.168.1.11)" 'Endpoint Independent Mapping'
}

# C077 C078
case_natdiscovery_sees_dependent_mapping_and_filtering_by_default() {
    rule
    conflict 40000
    has "$(discover -m 40000)" 'NAT with Address (and Port )?Dependent Mapping'
    has "$(discover -f 40002)" 'NAT with Address and Port Dependent Filtering'
    equals "$(postern conntrack mappings --json | jq length)" 0 "mappings"
}

# C077 C078
case_natdiscovery_sees_independent_mapping_alone() {
    rule mapping
    conflict 40010
    has "$(discover -m 40010)" 'NAT with Endpoint Independent Mapping'
    has "$(discover -f 40012)" 'NAT with Address and Port Dependent Filtering'
}

# C077 C078 C096
case_natdiscovery_sees_independent_mapping_and_filtering() {
    rule filtering
    conflict 40020
    has "$(discover -m 40020)" 'NAT with Endpoint Independent Mapping'
    has "$(discover -f 40022)" 'NAT with Endpoint Independent Filtering'
    has "$(discover -H 40024)" 'successful hairpinning'
    has "$(postern conntrack mappings)" 'udp inside=192\.168\.1\.10:40022 external=203\.0\.113\.2:[0-9]+ connections=[0-9]+ .*\[OPEN\]'
    has "$(postern iptables-save -t nat)" '-A POSTROUTING -o wan -j MASQUERADE --endpoint-independent filtering'
}

# C192: by the configuration, and back, while it runs.
case_the_configuration_says_so_too() {
    rule
    has "$(discover -f 40030)" 'NAT with Address and Port Dependent Filtering'
    sed -i 's/^masquerade = true/&\nendpoint_independent = "filtering"/' "$LAB_DIR/postern.toml"
    has "$(postern reload)" 'endpoint_independent is filtering'
    conflict 40032
    has "$(discover -m 40032)" 'NAT with Endpoint Independent Mapping'
    has "$(discover -f 40034)" 'NAT with Endpoint Independent Filtering'
    sed -i '/^endpoint_independent/d' "$LAB_DIR/postern.toml"
    has "$(postern reload)" 'endpoint_independent is off'
    has "$(discover -f 40036)" 'NAT with Address and Port Dependent Filtering'
}

# C079: TCP. A stranger gets in at the port that the host dialled out from, if filtering is independent.
case_a_stranger_dials_in_by_a_tcp_mapping() {
    rule mapping
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 7001)" "$WAN 7001" "its external endpoint"
    peers lan 7001
    equals "$(ask wan ask tcp "$WAN" 7001)" silence "a stranger"
    rule filtering
    equals "$(ask lan ask tcp "$NEAR" 7000 --sport 7002)" "$WAN 7002" "its external endpoint"
    peers lan 7002
    has "$(ask wan ask tcp "$WAN" 7002)" "^$NEAR [0-9]+$"
}
