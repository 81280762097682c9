//! AF_XDP and the taking over of devices against the real kernel: over veth, in network namespaces of their own.
//! Needs root, `ip` and `ethtool`; without root every test says that it is skipped.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod lab;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use lab::{Lab, may_run};
use postern_io::device::{Device, DeviceError, Polling, Reception, TakenOver};
use postern_io::frame::{Depot, FramePool, FrameSpan, Marks};
use postern_io::umem::Umem;
use postern_io::xdp::program::{self, AttachMode, Attached, Program, ProgramError};
use postern_io::xdp::socket::{CopyMode, Kick, Socket, SocketError, SocketOptions, open_queues};

const OPTIONS: SocketOptions = SocketOptions {
    rx: 256,
    tx: 256,
    fill: 256,
    completion: 256,
    tx_budget: 64,
    busy_poll: None,
    mode: postern_io::xdp::socket::BindMode::Auto,
};
const MARKS: Marks = Marks { low: 64, high: 256 };
const TO_B: &str = "10.77.0.2:7000";

/// A device with its program and the sockets of all its queues.
struct Door {
    device: Device,
    program: Program,
    sockets: Vec<Socket>,
}

fn open_door(umem: &Arc<Umem>, name: &str, run_dir: &Path) -> Door {
    let device = Device::open(name).expect("the device");
    let mut program =
        program::attach_or_take_over(&device, run_dir, AttachMode::Native).expect("attach");
    let queues = device.rx_queues().expect("queues");
    assert_eq!(queues, 2);
    let sockets = open_queues(umem, device.ifindex, 0..queues, &OPTIONS).expect("sockets");
    for socket in &sockets {
        assert_eq!(socket.mode(), CopyMode::Copy, "veth has no zero-copy");
        program.set_socket(socket).expect("set");
    }
    Door { device, program, sockets }
}

impl Door {
    fn refill(&mut self, pool: &mut FramePool) {
        for socket in &mut self.sockets {
            socket.refill(pool);
        }
    }

    fn receive(&mut self, out: &mut Vec<FrameSpan>) {
        for socket in &mut self.sockets {
            socket.receive(64, |span| out.push(span)).expect("receive");
        }
    }

    /// Sends all of `batch` through the first queue, recycling what is sent meanwhile.
    fn send(&mut self, batch: &mut Vec<FrameSpan>, pool: &mut FramePool) {
        let socket = &mut self.sockets[0];
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            socket.transmit(batch);
            let kick = socket.kick().expect("kick");
            socket.reclaim(pool).expect("reclaim");
            if batch.is_empty() && kick == Kick::Done {
                return;
            }
            assert!(Instant::now() < patience, "the tx ring does not empty");
        }
    }

    fn frames_in_kernel(&self) -> usize {
        self.sockets.iter().map(|socket| socket.frames_in_kernel() as usize).sum()
    }

    fn settle(&mut self, pool: &mut FramePool) {
        let patience = Instant::now() + Duration::from_secs(5);
        while self.sockets.iter().any(|socket| socket.frames_sending() > 0) {
            for socket in &mut self.sockets {
                socket.kick().expect("kick");
                socket.reclaim(pool).expect("reclaim");
            }
            assert!(Instant::now() < patience, "frames stay in the tx path");
        }
    }
}

