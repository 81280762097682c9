//! Packets as values: fluent to write, built with every checksum, read back strictly.
//!
//! [`Pkt::build`] and [`Pkt::decode`] are inverse to each other, so comparing two values is comparing
//! bytes. What no value can say (a wrong checksum, a lying length) is made by building and then tampering.

use std::net::{IpAddr, SocketAddr};

use crate::sctp::SCTP;
use crate::udp_lite::{self, UDP_LITE};
use crate::wire::{checksum, get16, set16, transport_checksum};

mod decode;
mod show;
#[cfg(test)]
mod tests;

/// TCP flags (RFC 9293 §3.1, RFC 3168 §6.1).
pub mod flag {
    #![allow(missing_docs)]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// IPv4's "more fragments" in [`Pkt::fragment`]; the offset, in units of eight bytes, is below it.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// An IP packet.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pkt {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4 identification; the low bits of IPv6's flow label.
    pub id: u16,
    /// IPv4's Don't Fragment.
    pub df: bool,
    /// IPv4's MF flag and fragment offset.
    pub fragment: u16,
    /// IPv4's options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6's extension headers: type, and the header without its first byte (which names the next).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub body: Body,
}

/// What a packet carries.
#[derive(Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the headers' own fields
pub enum Body {
    /// UDP. `unsummed`: the checksum field is 0.
    Udp { src: u16, dst: u16, unsummed: bool, payload: Vec<u8> },
    /// TCP.
    Tcp(Tcp),
    /// ICMP or ICMPv6, by the packet's family.
    Icmp { kind: u8, code: u8, rest: [u8; 4], payload: Vec<u8> },
    /// Any other protocol, or a later fragment.
    Other { protocol: u8, payload: Vec<u8> },
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // the header's own fields
pub struct Tcp {
    pub src: u16,
    pub dst: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What can be written where an endpoint is meant: `"192.168.1.2:5000"`, `"[2001:db8::1]:53"`.
pub trait Endpoint {
    /// The endpoint.
    fn endpoint(self) -> SocketAddr;
}

impl Endpoint for SocketAddr {
    fn endpoint(self) -> SocketAddr {
        self
    }
}

impl Endpoint for &str {
    fn endpoint(self) -> SocketAddr {
        self.parse().unwrap_or_else(|_| panic!("no endpoint: {self}"))
    }
}

impl<A: Address> Endpoint for (A, u16) {
    fn endpoint(self) -> SocketAddr {
        SocketAddr::new(self.0.address(), self.1)
    }
}

/// What can be written where an address is meant.
pub trait Address {
    /// The address.
    fn address(self) -> IpAddr;
}

impl Address for IpAddr {
    fn address(self) -> IpAddr {
        self
    }
}

impl Address for &str {
    fn address(self) -> IpAddr {
        self.parse().unwrap_or_else(|_| panic!("no address: {self}"))
    }
}

/// A UDP datagram with four bytes in it.
pub fn udp(src: impl Endpoint, dst: impl Endpoint) -> Pkt {
    let (src, dst) = (src.endpoint(), dst.endpoint());
    let payload = b"data".to_vec();
    let body = Body::Udp { src: src.port(), dst: dst.port(), unsummed: false, payload };
    Pkt::new(src.ip(), dst.ip(), body)
}

/// A TCP segment without flags, options or data.
pub fn tcp(src: impl Endpoint, dst: impl Endpoint) -> Pkt {
    let (src, dst) = (src.endpoint(), dst.endpoint());
    let (src_port, dst_port) = (src.port(), dst.port());
    let tcp = Tcp { src: src_port, dst: dst_port, window: 65_535, ..Tcp::default() };
    Pkt::new(src.ip(), dst.ip(), Body::Tcp(tcp)).df()
}

/// An ICMP or ICMPv6 message.
pub fn icmp(
    src: impl Address,
    dst: impl Address,
    kind: u8,
    code: u8,
    rest: u32,
    payload: &[u8],
) -> Pkt {
    let body = Body::Icmp { kind, code, rest: rest.to_be_bytes(), payload: payload.to_vec() };
    Pkt::new(src.address(), dst.address(), body)
}

/// An echo request.
pub fn echo_request(src: impl Address, dst: impl Address, id: u16, seq: u16) -> Pkt {
    echo(src.address(), dst.address(), [8, 128], id, seq)
}

/// An echo reply.
pub fn echo_reply(src: impl Address, dst: impl Address, id: u16, seq: u16) -> Pkt {
    echo(src.address(), dst.address(), [0, 129], id, seq)
}

fn echo(src: IpAddr, dst: IpAddr, kinds: [u8; 2], id: u16, seq: u16) -> Pkt {
    let kind = kinds[usize::from(src.is_ipv6())];
    icmp(src, dst, kind, 0, u32::from(id) << 16 | u32::from(seq), b"ping-ping-ping-ping")
}

/// A packet of a protocol that Postern knows only by its number.
pub fn other(src: impl Address, dst: impl Address, protocol: u8, payload: &[u8]) -> Pkt {
    Pkt::new(src.address(), dst.address(), Body::Other { protocol, payload: payload.to_vec() })
}

impl Pkt {
    fn new(src: IpAddr, dst: IpAddr, body: Body) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            df: false,
            fragment: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            body,
        }
    }

