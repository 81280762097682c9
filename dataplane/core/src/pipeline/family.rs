//! What differs between the families on the packet path.

use crate::conntrack::entry::{Hot, HotV4, HotV6};
use crate::headers::Headers;
use crate::nat::rewrite::{self, Deltas, TtlChange};
use crate::parse::plain::{self, Shape};
use crate::rules;

/// A family's table entry, with how its packets are rewritten.
pub(super) trait Family: Hot {
    /// For the rules.
    const FAMILY: rules::Family;

    /// Writes `to` into a packet of a flow.
    fn rewrite(
        bytes: &mut [u8],
        headers: &Headers,
        to: &Self::Tuple,
        deltas: Deltas,
        ttl: TtlChange,
    );

    /// Where the transport header of a plain packet begins.
    const PLAIN_L4: usize;

    /// The tuple of a plain packet in that zone.
    fn plain_tuple(bytes: &[u8], zone: u16) -> Option<Self::Tuple>;

    /// Writes the inverse of `from` into a plain packet that is forwarded.
    fn rewrite_plain(bytes: &mut [u8], shape: Shape, from: &Self::Tuple, deltas: Deltas);
}

impl Family for HotV4 {
    const FAMILY: rules::Family = rules::Family::V4;

    #[inline(always)]
    fn rewrite(
        bytes: &mut [u8],
        headers: &Headers,
        to: &Self::Tuple,
        deltas: Deltas,
        ttl: TtlChange,
    ) {
        rewrite::flow_v4(bytes, headers, to, deltas, ttl);
    }

    const PLAIN_L4: usize = plain::L4_V4;

    #[inline(always)]
    fn plain_tuple(bytes: &[u8], zone: u16) -> Option<Self::Tuple> {
        plain::tuple_v4(bytes, zone)
    }

    #[inline(always)]
    fn rewrite_plain(bytes: &mut [u8], shape: Shape, from: &Self::Tuple, deltas: Deltas) {
        rewrite::plain_v4(bytes, shape, from, deltas);
    }
}

impl Family for HotV6 {
    const FAMILY: rules::Family = rules::Family::V6;

    #[inline(always)]
    fn rewrite(
        bytes: &mut [u8],
        headers: &Headers,
        to: &Self::Tuple,
        deltas: Deltas,
        ttl: TtlChange,
    ) {
        rewrite::flow_v6(bytes, headers, to, deltas, ttl);
    }

    const PLAIN_L4: usize = plain::L4_V6;

    #[inline(always)]
    fn plain_tuple(bytes: &[u8], zone: u16) -> Option<Self::Tuple> {
        plain::tuple_v6(bytes, zone)
    }

    #[inline(always)]
    fn rewrite_plain(bytes: &mut [u8], shape: Shape, from: &Self::Tuple, deltas: Deltas) {
        rewrite::plain_v6(bytes, shape, from, deltas);
    }
}
