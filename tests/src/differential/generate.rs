//! Scripts from seeds.

use postern_core::conntrack::timeouts::{ROWS, TimeoutKind};
use postern_core::conntrack::tuple::protocol;
use postern_core::rules::Family;

use super::association::Association;
use super::flow::{Course, FORWARDS, Flow, HOSTS, Side};
use super::life::Life;
use super::pieces::Pieces;
use super::script::{Body, Conditions, Script, Shot, Tamper};
use crate::draw::Draw;

/// A kind of sequences. All are drawn, some seldom; one that is asked for (`--kind`) is drawn always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Segments out of their window pass.
    Liberal,
    /// Inside hosts are clients of inside hosts, by forwards from the WAN's address.
    Hairpin,
    /// IPv6, translated and not.
    Ipv6,
    /// UDP-Lite.
    UdpLite,
    /// Fragments: in any order, too many, too few, and contradictory ones.
    Fragments,
}

impl Kind {
    /// All of them, by the names that they have on the command line.
    pub const NAMES: [(&str, Kind); 5] = [
        ("liberal", Kind::Liberal),
        ("hairpin", Kind::Hairpin),
        ("ipv6", Kind::Ipv6),
        ("udp-lite", Kind::UdpLite),
        ("fragments", Kind::Fragments),
    ];
}

/// The conditions of a batch.
pub(super) fn conditions(seed: u64, kind: Option<Kind>) -> Conditions {
    let mut draw = Draw::new(seed ^ 0x636f_6e64);
    let loose = draw.below(2) == 0;
    let pauses = *draw.of(&[0, 0, 1, 1, 2]);
    let liberal = draw.below(4) == 0 || kind == Some(Kind::Liberal);
    let masquerade6 = draw.below(2) == 0;
    let mut some = draw.bits() as u32 & ((1 << ROWS.len()) - 1);
    let bit = |kind: TimeoutKind| 1_u32 << kind as u8;
    if loose || liberal {
        // Nor does it take in what passes though it is out of its window, or that what a connection was picked up by is
        // not acknowledged.
        some &= !(bit(TimeoutKind::TcpMaxRetrans) | bit(TimeoutKind::TcpUnacknowledged));
    }
    if some & bit(TimeoutKind::TcpMaxRetrans) != 0 {
        // Linux takes a connection of which it did not take in an ACK yet (the one that it was picked up by does not
        // count) for one with a window of 0, which never lasts longer than this timeout: seen only where it is
        // shorter than those of opening and closing.
        for kind in [
            TimeoutKind::TcpSynSent,
            TimeoutKind::TcpSynRecv,
            TimeoutKind::TcpFinWait,
            TimeoutKind::TcpCloseWait,
            TimeoutKind::TcpLastAck,
            TimeoutKind::TcpTimeWait,
            TimeoutKind::TcpClose,
        ] {
            some |= bit(kind);
        }
    }
    let short = if pauses == 0 { 0 } else { some };
    Conditions { loose, liberal, masquerade6, short, pauses }
}

/// A script under these conditions.
pub(super) fn script(
    seed: u64,
    workers: u8,
    conditions: &Conditions,
    kind: Option<Kind>,
) -> Script {
    let draw = &mut Draw::new(seed);
    let is_of = |flow: &Flow| match kind {
        Some(Kind::Hairpin) => matches!(flow.course, Course::Hairpin(_)),
        Some(Kind::Ipv6) => flow.family == Family::V6,
        Some(Kind::UdpLite) => flow.protocol == protocol::UDP_LITE,
        Some(Kind::Liberal | Kind::Fragments) | None => true,
    };
    let mut flows: Vec<Flow> = Vec::new();
    for _ in 0..1 + draw.below(3) {
        let flow = match flows.last() {
            Some(last) if draw.below(2) == 0 => rival(last, draw),
            _ => loop {
                let flow = flow(draw, conditions);
                if is_of(&flow) {
                    break flow;
                }
            },
        };
        if !flows.contains(&flow) {
            flows.push(flow);
        }
    }
    let mut weaver = Weaver {
        lives: flows.iter().map(|_| Life::new(draw)).collect(),
        associations: flows.iter().map(|_| Association::new(draw)).collect(),
        timestamp: draw.below(5) == 0,
        said: vec![Vec::new(); flows.len()],
        late: Vec::new(),
        pieces: Pieces::default(),
        cut_percent: if kind == Some(Kind::Fragments) { 50 } else { 4 },
        flows: &flows,
    };
    let sections = 1 + conditions.pauses;
    let each = (16 + draw.below(25)) / sections;
    let sections = (0..sections).map(|_| (0..each).map(|_| weaver.next(draw)).collect()).collect();
    Script { seed, workers, conditions: conditions.clone(), flows, sections }
}

