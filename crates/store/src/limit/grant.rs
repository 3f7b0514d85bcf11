//! What a request is told, and what it owes afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Limiter;
use super::lease::Lease;
use super::rule::{Kind, Name, Scope, full};
use super::upkeep::Job;
use crate::charge::{Counter, Settled, Settlement, Standing, units};

/// What a request is expected to take. A cost above a bucket's burst, or a day's whole amount, is taken for that much.
/// What is no number, or below 0, is nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// 1, or as many as a batch holds.
    pub requests: f64,
    /// Prompt and answer, estimated.
    pub tokens: f64,
    /// What they cost, in millionths of a US dollar.
    pub micro_usd: f64,
    /// After this, what is reserved is given back even if nobody settles: the request's deadline and 30 s.
    pub lives: Duration,
    /// It waits for its turn in the queue of a smooth limit no longer than this, whatever the limit allows: the time to
    /// its deadline. Where its turn comes later it is denied, and takes nothing.
    pub wait_at_most: Duration,
}

impl Ask {
    pub(super) const fn of(&self, kind: Kind) -> f64 {
        units(match kind {
            Kind::Requests => self.requests,
            Kind::Tokens => self.tokens,
            Kind::Usd => self.micro_usd,
            Kind::InFlight => 1.0,
        })
    }
}

/// For `x-ratelimit-*`: how the tightest limit of a kind stands. While the store is away: this node's share of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headline {
    /// What there is when nothing was taken: a bucket's burst, a day's amount.
    pub limit: f64,
    /// What is left, whole units, never below 0.
    pub remaining: f64,
    /// Until all of it is there again.
    pub reset: Duration,
}

impl Headline {
    pub(super) fn new(kind: Kind, counter: Counter, standing: &Standing) -> Option<Self> {
        let limit = full(counter);
        let remaining = standing.left.clamp(0.0, limit.max(0.0)).floor();
        matches!(kind, Kind::Requests | Kind::Tokens).then_some(Self {
            limit,
            remaining,
            reset: standing.reset,
        })
    }

    fn share(&self) -> f64 {
        if self.limit > 0.0 { self.remaining / self.limit } else { 0.0 }
    }
}

/// The tightest of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Headlines {
    pub(super) requests: Option<Headline>,
    pub(super) tokens: Option<Headline>,
}

impl Headlines {
    pub(super) fn add(&mut self, kind: Kind, line: Option<Headline>) {
        let (Some(line), Kind::Requests | Kind::Tokens) = (line, kind) else { return };
        let kept = if kind == Kind::Requests { &mut self.requests } else { &mut self.tokens };
        if kept.is_none_or(|kept| line.share() < kept.share()) {
            *kept = Some(line);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.add(Kind::Requests, other.requests);
        self.add(Kind::Tokens, other.tokens);
    }
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Too much at once.
    Rate,
    /// The day's amount is used up, and not only by what still runs.
    Spent,
    /// The store does not answer, and the limit admits nothing without it.
    StoreLost,
}

/// The limit that denies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Refused {
    pub(super) scope: Scope,
    pub(super) kind: Kind,
    pub(super) why: Why,
    pub(super) retry_after: Duration,
}

/// A request may not go on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Denied {
    /// Whose limit it was; of several that deny, the one with the longest wait.
    pub scope: Scope,
    /// `requests`, `tokens`, `usd` or `in_flight`.
    pub meter: &'static str,
    /// Why.
    pub why: Why,
    /// When it would be admitted, if nobody else asks; above zero.
    pub retry_after: Duration,
    /// The tightest limit on requests.
    pub requests: Option<Headline>,
    /// The tightest limit on tokens.
    pub tokens: Option<Headline>,
}

/// Where something was charged.
#[derive(Debug, Clone)]
pub(super) enum At {
    Store,
    Node,
    /// In the outage of this number; the group's name in the store.
    Share(u64, Arc<str>),
}

