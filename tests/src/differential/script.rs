//! What is played: a script of shots, each a packet that one side sends, written without the external port that
//! NAT will choose. Every system that plays it fills in the port it chose itself.

use std::time::Duration;

use postern_core::conntrack::timeouts::{ROWS, Timeouts};
use postern_core::conntrack::tuple::protocol;
use postern_core::rules::Family;

use super::flow::{Ends, Flow, HOSTS, ROUTER, STRANGER, Side, Slot};
use crate::fragments;
use crate::packet::{Pkt, icmp, other, tcp, udp};
use crate::sctp;
use crate::udp_lite::udp_lite;
use crate::wire::{checksum, mend_ip_checksum, set16, transport_checksum};

/// What a short timeout is: the least that Linux takes.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// The pause between two sections: outlives every short timeout and UDP's first two seconds, and nothing else.
pub(super) const PAUSE: Duration = Duration::from_millis(2500);

/// What both systems are told before scripts are played.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Conditions {
    /// Whether connections may be picked up in the middle.
    pub(super) loose: bool,
    /// Whether segments out of their window pass.
    pub(super) liberal: bool,
    /// Whether IPv6 is translated as IPv4 is.
    pub(super) masquerade6: bool,
    /// Which timeouts are [`SHORT`], a bit each in the order of [`ROWS`]; the others are Linux's own.
    pub(super) short: u32,
    /// How many pauses a script has.
    pub(super) pauses: usize,
}

impl Conditions {
    /// Postern's timeouts.
    pub(super) fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::linux();
        for (bit, row) in ROWS.iter().enumerate() {
            if self.short >> bit & 1 != 0 {
                timeouts.set(row.kind, SHORT);
            }
        }
        timeouts
    }

    /// Linux's switches and timeouts: file below `/proc/sys/net/netfilter` and value.
    pub(super) fn sysctls(&self) -> Vec<(String, u64)> {
        let timeouts = ROWS.iter().enumerate().filter_map(|(bit, row)| {
            let name = match row.name {
                "udp_stream" => "udp_timeout_stream".to_string(),
                "gre_stream" => "gre_timeout_stream".to_string(),
                "udp" | "icmp" | "icmpv6" | "gre" | "generic" => format!("{}_timeout", row.name),
                name => {
                    let (protocol, of) = name.split_once('_')?;
                    format!("{protocol}_timeout_{of}")
                }
            };
            let short = self.short >> bit & 1 != 0;
            Some((name, if short { SHORT.as_secs() } else { u64::from(row.linux) }))
        });
        let switches = [("tcp_loose", self.loose), ("tcp_be_liberal", self.liberal)];
        let switches = switches.map(|(name, on)| (name.to_string(), u64::from(on)));
        let all = timeouts.chain(switches);
        all.map(|(name, value)| (format!("nf_conntrack_{name}"), value)).collect()
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let Self { loose, liberal, masquerade6, .. } = self;
        format!(
            "loose {loose}, liberal {liberal}, masquerade6 {masquerade6}, short timeouts: {}",
            self.short_names().join(" ")
        )
    }

    /// Names of the short timeouts.
    pub(super) fn short_names(&self) -> Vec<&'static str> {
        let rows = ROWS.iter().enumerate();
        rows.filter(|(bit, _)| self.short >> bit & 1 != 0).map(|(_, row)| row.name).collect()
    }
}

/// A TCP segment's header, but for its ports.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) options: Vec<u8>,
    pub(super) len: u16,
}

/// What a shot carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Segment(Segment),
    Datagram {
        len: u16,
        unsummed: bool,
    },
    /// UDP-Lite: the checksum covers so much.
    Lite {
        len: u16,
        coverage: u16,
    },
    /// A fragment of a packet.
    Part {
        /// Which packet: below [`DATAGRAMS`].
        id: u16,
        /// Where it begins behind the IP header, in units of eight bytes, and how many bytes it has.
        offset: u16,
        len: u16,
        more: bool,
        /// Its bytes are not those of the packet.
        forged: bool,
        of: Box<Body>,
    },
    /// SCTP: the types of its chunks.
    Chunks {
        kinds: Vec<u8>,
        /// Verification tag.
        tag: u32,
        /// Of INIT and INIT ACK: the initiate tag.
        init: u32,
        /// Flags of the chunks that may have the T bit.
        flags: u8,
    },
    /// GRE, of this version: a header and some data.
    Tunnel {
        version: u8,
        len: u16,
    },
    /// An ICMP query or the answer to one: echo, or timestamp.
    Query {
        ask: bool,
        timestamp: bool,
        number: u16,
    },
    /// An ICMP error about a packet of the flow that left the appliance the other way.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        /// A router reports, not the destination.
        router: bool,
        /// Bytes of the packet that are quoted.
        keep: u16,
        /// Added to the quoted destination port: not 0, and it is of another flow.
        slip: u16,
        about: Box<Body>,
    },
}

