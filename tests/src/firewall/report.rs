//! What a person wants to see when a test has failed: the last events, the table, the counters.

use std::fmt::Write;

use postern_core::conntrack::tuple::Tuple;
use postern_core::verdict::DropReason;

use super::Firewall;
use crate::packet::Pkt;

/// A frame for people.
pub(super) fn describe(frame: &[u8]) -> String {
    match Pkt::decode(frame.get(14..).unwrap_or_default()) {
        Ok(pkt) => format!("{pkt:?}"),
        Err(_) => format!("{frame:02x?}"),
    }
}

impl Firewall {
    /// Every live connection, a line each, for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for view in self.connections() {
            let (a, b) = (view.original, view.reply);
            let way = |t: Tuple| format!("{}:{} > {}:{}", t.src(), t.src_id(), t.dst(), t.dst_id());
            let _ = writeln!(
                out,
                "worker {} protocol {} state {} flags {:#x} {} ms left: {} | {}",
                view.id.worker().0,
                a.protocol(),
                view.protocol_state,
                view.flags,
                view.remaining_ms,
                way(a),
                way(b),
            );
        }
        out
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("--- {} workers, seed {}", self.workers.len(), self.setup.seed);
        for (at, event) in &self.log {
            eprintln!("{:>12.3} {event}", at.0 as f64 / 1e9);
        }
        eprint!("{}", self.table());
        let values = self.values();
        let drops = DropReason::ALL.iter().map(|r| (r.name(), values.drops[*r as usize]));
        for (name, value) in values.named().chain(drops).filter(|(_, value)| *value != 0) {
            eprintln!("{name:>24} {value}");
        }
    }
}