/// Waits until `count` doors are open: what is sent before is dropped, as it should be.
fn wait_for(open: &AtomicU64, count: u64) {
    let patience = Instant::now() + Duration::from_secs(10);
    while open.load(Ordering::Acquire) < count {
        assert!(Instant::now() < patience, "the forwarder does not start");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Stops the forwarding threads when dropped, also when the traffic's own checks panic.
struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// `a` sends `count` datagrams to `b`, never more than 64 ahead; `b` checks that each arrives once, in
/// order within what UDP promises (the set is complete), and unchanged. Returns how many did.
fn traffic(lab: &Lab, count: u64) -> u64 {
    let arrived = AtomicU64::new(0);
    let body = |number: u64| {
        let len = 8 + (number * 37 % 1400) as usize;
        let mut body: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + number) as u8).collect();
        body[..8].copy_from_slice(&number.to_be_bytes());
        body
    };
    let ready = AtomicBool::new(false);
    thread::scope(|scope| {
        let sink = scope.spawn(|| {
            lab.within("b", || {
                let socket = UdpSocket::bind(TO_B).expect("bind");
                socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
                ready.store(true, Ordering::Release);
                let (mut buffer, mut seen) = ([0; 2048], vec![false; count as usize]);
                for _ in 0..count {
                    let Ok(len) = socket.recv(&mut buffer) else { break };
                    let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight"));
                    assert_eq!(buffer[..len], body(number), "datagram {number} was changed");
                    assert!(!std::mem::replace(&mut seen[number as usize], true), "came twice");
                    arrived.fetch_add(1, Ordering::AcqRel);
                }
            });
        });
        lab.within("a", || {
            let socket = UdpSocket::bind("10.77.0.1:0").expect("bind");
            while !ready.load(Ordering::Acquire) {
                thread::yield_now();
            }
            for number in 0..count {
                let patience = Instant::now() + Duration::from_secs(3);
                while number - arrived.load(Ordering::Acquire) >= 64 {
                    if Instant::now() > patience {
                        return;
                    }
                    thread::sleep(Duration::from_micros(20));
                }
                socket.send_to(&body(number), TO_B).expect("send");
            }
        });
        sink.join().expect("the sink does not panic");
    });
    arrived.into_inner()
}

#[test]
fn two_devices_on_one_umem_forward_ten_thousand_frames_and_every_frame_is_accounted_for() {
    if !may_run("forwarding") {
        return;
    }
    let lab = Lab::new();
    let (umem, frames) = Umem::new(4096).expect("memory");
    let depot = Depot::new(frames);
    let (open, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let arrived = thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            lab.within("fw", || {
                let mut lan = open_door(&umem, "l0", &lab.run_dir);
                let mut wan = open_door(&umem, "w0", &lab.run_dir);
                let mut pool = FramePool::new(&depot, MARKS);
                let mut batch = Vec::with_capacity(256);
                lan.refill(&mut pool);
                open.fetch_add(1, Ordering::AcqRel);
                while !stop.load(Ordering::Acquire) {
                    lan.refill(&mut pool);
                    wan.refill(&mut pool);
                    lan.receive(&mut batch);
                    wan.send(&mut batch, &mut pool);
                    wan.receive(&mut batch);
                    lan.send(&mut batch, &mut pool);
                }
                lan.settle(&mut pool);
                wan.settle(&mut pool);
                let kept = lan.frames_in_kernel() + wan.frames_in_kernel();
                assert_eq!(kept + pool.len() + depot.len(), depot.total(), "frames were lost");
                let statistics = lan.sockets[0].statistics().expect("statistics");
                assert_eq!(statistics.rx_invalid_descs + statistics.tx_invalid_descs, 0);
                assert_eq!(lan.program.attached(), Attached::Fresh);
            });
        });
        let stopper = Stopper(&stop);
        wait_for(&open, 1);
        let arrived = traffic(&lab, 10_000);
        drop(stopper);
        forwarder.join().expect("the forwarder does not panic");
        arrived
    });
    assert_eq!(arrived, 10_000);
}

