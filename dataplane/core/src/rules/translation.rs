//! What a rule of the `nat` table may ask for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Hook, HookSet};

/// Addresses one after the other, both ends among them and of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Addresses {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl Addresses {
    /// A single address.
    pub const fn single(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }

    /// Whether `address` is one of them.
    pub fn hold(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Whether both are of the same family and in order.
    pub fn is_range(&self) -> bool {
        self.first.is_ipv4() == self.last.is_ipv4() && self.first <= self.last
    }

    /// Whether each of them can be a host's: none is of "this" network, loopback, multicast or class E (RFC 6890, RFC 4291
    /// §2.5, §2.7).
    pub fn may_be_hosts(&self) -> bool {
        let v4 = |first: [u8; 4], last: [u8; 4]| (IpAddr::from(first), IpAddr::from(last));
        let v6 = |first: u128, last: u128| {
            (IpAddr::from(Ipv6Addr::from(first)), IpAddr::from(Ipv6Addr::from(last)))
        };
        let nobodys = [
            v4([0, 0, 0, 0], [0, 255, 255, 255]),
            v4([127, 0, 0, 0], [127, 255, 255, 255]),
            v4([224, 0, 0, 0], [255, 255, 255, 255]),
            // Unspecified, loopback and what holds IPv4 addresses; multicast.
            v6(0, 0xffff_ffff_ffff),
            v6(0xff << 120, u128::MAX),
        ];
        let meets = |&(first, last): &(IpAddr, IpAddr)| {
            first.is_ipv4() == self.first.is_ipv4() && first <= self.last && self.first <= last
        };
        !nobodys.iter().any(meets)
    }

    /// The one that a 64-bit hash picks, each about as often.
    pub fn pick(&self, hash: u64) -> IpAddr {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (u32::from(first), u32::from(last));
                let many = u64::from(last.saturating_sub(first)) + 1;
                let place = ((u128::from(hash) * u128::from(many)) >> 64) as u32;
                Ipv4Addr::from(first.wrapping_add(place)).into()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (u128::from(first), u128::from(last));
                let more = u64::try_from(last.saturating_sub(first)).unwrap_or(u64::MAX - 1);
                let many = u128::from(more.min(u64::MAX - 1)) + 1;
                let place = (u128::from(hash) * many) >> 64;
                Ipv6Addr::from(first.wrapping_add(place)).into()
            }
            (first, _) => first,
        }
    }

    /// The one that [rendezvous hashing](https://en.wikipedia.org/wiki/Rendezvous_hashing) picks: the highest of
    /// `weigh`, so that most clients keep theirs when the range grows or shrinks. Of more than 256 [`pick`](Self::pick)
    /// picks.
    pub fn rendezvous(&self, hash: u64, weigh: impl Fn(IpAddr) -> u64) -> IpAddr {
        const WEIGHED_MAX: u128 = 256;
        let highest = |all: &mut dyn Iterator<Item = IpAddr>| {
            all.max_by_key(|&address| weigh(address)).unwrap_or(self.first)
        };
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (u32::from(first), u32::from(last));
                if first != last && u128::from(last.wrapping_sub(first)) < WEIGHED_MAX {
                    return highest(&mut (first..=last).map(|a| Ipv4Addr::from(a).into()));
                }
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (u128::from(first), u128::from(last));
                if first != last && last.wrapping_sub(first) < WEIGHED_MAX {
                    return highest(&mut (first..=last).map(|a| Ipv6Addr::from(a).into()));
                }
            }
            _ => {}
        }
        self.pick(hash)
    }
}

/// Ports to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ports {
    /// First and last; `None` leaves the port as it is where it can.
    pub range: Option<(u16, u16)>,
    /// The port that the first of the range stands for (`--to-destination 10.0.0.2:5000-5010/2000`).
    pub base: Option<u16>,
    /// Chosen at random, rather than kept (`--random`, `--random-fully`).
    pub random: bool,
    /// Whether the source port depends on the destination: `None` if it may.
    pub independent: Option<Independence>,
    /// Of a pool: each host of a network inside has a block of ports of its own.
    pub blocks: Option<Blocks>,
}

