//! The names that rules are written with: protocols, services, ICMP types, reject types.
//!
//! A few well-known ones are built in; `/etc/services` adds the rest where it exists.

use std::collections::HashMap;
use std::sync::OnceLock;

use postern_core::conntrack::tuple::protocol;
use postern_core::rules::{Family, RejectKind};

/// Datagram Congestion Control Protocol (RFC 4340).
pub(crate) const DCCP: u8 = 33;

/// Protocols by name; the first name of a number is the one that is printed.
const PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMP),
    ("ipv6-icmp", protocol::ICMPV6),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
    ("dccp", DCCP),
    ("udplite", protocol::UDP_LITE),
    ("esp", protocol::ESP),
    ("ah", protocol::AH),
    ("gre", protocol::GRE),
    ("igmp", 2),
    ("ipencap", 4),
    ("ipip", 4),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("egp", 8),
    ("rsvp", 46),
    ("eigrp", 88),
    ("ospf", 89),
    ("etherip", 97),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("mobility-header", 135),
    ("ipv6-mh", 135),
    ("mh", 135),
    ("hip", 139),
];

/// The number of a protocol name.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, number)| number)
}

/// The name of a protocol number.
pub(crate) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|&&(_, known)| known == number).map(|&(name, _)| name)
}

/// Well-known services: name, port, and whether TCP and UDP have it.
const SERVICES: &[(&str, u16, bool, bool)] = &[
    ("tcpmux", 1, true, false),
    ("echo", 7, true, true),
    ("discard", 9, true, true),
    ("daytime", 13, true, true),
    ("chargen", 19, true, true),
    ("ftp-data", 20, true, false),
    ("ftp", 21, true, false),
    ("ssh", 22, true, false),
    ("telnet", 23, true, false),
    ("smtp", 25, true, false),
    ("time", 37, true, true),
    ("whois", 43, true, false),
    ("domain", 53, true, true),
    ("bootps", 67, false, true),
    ("bootpc", 68, false, true),
    ("tftp", 69, false, true),
    ("finger", 79, true, false),
    ("http", 80, true, false),
    ("kerberos", 88, true, true),
    ("pop3", 110, true, false),
    ("sunrpc", 111, true, true),
    ("auth", 113, true, false),
    ("nntp", 119, true, false),
    ("ntp", 123, false, true),
    ("netbios-ns", 137, false, true),
    ("netbios-dgm", 138, false, true),
    ("netbios-ssn", 139, true, false),
    ("imap2", 143, true, false),
    ("snmp", 161, true, true),
    ("snmp-trap", 162, true, true),
    ("bgp", 179, true, false),
    ("irc", 194, true, true),
    ("ldap", 389, true, true),
    ("https", 443, true, true),
    ("microsoft-ds", 445, true, true),
    ("submissions", 465, true, false),
    ("isakmp", 500, false, true),
    ("syslog", 514, false, true),
    ("shell", 514, true, false),
    ("printer", 515, true, false),
    ("submission", 587, true, false),
    ("ipp", 631, true, false),
    ("ldaps", 636, true, true),
    ("rsync", 873, true, false),
    ("imaps", 993, true, false),
    ("pop3s", 995, true, false),
    ("openvpn", 1194, true, true),
    ("ms-sql-s", 1433, true, false),
    ("radius", 1812, true, true),
    ("radius-acct", 1813, true, true),
    ("nfs", 2049, true, true),
    ("mysql", 3306, true, false),
    ("ms-wbt-server", 3389, true, false),
    ("ipsec-nat-t", 4500, false, true),
    ("sip", 5060, true, true),
    ("xmpp-client", 5222, true, false),
    ("mdns", 5353, false, true),
    ("postgresql", 5432, true, false),
    ("x11", 6000, true, false),
    ("http-alt", 8080, true, true),
];

/// Services both ways; the first name of a port is the one that is printed.
struct Services {
    ports: HashMap<(String, u8), u16>,
    names: HashMap<(u16, u8), String>,
}

impl Services {
    fn add(&mut self, name: &str, port: u16, number: u8) {
        self.ports.entry((name.to_owned(), number)).or_insert(port);
        self.names.entry((port, number)).or_insert_with(|| name.to_owned());
    }
}

fn services() -> &'static Services {
    static SERVICES_KNOWN: OnceLock<Services> = OnceLock::new();
    SERVICES_KNOWN.get_or_init(|| {
        let mut known = Services { ports: HashMap::new(), names: HashMap::new() };
        let file = std::fs::read_to_string("/etc/services").unwrap_or_default();
        read_services(&file, &mut known);
        for &(name, port, tcp, udp) in SERVICES {
            for (number, has) in [(protocol::TCP, tcp), (protocol::UDP, udp)] {
                if has {
                    known.add(name, port, number);
                }
            }
        }
        known
    })
}

