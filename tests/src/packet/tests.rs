use super::*;

/// A datagram and its checksums worked out by hand.
#[test]
fn a_datagram_is_built_as_by_hand() {
    let pkt = udp("192.0.2.1:1", "192.0.2.2:2").payload(b"ab").ttl(1).id(0);
    #[rustfmt::skip]
    let by_hand = [
        0x45, 0, 0, 30, 0, 0, 0, 0, 1, 17, 0x35, 0xcc, 192, 0, 2, 1, 192, 0, 2, 2,
        0, 1, 0, 2, 0, 10, 0x1a, 0x71, b'a', b'b',
    ];
    assert_eq!(pkt.build(), by_hand);
    assert_eq!(Pkt::decode(&by_hand), Ok(pkt));
}

#[test]
fn every_kind_of_packet_reads_back_as_it_was_written() {
    let rest = &[0, 1, 4, 0, 0, 0, 0];
    for pkt in [
        udp("192.0.2.1:1", "192.0.2.2:2").unsummed().tos(3),
        udp("[2001:db8::1]:1", "[2001:db8::2]:2").tos(0xab).id(7),
        udp("[2001:db8::1]:1", "[2001:db8::2]:2").extension(60, rest).extension(43, rest),
        tcp("192.0.2.1:1", "192.0.2.2:2").syn().ack(9).seq(5).mss(1460).wscale(7).payload(b"x"),
        tcp("[2001:db8::1]:1", "[2001:db8::2]:2").flags(0xff),
        echo_request("192.0.2.1", "192.0.2.2", 1, 2).options(&[7, 7, 4, 0, 0, 0, 0]),
        echo_reply("2001:db8::1", "2001:db8::2", 1, 2),
        icmp("192.0.2.1", "192.0.2.2", 3, 3, 0, &udp("192.0.2.2:2", "192.0.2.1:1").build()),
        other("192.0.2.1", "192.0.2.2", 47, b"gre"),
    ] {
        assert_eq!(Pkt::decode(&pkt.build()), Ok(pkt));
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    let pkt = tcp("192.0.2.1:1", "192.0.2.2:2").syn().mss(1460).payload(b"hello");
    let bytes = pkt.build();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        assert_ne!(Pkt::decode(&bytes).ok(), Some(pkt.clone()), "byte {at}");
    }
}

#[test]
fn the_sides_of_a_query_share_its_identifier() {
    let request = echo_request("192.0.2.1", "192.0.2.2", 5, 1).from("192.0.2.9:77");
    assert_eq!(request, echo_request("192.0.2.9", "192.0.2.2", 77, 1));
    assert_eq!(request.source().port(), 77);
    let reply = echo_reply("192.0.2.2", "192.0.2.9", 77, 1).to("192.0.2.1:5");
    assert_eq!(reply, echo_reply("192.0.2.2", "192.0.2.1", 5, 1));
}
