//! One attempt from the moment it is sent to its end, as health sees it.

use std::sync::Arc;
use std::time::Instant;

use tidegate_router::outcome::Class;

use super::{Registry, Service, Subject};
use crate::breaker::{Permit, Signal};
use crate::cell::Cell;
use crate::evidence::{self, Detail, Scope};
use crate::waiting::Slot;

/// Later than this many times the usual is far slower.
const LAGGING: u32 = 3;

/// An attempt on its way. Dropped without a word it says nothing of the path: its client has left.
#[derive(Debug)]
pub struct Flight {
    registry: Arc<Registry>,
    path: usize,
    model: usize,
    kind: usize,
    size: usize,
    way: Permit,
    service: Permit,
    begun: Instant,
    slot: Option<Slot>,
}

impl Registry {
    /// An attempt is about to be sent. `kind` is 1 for a stream, `size` of `baseline::size_of`.
    pub fn begin(
        self: &Arc<Self>,
        path: usize,
        model: usize,
        kind: usize,
        size: usize,
        now: Instant,
    ) -> Flight {
        let permits = self.paths.get(path).and_then(|health| {
            let service = self.service(health.upstream, model, now)?;
            health.used.set(now);
            service.used.set(now);
            Some((health.gate.view().permit, service.gate.view().permit))
        });
        let none = Permit { generation: 0 };
        let (way, service) = permits.unwrap_or((none, none));
        if let Some(cell) = self.cell(path, model, now) {
            cell.used.set(now);
        }
        Flight { registry: Arc::clone(self), path, model, kind, size, way, service, begun: now, slot: None }
    }
}

impl Flight {
    /// The path it goes over.
    #[must_use]
    pub const fn path(&self) -> usize {
        self.path
    }

    /// It goes over another path after all; what was begun over the first one says nothing.
    pub fn turn_to(&mut self, path: usize, now: Instant) {
        if path != self.path {
            *self = self.registry.begin(path, self.model, self.kind, self.size, now);
        }
    }

    /// A second account of the same attempt, for what becomes of its first path.
    #[must_use]
    pub fn aside(&self, now: Instant) -> Self {
        self.registry.begin(self.path, self.model, self.kind, self.size, now)
    }

    /// Another egress connected first although this path had a head start.
    pub fn lost_race(&self, now: Instant) {
        self.registry.lost_race(self.path, self.model, now);
    }

    /// It has a place and a connection, and goes out: from now on the upstream is waited for. Before, it was ours to
    /// find room.
    pub fn sent(&mut self, now: Instant) {
        self.land();
        self.begun = now;
        let waiting =
            self.registry.known_cell(self.path, self.model).and_then(|cell| cell.waiting.get(self.kind));
        self.slot = waiting.map(|waiting| waiting.enter(now));
    }

    /// Resolves when waiting for it is vain: the path or the model turned out frozen or cut off. Cancel-safe.
    pub async fn abandoned(&self) {
        let Some((health, service)) = self.parts() else { return std::future::pending().await };
        let way = health.gate.abandoned.notified();
        let model = service.gate.abandoned.notified();
        // It may have opened before anybody listened.
        let opened = |gate: &crate::gate::Gate, permit| {
            let view = gate.view();
            !view.admits() && view.permit != permit
        };
        if opened(&health.gate, self.way) || opened(&service.gate, self.service) {
            return;
        }
        tokio::select! { () = way => {}, () = model => {} }
    }

