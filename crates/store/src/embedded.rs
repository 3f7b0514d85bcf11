//! The store of a single node: this process's memory, by the same rules as Redis.
//!
//! Why: a gateway of one node needs limits, a cache and usage as well, and a node whose Redis is away limits by a
//! share of its own from here. Owns nothing beyond the process: a restart begins empty. It depends on nothing that
//! could be down. All of it is bounded ([`Bounds`]); what had to make room is counted in
//! `tidegate_store_evictions_total`. Its methods are async to match Redis and never wait: each is one short section
//! under a lock, limits under one of several by group. Durations go by tokio's clock, UTC days by the clock it is given.
//! Not here: what other nodes do (there are none), and what is written to disk (nothing).

mod answers;
mod bounds;
mod bucket;
mod counter;
mod counters;
mod names;
mod usage;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Failure;
use crate::cache::{Begun, Followed, Renewed};
use crate::charge::{Charge, Running, Settlement, Verdict};
use crate::fleet::{Beat, Cooldown, Fleet};
use crate::usage::{Entry, Spent};
use answers::Answers;
pub use bounds::Bounds;
use counters::Counters;
use names::Names;
use usage::Usage;

/// Counters are kept under one lock in so many and this one more.
const OTHER_SHARDS: usize = 15;

/// A point in time: by the steady clock, since the store began, and by the wall clock, since the Unix epoch.
#[derive(Debug, Clone, Copy)]
struct Moment {
    steady: Duration,
    wall: Duration,
}

/// What a single node keeps. Safe from several threads; share it behind [`crate::Store`] or an `Arc`.
pub struct Embedded(Box<Parts>);

/// Behind one pointer, as [`crate::Store`] is this or something smaller.
struct Parts {
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    origin: Instant,
    hasher: RandomState,
    first: Mutex<Counters>,
    others: Box<[Mutex<Counters>]>,
    answers: Mutex<Answers>,
    names: Mutex<Names>,
    usage: Mutex<Usage>,
    hint: Notify,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("origin", &self.0.origin).finish_non_exhaustive()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Empty. `clock` is the wall clock, as the time since the Unix epoch; only UTC days are taken from it.
    #[must_use]
    pub fn new(bounds: Bounds, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let shards = OTHER_SHARDS + 1;
        let shard = || {
            Mutex::new(Counters::new(bounds.counters.div_ceil(shards), bounds.reservations.div_ceil(shards)))
        };
        Self(Box::new(Parts {
            clock: Box::new(clock),
            origin: Instant::now(),
            hasher: RandomState::new(),
            first: shard(),
            others: (0..OTHER_SHARDS).map(|_| shard()).collect(),
            answers: Mutex::new(Answers::new(bounds.answer_bytes)),
            names: Mutex::new(Names::new(bounds.names)),
            usage: Mutex::new(Usage::new(bounds.usage_per_day)),
            hint: Notify::new(),
        }))
    }