    /// Sets TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// The packet as it is behind one router.
    pub fn hop(mut self) -> Self {
        self.ttl -= 1;
        self
    }

    /// Sets TOS or traffic class.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Sets the identification.
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// Sets Don't Fragment.
    pub fn df(mut self) -> Self {
        self.df = self.src.is_ipv4();
        self
    }

    /// Allows fragmentation.
    pub fn may_fragment(mut self) -> Self {
        self.df = false;
        self
    }

    /// Sets the IPv4 options, padded with zeros to a multiple of four.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header; `rest` is what follows its first byte.
    pub fn extension(mut self, kind: u8, rest: &[u8]) -> Self {
        self.extensions.push((kind, rest.to_vec()));
        self
    }

    /// Sets the payload.
    pub fn payload(mut self, bytes: impl AsRef<[u8]>) -> Self {
        match &mut self.body {
            Body::Udp { payload, .. }
            | Body::Icmp { payload, .. }
            | Body::Other { payload, .. } => {
                *payload = bytes.as_ref().to_vec();
            }
            Body::Tcp(tcp) => tcp.payload = bytes.as_ref().to_vec(),
        }
        self
    }

    /// Sets a payload so long that the IP packet has `len` bytes.
    pub fn len(self, len: usize) -> Self {
        let bare = self.clone().payload([]).build().len();
        let payload: Vec<u8> = (0..len - bare).map(|i| i as u8).collect();
        self.payload(payload)
    }

    /// Writes 0 for the UDP checksum.
    pub fn unsummed(mut self) -> Self {
        match &mut self.body {
            Body::Udp { unsummed, .. } => *unsummed = true,
            _ => panic!("{self:?} is no datagram"),
        }
        self
    }

    /// Another source; the port is ignored where there is none, and is the identifier of a query.
    pub fn from(mut self, src: impl Endpoint) -> Self {
        let src = src.endpoint();
        self.src = src.ip();
        self.set_port(src.port(), true);
        self
    }

    /// Another destination, as [`from`](Self::from).
    pub fn to(mut self, dst: impl Endpoint) -> Self {
        let dst = dst.endpoint();
        self.dst = dst.ip();
        self.set_port(dst.port(), false);
        self
    }

    fn set_port(&mut self, port: u16, source: bool) {
        match &mut self.body {
            Body::Udp { src, .. } if source => *src = port,
            Body::Udp { dst, .. } => *dst = port,
            Body::Tcp(tcp) if source => tcp.src = port,
            Body::Tcp(tcp) => tcp.dst = port,
            // The identifier belongs to the side that asks.
            Body::Icmp { kind: 8 | 13 | 15 | 17 | 128, rest, .. } if source => set16(rest, 0, port),
            Body::Icmp { kind: 0 | 14 | 16 | 18 | 129, rest, .. } if !source => {
                set16(rest, 0, port)
            }
            Body::Other { protocol: SCTP, payload } if payload.len() >= 12 => {
                crate::sctp::set_port(payload, port, source);
            }
            Body::Other { protocol: UDP_LITE, payload } if payload.len() >= 8 => {
                udp_lite::set_port(payload, port, source);
            }
            _ => {}
        }
    }

