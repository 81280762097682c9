# Helpers, between real clients and servers: vsftpd with curl and lftp, in.tftpd with tftp, ngircd. And port triggers.

theme_up() {
    lab_up
    second_lan_host
    MORE_CONFIG='[[trigger]]
interface = "wan"
protocol = "udp"
outbound = 6112
inbound = "7000-7001"
timeout = "3s"'
    lab_config | sed 's/^capacity = .*/&\nhelpers = ["ftp", "tftp", "irc"]/' >"$LAB_DIR/postern.toml"
    mkdir -p "$LAB_DIR/ftp" "$LAB_DIR/empty"
    chmod 755 "$LAB_DIR" "$LAB_DIR/ftp" "$LAB_DIR/empty"
    head -c 3000000 /dev/urandom >"$LAB_DIR/ftp/3MB"
    head -c 20000 /dev/urandom >"$LAB_DIR/ftp/20kB"
    chmod 644 "$LAB_DIR"/ftp/*
    file_server wan
    file_server lan
    trivial_server wan
    chat_server wan
    peers lan 7000
    start_postern
}

# A vsftpd for anybody, in a namespace.
file_server() {
    cat >"$LAB_DIR/vsftpd-$1.conf" <<CONF
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
anon_root=$LAB_DIR/ftp
secure_chroot_dir=$LAB_DIR/empty
port_enable=YES
connect_from_port_20=YES
seccomp_sandbox=NO
CONF
    start_in "$1" "vsftpd-$1" vsftpd "$LAB_DIR/vsftpd-$1.conf"
    wait_for 10 "vsftpd in $1" in_ns "$1" curl -s -o /dev/null "ftp://127.0.0.1/"
}

trivial_server() {
    start_in "$1" "tftpd-$1" in.tftpd --foreground --listen --address 0.0.0.0:69 --user nobody --secure "$LAB_DIR/ftp"
}

# An ngircd, in a namespace.
chat_server() {
    cat >"$LAB_DIR/ngircd-$1.conf" <<CONF
[Global]
Name = irc.example.net
Listen = 0.0.0.0
MotdPhrase = hello
[Options]
DNS = no
Ident = no
PAM = no
[Limits]
MaxConnectionsIP = 0
CONF
    start_in "$1" "ngircd-$1" ngircd --nodaemon --config "$LAB_DIR/ngircd-$1.conf"
    wait_for 10 "ngircd in $1" in_ns "$1" nc -z 127.0.0.1 6667
}

# got <file>: whether what was fetched is it.
got() {
    cmp "$LAB_DIR/got" "$LAB_DIR/ftp/$1"
    rm -f "$LAB_DIR/got"
}

# C110 C112: active, by PORT and by EPRT.
case_an_active_client_behind_NAT_gets_its_file() {
    fetch lan --ftp-port - --disable-eprt -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    got 3MB
    fetch lan --ftp-port - --eprt -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    got 3MB
    equals "$(counter expectations_met)" 2 "expectations that came true"
}

# C112: an IPv6 endpoint is announced, not translated.
case_an_active_client_over_IPv6_gets_its_file() {
    fetch lan --ftp-port - -o "$LAB_DIR/got" "ftp://[$FAR6]/3MB"
    got 3MB
}

case_a_passive_client_behind_NAT_gets_its_file() {
    fetch lan --disable-epsv -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    got 3MB
    fetch lan -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    got 3MB
}

# C113
case_a_server_behind_a_forward_is_reached_both_ways() {
    postern forward add tcp 21 "$INSIDE:21"
    for how in --disable-epsv "" "--ftp-port - --disable-eprt" "--ftp-port -"; do
        # shellcheck disable=SC2086
        fetch wan $how -o "$LAB_DIR/got" "ftp://$WAN/3MB"
        got 3MB
    done
    postern forward remove tcp 21
}

# C113: the hairpin.
case_a_LAN_client_reaches_the_LAN_server_by_the_WAN_address() {
    postern forward add tcp 21 "$INSIDE:21"
    for how in --disable-epsv "" "--ftp-port - --disable-eprt"; do
        # shellcheck disable=SC2086
        fetch lan2 $how -o "$LAB_DIR/got" "ftp://$WAN/3MB"
        got 3MB
    done
    postern forward remove tcp 21
}

# C110 C125: many commands in one connection, each with lengths changed.
case_lftp_fetches_many_files_in_one_session() {
    in_ns lan lftp -c "set ftp:passive-mode no; set net:timeout 5; set net:max-retries 2; open ftp://$FAR/;
        cls; get -c 20kB -o $LAB_DIR/got; cls; get 20kB -o $LAB_DIR/got2; cls; cls" >"$LAB_DIR/lftp.log" 2>&1
    cmp "$LAB_DIR/got2" "$LAB_DIR/ftp/20kB"
    got 20kB
    has "$(cat "$LAB_DIR/lftp.log")" 3MB
}

case_tftp_gets_its_file() {
    # in.tftpd answers its first request from the address of the link, whichever it was sent to.
    (cd "$LAB_DIR" && in_ns lan tftp -m binary "$NEAR" -c get 20kB got)
    got 20kB
}

# C118: DCC, through a server that both talk to: who is offered a file behind NAT reaches it there.
case_a_file_that_a_LAN_host_offers_on_IRC_is_taken_from_outside() {
    local offers
    # shellcheck disable=SC2086
    start_here wan taker $TOOLS dcc-take "$FAR" taker "$LAB_DIR/got"
    wait_for 10 "the taker" grep -q here "$LAB_DIR/taker.log"
    tool lan dcc-offer "$FAR" giver "$LAB_DIR/ftp/3MB"
    wait_for 10 "the file" cmp "$LAB_DIR/got" "$LAB_DIR/ftp/3MB"
    has "$(cat "$LAB_DIR/taker.log")" "^offered 203\.0\.113\.2 [0-9]+\$"
    # The other way round it names an address that can be reached, which stays.
    rm -f "$LAB_DIR/got"
    # shellcheck disable=SC2086
    start_here lan taken $TOOLS dcc-take "$FAR" taker "$LAB_DIR/got"
    wait_for 10 "the taker" grep -q here "$LAB_DIR/taken.log"
    tool wan dcc-offer "$FAR" giver "$LAB_DIR/ftp/3MB"
    wait_for 10 "the file" cmp "$LAB_DIR/got" "$LAB_DIR/ftp/3MB"
    offers=$(grep -c "^offered 198\.51\.100\.1 " "$LAB_DIR/taken.log")
    equals "$offers" 1 "offers as they were made"
    rm -f "$LAB_DIR/got"
}

# C116
case_without_a_helper_nothing_is_opened() {
    local before
    before=$(counter expectations_made)
    sed 's/^helpers = .*/helpers = []/' -i "$LAB_DIR/postern.toml"
    postern reload
    fails fetch lan --max-time 5 --ftp-port - --disable-eprt -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    equals "$(counter expectations_made)" "$before" "expectations"
    sed 's/^helpers = .*/helpers = ["ftp", "tftp", "irc"]/' -i "$LAB_DIR/postern.toml"
    postern reload
    fetch lan --ftp-port - --disable-eprt -o "$LAB_DIR/got" "ftp://$FAR/3MB"
    got 3MB
}

