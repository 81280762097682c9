//! One AF_XDP socket: the four rings of one queue of one device, on the shared frame memory.
//!
//! Life: [`open_queues`] → [`Program::set_socket`](super::program::Program::set_socket) → each turn of
//! the worker `receive`, `transmit`, `kick`, `reclaim`, `refill` → drop. Every frame the socket took
//! and did not give back is counted ([`Socket::frames_in_kernel`]); dropping the socket loses them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::abi::{self, XdpDesc, XdpRingOffset, XdpStatistics};
use super::ring::{Consumer, Producer};
use super::sys;
use crate::frame::{FramePool, FrameSpan};
use crate::memory::Mapping;
use crate::umem::Umem;

/// How packets get in and out of the UMEM.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum BindMode {
    /// Zero-copy if the driver has it, else by copy.
    #[default]
    Auto,
    /// By copy, also where the driver has zero-copy.
    Copy,
}

/// What a socket got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    /// The device reads and writes the UMEM itself.
    ZeroCopy,
    /// The kernel copies each packet.
    Copy,
}

/// The application's system calls drive the queue instead of interrupts (`SO_PREFER_BUSY_POLL`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusyPoll {
    /// How long a call that waits may poll, in microseconds.
    pub microseconds: u32,
    /// Packets one call may handle: 1 ..= 65535.
    pub budget: u32,
}

/// Sizes of the rings and how to bind. Sizes are entries, powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// Entries of the rx ring.
    pub rx: u32,
    /// Entries of the tx ring.
    pub tx: u32,
    /// Entries of the fill ring: as many frames rest in it. At least `rx`.
    pub fill: u32,
    /// Entries of the completion ring. At least `tx`.
    pub completion: u32,
    /// Zero-copy or not.
    pub mode: BindMode,
    /// Busy polling by the worker's own calls; none by default.
    pub busy_poll: Option<BusyPoll>,
    /// Frames one system call may send in copy mode: 32 ..= `tx`. Ignored by kernels before 6.17.
    pub tx_budget: u32,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            rx: 2048,
            tx: 2048,
            fill: 2048,
            completion: 2048,
            mode: BindMode::Auto,
            busy_poll: None,
            tx_budget: 256,
        }
    }
}

impl SocketOptions {
    /// Frames that can rest in one socket's rings at once: what a UMEM must have for each.
    pub const fn frames(&self) -> u32 {
        self.fill + self.rx + self.tx
    }

    fn check(&self) -> Result<(), SocketError> {
        for size in [self.rx, self.tx, self.fill, self.completion] {
            if !size.is_power_of_two() || size > 1 << 20 {
                return Err(SocketError::RingSize(size));
            }
        }
        if self.fill < self.rx || self.completion < self.tx {
            return Err(SocketError::RingSize(self.fill.min(self.completion)));
        }
        Ok(())
    }
}

