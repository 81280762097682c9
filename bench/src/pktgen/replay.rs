//! A capture, sent again.
//!
//! Read whole beforehand and bounded; every IP frame must be from and to the addresses a generator may
//! use, or none is sent. Other frames are left out.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use postern_io::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN};

use super::args;
use super::port::{Bench, Side, pin};
use super::report::ReplayReport;
use super::schedule::Pacer;
use super::topology::{Family, Refused, address, allowed, check_device};
use crate::stopwatch::{CONTENDED_BELOW, Stopwatch};

const FRAMES_MAX: usize = 1_000_000;
const BYTES_MAX: usize = 1 << 30;

/// The frames of a capture, one after another.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    skipped: usize,
}

/// `pktgen replay`.
///
/// # Errors
/// A capture or a device that is refused or fails.
pub fn run(args: &args::Replay) -> Result<ReplayReport> {
    check_device(&args.tx)?;
    let mut capture = read(&args.pcap)?;
    if let Some(mac) = args.tx_mac_dst {
        capture.set_destination(mac);
    }
    pin(args.core.map(usize::from))?;
    let mut bench = Bench::open(Some(&args.tx), None, 1)?;
    let start = bench.clock.now();
    let mut stopwatch = Stopwatch::default();
    let sent = stopwatch.run(|| send(&mut bench, &capture, args))?;
    let cpu_share = stopwatch.cpu_share();
    let seconds = (bench.clock.now() - start) as f64 * 1e-9;
    Ok(ReplayReport {
        frames: capture.ends.len(),
        skipped: capture.skipped,
        sent,
        seconds,
        tx_pps: sent as f64 / seconds,
        cpu_share,
        contended: cpu_share < CONTENDED_BELOW,
    })
}

fn send(bench: &mut Bench, capture: &Capture, args: &args::Replay) -> Result<u64> {
    let frames = capture.ends.len() as u64;
    let total = frames * u64::from(args.loops);
    let mut pacer = Pacer::new(args.rate.0.map(f64::from), bench.clock.now());
    let mut sent = 0;
    while sent < total {
        let due = pacer.due(bench.clock.now()).min(bench.room(Side::Near)).min(total - sent);
        let mut went = 0;
        while went < due {
            let bytes = capture.frame(((sent + went) % frames) as usize);
            let fits = bench.send(Side::Near, 0, |frame| {
                frame[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            });
            if !fits {
                break;
            }
            went += 1;
        }
        pacer.sent(went);
        sent += went;
        bench.flush(Side::Near)?;
        bench.receive(Side::Near, |_, _, _| ())?;
    }
    settle(bench)?;
    Ok(sent)
}

/// Waits until the kernel has taken every frame.
fn settle(bench: &mut Bench) -> Result<()> {
    let patience = bench.clock.now() + 1_000_000_000;
    while bench.unsent(Side::Near) {
        ensure!(bench.clock.now() < patience, "the device does not take the last frames");
        bench.flush(Side::Near)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Capture> {
    let file = File::open(path).with_context(|| format!("capture {}", path.display()))?;
    parse(BufReader::new(file)).with_context(|| format!("capture {}", path.display()))
}

fn parse(source: impl Read) -> Result<Capture> {
    let mut reader = PcapReader::new(source)?;
    ensure!(reader.header().datalink == DataLink::ETHERNET, "its frames are not Ethernet");
    let mut capture = Capture::default();
    let mut number = 0;
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        number += 1;
        let whole = packet.data.len() == packet.orig_len as usize;
        let lengths = FRAME_LEN_MIN as usize..=FRAME_LEN_MAX as usize;
        if !whole || !lengths.contains(&packet.data.len()) {
            capture.skipped += 1;
            continue;
        }
        match endpoints(&packet.data) {
            None => capture.skipped += 1,
            Some((family, ends)) => {
                if let Some(&end) = ends.iter().find(|&&end| !allowed(family, end)) {
                    let refused = Refused::OutsideTopology {
                        what: format!("frame {number}:"),
                        address: address(family, end).to_string(),
                    };
                    return Err(refused.into());
                }
                capture.bytes.extend_from_slice(&packet.data);
                capture.ends.push(capture.bytes.len());
            }
        }
        let fits = capture.ends.len() <= FRAMES_MAX && capture.bytes.len() <= BYTES_MAX;
        ensure!(fits, "more than {FRAMES_MAX} frames or {BYTES_MAX} bytes");
    }
    if capture.ends.is_empty() {
        bail!("no IP frame that could be sent");
    }
    Ok(capture)
}

/// Source and destination of an IP frame; `None` for others.
fn endpoints(frame: &[u8]) -> Option<(Family, [u128; 2])> {
    let ethertype = |at: usize| frame.get(at..at + 2);
    let (kind, l3) = match ethertype(12)? {
        [0x81, 0x00] => (ethertype(16)?, 18),
        kind => (kind, 14),
    };
    let number = |at: usize, len: usize| {
        let bytes = frame.get(l3 + at..l3 + at + len)?;
        Some(bytes.iter().fold(0u128, |number, &byte| number << 8 | u128::from(byte)))
    };
    match kind {
        [0x08, 0x00] => Some((Family::V4, [number(12, 4)?, number(16, 4)?])),
        [0x86, 0xdd] => Some((Family::V6, [number(8, 16)?, number(24, 16)?])),
        _ => None,
    }
}

impl Capture {
    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn frame(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index]]
    }

    fn set_destination(&mut self, mac: [u8; 6]) {
        for index in 0..self.ends.len() {
            let start = self.start(index);
            self.bytes[start..start + 6].copy_from_slice(&mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcap_file::pcap::{PcapPacket, PcapWriter};

    use super::super::frame::{Link, Template};
    use super::super::stamp::STAMP_LEN;
    use super::super::topology::Tuple;
    use super::*;

    fn datagram(src: u128) -> Vec<u8> {
        let link = Link { dst: [2; 6], src: [4; 6], vlan: None };
        let tuple = Tuple { src, dst: 0xc612_0001, src_port: 1, dst_port: 2 };
        let mut frame = vec![0; 60];
        Template::udp(Family::V4, link, 60).write_udp(&mut frame, &tuple, &[0; STAMP_LEN]);
        frame
    }

    fn capture(frames: &[Vec<u8>]) -> Result<Capture> {
        let mut writer = PcapWriter::new(Vec::new()).expect("memory");
        for frame in frames {
            let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
            writer.write_packet(&packet).expect("memory");
        }
        parse(&writer.into_writer()[..])
    }

    #[test]
    fn frames_are_kept_in_order_and_others_left_out() {
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let (one, two) = (datagram(0x0a00_0001), datagram(0x0a00_0002));
        let mut capture = capture(&[one.clone(), arp, vec![0; 5], two.clone()]).expect("fine");
        assert_eq!((capture.ends.len(), capture.skipped), (2, 2));
        assert_eq!((capture.frame(0), capture.frame(1)), (&one[..], &two[..]));
        capture.set_destination([6; 6]);
        assert_eq!(capture.frame(1)[..6], [6; 6]);
        assert_eq!(capture.frame(1)[6..], two[6..]);
    }

    #[test]
    fn a_capture_of_the_world_outside_is_refused_whole() {
        let error = capture(&[datagram(0x0a00_0001), datagram(0x0808_0808)]).expect_err("refused");
        let text = error.to_string();
        assert!(text.contains("frame 2: 8.8.8.8 is outside its own topology"), "{text}");
        assert!(capture(&[]).is_err());
        assert!(parse(&b"no capture"[..]).is_err());
    }
}
