//! How much a client, an address, a route, a model or this node may ask for.
//!
//! Owns what this node holds of shared limits: leases, reservations, denials that still hold, and what it admitted
//! while the store was away. The counters are the store's ([`crate::charge`]).
//! Slow limits, money, days and concurrency are exact: one charge per request and group, all groups at once under one
//! [`Allowance`]. Fast ones are leased, and may be exceeded by 100 ms of the limit per node.
//! The store away: each rule says whether its share of the limit is admitted here, all, or nothing; a share is the
//! limit divided by the nodes last heard of, begun at what was left. A charge without an answer may stand: it is
//! decided here and never given back. When the store answers again it is told what was admitted meanwhile.
//! Not here: which rules hold for whom, what a request will cost, and the answer a denied one gets.

mod admit;
mod allowance;
mod denials;
mod fetch;
mod grant;
mod lease;
mod link;
mod outage;
mod rule;
mod seen;
#[cfg(test)]
mod tests;
mod upkeep;
mod watch;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;

pub use self::allowance::Allowance;
use self::denials::Denials;
pub use self::grant::{Ask, Denied, Grant, Headline, Why};
use self::lease::Leases;
use self::link::Link;
use self::outage::Outage;
pub use self::rule::{Applies, Rule, Scope};
use self::seen::SeenCounters;
use self::upkeep::{Job, QUEUE, RunningCharges};
pub use self::watch::Stand;
use self::watch::Watched;
use crate::Store;
pub use tidegate_config::used::{Meter, OnStoreLoss, Pace, Smooth, Span};

/// For calls that no request waits for.
const BACKGROUND: Duration = Duration::from_millis(250);

/// The limits of a node.
#[derive(Debug)]
pub struct Limiter {
    link: Link,
    local: Store,
    leasing: bool,
    timeout: Duration,
    nodes: AtomicU32,
    seen: SeenCounters,
    denials: Denials,
    leases: Leases,
    outage: Outage,
    running: RunningCharges,
    watched: Watched,
    jobs: mpsc::Sender<Job>,
    jobs_out: Mutex<Option<mpsc::Receiver<Job>>>,
    counts: Counts,
}

impl Limiter {
    /// Limits over `store`. `local` is this process's memory, for what is counted per node and for outages.
    /// `expected_nodes` is believed until [`Limiter::set_nodes`] says otherwise; `timeout` bounds a charge that no request waits for.
    /// [`Limiter::run`] must be spawned for anything to be given back. Metrics go to the recorder installed by then.
    #[must_use]
    pub fn new(store: Store, local: Store, expected_nodes: u32, timeout: Duration) -> Arc<Self> {
        // A store of this process costs nothing to ask: nothing is leased from it.
        let leasing = store.is_shared();
        Arc::new(Self::with(store, local, expected_nodes, timeout, leasing))
    }

    fn with(store: Store, local: Store, expected_nodes: u32, timeout: Duration, leasing: bool) -> Self {
        let (jobs, jobs_out) = mpsc::channel(QUEUE);
        Self {
            link: Link::new(store),
            local,
            leasing,
            timeout,
            nodes: AtomicU32::new(expected_nodes.max(1)),
            seen: SeenCounters::new(),
            denials: Denials::new(),
            leases: Leases::default(),
            outage: Outage::default(),
            running: RunningCharges::default(),
            watched: Watched::default(),
            jobs,
            jobs_out: Mutex::new(Some(jobs_out)),
            counts: Counts::new(),
        }
    }

    /// So many nodes share a limit from now on, this one included. How long a number is good for that was heard of long
    /// ago, the caller knows.
    pub fn set_nodes(&self, n: u32) {
        self.nodes.store(n.max(1), Ordering::Relaxed);
    }

    fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }
}

/// Metrics, each looked up once.
#[derive(Debug)]
struct Counts {
    decisions: Vec<(Scope, metrics::Counter, metrics::Counter)>,
    remembered: metrics::Counter,
    dropped: metrics::Counter,
}

impl Counts {
    fn new() -> Self {
        let decision = |scope: Scope, decision: &'static str| counter!("tidegate_rate_limit_decisions_total", "scope" => scope.word(), "decision" => decision);
        let both = |scope| (scope, decision(scope, "allowed"), decision(scope, "denied"));
        Self {
            decisions: Scope::ALL.map(both).into(),
            remembered: counter!("tidegate_rate_limit_denials_cached_total"),
            dropped: counter!("tidegate_settlements_dropped_total"),
        }
    }

    fn allowed(&self, scope: Scope) {
        if let Some((_, allowed, _)) = self.decisions.iter().find(|(of, ..)| *of == scope) {
            allowed.increment(1);
        }
    }

    fn denied(&self, scope: Scope) {
        if let Some((_, _, denied)) = self.decisions.iter().find(|(of, ..)| *of == scope) {
            denied.increment(1);
        }
    }
}
