//! Everything this node knows of its paths, and the only place where it is written.
//!
//! Owns a gate per path and per model of an upstream, the estimates of every model over every path, and the
//! division of each route's traffic. Requests read atomics; outcomes take one short lock each; what must happen
//! without any request (rests that end, ramps that rise, shares that shift) happens in `tick`.
//! A registry stands for one configuration; the next one takes over what is known of all that has stayed (`handover`).
//! Not here: sending (the gateway), one breaker's rules (`breaker`), the division itself (`tidegate_router::share`).

mod choose;
mod fleet;
mod flight;
mod handover;
mod probe;
mod setup;
mod shadow;
mod status;

mod tick;

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tidegate_config::used::{Choice, Health};
use tidegate_router::estimate::Estimate;
use tokio::sync::Notify;

use crate::baseline::Baseline;
use crate::breaker::{Around, Breaker, Reason, State, Transition};
use crate::cell::{Cell, KINDS};
use crate::gate::{Gate, View};
use crate::mark::Mark;
use crate::models::{self, Models};
pub use choose::{Ask, Chosen, DivisionStatus, Part, Trickle};
pub use fleet::{PeerSays, Report, Said, SubjectName};
pub use flight::Flight;
pub use probe::Reached;
pub use setup::{EgressSetup, PathSetup, RouteSetup, Setup, UpstreamSetup};
pub use shadow::{MadeUp, Shadow};
pub use status::{EgressStatus, ModelStatus, PathStatus};

/// What a breaker stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A path, by index.
    Path(usize),
    /// A model of an upstream, both by index.
    Service(usize, usize),
}

/// A transition, named.
#[derive(Debug)]
pub struct Event {
    /// The path, or the upstream.
    pub name: String,
    /// The model, where only that is concerned.
    pub model: Option<Arc<str>>,
    /// What changed.
    pub transition: Transition,
}

/// Told of every transition, under no lock.
pub type Observer = Arc<dyn Fn(&Event) + Send + Sync>;

/// The registry.
pub struct Registry {
    paths: Vec<PathHealth>,
    upstreams: Vec<UpstreamHealth>,
    egress: Vec<EgressHealth>,
    routes: Vec<RouteHealth>,
    models: Arc<Models>,
    observer: Observer,
    /// Breakers that want copies of requests, so that a request looks no further when there are none.
    recovering: AtomicU32,
    cut_off: AtomicBool,
    /// Never held while a gate is.
    fleet: Mutex<fleet::Shared>,
    born: Instant,
    /// The one in force, shared by all that have followed each other: what is noted here after another has taken over
    /// is noted there. Empty until then.
    latest: Arc<Mutex<Weak<Self>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("paths", &self.paths.len()).finish_non_exhaustive()
    }
}

/// A path in this configuration.
struct PathHealth {
    name: String,
    upstream: usize,
    egress: usize,
    probed: bool,
    known: Arc<PathKnown>,
}

/// What is known of a path, whatever the configuration.
struct PathKnown {
    gate: Gate,
    cells: Vec<OnceLock<Box<Cell>>>,
    /// Time of a probe there and back. Written by its prober alone.
    network: Mutex<Estimate>,
    good: Mark,
    /// The last failure that the way itself may be to blame for.
    bad: Mark,
    /// Failures that speak of the path since the last answer over it.
    bad_in_a_row: AtomicU32,
    /// The last failure of a request.
    failed: Mark,
    used: Mark,
    suspect: Notify,
    others: AtomicBool,
    trickling: AtomicU32,
    /// The last probe was answered.
    answers_probes: AtomicBool,
    /// The last probe that was.
    reached: Mark,
    /// The last probe that was sent.
    asked: Mark,
}

impl Deref for PathHealth {
    type Target = PathKnown;

    fn deref(&self) -> &PathKnown {
        &self.known
    }
}

/// An upstream in this configuration.
struct UpstreamHealth {
    name: String,
    rules: Arc<Health>,
    local: bool,
    weight: f64,
    known: Arc<UpstreamKnown>,
}

/// What is known of an upstream, whatever the configuration.
struct UpstreamKnown {
    services: Vec<OnceLock<Box<Service>>>,
    others: AtomicBool,
}

impl Deref for UpstreamHealth {
    type Target = UpstreamKnown;

