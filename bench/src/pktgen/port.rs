//! Two devices, their AF_XDP sockets, and the frames: all that is polled.
//!
//! One thread sends and receives by turns and never sleeps. The XDP program is attached for the life of
//! the process only: however a run ends, the devices are the kernel's again. While it runs they carry
//! nothing else, and the kernel's own noise (neighbour discovery) is not seen by the kernel.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postern_io::device::{Carrier, Device};
use postern_io::frame::{Depot, FrameIdx, FramePool, FrameSpan, Marks};
use postern_io::umem::Umem;
use postern_io::xdp::program::{AttachMode, Program, ProgramError, attach_for_process};
use postern_io::xdp::socket::{CopyMode, Socket, SocketOptions, open_queues};

use super::schedule::BATCH;

/// Nanoseconds since the start of the process's work.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Zero now.
    #[expect(clippy::new_without_default, reason = "a clock is started, not defaulted")]
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds so far.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// One of the two devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Where flows begin: `--tx`.
    Near,
    /// Where they go: `--rx`.
    Far,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Near => Self::Far,
            Self::Far => Self::Near,
        }
    }
}

/// A device and the sockets of its queues.
#[derive(Debug)]
pub struct Port {
    sockets: Vec<Socket>,
    /// Packets for each sending queue that are not in its ring yet.
    waiting: Vec<Vec<FrameSpan>>,
    program: Program,
    device: Device,
    attached: AttachMode,
}

/// How long a link may need to come back after the program was attached.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// A device with the program attached, before there is memory for its sockets.
#[derive(Debug)]
pub struct Attached {
    /// The device.
    pub device: Device,
    /// Takes every frame, and drops it while there is no socket.
    pub program: Program,
    /// Native if the device can.
    pub mode: AttachMode,
    /// That can receive.
    pub queues: u32,
}

/// Attaches the program for the life of this process, and waits for the link.
///
/// # Errors
/// A device that is missing, down, taken, or cannot run XDP; privileges.
pub fn attach(name: &str) -> Result<Attached> {
    let device = Device::open(name)?;
    let (program, mode) = match attach_for_process(&device, AttachMode::Native) {
        Err(ProgramError::NotSupported { .. }) => {
            (attach_for_process(&device, AttachMode::Generic)?, AttachMode::Generic)
        }
        program => (program?, AttachMode::Native),
    };
    let patience = Instant::now() + LINK_PATIENCE;
    while device.carrier()? == Carrier::Down {
        ensure!(Instant::now() < patience, "device {name} is down or has no link");
        thread::sleep(Duration::from_millis(20));
    }
    // Only now: some drivers open more queues when a program is attached.
    let queues = device.rx_queues()?;
    Ok(Attached { device, program, mode, queues })
}

/// Rings of a socket: smaller where there are many.
fn ring_options(sockets: u32) -> SocketOptions {
    let size = if sockets <= 8 { 2048 } else { 512 };
    SocketOptions {
        rx: size,
        tx: size,
        fill: size,
        completion: size,
        tx_budget: BATCH as u32,
        ..SocketOptions::default()
    }
}

impl Port {
    fn bind(
        attached: Attached,
        umem: &Arc<Umem>,
        options: &SocketOptions,
        tx_queues: u32,
    ) -> Result<Self> {
        let Attached { device, mut program, mode, queues } = attached;
        ensure!(
            tx_queues <= queues,
            "--tx-queues {tx_queues}: device {} has {queues}",
            device.name
        );
        let sockets = open_queues(umem, device.ifindex, 0..queues, options)
            .with_context(|| format!("device {}", device.name))?;
        for socket in &sockets {
            program.set_socket(socket)?;
        }
        let room = options.tx as usize;
        let waiting = (0..tx_queues).map(|_| Vec::with_capacity(room)).collect();
        Ok(Self { sockets, waiting, program, device, attached: mode })
    }

    /// The device.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// How the device works: "zero-copy", "copy" or "generic".
    pub fn mode(&self) -> &'static str {
        let zero_copy = self.sockets.iter().all(|socket| socket.mode() == CopyMode::ZeroCopy);
        match self.attached {
            AttachMode::Generic => "generic",
            AttachMode::Native if zero_copy => "zero-copy",
            AttachMode::Native => "copy",
        }
    }

    /// Packets that every sending queue has room for.
    #[inline]
    fn room(&self) -> u64 {
        let room = |(socket, waiting): (&Socket, &Vec<FrameSpan>)| {
            u64::from(socket.room()).saturating_sub(waiting.len() as u64)
        };
        self.sockets.iter().zip(&self.waiting).map(room).min().unwrap_or(0)
    }

    #[inline]
    fn flush(&mut self, pool: &mut FramePool) -> Result<()> {
        for (socket, waiting) in self.sockets.iter_mut().zip(&mut self.waiting) {
            socket.transmit(waiting);
            socket.kick().with_context(|| format!("device {}", self.device.name))?;
            socket.reclaim(pool)?;
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, pool: &mut FramePool, out: &mut Vec<FrameSpan>) -> Result<()> {
        for socket in &mut self.sockets {
            socket.receive(BATCH as u32, |span| out.push(span))?;
            socket.refill(pool);
        }
        Ok(())
    }

    fn drops(&self) -> Result<u64> {
        let mut drops = self.program.frames_without_socket()?;
        for socket in &self.sockets {
            let kernel = socket.statistics()?;
            drops += kernel.rx_dropped + kernel.rx_ring_full + kernel.rx_fill_ring_empty_descs;
        }
        Ok(drops)
    }
}

