#!/usr/bin/env bash
# Says what on this host will hurt the appliance, and how to mend it. Changes nothing.
#
#     deploy/preflight.sh --config /etc/postern/postern.toml
#     deploy/preflight.sh enp1s0 enp2s0
#
# One finding a line: `ok`, `warn` (it will run, but worse than it could, or something else will suffer) or
# `bad` (it will not run). Exit code 1 if anything is bad. As root it sees more.
set -uo pipefail

BAD=0
ok() { printf 'ok    %s\n' "$1"; }
warn() { printf 'warn  %s — %s\n' "$1" "$2"; }
bad() {
    printf 'bad   %s — %s\n' "$1" "$2"
    BAD=1
}
have() { command -v "$1" >/dev/null 2>&1; }
contents() { cat "$1" 2>/dev/null || true; }
# at_least 6.1 6.18.3: whether the second version is not older than the first.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

queues_of() { find "/sys/class/net/$1/queues" -maxdepth 1 -name 'rx-*' 2>/dev/null | wc -l; }

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
}

config=
devices=()
while [ $# -gt 0 ]; do
    case $1 in
    --config)
        [ $# -ge 2 ] || usage
        config=$2
        shift
        ;;
    --config=*) config=${1#*=} ;;
    -*) usage ;;
    *) devices+=("$1") ;;
    esac
    shift
done

