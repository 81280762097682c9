//! Replays of captures made here: what goes in, what comes out, and the same again.

use std::io::Cursor;
use std::time::Duration;

use super::*;

const CONFIG: &str = r#"
[interface.lan]
device = "enp1s0"
zone = "lan"
address = ["192.168.1.1/24"]
[interface.wan]
device = "enp2s0"
zone = "wan"
address = ["203.0.113.2/24"]
gateway = ["203.0.113.1"]
masquerade = true
[[forward]]
interface = "wan"
protocol = "tcp"
port = 8080
to = "192.168.1.10:80"
"#;

const LAN: InterfaceId = InterfaceId(0);
const WAN: InterfaceId = InterfaceId(1);
const CLIENT: [u8; 6] = [2, 1, 1, 1, 1, 1];
const GATEWAY: [u8; 6] = [2, 2, 2, 2, 2, 2];
const OURS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1]];

fn config() -> Config {
    config::parse(Path::new("postern.toml"), CONFIG.as_bytes()).unwrap()
}

/// A UDP datagram in its frame; UDP checksum 0, which IPv4 allows.
fn udp(macs: [[u8; 6]; 2], from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
    let [src, dst] = macs;
    let mut frame = [&dst[..], &src, &[0x08, 0x00]].concat();
    let mut ip = vec![0x45, 0, 0, 32, 0, 1, 0x40, 0, 64, 17, 0, 0];
    ip.extend(from.0);
    ip.extend(to.0);
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), 12u16.to_be_bytes(), [0, 0]].concat());
    frame.extend(b"ping");
    frame
}

fn query() -> Vec<u8> {
    udp([CLIENT, OURS[0]], ([192, 168, 1, 2], 5000), ([192, 0, 2, 9], 53))
}

fn reply() -> Vec<u8> {
    udp([GATEWAY, OURS[1]], ([192, 0, 2, 9], 53), ([203, 0, 113, 2], 5000))
}

/// A fragment of [`query`], longer by 16 bytes.
fn part(offset: u8, more: u8, data: std::ops::Range<usize>) -> Vec<u8> {
    let mut whole = query();
    whole.extend([0x55; 16]);
    whole[38..40].copy_from_slice(&28u16.to_be_bytes());
    let mut frame = [&whole[..34], &whole[34..][data]].concat();
    let len = frame.len() as u16 - 14;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    frame[20..22].copy_from_slice(&[more, offset]);
    frame[24..26].fill(0);
    let sum: u32 =
        frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn fragments_leave_when_their_datagram_is_whole() {
    let mut driver = Driver::new(&config(), &[]).unwrap();
    let at = Duration::from_secs;
    let (later, first) = (part(2, 0, 16..28), part(0, 0x20, 0..16));
    assert_eq!(driver.pass(LAN, Origin::Wire, at(100), &later), Fate::Waits);
    assert!(driver.next_out().is_none());
    assert_eq!(driver.pass(LAN, Origin::Wire, at(101), &first), Fate::Waits);
    let outs: Vec<_> = std::iter::from_fn(|| driver.next_out()).collect();
    let lens: Vec<_> = outs.iter().map(|out| out.bytes.len()).collect();
    assert_eq!(lens, [first.len(), later.len()], "the first one first");
    assert!(outs.iter().all(|out| out.interface == WAN && out.bytes[26..30] == [203, 0, 113, 2]));
    // One that stays alone is given up.
    assert_eq!(driver.pass(LAN, Origin::Wire, at(102), &later), Fate::Waits);
    assert_eq!(driver.pass(LAN, Origin::Wire, at(132), &query()), Fate::Sent(WAN));
    let values = driver.values();
    // Three for each other, and the first one for its next hop.
    assert_eq!((values.held, values.resumed, values.dropped()), (4, 4, 1));
    assert_eq!(values.imbalance(), 0);
}

#[test]
fn a_query_is_masqueraded_and_its_reply_finds_the_way_back() {
    let mut driver = Driver::new(&config(), &[]).unwrap();
    driver.learn(LAN, &query());
    let at = Duration::from_secs;
    assert_eq!(driver.pass(LAN, Origin::Wire, at(100), &query()), Fate::Sent(WAN));
    let sent = driver.next_out().unwrap().bytes;
    assert_eq!(sent[..6], [0x02, 0xff, 203, 0, 113, 1], "the gateway's made-up MAC");
    assert_eq!(sent[26..30], [203, 0, 113, 2], "masqueraded");
    assert_eq!(sent[34..36], 5000u16.to_be_bytes(), "port preserved");
    assert_eq!(driver.pass(WAN, Origin::Wire, at(101), &reply()), Fate::Sent(LAN));
    let sent = driver.next_out().unwrap().bytes;
    assert_eq!(sent[..6], CLIENT, "the MAC that the capture showed");
    assert_eq!(sent[30..34], [192, 168, 1, 2]);
    assert!(driver.next_out().is_none());

    // Its timeout later the same reply is unsolicited.
    assert_eq!(driver.connections(), 1);
    let late = driver.pass(WAN, Origin::Wire, at(1000), &reply());
    assert!(matches!(late, Fate::Dropped(_) | Fate::Answered { .. }), "{late:?}");
    assert_eq!(driver.connections(), 0);
    assert_eq!(driver.values().imbalance(), 0);
    assert_eq!(driver.values().received, 3);
}

#[test]
fn captures_are_read_as_they_were_written() {
    for with_names in [false, true] {
        let mut file = Vec::new();
        let time = Duration::new(1_700_000_000, 123_456_789);
        let mut writer = Writer::new(&mut file, with_names, &["lan", "wan"]).unwrap();
        assert!(writer.write(LAN, false, time, &query()).unwrap());
        assert!(writer.write(WAN, false, time, &reply()).unwrap());
        assert_eq!(writer.write(LAN, true, time, &query()).unwrap(), with_names);
        writer.finish().unwrap();
        let mut reader = Reader::new(Cursor::new(&file)).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            assert_eq!((frame.time, frame.cut), (time, false));
            frames.push((frame.interface, frame.bytes));
        }
        let name = |name: &str| with_names.then(|| name.to_owned());
        let mut expected = vec![(name("lan"), query()), (name("wan"), reply())];
        if with_names {
            expected.push((name("host:lan"), query()));
        }
        assert_eq!(frames, expected);
    }
}