/// Reads services(5): `name port/protocol aliases...`. Lines that are anything else are nobody's services.
fn read_services(text: &str, known: &mut Services) {
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let (Some(name), Some(place)) = (words.next(), words.next()) else { continue };
        let Some((port, number)) = place.split_once('/') else { continue };
        let (Ok(port), Some(number)) = (port.parse(), protocol_number(number)) else { continue };
        let harmless = |name: &str| name.len() < 32 && name.bytes().all(|b| b.is_ascii_graphic());
        for name in std::iter::once(name).chain(words).filter(|name| harmless(name)) {
            known.add(name, port, number);
        }
    }
}

/// The port of a service.
pub(crate) fn service_port(name: &str, number: u8) -> Option<u16> {
    services().ports.get(&(name.to_owned(), number)).copied()
}

/// The service on a port.
pub(crate) fn service_name(port: u16, number: u8) -> Option<&'static str> {
    services().names.get(&(port, number)).map(String::as_str)
}

/// ICMP type 255 in a rule means every type.
pub(crate) const ICMP_ANY: u8 = 255;
/// All codes.
pub(crate) const ALL_CODES: (u8, u8) = (0, u8::MAX);

/// An ICMP type by name: name, type, first and last code.
pub(crate) type IcmpName = (&'static str, u8, (u8, u8));

const ICMP: &[IcmpName] = &[
    ("any", ICMP_ANY, ALL_CODES),
    ("echo-reply", 0, ALL_CODES),
    ("pong", 0, ALL_CODES),
    ("destination-unreachable", 3, ALL_CODES),
    ("network-unreachable", 3, (0, 0)),
    ("host-unreachable", 3, (1, 1)),
    ("protocol-unreachable", 3, (2, 2)),
    ("port-unreachable", 3, (3, 3)),
    ("fragmentation-needed", 3, (4, 4)),
    ("source-route-failed", 3, (5, 5)),
    ("network-unknown", 3, (6, 6)),
    ("host-unknown", 3, (7, 7)),
    ("network-prohibited", 3, (9, 9)),
    ("host-prohibited", 3, (10, 10)),
    ("TOS-network-unreachable", 3, (11, 11)),
    ("TOS-host-unreachable", 3, (12, 12)),
    ("communication-prohibited", 3, (13, 13)),
    ("host-precedence-violation", 3, (14, 14)),
    ("precedence-cutoff", 3, (15, 15)),
    ("source-quench", 4, ALL_CODES),
    ("redirect", 5, ALL_CODES),
    ("network-redirect", 5, (0, 0)),
    ("host-redirect", 5, (1, 1)),
    ("TOS-network-redirect", 5, (2, 2)),
    ("TOS-host-redirect", 5, (3, 3)),
    ("echo-request", 8, ALL_CODES),
    ("ping", 8, ALL_CODES),
    ("router-advertisement", 9, ALL_CODES),
    ("router-solicitation", 10, ALL_CODES),
    ("time-exceeded", 11, ALL_CODES),
    ("ttl-exceeded", 11, ALL_CODES),
    ("ttl-zero-during-transit", 11, (0, 0)),
    ("ttl-zero-during-reassembly", 11, (1, 1)),
    ("parameter-problem", 12, ALL_CODES),
    ("ip-header-bad", 12, (0, 0)),
    ("required-option-missing", 12, (1, 1)),
    ("timestamp-request", 13, ALL_CODES),
    ("timestamp-reply", 14, ALL_CODES),
    ("address-mask-request", 17, ALL_CODES),
    ("address-mask-reply", 18, ALL_CODES),
];

const ICMPV6: &[IcmpName] = &[
    ("destination-unreachable", 1, ALL_CODES),
    ("no-route", 1, (0, 0)),
    ("communication-prohibited", 1, (1, 1)),
    ("beyond-scope", 1, (2, 2)),
    ("address-unreachable", 1, (3, 3)),
    ("port-unreachable", 1, (4, 4)),
    ("failed-policy", 1, (5, 5)),
    ("reject-route", 1, (6, 6)),
    ("packet-too-big", 2, ALL_CODES),
    ("time-exceeded", 3, ALL_CODES),
    ("ttl-exceeded", 3, ALL_CODES),
    ("ttl-zero-during-transit", 3, (0, 0)),
    ("ttl-zero-during-reassembly", 3, (1, 1)),
    ("parameter-problem", 4, ALL_CODES),
    ("bad-header", 4, (0, 0)),
    ("unknown-header-type", 4, (1, 1)),
    ("unknown-option", 4, (2, 2)),
    ("echo-request", 128, ALL_CODES),
    ("ping", 128, ALL_CODES),
    ("echo-reply", 129, ALL_CODES),
    ("pong", 129, ALL_CODES),
    ("mld-listener-query", 130, ALL_CODES),
    ("mld-listener-report", 131, ALL_CODES),
    ("mld-listener-done", 132, ALL_CODES),
    ("mld-listener-reduction", 132, ALL_CODES),
    ("router-solicitation", 133, ALL_CODES),
    ("router-advertisement", 134, ALL_CODES),
    ("neighbour-solicitation", 135, ALL_CODES),
    ("neighbor-solicitation", 135, ALL_CODES),
    ("neighbour-advertisement", 136, ALL_CODES),
    ("neighbor-advertisement", 136, ALL_CODES),
    ("redirect", 137, ALL_CODES),
];

/// The ICMP types of a family.
pub(crate) fn icmp_types(family: Family) -> &'static [IcmpName] {
    match family {
        Family::V4 => ICMP,
        Family::V6 => ICMPV6,
    }
}

