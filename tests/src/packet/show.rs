//! Packets for people.

use std::fmt;

use super::{Body, Pkt};

impl fmt::Debug for Pkt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src, self.dst);
        match &self.body {
            Body::Udp { unsummed, payload, .. } => {
                write!(
                    f,
                    "udp {} > {} {:02x?}",
                    self.source(),
                    self.destination(),
                    Short(payload)
                )?;
                if *unsummed {
                    write!(f, " unsummed")?;
                }
            }
            Body::Tcp(tcp) => {
                let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
                let set = names.iter().enumerate().filter(|(bit, _)| tcp.flags >> bit & 1 != 0);
                let set: Vec<_> = set.map(|(_, name)| *name).collect();
                write!(f, "tcp {} > {} {}", self.source(), self.destination(), set.join("+"))?;
                write!(f, " seq {} ack {} win {}", tcp.seq, tcp.ack, tcp.window)?;
                write!(f, " opt {:02x?} {:02x?}", tcp.options, Short(&tcp.payload))?;
                if tcp.urgent != 0 {
                    write!(f, " urgent {}", tcp.urgent)?;
                }
            }
            Body::Icmp { kind, code, rest, payload } => {
                write!(f, "icmp {src} > {dst} {kind}/{code} {rest:02x?}")?;
                match self.quoted() {
                    Ok(quoted) => write!(f, " about ({quoted:?})")?,
                    Err(_) => write!(f, " {payload:02x?}")?,
                }
            }
            Body::Other { protocol, payload } => {
                write!(f, "protocol {protocol} {src} > {dst} {:02x?}", Short(payload))?;
            }
        }
        write!(f, " ttl {} tos {:#x} id {:#x} df {}", self.ttl, self.tos, self.id, self.df)?;
        if self.fragment != 0 {
            write!(f, " fragment {:#x}", self.fragment)?;
        }
        if !self.options.is_empty() {
            write!(f, " options {:02x?}", self.options)?;
        }
        if !self.extensions.is_empty() {
            write!(f, " extensions {:02x?}", self.extensions)?;
        }
        Ok(())
    }
}

/// A payload's length and first bytes.
struct Short<'a>(&'a [u8]);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.0[..self.0.len().min(8)];
        write!(f, "({} B {head:02x?})", self.0.len())
    }
}
