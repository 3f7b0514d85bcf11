//! Fast limits: most requests are decided by what the node holds, and now and then one brings more from the store.
//! Not here: what a lease may hold (`lease`), and what holds without the store (`admit`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Limiter;
use super::admit::{Outcome, refusal};
use super::grant::{Ask, Had, Headline, Headlines, Held, Refused};
use super::lease::Lease;
use super::rule::{Applies, Kind};
use crate::Failure;
use crate::charge::{Charge, Debit, Verdict};

impl Limiter {
    /// Decides for one counter of which the node takes ahead, `most` at once. If dropped, what it had goes back; a charge
    /// that was begun goes on, for those who come later.
    pub(super) async fn leased(
        self: &Arc<Self>,
        rule: Applies,
        most: f64,
        ask: &Ask,
        within: Duration,
    ) -> Outcome {
        let (began, kind) = (Instant::now(), rule.rule.kind());
        let Some(lease) = self.leases.of(&rule, began) else {
            return self.together(&[rule], ask, within).await;
        };
        let cost = lease.counter.takes(ask.of(kind));
        if let Some(low) = lease.take(cost, began) {
            if low {
                self.prefetch(&lease, most);
            }
            return self.had(kind, &lease, cost);
        }
        let needed = lease.need(cost);
        // Half of the time is for others' charges, the rest for its own.
        let turn = timeout(within / 2, Arc::clone(&lease.turn).acquire_owned()).await;
        drop(needed);
        let now = Instant::now();
        let rest = within.saturating_sub(now.saturating_duration_since(began));
        // Whoever had the turn before may have brought enough, or heard that there is nothing.
        if lease.take(cost, now).is_some() {
            return self.had(kind, &lease, cost);
        }
        if let Some((refused, line)) = self.denials.holds(&rule, ask, now) {
            self.counts.remembered.increment(1);
            return denied(refused, line);
        }
        let Ok(Ok(turn)) = turn else {
            return self.together(&[rule], ask, rest).await;
        };
        // A task of its own: who asks may go, and what is brought is for others as well.
        let (limiter, fetched) = (Arc::clone(self), Arc::clone(&lease));
        let fetch = tokio::spawn(async move {
            let _turn = turn;
            limiter.fetch(&fetched, most, cost, rest).await
        });
        match fetch.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => self.alone(&[rule], ask).await,
        }
    }

    /// Charges `cost` and what the lease wants ahead. The caller has the turn.
    async fn fetch(
        self: &Arc<Self>,
        lease: &Arc<Lease>,
        most: f64,
        cost: f64,
        within: Duration,
    ) -> Result<Outcome, Failure> {
        let Lease { applies, counter, .. } = &**lease;
        let kind = applies.rule.kind();
        let debit = Debit {
            key: Arc::clone(&applies.name.key),
            counter: *counter,
            cost,
            extra: lease.wants(most, self.nodes(), Instant::now()),
            known: self.seen.mark(&applies.name),
            reserved: false,
        };
        let group = Arc::clone(&applies.name.group);
        let charge = Charge { group, id: fastrand::u128(..), lives: Duration::ZERO, debits: vec![debit] };
        let verdict = self.link.charge(&charge, within).await?;
        self.heard();
        let now = Instant::now();
        let (Verdict::Admitted(standings) | Verdict::Denied { standings, .. }) = &verdict;
        let standing = standings.first();
        if let Some(standing) = standing {
            self.seen.note(&applies.name, standing, now);
            if matches!(verdict, Verdict::Admitted(_)) {
                lease.fill(*standing, now);
            }
        }
        let Verdict::Denied { retry_after, .. } = verdict else { return Ok(self.had(kind, lease, cost)) };
        let refused = refusal(applies, false, retry_after);
        let line = standing.and_then(|standing| Headline::new(kind, *counter, standing));
        // A prefetch that finds only debt says nothing about what this node still holds.
        if cost > 0.0 {
            self.denials.remember(applies, (*counter, cost), refused, line, now);
        }
        Ok(denied(refused, line))
    }

    /// `charged` was taken of what `lease` holds, or along with it.
    fn had(self: &Arc<Self>, kind: Kind, lease: &Arc<Lease>, charged: f64) -> Outcome {
        let mut headlines = Headlines::default();
        let standing = lease.standing(Instant::now());
        headlines.add(kind, standing.and_then(|standing| Headline::new(kind, lease.counter, &standing)));
        let held = Held::Leased { kind, lease: Arc::clone(lease), charged };
        Outcome { had: Some(Had::new(self, held)), headlines, ..Outcome::default() }
    }

    /// Brings more in the background, unless somebody does already.
    fn prefetch(self: &Arc<Self>, lease: &Arc<Lease>, most: f64) {
        if lease.turn.available_permits() == 0 {
            return;
        }
        let (limiter, lease) = (Arc::clone(self), Arc::clone(lease));
        tokio::spawn(async move {
            if let Ok(_turn) = lease.turn.try_acquire() {
                // Whatever went wrong, the next request that finds nothing left meets it again and decides.
                let _ = limiter.fetch(&lease, most, 0.0, limiter.timeout).await;
            }
        });
    }
}

fn denied(refused: Refused, line: Option<Headline>) -> Outcome {
    let mut headlines = Headlines::default();
    headlines.add(refused.kind, line);
    Outcome { refused: Some(refused), headlines, ..Outcome::default() }
}
