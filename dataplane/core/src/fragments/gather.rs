//! Which fragments of which datagrams have come, and what becomes of them.
//!
//! A fixed number of datagrams, each with the list of its fragments, by offset. Whatever is received changes a bounded
//! number of them, and every search is over all datagrams: there are few. Room for new ones is made at the expense of the
//! oldest: of the same source if it has its share, else of the same interface if that has its share, else of all. So a
//! flood costs what has waited longest, and a datagram whose fragments come one behind the other gets through.

use alloc::boxed::Box;
use alloc::vec;
use core::net::IpAddr;

use super::{
    DATAGRAM_MAX, DATAGRAMS_MAX, INTERFACE_MAX, SLOTS, SOURCE_MAX, TIME_V4, TIME_V6, WAITING_MAX,
};
use crate::burst::{Checksum, Gathered, Origin};
use crate::conntrack::siphash::SipKey;
use crate::conntrack::tuple::{Tuple, TupleV4};
use crate::headers::Headers;
use crate::parse::fragment::{self, Covers, First, Slice};
use crate::time::Tick;
use crate::units::{InterfaceId, WorkerId};
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::Sum;

/// No slot.
const NONE: u16 = u16::MAX;

/// A fragment that arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The frame's bytes.
    pub bytes: &'a [u8],
    /// Of [`Kind::Fragment`](crate::headers::Kind::Fragment).
    pub headers: &'a Headers,
    /// Where it came in.
    pub interface: InterfaceId,
    /// Wire or host.
    pub origin: Origin,
    /// Whether the datagram's transport checksum is to be verified.
    pub verify: bool,
}

/// What becomes of a fragment that waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Its datagram is whole: it goes on with this.
    Go(Gathered),
    /// It is dropped.
    Drop(DropReason),
}

/// One fragment that waits, or is settled and not taken out yet.
#[derive(Clone, Copy)]
struct Slot {
    /// Of its datagram by offset; of the settled ones in order; of the free ones.
    next: u16,
    offset: u16,
    len: u16,
    /// Of its data, which begins at an even offset.
    sum: u16,
    /// Keyed: no two fragments can be made to have the same.
    digest: u64,
    settled: Settled,
}

/// What makes fragments one datagram. The interface is part of it: one network must not be able to spoil what comes in
/// from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    tuple: Tuple,
    interface: InterfaceId,
    origin: Origin,
}

#[derive(Clone, Copy)]
struct Datagram {
    key: Key,
    source: Source,
    deadline: Tick,
    /// Datagrams are numbered as they begin.
    number: u32,
    /// By offset.
    head: u16,
    count: u16,
    /// Bytes that have come.
    have: u32,
    /// Bytes of all, once the last fragment has come.
    len: Option<u16>,
    first: Option<First>,
    /// It is discarded, and so is what still comes of it (RFC 5722 §4).
    refused: Option<DropReason>,
}

/// Whom a share is for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Source {
    v4: bool,
    network: u64,
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self { v4: true, network: u32::from(a).into() },
            IpAddr::V6(a) => Self { v4: false, network: (u128::from(a) >> 64) as u64 },
        }
    }
}

/// What waits, seen by one datagram.
#[derive(Default)]
struct Survey {
    found: Option<usize>,
    free: Option<usize>,
    all: Share,
    interface: Share,
    source: Share,
}

/// What some have together.
#[derive(Default)]
struct Share {
    datagrams: usize,
    fragments: usize,
    /// The oldest one, and the oldest one that has fragments, by number: but for the datagram in question.
    oldest: Option<(u32, usize)>,
    oldest_waiting: Option<(u32, usize)>,
}

impl Share {
    fn add(&mut self, index: usize, datagram: &Datagram, itself: bool) {
        self.datagrams += 1;
        self.fragments += usize::from(datagram.count);
        if itself {
            return;
        }
        let older = |oldest: Option<(u32, usize)>| {
            let this = (datagram.number, index);
            // Numbers wrap; those that live lie close together.
            let is_older = |(other, _)| this.0.wrapping_sub(other) > u32::MAX / 2;
            if oldest.is_none_or(is_older) { Some(this) } else { oldest }
        };
        self.oldest = older(self.oldest);
        if datagram.count > 0 {
            self.oldest_waiting = older(self.oldest_waiting);
        }
    }
}

