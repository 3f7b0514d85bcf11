//! The configuration as the program uses it: checked, references resolved to indices, secrets read.
//!
//! Owns nothing that changes: one `Config` is built whole, put behind an `Arc`, and never written again.
//! Not here: what the file said and where (`said`), and how a fault is reported (`fault`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;
use secrecy::SecretString;
use tidegate_router::glob::Glob;

mod health;
mod limit;
mod route;
mod store;
mod tracing;
mod upstream;

pub use health::{Breaker, Choice, Flap, Health, Recovery, ShadowBudget, Synthetic};
pub use limit::{Limit, Meter, OnStoreLoss, Pace, Per, Smooth, Span};
pub use route::{Cache, Fallback, Hedge, Prompt, Retry, Route, When};
pub use store::{Kind, Store, StoreUrl};
pub use tracing::Tracing;
pub use upstream::{BaseUrl, Capabilities, Http2, Pool, Probe, Timeouts, Upstream};

/// Everything one node runs by.
#[derive(Debug)]
pub struct Config {
    /// Who this node is in logs, metrics and the fleet view.
    pub node: Node,
    /// The data plane's listener.
    pub listen: Listen,
    /// The operators' listener.
    pub admin: Admin,
    /// What nodes share. `None`: nothing, each node keeps its own.
    pub store: Option<Store>,
    /// Name resolution.
    pub dns: Dns,
    /// Ways out; index 0 is always `direct`.
    pub egress: Vec<Egress>,
    /// Upstreams in the order of the file.
    pub upstreams: Vec<Upstream>,
    /// Routes in the order of the file; the first match wins.
    pub routes: Vec<Route>,
    /// The file's own `health:`; what holds for an upstream is in [`Upstream::health`].
    pub health: Health,
    /// Client keys. `None`: anyone may call. Order of the file.
    pub clients: Option<Vec<Client>>,
    /// How many requests run at once on this node.
    pub node_limit: NodeLimit,
    /// The file's other limits, in its order; they come before a route's and a client's own.
    pub limits: Vec<Limit>,
    /// What models cost, in the order of the file; the first match counts.
    pub prices: Vec<Price>,
    /// Traces. `None`: none.
    pub tracing: Option<Tracing>,
    /// Logging.
    pub log: Log,
    /// Hex SHA-256 of the file's bytes, first 16 digits.
    pub hash: String,
    /// Every key of the file with its value in force, defaults filled in, in the file's own forms; secrets are the
    /// references to them. What [`crate::differences`] compares.
    pub effective: Arc<serde_json::Value>,
}

/// `node:`
#[derive(Debug, Clone)]
pub struct Node {
    /// Label in metrics, logs and the fleet view.
    pub name: String,
    /// Empty when not said.
    pub zone: String,
    /// Bytes of cached answers held in memory, 0 to 64GiB; 0: none is. Default 128MiB.
    pub cache_memory: usize,
}

/// `listen:`
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where clients connect.
    pub address: SocketAddr,
    /// `None`: plain HTTP.
    pub tls: Option<ListenTls>,
    /// Largest request body, bytes.
    pub max_body: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// After SIGTERM: unready at once, but still accepting this long.
    pub drain_grace: Duration,
    /// Then running requests and streams get this long.
    pub drain_timeout: Duration,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `listen.tls:`, PEM files that are re-read when they change.
#[derive(Debug, Clone)]
pub struct ListenTls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// `admin:`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where operators and Prometheus connect.
    pub address: SocketAddr,
    /// Needed for what changes anything; `None`: such calls only from loopback.
    pub token: Option<SecretString>,
}

/// `dns:`
#[derive(Debug, Clone, Default)]
pub struct Dns {
    /// Lower-case host name to the addresses used instead of asking.
    pub hosts: HashMap<String, Vec<IpAddr>>,
}

/// One way out.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Unique; `direct` always exists.
    pub name: String,
    /// How connections are made.
    pub way: Way,
}

/// How an egress reaches an upstream.
#[derive(Debug, Clone)]
pub enum Way {
    /// From this machine.
    Direct,
    /// HTTP CONNECT through a proxy.
    Connect(Proxy),
    /// SOCKS5 with the name resolved by the proxy.
    Socks5h(Proxy),
}

/// A forward proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password, both or neither.
    pub login: Option<(String, SecretString)>,
}

/// One entry of `clients:`.
#[derive(Debug, Clone)]
pub struct Client {
    /// Unique label.
    pub name: String,
    /// SHA-256 of the bearer key.
    pub key_sha256: [u8; 32],
    /// Models allowed; `None`: all.
    pub models: Option<Vec<Glob>>,
    /// Limits of its own, each [`Per::Client`].
    pub limits: Vec<Limit>,
}

/// `limits: [{per: node, in_flight, queue, queue_timeout}]`
#[derive(Debug, Clone, Copy)]
pub struct NodeLimit {
    /// Requests running at once.
    pub in_flight: usize,
    /// Requests waiting for a place.
    pub queue: usize,
    /// How long one waits.
    pub queue_timeout: Duration,
}

/// One entry of `prices:`, USD per million tokens, each 0 to 1000000.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    /// Which models cost this.
    pub model: Glob,
    /// Tokens sent.
    pub input: f64,
    /// Tokens received.
    pub output: f64,
}

/// `log:`
#[derive(Debug, Clone)]
pub struct Log {
    /// Least severe level written.
    pub level: Level,
    /// What is replaced by `[redacted]` beside `sk-...` and bearer tokens.
    pub redact: Vec<Regex>,
}

/// `log.level`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Requests fail or the node is about to.
    Error,
    /// An operator should look.
    Warn,
    /// One line per request, one per transition.
    Info,
    /// One line per attempt.
    Debug,
    /// Everything.
    Trace,
}