/// A reject type: name, its old name, what it is. In the order in which abbreviations are looked up.
pub(crate) type RejectName = (&'static str, &'static str, RejectKind);

const REJECTS: &[RejectName] = &[
    ("icmp-net-unreachable", "net-unreach", RejectKind::NetUnreachable),
    ("icmp-host-unreachable", "host-unreach", RejectKind::HostUnreachable),
    ("icmp-proto-unreachable", "proto-unreach", RejectKind::ProtocolUnreachable),
    ("icmp-port-unreachable", "port-unreach", RejectKind::PortUnreachable),
    ("icmp-net-prohibited", "net-prohib", RejectKind::NetProhibited),
    ("icmp-host-prohibited", "host-prohib", RejectKind::HostProhibited),
    ("tcp-reset", "tcp-rst", RejectKind::TcpReset),
    ("icmp-admin-prohibited", "admin-prohib", RejectKind::AdminProhibited),
];

const REJECTS6: &[RejectName] = &[
    ("icmp6-no-route", "no-route", RejectKind::NoRoute),
    ("icmp6-adm-prohibited", "adm-prohibited", RejectKind::AdminProhibited),
    ("icmp6-addr-unreachable", "addr-unreach", RejectKind::AddressUnreachable),
    ("icmp6-port-unreachable", "port-unreach", RejectKind::PortUnreachable),
    ("tcp-reset", "tcp-reset", RejectKind::TcpReset),
    ("icmp6-policy-fail", "policy-fail", RejectKind::PolicyFail),
    ("icmp6-reject-route", "reject-route", RejectKind::RejectRoute),
];

/// The reject types of a family.
pub(crate) fn rejects(family: Family) -> &'static [RejectName] {
    match family {
        Family::V4 => REJECTS,
        Family::V6 => REJECTS6,
    }
}

/// Matches that Linux has and we do not, yet or ever.
pub(crate) const OTHER_MATCHES: &[&str] = &[
    "addrtype",
    "ah",
    "bpf",
    "cgroup",
    "cluster",
    "connbytes",
    "connlabel",
    "connmark",
    "cpu",
    "devgroup",
    "dscp",
    "dst",
    "ecn",
    "esp",
    "eui64",
    "frag",
    "hashlimit",
    "hbh",
    "helper",
    "hl",
    "ipcomp",
    "iprange",
    "ipv6header",
    "ipvs",
    "length",
    "limit",
    "mac",
    "mark",
    "mh",
    "nfacct",
    "osf",
    "owner",
    "physdev",
    "pkttype",
    "policy",
    "quota",
    "rateest",
    "realm",
    "recent",
    "rpfilter",
    "rt",
    "set",
    "socket",
    "srh",
    "statistic",
    "string",
    "tcpmss",
    "time",
    "tos",
    "ttl",
    "u32",
];

/// Targets that Linux has and we do not, yet or ever.
pub(crate) const OTHER_TARGETS: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "MARK",
    "NFLOG",
    "NFQUEUE",
    "QUEUE",
    "RATEEST",
    "SECMARK",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

/// Targets we have.
pub(crate) const TARGETS: &[&str] = &[
    "ACCEPT",
    "DROP",
    "RETURN",
    "REJECT",
    "SNAT",
    "DNAT",
    "MASQUERADE",
    "REDIRECT",
    "NETMAP",
    "NOTRACK",
    "CT",
];

/// Options of matches we have, which we do not have yet.
pub(crate) const OTHER_OPTIONS: &[&str] = &[
    "tcp-option",
    "chunk-types",
    "dccp-types",
    "dccp-option",
    "ctproto",
    "ctorigsrc",
    "ctorigdst",
    "ctreplsrc",
    "ctrepldst",
    "ctorigsrcport",
    "ctorigdstport",
    "ctreplsrcport",
    "ctrepldstport",
    "ctstatus",
    "ctexpire",
    "ctdir",
];
