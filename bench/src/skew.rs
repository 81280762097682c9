//! How evenly steering spreads traffic that is not even, and how much of it must be handed over.
//!
//! A device spreads what comes in over the workers' queues as it likes (here: by a hash of the packet's tuple,
//! as RSS does); the owner is whom [`Steering::owner`] names. Connections go from an inside network out through a
//! masquerading gateway, and their answers come back to its address; both ways are counted. Nothing is measured,
//! so the result depends on the seed alone.

use std::net::{IpAddr, Ipv4Addr};

use postern_core::conntrack::siphash::SipKey;
use postern_core::conntrack::tuple::{Tuple, protocol};
use postern_core::snapshot::InterfaceAddress;
use postern_core::steering::{Inputs, Steering};
use postern_core::units::WorkerId;
use serde::Serialize;

/// The gateway's outside address.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Different connections of a case.
const FLOWS: u64 = 65_536;
/// Inside hosts.
const HOSTS: u64 = 4_000;
/// First of the ports that hosts choose for themselves (RFC 6335 §6: the dynamic ports).
const DYNAMIC: u64 = 49_152;

/// What is uneven about the traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skew {
    /// Nothing: hosts, ports and connections alike often.
    Uniform,
    /// A few connections carry most packets: the n-th has 1/n of the first's.
    ZipfFlows,
    /// A few hosts open most connections, in the same proportion.
    ZipfHosts,
    /// Every host uses one inside port: IPsec's 4500.
    OnePort,
    /// One inside host, many ports.
    OneHost,
    /// One connection.
    OneFlow,
    /// Routed without translation: both ends outside of what is masqueraded.
    Routed,
}

impl Skew {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Uniform,
        Self::ZipfFlows,
        Self::ZipfHosts,
        Self::OnePort,
        Self::OneHost,
        Self::OneFlow,
        Self::Routed,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::ZipfFlows => "zipf flows",
            Self::ZipfHosts => "zipf hosts",
            Self::OnePort => "one inside port",
            Self::OneHost => "one inside host",
            Self::OneFlow => "one connection",
            Self::Routed => "routed, no nat",
        }
    }
}

/// What became of the packets of a case.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// Which case.
    pub skew: &'static str,
    /// Workers.
    pub workers: u8,
    /// Packets, both ways together.
    pub packets: u64,
    /// Packets that came to another worker than their owner, of all.
    pub hand_over_share: f64,
    /// Packets of the busiest worker beside the mean: 1 is even, the number of workers is all on one.
    pub imbalance: f64,
    /// Workers that own anything at all.
    pub busy: usize,
    /// Imbalance before steering, of what the device spread.
    pub imbalance_received: f64,
}

/// Sends `packets` of a case through steering.
pub fn simulate(skew: Skew, workers: u8, packets: u64, seed: u64) -> Spread {
    let mut random = Random(seed);
    let steering = steering(workers);
    // What the device hashes with is not our key.
    let device = SipKey([random.next(), random.next()]);
    let (flow_rank, host_rank) = (Zipf::new(FLOWS), Zipf::new(HOSTS));
    let mut received = vec![0u64; usize::from(workers)];
    let mut owned = vec![0u64; usize::from(workers)];
    let mut handed_over = 0;
    for number in 0..packets {
        let flow = match skew {
            Skew::ZipfFlows => flow_rank.draw(&mut random),
            Skew::OneFlow => 0,
            _ => random.below(FLOWS),
        };
        let tuple = tuple(skew, flow, &host_rank, seed, number % 2 == 1);
        let owner = steering.owner(&tuple).index();
        let receiver = receiver(&device, &tuple, workers).index();
        owned[owner] += 1;
        received[receiver] += 1;
        handed_over += u64::from(owner != receiver);
    }
    Spread {
        skew: skew.name(),
        workers,
        packets,
        hand_over_share: handed_over as f64 / packets.max(1) as f64,
        imbalance: imbalance(&owned),
        busy: owned.iter().filter(|&&count| count > 0).count(),
        imbalance_received: imbalance(&received),
    }
}

