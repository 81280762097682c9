//! What became of what was sent.

use postern_core::units::Mac;
use postern_core::verdict::{DropReason, Verdict};

use crate::packet::Pkt;
use crate::setup::At;
use crate::wire::get16;

/// One frame that came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Out {
    /// Where.
    pub at: At,
    /// All of it, Ethernet header first.
    pub frame: Vec<u8>,
    /// Whether the appliance originated it.
    pub generated: bool,
}

impl Out {
    /// Destination and source MAC.
    pub fn macs(&self) -> (Mac, Mac) {
        let mac = |at| Mac(self.frame[at..at + 6].try_into().expect("six bytes"));
        (mac(0), mac(6))
    }

    /// The EtherType.
    pub fn ethertype(&self) -> u16 {
        get16(&self.frame, 12)
    }

    /// The IP packet in it, every checksum and length verified; Ethernet's padding is left out.
    ///
    /// # Panics
    /// If it is not what it should be to the last bit.
    pub fn pkt(&self) -> Pkt {
        Pkt::decode(self.l3()).unwrap_or_else(|why| panic!("came out at {:?}: {why}", self.at))
    }

    /// The IP packet in it, its checksums unverified.
    pub(crate) fn read(&self) -> Pkt {
        Pkt::read(self.l3()).unwrap_or_else(|why| panic!("came out at {:?}: {why}", self.at))
    }

    /// The IP packet's bytes, unread.
    pub fn l3(&self) -> &[u8] {
        let l3 = &self.frame[14..];
        let len = match l3[0] >> 4 {
            4 => usize::from(get16(l3, 2)),
            _ => 40 + usize::from(get16(l3, 4)),
        };
        l3.get(..len).unwrap_or_else(|| panic!("cut short: {:02x?}", self.frame))
    }
}

/// All that one packet, or one burst, led to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// What came out, in order.
    pub outs: Vec<Out>,
    /// The last verdict on each packet, in the order in which they were reached.
    pub verdicts: Vec<Verdict>,
    /// Why packets were dropped, answered or not.
    pub drops: Vec<DropReason>,
    /// Workers that had to do with it, in order, hand-overs in between.
    pub visits: Vec<u8>,
}

impl Sent {
    fn only(&self) -> &Out {
        let [out] = self.outs.as_slice() else {
            panic!("one packet should have come out: {}", self.describe())
        };
        out
    }

    /// The one packet that came out, at `at`.
    #[track_caller]
    pub fn out(&self, at: At) -> Pkt {
        let out = self.only();
        assert!(
            out.at == at && !out.generated,
            "should be forwarded to {at:?}: {}",
            self.describe()
        );
        out.pkt()
    }

    /// All packets that came out, all at `at`.
    #[track_caller]
    pub fn all(&self, at: At) -> Vec<Pkt> {
        assert!(self.outs.iter().all(|out| out.at == at), "{}", self.describe());
        self.outs.iter().map(Out::pkt).collect()
    }

    /// The one answer that the appliance gave at `at`, instead of what it dropped.
    #[track_caller]
    pub fn answer(&self, at: At) -> Pkt {
        let out = self.only();
        assert!(out.at == at && out.generated, "should be answered at {at:?}: {}", self.describe());
        out.pkt()
    }

    /// Why the one packet was dropped, in silence.
    #[track_caller]
    pub fn dropped(&self) -> DropReason {
        assert!(self.outs.is_empty(), "should be dropped: {}", self.describe());
        self.reason()
    }

    /// Why the one packet was dropped, answered or not.
    #[track_caller]
    pub fn reason(&self) -> DropReason {
        let [reason] = self.drops.as_slice() else {
            panic!("one packet should be dropped: {}", self.describe())
        };
        *reason
    }

    /// Whether nothing came out.
    pub fn is_silent(&self) -> bool {
        self.outs.is_empty()
    }

    /// The packet waits for its next hop.
    #[track_caller]
    pub fn held(&self) {
        assert!(
            matches!(self.verdicts[..], [Verdict::Hold { .. }]),
            "should be held: {}",
            self.describe()
        );
    }

    /// For people.
    pub fn describe(&self) -> String {
        let packet = |out: &Out| match Pkt::decode(out.frame.get(14..).unwrap_or_default()) {
            Ok(pkt) => format!("\n  at {:?}: {pkt:?}", out.at),
            Err(_) => format!("\n  at {:?}: {:02x?}", out.at, out.frame),
        };
        let outs: String = self.outs.iter().map(packet).collect();
        format!("verdicts {:?}, drops {:?}, out:{outs}", self.verdicts, self.drops)
    }
}

/// A frame of the harness's own making.
pub fn frame(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(dst.0);
    frame.extend(src.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The EtherType of an IP packet's bytes: by its version, IPv4 if that says nothing.
pub fn ethertype_of(l3: &[u8]) -> u16 {
    if l3.first().is_some_and(|b| b >> 4 == 6) { 0x86dd } else { 0x0800 }
}

/// A frame that came out, for `Out` of a forwarded verdict.
pub(crate) fn at_of(verdict: Verdict) -> Option<At> {
    match verdict {
        Verdict::Forward { egress } => Some(At::Wire(egress)),
        Verdict::Deliver { interface, .. } => Some(At::Host(interface)),
        Verdict::Reply { egress, to_host: false } => Some(At::Wire(egress)),
        Verdict::Reply { egress, to_host: true } => Some(At::Host(egress)),
        // A split one leaves in parts.
        Verdict::Split { .. } | Verdict::Gather { .. } => None,
        Verdict::HandOver { .. } | Verdict::Hold { .. } | Verdict::Drop(_) => None,
    }
}

/// An ARP packet (RFC 826).
pub fn arp(operation: u16, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender.0.0);
    bytes.extend(sender.1);
    bytes.extend(target.0.0);
    bytes.extend(target.1);
    bytes
}
