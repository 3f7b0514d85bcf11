//! Active probes: when the next one is due and what its result means. Sending is the gateway's.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Registry, Subject};
use crate::breaker::{Reason, State};

/// After a failure, and between two passes that end a rest.
const SOON: Duration = Duration::from_secs(1);
/// A path without requests for this long is probed seldom.
const IDLE: Duration = Duration::from_secs(600);
const IDLE_FACTOR: u32 = 12;
/// Intervals vary by this much, so that nodes and paths do not probe in step.
const JITTER: f64 = 0.2;
/// There and back is averaged over this long.
const TAU: Duration = Duration::from_secs(30);
/// Failed handshakes in a row that show an egress to be down.
const EGRESS_FAILURES: u32 = 3;

/// What an egress showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// The handshake through it worked, in this time.
    Yes(Duration),
    /// It does not let us through, for certain: a wrong login.
    Refused(String),
    /// It did not answer, or could not connect.
    No(String),
}

impl Registry {
    /// Returns when the next probe of a path is due, the first one at once, and notes that it is sent now. Cancel-safe.
    pub async fn probe_due(&self, path: usize, interval: Duration, now: impl Fn() -> Instant) {
        let Some(health) = self.paths.get(path) else { return std::future::pending().await };
        self.until_due(health, interval, &now).await;
        health.asked.set(now());
    }

    async fn until_due(&self, health: &super::PathHealth, interval: Duration, now: impl Fn() -> Instant) {
        let Some(elapsed) = health.asked.since(now()) else { return };
        let soon = interval.min(SOON);
        let wait = {
            let state = health.gate.view().state;
            let (suspect, passing) = health.gate.with(now(), |b| (b.is_suspect(), b.probe_passed_once()));
            if suspect || (passing && state == State::Open) {
                soon
            } else if health.used.since(now()).unwrap_or_else(|| now().saturating_duration_since(self.born))
                > IDLE
                && state == State::Closed
            {
                interval * IDLE_FACTOR
            } else {
                interval
            }
        };
        let wait = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        let asked = now().checked_sub(elapsed).unwrap_or_else(&now);
        tokio::select! {
            () = tokio::time::sleep(wait.saturating_sub(elapsed)) => {}
            () = async {
                health.suspect.notified().await;
                tokio::time::sleep(soon.saturating_sub(now().saturating_duration_since(asked))).await;
            } => {}
        }
    }

    /// A probe came back: there and back in `Ok`, else what failed.
    pub fn probed(&self, path: usize, result: Result<Duration, String>, now: Instant) {
        let Some(health) = self.paths.get(path) else { return };
        match result {
            Ok(took) => {
                health.network.lock().unwrap_or_else(PoisonError::into_inner).observe(took, now, TAU);
                let change = health.gate.with(now, |breaker| breaker.probe(true, now));
                self.note(Subject::Path(path), change);
                health.answers_probes.store(true, Relaxed);
                health.reached.set(now);
                self.probed_services(health.upstream, true, now);
            }
            Err(why) => {
                health.is_bad(now);
                let change = health.gate.with(now, |breaker| breaker.probe(false, now)).map(|mut change| {
                    change.evidence = format!("{}; the last: {why}", change.evidence);
                    change
                });
                self.note(Subject::Path(path), change);
                health.answers_probes.store(false, Relaxed);
                let some_way = |other: &super::PathHealth| {
                    other.upstream == health.upstream && other.answers_probes.load(Relaxed)
                };
                if !self.paths.iter().any(some_way) {
                    self.probed_services(health.upstream, false, now);
                }
            }
        }
    }

    /// Tells the models of an upstream that it can be reached some way, or none: while none, a copy of a request would
    /// only cost another setback.
    fn probed_services(&self, upstream: usize, passed: bool, now: Instant) {
        for (model, service) in self.services(upstream) {
            if passed || service.gate.view().state == State::Open {
                let change = service.gate.with(now, |breaker| breaker.probe(passed, now));
                self.note(Subject::Service(upstream, model), change);
            }
        }
    }

    /// An egress was tried by a handshake through it.
    pub fn reached(&self, egress: usize, result: &Reached, now: Instant) {
        let Some(health) = self.egress.get(egress) else { return };
        let down = {
            let mut state = health.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.tried = Some(now);
            match result {
                Reached::Yes(took) => {
                    state.up = Some(true);
                    state.latency = Some(*took);
                    state.failed = 0;
                    state.detail.clear();
                    None
                }
                Reached::Refused(why) | Reached::No(why) => {
                    state.failed += 1;
                    state.detail.clone_from(why);
                    let certain = matches!(result, Reached::Refused(_));
                    let down = certain || state.failed >= EGRESS_FAILURES;
                    if down {
                        state.up = Some(false);
                    }
                    down.then_some(if certain { Reason::ProxyLogin } else { Reason::Egress })
                }
            }
        };
        // `direct` has no proxy that could be to blame: what fails over it are the upstreams.
        if let (Some(reason), Reached::Refused(why) | Reached::No(why)) = (down, result)
            && egress != 0
        {
            self.open_all(|path| path.egress == egress, reason, why, now);
        }
    }

    /// How long ago an egress was last tried; `None`: never.
    #[must_use]
    pub fn egress_tried(&self, egress: usize, now: Instant) -> Option<Duration> {
        let tried = self.egress.get(egress)?.state.lock().unwrap_or_else(PoisonError::into_inner).tried;
        tried.map(|tried| now.saturating_duration_since(tried))
    }

    /// The latest handshake with an egress failed, so that it is tried again soon.
    #[must_use]
    pub fn egress_fails(&self, egress: usize) -> bool {
        self.egress
            .get(egress)
            .is_some_and(|e| e.state.lock().unwrap_or_else(PoisonError::into_inner).failed > 0)
    }
}
