//! How long to wait before the same upstream is asked again: full jitter, so that many clients that failed
//! together do not come back together (after "Exponential Backoff And Jitter", AWS Architecture Blog).

use std::time::Duration;

/// A route's waits.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub initial: Duration,
    /// Growth of the bound per wait, at least 1.
    pub factor: f64,
    /// Largest bound.
    pub max: Duration,
}

impl Backoff {
    /// The wait before repeat number `n` (0 is the first), drawn from [0, bound). `random` is in [0, 1).
    #[must_use]
    pub fn wait(&self, n: u32, random: f64) -> Duration {
        let grown =
            self.initial.as_secs_f64() * self.factor.max(1.0).powi(i32::try_from(n).unwrap_or(i32::MAX));
        let bound = grown.min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(bound * random.clamp(0.0, 1.0)).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_bound(n in 0u32..10_000, random in 0.0f64..1.0) {
            let b = Backoff { initial: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(10) };
            let bound = Duration::from_millis(100).saturating_mul(2u32.saturating_pow(n)).min(b.max);
            prop_assert!(b.wait(n, random) <= bound);
        }
    }
}
