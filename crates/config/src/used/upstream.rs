//! `upstreams:` as the program uses it.
//!
//! Owns nothing that changes. Not here: how a key is read (`build::upstream`), and the ways out (`used`).

use std::time::Duration;

use secrecy::SecretString;

use super::Health;

/// One upstream.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Unique.
    pub name: String,
    /// Where it is.
    pub base_url: BaseUrl,
    /// The pool of keys; empty: requests carry no credential.
    pub keys: Vec<SecretString>,
    /// Indices into `Config::egress`, never empty, in the order of the file.
    pub egress: Vec<usize>,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// Connection pool of each path.
    pub pool: Pool,
    /// PEM text of a CA bundle used instead of the built-in roots.
    pub ca_pem: Option<Vec<u8>>,
    /// Requests running at once on this node.
    pub max_in_flight: usize,
    /// Share of traffic among equals, 0 to 1000; 0: only used when nothing else is. Default 1.
    pub weight: f64,
    /// Active probes of each path. `None`: `path: none`.
    pub probe: Option<Probe>,
    /// A model of ours: `max_in_flight` are its slots. Default false.
    pub local: bool,
    /// Largest prompt and answer together, tokens, at least 1. `None`: not said.
    pub context_window: Option<usize>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The file's `health`, overlaid key by key with the upstream's own.
    pub health: Health,
}

/// `base_url`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// `https`.
    pub tls: bool,
    /// Lower-case name or address, without brackets.
    pub host: String,
    /// Explicit or the scheme's.
    pub port: u16,
    /// Starts with `/` or is empty; never ends in `/`. `/v1` for `https://api.openai.com/v1`.
    pub path: String,
    /// The `Host` header: host, and the port when it is not the scheme's; IPv6 in brackets.
    pub authority: String,
}

/// `timeouts:`
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// DNS to TLS.
    pub connect: Duration,
    /// Per attempt, to the first content (plain: the head).
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// The whole plain request, all attempts.
    pub total: Duration,
    /// The whole streamed request, all attempts.
    pub stream_total: Duration,
}

/// `pool:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Idle connections kept per path.
    pub max_idle: usize,
    /// Connections open at once per path (HTTP/1.1: requests at once).
    pub max_connections: usize,
    /// HTTP version.
    pub http2: Http2,
}

/// `pool.http2`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// Over TLS as ALPN decides, HTTP/1.1 over plain TCP.
    Auto,
    /// Never.
    Off,
    /// Always; over plain TCP with prior knowledge.
    Only,
}

/// `probe:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How often, at least 1ms. Default 5s.
    pub interval: Duration,
    /// How long one may take, at least 1ms. Default 2s.
    pub timeout: Duration,
    /// What is asked for with GET: stands after `base_url`'s own path and starts with `/`. Default `/models`.
    pub path: String,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(2), path: "/models".to_owned() }
    }
}

/// `capabilities:`; absent: all but `prefill`. An empty list: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Calls of functions.
    pub tools: bool,
    /// Answers that follow a JSON Schema.
    pub json_schema: bool,
    /// Images in the prompt.
    pub vision: bool,
    /// Goes on from a begun answer.
    pub prefill: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self { tools: true, json_schema: true, vision: true, prefill: false }
    }
}
