//! The arithmetic of one bucket: GCRA, without clock, key or lock.
//!
//! Kept as what was owed at a time instead of the time at which nothing will be: the two say the same, and sums at
//! one time stay exact, however long the process runs. Times are durations since an origin of the caller's.

use std::time::Duration;

/// No wait is said to be longer (about ten years), so that times can be added without care.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Of a mark, in seconds: a bucket that was forgotten because it is full must not be taken for lost.
const MARK_ERROR: f64 = 1e-3;

/// How fast a bucket fills, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Units per second, above 0.
    pub per_second: f64,
    /// Units.
    pub burst: f64,
}

impl Rate {
    /// What may be lacking all the same, in units: the error of the arithmetic, and two nanoseconds, as waits are
    /// rounded to one.
    fn slack(self) -> f64 {
        1e-6_f64.max(self.burst * 1e-12).max(self.per_second * 2e-9)
    }

    fn lasts(self, units: f64) -> Duration {
        let seconds = (units / self.per_second).max(0.0);
        Duration::try_from_secs_f64(seconds).map_or(LONGEST, |span| span.min(LONGEST))
    }
}

/// What is owed to the bucket, in units, at the time it was last looked at; 0 is a full one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bucket {
    owed: f64,
    at: Duration,
}

impl Bucket {
    /// A full one.
    pub const fn full(now: Duration) -> Self {
        Self { owed: 0.0, at: now }
    }

    /// One that was lost and had been seen to be full again at `mark` seconds: begins from there, and at no more than
    /// half. A mark that is over says nothing: a bucket that is full is forgotten rather than lost.
    pub fn lost(mark: f64, rate: Rate, now: Duration) -> Self {
        let ahead = mark - now.as_secs_f64();
        let owed = if ahead > MARK_ERROR { (ahead * rate.per_second).max(rate.burst / 2.0) } else { 0.0 };
        Self { owed, at: now }
    }

    fn owed(self, rate: Rate, now: Duration) -> f64 {
        let filled = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        (self.owed - filled).max(0.0)
    }

    /// What is there, in units; below 0 in debt.
    pub fn left(self, rate: Rate, now: Duration) -> f64 {
        rate.burst - self.owed(rate, now)
    }

    /// Until `cost` may be had. One above the burst may be had of a full bucket, none at all even of one in debt.
    pub fn wait(self, cost: f64, rate: Rate, now: Duration) -> Duration {
        let short = cost.min(rate.burst) - self.left(rate, now);
        if cost <= 0.0 || short <= rate.slack() { Duration::ZERO } else { rate.lasts(short) }
    }

    /// Of `extra`, what can be had beside `cost`; whole units.
    pub fn beside(self, cost: f64, extra: f64, rate: Rate, now: Duration) -> f64 {
        let spare = self.left(rate, now) - cost + rate.slack();
        extra.min(spare).floor().max(0.0)
    }

    /// Takes `units`, into debt where there are too few, but into none that takes longer than [`LONGEST`] to fill; gives
    /// back where below 0, and never beyond full.
    pub fn take(&mut self, units: f64, rate: Rate, now: Duration) {
        let most = rate.burst.max(rate.per_second * LONGEST.as_secs_f64());
        self.owed = (self.owed(rate, now) + units).max(0.0).min(most);
        self.at = self.at.max(now);
    }

    /// Until it is full.
    pub fn full_in(self, rate: Rate, now: Duration) -> Duration {
        rate.lasts(self.owed(rate, now))
    }

    /// When it is full, in seconds.
    pub fn mark(self, rate: Rate, now: Duration) -> f64 {
        now.as_secs_f64() + self.owed(rate, now) / rate.per_second
    }
}

#[cfg(test)]
mod tests;