/// Where a fragment belongs among those that came.
enum Place {
    /// Behind that slot, or at the head.
    Behind(u16),
    /// It is there.
    Again,
    /// It does not fit to what is there.
    Contradiction,
}

/// One worker's fragments.
pub struct Gathering {
    datagrams: Box<[Option<Datagram>]>,
    slots: Box<[Slot]>,
    free: u16,
    /// First and last of those that are settled.
    settled: [u16; 2],
    key: SipKey,
    numbers: u32,
    /// Not later than any deadline; none if nothing waits.
    due: Option<Tick>,
}

impl Gathering {
    /// Nothing waits. `key` keys the digests.
    pub fn new(key: SipKey) -> Self {
        let settled = Settled::Drop(DropReason::Stopping);
        let slot = |number: usize| Slot {
            next: if number + 1 < SLOTS { number as u16 + 1 } else { NONE },
            offset: 0,
            len: 0,
            sum: 0,
            digest: 0,
            settled,
        };
        Self {
            datagrams: vec![None; DATAGRAMS_MAX].into(),
            slots: (0..SLOTS).map(slot).collect(),
            free: 0,
            settled: [NONE; 2],
            key,
            numbers: 0,
            due: None,
        }
    }

    /// A fragment has come to `me`, its collector: to be kept, or not.
    pub fn take(&mut self, arrival: &Arrival<'_>, me: WorkerId, now: Tick) -> Verdict {
        match self.try_take(arrival, me, now) {
            Ok(slot) => Verdict::Gather { slot },
            Err(reason) => Verdict::Drop(reason),
        }
    }

    fn try_take(
        &mut self,
        arrival: &Arrival<'_>,
        me: WorkerId,
        now: Tick,
    ) -> Result<u16, DropReason> {
        self.expire(now);
        let slice = Slice::of(arrival.bytes, arrival.headers).ok_or(DropReason::Fragment)?;
        let data = arrival.bytes.get(slice.data.clone()).ok_or(DropReason::Fragment)?;
        let Arrival { headers, interface, origin, .. } = *arrival;
        let key = Key { tuple: headers.tuple, interface, origin };
        let source = Source::of(headers.tuple.src());
        let survey = self.survey(&key, source);

        let index = match survey.found {
            Some(index) => index,
            None => self.begin(key, source, &survey, now)?,
        };
        let datagram = self.datagrams[index].ok_or(DropReason::FragmentLimit)?;
        if let Some(reason) = datagram.refused {
            return Err(reason);
        }
        let digest = self.key.hash_bytes(data);
        let behind = match self.place(&datagram, &slice, digest) {
            Place::Behind(slot) => slot,
            Place::Again => return Err(DropReason::FragmentDuplicate),
            Place::Contradiction => return Err(self.refuse(index, DropReason::FragmentOverlap)),
        };
        if usize::from(datagram.count) >= DATAGRAM_MAX {
            return Err(self.refuse(index, DropReason::FragmentLimit));
        }
        self.make_room(index, &survey)?;
        let first = if slice.offset == 0 {
            match fragment::first(arrival.bytes, headers) {
                Ok(first) => Some(first),
                Err(reason) => {
                    self.refuse(index, DropReason::FragmentRefused);
                    return Err(reason);
                }
            }
        } else {
            datagram.first
        };

        let slot = self.free;
        let place = self.slots.get_mut(usize::from(slot)).ok_or(DropReason::FragmentLimit)?;
        self.free = place.next;
        let sum = Sum::ZERO.bytes(data).fold();
        let (offset, len, settled) = (slice.offset, slice.len(), place.settled);
        *place = Slot { next: datagram.head, offset, len, sum, digest, settled };
        let mut head = slot;
        if behind != NONE {
            head = datagram.head;
            self.slots[usize::from(slot)].next = self.slots[usize::from(behind)].next;
            self.slots[usize::from(behind)].next = slot;
        }
        let end = (!slice.more).then(|| slice.offset + slice.len());
        let datagram = Datagram {
            head,
            count: datagram.count + 1,
            have: datagram.have + u32::from(slice.len()),
            len: datagram.len.or(end),
            first,
            ..datagram
        };
        self.datagrams[index] = Some(datagram);
        if let (Some(len), Some(first)) = (datagram.len, first)
            && datagram.have == u32::from(len)
        {
            self.complete(index, &datagram, len, &first, arrival.verify, me);
        }
        Ok(slot)
    }

