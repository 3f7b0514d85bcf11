//! A breaker as requests see it: one atomic word to read, a short lock to write.
//!
//! Choosing a path reads words only. An outcome takes the lock for some dozens of nanoseconds, after the
//! attempt it speaks of; no await happens under it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::breaker::{Breaker, Permit, State};

/// Full share.
pub const WHOLE: u32 = 65_535;

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The state.
    pub state: State,
    /// Its answers are far slower than they used to be, or a peer has it open: it counts for less.
    pub degraded: bool,
    /// Of its normal traffic, in parts of `WHOLE`.
    pub share: u32,
    /// For results of what is sent now.
    pub permit: Permit,
}

impl View {
    /// Users' requests may go there.
    #[must_use]
    pub const fn admits(self) -> bool {
        matches!(self.state, State::Closed | State::Ramping)
    }

    fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Ramping => 1,
            State::Shadowing => 2,
            State::Open => 3,
            State::Disabled => 4,
        };
        state
            | u64::from(self.degraded) << 8
            | u64::from(self.share.min(WHOLE)) << 16
            | u64::from(self.permit.generation) << 32
    }

    const fn unpack(word: u64) -> Self {
        let state = match word & 0xff {
            0 => State::Closed,
            1 => State::Ramping,
            2 => State::Shadowing,
            3 => State::Open,
            _ => State::Disabled,
        };
        Self {
            state,
            degraded: (word >> 8) & 1 == 1,
            share: ((word >> 16) & 0xffff) as u32,
            permit: Permit { generation: (word >> 32) as u32 },
        }
    }
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    /// Woken when requests that wait behind it had better go elsewhere at once.
    pub abandoned: Notify,
    breaker: Mutex<Breaker>,
}

impl Gate {
    /// Shows what the breaker says.
    #[must_use]
    pub fn new(breaker: Breaker) -> Self {
        let gate = Self { word: AtomicU64::new(0), abandoned: Notify::new(), breaker: Mutex::new(breaker) };
        let word = view(&gate.lock(), false).pack();
        gate.word.store(word, Ordering::Release);
        gate
    }

    /// What it says now; lock-free.
    #[must_use]
    pub fn view(&self) -> View {
        View::unpack(self.word.load(Ordering::Acquire))
    }

    /// Changes or reads the breaker, and shows what came of it.
    pub fn with<T>(&self, now: Instant, act: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.lock();
        let result = act(&mut breaker);
        let degraded = breaker.is_degraded(now) || breaker.is_doubted();
        self.word.store(view(&breaker, degraded).pack(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(breaker: &Breaker, degraded: bool) -> View {
    View {
        state: breaker.state(),
        degraded,
        share: (breaker.share() * f64::from(WHOLE)).round() as u32,
        permit: Permit { generation: breaker.generation() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_all_of_a_view() {
        for (n, state) in State::ALL.into_iter().enumerate() {
            let view = View {
                state,
                degraded: n % 2 == 0,
                share: 3_276 * u32::try_from(n).unwrap(),
                permit: Permit { generation: u32::MAX - u32::try_from(n).unwrap() },
            };
            assert_eq!(View::unpack(view.pack()), view);
        }
    }
}
