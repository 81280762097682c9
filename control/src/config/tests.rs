//! Good and bad configurations, the latter with the place of every fault.

use std::path::PathBuf;

use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::helper::Kind;
use proptest::prelude::*;

use super::*;

/// Section 11 of the design, without what is not supported yet.
const EXAMPLE: &str = r#"
workers = 1
control = "/run/postern/control.sock"
rules   = "rules.v4"
rules6  = "rules.v6"

[interface.lan]
device  = "enp1s0"
zone    = "lan"
address = ["192.168.1.1/24", "2001:db8:1::1/64"]
[interface.wan]
device  = "enp2s0"
zone    = "wan"
address = ["203.0.113.2/24"]
gateway = ["203.0.113.1"]
masquerade = true

[conntrack]
capacity = 1_000_000
loose    = false
liberal  = false
[timeouts]
profile  = "rfc"
udp      = "45s"

[[forward]]
interface = "wan"
protocol  = "tcp"
port      = 8080
to        = "192.168.1.10:80"
"#;

/// Two interfaces in four lines, to put a fifth after.
const BASE: &str = "interface.lan = { device = 'eth0', address = ['192.168.1.1/24'] }\n\
    interface.wan = { device = 'eth1', address = ['203.0.113.2/24'], masquerade = true }\n";

fn file() -> PathBuf {
    PathBuf::from("/etc/postern/postern.toml")
}

fn good(text: &str) -> Config {
    parse(&file(), text.as_bytes()).unwrap_or_else(|faults| panic!("{faults:#?}\n{text}"))
}

/// The faults as `line:column: message`, with the hint after a bar.
fn faults(text: &str) -> Vec<String> {
    let faults = parse(&file(), text.as_bytes()).err().unwrap_or_default();
    let show = |f: &Fault| {
        let hint = f.hint.as_ref().map_or(String::new(), |h| format!(" | {h}"));
        format!("{}:{}: {}{hint}", f.line, f.column, f.message)
    };
    faults.iter().map(show).collect()
}

/// Asserts the faults of `BASE` with `text` after it, whose first line is line 3.
#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    assert_eq!(faults(&format!("{BASE}{text}")), expected, "{text}");
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = good(EXAMPLE);
    assert_eq!(config.workers, Workers::Count(1));
    assert_eq!(config.rules.as_deref(), Some(Path::new("/etc/postern/rules.v4")));
    let names: Vec<_> = config.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["lan", "wan"]);
    let (id, wan) = config.interface("wan").unwrap();
    assert_eq!((id, wan.device.as_str(), wan.is_outside()), (InterfaceId(1), "enp2s0", true));
    assert_eq!(wan.gateways, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
    assert!(!wan.dhcp && !config.interfaces[0].is_outside());
    assert_eq!(config.conntrack.capacity, 1_000_000);
    assert_eq!(config.timeouts.ms(TimeoutKind::Udp), 45_000);
    assert_eq!(config.timeouts.ms(TimeoutKind::TcpEstablished), 7_440_000);
    assert_eq!(config.forwards[0].spec.to_string(), "wan tcp 8080 to 192.168.1.10:80");
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = good("[interface.wan]\ndevice = 'eth0'\n");
    let wan = &config.interfaces[0];
    assert_eq!((wan.zone.as_str(), wan.dhcp, wan.masquerade), ("wan", true, false));
    assert_eq!((wan.reverse_path, wan.mode, wan.mtu), (ReversePath::Strict, XdpMode::Auto, None));
    assert_eq!(config.workers, Workers::Auto);
    assert_eq!(config.conntrack, ConntrackSettings::default());
    assert_eq!(config.control, Path::new(CONTROL_DEFAULT));
    assert_eq!((config.idle, config.frames), (None, None));
    assert_eq!(config.timeouts, Timeouts::rfc());
}

