//! The configuration: one YAML file, read whole, checked whole, and told whole what is wrong with it.
//!
//! The way of a file: bytes become a `tree` of placed values (with `expand` filling in variables), the tree
//! becomes what each section says (`said`, read by `read` and `unit`), and that becomes what the program runs by
//! (`build` makes `used`). Each step puts its faults into one collector (`fault`) and goes on. A file that cannot
//! be used changes nothing: whoever runs by an older one keeps it. Not here: watching the file, and acting on it.

mod build;
mod difference;
mod effective;
mod environment;
mod expand;
mod fault;
mod key;
mod read;
mod reference;
mod said;
mod schema;
mod secret;
mod tree;
mod unit;
mod url;
pub mod used;

use std::path::Path;

pub use build::{beyond_attempts, is_label};
pub use difference::{AT_START, Change, Difference, differences, restart_needed};
pub use environment::{Environment, Process};
pub use fault::{Fault, Faults, Place, nearest};
pub use key::hash_key;
pub use reference::reference;
pub use schema::schema;
pub use used::*;

use fault::Collector;
use read::Read;
use secret::Around;

/// A larger file is refused before it is read.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// What a configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To look at it: an absent secret or certificate is a warning. The `Config` lacks it then.
    Check,
    /// To run by it: an absent secret or certificate is a fault.
    Serve,
}

/// A configuration without faults.
#[derive(Debug)]
pub struct Loaded {
    /// What to run by.
    pub config: Config,
    /// What an operator should look at, in the order of the file.
    pub warnings: Vec<Fault>,
}

/// Reads and checks a file with the variables and files of this process. Blocks on the file system.
///
/// # Errors
/// Every fault of the file, or why it cannot be read.
pub fn load(path: &Path, purpose: Purpose) -> Result<Loaded, Faults> {
    load_with(path, &Process, purpose)
}

/// Reads and checks a file with the variables and files of `environment`, the file itself among them. Blocks on the file
/// system.
///
/// # Errors
/// Every fault of the file, or why it cannot be read.
pub fn load_with(path: &Path, environment: &dyn Environment, purpose: Purpose) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    let bytes = environment.read(path).map_err(|error| {
        let text = match error.kind() {
            std::io::ErrorKind::FileTooLarge => TOO_LARGE.to_owned(),
            _ => format!(
                "cannot be read: {} (--config FILE or $TIDEGATE_CONFIG says which file)",
                environment::cause(&error)
            ),
        };
        Collector::fatal(&name, text)
    })?;
    parse(&name, &bytes, environment, purpose)
}

const TOO_LARGE: &str = "is over 1 MiB: a configuration is far smaller, so this is some other file";

/// Checks the bytes of a file. `name` begins every message, and its folder is where relative paths begin.
///
/// # Errors
/// Every fault, sorted by place; a fault of syntax hides what comes after it.
pub fn parse(
    name: &str,
    text: &[u8],
    environment: &dyn Environment,
    purpose: Purpose,
) -> Result<Loaded, Faults> {
    if text.len() > FILE_BYTES_MAX {
        return Err(Collector::fatal(name, TOO_LARGE));
    }
    let mut faults = Collector::new(name);
    let config = whole(name, text, environment, purpose, &mut faults);
    let warnings = faults.finish()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings }),
        // Whoever answers `None` has said why, so that this is never reached; if it were, refusing is right.
        None => Err(Collector::fatal(name, "cannot be used")),
    }
}

fn whole(
    name: &str,
    text: &[u8],
    environment: &dyn Environment,
    purpose: Purpose,
    faults: &mut Collector,
) -> Option<Config> {
    let utf8 = match std::str::from_utf8(text) {
        Ok(utf8) => utf8,
        Err(error) => {
            let before = String::from_utf8_lossy(text.get(..error.valid_up_to()).unwrap_or_default());
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            faults.fault(Place { line, column }, "not UTF-8 text: save the file as UTF-8");
            return None;
        }
    };
    if utf8.contains('\0') {
        faults.fault(Place::START, "holds NUL bytes: this is no text file");
        return None;
    }
    let root = tree::grow(utf8, environment, faults);
    let Some(root) = root.filter(|root| !root.is_empty()) else {
        if !faults.is_faulty() {
            faults.fault(Place::START, "the file is empty: it needs at least `upstreams` and `routes`");
        }
        return None;
    };
    let file = said::File::read(&root, faults)?;
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let around = Around { environment, purpose, folder };
    build::build(&file, key::file_hash(text), &around, faults)
}
