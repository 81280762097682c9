//! One connection seen from both its ends: packets are sent in on one side and must come out on the other
//! with nothing changed but what translation and forwarding change.

use std::net::{IpAddr, SocketAddr};

use crate::firewall::Firewall;
use crate::packet::{Address, Endpoint, Pkt, echo_reply, echo_request, tcp, udp};
use crate::sent::Sent;
use crate::setup::{At, LAN, WAN};

/// A connection: what each end believes.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Where the client is.
    pub client_at: At,
    /// Where the server is.
    pub server_at: At,
    /// The client.
    pub client: SocketAddr,
    /// Whom the client thinks it talks to.
    pub dialled: SocketAddr,
    /// Who the server thinks talks to it; learnt from the first packet.
    pub seen: Option<SocketAddr>,
    /// The server.
    pub server: SocketAddr,
    /// Next sequence number of the client and of the server.
    pub seq: [u32; 2],
}

impl Flow {
    /// From a client to a server, between two places.
    pub fn between(
        client_at: At,
        client: impl Endpoint,
        server_at: At,
        server: impl Endpoint,
    ) -> Self {
        let server = server.endpoint();
        let client = client.endpoint();
        Self {
            client_at,
            server_at,
            client,
            dialled: server,
            seen: None,
            server,
            seq: [1_000, 900_000],
        }
    }

    /// From a host in the LAN to one in the Internet.
    pub fn outward(client: impl Endpoint, server: impl Endpoint) -> Self {
        Self::between(LAN, client, WAN, server)
    }

    /// From the Internet to a server in the LAN, by a forward.
    pub fn inward(client: impl Endpoint, dialled: impl Endpoint, server: impl Endpoint) -> Self {
        Self { dialled: dialled.endpoint(), ..Self::between(WAN, client, LAN, server) }
    }

    /// With these next sequence numbers.
    pub fn seqs(mut self, client: u32, server: u32) -> Self {
        self.seq = [client, server];
        self
    }

    /// How the server sees the client.
    #[track_caller]
    pub fn seen(&self) -> SocketAddr {
        self.seen.expect("nothing was sent yet")
    }

    /// As the server receives a packet of the client's.
    pub fn at_server(&self, pkt: &Pkt) -> Pkt {
        let arrived = pkt.clone().from(self.seen()).to(self.server);
        if self.passes_through() { arrived.hop() } else { arrived }
    }

    /// As the client receives a packet of the server's.
    pub fn at_client(&self, pkt: &Pkt) -> Pkt {
        let arrived = pkt.clone().from(self.dialled).to(self.client);
        if self.passes_through() { arrived.hop() } else { arrived }
    }

    fn passes_through(&self) -> bool {
        matches!((self.client_at, self.server_at), (At::Wire(_), At::Wire(_)))
    }

    /// Sends a packet of the client's; it must arrive as it should. Returns it as it arrived.
    #[track_caller]
    pub fn c2s(&mut self, fw: &mut Firewall, pkt: &Pkt) -> Pkt {
        let arrived = fw.send(self.client_at, pkt).out(self.server_at);
        let seen = *self.seen.get_or_insert(arrived.source());
        assert_eq!(arrived, self.at_server(pkt), "it should arrive from {seen}");
        arrived
    }

    /// Sends a packet of the server's; it must arrive as it should. Returns it as it arrived.
    #[track_caller]
    pub fn s2c(&mut self, fw: &mut Firewall, pkt: &Pkt) -> Pkt {
        let arrived = fw.send(self.server_at, pkt).out(self.client_at);
        assert_eq!(arrived, self.at_client(pkt));
        arrived
    }

    /// Sends a packet of the client's, whatever comes of it.
    pub fn try_c2s(&self, fw: &mut Firewall, pkt: &Pkt) -> Sent {
        fw.send(self.client_at, pkt)
    }

    /// Sends a packet of the server's, whatever comes of it.
    pub fn try_s2c(&self, fw: &mut Firewall, pkt: &Pkt) -> Sent {
        fw.send(self.server_at, pkt)
    }
}

/// UDP.
impl Flow {
    /// A datagram of the client's.
    pub fn ask(&self) -> Pkt {
        udp(self.client, self.dialled).payload(b"question")
    }

    /// A datagram of the server's.
    pub fn tell(&self) -> Pkt {
        udp(self.server, self.seen()).payload(b"answer")
    }

    /// A datagram each way.
    #[track_caller]
    pub fn exchange(&mut self, fw: &mut Firewall) {
        self.c2s(fw, &self.ask());
        self.s2c(fw, &self.tell());
    }
}

