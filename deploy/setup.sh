#!/usr/bin/env bash
# Installs what building, the demo and the tests need, on Debian 12 or later, as root. Safe to run again: only
# what is missing is installed. `deploy/setup.sh build` stops at what building needs.
set -euo pipefail

build=(build-essential clang llvm libbpf-dev linux-libc-dev)
tests=(iproute2 ethtool procps iputils-ping iputils-arping traceroute curl nginx-light dnsmasq
    bind9-dnsutils iperf3 isc-dhcp-client netcat-openbsd conntrack iptables nftables jq tcpdump
    python3 util-linux valgrind vsftpd lftp tftpd-hpa tftp-hpa coturn sip-tester
    libfaketime ngircd)

wanted=("${build[@]}")
[ "${1:-all}" = build ] || wanted+=("${tests[@]}")

missing=()
for package in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A fresh machine must not start the servers that the tests start for themselves.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "setup: no cargo. Install stable Rust 1.90 or later (https://rustup.rs), then run this again." >&2
    exit 1
fi
