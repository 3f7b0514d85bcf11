//! Copies of live requests, and made-up ones, that a recovering path is tried with: who gets one, when, and what
//! its outcome changes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Registry, Subject};
use crate::breaker::{Claim, State, Verdict};

/// A model of ours is asked this many times as seldom as made-up requests are sent elsewhere, always, so that it is
/// known to work before it is needed.
const CANARY: u32 = 3;
/// A path whose last attempts failed and which has no traffic is asked this often until it is known what it is.
const DOUBT: Duration = Duration::from_secs(1);
/// Idle routes' recoveries are not worth much: after these times made-up requests become this much rarer.
const QUIET: [(Duration, u32); 2] = [(Duration::from_secs(3600), 30), (Duration::from_secs(600), 6)];

/// Leave to try a recovering path once. Dropped, nothing was shown.
#[derive(Debug)]
pub struct Shadow {
    registry: Arc<Registry>,
    /// The path to try.
    pub path: usize,
    /// The model, by number.
    pub model: usize,
    claims: [Option<(Subject, Claim)>; 2],
}

/// A made-up request that is due.
#[derive(Debug)]
pub enum MadeUp {
    /// To prove a recovery; the model is not known where no request has gone there yet.
    Recovery(Shadow),
    /// To keep a model of ours tried, or to know what is wrong with a path that traffic has left.
    Canary {
        /// Over which path.
        path: usize,
        /// Which model.
        model: usize,
    },
}

impl Shadow {
    /// Tells what came of it.
    pub fn judge(mut self, verdict: &Verdict, now: Instant) {
        self.settle(verdict, now);
    }

    /// Slower than this does not count as recovered.
    #[must_use]
    pub fn in_time(&self, kind: usize, size: usize, now: Instant) -> Duration {
        let registry = &self.registry;
        let Some(upstream) = registry.paths.get(self.path).and_then(|p| registry.upstreams.get(p.upstream))
        else {
            return Duration::MAX;
        };
        let recovery = &upstream.rules.recovery;
        let usual =
            registry.service_of(self.path, self.model).and_then(|service| service.p95(kind, size, now));
        usual
            .map_or(upstream.rules.breaker.slow_after, |p95| p95.mul_f64(recovery.max_latency_ratio))
            .max(recovery.latency_floor)
    }

    fn settle(&mut self, verdict: &Verdict, now: Instant) {
        for (subject, claim) in std::mem::take(&mut self.claims).into_iter().flatten() {
            let around = self.registry.around(subject);
            let change = self
                .registry
                .gate(subject)
                .and_then(|gate| gate.with(now, |breaker| breaker.judge(claim, verdict, around, now)));
            self.registry.note(subject, change);
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        if self.claims.iter().any(Option::is_some) {
            // Nothing but places in flight depends on the time here.
            let now = self.registry.born;
            self.settle(&Verdict::Void, now);
        }
    }
}

impl Registry {
    /// Some breaker wants copies; cheap enough to ask on every request.
    #[must_use]
    pub fn wants_shadows(&self) -> bool {
        self.recovering.load(Relaxed) > 0
    }

    /// Leave to send a copy of a request of `route` and `model` to a recovering path of the same route.
    pub fn shadow(self: &Arc<Self>, route: usize, model: usize, now: Instant) -> Option<Shadow> {
        let health = self.routes.get(route)?;
        health.paths.iter().find_map(|path| {
            let sample = self.upstreams.get(self.paths.get(*path)?.upstream)?.rules.recovery.shadow_sample;
            let wanted = self.is_wanted(*path, model) && fastrand::f64() < sample;
            if wanted { self.claim(*path, model, false, now) } else { None }
        })
    }

    /// A copy over this path would prove something and may be sent.
    fn is_wanted(&self, path: usize, model: usize) -> bool {
        let Some((way, service)) = self.views(path, model) else { return false };
        let service = service.map_or(State::Closed, |view| view.state);
        let shut = |state| matches!(state, State::Open | State::Disabled);
        let shadows = |state| state == State::Shadowing;
        !shut(way.state) && !shut(service) && (shadows(way.state) || shadows(service))
    }

    fn claim(self: &Arc<Self>, path: usize, model: usize, made_up: bool, now: Instant) -> Option<Shadow> {
        let upstream = self.paths.get(path)?.upstream;
        let claim = |subject| {
            let gate = self.gate(subject)?;
            let nodes = self.triers(subject, now)?;
            let claim = gate.with(now, |breaker| breaker.claim_among(made_up, nodes, now))?;
            Some((subject, claim))
        };
        let claims = [claim(Subject::Path(path)), claim(Subject::Service(upstream, model))];
        claims.iter().any(Option::is_some).then(|| Shadow { registry: Arc::clone(self), path, model, claims })
    }