#[test]
fn every_optional_key_is_read() {
    let text = "workers = [2, 3]\nidle = '50us'\ncontrol_read_group = 'adm'\nframes = 8192\nrun_dir = '/tmp/x'\n\
        [interface.wan]\ndevice = 'eth0'\naddress = ['2001:db8::1/64', '10.0.0.1/30']\n\
        gateway = ['fe80::1', '10.0.0.2']\ndhcp = true\nrp_filter = 'loose'\nmtu = 1492\n\
        accept_ra = true\nqueues = 2\nmode = 'zerocopy'\nbusy_poll = true\npromiscuous = true\n\
        [conntrack]\nhelpers = ['ftp', 'sip']\nsip_ports = [5060, 5080]\nchecksum = false\naccounting = false\n\
        hash_key = '000102030405060708090a0b0c0d0e0f'\n\
        [timeouts]\nprofile = 'linux'\ntcp_close = 5\nicmp = '1500ms'\ngeneric = '10d'\n\
        [[forward]]\ninterface = 'wan'\nprotocol = 'udp'\nport = '53'\nto = '10.1.0.1'\nid = 'dns'\n\
        comment = 'the resolver'\n";
    let config = good(text);
    assert_eq!(config.workers, Workers::Cores(vec![2, 3]));
    assert_eq!(config.idle, Some(Idle::SleepAfter(Duration::from_micros(50))));
    assert_eq!(config.frames, Some(8192));
    assert_eq!(config.control_read_group.as_deref(), Some("adm"));
    let wan = &config.interfaces[0];
    assert!(wan.dhcp && wan.accept_ra && wan.busy_poll && wan.promiscuous);
    assert_eq!((wan.mtu, wan.queues, wan.mode), (Some(1492), Some(2), XdpMode::ZeroCopy));
    assert_eq!(wan.reverse_path, ReversePath::Loose);
    let key = SipKey([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]);
    assert_eq!(config.conntrack.hash_key, Some(key));
    assert!(!config.conntrack.checksum && !config.conntrack.accounting);
    let helpers = Helpers::NONE.with(Kind::Ftp).with(Kind::Sip).with_sip_ports(&[5060, 5080]);
    assert_eq!(config.conntrack.helpers, helpers);
    assert_eq!(config.timeouts.ms(TimeoutKind::TcpClose), 5_000);
    assert_eq!(config.timeouts.ms(TimeoutKind::Icmp), 1_500);
    assert_eq!(config.timeouts.ms(TimeoutKind::Generic), 864_000_000);
    assert_eq!(config.timeouts.ms(TimeoutKind::TcpEstablished), 432_000_000);
    assert_eq!(config.forwards[0].id.as_deref(), Some("dns"));
}

#[test]
fn interfaces_keep_the_order_of_the_file() {
    let text = "[interface.wan]\ndevice = 'a'\n[interface.dmz]\ndevice = 'b'\n[interface.lan]\ndevice = 'c'\n";
    let names: Vec<_> = good(text).interfaces.iter().map(|i| i.name.clone()).collect();
    assert_eq!(names, ["wan", "dmz", "lan"]);
}

#[test]
fn places_are_no_part_of_what_a_configuration_says() {
    assert_eq!(good(EXAMPLE), good(&format!("# a comment\n\n{EXAMPLE}")));
    assert_ne!(good(EXAMPLE), good(&EXAMPLE.replace("45s", "46s")));
}

#[test]
fn unknown_keys_are_faults_at_the_key() {
    refused("wrokers = 1\n", &["3:1: unknown key `wrokers` | did you mean `workers`?"]);
    refused("colour = 1\n", &["3:1: unknown key `colour`"]);
    refused(
        "[conntrack]\n capacty = 5\n",
        &["4:2: unknown key `capacty` in [conntrack] | did you mean `capacity`?"],
    );
    refused(
        "[timeouts]\nudp_steam = 5\n",
        &["4:1: unknown key `udp_steam` in [timeouts] | did you mean `udp_stream`?"],
    );
    refused("[nat]\nx = 1\n", &["3:2: unknown key `nat`"]);
    refused(
        "[interface.dmz]\ndevice = 'eth2'\nadress = []\n",
        &["5:1: unknown key `adress` in [interface.dmz] | did you mean `address`?"],
    );
    refused(
        "[[forward]]\ninterface = 'wan'\nprotocol = 'tcp'\nport = 1\nto = '10.0.0.1'\ntoo = 1\n",
        &["8:1: unknown key `too` in [[forward]] | did you mean `to`?"],
    );
}

#[test]
fn wrong_types_are_faults_at_the_value() {
    refused(
        "workers = 'two'\n",
        &["3:11: `workers` must be a number or a list of cores, not a string"],
    );
    refused("control = 1\n", &["3:11: `control` must be a string, not a whole number"]);
    refused("rules = true\n", &["3:9: `rules` must be a string, not true or false"]);
    refused(
        "frames = 1.5\n",
        &["3:10: `frames` must be a whole number, not a number with a point"],
    );
    refused("conntrack = 5\n", &["3:13: `conntrack` must be a table, not a whole number"]);
    refused("[conntrack]\nloose = 'no'\n", &["4:9: `loose` must be true or false, not a string"]);
    refused(
        "[timeouts]\nudp = true\n",
        &[
            "4:7: `udp` must be a duration such as \"30s\" or a number of seconds, not true or false",
        ],
    );
    refused(
        "[forward]\nport = 1\n",
        &["3:1: `forward` must be a list of tables, not a table | begin each with [[forward]]"],
    );
    refused(
        "forward = [1]\n",
        &["3:11: `forward` must be a list of tables, not a list | begin each with [[forward]]"],
    );
    assert_eq!(
        faults("interface = 3\n"),
        ["1:13: `interface` must be a table, not a whole number"]
    );
    assert_eq!(
        faults("[interface]\ndevice = 'eth0'\n"),
        [
            "2:1: `interface.device` must be a table, not a string | write [interface.NAME] and its settings below"
        ]
    );
    assert_eq!(
        faults("[interface.wan]\ndevice = 'eth0'\naddress = '10.0.0.1/8'\n"),
        [
            "3:11: `address` must be a list of strings, not a string | write address = [\"10.0.0.1/8\"]"
        ]
    );
    assert_eq!(
        faults("[interface.wan]\ndevice = 'eth0'\naddress = ['10.0.0.1/8', 5]\n"),
        ["3:26: `address` must be a list of strings; this is a whole number"]
    );
}

