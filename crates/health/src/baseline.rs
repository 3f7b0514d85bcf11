//! How fast a model of an upstream answers when it is well: the last hour's times to the first content, by size
//! of the input, for judging whether it is slow now.
//!
//! Owns log-scaled histograms in six bins of ten minutes. It is fed only while nothing is wrong, so that trouble
//! does not become the norm it is measured by. Not here: what slow leads to (`breaker`).

use std::time::{Duration, Instant};

const BINS: usize = 6;
const BIN: Duration = Duration::from_secs(600);
/// Steps of a fifth from 1 ms on reach beyond five minutes.
const STEPS: usize = 72;
const GROWTH: f64 = 1.2;
/// Fewer samples say nothing.
const ENOUGH: u32 = 10;
/// A percentile is computed anew at most this often.
const REFRESH: Duration = Duration::from_millis(200);

/// Sizes of an input, by tokens: below 1k, 8k, 32k, and above.
pub const SIZES: usize = 4;

/// The size class of a request body of `bytes`, at four bytes a token.
#[must_use]
pub const fn size_of(bytes: usize) -> usize {
    match bytes / 4 {
        0..1_000 => 0,
        1_000..8_000 => 1,
        8_000..32_000 => 2,
        _ => 3,
    }
}

type Histogram = [u32; STEPS];

/// Times of the last hour.
#[derive(Debug)]
pub struct Baseline {
    bins: Box<[[Histogram; SIZES]; BINS]>,
    head: u64,
    origin: Instant,
    p95: [Option<Duration>; SIZES],
    computed: Option<Instant>,
    changed: bool,
}

impl Baseline {
    /// Empty.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let bins = Box::new([[[0; STEPS]; SIZES]; BINS]);
        Self { bins, head: 0, origin: now, p95: [None; SIZES], computed: None, changed: false }
    }

    /// Takes a sample in.
    pub fn observe(&mut self, latency: Duration, size: usize, now: Instant) {
        self.turn(now);
        let bin = (self.head % BINS as u64) as usize;
        let count = self.bins.get_mut(bin).and_then(|b| b.get_mut(size)?.get_mut(step_of(latency)));
        if let Some(count) = count {
            *count = count.saturating_add(1);
            self.changed = true;
        }
    }

    /// The 95th percentile for a size; of all sizes together where this one has fewer than ten samples; `None`
    /// where all together have fewer.
    pub fn p95(&mut self, size: usize, now: Instant) -> Option<Duration> {
        self.turn(now);
        if self.changed
            && self.computed.is_none_or(|at| now.duration_since(at) >= REFRESH || self.p95 == [None; SIZES])
        {
            self.computed = Some(now);
            self.changed = false;
            self.compute();
        }
        self.p95.get(size).copied().flatten()
    }

    /// The largest of the sizes' 95th percentiles.
    pub fn slowest_p95(&mut self, now: Instant) -> Option<Duration> {
        (0..SIZES).filter_map(|size| self.p95(size, now)).max()
    }

    /// Any percentile, 1 to 99, for a size as above; computed from the samples each time.
    pub fn percentile(&mut self, size: usize, percent: u8, now: Instant) -> Option<Duration> {
        self.turn(now);
        let mut sized = [0u32; STEPS];
        let mut all = [0u32; STEPS];
        for bin in self.bins.iter() {
            for (n, histogram) in bin.iter().enumerate() {
                add(&mut all, histogram);
                if n == size {
                    add(&mut sized, histogram);
                }
            }
        }
        percentile_of(&sized, percent).or_else(|| percentile_of(&all, percent))
    }

    fn compute(&mut self) {
        let mut by_size = [[0u32; STEPS]; SIZES];
        for bin in self.bins.iter() {
            for (sum, histogram) in by_size.iter_mut().zip(bin) {
                add(sum, histogram);
            }
        }
        let mut all = [0u32; STEPS];
        for histogram in &by_size {
            add(&mut all, histogram);
        }
        let overall = percentile_of(&all, 95);
        for (p95, histogram) in self.p95.iter_mut().zip(&by_size) {
            *p95 = percentile_of(histogram, 95).or(overall);
        }
    }

    fn turn(&mut self, now: Instant) {
        let due = now.saturating_duration_since(self.origin).as_secs() / BIN.as_secs();
        while self.head < due {
            self.head = if due - self.head > BINS as u64 { due - BINS as u64 } else { self.head + 1 };
            if let Some(bin) = self.bins.get_mut((self.head % BINS as u64) as usize) {
                *bin = [[0; STEPS]; SIZES];
                self.changed = true;
            }
        }
    }
}

fn add(sum: &mut Histogram, more: &Histogram) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

fn step_of(latency: Duration) -> usize {
    let steps = (latency.as_secs_f64() * 1000.0).max(1.0).log(GROWTH);
    (steps as usize).min(STEPS - 1)
}

/// The upper edge of the step that the percentile falls in.
fn percentile_of(histogram: &Histogram, percent: u8) -> Option<Duration> {
    let total: u32 = histogram.iter().fold(0, |sum, n| sum.saturating_add(*n));
    if total < ENOUGH {
        return None;
    }
    let rank = (f64::from(total) * f64::from(percent) / 100.0).ceil() as u32;
    let mut seen = 0u32;
    let step = histogram.iter().position(|n| {
        seen = seen.saturating_add(*n);
        seen >= rank
    })?;
    Some(Duration::from_secs_f64(GROWTH.powi(i32::try_from(step + 1).unwrap_or(i32::MAX)) / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_percentile_needs_ten_samples_and_is_within_a_fifth() {
        let now = start();
        let mut baseline = Baseline::new(now);
        for n in 1..=9 {
            baseline.observe(Duration::from_millis(100 + n), 0, now);
        }
        assert_eq!(baseline.p95(0, now), None);
        baseline.observe(Duration::from_millis(100), 0, now);
        let p95 = baseline.p95(0, now).unwrap();
        assert!((100..=132).contains(&p95.as_millis()), "{p95:?}");
        assert_eq!(baseline.p95(3, now), Some(p95), "a size without samples of its own takes all of them");
    }

    #[test]
    fn an_hour_later_it_is_forgotten() {
        let now = start();
        let mut baseline = Baseline::new(now);
        for _ in 0..100 {
            baseline.observe(Duration::from_millis(50), 1, now);
        }
        assert!(baseline.p95(1, now + Duration::from_secs(3000)).is_some());
        assert_eq!(baseline.p95(1, now + Duration::from_secs(3700)), None);
        assert_eq!(baseline.p95(1, now + Duration::from_secs(360_000)), None);
    }
}
