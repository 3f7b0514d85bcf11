//! `limits:` as the program uses it: the file's own, a route's and a client's.
//!
//! Owns nothing that changes. Not here: how a key is read (`build::limit`), and who counts.

use std::time::Duration;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// What is counted apart. A route's own limit has [`Per::Route`], a client's own [`Per::Client`].
    pub per: Per,
    /// What is counted, and how much of it there may be.
    pub meter: Meter,
    /// What holds while the store is away; of no meaning for [`Per::Node`]. Default `Share`.
    pub on_store_loss: OnStoreLoss,
}

/// `per`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each client address.
    Ip,
    /// This node alone, counted on it and nowhere else.
    Node,
    /// Each route.
    Route,
    /// Each model.
    Model,
    /// Each client.
    Client,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meter {
    /// Requests.
    Requests(Pace),
    /// Tokens, of prompt and answer.
    Tokens(Pace),
    /// Money, in millionths of a USD.
    Usd(Pace),
    /// Requests running at once, 1 to 1000000.
    InFlight(u64),
}

/// An amount per span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// What the amount is for.
    pub span: Span,
    /// How much in one span, over 0 and at most 1e15; for a day at least 1.
    pub amount: f64,
    /// What the bucket holds when full, at least 1. Default the amount, or 1 where it is less. The amount for a day,
    /// 1 where the limit is smooth.
    pub burst: f64,
    /// Waits instead of bursting, requests alone. Default none.
    pub smooth: Option<Smooth>,
}

/// What an amount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A UTC day, all of it at once: no bucket.
    Day,
    /// A bucket that is filled anew in this time: 1s, 1min or 1h.
    Period(Duration),
}

/// `smooth: true`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smooth {
    /// Requests waiting, 0 to 1000000. Default 100.
    pub queue: usize,
    /// How long one waits, 1ms to 24h. Default 1s.
    pub timeout: Duration,
}

/// `on_store_loss`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStoreLoss {
    /// Each node takes its part of the limit.
    #[default]
    Share,
    /// The limit does not hold.
    Open,
    /// What the limit counts is refused.
    Closed,
}
