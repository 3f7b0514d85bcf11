//! How the limits of those stand whom an operator watches, and the looks at the store that keep it known.
//!
//! Requests tell as much for whoever asks here and now; what others take, what is settled and what comes back is heard
//! of by looks: charges of nothing, in the background, a bounded number a second. The store away, none is made, and what
//! was heard last holds, with what this node took since. Not here: who is watched.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::rule::{Applies, RUNNING_LIVES, full};
use super::{BACKGROUND, Limiter};
use crate::charge::{Charge, Counter, Debit, Verdict};

/// Between turns.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of a store that is asked over the network: every subject has its turn in so many.
const TURNS: usize = 15;
/// Subjects looked at in one turn; where there are more than fit, each waits longer.
const AT_ONCE: usize = 32;
/// The same where the store is this process's memory.
const AT_ONCE_HERE: usize = 1024;

/// How a limit stands, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stand {
    /// What there is when nothing was taken, in units: a bucket's burst, a day's amount.
    pub limit: f64,
    /// What is taken or reserved of it, 0 or more; above `limit` in debt.
    pub used: f64,
    /// Until all of it is there again; zero where it is, and of what runs.
    pub reset: Duration,
}

impl Stand {
    /// The part that is used: 0 to 1, above in debt. 1 of a limit that allows nothing.
    #[must_use]
    pub fn used_ratio(&self) -> f64 {
        if self.limit > 0.0 { self.used / self.limit } else { 1.0 }
    }
}

/// Each with all its limits.
type Subjects = Arc<Vec<Vec<Applies>>>;

#[derive(Debug, Default)]
pub(super) struct Watched(Mutex<Subjects>);

impl Watched {
    fn set(&self, subjects: Vec<Vec<Applies>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(subjects);
    }

    fn get(&self) -> Subjects {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Limiter {
    /// From now on these are looked at, and those of before no more. For each subject all that holds for it, in the order
    /// in which [`Limiter::admit`] is given it; none of [`super::Scope::Node`]. Needs [`Limiter::run`].
    pub fn watch(&self, subjects: impl IntoIterator<Item = Vec<Applies>>) {
        let apart =
            subjects.into_iter().filter(|rules| !rules.is_empty()).map(|rules| Applies::apart(&rules));
        self.watched.set(apart.collect());
    }

    /// How all limits of one subject stand, in their order, which is that of [`Limiter::admit`]. Asks nobody. What was
    /// never heard of counts as unused.
    #[must_use]
    pub fn stands(&self, rules: &[Applies]) -> Vec<Stand> {
        let now = Instant::now();
        Applies::apart(rules).iter().map(|rule| self.stand(rule, now)).collect()
    }

    fn stand(&self, rule: &Applies, now: Instant) -> Stand {
        let counter = rule.rule.counter();
        let limit = full(counter);
        let known = self.seen.known(&rule.name, counter, now);
        let (left, reset) = match counter {
            Counter::Bucket { per_second, .. } => {
                let left = (known.left + self.leases.held(&rule.name, now)).min(limit);
                let fills = (limit - left - self.outage.missed(&rule.name)).max(0.0) / per_second;
                (left, Duration::try_from_secs_f64(fills).unwrap_or(Duration::MAX))
            }
            Counter::Day { .. } => {
                (known.left, known.anew.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)))
            }
            Counter::Running { .. } => {
                (self.seen.running(&rule.name, RUNNING_LIVES, now).unwrap_or(limit), Duration::ZERO)
            }
        };
        Stand { limit, used: (limit - left + self.outage.missed(&rule.name)).max(0.0), reset }
    }

    /// Looks at those whose turn it is. Ends within [`BACKGROUND`].
    pub(super) async fn look(&self, turn: usize) {
        // Then requests find out, or `end_outage` does.
        if self.outage.is_going_on() {
            return;
        }
        let subjects = self.watched.get();
        let turns = if self.leasing {
            subjects.len().div_ceil(AT_ONCE).max(TURNS)
        } else {
            subjects.len().div_ceil(AT_ONCE_HERE).max(1)
        };
        let due = subjects.iter().enumerate().filter(|(index, _)| (index + 1) % turns == turn % turns);
        join_all(due.map(|(_, rules)| self.look_at(rules))).await;
    }

    async fn look_at(&self, rules: &[Applies]) {
        let Some(first) = rules.first() else { return };
        let debits = rules.iter().map(|rule| Debit {
            key: Arc::clone(&rule.name.key),
            counter: rule.rule.counter(),
            cost: 0.0,
            extra: 0.0,
            known: self.seen.mark(&rule.name),
            reserved: false,
        });
        let group = Arc::clone(&first.name.group);
        let charge =
            Charge { group, id: fastrand::u128(..), lives: Duration::ZERO, debits: debits.collect() };
        let Ok(verdict) = self.link.charge(&charge, BACKGROUND).await else { return };
        self.heard();
        let (Verdict::Admitted(standings) | Verdict::Denied { standings, .. }) = verdict;
        let now = Instant::now();
        for (rule, standing) in rules.iter().zip(&standings) {
            self.seen.note(&rule.name, standing, now);
        }
    }
}
