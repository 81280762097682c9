//! A small lab: network namespaces of this run alone, veth pairs between them, a run directory with a
//! bpffs of its own. Everything is named after the process and removed on drop, also after a panic.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

static LABS: AtomicU32 = AtomicU32::new(0);

/// Runs a command to its end; its words are separated by spaces.
pub(crate) fn run(command: &str) -> String {
    try_run(command).unwrap_or_else(|error| panic!("`{command}`: {error}"))
}

/// As [`run`], for commands that may fail.
pub(crate) fn try_run(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Namespaces `a` – `fw` – `b`: a host, the firewall, another host.
pub(crate) struct Lab {
    prefix: String,
    pub(crate) run_dir: PathBuf,
}

impl Lab {
    /// Two veth pairs, `a0`–`l0` and `w0`–`b0`, two queues each way; `10.77.0.1` on `a0`, `10.77.0.2`
    /// on `b0`, one subnet, so that something that forwards frames unchanged joins them. The two hosts speak
    /// only when spoken to: without IPv6, whose solicitations and reports come seconds after a link is up.
    pub(crate) fn new() -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("pio{}-{number}", std::process::id());
        let run_dir = std::env::temp_dir().join(format!("postern-{prefix}"));
        fs::create_dir_all(&run_dir).expect("a directory for the run");
        let lab = Self { prefix, run_dir };
        for name in ["a", "fw", "b"] {
            run(&format!("ip netns add {}", lab.ns(name)));
            lab.ip(name, "link set lo up");
        }
        for host in ["a", "b"] {
            lab.exec(host, "sysctl -q net.ipv6.conf.default.disable_ipv6=1").expect("a sysctl");
        }
        lab.pair("a", "a0", "l0");
        lab.pair("b", "b0", "w0");
        lab.ip("a", "addr add 10.77.0.1/24 dev a0");
        lab.ip("b", "addr add 10.77.0.2/24 dev b0");
        lab
    }

    fn pair(&self, host: &str, end: &str, device: &str) {
        let (host_ns, fw_ns) = (self.ns(host), self.ns("fw"));
        let queues = "numrxqueues 2 numtxqueues 2";
        run(&format!(
            "ip link add {end} netns {host_ns} {queues} type veth \
             peer name {device} netns {fw_ns} {queues}"
        ));
        for (namespace, name) in [(&host_ns, end), (&fw_ns, device)] {
            run(&format!("ip netns exec {namespace} ethtool -K {name} tx off"));
            run(&format!("ip -n {namespace} link set {name} up"));
        }
    }

    /// The full name of one of the three namespaces.
    pub(crate) fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// `ip -n <namespace> ...`.
    pub(crate) fn ip(&self, name: &str, command: &str) -> String {
        run(&format!("ip -n {} {command}", self.ns(name)))
    }

    /// The Ethernet address of an interface.
    pub(crate) fn mac(&self, name: &str, interface: &str) -> String {
        let shown = self.ip(name, &format!("-o link show {interface}"));
        let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
        mac.expect("an Ethernet address").to_owned()
    }

    /// A command in a namespace.
    pub(crate) fn exec(&self, name: &str, command: &str) -> Result<String, String> {
        try_run(&format!("ip netns exec {} {command}", self.ns(name)))
    }

    /// Runs `work` on a thread inside a namespace: sockets it makes stay there.
    pub(crate) fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        within(&self.ns(name), work)
    }

    /// IP packets that the stack of a namespace got to see, on all interfaces.
    pub(crate) fn ip_received(&self, name: &str) -> u64 {
        self.within(name, || {
            let snmp = fs::read_to_string("/proc/thread-self/net/snmp").expect("IPv4 counters");
            let v4 = snmp.lines().filter(|line| line.starts_with("Ip:")).nth(1).expect("a line");
            let v4: u64 = v4.split_whitespace().nth(3).expect("InReceives").parse().expect("count");
            let snmp6 = fs::read_to_string("/proc/thread-self/net/snmp6").expect("IPv6 counters");
            let v6 = snmp6.lines().find(|line| line.starts_with("Ip6InReceives")).expect("a line");
            let v6: u64 = v6.split_whitespace().nth(1).expect("count").parse().expect("count");
            v4 + v6
        })
    }
}

/// Runs `work` on a thread inside the namespace of that full name.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = Path::new("/run/netns").join(namespace);
    let result = thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let namespace = File::open(path).expect("the namespace's file");
            // SAFETY: no pointers; only this thread changes its namespace, and it ends with `work`.
            let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(done, 0, "setns: {}", std::io::Error::last_os_error());
            work()
        });
        inside.join()
    });
    result.unwrap_or_else(|panic| panic::resume_unwind(panic))
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["a", "fw", "b"] {
            let _ = try_run(&format!("ip netns del {}", self.ns(name)));
        }
        let _ = try_run(&format!("umount {}", self.run_dir.join("bpf").display()));
        let _ = fs::remove_dir_all(&self.run_dir);
    }
}

/// Whether this process may do all this; says so aloud if not.
pub(crate) fn may_run(test: &str) -> bool {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED {test}: it needs root");
    }
    root
}