# What counts here of a configuration: `postern check` is the one that understands it.
workers=
capacity=1000000
taps=()
if [ -n "$config" ]; then
    if [ ! -r "$config" ]; then
        bad "cannot read $config" "name the configuration with --config"
    else
        # One line each: kind and value, of the keys in their usual form.
        while read -r kind value; do
            case $kind in
            device) devices+=("$value") ;;
            tap) taps+=("$value") ;;
            capacity) capacity=$value ;;
            workers) workers=$value ;;
            esac
        done < <(awk '
            { sub(/[ \t]*#.*$/, "") }
            /^[ \t]*\[/ { section = $0; gsub(/[][ \t"]/, "", section)
                if (section ~ /^interface\./) print "tap", substr(section, 11); next }
            { key = $0; sub(/[ \t]*=.*/, "", key); gsub(/[ \t]/, "", key)
              value = $0; sub(/^[^=]*=[ \t]*/, "", value); gsub(/["\047]/, "", value) }
            section ~ /^interface\./ && key == "device" { print "device", value }
            section == "conntrack" && key == "capacity" { gsub(/_/, "", value); print "capacity", value }
            section == "" && key == "workers" {
                print "workers", value ~ /^\[/ ? gsub(/,[ \t]*[0-9]/, "", value) + 1 : value }
        ' "$config")
    fi
fi
cores=$(nproc 2>/dev/null || echo 1)
if [ -z "$workers" ]; then
    workers=$((cores > 1 ? cores - 1 : 1))
fi

# --- the kernel --------------------------------------------------------------------------------------

kernel=$(uname -r)
if at_least 6.1 "$kernel"; then
    ok "kernel $kernel"
elif at_least 5.14 "$kernel"; then
    warn "kernel $kernel is older than what Postern is tried on" "use 6.1 or later"
else
    bad "kernel $kernel is too old" "use 6.1 or later"
fi
if [ "$(uname -m)" != x86_64 ]; then
    warn "$(uname -m) processor: Postern is tried on x86-64 only" "run ./tests/run.sh here first"
fi
if grep -qw '^XDP' /proc/net/protocols; then
    ok "AF_XDP sockets"
else
    bad "the kernel has no AF_XDP sockets" "use a kernel with CONFIG_XDP_SOCKETS"
fi
if grep -qw bpf /proc/filesystems; then
    ok "bpffs"
else
    bad "the kernel has no bpffs" "use a kernel with CONFIG_BPF_SYSCALL"
fi
case $(contents /proc/sys/net/core/bpf_jit_enable) in
0) warn "the BPF compiler is off" "sysctl -w net.core.bpf_jit_enable=1" ;;
esac
if [ -e /sys/kernel/btf/vmlinux ]; then
    ok "kernel type information (BTF)"
else
    warn "no kernel type information (BTF)" "Postern does without; bpftool and tracers want CONFIG_DEBUG_INFO_BTF"
fi
if [ -c /dev/net/tun ]; then
    ok "/dev/net/tun"
else
    bad "no /dev/net/tun, which the host's side of every interface needs" "modprobe tun"
fi
case $(contents /sys/kernel/security/lockdown) in
*'[confidentiality]'*) bad "kernel lockdown (confidentiality) forbids BPF" "boot with lockdown=integrity or none" ;;
esac
[ "$(id -u)" = 0 ] || warn "not root: firewall rules and some device details cannot be seen" "run this as root"

# --- processors and memory ---------------------------------------------------------------------------

if [ "$workers" -gt "$cores" ] 2>/dev/null; then
    bad "$workers workers on $cores cores" "lower \`workers\`"
elif [ "$workers" -ge "$cores" ] 2>/dev/null; then
    warn "$workers workers on $cores cores leave none for the host, so idle workers sleep" \
        "leave one core over, for throughput"
else
    ok "$workers workers on $cores cores"
fi
isolated=$(contents /sys/devices/system/cpu/isolated)
if [ -n "$isolated" ]; then
    ok "isolated cores: $isolated (name them in \`workers\`)"
else
    warn "no core is kept free of other work" "boot with isolcpus=, nohz_full= and rcu_nocbs= for the workers' cores"
fi
slow=$(cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort -u | grep -vx performance | xargs)
if [ -n "$slow" ]; then
    warn "processor frequency is governed by: $slow" "cpupower frequency-set -g performance"
fi
if have pgrep && pgrep -x irqbalance >/dev/null; then
    warn "irqbalance moves the devices' interrupts about" \
        "set IRQBALANCE_BANNED_CPULIST to the workers' cores, or stop it"
fi
# IPv6 has room for a quarter as many, of 256 bytes; frames: 12 MiB a queue, 2 MiB between any two threads.
rx_queues=0
for device in "${devices[@]}"; do
    rx_queues=$((rx_queues + $(queues_of "$device")))
done
need=$(((capacity * 192 + capacity / 4 * 256) / 1048576 + 12 * rx_queues + 2 * (workers + 1) * (workers + 3)))
free=$(awk '/^HugePages_Free/ { n = $2 } /^Hugepagesize/ { kb = $2 } END { print int(n * kb / 1024) }' /proc/meminfo)
shmem=$(contents /sys/kernel/mm/transparent_hugepage/shmem_enabled)
if [ "$free" -ge "$need" ]; then
    ok "$free MiB of huge pages free, about $need MiB wanted"
else
    case $shmem in
    *'[advise]'* | *'[always]'* | *'[within_size]'*) ok "huge pages for shared memory on request (about $need MiB wanted)" ;;
    *)
        warn "$free MiB of huge pages free, about $need MiB wanted" \
            "sysctl -w vm.nr_hugepages=$((need / 2 + 1)), or echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        ;;
    esac
fi
if [ -e /run/postern-hugepages.json ]; then
    warn "vm.nr_overcommit_hugepages is $(contents /proc/sys/vm/nr_overcommit_hugepages), raised by a start that is under way or was killed" \
        "start Postern, or run postern release: either puts it back"
elif [ "$free" -lt "$need" ]; then
    ok "the start raises vm.nr_overcommit_hugepages for a moment, to have huge pages made beyond the reserved ones"
fi
available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
if [ "$free" -lt "$need" ] && [ "$available" -lt "$need" ]; then
    bad "$available MiB of memory available, about $need MiB wanted" "lower conntrack.capacity"
fi

# --- what else works on packets here -----------------------------------------------------------------

if [ "$(contents /proc/sys/net/ipv4/ip_forward)" = 1 ] || [ "$(contents /proc/sys/net/ipv6/conf/all/forwarding)" = 1 ]; then
    warn "the kernel forwards packets by itself; Postern switches that off while it has the devices" \
        "find out what needs it (containers, virtual machines, VPNs) before starting"
fi
if [ "$(contents /proc/sys/net/ipv4/conf/all/rp_filter)" != 0 ]; then
    ok "net.ipv4.conf.all.rp_filter is on; Postern sets it to 0, checks sources itself, and restores it on release"
fi
if [ "$(id -u)" = 0 ] && have nft; then
    chains=$(nft list ruleset 2>/dev/null | grep -c 'hook ')
    if [ "$chains" -gt 0 ]; then
        warn "$chains nftables or iptables chains are hooked into the kernel; they see what goes over the TAPs only" \
            "load the rules into Postern (postern iptables-restore), then \`nft flush ruleset\`"
    else
        ok "no other firewall rules"
    fi
elif [ "$(id -u)" = 0 ] && have iptables-save && iptables-save 2>/dev/null | grep -q '^-A'; then
    warn "the kernel has iptables rules; they see what goes over the TAPs only" "load them into Postern, then flush them"
fi
tracked=$(contents /proc/sys/net/netfilter/nf_conntrack_count)
if [ "${tracked:-0}" -gt 0 ]; then
    warn "the kernel tracks $tracked connections of its own, at a cost for what goes over the TAPs" \
        "unload the rules that need it (\`-m conntrack\`, \`nat\`)"
fi
for service in firewalld ufw nftables docker; do
    if have systemctl && systemctl is-active --quiet "$service" 2>/dev/null; then
        warn "$service is running and loads firewall rules of its own" "systemctl disable --now $service, unless it is meant for the TAPs"
    fi
done
if have ip; then
    rules=$(ip rule show 2>/dev/null | grep -cvE 'lookup (local|main|default) *$')
    [ "$rules" = 0 ] || warn "$rules policy routing rules, which are not followed" "bring the routes into table main"
    if ip route show 2>/dev/null | grep -qE 'nexthop|nhid'; then
        warn "multipath routes: only the first next hop is followed" "use single next hops"
    fi
fi
for tap in "${taps[@]}"; do
    [ -e "/sys/class/net/$tap" ] || continue
    if ip link show dev "$tap" 2>/dev/null | grep -q "alias Postern: the host's side"; then
        ok "TAP $tap is there from an earlier run"
    else
        bad "there is an interface $tap already, and it is not Postern's" "rename it, or [interface.$tap]"
    fi
done

# --- the devices -------------------------------------------------------------------------------------

# Drivers with XDP in the driver, and those of them with zero-copy for AF_XDP, as of Linux 6.12 or so.
zerocopy=' dpaa2-eth fsl_dpaa2_eth i40e ice igc ixgbe mlx5_core nfp st_gmac stmmac tsnep '
native=' atlantic bnxt_en bonding cpsw ena enetc fec fsl_enetc fsl_dpa gve hv_netvsc igb ixgbevf lan966x mana mlx4_en
 mlx4_core mtk_soc_eth mvneta mvpp2 netsec qede rvu_nicpf rvu-nicpf sfc thunder-nicvf tun veth virtio_net vif vmxnet3 '

# The device's driver; ethtool knows it for virtual ones, too.
driver_of() {
    local driver
    driver=$(have ethtool && ethtool -i "$1" 2>/dev/null | sed -n 's/^driver: //p')
    [ -n "$driver" ] || driver=$(basename "$(readlink "/sys/class/net/$1/device/driver" 2>/dev/null)" 2>/dev/null)
    printf '%s' "$driver"
}

check_driver() {
    local device=$1 driver=$2 queues=$3
    case $zerocopy in
    *" $driver "*)
        ok "$device: driver $driver has zero-copy"
        return
        ;;
    esac
    case $native in
    *" $driver "* | *" $driver"$'\n'*) ok "$device: driver $driver runs XDP, and copies packets" ;;
    *) warn "$device: driver ${driver:-unknown} may not run XDP" "try it; else mode = \"generic\" for this interface, which is slow" ;;
    esac
    case $driver in
    veth)
        warn "$device: the other end of a veth pair leaves checksums and segmentation to a card that is not there" \
            "for hosts on the other end: ethtool -K <other end> tx off tso off gso off"
        [ "$queues" -ge "$workers" ] ||
            warn "$device: a veth end with $queues queues" "make the pair with numrxqueues and numtxqueues $workers on both ends"
        ;;
    virtio_net)
        local pairs
        pairs=$(ethtool -l "$device" 2>/dev/null | awk '/^Combined/ { print $2; exit }')
        [ "${pairs:-0}" -ge $((cores * 2)) ] 2>/dev/null ||
            warn "$device: virtio wants a queue pair more for each processor, to send from XDP" \
                "give the machine $((cores * 2)) queue pairs (queues=, vectors=)"
        ;;
    esac
}

feature() { ethtool -k "$1" 2>/dev/null | awk -v f="$2:" '$1 == f { print $2 }'; }

check_offloads() {
    local device=$1
    have ethtool || return
    [ "$(feature "$device" large-receive-offload)" != on ] ||
        warn "$device: LRO is on; most drivers refuse XDP with it" "ethtool -K $device lro off"
    [ "$(feature "$device" rx-gro-hw)" != on ] ||
        warn "$device: hardware GRO is on; most drivers refuse XDP with it" "ethtool -K $device rx-gro-hw off"
    if [ "$(feature "$device" rx-vlan-offload)" = on ] && [ "$(driver_of "$device")" != veth ]; then
        warn "$device: the card takes VLAN tags off, so tagged frames look untagged" "ethtool -K $device rxvlan off"
    fi
}

check_owner() {
    local device=$1 upper
    if have nmcli && nmcli -g GENERAL.STATE device show "$device" 2>/dev/null | grep -q '^1[0-9][0-9]'; then
        warn "$device: NetworkManager manages it" "nmcli device set $device managed no; let it manage the TAP instead"
    fi
    if have networkctl && networkctl --no-legend list "$device" 2>/dev/null | grep -qE 'configur(ed|ing)'; then
        warn "$device: systemd-networkd manages it" "add Unmanaged=yes for it under [Link]; let it manage the TAP instead"
    fi
    if grep -qsE "^[[:space:]]*(iface|auto|allow-hotplug).*[[:space:]]$device([[:space:]]|$)" \
        /etc/network/interfaces /etc/network/interfaces.d/*; then
        warn "$device: ifupdown manages it" "take it out of /etc/network/interfaces"
    fi
    if [ -e "/sys/class/net/$device/master" ]; then
        bad "$device: it belongs to $(basename "$(readlink "/sys/class/net/$device/master")")" "ip link set $device nomaster"
    fi
    for upper in "/sys/class/net/$device"/upper_*; do
        if [ -e "$upper" ] && [ ! -e "/sys/class/net/$device/master" ]; then
            warn "$device: ${upper##*/upper_} sits on it and will get nothing" "put it on the TAP; VLANs are not handled yet"
        fi
    done
}