    /// Made-up requests that are due now: for recoveries and ramps that live traffic does not feed, for doubts, and for
    /// models of ours at all times. What concerns a path is asked with the model used last.
    pub fn made_up(self: &Arc<Self>, now: Instant) -> Vec<MadeUp> {
        let mut due = Vec::new();
        let nodes = self.nodes_alone();
        for (path, health) in self.paths.iter().enumerate() {
            let Some(upstream) = self.upstreams.get(health.upstream) else { continue };
            let way = health.gate.view().state;
            if matches!(way, State::Open | State::Disabled) {
                continue;
            }
            let models: Vec<(Duration, usize)> = self.askable(path, now).collect();
            let latest = models.iter().min().map(|(_, model)| *model);
            for (quiet, model) in models {
                let Some(service) = self.service(health.upstream, model, now) else { continue };
                let Some(cell) = self.cell(path, model, now) else { continue };
                let recovers = |state| matches!(state, State::Shadowing | State::Ramping);
                let is_latest = latest == Some(model);
                let rules = &upstream.rules.synthetic;
                let interval = rules.interval * rarer(quiet);
                let rested = |than: Duration| cell.made_up.since(now).is_none_or(|since| since >= than);
                let state = service.gate.view().state;
                if recovers(state) || (recovers(way) && is_latest) {
                    let shadows = state == State::Shadowing || (way == State::Shadowing && is_latest);
                    let interval = if shadows { interval * nodes } else { interval };
                    // A model of ours is never sent copies, so made-up requests do not wait for them.
                    let lacking = upstream.local
                        || quiet.min(self.recovering_for(path, service, now)) >= rules.after_idle;
                    if lacking
                        && rested(interval)
                        && let Some(shadow) = self.claim(path, model, true, now)
                    {
                        cell.made_up.set(now);
                        due.push(MadeUp::Recovery(shadow));
                    }
                    continue;
                }
                let canary = rules.interval * CANARY;
                let unused = service.good.since(now).is_none_or(|since| since >= canary);
                let ours =
                    upstream.local && (service.named.load(Relaxed) || is_latest) && unused && rested(canary);
                let doubt =
                    self.is_in_doubt(path, service, is_latest, now) && quiet >= DOUBT && rested(DOUBT);
                if ours || doubt {
                    cell.made_up.set(now);
                    due.push(MadeUp::Canary { path, model });
                }
            }
            if latest.is_none()
                && matches!(way, State::Shadowing | State::Ramping)
                && health.used.since(now).is_none_or(|since| since >= upstream.rules.synthetic.interval)
                && let Some(shadow) = self.claim(path, crate::models::NONE, true, now)
            {
                health.used.set(now);
                due.push(MadeUp::Recovery(shadow));
            }
        }
        due
    }

    /// Some model of a path could be asked for, were it not shut.
    pub(super) fn is_askable(&self, path: usize) -> bool {
        let upstream = self.paths.get(path).map_or(usize::MAX, |health| health.upstream);
        self.services(upstream).any(|(model, service)| {
            !matches!(model, crate::models::NONE | crate::models::OTHER) && !service.unaskable.load(Relaxed)
        })
    }

    /// The models a path can be asked for by made-up requests, with how long no live request has gone there. Many
    /// models share the last number, and none of them is called what it is.
    fn askable(&self, path: usize, now: Instant) -> impl Iterator<Item = (Duration, usize)> {
        let upstream = self.paths.get(path).map_or(usize::MAX, |health| health.upstream);
        self.services(upstream).filter_map(move |(model, service)| {
            let nameless = matches!(model, crate::models::NONE | crate::models::OTHER);
            let shut = matches!(service.gate.view().state, State::Open | State::Disabled);
            let quiet = self.known_cell(path, model).and_then(|cell| cell.used.since(now));
            let quiet = quiet.unwrap_or_else(|| now.saturating_duration_since(self.born));
            (!nameless && !shut && !service.unaskable.load(Relaxed)).then_some((quiet, model))
        })
    }

    /// The last attempts failed. Traffic already goes elsewhere, so that nothing but a made-up request would show
    /// whether it is broken.
    fn is_in_doubt(&self, path: usize, service: &super::Service, is_latest: bool, now: Instant) -> bool {
        let doubt = |gate: &crate::gate::Gate| gate.with(now, |breaker| breaker.is_in_doubt());
        doubt(&service.gate) || (is_latest && self.paths.get(path).is_some_and(|health| doubt(&health.gate)))
    }

    /// A model that is asked for before any client does.
    pub fn expect(&self, upstream: usize, model: usize, now: Instant) {
        if let Some(service) = self.service(upstream, model, now) {
            service.named.store(true, Relaxed);
        }
    }

    /// Since when live requests could have been copied, or sent, to what recovers here.
    fn recovering_for(&self, path: usize, service: &super::Service, now: Instant) -> Duration {
        let since = |gate: &crate::gate::Gate| {
            gate.with(now, |b| (b.state() != State::Closed).then(|| now.saturating_duration_since(b.since())))
        };
        let way = self.paths.get(path).and_then(|health| since(&health.gate));
        way.into_iter().chain(since(&service.gate)).min().unwrap_or_default()
    }

    /// A copy of a live request goes out over a path: live traffic is not lacking.
    pub fn mirrored(&self, path: usize, model: usize, now: Instant) {
        if let Some(cell) = self.cell(path, model, now) {
            cell.used.set(now);
        }
    }

    pub(super) fn gate(&self, subject: Subject) -> Option<&crate::gate::Gate> {
        match subject {
            Subject::Path(path) => self.paths.get(path).map(|health| &health.gate),
            Subject::Service(upstream, model) => {
                let services = &self.upstreams.get(upstream)?.services;
                services.get(model)?.get().map(|service| &service.gate)
            }
        }
    }
}

fn rarer(quiet: Duration) -> u32 {
    QUIET.iter().find(|(than, _)| quiet >= *than).map_or(1, |(_, factor)| *factor)
}
