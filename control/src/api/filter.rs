//! Which connections a request is about: conntrack(8)'s options, as query parameters.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use postern_core::conntrack::entry::flags;
use postern_core::pipeline::{ConnectionView, Filter};
use postern_core::units::InterfaceId;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::connection::{Connection, Ids, Protocol, TupleInfo, shared_zone, state_name};
use super::model::Family;

/// The filter as it stands in a query string. All given parts must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionQuery {
    /// `ipv4` or `ipv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// Transport protocol, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Source of the original direction: an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Destination of the original direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Source of the reply direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_src: Option<String>,
    /// Destination of the reply direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_dst: Option<String>,
    /// Source port of the original direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<String>,
    /// Destination port of the original direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<String>,
    /// Source port of the reply direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_sport: Option<String>,
    /// Destination port of the reply direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_dport: Option<String>,
    /// ICMP type of the original direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<String>,
    /// ICMP identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<String>,
    /// TCP state: `ESTABLISHED`, `SYN_SENT`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Of `ASSURED`, `SEEN_REPLY`, `UNREPLIED`, `EXPECTED`, `SRC_NAT`, `DST_NAT`: several with commas between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Translated source: `any`, an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_nat: Option<String>,
    /// Translated destination: `any`, an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_nat: Option<String>,
    /// Translated source or destination: `any`, an address or a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_nat: Option<String>,
    /// Connection mark: `VALUE` or `VALUE/MASK`, decimal or 0x.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// Conntrack zone of both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Conntrack zone of the original direction alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orig_zone: Option<String>,
    /// Conntrack zone of the reply direction alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_zone: Option<String>,
    /// Name of the interface its packets come in by or leave by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// A filter whose every part was understood.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectionFilter {
    family: Option<Family>,
    protocol: Option<Protocol>,
    original: TupleFilter,
    reply: TupleFilter,
    state: Option<String>,
    status: Vec<StatusBit>,
    src_nat: Option<Network>,
    dst_nat: Option<Network>,
    any_nat: Option<Network>,
    mark: Option<(u32, u32)>,
    zone: Option<u16>,
    orig_zone: Option<u16>,
    reply_zone: Option<u16>,
    interface: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct TupleFilter {
    src: Option<Network>,
    dst: Option<Network>,
    sport: Option<u16>,
    dport: Option<u16>,
    icmp_type: Option<u8>,
    icmp_id: Option<u16>,
}

/// Why a filter was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    /// The parameter.
    pub name: &'static str,
    /// What was given.
    pub value: String,
    /// What is wanted.
    pub wanted: &'static str,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` is not {}", self.name, self.value, self.wanted)
    }
}

impl std::error::Error for FilterError {}

/// An address, or all that share its first bits; `any` of either family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    Any,
    Of(IpAddr, u8),
}

impl Network {
    /// The address, if it is just one.
    fn alone(self) -> Option<IpAddr> {
        match self {
            Self::Of(address @ IpAddr::V4(_), 32) | Self::Of(address @ IpAddr::V6(_), 128) => {
                Some(address)
            }
            _ => None,
        }
    }

    fn holds(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Any, _) => true,
            (Self::Of(IpAddr::V4(net), length), IpAddr::V4(address)) => {
                let differ = u32::from(net) ^ u32::from(address);
                differ.checked_shr(32 - u32::from(length)).unwrap_or(0) == 0
            }
            (Self::Of(IpAddr::V6(net), length), IpAddr::V6(address)) => {
                let differ = u128::from(net) ^ u128::from(address);
                differ.checked_shr(128 - u32::from(length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(drop)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse).map_err(drop)?;
        if length > most { Err(()) } else { Ok(Self::Of(address, length)) }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StatusBit {
    Assured,
    SeenReply,
    Unreplied,
    Expected,
    SrcNat,
    DstNat,
}

impl FromStr for StatusBit {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text.to_ascii_uppercase().as_str() {
            "ASSURED" => Self::Assured,
            "SEEN_REPLY" => Self::SeenReply,
            "UNREPLIED" => Self::Unreplied,
            "EXPECTED" => Self::Expected,
            "SRC_NAT" | "SNAT" => Self::SrcNat,
            "DST_NAT" | "DNAT" => Self::DstNat,
            _ => return Err(()),
        })
    }
}

/// States that a TCP connection can be in, as `conntrack -L` prints them.
fn tcp_state(text: &str) -> Result<String, ()> {
    use postern_core::conntrack::tcp::State;
    let name = text.to_ascii_uppercase();
    State::ALL.iter().any(|state| state.name() == name).then_some(name).ok_or(())
}

fn number(text: &str) -> Result<u32, ()> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).map_err(drop),
        None => text.parse().map_err(drop),
    }
}

