//! Who is at the other end of a control connection: root, the daemon's own user and members of the
//! socket's groups may use it; anyone else is refused, whatever the file's mode lets through.

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::{Gid, Uid, geteuid};
use tokio::net::UnixStream;

/// Most supplementary groups looked at; Linux allows 65536 (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Who may use the socket besides root.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// The daemon's own user.
    pub uid: Uid,
    /// Groups.
    pub gids: Vec<Gid>,
}

impl Allowed {
    /// This process's user, and those groups.
    pub fn new(gids: Vec<Gid>) -> Self {
        Self { uid: geteuid(), gids }
    }

    /// Whether this peer may.
    ///
    /// # Errors
    /// If the kernel does not say who the peer is; treat it as refused.
    pub fn admits(&self, stream: &UnixStream) -> io::Result<bool> {
        let peer = stream.peer_cred()?;
        if peer.uid() == 0 || peer.uid() == self.uid.as_raw() {
            return Ok(true);
        }
        if self.gids.is_empty() {
            return Ok(false);
        }
        let is_allowed = |gid: libc::gid_t| self.gids.contains(&Gid::from_raw(gid));
        Ok(is_allowed(peer.gid()) || supplementary_groups(stream)?.into_iter().any(is_allowed))
    }
}

/// The supplementary groups the peer had when it connected (SO_PEERGROUPS, since Linux 4.13). Asked of the
/// kernel, not of the user database: it is the process that counts, and a look-up could block.
fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut bytes = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for as long as `stream` is borrowed; `groups` has `bytes` bytes
        // of room, any bit pattern is a gid, and the kernel writes no more than that.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let error = io::Error::last_os_error();
        if done == 0 {
            groups.truncate(bytes as usize / size_of::<libc::gid_t>());
            return Ok(groups);
        }
        // ERANGE: too little room, and `bytes` says how much it takes.
        let needed = bytes as usize / size_of::<libc::gid_t>();
        if error.raw_os_error() != Some(libc::ERANGE)
            || !(groups.len()..=GROUPS_MAX).contains(&needed)
        {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}
