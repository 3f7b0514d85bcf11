//! `routes:` as the program uses it.
//!
//! Owns nothing that changes. Not here: how a key is read (`build::route`, `build::fallback`).

use std::time::Duration;

use tidegate_router::glob::Glob;

use super::Limit;

/// One route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Label in metrics and logs: the model glob as written; a second one like it gets `#2`.
    pub name: String,
    /// Which models it takes.
    pub model: Glob,
    /// Indices into `Config::upstreams`, never empty.
    pub to: Vec<usize>,
    /// Tried in order when no path of `to` is usable. Default none.
    pub fallback: Vec<Fallback>,
    /// Whether requests may be mirrored to a recovering path. Default true.
    pub shadow: bool,
    /// Retries.
    pub retry: Retry,
    /// A second try beside a slow first one. Default none.
    pub hedge: Option<Hedge>,
    /// Answers kept. Default none.
    pub cache: Option<Cache>,
    /// Limits of its own, each [`super::Per::Route`].
    pub limits: Vec<Limit>,
}

/// `cache:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// How long an answer is fresh, 1s to 30d.
    pub ttl: Duration,
    /// Whether clients share entries. Default false.
    pub shared: bool,
    /// Whether only answers that should not differ from one time to the next are kept. Default false.
    pub only_deterministic: bool,
    /// How long after `ttl` an answer may stand in for an unreachable upstream, 0 to 30d. Default 0s.
    pub stale_if_error: Duration,
    /// Largest answer kept, bytes, 1KiB to 64MiB. Default 1MiB.
    pub max_size: usize,
}

/// One entry of `fallback:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Index into `Config::upstreams`.
    pub upstream: usize,
    /// In which cases it is tried.
    pub when: When,
    /// Sent instead of the model the client asked for. `None`: the client's.
    pub model: Option<String>,
    /// Changes to the prompt.
    pub prompt: Prompt,
}

/// `when:`, at least one case. Default `unavailable` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    /// No path of `to` is usable.
    pub unavailable: bool,
    /// The prompt is too long for `to`.
    pub context_length_exceeded: bool,
    /// Every key is cooling down or out of quota.
    pub rate_limited: bool,
}

impl Default for When {
    fn default() -> Self {
        Self { unavailable: true, context_length_exceeded: false, rate_limited: false }
    }
}

/// `prompt:` of a fallback. Default: the client's, unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// System prompt; `{original_system}` stands for the client's. `None`: the client's.
    pub system: Option<String>,
    /// An upper bound of the answer, tokens, at least 1. `None`: what the client asked for.
    pub max_tokens: Option<u32>,
    /// Turns kept, at least 1; system messages stay. `None`: all.
    pub keep_last_turns: Option<usize>,
}

/// `retry:`
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// All tries together, at least 1.
    pub attempts: u32,
    /// First wait on the same upstream.
    pub initial: Duration,
    /// Growth per wait, at least 1.
    pub factor: f64,
    /// Longest wait.
    pub max: Duration,
    /// Share of requests that may be retried, 0 to 1.
    pub budget: f64,
}

/// `hedge.after`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hedge {
    /// This percentile of the path's own latency, 50 to 99.
    Percentile(u8),
    /// This long, at least 1ms.
    After(Duration),
}
