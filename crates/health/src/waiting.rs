//! How many requests wait for their first content, and since when: a ring of counters, so that a request only
//! adds to one and takes from it again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Sixteen times the span that is asked for; who waits longer is taken for as young as a turn ago.
const SLOTS: usize = 64;
const PER_SPAN: u32 = 4;

/// The counters of one kind of request on one path.
#[derive(Debug)]
pub struct Waiting {
    origin: Instant,
    slot: Duration,
    slots: Box<[AtomicU32; SLOTS]>,
    all: AtomicU32,
}

/// Where one was counted.
#[derive(Debug, Clone, Copy)]
pub struct Slot(usize);

impl Waiting {
    /// `span`: about how old the waiting ones are that are asked for.
    #[must_use]
    pub fn new(span: Duration, now: Instant) -> Self {
        let slot = (span / PER_SPAN).max(Duration::from_millis(5));
        Self {
            origin: now,
            slot,
            slots: Box::new(std::array::from_fn(|_| AtomicU32::new(0))),
            all: AtomicU32::new(0),
        }
    }

    /// One begins to wait.
    pub fn enter(&self, now: Instant) -> Slot {
        let slot = (self.number(now) % SLOTS as u64) as usize;
        self.all.fetch_add(1, Ordering::Relaxed);
        if let Some(count) = self.slots.get(slot) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Slot(slot)
    }

    /// It waits no more.
    pub fn leave(&self, slot: Slot) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(count) = self.slots.get(slot.0) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All that wait.
    pub fn all(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    /// Those that began to wait `age` ago or earlier, give or take a slot.
    pub fn older_than(&self, age: Duration, now: Instant) -> u32 {
        let recent = (age.as_nanos() / self.slot.as_nanos().max(1)).min(SLOTS as u128 - 1) as u64;
        let head = self.number(now);
        let young: u32 = (0..=recent)
            .filter_map(|back| head.checked_sub(back))
            .filter_map(|number| self.slots.get((number % SLOTS as u64) as usize))
            .map(|count| count.load(Ordering::Relaxed))
            .sum();
        self.all().saturating_sub(young)
    }

    fn number(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin).as_nanos() / self.slot.as_nanos().max(1);
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn the_old_are_told_from_the_young() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let waiting = Waiting::new(Duration::from_secs(5), start);
        let first = waiting.enter(at(0));
        let second = waiting.enter(at(3000));
        assert_eq!((waiting.all(), waiting.older_than(Duration::from_secs(5), at(4900))), (2, 0));
        assert_eq!(waiting.older_than(Duration::from_secs(5), at(6300)), 1);
        assert_eq!(waiting.older_than(Duration::from_secs(5), at(9600)), 2);
        waiting.leave(first);
        assert_eq!(waiting.older_than(Duration::from_secs(5), at(9600)), 1);
        waiting.leave(second);
        assert_eq!((waiting.all(), waiting.older_than(Duration::from_secs(5), at(60_000))), (0, 0));
    }
}
