//! Which external addresses ran out of ports, of which protocol, and how often: beside
//! [`ports_exhausted`](crate::verdict::DropReason::PortsExhausted), which says how often in all. C080.
//!
//! One table for each worker, which alone writes it; anyone may read it at leisure. An address that has a place keeps
//! it; those that come when all places are taken are counted in the reason only.

use core::net::{IpAddr, Ipv6Addr};
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::counters::Counter;

/// Most addresses, each of each protocol, that are told apart.
pub const PLACES: usize = 64;

#[derive(Debug, Default)]
struct Place {
    /// High and low half of the address; IPv4 as IPv4-mapped.
    address: [AtomicU64; 2],
    /// The protocol plus one; 0 while the place is free, written last.
    protocol: AtomicU64,
    packets: Counter,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Exhausted([Place; PLACES]);

/// What is known of one address and protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shortage {
    /// The external address.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Packets that found no port.
    pub packets: u64,
}

impl Default for Exhausted {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Place::default()))
    }
}

impl Exhausted {
    /// A packet found no port of that address. Only the owning thread may call this.
    #[cold]
    pub fn count(&self, address: IpAddr, protocol: u8) {
        let halves = halves(address);
        let state = u64::from(protocol) + 1;
        for place in &self.0 {
            match place.protocol.load(Relaxed) {
                0 => {
                    place.packets.add(1);
                    for (to, half) in place.address.iter().zip(halves) {
                        to.store(half, Relaxed);
                    }
                    place.protocol.store(state, Release);
                    return;
                }
                held if held == state && place.halves() == halves => {
                    place.packets.add(1);
                    return;
                }
                _ => {}
            }
        }
    }

    /// Every address that ran out of ports, in no order.
    pub fn shortages(&self) -> impl Iterator<Item = Shortage> {
        self.0.iter().filter_map(|place| {
            let protocol = u8::try_from(place.protocol.load(Acquire).checked_sub(1)?).ok()?;
            let [high, low] = place.halves();
            let address = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
            let address = IpAddr::V6(address).to_canonical();
            Some(Shortage { address, protocol, packets: place.packets.get() })
        })
    }
}

impl Place {
    fn halves(&self) -> [u64; 2] {
        self.address.each_ref().map(|half| half.load(Relaxed))
    }
}

fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
    .to_bits();
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn each_address_and_protocol_is_counted_apart_while_there_are_places() {
        let exhausted = Exhausted::default();
        assert_eq!(exhausted.shortages().count(), 0);
        let v4: IpAddr = [203, 0, 113, 2].into();
        let v6: IpAddr = "2001:db8::2".parse().expect("an address");
        for (address, protocol) in [(v4, 6), (v4, 17), (v4, 6), (v6, 6), (v4, 0)] {
            exhausted.count(address, protocol);
        }
        let mut all: Vec<_> = exhausted.shortages().collect();
        all.sort();
        let expected = [(v4, 0, 1), (v4, 6, 2), (v4, 17, 1), (v6, 6, 1)];
        assert_eq!(
            all,
            expected.map(|(address, protocol, packets)| Shortage { address, protocol, packets })
        );
        for last in 0..2 * PLACES as u8 {
            exhausted.count([10, 0, 0, last].into(), 17);
        }
        exhausted.count(v4, 6);
        let all: Vec<_> = exhausted.shortages().collect();
        assert_eq!(all.len(), PLACES);
        assert_eq!(all[0], Shortage { address: v4, protocol: 6, packets: 3 });
    }
}
