//! Frames from one device to another and back, with AF_XDP, other MAC addresses, and nothing else: what a
//! firewall on these devices could reach at most. `bench/compare.sh` holds the others against it.
//!
//! One thread, one queue a device. It says `ready` when it forwards, and forwards until it is killed; the
//! devices are the kernel's again then.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::pktgen::port::{Attached, attach, pin};
use bench::pktgen::topology::mac;
use clap::Parser;
use postern_io::frame::{Depot, FramePool, FrameSpan, Marks};
use postern_io::umem::Umem;
use postern_io::wait::PollSet;
use postern_io::xdp::program::Program;
use postern_io::xdp::socket::{Socket, SocketOptions, open_queues};

/// Forwards frames between two devices with other MAC addresses and nothing else.
#[derive(Parser, Debug)]
#[command(name = "bare-forward")]
struct Arguments {
    /// A device, and the MAC address its frames go to.
    #[arg(long, value_names = ["DEV", "MAC"], num_args = 2, required = true)]
    near: Vec<String>,
    /// The other one.
    #[arg(long, value_names = ["DEV", "MAC"], num_args = 2, required = true)]
    far: Vec<String>,
    /// The processor of the one thread.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1023))]
    core: Option<u16>,
    /// Sleep after so long without a frame, in microseconds; otherwise poll for ever.
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sleep_after: Option<u32>,
}

/// Frames of one turn: as many as Postern takes.
const BURST: u32 = 64;
/// Turns between looks at the clock.
const TURNS: u32 = 16;
/// A sleeper looks up so often, whatever comes.
const SLEEP_MAX: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Port {
    socket: Socket,
    /// Of the device, and of whoever is at the other end of its cable.
    macs: [[u8; 6]; 2],
    _program: Program,
}

impl Port {
    fn bind(
        attached: Attached,
        peer: [u8; 6],
        umem: &Arc<Umem>,
        options: &SocketOptions,
    ) -> Result<Self> {
        let Attached { device, mut program, queues, .. } = attached;
        let name = &device.name;
        ensure!(queues == 1, "device {name} has {queues} queues: this is for devices with one");
        let mut sockets = open_queues(umem, device.ifindex, 0..1, options)
            .with_context(|| format!("device {name}"))?;
        let socket = sockets.pop().context("one queue, one socket")?;
        program.set_socket(&socket)?;
        Ok(Self { socket, macs: [device.mac, peer], _program: program })
    }
}

#[derive(Debug)]
struct Forwarder {
    umem: Arc<Umem>,
    pool: FramePool,
    ports: [Port; 2],
    burst: Vec<FrameSpan>,
}

impl Forwarder {
    fn open(arguments: &Arguments) -> Result<Self> {
        let options = SocketOptions::default();
        // Two sockets, and as many frames again as one burst each.
        let (umem, frames) = Umem::new(2 * (options.frames() + BURST))?;
        let pool = FramePool::new(&Depot::new(frames), Marks::default());
        let open = |end: &[String]| {
            let [device, peer] = end else { bail!("--near and --far once each: DEV MAC") };
            let peer = mac(peer).map_err(anyhow::Error::msg)?;
            Port::bind(attach(device)?, peer, &umem, &options)
        };
        let ports = [open(&arguments.near)?, open(&arguments.far)?];
        let mut forwarder = Self { umem, pool, ports, burst: Vec::with_capacity(BURST as usize) };
        for port in &mut forwarder.ports {
            port.socket.refill(&mut forwarder.pool);
        }
        Ok(forwarder)
    }

    /// Takes a burst from one device and sends it by the other. Returns how many frames it was.
    #[inline]
    fn forward(&mut self, from: usize) -> Result<u32> {
        let Self { umem, pool, ports: [near, far], burst } = self;
        let (from, to) = if from == 0 { (near, far) } else { (far, near) };
        let received = from.socket.receive(BURST, |span| burst.push(span))?;
        if received > 0 {
            let [own, peer] = to.macs;
            for span in burst.iter_mut() {
                if let Some(addresses) = umem.packet(span).first_chunk_mut::<12>() {
                    addresses[..6].copy_from_slice(&peer);
                    addresses[6..].copy_from_slice(&own);
                }
            }
            from.socket.refill(pool);
            to.socket.transmit(burst);
            // What finds no room is dropped.
            burst.drain(..).for_each(|span| pool.give(span.into_frame()));
        }
        to.socket.kick()?;
        to.socket.reclaim(pool)?;
        Ok(received)
    }

    fn run(&mut self, sleep_after: Option<Duration>) -> Result<()> {
        let mut polls = PollSet::new();
        for port in &self.ports {
            polls.add(port.socket.as_fd());
        }
        let mut last_frame = Instant::now();
        let mut idle_turns = 0;
        loop {
            if self.forward(0)? + self.forward(1)? > 0 {
                idle_turns = 0;
                continue;
            }
            idle_turns += 1;
            let Some(patience) = sleep_after else {
                std::hint::spin_loop();
                continue;
            };
            if idle_turns == 1 {
                last_frame = Instant::now();
            } else if idle_turns % TURNS == 0 && last_frame.elapsed() >= patience {
                polls.wait(SLEEP_MAX)?;
            }
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    pin(arguments.core.map(usize::from))?;
    let mut forwarder = Forwarder::open(&arguments)?;
    println!("ready");
    std::io::stdout().flush()?;
    forwarder.run(arguments.sleep_after.map(|us| Duration::from_micros(us.into())))
}
