//! `limits:`, of the file, a route and a client.

use std::time::Duration;

use super::check::{count, rate, time};
use crate::fault::{Collector, Place};
use crate::read::{Item, Said};
use crate::said::limit::{self, Limit};
use crate::unit::{Flag, Rate};
use crate::used::{self, Meter, NodeLimit, OnStoreLoss, Pace, Per, Smooth, Span};

const MANY: u64 = 1_000_000;
/// So that every count up to a limit is a whole number in an f64, and no sum of a few overflows one.
const AMOUNT_MAX: f64 = 1e15;
const MICRO: f64 = 1e6;
const QUEUE: usize = 100;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The file's own: what runs at once on this node, and all others in the order of the file.
pub(super) fn own(said: &Said<Vec<Item<Limit>>>, faults: &mut Collector) -> (NodeLimit, Vec<used::Limit>) {
    let mut node = NodeLimit { in_flight: 1000, queue: QUEUE, queue_timeout: QUEUE_TIMEOUT };
    let mut first: Option<Place> = None;
    let mut rest = Vec::new();
    for Item { place, value: limit } in said.items() {
        if limit.per.key().is_none() {
            faults.fault(*place, "`per` is missing: ip, node, route, model or client");
        }
        let per = limit.per.get().map(|&per| used_per(per));
        if per == Some(Per::Node)
            && let Some(place) = limit.on_store_loss.key()
        {
            faults
                .fault(place, "`on_store_loss` does not go with `per: node`: nothing of it is in the store");
        }
        if per == Some(Per::Node) && metered(limit) == ["in_flight"] {
            if let Some(first) = first {
                let text = format!("the node has an `in_flight` already, in line {}", first.line);
                faults.fault(*place, text);
            }
            first = Some(*place);
            bucketless(limit, faults);
            node = NodeLimit {
                in_flight: count(&limit.in_flight, "in_flight", 1..=MANY, node.in_flight, faults),
                queue: count(&limit.queue, "queue", 0..=MANY, node.queue, faults),
                queue_timeout: time(&limit.queue_timeout, "queue_timeout", node.queue_timeout, faults),
            };
        } else {
            rest.extend(one(limit, per, *place, faults));
        }
    }
    (node, rest)
}

/// The limits of a route or a client, whose `per` is clear.
pub(super) fn inner(said: &Said<Vec<Item<Limit>>>, per: Per, faults: &mut Collector) -> Vec<used::Limit> {
    let whose = if per == Per::Route { "a route's own" } else { "a client's own" };
    let mut all = Vec::new();
    for item in said.items() {
        if let Some(place) = item.value.per.key() {
            faults.fault(place, format!("`per` belongs to the file's own `limits`: these are {whose}"));
        }
        all.extend(one(&item.value, Some(per), item.place, faults));
    }
    all
}

fn used_per(per: limit::Per) -> Per {
    match per {
        limit::Per::Ip => Per::Ip,
        limit::Per::Node => Per::Node,
        limit::Per::Route => Per::Route,
        limit::Per::Model => Per::Model,
        limit::Per::Client => Per::Client,
    }
}

/// What the limit counts, as the file has it.
fn metered(limit: &Limit) -> Vec<&'static str> {
    let is_meter = |key: &&str| matches!(*key, "requests" | "tokens" | "usd" | "in_flight");
    limit.said().map(|(key, _)| key).filter(is_meter).collect()
}

