//! `limits:`, of the file, a route and a client.

use std::time::Duration;

use super::check::{count, only_false, rate, refuse, time, wait};
use crate::fault::{Collector, Place};
use crate::read::{Item, Said};
use crate::said::limit::{Limit, Per};
use crate::used::NodeLimit;

/// The node's own limit; every other one is refused.
pub(super) fn node(said: &Said<Vec<Item<Limit>>>, faults: &mut Collector) -> NodeLimit {
    let mut node = NodeLimit { in_flight: 1000, queue: 100, queue_timeout: Duration::from_secs(1) };
    let mut first: Option<Place> = None;
    for item in said.items() {
        amounts(&item.value, item.place, faults);
        let limit = &item.value;
        let Some(&per) = limit.per.get() else {
            if limit.per.key().is_none() {
                faults.fault(item.place, "`per` is missing: ip, node, route, model or client");
            }
            continue;
        };
        if per != Per::Node {
            refuse(item.place, &format!("limits: per: {}", per.word()), faults);
        } else if let Some(first) = first {
            faults.fault(item.place, format!("the node has a limit already, in line {}", first.line));
        } else {
            first = Some(item.place);
            node = NodeLimit {
                in_flight: count(&limit.in_flight, "in_flight", 1..=1_000_000, node.in_flight, faults),
                queue: count(&limit.queue, "queue", 0..=1_000_000, node.queue, faults),
                queue_timeout: time(&limit.queue_timeout, "queue_timeout", node.queue_timeout, faults),
            };
            refuse_rates(limit, faults);
        }
    }
    node
}

/// What a node's limit cannot do yet.
fn refuse_rates(limit: &Limit, faults: &mut Collector) {
    for (key, place) in limit.said() {
        if matches!(key, "requests" | "tokens" | "usd" | "burst" | "on_store_loss") {
            refuse(place, &format!("limits: {key}"), faults);
        }
    }
    only_false(&limit.smooth, "smooth", faults);
}

/// The limits of a route or a client, whose `per` is clear.
pub(super) fn inner(said: &Said<Vec<Item<Limit>>>, whose: &str, faults: &mut Collector) {
    for item in said.items() {
        amounts(&item.value, item.place, faults);
        if let Some(place) = item.value.per.key() {
            faults.fault(place, format!("`per` belongs to the file's own `limits`: these are {whose}"));
        }
    }
}

/// Exactly one amount, and none that lets nothing through.
fn amounts(limit: &Limit, place: Place, faults: &mut Collector) {
    let said: Vec<&str> = limit
        .said()
        .map(|(key, _)| key)
        .filter(|key| matches!(*key, "requests" | "tokens" | "usd" | "in_flight"))
        .collect();
    if said.len() != 1 {
        faults.fault(place, "a limit has exactly one of `requests`, `tokens`, `usd` and `in_flight`");
    }
    for (said, key) in [(&limit.requests, "requests"), (&limit.tokens, "tokens"), (&limit.usd, "usd")] {
        rate(said, key, faults);
    }
    if limit.per.get() != Some(&Per::Node) {
        count(&limit.in_flight, "in_flight", 1..=1_000_000, 0, faults);
        wait(&limit.queue_timeout, "queue_timeout", Duration::ZERO, faults);
    }
    count(&limit.burst, "burst", 1..=1_000_000_000, 0, faults);
}
