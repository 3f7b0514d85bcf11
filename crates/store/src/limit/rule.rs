//! What a limit says, and how it is counted: over the whole cluster, or as one node's share of it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_config::used::{Meter, OnStoreLoss, Span};

use crate::charge::Counter;

/// Until an entry of what runs is forgotten; it is renewed every [`super::upkeep::RENEW_EVERY`].
pub(super) const RUNNING_LIVES: Duration = Duration::from_secs(30);
/// From this many requests a second on a limit is leased rather than asked for one by one.
const LEASED_REQUESTS: f64 = 20.0;
/// From this many tokens in [`LEASE_SPAN`] on a limit is leased: less would not last for one long request.
const LEASED_TOKENS: f64 = 8192.0;
/// A lease is at most what the limit allows in this time, in seconds.
const LEASE_SPAN: f64 = 0.1;
/// A bucket that never fills could never say when to come back.
const SLOWEST: f64 = 1e-6;

/// Whom a limit counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An address.
    Ip,
    /// This node: counted here alone, never in the store.
    Node,
    /// A route.
    Route,
    /// A model.
    Model,
    /// A client.
    Client,
}

impl Scope {
    /// All, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [Self::Ip, Self::Node, Self::Route, Self::Model, Self::Client];

    /// As configs and metrics say it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Node => "node",
            Self::Route => "route",
            Self::Model => "model",
            Self::Client => "client",
        }
    }
}

/// A [`Meter`] without its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Requests,
    Tokens,
    Usd,
    InFlight,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Usd => "usd",
            Self::InFlight => "in_flight",
        }
    }

    /// What a charge takes is an estimate, given back when nothing is heard of it.
    pub(super) const fn reserved(self) -> bool {
        !matches!(self, Self::Requests)
    }
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Whom it counts apart.
    pub scope: Scope,
    /// What it counts.
    pub meter: Meter,
    /// What becomes of it while the store does not answer.
    pub on_store_loss: OnStoreLoss,
}

impl Rule {
    pub(super) const fn kind(&self) -> Kind {
        match self.meter {
            Meter::Requests(_) => Kind::Requests,
            Meter::Tokens(_) => Kind::Tokens,
            Meter::Usd(_) => Kind::Usd,
            Meter::InFlight(_) => Kind::InFlight,
        }
    }

    /// How the store counts it.
    pub(super) fn counter(&self) -> Counter {
        let pace = match self.meter {
            Meter::InFlight(limit) => {
                return Counter::Running { limit: limit as f64, lives: RUNNING_LIVES };
            }
            Meter::Requests(pace) | Meter::Tokens(pace) | Meter::Usd(pace) => pace,
        };
        let Span::Period(period) = pace.span else { return Counter::Day { limit: pace.amount } };
        let per_second = (pace.amount / period.as_secs_f64().max(f64::EPSILON)).max(SLOWEST);
        let patience = pace.smooth.map_or(Duration::ZERO, |smooth| {
            let queue =
                Duration::try_from_secs_f64(smooth.queue as f64 / per_second).unwrap_or(Duration::MAX);
            queue.min(smooth.timeout)
        });
        Counter::Bucket { per_second, burst: pace.burst.max(1.0), patience }
    }

    /// The most a node leases of it at once, in units; `None`: every request is charged for itself.
    pub(super) fn leased(&self) -> Option<f64> {
        let (pace, from) = match self.meter {
            Meter::Requests(pace) => (pace, LEASED_REQUESTS * LEASE_SPAN),
            Meter::Tokens(pace) => (pace, LEASED_TOKENS),
            Meter::Usd(_) | Meter::InFlight(_) => return None,
        };
        let Counter::Bucket { per_second, .. } = self.counter() else { return None };
        let most = per_second * LEASE_SPAN;
        (self.scope != Scope::Node && pace.smooth.is_none() && most >= from).then_some(most)
    }

    /// A bucket is kept by its rate and size, since what is left of one says nothing of another: one that an operator
    /// raised begins full. What a day or what runs has used counts under any bound.
    fn key(&self) -> String {
        let word = self.kind().word();
        match self.meter {
            Meter::InFlight(_) => word.to_owned(),
            Meter::Requests(pace) | Meter::Tokens(pace) | Meter::Usd(pace) => match pace.span {
                Span::Day => format!("{word}/day"),
                Span::Period(period) => format!("{word}/{}/{period:?}/{}", pace.amount, pace.burst),
            },
        }
    }
}

/// Names one counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) group: Arc<str>,
    pub(super) key: Arc<str>,
}

/// A rule and whom it counts. Cheap to clone: make one per subject and keep it.
#[derive(Debug, Clone)]
pub struct Applies {
    pub(super) rule: Arc<Rule>,
    pub(super) name: Name,
}

impl Applies {
    /// `rule` for `subject`: the name of a client, route, model or node, or an address.
    #[must_use]
    pub fn new(rule: Arc<Rule>, subject: &str) -> Self {
        let group = format!("{}:{subject}", rule.scope.word()).into();
        let key = rule.key().into();
        Self { rule, name: Name { group, key } }
    }

