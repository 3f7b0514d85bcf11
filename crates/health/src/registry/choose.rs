//! The path of one request: reads atomics and a number drawn by the caller, takes no lock, allocates nothing.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_router::estimate::Estimate;
use tidegate_router::pick::{Field, pick};
use tidegate_router::share::{self, Shares, Standing};

use super::{Registry, RouteHealth};
use crate::breaker::State;
use crate::cell::KINDS;
use crate::gate::{View, WHOLE};
use crate::mark::Mark;

/// Older than this, an estimate is looked at again by a request now and then.
const STALE: Duration = Duration::from_secs(60);
/// An upstream that says that less than this is left of a limit, in 1/1000, gets less.
const SCARCE: u32 = 50;
const SCARCE_FOR: Duration = Duration::from_secs(10);
const SCARCE_PENALTY: Duration = Duration::from_secs(1);
/// At once where nothing has proven itself, doubled with every verified pass, at most five times.
const TRICKLE: u32 = 2;
const TRICKLE_DOUBLINGS: u32 = 5;
/// After a failure none for this part of the first rest (500 ms of 10 s).
const TRICKLE_PAUSE: u32 = 20;

/// The division of one route's and model's traffic.
#[derive(Debug)]
pub(super) struct Chooser {
    kinds: [Division; KINDS],
}

#[derive(Debug)]
struct Division {
    /// Written by the tick alone; choosing reads `shares`.
    state: Mutex<Shares>,
    /// In parts of `WHOLE`; the highest bit: in the band.
    shares: Vec<AtomicU32>,
    used: Mark,
}

const IN_BAND: u32 = 1 << 31;

/// What is asked of a choice.
pub struct Ask<F> {
    /// Of the request's model.
    pub model: usize,
    /// 1: a stream.
    pub kind: usize,
    /// Anything.
    pub random: u64,
    /// A fallback would take what the paths should not.
    pub fallback: bool,
    /// It can be moved when it fails, so that it may go over a path that is still proving itself.
    pub movable: bool,
    /// Whether a path, by its place in the route, could take it apart from its health.
    pub ready: F,
}

/// Where a request goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// The path at this place in the route.
    Path(usize),
    /// Paths that are still proving themselves should not take it.
    Fallback,
    /// No path may take it.
    Nothing,
}

/// A route's traffic of one model and kind, as an operator sees it.
#[derive(Debug, Clone)]
pub struct DivisionStatus {
    /// `None`: requests that name none.
    pub model: Option<Arc<str>>,
    /// Streams are divided apart from plain answers.
    pub streamed: bool,
    /// In the order of the route's paths.
    pub parts: Vec<Part>,
}

/// A path's part of it.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Of the path, by number.
    pub path: usize,
    /// 0 to 1.
    pub share: f64,
    /// What it was judged by: the usual time to the first content, and what failures add.
    pub score: Option<Duration>,
}

/// What one request sees of its route's paths, read once each.
struct Look<'a, F> {
    registry: &'a Registry,
    route: &'a RouteHealth,
    division: &'a Division,
    ask: &'a Ask<F>,
    /// Of the first paths; a route of more has the rest looked at each time they are asked for.
    seen: [u32; SEEN],
}

const SEEN: usize = 64;
/// Bits beside a share in parts of `WHOLE`.
const USABLE: u32 = 1 << 16;
const RAMPING: u32 = 1 << 17;
const WANTED: u32 = 1 << 18;

impl<'a, F: Fn(usize) -> bool> Look<'a, F> {
    fn new(registry: &'a Registry, route: &'a RouteHealth, division: &'a Division, ask: &'a Ask<F>) -> Self {
        let mut look = Self { registry, route, division, ask, seen: [0; SEEN] };
        for i in 0..route.paths.len().min(SEEN) {
            let word = look.look_at(i);
            if let Some(seen) = look.seen.get_mut(i) {
                *seen = word;
            }
        }
        look
    }