/// Lengths of what UDP-Lite carries. With more than 255 bytes Linux takes IPv4's checksum for wrong, however it is made: it
/// counts the low eight bits of the length (`nf_checksum_partial` of net/netfilter/utils.c).
const LITE_LENGTHS: [u16; 5] = [0, 1, 4, 100, 240];

fn flow(draw: &mut Draw, conditions: &Conditions) -> Flow {
    let inside_port =
        *draw.of(&[5000, 5000, 5000, 40_001, 40_001, 60_000, 700, 700, 80, 80, 1023, 8080]);
    let (host, peer) = (draw.below(usize::from(HOSTS)) as u8, draw.below(2) as u8);
    let family = if draw.below(4) == 0 { Family::V6 } else { Family::V4 };
    let is_translated = family == Family::V4 || conditions.masquerade6;
    let course = if is_translated { Course::Outward } else { Course::Routed };
    let ping = if family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 };
    let outward = |protocol, peer_port| Flow {
        protocol,
        course,
        family,
        host,
        host_port: inside_port,
        peer,
        peer_port,
    };
    match draw.below(122) {
        116.. => outward(protocol::UDP_LITE, 4000),
        110..116 => {
            let (protocol, port, host, host_port) = *draw.of(&FORWARDS);
            let (peer, peer_port) = (draw.below(usize::from(HOSTS)) as u8, inside_port);
            Flow {
                family,
                protocol,
                course: Course::Hairpin(port),
                host,
                host_port,
                peer,
                peer_port,
            }
        }
        100..107 => outward(protocol::SCTP, 3868),
        107..110 => Flow { host_port: 0, ..outward(protocol::GRE, 0) },
        0..45 => outward(protocol::TCP, 443),
        45..63 => outward(protocol::UDP, *draw.of(&[53, 443])),
        63..75 => outward(ping, 0),
        _ => {
            let (protocol, port, host, host_port) = *draw.of(&FORWARDS);
            let peer_port = *draw.of(&[50_000, 1234]);
            Flow {
                family,
                protocol,
                course: Course::Inward(port),
                host,
                host_port,
                peer,
                peer_port,
            }
        }
    }
}

/// A flow like another: to the same peer from the same port of another host, or to another peer.
fn rival(of: &Flow, draw: &mut Draw) -> Flow {
    let another = |host: u8, draw: &mut Draw| (host + 1 + draw.below(2) as u8) % HOSTS;
    match of.course {
        Course::Inward(_) => Flow { peer: (of.peer + 1) % 2, ..*of },
        Course::Hairpin(_) => Flow { peer: another(of.peer, draw), ..*of },
        _ if draw.below(4) == 0 => Flow { peer: (of.peer + 1) % 2, ..*of },
        _ => Flow { host: another(of.host, draw), ..*of },
    }
}

/// Weaves the lives of several flows into one sequence.
struct Weaver<'f> {
    flows: &'f [Flow],
    lives: Vec<Life>,
    associations: Vec<Association>,
    timestamp: bool,
    /// What was said by each flow, to be said again or reported about.
    said: Vec<Vec<Shot>>,
    /// What is said late, and in how many shots.
    late: Vec<(usize, Shot)>,
    /// Fragments that are on their way.
    pieces: Pieces,
    /// How many of a hundred packets are cut.
    cut_percent: usize,
}

