//! What one request may wait for the store, over all calls it makes: a slow store costs it that much once.

use std::time::Duration;

use tokio::time::Instant;

/// What is left of it. Starts at what the operator allows (25 ms).
#[derive(Debug)]
pub struct Allowance(Duration);

impl Allowance {
    /// A request's whole allowance.
    #[must_use]
    pub const fn new(whole: Duration) -> Self {
        Self(whole)
    }

    /// What is left; zero: the store is to be left alone.
    #[must_use]
    pub const fn left(&self) -> Duration {
        self.0
    }

    /// Waits for `call` no longer than what is left, and takes off what it took. `None`: it took too long, and was
    /// dropped. Cancel-safe as far as `call` is; what a cancelled wait took is not taken off.
    pub async fn spend<F: Future>(&mut self, call: F) -> Option<F::Output> {
        let started = Instant::now();
        let done = tokio::time::timeout(self.0, call).await.ok();
        self.0 = if done.is_some() { self.0.saturating_sub(started.elapsed()) } else { Duration::ZERO };
        done
    }

    /// For calls that keep the bound they are given by themselves, and whose answers must not be lost to each other's
    /// lateness: waits for what `calls` makes of what is left, and takes off what it took. Cancel-safe as
    /// [`Allowance::spend`].
    pub async fn lend<F: Future>(&mut self, calls: impl FnOnce(Duration) -> F) -> F::Output {
        let started = Instant::now();
        let done = calls(self.0).await;
        self.0 = self.0.saturating_sub(started.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn calls_share_one_allowance_and_the_last_is_cut_off() {
        let mut allowance = Allowance::new(25 * MS);
        assert_eq!(allowance.spend(tokio::time::sleep(10 * MS)).await, Some(()));
        assert_eq!(allowance.left(), 15 * MS);
        let given = allowance
            .lend(|within| async move {
                tokio::time::sleep(5 * MS).await;
                within
            })
            .await;
        assert_eq!((given, allowance.left()), (15 * MS, 10 * MS));
        assert_eq!(allowance.spend(std::future::pending::<()>()).await, None);
        assert_eq!(allowance.left(), Duration::ZERO);
    }
}