/// The tuple of a flow's packet, out or back. All of a flow is drawn from its number, so that it is the same
/// every time.
fn tuple(skew: Skew, flow: u64, hosts: &Zipf, seed: u64, back: bool) -> Tuple {
    let mut random = Random(SipKey([seed, flow]).hash_words(&[flow]));
    let host = match skew {
        Skew::OneHost => 7,
        Skew::ZipfHosts => hosts.draw(&mut random),
        _ => random.below(HOSTS),
    };
    let port = match skew {
        Skew::OnePort => 4500,
        _ => (DYNAMIC + random.below(65_536 - DYNAMIC)) as u16,
    };
    let server = Ipv4Addr::from(0xc612_0000 | random.below(1 << 17) as u32);
    let server_port = if skew == Skew::OnePort { 4500 } else { 443 };
    let network = if skew == Skew::Routed { 0xac10_0000 } else { 0x0a00_0000 };
    let inside = Ipv4Addr::from(network | (host + 1) as u32);
    // The owner keeps the inside port, or, if that is taken, takes another of its own: the same worker.
    let outside = if skew == Skew::Routed { inside } else { OUTSIDE };
    let ends: (IpAddr, IpAddr, u16, u16) = if back {
        (server.into(), outside.into(), server_port, port)
    } else {
        (inside.into(), server.into(), port, server_port)
    };
    Tuple::new(ends.0, ends.1, ends.2, ends.3, protocol::UDP).expect("both are IPv4")
}

fn steering(workers: u8) -> Steering {
    Steering::new(Inputs {
        workers,
        key: SipKey([11, 12]),
        ours: vec![OUTSIDE.into()],
        statics: vec![],
        inside: vec![InterfaceAddress { address: Ipv4Addr::new(10, 0, 0, 0).into(), length: 8 }],
    })
}

/// Whose queue the device puts the packet into.
fn receiver(device: &SipKey, tuple: &Tuple, workers: u8) -> WorkerId {
    let address = |address| match address {
        IpAddr::V4(a) => u64::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a) as u64,
    };
    let ports = u64::from(tuple.src_id()) << 16 | u64::from(tuple.dst_id());
    let hash = device.hash_words(&[address(tuple.src()), address(tuple.dst()), ports]);
    WorkerId((((hash >> 32) * u64::from(workers)) >> 32) as u8)
}

/// The largest beside the mean.
fn imbalance(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let most = counts.iter().copied().max().unwrap_or(0);
    if total == 0 { 1.0 } else { (most * counts.len() as u64) as f64 / total as f64 }
}

/// A sequence that depends on its seed alone (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// Ranks, the n-th with a share in proportion to 1/n.
struct Zipf {
    /// Sum of the shares up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(ranks: u64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=ranks).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let total = self.sums.last().copied().unwrap_or(0.0);
        let point = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * total;
        self.sums.partition_point(|&sum| sum <= point).min(self.sums.len() - 1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKETS: u64 = 100_000;

    #[test]
    fn the_same_seed_gives_the_same_figures_and_another_seed_others() {
        for skew in Skew::ALL {
            assert_eq!(simulate(skew, 16, 10_000, 1), simulate(skew, 16, 10_000, 1));
        }
        assert_ne!(
            simulate(Skew::ZipfFlows, 16, 10_000, 1),
            simulate(Skew::ZipfFlows, 16, 10_000, 2)
        );
    }

    #[test]
    fn even_traffic_is_spread_evenly_and_most_of_it_is_handed_over() {
        let spread = simulate(Skew::Uniform, 16, PACKETS, 1);
        assert!(spread.imbalance < 1.1, "{spread:?}");
        assert!((spread.hand_over_share - 15.0 / 16.0).abs() < 0.01, "{spread:?}");
        assert_eq!(spread.busy, 16);
    }

    #[test]
    fn one_inside_port_is_one_worker_but_one_inside_host_is_all() {
        let port = simulate(Skew::OnePort, 16, PACKETS, 1);
        assert_eq!((port.busy, port.imbalance), (1, 16.0));
        let host = simulate(Skew::OneHost, 16, PACKETS, 1);
        assert_eq!(host.busy, 16);
        assert!(host.imbalance < 1.1, "{host:?}");
    }

    #[test]
    fn both_ways_of_every_connection_meet_on_one_worker() {
        let steering = steering(16);
        let hosts = Zipf::new(HOSTS);
        for skew in Skew::ALL {
            for flow in 0..2_000 {
                let out = tuple(skew, flow, &hosts, 1, false);
                let back = tuple(skew, flow, &hosts, 1, true);
                assert_eq!(steering.owner(&out), steering.owner(&back), "{skew:?} {flow}");
            }
        }
    }

    #[test]
    fn one_worker_hands_nothing_over() {
        for skew in Skew::ALL {
            let spread = simulate(skew, 1, 1_000, 1);
            assert_eq!((spread.hand_over_share, spread.imbalance), (0.0, 1.0));
        }
    }

    #[test]
    fn the_first_rank_is_drawn_as_often_as_zipf_says() {
        let (zipf, mut random) = (Zipf::new(100), Random(3));
        let first = (0..PACKETS).filter(|_| zipf.draw(&mut random) == 0).count();
        let harmonic: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        assert!((first as f64 / PACKETS as f64 - 1.0 / harmonic).abs() < 0.01, "{first}");
    }
}