/// Blocks of ports of a pool of addresses, one for each host of an IPv4 network. Which is whose follows from the host's
/// address alone (deterministic, RFC 7422): nothing needs to be logged but the rule.
///
/// The hosts come in order: those of the first address of the pool, then those of the second, and so on; of each address
/// the ports from [`PORT_MIN`](Self::PORT_MIN) on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Blocks {
    /// The network's lowest address.
    pub network: Ipv4Addr,
    /// Its prefix length.
    pub length: u8,
    /// Ports of each block: at least [`SIZE_MIN`](Self::SIZE_MIN).
    pub size: u16,
}

impl Blocks {
    /// The first port that is part of a block: those below are well-known ones (RFC 6335).
    pub const PORT_MIN: u16 = 1024;
    /// The smallest block: with sixteen workers each has four ports of it.
    pub const SIZE_MIN: u16 = 64;

    /// How many blocks an address has.
    pub const fn of_address(self) -> u32 {
        (u16::MAX as u32 + 1 - Self::PORT_MIN as u32) / self.size as u32
    }

    /// Whether the pool has a block for each host of the network.
    pub fn fit(self, pool: Addresses) -> bool {
        let hosts = 1u64 << u32::from(32 - self.length.min(32));
        numbers(pool).is_some_and(|(first, last)| {
            let addresses = u64::from(last.saturating_sub(first)) + 1;
            addresses * u64::from(self.of_address()) >= hosts
        })
    }

    /// The address of the pool that a host appears behind, and its ports there, first and last. `None` if it is not of the
    /// network, or the pool does not reach so far.
    pub fn of(self, pool: Addresses, host: IpAddr) -> Option<(IpAddr, (u16, u16))> {
        let IpAddr::V4(host) = host else { return None };
        let number = u32::from(host).checked_sub(u32::from(self.network))?;
        if u64::from(number) >> u32::from(32 - self.length.min(32)) != 0 {
            return None;
        }
        let (first, last) = numbers(pool)?;
        let address = first.checked_add(number / self.of_address()).filter(|a| *a <= last)?;
        // At most 64512 by the division.
        let before = (number % self.of_address()) as u16 * self.size;
        let port = Self::PORT_MIN + before;
        Some((Ipv4Addr::from(address).into(), (port, port + (self.size - 1))))
    }

    /// The host that an external endpoint belongs to, if it is of a block that has one.
    pub fn owner(self, pool: Addresses, address: Ipv4Addr, port: u16) -> Option<Ipv4Addr> {
        let (first, _) = numbers(pool).filter(|_| pool.hold(address.into()))?;
        let block = u32::from(port.checked_sub(Self::PORT_MIN)? / self.size);
        if block >= self.of_address() {
            return None;
        }
        let before = u64::from(u32::from(address) - first) * u64::from(self.of_address());
        let number = before + u64::from(block);
        (number >> u32::from(32 - self.length.min(32)) == 0)
            .then(|| Ipv4Addr::from(u32::from(self.network).wrapping_add(number as u32)))
    }
}

/// The first and the last of IPv4 addresses as numbers.
fn numbers(pool: Addresses) -> Option<(u32, u32)> {
    match (pool.first, pool.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.into(), last.into())),
        _ => None,
    }
}

