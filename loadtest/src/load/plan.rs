//! What a run does: against whom, how often, for how long.

use std::time::Duration;

/// Plain answers or streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One JSON answer.
    Plain,
    /// Server-sent events.
    Stream,
}

/// What starts a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loop {
    /// The clock: so many a second, whether or not the ones before are answered.
    Open {
        /// Requests per second, above 0.
        rate: f64,
        /// Connections opened beforehand and used in turn; more are opened when all are busy.
        connections: usize,
    },
    /// The answer before: so many clients, each with one request at a time.
    Closed {
        /// Clients, at least 1.
        clients: usize,
        /// The clients begin evenly over this time, so that they do not stay in step.
        spread: Duration,
    },
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Requests are begun this long after the warm-up; those begun are waited for.
    Lasting(Duration),
    /// So many requests; there is no warm-up.
    Requests(u64),
}

/// One run of the generator.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Base URL with the `/v1`; plain HTTP.
    pub url: String,
    /// What is asked for.
    pub mode: Mode,
    /// What starts a request.
    pub arrivals: Loop,
    /// When it is over.
    pub extent: Extent,
    /// Requests begun in this time are made but not measured.
    pub warmup: Duration,
    /// Bearer key, if any.
    pub key: Option<String>,
    /// Model asked for.
    pub model: String,
    /// Settings for the mock, `chunks=50&delay-ms=10`; sent behind a `?` in the model name. May be empty.
    pub script: String,
    /// Size of a request's body, bytes; at least that of an empty prompt.
    pub request_bytes: usize,
    /// A request that takes longer is a failure.
    pub timeout: Duration,
    /// Clients hang up after so many pieces of a stream.
    pub hangup_after: Option<u32>,
    /// Request `n` asks for content of seed `seed + n`.
    pub seed: u64,
    /// Processes whose CPU time and memory are read.
    pub pids: Vec<u32>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8080/v1".into(),
            mode: Mode::Plain,
            arrivals: Loop::Closed { clients: 1, spread: Duration::ZERO },
            extent: Extent::Lasting(Duration::from_secs(10)),
            warmup: Duration::ZERO,
            key: None,
            model: "mock".into(),
            script: String::new(),
            request_bytes: 2048,
            timeout: Duration::from_secs(60),
            hangup_after: None,
            seed: 1,
            pids: Vec::new(),
        }
    }
}
