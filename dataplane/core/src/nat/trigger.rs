//! Port triggers: a host that connects out to one port has others opened towards it, for a while.
//!
//! As routers for the home do: the first host keeps the ports while it uses them; a connection that is let out
//! takes them, one that comes in by them keeps them, and so do packets of the last such connection. What
//! comes in may come from anybody. A port forward goes first, and so does any connection that is known already.
//!
//! Who holds a trigger is shared by the workers, as expectations are ([`helper::expect`](crate::helper::expect)):
//! few words under a lock, read for first packets only. The port stays the same inside and out, so both
//! directions meet on one worker. IPv4 only: where nothing is translated there is nothing to trigger.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::net::Ipv4Addr;
use core::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::time::Tick;
use crate::units::InterfaceId;

/// Most triggers that can be configured.
pub const TRIGGERS_MAX: usize = 64;
const _: () = assert!(TRIGGERS_MAX < u8::MAX as usize, "places are kept as bytes");

/// What a trigger is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerRule {
    /// The interface outside.
    pub interface: InterfaceId,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// First and last destination port that trigger.
    pub outbound: (u16, u16),
    /// First and last port opened.
    pub inbound: (u16, u16),
    /// How long they stay open without use, milliseconds.
    pub timeout_ms: u32,
}

/// Who holds a trigger.
#[derive(Debug, Default)]
struct Holder {
    locked: AtomicBool,
    /// Bit 32 and the host's address below it; 0 is nobody.
    host: AtomicU64,
    /// Until when.
    deadline: AtomicU64,
}

impl Holder {
    fn locked<R>(&self, act: impl FnOnce(&Self) -> R) -> R {
        while self.locked.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            spin_loop();
        }
        let result = act(self);
        self.locked.store(false, Release);
        result
    }

    /// Who holds it now, and until when. Only while locked.
    fn read(&self, now: Tick) -> Option<(Ipv4Addr, Tick)> {
        let host = self.host.load(Relaxed);
        let deadline = Tick(self.deadline.load(Relaxed) as u32);
        if host != 0 && now.reached(deadline) {
            self.host.store(0, Relaxed); // before ticks come round
            return None;
        }
        (host != 0).then(|| (Ipv4Addr::from(host as u32), deadline))
    }
}

/// A trigger, with who holds it.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// What it is made of.
    pub rule: TriggerRule,
    holder: Arc<Holder>,
}

impl Trigger {
    /// Who holds it.
    pub fn holder(&self, now: Tick) -> Option<Ipv4Addr> {
        self.holder.locked(|holder| holder.read(now)).map(|(host, _)| host)
    }

    /// Who holds it and until when, to be shown. Takes no lock: whoever looks may be put to sleep by the kernel, and
    /// workers must not wait for that.
    pub fn look(&self, now: Tick) -> Option<(Ipv4Addr, Tick)> {
        /// Holders hardly ever change while we look; this often never.
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            let host = self.holder.host.load(Acquire);
            let deadline = Tick(self.holder.deadline.load(Acquire) as u32);
            if self.holder.host.load(Acquire) == host {
                let held = host != 0 && !now.reached(deadline);
                return held.then(|| (Ipv4Addr::from(host as u32), deadline));
            }
        }
        None
    }

    /// Has `host` hold it until `deadline` at least, unless another one holds it. Whether it does now.
    pub fn hold(&self, host: Ipv4Addr, deadline: Tick, now: Tick) -> bool {
        self.holder.locked(|holder| {
            let before = holder.read(now);
            if before.is_some_and(|(other, _)| other != host) {
                return false;
            }
            if before.is_none_or(|(_, until)| deadline.since(until) > 0) {
                // Whoever sees it sees that the one before is gone (`look`).
                holder.deadline.store(deadline.0.into(), Release);
            }
            holder.host.store(1 << 32 | u64::from(u32::from(host)), Relaxed);
            true
        })
    }
}

/// All triggers. Of one interface and protocol, no two open the same port: configuration sees to it.
#[derive(Clone, Debug, Default)]
pub struct Triggers(Box<[Trigger]>);

impl Triggers {
    /// These triggers; one that was among `before` keeps its holder. At most [`TRIGGERS_MAX`] count.
    pub fn new(rules: Vec<TriggerRule>, before: &Self) -> Self {
        let trigger = |rule: TriggerRule| {
            let same = before.0.iter().find(|trigger| trigger.rule == rule);
            let holder = same.map_or_else(Arc::default, |trigger| trigger.holder.clone());
            Trigger { rule, holder }
        };
        Self(rules.into_iter().take(TRIGGERS_MAX).map(trigger).collect())
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every trigger.
    pub fn iter(&self) -> impl Iterator<Item = &Trigger> {
        self.0.iter()
    }

    /// The trigger at that place.
    pub fn get(&self, place: usize) -> Option<&Trigger> {
        self.0.get(place)
    }

    /// The trigger that opens `port` on `interface`, and its place.
    pub fn opening(
        &self,
        interface: InterfaceId,
        protocol: u8,
        port: u16,
    ) -> Option<(usize, &Trigger)> {
        self.of(interface, protocol, port, |rule| rule.inbound).next()
    }

    /// The triggers that a connection out of `interface` to `port` pulls, with their places.
    pub fn pulled(
        &self,
        interface: InterfaceId,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = (usize, &Trigger)> {
        self.of(interface, protocol, port, |rule| rule.outbound)
    }

    fn of(
        &self,
        interface: InterfaceId,
        protocol: u8,
        port: u16,
        range: fn(&TriggerRule) -> (u16, u16),
    ) -> impl Iterator<Item = (usize, &Trigger)> {
        self.0.iter().enumerate().filter(move |(_, trigger)| {
            let (first, last) = range(&trigger.rule);
            (trigger.rule.interface, trigger.rule.protocol) == (interface, protocol)
                && (first..=last).contains(&port)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::tuple::protocol;
    use std::vec;

    /// C106, C109
    #[test]
    fn the_first_host_holds_it_until_it_is_not_used_any_more() {
        let rule = TriggerRule {
            interface: InterfaceId(1),
            protocol: protocol::UDP,
            outbound: (6112, 6112),
            inbound: (6113, 6115),
            timeout_ms: 60_000,
        };
        let triggers = Triggers::new(vec![rule], &Triggers::default());
        let (_, trigger) = triggers.opening(InterfaceId(1), protocol::UDP, 6115).unwrap();
        for (interface, protocol, port) in
            [(0, protocol::UDP, 6115), (1, protocol::TCP, 6115), (1, protocol::UDP, 6116)]
        {
            assert!(triggers.opening(InterfaceId(interface), protocol, port).is_none());
        }
        let [first, second] = [Ipv4Addr::new(192, 168, 1, 2), Ipv4Addr::new(192, 168, 1, 3)];
        assert!(trigger.hold(first, Tick(60_000), Tick(0)));
        assert!(!trigger.hold(second, Tick(90_000), Tick(59_999)));
        assert!(trigger.hold(first, Tick(70_000), Tick(10_000)));
        assert!(trigger.hold(first, Tick(65_000), Tick(10_000)), "never shortened");
        let reloaded = Triggers::new(vec![rule], &triggers);
        let again = reloaded.get(0).unwrap();
        assert_eq!(again.holder(Tick(69_999)), Some(first));
        assert_eq!(again.holder(Tick(70_000)), None);
        assert!(again.hold(second, Tick(130_000), Tick(70_000)));
    }
}
