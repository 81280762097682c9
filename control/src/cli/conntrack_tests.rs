//! Lines against what conntrack v1.4.7 printed on Linux 6.18, taken as it stood.

use std::net::IpAddr;

use super::*;
use crate::api::connection::{ConnectionId, Counted, Protocol};

fn tuple(src: &str, dst: &str, ids: Ids, counted: Option<(u64, u64)>) -> TupleInfo {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let counted = counted.map(|(packets, bytes)| Counted { packets, bytes });
    TupleInfo { src: address(src), dst: address(dst), ids, zone: 0, counted }
}

fn connection(protocol: u8, timeout_s: u32, original: TupleInfo, reply: TupleInfo) -> Connection {
    Connection {
        id: ConnectionId(2_253_857_837),
        family: Family::of(original.src),
        protocol: Protocol(protocol),
        protocol_number: protocol,
        timeout_s,
        state: None,
        seen_reply: true,
        assured: false,
        snat: false,
        dnat: false,
        original,
        reply,
        mark: 0,
        zone: 0,
        original_ingress: Some("lan".to_owned()),
        original_egress: Some("wan".to_owned()),
        expected: false,
        helper: None,
        age_s: 1,
        start_unix_s: 0,
        worker: 0,
    }
}

const fn ports(sport: u16, dport: u16) -> Ids {
    Ids::Ports { sport, dport }
}

const fn icmp(icmp_type: u8, icmp_id: u16) -> Ids {
    Ids::Icmp { icmp_type, icmp_code: 0, icmp_id }
}

fn show(output: &[Extra]) -> Show {
    Show { output: output.to_vec() }
}

#[test]
fn an_assured_tcp_connection() {
    let connection = Connection {
        state: Some("ESTABLISHED".to_owned()),
        assured: true,
        mark: 3,
        ..connection(
            6,
            431_998,
            tuple("192.168.1.2", "192.0.2.9", ports(40000, 443), Some((0, 0))),
            tuple("192.0.2.9", "192.168.1.2", ports(443, 40000), Some((0, 0))),
        )
    };
    assert_eq!(
        line(&connection, &show(&[])),
        "tcp      6 431998 ESTABLISHED src=192.168.1.2 dst=192.0.2.9 sport=40000 dport=443 packets=0 bytes=0 src=192.0.2.9 dst=192.168.1.2 sport=443 dport=40000 packets=0 bytes=0 [ASSURED] mark=3 use=1"
    );
}

/// As libnetfilter_conntrack prints them: a zone of both directions at the end, one of a direction alone behind its ports.
#[test]
fn zones_of_both_directions_and_of_one() {
    let of_zones = |zone, original, reply| {
        let plain = connection(
            17,
            29,
            tuple("192.168.1.2", "192.0.2.9", ports(40000, 53), Some((1, 30))),
            tuple("192.0.2.9", "192.168.1.2", ports(53, 40000), Some((0, 0))),
        );
        Connection {
            zone,
            original: TupleInfo { zone: original, ..plain.original },
            reply: TupleInfo { zone: reply, ..plain.reply },
            ..plain
        }
    };
    assert_eq!(
        line(&of_zones(0, 5, 7), &show(&[])),
        "udp      17 29 src=192.168.1.2 dst=192.0.2.9 sport=40000 dport=53 zone-orig=5 packets=1 bytes=30 src=192.0.2.9 dst=192.168.1.2 sport=53 dport=40000 zone-reply=7 packets=0 bytes=0 mark=0 use=1"
    );
    let both = line(&of_zones(6, 0, 0), &show(&[]));
    assert!(both.ends_with(" mark=0 zone=6 use=1") && !both.contains("zone-"), "{both}");
    let matches = |connection: &Connection, query: &ConnectionQuery| {
        ConnectionFilter::try_from(query).unwrap().matches(&connection.into())
    };
    let text = |zone: &str| Some(zone.to_owned());
    let by_zone = ConnectionQuery { zone: text("6"), ..ConnectionQuery::default() };
    let by_orig = ConnectionQuery { orig_zone: text("5"), ..ConnectionQuery::default() };
    let by_reply = ConnectionQuery { reply_zone: text("7"), ..ConnectionQuery::default() };
    for (connection, expected) in
        [(of_zones(6, 0, 0), [true, false, false]), (of_zones(0, 5, 7), [false, true, true])]
    {
        let found = [&by_zone, &by_orig, &by_reply].map(|query| matches(&connection, query));
        assert_eq!(found, expected);
    }
}

