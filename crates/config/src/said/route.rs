//! `routes:` as written.

use super::limit::Limit;
use crate::read::{Item, said, words};
use crate::unit::{Count, Flag, Number, Percent, Size, Text, Time};

said! {
    /// Which models go to which upstreams.
    Route: "a route", needs [r#match, to] {
        /// What the route takes.
        r#match: Match,
        /// Upstreams; all of their paths compete.
        to: Vec<Item<Text>>,
        /// Tried in order when no path of `to` is usable.
        fallback: Vec<Item<Fallback>>,
        /// Answers kept; absent: no caching.
        cache: Cache,
        /// Whether requests may be mirrored to a recovering path. Default true.
        shadow: Flag,
        /// A waiting stream gets its headers after this long; 0s: not before the first content.
        early_commit: Time,
        /// Whether streams can be resumed.
        resumable: Flag,
        /// Tries after a failure.
        retry: Retry,
        /// A second try beside a slow first one; absent: none.
        hedge: Hedge,
        /// Whether a stream that broke is finished on another path.
        r#continue: Flag,
        /// What happens to a prompt that is too long.
        context: Context,
        /// Names of `filters`.
        filters: Vec<Item<Text>>,
        /// Limits of this route.
        limits: Vec<Item<Limit>>,
    }
}

said! {
    /// What a route takes.
    Match: "`match`", needs [model] {
        /// A model, `*` for any run of characters: `gpt-4*`.
        model: Text,
    }
}

said! {
    /// A stand-in for the upstreams of `to`.
    Fallback: "a fallback", needs [upstream] {
        /// Name of an upstream.
        upstream: Text,
        /// In which cases. Default `[unavailable]`.
        when: Vec<Item<When>>,
        /// Sent instead of the model the client asked for.
        model: Text,
        /// Changes to the prompt.
        prompt: Prompt,
    }
}

words! {
    /// Cases for a fallback.
    When {
        Unavailable = "unavailable",
        ContextLengthExceeded = "context_length_exceeded",
        RateLimited = "rate_limited",
    }
}

said! {
    /// Changes to a prompt for a smaller model.
    Prompt: "`prompt`", needs [] {
        /// System prompt; `{original_system}` stands for the client's.
        system: Text,
        /// An upper bound.
        max_tokens: Count,
        /// Turns kept; system messages stay.
        keep_last_turns: Count,
    }
}

said! {
    /// Caching of whole answers.
    Cache: "`cache`", needs [ttl] {
        /// How long an answer is fresh.
        ttl: Time,
        /// Whether clients share entries. Default false.
        shared: Flag,
        /// Whether only requests with temperature 0 or a `seed`, and embeddings, are cached. Default false.
        only_deterministic: Flag,
        /// How long an old answer may stand in for an unreachable upstream. Default 0s.
        stale_if_error: Time,
        /// Largest answer kept. Default 1MiB.
        max_size: Size,
    }
}

said! {
    /// Tries after a failure.
    Retry: "`retry`", needs [] {
        /// All tries over `to` together. Default 3.
        attempts: Count,
        /// Waits on the same upstream; another path is tried at once.
        backoff: Backoff,
        /// Share of requests that may be retried. Default 10%.
        budget: Percent,
    }
}

said! {
    /// Waits before a retry, with full jitter.
    Backoff: "`backoff`", needs [] {
        /// First wait. Default 100ms.
        initial: Time,
        /// Growth for each wait. Default 2.
        factor: Number,
        /// Longest wait. Default 10s.
        max: Time,
    }
}

said! {
    /// A second try beside a slow first one.
    Hedge: "`hedge`", needs [after] {
        /// A percentile of the path's own latency, `p95`, or a time.
        after: Text,
    }
}

said! {
    /// What happens to a prompt that is too long.
    Context: "`context`", needs [max_input_tokens] {
        /// Largest prompt.
        max_input_tokens: Count,
        /// What is done above it. Default reject.
        overflow: Overflow,
        /// The model that summarizes.
        model: Text,
    }
}

words! {
    /// What is done with a prompt that is too long.
    Overflow { Reject = "reject", DropOldest = "drop_oldest", Summarize = "summarize", Split = "split", }
}