impl Weaver<'_> {
    fn next(&mut self, draw: &mut Draw) -> Shot {
        if let Some(piece) = self.pieces.next(draw) {
            return piece;
        }
        let shot = self.whole(draw);
        if draw.below(100) >= self.cut_percent || !self.pieces.cut(&shot, self.flows, draw) {
            return shot;
        }
        self.next(draw)
    }

    fn whole(&mut self, draw: &mut Draw) -> Shot {
        self.late.iter_mut().for_each(|(due, _)| *due = due.saturating_sub(1));
        if let Some(place) = self.late.iter().position(|(due, _)| *due == 0) {
            return self.late.swap_remove(place).1;
        }
        let flow = draw.below(self.flows.len());
        let again = self.said[flow].len();
        let shot = match draw.below(100) {
            0..6 if again > 0 => self.said[flow][draw.below(again)].clone(),
            6..16 => self.error(flow, draw),
            _ => {
                let shot = self.ordinary(flow, draw);
                self.said[flow].push(shot.clone());
                if draw.below(100) < 5 {
                    self.late.push((2 + draw.below(4), shot));
                    return self.whole(draw);
                }
                shot
            }
        };
        self.spoilt(shot, draw)
    }

    fn ordinary(&mut self, flow: usize, draw: &mut Draw) -> Shot {
        let (back, body) = match self.flows[flow].protocol {
            protocol::TCP => self.lives[flow].next(draw),
            protocol::SCTP => self.associations[flow].next(draw),
            protocol::UDP_LITE => {
                let len = *draw.of(&LITE_LENGTHS);
                let coverage = *draw.of(&[0, 0, 8, 9, 12, 8 + len]);
                let coverage = if coverage > 8 + len { 8 } else { coverage };
                (self.answers(flow, draw), Body::Lite { len, coverage })
            }
            protocol::GRE => {
                let len = *draw.of(&[0, 4, 1400]);
                (self.answers(flow, draw), Body::Tunnel { version: 0, len })
            }
            protocol::UDP => {
                let len = *draw.of(&[0, 1, 4, 512, 1400]);
                // IPv6 allows that nowhere.
                let v6 = self.flows[flow].family == Family::V6;
                let unsummed = draw.below(if v6 { 50 } else { 5 }) == 0;
                let body = Body::Datagram { len, unsummed };
                (self.answers(flow, draw), body)
            }
            _ => {
                let back = self.answers(flow, draw);
                let ask = if draw.below(20) == 0 { back } else { !back };
                let number = draw.below(4) as u16;
                (back, Body::Query { ask, timestamp: self.timestamp, number })
            }
        };
        Shot::new(flow, back, body)
    }

    /// Whether the next datagram goes back: seldom before anything went there.
    fn answers(&self, flow: usize, draw: &mut Draw) -> bool {
        let nothing_yet = !self.said[flow].iter().any(|shot| !shot.back);
        draw.below(100) < if nothing_yet { 4 } else { 45 }
    }

    fn error(&mut self, flow: usize, draw: &mut Draw) -> Shot {
        let said = &self.said[flow];
        let about = match said.len() {
            0 => self.ordinary(flow, draw),
            len => said[draw.below(len)].clone(),
        };
        let v6 = self.flows[flow].family == Family::V6;
        let kinds_of_v6 = [
            (1, 0),
            (1, 1),
            (1, 3),
            (1, 4),
            (1, 4),
            (2, 0),
            (2, 0),
            (3, 0),
            (3, 0),
            (3, 1),
            (4, 0),
            (4, 1),
            (100, 0), // RFC 4443 §2.1: private experimentation
        ];
        let kinds = [
            (3, 0),
            (3, 1),
            (3, 2),
            (3, 3),
            (3, 3),
            (3, 4),
            (3, 13),
            (4, 0),
            (11, 0),
            (11, 0),
            (11, 1),
            (12, 0),
            (5, 1),
        ];
        let &(kind, code) = draw.of(if v6 { &kinds_of_v6 } else { &kinds });
        let rest = match (kind, code) {
            (3, 4) if !v6 => 1400,
            (2, _) => 1280,
            (5, _) => 0xc633_6401,
            _ => 0,
        };
        let keep = *draw.of(&[1500, 1500, 1500, 28, 28, 28, 40, 48, 24, 27, 23, 20, 19, 8, 0]);
        // A longer error does not fit the link (RFC 4443 §2.4), and the header alone is longer.
        let keep = if v6 && keep >= 19 { (keep + 20).min(1232) } else { keep };
        // Linux makes the CRC in a quote anew, of what is quoted.
        let of_sctp = matches!(about.body, Body::Chunks { .. });
        let keep = if of_sctp { keep.min(if v6 { 48 } else { 28 }) } else { keep };
        let slip = if draw.below(12) == 0 { 1 } else { 0 };
        let router = draw.below(2) == 0;
        let about_back = about.back;
        let nested = || Body::Error {
            kind: if v6 { 1 } else { 3 },
            code: 1,
            rest: 0,
            router: false,
            keep: 28,
            slip: 0,
            about: Box::new(about.body.clone()),
        };
        let about = Box::new(if draw.below(40) == 0 { nested() } else { about.body.clone() });
        let body = Body::Error { kind, code, rest, router, keep, slip, about };
        Shot::new(flow, !about_back, body)
    }

    fn spoilt(&self, mut shot: Shot, draw: &mut Draw) -> Shot {
        let is_tcp = matches!(shot.body, Body::Segment(_));
        shot.tamper = match draw.below(100) {
            0..2 => Tamper::TransportSum,
            2 if self.flows[shot.flow].family == Family::V4 => Tamper::IpSum,
            3 if is_tcp => Tamper::DataOffset(*draw.of(&[0, 4, 15])),
            _ => Tamper::Nothing,
        };
        let from_outside = self.flows[shot.flow].enters(shot.back) == Side::Wan;
        shot.stranger = from_outside && draw.below(100) < 4;
        shot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_script_again() {
        for seed in 0..50 {
            let conditions = conditions(seed, None);
            let script_of = || script(seed, 1, &conditions, None);
            assert_eq!(script_of(), script_of());
            assert_eq!(script_of().sections.len(), 1 + conditions.pauses);
            assert!(script_of().len() >= 15);
        }
    }
}
