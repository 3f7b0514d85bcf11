//! What operators see of all this.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Registry;
use crate::breaker::{Reason, State};

/// A path as an operator sees it: the worst of its own and its models' states.
#[derive(Debug, Clone)]
pub struct PathStatus {
    /// The worst.
    pub state: State,
    /// Of its normal traffic, 0 to 1.
    pub share: f64,
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

fn badness(state: State) -> usize {
    State::ALL.iter().position(|s| *s == state).unwrap_or_default()
}

impl Registry {
    /// One path.
    #[must_use]
    pub fn path_status(&self, path: usize, now: Instant) -> Option<PathStatus> {
        let health = self.paths.get(path)?;
        let read = |gate: &crate::gate::Gate| {
            gate.with(now, |b| (b.state(), b.share(), b.failures(now), b.open_until(), b.since(), b.reason()))
        };
        let (own, share, failures, open_until, since, reason) = read(&health.gate);
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let mut status = PathStatus {
            state: own,
            share,
            network: health.network.lock().unwrap_or_else(PoisonError::into_inner).get(),
            first: None,
            failures,
            open_for: until(open_until),
            since: now.saturating_duration_since(since),
            reason,
            models: Vec::new(),
        };
        let mut latest = Duration::MAX;
        for (model, service) in self.services(health.upstream) {
            let (state, share, failures, open_until, since, reason) = read(&service.gate);
            status.failures += failures;
            if let Some(cell) = self.known_cell(path, model)
                && let Some(used) = cell.used.since(now).filter(|used| *used <= latest)
            {
                let streamed = cell.measured(1, now).0.get();
                if let Some(first) = streamed.or_else(|| cell.measured(0, now).0.get()) {
                    status.first = Some(first);
                    latest = used;
                }
            }
            if state != own
                && let Some(name) = self.models.name(model)
            {
                status.models.push(ModelStatus {
                    model: name,
                    state,
                    share: share.min(status.share),
                    reason,
                });
            }
            if badness(state) > badness(status.state) {
                status.state = state;
                status.share = status.share.min(share);
                status.open_for = until(open_until);
                status.since = now.saturating_duration_since(since);
                status.reason = reason;
            } else if status.reason.is_none() && state == status.state && reason.is_some() {
                status.reason = reason;
                status.since = now.saturating_duration_since(since);
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
