//! `health:` as the program uses it, with the defaults of the documentation.
//!
//! Owns those defaults and nothing that changes. Not here: how an upstream's own values come over the file's
//! (`build::health`), and what is done by them.

use std::time::Duration;

use tidegate_router::glob::Glob;

/// When a path is left alone, and how it comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// When a path is left alone.
    pub breaker: Breaker,
    /// How it comes back.
    pub recovery: Recovery,
    /// Made-up requests where live traffic is lacking.
    pub synthetic: Synthetic,
    /// What holds down a path that comes and goes.
    pub flap: Flap,
    /// What recovery may cost.
    pub shadow_budget: ShadowBudget,
    /// Models whose first content comes late, and whose shadows get more tokens. Default `o1*`, `o3*`, `o4*`,
    /// `gpt-5*`, `deepseek-r*`, `qwq*`.
    pub reasoning_models: Vec<Glob>,
    /// How the path of a request is chosen.
    pub choice: Choice,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            breaker: Breaker::default(),
            recovery: Recovery::default(),
            synthetic: Synthetic::default(),
            flap: Flap::default(),
            shadow_budget: ShadowBudget::default(),
            reasoning_models: ["o1*", "o3*", "o4*", "gpt-5*", "deepseek-r*", "qwq*"].map(Glob::new).into(),
            choice: Choice::default(),
        }
    }
}

/// `breaker:`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Failures in a row that open a path, at least 1. Default 5.
    pub consecutive_failures: u32,
    /// Share of failures in the window that opens a path, over 0 to 1. Default 0.5.
    pub failure_rate: f64,
    /// Fewer requests than this in the window prove nothing, at least 1. Default 10.
    pub min_requests: u32,
    /// Over how long rates are taken, at least 1ms. Default 60s.
    pub window: Duration,
    /// `slow_call.after`: a first content later than this is slow, at least 1ms. Default 15s.
    pub slow_after: Duration,
    /// `slow_call.rate`: share of slow calls in the window that opens a path, over 0 to 1. Default 0.8.
    pub slow_rate: f64,
    /// Requests without any answer for this long, while nothing else answers either, mark a path as frozen; at
    /// least 1ms. Default 5s.
    pub stalled_after: Duration,
    /// First rest of an open path, at least 1ms. Default 10s.
    pub open_for: Duration,
    /// Longest rest, at least `open_for`. Default 5m.
    pub max_open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: 0.5,
            min_requests: 10,
            window: Duration::from_secs(60),
            slow_after: Duration::from_secs(15),
            slow_rate: 0.8,
            stalled_after: Duration::from_secs(5),
            open_for: Duration::from_secs(10),
            max_open: Duration::from_secs(300),
        }
    }
}

/// `recovery:`
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// Share of requests mirrored, 0 to 1. Default 1.
    pub shadow_sample: f64,
    /// Least time between two mirrored requests, from `shadow_max`; up to 24h. Default 2s (30/min).
    pub shadow_every: Duration,
    /// Most tokens of a mirrored answer, at least 1. Default 16.
    pub shadow_max_tokens: u32,
    /// Passes needed in a row, at least 1. Default 5.
    pub successes: u32,
    /// Those passes span at least this long, 0 or more. Default 10s.
    pub min_span: Duration,
    /// How many times slower than before the trouble is still well, 1 to 1000. Default 2.
    pub max_latency_ratio: f64,
    /// Faster than this is never slow, 0 or more. Default 500ms.
    pub latency_floor: Duration,
    /// Shares of the normal traffic, rising, over 0 to 1; the last is 1. Default 0.05, 0.1, 0.25, 0.5, 1.
    pub ramp: Vec<f64>,
    /// How long each share lasts at least, 0 or more. Default 10s.
    pub ramp_step: Duration,
    /// How many requests each share lasts at least, at least 1. Default 10.
    pub ramp_requests: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            shadow_sample: 1.0,
            shadow_every: Duration::from_secs(2),
            shadow_max_tokens: 16,
            successes: 5,
            min_span: Duration::from_secs(10),
            max_latency_ratio: 2.0,
            latency_floor: Duration::from_millis(500),
            ramp: vec![0.05, 0.1, 0.25, 0.5, 1.0],
            ramp_step: Duration::from_secs(10),
            ramp_requests: 10,
        }
    }
}

/// `synthetic:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synthetic {
    /// What is asked, not empty. Default `Reply with: ok`.
    pub prompt: String,
    /// Most tokens of the answer, at least 1. Default 16.
    pub max_tokens: u32,
    /// How often, at least 1ms. Default 10s.
    pub interval: Duration,
    /// After how long without live traffic, 0 or more. Default 10s.
    pub after_idle: Duration,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            prompt: "Reply with: ok".to_owned(),
            max_tokens: 16,
            interval: Duration::from_secs(10),
            after_idle: Duration::from_secs(10),
        }
    }
}

/// `flap:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    /// This many trips, at least 1. Default 3.
    pub trips: u32,
    /// Within this long, at least 1ms. Default 10m.
    pub within: Duration,
    /// Rest the path this long, 0 or more. Default 2m.
    pub hold: Duration,
}

impl Default for Flap {
    fn default() -> Self {
        Self { trips: 3, within: Duration::from_secs(600), hold: Duration::from_secs(120) }
    }
}

/// `shadow_budget:`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShadowBudget {
    /// Mirrored requests for one recovery; 0: none. Default 20.
    pub per_recovery: u32,
    /// USD a day, 0 to 1000000. Default 1.
    pub usd_per_day: f64,
}

impl Default for ShadowBudget {
    fn default() -> Self {
        Self { per_recovery: 20, usd_per_day: 1.0 }
    }
}

/// `choice:`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Paths this close to the best share the traffic, 0 to 1. Default 0.2.
    pub band: f64,
    /// A change of best must last this long, 0 or more. Default 10s.
    pub hysteresis: Duration,
    /// Share of requests that try another path, 0 to 1. Default 0.02.
    pub explore: f64,
}

impl Default for Choice {
    fn default() -> Self {
        Self { band: 0.2, hysteresis: Duration::from_secs(10), explore: 0.02 }
    }
}
