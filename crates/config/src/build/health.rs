//! `health:`, which is not built yet: refused, and checked all the same, so that one reading shows every fault.

use std::time::Duration;

use super::check::{count, globs, number, rate, share, time, unbuilt};
use crate::fault::Collector;
use crate::read::Said;
use crate::said::health::{Breaker, Health, Recovery};
use crate::unit::Percent;

const MANY: u64 = 1_000_000;

pub(super) fn refuse(said: &Said<Health>, faults: &mut Collector) {
    unbuilt(said, "health", faults);
    let Some(health) = said.get() else { return };
    if let Some(said) = health.breaker.get() {
        breaker(said, faults);
    }
    if let Some(said) = health.recovery.get() {
        recovery(said, faults);
    }
    if let Some(said) = health.synthetic.get() {
        count(&said.max_tokens, "max_tokens", 1..=MANY, 0, faults);
        time(&said.interval, "interval", Duration::ZERO, faults);
        time(&said.after_idle, "after_idle", Duration::ZERO, faults);
    }
    if let Some(said) = health.flap.get() {
        count(&said.trips, "trips", 1..=MANY, 0, faults);
        time(&said.within, "within", Duration::ZERO, faults);
        time(&said.hold, "hold", Duration::ZERO, faults);
    }
    if let Some(said) = health.shadow_budget.get() {
        count(&said.per_recovery, "per_recovery", 0..=MANY, 0, faults);
        number(&said.usd_per_day, "usd_per_day", 0.0..=1e6, 0.0, faults);
    }
    globs(&health.reasoning_models, faults);
    if let Some(said) = health.choice.get() {
        share(&said.band, "band", 0.0, faults);
        share(&said.explore, "explore", 0.0, faults);
        time(&said.hysteresis, "hysteresis", Duration::ZERO, faults);
    }
}

fn breaker(said: &Breaker, faults: &mut Collector) {
    count(&said.consecutive_failures, "consecutive_failures", 1..=MANY, 0, faults);
    number(&said.failure_rate, "failure_rate", 0.0..=1.0, 0.0, faults);
    count(&said.min_requests, "min_requests", 1..=MANY, 0, faults);
    time(&said.window, "window", Duration::ZERO, faults);
    let open_for = time(&said.open_for, "open_for", Duration::from_secs(10), faults);
    let max_open = time(&said.max_open, "max_open", Duration::from_secs(300).max(open_for), faults);
    if let Some((_, place)) = said.max_open.at()
        && max_open < open_for
    {
        faults
            .fault(place, "`max_open` is shorter than `open_for`: rests grow from `open_for` to `max_open`");
    }
    if let Some(slow) = said.slow_call.get() {
        time(&slow.after, "after", Duration::ZERO, faults);
        number(&slow.rate, "rate", 0.0..=1.0, 0.0, faults);
    }
}

fn recovery(said: &Recovery, faults: &mut Collector) {
    number(&said.shadow_sample, "shadow_sample", 0.0..=1.0, 0.0, faults);
    rate(&said.shadow_max, "shadow_max", faults);
    count(&said.shadow_max_tokens, "shadow_max_tokens", 1..=MANY, 0, faults);
    count(&said.successes, "successes", 1..=MANY, 0, faults);
    time(&said.min_span, "min_span", Duration::ZERO, faults);
    number(&said.max_latency_ratio, "max_latency_ratio", 1.0..=1000.0, 1.0, faults);
    time(&said.latency_floor, "latency_floor", Duration::ZERO, faults);
    time(&said.ramp_step, "ramp_step", Duration::ZERO, faults);
    count(&said.ramp_requests, "ramp_requests", 1..=MANY, 0, faults);
    if let Some(([], place)) = said.ramp.at().map(|(steps, place)| (steps.as_slice(), place)) {
        faults.fault(place, "an empty ramp: write its steps, as in [5%, 25%, 100%]");
    }
    let mut before = 0.0;
    for item in said.ramp.items() {
        let Percent(step) = item.value;
        if step > 1.0 {
            faults.fault(item.place, "a step of a ramp is over 100%: it is a share of the normal traffic");
        } else if step <= before {
            faults.fault(item.place, "a ramp rises: each step is over the one before, and over 0%");
        }
        before = step;
    }
}
