//! Exact counts over a sliding span, in twelve buckets: no average that a burst could hide in.
//!
//! Pure: `now` is an argument. Not here: what the counts mean (`breaker`).

use std::time::{Duration, Instant};

const BUCKETS: usize = 12;

/// What happened in a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went well.
    pub good: u32,
    /// Failed.
    pub bad: u32,
    /// Of the good ones: those whose time says how fast the path is.
    pub timed: u32,
    /// Of the timed ones: slower than a bound of the operator's.
    pub slow: u32,
    /// Of the good ones: far slower than they used to be.
    pub lagging: u32,
}

impl Counts {
    /// Good and bad together.
    #[must_use]
    pub const fn total(self) -> u32 {
        self.good.saturating_add(self.bad)
    }

    fn add(&mut self, more: Self) {
        self.good = self.good.saturating_add(more.good);
        self.bad = self.bad.saturating_add(more.bad);
        self.timed = self.timed.saturating_add(more.timed);
        self.slow = self.slow.saturating_add(more.slow);
        self.lagging = self.lagging.saturating_add(more.lagging);
    }
}

/// A ring of buckets.
#[derive(Debug, Clone)]
pub struct Window {
    bucket: Duration,
    origin: Instant,
    /// The bucket `now` fell in last, counted from `origin`.
    head: u64,
    ring: [Counts; BUCKETS],
}

impl Window {
    /// Counts over `span`, at least 12 ms.
    #[must_use]
    pub fn new(span: Duration, now: Instant) -> Self {
        let bucket = (span / BUCKETS as u32).max(Duration::from_millis(1));
        Self { bucket, origin: now, head: 0, ring: [Counts::default(); BUCKETS] }
    }

    /// Adds to the counts of now.
    pub fn add(&mut self, counts: Counts, now: Instant) {
        self.turn(now);
        if let Some(bucket) = self.ring.get_mut((self.head % BUCKETS as u64) as usize) {
            bucket.add(counts);
        }
    }

    /// All that is not older than the span.
    pub fn sum(&mut self, now: Instant) -> Counts {
        self.turn(now);
        let mut sum = Counts::default();
        for counts in self.ring {
            sum.add(counts);
        }
        sum
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ring = [Counts::default(); BUCKETS];
    }

    fn turn(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_nanos() / self.bucket.as_nanos().max(1);
        let due = u64::try_from(since).unwrap_or(u64::MAX).max(self.head);
        let gone = (due - self.head).min(BUCKETS as u64);
        for step in 1..=gone {
            if let Some(bucket) = self.ring.get_mut(((due - gone + step) % BUCKETS as u64) as usize) {
                *bucket = Counts::default();
            }
        }
        self.head = due;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Counts = Counts { good: 1, bad: 0, timed: 0, slow: 0, lagging: 0 };

    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    proptest! {
        #[test]
        fn the_sum_holds_the_last_eleven_buckets_and_nothing_older_than_twelve(
            gaps in proptest::collection::vec(0u64..3000, 1..200)
        ) {
            let mut now = start();
            let mut window = Window::new(Duration::from_secs(12), now);
            let mut times = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                window.add(GOOD, now);
                times.push(now);
                let within = |seconds: u64| {
                    let newer = |t: &&Instant| now.duration_since(**t) < Duration::from_secs(seconds);
                    u32::try_from(times.iter().filter(newer).count()).unwrap()
                };
                let sum = window.sum(now).good;
                prop_assert!(within(11) <= sum && sum <= within(12), "{} {} {}", within(11), sum, within(12));
            }
        }
    }
}
