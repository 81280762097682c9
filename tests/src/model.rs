//! Random packets from both sides, steps of time and changes of rules and forwards, played against a naive model
//! ([`oracle`](crate::oracle)). Besides what the model says, with every packet: no panic, the books balance, nothing
//! private leaves by the WAN (the harness looks).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use postern_core::verdict::DropReason;

use crate::oracle::{Fate, Oracle, Way};
use crate::packet::{Pkt, echo_reply, echo_request, icmp, tcp, udp};
use crate::{At, Firewall, Flow, LAN, Setup, WAN};

/// Hosts of the LAN.
pub const INSIDE: [&str; 3] = ["192.168.1.2", "192.168.1.3", "192.168.1.10"];
/// Hosts beyond the WAN.
pub const OUTSIDE: [&str; 3] = ["192.0.2.9", "192.0.2.10", "198.51.100.7"];
/// Ports that hosts of the LAN send from.
pub const PORTS: [u16; 4] = [500, 5000, 5001, 8080];
/// Ports that hosts beyond the WAN serve.
pub const SERVICES: [u16; 2] = [53, 5000];
/// Forwards that come and go: protocol, port of the appliance, where it leads.
pub const FORWARDS: [(u8, u16, &str); 4] = [
    (17, 5000, "192.168.1.10:5000"),
    (17, 8080, "192.168.1.10:53"),
    (6, 8080, "192.168.1.10:5000"),
    (6, 5001, "192.168.1.2:5001"),
];
/// Changes of steering that one run makes: as many as older epochs are kept.
const CHANGES_MAX: usize = 7;

/// One thing that happens. Indices are into the lists above, ports are themselves.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each says what its fields are
pub enum Op {
    /// From a host inside to a service outside.
    Out { protocol: u8, host: usize, port: usize, server: usize, service: usize },
    /// From a host inside to a port of the WAN's address.
    Loop { protocol: u8, host: usize, port: usize, dialled: usize },
    /// From outside to a port of the WAN's address.
    In { protocol: u8, server: usize, service: usize, port: u16, answer: bool },
    /// From outside to a host inside, as if there were no translation.
    Bypass { server: usize, host: usize, port: usize },
    /// The other end of a live connection answers.
    Answer { which: usize },
    /// A router reports an error about a live connection's last packet.
    Report { which: usize },
    /// Time passes.
    Pass { ms: u64, tidied: bool },
    /// A forward appears or goes.
    Forward { which: usize },
    /// A host may open nothing any more, or may again.
    Deny { host: usize },
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

fn wan(port: u16) -> SocketAddr {
    at("203.0.113.2", port)
}

/// The packet of a way: a datagram, a SYN or SYN/ACK, an echo request or reply.
fn packet(way: Way, answer: bool) -> Pkt {
    match way.protocol {
        17 => udp(way.src, way.dst),
        6 if answer => tcp(way.src, way.dst).syn().seq(77).ack(1001),
        6 => tcp(way.src, way.dst).syn().seq(1000),
        _ if answer => echo_reply(way.src.ip(), way.dst.ip(), way.dst.port(), 1),
        _ => echo_request(way.src.ip(), way.dst.ip(), way.src.port(), 1),
    }
}

/// The appliance and the model of it.
pub struct World {
    fw: Firewall,
    oracle: Oracle,
    changes: usize,
    /// Protocols and ports that were ever forwarded: not given to others until their epoch is forgotten.
    forwarded: BTreeSet<(u8, u16)>,
    exact_ports: bool,
    /// The model and the appliance went different ways, as is known and explained.
    over: bool,
}

impl World {
    /// Both at their beginning.
    pub fn new(workers: u8, seed: u64) -> Self {
        let fw = Firewall::with(Setup::default().workers(workers).seed(seed));
        let exact_ports = workers == 1;
        let (oracle, forwarded) = (Oracle::default(), BTreeSet::new());
        Self { fw, oracle, changes: 0, forwarded, exact_ports, over: false }
    }

    fn send(&mut self, from: At, way: Way, answer: bool) {
        if self.oracle.is_beyond(way, answer) {
            return;
        }
        let pkt = packet(way, answer);
        let fate = self.oracle.arrives(way, answer);
        let sent = self.fw.send(from, &pkt);
        match fate {
            // With older epochs the other connection may live on another worker, where nobody looks: see
            // `a_forward_does_not_take_over_the_tuple_of_an_outward_connection` in updates.rs.
            Fate::Clashes if !self.exact_ports && self.changes > 0 && !sent.is_silent() => {
                self.over = true
            }
            Fate::Clashes => assert_eq!(sent.dropped(), DropReason::TupleInUse),
            Fate::Dropped => assert!(sent.is_silent(), "must be dropped: {}", sent.describe()),
            Fate::Crosses(out) => {
                let to = if inside(out.dst) { LAN } else { WAN };
                assert_eq!(sent.out(to), pkt.from(out.src).to(out.dst).hop());
            }
            Fate::Opens { dst, behind } => {
                let to = if inside(dst) { LAN } else { WAN };
                let out = sent.out(to);
                let seen = out.source();
                assert_eq!(out, pkt.from(seen).to(dst).hop());
                assert_eq!(seen.ip(), behind.unwrap_or(way.src.ip()));
                assert!(behind.is_some() || seen == way.src);
                // A forward's target, and what is hidden for its sake, has the worker of its peer, which may
                // not own the port.
                let keeps =
                    self.exact_ports || (behind.is_some() && to == WAN && !self.is_target(way));
                let keeps = keeps && !self.forwarded.contains(&(way.protocol, way.src.port()));
                self.oracle.learn(way, dst, seen, keeps);
            }
        }
    }

