//! What clients used, by UTC day.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::counter;

use crate::usage::{Amount, Entry, Spent};

/// Days that are kept, today among them.
const DAYS: u32 = 40;
const DAY: u64 = 86_400;
/// Where entries are counted that there is no more room for.
const OTHER: &str = "other";

#[derive(Debug, Default)]
struct Day {
    clients: BTreeMap<String, BTreeMap<String, Amount>>,
    count: usize,
}

impl Day {
    fn at(&mut self, client: &str, model: &str) -> Option<&mut Amount> {
        self.clients.get_mut(client)?.get_mut(model)
    }

    fn add(&mut self, client: &str, model: &str, more: Amount) -> bool {
        let known = self.at(client, model);
        let is_known = known.is_some();
        if let Some(amount) = known {
            amount.requests = amount.requests.saturating_add(more.requests);
            amount.prompt = amount.prompt.saturating_add(more.prompt);
            amount.completion = amount.completion.saturating_add(more.completion);
            amount.cached = amount.cached.saturating_add(more.cached);
            amount.micro_usd += more.micro_usd;
        }
        is_known
    }

    fn insert(&mut self, client: &str, model: &str, amount: Amount) {
        self.count += 1;
        self.clients.entry(client.to_owned()).or_default().insert(model.to_owned(), amount);
    }
}

/// Usage of the last days.
#[derive(Debug)]
pub(super) struct Usage {
    days: BTreeMap<u64, Day>,
    max: usize,
}

impl Usage {
    /// None. At most `max` pairs of client and model in a day, and an eighth more for those counted under `other`.
    pub const fn new(max: usize) -> Self {
        Self { days: BTreeMap::new(), max }
    }

    /// See [`crate::Store::spend`]; `wall` since the Unix epoch.
    pub fn spend(&mut self, entries: &[Entry], wall: Duration) {
        if entries.is_empty() {
            return;
        }
        let max = self.max;
        let day = self.days.entry(wall.as_secs() / DAY).or_default();
        for Entry { client, model, amount } in entries {
            if day.add(client, model, *amount) {
                continue;
            }
            if day.count < max {
                day.insert(client, model, *amount);
                continue;
            }
            counter!("tidegate_store_evictions_total", "kind" => "usage").increment(1);
            let has_other = day.at(client, OTHER).is_some() || day.count < max + max / 8;
            let client = if has_other { client } else { OTHER };
            if !day.add(client, OTHER, *amount) {
                day.insert(client, OTHER, *amount);
            }
        }
        while self.days.len() > DAYS as usize {
            self.days.pop_first();
        }
    }

    /// See [`crate::Store::spent`].
    pub fn spent(&self, days_ago: u32, wall: Duration) -> Vec<Spent> {
        let day = (wall.as_secs() / DAY).checked_sub(u64::from(days_ago)).filter(|_| days_ago < DAYS);
        let Some(day) = day.and_then(|day| self.days.get(&day)) else { return Vec::new() };
        day.clients
            .iter()
            .flat_map(|(client, models)| {
                models.iter().map(|(model, amount)| Entry {
                    client: client.clone(),
                    model: model.clone(),
                    amount: *amount,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
