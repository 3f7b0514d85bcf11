//! What is known of one model over one path: how fast it answers, what waits on it.
//!
//! Streams and plain answers are measured apart: the first content of one comes long before the whole of the
//! other. Reads for choosing are atomic; an estimate is written under a short lock once an answer has begun.

use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_router::estimate::Estimate;

use crate::mark::Mark;
use crate::waiting::Waiting;

/// Kinds of answers: plain, streamed.
pub const KINDS: usize = 2;
/// Over how long estimates of time to the first content are averaged.
const TAU: Duration = Duration::from_secs(60);
/// A path that is measured this often is no newcomer.
const WELL_KNOWN: usize = 5;
/// A failure's penalty halves about every seven seconds.
const PENALTY_TAU: f64 = 10.0;
/// Three failures in a row cost all of it.
const PENALTY: Duration = Duration::from_secs(5);
const PENALTY_FAILURES: f64 = 3.0;

/// One model over one path.
#[derive(Debug)]
pub struct Cell {
    state: Mutex<Measured>,
    /// Requests waiting for their first content, by kind.
    pub waiting: [Waiting; KINDS],
    /// The last first content.
    pub answered: Mark,
    /// The last request.
    pub used: Mark,
    /// The last made-up one.
    pub made_up: Mark,
    /// Microseconds, by kind, as choosing sees them.
    pub score: [AtomicU32; KINDS],
}

#[derive(Debug)]
struct Measured {
    estimates: [Estimate; KINDS],
    failures: f64,
    failed_at: Instant,
}

impl Cell {
    /// Nothing known. `stalled_after`: from when on a waiting request is suspicious.
    #[must_use]
    pub fn new(stalled_after: Duration, now: Instant) -> Self {
        let measured = Measured { estimates: Default::default(), failures: 0.0, failed_at: now };
        Self {
            state: Mutex::new(measured),
            waiting: [Waiting::new(stalled_after, now), Waiting::new(stalled_after, now)],
            answered: Mark::new(now),
            used: Mark::new(now),
            made_up: Mark::new(now),
            score: [AtomicU32::new(u32::MAX), AtomicU32::new(u32::MAX)],
        }
    }

    /// The first content came after `latency`.
    pub fn observe(&self, kind: usize, latency: Duration, now: Instant) {
        self.answered.set(now);
        let mut state = self.lock();
        if let Some(estimate) = state.estimates.get_mut(kind) {
            estimate.observe(latency, now, TAU);
        }
    }

    /// A failure that speaks of it.
    pub fn failed(&self, now: Instant) {
        let mut state = self.lock();
        state.failures = state.decayed(now) + 1.0;
        state.failed_at = now;
    }

    /// It has recovered: failures are forgiven, and an estimate taken in its trouble gives way to what was `usual`
    /// before, by kind.
    pub fn recovered(&self, usual: [Option<Duration>; KINDS], now: Instant) {
        let mut state = self.lock();
        state.failures = 0.0;
        for (estimate, usual) in state.estimates.iter_mut().zip(usual) {
            if let (Some(held), Some(usual)) = (estimate.get(), usual)
                && held > usual
            {
                *estimate = Estimate::default();
                for _ in 0..WELL_KNOWN {
                    estimate.observe(usual, now, TAU);
                }
            }
        }
    }

    /// Requests waiting for their first content.
    #[cfg(test)]
    pub fn pending(&self) -> u32 {
        self.waiting.iter().map(Waiting::all).sum()
    }

    /// A copy of the estimate of a kind, and what failures add to it.
    pub fn measured(&self, kind: usize, now: Instant) -> (Estimate, Duration) {
        let state = self.lock();
        let penalty = PENALTY.mul_f64((state.decayed(now) / PENALTY_FAILURES).min(1.0));
        (state.estimates.get(kind).cloned().unwrap_or_default(), penalty)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Measured> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    fn decayed(&self, now: Instant) -> f64 {
        self.failures * (-now.saturating_duration_since(self.failed_at).as_secs_f64() / PENALTY_TAU).exp()
    }
}
