//! `limits:` as written, in the file, under a route and under a client.

use crate::read::{said, words};
use crate::unit::{Count, Flag, Rate, Time};

said! {
    /// One limit; exactly one of requests, tokens, usd, in_flight.
    Limit: "a limit", needs [] {
        /// What is counted apart; only in the file's own `limits`.
        per: Per,
        /// Requests in a period.
        requests: Rate,
        /// Tokens in a period.
        tokens: Rate,
        /// USD in a period.
        usd: Rate,
        /// Requests running at once.
        in_flight: Count,
        /// What the bucket holds when full; absent: the amount of the rate. A /day limit has none.
        burst: Count,
        /// Requests waiting for a place, where the limit is smooth or the node's `in_flight`. Default 100.
        queue: Count,
        /// How long one waits. Default 1s.
        queue_timeout: Time,
        /// Requests wait in a bounded queue instead of bursting. Default false.
        smooth: Flag,
        /// What holds while the store is away: this node's share, nothing, or no request. Default share.
        on_store_loss: OnStoreLoss,
    }
}

words! {
    /// What is counted apart.
    Per { Ip = "ip", Node = "node", Route = "route", Model = "model", Client = "client", }
}

words! {
    /// What holds while the store is away.
    OnStoreLoss { Share = "share", Open = "open", Closed = "closed", }
}
