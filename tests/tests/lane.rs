//! The fast lane decides as the long way does: the same packets through two appliances, one of which has every packet
//! go the long way.

use std::time::Duration;

use postern_tests::packet::{Pkt, tcp, udp};
use postern_tests::{At, Firewall, LAN, Setup, WAN};
use proptest::prelude::*;

const ACK: u8 = 0x10;
const PUSH_ACK: u8 = 0x18;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;

/// One packet of one of six connections, and how long to wait before it.
#[derive(Clone, Debug)]
struct Step {
    connection: usize,
    outward: bool,
    flags: u8,
    /// How far beside what comes next, in bytes.
    seq: i32,
    ack: i32,
    payload: usize,
    ttl: u8,
    window: u16,
    pause_ms: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let flags =
        prop_oneof![8 => Just(ACK), 4 => Just(PUSH_ACK), 1 => Just(FIN_ACK), 1 => Just(RST)];
    let beside = || prop_oneof![8 => Just(0), 1 => -70_000..70_000, 1 => any::<i32>()];
    let ttl = prop_oneof![9 => Just(64u8), 1 => 0..3u8];
    let pause = prop_oneof![6 => Just(0u64), 3 => 0..3_000u64, 1 => 0..400_000u64];
    let sizes = prop_oneof![3 => Just(0usize), 6 => 1..64usize, 1 => 1_000..1_460usize];
    (0..6usize, any::<bool>(), flags, beside(), beside(), sizes, ttl, any::<u16>(), pause).prop_map(
        |(connection, outward, flags, seq, ack, payload, ttl, window, pause_ms)| Step {
            connection,
            outward,
            flags,
            seq,
            ack,
            payload,
            ttl,
            window,
            pause_ms,
        },
    )
}

/// Two appliances and where the connections are.
struct Pair {
    appliances: [Firewall; 2],
    /// By connection and direction: the next sequence number.
    next: [[u32; 2]; 6],
}

impl Pair {
    fn new() -> Self {
        let appliances = [Setup::default(), Setup::default().long_way()].map(Firewall::with);
        let mut pair = Self { appliances, next: [[1_000, 5_000]; 6] };
        for connection in (0..6).filter(|&connection| is_tcp(connection)) {
            let [client, server] = ends(connection);
            pair.send(LAN, &tcp(client, server).syn().seq(999));
            let answer = tcp(server, outside(connection)).syn().seq(4_999).ack(1_000);
            pair.send(WAN, &answer);
        }
        pair
    }

    fn take(&mut self, step: &Step) {
        for appliance in &mut self.appliances {
            appliance.pass(Duration::from_millis(step.pause_ms));
        }
        let [client, server] = ends(step.connection);
        let (at, from, to) = match step.outward {
            true => (LAN, client, server),
            false => (WAN, server, outside(step.connection)),
        };
        let payload = vec![7; step.payload];
        let packet = if is_tcp(step.connection) {
            let [mine, theirs] = match step.outward {
                true => self.next[step.connection],
                false => [self.next[step.connection][1], self.next[step.connection][0]],
            };
            if step.seq == 0 {
                let next = &mut self.next[step.connection][usize::from(!step.outward)];
                *next = next.wrapping_add(step.payload as u32);
            }
            tcp(from, to)
                .flags(step.flags)
                .seq(mine.wrapping_add_signed(step.seq))
                .ack_number(theirs.wrapping_add_signed(step.ack))
                .window(step.window)
                .payload(payload)
        } else {
            udp(from, to).payload(payload)
        };
        self.send(at, &packet.ttl(step.ttl));
    }

    fn send(&mut self, at: At, packet: &Pkt) {
        let [lane, long_way] =
            self.appliances.each_mut().map(|appliance| appliance.send(at, packet));
        assert_eq!(lane, long_way, "what comes out");
        let [lane, long_way] = self
            .appliances
            .each_ref()
            .map(|appliance| (appliance.values(), format!("{:?}", appliance.connections())));
        assert_eq!(lane, long_way, "counters and connections");
    }
}

/// Of six connections, half are IPv6, and two of three TCP.
fn is_tcp(connection: usize) -> bool {
    !connection.is_multiple_of(3)
}

fn ends(connection: usize) -> [std::net::SocketAddr; 2] {
    let (client, server) = match connection < 3 {
        true => (format!("192.168.1.2:{}", 5_000 + connection), "192.0.2.9:443"),
        false => (format!("[2001:db8:1::2]:{}", 5_000 + connection), "[2001:db8:9::9]:443"),
    };
    [client.parse().expect("an endpoint"), server.parse().expect("an endpoint")]
}

/// Where the server sees the client: IPv4 is masqueraded and keeps its port.
fn outside(connection: usize) -> std::net::SocketAddr {
    let [client, _] = ends(connection);
    match connection < 3 {
        true => format!("203.0.113.2:{}", client.port()).parse().expect("an endpoint"),
        false => client,
    }
}

proptest! {
    #[test]
    fn the_lane_decides_as_the_long_way_does(steps in prop::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.take(step);
        }
    }
}