impl Body {
    /// What it is, or is a fragment of.
    pub(super) fn whole(&self) -> &Body {
        match self {
            Body::Part { of, .. } => of,
            other => other,
        }
    }
}

/// How many packets of a script may be cut.
pub(super) const DATAGRAMS: u16 = 64;
/// The identification of the first of them.
pub(super) const FIRST_ID: u16 = 0x4000;

/// What is done to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Tamper {
    #[default]
    Nothing,
    /// The transport checksum is wrong.
    TransportSum,
    /// The IP header checksum is wrong.
    IpSum,
    /// TCP's data offset is this; its checksum is right.
    DataOffset(u8),
}

/// A packet that one side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shot {
    /// Index into the script's flows.
    pub(super) flow: usize,
    /// From server to client.
    pub(super) back: bool,
    /// It comes from another address outside.
    pub(super) stranger: bool,
    pub(super) body: Body,
    pub(super) tamper: Tamper,
}

impl Shot {
    /// An untouched packet.
    pub(super) fn new(flow: usize, back: bool, body: Body) -> Self {
        Self { flow, back, stranger: false, body, tamper: Tamper::Nothing }
    }

    /// The IP packet's bytes, as a system that chose this external port for the flow is sent it.
    pub(super) fn build(&self, flow: &Flow, slot: Slot, chosen: Option<u16>) -> Vec<u8> {
        let (mut src, dst) = flow.near(slot, chosen, self.back);
        let stranger = slot.peer(flow.family, STRANGER);
        let is_strange = self.stranger && flow.enters(self.back) == Side::Wan;
        if is_strange {
            src.set_ip(stranger);
        }
        let mut pkt = match self.body.whole() {
            Body::Error { kind, code, rest, router, keep, slip, about } => {
                let (src, mut dst) = flow.far(slot, chosen, !self.back);
                dst.set_port(dst.port().wrapping_add(*slip));
                let mut quote = body(about, (src, dst), !self.back).hop().build();
                quote.truncate(usize::from(*keep));
                let reporter = match (router, flow.enters(self.back)) {
                    (false, _) => dst.ip(),
                    (true, Side::Lan) => slot.host(flow.family, HOSTS),
                    (true, Side::Wan) => slot.peer(flow.family, ROUTER),
                };
                icmp(reporter, src.ip(), *kind, *code, *rest, &quote)
            }
            other => body(other, (src, dst), self.back),
        };
        if is_strange {
            pkt.src = stranger;
        }
        if let Body::Part { id, .. } = self.body {
            pkt = pkt.may_fragment().id(FIRST_ID + id);
        }
        let mut l3 = pkt.build();
        let l4 = if flow.family == Family::V4 { 20 } else { 40 };
        match self.tamper {
            Tamper::IpSum if flow.family == Family::V4 => l3[10] ^= 0x55,
            Tamper::Nothing | Tamper::IpSum => {}
            Tamper::TransportSum => {
                let at = match pkt.protocol() {
                    protocol::TCP => 16,
                    protocol::UDP | protocol::UDP_LITE => 6,
                    protocol::SCTP => 8,
                    protocol::GRE => 7, // the key, which nothing covers
                    _ => 2,
                };
                if let Some(byte) = l3.get_mut(l4 + at) {
                    *byte ^= 0x55;
                }
            }
            Tamper::DataOffset(words) => {
                if pkt.protocol() == protocol::TCP {
                    l3[l4 + 12] = words << 4;
                    set16(&mut l3, l4 + 16, 0);
                    let sum = transport_checksum(pkt.src, pkt.dst, protocol::TCP, &l3[l4..]);
                    set16(&mut l3, l4 + 16, sum);
                }
            }
        }
        match self.body {
            Body::Part { id, offset, len, more, forged, .. } => {
                let begin = usize::from(offset) * 8;
                let mut data = l3[l4..][begin..begin + usize::from(len)].to_vec();
                if forged {
                    data.iter_mut().for_each(|byte| *byte ^= 0x20);
                }
                fragments::fragment(&l3, u32::from(FIRST_ID + id), begin, &data, more)
            }
            _ => l3,
        }
    }
}

