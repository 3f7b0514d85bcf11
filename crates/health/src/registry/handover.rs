//! From one configuration to the next: what has stayed keeps all that is known of it, what is new begins on the ramp.
//!
//! Knowledge is shared, not copied: an attempt that was begun under the old configuration ends in the breaker that the
//! new one reads. What the old registry notes of it after that, it passes on to its heir, since peers are told by that
//! one alone. The old registry is not to be ticked any more. Not here: which upstream is still the same (the gateway).

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::{
    Choosers, EgressHealth, Observer, PathHealth, PathKnown, Registry, RouteHealth, Setup, Subject,
    UpstreamHealth, UpstreamKnown, UpstreamSetup, fleet, table,
};
use crate::breaker::{Breaker, Transition};
use crate::gate::Gate;
use crate::mark::Mark;

impl PathKnown {
    fn new(upstream: Option<&UpstreamSetup>, now: Instant) -> Self {
        let rules = upstream.map(|upstream| Arc::clone(&upstream.rules)).unwrap_or_default();
        let local = upstream.is_some_and(|upstream| upstream.local);
        Self {
            gate: Gate::new(Breaker::new(rules, local, fastrand::u64(..), now)),
            cells: table(),
            network: Mutex::default(),
            good: Mark::new(now),
            bad: Mark::new(now),
            bad_in_a_row: AtomicU32::new(0),
            failed: Mark::new(now),
            used: Mark::new(now),
            suspect: Notify::new(),
            others: AtomicBool::new(false),
            trickling: AtomicU32::new(0),
            answers_probes: AtomicBool::new(false),
            reached: Mark::new(now),
            asked: Mark::new(now),
        }
    }
}

impl Registry {
    /// The registry of the configuration that follows this one. What `setup` says was here before keeps its breakers,
    /// estimates and divisions, under the rules that it has now; all else is new and begins on the ramp.
    /// Nothing has changed for this one until [`Registry::hand_over`].
    #[must_use]
    pub fn next(&self, setup: Setup, now: Instant) -> Self {
        Self::build(setup, Arc::clone(&self.observer), Some(self), now)
    }

    /// From now on `heir` is the one that is told, ticks and speaks for this node.
    pub fn hand_over(&self, heir: &Arc<Self>, now: Instant) {
        *heir.fleet() = self.fleet().renamed(|subject| self.in_heir(subject, heir));
        heir.cut_off.store(self.is_cut_off(), Relaxed);
        heir.recovering.store(self.recovering.load(Relaxed), Relaxed);
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(heir);
        heir.adopt_rules(now);
        for (path, health) in heir.paths.iter().enumerate() {
            let is_new = !self.paths.iter().any(|old| Arc::ptr_eq(&old.known, &health.known));
            if is_new {
                // An operator's word is on the name, whatever it stands for now.
                let before = self.path_named(&health.name).and_then(|path| self.paths.get(path));
                let forced = before.and_then(|before| before.gate.with(now, |breaker| breaker.forced()));
                let change = health.gate.with(now, |breaker| match forced {
                    Some(state) => breaker.force(Some(state), now),
                    None => Some(breaker.begin(now)),
                });
                heir.note(Subject::Path(path), change);
            }
        }
        heir.look_around();
    }

    /// Breakers that were here before go on by the rules of this configuration.
    fn adopt_rules(&self, now: Instant) {
        for health in &self.paths {
            let Some(upstream) = self.upstreams.get(health.upstream) else { continue };
            health.gate.with(now, |breaker| breaker.rule(Arc::clone(&upstream.rules), upstream.local, now));
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            for (model, service) in self.services(index) {
                service.reasoning.store(self.is_reasoning(model, &upstream.rules), Relaxed);
                service
                    .gate
                    .with(now, |breaker| breaker.rule(Arc::clone(&upstream.rules), upstream.local, now));
            }
        }
    }

    /// The same subject in `heir`, if it is still there.
    fn in_heir(&self, subject: Subject, heir: &Self) -> Option<Subject> {
        match subject {
            Subject::Path(path) => {
                let known = &self.paths.get(path)?.known;
                heir.paths.iter().position(|other| Arc::ptr_eq(&other.known, known)).map(Subject::Path)
            }
            Subject::Service(upstream, model) => {
                let known = &self.upstreams.get(upstream)?.known;
                let at = heir.upstreams.iter().position(|other| Arc::ptr_eq(&other.known, known))?;
                Some(Subject::Service(at, model))
            }
        }
    }

    /// The registry in force, where it is another one.
    pub(super) fn heir(&self) -> Option<Arc<Self>> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        latest.filter(|latest| !std::ptr::eq(Arc::as_ptr(latest), self))
    }

    /// Tells the registry in force of a change; gives it back where that one knows nothing of the subject.
    pub(super) fn pass_on(&self, subject: Subject, change: Transition, heir: &Self) -> Option<Transition> {
        let Some(subject) = self.in_heir(subject, heir) else { return Some(change) };
        heir.note(subject, Some(change));
        None
    }

    pub(super) fn build(setup: Setup, observer: Observer, old: Option<&Self>, now: Instant) -> Self {
        let Setup { paths, upstreams, egress, routes } = setup;
        let was: Vec<Option<usize>> = paths.iter().map(|path| path.was).collect();
        let paths: Vec<PathHealth> = paths
            .into_iter()
            .map(|path| PathHealth {
                known: path
                    .was
                    .and_then(|was| Some(Arc::clone(&old?.paths.get(was)?.known)))
                    .unwrap_or_else(|| Arc::new(PathKnown::new(upstreams.get(path.upstream), now))),
                name: path.name,
                upstream: path.upstream,
                egress: path.egress,
                probed: path.probed,
            })
            .collect();
        let upstreams = upstreams.into_iter().map(|upstream| UpstreamHealth {
            known: upstream
                .was
                .and_then(|was| Some(Arc::clone(&old?.upstreams.get(was)?.known)))
                .unwrap_or_else(|| {
                    Arc::new(UpstreamKnown { services: table(), others: AtomicBool::new(false) })
                }),
            name: upstream.name,
            rules: upstream.rules,
            local: upstream.local,
            weight: upstream.weight,
        });
        let egress = egress.into_iter().map(|egress| EgressHealth {
            state: egress
                .was
                .and_then(|was| Some(Arc::clone(&old?.egress.get(was)?.state)))
                .unwrap_or_default(),
            name: egress.name,
        });
        let choosers = |paths: &[usize]| -> Choosers {
            let before: Option<Vec<usize>> =
                paths.iter().map(|path| was.get(*path).copied().flatten()).collect();
            let same = |old: &&RouteHealth| before.as_ref().is_some_and(|before| *before == old.paths);
            old.and_then(|old| old.routes.iter().find(same))
                .map_or_else(|| table().into(), |old| Arc::clone(&old.choosers))
        };
        let routes = routes.into_iter().map(|route| RouteHealth {
            choosers: choosers(&route.paths),
            paths: route.paths,
            fallback: route.fallback,
            choice: route.choice,
        });
        let registry = Self {
            routes: routes.collect(),
            egress: egress.collect(),
            upstreams: upstreams.collect(),
            paths,
            models: old.map(|old| Arc::clone(&old.models)).unwrap_or_default(),
            observer,
            recovering: AtomicU32::new(0),
            cut_off: AtomicBool::new(false),
            fleet: Mutex::new(fleet::Shared::default()),
            born: old.map_or(now, |old| old.born),
            latest: old.map(|old| Arc::clone(&old.latest)).unwrap_or_default(),
        };
        registry.look_around();
        registry
    }
}
