//! `routes:`.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_router::glob::Glob;

use super::check::{
    self, Names, between, count, count32, covered, number, only_false, refuse, repeated, share, size, time,
    unbuilt, unbuilt_list,
};
use super::{fallback, limit};
use crate::fault::Collector;
use crate::read::{Item, Said};
use crate::said::route;
use crate::unit::{Flag, Text, Time, duration};
use crate::used;

const TTL_MIN: Duration = Duration::from_secs(1);
/// An older answer is of no use to anyone, and the store would only fill with them.
const TTL_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Under this hardly any answer would be kept.
const ANSWER_MIN: u64 = 1 << 10;
/// More in one value would hold up whatever else the store does.
const ANSWER_MAX: u64 = 64 << 20;

/// As many as the file has, in its order; `None` for one that cannot be used.
pub(super) fn routes(
    said: &Said<Vec<Item<route::Route>>>,
    upstreams: &Names<'_>,
    filters: &Names<'_>,
    faults: &mut Collector,
) -> Vec<Option<used::Route>> {
    let Some((items, place)) = said.at() else { return Vec::new() };
    if items.is_empty() {
        faults.fault(place, "no route: every request would be refused");
    }
    let models = items.iter().filter_map(|item| item.value.r#match.get()?.model.at());
    covered("route", models.map(|(Text(model), place)| (model.as_str(), place)), faults);
    let mut seen = HashMap::new();
    items.iter().map(|item| one(&item.value, upstreams, filters, &mut seen, faults)).collect()
}

fn one(
    said: &route::Route,
    upstreams: &Names<'_>,
    filters: &Names<'_>,
    seen: &mut HashMap<String, usize>,
    faults: &mut Collector,
) -> Option<used::Route> {
    refuse_unbuilt(said, filters, faults);
    let mut to = Vec::new();
    if let Some((items, place)) = said.to.at() {
        if items.is_empty() {
            faults.fault(place, "no upstream: a route goes to at least one");
        }
        for (index, item) in items.iter().enumerate() {
            repeated(items, index, faults);
            to.extend(upstreams.find(&item.value.0, item.place, faults));
        }
    }
    let fallback = fallback::fallbacks(&said.fallback, &to, upstreams, faults);
    let retry = retry(&said.retry, faults);
    let hedge = hedge(&said.hedge, faults);
    let cache = cache(&said.cache, faults);
    let limits = limit::inner(&said.limits, used::Per::Route, faults);
    let (model, place) = said.r#match.get()?.model.at()?;
    check::glob(model, place, faults);
    let Text(model) = model;
    let times = seen.entry(model.clone()).and_modify(|times| *times += 1).or_insert(1);
    let name = if *times == 1 { model.clone() } else { format!("{model}#{times}") };
    Some(used::Route {
        name,
        model: Glob::new(model),
        to,
        fallback,
        shadow: said.shadow.get().is_none_or(|&Flag(shadow)| shadow),
        retry,
        hedge,
        cache,
        limits,
    })
}

fn retry(said: &Said<route::Retry>, faults: &mut Collector) -> used::Retry {
    let unsaid = route::Retry::default();
    let said = said.get().unwrap_or(&unsaid);
    let unsaid = route::Backoff::default();
    let backoff = said.backoff.get().unwrap_or(&unsaid);
    let attempts = count32(&said.attempts, "attempts", 1..=20, 3, faults);
    let initial = time(&backoff.initial, "initial", Duration::from_millis(100), faults);
    let max = time(&backoff.max, "max", Duration::from_secs(10).max(initial), faults);
    if let Some((_, place)) = backoff.max.at()
        && max < initial
    {
        faults.fault(
            place,
            "`max` is shorter than `initial`: waits grow from `initial` (100ms if unsaid) to `max`",
        );
    }
    used::Retry {
        attempts,
        initial,
        factor: number(&backoff.factor, "factor", 1.0..=100.0, 2.0, faults),
        max,
        budget: share(&said.budget, "budget", 0.1, faults),
    }
}

fn hedge(said: &Said<route::Hedge>, faults: &mut Collector) -> Option<used::Hedge> {
    let (Text(after), place) = said.get()?.after.at()?;
    let hedge = match after.strip_prefix('p') {
        Some(percentile) => percentile.parse().ok().map(used::Hedge::Percentile),
        None => duration(after).ok().map(used::Hedge::After),
    };
    let usable = match hedge {
        Some(used::Hedge::Percentile(percentile)) => (50..100).contains(&percentile),
        Some(used::Hedge::After(after)) => !after.is_zero() && after <= check::TIME_MAX,
        None => false,
    };
    if !usable {
        faults.fault(place, "`after` is p50 to p99, or a time such as 800ms");
    }
    hedge
}

fn cache(said: &Said<route::Cache>, faults: &mut Collector) -> Option<used::Cache> {
    let said = said.get()?;
    let is = |said: &Said<Flag>| said.get().is_some_and(|&Flag(is)| is);
    // An absent `ttl` is a fault already.
    let ttl = between(&said.ttl, "ttl", TTL_MIN..=TTL_MAX, TTL_MIN, faults);
    let stale = Duration::ZERO;
    Some(used::Cache {
        ttl,
        shared: is(&said.shared),
        only_deterministic: is(&said.only_deterministic),
        stale_if_error: between(&said.stale_if_error, "stale_if_error", stale..=TTL_MAX, stale, faults),
        max_size: size(&said.max_size, "max_size", ANSWER_MIN..=ANSWER_MAX, 1 << 20, faults),
    })
}

fn refuse_unbuilt(said: &route::Route, filters: &Names<'_>, faults: &mut Collector) {
    if let (Some(Time(wait)), Some(place)) = (said.early_commit.get(), said.early_commit.key())
        && !wait.is_zero()
    {
        refuse(place, "early_commit", faults);
    }
    only_false(&said.resumable, "resumable", faults);
    only_false(&said.r#continue, "continue", faults);
    unbuilt(&said.context, "context", faults);
    if let Some(context) = said.context.get() {
        count(&context.max_input_tokens, "max_input_tokens", 1..=1_000_000_000, 0, faults);
        let summarizes =
            context.overflow.get().is_some_and(|&overflow| overflow == route::Overflow::Summarize);
        if let (true, None, Some((_, place))) = (summarizes, context.model.key(), context.overflow.at()) {
            faults.fault(place, "`overflow: summarize` needs `model`, the one that summarizes");
        }
    }
    unbuilt_list(&said.filters, "filters", faults);
    for item in said.filters.items() {
        filters.find(&item.value.0, item.place, faults);
    }
}