#[test]
fn one_way_traffic_of_ten_pools_through_another_workers_pool_starves_nobody() {
    if !may_run("migration") {
        return;
    }
    let lab = Lab::new();
    // Few frames beyond what rests in the rings: those sent must come back through the depot.
    let (umem, frames) = Umem::new(2048).expect("memory");
    let depot = Depot::new(frames);
    let count = 10 * MARKS.high as u64;
    let handover = ArrayQueue::<FrameSpan>::new(256);
    let (open, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let kept = AtomicU64::new(0);
    let peak = AtomicU64::new(0);
    let arrived = thread::scope(|scope| {
        let (umem, depot, lab, open, stop) = (&umem, &depot, &lab, &open, &stop);
        let (handover, kept, peak) = (&handover, &kept, &peak);
        let stopper = Stopper(stop);
        let receiver = scope.spawn(move || {
            lab.within("fw", || {
                let mut lan = open_door(umem, "l0", &lab.run_dir);
                let mut pool = FramePool::new(depot, MARKS);
                let mut batch = Vec::with_capacity(256);
                lan.refill(&mut pool);
                open.fetch_add(1, Ordering::AcqRel);
                while !stop.load(Ordering::Acquire) {
                    lan.refill(&mut pool);
                    lan.receive(&mut batch);
                    for span in batch.drain(..) {
                        handover.push(span).expect("the queue is as large as what is under way");
                    }
                    thread::yield_now();
                }
                kept.fetch_add((lan.frames_in_kernel() + pool.len()) as u64, Ordering::AcqRel);
                // Beyond this point the pool's frames are the depot's: counted only above.
                std::mem::forget(pool);
            });
        });
        let sender = scope.spawn(move || {
            lab.within("fw", || {
                let mut wan = open_door(umem, "w0", &lab.run_dir);
                let mut pool = FramePool::new(depot, MARKS);
                let mut batch = Vec::with_capacity(256);
                open.fetch_add(1, Ordering::AcqRel);
                while !stop.load(Ordering::Acquire) {
                    batch.extend(std::iter::from_fn(|| handover.pop()));
                    wan.send(&mut batch, &mut pool);
                    peak.fetch_max(pool.len() as u64, Ordering::AcqRel);
                    thread::yield_now();
                }
                batch.extend(std::iter::from_fn(|| handover.pop()));
                wan.send(&mut batch, &mut pool);
                wan.settle(&mut pool);
                kept.fetch_add((wan.frames_in_kernel() + pool.len()) as u64, Ordering::AcqRel);
                std::mem::forget(pool);
            });
        });
        // One way only: neighbours are told by hand, no ARP.
        let mac = lab.mac("b", "b0");
        lab.ip("a", &format!("neigh add 10.77.0.2 lladdr {mac} dev a0"));
        wait_for(open, 2);
        let arrived = traffic(lab, count);
        drop(stopper);
        receiver.join().expect("the receiver does not panic");
        sender.join().expect("the sender does not panic");
        arrived
    });
    assert_eq!(arrived, count);
    let left = handover.len() + depot.len() + kept.load(Ordering::Acquire) as usize;
    assert_eq!(left, depot.total(), "frames were lost on their way between workers");
    assert!(peak.load(Ordering::Acquire) <= MARKS.high as u64, "the sender's pool ran over");
}

#[test]
fn a_device_whose_process_is_gone_stays_closed_until_it_is_taken_over_in_place() {
    if !may_run("fail closed") {
        return;
    }
    let lab = Lab::new();
    // Were anything passed up, this would answer. Nothing else may move the counters.
    lab.ip("fw", "link set w0 down");
    lab.ip("fw", "addr add 10.77.0.9/24 dev l0");
    lab.exec("a", "ping -c1 -W2 10.77.0.9").expect("the way is open before Postern");
    let (umem, _frames) = Umem::new(1024).expect("memory");
    program::mount_bpffs(&lab.run_dir.join("bpf")).expect("a bpffs");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "child_that_holds_a_door_until_it_is_killed"])
        .env("POSTERN_CHILD_NS", lab.ns("fw"))
        .env("POSTERN_CHILD_RUN_DIR", &lab.run_dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("a child");
    let patience = Instant::now() + Duration::from_secs(20);
    while !lab.run_dir.join("open").exists() {
        assert!(Instant::now() < patience, "the child does not open its door");
        thread::sleep(Duration::from_millis(5));
    }
    let link = link_id(&lab, "l0");
    lab.within("fw", || {
        let device = Device::open("l0").expect("the device");
        let second = program::attach_or_take_over(&device, &lab.run_dir, AttachMode::Native);
        assert!(matches!(second, Err(ProgramError::AnotherInstance { .. })), "{second:?}");
        assert!(program::release("l0", &lab.run_dir).is_err(), "released under a live instance");
    });
    child.kill().expect("kill -9");
    child.wait().expect("the end of it");
    let before = lab.ip_received("fw");
    lab.ip("a", "neigh flush dev a0");
    assert!(lab.exec("a", "ping -c2 -i0.2 -W1 10.77.0.9").is_err(), "something answered");
    lab.ip("a", "neigh replace 10.77.0.9 lladdr ff:ff:ff:ff:ff:ff dev a0");
    assert!(lab.exec("a", "ping -c2 -i0.2 -W1 10.77.0.9").is_err(), "something answered");
    assert_eq!(lab.ip_received("fw"), before, "packets reached the host's stack");
    let dropped = program::frames_without_socket("l0", &lab.run_dir).expect("a counter");
    assert!(dropped.is_some_and(|count| count >= 4), "not counted: {dropped:?}");
    lab.within("fw", || {
        let device = Device::open("l0").expect("the device");
        program::attach_drop_only(&device, &lab.run_dir, AttachMode::Native).expect("guard");
        assert_eq!(link_id(&lab, "l0"), link, "guard leaves a link that is there alone");
        let door = open_door(&umem, "l0", &lab.run_dir);
        assert_eq!(door.program.attached(), Attached::TakenOver);
        assert_eq!(link_id(&lab, "l0"), link, "the link was made anew, not updated");
        assert_eq!(door.program.frames_without_socket().expect("a counter"), 0, "a new program");
        drop(door);
        program::release("l0", &lab.run_dir).expect("release");
        program::release_bpffs(&lab.run_dir).expect("unmount");
    });
    lab.ip("a", "neigh del 10.77.0.9 dev a0");
    lab.exec("a", "ping -c1 -W2 10.77.0.9").expect("the way is open after the release");
}