/// Reads a mark, `VALUE` or `VALUE/MASK`, decimal or 0x.
///
/// # Errors
/// What is wanted, in words.
pub fn mark(text: &str) -> Result<(u32, u32), &'static str> {
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    match (number(value), number(mask)) {
        (Ok(value), Ok(mask)) => Ok((value, mask)),
        _ => Err(MARK),
    }
}

/// What a mark looks like.
const MARK: &str = "a mark such as 0x10 or 0x10/0xff";

fn nat(text: &str) -> Result<Network, ()> {
    if text.eq_ignore_ascii_case("any") { Ok(Network::Any) } else { text.parse() }
}

fn family(text: &str) -> Result<Family, ()> {
    match text.to_ascii_lowercase().as_str() {
        "ipv4" | "4" => Ok(Family::Ipv4),
        "ipv6" | "6" => Ok(Family::Ipv6),
        _ => Err(()),
    }
}

/// Reads one parameter if it is given.
fn part<T, E>(
    name: &'static str,
    value: Option<&String>,
    wanted: &'static str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, FilterError> {
    value
        .map(|value| read(value).map_err(|_| FilterError { name, value: value.clone(), wanted }))
        .transpose()
}

impl TryFrom<&ConnectionQuery> for ConnectionFilter {
    type Error = FilterError;

    fn try_from(query: &ConnectionQuery) -> Result<Self, FilterError> {
        const NETWORK: &str = "an address or a network such as 192.168.1.0/24";
        const PORT: &str = "a port";
        let network = |name, value| part(name, value, NETWORK, str::parse::<Network>);
        let port = |name, value| part(name, value, PORT, str::parse::<u16>);
        let nat = |name, value| part(name, value, "`any`, an address or a network", nat);
        let q = query;
        let original = TupleFilter {
            src: network("src", q.src.as_ref())?,
            dst: network("dst", q.dst.as_ref())?,
            sport: port("sport", q.sport.as_ref())?,
            dport: port("dport", q.dport.as_ref())?,
            icmp_type: part("icmp_type", q.icmp_type.as_ref(), "an ICMP type", str::parse)?,
            icmp_id: part("icmp_id", q.icmp_id.as_ref(), "an ICMP identifier", str::parse)?,
        };
        let reply = TupleFilter {
            src: network("reply_src", q.reply_src.as_ref())?,
            dst: network("reply_dst", q.reply_dst.as_ref())?,
            sport: port("reply_sport", q.reply_sport.as_ref())?,
            dport: port("reply_dport", q.reply_dport.as_ref())?,
            ..TupleFilter::default()
        };
        let status = |text: &str| text.split(',').map(str::parse).collect();
        Ok(Self {
            family: part("family", q.family.as_ref(), "ipv4 or ipv6", family)?,
            protocol: part("protocol", q.protocol.as_ref(), "a protocol", str::parse)?,
            original,
            reply,
            state: part("state", q.state.as_ref(), "a TCP state such as ESTABLISHED", tcp_state)?,
            status: part(
                "status",
                q.status.as_ref(),
                "of ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED, SRC_NAT, DST_NAT",
                status,
            )?
            .unwrap_or_default(),
            src_nat: nat("src_nat", q.src_nat.as_ref())?,
            dst_nat: nat("dst_nat", q.dst_nat.as_ref())?,
            any_nat: nat("any_nat", q.any_nat.as_ref())?,
            mark: part("mark", q.mark.as_ref(), MARK, mark)?,
            zone: zone("zone", q.zone.as_ref())?,
            orig_zone: zone("orig_zone", q.orig_zone.as_ref())?,
            reply_zone: zone("reply_zone", q.reply_zone.as_ref())?,
            interface: q.interface.clone(),
        })
    }
}

/// A zone that a filter names.
fn zone(name: &'static str, text: Option<&String>) -> Result<Option<u16>, FilterError> {
    part(name, text, "a zone number", str::parse)
}

impl TupleFilter {
    fn matches(&self, tuple: &TupleInfo) -> bool {
        let (sport, dport) = match tuple.ids {
            Ids::Ports { sport, dport } => (Some(sport), Some(dport)),
            _ => (None, None),
        };
        let (icmp_type, icmp_id) = match tuple.ids {
            Ids::Icmp { icmp_type, icmp_id, .. } => (Some(icmp_type), Some(icmp_id)),
            _ => (None, None),
        };
        self.src.is_none_or(|network| network.holds(tuple.src))
            && self.dst.is_none_or(|network| network.holds(tuple.dst))
            && same(self.sport, sport)
            && same(self.dport, dport)
            && same(self.icmp_type, icmp_type)
            && same(self.icmp_id, icmp_id)
    }
}