#[test]
fn an_unreplied_udp_flow_without_accounting() {
    let connection = Connection {
        seen_reply: false,
        ..connection(
            17,
            29,
            tuple("192.168.1.2", "192.0.2.9", ports(40000, 53), None),
            tuple("192.0.2.9", "192.168.1.2", ports(53, 40000), None),
        )
    };
    assert_eq!(
        line(&connection, &show(&[])),
        "udp      17 29 src=192.168.1.2 dst=192.0.2.9 sport=40000 dport=53 [UNREPLIED] src=192.0.2.9 dst=192.168.1.2 sport=53 dport=40000 mark=0 use=1"
    );
}

#[test]
fn an_echo_with_family_and_id() {
    let connection = connection(
        58,
        29,
        tuple("::1", "::1", icmp(128, 11265), Some((1, 104))),
        tuple("::1", "::1", icmp(129, 11265), Some((1, 104))),
    );
    assert_eq!(
        line(&connection, &show(&[Extra::Extended, Extra::Id])),
        "ipv6     10 icmpv6   58 29 src=::1 dst=::1 type=128 code=0 id=11265 packets=1 bytes=104 src=::1 dst=::1 type=129 code=0 id=11265 packets=1 bytes=104 mark=0 use=1 id=2253857837"
    );
}

#[test]
fn gre_and_a_protocol_without_a_name() {
    let keys = Ids::Keys { srckey: 1, dstkey: 2 };
    let gre = Connection {
        seen_reply: false,
        ..connection(
            47,
            29,
            tuple("192.168.1.2", "192.0.2.9", keys, Some((0, 0))),
            tuple("192.0.2.9", "192.168.1.2", Ids::Keys { srckey: 2, dstkey: 1 }, Some((0, 0))),
        )
    };
    assert_eq!(
        line(&gre, &show(&[])),
        "gre      47 29 src=192.168.1.2 dst=192.0.2.9 srckey=0x1 dstkey=0x2 packets=0 bytes=0 [UNREPLIED] src=192.0.2.9 dst=192.168.1.2 srckey=0x2 dstkey=0x1 packets=0 bytes=0 mark=0 use=1"
    );
    let ends = |counted| tuple("127.0.0.1", "127.0.0.1", Ids::None {}, Some(counted));
    let esp = Connection { seen_reply: false, ..connection(50, 599, ends((1, 60)), ends((0, 0))) };
    assert_eq!(
        line(&esp, &show(&[Extra::Extended])),
        "ipv4     2 unknown  50 599 src=127.0.0.1 dst=127.0.0.1 packets=1 bytes=60 [UNREPLIED] src=127.0.0.1 dst=127.0.0.1 packets=0 bytes=0 mark=0 use=1"
    );
}

#[test]
fn a_connection_with_a_helper_and_its_times() {
    let mut connection = Connection {
        state: Some("ESTABLISHED".to_owned()),
        assured: true,
        helper: Some("ftp".to_owned()),
        start_unix_s: 1_795_462_307,
        ..connection(
            6,
            431_999,
            tuple("127.0.0.1", "127.0.0.1", ports(59990, 21), Some((4, 239))),
            tuple("127.0.0.1", "127.0.0.1", ports(21, 59990), Some((3, 172))),
        )
    };
    let begin = "tcp      6 431999 ESTABLISHED src=127.0.0.1 dst=127.0.0.1 sport=59990 dport=21 packets=4 bytes=239 src=127.0.0.1 dst=127.0.0.1 sport=21 dport=59990 packets=3 bytes=172 [ASSURED] mark=0 ";
    assert_eq!(line(&connection, &show(&[])), format!("{begin}helper=ftp use=1"));
    connection.helper = None;
    let start = local_time::asctime(connection.start_unix_s);
    assert_eq!(
        line(&connection, &show(&[Extra::Ktimestamp, Extra::Id])),
        format!("{begin}delta-time=1 [start={start}] use=1 id=2253857837")
    );
}

/// Taken from `conntrack -E` on Linux 6.18 but for the names of the connection's parts.
#[test]
fn the_end_of_an_echo_that_was_deleted() {
    let connection = connection(
        1,
        28,
        tuple("127.0.0.1", "127.0.0.1", icmp(8, 25709), Some((1, 84))),
        tuple("127.0.0.1", "127.0.0.1", icmp(0, 25709), Some((1, 84))),
    );
    let event = |connection: &Connection| Event::Destroy {
        time_unix_ms: 1_795_462_308_384,
        connection: connection.clone(),
        reason: crate::api::event::EndReason::Deleted,
        duration_ms: 1000,
    };
    assert_eq!(
        event_line(&event(&connection), &show(&[Extra::Timestamp])),
        "[1795462308.384000]\t[DESTROY] icmp     1 28 src=127.0.0.1 dst=127.0.0.1 type=8 code=0 id=25709 packets=1 bytes=84 src=127.0.0.1 dst=127.0.0.1 type=0 code=0 id=25709 packets=1 bytes=84"
    );
    let expired = Connection { timeout_s: 0, ..connection };
    assert!(event_line(&event(&expired), &show(&[])).starts_with("[DESTROY] icmp     1 src="));
}