    /// The first content is in hand.
    pub fn first(&mut self, now: Instant) {
        let latency = now.saturating_duration_since(self.begun);
        self.land();
        let registry = Arc::clone(&self.registry);
        let Some((health, service)) = self.parts() else { return };
        let Some(upstream) = registry.upstreams.get(health.upstream) else { return };
        let recovery = &upstream.rules.recovery;
        let usual = service.p95(self.kind, self.size, now);
        let slow_after = upstream.rules.breaker.slow_after;
        let late = latency
            > usual
                .map_or(slow_after, |p95| p95.mul_f64(recovery.max_latency_ratio))
                .max(recovery.latency_floor);
        let lagging = usual.is_some_and(|p95| latency > (p95 * LAGGING).max(recovery.latency_floor * 2));
        // A plain answer takes as long as it is long: what is usual has to be known.
        let slow = match (self.kind, usual) {
            _ if service.reasons() => None,
            (0, None) => None,
            (0, Some(usual)) => Some(latency > slow_after.max(usual.mul_f64(recovery.max_latency_ratio))),
            _ => Some(latency > slow_after),
        };
        health.is_good(now);
        service.good.set(now);
        if let Some(cell) = registry.known_cell(self.path, self.model) {
            cell.observe(self.kind, latency, now);
        }
        let subject = Subject::Service(health.upstream, self.model);
        let around = registry.around(subject);
        let (change, well) = service.gate.with(now, |breaker| {
            (
                breaker.first(Signal::Good { slow, lagging, late }, self.service, around, now),
                breaker.is_well(now),
            )
        });
        if well {
            let mut baselines = service.baselines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(baseline) = baselines.get_mut(self.kind) {
                baseline.observe(latency, self.size, now);
            }
        }
        registry.note(subject, change);
        let subject = Subject::Path(self.path);
        let around = registry.around(subject);
        let good = Signal::Good { slow: None, lagging: false, late };
        let change = health.gate.with(now, |breaker| breaker.first(good, self.way, around, now));
        registry.note(subject, change);
    }

    /// No usable answer came.
    pub fn failed(&mut self, class: Class, detail: Detail, now: Instant) {
        self.land();
        let registry = Arc::clone(&self.registry);
        let elsewhere = registry.answered_elsewhere(self.path, self.model, self.begun, now);
        let Some((scope, fault)) = evidence::blame(class, detail, elsewhere) else { return };
        let Some((health, service)) = self.parts() else { return };
        if let Some(cell) = registry.known_cell(self.path, self.model) {
            cell.failed(now);
        }
        health.failed.set(now);
        // An answer, however bad, came over it.
        if scope == Scope::Path || class.unknown_fate() {
            health.is_bad(now);
        }
        let (subject, gate, permit) = match scope {
            Scope::Path => (Subject::Path(self.path), &health.gate, self.way),
            Scope::Service => (Subject::Service(health.upstream, self.model), &service.gate, self.service),
        };
        let around = registry.around(subject);
        let change = gate.with(now, |breaker| breaker.first(Signal::Bad(fault), permit, around, now));
        registry.note(subject, change);
        health.suspect.notify_one();
    }

    /// A stream that had begun came to its end, or was cut by its upstream.
    pub fn end(self, cut: bool, now: Instant) {
        let Some((health, service)) = self.parts() else { return };
        let change = service.gate.with(now, |breaker| breaker.end(cut, self.service, now));
        self.registry.note(Subject::Service(health.upstream, self.model), change);
    }

    /// It waits for its first content no more.
    fn land(&mut self) {
        if let Some(slot) = self.slot.take()
            && let Some(cell) = self.registry.known_cell(self.path, self.model)
            && let Some(waiting) = cell.waiting.get(self.kind)
        {
            waiting.leave(slot);
        }
    }

    fn parts(&self) -> Option<(&super::PathHealth, &Service)> {
        let health = self.registry.paths.get(self.path)?;
        let service = self.registry.service_of(self.path, self.model)?;
        Some((health, service))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.land();
    }
}

impl Registry {
    /// Since `begun` another egress of the same upstream has answered for this model and this one has not.
    pub(super) fn answered_elsewhere(&self, path: usize, model: usize, begun: Instant, now: Instant) -> bool {
        let Some(health) = self.paths.get(path) else { return false };
        let waited = now.saturating_duration_since(begun);
        let answered = |cell: Option<&Cell>| {
            cell.and_then(|cell| cell.answered.since(now)).is_some_and(|since| since <= waited)
        };
        !answered(self.known_cell(path, model))
            && self.paths.iter().enumerate().any(|(other, sibling)| {
                other != path
                    && sibling.upstream == health.upstream
                    && answered(self.known_cell(other, model))
            })
    }
}