/// What does not depend on whom a host inside talks to (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Independence {
    /// Its mapping: it appears as one external endpoint to everybody. Whom it did not talk to stays out.
    Mapping,
    /// Its mapping and the filtering: everybody may answer there.
    Filtering,
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Translation {
    /// `SNAT`: behind one of these addresses; without any, its own.
    Source(Option<Addresses>, Ports),
    /// `MASQUERADE`: behind the address of the interface it leaves by.
    Masquerade(Ports),
    /// `DNAT`: to one of these addresses; without any, the one it is for.
    Destination(Option<Addresses>, Ports),
    /// `REDIRECT`: to the appliance.
    Redirect(Ports),
    /// `NETMAP`: the bits of `mask` become those of `network`, the others stay.
    Netmap {
        /// The bits under the mask.
        network: IpAddr,
        /// The mask, of the same family.
        mask: IpAddr,
    },
}

impl Translation {
    /// The hooks at which it may be asked for. The host's own packets have been routed by the kernel when they come
    /// here, so their destination stays; nor do its answers go elsewhere than to whom it sees, so who speaks to it is not
    /// hidden from it (`SNAT` and `NETMAP` of INPUT).
    pub const fn hooks(&self) -> HookSet {
        match self {
            Self::Source(..) | Self::Masquerade(_) => HookSet::of(&[Hook::NatPostrouting]),
            Self::Destination(..) | Self::Redirect(_) => HookSet::of(&[Hook::NatPrerouting]),
            Self::Netmap { .. } => HookSet::of(&[Hook::NatPrerouting, Hook::NatPostrouting]),
        }
    }

    /// Whether its addresses and ports can be meant: of the family, in order, and such as a host can have (C091).
    pub(super) fn is_sound(&self, v4: bool) -> bool {
        let addresses = |range: &Option<Addresses>| {
            range.is_none_or(|r| r.is_range() && r.first.is_ipv4() == v4 && r.may_be_hosts())
        };
        let ports = |ports: &Ports| {
            let fits_base = |first: u16, last: u16, base: u16| {
                base.checked_add(last.saturating_sub(first)).is_some()
            };
            match (ports.range, ports.base) {
                (None, base) => base.is_none(),
                (Some((first, last)), base) => {
                    first > 0
                        && first <= last
                        && base.is_none_or(|base| fits_base(first, last, base))
                }
            }
        };
        match self {
            Self::Source(range, p) | Self::Destination(range, p) => addresses(range) && ports(p),
            Self::Masquerade(p) | Self::Redirect(p) => ports(p),
            Self::Netmap { network, mask } => {
                network.is_ipv4() == v4 && mask.is_ipv4() == v4 && !mask.is_unspecified()
            }
        }
    }
}

