//! Interfaces by name, through the ioctls of `linux/sockios.h` and `linux/ethtool.h`. The network
//! namespace is that of the thread that opened the [`Control`].

use std::ffi::{c_char, c_short, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;

/// An Ethernet address.
pub(crate) type MacBytes = [u8; 6];

/// A socket to ask about interfaces through. Any family does.
pub(crate) struct Control(OwnedFd);

/// `struct ethtool_channels` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct EthtoolChannels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}
const _: () = assert!(size_of::<EthtoolChannels>() == 36);

/// `struct ethtool_drvinfo` of `linux/ethtool.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct EthtoolDrvinfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}
const _: () = assert!(size_of::<EthtoolDrvinfo>() == 196);

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const SIOCETHTOOL: c_ulong = 0x8946;
const ARPHRD_ETHER: libc::sa_family_t = 1;

/// An `ifreq` that names `interface`, all else zero.
pub(crate) fn request(interface: &str) -> io::Result<libc::ifreq> {
    let name = interface.as_bytes();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        let text = format!("`{interface}` cannot be the name of an interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: `ifreq` is integers, arrays and pointers; all zero bytes are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as c_char;
    }
    Ok(request)
}

impl Control {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(UnixDatagram::unbound()?.into()))
    }

    /// # Safety
    /// What `code` makes the kernel read and write through `request` must be there.
    unsafe fn ioctl(&self, code: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the caller's promise; `request` itself is borrowed for the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), code as _, ptr::from_mut(request)) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn index(&self, interface: &str) -> io::Result<u32> {
        let mut request = request(interface)?;
        // SAFETY: the kernel writes an integer into the union, which is then read.
        unsafe {
            self.ioctl(libc::SIOCGIFINDEX, &mut request)?;
            Ok(request.ifr_ifru.ifru_ifindex.cast_unsigned())
        }
    }

    /// The `IFF_*` flags, the low sixteen.
    pub(crate) fn flags(&self, interface: &str) -> io::Result<i32> {
        let mut request = request(interface)?;
        // SAFETY: the kernel writes a short into the union, which is then read.
        unsafe {
            self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
            Ok(i32::from(request.ifr_ifru.ifru_flags.cast_unsigned()))
        }
    }

    /// Sets the flags in `set` and clears those in `clear`; leaves the others.
    pub(crate) fn change_flags(&self, interface: &str, set: i32, clear: i32) -> io::Result<()> {
        let flags = self.flags(interface)?;
        let wanted = flags & !clear | set;
        if wanted == flags {
            return Ok(());
        }
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_flags = wanted as c_short;
        // SAFETY: the kernel reads the short set above.
        unsafe { self.ioctl(libc::SIOCSIFFLAGS, &mut request) }
    }

    pub(crate) fn mac(&self, interface: &str) -> io::Result<MacBytes> {
        let mut request = request(interface)?;
        // SAFETY: the kernel writes a sockaddr into the union, which is then read.
        let address = unsafe {
            self.ioctl(libc::SIOCGIFHWADDR, &mut request)?;
            request.ifr_ifru.ifru_hwaddr
        };
        if address.sa_family != ARPHRD_ETHER {
            let text = format!("{interface} is no Ethernet device");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(std::array::from_fn(|index| address.sa_data[index] as u8))
    }

    pub(crate) fn set_mac(&self, interface: &str, mac: MacBytes) -> io::Result<()> {
        let mut request = request(interface)?;
        let mut sa_data = [0; 14];
        for (to, from) in sa_data.iter_mut().zip(mac) {
            *to = from as c_char;
        }
        request.ifr_ifru.ifru_hwaddr = libc::sockaddr { sa_family: ARPHRD_ETHER, sa_data };
        // SAFETY: the kernel reads the sockaddr set above.
        unsafe { self.ioctl(libc::SIOCSIFHWADDR, &mut request) }
    }

    pub(crate) fn mtu(&self, interface: &str) -> io::Result<u32> {
        let mut request = request(interface)?;
        // SAFETY: the kernel writes an integer into the union, which is then read.
        unsafe {
            self.ioctl(libc::SIOCGIFMTU, &mut request)?;
            Ok(request.ifr_ifru.ifru_mtu.cast_unsigned())
        }
    }

    pub(crate) fn set_mtu(&self, interface: &str, mtu: u32) -> io::Result<()> {
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_mtu = mtu.cast_signed();
        // SAFETY: the kernel reads the integer set above.
        unsafe { self.ioctl(libc::SIOCSIFMTU, &mut request) }
    }

    /// Queues that receive, as the driver tells ethtool; `None` if it tells nothing.
    pub(crate) fn rx_channels(&self, interface: &str) -> io::Result<Option<u32>> {
        let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_data = ptr::from_mut(&mut channels).cast();
        // SAFETY: the kernel reads and writes the 36 bytes of `channels` for this command.
        match unsafe { self.ioctl(SIOCETHTOOL, &mut request) } {
            Ok(()) => Ok(Some(channels.rx + channels.combined)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the device is up and its driver sees a link. At once, unlike IFF_RUNNING, which the
    /// kernel changes up to a second later.
    pub(crate) fn has_link(&self, interface: &str) -> io::Result<bool> {
        let mut link = [ETHTOOL_GLINK, 0];
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_data = link.as_mut_ptr().cast();
        // SAFETY: the kernel reads and writes the two integers of `link` for this command.
        match unsafe { self.ioctl(SIOCETHTOOL, &mut request) } {
            Ok(()) => Ok(link[1] != 0),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let wanted = libc::IFF_UP | libc::IFF_RUNNING;
                Ok(self.flags(interface)? & wanted == wanted)
            }
            Err(error) => Err(error),
        }
    }

    /// The driver's name and its bus ("tun" and "tap" for a TAP).
    pub(crate) fn driver(&self, interface: &str) -> io::Result<(String, String)> {
        let mut info = EthtoolDrvinfo {
            cmd: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            rest: [0; 64],
        };
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_data = ptr::from_mut(&mut info).cast();
        // SAFETY: the kernel reads and writes the 196 bytes of `info` for this command.
        unsafe { self.ioctl(SIOCETHTOOL, &mut request)? };
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        Ok((text(&info.driver), text(&info.bus)))
    }
}