    /// Looks at everything once.
    fn survey(&self, key: &Key, source: Source) -> Survey {
        let mut survey = Survey::default();
        for (index, datagram) in self.datagrams.iter().enumerate() {
            let Some(datagram) = datagram else {
                survey.free = survey.free.or(Some(index));
                continue;
            };
            let itself = datagram.key == *key;
            if itself {
                survey.found = Some(index);
            }
            survey.all.add(index, datagram, itself);
            let same_side =
                (datagram.key.interface, datagram.key.origin) == (key.interface, key.origin);
            if same_side {
                survey.interface.add(index, datagram, itself);
            }
            if same_side && datagram.source == source {
                survey.source.add(index, datagram, itself);
            }
        }
        survey
    }

    /// A datagram of which nothing has come yet.
    fn begin(
        &mut self,
        key: Key,
        source: Source,
        survey: &Survey,
        now: Tick,
    ) -> Result<usize, DropReason> {
        let share = |share: usize| DATAGRAMS_MAX * share / WAITING_MAX;
        let leaves = if survey.source.datagrams >= share(SOURCE_MAX) {
            survey.source.oldest
        } else if survey.interface.datagrams >= share(INTERFACE_MAX) {
            survey.interface.oldest
        } else if survey.free.is_none() {
            survey.all.oldest
        } else {
            None
        };
        if let Some((_, oldest)) = leaves {
            self.give_up(oldest, DropReason::FragmentLimit);
        }
        let index = survey.free.or(leaves.map(|(_, index)| index));
        let index = index.ok_or(DropReason::FragmentLimit)?;
        let time = if matches!(key.tuple, Tuple::V4(_)) { TIME_V4 } else { TIME_V6 };
        let deadline = now.plus_ms(time.as_millis() as u32);
        self.due = match self.due {
            Some(due) if deadline.reached(due) => Some(due),
            _ => Some(deadline),
        };
        self.numbers = self.numbers.wrapping_add(1);
        self.datagrams[index] = Some(Datagram {
            key,
            source,
            deadline,
            number: self.numbers,
            head: NONE,
            count: 0,
            have: 0,
            len: None,
            first: None,
            refused: None,
        });
        Ok(index)
    }

    /// Makes room for one more fragment of a datagram, if it or somebody it shares with has too many.
    fn make_room(&mut self, index: usize, survey: &Survey) -> Result<(), DropReason> {
        // What `begin` gave up since is counted here still: then there is more room than it seems.
        let (share, most) = if survey.source.fragments >= SOURCE_MAX {
            (&survey.source, SOURCE_MAX)
        } else if survey.interface.fragments >= INTERFACE_MAX {
            (&survey.interface, INTERFACE_MAX)
        } else {
            (&survey.all, WAITING_MAX)
        };
        if share.fragments < most {
            return Ok(());
        }
        match share.oldest_waiting {
            // Another source or interface may be younger in its place: `begin` has put this one there.
            Some((_, oldest)) if oldest != index => {
                self.give_up(oldest, DropReason::FragmentLimit);
                Ok(())
            }
            Some(_) => Ok(()),
            None => Err(self.refuse(index, DropReason::FragmentLimit)),
        }
    }

    /// Where a fragment belongs in the list of its datagram.
    fn place(&self, datagram: &Datagram, slice: &Slice, digest: u64) -> Place {
        let (begin, end) = (slice.offset, slice.offset + slice.len());
        if let Some(len) = datagram.len
            && (end > len || (!slice.more && end != len))
        {
            return Place::Contradiction;
        }
        let (mut behind, mut next) = (NONE, datagram.head);
        // At most `DATAGRAM_MAX` turns.
        while let Some(slot) = self.slots.get(usize::from(next)) {
            let its_end = slot.offset + slot.len;
            if slot.offset == begin && its_end == end {
                let is_last = datagram.len == Some(end);
                let same = slot.digest == digest && is_last != slice.more;
                return if same { Place::Again } else { Place::Contradiction };
            }
            if slot.offset >= end {
                break;
            }
            if its_end > begin {
                return Place::Contradiction;
            }
            (behind, next) = (next, slot.next);
        }
        // Nothing lies behind the end.
        if !slice.more && next != NONE { Place::Contradiction } else { Place::Behind(behind) }
    }

