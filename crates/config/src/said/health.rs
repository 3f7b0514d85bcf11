//! `health:` as written, in the file and under an upstream.

use crate::read::{Item, said};
use crate::unit::{Count, Number, Percent, Rate, Text, Time};

said! {
    /// When a path is left alone, and how it comes back.
    Health: "`health`", needs [] {
        /// When a path is left alone.
        breaker: Breaker,
        /// How it comes back.
        recovery: Recovery,
        /// Made-up requests where live traffic is lacking.
        synthetic: Synthetic,
        /// What a path that comes and goes is held down for.
        flap: Flap,
        /// What recovery may cost.
        shadow_budget: ShadowBudget,
        /// Models whose first content comes late. Default o1*, o3*, o4*, gpt-5*, deepseek-r* and qwq*.
        reasoning_models: Vec<Item<Text>>,
        /// How the path of a request is chosen.
        choice: Choice,
    }
}

said! {
    /// When a path is left alone.
    Breaker: "`breaker`", needs [] {
        /// Failures in a row. Default 5.
        consecutive_failures: Count,
        /// Share of failures in the window, 0.001 to 1. Default 0.5.
        failure_rate: Number,
        /// Fewer requests than this prove nothing. Default 10.
        min_requests: Count,
        /// Over how long rates are taken. Default 60s.
        window: Time,
        /// Slow calls count, too.
        slow_call: SlowCall,
        /// Requests without any answer for this long, while nothing else answers either, mark a path as frozen. Default 5s.
        stalled_after: Time,
        /// First rest. Default 10s.
        open_for: Time,
        /// Longest rest. Default 5m.
        max_open: Time,
    }
}

said! {
    /// When slow is as bad as broken.
    SlowCall: "`slow_call`", needs [] {
        /// What is slow. Default 15s.
        after: Time,
        /// Share of slow calls, 0.001 to 1. Default 0.8.
        rate: Number,
    }
}

said! {
    /// How a path comes back.
    Recovery: "`recovery`", needs [] {
        /// Share of requests mirrored, 0 to 1. Default 1.
        shadow_sample: Number,
        /// Most mirrored requests. Default 30/min.
        shadow_max: Rate,
        /// Most tokens of a mirrored answer. Default 16.
        shadow_max_tokens: Count,
        /// Passes needed. Default 5.
        successes: Count,
        /// Over at least this long. Default 10s.
        min_span: Time,
        /// How much slower than before the trouble is still well. Default 2.
        max_latency_ratio: Number,
        /// Faster than this is never slow. Default 500ms.
        latency_floor: Time,
        /// Shares of traffic, rising; 100% ends them, said or not. Default `[5%, 10%, 25%, 50%, 100%]`.
        ramp: Vec<Item<Percent>>,
        /// How long each share lasts at least. Default 10s.
        ramp_step: Time,
        /// How many requests each share lasts at least. Default 10.
        ramp_requests: Count,
    }
}

said! {
    /// Made-up requests.
    Synthetic: "`synthetic`", needs [] {
        /// What is asked. Default `Reply with: ok`.
        prompt: Text,
        /// Most tokens of the answer. Default 16.
        max_tokens: Count,
        /// How often. Default 10s.
        interval: Time,
        /// After how long without live traffic. Default 10s.
        after_idle: Time,
    }
}

said! {
    /// What a path that comes and goes is held down for.
    Flap: "`flap`", needs [] {
        /// This many trips (default 3)
        trips: Count,
        /// within this long (default 10m)
        within: Time,
        /// rest the path this long. Default 2m.
        hold: Time,
    }
}

said! {
    /// What recovery may cost.
    ShadowBudget: "`shadow_budget`", needs [] {
        /// Mirrored requests for one recovery. Default 20.
        per_recovery: Count,
        /// USD a day, by `prices`. Default 1.
        usd_per_day: Number,
    }
}

said! {
    /// How the path of a request is chosen.
    Choice: "`choice`", needs [] {
        /// Paths this close to the best share the traffic. Default 20%.
        band: Percent,
        /// A change of best must last this long. Default 10s.
        hysteresis: Time,
        /// Share of requests that try another path. Default 2%.
        explore: Percent,
    }
}
