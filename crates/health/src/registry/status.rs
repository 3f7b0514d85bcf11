//! What operators see of all this.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Registry;
use crate::breaker::{Breaker, Progress, Reason, State};

/// A path as an operator sees it: the worst of its own and its models' states.
#[derive(Debug, Clone)]
pub struct PathStatus {
    /// The worst.
    pub state: State,
    /// Of its normal traffic, 0 to 1: the least.
    pub share: f64,
    /// Of the path's own breaker alone: models without trouble flow by it.
    pub own_state: State,
    /// The part of its normal traffic that the path's own breaker lets through, 0 to 1.
    pub own_share: f64,
    /// A probe, there and back.
    pub network: Option<Duration>,
    /// To the first content, of the model used last.
    pub first: Option<Duration>,
    /// In the window.
    pub failures: u32,
    /// At least.
    pub open_for: Option<Duration>,
    /// In this state.
    pub since: Duration,
    /// Why it is not closed, or was not.
    pub reason: Option<Reason>,
    /// The counts or times that decided; an upstream may have said some of it.
    pub evidence: String,
    /// How far the way back is.
    pub progress: Option<Progress>,
    /// Models whose state differs from the path's own.
    pub models: Vec<ModelStatus>,
}

/// A model of a path's upstream that stands apart.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// Its name.
    pub model: Arc<str>,
    /// Its state.
    pub state: State,
    /// Of its normal traffic, 0 to 1.
    pub share: f64,
    /// Why.
    pub reason: Option<Reason>,
}

/// An egress as an operator sees it.
#[derive(Debug, Clone)]
pub struct EgressStatus {
    /// Unique.
    pub name: String,
    /// The last handshakes through it worked; `None`: not tried yet.
    pub up: Option<bool>,
    /// Of the last one that worked.
    pub latency: Option<Duration>,
    /// What the last one failed by; empty: it worked.
    pub detail: String,
}

/// One breaker, read under one lock.
struct Read {
    state: State,
    share: f64,
    failures: u32,
    open_for: Option<Duration>,
    since: Duration,
    reason: Option<Reason>,
    evidence: String,
    progress: Option<Progress>,
}

impl Read {
    fn of(breaker: &mut Breaker, now: Instant) -> Self {
        Self {
            state: breaker.state(),
            share: breaker.share(),
            failures: breaker.failures(now),
            open_for: breaker.open_until().map(|at| at.saturating_duration_since(now)),
            since: now.saturating_duration_since(breaker.since()),
            reason: breaker.reason(),
            evidence: breaker.evidence().to_owned(),
            progress: breaker.progress(now),
        }
    }
}

fn badness(state: State) -> usize {
    State::ALL.iter().position(|s| *s == state).unwrap_or_default()
}

impl Registry {
    /// One path.
    #[must_use]
    pub fn path_status(&self, path: usize, now: Instant) -> Option<PathStatus> {
        let health = self.paths.get(path)?;
        let own = health.gate.with(now, |breaker| Read::of(breaker, now));
        let mut status = PathStatus {
            state: own.state,
            share: own.share,
            own_state: own.state,
            own_share: own.share,
            network: health.network.lock().unwrap_or_else(PoisonError::into_inner).get(),
            first: None,
            failures: own.failures,
            open_for: own.open_for,
            since: own.since,
            reason: own.reason,
            evidence: own.evidence,
            progress: own.progress,
            models: Vec::new(),
        };
        let mut latest = Duration::MAX;
        for (model, service) in self.services(health.upstream) {
            let read = service.gate.with(now, |breaker| Read::of(breaker, now));
            status.failures += read.failures;
            if let Some(cell) = self.known_cell(path, model)
                && let Some(used) = cell.used.since(now).filter(|used| *used <= latest)
            {
                let streamed = cell.measured(1, now).0.get();
                if let Some(first) = streamed.or_else(|| cell.measured(0, now).0.get()) {
                    status.first = Some(first);
                    latest = used;
                }
            }
            if read.state != own.state
                && let Some(name) = self.models.name(model)
            {
                status.models.push(ModelStatus {
                    model: name,
                    state: read.state,
                    share: read.share.min(status.share),
                    reason: read.reason,
                });
            }
            let worse = badness(read.state) > badness(status.state);
            if worse {
                status.state = read.state;
                status.share = status.share.min(read.share);
                status.open_for = read.open_for;
                status.progress = read.progress;
            }
            if worse || status.reason.is_none() && read.state == status.state && read.reason.is_some() {
                status.since = read.since;
                status.reason = read.reason;
                status.evidence = read.evidence;
            }
        }
        Some(status)
    }

    /// All ways out, in the order of the file.
    #[must_use]
    pub fn egress_status(&self) -> Vec<EgressStatus> {
        let status = |health: &super::EgressHealth| {
            let state = health.state.lock().unwrap_or_else(PoisonError::into_inner);
            EgressStatus {
                name: health.name.clone(),
                up: state.up,
                latency: state.latency,
                detail: state.detail.clone(),
            }
        };
        self.egress.iter().map(status).collect()
    }
}