    fn deref(&self) -> &UpstreamKnown {
        &self.known
    }
}

/// A model of an upstream, whichever way.
struct Service {
    gate: Gate,
    reasoning: AtomicBool,
    /// By kind. Held while a sample is added or a percentile read.
    baselines: Mutex<[Baseline; KINDS]>,
    used: Mark,
    good: Mark,
    /// What the caller called the kind of the last request: which endpoint.
    form: AtomicU32,
    /// Clients use it at endpoints that nothing can be made up for.
    unaskable: AtomicBool,
    /// The configuration names it.
    named: AtomicBool,
    /// An upstream's own word on what is left of a limit, in 1/1000, and when it said so.
    remaining: AtomicU32,
    remaining_at: Mark,
}

struct EgressHealth {
    name: String,
    state: Arc<Mutex<EgressState>>,
}

#[derive(Default)]
struct EgressState {
    up: Option<bool>,
    latency: Option<Duration>,
    failed: u32,
    detail: String,
    tried: Option<Instant>,
}

struct RouteHealth {
    paths: Vec<usize>,
    fallback: Vec<Vec<usize>>,
    choice: Choice,
    choosers: Choosers,
}

/// By model. Routes with the same paths in the same order divide alike, so the next configuration's route takes them over.
type Choosers = Arc<[OnceLock<Box<choose::Chooser>>]>;

fn table<T>() -> Vec<OnceLock<Box<T>>> {
    (0..models::TABLE).map(|_| OnceLock::new()).collect()
}

impl Registry {
    /// All closed. Nothing is known yet.
    #[must_use]
    pub fn new(setup: Setup, observer: Observer, now: Instant) -> Self {
        Self::build(setup, observer, None, now)
    }

    /// The number of a model, for all calls below.
    pub fn model(&self, name: Option<&str>) -> usize {
        self.models.index(name)
    }

    /// The number of a path with this name.
    #[must_use]
    pub fn path_named(&self, name: &str) -> Option<usize> {
        self.paths.iter().position(|path| path.name == name)
    }

    /// Whether users' requests for a model may go over a path.
    #[must_use]
    pub fn admits(&self, path: usize, model: usize) -> bool {
        self.views(path, model).is_some_and(|(way, service)| way.admits() && service.is_none_or(View::admits))
    }

    /// Whether a path that takes requests of a model is still proving itself.
    #[must_use]
    pub fn is_ramping(&self, path: usize, model: usize) -> bool {
        let ramps = |view: View| view.state == State::Ramping;
        self.views(path, model).is_some_and(|(way, service)| ramps(way) || service.is_some_and(ramps))
    }

    /// The longest time to the first content that is still usual for a model: four times the 95th percentile; `None`
    /// where too little is known, or the model is known to think.
    #[must_use]
    pub fn usual_first(
        &self,
        path: usize,
        model: usize,
        kind: usize,
        size: usize,
        now: Instant,
    ) -> Option<Duration> {
        let service = self.service_of(path, model)?;
        if service.reasons() {
            return None;
        }
        service.p95(kind, size, now)
    }

    /// A percentile of the times to the first content of the last hour, while all was well, but no less than what is
    /// never slow; `None` where too little is known.
    #[must_use]
    pub fn percentile(
        &self,
        path: usize,
        model: usize,
        kind: usize,
        size: usize,
        percent: u8,
        now: Instant,
    ) -> Option<Duration> {
        let service = self.service_of(path, model)?;
        let floor = self.upstreams.get(self.paths.get(path)?.upstream)?.rules.recovery.latency_floor;
        let mut baselines = service.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.get_mut(kind)?.percentile(size, percent, now).map(|time| time.max(floor))
    }

    /// Another egress connected first although this path had a head start: it is not the faster one now.
    fn lost_race(&self, path: usize, model: usize, now: Instant) {
        if let Some(cell) = self.known_cell(path, model) {
            cell.failed(now);
        }
    }

