//! Denials that still hold: who asks for no less of the same counter is denied again without asking the store.
//! Not here: what is running, of which nobody can say when it ends, and shares, which cost nothing to ask.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::grant::{Ask, Headline, Refused};
use super::rule::{Applies, Name, within};
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

    /// A charge of `cost` to `counter` was denied.
    pub(super) fn remember(
        &self,
        applies: &Applies,
        (counter, cost): (Counter, f64),
        refused: Refused,
        headline: Option<Headline>,
        at: Instant,
    ) {
        let denial = Denial { counter, cost, refused, headline, at };
        self.0.insert(applies.name.clone(), denial);
    }

    /// Something was given back.
    pub(super) fn forget(&self, name: &Name) {
        self.0.invalidate(name);
    }

    /// What `ask` would be told, where the store need not be asked.
    pub(super) fn holds(
        &self,
        applies: &Applies,
        ask: &Ask,
        now: Instant,
    ) -> Option<(Refused, Option<Headline>)> {
        let denial = self.0.get(&applies.name)?;
        let since = now.saturating_duration_since(denial.at);
        let left = denial.refused.retry_after.checked_sub(since).filter(|left| !left.is_zero());
        let Some(retry_after) = left.filter(|_| since < HOLDS_MOST) else {
            self.forget(&applies.name);
            return None;
        };
        let counter = within(applies.rule.counter(), ask.wait_at_most);
        let no_less = ask.of(applies.rule.kind()) >= denial.cost && is_no_more(counter, denial.counter);
        no_less.then(|| {
            let headline =
                denial.headline.map(|line| Headline { reset: line.reset.saturating_sub(since), ..line });
            (Refused { retry_after, ..denial.refused }, headline)
        })
    }
}

/// The same counter, and who asks waits no longer for its turn than who was denied.
fn is_no_more(counter: Counter, denied: Counter) -> bool {
    match (counter, denied) {
        (
            Counter::Bucket { per_second, burst, patience },
            Counter::Bucket { per_second: denied_rate, burst: denied_burst, patience: denied_patience },
        ) => (per_second, burst) == (denied_rate, denied_burst) && patience <= denied_patience,
        _ => counter == denied,
    }
}