/// Both devices on one frame memory; or one alone.
#[derive(Debug)]
pub struct Bench {
    near: Option<Port>,
    far: Option<Port>,
    umem: Arc<Umem>,
    pool: FramePool,
    received: Vec<FrameSpan>,
    /// The run's clock.
    pub clock: Clock,
}

/// Frames beyond those that rest in rings.
const FRAMES_SPARE: u32 = 4096;

impl Bench {
    /// Attaches to the devices named and binds every queue that can receive.
    ///
    /// # Errors
    /// A device that is missing, down, taken, or cannot run XDP; privileges; memory.
    pub fn open(near: Option<&str>, far: Option<&str>, tx_queues: u32) -> Result<Self> {
        let near = near.map(attach).transpose()?;
        let far = far.map(attach).transpose()?;
        let queues = [&near, &far].into_iter().flatten().map(|attached| attached.queues).sum();
        let options = ring_options(queues);
        let (umem, frames) = Umem::new(queues * options.frames() + FRAMES_SPARE)?;
        let pool = FramePool::new(&Depot::new(frames), Marks::default());
        let bind = |attached| Port::bind(attached, &umem, &options, tx_queues);
        let (near, far) = (near.map(bind).transpose()?, far.map(bind).transpose()?);
        let received = Vec::with_capacity(queues as usize * BATCH as usize);
        let mut bench = Self { near, far, umem, pool, received, clock: Clock::new() };
        for port in [&mut bench.near, &mut bench.far].into_iter().flatten() {
            for socket in &mut port.sockets {
                socket.refill(&mut bench.pool);
            }
        }
        Ok(bench)
    }

    fn port_mut(&mut self, side: Side) -> Option<&mut Port> {
        match side {
            Side::Near => self.near.as_mut(),
            Side::Far => self.far.as_mut(),
        }
    }

    /// The port of a side.
    ///
    /// # Panics
    /// If it was not opened.
    pub const fn port(&self, side: Side) -> &Port {
        let port = match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        };
        port.as_ref().expect("opened with this side")
    }

    /// Packets that can be sent on a side now.
    #[inline]
    pub fn room(&self, side: Side) -> u64 {
        self.port(side).room().min(BATCH)
    }

    /// Writes a packet for `side`, to leave with the next [`flush`](Self::flush). Packets of one `flow`
    /// leave by one queue. False if there is no room: it was not written.
    #[inline]
    pub fn send(&mut self, side: Side, flow: u32, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(mut frame) = self.pool.take() else { return false };
        let len = write(self.umem.bytes(&mut frame));
        let span = FrameSpan::new(frame, 0, len as u32);
        self.send_span(side, flow, span)
    }

    fn send_span(&mut self, side: Side, flow: u32, span: Result<FrameSpan, FrameIdx>) -> bool {
        let span = match span {
            Ok(span) => span,
            Err(frame) => {
                self.pool.give(frame);
                return false;
            }
        };
        let waiting = self.port_mut(side).and_then(|port| {
            let queues = port.waiting.len().max(1);
            port.waiting.get_mut(flow as usize % queues)
        });
        match waiting {
            Some(waiting) if waiting.len() < waiting.capacity() => {
                waiting.push(span);
                true
            }
            _ => {
                self.pool.give(span.into_frame());
                false
            }
        }
    }

    /// Has the kernel send what was written for a side, and takes back what was sent.
    ///
    /// # Errors
    /// The device is gone or down.
    #[inline]
    pub fn flush(&mut self, side: Side) -> Result<()> {
        match (side, &mut self.near, &mut self.far) {
            (Side::Near, Some(port), _) | (Side::Far, _, Some(port)) => port.flush(&mut self.pool),
            _ => Ok(()),
        }
    }

    /// Takes what has arrived on a side, at most [`BATCH`] a queue, and hands each frame's bytes to
    /// `handle` with the time of arrival; it may send by the [`Bench`] it is given. Returns how many.
    ///
    /// # Errors
    /// A ring that makes no sense.
    #[inline]
    pub fn receive(
        &mut self,
        side: Side,
        mut handle: impl FnMut(&mut Self, &[u8], u64),
    ) -> Result<usize> {
        let mut received = std::mem::take(&mut self.received);
        match (side, &mut self.near, &mut self.far) {
            (Side::Near, Some(port), _) | (Side::Far, _, Some(port)) => {
                port.receive(&mut self.pool, &mut received)?;
            }
            _ => {}
        }
        let count = received.len();
        let now = if count > 0 { self.clock.now() } else { 0 };
        let umem = Arc::clone(&self.umem);
        for mut span in received.drain(..) {
            handle(self, umem.packet(&mut span), now);
            self.pool.give(span.into_frame());
        }
        self.received = received;
        Ok(count)
    }

    /// Whether packets of a side are still to be taken by the kernel or the device.
    pub fn unsent(&self, side: Side) -> bool {
        let port = self.port(side);
        port.waiting.iter().any(|waiting| !waiting.is_empty())
            || port.sockets.iter().any(|socket| socket.frames_sending() > 0)
    }

    /// Frames the receivers of both sides have lost so far.
    ///
    /// # Errors
    /// A system call that never fails on a live socket.
    pub fn drops(&self) -> Result<u64> {
        [&self.near, &self.far].into_iter().flatten().map(Port::drops).sum()
    }
}

/// Binds the calling thread to a core.
///
/// # Errors
/// There is no such core for this process.
pub fn pin(core: Option<usize>) -> Result<()> {
    let Some(core) = core else { return Ok(()) };
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let Some(&id) = cores.iter().find(|id| id.id == core) else {
        let ids: Vec<String> = cores.iter().map(|id| id.id.to_string()).collect();
        bail!("--core {core}: this process may use {}", ids.join(", "));
    };
    ensure!(core_affinity::set_for_current(id), "--core {core} could not be set");
    Ok(())
}
