//! Maximum segment sizes are lowered where an interface asks for it.

use postern_core::snapshot::ClampMss;
use postern_tests::packet::tcp;
use postern_tests::{At, Firewall, Flow, HOST_WAN, LAN, Pkt, Setup, WAN, for_workers};

/// A setup with a clamp on one interface.
fn clamping(mut setup: Setup, at: At, clamp: ClampMss) -> Setup {
    setup.interfaces[at.interface().index()].clamp_mss = Some(clamp);
    setup
}

/// Sends `pkt` through a firewall that clamps and `lowered` through one that does not: both must come out the same.
#[track_caller]
fn comes_out_as([clamping, plain]: [&mut Firewall; 2], at: At, pkt: &Pkt, lowered: &Pkt) -> Pkt {
    let out = if at == LAN { WAN } else { LAN };
    let expected = plain.send(at, lowered).out(out);
    assert_eq!(clamping.send(at, pkt).out(out), expected);
    expected
}

/// C040: SYN and SYN/ACK, of connections from inside and by a forward, whichever of the two interfaces asks.
#[test]
fn both_ends_are_told_what_fits() {
    for_workers([1, 2, 4], |setup| {
        let setup = setup.mtu(WAN, 1492).forward_tcp(80, "192.168.1.10:8080");
        for (at, clamp, most) in [
            (WAN, ClampMss::ToMtu, 1452),
            (LAN, ClampMss::ToMtu, 1452),
            (WAN, ClampMss::To(1300), 1300),
            (LAN, ClampMss::To(536), 536),
        ] {
            let mut plain = Firewall::with(setup.clone());
            let mut fw = Firewall::with(clamping(setup.clone(), at, clamp));
            let inward = ("198.51.100.7:4000", "203.0.113.2:80", "192.168.1.10:8080");
            for (mut flow, from, back) in [
                (Flow::outward("192.168.1.2:1234", "192.0.2.9:80"), LAN, WAN),
                (Flow::inward(inward.0, inward.1, inward.2), WAN, LAN),
            ] {
                let syn = tcp(flow.client, flow.dialled).syn().seq(99).wscale(7);
                let lowered = syn.clone().mss(most);
                let both = [&mut fw, &mut plain];
                let seen = comes_out_as(both, from, &syn.clone().mss(most + 1), &lowered);
                // It comes again.
                comes_out_as([&mut fw, &mut plain], from, &syn.mss(9000), &lowered);
                flow.seen = Some(seen.source());
                let answer = flow.server_segment().syn().ack(100);
                let lowered = answer.clone().mss(most);
                comes_out_as([&mut fw, &mut plain], back, &answer.mss(1460), &lowered);
            }
        }
    });
}

/// C040: no more than that.
#[test]
fn what_fits_announces_nothing_or_is_not_a_syn_is_left_alone() {
    let setup = Setup::default();
    let mut plain = Firewall::with(setup.clone());
    let mut fw = Firewall::with(clamping(setup, WAN, ClampMss::ToMtu));
    let mut port = 1000;
    let mut same = |change: &dyn Fn(Pkt) -> Pkt| {
        port += 1;
        let pkt = change(tcp(("192.168.1.2", port), "192.0.2.9:80").seq(7).syn());
        comes_out_as([&mut fw, &mut plain], LAN, &pkt, &pkt);
    };
    same(&|syn| syn.mss(1460));
    same(&|syn| syn.mss(1));
    same(&|syn| syn.mss(0));
    same(&|syn| syn);
    same(&|syn| syn.wscale(3));
    // Not the option: the end, a length that is none, within another option.
    same(&|syn| syn.tcp_options(&[0, 2, 4, 5, 180]));
    same(&|syn| syn.tcp_options(&[2, 3, 255]));
    same(&|syn| syn.tcp_options(&[34, 6, 2, 4, 5, 180]));
    let [flow, _] =
        [&mut fw, &mut plain].map(|fw| Flow::outward("192.168.1.2:5000", "192.0.2.9:80").open(fw));
    let data = flow.client_segment().tcp_options(&[2, 4, 255, 255]).payload([b'x'; 100]);
    comes_out_as([&mut fw, &mut plain], LAN, &data, &data);
}

