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
        /// Models whose first content comes late.
        reasoning_models: Vec<Item<Text>>,
        /// How the path of a request is chosen.
        choice: Choice,
    }
}

said! {
    /// When a path is left alone.
    Breaker: "`breaker`", needs [] {
        /// Failures in a row.
        consecutive_failures: Count,
        /// Share of failures in the window, 0 to 1.
        failure_rate: Number,
        /// Fewer requests than this prove nothing.
        min_requests: Count,
        /// Over how long rates are taken.
        window: Time,
        /// Slow calls count, too.
        slow_call: SlowCall,
        /// First rest.
        open_for: Time,
        /// Longest rest.
        max_open: Time,
    }
}

said! {
    /// When slow is as bad as broken.
    SlowCall: "`slow_call`", needs [] {
        /// What is slow.
        after: Time,
        /// Share of slow calls, 0 to 1.
        rate: Number,
    }
}

said! {
    /// How a path comes back.
    Recovery: "`recovery`", needs [] {
        /// Share of requests mirrored, 0 to 1.
        shadow_sample: Number,
        /// Most mirrored requests.
        shadow_max: Rate,
        /// Most tokens of a mirrored answer.
        shadow_max_tokens: Count,
        /// Passes needed.
        successes: Count,
        /// Over at least this long.
        min_span: Time,
        /// How much slower than before the trouble is still well.
        max_latency_ratio: Number,
        /// Faster than this is never slow.
        latency_floor: Time,
        /// Shares of traffic, rising.
        ramp: Vec<Item<Percent>>,
        /// How long each share lasts at least.
        ramp_step: Time,
        /// How many requests each share lasts at least.
        ramp_requests: Count,
    }
}

said! {
    /// Made-up requests.
    Synthetic: "`synthetic`", needs [] {
        /// What is asked.
        prompt: Text,
        /// Most tokens of the answer.
        max_tokens: Count,
        /// How often.
        interval: Time,
        /// After how long without live traffic.
        after_idle: Time,
    }
}

said! {
    /// What a path that comes and goes is held down for.
    Flap: "`flap`", needs [] {
        /// This many trips
        trips: Count,
        /// within this long
        within: Time,
        /// rest the path this long.
        hold: Time,
    }
}

said! {
    /// What recovery may cost.
    ShadowBudget: "`shadow_budget`", needs [] {
        /// Mirrored requests for one recovery.
        per_recovery: Count,
        /// USD a day.
        usd_per_day: Number,
    }
}

said! {
    /// How the path of a request is chosen.
    Choice: "`choice`", needs [] {
        /// Paths this close to the best share the traffic.
        band: Percent,
        /// A change of best must last this long.
        hysteresis: Time,
        /// Share of requests that try another path.
        explore: Percent,
    }
}