/// The address whose bits under `mask` are those of `network`, and whose others are those of `address`.
pub(crate) fn netmapped(address: IpAddr, network: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (address, network, mask) {
        (IpAddr::V4(a), IpAddr::V4(n), IpAddr::V4(m)) => {
            let (a, n, m) = (u32::from(a), u32::from(n), u32::from(m));
            Some(Ipv4Addr::from(n & m | a & !m).into())
        }
        (IpAddr::V6(a), IpAddr::V6(n), IpAddr::V6(m)) => {
            let (a, n, m) = (u128::from(a), u128::from(n), u128::from(m));
            Some(Ipv6Addr::from(n & m | a & !m).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn range(first: &str, last: &str) -> Addresses {
        Addresses { first: at(first), last: at(last) }
    }

    /// C091: no range, however odd, divides by zero or leads out of itself.
    #[test]
    fn a_hash_picks_an_address_of_the_range() {
        for (first, last) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.3"),
            ("0.0.0.0", "255.255.255.255"),
            ("2001:db8::1", "2001:db8::5"),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let range = range(first, last);
            for hash in [0, 1, u64::MAX / 2, u64::MAX] {
                assert!(range.hold(range.pick(hash)), "{range:?} {hash}");
            }
            assert_eq!(range.pick(0), range.first);
        }
        assert_eq!(range("10.0.0.1", "10.0.0.3").pick(u64::MAX), at("10.0.0.3"));
    }

    #[test]
    fn rendezvous_moves_only_those_whose_address_is_gone() {
        let mix = |client: u64, address: IpAddr| {
            let IpAddr::V4(address) = address else { return 0 };
            (client << 32 | u64::from(u32::from(address))).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        };
        let (four, three) = (range("10.0.0.1", "10.0.0.4"), range("10.0.0.1", "10.0.0.3"));
        let mut of_last = 0;
        for client in 0..1000 {
            let before = four.rendezvous(client, |a| mix(client, a));
            let after = three.rendezvous(client, |a| mix(client, a));
            of_last += usize::from(before == at("10.0.0.4"));
            assert!(before == at("10.0.0.4") || before == after);
        }
        assert!((100..400).contains(&of_last), "{of_last}");
    }

    #[test]
    fn netmap_keeps_the_host_part() {
        let mapped = netmapped(at("10.1.2.3"), at("192.168.9.0"), at("255.255.255.0"));
        assert_eq!(mapped, Some(at("192.168.9.3")));
        assert_eq!(netmapped(at("::1"), at("192.168.9.0"), at("255.255.255.0")), None);
    }

    /// C091
    #[test]
    fn what_no_host_can_have_is_not_sound() {
        let source = |address| {
            Translation::Source(Some(Addresses::single(at(address))), Ports::default())
                .is_sound(true)
        };
        assert!(source("203.0.113.9"));
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "2001:db8::1"] {
            assert!(!source(address), "{address}");
        }
        let ports = |range, base| {
            Translation::Redirect(Ports { range, base, ..Ports::default() }).is_sound(true)
        };
        assert!(ports(Some((1, 65_535)), None) && ports(None, None));
        assert!(!ports(Some((0, 5)), None) && !ports(Some((5, 4)), None));
        assert!(ports(Some((10, 20)), Some(65_525)) && !ports(Some((10, 20)), Some(65_526)));
    }

    /// Each host has its own ports, and each of these names the host again.
    #[test]
    fn blocks_are_apart_and_name_their_hosts() {
        let pool = Addresses {
            first: [203, 0, 113, 254].into(),
            last: [203, 0, 114, 2].into(), // across an octet
        };
        for (length, size) in [(24, 1000), (30, 64_511), (32, 64), (25, 2016)] {
            let blocks = Blocks { network: [100, 64, 1, 0].into(), length, size };
            assert!(blocks.fit(pool));
            let mut all = std::collections::HashSet::new();
            for number in 0..1u32 << (32 - length) {
                let host = Ipv4Addr::from(u32::from(blocks.network) + number);
                let (address, (first, last)) = blocks.of(pool, host.into()).expect("it has one");
                assert!(
                    first >= Blocks::PORT_MIN && last - first == size - 1 && pool.hold(address)
                );
                assert!(all.insert((address, first)));
                let IpAddr::V4(address) = address else { unreachable!() };
                for port in [first, last] {
                    assert_eq!(blocks.owner(pool, address, port), Some(host));
                }
                assert_ne!(blocks.owner(pool, address, first - 1), Some(host));
                assert_ne!(
                    last.checked_add(1).map(|p| blocks.owner(pool, address, p)),
                    Some(Some(host))
                );
            }
            let outside = u32::from(blocks.network) + (1 << (32 - length));
            for stranger in [outside, u32::from(blocks.network) - 1] {
                assert_eq!(blocks.of(pool, Ipv4Addr::from(stranger).into()), None);
            }
            assert_eq!(blocks.owner(pool, [203, 0, 113, 254].into(), 1023), None);
            assert_eq!(blocks.owner(pool, [203, 0, 114, 3].into(), 2000), None);
        }
        let blocks = Blocks { network: [100, 64, 0, 0].into(), length: 10, size: 64 };
        assert!(!blocks.fit(pool));
        assert!(
            !Blocks { length: 32, ..blocks }
                .fit(Addresses::single("2001:db8::1".parse().expect("an address")))
        );
        assert_eq!(blocks.of(pool, "2001:db8::1".parse().expect("an address")), None);
    }
}