/// What went wrong with a socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Not a power of two, or a fill or completion ring smaller than its rx or tx ring.
    #[error("a ring of {0} entries: sizes are powers of two, fill >= rx and completion >= tx")]
    RingSize(u32),
    /// A step of opening failed: EPERM without privileges, ENOBUFS when too little memory can be
    /// locked, EOPNOTSUPP for a device that cannot do it.
    #[error("AF_XDP {step}: {source}")]
    Open {
        /// The step, for people.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another socket has the queue, or another XDP program the device, and kept it for 2 s.
    #[error("queue {queue} of interface {ifindex} is taken by another process")]
    QueueTaken {
        /// The kernel's interface index.
        ifindex: u32,
        /// The queue.
        queue: u32,
    },
    /// The device is gone: the socket will never work again.
    #[error("the device is gone")]
    DeviceGone,
    /// The device is down: the socket works again when it is up.
    #[error("the device is down")]
    DeviceDown,
    /// A ring held an entry that is no frame of ours.
    #[error("the kernel gave a packet of {len} bytes at address {addr:#x}, outside every frame")]
    BadDescriptor {
        /// Where the packet was said to be, in bytes from the start of the UMEM.
        addr: u64,
        /// Its length in bytes.
        len: u32,
    },
    /// A system call failed as none should.
    #[error("AF_XDP {call}: {source}")]
    Call {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether all that was to be sent is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// The kernel has, or will by itself take, all there is in the tx ring.
    Done,
    /// The kernel is busy; kick again next turn.
    Again,
}

/// Times one [`Socket::kick`] asks again when the kernel did a part (EAGAIN).
const KICKS_MAX: u32 = 16;
/// How long a bind is tried again while the queue is busy.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// The four rings of one queue.
///
/// The order of the fields is the order of dropping: rings are unmapped before the descriptor is
/// closed, because a closed socket keeps its queue until they are.
pub struct Socket {
    rx: Consumer<XdpDesc>,
    completion: Consumer<u64>,
    fill: Producer<u64>,
    tx: Producer<XdpDesc>,
    fd: OwnedFd,
    umem: Arc<Umem>,
    /// Frames in the fill ring, in the device, or in the rx ring.
    receiving: u32,
    /// Frames in the tx ring, in the device, or in the completion ring.
    sending: u32,
    ifindex: u32,
    queue: u32,
    mode: CopyMode,
    busy_polls: bool,
}

/// Opens one socket per queue of a device, all on `umem`. The first registers the memory for this
/// device, the others share its registration; each has rings of its own. Devices register separately
/// (the same memory), so that one without zero-copy does not spoil it for another.
///
/// # Errors
/// See [`SocketError`]; sockets opened before the failing one are closed again.
pub fn open_queues(
    umem: &Arc<Umem>,
    ifindex: u32,
    queues: impl IntoIterator<Item = u32>,
    options: &SocketOptions,
) -> Result<Vec<Socket>, SocketError> {
    let mut sockets: Vec<Socket> = Vec::new();
    for queue in queues {
        let socket = Socket::open(umem, ifindex, queue, options, sockets.first())?;
        sockets.push(socket);
    }
    Ok(sockets)
}

impl Socket {
    /// Opens the socket of one queue. With `first`, another queue's socket of the **same device** and
    /// UMEM, its registration and mode are shared.
    ///
    /// # Errors
    /// See [`SocketError`]. A busy queue is tried for 2 s.
    ///
    /// # Panics
    /// If `first` is of another device or UMEM.
    pub fn open(
        umem: &Arc<Umem>,
        ifindex: u32,
        queue: u32,
        options: &SocketOptions,
        first: Option<&Self>,
    ) -> Result<Self, SocketError> {
        let step = |step| move |source| SocketError::Open { step, source };
        options.check()?;
        // Not only a mistake: the kernel would fill frames of the other UMEM behind their owners' backs.
        assert!(
            first.is_none_or(|first| Arc::ptr_eq(&first.umem, umem) && first.ifindex == ifindex),
            "sockets share within one device and one UMEM"
        );
        let fd = sys::socket().map_err(step("socket"))?;
        let borrowed = fd.as_fd();
        if first.is_none() {
            sys::register_umem(borrowed, umem).map_err(step("registration of the UMEM"))?;
        }
        for (ring, size) in [
            (abi::XDP_UMEM_FILL_RING, options.fill),
            (abi::XDP_UMEM_COMPLETION_RING, options.completion),
            (abi::XDP_RX_RING, options.rx),
            (abi::XDP_TX_RING, options.tx),
        ] {
            sys::set_ring_size(borrowed, ring, size).map_err(step("ring size"))?;
        }
        let offsets = sys::mmap_offsets(borrowed).map_err(step("ring offsets"))?;
        let map = |page, at: &XdpRingOffset, entry: usize, entries: u32| {
            map_ring(borrowed, page, at, entry * entries as usize).map_err(step("ring mapping"))
        };
        let fill = map(abi::XDP_UMEM_PGOFF_FILL_RING, &offsets.fill, 8, options.fill)?;
        let completion =
            map(abi::XDP_UMEM_PGOFF_COMPLETION_RING, &offsets.completion, 8, options.completion)?;
        let rx = map(abi::XDP_PGOFF_RX_RING, &offsets.rx, size_of::<XdpDesc>(), options.rx)?;
        let tx = map(abi::XDP_PGOFF_TX_RING, &offsets.tx, size_of::<XdpDesc>(), options.tx)?;
        let wrap = step("ring layout");
        let mut socket = Self {
            rx: Consumer::of_kernel(rx, &offsets.rx, options.rx).map_err(wrap)?,
            completion: Consumer::of_kernel(completion, &offsets.completion, options.completion)
                .map_err(wrap)?,
            fill: Producer::of_kernel(fill, &offsets.fill, options.fill).map_err(wrap)?,
            tx: Producer::of_kernel(tx, &offsets.tx, options.tx).map_err(wrap)?,
            fd,
            umem: Arc::clone(umem),
            receiving: 0,
            sending: 0,
            ifindex,
            queue,
            mode: CopyMode::Copy,
            busy_polls: options.busy_poll.is_some(),
        };
        socket.tune(options)?;
        socket.bind(options.mode, first)?;
        Ok(socket)
    }

    fn tune(&self, options: &SocketOptions) -> Result<(), SocketError> {
        // ENOPROTOOPT on older kernels: they send 32 at a time, and `kick` asks again.
        let _ = sys::set_tx_budget(self.fd.as_fd(), options.tx_budget.min(options.tx));
        if let Some(BusyPoll { microseconds, budget }) = options.busy_poll {
            sys::set_busy_poll(self.fd.as_fd(), microseconds, budget)
                .map_err(|source| SocketError::Open { step: "busy polling", source })?;
        }
        Ok(())
    }

    fn bind(&mut self, mode: BindMode, first: Option<&Self>) -> Result<(), SocketError> {
        // A sharing socket inherits the flags; the kernel refuses any other.
        let flags = match (first, mode) {
            (Some(_), _) => abi::XDP_SHARED_UMEM,
            (None, BindMode::Auto) => abi::XDP_USE_NEED_WAKEUP,
            (None, BindMode::Copy) => abi::XDP_USE_NEED_WAKEUP | abi::XDP_COPY,
        };
        let share = first.map(|socket| socket.fd.as_raw_fd());
        let (ifindex, queue) = (self.ifindex, self.queue);
        let deadline = Instant::now() + BIND_PATIENCE;
        while let Err(source) = sys::bind(self.fd.as_fd(), ifindex, queue, flags, share) {
            match source.raw_os_error() {
                // The previous owner's socket is torn down after its process is gone.
                Some(libc::EBUSY) if Instant::now() < deadline => thread::sleep(BIND_PAUSE),
                Some(libc::EBUSY) => {
                    return Err(SocketError::QueueTaken { ifindex, queue });
                }
                Some(libc::ENODEV) => return Err(SocketError::DeviceGone),
                Some(libc::ENETDOWN) => return Err(SocketError::DeviceDown),
                _ => return Err(SocketError::Open { step: "bind", source }),
            }
        }
        let got = sys::options(self.fd.as_fd())
            .map_err(|source| SocketError::Open { step: "options", source })?;
        if got & abi::XDP_OPTIONS_ZEROCOPY != 0 {
            self.mode = CopyMode::ZeroCopy;
        }
        Ok(())
    }

    /// Takes up to `max` received packets and hands each to `out`. Returns how many.
    ///
    /// # Errors
    /// [`SocketError::BadDescriptor`] when the kernel named bytes outside every frame; the packets
    /// beside it were handed over all the same.
    #[inline]
    pub fn receive(
        &mut self,
        max: u32,
        mut out: impl FnMut(FrameSpan),
    ) -> Result<u32, SocketError> {
        if self.busy_polls && self.waiting() < max {
            // The kernel polls the device on this thread. If that is down or gone, the next kick says so.
            let _ = sys::wake_rx(self.fd.as_fd());
        }
        let (umem, mut bad, mut received) = (&*self.umem, None, 0);
        self.rx.consume(max, |desc| {
            // SAFETY: the address comes from the rx ring, where the kernel puts each frame that it
            // took from the fill ring once.
            let span = unsafe { umem.claim(desc.addr) }
                .and_then(|(frame, offset)| FrameSpan::new(frame, offset, desc.len).ok());
            match span {
                Some(span) => {
                    received += 1;
                    out(span);
                }
                None => bad = Some(desc),
            }
        });
        self.receiving -= received;
        match bad {
            None => Ok(received),
            Some(desc) => Err(SocketError::BadDescriptor { addr: desc.addr, len: desc.len }),
        }
    }

    /// Gives the kernel frames to receive into, as many as the fill ring takes and the pool has.
    /// Returns how many.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool) -> u32 {
        pool.balance();
        let umem = &*self.umem;
        let filled = self.fill.produce(|| pool.take().map(|frame| umem.surrender(frame)));
        self.receiving += filled;
        if filled > 0 && self.fill.needs_wakeup() {
            // A device that is down or gone shows at the next kick; busy is asked again next turn.
            let _ = sys::wake_rx(self.fd.as_fd());
        }
        filled
    }

    /// Puts packets into the tx ring, from the front of `batch`, and removes them there. What finds no
    /// room stays in `batch`, with its owner. Returns how many went. [`kick`](Self::kick) sends them.
    #[inline]
    pub fn transmit(&mut self, batch: &mut Vec<FrameSpan>) -> u32 {
        let count = batch.len().min(self.tx.free() as usize);
        let mut packets = batch.drain(..count);
        let umem = &*self.umem;
        let accepted = self.tx.produce(|| {
            let span = packets.next()?;
            let (offset, len) = (u64::from(span.offset()), span.len());
            let addr = umem.surrender(span.into_frame()) + offset;
            Some(XdpDesc { addr, len, options: 0 })
        });
        debug_assert_eq!(accepted as usize, count, "free room only grows");
        self.sending += accepted;
        accepted
    }

    /// Has the kernel send what is in the tx ring, if it waits to be asked. Once a batch.
    ///
    /// # Errors
    /// [`SocketError::DeviceGone`], [`SocketError::DeviceDown`]; a busy kernel is no error.
    #[inline]
    pub fn kick(&mut self) -> Result<Kick, SocketError> {
        for _ in 0..KICKS_MAX {
            if self.tx.pending() == 0 || !self.tx.needs_wakeup() {
                return Ok(Kick::Done);
            }
            let Err(source) = sys::wake_tx(self.fd.as_fd()) else { return Ok(Kick::Done) };
            match source.raw_os_error() {
                // A part is sent: the budget of one call is used up.
                Some(libc::EAGAIN | libc::EINTR) => {}
                Some(libc::EBUSY | libc::ENOBUFS) => return Ok(Kick::Again),
                Some(libc::ENXIO | libc::ENODEV) => return Err(SocketError::DeviceGone),
                Some(libc::ENETDOWN) => return Err(SocketError::DeviceDown),
                _ => return Err(SocketError::Call { call: "sendto", source }),
            }
        }
        Ok(Kick::Again)
    }

    /// Takes back the frames of sent packets. Returns how many.
    ///
    /// # Errors
    /// [`SocketError::BadDescriptor`] as for [`receive`](Self::receive).
    #[inline]
    pub fn reclaim(&mut self, pool: &mut FramePool) -> Result<u32, SocketError> {
        let (umem, mut bad, mut reclaimed) = (&*self.umem, None, 0);
        self.completion.consume(u32::MAX, |addr| {
            // SAFETY: the address comes from the completion ring, where the kernel puts each frame
            // that it took from the tx ring once.
            match unsafe { umem.claim(addr) } {
                Some((frame, _)) => {
                    reclaimed += 1;
                    pool.give(frame);
                }
                None => bad = Some(addr),
            }
        });
        self.sending -= reclaimed;
        match bad {
            None => Ok(reclaimed),
            Some(addr) => Err(SocketError::BadDescriptor { addr, len: 0 }),
        }
    }

    /// Packets waiting in the rx ring.
    #[inline]
    pub fn waiting(&self) -> u32 {
        self.rx.available()
    }

    /// Room in the tx ring, in packets.
    #[inline]
    pub fn room(&self) -> u32 {
        self.tx.free()
    }

    /// Frames this socket took and has not given back: in its rings or in the device.
    pub const fn frames_in_kernel(&self) -> u32 {
        self.receiving + self.sending
    }

    /// Frames of packets on their way out: in the tx ring, the device, or the completion ring.
    pub const fn frames_sending(&self) -> u32 {
        self.sending
    }

    /// Whether the queue works without copying.
    pub const fn mode(&self) -> CopyMode {
        self.mode
    }

    /// The queue of the device.
    pub const fn queue(&self) -> u32 {
        self.queue
    }

    /// What the kernel counted for this socket since it was opened.
    ///
    /// # Errors
    /// [`SocketError::Call`]; not on a live socket.
    pub fn statistics(&self) -> Result<XdpStatistics, SocketError> {
        sys::statistics(self.fd.as_fd())
            .map_err(|source| SocketError::Call { call: "getsockopt", source })
    }
}

impl AsFd for Socket {
    /// For a poll set and for the XSKMAP.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { queue, mode, receiving, sending, .. } = self;
        write!(f, "socket of queue {queue}, {mode:?}, {receiving} receiving, {sending} sending")
    }
}

fn map_ring(
    fd: BorrowedFd<'_>,
    page: libc::off_t,
    offsets: &XdpRingOffset,
    entry_bytes: usize,
) -> io::Result<Mapping> {
    let start = usize::try_from(offsets.desc).map_err(io::Error::other)?;
    Mapping::of_fd(fd, start + entry_bytes, page, libc::MAP_POPULATE)
}