/// A packet of these ends that is no error.
fn body(body: &Body, (src, dst): Ends, back: bool) -> Pkt {
    match body {
        Body::Segment(s) => tcp(src, dst)
            .flags(s.flags)
            .seq(s.seq)
            .ack_number(s.ack)
            .window(s.window)
            .tcp_options(&s.options)
            .payload(vec![b's'; usize::from(s.len)]),
        Body::Datagram { len, unsummed } => {
            let pkt = udp(src, dst).payload(vec![b'd'; usize::from(*len)]);
            if *unsummed { pkt.unsummed() } else { pkt }
        }
        Body::Lite { len, coverage } => {
            udp_lite(src, dst, *coverage, &vec![b'l'; usize::from(*len)])
        }
        Body::Chunks { kinds, tag, init, flags } => {
            let chunk = |&kind: &u8| {
                let mut chunk = sctp::chunk(kind, *init);
                if matches!(kind, sctp::chunk_type::ABORT | sctp::chunk_type::SHUTDOWN_COMPLETE) {
                    chunk[1] = *flags;
                }
                chunk
            };
            sctp::sctp(src, dst, *tag, &kinds.iter().map(chunk).collect::<Vec<_>>())
        }
        Body::Tunnel { version, len } => {
            let mut bytes = vec![0x20, *version, 0x08, 0, 0, 0, 0, 7]; // a key
            bytes.resize(8 + usize::from(*len), b'g');
            other(src.ip(), dst.ip(), protocol::GRE, &bytes)
        }
        Body::Query { ask, timestamp, number } => {
            let kind = match (src.is_ipv4(), ask, timestamp) {
                (true, true, false) => 8,
                (true, false, false) => 0,
                (true, true, true) => 13,
                (true, false, true) => 14,
                (false, true, _) => 128,
                (false, false, _) => 129,
            };
            let id = if back { dst.port() } else { src.port() };
            let rest = u32::from(id) << 16 | u32::from(*number);
            icmp(src.ip(), dst.ip(), kind, 0, rest, b"twelve bytes")
        }
        Body::Part { of, .. } => self::body(of, (src, dst), back),
        Body::Error { .. } => icmp(src.ip(), dst.ip(), 3, 1, 0, b"an error about an error ......"),
    }
}

/// What is played to both systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// What it was drawn from.
    pub(super) seed: u64,
    /// Postern's workers.
    pub(super) workers: u8,
    pub(super) conditions: Conditions,
    pub(super) flows: Vec<Flow>,
    /// Shots, a [`PAUSE`] between two sections.
    pub(super) sections: Vec<Vec<Shot>>,
}

impl Script {
    /// All shots, in order.
    pub(super) fn shots(&self) -> impl Iterator<Item = &Shot> {
        self.sections.iter().flatten()
    }

    /// Number of shots.
    pub(super) fn len(&self) -> usize {
        self.sections.iter().map(Vec::len).sum()
    }

    /// Without the shots whose place is in `drop`.
    pub(super) fn without(&self, drop: impl Fn(usize) -> bool) -> Self {
        let mut place = 0;
        let mut keep = |_: &Shot| {
            place += 1;
            !drop(place - 1)
        };
        let mut sections = self.sections.clone();
        for section in &mut sections {
            section.retain(&mut keep);
        }
        Self { sections, ..self.clone() }
    }

    /// Flows that stand in each other's way.
    pub(super) fn rivals(&self, flow: usize) -> impl Iterator<Item = usize> + '_ {
        let this = self.flows[flow];
        let all = self.flows.iter().enumerate();
        all.filter(move |(_, other)| other.is_rival_of(&this)).map(|(place, _)| place)
    }
}

/// Takes the differentiated services field out of a packet again, in which a system that let it out noted its ctstate.
pub(super) fn clear_dscp(l3: &mut [u8]) {
    if l3.len() >= 40 && l3[0] >> 4 == 6 {
        l3[0] &= 0xf0;
        l3[1] &= 0x3f;
    } else if l3.len() >= 20 && l3[1] >> 2 != 0 && checksum(&l3[..20]) == 0 {
        l3[1] &= 3;
        mend_ip_checksum(l3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_timeouts_are_named_to_linux() {
        let conditions = Conditions { loose: true, short: 1, pauses: 1, ..Conditions::default() };
        let sysctls = conditions.sysctls();
        let value = |name: &str| sysctls.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        assert_eq!(value("nf_conntrack_tcp_timeout_syn_sent"), Some(1));
        assert_eq!(value("nf_conntrack_tcp_timeout_established"), Some(432_000));
        assert_eq!(value("nf_conntrack_udp_timeout_stream"), Some(120));
        assert_eq!(value("nf_conntrack_tcp_loose"), Some(1));
        assert_eq!(value("nf_conntrack_tcp_be_liberal"), Some(0));
    }
}