/// One counter of a charge.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) key: Arc<str>,
    pub(super) counter: Counter,
    /// What `counter` is a share of; else itself.
    pub(super) of: Counter,
    pub(super) charged: f64,
}

/// What was had.
#[derive(Debug)]
pub(super) enum Held {
    Charged { at: At, group: Arc<str>, id: u128, lives: Duration, items: Vec<Item> },
    Leased { kind: Kind, lease: Arc<Lease>, charged: f64 },
}

/// What was had by one call. Dropped, it goes back, the request included: then nothing went on.
#[derive(Debug)]
pub(super) struct Had {
    limiter: Arc<Limiter>,
    held: Option<Held>,
}

impl Had {
    pub(super) fn new(limiter: &Arc<Limiter>, held: Held) -> Self {
        Self { limiter: Arc::clone(limiter), held: Some(held) }
    }

    fn settle(mut self, used: impl Fn(Kind) -> Option<f64>) {
        if let Some(held) = self.held.take() {
            self.limiter.settle(held, used);
        }
    }
}

impl Drop for Had {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.limiter.settle(held, |_| Some(0.0));
        }
    }
}

/// A request may go on. Dropped without [`Grant::settle`]: nothing was used; tokens and money go back, the request
/// stays counted, and it no longer runs.
#[derive(Debug)]
#[must_use = "dropping it gives back what was reserved"]
pub struct Grant {
    /// To be waited before going on: the turn of this request in a queue comes then.
    pub wait: Duration,
    /// The tightest limit on requests.
    pub requests: Option<Headline>,
    /// The tightest limit on tokens.
    pub tokens: Option<Headline>,
    pub(super) had: Vec<Had>,
}

impl Grant {
    /// The request ended, having used this much. Does not wait: the store hears of it from [`Limiter::run`].
    pub fn settle(mut self, tokens: f64, micro_usd: f64) {
        self.end(tokens, micro_usd);
    }

    fn end(&mut self, tokens: f64, micro_usd: f64) {
        for had in std::mem::take(&mut self.had) {
            had.settle(|kind| match kind {
                Kind::Requests => None,
                Kind::Tokens => Some(tokens),
                Kind::Usd => Some(micro_usd),
                Kind::InFlight => Some(0.0),
            });
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.end(0.0, 0.0);
    }
}

impl Limiter {
    /// Trues up what was had by what was `used`; `None` leaves a counter as it was charged.
    fn settle(&self, held: Held, used: impl Fn(Kind) -> Option<f64>) {
        let used =
            |kind, charged| used(kind).map(|used: f64| if used.is_finite() { units(used) } else { charged });
        let (at, group, id, lives, items) = match held {
            Held::Leased { kind, lease, charged } => {
                if let Some(used) = used(kind, charged) {
                    lease.settle(charged, used, Instant::now());
                    if used < charged {
                        self.denials.forget(&lease.applies.name);
                    }
                }
                return;
            }
            Held::Charged { at, group, id, lives, items } => (at, group, id, lives, items),
        };
        self.running.ended(id);
        let settled = items.into_iter().filter_map(|item| {
            let used = used(item.kind, item.charged)?;
            let Item { kind, key, counter, of, charged } = item;
            match &at {
                At::Store if used < charged && kind != Kind::InFlight => {
                    self.denials.forget(&Name { group: Arc::clone(&group), key: Arc::clone(&key) });
                }
                At::Share(number, group) if kind != Kind::InFlight => {
                    let name = Name { group: Arc::clone(group), key: Arc::clone(&key) };
                    self.outage.used(*number, &name, of, used - charged);
                }
                At::Store | At::Node | At::Share(..) => {}
            }
            Some(Settled { key, counter, charged, used, reserved: kind.reserved() })
        });
        let items: Vec<_> = settled.collect();
        if !items.is_empty() {
            let settlement = Settlement { group, id, lives, items };
            let job =
                if matches!(at, At::Store) { Job::Settle(settlement) } else { Job::SettleHere(settlement) };
            self.enqueue(job);
        }
    }
}
