//! One request's decision: every group it touches is asked at the same time, and all must say yes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::grant::{Ask, At, Denied, Headline, Headlines, Held, Item, Refused, Why};
use super::lease::Lease;
use super::outage::Outage;
use super::rule::{Applies, Kind, Name, OnStoreLoss, Scope};
use super::{Allowance, Grant, Limiter};
use crate::Failure;
use crate::charge::{Charge, Counter, Debit, Verdict};

/// When to come back where only the store could say.
const LOST_RETRY: Duration = Duration::from_secs(1);

/// What is decided by one call.
#[derive(Debug)]
enum Part {
    /// Counters of one group, in the store or in this node's memory.
    Together { here: bool, rules: Vec<Applies> },
    /// A counter of which the node takes ahead, so much at most.
    Leased { rule: Applies, most: f64 },
}

#[derive(Debug, Default)]
struct Outcome {
    held: Option<Held>,
    headlines: Headlines,
    wait: Duration,
    refused: Option<Refused>,
}

impl Limiter {
    /// Asks whether a request to which `applies` hold may go on, waiting for the store no longer than the allowance
    /// says. Denied: nothing stays taken. If dropped while it waits, what was asked may stay taken until it runs out:
    /// a request counts, the rest goes back after `ask.lives`.
    ///
    /// # Errors
    /// [`Denied`]: by the limit with the longest wait.
    pub async fn admit(
        self: &Arc<Self>,
        applies: &[Applies],
        ask: Ask,
        allowance: &mut Allowance,
    ) -> Result<Grant, Denied> {
        let now = Instant::now();
        for rule in applies {
            if let Some((refused, line)) = self.denials.holds(rule, ask.of(rule.rule.kind()), now) {
                self.counts.remembered.increment(1);
                let mut headlines = Headlines::default();
                headlines.add(refused.kind, line);
                return Err(self.denied(refused, headlines));
            }
        }
        let parts = self.parts(applies);
        let decide = |within| join_all(parts.into_iter().map(|part| self.decide(part, &ask, within)));
        let outcomes = allowance.lend(decide).await;

        let mut all = Outcome::default();
        let mut held = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            all.headlines.merge(outcome.headlines);
            all.wait = all.wait.max(outcome.wait);
            held.extend(outcome.held);
            let longer = |old: Refused| outcome.refused.is_none_or(|new| old.retry_after >= new.retry_after);
            all.refused = all.refused.filter(|old| longer(*old)).or(outcome.refused);
        }
        if let Some(refused) = all.refused {
            for held in held {
                self.settle(held, |_| Some(0.0));
            }
            return Err(self.denied(refused, all.headlines));
        }
        for scope in Scope::ALL {
            if applies.iter().any(|rule| rule.rule.scope == scope) {
                self.counts.allowed(scope);
            }
        }
        let Headlines { requests, tokens } = all.headlines;
        Ok(Grant { wait: all.wait, requests, tokens, limiter: Arc::clone(self), held })
    }

    fn denied(&self, refused: Refused, headlines: Headlines) -> Denied {
        let Refused { scope, kind, why, retry_after } = refused;
        self.counts.denied(scope);
        let Headlines { requests, tokens } = headlines;
        Denied { scope, meter: kind.word(), why, retry_after, requests, tokens }
    }

    fn parts(&self, applies: &[Applies]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(applies.len());
        for rule in applies {
            if let Some(most) = rule.rule.leased().filter(|_| self.leasing) {
                parts.push(Part::Leased { rule: rule.clone(), most });
                continue;
            }
            let same = parts.iter_mut().find_map(|part| match part {
                Part::Together { rules, .. } => {
                    rules.first().is_some_and(|first| first.name.group == rule.name.group).then_some(rules)
                }
                Part::Leased { .. } => None,
            });
            match same {
                Some(rules) if rules.iter().any(|other| other.name == rule.name) => {
                    rules.push(rule.numbered(rules.len()));
                }
                Some(rules) => rules.push(rule.clone()),
                None => {
                    let here = rule.rule.scope == Scope::Node;
                    parts.push(Part::Together { here, rules: vec![rule.clone()] });
                }
            }
        }
        parts
    }

    async fn decide(self: &Arc<Self>, part: Part, ask: &Ask, within: Duration) -> Outcome {
        match part {
            Part::Together { here: true, rules } => {
                let charge = self.charge_of(&rules, ask);
                match self.local.charge(&charge, within).await {
                    Ok(verdict) => self.came_of(&rules, charge, verdict, At::Node),
                    // Only a full memory: no reason to turn anyone away.
                    Err(_) => Outcome::default(),
                }
            }
            Part::Together { here: false, rules } => self.together(&rules, ask, within).await,
            Part::Leased { rule, most } => self.leased(rule, most, ask, within).await,
        }
    }

    async fn together(&self, rules: &[Applies], ask: &Ask, within: Duration) -> Outcome {
        let charge = self.charge_of(rules, ask);
        match self.link.charge(&charge, within).await {
            Ok(verdict) => {
                self.heard();
                self.came_of(rules, charge, verdict, At::Store)
            }
            Err(_) => self.alone(rules, ask).await,
        }
    }

    fn charge_of(&self, rules: &[Applies], ask: &Ask) -> Charge {
        let debits = rules.iter().map(|rule| {
            let kind = rule.rule.kind();
            Debit {
                key: Arc::clone(&rule.name.key),
                counter: rule.rule.counter(),
                cost: ask.of(kind),
                extra: 0.0,
                known: self.seen.mark(&rule.name),
                reserved: kind.reserved(),
            }
        });
        let group = rules.first().map_or_else(|| "".into(), |rule| Arc::clone(&rule.name.group));
        Charge { group, id: fastrand::u128(..), lives: ask.lives, debits: debits.collect() }
    }

    /// What `verdict` means for the request; `rules` in the order of the debits.
    fn came_of(&self, rules: &[Applies], charge: Charge, verdict: Verdict, at: At) -> Outcome {
        let now = Instant::now();
        let mut outcome = Outcome::default();
        let (standings, by) = match verdict {
            Verdict::Admitted(standings) => (standings, None),
            Verdict::Denied { by, retry_after, standings } => (standings, Some((by, retry_after))),
        };
        for ((rule, debit), standing) in rules.iter().zip(&charge.debits).zip(&standings) {
            let kind = rule.rule.kind();
            if matches!(at, At::Store) {
                self.seen.note(&rule.name, standing, now);
            }
            outcome.headlines.add(kind, Headline::new(kind, debit.counter, standing));
            outcome.wait = outcome.wait.max(standing.wait);
        }
        let Some((by, retry_after)) = by else {
            let Charge { group, id, lives, debits } = charge;
            let items = rules.iter().zip(debits).map(|(rule, debit)| Item {
                kind: rule.rule.kind(),
                key: debit.key,
                counter: debit.counter,
                of: rule.rule.counter(),
                charged: debit.cost,
            });
            let items: Vec<_> = items.collect();
            for item in &items {
                match &at {
                    _ if item.kind == Kind::InFlight => {
                        self.running.began(matches!(at, At::Store), &group, &item.key, id);
                    }
                    At::Share(number, group) => {
                        let name = Name { group: Arc::clone(group), key: Arc::clone(&item.key) };
                        self.outage.used(*number, &name, item.of, item.charged);
                    }
                    At::Store | At::Node => {}
                }
            }
            outcome.held = Some(Held::Charged { at, group, id, lives, items });
            return outcome;
        };
        outcome.wait = Duration::ZERO;
        if let Some(rule) = rules.get(by).or_else(|| rules.first()) {
            let refused = refusal(rule, retry_after);
            outcome.refused = Some(refused);
            if let (At::Store, Some(debit)) = (&at, charge.debits.get(by))
                && refused.kind != Kind::InFlight
            {
                let line = standings.get(by).and_then(|at| Headline::new(refused.kind, debit.counter, at));
                self.denials.remember(rule, debit.cost, refused, line, now);
            }
        }
        outcome
    }

    async fn leased(self: &Arc<Self>, rule: Applies, most: f64, ask: &Ask, within: Duration) -> Outcome {
        let (began, kind) = (Instant::now(), rule.rule.kind());
        let cost = ask.of(kind);
        let Some(lease) = self.leases.of(&rule, began) else {
            return self.together(&[rule], ask, within).await;
        };
        if let Some(low) = lease.take(cost, began) {
            if low {
                self.prefetch(&lease, most);
            }
            return had(kind, lease, cost);
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(within, lease.turn.acquire()).await else {
            return self.alone(&[rule], ask).await;
        };
        // Whoever had the turn before may have brought enough, or heard that there is nothing.
        let now = Instant::now();
        if lease.take(cost, now).is_some() {
            return had(kind, Arc::clone(&lease), cost);
        }
        if let Some((refused, line)) = self.denials.holds(&rule, cost, now) {
            self.counts.remembered.increment(1);
            let mut outcome = Outcome { refused: Some(refused), ..Outcome::default() };
            outcome.headlines.add(kind, line);
            return outcome;
        }
        let rest = within.saturating_sub(now.saturating_duration_since(began));
        match self.fetch(&lease, most, cost, rest).await {
            Ok(None) => had(kind, Arc::clone(&lease), cost),
            Ok(Some((refused, line))) => {
                let mut outcome = Outcome { refused: Some(refused), ..Outcome::default() };
                outcome.headlines.add(kind, line);
                outcome
            }
            Err(_) => self.alone(&[rule], ask).await,
        }
    }

    /// Charges `cost` and what the lease wants ahead. `Ok(None)`: had. The caller has the turn.
    async fn fetch(
        &self,
        lease: &Lease,
        most: f64,
        cost: f64,
        within: Duration,
    ) -> Result<Option<(Refused, Option<Headline>)>, Failure> {
        let Lease { applies, counter, .. } = lease;
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
        let Verdict::Denied { retry_after, .. } = verdict else { return Ok(None) };
        let refused = refusal(applies, retry_after);
        let line = standing.and_then(|standing| Headline::new(refused.kind, *counter, standing));
        // A prefetch that finds only debt says nothing about what this node still holds.
        if cost > 0.0 {
            self.denials.remember(applies, cost, refused, line, now);
        }
        Ok(Some((refused, line)))
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

    /// The store does not answer: each rule says what then holds.
    async fn alone(&self, rules: &[Applies], ask: &Ask) -> Outcome {
        let number = self.outage.begin();
        let is_closed = |rule: &&Applies| rule.rule.on_store_loss == OnStoreLoss::Closed;
        if let Some(rule) = rules.iter().find(is_closed) {
            let refused = Refused { why: Why::StoreLost, ..refusal(rule, LOST_RETRY) };
            return Outcome { refused: Some(refused), ..Outcome::default() };
        }
        let is_shared = |rule: &&Applies| rule.rule.on_store_loss == OnStoreLoss::Share;
        let rules: Vec<_> = rules.iter().filter(is_shared).cloned().collect();
        let Some(first) = rules.first() else { return Outcome::default() };

        let group = Arc::clone(&first.name.group);
        let mut charge = self.charge_of(&rules, ask);
        charge.group = Outage::group(&group, number);
        for (debit, rule) in charge.debits.iter_mut().zip(&rules) {
            let mut known = self.seen.known(&rule.name, debit.counter, Instant::now());
            known.left -= self.outage.unreported(&rule.name);
            let share =
                self.outage.share(number, &rule.name, debit.counter, self.nodes(), known, &self.local);
            debit.counter = share.await;
            debit.known = None;
        }
        match self.local.charge(&charge, self.timeout).await {
            Ok(verdict) => self.came_of(&rules, charge, verdict, At::Share(number, group)),
            // Only a full memory: the share cannot be kept, so nothing of it is given.
            Err(_) => Outcome { refused: Some(refusal(first, LOST_RETRY)), ..Outcome::default() },
        }
    }
}

fn refusal(rule: &Applies, retry_after: Duration) -> Refused {
    let why = if matches!(rule.rule.counter(), Counter::Day { .. }) { Why::Spent } else { Why::Rate };
    Refused { scope: rule.rule.scope, kind: rule.rule.kind(), why, retry_after }
}

fn had(kind: Kind, lease: Arc<Lease>, charged: f64) -> Outcome {
    let mut headlines = Headlines::default();
    let standing = lease.standing(Instant::now());
    headlines.add(kind, standing.and_then(|standing| Headline::new(kind, lease.counter, &standing)));
    Outcome { held: Some(Held::Leased { kind, lease, charged }), headlines, ..Outcome::default() }
}