#[test]
fn numbers_out_of_range_are_faults() {
    refused("workers = 0\n", &["3:11: `workers` must be 1 to 16, not 0"]);
    refused("workers = 17\n", &["3:11: `workers` must be 1 to 16, not 17"]);
    refused("workers = []\n", &["3:11: `workers` names no core"]);
    refused(
        "workers = [1, 1, -1, 'a']\n",
        &[
            "3:15: core 1 is named twice",
            "3:18: -1 is not a core",
            "3:22: a core is a whole number, not a string",
        ],
    );
    refused("frames = 1023\n", &["3:10: `frames` must be 1024 to 1048576, not 1023"]);
    refused("[conntrack]\ncapacity = 0\n", &["4:12: `capacity` must be 1 to 160000000, not 0"]);
    refused("[conntrack]\nhash_key = 'abc'\n", &["4:12: `hash_key` must be 32 hexadecimal digits"]);
    refused("control = 'run/x'\n", &["3:11: `control` must be an absolute path, not \"run/x\""]);
    refused(
        "[timeouts]\nudp = 0\nicmp = '11d'\ntcp_close = '500us'\ngeneric = 864001\nicmpv6 = -1\n",
        &[
            "4:7: `udp` must be 1ms to 10d, not 0us",
            "5:8: `icmp` must be 1ms to 10d, not 11d",
            "6:13: `tcp_close` must be 1ms to 10d, not 500us",
            "7:11: `generic` must be 1ms to 10d, not 864001s",
            "8:10: `icmpv6` cannot be negative",
        ],
    );
    refused(
        "[timeouts]\nprofile = 'lunix'\nudp = '30'\n",
        &[
            "4:11: `profile` must be \"rfc\" or \"linux\", not \"lunix\" | did you mean `linux`?",
            "5:7: `30` has no unit; the units are us, ms, s, m, h and d",
        ],
    );
    refused(
        "idle = 'spim'\n",
        &[
            "3:8: `idle` must be \"spin\" or a duration such as \"50us\", not \"spim\" | did you mean `spin`?",
        ],
    );
    refused("idle = '11s'\n", &["3:8: `idle` must be \"spin\" or 1us to 10s"]);
    let long = format!("control = '/{}'\n", "x".repeat(107));
    refused(&long, &["3:11: `control` is longer than the 107 bytes a socket's path can have"]);
    let fits = format!("{BASE}control = '/{}'\n", "x".repeat(106));
    good(&fits);
}

#[test]
fn interfaces_are_checked() {
    assert_eq!(
        faults(""),
        [
            "1:1: no interface is configured | begin one with [interface.lan] and device = \"enp1s0\""
        ]
    );
    refused(
        "[interface.dmz]\n",
        &["3:12: [interface.dmz] has no `device` | for example device = \"enp1s0\""],
    );
    refused(
        "[interface.'a/b']\ndevice = 'eth2'\n",
        &["3:12: `a/b` is not a device name: '/' is not allowed in it"],
    );
    refused(
        "[interface.sixteen-letters-]\ndevice = 'eth2'\n",
        &["3:12: `sixteen-letters-` is not a device name: 1 to 15 characters are allowed"],
    );
    refused(
        "[interface.dmz]\ndevice = 'eth 2'\n",
        &["4:10: `eth 2` is not a device name: ' ' is not allowed in it"],
    );
    refused(
        "[interface.dmz]\ndevice = 'eth1'\n",
        &["4:10: device `eth1` is already that of `wan` in line 2"],
    );
    let beside = "the name is given to a TAP of its own, beside the device";
    refused(
        "[interface.dmz]\ndevice = 'dmz'\n",
        &[&format!(
            "3:12: `dmz` cannot be an interface's name: it is the device in line 4 | {beside}"
        )],
    );
    refused(
        "[interface.eth0]\ndevice = 'eth2'\n",
        &[&format!(
            "3:12: `eth0` cannot be an interface's name: it is the device in line 1 | {beside}"
        )],
    );
    refused(
        "[interface.dmz]\ndevice = 'eth2'\nmtu = 575\n",
        &["5:7: `mtu` must be 576 to 1770, not 575"],
    );
    refused(
        "[interface.dmz]\ndevice = 'eth2'\nmtu = 1771\n",
        &["5:7: `mtu` must be 576 to 1770, not 1771"],
    );
    good(&format!("{BASE}[interface.dmz]\ndevice = 'eth2'\nmtu = 1770\n"));
    refused(
        "[interface.dmz]\ndevice = 'eth2'\naddress = ['2001:db8::1/64']\nmtu = 1279\n",
        &["6:7: `mtu` must be at least 1280 where there is IPv6, not 1279"],
    );
    refused(
        "[interface.dmz]\ndevice = 'eth2'\nmode = 'fast'\nrp_filter = 'strickt'\nqueues = 0\n",
        &[
            "5:8: `mode` must be \"auto\" or \"copy\" or \"zerocopy\" or \"generic\", not \"fast\"",
            "6:13: `rp_filter` must be \"strict\" or \"loose\" or \"off\", not \"strickt\" | did you mean `strict`?",
            "7:10: `queues` must be 1 to 256, not 0",
        ],
    );
}

