//! Tokens and money by client and model: running totals for metrics, and what the store has yet to hear of the day.
//!
//! While the store is away what is owed is kept here, a row for each client and model; a node that dies takes at most
//! what it has not told yet, usually a second's worth. Not here: budgets, which the limits keep.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_store::Failure;
use tidegate_store::usage::{Amount, Entry};
use tidegate_wire::answer::Usage;

use crate::gateway::Gateway;

/// How often the store is told.
const TELL: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_millis(500);

/// Index of the client, `usize::MAX` for none, and number of the model.
type Who = (usize, usize);

/// The book of one node.
#[derive(Debug, Default)]
pub struct Book(Mutex<HashMap<Who, Row>>);

#[derive(Debug, Default, Clone, Copy)]
struct Row {
    owed: Amount,
    micro_usd: f64,
}

impl Book {
    /// Adds what a request used.
    pub fn add(&self, client: Option<usize>, model: usize, usage: Usage, micro_usd: f64) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.entry((client.unwrap_or(usize::MAX), model)).or_default();
        row.micro_usd += micro_usd;
        row.owed.requests += 1;
        row.owed.prompt += usage.prompt;
        row.owed.completion += usage.completion;
        row.owed.cached += usage.cached;
        row.owed.micro_usd += micro_usd;
    }

    /// `cost_usd_total`, as Prometheus reads it: the metrics library's counters are whole numbers.
    pub fn render(&self, gateway: &Gateway) -> String {
        let mut rows: Vec<(Who, f64)> = {
            let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            rows.iter().map(|(who, row)| (*who, row.micro_usd)).collect()
        };
        rows.sort_unstable_by_key(|(who, _)| *who);
        let mut text = String::from(
            "# HELP tidegate_cost_usd_total What answers cost by the configured prices\n# TYPE tidegate_cost_usd_total counter\n",
        );
        for ((client, model), micro_usd) in rows {
            let (client, model) = (name(gateway, client), gateway.metrics.model_name(model));
            let usd = micro_usd / 1e6;
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "tidegate_cost_usd_total{{client=\"{}\",model=\"{}\"}} {usd}",
                escaped(&client),
                escaped(&model)
            );
        }
        text
    }

    fn take(&self) -> Vec<(Who, Amount)> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let owing = rows.iter_mut().filter(|(_, row)| row.owed != Amount::default());
        owing.map(|(who, row)| (*who, std::mem::take(&mut row.owed))).collect()
    }

    fn give_back(&self, taken: Vec<(Who, Amount)>) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, amount) in taken {
            let owed = &mut rows.entry(who).or_default().owed;
            owed.requests += amount.requests;
            owed.prompt += amount.prompt;
            owed.completion += amount.completion;
            owed.cached += amount.cached;
            owed.micro_usd += amount.micro_usd;
        }
    }

    /// Tells the store what is owed.
    pub async fn tell(&self, gateway: &Gateway) {
        let taken = self.take();
        if taken.is_empty() {
            return;
        }
        let entry = |((client, model), amount): &(Who, Amount)| Entry {
            client: name(gateway, *client),
            model: gateway.metrics.model_name(*model),
            amount: *amount,
        };
        let entries: Vec<Entry> = taken.iter().map(entry).collect();
        match gateway.store.spend(&entries, WITHIN).await {
            // It may have been written: a bill too small is better than one too large.
            Ok(()) | Err(Failure::Unknown) => {}
            Err(Failure::Down | Failure::Refused(_)) => self.give_back(taken),
        }
    }
}

/// Tells the store for as long as the process lives.
pub async fn keep(gateway: Arc<Gateway>) {
    let mut tick = tokio::time::interval(TELL);
    loop {
        tick.tick().await;
        gateway.usage.tell(&gateway).await;
    }
}

fn name(gateway: &Gateway, client: usize) -> String {
    let clients = gateway.config.clients.as_deref().unwrap_or_default();
    clients.get(client).map(|client| client.name.clone()).unwrap_or_default()
}

/// A label's value.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
