# SIP between real programs: sipp calls and is called, with sound both ways. What plays it is 8 s of G.711 (uac_pcap); what is
# called sends it back (-rtp_echo).

theme_up() {
    lab_up
    lab_config | sed 's/^capacity = .*/&\nhelpers = ["sip"]/' >"$LAB_DIR/postern.toml"
    ln -s /usr/share/sip-tester "$LAB_DIR/pcap"
    scenarios
    # From outside comes what is asked for; from inside too, but signalling.
    start_postern
    postern iptables -I FORWARD 1 -i lan -p udp ! --dport 5060 -m conntrack --ctstate NEW -j DROP
}

# A phone that registers, and its registrar: sipp has neither.
scenarios() {
    cat >"$LAB_DIR/register.xml" <<'XML'
<?xml version="1.0" encoding="ISO-8859-1"?>
<scenario name="register">
  <send retrans="500"><![CDATA[

    REGISTER sip:example.org SIP/2.0
    Via: SIP/2.0/[transport] [local_ip]:[local_port];rport;branch=[branch]
    From: <sip:alice@example.org>;tag=1
    To: <sip:alice@example.org>
    Call-ID: [call_id]
    CSeq: 1 REGISTER
    Contact: <sip:alice@[local_ip]:[local_port]>
    Expires: 600
    Content-Length: 0

  ]]></send>
  <recv response="200"/>
</scenario>
XML
    cat >"$LAB_DIR/registrar.xml" <<'XML'
<?xml version="1.0" encoding="ISO-8859-1"?>
<scenario name="registrar">
  <recv request="REGISTER"/>
  <send><![CDATA[

    SIP/2.0 200 OK
    [last_Via:]
    [last_From:]
    [last_To:];tag=2
    [last_Call-ID:]
    [last_CSeq:]
    [last_Contact:]
    Expires: 600
    Content-Length: 0

  ]]></send>
</scenario>
XML
}

# phone <space> <address> <sipp's arguments>: sipp there, in the foreground.
phone() {
    local space=$1 address=$2
    shift 2
    (cd "$LAB_DIR" && TERM=dumb in_ns "$space" timeout 60 sipp -i "$address" -mi "$address" -nostdin "$@") \
        >"$LAB_DIR/sipp-$space.log" 2>&1 </dev/null
}

# called <space> <address> <port> <sipp's arguments>: sipp there, listening, until `end "$CALLED"`.
called() {
    local space=$1 address=$2 port=$3
    shift 3
    TERM=dumb start_here "$space" "called-$space" sipp -i "$address" -mi "$address" -p "$port" -nostdin "$@"
    CALLED=$PID
    wait_for 10 "sipp on port $port" listens "$space" "$port"
}

listens() {
    in_ns "$1" ss -Hanut "sport = :$2" | grep -q .
}

# sound <space> <filter>: 100 packets of sound that arrive there, while a call goes on; waited for by heard.
sound() {
    start_here "$1" "sound-$1" tcpdump -n -q -i eth0 -c 100 "udp and $2"
    SOUND=$PID
    wait_for 10 "tcpdump in $1" grep -q listening "$LAB_DIR/sound-$1.log"
}

heard() {
    wait_for 10 "sound to be heard" not_alive "$SOUND"
}

not_alive() {
    ! alive "$1"
}

# Media that are expected; a registration is not among them.
media() {
    postern --json conntrack expect | jq '[.[] | select(.dport != 5060)] | length'
}

case_a_phone_behind_NAT_calls_and_is_heard_and_hears() {
    local met
    called wan "$FAR" 5060 -sn uas -rtp_echo -mp 7000
    met=$(counter expectations_met)
    sound lan "dst host $INSIDE and dst port 6000"
    phone lan "$INSIDE" -sn uac_pcap -p 5060 -mp 6000 -m 1 -s bob "$FAR:5060"
    heard
    equals "$(counter expectations_met)" "$((met + 1))" "expectations that came true"
    # What was expected of the call ended with it.
    equals "$(media)" 0 "media expected after BYE"
    has "$(postern conntrack list -p udp --dport 5060)" "src=$INSIDE .* helper=sip "
    # To the port that was announced, and from there.
    has "$(postern conntrack list -p udp --dport 7000)" "src=$INSIDE .*sport=6000 .*dst=203\.0\.113\.2 sport=7000 dport=6000"
    end "$CALLED"
}

case_a_phone_behind_NAT_calls_over_TCP() {
    called wan "$FAR" 5060 -sn uas -rtp_echo -mp 7000 -t t1
    sound lan "dst host $INSIDE and dst port 6000"
    phone lan "$INSIDE" -sn uac_pcap -p 5062 -mp 6000 -m 1 -s bob -t t1 "$FAR:5060"
    heard
    has "$(postern conntrack list -p tcp --dport 5060)" "src=$INSIDE .* helper=sip "
    end "$CALLED"
}

# By the proxy's other ports too, and by nobody else.
case_a_registered_phone_is_called() {
    called wan "$FAR" 5060 -sf "$LAB_DIR/registrar.xml"
    phone lan "$INSIDE" -sf "$LAB_DIR/register.xml" -p 5060 -m 1 "$FAR:5060"
    end "$CALLED"
    has "$(postern conntrack expect)" "^[0-9]+ proto=17 src=198\.51\.100\.1 dst=203\.0\.113\.2 .*dport=5060 .* helper=sip$"
    called lan "$INSIDE" 5060 -sn uas -rtp_echo -mp 6100
    sound wan "dst host $FAR and dst port 7100"
    fails phone wan "$NEAR" -sn uac -p 7060 -m 1 -recv_timeout 2000 -s alice "$WAN:5060"
    phone wan "$FAR" -sn uac_pcap -p 7060 -mp 7100 -m 1 -s alice "$WAN:5060"
    heard
    equals "$(media)" 0 "media expected after BYE"
    end "$CALLED"
}

case_a_PBX_behind_a_forward_is_called() {
    postern conntrack delete -p udp
    postern forward add udp 5060 "$INSIDE:5060"
    called lan "$INSIDE" 5060 -sn uas -rtp_echo -mp 6200
    sound wan "dst host $NEAR and dst port 7200"
    phone wan "$NEAR" -sn uac_pcap -p 7070 -mp 7200 -m 1 -s pbx "$WAN:5060"
    heard
    equals "$(media)" 0 "media expected after BYE"
    postern forward remove udp 5060
    end "$CALLED"
}