#[test]
fn the_thirty_third_interface_is_one_too_many() {
    let many =
        |n| (0..n).map(|i| format!("[interface.i{i}]\ndevice = 'eth{i}'\n")).collect::<String>();
    assert_eq!(good(&many(32)).interfaces.len(), 32);
    assert_eq!(faults(&many(33)), ["65:12: more than 32 interfaces are configured"]);
}

#[test]
fn addresses_and_gateways_are_checked() {
    let dmz = |rest: &str, expected: &[&str]| {
        refused(&format!("[interface.dmz]\ndevice = 'eth2'\n{rest}"), expected)
    };
    dmz(
        "address = ['10.0.0.1']\n",
        &["5:12: `10.0.0.1` has no prefix length | for example \"10.0.0.1/24\""],
    );
    dmz("address = ['10.0.0.300/24']\n", &["5:12: `10.0.0.300` is not an IPv4 or IPv6 address"]);
    dmz("address = ['10.0.0.1/33']\n", &["5:12: `33` is not a prefix length of 1 to 32"]);
    dmz(
        "address = ['10.0.0.0/24']\n",
        &["5:12: `10.0.0.0/24` is the network itself, not a host in it"],
    );
    dmz(
        "address = ['10.0.0.255/24']\n",
        &["5:12: `10.0.0.255/24` is the broadcast address of its network"],
    );
    dmz(
        "address = ['192.168.1.1/16']\n",
        &["5:12: `192.168.1.1` is already an address of `lan` in line 1"],
    );
    dmz(
        "address = ['10.0.0.1/24']\ngateway = ['10.0.1.1']\n",
        &["6:12: gateway `10.0.1.1` is in none of the interface's networks"],
    );
    dmz(
        "gateway = ['10.0.1.1']\n",
        &["5:12: gateway `10.0.1.1` is in none of the interface's networks | \
         without `address` the network manager that owns the TAP sets the gateway"],
    );
    dmz(
        "address = ['10.0.0.1/24']\ngateway = ['10.0.0.1']\n",
        &["6:12: gateway `10.0.0.1` is the interface's own address"],
    );
    dmz(
        "address = ['10.0.0.1/24']\ngateway = ['10.0.0.2', '10.0.0.3']\n",
        &["6:24: more than one IPv4 gateway"],
    );
    dmz(
        "address = ['10.0.0.1/24']\ngateway = ['10.0.0.2/24']\n",
        &["6:12: `10.0.0.2/24` is not an IPv4 or IPv6 address | a gateway has no prefix length"],
    );
}

fn forward(interface: &str, protocol: &str, port: &str, to: &str) -> String {
    format!(
        "[[forward]]\ninterface = '{interface}'\nprotocol = '{protocol}'\nport = {port}\nto = '{to}'\n"
    )
}

