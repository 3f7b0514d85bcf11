//! What the nodes of a cluster share: limits, cached answers, leases, cool-downs, usage and who is there.
//!
//! One interface, [`Store`], over two implementations: Redis for a cluster, this process's memory for a single
//! node. Owns nothing of a request. Every call is bounded in time, and none queues while the store is away: it
//! fails at once with [`Failure::Down`], and what then holds is said where the answer is used ([`limit`] for limits;
//! the gateway for the rest). No wall clock of this machine is compared with another's: times go in and out as
//! what is left, and Redis keeps them by its own clock.
//! Not here: what is limited and cached, and under which names.

pub mod answers;
pub mod cache;
pub mod charge;
pub mod embedded;
pub mod fleet;
pub mod limit;
pub mod redis;
pub mod usage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::cache::{Begun, Followed, Renewed};
use crate::charge::{Charge, Running, Settlement, Verdict};
use crate::embedded::Embedded;
use crate::fleet::{Beat, Cooldown, Fleet};
use crate::redis::Redis;
use crate::usage::{Entry, Spent};

/// Why a call gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The store is away: nothing was sent.
    #[error("the store is away")]
    Down,
    /// No answer in time: what was asked may have been done.
    #[error("the store did not answer in time")]
    Unknown,
    /// The store refused, or what it holds is not ours; the text is its own, without secrets.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// What nodes share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Kept>);

#[derive(Debug)]
enum Kept {
    Embedded(Embedded),
    Redis(Redis),
}

/// Sends a call to whichever implementation there is.
macro_rules! kept {
    ($self:expr, $store:ident => $call:expr) => {
        match &*$self.0 {
            Kept::Embedded($store) => $call,
            Kept::Redis($store) => $call,
        }
    };
}

impl Store {
    /// This process's memory.
    #[must_use]
    pub fn embedded(embedded: Embedded) -> Self {
        Self(Arc::new(Kept::Embedded(embedded)))
    }

    /// A Redis, which need not be there yet.
    #[must_use]
    pub fn redis(redis: Redis) -> Self {
        Self(Arc::new(Kept::Redis(redis)))
    }

    /// `embedded`, `redis`, `redis+sentinel` or `redis+cluster`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        kept!(self, store => store.kind())
    }

    /// Other nodes may use it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(&*self.0, Kept::Redis(_))
    }

    /// It answers, as far as is known. `false` while its breaker is open or it was never reached.
    #[must_use]
    pub fn is_up(&self) -> bool {
        kept!(self, store => store.is_up())
    }

    /// Why it is down, for people; `None` while it is up.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        kept!(self, store => store.trouble())
    }

    /// Takes from several counters of one group, all or nothing. `within` bounds the call.
    ///
    /// # Errors
    /// [`Failure`]; after [`Failure::Unknown`] the charge may stand: it is not to be settled.
    pub async fn charge(&self, charge: &Charge, within: Duration) -> Result<Verdict, Failure> {
        kept!(self, store => store.charge(charge, within).await)
    }

    /// Trues up what was charged, gives back what was not used and ends what was running.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn settle(&self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.settle(settlement, within).await)
    }

    /// Lets running requests be counted for `lives` more.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn still_running(
        &self,
        running: &[Running],
        lives: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        kept!(self, store => store.still_running(running, lives, within).await)
    }

    /// A stored answer; if there is none, the right to make it for `lives`, unless `owner` finds another node making it.
    /// The marker is `key`'s; `note` is kept with it and given to those who find it ([`Begun::Follow`]).
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin(
        &self,
        key: &str,
        owner: u128,
        note: &str,
        lives: Duration,
        within: Duration,
    ) -> Result<Begun, Failure> {
        kept!(self, store => store.begin(key, owner, note, lives, within).await)
    }

    /// A stored answer and how long it will still be kept, taking no right to make one.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn look_up(&self, key: &str, within: Duration) -> Result<Option<(Bytes, Duration)>, Failure> {
        kept!(self, store => store.look_up(key, within).await)
    }

    /// Keeps the right to make an answer, and adds the next pieces of it for those who follow. No pieces: only renews.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn renew(
        &self,
        key: &str,
        owner: u128,
        pieces: &[Bytes],
        lives: Duration,
        within: Duration,
    ) -> Result<Renewed, Failure> {
        kept!(self, store => store.renew(key, owner, pieces, lives, within).await)
    }

    /// What has become of an answer that another node makes: its pieces from number `from` on.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn follow(&self, key: &str, from: usize, within: Duration) -> Result<Followed, Failure> {
        kept!(self, store => store.follow(key, from, within).await)
    }

    /// Stores an answer for `kept` and gives the right to make it back. Overwrites.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put(
        &self,
        key: &str,
        owner: u128,
        value: &Bytes,
        kept: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        kept!(self, store => store.put(key, owner, value, kept, within).await)
    }

    /// Gives the right to make an answer back without one. `uncacheable`: those who wait should each go their own
    /// way, for as long as the marker would have lived; else one of them takes over.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn give_up(
        &self,
        key: &str,
        owner: u128,
        uncacheable: bool,
        within: Duration,
    ) -> Result<(), Failure> {
        kept!(self, store => store.give_up(key, owner, uncacheable, within).await)
    }

    /// Removes a stored answer.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn forget(&self, key: &str, within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.forget(key, within).await)
    }

    /// Takes a lease, or renews it where `owner` holds it. False: another holds it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn lease(
        &self,
        name: &str,
        owner: u128,
        lives: Duration,
        within: Duration,
    ) -> Result<bool, Failure> {
        kept!(self, store => store.lease(name, owner, lives, within).await)
    }

    /// Gives a lease back, if `owner` still holds it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn release(&self, name: &str, owner: u128, within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.release(name, owner, within).await)
    }

    /// Says that this node is there, and learns who else is and which cool-downs run.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn beat(&self, beat: &Beat, within: Duration) -> Result<Fleet, Failure> {
        kept!(self, store => store.beat(beat, within).await)
    }

    /// Takes this node out of the fleet at once: it is going away.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn leave(&self, node: &str, within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.leave(node, within).await)
    }

    /// Shares a cool-down: never shortens one that runs. Those who listen ([`Store::hinted`]) hear of it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn cool(&self, cooldown: &Cooldown, within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.cool(cooldown, within).await)
    }

    /// Completes when another node has shared something that is worth a beat before its time. A hint may be lost and
    /// may come for nothing. Cancel-safe.
    pub async fn hinted(&self) {
        kept!(self, store => store.hinted().await);
    }

    /// Adds to today's usage, by the store's own UTC day.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn spend(&self, entries: &[Entry], within: Duration) -> Result<(), Failure> {
        kept!(self, store => store.spend(entries, within).await)
    }

    /// The usage of a UTC day: 0 is today, 1 yesterday; kept for 40 days.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn spent(&self, days_ago: u32, within: Duration) -> Result<Vec<Spent>, Failure> {
        kept!(self, store => store.spent(days_ago, within).await)
    }
}
