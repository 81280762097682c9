//! Whole TCP connections, opened and closed at a steady rate against a table that holds `flows` of them, nearly
//! all waiting out TIME_WAIT. The timer wheel takes away as many as come, and its time counts.
//!
//! A thousand lives are under way at a time and take each step together, so the next packet of one finds its
//! row in the second cache, not in the first.

use std::time::{Duration, Instant as Wall};

use anyhow::Result;
use postern_core::burst::BURST_MAX;
use postern_core::conntrack::timeouts::TimeoutKind;
use postern_core::headers::tcp_flags::{ACK, FIN, SYN};

use super::{Bench, ME};
use crate::traffic::{self, HEADROOM, Segment, Transport};
use crate::world::{LAN, WAN, WAN_ADDRESS};

/// Packets of a life.
pub(super) const PACKETS: u64 = 6;
/// Most lives under way at a time.
const UNDER_WAY: u32 = 1024;
/// Timer steps at a time, as a worker of the appliance takes them.
const HOUSEKEEPING: u32 = 128;

/// Rows beyond the steady number: those under way, and those whose time is up but whose slot is not turned yet.
pub(super) fn spare(flows: u32) -> u32 {
    2 * UNDER_WAY + flows / 8
}

/// Packets until as many connections end as begin.
pub(super) fn until_steady(flows: u32) -> u64 {
    u64::from(flows + flows / 8 + UNDER_WAY) * PACKETS
}

/// Who sends a segment.
#[derive(Clone, Copy)]
enum Sender {
    Client,
    Server,
}

/// A life, packet by packet.
const LIFE: [(Sender, Segment); PACKETS as usize] = {
    use Sender::{Client, Server};
    [
        (Client, Segment { seq: 999, ack: 0, flags: SYN, payload: 0 }),
        (Server, Segment { seq: 4_999, ack: 1_000, flags: SYN | ACK, payload: 0 }),
        (Client, Segment { seq: 1_000, ack: 5_000, flags: ACK, payload: 0 }),
        (Client, Segment { seq: 1_000, ack: 5_000, flags: FIN | ACK, payload: 0 }),
        (Server, Segment { seq: 5_000, ack: 1_001, flags: FIN | ACK, payload: 0 }),
        (Client, Segment { seq: 1_001, ack: 5_001, flags: ACK, payload: 0 }),
    ]
};

impl Bench {
    /// A thousand whole lives, or as many as the table is meant to hold; then time passes, and as many old ones
    /// go.
    pub(super) fn lives(&mut self) -> Result<()> {
        let first = self.sequence;
        let count = self.settings.flows.min(UNDER_WAY);
        for (sender, segment) in LIFE {
            for from in (0..count).step_by(BURST_MAX) {
                let burst = (count - from).min(BURST_MAX as u32);
                let lives = (from..from + burst).map(|life| (life, first.wrapping_add(life)));
                match sender {
                    Sender::Client => self.client_sends(lives, segment)?,
                    Sender::Server => self.server_sends(lives, segment)?,
                }
            }
        }
        self.sequence = first.wrapping_add(count);
        self.let_time_pass(count);
        Ok(())
    }

    /// A burst of client segments; the port that each leaves by is kept.
    fn client_sends(
        &mut self,
        lives: impl Iterator<Item = (u32, u32)> + Clone,
        segment: Segment,
    ) -> Result<()> {
        let numbers = lives.clone().map(|(_, number)| number);
        let count = numbers.clone().count();
        let mut numbers = numbers;
        self.burst(LAN, count, |_, _| {
            (numbers.next().expect("one a packet"), Transport::Tcp(segment))
        });
        self.expect_forwarded("a client's segment")?;
        if segment.flags == SYN {
            self.outside_ports.resize(UNDER_WAY as usize, 0);
            for ((life, _), room) in lives.zip(&self.rooms) {
                let port = traffic::source_port(&room[HEADROOM..], self.settings.v6);
                self.outside_ports[life as usize] = port;
            }
        }
        Ok(())
    }

    /// A burst of server segments, to the ports that the client's left by.
    fn server_sends(
        &mut self,
        lives: impl Iterator<Item = (u32, u32)>,
        segment: Segment,
    ) -> Result<()> {
        let (v6, nat) = (self.settings.v6, self.settings.nat);
        let mut count = 0;
        for (life, number) in lives {
            let outside = nat.then_some((WAN_ADDRESS, self.outside_ports[life as usize]));
            let room = &mut self.rooms[count][HEADROOM..];
            self.lens[count] = traffic::inbound(room, number, v6, outside, Transport::Tcp(segment));
            count += 1;
        }
        self.process(WAN, count);
        self.expect_forwarded("a server's segment")
    }

    /// Time in which `count` of `flows` connections run out of theirs.
    fn let_time_pass(&mut self, count: u32) {
        let waits = self.snapshot.timeouts.ms(TimeoutKind::TcpTimeWait);
        let waits = Duration::from_millis(u64::from(waits));
        self.now = self.now.plus(waits.mul_f64(f64::from(count) / f64::from(self.settings.flows)));
        let begin = Wall::now();
        while self.pipeline.housekeep(ME, &self.snapshot, &self.counters, self.now, HOUSEKEEPING) {}
        self.round.elapsed += begin.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Work};
    use super::*;

    #[test]
    fn as_many_connections_end_as_begin() {
        const FLOWS: u32 = 4096;
        let settings = Settings {
            work: Work::Lives,
            flows: FLOWS,
            nat: true,
            v6: false,
            packets: 1,
            rounds: 1,
            floor: false,
            small_pages: false,
        };
        let mut bench = Bench::new(settings).expect("memory");
        while bench.round.packets < until_steady(FLOWS) {
            bench.lives().expect("all are forwarded");
        }
        for _ in 0..20 {
            bench.lives().expect("all are forwarded");
            let held = bench.pipeline.connections();
            assert!((FLOWS - UNDER_WAY..=FLOWS + UNDER_WAY).contains(&held), "{held}");
        }
    }
}
