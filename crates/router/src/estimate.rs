//! How slow a path is just now: a mean that follows the clock rather than the count of samples, so that a
//! busy and a quiet path are equally current, and that no single outlier can flip.
//!
//! Owns one value and the last few raw samples behind it. Without samples the value stands still, then
//! drifts to what the path's siblings show: never toward 0, which would make an idle bad path attractive
//! (as it does in Finagle's and linkerd's peak EWMA). Not here: failures, which are no latency, and load.

use std::time::{Duration, Instant};

const RECENT: usize = 5;
/// This many of the recent samples on one side are a step, fewer are outliers.
const STEP: usize = 3;
/// Below this weight a busy path would hardly notice its own samples.
const LEAST_WEIGHT: f64 = 0.05;
/// What a sample may be of the current value when it is averaged in.
const CLIP: (f64, f64) = (0.25, 2.0);
/// Outside this, relative to the current value, a sample speaks for a step.
const USUAL: (f64, f64) = (0.5, 2.0);
/// An estimate whose last sample is older than this is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(60);
const DRIFT_HALF_LIFE: Duration = Duration::from_secs(120);

/// The latency of one path. Of constant size; `Default` knows nothing yet.
#[derive(Debug, Clone, Default)]
pub struct Estimate {
    /// Seconds.
    value: f64,
    last: Option<Instant>,
    samples: u32,
    /// Raw samples in seconds, the newest last; only the last `samples` of them mean anything.
    recent: [f64; RECENT],
}

impl Estimate {
    /// Takes one sample. The first is the value; a later one weighs `1 - exp(-dt / tau)`, `dt` being the time
    /// since the one before, but at least 0.05, and counts as 0.25 to 2 times the current value. When 3 of
    /// the last 5 are above twice the value, or 3 below half of it, the value becomes the median of the 5.
    pub fn observe(&mut self, sample: Duration, now: Instant, tau: Duration) {
        let raw = sample.as_secs_f64();
        self.recent.rotate_left(1);
        if let Some(newest) = self.recent.last_mut() {
            *newest = raw;
        }
        self.samples = self.samples.saturating_add(1);
        let before = self.last;
        self.last = before.max(Some(now));
        let Some(before) = before else {
            self.value = raw;
            return;
        };
        if let Some(median) = self.step() {
            self.value = median;
            return;
        }
        let dt = now.saturating_duration_since(before);
        let weight = (1.0 - (-dt.as_secs_f64() / tau.as_secs_f64()).exp()).max(LEAST_WEIGHT);
        let clipped = raw.clamp(CLIP.0 * self.value, CLIP.1 * self.value);
        self.value += weight * (clipped - self.value);
    }

    /// The value; `None` before the first sample.
    #[must_use]
    pub fn get(&self) -> Option<Duration> {
        self.last.map(|_| seconds(self.value))
    }

    /// Samples taken, saturating.
    #[must_use]
    pub const fn samples(&self) -> u32 {
        self.samples
    }

    /// Time since the last sample; `None` before the first.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.last.map(|last| now.saturating_duration_since(last))
    }

    /// The value as far as it can still be believed: 60 s after the last sample it begins to move to
    /// `siblings`, the median of the other paths' values, half of the way every 120 s. `None` before the
    /// first sample; without siblings the value stays.
    #[must_use]
    pub fn drifted(&self, siblings: Option<Duration>, now: Instant) -> Option<Duration> {
        let idle = self.age(now)?.saturating_sub(STALE_AFTER);
        let Some(siblings) = siblings else { return self.get() };
        let believed = (-idle.as_secs_f64() / DRIFT_HALF_LIFE.as_secs_f64()).exp2();
        let siblings = siblings.as_secs_f64();
        Some(seconds(siblings + believed * (self.value - siblings)))
    }

    /// The median of the recent samples when enough of them lie on one side of the value.
    fn step(&self) -> Option<f64> {
        let known = RECENT.min(self.samples as usize);
        let mut recent = self.recent;
        let recent = recent.get_mut(RECENT - known..)?;
        let above = recent.iter().filter(|s| **s > USUAL.1 * self.value).count();
        let below = recent.iter().filter(|s| **s < USUAL.0 * self.value).count();
        if above.max(below) < STEP {
            return None;
        }
        recent.sort_by(f64::total_cmp);
        recent.get(known / 2).copied()
    }
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