    /// Whether the source is, or was, one side of a forward: then which worker owns it is another matter.
    fn is_target(&self, way: Way) -> bool {
        FORWARDS.iter().any(|(_, _, to)| to.parse::<SocketAddr>().unwrap() == way.src)
    }

    /// Has it happen to both.
    ///
    /// # Panics
    ///
    /// If they differ.
    pub fn run(&mut self, op: Op) {
        if self.over {
            return;
        }
        match op {
            Op::Out { protocol, host, port, server, service } => {
                let src = at(INSIDE[host], PORTS[port]);
                let service = if protocol == 1 { 0x0800 } else { SERVICES[service] };
                let dst = at(OUTSIDE[server], service);
                self.send(LAN, Way { protocol, src, dst }, false);
            }
            Op::Loop { protocol, host, port, dialled } => {
                let (_, dialled, _) = FORWARDS[dialled];
                // Without a forward it would be for the appliance itself, of which the model knows nothing.
                if self.oracle.forwards.contains_key(&(protocol, dialled)) {
                    let src = at(INSIDE[host], PORTS[port]);
                    self.send(LAN, Way { protocol, src, dst: wan(dialled) }, false);
                }
            }
            Op::In { protocol, server, service, port, answer } => {
                let service = if protocol == 1 { 0x0800 } else { SERVICES[service] };
                let way = Way { protocol, src: at(OUTSIDE[server], service), dst: wan(port) };
                if protocol == 1 && !answer {
                    let sent = self.fw.wan(echo_request(way.src.ip(), way.dst.ip(), port, 1));
                    assert!(sent.is_silent(), "an unsolicited request: {}", sent.describe());
                } else {
                    self.send(WAN, way, answer && protocol != 17);
                }
            }
            Op::Bypass { server, host, port } => {
                let bypass = udp(at(OUTSIDE[server], 53), at(INSIDE[host], PORTS[port]));
                let sent = self.fw.wan(bypass);
                assert!(sent.is_silent(), "{}", sent.describe());
            }
            Op::Answer { which } => {
                if let Some(way) = self.pick(which).map(|(_, reply)| reply) {
                    self.send(if inside(way.src) { LAN } else { WAN }, way, way.protocol != 17);
                }
            }
            Op::Report { which } => self.report(which),
            Op::Pass { ms, tidied } => {
                self.oracle.now += ms;
                let time = Duration::from_millis(ms);
                if tidied { self.fw.pass(time) } else { self.fw.pass_untidied(time) }
            }
            Op::Forward { which } => self.change_forward(which),
            Op::Deny { host } => {
                let address = INSIDE[host].parse().unwrap();
                let rule = format!("FORWARD -s {address} -o wan -j DROP");
                let known = self.oracle.denied.iter().position(|a| *a == address);
                match known {
                    Some(place) => {
                        self.oracle.denied.remove(place);
                        self.fw.change(|setup| setup.iptables(&format!("-D {rule}")));
                    }
                    None => {
                        self.oracle.denied.push(address);
                        // Behind what accepts ESTABLISHED and DNAT.
                        let rule = rule.replacen("FORWARD", "FORWARD 4", 1);
                        self.fw.change(|setup| setup.iptables(&format!("-I {rule}")));
                    }
                }
            }
        }
        if self.over {
            return;
        }
        let (live, model) = (self.fw.connections().len(), self.oracle.live().count());
        assert_eq!(live, model, "connections that live");
    }

    /// The end: a connection that nobody spoke of opens and answers.
    pub fn finish(mut self) {
        Flow::outward("192.168.1.77:7777", "192.0.2.77:77").exchange(&mut self.fw);
    }

    fn pick(&self, which: usize) -> Option<(Way, Way)> {
        let live: Vec<_> = self.oracle.live().map(|k| (k.original, k.reply)).collect();
        (!live.is_empty()).then(|| live[which % live.len()])
    }

    /// A router outside, or for a hairpin one inside, reports about the last packet of the original way.
    fn report(&mut self, which: usize) {
        let Some((original, reply)) = self.pick(which) else { return };
        let quoted = |way: Way| packet(way, false).hop().build();
        let (at, router) =
            if inside(reply.src) { (LAN, "192.168.1.99") } else { (WAN, "198.51.100.99") };
        let about = quoted(reply.back());
        let report = icmp(router, reply.dst.ip(), 11, 0, 0, &about);
        let out = self.fw.send(at, report).out(if inside(original.src) { LAN } else { WAN });
        assert_eq!(out.quoted(), Pkt::decode(&quoted(original)));
        assert_eq!(out.dst, original.src.ip());
    }

    fn change_forward(&mut self, which: usize) {
        if self.changes == CHANGES_MAX {
            return;
        }
        self.changes += 1;
        let (protocol, port, to) = FORWARDS[which];
        let to: SocketAddr = to.parse().unwrap();
        self.forwarded.insert((protocol, port));
        if self.oracle.forwards.remove(&(protocol, port)).is_some() {
            let other = |f: &postern_core::nat::Forward| (f.protocol, f.first) != (protocol, port);
            self.fw.change(|setup| setup.forwards.retain(other));
        } else {
            self.oracle.forwards.insert((protocol, port), to);
            self.fw.change(|setup| setup.add_forward(protocol, (port, port), to));
        }
    }
}

fn inside(endpoint: SocketAddr) -> bool {
    endpoint.ip().to_string().starts_with("192.168.")
}