/// `None` after saying why, or where `per` is not known.
fn one(limit: &Limit, per: Option<Per>, place: Place, faults: &mut Collector) -> Option<used::Limit> {
    let requests = amount(&limit.requests, "requests", 1.0, faults);
    let tokens = amount(&limit.tokens, "tokens", 1.0, faults);
    let usd = amount(&limit.usd, "usd", MICRO, faults);
    let in_flight = count(&limit.in_flight, "in_flight", 1..=MANY, 0, faults);
    count(&limit.burst, "burst", 1..=1_000_000_000, 0, faults);
    let queue = count(&limit.queue, "queue", 0..=MANY, QUEUE, faults);
    let timeout = time(&limit.queue_timeout, "queue_timeout", QUEUE_TIMEOUT, faults);
    let metered = metered(limit);
    let [key] = *metered.as_slice() else {
        faults.fault(place, "a limit has exactly one of `requests`, `tokens`, `usd` and `in_flight`");
        return None;
    };
    let smooth = limit.smooth.get().is_some_and(|&Flag(smooth)| smooth);
    if !smooth && (limit.smooth.key().is_none() || limit.smooth.get().is_some()) {
        for (key, place) in limit.said().filter(|(key, _)| matches!(*key, "queue" | "queue_timeout")) {
            let text = format!(
                "`{key}` belongs to a limit that waits: one with `smooth: true`, or with `per: node` and `in_flight`"
            );
            faults.fault(place, text);
        }
    }
    let smooth = smooth.then_some(Smooth { queue, timeout });
    let meter = match key {
        "requests" => Meter::Requests(pace(limit, requests, 1.0, smooth, faults)?),
        "tokens" | "usd" => {
            if let Some(place) = limit.smooth.key().filter(|_| smooth.is_some()) {
                faults.fault(place, format!("`smooth` is for `requests` alone: it does not go with `{key}`"));
            }
            if key == "tokens" {
                Meter::Tokens(pace(limit, tokens, 1.0, None, faults)?)
            } else {
                Meter::Usd(pace(limit, usd, MICRO, None, faults)?)
            }
        }
        _ => {
            bucketless(limit, faults);
            Meter::InFlight(u64::try_from(in_flight).ok()?)
        }
    };
    let on_store_loss = match limit.on_store_loss.get() {
        None | Some(limit::OnStoreLoss::Share) => OnStoreLoss::Share,
        Some(limit::OnStoreLoss::Open) => OnStoreLoss::Open,
        Some(limit::OnStoreLoss::Closed) => OnStoreLoss::Closed,
    };
    Some(used::Limit { per: per?, meter, on_store_loss })
}

/// The span and how much it has, in what is counted: `scale` of it is one of the file's units.
fn amount(said: &Said<Rate>, key: &str, scale: f64, faults: &mut Collector) -> Option<(Span, f64)> {
    rate(said, key, faults);
    let (&Rate(said), place) = said.at().filter(|(Rate(amount), _)| amount.each > 0.0)?;
    let amount = said.each * scale;
    if amount > AMOUNT_MAX {
        faults.fault(place, format!("`{key}` is over {:e}: no limit at all", AMOUNT_MAX / scale));
        return None;
    }
    if said.span == Span::Day && amount < 1.0 {
        faults.fault(place, format!("`{key}` lets nothing through in a day: a larger amount is meant"));
        return None;
    }
    Some((said.span, amount))
}

fn pace(
    limit: &Limit,
    amount: Option<(Span, f64)>,
    scale: f64,
    smooth: Option<Smooth>,
    faults: &mut Collector,
) -> Option<Pace> {
    const DAY: &str = "a /day limit is a UTC day, not a bucket";
    let (span, amount) = amount?;
    if span == Span::Day {
        for place in
            [limit.burst.key(), limit.smooth.key().filter(|_| smooth.is_some())].into_iter().flatten()
        {
            faults.fault(place, DAY);
        }
    } else if let (Some(place), true) = (limit.burst.key(), smooth.is_some()) {
        faults.fault(place, "`burst` does not go with `smooth`, which lets no burst through");
    }
    let burst = match limit.burst.get() {
        _ if smooth.is_some() => 1.0,
        // At most 1000000000: exact.
        Some(burst) => burst.0 as f64 * scale,
        // Less than one would never let anything through.
        None => amount.max(1.0),
    };
    Some(Pace { span, amount, burst, smooth })
}

/// Requests running at once fill no bucket.
fn bucketless(limit: &Limit, faults: &mut Collector) {
    let smooth = limit.smooth.key().filter(|_| matches!(limit.smooth.get(), Some(Flag(true))));
    for (key, place) in [("burst", limit.burst.key()), ("smooth", smooth)] {
        if let Some(place) = place {
            faults.fault(place, format!("`{key}` does not go with `in_flight`, which is no rate"));
        }
    }
}
