//! What this node admits by itself while the store does not answer, so that the store can be told afterwards; and what
//! it was told in vain, as far as something was used.
//!
//! An outage ends with the first answer. Each has a number, and each its own counters in this node's memory: a share
//! begins at this node's part of what was last known to be left, so that a store which comes and goes gives nobody a
//! new burst each time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::rule::{Name, full, share};
use super::seen::Known;
use crate::Store;
use crate::charge::{Counter, Settled, Settlement};

/// Counters whose use is reported; what is admitted of others is not.
pub(super) const REPORTED_MOST: usize = 10_000;
/// Below this, in units, is only the error of the arithmetic.
const NOTHING: f64 = 1e-6;

#[derive(Debug)]
struct Share {
    of: Counter,
    known: Known,
    used: f64,
}

#[derive(Debug, Default)]
struct State {
    number: u64,
    shares: HashMap<Name, Share>,
    /// Of earlier outages, or unsent.
    owed: HashMap<Name, (Counter, f64)>,
    /// On its way to the store.
    told: HashMap<Name, f64>,
}

/// What the store is to be told of one counter.
#[derive(Debug, Clone)]
pub(super) struct Owed {
    pub(super) name: Name,
    pub(super) of: Counter,
    /// Units; below 0: given back.
    pub(super) used: f64,
}

#[derive(Debug, Default)]
pub(super) struct Outage {
    state: Mutex<State>,
    /// There may be something to report.
    going_on: AtomicBool,
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_going_on(&self) -> bool {
        self.going_on.load(Ordering::Acquire)
    }

    /// The number of the outage that goes on.
    pub(super) fn begin(&self) -> u64 {
        self.going_on.store(true, Ordering::Release);
        self.state().number
    }

    /// The group of a share in this node's memory.
    pub(super) fn group(group: &str, number: u64) -> Arc<str> {
        format!("{group}#{number}").into()
    }

    /// This node's share of `of` among `nodes` in outage `number`; made, as full as `known` says, when first asked for.
    pub(super) async fn share(
        &self,
        number: u64,
        name: &Name,
        of: Counter,
        nodes: u32,
        known: Known,
        local: &Store,
    ) -> Counter {
        let new = Share { of, known, used: 0.0 };
        let counter = {
            let state = self.state();
            let now = Instant::now();
            match state.shares.get(name).filter(|_| state.number == number) {
                Some(share) => return share.counter(nodes, now),
                // Not remembered, so what is missing would be taken each time: it is not.
                None if state.shares.len() >= REPORTED_MOST => return new.counter(nodes, now),
                None => new.counter(nodes, now),
            }
        };
        let missing = match counter {
            Counter::Bucket { burst, .. } => (burst - known.left / f64::from(nodes.max(1))).max(0.0),
            Counter::Day { .. } | Counter::Running { .. } => 0.0,
        };
        // Taken before others can see the share: none of them finds it too full.
        adjust(local, number, name, counter, (0.0, missing)).await;
        let was_first = {
            let mut state = self.state();
            let known = state.shares.contains_key(name);
            if !known && state.number == number && state.shares.len() < REPORTED_MOST {
                state.shares.insert(name.clone(), new);
            }
            !known
        };
        if !was_first {
            adjust(local, number, name, counter, (missing, 0.0)).await;
        }
        counter
    }

    /// `used` more was taken in outage `number`, or given back if below 0. Where that is over, the store is yet to hear
    /// of it.
    pub(super) fn used(&self, number: u64, name: &Name, of: Counter, used: f64) {
        if used == 0.0 {
            return;
        }
        let mut state = self.state();
        if state.number == number {
            if let Some(share) = state.shares.get_mut(name) {
                share.used += used;
            }
            return;
        }
        owe(&mut state, name.clone(), of, used);
        self.going_on.store(true, Ordering::Release);
    }

    /// The store missed that `used` more of a counter was taken, or given back if below 0.
    pub(super) fn owe(&self, name: Name, of: Counter, used: f64) {
        owe(&mut self.state(), name, of, used);
    }

    /// There is something to report.
    pub(super) fn owes(&self) -> bool {
        self.is_going_on() || !self.state().owed.is_empty()
    }

    /// A report was sent; `false`: it was not, and is owed as before.
    pub(super) fn reported(&self, owed: Owed, sent: bool) {
        let mut state = self.state();
        if let Some(told) = state.told.get_mut(&owed.name) {
            *told -= owed.used;
            if told.abs() < NOTHING {
                state.told.remove(&owed.name);
            }
        }
        if !sent {
            // Not again at once: what the store refuses now it would refuse with each answer that it gives.
            owe(&mut state, owed.name, owed.of, owed.used);
        }
    }

    /// What the store has yet to hear of a counter, in units.
    pub(super) fn unreported(&self, name: &Name) -> f64 {
        let state = self.state();
        let owed = state.owed.get(name).map_or(0.0, |(_, used)| *used);
        owed + state.told.get(name).copied().unwrap_or(0.0)
    }

    /// What the store does not know was taken of a counter, in units: of this outage, and what it has yet to hear.
    pub(super) fn missed(&self, name: &Name) -> f64 {
        let taken = self.state().shares.get(name).map_or(0.0, |share| share.used);
        taken + self.unreported(name)
    }

    /// The store answers: the outage is over, and this is what it is to be told.
    pub(super) fn end(&self) -> Vec<Owed> {
        let mut state = self.state();
        self.going_on.store(false, Ordering::Release);
        state.number += 1;
        for (name, share) in std::mem::take(&mut state.shares) {
            owe(&mut state, name, share.of, share.used);
        }
        let owed = std::mem::take(&mut state.owed).into_iter();
        let owed = owed.map(|(name, (of, used))| Owed { name, of, used });
        let owed: Vec<_> = owed.filter(|owed| owed.used != 0.0).collect();
        for Owed { name, used, .. } in &owed {
            if state.told.len() < REPORTED_MOST || state.told.contains_key(name) {
                *state.told.entry(name.clone()).or_default() += used;
            }
        }
        owed
    }
}

impl Share {
    fn counter(&self, nodes: u32, now: Instant) -> Counter {
        let is_over = self.known.anew.is_some_and(|at| now >= at);
        share(self.of, nodes, if is_over { full(self.of) } else { self.known.left })
    }
}

fn owe(state: &mut State, name: Name, of: Counter, used: f64) {
    if state.owed.len() < REPORTED_MOST || state.owed.contains_key(&name) {
        state.owed.entry(name).or_insert((of, 0.0)).1 += used;
    }
}

async fn adjust(local: &Store, number: u64, name: &Name, counter: Counter, (charged, used): (f64, f64)) {
    if charged == used {
        return;
    }
    let item = Settled { key: Arc::clone(&name.key), counter, charged, used, reserved: false };
    let settlement = Settlement {
        group: Outage::group(&name.group, number),
        id: fastrand::u128(..),
        lives: Duration::ZERO,
        items: vec![item],
    };
    // This node's memory does not fail but by being full, and then the charge that follows fails too.
    let _ = local.settle(&settlement, super::BACKGROUND).await;
}
