//! `log:` and `tracing:` as written.

use crate::read::{Item, said, words};
use crate::unit::{Flag, Pattern, Percent, Text};

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

said! {
    /// Traces.
    Tracing: "`tracing`", needs [otlp] {
        /// Collector, `http://HOST:4318`.
        otlp: Text,
        /// Share of requests traced.
        sample: Percent,
    }
}
