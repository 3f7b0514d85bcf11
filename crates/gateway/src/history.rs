//! The last five minutes of every path, for the status page.
//!
//! Owns a ring of samples per path, keyed by its name: what a path was does not go with the configuration that
//! named it. A task on the control thread takes a sample every five seconds; requests only add to a path's `Tally`.
//! Needs nothing and is never down. Not here: anything that decides, or that has to outlive the process.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_health::breaker::State;
use tokio::time::MissedTickBehavior;

use crate::gateway::Gateway;
use crate::health::now;
use crate::live::Live;

/// From one sample to the next.
const STEP: Duration = Duration::from_secs(5);
/// Five minutes.
const SAMPLES: usize = 60;
/// Samples over which answers are divided, the shortest that has `ENOUGH` of them, the one under way included.
const WINDOWS: [usize; 3] = [2, 11, SAMPLES];
const ENOUGH: u64 = 10;

/// What a path did since it was built. Counters only rise.
#[derive(Debug)]
pub struct Tally {
    /// By route.
    answers: Box<[AtomicU64]>,
    attempts: AtomicU64,
    failures: AtomicU64,
}

impl Tally {
    /// For so many routes.
    pub fn new(routes: usize) -> Self {
        Self {
            answers: (0..routes).map(|_| AtomicU64::new(0)).collect(),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// An answer to a request of this route, by index, has begun.
    pub fn answer(&self, route: usize) {
        if let Some(answers) = self.answers.get(route) {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An attempt has ended.
    pub fn attempt(&self, failed: bool) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Counts {
        let answers = self.answers.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
        Counts {
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            answers: answers.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// A tally at one moment, or what happened between two.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    attempts: u64,
    failures: u64,
    /// By route, by rising index; those with none are left out.
    answers: Vec<(usize, u64)>,
}

impl Counts {
    fn of(&self, route: usize) -> u64 {
        let at = self.answers.binary_search_by_key(&route, |(route, _)| *route).ok();
        at.and_then(|at| self.answers.get(at)).map_or(0, |(_, count)| *count)
    }

    /// What came after `before`. A path that was built anew counts from nothing.
    fn since(&self, before: &Self) -> Self {
        let grown = |now: u64, then: u64| if now < then { now } else { now - then };
        let answers = self.answers.iter().map(|(route, now)| (*route, grown(*now, before.of(*route))));
        Self {
            attempts: grown(self.attempts, before.attempts),
            failures: grown(self.failures, before.failures),
            answers: answers.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Routes have other indices now: `to` by the old one, `None` where a route is gone.
    fn renumber(&mut self, to: &[Option<usize>]) {
        let answers = self.answers.iter().filter_map(|(route, count)| Some(((*to.get(*route)?)?, *count)));
        self.answers = answers.collect();
        self.answers.sort_unstable();
    }
}

#[derive(Debug)]
struct Sample {
    counts: Counts,
    /// To the first content, where there were requests.
    first: Option<Duration>,
    state: State,
}

#[derive(Debug, Default)]
struct Ring {
    /// Oldest first, `SAMPLES` at most.
    samples: VecDeque<Sample>,
    before: Counts,
}

/// Rings of all paths.
#[derive(Debug)]
pub struct History {
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct Rings {
    of: HashMap<String, Ring>,
    /// The names of the routes by whose indices answers are counted.
    routes: Vec<String>,
    /// When the last sample was taken.
    at: Instant,
}

impl History {
    /// Nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { rings: Mutex::new(Rings { of: HashMap::new(), routes: Vec::new(), at: now }) }
    }

    /// Adds a sample of every path of `gateway`, and forgets paths that are gone.
    pub fn sample(&self, gateway: &Gateway, now: Instant) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.at = now;
        rings.follow(route_names(gateway));
        rings.of.retain(|name, _| gateway.paths.iter().any(|path| path.name == *name));
        for path in &gateway.paths {
            let Some(status) = gateway.health.path_status(path.index, now) else { continue };
            let ring = rings.of.entry(path.name.clone()).or_default();
            ring.add(path.metrics.tally.read(), status.first, status.state);
        }
    }

    /// A path's samples, oldest first: `latency_ms` to the first content, `requests`, `failures` and `states`, each
    /// null where nothing was seen.
    pub fn of(&self, path: &str) -> Value {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = rings.of.get(path).map(|ring| &ring.samples);
        let list = |value: &dyn Fn(&Sample) -> Value| -> Vec<Value> {
            let seen = samples.into_iter().flatten().map(value);
            let none = SAMPLES - samples.map_or(0, VecDeque::len).min(SAMPLES);
            std::iter::repeat_n(Value::Null, none).chain(seen).collect()
        };
        json!({
            "step_s": STEP.as_secs(),
            "latency_ms": list(&|sample| json!(sample.first.map(|first| (first.as_secs_f64() * 10_000.0).round() / 10.0))),
            "requests": list(&|sample| json!(sample.counts.attempts)),
            "failures": list(&|sample| json!(sample.counts.failures)),
            "states": list(&|sample| json!(sample.state.word())),
        })
    }

    /// How the answers of each route were divided lately: over how many seconds, and the requests of each path that had
    /// some. Fallbacks are among them.
    pub fn answered(&self, gateway: &Gateway, now: Instant) -> Vec<Value> {
        let paths = gateway.paths.len().max(1);
        // Route by route, of each path.
        let mut cells = vec![Cell::default(); gateway.routes.len() * paths];
        let (taken, since) = {
            let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
            rings.follow(route_names(gateway));
            let unseen = Ring::default();
            for (index, path) in gateway.paths.iter().enumerate() {
                let add = |route: usize, window: usize, count: u64| {
                    let cell = cells.get_mut(route * paths + index);
                    if let Some(sum) = cell.and_then(|cell| cell.get_mut(window)) {
                        *sum += count;
                    }
                };
                let ring = rings.of.get(&path.name).unwrap_or(&unseen);
                ring.answered(&path.metrics.tally.read(), add);
            }
            let taken = rings.of.values().map(|ring| ring.samples.len()).max().unwrap_or_default();
            (taken, now.saturating_duration_since(rings.at))
        };
        let route = |cells: &[Cell]| {
            let (window, counts) = divided(cells);
            let all = counts.iter().sum::<u64>().max(1) as f64;
            let some = gateway.paths.iter().zip(&counts).filter(|(_, count)| **count > 0);
            let paths = some.map(|(path, count)| {
                json!({"path": path.name, "requests": count, "share": (*count as f64 / all * 1e4).round() / 1e4})
            });
            let within = since + STEP * u32::try_from(taken.min(window)).unwrap_or_default();
            json!({"within_s": (within.as_secs_f64() * 10.0).round() / 10.0, "paths": paths.collect::<Vec<_>>()})
        };
        cells.chunks_exact(paths).map(route).collect()
    }
}

/// Answers of one route over one path, by the shortest of `WINDOWS` that they are in.
type Cell = [u64; WINDOWS.len()];

/// A route's answers, path by path, within the window that is long enough.
fn divided(cells: &[Cell]) -> (usize, Vec<u64>) {
    let mut counts = vec![0; cells.len()];
    let mut window = 0;
    for (at, tried) in WINDOWS.into_iter().enumerate() {
        window = tried;
        for (count, cell) in counts.iter_mut().zip(cells) {
            *count += cell.get(at).copied().unwrap_or_default();
        }
        if counts.iter().sum::<u64>() >= ENOUGH {
            break;
        }
    }
    (window, counts)
}

fn route_names(gateway: &Gateway) -> impl Iterator<Item = &str> + Clone {
    gateway.routes.iter().map(|route| route.config.name.as_str())
}

impl Rings {
    /// From now on indices mean these routes. What was counted of a route that has stayed goes on under its name.
    fn follow<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) {
        if names.clone().eq(self.routes.iter().map(String::as_str)) {
            return;
        }
        let places: HashMap<&str, usize> = names.clone().enumerate().map(|(n, name)| (name, n)).collect();
        let to: Vec<Option<usize>> =
            self.routes.iter().map(|name| places.get(name.as_str()).copied()).collect();
        for ring in self.of.values_mut() {
            ring.before.renumber(&to);
            ring.samples.iter_mut().for_each(|sample| sample.counts.renumber(&to));
        }
        self.routes = names.map(str::to_owned).collect();
    }
}

impl Ring {
    fn add(&mut self, read: Counts, first: Option<Duration>, state: State) {
        let counts = read.since(&self.before);
        self.before = read;
        while self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        let first = first.filter(|_| counts.attempts > counts.failures);
        self.samples.push_back(Sample { counts, first, state });
    }

    /// Gives each count of answers, up to `read`, with its route and the shortest of `WINDOWS` that it is in.
    fn answered(&self, read: &Counts, mut add: impl FnMut(usize, usize, u64)) {
        for (route, count) in read.since(&self.before).answers {
            add(route, 0, count);
        }
        for (age, sample) in self.samples.iter().rev().enumerate() {
            let Some(window) = WINDOWS.iter().position(|window| age < *window) else { break };
            for (route, count) in &sample.counts.answers {
                add(*route, window, *count);
            }
        }
    }
}

/// Takes samples for as long as the process lives.
pub async fn keep(live: Arc<Live>) {
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + STEP, STEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let gateway = live.gateway();
        gateway.history.sample(&gateway, now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(attempts: u64, failures: u64, route: u64) -> Counts {
        Counts { attempts, failures, answers: vec![(0, route)] }
    }

    #[test]
    fn a_sample_holds_what_came_after_the_one_before() {
        let mut ring = Ring::default();
        ring.add(counts(10, 2, 8), Some(Duration::from_millis(7)), State::Closed);
        ring.add(counts(15, 7, 8), Some(Duration::from_millis(7)), State::Open);
        let last = ring.samples.back().unwrap();
        assert_eq!((last.counts.attempts, last.counts.failures, last.counts.of(0)), (5, 5, 0));
        assert_eq!(last.first, None, "nothing was answered in it");
    }

    #[test]
    fn a_path_that_is_built_anew_goes_on_from_nothing() {
        let mut ring = Ring::default();
        ring.add(counts(1000, 0, 1000), None, State::Closed);
        ring.add(counts(3, 1, 2), None, State::Ramping);
        assert_eq!(ring.samples.back().unwrap().counts, counts(3, 1, 2));
    }

    #[test]
    fn a_ring_forgets_what_is_older_than_five_minutes() {
        let mut ring = Ring::default();
        for n in 1..=200 {
            ring.add(counts(n * n, 0, 0), None, State::Closed);
        }
        assert_eq!(ring.samples.len(), SAMPLES);
        assert_eq!(ring.samples.back().unwrap().counts.attempts, 200 * 200 - 199 * 199);
    }
    #[test]
    fn answers_are_divided_over_the_shortest_window_that_has_enough() {
        let mut ring = Ring::default();
        for n in 1..=SAMPLES as u64 {
            ring.add(counts(n, 0, n), None, State::Closed);
        }
        let cell = |ring: &Ring, read: u64| {
            let mut cell = Cell::default();
            ring.answered(&counts(read, 0, read), |_, window, count| cell[window] += count);
            cell
        };
        assert_eq!(cell(&ring, 60), [2, 9, 49], "one in each sample");
        assert_eq!(cell(&ring, 63), [5, 9, 49], "and three since");
        assert_eq!(cell(&Ring::default(), 4), [4, 0, 0]);
        assert_eq!(divided(&[[2, 9, 49], [0, 1, 0]]), (11, vec![11, 1]));
        assert_eq!(divided(&[[5, 9, 49], [5, 0, 0]]), (2, vec![5, 5]));
        assert_eq!(divided(&[[0, 0, 3], [1, 0, 0]]), (60, vec![3, 1]), "all there is");
    }

    #[test]
    fn answers_go_on_under_their_routes_name_when_routes_move() {
        let mut rings = Rings { of: HashMap::new(), routes: Vec::new(), at: now() };
        rings.follow(["a", "b", "c"].into_iter());
        let read = Counts { attempts: 6, failures: 0, answers: vec![(0, 1), (1, 2), (2, 3)] };
        rings.of.entry("u@direct".to_owned()).or_default().add(read, None, State::Closed);
        rings.follow(["new", "c", "a"].into_iter());
        let ring = &rings.of["u@direct"];
        for counts in [&ring.samples[0].counts, &ring.before] {
            assert_eq!(counts.answers, [(1, 3), (2, 1)]);
        }
    }
}
