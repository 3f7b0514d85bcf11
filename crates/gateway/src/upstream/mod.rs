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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tidegate_config::used;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::health::spending::Spending;
use crate::metrics::PathMetrics;

/// One upstream at run time.
#[derive(Debug)]
pub struct Upstream {
    /// Its part of the configuration.
    pub config: used::Upstream,
    /// The `Host` header.
    pub host: HeaderValue,
    /// Its keys.
    pub keys: keys::KeyRing,
    /// What copies of requests cost there today.
    pub shadows: Arc<Spending>,
    slots: Arc<Semaphore>,
    queued: Arc<AtomicUsize>,
}

impl Upstream {
    /// Takes over what `before`, the same upstream in the configuration before, knows of its keys and has running.
    /// Fails only when a key or the host cannot stand in a header.
    pub fn new(config: used::Upstream, before: Option<&Self>) -> Result<Self, String> {
        let host = HeaderValue::from_str(&config.base_url.authority)
            .map_err(|_| "the host of base_url cannot stand in a header")?;
        let keys = keys::KeyRing::new(&config.keys, before.map(|before| &before.keys))
            .map_err(|n| format!("key {} cannot stand in a header", n + 1))?;
        Ok(Self {
            host,
            keys,
            shadows: before.map(|before| Arc::clone(&before.shadows)).unwrap_or_default(),
            slots: before
                .map_or_else(|| Arc::new(Semaphore::new(most(&config))), |before| Arc::clone(&before.slots)),
            queued: before.map(|before| Arc::clone(&before.queued)).unwrap_or_default(),
            config,
        })
    }

    /// The bound of this configuration holds from now on, if the places are those that `before` had. Must be called inside
    /// a runtime.
    pub fn resize(&self, before: &Self) {
        if Arc::ptr_eq(&self.slots, &before.slots) {
            crate::places::resize(&self.slots, most(&before.config), most(&self.config));
        }
    }

    /// A place, if one is free.
    pub fn enter_now(&self) -> Option<InFlight> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(InFlight)
    }

    /// A place among the requests this upstream may run at once; `None` when all are taken. For a model of ours as
    /// many again may wait for one, since there is nothing else to go to. Cancel-safe.
    pub async fn enter(&self) -> Option<InFlight> {
        if let Some(place) = self.enter_now() {
            return Some(place);
        }
        if !self.config.local {
            return None;
        }
        let _queued = Queued::join(&self.queued, self.config.max_in_flight)?;
        Arc::clone(&self.slots).acquire_owned().await.ok().map(InFlight)
    }
}

fn most(config: &used::Upstream) -> usize {
    config.max_in_flight.min(Semaphore::MAX_PERMITS)
}

/// A taken place; given back when dropped.
#[derive(Debug)]
pub struct InFlight(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// A place in a bounded line.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn join(line: &'a AtomicUsize, most: usize) -> Option<Self> {
        let joined = line.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < most).then_some(n + 1));
        joined.ok().map(|_| Self(line))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An upstream reached through one egress.
#[derive(Debug)]
pub struct Path {
    /// Its number on this node.
    pub index: usize,
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
    pub in_flight: Arc<AtomicUsize>,
    /// The same way with connections of its own, for probes and made-up requests: they must neither wait behind
    /// users' requests nor leave connections to another thread's reactor. `None` on such a path itself.
    pub aside: Option<Arc<Path>>,
}

impl Path {
    /// `connect` of the upstream.
    pub fn connect_timeout(&self) -> Duration {
        self.upstream.config.timeouts.connect
    }
}
