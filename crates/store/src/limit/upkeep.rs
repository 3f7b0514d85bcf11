//! What goes on beside the requests: what they owe is told to the store, what runs is kept counted, and what was
//! leased and not used goes back. No answer waits for any of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::outage::Owed;
use super::rule::RUNNING_LIVES;
use super::{BACKGROUND, Limiter};
use crate::Failure;
use crate::charge::{Counter, Running, Settled, Settlement};

/// What waits to be told; more is dropped and counted.
pub(super) const QUEUE: usize = 4096;
/// Told at the same time.
const BATCH: usize = 64;
/// Between renewals of what runs.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Between looks at the leases.
const LEASES_EVERY: Duration = Duration::from_millis(500);
/// How long a drain waits until all is told.
const FLUSH: Duration = Duration::from_secs(2);
/// Entries kept counted; those above end after their 30 s, though the request may go on.
const RUNNING_MOST: usize = 65_536;
/// Entries renewed by one call.
const RENEWED_AT_ONCE: usize = 1000;

/// Something to tell.
#[derive(Debug)]
pub(super) enum Job {
    /// To the store.
    Settle(Settlement),
    /// To this node's memory.
    SettleHere(Settlement),
    /// To the store: what was used without it.
    Report(Owed),
    /// To whoever waits: all before it is told.
    Flushed(oneshot::Sender<()>),
}

/// What runs, by charge.
#[derive(Debug, Default)]
pub(super) struct RunningCharges(Mutex<HashMap<u128, Vec<(bool, Running)>>>);

impl RunningCharges {
    fn table(&self) -> MutexGuard<'_, HashMap<u128, Vec<(bool, Running)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn began(&self, in_store: bool, group: &Arc<str>, key: &Arc<str>, id: u128) {
        let mut table = self.table();
        if table.len() < RUNNING_MOST || table.contains_key(&id) {
            let running = Running { group: Arc::clone(group), key: Arc::clone(key), id };
            table.entry(id).or_default().push((in_store, running));
        }
    }

    pub(super) fn ended(&self, id: u128) {
        self.table().remove(&id);
    }

    fn all(&self, in_store: bool) -> Vec<Running> {
        let table = self.table();
        let there = table.values().flatten().filter(|(where_, _)| *where_ == in_store);
        there.map(|(_, running)| running.clone()).collect()
    }
}

impl Limiter {
    /// Does the upkeep until dropped; to be spawned once. A second one returns at once.
    pub async fn run(self: Arc<Self>) {
        let taken = self.jobs_out.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut jobs) = taken else { return };
        let now = Instant::now();
        let mut renew = tokio::time::interval_at(now + RENEW_EVERY, RENEW_EVERY);
        let mut leases = tokio::time::interval_at(now + LEASES_EVERY, LEASES_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        leases.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                _ = jobs.recv_many(&mut batch, BATCH) => self.tell(&mut batch).await,
                _ = renew.tick() => self.renew().await,
                _ = leases.tick() => {
                    self.return_leases(false);
                    self.end_outage();
                }
            }
        }
    }

    /// For a drain: gives the leases back and waits until the store has heard all, 2 s at most. Needs
    /// [`Limiter::run`]. Cancel-safe: what was begun goes on.
    pub async fn flush(&self) {
        self.return_leases(true);
        self.end_outage();
        let (told, all_told) = oneshot::channel();
        let flushed = async {
            if self.jobs.send(Job::Flushed(told)).await.is_ok() {
                let _ = all_told.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }

    /// Queues `job`, or drops and counts it.
    pub(super) fn enqueue(&self, job: Job) {
        if self.jobs.try_send(job).is_err() {
            self.counts.dropped.increment(1);
        }
    }

    /// The store answers: an outage that went on is over.
    pub(super) fn heard(&self) {
        if !self.outage.is_going_on() {
            return;
        }
        for owed in self.outage.end() {
            if let Err(error) = self.jobs.try_send(Job::Report(owed))
                && let Job::Report(owed) = error.into_inner()
            {
                self.outage.reported(owed, false);
            }
        }
    }

    /// Where no request asks the store whether it is back.
    fn end_outage(&self) {
        if self.link.is_up() {
            self.heard();
        }
    }

    async fn tell(&self, batch: &mut Vec<Job>) {
        let mut flushed = Vec::new();
        let mut calls = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            match job {
                Job::Flushed(told) => flushed.push(told),
                job => calls.push(self.tell_one(job)),
            }
        }
        join_all(calls).await;
        for told in flushed {
            let _ = told.send(());
        }
    }

    async fn tell_one(&self, job: Job) {
        match job {
            // Not retried: what was reserved runs out by itself.
            Job::Settle(settlement) => {
                if self.link.settle(&settlement, BACKGROUND).await.is_ok() {
                    self.heard();
                }
            }
            Job::SettleHere(settlement) => {
                let _ = self.local.settle(&settlement, BACKGROUND).await;
            }
            Job::Report(owed) => {
                let settlement = adjustment(&owed);
                let sent = self.link.settle(&settlement, BACKGROUND).await != Err(Failure::Down);
                if sent {
                    self.seen.take(&owed.name, owed.of, owed.used, Instant::now());
                }
                self.outage.reported(owed, sent);
            }
            Job::Flushed(_) => {}
        }
    }

    async fn renew(&self) {
        for running in self.running.all(false).chunks(RENEWED_AT_ONCE) {
            let _ = self.local.still_running(running, RUNNING_LIVES, BACKGROUND).await;
        }
        for running in self.running.all(true).chunks(RENEWED_AT_ONCE) {
            // The next turn comes before anything runs out.
            if self.link.still_running(running, RUNNING_LIVES, BACKGROUND).await.is_err() {
                return;
            }
            self.heard();
        }
    }

    fn return_leases(&self, all: bool) {
        for (lease, used) in self.leases.due(all, Instant::now()) {
            let owed = Owed { name: lease.applies.name.clone(), of: lease.counter, used };
            self.enqueue(Job::Settle(adjustment(&owed)));
        }
    }
}

/// Takes from a counter what was used beyond any charge, or gives back.
fn adjustment(owed: &Owed) -> Settlement {
    let (charged, used) = if owed.used < 0.0 { (-owed.used, 0.0) } else { (0.0, owed.used) };
    let (key, counter): (_, Counter) = (Arc::clone(&owed.name.key), owed.of);
    let item = Settled { key, counter, charged, used, reserved: false };
    let group = Arc::clone(&owed.name.group);
    Settlement { group, id: fastrand::u128(..), lives: Duration::ZERO, items: vec![item] }
}