    fn look_at(&self, i: usize) -> u32 {
        let Some((way, service)) = self.registry.views(self.path(i), self.ask.model) else { return 0 };
        if !way.admits() || !service.is_none_or(View::admits) || !(self.ask.ready)(i) {
            return 0;
        }
        let ramping = way.state == State::Ramping || service.is_some_and(|view| view.state == State::Ramping);
        let divided = self.division.shares.get(i).map_or(0, |share| share.load(Relaxed));
        // The division is made anew only while there is traffic; a ramp may have begun since.
        let ceiling = way.share.min(service.map_or(WHOLE, |view| view.share));
        let share = if ramping && !self.ask.movable { 0 } else { (divided & !IN_BAND).min(ceiling) };
        let wanted = if divided & IN_BAND != 0 { WANTED } else { 0 };
        share | USABLE | wanted | if ramping { RAMPING } else { 0 }
    }

    fn word(&self, i: usize) -> u32 {
        self.seen.get(i).copied().unwrap_or_else(|| self.look_at(i))
    }

    fn path(&self, i: usize) -> usize {
        self.route.paths.get(i).copied().unwrap_or(usize::MAX)
    }
}

impl<F: Fn(usize) -> bool> Field for Look<'_, F> {
    fn len(&self) -> usize {
        self.route.paths.len()
    }

    fn share(&self, i: usize) -> u32 {
        self.word(i) & WHOLE
    }

    fn in_band(&self, i: usize) -> bool {
        self.word(i) & WANTED != 0
    }

    fn pending(&self, i: usize) -> u32 {
        // Of its own kind, since the shares are.
        let cell = self.registry.known_cell(self.path(i), self.ask.model);
        cell.and_then(|cell| cell.waiting.get(self.ask.kind)).map_or(0, crate::waiting::Waiting::all)
    }

    fn score(&self, i: usize) -> u32 {
        let cell = self.registry.known_cell(self.path(i), self.ask.model);
        cell.and_then(|cell| cell.score.get(self.ask.kind)).map_or(u32::MAX, |score| score.load(Relaxed))
    }

    fn usable(&self, i: usize) -> bool {
        self.word(i) & USABLE != 0
    }
}

impl Registry {
    /// Where a request of `route` goes first.
    pub fn choose<F: Fn(usize) -> bool>(&self, route: usize, ask: &Ask<F>, now: Instant) -> Chosen {
        let Some(health) = self.routes.get(route) else { return Chosen::Nothing };
        let Some(division) = self.division(health, ask.model, ask.kind, now) else { return Chosen::Nothing };
        division.used.set(now);
        let look = Look::new(self, health, division, ask);
        if ask.fallback {
            let (mut ramps, mut closed, mut share) = (false, false, 0);
            for word in (0..look.len()).map(|i| look.word(i)).filter(|word| word & USABLE != 0) {
                ramps |= word & RAMPING != 0;
                closed |= word & RAMPING == 0;
                share += word & WHOLE;
            }
            // The high half, since the pick draws from all of it anew.
            if ramps && !closed && (ask.random >> 48) as u32 >= share {
                return Chosen::Fallback;
            }
        }
        pick(&look, ask.random).map_or(Chosen::Nothing, Chosen::Path)
    }

