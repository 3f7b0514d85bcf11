//! `log:` as written.

use crate::read::{Item, said, words};
use crate::unit::{Flag, Pattern};

said! {
    /// What is logged.
    Log: "`log`", needs [] {
        /// Least severe level written. Default info.
        level: Level,
        /// Whether bodies are logged. Default false.
        bodies: Flag,
        /// Replaced by `[redacted]`, beside API keys and bearer tokens, which always are.
        redact: Vec<Item<Pattern>>,
    }
}

words! {
    /// Levels.
    Level { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace", }
}