#[test]
fn forwards_are_checked() {
    let one = |interface, protocol, port, to, expected: &[&str]| {
        refused(&forward(interface, protocol, port, to), expected);
    };
    one(
        "wam",
        "tcp",
        "80",
        "192.168.1.10",
        &["4:13: there is no interface `wam` | did you mean `wan`?"],
    );
    one(
        "wan",
        "icmp",
        "80",
        "192.168.1.10",
        &["5:12: `icmp` is not a protocol that has port forwards: tcp or udp"],
    );
    one(
        "wan",
        "tcp",
        "0",
        "192.168.1.10",
        &["6:8: `0` is not a port (1 to 65535) or a range such as \"8000-8010\""],
    );
    one(
        "wan",
        "tcp",
        "65536",
        "192.168.1.10",
        &["6:8: `65536` is not a port (1 to 65535) or a range such as \"8000-8010\""],
    );
    one(
        "wan",
        "tcp",
        "'9-8'",
        "192.168.1.10",
        &["6:8: `9-8` is not a port (1 to 65535) or a range such as \"8000-8010\""],
    );
    one(
        "wan",
        "tcp",
        "[80]",
        "192.168.1.10",
        &["6:8: `port` must be a number or a range such as \"8000-8010\", not a list"],
    );
}

#[test]
fn targets_of_forwards_are_checked() {
    let one = |interface, protocol, port, to, expected: &[&str]| {
        refused(&forward(interface, protocol, port, to), expected);
    };
    one(
        "wan",
        "tcp",
        "'8000-8010'",
        "192.168.1.10:65526",
        &["7:6: 11 ports from 65526 go beyond 65535"],
    );
    one(
        "wan",
        "tcp",
        "'8000-8010'",
        "192.168.1.10:1-10",
        &["7:6: 11 ports cannot go to 10: the two ranges must have the same length"],
    );
    one(
        "wan",
        "tcp",
        "80",
        "host",
        &[
            "7:6: `host` is not a target: write \"192.168.1.10:80\", \"[2001:db8::10]:80\" or an address alone",
        ],
    );
    one(
        "wan",
        "tcp",
        "80",
        "224.0.0.1:80",
        &["7:6: `224.0.0.1` is a multicast address, which cannot be forwarded to"],
    );
    one(
        "wan",
        "tcp",
        "80",
        "[2001:db8::1]:80",
        &["7:6: interface `wan` has no IPv6 address to forward from"],
    );
    refused(
        "[[forward]]\nid = 'a b'\n",
        &[
            "3:1: [[forward]] has no `interface` | for example interface = \"wan\"",
            "3:1: [[forward]] has no `protocol` | for example protocol = \"tcp\"",
            "3:1: [[forward]] has no `port` | for example port = 8080",
            "3:1: [[forward]] has no `to` | for example to = \"192.168.1.10:80\"",
            "4:6: `id` must be 1 to 64 printable characters without spaces",
        ],
    );
}

#[test]
fn overlapping_forwards_name_both_lines() {
    let two = [
        forward("wan", "tcp", "'8000-8010'", "192.168.1.10"),
        forward("wan", "udp", "8005", "192.168.1.10"),
        forward("wan", "tcp", "8010", "192.168.1.11:80"),
        forward("wan", "tcp", "8011", "192.168.1.11:80"),
    ]
    .concat();
    refused(
        &two,
        &[
            "13:1: the forward of line 13 overlaps the forward wan tcp 8000-8010 to 192.168.1.10:8000-8010 of line 3",
        ],
    );
    let same_id = "forward = [\n{interface='wan', protocol='tcp', port=1, to='10.0.0.1', id='x'},\n\
        {interface='wan', protocol='tcp', port=2, to='10.0.0.1', id='x'}]\n";
    refused(same_id, &["5:1: the forward of line 4 has the same `id`"]);
}

#[test]
fn ports_of_sip_are_a_few_ports() {
    let fault = "4:13: `sip_ports` must be a list of one to 8 ports (1 to 65535)";
    for given in ["5060", "[]", "[0]", "[65536]", "['5060']", "[1, 2, 3, 4, 5, 6, 7, 8, 9]"] {
        refused(&format!("[conntrack]\nsip_ports = {given}\n"), &[fault]);
    }
}

#[test]
fn an_unknown_helper_says_so() {
    refused(
        "[conntrack]\nhelpers = ['h323']\n",
        &["4:12: there is no helper \"h323\"; there are ftp, irc, tftp, sip"],
    );
}

/// C106
#[test]
fn triggers_are_read_and_no_two_open_the_same_port() {
    let trigger = |more: &str| format!("[[trigger]]\ninterface = 'wan'\nprotocol = 'udp'\n{more}");
    let text = trigger("outbound = 6112\ninbound = '6113-6115'\n");
    let config = good(&format!("[interface.wan]\ndevice = 'eth0'\n{text}"));
    let [TriggerSettings { spec: read, .. }] = &config.triggers[..] else { panic!("one trigger") };
    assert_eq!((read.interface.as_str(), read.protocol), ("wan", ForwardProtocol::Udp));
    assert_eq!(Some(read.outbound), PortRange::new(6112, 6112));
    assert_eq!(Some(read.inbound), PortRange::new(6113, 6115));
    assert_eq!(read.timeout, Duration::from_secs(60));
    let twice = format!("{text}{}", trigger("outbound = 1\ninbound = 6115\ntimeout = '1s'\n"));
    refused(&twice, &["8:1: opens ports that the trigger of line 3 opens"]);
    refused(
        &trigger("outbound = 0\ninbound = 1\n"),
        &["6:12: `0` is not a port (1 to 65535) or a range such as \"8000-8010\""],
    );
}

