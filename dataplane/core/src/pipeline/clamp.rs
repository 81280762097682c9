//! Lowering the maximum segment size that TCP peers announce, where an interface asks for it: so that what they send fits
//! links between them whose MTU neither knows (PPPoE, tunnels), although ICMP is lost on the way.

use core::net::IpAddr;

use super::Context;
use super::leg::{self, Leg};
use crate::burst::Packet;
use crate::conntrack::tcp_options;
use crate::forward::RouteKind;
use crate::headers::{Headers, Kind, tcp_flags};
use crate::snapshot::ClampMss;
use crate::wire::{self, checksum, ipv4, ipv6, tcp};

/// Whether a packet that is forwarded on this leg may announce more than an interface wants.
#[inline]
pub(super) fn applies(headers: &Headers, leg: &Leg, context: &Context<'_>) -> bool {
    headers.kind == Kind::Tcp
        && headers.tcp.flags & (tcp_flags::SYN | tcp_flags::RST) == tcp_flags::SYN
        && asks(leg, context) != [None; 2]
}

/// What the interfaces on either side ask for.
fn asks(leg: &Leg, context: &Context<'_>) -> [Option<ClampMss>; 2] {
    [leg.ingress, leg.egress].map(|id| context.interface(id)?.clamp_mss)
}

/// Lowers what the SYN announces. `back` is where its answer goes, behind all translation. C040; netfilter's TCPMSS.
///
/// Differs: a SYN that announces nothing is left alone, for its sender then gets 536 bytes at most (1220 with IPv6, RFC 9293
/// §3.7.1), and nothing lower is ever asked for. Linux adds an option that says so.
#[cold]
pub(super) fn clamp(
    packet: &mut Packet<'_>,
    headers: &Headers,
    back: IpAddr,
    leg: &Leg,
    context: &Context<'_>,
) {
    let Some(most) = most(headers, leg, back, context) else { return };
    let start = usize::from(headers.l4);
    let end = start + usize::from(headers.tcp.header_len);
    let Some(header) = packet.bytes_mut().get_mut(start..end) else { return };
    let Some(options) = header.get(tcp::HEADER_LEN..) else { return };
    let Some((at, announced)) = tcp_options::maximum_segment_size(options) else { return };
    if announced <= most {
        return;
    }
    let at = tcp::HEADER_LEN + at;
    // The words that it is part of: it may begin with the second byte of one.
    let words = at & !1..(at + 3) & !1;
    let Some(words) = header.get_mut(words) else { return };
    let mut before = [0; 4];
    let Some(before) = before.get_mut(..words.len()) else { return };
    before.copy_from_slice(words);
    if let Some(value) = words.get_mut(at % 2..at % 2 + 2) {
        value.copy_from_slice(&most.to_be_bytes());
    }
    let delta = checksum::delta(before, words);
    if let Some(sum) = wire::array_mut(header, tcp::CHECKSUM) {
        *sum = checksum::apply(u16::from_be_bytes(*sum), delta).to_be_bytes();
    }
}

/// The most that a SYN may announce on this leg, bytes; `None` if neither interface asks.
fn most(headers: &Headers, leg: &Leg, back: IpAddr, context: &Context<'_>) -> Option<u16> {
    let ip = if headers.is_v4() { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    let fitting = || {
        let route = context.snapshot.routes.lookup(back);
        let route = route.filter(|route| route.kind == RouteKind::Unicast);
        let way_back = leg::mtu(leg.ingress, route.map_or(0, |route| route.mtu), context);
        let mtu = leg::mtu(leg.egress, leg.route_mtu, context).min(way_back);
        mtu.saturating_sub((ip + tcp::HEADER_LEN) as u16)
    };
    let most = |ask| match ask {
        ClampMss::ToMtu => fitting(),
        ClampMss::To(most) => most,
    };
    asks(leg, context).into_iter().flatten().map(most).min()
}

#[cfg(test)]
mod tests {
    use crate::conntrack::tcp_options::maximum_segment_size;

    #[test]
    fn the_option_is_found_behind_others_and_nowhere_else() {
        for (options, found) in [
            (&[2, 4, 5, 180][..], Some((2, 1460))),
            (&[1, 3, 3, 7, 2, 4, 5, 180], Some((6, 1460))),
            (&[1, 2, 4, 5, 180, 2, 4, 0, 1], Some((3, 1460))),
            (&[0, 2, 4, 5, 180], None),
            (&[2, 3, 5, 2, 4, 5, 180], Some((5, 1460))),
            (&[8, 0, 2, 4, 5, 180], None),
            (&[2, 4, 5], None),
            (&[], None),
        ] {
            assert_eq!(maximum_segment_size(options), found, "{options:?}");
        }
    }
}