    /// How long an answer took lately, in microseconds, with what failures add; `u32::MAX` where unknown.
    #[must_use]
    pub fn score(&self, path: usize, model: usize, kind: usize) -> u32 {
        let cell = self.known_cell(path, model);
        let score = cell.and_then(|cell| cell.score.get(kind));
        score.map_or(u32::MAX, |score| score.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Notes which endpoint the requests for a model go to, in the caller's numbers; `None`: one that nothing can be made
    /// up for.
    pub fn note_form(&self, path: usize, model: usize, form: Option<u32>) {
        if let Some(service) = self.service_of(path, model) {
            service.unaskable.store(form.is_none(), std::sync::atomic::Ordering::Relaxed);
            let Some(form) = form else { return };
            service.form.store(form, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The endpoint of the last request for a model; 0 where there was none.
    #[must_use]
    pub fn form(&self, path: usize, model: usize) -> u32 {
        self.service_of(path, model).map_or(0, |s| s.form.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// The name of a model's number.
    #[must_use]
    pub fn model_name(&self, model: usize) -> Option<Arc<str>> {
        self.models.name(model)
    }

    /// Lets an operator act on a path: `None` for a path or a state that cannot be.
    pub fn force(&self, path: usize, state: Option<State>, now: Instant) {
        let Some(health) = self.paths.get(path) else { return };
        let change = health.gate.with(now, |breaker| breaker.force(state, now));
        self.note(Subject::Path(path), change);
        if state == Some(State::Closed) {
            for (model, service) in self.services(health.upstream) {
                let change = service.gate.with(now, |breaker| {
                    if breaker.state() == State::Closed { None } else { breaker.force(state, now) }
                });
                self.note(Subject::Service(health.upstream, model), change);
            }
        }
        self.look_around();
    }

    /// All that was tried lately failed: it may be this node that is cut off.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn views(&self, path: usize, model: usize) -> Option<(View, Option<View>)> {
        let health = self.paths.get(path)?;
        Some((health.gate.view(), self.service_of(path, model).map(|service| service.gate.view())))
    }

    /// `None` where no request has gone yet.
    fn service_of(&self, path: usize, model: usize) -> Option<&Service> {
        let upstream = self.upstreams.get(self.paths.get(path)?.upstream)?;
        upstream.services.get(model)?.get().map(|service| &**service)
    }

    fn services(&self, upstream: usize) -> impl Iterator<Item = (usize, &Service)> {
        let services = self.upstreams.get(upstream).map(|u| u.services.as_slice()).unwrap_or_default();
        services.iter().enumerate().filter_map(|(model, service)| Some((model, &**service.get()?)))
    }

    fn service(&self, upstream: usize, model: usize, now: Instant) -> Option<&Service> {
        let health = self.upstreams.get(upstream)?;
        let make = || {
            let reasoning = self.is_reasoning(model, &health.rules);
            let breaker = Breaker::new(Arc::clone(&health.rules), health.local, fastrand::u64(..), now);
            Box::new(Service {
                gate: Gate::new(breaker),
                reasoning: AtomicBool::new(reasoning),
                baselines: Mutex::new([Baseline::new(now), Baseline::new(now)]),
                used: Mark::new(now),
                good: Mark::new(now),
                form: AtomicU32::new(0),
                unaskable: AtomicBool::new(false),
                named: AtomicBool::new(false),
                remaining: AtomicU32::new(1000),
                remaining_at: Mark::new(now),
            })
        };
        health.services.get(model).map(|slot| &**slot.get_or_init(make))
    }

    fn is_reasoning(&self, model: usize, rules: &Health) -> bool {
        let name = self.models.name(model);
        name.is_some_and(|name| rules.reasoning_models.iter().any(|glob| glob.matches(&name)))
    }

    fn cell(&self, path: usize, model: usize, now: Instant) -> Option<&Cell> {
        let health = self.paths.get(path)?;
        let stalled = self.upstreams.get(health.upstream)?.rules.breaker.stalled_after;
        health.cells.get(model).map(|slot| &**slot.get_or_init(|| Box::new(Cell::new(stalled, now))))
    }

    fn known_cell(&self, path: usize, model: usize) -> Option<&Cell> {
        self.paths.get(path)?.cells.get(model)?.get().map(|cell| &**cell)
    }

    fn around(&self, subject: Subject) -> Around {
        use std::sync::atomic::Ordering::Relaxed;
        match subject {
            Subject::Path(path) => self.paths.get(path).map_or_else(Around::default, |health| {
                // Only a recovery asks for these, and every request passes here.
                let recovers = health.gate.view().state == State::Shadowing;
                Around {
                    others: health.others.load(Relaxed),
                    probed: health.probed,
                    lenient: recovers && self.works_another_way(path),
                    untriable: recovers && !self.is_askable(path),
                }
            }),
            Subject::Service(upstream, model) => Around {
                others: self.upstreams.get(upstream).is_some_and(|u| u.others.load(Relaxed)),
                probed: false,
                lenient: false,
                untriable: matches!(model, models::NONE | models::OTHER)
                    || self
                        .upstreams
                        .get(upstream)
                        .and_then(|u| u.services.get(model)?.get())
                        .is_some_and(|s| s.unaskable.load(Relaxed)),
            },
        }
    }

    /// Another path of the same upstream takes traffic: what it leads to is sound.
    fn works_another_way(&self, path: usize) -> bool {
        let Some(health) = self.paths.get(path) else { return false };
        self.paths.iter().enumerate().any(|(other, sibling)| {
            other != path && sibling.upstream == health.upstream && sibling.gate.view().state == State::Closed
        }) && self.services(health.upstream).all(|(_, service)| service.gate.view().state == State::Closed)
    }

    /// Tells of a transition and lets those go who wait behind what has just opened.
    fn note(&self, subject: Subject, change: Option<Transition>) {
        let Some(mut transition) = change else { return };
        if let Some(heir) = self.heir() {
            let Some(mine) = self.pass_on(subject, transition, &heir) else { return };
            transition = mine;
        }
        let (name, model, gate) = match subject {
            Subject::Path(path) => {
                let Some(health) = self.paths.get(path) else { return };
                (health.name.clone(), None, &health.gate)
            }
            Subject::Service(upstream, model) => {
                let Some(health) = self.upstreams.get(upstream) else { return };
                let Some(service) = health.services.get(model).and_then(OnceLock::get) else { return };
                (health.name.clone(), self.models.name(model).or_else(|| Some("".into())), &service.gate)
            }
        };
        let waits_in_vain =
            matches!(transition.reason, Reason::Stalled | Reason::Probe | Reason::Egress | Reason::Upstream);
        if waits_in_vain && matches!(transition.to, State::Open | State::Disabled) {
            gate.abandoned.notify_waiters();
        }
        if transition.to == State::Ramping {
            self.forgive(subject, transition.at);
        }
        self.note_for_fleet(subject, &transition);
        (self.observer)(&Event { name, model, transition });
    }

    /// What was measured of something in its trouble is no guide to it once it has recovered.
    fn forgive(&self, subject: Subject, now: Instant) {
        if let Subject::Path(path) = subject
            && let Some(health) = self.paths.get(path)
        {
            health.bad_in_a_row.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        for (path, health) in self.paths.iter().enumerate() {
            let concerned = match subject {
                Subject::Path(recovered) => recovered == path,
                Subject::Service(upstream, _) => upstream == health.upstream,
            };
            for (model, service) in self.services(health.upstream).filter(|_| concerned) {
                if matches!(subject, Subject::Service(_, recovered) if recovered != model) {
                    continue;
                }
                if let Some(cell) = self.known_cell(path, model) {
                    cell.recovered([service.p95(0, 0, now), service.p95(1, 0, now)], now);
                }
            }
        }
    }

    /// What is left of a limit, in 1/1000, as an upstream's answer said.
    pub fn remaining(&self, path: usize, model: usize, per_mille: u32, now: Instant) {
        if let Some(service) = self.service_of(path, model) {
            service.remaining.store(per_mille, std::sync::atomic::Ordering::Relaxed);
            service.remaining_at.set(now);
        }
    }
}

impl Service {
    fn reasons(&self) -> bool {
        self.reasoning.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn slowest_p95(&self, kind: usize, now: Instant) -> Option<Duration> {
        let mut baselines = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.get_mut(kind)?.slowest_p95(now)
    }

    fn p95(&self, kind: usize, size: usize, now: Instant) -> Option<Duration> {
        let mut baselines = self.baselines.lock().unwrap_or_else(PoisonError::into_inner);
        baselines.get_mut(kind)?.p95(size, now)
    }
}

#[cfg(test)]
mod tests;