#[test]
fn all_faults_come_at_once_and_in_order() {
    let text = "[timeouts]\nudp = 'x'\n[interface.lan]\ndevice = 5\n[conntrack]\nfoo = 1\n";
    assert_eq!(
        faults(text),
        [
            "2:7: `x` is not a duration; write for example \"30s\" or \"5m\"",
            "4:10: `device` must be a string, not a whole number",
            "6:1: unknown key `foo` in [conntrack]",
        ]
    );
}

#[test]
fn what_is_not_toml_has_its_place() {
    assert_eq!(faults("workers = 1\nworkers = 2\n"), ["2:1: duplicate key"]);
    assert_eq!(faults("a = 'b\n").len(), 1);
    assert!(faults("ok = 1\n = 2\n")[0].starts_with("2:2: "), "{:?}", faults("ok = 1\n = 2\n"));
    let bytes = parse(&file(), b"# \xc3\xa9\nx = \xff").unwrap_err();
    assert_eq!((bytes[0].line, bytes[0].column), (2, 5));
    assert_eq!(
        bytes[0].to_string(),
        "/etc/postern/postern.toml:2:5: the file is not UTF-8 text from here on"
    );
}

/// A host as a test wants it.
struct Host {
    devices: &'static [&'static str],
    mtu: u32,
    cores: u16,
    files: &'static [&'static str],
}

impl HostFacts for Host {
    fn devices(&self) -> Vec<String> {
        self.devices.iter().map(|d| (*d).to_owned()).collect()
    }
    fn mtu(&self, _device: &str) -> Option<u32> {
        Some(self.mtu)
    }
    fn cores(&self) -> Vec<u16> {
        (0..self.cores).collect()
    }
    fn readable(&self, path: &Path) -> bool {
        self.files.iter().any(|f| Path::new(f) == path)
    }
}

fn shown(faults: Vec<Fault>) -> Vec<String> {
    faults.iter().map(|f| format!("{}:{}: {}", f.line, f.column, f.message)).collect()
}

#[test]
fn the_host_is_asked_for_devices_cores_and_files() {
    let files = &["/etc/postern/rules.v4", "/etc/postern/rules.v6"];
    let all = Host { devices: &["enp1s0", "enp2s0"], mtu: 1770, cores: 1, files };
    assert!(check_host(&good(EXAMPLE), &all).is_empty());

    let none =
        Host { devices: &["enp1s1"], mtu: 1500, cores: 2, files: &["/etc/postern/rules.v6"] };
    let faults = check_host(&good(&EXAMPLE.replace("workers = 1", "workers = 3")), &none);
    assert_eq!(faults[2].hint.as_deref(), Some("did you mean `enp1s1`?"));
    assert_eq!(
        shown(faults),
        [
            "2:11: 3 workers need 3 cores; this host has 2 for us",
            "4:11: there is no readable file `/etc/postern/rules.v4`",
            "8:11: there is no device `enp1s0` on this host",
            "12:11: there is no device `enp2s0` on this host",
        ]
    );
    let listed = check_host(&good(&EXAMPLE.replace("workers = 1", "workers = [0, 7]")), &all);
    assert_eq!(shown(listed), ["2:11: there is no core 7 on this host for us"]);

    let jumbo = Host { devices: &["enp1s0", "enp2s0"], mtu: 1771, cores: 1, files };
    let faults = check_host(&good(EXAMPLE), &jumbo);
    assert_eq!(faults[0].hint.as_deref(), Some("for example: ip link set dev enp1s0 mtu 1500"));
    assert_eq!(
        shown(faults),
        [
            "8:11: device `enp1s0` has MTU 1771; at most 1770 fits a frame",
            "12:11: device `enp2s0` has MTU 1771; at most 1770 fits a frame",
        ]
    );
}

#[test]
fn loading_reports_the_faults_of_file_and_host_together() {
    let path = std::env::temp_dir().join(format!("postern-config-{}.toml", std::process::id()));
    std::fs::write(&path, "colour = 1\n[interface.wan]\ndevice = 'no-such-dev'\n").unwrap();
    let faults =
        load(&path, &Host { devices: &["lo"], mtu: 65_536, cores: 2, files: &[] }).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        shown(faults),
        ["1:1: unknown key `colour`", "3:10: there is no device `no-such-dev` on this host"]
    );
    let absent = load(&path, &ThisHost).unwrap_err();
    assert!(absent[0].message.starts_with("cannot read the file: "), "{absent:?}");
}