    /// Source address with port or, for a query's request, identifier; 0 if there is none.
    pub fn source(&self) -> SocketAddr {
        let port = match &self.body {
            Body::Udp { src, .. } => *src,
            Body::Tcp(tcp) => tcp.src,
            Body::Icmp { kind: 8 | 13 | 15 | 17 | 128, rest, .. } => get16(rest, 0),
            Body::Other { protocol: SCTP | UDP_LITE, payload } if payload.len() >= 8 => {
                get16(payload, 0)
            }
            _ => 0,
        };
        SocketAddr::new(self.src, port)
    }

    /// Destination address with port or, for a query's reply, identifier; 0 if there is none.
    pub fn destination(&self) -> SocketAddr {
        let port = match &self.body {
            Body::Udp { dst, .. } => *dst,
            Body::Tcp(tcp) => tcp.dst,
            Body::Icmp { kind: 0 | 14 | 16 | 18 | 129, rest, .. } => get16(rest, 0),
            Body::Other { protocol: SCTP | UDP_LITE, payload } if payload.len() >= 8 => {
                get16(payload, 2)
            }
            _ => 0,
        };
        SocketAddr::new(self.dst, port)
    }

    /// The TCP segment in it.
    pub fn tcp(&self) -> &Tcp {
        match &self.body {
            Body::Tcp(tcp) => tcp,
            _ => panic!("{self:?} is no segment"),
        }
    }

    fn with_tcp(mut self, change: impl FnOnce(&mut Tcp)) -> Self {
        match &mut self.body {
            Body::Tcp(tcp) => change(tcp),
            _ => panic!("{self:?} is no segment"),
        }
        self
    }

    /// Sets all TCP flags.
    pub fn flags(self, flags: u8) -> Self {
        self.with_tcp(|tcp| tcp.flags = flags)
    }

    /// Adds SYN.
    pub fn syn(self) -> Self {
        self.with_tcp(|tcp| tcp.flags |= flag::SYN)
    }

    /// Adds FIN.
    pub fn fin(self) -> Self {
        self.with_tcp(|tcp| tcp.flags |= flag::FIN)
    }

    /// Adds RST.
    pub fn rst(self) -> Self {
        self.with_tcp(|tcp| tcp.flags |= flag::RST)
    }

    /// Adds ACK, with its number.
    pub fn ack(self, ack: u32) -> Self {
        self.with_tcp(|tcp| (tcp.flags, tcp.ack) = (tcp.flags | flag::ACK, ack))
    }

    /// Sets the acknowledgment number, whatever the flags.
    pub fn ack_number(self, ack: u32) -> Self {
        self.with_tcp(|tcp| tcp.ack = ack)
    }

    /// Sets the sequence number.
    pub fn seq(self, seq: u32) -> Self {
        self.with_tcp(|tcp| tcp.seq = seq)
    }

    /// Sets the window.
    pub fn window(self, window: u16) -> Self {
        self.with_tcp(|tcp| tcp.window = window)
    }

    /// Adds TCP options, padded with no-operations (RFC 9293 §3.2) to a multiple of four.
    pub fn tcp_options(self, bytes: &[u8]) -> Self {
        self.with_tcp(|tcp| {
            tcp.options.extend(bytes);
            tcp.options.resize(tcp.options.len().next_multiple_of(4), 1);
        })
    }

    /// Adds a maximum segment size.
    pub fn mss(self, mss: u16) -> Self {
        let [high, low] = mss.to_be_bytes();
        self.tcp_options(&[2, 4, high, low])
    }

    /// Adds a window scale.
    pub fn wscale(self, shift: u8) -> Self {
        self.tcp_options(&[3, 3, shift])
    }

