//! The socket file: made whole before it can be seen, never taken from a daemon that listens, removed
//! at the end.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};

/// The group whose members may use it, if the system has it.
pub const GROUP: &str = "postern";

/// Where the socket for those who may only look is: beside the control socket, `control-ro.sock` beside
/// `control.sock`.
pub fn reading_path(control: &Path) -> PathBuf {
    let mut name = control.file_stem().unwrap_or_default().to_owned();
    name.push("-ro");
    if let Some(extension) = control.extension() {
        name.push(".");
        name.push(extension);
    }
    control.with_file_name(name)
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another instance listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something else has that name; it is left alone.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("control socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A listening socket with a name in the file system, which goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that only our own file is removed.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Opens the socket at `path`, mode 0660, of `group` if given. A socket file that nobody listens on
    /// is replaced. The directory is made if it is missing.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn open(path: &Path, group: Option<Gid>) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        ensure_free(path)?;
        // Made under another name and renamed once mode and group are right: nobody can connect to a
        // half-made one, and the rename replaces a stale one at once.
        let draft = draft_name(path);
        let _ = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        let made = finish(&draft, path, group);
        if made.is_err() {
            let _ = fs::remove_file(&draft);
        }
        let identity = made.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    /// Another handle on the listening socket, not blocking.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The group [`GROUP`], if the system has it.
pub fn control_group() -> Option<Gid> {
    group_named(GROUP)
}

/// The group of that name, if the system has it.
pub fn group_named(name: &str) -> Option<Gid> {
    Group::from_name(name).ok().flatten().map(|group| group.gid)
}

/// That nothing stands at `path`, or only a socket that nobody listens on.
fn ensure_free(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // A full backlog (EAGAIN) is somebody listening, too.
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::InUse(path.to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn draft_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

/// Sets mode and group and gives it its name; its device and inode.
fn finish(draft: &Path, path: &Path, group: Option<Gid>) -> io::Result<(u64, u64)> {
    if let Some(group) = group {
        chown(draft, None, Some(group.as_raw()))?;
    }
    fs::set_permissions(draft, fs::Permissions::from_mode(0o660))?;
    let meta = fs::symlink_metadata(draft)?;
    fs::rename(draft, path)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reading_socket_stands_beside_the_control_socket() {
        for (control, reading) in [
            ("/run/postern/control.sock", "/run/postern/control-ro.sock"),
            ("/tmp/a.b/c", "/tmp/a.b/c-ro"),
            ("x.y.sock", "x.y-ro.sock"),
        ] {
            assert_eq!(reading_path(Path::new(control)), Path::new(reading));
        }
    }
}