    /// All of it has come.
    fn complete(
        &mut self,
        index: usize,
        datagram: &Datagram,
        len: u16,
        first: &First,
        verify: bool,
        me: WorkerId,
    ) {
        let transport_len = len.saturating_sub(first.before);
        // Bytes behind the transport packet are nobody's, and need not come in pieces; a checksum covers no more than
        // there is (RFC 3828 §3.1).
        let is_declared = first.declared.is_none_or(|declared| declared == transport_len);
        if !is_declared || first.covered > transport_len {
            self.refuse(index, DropReason::TruncatedTransport);
            return;
        }
        let right = !verify || self.is_right(datagram, transport_len, first);
        let gathered = Gathered {
            src_id: first.ids.0,
            dst_id: first.ids.1,
            len,
            datagram: datagram.number as u16,
            collector: me,
            protocol: first.protocol,
            checksum: if right { Checksum::Right } else { Checksum::Wrong },
        };
        self.settle(datagram.head, Settled::Go(gathered));
        self.datagrams[index] = None;
    }

    /// Whether the transport checksum is right, as far as it can be told.
    fn is_right(&self, datagram: &Datagram, transport_len: u16, first: &First) -> bool {
        let tuple = &datagram.key.tuple;
        let start = match first.covers {
            Covers::Nothing => return true,
            Covers::Missing => return false,
            Covers::Packet => Sum::ZERO,
            Covers::PseudoHeader => {
                let addresses = match tuple {
                    Tuple::V4(TupleV4 { src, dst, .. }) => Sum::ZERO.four(*src).four(*dst),
                    Tuple::V6(tuple) => Sum::ZERO.bytes(&tuple.src).bytes(&tuple.dst),
                };
                addresses.word(first.protocol.into()).word(transport_len)
            }
        };
        let mut sum = start.word(!first.sum_before);
        let mut next = datagram.head;
        while let Some(slot) = self.slots.get(usize::from(next)) {
            sum = sum.word(slot.sum);
            next = slot.next;
        }
        sum.is_right()
    }

    /// Discards a datagram, with what still comes of it.
    fn refuse(&mut self, index: usize, reason: DropReason) -> DropReason {
        if let Some(datagram) = &mut self.datagrams[index] {
            datagram.refused = Some(reason);
            datagram.count = 0;
            let head = core::mem::replace(&mut datagram.head, NONE);
            self.settle(head, Settled::Drop(reason));
        }
        reason
    }

    /// Forgets a datagram.
    fn give_up(&mut self, index: usize, reason: DropReason) {
        if let Some(datagram) = self.datagrams[index].take() {
            self.settle(datagram.head, Settled::Drop(reason));
        }
    }

    /// Settles a list of fragments.
    fn settle(&mut self, head: u16, settled: Settled) {
        let mut next = head;
        while let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.settled = settled;
            let this = core::mem::replace(&mut next, slot.next);
            slot.next = NONE;
            match self.settled {
                [NONE, _] => self.settled = [this; 2],
                [_, last] => {
                    self.slots[usize::from(last)].next = this;
                    self.settled[1] = this;
                }
            }
        }
    }

    /// Whether [`next_settled`](Self::next_settled) has something to say.
    #[inline]
    pub fn has_settled(&self) -> bool {
        self.settled[0] != NONE
    }

    /// The next fragment that waits no more, in order: its slot, free from now on, and what becomes of it.
    pub fn next_settled(&mut self) -> Option<(u16, Settled)> {
        let number = self.settled[0];
        let slot = self.slots.get_mut(usize::from(number))?;
        self.settled[0] = slot.next;
        slot.next = core::mem::replace(&mut self.free, number);
        Some((number, slot.settled))
    }

    /// Gives up what has waited too long. Cheap if nothing is due.
    #[inline]
    pub fn expire(&mut self, now: Tick) {
        if self.due.is_some_and(|due| now.reached(due)) {
            self.sweep(now);
        }
    }

    #[cold]
    fn sweep(&mut self, now: Tick) {
        self.due = None;
        for index in 0..self.datagrams.len() {
            let Some(deadline) = self.datagrams[index].as_ref().map(|d| d.deadline) else {
                continue;
            };
            if now.reached(deadline) {
                self.give_up(index, DropReason::FragmentExpired);
            } else if self.due.is_none_or(|due| due.reached(deadline)) {
                self.due = Some(deadline);
            }
        }
    }

    /// Fragments that wait.
    pub fn waiting(&self) -> usize {
        self.datagrams.iter().flatten().map(|datagram| usize::from(datagram.count)).sum()
    }
}
