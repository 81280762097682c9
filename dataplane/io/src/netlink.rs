//! A little rtnetlink: what ioctls cannot say. Addresses and routes of a device, kept as the kernel's
//! own messages so that they can be put back exactly; the alias of an interface.
//!
//! Following the kernel while running is another matter and is not done here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

const NLMSG_HEADER: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;
const IFINFOMSG: usize = 16;

const RTNH_FLAGS_KEPT: u32 = 2 | 4; // RTNH_F_PERVASIVE | RTNH_F_ONLINK: the rest is state
const RTPROT_KERNEL: u8 = 2;
const RTPROT_RA: u8 = 9;

/// A request socket to rtnetlink, in the network namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: File,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and nobody else's.
        let socket: OwnedFd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { socket: socket.into(), sequence: 0 })
    }

    fn send(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
        let total = (NLMSG_HEADER + body.len()) as u32;
        message.extend(total.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        self.socket.write(&message).map(|_| ())
    }

    /// Hands the bodies of the answers to `each` until the kernel is done.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = self.socket.read(&mut buffer)?;
            let mut rest = &buffer[..read];
            while rest.len() >= NLMSG_HEADER {
                let total = word(rest, 0) as usize;
                if total < NLMSG_HEADER || total > rest.len() {
                    return Err(io::Error::other("a netlink message of impossible length"));
                }
                let kind = libc::c_int::from(u16::from_ne_bytes([rest[4], rest[5]]));
                let body = &rest[NLMSG_HEADER..total];
                match kind {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return acknowledged(body),
                    _ => each(body),
                }
                rest = &rest[total.next_multiple_of(4).min(rest.len())..];
            }
        }
    }

    fn change(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
        self.send(kind, libc::NLM_F_ACK | flags, body)?;
        self.answers(|_| {})
    }

    fn dump(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, libc::NLM_F_DUMP, body)?;
        self.answers(each)
    }

    /// The addresses of an interface, IPv4 and IPv6, as `ifaddrmsg` with attributes.
    pub(crate) fn addresses(&mut self, ifindex: u32) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.dump(libc::RTM_GETADDR, &[0; IFADDRMSG], |body| {
            if body.len() >= IFADDRMSG && word(body, 4) == ifindex {
                found.push(body.to_vec());
            }
        })?;
        Ok(found)
    }

    /// Removes an address; one that is gone already is fine.
    pub(crate) fn remove_address(&mut self, address: &[u8]) -> io::Result<()> {
        tolerate(self.change(libc::RTM_DELADDR, 0, address), libc::EADDRNOTAVAIL)
    }

    /// Adds an address; one that is there already is fine.
    pub(crate) fn add_address(&mut self, address: &[u8]) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        tolerate(self.change(libc::RTM_NEWADDR, flags, address), libc::EEXIST)
    }

    /// The routes out of an interface that somebody made: not those that follow from its addresses
    /// (the kernel makes them again) or from router advertisements. As `rtmsg` with attributes.
    pub(crate) fn routes(&mut self, ifindex: u32) -> io::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        self.dump(libc::RTM_GETROUTE, &[0; RTMSG], |body| {
            if body.len() < RTMSG || matches!(body[5], RTPROT_KERNEL | RTPROT_RA) {
                return;
            }
            let out = attribute(&body[RTMSG..], libc::RTA_OIF);
            if out.is_some_and(|out| out.len() == 4 && word(out, 0) == ifindex) {
                let mut route = body.to_vec();
                let flags = word(&route, 8) & RTNH_FLAGS_KEPT;
                route[8..12].copy_from_slice(&flags.to_ne_bytes());
                found.push(route);
            }
        })?;
        Ok(found)
    }

    /// Adds a route; one that is there already is fine.
    pub(crate) fn add_route(&mut self, route: &[u8]) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        tolerate(self.change(libc::RTM_NEWROUTE, flags, route), libc::EEXIST)
    }

    /// The alias of an interface: what `ip link` shows as such.
    pub(crate) fn alias(&mut self, ifindex: u32) -> io::Result<Option<String>> {
        let mut alias = None;
        self.send(libc::RTM_GETLINK, libc::NLM_F_ACK, &link(ifindex))?;
        self.answers(|body| {
            if body.len() >= IFINFOMSG && word(body, 4) == ifindex {
                alias = attribute(&body[IFINFOMSG..], libc::IFLA_IFALIAS)
                    .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            }
        })?;
        Ok(alias)
    }

    pub(crate) fn set_alias(&mut self, ifindex: u32, alias: &str) -> io::Result<()> {
        let mut body = link(ifindex).to_vec();
        body.extend((4 + alias.len() as u16).to_ne_bytes());
        body.extend(libc::IFLA_IFALIAS.to_ne_bytes());
        body.extend(alias.as_bytes());
        body.resize(body.len().next_multiple_of(4), 0);
        self.change(libc::RTM_SETLINK, 0, &body)
    }
}

/// The address family of an address message.
pub(crate) fn family(address: &[u8]) -> i32 {
    address.first().copied().map_or(libc::AF_UNSPEC, i32::from)
}

fn link(ifindex: u32) -> [u8; IFINFOMSG] {
    let mut body = [0; IFINFOMSG];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    body
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]))
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let total = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]);
        if total < 4 || total > attributes.len() {
            return None;
        }
        if kind == wanted {
            return Some(&attributes[4..total]);
        }
        attributes = &attributes[total.next_multiple_of(4).min(attributes.len())..];
    }
    None
}

fn acknowledged(body: &[u8]) -> io::Result<()> {
    match body.get(..4).map(|code| word(code, 0).cast_signed()) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("a netlink error without a code")),
    }
}

fn tolerate(result: io::Result<()>, code: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(code) => Ok(()),
        other => other,
    }
}
