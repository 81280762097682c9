//! A connection as programs see it. Names and meanings are conntrack(8)'s; interfaces go by name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use postern_core::conntrack::tuple::{Direction, Tuple, protocol};
use postern_core::conntrack::{sctp, tcp};
use postern_core::pipeline::ConnectionView;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::model::Family;

/// Names a connection; not used again for another one for days, however fast they come and go. A decimal string in JSON, because programs
/// that read JSON numbers as doubles would lose its low bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ConnectionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A transport protocol: by name where conntrack(8) has one, else by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The name, as libnetfilter_conntrack knows it.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            protocol::ICMP => "icmp",
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            33 => "dccp",
            protocol::GRE => "gre",
            protocol::ICMPV6 => "icmpv6",
            protocol::SCTP => "sctp",
            protocol::UDP_LITE => "udplite",
            _ => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.to_ascii_lowercase();
        let more = [("ipv6-icmp", protocol::ICMPV6), ("esp", protocol::ESP), ("ah", protocol::AH)];
        more.into_iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, number)| number)
            .or_else(|| (0..=u8::MAX).find(|&n| Self(n).name() == Some(&wanted)))
            .or_else(|| wanted.parse().ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a protocol: write tcp, udp, icmp or a number"))
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Names it.
    #[schema(value_type = String)]
    pub id: ConnectionId,
    /// Its address family.
    pub family: Family,
    /// Its transport protocol, by name or number.
    #[schema(value_type = String)]
    pub protocol: Protocol,
    /// The protocol's number.
    pub protocol_number: u8,
    /// Seconds until it expires if no more packets come.
    pub timeout_s: u32,
    /// TCP and SCTP only: `ESTABLISHED` and so on, the connection's own state, not ctstate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// A packet in reply direction was seen.
    pub seen_reply: bool,
    /// Worth keeping under pressure.
    pub assured: bool,
    /// Its source is translated.
    pub snat: bool,
    /// Its destination is translated.
    pub dnat: bool,
    /// As its first packet came in.
    pub original: TupleInfo,
    /// As answers come in: the original inverted, unless addresses are translated.
    pub reply: TupleInfo,
    /// Connection mark.
    pub mark: u32,
    /// Conntrack zone, if both directions are in one; else 0, and each direction says its own.
    pub zone: u16,
    /// Where packets of the original direction come in; absent if the host sends them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_ingress: Option<String>,
    /// Where they leave; absent if the host takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_egress: Option<String>,
    /// A helper had announced it.
    #[serde(default)]
    pub expected: bool,
    /// Its helper: `ftp`, `irc`, `tftp`, `sip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<String>,
    /// Seconds since it was made.
    pub age_s: u64,
    /// When it was made, seconds since 1970, by the clock as it is set now.
    #[serde(default)]
    pub start_unix_s: u64,
    /// The worker that owns it.
    pub worker: u8,
}

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TupleInfo {
    /// Source address.
    #[schema(value_type = String)]
    pub src: IpAddr,
    /// Destination address.
    #[schema(value_type = String)]
    pub dst: IpAddr,
    /// Ports or what the protocol has instead.
    #[serde(flatten)]
    pub ids: Ids,
    /// Conntrack zone that its packets arrive in, where those of the other direction arrive in another one.
    #[serde(default, skip_serializing_if = "is_no_zone")]
    pub zone: u16,
    /// What was counted; absent when accounting is off.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// What tells connections between two hosts apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Ids {
    /// TCP, UDP, UDP-Lite, SCTP, DCCP.
    Ports {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// ICMP and ICMPv6 queries.
    Icmp {
        /// Type.
        icmp_type: u8,
        /// Code.
        icmp_code: u8,
        /// Identifier.
        icmp_id: u16,
    },
    /// GRE.
    Keys {
        /// Source key. Always 0: keys, PPTP's call ids among them, are not read, and what two hosts tunnel is one connection.
        srckey: u16,
        /// Destination key. Always 0.
        dstkey: u16,
    },
    /// Any other protocol: the addresses alone.
    None {},
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Counted {
    /// Packets, modulo 2^44.
    pub packets: u64,
    /// Bytes of IP packets, modulo 2^52.
    pub bytes: u64,
}

impl TupleInfo {
    /// One direction of a connection of the core.
    pub fn new(tuple: &Tuple, direction: Direction, counted: Option<Counted>) -> Self {
        let (src_id, dst_id) = (tuple.src_id(), tuple.dst_id());
        let ids = match tuple.protocol() {
            protocol::ICMP | protocol::ICMPV6 => {
                // The identifier stands on the querier's side, the request's type and code opposite.
                let (icmp_id, query) = match direction {
                    Direction::Original => (src_id, dst_id),
                    Direction::Reply => (dst_id, src_id),
                };
                let [query_type, query_code] = query.to_be_bytes();
                let (icmp_type, icmp_code) = match direction {
                    Direction::Original => (query_type, query_code),
                    Direction::Reply => (reply_type(tuple.protocol(), query_type), 0),
                };
                Ids::Icmp { icmp_type, icmp_code, icmp_id }
            }
            protocol::GRE => Ids::Keys { srckey: src_id, dstkey: dst_id },
            protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP => {
                Ids::Ports { sport: src_id, dport: dst_id }
            }
            _ => Ids::None {},
        };
        Self { src: tuple.src(), dst: tuple.dst(), ids, zone: 0, counted }
    }

    /// Both directions of a connection of the core, with what was counted in each.
    pub fn both(view: &ConnectionView, counted: [Option<Counted>; 2]) -> [Self; 2] {
        let shared = view.original.zone() == view.reply.zone();
        let own = |tuple: &Tuple| if shared { 0 } else { tuple.zone() };
        let new = |direction: Direction, tuple: &Tuple| Self {
            zone: own(tuple),
            ..Self::new(tuple, direction, counted[direction.index()])
        };
        [new(Direction::Original, &view.original), new(Direction::Reply, &view.reply)]
    }
}

/// The zone of both directions of a connection; 0 if they are in different ones.
pub(crate) fn shared_zone(view: &ConnectionView) -> u16 {
    let zone = view.original.zone();
    if zone == view.reply.zone() { zone } else { 0 }
}

/// Whether a direction has no zone of its own to tell of.
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's way of asking
fn is_no_zone(zone: &u16) -> bool {
    *zone == 0
}

/// The name of the state that a TCP or SCTP connection is in.
pub fn state_name(view: &ConnectionView) -> Option<&'static str> {
    match view.original.protocol() {
        protocol::TCP => Some(tcp::State::from_number(view.protocol_state).name()),
        protocol::SCTP => Some(sctp::State::from_number(view.protocol_state).name()),
        _ => None,
    }
}

/// The ICMP or ICMPv6 type that answers a query (RFC 792, RFC 950, RFC 4443, RFC 4620).
const fn reply_type(ip_protocol: u8, query: u8) -> u8 {
    match (ip_protocol, query) {
        (protocol::ICMP, 8) => 0,
        (protocol::ICMP, 10) => 9,
        (protocol::ICMP, 13 | 15 | 17) | (protocol::ICMPV6, 128 | 139) => query + 1,
        _ => query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_reply_shows_type_0_and_the_same_identifier() {
        let (src, dst) = ("192.168.1.2".parse().unwrap(), "192.0.2.9".parse().unwrap());
        let request = Tuple::new(src, dst, 11264, 8 << 8, protocol::ICMP).unwrap();
        let original = TupleInfo::new(&request, Direction::Original, None);
        assert_eq!(original.ids, Ids::Icmp { icmp_type: 8, icmp_code: 0, icmp_id: 11264 });
        let reply = TupleInfo::new(&request.inverted(), Direction::Reply, None);
        assert_eq!(reply.ids, Ids::Icmp { icmp_type: 0, icmp_code: 0, icmp_id: 11264 });
        assert_eq!((reply.src, reply.dst), (dst, src));
    }

    #[test]
    fn protocols_are_read_by_name_alias_and_number() {
        for (text, number) in
            [("tcp", 6), ("UDP", 17), ("icmpv6", 58), ("ipv6-icmp", 58), ("esp", 50), ("132", 132)]
        {
            assert_eq!(text.parse(), Ok(Protocol(number)), "{text}");
        }
        assert!("tpc".parse::<Protocol>().is_err());
        assert!("256".parse::<Protocol>().is_err());
    }

    #[test]
    fn json_keeps_every_kind_of_identifier_apart() {
        let address = IpAddr::from([192, 0, 2, 1]);
        for ids in [
            Ids::Ports { sport: 1, dport: 2 },
            Ids::Icmp { icmp_type: 8, icmp_code: 0, icmp_id: 7 },
            Ids::Keys { srckey: 0, dstkey: 0 },
            Ids::None {},
        ] {
            for counted in [None, Some(Counted { packets: 1, bytes: 84 })] {
                let tuple = TupleInfo { src: address, dst: address, ids, zone: 0, counted };
                let json = serde_json::to_string(&tuple).unwrap();
                assert_eq!(serde_json::from_str::<TupleInfo>(&json).unwrap(), tuple, "{json}");
            }
        }
    }

    #[test]
    fn an_id_beyond_the_precision_of_a_double_survives_json() {
        let id = ConnectionId(u64::MAX - 1);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"18446744073709551614\"");
        assert_eq!(serde_json::from_str::<ConnectionId>(&json).unwrap(), id);
    }
}