/// Not a test of its own: what the test above kills.
#[test]
#[ignore = "started by another test"]
fn child_that_holds_a_door_until_it_is_killed() {
    let (Ok(namespace), Ok(run_dir)) =
        (std::env::var("POSTERN_CHILD_NS"), std::env::var("POSTERN_CHILD_RUN_DIR"))
    else {
        return;
    };
    lab::within(&namespace, || {
        let (umem, frames) = Umem::new(2048).expect("memory");
        let depot = Depot::new(frames);
        let mut door = open_door(&umem, "l0", Path::new(&run_dir));
        door.refill(&mut FramePool::new(&depot, MARKS));
        std::fs::write(Path::new(&run_dir).join("open"), "").expect("the sign that it is open");
        thread::sleep(Duration::from_secs(60));
    });
}

/// Which pinned link keeps the program on `device`: its inode.
fn link_id(lab: &Lab, device: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let shown = lab.ip("fw", &format!("link show {device}"));
    assert!(shown.contains("prog/xdp"), "no program attached: {shown}");
    std::fs::metadata(lab.run_dir.join("bpf").join(device).join("link")).expect("a pin").ino()
}

#[test]
fn guard_closes_a_device_and_a_pin_of_a_deleted_device_does_not_hinder_its_successor() {
    if !may_run("guard") {
        return;
    }
    let lab = Lab::new();
    lab.ip("fw", "link set l0 down");
    lab.ip("fw", "link set l0 name l0.5");
    lab.ip("fw", "link set l0.5 up");
    lab.ip("fw", "addr add 10.77.0.9/24 dev l0.5");
    let guard = || {
        lab.within("fw", || {
            let device = Device::open("l0.5").expect("the device");
            program::attach_drop_only(&device, &lab.run_dir, AttachMode::Native).expect("guard");
        });
    };
    guard();
    assert!(lab.exec("a", "ping -c1 -W1 10.77.0.9").is_err(), "a guarded device answered");
    lab.ip("fw", "link del l0.5");
    lab.ip("fw", "link add l0.5 numrxqueues 2 numtxqueues 2 type veth peer name p0 numrxqueues 2 numtxqueues 2");
    guard();
    assert!(lab.ip("fw", "link show l0.5").contains("prog/xdp"), "the new device is open");
    lab.within("fw", || program::release("l0.5", &lab.run_dir).expect("release"));
    assert!(!lab.ip("fw", "link show l0.5").contains("prog/xdp"));
}

#[test]
fn a_foreign_program_and_a_taken_queue_are_named() {
    if !may_run("conflicts") {
        return;
    }
    let lab = Lab::new();
    let (umem, _frames) = Umem::new(1024).expect("memory");
    lab.within("fw", || {
        let door = open_door(&umem, "l0", &lab.run_dir);
        let elsewhere = lab.run_dir.join("elsewhere");
        let other = program::attach_or_take_over(&door.device, &elsewhere, AttachMode::Native);
        assert!(matches!(other, Err(ProgramError::ForeignProgram(_))), "{other:?}");
        program::release_bpffs(&elsewhere).expect("unmount");
        assert!(!elsewhere.join("bpf").exists(), "a failed attach leaves something behind");
        let started = Instant::now();
        let taken = Socket::open(&umem, door.device.ifindex, 1, &OPTIONS, None);
        assert!(matches!(taken, Err(SocketError::QueueTaken { queue: 1, .. })), "{taken:?}");
        assert!(started.elapsed() < Duration::from_secs(4), "tried for ever");
        let ifindex = door.device.ifindex;
        drop(door);
        // A queue is free again as soon as its socket is dropped.
        let again = open_queues(&umem, ifindex, 0..2, &OPTIONS).expect("the queues");
        assert_eq!(again.len(), 2);
    });
}

