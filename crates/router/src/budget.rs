//! Retry budget: repeats may add only a share to what clients ask for, so that a struggling upstream is
//! not pushed over by our own help (after Google's SRE book, "Handling Overload", and Finagle's
//! `RetryBudget`: a ratio over a window plus a floor for quiet times).

use std::time::{Duration, Instant};

const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);
/// One repeat a second is always allowed: at two requests a minute a share of nothing would be nothing.
const FLOOR_PER_BUCKET: f64 = 1.0;

/// Counts the requests and repeats of the last ten seconds of one route on one node.
#[derive(Debug)]
pub struct Budget {
    ratio: f64,
    /// Requests and repeats per second, a ring.
    ring: [(u32, u32); BUCKETS],
    /// The second `ring[head]` stands for, counted from `origin`.
    head_second: u64,
    origin: Instant,
}

impl Budget {
    /// `ratio` is the share of requests that may be repeated, 0 to 1.
    #[must_use]
    pub const fn new(ratio: f64, now: Instant) -> Self {
        Self { ratio, ring: [(0, 0); BUCKETS], head_second: 0, origin: now }
    }

    /// A client's request came in.
    pub fn request(&mut self, now: Instant) {
        self.turn(now);
        if let Some(bucket) = self.bucket() {
            bucket.0 = bucket.0.saturating_add(1);
        }
    }

    /// Asks for one repeat; `true` has spent it.
    pub fn spend(&mut self, now: Instant) -> bool {
        self.turn(now);
        let (requests, repeats) =
            self.ring.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + f64::from(*x), b + f64::from(*y)));
        let allowed = self.ratio.mul_add(requests, FLOOR_PER_BUCKET * BUCKETS as f64);
        let fits = repeats + 1.0 <= allowed;
        if fits && let Some(bucket) = self.bucket() {
            bucket.1 = bucket.1.saturating_add(1);
        }
        fits
    }

    fn bucket(&mut self) -> Option<&mut (u32, u32)> {
        self.ring.get_mut((self.head_second % BUCKETS as u64) as usize)
    }

    fn turn(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.origin).as_secs() / BUCKET.as_secs();
        if second >= self.head_second + BUCKETS as u64 {
            self.ring = [(0, 0); BUCKETS];
            self.head_second = second;
        }
        while self.head_second < second {
            self.head_second += 1;
            if let Some(bucket) = self.bucket() {
                *bucket = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_quiet_route_has_its_floor_and_a_busy_one_its_share() {
        let now = start();
        let mut budget = Budget::new(0.1, now);
        assert_eq!((0..100).filter(|_| budget.spend(now)).count(), 10);
        let later = now + Duration::from_secs(30);
        for _ in 0..1000 {
            budget.request(later);
        }
        assert_eq!((0..1000).filter(|_| budget.spend(later)).count(), 110);
    }

    proptest! {
        #[test]
        fn no_window_of_ten_seconds_is_ever_over(steps in proptest::collection::vec((0u64..2000, any::<bool>()), 1..400)) {
            let origin = start();
            let mut now = origin;
            let mut budget = Budget::new(0.1, origin);
            let mut requests = Vec::new();
            let mut repeats = Vec::new();
            for (gap_ms, is_request) in steps {
                now += Duration::from_millis(gap_ms);
                if is_request {
                    budget.request(now);
                    requests.push(now);
                } else if budget.spend(now) {
                    repeats.push(now);
                    let since = |list: &[Instant], span: u64| {
                        list.iter().filter(|t| now.duration_since(**t) < Duration::from_secs(span)).count() as f64
                    };
                    // Whole seconds: what nine full buckets hold is certainly inside, what ten can hold at most.
                    prop_assert!(since(&repeats, 9) <= 0.1 * since(&requests, 10) + 10.0);
                }
            }
        }
    }
}