#[test]
fn this_host_has_loopback_and_a_core() {
    assert!(ThisHost.devices().iter().any(|d| d == "lo"));
    assert!(!ThisHost.cores().is_empty());
    assert!(
        !ThisHost.readable(Path::new("/")) && ThisHost.readable(Path::new("/proc/self/status"))
    );
}

#[test]
fn workers_take_the_highest_cores() {
    assert_eq!(Workers::Auto.cores(&[0, 1, 2, 3]), [1, 2, 3]);
    assert_eq!(Workers::Auto.cores(&[5]), [5]);
    assert_eq!(Workers::Count(1).cores(&[0, 1]), [1]);
    assert_eq!(Workers::Count(2).cores(&[0, 1]), [0, 1]);
    assert_eq!(Workers::Cores(vec![3, 1]).cores(&[0, 1]), [3, 1]);
    assert_eq!(Workers::Auto.cores(&(0..64).collect::<Vec<_>>()).len(), 16);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&file(), &bytes);
    }

    #[test]
    fn a_damaged_configuration_never_panics_and_its_faults_have_places(
        damage in proptest::collection::vec((any::<usize>(), "[-\\[\\]\"'{}=.,:/0-9a-z \n\u{e9}]{0,6}", 0usize..8), 1..5),
    ) {
        let mut text = EXAMPLE.to_owned();
        for (at, insert, remove) in damage {
            let mut chars: Vec<char> = text.chars().collect();
            let at = at % (chars.len() + 1);
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
            text = chars.into_iter().collect();
        }
        let lines = text.lines().count() as u32 + 1;
        for fault in parse(&file(), text.as_bytes()).err().unwrap_or_default() {
            prop_assert!(fault.line >= 1 && fault.line <= lines && fault.column >= 1, "{fault}");
            prop_assert!(!fault.message.is_empty() && !fault.message.contains('\n'), "{fault:?}");
        }
    }
}

#[test]
fn limits_are_read_and_a_prefix_needs_one() {
    assert_eq!(good(BASE).limits.per_source, None);
    let limited = |keys: &str| good(&format!("{BASE}[limits]\n{keys}")).limits.per_source;
    let (most, lengths) = (500, [32, 64]);
    assert_eq!(limited("connections_per_source = 500"), Some(PerSource { most, lengths }));
    let lengths = [24, 56];
    assert_eq!(
        limited("connections_per_source = 500\nsource_prefix = 24\nsource_prefix6 = 56"),
        Some(PerSource { most, lengths })
    );
    for (keys, fault) in [
        ("connections_per_source = 0", "4:26: `connections_per_source` must be 1 to 160000000"),
        (
            "source_prefix = 24",
            "3:1: there is a prefix and no `connections_per_source` to go with it",
        ),
        ("connections_per_source = 1\nsource_prefix = 33", "5:17: `source_prefix` must be 8 to 32"),
    ] {
        let found = faults(&format!("{BASE}[limits]\n{keys}"));
        assert!(found.len() == 1 && found[0].starts_with(fault), "{found:?}");
    }
}

/// C186
#[test]
fn a_network_has_a_conntrack_zone_of_its_own_if_it_says_so() {
    let with = |more: &str| {
        format!("[interface.lan]\ndevice = 'eth0'\n[interface.wan]\ndevice = 'eth1'\n{more}\n")
    };
    for (text, zone) in [("", 0), ("conntrack_zone = 0", 0), ("conntrack_zone = 65535", u16::MAX)] {
        assert_eq!(good(&with(text)).interfaces[1].conntrack_zone, zone);
    }
    for text in ["conntrack_zone = 65536", "conntrack_zone = -1", "conntrack_zone = 'wan'"] {
        assert_eq!(faults(&with(text)).len(), 1, "{text}");
    }
}

