//! What goes on beside the requests: what they owe is told to the store, what runs is kept counted, and what was
//! leased and not used goes back. No answer waits for any of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

use super::outage::Owed;
use super::rule::{Name, RUNNING_LIVES};
use super::watch::LOOK_EVERY;
use super::{BACKGROUND, Limiter};
use crate::Failure;
use crate::charge::{Charge, Counter, Debit, Running, Settled, Settlement};

/// What waits to be told; more is dropped and counted, and what was used is told later.
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

    pub(super) fn all(&self, in_store: bool) -> Vec<Running> {
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
        let mut looks = tokio::time::interval_at(now + LOOK_EVERY, LOOK_EVERY);
        let mut turn = 0_usize;
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        leases.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                _ = jobs.recv_many(&mut batch, BATCH) => self.tell(&mut batch).await,
                _ = renew.tick() => self.renew().await,
                _ = leases.tick() => {
                    self.return_leases(false);
                    self.end_outage().await;
                }
                _ = looks.tick() => {
                    turn = turn.wrapping_add(1);
                    self.look(turn).await;
                }
            }
        }
    }

    /// For a drain: gives the leases back and waits until the store has heard all, 2 s at most. Needs
    /// [`Limiter::run`]. Cancel-safe: what was begun goes on.
    pub async fn flush(&self) {
        self.return_leases(true);
        let (told, all_told) = oneshot::channel();
        let flushed = async {
            self.end_outage().await;
            if self.jobs.send(Job::Flushed(told)).await.is_ok() {
                let _ = all_told.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }

    /// Queues `job`, or drops and counts it; what it says was used is told later.
    pub(super) fn enqueue(&self, job: Job) {
        if let Err(error) = self.jobs.try_send(job) {
            self.counts.dropped.increment(1);
            if let Job::Settle(settlement) = error.into_inner() {
                self.owe(&settlement);
            }
        }
    }

    /// The store took nothing of `settlement`. What was reserved runs out by itself, so all that was used is owed.
    fn owe(&self, settlement: &Settlement) {
        for item in &settlement.items {
            let Settled { counter, charged, reserved, .. } = *item;
            let used = if reserved { item.used() } else { item.used() - charged };
            let is_owed = match counter {
                // It fills by itself: what is given back late would be had twice.
                Counter::Bucket { .. } => used > 0.0,
                Counter::Day { .. } => used != 0.0,
                Counter::Running { .. } => false,
            };
            let name = Name { group: Arc::clone(&settlement.group), key: Arc::clone(&item.key) };
            if reserved && is_owed {
                self.seen.take(&name, counter, -charged, Instant::now());
            }
            if is_owed {
                self.outage.owe(name, counter, used);
            }
        }
    }

    /// The store answers: an outage that went on is over.
    pub(super) fn heard(&self) {
        if self.outage.is_going_on() {
            self.report();
        }
    }

    fn report(&self) {
        for owed in self.outage.end() {
            if let Err(error) = self.jobs.try_send(Job::Report(owed))
                && let Job::Report(owed) = error.into_inner()
            {
                self.outage.reported(owed, false);
            }
        }
    }

    /// Where no request asks the store whether it is back. That it is believed to be up is no answer.
    async fn end_outage(&self) {
        if self.outage.owes() && self.link.charge(&probe(), BACKGROUND).await.is_ok() {
            self.report();
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
            Job::Settle(settlement) => match self.link.settle(&settlement, BACKGROUND).await {
                Ok(()) => self.heard(),
                // It may stand, and said again it would count twice.
                Err(Failure::Unknown) => self.counts.dropped.increment(1),
                Err(Failure::Down | Failure::Refused(_)) => self.owe(&settlement),
            },
            Job::SettleHere(settlement) => {
                let _ = self.local.settle(&settlement, BACKGROUND).await;
            }
            Job::Report(owed) => {
                let settlement = adjustment(&owed);
                let told = self.link.settle(&settlement, BACKGROUND).await;
                let sent = matches!(told, Ok(()) | Err(Failure::Unknown));
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
            match self.link.still_running(running, RUNNING_LIVES, BACKGROUND).await {
                Ok(()) => self.heard(),
                // Nothing is sent; the next turn comes before anything runs out.
                Err(Failure::Down) => return,
                // Of one group, it may be: the others go on.
                Err(Failure::Unknown | Failure::Refused(_)) => {}
            }
        }
    }

    fn return_leases(&self, all: bool) {
        for (lease, used) in self.leases.due(all, Instant::now()) {
            let owed = Owed { name: lease.applies.name.clone(), of: lease.counter, used };
            self.enqueue(Job::Settle(adjustment(&owed)));
        }
    }
}

/// A charge of nothing, which is answered where others would be.
fn probe() -> Charge {
    let counter = Counter::Bucket { per_second: 1.0, burst: 1.0, patience: Duration::ZERO };
    let debit = Debit { key: "probe".into(), counter, cost: 0.0, extra: 0.0, known: None, reserved: false };
    Charge { group: "probe".into(), id: fastrand::u128(..), lives: Duration::ZERO, debits: vec![debit] }
}

/// Takes from a counter what was used beyond any charge, or gives back.
fn adjustment(owed: &Owed) -> Settlement {
    let (charged, used) = if owed.used < 0.0 { (-owed.used, 0.0) } else { (0.0, owed.used) };
    let (key, counter): (_, Counter) = (Arc::clone(&owed.name.key), owed.of);
    let item = Settled { key, counter, charged, used, reserved: false };
    let group = Arc::clone(&owed.name.group);
    Settlement { group, id: fastrand::u128(..), lives: Duration::ZERO, items: vec![item] }
}