    fn division<'a>(
        &'a self,
        route: &'a RouteHealth,
        model: usize,
        kind: usize,
        now: Instant,
    ) -> Option<&'a Division> {
        let slot = route.choosers.get(model)?;
        let chooser = match slot.get() {
            Some(chooser) => chooser,
            None => {
                let fresh = Chooser::new(route.paths.len(), now);
                for kind in 0..KINDS {
                    self.divide(route, &fresh, model, kind, now);
                }
                slot.get_or_init(|| Box::new(fresh))
            }
        };
        chooser.kinds.get(kind)
    }

    /// Divides the traffic of every route and model that had some lately.
    pub(super) fn divide_all(&self, now: Instant) {
        for route in &self.routes {
            for (model, slot) in route.choosers.iter().enumerate() {
                let Some(chooser) = slot.get() else { continue };
                for (kind, division) in chooser.kinds.iter().enumerate() {
                    if division.used.since(now).is_some_and(|since| since < STALE) {
                        self.divide(route, chooser, model, kind, now);
                    }
                }
            }
        }
    }

    fn divide(&self, route: &RouteHealth, chooser: &Chooser, model: usize, kind: usize, now: Instant) {
        let Some(division) = chooser.kinds.get(kind) else { return };
        let standings: Vec<Standing> = self.standings(route, model, kind, now);
        let choice = share::Choice {
            band: route.choice.band,
            hysteresis: route.choice.hysteresis,
            explore: route.choice.explore,
        };
        let mut shares = division.state.lock().unwrap_or_else(PoisonError::into_inner);
        shares.step(&standings, &choice, now);
        for (i, slot) in division.shares.iter().enumerate() {
            let share = (shares.get(i) * f64::from(WHOLE)).round() as u32;
            slot.store(share.min(WHOLE) | if shares.in_band(i) { IN_BAND } else { 0 }, Relaxed);
        }
    }

    /// How the traffic of a route is divided, by model and kind, as far as it had some lately.
    #[must_use]
    pub fn divisions(&self, route: usize, now: Instant) -> Vec<DivisionStatus> {
        let Some(route) = self.routes.get(route) else { return Vec::new() };
        let mut divisions = Vec::new();
        for (model, slot) in route.choosers.iter().enumerate() {
            let Some(chooser) = slot.get() else { continue };
            for (kind, division) in chooser.kinds.iter().enumerate() {
                if division.used.since(now).is_none_or(|since| since >= STALE) {
                    continue;
                }
                let part = |(path, share): (&usize, &AtomicU32)| {
                    let micros = self.score(*path, model, kind);
                    Part {
                        path: *path,
                        share: f64::from(share.load(Relaxed) & !IN_BAND) / f64::from(WHOLE),
                        score: (micros != u32::MAX).then(|| Duration::from_micros(micros.into())),
                    }
                };
                divisions.push(DivisionStatus {
                    model: self.models.name(model),
                    streamed: kind == 1,
                    parts: route.paths.iter().zip(&division.shares).map(part).collect(),
                });
            }
        }
        divisions
    }

    fn standings(&self, route: &RouteHealth, model: usize, kind: usize, now: Instant) -> Vec<Standing> {
        let measured: Vec<(Estimate, Duration)> = route
            .paths
            .iter()
            .map(|path| {
                self.known_cell(*path, model).map(|cell| cell.measured(kind, now)).unwrap_or_default()
            })
            .collect();
        let mut known: Vec<Duration> = measured.iter().filter_map(|(estimate, _)| estimate.get()).collect();
        known.sort_unstable();
        let median = known.get(known.len() / 2).copied();
        let standing = |(path, (estimate, penalty)): (&usize, &(Estimate, Duration))| {
            let health = self.paths.get(*path);
            let upstream = health.map_or(0, |h| h.upstream);
            let (view, service) = self.views(*path, model).unzip();
            let service = service.flatten();
            let share = |view: Option<View>| {
                view.map_or(1.0, |v| if v.admits() { f64::from(v.share) / f64::from(WHOLE) } else { 0.0 })
            };
            let mut score = match estimate.drifted(median, now) {
                Some(score) => Some(score),
                // The way there is measured by probes; what the model takes is guessed from its siblings.
                None if median.is_none() => health.and_then(|h| lock(&h.network).get()),
                None => None,
            };
            if let (Some(score), Some(cell)) = (score, self.known_cell(*path, model)) {
                let micros = u32::try_from((score + *penalty).as_micros()).unwrap_or(u32::MAX - 1);
                if let Some(slot) = cell.score.get(kind) {
                    slot.store(micros, Relaxed);
                }
            }
            let degraded = service.is_some_and(|v| v.degraded) || view.is_some_and(|v| v.degraded);
            score = score.map(|score| {
                (if degraded { score * 2 } else { score }) + *penalty + self.scarcity(*path, model, now)
            });
            Standing {
                score,
                stale: estimate.age(now).is_none_or(|age| age > STALE),
                samples: estimate.samples(),
                weight: self.upstreams.get(upstream).map_or(1.0, |u| u.weight),
                upstream,
                ceiling: share(view).min(share(service)),
            }
        };
        route.paths.iter().zip(&measured).map(standing).collect()
    }

    fn scarcity(&self, path: usize, model: usize, now: Instant) -> Duration {
        let Some(service) = self.service_of(path, model) else { return Duration::ZERO };
        let left = service.remaining.load(Relaxed);
        if left >= SCARCE || service.remaining_at.since(now).is_none_or(|since| since > SCARCE_FOR) {
            return Duration::ZERO;
        }
        SCARCE_PENALTY * (SCARCE - left) / SCARCE
    }

    /// Part of its normal traffic a path may take now, 0 to 1.
    #[cfg(test)]
    pub(super) fn share_of(&self, path: usize, model: usize) -> f64 {
        let share = |view: View| if view.admits() { f64::from(view.share) / f64::from(WHOLE) } else { 0.0 };
        self.views(path, model).map_or(0.0, |(way, service)| share(way).min(service.map_or(1.0, share)))
    }

    /// Where nothing else is left: the path that failed longest ago takes a few requests at once, and with every
    /// one it answers well some more. `None`: those places are taken, or an operator has taken all paths out.
    pub fn trickle(
        self: &Arc<Self>,
        paths: impl Iterator<Item = usize>,
        model: usize,
        now: Instant,
    ) -> Option<Trickle> {
        let failed = |path: usize| {
            let health = self.paths.get(path)?;
            Some(
                health
                    .bad
                    .since(now)
                    .into_iter()
                    .chain(health.failed.since(now))
                    .min()
                    .unwrap_or(Duration::MAX),
            )
        };
        let mut open: Vec<(Duration, usize)> = paths
            .filter(|path| self.may_trickle(*path, model, now) && !self.is_paused(*path, now))
            .filter_map(|path| Some((failed(path)?, path)))
            .collect();
        open.sort_unstable_by(|a, b| b.cmp(a));
        open.into_iter().find_map(|(_, path)| {
            let health = self.paths.get(path)?;
            let passes = self.passes(path, model, now).min(TRICKLE_DOUBLINGS);
            let most = TRICKLE << passes;
            let taken = health.trickling.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1));
            taken.ok().map(|_| Trickle { registry: Arc::clone(self), path })
        })
    }

    /// Soonest moment at which one of these paths may be tried again, for those who are turned away.
    pub fn back_in(
        &self,
        paths: impl Iterator<Item = usize>,
        model: usize,
        now: Instant,
    ) -> Option<Duration> {
        let until = |path: usize| {
            let way = self.paths.get(path)?.gate.with(now, |breaker| breaker.open_until());
            let service =
                self.service_of(path, model).and_then(|s| s.gate.with(now, |breaker| breaker.open_until()));
            way.into_iter().chain(service).max().map(|until| until.saturating_duration_since(now))
        };
        paths.filter_map(until).min()
    }

    /// What failed just now is not asked again at once: a trickle is no stream.
    fn is_paused(&self, path: usize, now: Instant) -> bool {
        let Some(health) = self.paths.get(path) else { return true };
        let Some(upstream) = self.upstreams.get(health.upstream) else { return true };
        let failed = health.bad.since(now).into_iter().chain(health.failed.since(now)).min();
        let good = health.good.since(now).unwrap_or(Duration::MAX);
        failed.is_some_and(|failed| failed < good && failed < upstream.rules.breaker.open_for / TRICKLE_PAUSE)
    }

    fn may_trickle(&self, path: usize, model: usize, now: Instant) -> bool {
        let usable = |view: View| view.state != State::Disabled;
        let forced = |gate: &crate::gate::Gate| {
            gate.with(now, |breaker| breaker.state() == State::Open && breaker.open_until().is_none())
        };
        let Some(health) = self.paths.get(path) else { return false };
        let service = self.service_of(path, model);
        usable(health.gate.view())
            && service.is_none_or(|s| usable(s.gate.view()))
            && !forced(&health.gate)
            && !service.is_some_and(|s| forced(&s.gate))
    }

    fn passes(&self, path: usize, model: usize, now: Instant) -> u32 {
        let way = self.paths.get(path).map(|health| health.gate.with(now, |breaker| breaker.passes()));
        let service =
            self.service_of(path, model).map(|service| service.gate.with(now, |breaker| breaker.passes()));
        way.unwrap_or_default().max(service.unwrap_or_default())
    }
}

impl Chooser {
    fn new(paths: usize, now: Instant) -> Self {
        let division = || Division {
            state: Mutex::new(Shares::new(paths)),
            shares: (0..paths).map(|_| AtomicU32::new(0)).collect(),
            used: Mark::new(now),
        };
        Self { kinds: [division(), division()] }
    }
}

/// A place among the few requests that go over an open path.
#[derive(Debug)]
pub struct Trickle {
    registry: Arc<Registry>,
    /// The path.
    pub path: usize,
}

impl Drop for Trickle {
    fn drop(&mut self) {
        if let Some(health) = self.registry.paths.get(self.path) {
            health.trickling.fetch_sub(1, Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
