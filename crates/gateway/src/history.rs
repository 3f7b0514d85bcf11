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

    fn read(&self, gateway: &Gateway) -> Counts {
        let answers = gateway.routes.iter().zip(&self.answers);
        Counts {
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            answers: answers
                .map(|(route, count)| (route.config.name.clone(), count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// A tally at one moment, or what happened between two.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    attempts: u64,
    failures: u64,
    /// By route; those with none are left out.
    answers: Vec<(String, u64)>,
}

impl Counts {
    fn of(&self, route: &str) -> u64 {
        self.answers.iter().filter(|(name, _)| name == route).map(|(_, count)| count).sum()
    }

    /// What came after `before`. A path that was built anew counts from nothing.
    fn since(&self, before: &Self) -> Self {
        let grown = |now: u64, then: u64| if now < then { now } else { now - then };
        let answers = self.answers.iter().map(|(route, now)| (route.clone(), grown(*now, before.of(route))));
        Self {
            attempts: grown(self.attempts, before.attempts),
            failures: grown(self.failures, before.failures),
            answers: answers.filter(|(_, count)| *count > 0).collect(),
        }
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
    /// When the last sample was taken.
    at: Instant,
}

impl History {
    /// Nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { rings: Mutex::new(Rings { of: HashMap::new(), at: now }) }
    }

    /// Adds a sample of every path of `gateway`, and forgets paths that are gone.
    pub fn sample(&self, gateway: &Gateway, now: Instant) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        rings.at = now;
        rings.of.retain(|name, _| gateway.paths.iter().any(|path| path.name == *name));
        for path in &gateway.paths {
            let Some(status) = gateway.health.path_status(path.index, now) else { continue };
            let ring = rings.of.entry(path.name.clone()).or_default();
            ring.add(path.metrics.tally.read(gateway), status.first, status.state);
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

    /// How the answers of a route were divided lately: over how many seconds, and the requests of each path that had
    /// some. Fallbacks are among them.
    pub fn answered(&self, gateway: &Gateway, route: &str, now: Instant) -> Value {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |window: usize| -> Vec<(&str, u64)> {
            let counts = gateway.paths.iter().map(|path| {
                let read = path.metrics.tally.read(gateway);
                let Some(ring) = rings.of.get(&path.name) else {
                    return (path.name.as_str(), read.of(route));
                };
                let kept: u64 = ring.samples.iter().rev().take(window).map(|s| s.counts.of(route)).sum();
                (path.name.as_str(), kept + read.since(&ring.before).of(route))
            });
            counts.filter(|(_, count)| *count > 0).collect()
        };
        let sum = |counts: &[(&str, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
        let (mut window, mut counts) = (0, Vec::new());
        for tried in WINDOWS {
            (window, counts) = (tried, over(tried));
            if sum(&counts) >= ENOUGH {
                break;
            }
        }
        let all = sum(&counts).max(1) as f64;
        let paths = counts.iter().map(|(path, count)| {
            json!({"path": path, "requests": count, "share": (*count as f64 / all * 1e4).round() / 1e4})
        });
        let taken = rings.of.values().map(|ring| ring.samples.len()).max().unwrap_or_default().min(window);
        let within =
            now.saturating_duration_since(rings.at) + STEP * u32::try_from(taken).unwrap_or_default();
        json!({"within_s": (within.as_secs_f64() * 10.0).round() / 10.0, "paths": paths.collect::<Vec<_>>()})
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
        Counts { attempts, failures, answers: vec![("*".to_owned(), route)] }
    }

    #[test]
    fn a_sample_holds_what_came_after_the_one_before() {
        let mut ring = Ring::default();
        ring.add(counts(10, 2, 8), Some(Duration::from_millis(7)), State::Closed);
        ring.add(counts(15, 7, 8), Some(Duration::from_millis(7)), State::Open);
        let last = ring.samples.back().unwrap();
        assert_eq!((last.counts.attempts, last.counts.failures, last.counts.of("*")), (5, 5, 0));
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
}
