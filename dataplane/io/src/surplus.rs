//! The limit on huge pages that the kernel makes beyond the reserved ones, raised for a moment.
//!
//! It is the whole host's, and matters only when pages are made: it is put back at once, and what was made goes back to
//! the kernel when it is given up. Whoever is killed in between leaves a record of what he did, by which the next
//! start, or `postern release`, puts it back.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::device::{read_record, write_record};

const HUGE_PAGE: usize = 2 << 20;

/// The limit, and where it is recorded that it was raised.
pub(crate) struct Surplus {
    limit: PathBuf,
    /// The pages beyond the reserved ones that there are.
    in_use: PathBuf,
    record: PathBuf,
}

/// What was done to the limit, pages.
#[derive(Serialize, Deserialize)]
struct Raised {
    from: usize,
    to: usize,
}

impl Surplus {
    /// The host's. The record is not in the run directory: several appliances have one limit.
    pub(crate) fn of_host() -> Self {
        Self {
            limit: "/proc/sys/vm/nr_overcommit_hugepages".into(),
            in_use: "/sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages".into(),
            record: "/run/postern-hugepages.json".into(),
        }
    }

    /// Runs `map` while the kernel may make huge pages for `bytes` beyond the reserved ones. Needs root.
    pub(crate) fn lend<T>(
        &self,
        bytes: usize,
        map: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let _lock = self.lock()?;
        self.put_back()?; // what another one, killed in the midst of it, left
        let from = self.read()?;
        // Pages beyond the reserve that are in use already count against the limit.
        let in_use =
            fs::read_to_string(&self.in_use).ok().and_then(|text| text.trim().parse().ok());
        let to = from.max(in_use.unwrap_or(0)) + bytes.div_ceil(HUGE_PAGE);
        write_record(&self.record, &Raised { from, to })?;
        let raised = fs::write(&self.limit, to.to_string());
        let mapped = raised.and_then(|()| map());
        self.put_back()?;
        mapped
    }

    /// Puts back what someone who was killed could not. Nothing to do without a record.
    pub(crate) fn restore(&self) -> io::Result<()> {
        if !self.record.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.put_back()
    }

    /// Until the result is dropped no other Postern does anything here.
    fn lock(&self) -> io::Result<File> {
        let file = fs::OpenOptions::new().read(true).write(true).open(&self.limit)?;
        file.lock()?;
        Ok(file)
    }

    fn read(&self) -> io::Result<usize> {
        fs::read_to_string(&self.limit)?.trim().parse().map_err(io::Error::other)
    }

    fn put_back(&self) -> io::Result<()> {
        let Some(raised) = read_record::<Raised>(&self.record)? else { return Ok(()) };
        // Someone else's word since then counts.
        if self.read()? == raised.to {
            fs::write(&self.limit, raised.from.to_string())?;
        }
        fs::remove_file(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// A limit of 3 pages, and a folder for it that goes with it.
    struct Lab(Surplus, PathBuf);

    impl Lab {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("postern-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            let [limit, in_use, record] =
                ["limit", "in-use", "record.json"].map(|file| folder.join(file));
            fs::write(&limit, "3\n").expect("a file");
            fs::write(&in_use, "5\n").expect("a file");
            Self(Surplus { limit, in_use, record }, folder)
        }

        fn limit(&self) -> usize {
            self.0.read().expect("a number")
        }

        /// One that never comes to the end of it.
        fn killed(&self) {
            let killed = || self.0.lend(2 * HUGE_PAGE, || -> io::Result<()> { panic!("killed") });
            catch_unwind(AssertUnwindSafe(killed)).expect_err("it is killed");
        }
    }

    impl Drop for Lab {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.1);
        }
    }

    #[test]
    fn the_limit_is_raised_for_the_moment_only() {
        let lab = Lab::new("moment");
        let during = lab.0.lend(2 * HUGE_PAGE + 1, || lab.0.read()).expect("it works");
        assert_eq!((during, lab.limit()), (5 + 3, 3), "beyond those in use");
        let refused = lab.0.lend(1, || Err::<(), _>(io::ErrorKind::OutOfMemory.into()));
        assert_eq!(refused.expect_err("no memory").kind(), io::ErrorKind::OutOfMemory);
        assert_eq!((lab.limit(), lab.0.record.exists()), (3, false));
    }

    #[test]
    fn what_one_who_was_killed_left_is_put_back() {
        let lab = Lab::new("killed");
        lab.killed();
        assert_eq!((lab.limit(), lab.0.record.exists()), (7, true));
        lab.0.restore().expect("it works");
        assert_eq!((lab.limit(), lab.0.record.exists()), (3, false));
        assert!(lab.0.restore().is_ok(), "nothing to do the second time");
        // Or the next one does it who needs pages.
        lab.killed();
        assert_eq!(lab.0.lend(HUGE_PAGE, || lab.0.read()).expect("it works"), 5 + 1);
        assert_eq!((lab.limit(), lab.0.record.exists()), (3, false));
    }

    #[test]
    fn what_the_operator_said_since_then_stays() {
        let lab = Lab::new("operator");
        lab.killed();
        fs::write(&lab.0.limit, "100\n").expect("a file");
        lab.0.restore().expect("it works");
        assert_eq!((lab.limit(), lab.0.record.exists()), (100, false));
    }
}
