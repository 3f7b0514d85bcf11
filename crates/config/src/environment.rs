//! Where variables and files come from: the process, or a map in tests and fuzzing.
//!
//! Owns nothing. Reading never waits on a network; a file that never ends is cut off at a bound.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

/// No certificate bundle or secret is larger; one that is would be refused rather than held in memory.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What surrounds a configuration file.
pub trait Environment {
    /// The variable's value; `None` when it is not set (or not text).
    fn variable(&self, name: &str) -> Option<String>;

    /// The whole file.
    ///
    /// # Errors
    /// As the operating system says, and `FileTooLarge` above 4 MiB.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The variables and files of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process;

impl Environment for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_bounded(path, FILE_BYTES_MAX)
    }
}

/// Variables from a map and no file at all: every read answers `NotFound`.
impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
    }

    fn read(&self, _path: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The whole file, or `FileTooLarge`. The size is asked before a byte is read, and the reading itself is bounded
/// too, because a pipe or a device says 0.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let about = file.metadata()?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if about.len() > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|read| read <= bytes_max) {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Why a file cannot be read, in the words an operator uses.
pub(crate) fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        io::ErrorKind::FileTooLarge => "it is over 4 MiB".to_owned(),
        kind => kind.to_string(),
    }
}