check_addresses() {
    local device=$1 address mine
    mine=$(ip -o address show dev "$device" scope global 2>/dev/null | awk '{ sub(/\/.*/, "", $4); print $4 }' | xargs)
    [ -n "$mine" ] || return 0
    warn "$device: it has the addresses $mine, which it loses while Postern has it" \
        "name them as \`address\` of the interface, so that its TAP gets them"
    for address in $mine; do
        case " ${SSH_CONNECTION:-} " in
        *" $address "*)
            warn "$device: your SSH session comes in by it, and will stop if the rules do not let it in" \
                "have a console at hand, or another way in"
            ;;
        esac
    done
}

check_device() {
    local device=$1 sys=/sys/class/net/$1 driver mtu queues link
    if [ ! -e "$sys" ]; then
        bad "$device: there is no such device" "ip -br link lists them"
        return
    fi
    if [ "$(contents "$sys/type")" != 1 ] || [ "$device" = lo ]; then
        bad "$device: not an Ethernet device" "only Ethernet devices can be taken over"
        return
    fi
    driver=$(driver_of "$device")
    queues=$(queues_of "$device")
    check_driver "$device" "$driver" "$queues"
    mtu=$(contents "$sys/mtu")
    if [ "$mtu" -gt 1770 ]; then
        bad "$device: MTU $mtu does not fit a frame" "ip link set $device mtu 1500 (jumbo frames are not handled yet)"
    else
        ok "$device: MTU $mtu"
    fi
    if [ "$queues" -gt 256 ]; then
        bad "$device: $queues queues, at most 256 can be served" "ethtool -L $device combined $workers"
    elif [ "$queues" -lt "$workers" ]; then
        warn "$device: $queues queues for $workers workers; the others get its packets handed over" \
            "ethtool -L $device combined $workers, if the card can"
    elif [ "$queues" -gt $((workers * 4)) ]; then
        warn "$device: $queues queues for $workers workers; each costs frames and polling" "ethtool -L $device combined $workers"
    else
        ok "$device: $queues queues for $workers workers"
    fi
    link=$(ip -d link show dev "$device" 2>/dev/null)
    if grep -q 'prog/xdp' <<<"$link"; then
        warn "$device: an XDP program is attached" "fine if it is Postern's own of an earlier run; else detach it: ip link set $device xdp off"
    fi
    check_offloads "$device"
    check_owner "$device"
    check_addresses "$device"
}

if [ "${#devices[@]}" -eq 0 ]; then
    warn "no devices were looked at" "name them, or a configuration with --config"
fi
have ethtool || warn "ethtool is not installed: offloads and virtual drivers cannot be seen" "apt-get install ethtool"
for device in "${devices[@]}"; do
    check_device "$device"
done
exit "$BAD"
