//! How shared counters stood when this node last heard of them: what is sent along so that a store which lost them
//! can go on, and where a node's share begins when the store goes away. Bounded; what is dropped counts as never seen.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::rule::{Name, full};
use crate::charge::{Counter, Standing};

/// Counters remembered.
const SEEN_MOST: u64 = 100_000;

#[derive(Debug, Clone, Copy)]
struct Seen {
    mark: Option<f64>,
    left: f64,
    reset: Duration,
    at: Instant,
}

/// What a counter can be taken to hold by now, if nobody else took from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// Units.
    pub(super) left: f64,
    /// When a day's counter begins anew; `None` for others and where it is not known.
    pub(super) anew: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct SeenCounters(Cache<Name, Seen>);

impl SeenCounters {
    pub(super) fn new() -> Self {
        Self(Cache::new(SEEN_MOST))
    }

    pub(super) fn mark(&self, name: &Name) -> Option<f64> {
        self.0.get(name).and_then(|seen| seen.mark)
    }

    pub(super) fn note(&self, name: &Name, standing: &Standing, at: Instant) {
        let Standing { left, reset, mark, .. } = *standing;
        self.0.insert(name.clone(), Seen { mark: Some(mark), left, reset, at });
    }

    pub(super) fn known(&self, name: &Name, counter: Counter, now: Instant) -> Known {
        let whole = full(counter);
        let Some(seen) = self.0.get(name) else { return Known { left: whole, anew: None } };
        let since = now.saturating_duration_since(seen.at);
        match counter {
            Counter::Bucket { per_second, .. } => {
                Known { left: per_second.mul_add(since.as_secs_f64(), seen.left).min(whole), anew: None }
            }
            Counter::Day { .. } if since >= seen.reset => Known { left: whole, anew: None },
            Counter::Day { .. } => {
                Known { left: seen.left.min(whole), anew: seen.at.checked_add(seen.reset) }
            }
            Counter::Running { .. } => Known { left: whole, anew: None },
        }
    }

    /// Of a counter of what runs, what was left when it was last heard of, unless all that ran then is forgotten by now.
    pub(super) fn running(&self, name: &Name, lives: Duration, now: Instant) -> Option<f64> {
        let seen = self.0.get(name)?;
        (now.saturating_duration_since(seen.at) < lives).then_some(seen.left)
    }

    /// `used` was taken without the store, which hears of it now.
    pub(super) fn take(&self, name: &Name, counter: Counter, used: f64, now: Instant) {
        let known = self.known(name, counter, now);
        let reset = known.anew.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let left = known.left - used;
        self.0.insert(name.clone(), Seen { mark: self.mark(name), left, reset, at: now });
    }
}