    /// `embedded`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        "embedded"
    }

    /// Always.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        true
    }

    /// Never any.
    #[must_use]
    pub const fn trouble(&self) -> Option<String> {
        None
    }

    fn shard(&self, group: &str) -> MutexGuard<'_, Counters> {
        let place = self.0.hasher.hash_one(group) as usize % (OTHER_SHARDS + 1);
        lock(self.0.others.get(place).unwrap_or(&self.0.first))
    }

    /// Taken under the lock of what it is for, so that no part of the store sees time run backwards.
    fn steady(&self) -> Duration {
        self.0.origin.elapsed()
    }

    fn moment(&self) -> Moment {
        Moment { steady: self.steady(), wall: (self.0.clock)() }
    }

    /// See [`crate::Store::charge`].
    ///
    /// # Errors
    /// None.
    pub async fn charge(&self, charge: &Charge, _within: Duration) -> Result<Verdict, Failure> {
        let mut counters = self.shard(&charge.group);
        Ok(counters.charge(charge, self.moment()))
    }

    /// See [`crate::Store::settle`].
    ///
    /// # Errors
    /// None.
    pub async fn settle(&self, settlement: &Settlement, _within: Duration) -> Result<(), Failure> {
        let mut counters = self.shard(&settlement.group);
        counters.settle(settlement, self.moment());
        Ok(())
    }

    /// See [`crate::Store::still_running`]. An entry that has ended or was forgotten does not come back.
    ///
    /// # Errors
    /// None.
    pub async fn still_running(
        &self,
        running: &[Running],
        lives: Duration,
        _within: Duration,
    ) -> Result<(), Failure> {
        for entry in running {
            let mut counters = self.shard(&entry.group);
            counters.renew(entry, lives, self.steady());
        }
        Ok(())
    }

    /// See [`crate::Store::begin`].
    ///
    /// # Errors
    /// None.
    pub async fn begin(
        &self,
        key: &str,
        owner: u128,
        note: &str,
        lives: Duration,
        _within: Duration,
    ) -> Result<Begun, Failure> {
        let mut answers = lock(&self.0.answers);
        Ok(answers.begin(key, owner, note, lives, self.steady()))
    }

    /// See [`crate::Store::look_up`].
    ///
    /// # Errors
    /// None.
    pub async fn look_up(&self, key: &str, _within: Duration) -> Result<Option<(Bytes, Duration)>, Failure> {
        let mut answers = lock(&self.0.answers);
        Ok(answers.look_up(key, self.steady()))
    }

    /// See [`crate::Store::renew`].
    ///
    /// # Errors
    /// None.
    pub async fn renew(
        &self,
        key: &str,
        owner: u128,
        pieces: &[Bytes],
        lives: Duration,
        _within: Duration,
    ) -> Result<Renewed, Failure> {
        let mut answers = lock(&self.0.answers);
        Ok(answers.renew(key, owner, pieces, lives, self.steady()))
    }

    /// See [`crate::Store::follow`].
    ///
    /// # Errors
    /// None.
    pub async fn follow(&self, key: &str, from: usize, _within: Duration) -> Result<Followed, Failure> {
        let mut answers = lock(&self.0.answers);
        Ok(answers.follow(key, from, self.steady()))
    }

    /// See [`crate::Store::put`]. An answer beyond [`Bounds::answer_bytes`] is not kept.
    ///
    /// # Errors
    /// None.
    pub async fn put(
        &self,
        key: &str,
        owner: u128,
        value: &Bytes,
        kept: Duration,
        _within: Duration,
    ) -> Result<(), Failure> {
        let mut answers = lock(&self.0.answers);
        answers.put(key, owner, value, kept, self.steady());
        Ok(())
    }

    /// See [`crate::Store::give_up`].
    ///
    /// # Errors
    /// None.
    pub async fn give_up(
        &self,
        key: &str,
        owner: u128,
        uncacheable: bool,
        _within: Duration,
    ) -> Result<(), Failure> {
        let mut answers = lock(&self.0.answers);
        answers.give_up(key, owner, uncacheable, self.steady());
        Ok(())
    }

    /// See [`crate::Store::forget`].
    ///
    /// # Errors
    /// None.
    pub async fn forget(&self, key: &str, _within: Duration) -> Result<(), Failure> {
        lock(&self.0.answers).forget(key);
        Ok(())
    }

    /// See [`crate::Store::lease`].
    ///
    /// # Errors
    /// None.
    pub async fn lease(
        &self,
        name: &str,
        owner: u128,
        lives: Duration,
        _within: Duration,
    ) -> Result<bool, Failure> {
        let mut names = lock(&self.0.names);
        Ok(names.lease(name, owner, lives, self.steady()))
    }

    /// See [`crate::Store::release`].
    ///
    /// # Errors
    /// None.
    pub async fn release(&self, name: &str, owner: u128, _within: Duration) -> Result<(), Failure> {
        lock(&self.0.names).release(name, owner);
        Ok(())
    }

    /// See [`crate::Store::beat`].
    ///
    /// # Errors
    /// [`Failure::Refused`] where there are too many nodes ([`Bounds::names`]).
    pub async fn beat(&self, beat: &Beat, _within: Duration) -> Result<Fleet, Failure> {
        let mut names = lock(&self.0.names);
        names.beat(beat, self.steady()).ok_or_else(|| Failure::Refused("too many nodes".to_owned()))
    }

    /// See [`crate::Store::leave`].
    ///
    /// # Errors
    /// None.
    pub async fn leave(&self, node: &str, _within: Duration) -> Result<(), Failure> {
        lock(&self.0.names).leave(node);
        Ok(())
    }

    /// See [`crate::Store::cool`].
    ///
    /// # Errors
    /// None.
    pub async fn cool(&self, cooldown: &Cooldown, _within: Duration) -> Result<(), Failure> {
        let mut names = lock(&self.0.names);
        names.cool(cooldown, self.steady());
        drop(names);
        self.0.hint.notify_one();
        Ok(())
    }

    /// See [`crate::Store::hinted`]: a node's own cool-down completes it, and one listener hears of each.
    pub async fn hinted(&self) {
        self.0.hint.notified().await;
    }

    /// See [`crate::Store::spend`].
    ///
    /// # Errors
    /// None.
    pub async fn spend(&self, entries: &[Entry], _within: Duration) -> Result<(), Failure> {
        lock(&self.0.usage).spend(entries, (self.0.clock)());
        Ok(())
    }

    /// See [`crate::Store::spent`]; by client and model in order.
    ///
    /// # Errors
    /// None.
    pub async fn spent(&self, days_ago: u32, _within: Duration) -> Result<Vec<Spent>, Failure> {
        Ok(lock(&self.0.usage).spent(days_ago, (self.0.clock)()))
    }
}
