//! TAPs against the real kernel, in network namespaces of their own. Needs root, `ip` and `ethtool`;
//! without root every test says that it is skipped.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod lab;

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, may_run};
use postern_io::device::{Carrier, Device, DeviceError};
use postern_io::tap::{self, RouterAdvertisements, Tap, TapError, TapOptions};

fn tap_options(name: &str) -> TapOptions {
    TapOptions {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        router_advertisements: RouterAdvertisements::Ignore,
    }
}

/// The next frame from the host that `wanted` accepts.
fn read_until(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut buffer, patience) = ([0; 2048], Instant::now() + Duration::from_secs(5));
    loop {
        match tap.read(&mut buffer).expect("read") {
            Some(len) if wanted(&buffer[..len]) => return buffer[..len].to_vec(),
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(1)),
        }
        assert!(Instant::now() < patience, "the host never sent it");
    }
}

#[test]
fn frames_go_through_a_tap_both_ways_with_full_checksums() {
    if !may_run("tap") {
        return;
    }
    let lab = Lab::new();
    let tap = lab.within("fw", || {
        tap::prepare_host(&lab.run_dir).expect("the host's settings");
        Tap::open(&tap_options("wan")).expect("a TAP")
    });
    lab.ip("fw", "addr add 192.0.2.1/24 dev wan");
    lab.ip("fw", "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev wan");
    lab.within("fw", || {
        let socket = UdpSocket::bind("192.0.2.1:5000").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
        socket.send_to(b"out through the TAP", "192.0.2.9:53").expect("send");
        let out = read_until(&tap, |frame| frame[12..14] == [8, 0] && frame[23] == 17);
        assert_eq!(out[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
        assert_eq!(&out[42..], b"out through the TAP");
        assert_eq!(udp_sum(&out), 0xffff, "the checksum is not complete");
        let mut back = out;
        let (left, right) = back.split_at_mut(6);
        left.swap_with_slice(&mut right[..6]);
        for (one, other) in [(26, 30), (27, 31), (28, 32), (29, 33), (34, 36), (35, 37)] {
            back.swap(one, other); // addresses and ports: sums stay as they are
        }
        tap.write(&back).expect("write");
        let (mut buffer, mut len_from) = ([0; 64], None);
        if let Ok(got) = socket.recv_from(&mut buffer) {
            len_from = Some(got);
        }
        let (len, from) = len_from.expect("the host gets what is written");
        assert_eq!(
            (&buffer[..len], from.to_string().as_str()),
            (&b"out through the TAP"[..], "192.0.2.9:53")
        );
        assert!(tap.write(&[0; 13]).is_err(), "shorter than an Ethernet header");
        let mut small = [0; 20];
        socket.send_to(&[7; 100], "192.0.2.9:53").expect("send");
        let patience = Instant::now() + Duration::from_secs(3);
        let len = loop {
            if let Some(len) = tap.read(&mut small).expect("read") {
                break len;
            }
            assert!(Instant::now() < patience);
        };
        assert_eq!(len, 20, "a frame is cut to the buffer");
    });
}

/// Internet sum of a UDP datagram over IPv4 with its pseudo-header: 0xffff when the checksum is right.
fn udp_sum(frame: &[u8]) -> u16 {
    let len = u16::from_be_bytes([frame[38], frame[39]]);
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, 17]);
    bytes.extend(len.to_be_bytes());
    bytes.extend(&frame[34..34 + usize::from(len)]);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn neighbour_advertisements_from_a_tap_carry_the_router_flag() {
    if !may_run("router flag") {
        return;
    }
    let lab = Lab::new();
    // A host that forwards by itself: taking that away must not take the TAP's forwarding with it.
    lab.exec("fw", "sysctl -q net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1")
        .expect("sysctl");
    let tap = lab.within("fw", || {
        tap::prepare_host(&lab.run_dir).expect("the host's settings");
        let tap = Tap::open(&tap_options("wan")).expect("a TAP");
        tap::prepare_host(&lab.run_dir).expect("a second time, as after a restart");
        tap
    });
    let read = |key: &str| {
        lab.within("fw", || {
            std::fs::read_to_string(format!("/proc/sys/net/{key}"))
                .expect("a setting")
                .trim()
                .to_owned()
        })
    };
    assert_eq!(
        [
            "ipv6/conf/all/forwarding",
            "ipv6/conf/wan/forwarding",
            "ipv6/conf/wan/accept_ra",
            "ipv6/conf/wan/accept_redirects",
            "ipv4/ip_forward",
            "ipv4/conf/wan/forwarding"
        ]
        .map(read),
        ["0", "1", "0", "0", "0", "0"]
    );
    lab.within("fw", || {
        // fe80::ff:fe00:1 follows from the MAC; ask for it once it is no longer tentative.
        let patience = Instant::now() + Duration::from_secs(8);
        let target: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];
        let mut buffer = [0; 2048];
        loop {
            tap.write(&solicitation(target)).expect("write");
            thread::sleep(Duration::from_millis(100));
            while let Some(len) = tap.read(&mut buffer).expect("read") {
                let frame = &buffer[..len];
                if len >= 78 && frame[20] == 58 && frame[54] == 136 && frame[62..78] == target {
                    assert_ne!(frame[58] & 0x80, 0, "no router flag");
                    return;
                }
            }
            assert!(Instant::now() < patience, "no neighbour advertisement");
        }
    });
    lab.within("fw", || {
        tap.delete().expect("delete");
        tap::release_host(&lab.run_dir).expect("release");
        assert!(tap::release_host(&lab.run_dir).is_ok(), "nothing to do the second time");
    });
    assert_eq!(["ipv6/conf/all/forwarding", "ipv4/ip_forward"].map(read), ["1", "1"]);
}