#[test]
fn device_down_and_device_gone_are_named() {
    if !may_run("device gone") {
        return;
    }
    let lab = Lab::new();
    let (umem, frames) = Umem::new(2048).expect("memory");
    let depot = Depot::new(frames);
    lab.within("fw", || {
        let mut door = open_door(&umem, "l0", &lab.run_dir);
        let mut pool = FramePool::new(&depot, MARKS);
        let mut send_one = |door: &mut Door| {
            let frame = pool.take().expect("a frame");
            let span = FrameSpan::new(frame, 0, 60).expect("a span");
            let socket = &mut door.sockets[0];
            socket.transmit(&mut vec![span]);
            let kick = socket.kick();
            socket.reclaim(&mut pool).expect("reclaim");
            kick
        };
        send_one(&mut door).expect("it is up");
        lab.ip("fw", "link set l0 down");
        let down = send_one(&mut door);
        assert!(matches!(down, Err(SocketError::DeviceDown)), "{down:?}");
        lab.ip("fw", "link set l0 up");
        send_one(&mut door).expect("it is up again, socket and all");
        lab.ip("fw", "link del l0");
        let gone = send_one(&mut door);
        assert!(matches!(gone, Err(SocketError::DeviceGone)), "{gone:?}");
    });
}

/// Gives `l0` what an operator may have given it: settings, flags, addresses of all kinds, routes.
fn furnish(lab: &Lab) {
    lab.exec("fw", "sysctl -q net.ipv4.conf.l0.rp_filter=2 net.ipv4.conf.l0.forwarding=1")
        .expect("sysctl");
    lab.ip("fw", "addr add 192.0.2.1/24 broadcast 192.0.2.255 dev l0");
    lab.ip("fw", "addr add 192.0.2.7/24 dev l0 label l0:more");
    lab.ip("fw", "addr add 198.51.100.1 peer 198.51.100.2 dev l0");
    lab.ip("fw", "addr add 2001:db8::1/64 dev l0 nodad");
    lab.ip("fw", "route add 203.0.113.0/24 via 192.0.2.9 metric 7");
    lab.ip("fw", "route add default via 192.0.2.254");
    lab.ip("fw", "route add 2001:db8:5::/48 via 2001:db8::9 dev l0");
    lab.exec("fw", "ip link set l0 allmulticast off promisc on").expect("flags");
    thread::sleep(Duration::from_secs(3)); // until link-local addresses are no longer tentative
}