    /// The limit.
    #[must_use]
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// `all`, each under a key of its own, also where a group has several limits of one kind and span. Every node is to
    /// give them in the same order.
    pub(super) fn apart(all: &[Self]) -> Vec<Self> {
        let numbered = all.iter().enumerate().map(|(index, rule)| {
            match all.iter().take(index).filter(|other| other.name == rule.name).count() {
                0 => rule.clone(),
                number => rule.numbered(number),
            }
        });
        numbered.collect()
    }

    fn numbered(&self, number: usize) -> Self {
        let key = format!("{}#{number}", self.name.key).into();
        Self { rule: Arc::clone(&self.rule), name: Name { group: Arc::clone(&self.name.group), key } }
    }
}

/// `counter` for a request that waits for its turn no longer than `most`.
pub(super) fn within(counter: Counter, most: Duration) -> Counter {
    match counter {
        Counter::Bucket { per_second, burst, patience } => {
            Counter::Bucket { per_second, burst, patience: patience.min(most) }
        }
        Counter::Day { .. } | Counter::Running { .. } => counter,
    }
}

/// One node's share of `counter` among `nodes`; of a day, a share of what is `left` of it.
pub(super) fn share(counter: Counter, nodes: u32, left: f64) -> Counter {
    let nodes = f64::from(nodes.max(1));
    match counter {
        Counter::Bucket { per_second, burst, patience } => {
            Counter::Bucket { per_second: per_second / nodes, burst: (burst / nodes).max(1.0), patience }
        }
        Counter::Day { .. } => Counter::Day { limit: (left / nodes).max(0.0) },
        Counter::Running { limit, lives } => {
            Counter::Running { limit: (limit / nodes).floor().max(1.0), lives }
        }
    }
}

/// What `counter` holds when nothing was taken from it.
pub(super) const fn full(counter: Counter) -> f64 {
    match counter {
        Counter::Bucket { burst, .. } => burst,
        Counter::Day { limit } | Counter::Running { limit, .. } => limit,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_config::used::{Pace, Smooth};

    use super::*;

    fn rule(meter: Meter) -> Rule {
        Rule { scope: Scope::Client, meter, on_store_loss: OnStoreLoss::Share }
    }

    fn per_minute(amount: f64) -> Pace {
        Pace { span: Span::Period(Duration::from_secs(60)), amount, burst: amount, smooth: None }
    }

    #[test]
    fn fast_limits_are_leased_and_slow_ones_money_days_and_queues_are_not() {
        let day = Pace { span: Span::Day, ..per_minute(1e12) };
        let smooth =
            Pace { smooth: Some(Smooth { queue: 1, timeout: Duration::ZERO }), ..per_minute(6000.0) };
        for (meter, most) in [
            (Meter::Requests(per_minute(1199.0)), None),
            (Meter::Requests(per_minute(1200.0)), Some(2.0)),
            (Meter::Requests(smooth), None),
            (Meter::Requests(day), None),
            (Meter::Tokens(per_minute(1e6)), None),
            (Meter::Tokens(per_minute(6e6)), Some(10_000.0)),
            (Meter::Usd(per_minute(1e12)), None),
            (Meter::InFlight(1_000_000), None),
        ] {
            assert_eq!(rule(meter).leased().map(f64::round), most, "{meter:?}");
        }
        let node = Rule { scope: Scope::Node, ..rule(Meter::Requests(per_minute(6000.0))) };
        assert_eq!(node.leased(), None);
    }

    #[test]
    fn a_queue_is_as_long_as_its_shorter_bound() {
        let smooth = |queue| Smooth { queue, timeout: Duration::from_secs(10) };
        for (queue, patience) in [(5, 5), (50, 10)] {
            let pace = Pace { burst: 1.0, smooth: Some(smooth(queue)), ..per_minute(60.0) };
            let counter =
                Counter::Bucket { per_second: 1.0, burst: 1.0, patience: Duration::from_secs(patience) };
            assert_eq!(rule(Meter::Requests(pace)).counter(), counter);
        }
    }

    #[test]
    fn buckets_are_named_by_their_rate_and_days_by_what_they_count() {
        let name = |meter| Applies::new(Arc::new(rule(meter)), "team-a").name;
        let requests = name(Meter::Requests(per_minute(10.0)));
        assert_eq!((&*requests.group, &*requests.key), ("client:team-a", "requests/10/60s/10"));
        assert_ne!(requests, name(Meter::Requests(per_minute(20.0))));
        for amount in [1.0, 2.0] {
            let day = Pace { span: Span::Day, ..per_minute(amount) };
            assert_eq!(&*name(Meter::Usd(day)).key, "usd/day");
        }
        assert_eq!(&*name(Meter::InFlight(3)).key, "in_flight");
    }

    #[test]
    fn a_share_of_what_runs_is_rounded_down_but_never_to_nothing() {
        for (limit, part) in [(50.0, 16.0), (2.0, 1.0)] {
            let counter = Counter::Running { limit, lives: RUNNING_LIVES };
            assert_eq!(full(share(counter, 3, limit)), part);
        }
    }
}
