//! The floor: what the memory system alone asks for a packet of one of so many connections.
//!
//! No firewall can forward a packet without finding its connection, noting that it was used, and writing the
//! translation into the header. The floor does that and nothing else, in bursts, with every line asked for
//! before it is needed: one SipHash-1-3 over the sixteen bytes of a tuple, one bucket line read, one entry line
//! read and written, and the addresses, ports and checksums of the frame rewritten. It parses nothing, checks
//! nothing, compares no tuple, has no rules, no timers and no way to insert while it runs.
//!
//! Its buckets are as densely filled as the pipeline's (half a bucket line for a connection) and its memory is
//! of the same kind ([`SharedMemory`]), so the ratio of the two figures says what the firewall adds to the
//! memory system, on whatever machine they were measured.

use anyhow::Result;
use arrayvec::ArrayVec;
use postern_core::arch::{matches, prefetch};
use postern_core::burst::BURST_MAX;
use postern_core::conntrack::siphash::SipKey;
use postern_io::memory::SharedMemory;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::traffic::{self, FRAME_LEN, HEADROOM, ROOM, Transport};

/// Places in a bucket.
const WAYS: usize = 8;
/// How many packets ahead an entry is asked for; 8 and 64 were tried, too, and neither is cheaper.
const AHEAD: usize = 16;
/// What every frame is translated to: 203.0.113.2, as in [`world`](crate::world).
const EXTERNAL: [u8; 4] = [203, 0, 113, 2];

/// One line: sixteen bits of each hash, and the entry that it leads to.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; WAYS],
    entries: [u32; WAYS],
    reserved: [u32; 4],
}

/// One line: what is written into the frame, and what is noted of it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
struct Entry {
    /// Source address, destination address, both ports: as they stand in the header.
    fields: [u8; 12],
    /// To be added to the complement of the IPv4 checksum (RFC 1624 eqn. 3).
    ip_delta: u16,
    /// To be added to the complement of the UDP checksum.
    udp_delta: u16,
    last_seen: u64,
    packets: u64,
    bytes: u64,
    reserved: [u64; 3],
}

const _: () = assert!(size_of::<Bucket>() == 64 && size_of::<Entry>() == 64);

/// Buckets and entries of so many connections, all of them present.
#[derive(Debug)]
pub struct Floor {
    key: SipKey,
    buckets: &'static mut [Bucket],
    entries: &'static mut [Entry],
    now: u64,
}

impl Floor {
    /// All of `flows` connections, found by their IPv4 frames.
    ///
    /// A bucket that is full turns connections away: one in some thousands shares the entry of another, which
    /// costs the same.
    pub fn new(flows: u32, key: SipKey) -> Result<Self> {
        let flows = flows.max(1) as usize;
        let buckets = (flows * 2).div_ceil(4).max(2);
        let (bucket_memory, _) = SharedMemory::new("floor-buckets", buckets * 64)?.leak();
        let (entry_memory, _) = SharedMemory::new("floor-entries", flows * 64)?.leak();
        let mut floor = Self {
            key,
            buckets: <[Bucket]>::mut_from_bytes(bucket_memory).expect("pages are aligned"),
            entries: <[Entry]>::mut_from_bytes(entry_memory).expect("pages are aligned"),
            now: 0,
        };
        for number in 0..flows as u32 {
            floor.insert(number);
        }
        Ok(floor)
    }

    fn insert(&mut self, number: u32) {
        let mut frame = [0; FRAME_LEN];
        traffic::outbound(&mut frame, number, false, Transport::Udp);
        let hash = self.hash(&frame);
        let place = self.bucket(hash);
        let bucket = &mut self.buckets[place];
        if let Some(free) = bucket.tags.iter().position(|&tag| tag == 0) {
            bucket.tags[free] = tag(hash);
            bucket.entries[free] = number;
        }
        let mut fields: [u8; 12] = frame[26..38].try_into().expect("twelve bytes");
        fields[..4].copy_from_slice(&EXTERNAL);
        let ip_delta = delta(&frame[26..34], &fields[..8]);
        let udp_delta = fold(u32::from(ip_delta) + u32::from(delta(&frame[34..38], &fields[8..])));
        let entry = &mut self.entries[number as usize];
        *entry = Entry { fields, ip_delta, udp_delta, ..*entry };
    }

    /// Passes the frames of the first `count` rooms.
    #[inline(never)] // a place for profilers to stand
    pub fn pass(&mut self, rooms: &mut [[u8; ROOM]], count: usize) {
        self.now += 1;
        let rooms = &mut rooms[..count.min(BURST_MAX)];
        let mut hashes = ArrayVec::<u64, BURST_MAX>::new();
        for room in rooms.iter() {
            let hash = self.hash(&room[HEADROOM..]);
            prefetch(&self.buckets[self.bucket(hash)]);
            hashes.push(hash);
        }
        let mut found = [0; BURST_MAX];
        for (place, &hash) in hashes.iter().enumerate().take(AHEAD) {
            found[place] = self.find(hash);
        }
        for (place, room) in rooms.iter_mut().enumerate() {
            if let Some(&hash) = hashes.get(place + AHEAD) {
                found[place + AHEAD] = self.find(hash);
            }
            let entry = &mut self.entries[found[place] as usize];
            entry.last_seen = self.now;
            entry.packets += 1;
            entry.bytes += FRAME_LEN as u64;
            rewrite(&mut room[HEADROOM..HEADROOM + FRAME_LEN], entry);
        }
    }

