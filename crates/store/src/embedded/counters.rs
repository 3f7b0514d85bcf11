//! The counters behind one lock: charges that take from several or from none, and the room they have.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::Moment;
use super::counter::{Asked, Counter};
use crate::charge::{Charge, Debit, Running, Settled, Settlement, Verdict};

/// What is full or has run out is looked for this often; until then it waits for its counter to be charged.
const SWEEP: Duration = Duration::from_secs(60);

/// Counters by group and key.
#[derive(Debug)]
pub(super) struct Counters {
    groups: HashMap<Arc<str>, HashMap<Arc<str>, Counter>>,
    /// Counters, of all groups.
    count: usize,
    /// Reservations and running entries, of all counters.
    held: usize,
    max_count: usize,
    max_held: usize,
    charges: u64,
    swept: Duration,
}

impl Counters {
    /// Empty. `max_count` bounds the counters, `max_held` their reservations and running entries.
    pub fn new(max_count: usize, max_held: usize) -> Self {
        Self {
            groups: HashMap::new(),
            count: 0,
            held: 0,
            max_count,
            max_held,
            charges: 0,
            swept: Duration::ZERO,
        }
    }

    /// Takes all or nothing.
    pub fn charge(&mut self, charge: &Charge, now: Moment) -> Verdict {
        self.charges += 1;
        // Out of the map while they are worked on: several are changed at once, and none is if one denies.
        let mut taken: Vec<Counter> = charge
            .debits
            .iter()
            .map(|debit| match self.remove(&charge.group, &debit.key) {
                Some(counter) => counter.adopt(debit.counter, now),
                None => Counter::begin(debit.counter, debit.known, now),
            })
            .collect();
        let asked: Vec<Asked> =
            taken.iter().zip(&charge.debits).map(|(counter, debit)| counter.ask(debit, now)).collect();
        let denied = asked
            .iter()
            .enumerate()
            // Of several that wait equally long the first is named.
            .rev()
            .filter_map(|(index, asked)| asked.denied.map(|denied| (index, denied)))
            .max_by_key(|(_, denied)| *denied);
        let mut standings = Vec::with_capacity(taken.len());
        for ((counter, debit), mut asked) in taken.iter_mut().zip(&charge.debits).zip(asked) {
            if denied.is_some() {
                asked = Asked { spent: asked.spent, ..Asked::default() };
            } else {
                counter.take(debit, asked.extra, charge.id, charge.lives, now);
            }
            standings.push(counter.standing(asked, now));
        }
        for (Debit { key, .. }, counter) in charge.debits.iter().zip(taken) {
            self.insert(&charge.group, key, counter, now);
        }
        self.make_room(now);
        match denied {
            None => Verdict::Admitted(standings),
            Some((by, retry_after)) => Verdict::Denied { by, retry_after, standings },
        }
    }

    /// Trues up each counter for itself.
    pub fn settle(&mut self, settlement: &Settlement, now: Moment) {
        for item @ Settled { key, counter: rule, .. } in &settlement.items {
            let mut counter = match self.remove(&settlement.group, key) {
                Some(counter) => counter.adopt(*rule, now),
                None => Counter::begin(*rule, None, now),
            };
            counter.settle(settlement.id, item, now);
            self.insert(&settlement.group, key, counter, now);
        }
        self.make_room(now);
    }

    /// Lets an entry that is still there run on.
    pub fn renew(&mut self, running: &Running, lives: Duration, now: Duration) {
        let counter = self.groups.get_mut(&running.group).and_then(|group| group.get_mut(&running.key));
        if let Some(counter) = counter {
            counter.renew(running.id, lives, now);
        }
    }

    fn remove(&mut self, group: &str, key: &str) -> Option<Counter> {
        let counter = self.groups.get_mut(group)?.remove(key)?;
        self.count -= 1;
        self.held -= counter.held();
        Some(counter)
    }

    fn insert(&mut self, group: &Arc<str>, key: &Arc<str>, mut counter: Counter, now: Moment) {
        if counter.is_full(now) {
            if self.groups.get(group).is_some_and(HashMap::is_empty) {
                self.groups.remove(group);
            }
            return;
        }
        counter.touched = self.charges;
        self.count += 1;
        self.held += counter.held();
        self.groups.entry(Arc::clone(group)).or_default().insert(Arc::clone(key), counter);
    }

    fn is_over(&self) -> bool {
        self.count > self.max_count || self.held > self.max_held
    }

    /// Now and then, and where there is no more room. Then an eighth is made free at once, so that the work is rare.
    fn make_room(&mut self, now: Moment) {
        let over = self.is_over();
        if !over && now.steady.saturating_sub(self.swept) < SWEEP {
            return;
        }
        self.swept = now.steady;
        self.retain(|counter| {
            counter.sweep(now);
            !counter.is_full(now)
        });
        if over {
            self.evict(self.max_count - self.max_count / 8, self.max_held - self.max_held / 8);
        }
    }

    /// The least recently charged go until no more than this is left.
    fn evict(&mut self, count: usize, held: usize) {
        let (mut count_left, mut held_left) = (self.count, self.held);
        let all = self.groups.values().flat_map(HashMap::values);
        let mut oldest: Vec<(u64, usize)> = all.map(|counter| (counter.touched, counter.held())).collect();
        oldest.sort_unstable();
        let mut upto = None;
        for (touched, holds) in oldest {
            if count_left <= count && held_left <= held {
                break;
            }
            count_left -= 1;
            held_left -= holds;
            upto = Some(touched);
        }
        let before = self.count;
        self.retain(|counter| upto.is_none_or(|upto| counter.touched > upto));
        counter!("tidegate_store_evictions_total", "kind" => "counter")
            .increment((before - self.count) as u64);
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut Counter) -> bool) {
        let (mut count, mut held) = (0, 0);
        self.groups.retain(|_, group| {
            group.retain(|_, counter| {
                let kept = keep(counter);
                if kept {
                    count += 1;
                    held += counter.held();
                }
                kept
            });
            !group.is_empty()
        });
        (self.count, self.held) = (count, held);
    }
}

#[cfg(test)]
mod tests;
