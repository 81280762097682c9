//! Memory near the core that uses it, on machines with several nodes.
//!
//! Regions are populated when they are mapped, by the thread that maps them: so it is enough that this thread prefers
//! the right node meanwhile (set_mempolicy(2)).

use std::fs;
use std::io;
use std::path::Path;
use std::ptr;

/// Most nodes that are told apart; memory of a node beyond comes from wherever the kernel likes.
const NODES: usize = 64;

/// Runs `map`, preferring memory of the node that `core` belongs to. Where there are no nodes, or the kernel does not let
/// us choose (a container without CAP_SYS_NICE may not), it just runs.
pub fn near<T>(core: usize, map: impl FnOnce() -> T) -> T {
    let preferred = node_of(Path::new("/sys/devices/system/cpu"), core)
        .filter(|&node| node < NODES)
        .and_then(|node| prefer(Some(node)).ok());
    let mapped = map();
    if preferred.is_some() {
        // What succeeded once with a node succeeds without.
        let _ = prefer(None);
    }
    mapped
}

/// The node of a core, as `/sys` has it: a link `nodeN` in the core's folder.
fn node_of(cpus: &Path, core: usize) -> Option<usize> {
    let entries = fs::read_dir(cpus.join(format!("cpu{core}"))).ok()?;
    entries
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// Has the calling thread take memory from that node first; from the one that it runs on, if `None`.
fn prefer(node: Option<usize>) -> io::Result<()> {
    let mask = node.map(|node| 1u64 << node);
    let (mode, mask) = match &mask {
        Some(mask) => (libc::MPOL_PREFERRED, ptr::from_ref(mask)),
        None => (libc::MPOL_DEFAULT, ptr::null()),
    };
    // The kernel reads one bit less than it is told (mm/mempolicy.c, get_nodes).
    let bits = if mask.is_null() { 0 } else { NODES + 1 };
    // SAFETY: `mask` is null or points to as many bits as `NODES` says, which outlive the call.
    match unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calling thread's policy and its nodes.
    fn policy() -> (i32, u64) {
        let (mut mode, mut mask) = (0, [0u64; 16]);
        // SAFETY: both are as large as the call is told (1024 nodes are the most a kernel can be built for).
        let done = unsafe {
            let (mode, mask) = (ptr::from_mut(&mut mode), mask.as_mut_ptr());
            libc::syscall(libc::SYS_get_mempolicy, mode, mask, 1024, ptr::null::<u8>(), 0)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        (mode, mask[0])
    }

    #[test]
    fn the_core_s_node_is_preferred_while_memory_is_mapped_and_no_longer() {
        let before = policy();
        let node = node_of(Path::new("/sys/devices/system/cpu"), 0);
        let during = near(0, policy);
        match node {
            Some(node) => assert_eq!(during, (libc::MPOL_PREFERRED, 1 << node)),
            None => assert_eq!(during, before),
        }
        assert_eq!(policy(), before);
        assert_eq!(near(usize::MAX, policy), before, "there is no such core");
    }

    #[test]
    fn the_node_is_the_number_of_the_link() {
        let cpus = std::env::temp_dir().join(format!("postern-numa-{}", std::process::id()));
        fs::create_dir_all(cpus.join("cpu7/node3")).expect("a folder");
        fs::create_dir_all(cpus.join("cpu7/topology")).expect("a folder");
        fs::create_dir_all(cpus.join("cpu8/nodes")).expect("a folder");
        let found = [7, 8, 9].map(|core| node_of(&cpus, core));
        fs::remove_dir_all(&cpus).expect("removed");
        assert_eq!(found, [Some(3), None, None]);
    }
}
