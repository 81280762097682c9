//! Writes the inputs that the fuzzer begins with: `fuzz-seeds DIRECTORY`, one directory in it for each target.

use std::path::Path;
use std::{env, fs, io};

use postern_tests::fuzz;

fn main() -> io::Result<()> {
    let directory =
        env::args().nth(1).ok_or_else(|| io::Error::other("usage: fuzz-seeds DIRECTORY"))?;
    for (number, (target, bytes)) in fuzz::seeds().into_iter().enumerate() {
        let directory = Path::new(&directory).join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("seed-{number}")), bytes)?;
    }
    Ok(())
}