# What is expected is listed while it is: a client that announces itself and asks for nothing.
case_a_listing_names_the_helper_and_what_it_expects() {
    local shown
    # shellcheck disable=SC2016
    start_here lan shy bash -c 'exec 3<>"/dev/tcp/$0/21"; read -r _ <&3
        for line in "USER anonymous" "PASS me" "PORT 192,168,1,10,200,10"; do printf "%s\r\n" "$line" >&3; read -r _ <&3; done
        echo announced; sleep 60' "$FAR"
    local shy=$PID
    wait_for 10 "its announcement" grep -q announced "$LAB_DIR/shy.log"
    has "$(postern conntrack list -p tcp --dport 21 -u ASSURED)" ' helper=ftp use=1$'
    shown=$(postern conntrack expect)
    has "$shown" '^[0-9]+ proto=6 src=198\.51\.100\.1 dst=203\.0\.113\.2 sport=0 dport=[0-9]+ mask-src=255\.255\.255\.255 mask-dst=255\.255\.255\.255 sport=0 dport=65535 master-src=192\.168\.1\.10 master-dst=198\.51\.100\.1 sport=[0-9]+ dport=21 class=0 helper=ftp$'
    equals "$(postern --json conntrack expect | jq -r '.[0].to_port')" 51210 "the port that is meant"
    kill "$shy"
    postern conntrack delete -p tcp --dport 21
    equals "$(postern conntrack expect)" "" "expectations of a master that is gone"
}

# C106
case_a_port_trigger_opens_for_a_time() {
    equals "$(ask wan ask udp "$WAN" 7000 --timeout 1)" silence "before"
    ask lan ask udp "$NEAR" 6112 --timeout 1
    equals "$(ask wan ask udp "$WAN" 7000 --sport 50010)" "203.0.113.1 50010" "the server's peer"
    equals "$(ask wan ask udp "$WAN" 7002 --timeout 1)" silence "beside it"
    sleep 4
    equals "$(ask wan ask udp "$WAN" 7000 --sport 50011 --timeout 1)" silence "later"
}