#[test]
fn every_option_of_a_filter_decides() {
    let connection = Connection {
        state: Some("ESTABLISHED".to_owned()),
        snat: true,
        mark: 0x13,
        ..connection(
            6,
            7440,
            tuple("192.168.1.2", "192.0.2.9", ports(40000, 443), None),
            tuple("192.0.2.9", "203.0.113.2", ports(443, 40001), None),
        )
    };
    let matches = |edit: &dyn Fn(&mut ConnectionQuery, String), value: &str| {
        let mut query = ConnectionQuery::default();
        edit(&mut query, value.to_owned());
        ConnectionFilter::try_from(&query).unwrap().matches(&(&connection).into())
    };
    type Edit<'a> = &'a dyn Fn(&mut ConnectionQuery, String);
    let rows: &[(Edit<'_>, &str, &str)] = &[
        (&|q, v| q.family = Some(v), "ipv4", "ipv6"),
        (&|q, v| q.protocol = Some(v), "tcp", "udp"),
        (&|q, v| q.src = Some(v), "192.168.1.0/24", "192.168.2.0/24"),
        (&|q, v| q.src = Some(v), "0.0.0.0/0", "::/0"),
        (&|q, v| q.dst = Some(v), "192.0.2.9", "192.0.2.8"),
        (&|q, v| q.reply_src = Some(v), "192.0.2.9", "192.168.1.2"),
        (&|q, v| q.reply_dst = Some(v), "203.0.113.2", "192.168.1.2"),
        (&|q, v| q.sport = Some(v), "40000", "40001"),
        (&|q, v| q.dport = Some(v), "443", "80"),
        (&|q, v| q.reply_sport = Some(v), "443", "40001"),
        (&|q, v| q.reply_dport = Some(v), "40001", "40000"),
        (&|q, v| q.state = Some(v), "established", "SYN_SENT"),
        (&|q, v| q.status = Some(v), "SEEN_REPLY,SRC_NAT", "SEEN_REPLY,ASSURED"),
        (&|q, v| q.src_nat = Some(v), "any", "192.168.1.2"),
        (&|q, v| q.src_nat = Some(v), "203.0.113.2", "203.0.113.3"),
        (&|q, v| q.any_nat = Some(v), "any", "192.0.2.9"),
        (&|q, v| q.mark = Some(v), "0x10/0xf0", "0x10"),
        (&|q, v| q.zone = Some(v), "0", "1"),
        (&|q, v| q.interface = Some(v), "wan", "dmz"),
        (&|q, v| q.interface = Some(v), "lan", "ppp0"),
        (&|q, v| q.status = Some(v), "src_nat", "EXPECTED"),
        (&|q, v| q.status = Some(v), "SEEN_REPLY", "UNREPLIED"),
    ];
    for (edit, yes, no) in rows {
        assert!(matches(edit, yes), "{yes}");
        assert!(!matches(edit, no), "{no}");
    }
    assert!(!matches(&|q, v| q.dst_nat = Some(v), "any"));
    assert!(!matches(&|q, v| q.icmp_id = Some(v), "1"), "it is not ICMP");
}

#[test]
fn a_filter_that_is_not_understood_names_its_part() {
    let query = ConnectionQuery { src: Some("192.168.1.0/33".to_owned()), ..Default::default() };
    let error = ConnectionFilter::try_from(&query).unwrap_err();
    assert!(error.to_string().starts_with("src: `192.168.1.0/33` is not an address"), "{error}");
    for query in [
        ConnectionQuery { sport: Some("65536".to_owned()), ..Default::default() },
        ConnectionQuery { state: Some("ESTABLISHD".to_owned()), ..Default::default() },
        ConnectionQuery { status: Some("ASSURED,".to_owned()), ..Default::default() },
        ConnectionQuery { mark: Some("0x".to_owned()), ..Default::default() },
    ] {
        assert!(ConnectionFilter::try_from(&query).is_err(), "{query:?}");
    }
}
