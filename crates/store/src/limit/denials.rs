//! Denials that still hold: who asks for no less of the same counter is denied again without asking the store.
//! Not here: what is running, of which nobody can say when it ends, and shares, which cost nothing to ask.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::grant::{Headline, Refused};
use super::rule::{Applies, Name};
use crate::charge::Counter;

/// Denials remembered.
const DENIALS_MOST: u64 = 100_000;
/// Another node may give back what made the store deny, or an operator raise the limit: then the store is asked again.
const HOLDS_MOST: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Denial {
    counter: Counter,
    cost: f64,
    refused: Refused,
    headline: Option<Headline>,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Denials(Cache<Name, Denial>);

impl Denials {
    pub(super) fn new() -> Self {
        Self(Cache::new(DENIALS_MOST))
    }

    pub(super) fn remember(
        &self,
        applies: &Applies,
        cost: f64,
        refused: Refused,
        headline: Option<Headline>,
        at: Instant,
    ) {
        let denial = Denial { counter: applies.rule.counter(), cost, refused, headline, at };
        self.0.insert(applies.name.clone(), denial);
    }

    /// Something was given back.
    pub(super) fn forget(&self, name: &Name) {
        self.0.invalidate(name);
    }

    /// What `cost` would be told, where the store need not be asked.
    pub(super) fn holds(
        &self,
        applies: &Applies,
        cost: f64,
        now: Instant,
    ) -> Option<(Refused, Option<Headline>)> {
        let denial = self.0.get(&applies.name)?;
        let since = now.saturating_duration_since(denial.at);
        let left = denial.refused.retry_after.checked_sub(since).filter(|left| !left.is_zero());
        let Some(retry_after) = left.filter(|_| since < HOLDS_MOST) else {
            self.forget(&applies.name);
            return None;
        };
        let same = denial.counter == applies.rule.counter() && cost >= denial.cost;
        same.then(|| {
            let headline =
                denial.headline.map(|line| Headline { reset: line.reset.saturating_sub(since), ..line });
            (Refused { retry_after, ..denial.refused }, headline)
        })
    }
}