#[test]
fn release_gives_a_device_back_as_found() {
    if !may_run("release") {
        return;
    }
    let lab = Lab::new();
    let sysctl = |key: &str| {
        lab.within("fw", || {
            std::fs::read_to_string(format!("/proc/sys/net/{key}"))
                .expect("a setting")
                .trim()
                .to_owned()
        })
    };
    const KEYS: [&str; 4] = [
        "ipv6/conf/l0/disable_ipv6",
        "ipv4/conf/l0/arp_ignore",
        "ipv4/conf/l0/rp_filter",
        "ipv4/conf/l0/forwarding",
    ];
    furnish(&lab);
    let state = || {
        let mut lines: Vec<String> = ["-o addr show dev l0", "-4 route", "-6 route"]
            .iter()
            .flat_map(|show| lab.ip("fw", show).lines().map(str::to_owned).collect::<Vec<_>>())
            .chain(KEYS.iter().map(|key| format!("{key} {}", sysctl(key))))
            .collect();
        let flags = lab.ip("fw", "link show l0");
        lines.push(flags.lines().next().expect("a line").to_owned());
        lines.sort();
        lines
    };
    let found = state();
    let take_over = |tap, reception| {
        lab.within("fw", || {
            let device = Device::open("l0").expect("the device");
            drop(
                program::attach_or_take_over(&device, &lab.run_dir, AttachMode::Native)
                    .expect("attach"),
            );
            drop(
                device
                    .take_over(&lab.run_dir, tap, reception, Polling::Interrupts)
                    .expect("taking over"),
            );
        })
    };
    take_over("lan", Reception::AllMulticast);
    assert_eq!(KEYS.map(sysctl), ["1", "8", "1", "0"]);
    assert_eq!(lab.ip("fw", "-o addr show dev l0"), "", "addresses are left");
    let flags = lab.ip("fw", "link show l0");
    assert!(flags.contains("ALLMULTI") && !flags.contains("PROMISC"), "{flags}");
    // Another run after a crash must not take the closed device for the one found.
    take_over("inside", Reception::Promiscuous);
    take_over("lan", Reception::Promiscuous);
    assert_eq!(TakenOver::recorded(&lab.run_dir).expect("readable"), ["l0"]);
    assert!(lab.ip("fw", "link show l0").contains("PROMISC"));
    lab.within("fw", || {
        program::release("l0", &lab.run_dir).expect("release");
        let taken =
            TakenOver::load(&lab.run_dir, "l0").expect("a readable record").expect("a record");
        assert_eq!(taken.taps(), ["lan", "inside"]);
        taken.release().expect("release");
        assert!(
            TakenOver::load(&lab.run_dir, "l0").expect("readable").is_none(),
            "a record is left"
        );
        program::release_bpffs(&lab.run_dir).expect("unmount");
    });
    thread::sleep(Duration::from_secs(3));
    let now = state();
    assert_eq!(now, found, "as found:\n{}\nas left:\n{}", found.join("\n"), now.join("\n"));
    let left: Vec<_> = std::fs::read_dir(&lab.run_dir).expect("the run directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A record of another boot is about another device, although the index is the same.
#[test]
fn a_record_of_another_boot_is_of_no_use() {
    if !may_run("reboot") {
        return;
    }
    let lab = Lab::new();
    lab.ip("fw", "addr add 10.78.0.1/24 dev l0");
    let record = lab.run_dir.join("l0.state.json");
    let reboot = || {
        let text = std::fs::read_to_string(&record).expect("a record");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("its id");
        assert!(text.contains(boot.trim_end()) && text.contains("\"lan\""), "{text}");
        std::fs::write(&record, text.replace(boot.trim_end(), "another")).expect("written");
    };
    lab.within("fw", || {
        let device = Device::open("l0").expect("the device");
        let take_over =
            || device.take_over(&lab.run_dir, "lan", Reception::AllMulticast, Polling::Interrupts);
        take_over().expect("taking over");
        reboot();
        // What that boot found is not taken for what this one finds, and is not given back to it.
        take_over().expect("taking over");
        reboot();
        TakenOver::load(&lab.run_dir, "l0").expect("readable").expect("a record").release()
    })
    .expect("nothing to do");
    assert!(!record.exists());
    assert_eq!(lab.ip("fw", "-o -4 addr show dev l0"), "");
}

#[test]
fn a_setting_that_is_refused_keeps_nothing_else_from_being_given_back() {
    if !may_run("refused") {
        return;
    }
    let lab = Lab::new();
    lab.ip("fw", "addr add 10.78.0.1/24 dev l0");
    lab.within("fw", || {
        let device = Device::open("l0").expect("the device");
        device
            .take_over(&lab.run_dir, "lan", Reception::Promiscuous, Polling::Interrupts)
            .expect("taking over");
        let record = lab.run_dir.join("l0.state.json");
        let text = std::fs::read_to_string(&record).expect("a record");
        let with = "\"attributes\": [[\"no_such_attribute\", \"1\"]],\n  \"taps\"";
        std::fs::write(&record, text.replace("\"taps\"", with)).expect("written");
        let load = || TakenOver::load(&lab.run_dir, "l0").expect("readable");
        let error = load().expect("a record").release().expect_err("it is refused").to_string();
        assert!(error.contains("no_such_attribute"), "{error}");
        assert!(load().is_some(), "it can be tried again");
    });
    assert!(lab.ip("fw", "-o addr show dev l0").contains("10.78.0.1/24"));
    assert!(!lab.ip("fw", "link show l0").contains("PROMISC"));
}

#[test]
fn a_device_with_too_large_an_mtu_is_refused_untouched() {
    if !may_run("mtu") {
        return;
    }
    let lab = Lab::new();
    lab.ip("fw", "link set l0 mtu 3000");
    lab.within("fw", || {
        let device = Device::open("l0").expect("the device");
        let refused =
            device.take_over(&lab.run_dir, "lan", Reception::AllMulticast, Polling::Interrupts);
        assert!(matches!(refused, Err(DeviceError::MtuTooLarge { mtu: 3000, .. })), "{refused:?}");
        assert!(matches!(Device::open("none0"), Err(DeviceError::Missing(_))));
    });
    assert!(!lab.run_dir.join("l0.state.json").exists());
}
