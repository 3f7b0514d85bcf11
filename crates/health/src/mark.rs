//! A moment that many write and many read without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When something last happened, to the millisecond.
#[derive(Debug)]
pub struct Mark {
    origin: Instant,
    /// Milliseconds since `origin`, plus one; 0: never.
    at: AtomicU64,
}

impl Mark {
    /// Never yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { origin: now, at: AtomicU64::new(0) }
    }

    /// It happens now.
    pub fn set(&self, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.origin).as_millis());
        self.at.store(since.unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// How long ago; `None`: never.
    pub fn since(&self, now: Instant) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.origin + Duration::from_millis(at)))
    }
}