    /// The hash of the tuple that a frame carries.
    #[inline]
    fn hash(&self, frame: &[u8]) -> u64 {
        let addresses = u64::from_le_bytes(frame[26..34].try_into().expect("eight bytes"));
        let ports = u32::from_le_bytes(frame[34..38].try_into().expect("four bytes"));
        self.key.hash_words(&[addresses, u64::from(ports) | u64::from(frame[23]) << 48])
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    /// Reads the bucket, and asks for the entry it leads to.
    #[inline]
    fn find(&self, hash: u64) -> u32 {
        let bucket = &self.buckets[self.bucket(hash)];
        let mask = matches(&bucket.tags, tag(hash));
        let entry = bucket.entries[mask.trailing_zeros() as usize % WAYS];
        prefetch(&self.entries[entry as usize]);
        entry
    }
}

#[inline]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

/// Writes addresses, ports and both checksums of an IPv4 frame without options that carries UDP.
#[inline]
fn rewrite(frame: &mut [u8], entry: &Entry) {
    let ip = u16::from_be_bytes([frame[24], frame[25]]);
    let udp = u16::from_be_bytes([frame[40], frame[41]]);
    let ip = !fold(u32::from(!ip) + u32::from(entry.ip_delta));
    let udp = !fold(u32::from(!udp) + u32::from(entry.udp_delta));
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    frame[26..38].copy_from_slice(&entry.fields);
    // A checksum of zero would mean that there is none (RFC 768).
    let udp = if udp == 0 { 0xffff } else { udp };
    frame[40..42].copy_from_slice(&udp.to_be_bytes());
}

/// What is to be added to the complement of a checksum when `old` becomes `new`: RFC 1624 eqn. 3.
fn delta(old: &[u8], new: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> Vec<u16> {
        bytes.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()
    };
    let removed: u32 = words(old).into_iter().map(|word| u32::from(!word)).sum();
    let added: u32 = words(new).into_iter().map(u32::from).sum();
    fold(removed + added)
}

#[inline]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SipKey = SipKey([1, 2]);

    fn ones_complement(parts: &[&[u8]]) -> u16 {
        let words = parts.iter().flat_map(|bytes| bytes.chunks_exact(2));
        fold(words.map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum())
    }

    #[test]
    fn every_frame_is_translated_with_both_checksums_right() {
        const FLOWS: u32 = 640;
        let mut floor = Floor::new(FLOWS, KEY).expect("memory");
        let mut rooms = vec![[0; ROOM]; BURST_MAX];
        for first in (0..FLOWS).step_by(BURST_MAX) {
            for (number, room) in (first..).zip(&mut rooms) {
                traffic::outbound(&mut room[HEADROOM..], number, false, Transport::Udp);
            }
            floor.pass(&mut rooms, BURST_MAX);
            for (number, room) in (first..).zip(&rooms) {
                let (_, src_port, dst, dst_port) = traffic::endpoints(number);
                let frame = &room[HEADROOM..HEADROOM + FRAME_LEN];
                assert_eq!(frame[26..30], EXTERNAL);
                assert_eq!(frame[30..34], dst.to_be_bytes());
                assert_eq!(frame[34..36], src_port.to_be_bytes());
                assert_eq!(frame[36..38], dst_port.to_be_bytes());
                assert_eq!(ones_complement(&[&frame[14..34]]), 0xffff);
                let pseudo = [0, 17, frame[38], frame[39]];
                assert_eq!(ones_complement(&[&frame[26..34], &pseudo, &frame[34..60]]), 0xffff);
            }
        }
    }

    #[test]
    fn every_connection_is_noted_once_a_packet() {
        const FLOWS: u32 = 128;
        let mut floor = Floor::new(FLOWS, KEY).expect("memory");
        let mut rooms = vec![[0; ROOM]; BURST_MAX];
        for _ in 0..3 {
            for first in (0..FLOWS).step_by(BURST_MAX) {
                for (number, room) in (first..).zip(&mut rooms) {
                    traffic::outbound(&mut room[HEADROOM..], number, false, Transport::Udp);
                }
                floor.pass(&mut rooms, BURST_MAX);
            }
        }
        let total: u64 = floor.entries.iter().map(|entry| entry.packets).sum();
        assert_eq!(total, 3 * u64::from(FLOWS));
        assert!(floor.entries.iter().all(|entry| entry.packets == 3), "no two share an entry");
    }

    #[test]
    fn a_burst_that_is_not_full_leaves_the_other_rooms_alone() {
        let mut floor = Floor::new(10, KEY).expect("memory");
        let mut rooms = vec![[0; ROOM]; BURST_MAX];
        for room in &mut rooms {
            traffic::outbound(&mut room[HEADROOM..], 7, false, Transport::Udp);
        }
        let before = rooms[5];
        floor.pass(&mut rooms, 5);
        assert_ne!(rooms[4], before);
        assert_eq!(rooms[5], before);
    }
}