/// C186
#[test]
fn a_timeout_policy_differs_from_the_general_timeouts_in_what_it_says() {
    let config = good(&format!(
        "{BASE}[conntrack]\nloose = true\n[timeouts]\nudp = '10s'\n[timeouts.policy.voice]\nudp_stream = '1h'\nliberal = true\n\
         zones = [1, 65535]\n[timeouts.policy.brief]\nudp = 5\nloose = false\n"
    ));
    let [voice, brief] = &config.timeout_policies[..] else { panic!("{config:?}") };
    let udp = [TimeoutKind::Udp, TimeoutKind::UdpStream];
    assert_eq!(udp.map(|kind| config.timeouts.ms(kind)), [10_000, 300_000]);
    assert_eq!(udp.map(|kind| voice.policy.timeouts.ms(kind)), [10_000, 3_600_000]);
    assert_eq!(udp.map(|kind| brief.policy.timeouts.ms(kind)), [5_000, 300_000]);
    let tcp = |policy: &TimeoutPolicySettings| (policy.policy.tcp.loose, policy.policy.tcp.liberal);
    assert_eq!((tcp(voice), tcp(brief)), ((true, true), (false, false)));
    assert_eq!(
        (voice.name.as_str(), &voice.zones[..], brief.zones.len()),
        ("voice", &[1, 65535][..], 0)
    );

    let many: String = (0..16).map(|n| format!("[timeouts.policy.p{n}]\n")).collect();
    for (text, fault) in [
        ("[timeouts.policy.a]\nudp_steam = 5\n", "unknown key `udp_steam` in [timeouts.policy.a]"),
        ("[timeouts.policy.a]\nzones = 1\n", "`zones` must be a list of numbers"),
        ("[timeouts.policy.a]\nzones = [0]\n", "`zones` must be 1 to 65535, not 0"),
        ("[timeouts.policy.'a b']\nudp = 5\n", "a timeout policy's name is a word"),
        ("[timeouts.policy]\nudp = 5\n", "`timeouts.policy.udp` must be a table"),
        (
            "[timeouts.policy.a]\nzones = [1]\n[timeouts.policy.b]\nzones = [2, 1]\n",
            "zone 1 has the timeout policy `a` already",
        ),
        (&many, "more than 15 timeout policies"),
    ] {
        let found = faults(&format!("{BASE}{text}"));
        assert!(found.len() == 1 && found[0].contains(fault), "{text}: {found:?}");
    }
}

#[test]
fn mappings_are_endpoint_independent_only_where_they_are_made() {
    let with = |wan: &str| {
        format!(
            "interface.lan = {{ device = 'eth0', address = ['192.168.1.1/24'] }}\n\
                 interface.wan = {{ device = 'eth1', address = ['203.0.113.2/24'], {wan} }}\n"
        )
    };
    for (word, independence) in
        [("mapping", Independence::Mapping), ("filtering", Independence::Filtering)]
    {
        let text = with(&format!("masquerade = true, endpoint_independent = '{word}'"));
        assert_eq!(good(&text).interfaces[1].independent, Some(independence));
    }
    assert_eq!(good(&with("masquerade = true")).interfaces[1].independent, None);
    for wan in
        ["endpoint_independent = 'mapping'", "masquerade = true, endpoint_independent = 'cone'"]
    {
        assert!(parse(Path::new("t.toml"), with(wan).as_bytes()).is_err(), "{wan}");
    }
}

#[test]
fn a_clamp_is_a_number_or_the_mtu() {
    let with =
        |clamp: &str| BASE.replacen("['192.168.1.1/24']", &format!("['192.168.1.1/24']{clamp}"), 1);
    for (clamp, read) in [
        ("", None),
        (", clamp_mss = 'mtu'", Some(ClampMss::ToMtu)),
        (", clamp_mss = 1400", Some(ClampMss::To(1_400))),
    ] {
        assert_eq!(good(&with(clamp)).interfaces[0].clamp_mss, read);
    }
    for (clamp, fault) in [
        (", clamp_mss = 'path'", "`clamp_mss` must be \"mtu\", not \"path\""),
        (", clamp_mss = 535", "`clamp_mss` must be 536 to 9000, not 535"),
        (", clamp_mss = true", "`clamp_mss` must be a string, not "),
    ] {
        let found = faults(&with(clamp));
        assert!(found.len() == 1 && found[0].contains(fault), "{found:?}");
    }
}

#[test]
fn what_is_done_about_a_full_table_is_read() {
    let read = |keys: &str| {
        let config = good(&format!("{BASE}[conntrack]\n{keys}"));
        (config.conntrack.headroom, config.conntrack.adaptive)
    };
    assert_eq!(read(""), (1_024, (60, 120)));
    assert_eq!(read("capacity = 6400"), (100, (60, 120)));
    assert_eq!(
        read("headroom = 5000\nadaptive_start = 80\nadaptive_end = 100"),
        (5_000, (80, 100))
    );
    assert_eq!(read("capacity = 1"), (0, (60, 120)));
    for (keys, fault) in [
        ("capacity = 100\nheadroom = 50", "5:12: `headroom` must be 0 to 49"),
        ("adaptive_start = 101", "4:18: `adaptive_start` must be 0 to 100"),
        ("adaptive_end = 60", "4:16: `adaptive_end` must be more than `adaptive_start`"),
    ] {
        let found = faults(&format!("{BASE}[conntrack]\n{keys}"));
        assert!(found.len() == 1 && found[0].starts_with(fault), "{found:?}");
    }
}
