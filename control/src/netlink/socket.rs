//! Two rtnetlink sockets: one asks and waits for the answer, one listens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Room for one datagram. The kernel fills at most 32 KiB of a dump at a time, and an event is
/// smaller.
const DATAGRAM_MAX: usize = 64 * 1024;
/// How long the kernel may take to answer.
const ANSWER_WAIT_SECONDS: libc::time_t = 10;
/// How often a dump that changed while it was read is asked for again.
const DUMP_TRIES: u32 = 8;

/// Multicast groups (RTNLGRP_*): link, neigh, IPv4 address, route, rule, IPv6 address, route, rule.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];
/// RTNLGRP_NEXTHOP, since Linux 5.3.
const GROUP_NEXTHOP: u32 = 32;

fn kernel() -> SocketAddr {
    SocketAddr::new(0, 0)
}

/// Sets a socket option of level SOL_SOCKET.
fn set_option<T>(socket: &Socket, name: libc::c_int, value: &T) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast();
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `pointer` is to `length` readable bytes for the length of the call, and the kernel
    // refuses a length that is not the option's.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, pointer, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One datagram from the kernel into `buffer`; what other processes send is thrown away.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: libc::c_int) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv_from(buffer, flags) {
            Ok((_, from)) if from.port_number() == 0 => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The messages of one datagram. One this library cannot read is skipped: newer kernels say more.
fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = (NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let length = NetlinkBuffer::new_checked(&rest).ok()?.length() as usize;
            let message = rest.get(..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                Ok(message) => return Some(message.into_parts()),
                Err(error) => tracing::debug!("skipped an rtnetlink message: {error}"),
            }
        }
    })
}

/// Asks the kernel and waits for its answer, which comes at once: the kernel answers in the caller's
/// own system call.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        let wait = libc::timeval { tv_sec: ANSWER_WAIT_SECONDS, tv_usec: 0 };
        set_option(&socket, libc::SO_RCVTIMEO, &wait)?;
        // Lets dumps be limited to one table; kernels before 4.20 give all of them.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM_MAX) })
    }

    /// Sends a change and waits for it to be acknowledged.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            receive(&self.socket, &mut self.buffer, 0)?;
            for (header, payload) in messages(&self.buffer) {
                if header.sequence_number != sequence {
                    continue; // the rest of an answer that was given up
                }
                if let NetlinkPayload::Error(error) = payload {
                    return match error.code {
                        None => Ok(()),
                        Some(_) => Err(error.to_io()),
                    };
                }
            }
        }
    }

    /// Asks for all objects and keeps what `pick` makes of them. Asks again if they changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut rows = Vec::new();
        for _ in 0..DUMP_TRIES {
            rows.clear();
            if self.dump_once(message, &pick, &mut rows)? {
                break;
            }
        }
        // Still changing: what was read is nearly right, and the events of the changes follow.
        Ok(rows)
    }

    /// Whether the dump was consistent.
    fn dump_once<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        pick: &impl Fn(RouteNetlinkMessage) -> Option<T>,
        rows: &mut Vec<T>,
    ) -> io::Result<bool> {
        let sequence = self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut consistent = true;
        loop {
            receive(&self.socket, &mut self.buffer, 0)?;
            for (header, payload) in messages(&self.buffer) {
                if header.sequence_number != sequence {
                    continue;
                }
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => rows.extend(pick(message)),
                    NetlinkPayload::Done(done) if done.code >= 0 => return Ok(consistent),
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send_to(&bytes, &kernel(), 0)?;
        Ok(self.sequence)
    }
}

/// Hears of every change of links, addresses, routes, neighbours and rules.
#[derive(Debug)]
pub(super) struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What a look at the listening socket gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// A datagram of events.
    Events,
    /// The kernel had to throw events away.
    Overrun,
    /// Nothing more.
    Nothing,
}

impl Events {
    /// `receive_bytes` is how much the kernel may keep for us (it doubles the number for its own use).
    pub(super) fn open(receive_bytes: libc::c_int) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // The first needs CAP_NET_ADMIN and is not held to net.core.rmem_max.
        set_option(&socket, libc::SO_RCVBUFFORCE, &receive_bytes)
            .or_else(|_| set_option(&socket, libc::SO_RCVBUF, &receive_bytes))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let _ = socket.add_membership(GROUP_NEXTHOP);
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM_MAX) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes one datagram, if there is one, and hands its messages to `each`.
    pub(super) fn take(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<Heard> {
        match receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Heard::Overrun),
            Err(error) => return Err(error),
        }
        for (_, payload) in messages(&self.buffer) {
            if let NetlinkPayload::InnerMessage(message) = payload {
                each(message);
            }
        }
        Ok(Heard::Events)
    }
}
