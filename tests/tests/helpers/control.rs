//! A control connection whose two ends count differently.

use postern_tests::packet::Pkt;
use postern_tests::{Firewall, Flow};

use crate::SERVER;

/// A control connection between two hosts that count differently: each side's numbers are its own, and what
/// the other side sees of them is shifted.
pub(crate) struct Control {
    pub(crate) flow: Flow,
    /// By how much each side's stream has grown on its way: the client's, the server's.
    pub(crate) grown: [u32; 2],
}

impl Control {
    pub(crate) fn open(fw: &mut Firewall, flow: Flow) -> Self {
        Self { flow: flow.open(fw), grown: [0; 2] }
    }

    pub(crate) fn ftp(fw: &mut Firewall, client: &str) -> Self {
        let flow = Flow::outward((client, 50_000), (SERVER, 21)).seqs(0xffff_fff0, 7_000);
        let mut control = Self::open(fw, flow);
        control.server_says(fw, "220 Welcome.\r\n", "220 Welcome.\r\n");
        control.client_says(fw, "USER anonymous\r\n", "USER anonymous\r\n");
        control
    }

    /// A segment of the client's as it sends it, `back` bytes before its next one.
    pub(crate) fn client_segment(&self, text: &str, back: u32) -> Pkt {
        let ack = self.flow.seq[1].wrapping_add(self.grown[1]);
        let seq = self.flow.seq[0].wrapping_sub(back);
        self.flow.client_segment().seq(seq).ack(ack).payload(text)
    }

    pub(crate) fn server_segment(&self, text: &str) -> Pkt {
        let ack = self.flow.seq[0].wrapping_add(self.grown[0]);
        self.flow.server_segment().ack(ack).payload(text)
    }

    /// A segment of the client's as the server has to get it: with that text, shifted by as much.
    pub(crate) fn at_server(&self, sent: &Pkt, text: &str, shift: u32) -> Pkt {
        let seq = sent.tcp().seq.wrapping_add(shift);
        let ack = sent.tcp().ack.wrapping_sub(self.grown[1]);
        self.flow.at_server(&sent.clone().seq(seq).ack(ack).payload(text))
    }

    pub(crate) fn at_client(&self, sent: &Pkt, text: &str, shift: u32) -> Pkt {
        let seq = sent.tcp().seq.wrapping_add(shift);
        let ack = sent.tcp().ack.wrapping_sub(self.grown[0]);
        self.flow.at_client(&sent.clone().seq(seq).ack(ack).payload(text))
    }

    /// The client says something that the server must hear so, and the server acknowledges it.
    #[track_caller]
    pub(crate) fn client_says(&mut self, fw: &mut Firewall, text: &str, heard: &str) {
        let sent = self.client_segment(text, 0);
        let arrived = fw.send(self.flow.client_at, &sent).out(self.flow.server_at);
        assert_eq!(arrived, self.at_server(&sent, heard, self.grown[0]));
        self.heard_from_client(text, heard);
        self.server_acks(fw);
    }

    pub(crate) fn heard_from_client(&mut self, text: &str, heard: &str) {
        self.flow.seq[0] = self.flow.seq[0].wrapping_add(text.len() as u32);
        self.grown[0] =
            self.grown[0].wrapping_add((heard.len() as u32).wrapping_sub(text.len() as u32));
    }

    #[track_caller]
    pub(crate) fn server_acks(&self, fw: &mut Firewall) {
        let sent = self.server_segment("");
        let arrived = fw.send(self.flow.server_at, &sent).out(self.flow.client_at);
        assert_eq!(arrived, self.at_client(&sent, "", self.grown[1]));
    }

    #[track_caller]
    pub(crate) fn server_says(&mut self, fw: &mut Firewall, text: &str, heard: &str) {
        let sent = self.server_segment(text);
        let arrived = fw.send(self.flow.server_at, &sent).out(self.flow.client_at);
        assert_eq!(arrived, self.at_client(&sent, heard, self.grown[1]));
        self.flow.seq[1] = self.flow.seq[1].wrapping_add(text.len() as u32);
        let grown = (heard.len() as u32).wrapping_sub(text.len() as u32);
        self.grown[1] = self.grown[1].wrapping_add(grown);
        let sent = self.client_segment("", 0);
        let arrived = fw.send(self.flow.client_at, &sent).out(self.flow.server_at);
        assert_eq!(arrived, self.at_server(&sent, "", self.grown[0]));
    }

    /// Both sides talk on, as ever.
    #[track_caller]
    pub(crate) fn goes_on(&mut self, fw: &mut Firewall) {
        self.client_says(fw, "NOOP\r\n", "NOOP\r\n");
        self.server_says(fw, "200 Well.\r\n", "200 Well.\r\n");
    }
}
