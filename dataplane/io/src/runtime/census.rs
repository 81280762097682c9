//! What a thread says of itself: where its frames are, how full its tables are, how busy it is.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! gauges {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Written by one thread once a turn, read by anyone.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Gauges { $($field: AtomicU64,)* }

        /// [`Gauges`] read at one moment. Exact while the thread is quiescent.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Census { $($(#[$doc])* pub $field: u64,)* }

        impl Gauges {
            /// Reads them.
            pub fn read(&self) -> Census {
                Census { $($field: self.$field.load(Relaxed),)* }
            }

            /// Owner: publishes.
            #[inline]
            pub(crate) fn write(&self, census: &Census) {
                $(self.$field.store(census.$field, Relaxed);)*
            }
        }

        impl Census {
            /// Each value with its stable name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

gauges! {
    /// Free frames in the thread's pool.
    pool,
    /// Packets on hold: for their next hop, or for the rest of their datagram.
    held,
    /// Packets waiting for room in a transmit ring.
    queued,
    /// Frames in the rings of the thread's sockets, or in the device.
    kernel,
    /// IPv4 connections in the table.
    connections_v4,
    /// Most IPv4 connections.
    capacity_v4,
    /// IPv6 connections in the table.
    connections_v6,
    /// Most IPv6 connections.
    capacity_v6,
    /// Turns of the thread's loop.
    turns,
    /// Of those, turns that found something to do.
    busy_turns,
    /// Times it went to sleep.
    sleeps,
}

impl Census {
    /// Frames this thread has or knows of; those under way between threads are not among them.
    pub const fn frames(&self) -> u64 {
        self.pool + self.held + self.queued + self.kernel
    }
}
