//! `health:`, the file's and an upstream's own: each key that is unsaid keeps what holds around it.

use tidegate_router::glob::Glob;

use super::check::{count32, globs, number, pace, share, time, wait};
use crate::fault::Collector;
use crate::read::{Item, Said};
use crate::said::health::{Breaker, Choice, Flap, Health, Recovery, ShadowBudget, Synthetic};
use crate::unit::{Percent, Text};
use crate::used;

const MANY: u32 = 1_000_000;

/// At 0, a window without any failure would open a path.
const RATE_MIN: f64 = 0.001;

/// What is said over what holds without it. `priced`: whether the file has `prices`.
pub(super) fn health(
    said: &Said<Health>,
    around: &used::Health,
    priced: bool,
    faults: &mut Collector,
) -> used::Health {
    let Some(said) = said.get() else { return around.clone() };
    globs(&said.reasoning_models, faults);
    let reasoning = said.reasoning_models.get();
    used::Health {
        breaker: said.breaker.get().map_or(around.breaker, |said| breaker(said, around.breaker, faults)),
        recovery: match said.recovery.get() {
            Some(said) => recovery(said, &around.recovery, faults),
            None => around.recovery.clone(),
        },
        synthetic: match said.synthetic.get() {
            Some(said) => synthetic(said, &around.synthetic, faults),
            None => around.synthetic.clone(),
        },
        flap: said.flap.get().map_or(around.flap, |said| flap(said, around.flap, faults)),
        shadow_budget: match said.shadow_budget.get() {
            Some(said) => shadow_budget(said, around.shadow_budget, priced, faults),
            None => around.shadow_budget,
        },
        reasoning_models: reasoning.map_or_else(
            || around.reasoning_models.clone(),
            |items| items.iter().map(|item| Glob::new(&item.value.0)).collect(),
        ),
        choice: said.choice.get().map_or(around.choice, |said| choice(said, around.choice, faults)),
    }
}

fn breaker(said: &Breaker, around: used::Breaker, faults: &mut Collector) -> used::Breaker {
    let unsaid = Default::default();
    let slow = said.slow_call.get().unwrap_or(&unsaid);
    let open_for = time(&said.open_for, "open_for", around.open_for, faults);
    // An unsaid longest rest makes room for a longer first one.
    let max_open = time(&said.max_open, "max_open", around.max_open.max(open_for), faults);
    if let Some((_, place)) = said.max_open.at()
        && max_open < open_for
    {
        let text = format!(
            "`max_open` is shorter than `open_for`, which is {open_for:?}: rests grow from `open_for` to `max_open`"
        );
        faults.fault(place, text);
    }
    used::Breaker {
        consecutive_failures: count32(
            &said.consecutive_failures,
            "consecutive_failures",
            1..=MANY,
            around.consecutive_failures,
            faults,
        ),
        failure_rate: number(&said.failure_rate, "failure_rate", RATE_MIN..=1.0, around.failure_rate, faults),
        min_requests: count32(&said.min_requests, "min_requests", 1..=MANY, around.min_requests, faults),
        window: time(&said.window, "window", around.window, faults),
        slow_after: time(&slow.after, "after", around.slow_after, faults),
        slow_rate: number(&slow.rate, "rate", RATE_MIN..=1.0, around.slow_rate, faults),
        stalled_after: time(&said.stalled_after, "stalled_after", around.stalled_after, faults),
        open_for,
        max_open,
    }
}

fn recovery(said: &Recovery, around: &used::Recovery, faults: &mut Collector) -> used::Recovery {
    used::Recovery {
        shadow_sample: number(&said.shadow_sample, "shadow_sample", 0.0..=1.0, around.shadow_sample, faults),
        shadow_every: pace(&said.shadow_max, "shadow_max", around.shadow_every, faults),
        shadow_max_tokens: count32(
            &said.shadow_max_tokens,
            "shadow_max_tokens",
            1..=MANY,
            around.shadow_max_tokens,
            faults,
        ),
        successes: count32(&said.successes, "successes", 1..=MANY, around.successes, faults),
        min_span: wait(&said.min_span, "min_span", around.min_span, faults),
        max_latency_ratio: number(
            &said.max_latency_ratio,
            "max_latency_ratio",
            1.0..=1000.0,
            around.max_latency_ratio,
            faults,
        ),
        latency_floor: wait(&said.latency_floor, "latency_floor", around.latency_floor, faults),
        ramp: ramp(&said.ramp, faults).unwrap_or_else(|| around.ramp.clone()),
        ramp_step: wait(&said.ramp_step, "ramp_step", around.ramp_step, faults),
        ramp_requests: count32(&said.ramp_requests, "ramp_requests", 1..=MANY, around.ramp_requests, faults),
    }
}

/// The steps said, up to the whole of the traffic.
fn ramp(said: &Said<Vec<Item<Percent>>>, faults: &mut Collector) -> Option<Vec<f64>> {
    let (items, place) = said.at()?;
    if items.is_empty() {
        faults.fault(place, "an empty ramp: write its steps, as in [5%, 25%, 100%]");
    }
    let mut before = 0.0;
    for item in items {
        let Percent(step) = item.value;
        if step > 1.0 {
            faults.fault(item.place, "a step of a ramp is over 100%: it is a share of the normal traffic");
        } else if step <= before {
            faults.fault(item.place, "a ramp rises: each step is over the one before, and over 0%");
        }
        before = step;
    }
    let whole = (before < 1.0).then_some(1.0);
    Some(items.iter().map(|item| item.value.0).chain(whole).collect())
}

fn synthetic(said: &Synthetic, around: &used::Synthetic, faults: &mut Collector) -> used::Synthetic {
    let prompt = said.prompt.at().map(|(Text(text), place)| {
        if text.trim().is_empty() {
            faults.fault(place, "an empty prompt: write a short one that any model answers");
        }
        text.clone()
    });
    used::Synthetic {
        prompt: prompt.unwrap_or_else(|| around.prompt.clone()),
        max_tokens: count32(&said.max_tokens, "max_tokens", 1..=MANY, around.max_tokens, faults),
        interval: time(&said.interval, "interval", around.interval, faults),
        after_idle: wait(&said.after_idle, "after_idle", around.after_idle, faults),
    }
}

fn flap(said: &Flap, around: used::Flap, faults: &mut Collector) -> used::Flap {
    used::Flap {
        trips: count32(&said.trips, "trips", 1..=MANY, around.trips, faults),
        within: time(&said.within, "within", around.within, faults),
        hold: wait(&said.hold, "hold", around.hold, faults),
    }
}

fn shadow_budget(
    said: &ShadowBudget,
    around: used::ShadowBudget,
    priced: bool,
    faults: &mut Collector,
) -> used::ShadowBudget {
    if let (false, Some((_, place))) = (priced, said.usd_per_day.at()) {
        faults.warn(
            place,
            "`usd_per_day` needs `prices`: without them every cost counts as 0, and `per_recovery` alone is a bound",
        );
    }
    used::ShadowBudget {
        per_recovery: count32(&said.per_recovery, "per_recovery", 0..=MANY, around.per_recovery, faults),
        usd_per_day: number(&said.usd_per_day, "usd_per_day", 0.0..=1e6, around.usd_per_day, faults),
    }
}

fn choice(said: &Choice, around: used::Choice, faults: &mut Collector) -> used::Choice {
    used::Choice {
        band: share(&said.band, "band", around.band, faults),
        hysteresis: wait(&said.hysteresis, "hysteresis", around.hysteresis, faults),
        explore: share(&said.explore, "explore", around.explore, faults),
    }
}
