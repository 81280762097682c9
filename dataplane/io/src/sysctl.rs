//! `/proc/sys/net`, of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A setting and its value: `key` as the path below `/proc/sys/net`, which, unlike the dotted form,
/// is unambiguous for interfaces with dots in their names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Sysctl {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Sysctl {
    pub(crate) fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }

    /// The setting as it is now; `None` if this kernel has none (IPv6 switched off at boot).
    pub(crate) fn read(key: &str) -> io::Result<Option<Self>> {
        match fs::read_to_string(path(key)) {
            Ok(value) => Ok(Some(Self::new(key, value.trim_end()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(key, &error)),
        }
    }

    /// Makes it so, unless it is so already or the kernel has no such setting. Not writing what is
    /// already there matters: writing `forwarding` of `all` resets it on every interface.
    pub(crate) fn apply(&self) -> io::Result<()> {
        match Self::read(&self.key)? {
            Some(now) if now != *self => {
                fs::write(path(&self.key), &self.value).map_err(|error| named(&self.key, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Does all of it, whatever fails. What failed, in one text.
pub(crate) fn try_all(steps: impl IntoIterator<Item = io::Result<()>>) -> io::Result<()> {
    let failures: Vec<_> =
        steps.into_iter().filter_map(|done| Some(done.err()?.to_string())).collect();
    if failures.is_empty() { Ok(()) } else { Err(io::Error::other(failures.join("; "))) }
}

/// The present values of the settings in `wanted` that exist.
pub(crate) fn present(wanted: &[Sysctl]) -> io::Result<Vec<Sysctl>> {
    wanted.iter().filter_map(|setting| Sysctl::read(&setting.key).transpose()).collect()
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

fn named(key: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("sysctl net/{key}: {error}"))
}