/// A neighbour solicitation for `target` from fe80::9, 02:00:00:00:00:09.
fn solicitation(target: [u8; 16]) -> Vec<u8> {
    let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target);
    icmp.extend([1, 1, 2, 0, 0, 0, 0, 9]);
    let mut pseudo = [source, target].concat();
    pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
    pseudo.extend(&icmp);
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    icmp[2..4].copy_from_slice(&(!sum as u16).to_be_bytes());
    let mut frame =
        vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
    frame.extend(source);
    frame.extend(target);
    frame.extend(icmp);
    frame
}

#[test]
fn a_tap_persists_is_taken_up_again_and_only_ours_is_touched() {
    if !may_run("tap ownership") {
        return;
    }
    let lab = Lab::new();
    lab.ip("fw", "tuntap add dev other mode tap");
    lab.within("fw", || {
        let tap = Tap::open(&tap_options("wan")).expect("a TAP");
        let ifindex = tap.ifindex();
        let busy = Tap::open(&tap_options("wan"));
        assert!(matches!(busy, Err(TapError::InUse { .. })), "{busy:?}");
        drop(tap);
        let mut options = tap_options("wan");
        options.mtu = 1400;
        options.mac[5] = 7;
        let again = Tap::open(&options).expect("the TAP an earlier run left");
        assert_eq!(again.ifindex(), ifindex);
        let device = Device::open("wan").expect("the TAP");
        assert_eq!((device.mtu, device.mac[5]), (1400, 7));
        assert_eq!(device.carrier().expect("carrier"), Carrier::Up);
        again.set_carrier(Carrier::Down).expect("carrier");
        assert_eq!(device.carrier().expect("carrier"), Carrier::Down);
        drop(again);
        tap::delete("wan").expect("delete");
        tap::delete("wan").expect("nothing to delete is fine");
        assert!(matches!(Device::open("wan"), Err(DeviceError::Missing(_))));
        for name in ["other", "l0", "lo"] {
            let refused = Tap::open(&tap_options(name));
            assert!(matches!(refused, Err(TapError::NotOurs { .. })), "{refused:?}");
            assert!(matches!(tap::delete(name), Err(TapError::NotOurs { .. })));
        }
        assert!(Tap::open(&tap_options("a-name-of-sixteen")).is_err());
    });
}