    /// The protocol number.
    pub fn protocol(&self) -> u8 {
        match &self.body {
            Body::Udp { .. } => 17,
            Body::Tcp(_) => 6,
            Body::Icmp { .. } if self.src.is_ipv4() => 1,
            Body::Icmp { .. } => 58,
            Body::Other { protocol, .. } => *protocol,
        }
    }

    /// The packet's bytes, every length and checksum right.
    pub fn build(&self) -> Vec<u8> {
        let transport = self.build_body();
        let mut l3 = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                assert_eq!(self.options.len() % 4, 0);
                let header_len = 20 + self.options.len();
                let mut l3 = vec![0; 20];
                l3[0] = 0x40 | (header_len / 4) as u8;
                l3[1] = self.tos;
                set16(&mut l3, 2, (header_len + transport.len()) as u16);
                set16(&mut l3, 4, self.id);
                set16(&mut l3, 6, self.fragment | u16::from(self.df) << 14);
                l3[8] = self.ttl;
                l3[9] = self.protocol();
                l3[12..16].copy_from_slice(&src.octets());
                l3[16..20].copy_from_slice(&dst.octets());
                l3.extend(&self.options);
                let sum = checksum(&l3);
                set16(&mut l3, 10, sum);
                l3
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let extensions = self.build_extensions();
                let mut l3 = vec![0; 8];
                l3[0] = 0x60 | self.tos >> 4;
                l3[1] = self.tos << 4;
                set16(&mut l3, 2, self.id);
                set16(&mut l3, 4, (extensions.len() + transport.len()) as u16);
                l3[6] = self.extensions.first().map_or(self.protocol(), |(kind, _)| *kind);
                l3[7] = self.ttl;
                l3.extend(src.octets());
                l3.extend(dst.octets());
                l3.extend(extensions);
                l3
            }
            _ => panic!("a packet from {} to {}", self.src, self.dst),
        };
        l3.extend(transport);
        l3
    }

    fn build_extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (index, (_, rest)) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(index + 1).map_or(self.protocol(), |(kind, _)| *kind);
            bytes.push(next);
            bytes.extend(rest);
        }
        bytes
    }

    fn build_body(&self) -> Vec<u8> {
        let summed = |mut bytes: Vec<u8>, at: usize| {
            let sum = transport_checksum(self.src, self.dst, self.protocol(), &bytes);
            set16(&mut bytes, at, sum);
            bytes
        };
        match &self.body {
            Body::Udp { src, dst, unsummed, payload } => {
                let mut bytes = vec![0; 8];
                set16(&mut bytes, 0, *src);
                set16(&mut bytes, 2, *dst);
                set16(&mut bytes, 4, (8 + payload.len()) as u16);
                bytes.extend(payload);
                if *unsummed {
                    return bytes;
                }
                let mut bytes = summed(bytes, 6);
                if get16(&bytes, 6) == 0 {
                    set16(&mut bytes, 6, 0xffff); // RFC 768
                }
                bytes
            }
            Body::Tcp(tcp) => {
                assert_eq!(tcp.options.len() % 4, 0);
                let mut bytes = vec![0; 20];
                set16(&mut bytes, 0, tcp.src);
                set16(&mut bytes, 2, tcp.dst);
                bytes[4..8].copy_from_slice(&tcp.seq.to_be_bytes());
                bytes[8..12].copy_from_slice(&tcp.ack.to_be_bytes());
                bytes[12] = (((20 + tcp.options.len()) / 4) << 4) as u8;
                bytes[13] = tcp.flags;
                set16(&mut bytes, 14, tcp.window);
                set16(&mut bytes, 18, tcp.urgent);
                bytes.extend(&tcp.options);
                bytes.extend(&tcp.payload);
                summed(bytes, 16)
            }
            Body::Icmp { kind, code, rest, payload } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(payload);
                if self.src.is_ipv6() {
                    return summed(bytes, 2);
                }
                let sum = checksum(&bytes);
                set16(&mut bytes, 2, sum);
                bytes
            }
            Body::Other { payload, .. } => payload.clone(),
        }
    }
}
