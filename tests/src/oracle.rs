//! The same appliance written naively: what must cross, for UDP, echo and opening TCP, kept in lists that
//! are searched from end to end. Times are milliseconds.
//!
//! It does not choose external ports: it is told which one was chosen ([`Oracle::learn`]) and checks that it
//! was a legal choice.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Protocol and endpoints of one direction, as its packets arrive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Way {
    /// 1 for echo, 6, 17.
    pub protocol: u8,
    /// Source; for echo the identifier stands on the asking side.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

impl Way {
    /// The way back.
    pub fn back(self) -> Self {
        Self { src: self.dst, dst: self.src, ..self }
    }
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// As the first packet arrived.
    pub original: Way,
    /// As its answers arrive.
    pub reply: Way,
    created: u64,
    last: u64,
    timeout: u64,
    replied: bool,
    asked_again: bool,
    stream: bool,
}

/// What must become of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is of a known connection: it leaves as this.
    Crosses(Way),
    /// It is a first packet and may pass: it leaves for this destination, from a source that is to be
    /// [learnt](Oracle::learn): from this address, or from its own endpoint if `None`.
    Opens {
        /// Its destination as it leaves.
        dst: SocketAddr,
        /// The address it appears behind, if it is translated.
        behind: Option<IpAddr>,
    },
    /// It would make a connection whose answers could not be told from another's: it is dropped.
    Clashes,
    /// It is dropped.
    Dropped,
}

/// The naive appliance.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    /// Milliseconds since the start.
    pub now: u64,
    /// Forwards from the WAN's address: protocol and port, and target.
    pub forwards: BTreeMap<(u8, u16), SocketAddr>,
    /// Hosts inside that may open nothing.
    pub denied: Vec<IpAddr>,
    known: Vec<Known>,
}

/// The addresses the oracle knows by heart.
const WAN: &str = "203.0.113.2";
const LAN: &str = "192.168.1.1";

fn wan() -> IpAddr {
    WAN.parse().expect("an address")
}

/// Whether an address is of the LAN.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..3] == [192, 168, 1],
        IpAddr::V6(a) => a.segments()[..4] == [0x2001, 0xdb8, 1, 0],
    }
}

impl Oracle {
    /// Connections that live.
    pub fn live(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(|known| self.now - known.last < known.timeout)
    }

    /// A packet arrives, from inside or outside; `answer` says whether it is one that cannot open anything
    /// (an echo reply, a SYN/ACK).
    pub fn arrives(&mut self, way: Way, answer: bool) -> Fate {
        let now = self.now;
        self.known.retain(|known| now - known.last < known.timeout);
        let denied = self.denied.contains(&way.src.ip());
        if let Some(known) = self.known.iter_mut().find(|k| k.original == way || k.reply == way) {
            let in_reply = known.reply == way;
            assert!(known.original.protocol == 17 || in_reply == answer, "see `is_beyond`");
            let forwarded = known.original.dst != known.reply.src;
            let may_pass = in_reply || known.replied || forwarded || !denied;
            known.touch(now, in_reply);
            return match may_pass {
                true => {
                    Fate::Crosses(if in_reply { known.original.back() } else { known.reply.back() })
                }
                false => Fate::Dropped,
            };
        }
        if answer {
            return Fate::Dropped;
        }
        self.opens(way, denied)
    }

    /// Whether what would become of a packet is beyond this oracle: simultaneous opening, or an answer to
    /// oneself.
    pub fn is_beyond(&self, way: Way, answer: bool) -> bool {
        let known = self.live().find(|k| k.original == way || k.reply == way);
        way.protocol != 17 && known.is_some_and(|k| (k.reply == way) != answer)
    }

    fn opens(&self, way: Way, denied: bool) -> Fate {
        let from_inside = is_inside(way.src.ip());
        let target = match way.protocol {
            1 => None,
            protocol => self.forwards.get(&(protocol, way.dst.port())),
        };
        match target {
            Some(&target) if way.dst.ip() == wan() => {
                let behind = from_inside.then(|| LAN.parse().expect("an address"));
                let taken = self.taken(Way { src: target, dst: way.src, ..way });
                if behind.is_none() && taken {
                    Fate::Clashes
                } else {
                    Fate::Opens { dst: target, behind }
                }
            }
            _ if !from_inside || denied || way.dst.ip() == wan() => Fate::Dropped,
            _ => {
                let behind = way.src.is_ipv4().then(wan);
                Fate::Opens { dst: way.dst, behind }
            }
        }
    }

    fn taken(&self, way: Way) -> bool {
        self.live().any(|k| k.original == way || k.reply == way)
    }

    /// A packet that [`Fate::Opens`] left from `seen`. `keeps_port` says whether the source port must have
    /// been kept if it was free.
    ///
    /// # Panics
    /// If that was no legal choice.
    pub fn learn(&mut self, way: Way, dst: SocketAddr, seen: SocketAddr, keeps_port: bool) {
        let reply = Way { src: dst, dst: seen, ..way };
        assert!(!self.taken(reply), "{seen} towards {dst} is another connection's");
        let is_static =
            self.forwards.contains_key(&(way.protocol, seen.port())) && seen.ip() == wan();
        assert!(!is_static || seen == way.src, "{seen} is a forward's");
        let kept = Way { dst: SocketAddr::new(seen.ip(), way.src.port()), ..reply };
        let forwarded =
            self.forwards.contains_key(&(way.protocol, way.src.port())) && seen.ip() == wan();
        if keeps_port && !self.taken(kept) && !forwarded {
            assert_eq!(seen.port(), way.src.port(), "a free port is kept");
        }
        if way.protocol != 1 {
            assert_eq!(seen.port() < 1024, way.src.port() < 1024);
        }
        let timeout = match way.protocol {
            17 => 30_000,
            6 => 240_000,
            _ => 60_000,
        };
        let (created, last) = (self.now, self.now);
        let (replied, asked_again, stream) = (false, false, false);
        let known =
            Known { original: way, reply, created, last, timeout, replied, asked_again, stream };
        self.known.push(known);
    }
}

impl Known {
    fn touch(&mut self, now: u64, in_reply: bool) {
        if self.original.protocol == 6 {
            // A SYN/ACK moves the machine if it is the first, or answers a SYN that came again; repetitions
            // of either extend nothing.
            if in_reply && (!self.replied || self.asked_again) {
                self.last = now;
            }
            self.asked_again = !in_reply;
            self.replied |= in_reply;
            return;
        }
        self.last = now;
        if self.original.protocol == 17 && self.replied && now - self.created > 2_000 {
            self.stream = true;
            self.timeout = 300_000;
        }
        self.replied |= in_reply;
    }
}
