//! Tokens and money by client and model: running totals for metrics, and what the store has yet to hear of the day.
//!
//! While the store is away what is owed is kept here, a row for each client and model; a node that dies takes at most
//! what it has not told yet, usually a second's worth. Not here: budgets, which the limits keep.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_store::Failure;
use tidegate_store::usage::{Amount, Entry};
use tidegate_wire::answer::Usage;

use crate::gateway::Gateway;
use crate::live::Live;
use crate::metrics::exposition::{Exposition, Kind};

/// How often the store is told.
const TELL: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_millis(500);
/// Rows told at once: what one script of the store takes, so that each call is added whole or not at all.
const AT_ONCE: usize = 256;

/// Name of the client, empty for none, and number of the model: what is owed outlives the configuration it was used under.
type Who = (Arc<str>, usize);

/// The book of one node.
#[derive(Debug, Default)]
pub struct Book(Mutex<HashMap<Who, Row>>);

#[derive(Debug, Default, Clone, Copy)]
struct Row {
    owed: Amount,
    micro_usd: f64,
}

fn add(to: &mut Amount, more: Amount) {
    to.requests = to.requests.saturating_add(more.requests);
    to.prompt = to.prompt.saturating_add(more.prompt);
    to.completion = to.completion.saturating_add(more.completion);
    to.cached = to.cached.saturating_add(more.cached);
    to.micro_usd += more.micro_usd;
}

impl Book {
    /// Adds what a request used; `model` by its number among the metrics.
    pub fn add(&self, client: Arc<str>, model: usize, usage: Usage, micro_usd: f64) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry((client, model)).or_default();
        row.micro_usd += micro_usd;
        let Usage { prompt, completion, cached } = usage;
        add(&mut row.owed, Amount { requests: 1, prompt, completion, cached, micro_usd });
    }

    /// Adds `cost_usd_total`.
    pub fn render(&self, gateway: &Gateway, text: &mut Exposition) {
        let mut rows: Vec<(Who, f64)> = {
            let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            rows.iter().map(|(who, row)| (who.clone(), row.micro_usd)).collect()
        };
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut costs = text.family(
            "tidegate_cost_usd_total",
            Kind::Counter,
            "What answers cost by the configured prices",
        );
        for ((client, model), micro_usd) in rows {
            let model = gateway.metrics.model_name(model);
            costs.sample(&[("client", &client), ("model", &model)], micro_usd / 1e6);
        }
    }

    fn take(&self) -> Vec<(Who, Amount)> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owing = rows.iter_mut().filter(|(_, row)| row.owed != Amount::default());
        owing.map(|(who, row)| (who.clone(), std::mem::take(&mut row.owed))).collect()
    }

    fn give_back(&self, taken: &[(Who, Amount)]) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, amount) in taken {
            add(&mut rows.entry(who.clone()).or_default().owed, *amount);
        }
    }

    /// Tells the store what is owed; what it did not take is owed on.
    pub async fn tell(&self, gateway: &Gateway) {
        let entry = |((client, model), amount): &(Who, Amount)| Entry {
            client: client.to_string(),
            model: gateway.metrics.model_name(*model),
            amount: *amount,
        };
        let taken = self.take();
        let mut left = taken.as_slice();
        while !left.is_empty() {
            let entries: Vec<Entry> = left.iter().take(AT_ONCE).map(entry).collect();
            left = self.heard(left, gateway.store.spend(&entries, WITHIN).await);
        }
    }

    /// After the first rows of `left` were told: those that are to be told next.
    fn heard<'a>(&self, left: &'a [(Who, Amount)], told: Result<(), Failure>) -> &'a [(Who, Amount)] {
        let (rows, rest) = left.split_at(left.len().min(AT_ONCE));
        match told {
            // It may have been written: a bill too small is better than one too large.
            Ok(()) | Err(Failure::Unknown) => rest,
            // The others may be fine.
            Err(Failure::Refused(_)) => {
                self.give_back(rows);
                rest
            }
            Err(Failure::Down) => {
                self.give_back(left);
                &[]
            }
        }
    }
}

/// Tells the store for as long as the process lives.
pub async fn keep(live: Arc<Live>) {
    let mut tick = tokio::time::interval(TELL);
    loop {
        tick.tick().await;
        let gateway = live.gateway();
        gateway.usage.tell(&gateway).await;
    }
}

#[cfg(test)]
mod tests;