/// C040: wherever the option stands, also across two words of the checksum.
#[test]
fn the_option_may_stand_anywhere() {
    let setup = Setup::default();
    let mut plain = Firewall::with(setup.clone());
    let mut fw = Firewall::with(clamping(setup, LAN, ClampMss::To(1400)));
    for (port, before) in [vec![], vec![1], vec![1, 1], vec![1; 3], vec![3, 3, 7], vec![4, 2, 1]]
        .into_iter()
        .enumerate()
    {
        for mss in [1401, 1460, 0x1ff0, 0xffff] {
            let syn = |mss: u16| {
                let [high, low] = mss.to_be_bytes();
                let options = [&before[..], &[2, 4, high, low]].concat();
                tcp(("192.168.1.2", 1000 + port as u16), "192.0.2.9:80").syn().tcp_options(&options)
            };
            comes_out_as([&mut fw, &mut plain], LAN, &syn(mss), &syn(1400));
        }
    }
}

/// C040: a route's own MTU counts, there and back, and IPv6 has a longer header.
#[test]
fn routes_and_ipv6_count() {
    for_workers([1, 2], |setup| {
        let setup = setup.route_with_mtu("192.0.2.0/24", WAN, "203.0.113.1", 1400).route_with_mtu(
            "192.168.7.0/24",
            LAN,
            "192.168.1.7",
            1380,
        );
        let mut plain = Firewall::with(setup.clone());
        let mut fw = Firewall::with(clamping(setup, WAN, ClampMss::ToMtu));
        for (client, server, most) in [
            ("192.168.1.2:1000", "192.0.2.9:80", 1360),
            ("192.168.7.2:1000", "192.0.2.9:80", 1340),
            ("192.168.7.2:1000", "198.51.100.9:80", 1340),
            ("192.168.1.2:1000", "198.51.100.9:80", 1460),
            ("[2001:db8:1::2]:1000", "[2001:db8:99::9]:80", 1440),
        ] {
            let mut flow = Flow::outward(client, server);
            let syn = tcp(flow.client, flow.dialled).syn().seq(99);
            let lowered = syn.clone().mss(most);
            let seen = comes_out_as([&mut fw, &mut plain], LAN, &syn.mss(9000), &lowered);
            flow.seen = Some(seen.source());
            let answer = flow.server_segment().syn().ack(100);
            let lowered = answer.clone().mss(most);
            comes_out_as([&mut fw, &mut plain], WAN, &answer.mss(9000), &lowered);
        }
    });
}

/// C040: what is not tracked, too.
#[test]
fn untracked_syns_are_clamped() {
    let mut setup = clamping(Setup::default().routed(), WAN, ClampMss::To(1300));
    setup.iptables("-t raw -A PREROUTING -p tcp -j NOTRACK");
    setup.iptables("-I FORWARD -m conntrack --ctstate UNTRACKED -j ACCEPT");
    let mut fw = Firewall::with(setup);
    let syn = tcp("192.168.1.2:1234", "192.0.2.9:80").syn().seq(9);
    let out = fw.lan(syn.clone().mss(1460)).out(WAN);
    assert_eq!(out.tcp().options, syn.mss(1300).tcp().options);
}

/// C040: the appliance's own connections are its kernel's matter.
#[test]
fn the_hosts_own_are_left_alone() {
    let setup = Setup::default().mtu(WAN, 1400);
    let mut fw = Firewall::with(clamping(setup, WAN, ClampMss::To(600)));
    let syn = tcp("203.0.113.2:5000", "192.0.2.9:80").syn().mss(1460);
    assert_eq!(fw.send(HOST_WAN, &syn).out(WAN).tcp().options, syn.tcp().options);
}
