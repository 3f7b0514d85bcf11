//! Everything between a decision to try a path and the bytes of its answer: names, ways out, TLS,
//! connections, keys.
//!
//! Owns each path's connection pool and each upstream's keys. When a path cannot be reached the caller gets
//! an error that says which phase failed. Not here: which path to take and whether to try again
//! (`request::attempt`, `tidegate_router::plan`).

pub mod connector;
pub mod dns;
pub mod exchange;
pub mod keys;
pub mod pool;
pub mod proxy;
pub mod socket;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tidegate_config::used;
use tidegate_router::outcome::Class;

use crate::metrics::PathMetrics;

/// This many failures in a row and an upstream counts as in trouble: repeats toward it are charged to the
/// retry budget even when the request has not asked it yet.
const TROUBLE: u32 = 5;

/// One upstream at run time.
#[derive(Debug)]
pub struct Upstream {
    /// Its part of the configuration.
    pub config: used::Upstream,
    /// The `Host` header.
    pub host: HeaderValue,
    /// Its keys.
    pub keys: keys::KeyRing,
    failures_in_a_row: AtomicU32,
    in_flight: AtomicUsize,
}

impl Upstream {
    /// Fails only when a key or the host cannot stand in a header.
    pub fn new(config: used::Upstream) -> Result<Self, String> {
        let host = HeaderValue::from_str(&config.base_url.authority).map_err(|_| {
            format!("upstream `{}`: the host of base_url cannot stand in a header", config.name)
        })?;
        let keys = keys::KeyRing::new(&config.keys)
            .map_err(|n| format!("upstream `{}`: key {} cannot stand in a header", config.name, n + 1))?;
        Ok(Self { host, keys, config, failures_in_a_row: AtomicU32::new(0), in_flight: AtomicUsize::new(0) })
    }

    /// Its last answers were all failures.
    pub fn in_trouble(&self) -> bool {
        self.failures_in_a_row.load(Ordering::Relaxed) >= TROUBLE
    }

    /// Takes note of an answer, `None` being a good one.
    pub fn note(&self, failure: Option<Class>) {
        match failure {
            None => self.failures_in_a_row.store(0, Ordering::Relaxed),
            Some(class) if class.blames_upstream() => {
                self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
            }
            Some(_) => {}
        }
    }

    /// A place among the requests this upstream may run at once; `None` when all are taken.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let max = self.config.max_in_flight;
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < max).then_some(n + 1))
            .ok()
            .map(|_| InFlight(Arc::clone(self)))
    }
}

/// A taken place; given back when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Upstream>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An upstream reached through one egress.
#[derive(Debug)]
pub struct Path {
    /// `openai@hk`
    pub name: String,
    /// The same for `x-tidegate-path`.
    pub header: HeaderValue,
    /// Where it leads.
    pub upstream: Arc<Upstream>,
    /// Connections.
    pub pool: Arc<pool::Pool>,
    /// Its series.
    pub metrics: PathMetrics,
    /// Attempts running.
    pub in_flight: AtomicUsize,
}

impl Path {
    /// `connect` of the upstream.
    pub fn connect_timeout(&self) -> Duration {
        self.upstream.config.timeouts.connect
    }
}
