//! What differs between the families on the packet path.

use crate::conntrack::entry::{Hot, HotV4, HotV6};
use crate::headers::Headers;
use crate::nat::rewrite::{self, Deltas, TtlChange};
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
}