/// Whether nothing is wanted, or just this is there.
fn same<T: PartialEq>(wanted: Option<T>, there: Option<T>) -> bool {
    wanted.is_none() || wanted == there
}

impl ConnectionFilter {
    /// Whether every connection passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What of it the workers can tell: no connection that passes fails this.
    pub fn to_core(&self) -> Filter {
        let alone = |network: Option<Network>| network.and_then(Network::alone);
        Filter {
            protocol: self.protocol.map(|protocol| protocol.0),
            v6: self.family.map(|family| family == Family::Ipv6),
            orig_src: alone(self.original.src),
            orig_dst: alone(self.original.dst),
            reply_src: alone(self.reply.src),
            reply_dst: alone(self.reply.dst),
            sport: self.original.sport,
            dport: self.original.dport,
            mark: self.mark.and_then(|(value, mask)| (mask == u32::MAX).then_some(value)),
            ..Filter::default()
        }
    }

    /// Whether a connection passes.
    pub fn matches(&self, connection: &Traits<'_>) -> bool {
        let c = connection;
        let status = |bit: &StatusBit| match bit {
            StatusBit::Assured => c.has(flags::ASSURED),
            StatusBit::SeenReply => c.has(flags::SEEN_REPLY),
            StatusBit::Unreplied => !c.has(flags::SEEN_REPLY),
            StatusBit::Expected => c.has(flags::EXPECTED),
            StatusBit::SrcNat => c.has(flags::SNAT),
            StatusBit::DstNat => c.has(flags::DNAT),
        };
        let snat = |network: Network| c.has(flags::SNAT) && network.holds(c.reply.dst);
        let dnat = |network: Network| c.has(flags::DNAT) && network.holds(c.reply.src);
        self.family.is_none_or(|family| family == Family::of(c.original.src))
            && same(self.protocol, Some(c.protocol))
            && self.original.matches(&c.original)
            && self.reply.matches(&c.reply)
            && same(self.state.as_deref(), c.state)
            && self.status.iter().all(status)
            && self.src_nat.is_none_or(snat)
            && self.dst_nat.is_none_or(dnat)
            && self.any_nat.is_none_or(|network| snat(network) || dnat(network))
            && self.mark.is_none_or(|(value, mask)| c.mark & mask == value)
            && same(self.zone, Some(c.zone))
            && same(self.orig_zone, Some(c.original.zone))
            && same(self.reply_zone, Some(c.reply.zone))
            && self.interface.as_deref().is_none_or(|name| c.interfaces.contains(&Some(name)))
    }
}

/// What a filter looks at: of a connection as programs see it, or of the core's, before anything is made for programs.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    protocol: Protocol,
    original: TupleInfo,
    reply: TupleInfo,
    state: Option<&'a str>,
    /// See [`flags`].
    flags: u16,
    mark: u32,
    zone: u16,
    interfaces: [Option<&'a str>; 2],
}

impl<'a> Traits<'a> {
    /// Those of a connection of the core. `name` gives an interface's name.
    pub fn of_view(view: &ConnectionView, name: impl Fn(InterfaceId) -> Option<&'a str>) -> Self {
        let ConnectionView { original, flags, mark, ingress, egress, .. } = view;
        let [original_info, reply_info] = TupleInfo::both(view, [None; 2]);
        Self {
            protocol: Protocol(original.protocol()),
            original: original_info,
            reply: reply_info,
            state: state_name(view),
            flags: *flags,
            mark: *mark,
            zone: shared_zone(view),
            interfaces: [name(*ingress), name(*egress)],
        }
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl<'a> From<&'a Connection> for Traits<'a> {
    fn from(c: &'a Connection) -> Self {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        Self {
            protocol: c.protocol,
            original: c.original,
            reply: c.reply,
            state: c.state.as_deref(),
            flags: flag(c.assured, flags::ASSURED)
                | flag(c.seen_reply, flags::SEEN_REPLY)
                | flag(c.expected, flags::EXPECTED)
                | flag(c.snat, flags::SNAT)
                | flag(c.dnat, flags::DNAT),
            mark: c.mark,
            zone: c.zone,
            interfaces: [&c.original_ingress, &c.original_egress].map(Option::as_deref),
        }
    }
}