/// TCP. The numbers that sent segments occupy are kept account of.
impl Flow {
    /// An empty segment of the client's: ACK, in sequence.
    pub fn client_segment(&self) -> Pkt {
        tcp(self.client, self.dialled).seq(self.seq[0]).ack(self.seq[1])
    }

    /// An empty segment of the server's: ACK, in sequence.
    pub fn server_segment(&self) -> Pkt {
        tcp(self.server, self.seen()).seq(self.seq[1]).ack(self.seq[0])
    }

    /// The client's SYN, with the usual options.
    pub fn syn(&self) -> Pkt {
        tcp(self.client, self.dialled).syn().seq(self.seq[0].wrapping_sub(1)).mss(1460).wscale(7)
    }

    /// The server's SYN/ACK.
    pub fn syn_ack(&self) -> Pkt {
        let seq = self.seq[1].wrapping_sub(1);
        tcp(self.server, self.seen()).syn().seq(seq).ack(self.seq[0]).mss(1460).wscale(7)
    }

    /// The handshake.
    #[track_caller]
    pub fn open(mut self, fw: &mut Firewall) -> Self {
        self.reopen(fw);
        self
    }

    /// The handshake, maybe once more.
    #[track_caller]
    pub fn reopen(&mut self, fw: &mut Firewall) {
        self.c2s(fw, &self.syn());
        self.s2c(fw, &self.syn_ack());
        self.c2s(fw, &self.client_segment());
    }

    /// The client sends so many bytes, and the server acknowledges them.
    #[track_caller]
    pub fn client_data(&mut self, fw: &mut Firewall, bytes: u32) {
        let pkt = self.client_segment().payload(vec![b'c'; bytes as usize]);
        self.c2s(fw, &pkt);
        self.seq[0] = self.seq[0].wrapping_add(bytes);
        self.s2c(fw, &self.server_segment());
    }

    /// The server sends so many bytes, and the client acknowledges them.
    #[track_caller]
    pub fn server_data(&mut self, fw: &mut Firewall, bytes: u32) {
        let pkt = self.server_segment().payload(vec![b's'; bytes as usize]);
        self.s2c(fw, &pkt);
        self.seq[1] = self.seq[1].wrapping_add(bytes);
        self.c2s(fw, &self.client_segment());
    }

    /// Data both ways.
    #[track_caller]
    pub fn talk(&mut self, fw: &mut Firewall) {
        self.client_data(fw, 100);
        self.server_data(fw, 1000);
    }

    /// The client's FIN, and its acknowledgement.
    #[track_caller]
    pub fn client_fin(&mut self, fw: &mut Firewall) {
        self.c2s(fw, &self.client_segment().fin());
        self.seq[0] = self.seq[0].wrapping_add(1);
        self.s2c(fw, &self.server_segment());
    }

    /// The server's FIN, and its acknowledgement.
    #[track_caller]
    pub fn server_fin(&mut self, fw: &mut Firewall) {
        self.s2c(fw, &self.server_segment().fin());
        self.seq[1] = self.seq[1].wrapping_add(1);
        self.c2s(fw, &self.client_segment());
    }
}

/// A ping through the appliance: the identifier is the client's.
#[derive(Clone, Debug)]
pub struct Ping {
    /// Who asks.
    pub client: IpAddr,
    /// Who is asked.
    pub server: IpAddr,
    /// The client's identifier.
    pub id: u16,
    /// Address and identifier as the server sees them.
    pub seen: Option<SocketAddr>,
}

impl Ping {
    /// From the LAN outward.
    pub fn outward(client: impl Address, server: impl Address, id: u16) -> Self {
        Self { client: client.address(), server: server.address(), id, seen: None }
    }

    /// Request number `seq`.
    pub fn request(&self, seq: u16) -> Pkt {
        echo_request(self.client, self.server, self.id, seq)
    }

    /// Reply number `seq`, as the server sends it.
    pub fn reply(&self, seq: u16) -> Pkt {
        let seen = self.seen.expect("nothing was sent yet");
        echo_reply(self.server, seen.ip(), seen.port(), seq)
    }

    /// Sends request `seq`; it must come out.
    #[track_caller]
    pub fn ask(&mut self, fw: &mut Firewall, seq: u16) -> Pkt {
        let arrived = fw.lan(self.request(seq)).out(WAN);
        let seen = *self.seen.get_or_insert(arrived.source());
        assert_eq!(arrived, self.request(seq).hop().from(seen));
        arrived
    }

    /// Sends reply `seq`; it must come out.
    #[track_caller]
    pub fn tell(&mut self, fw: &mut Firewall, seq: u16) {
        let arrived = fw.wan(self.reply(seq)).out(LAN);
        assert_eq!(arrived, self.reply(seq).hop().to((self.client, self.id)));
    }
}
