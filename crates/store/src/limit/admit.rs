//! One request's decision: every group it touches is asked at the same time, and all must say yes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::OnStoreLoss;
use super::grant::{Ask, At, Denied, Had, Headline, Headlines, Held, Item, Refused, Why};
use super::outage::Outage;
use super::rule::{Applies, Kind, Name, Scope, full, within};
use super::{Allowance, Grant, Limiter};
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

/// What came of one call.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) had: Option<Had>,
    pub(super) headlines: Headlines,
    pub(super) wait: Duration,
    pub(super) refused: Option<Refused>,
}

impl Limiter {
    /// Asks whether a request to which `applies` hold may go on, waiting for the store no longer than the allowance
    /// says. Denied: nothing stays taken. If dropped while it waits, what was had goes back; what was asked and not
    /// answered may stay taken until it runs out: a request counts, the rest goes back after `ask.lives`.
    /// Where several of `applies` count the same for one subject, every node must give them in the same order.
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
        let applies = Applies::apart(applies);
        for rule in &applies {
            if let Some((refused, line)) = self.denials.holds(rule, &ask, now) {
                self.counts.remembered.increment(1);
                let mut headlines = Headlines::default();
                headlines.add(refused.kind, line);
                return Err(self.denied(refused, headlines));
            }
        }
        let parts = self.parts(&applies);
        let decide = |within| join_all(parts.into_iter().map(|part| self.decide(part, &ask, within)));
        let outcomes = allowance.lend(decide).await;

        let mut all = Outcome::default();
        let mut had = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            all.headlines.merge(outcome.headlines);
            all.wait = all.wait.max(outcome.wait);
            had.extend(outcome.had);
            let longer = |old: Refused| outcome.refused.is_none_or(|new| old.retry_after >= new.retry_after);
            all.refused = all.refused.filter(|old| longer(*old)).or(outcome.refused);
        }
        if let Some(refused) = all.refused {
            return Err(self.denied(refused, all.headlines));
        }
        for scope in Scope::ALL {
            if applies.iter().any(|rule| rule.rule.scope == scope) {
                self.counts.allowed(scope);
            }
        }
        let Headlines { requests, tokens } = all.headlines;
        Ok(Grant { wait: all.wait, requests, tokens, had })
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

    pub(super) async fn together(
        self: &Arc<Self>,
        rules: &[Applies],
        ask: &Ask,
        within: Duration,
    ) -> Outcome {
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
            let counter = within(rule.rule.counter(), ask.wait_at_most);
            Debit {
                key: Arc::clone(&rule.name.key),
                counter,
                cost: counter.takes(ask.of(kind)),
                extra: 0.0,
                known: self.seen.mark(&rule.name),
                reserved: kind.reserved(),
            }
        });
        let group = rules.first().map_or_else(|| "".into(), |rule| Arc::clone(&rule.name.group));
        Charge { group, id: fastrand::u128(..), lives: ask.lives, debits: debits.collect() }
    }

    /// What `verdict` means for the request; `rules` in the order of the debits.
    fn came_of(self: &Arc<Self>, rules: &[Applies], charge: Charge, verdict: Verdict, at: At) -> Outcome {
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
            outcome.had = Some(Had::new(self, Held::Charged { at, group, id, lives, items }));
            return outcome;
        };
        outcome.wait = Duration::ZERO;
        if let Some(rule) = rules.get(by).or_else(|| rules.first()) {
            let spent = standings.get(by).is_some_and(|standing| standing.spent);
            let refused = refusal(rule, spent, retry_after);
            outcome.refused = Some(refused);
            if let (At::Store, Some(debit)) = (&at, charge.debits.get(by))
                && refused.kind != Kind::InFlight
            {
                let line = standings.get(by).and_then(|at| Headline::new(refused.kind, debit.counter, at));
                self.denials.remember(rule, (debit.counter, debit.cost), refused, line, now);
            }
        }
        outcome
    }

    /// The store does not answer: each rule says what then holds.
    pub(super) async fn alone(self: &Arc<Self>, rules: &[Applies], ask: &Ask) -> Outcome {
        let number = self.outage.begin();
        let is_closed = |rule: &&Applies| rule.rule.on_store_loss == OnStoreLoss::Closed;
        if let Some(rule) = rules.iter().find(is_closed) {
            let refused = Refused { why: Why::StoreLost, ..refusal(rule, false, LOST_RETRY) };
            return Outcome { refused: Some(refused), ..Outcome::default() };
        }
        let is_shared = |rule: &&Applies| rule.rule.on_store_loss == OnStoreLoss::Share;
        let rules: Vec<_> = rules.iter().filter(is_shared).cloned().collect();
        let Some(first) = rules.first() else { return Outcome::default() };

        let group = Arc::clone(&first.name.group);
        let mut charge = self.charge_of(&rules, ask);
        charge.group = Outage::group(&group, number);
        for (debit, rule) in charge.debits.iter_mut().zip(&rules) {
            let whole = rule.rule.counter();
            let mut known = self.seen.known(&rule.name, whole, Instant::now());
            known.left -= self.outage.unreported(&rule.name);
            let share = self.outage.share(number, &rule.name, whole, self.nodes(), known, &self.local).await;
            // More than the whole share is had of an untouched day only.
            let is_touched = matches!(whole, Counter::Day { .. }) && known.left < full(whole);
            if is_touched && full(share) > 0.0 && debit.cost > full(share) {
                return Outcome { refused: Some(refusal(rule, false, LOST_RETRY)), ..Outcome::default() };
            }
            debit.counter = within(share, ask.wait_at_most);
            debit.cost = debit.counter.takes(debit.cost);
            debit.known = None;
        }
        match self.local.charge(&charge, self.timeout).await {
            Ok(verdict) => self.came_of(&rules, charge, verdict, At::Share(number, group)),
            // Only a full memory: the share cannot be kept, so nothing of it is given.
            Err(_) => Outcome { refused: Some(refusal(first, false, LOST_RETRY)), ..Outcome::default() },
        }
    }
}

pub(super) fn refusal(rule: &Applies, spent: bool, retry_after: Duration) -> Refused {
    let why = if spent { Why::Spent } else { Why::Rate };
    Refused { scope: rule.rule.scope, kind: rule.rule.kind(), why, retry_after }
}
