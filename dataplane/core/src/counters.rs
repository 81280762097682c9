//! One counter per verdict and per drop reason.
//!
//! A [`Counters`] belongs to one worker, which alone writes it; anyone may read it at leisure. Writes
//! are a relaxed load and store, no locked instruction: a reader may see a burst half counted,
//! never a wrong total once the worker is quiescent.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::nat::exhausted::Exhausted;
use crate::verdict::{DropReason, Verdict};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident;)*) => {
        /// Everything one worker (or the host thread) counts.
        ///
        /// The books: `received + from_host + generated + handed_in =
        /// forwarded + delivered + handed_out + dropped() + held`, exact when quiescent.
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $field: Counter,)*
            /// By reason; see [`DropReason`].
            pub drops: [Counter; DropReason::COUNT],
            /// Of those for want of a port, whose.
            pub exhausted: Exhausted,
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($field: Counter::default(),)*
                    drops: core::array::from_fn(|_| Counter::default()),
                    exhausted: Exhausted::default(),
                }
            }
        }

        impl Default for Values {
            fn default() -> Self {
                Self { $($field: 0,)* drops: [0; DropReason::COUNT] }
            }
        }

        /// [`Counters`] read at one moment.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Values {
            $($(#[$doc])* pub $field: u64,)*
            /// By reason; see [`DropReason`].
            pub drops: [u64; DropReason::COUNT],
        }

        impl Counters {
            /// Reads all counters.
            pub fn values(&self) -> Values {
                Values {
                    $($field: self.$field.get(),)*
                    drops: core::array::from_fn(|i| self.drops[i].get()),
                }
            }
        }

        impl Values {
            /// Every counter but the drops, with its stable name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            /// Adds another worker's values.
            pub fn add(&mut self, other: &Values) {
                $(self.$field += other.$field;)*
                for (sum, value) in self.drops.iter_mut().zip(other.drops) {
                    *sum += value;
                }
            }
        }
    };
}

counters! {
    /// Frames taken from interfaces.
    received;
    /// Bytes of those frames, Ethernet header included.
    received_bytes;
    /// Frames the host sent through its TAPs.
    from_host;
    /// Packets we originated: ICMP errors, TCP resets, all but the first of those that one was split into.
    generated;
    /// Frames taken over from another worker.
    handed_in;
    /// Frames handed to another worker.
    handed_out;
    /// Frames sent, or to be sent, out of an interface.
    forwarded;
    /// Bytes of those frames.
    forwarded_bytes;
    /// Frames given to the host.
    delivered;
    /// Packets put on hold for their next hop, or until all fragments of their datagram are there.
    held;
    /// Held packets taken up again.
    resumed;
    /// Packets that matched a connection, or made one.
    tracked;
    /// Packets conntrack calls INVALID (most are then dropped by a rule).
    invalid;
    /// Packets never tracked: neighbour discovery, multicast listener discovery.
    untracked;
    /// Connections confirmed.
    connections_new;
    /// Connections removed: expired, closed, deleted, evicted or their address gone.
    connections_gone;
    /// Of those, evicted to make room for a new one.
    connections_evicted;
    /// Changes of connections that whoever followed them was not told of, because he was behind.
    changes_missed;
    /// Connections that helpers expected, from now on until they come or their master goes.
    expectations_made;
    /// Of those, the ones that came.
    expectations_met;
    /// Announced connections that are not expected: a third host, the appliance, a port below 1024, no free port or place.
    expectations_refused;
    /// Connections that got no helper, and announcements left as they were, for want of room (in the pool, the frame,
    /// or the MTU).
    helpers_declined;
    /// First packets that could not keep their source port.
    ports_changed;
    /// Endpoint-independent mappings made.
    mappings_made;
    /// Connections that were translated as any other, because there was no place for an endpoint-independent mapping.
    mappings_refused;
    /// Ways out that were looked up for a known connection: the first of a direction, or after a change of
    /// routes, addresses or interface.
    rerouted;
    /// Packets of known connections for which the rules were walked: the first of a direction and state, after a
    /// change of rules or way, or because a rule looks at more than the connection.
    rejudged;
}

impl Counters {
    /// Counts a drop.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }
}

impl Counters {
    /// Counts that a packet became `parts`, at least one: all but the first are ours.
    pub fn split(&self, parts: usize) {
        self.generated.add(parts.saturating_sub(1) as u64);
    }

    /// Counts what became of a packet of `len` bytes once its verdict was carried out. The drop behind a
    /// [`Verdict::Reply`] was counted when the reply was written.
    #[inline]
    pub fn settle(&self, verdict: Verdict, len: usize) {
        match verdict {
            Verdict::Forward { .. } => {
                self.forwarded.add(1);
                self.forwarded_bytes.add(len as u64);
            }
            Verdict::Deliver { .. } => self.delivered.add(1),
            Verdict::Reply { to_host, .. } => {
                self.generated.add(1);
                if to_host {
                    self.delivered.add(1);
                } else {
                    self.forwarded.add(1);
                    self.forwarded_bytes.add(len as u64);
                }
            }
            Verdict::HandOver { .. } => self.handed_out.add(1),
            Verdict::Hold { .. } | Verdict::Gather { .. } => self.held.add(1),
            // Whoever splits it counts each part as it leaves, and that it became several.
            Verdict::Split { .. } => {}
            Verdict::Drop(reason) => self.drop(reason),
        }
    }
}

impl Values {
    /// All drops together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// What came in less what is accounted for: zero when quiescent, or packets were lost track of.
    pub fn imbalance(&self) -> i128 {
        let taken = [self.received, self.from_host, self.generated, self.handed_in, self.resumed];
        let given = [self.forwarded, self.delivered, self.handed_out, self.dropped(), self.held];
        let sum = |side: [u64; 5]| side.iter().map(|&n| i128::from(n)).sum::<i128>();
        sum(taken) - sum(given)
    }
}