#[test]
fn packets_come_in_by_name_then_by_mac_then_as_told() {
    let (config, driver) = (config(), Driver::new(&config(), &[]).unwrap());
    let frame = |interface: Option<&str>, bytes: Vec<u8>| Frame {
        time: Duration::ZERO,
        bytes,
        cut: false,
        interface: interface.map(str::to_owned),
    };
    let foreign = udp([CLIENT, [9; 6]], ([192, 168, 1, 2], 1), ([192, 0, 2, 9], 1));
    for (interface, bytes, told, expected) in [
        (Some("wan"), query(), None, Some((WAN, Origin::Wire))),
        (Some("enp2s0"), query(), None, Some((WAN, Origin::Wire))),
        (Some("host:lan"), query(), None, Some((LAN, Origin::Host))),
        (Some("eth7"), query(), Some(WAN), Some((LAN, Origin::Wire))),
        (None, reply(), Some(LAN), Some((WAN, Origin::Wire))),
        (None, foreign.clone(), Some(LAN), Some((LAN, Origin::Wire))),
        (None, foreign, None, None),
        (None, vec![2], None, None),
    ] {
        assert_eq!(assign(&config, &driver, told, &frame(interface, bytes)), expected);
    }
}

/// Runs the command on a capture of these frames; its text and the capture it wrote.
fn replayed(name: &str, frames: &[(InterfaceId, Vec<u8>)], more: &[&str]) -> (String, Vec<u8>) {
    let folder = std::env::temp_dir().join(format!("postern-replay-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |file: &str| folder.join(file).to_string_lossy().into_owned();
    std::fs::write(path("postern.toml"), CONFIG).unwrap();
    let file = File::create(path("in.pcapng")).unwrap();
    let mut writer = Writer::new(file, true, &["lan", "wan"]).unwrap();
    for (index, (interface, bytes)) in frames.iter().enumerate() {
        writer.write(*interface, false, Duration::from_millis(index as u64), bytes).unwrap();
    }
    writer.finish().unwrap();
    let (config, input, out) = (path("postern.toml"), path("in.pcapng"), path("out.pcap"));
    let mut line = vec!["postern", "replay", "--config", &config, &input, &out];
    line.extend(more);
    let cli = <crate::cli::args::Cli as clap::Parser>::try_parse_from(line).unwrap();
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    let json = cli.json;
    let mut output = Output { out: &mut text, err: &mut errors, json, terminal: false };
    assert_eq!(crate::cli::run(cli, &mut output).unwrap(), 0);
    let written = std::fs::read(path("out.pcap")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    (String::from_utf8(text).unwrap(), written)
}

#[test]
fn a_replay_tells_what_became_of_every_packet_and_is_the_same_again() {
    let stranger = udp([GATEWAY, OURS[1]], ([198, 51, 100, 7], 9), ([203, 0, 113, 2], 9));
    let frames = [(LAN, query()), (WAN, reply()), (WAN, stranger)];
    let (text, written) = replayed("same", &frames, &["--verbose"]);
    for part in [
        "1 lan -> wan",
        "2 wan -> lan",
        "3 wan dropped: denied_by_policy",
        "3 packets read, 2 written",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(replayed("again", &frames, &["--verbose"]), (text, written));
    let (json, _) = replayed("json", &frames, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["packets"], 3);
    assert_eq!(report["books"]["imbalance"], 0);
    assert_eq!(report["drops"][0]["packets"], 1);
}

#[test]
fn what_is_no_capture_is_refused_and_a_torn_one_is_an_error_not_a_panic() {
    assert!(matches!(Reader::new(Cursor::new(b"PK\x03\x04")), Err(CaptureError::NotACapture)));
    assert!(matches!(Reader::new(Cursor::new(b"")), Err(CaptureError::NotACapture)));
    for with_names in [false, true] {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, with_names, &["lan"]).unwrap();
        writer.write(LAN, false, Duration::from_secs(1), &query()).unwrap();
        writer.finish().unwrap();
        for end in 4..file.len() {
            let Ok(mut reader) = Reader::new(Cursor::new(&file[..end])) else { continue };
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}

/// The units of a pcapng timestamp are its interface's: decimal or binary, microseconds if it says nothing.
#[test]
fn timestamps_are_read_in_the_units_of_their_interface() {
    use pcap_file::DataLink;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };
    let rows: [(Option<u8>, u64, Duration); 6] = [
        (None, 1_500_000, Duration::from_millis(1500)),
        (Some(6), 1_500_000, Duration::from_millis(1500)),
        (Some(9), 1_500_000_001, Duration::new(1, 500_000_001)),
        (Some(0), 7, Duration::from_secs(7)),
        (Some(12), 7_000_000_000_000, Duration::from_secs(7)),
        (Some(0x80 | 10), 1536, Duration::from_millis(1500)),
    ];
    for (resolution, units, expected) in rows {
        let options = resolution.map(InterfaceDescriptionOption::IfTsResol).into_iter().collect();
        let interface =
            InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options };
        let read = capture::in_resolution(Duration::from_nanos(units), &interface);
        assert_eq!(read, expected, "{resolution:?}");
    }
}
