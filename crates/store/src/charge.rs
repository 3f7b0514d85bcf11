//! What a charge is: counters of one group, what is taken from each, and what comes of it.
//!
//! A group's counters lie together (in a Redis Cluster: in one slot), so that one call takes from all of them or
//! from none. A counter is created by its first charge and forgotten when it is full again.
//! The bucket is GCRA (generic cell rate algorithm, ITU-T I.371, as in brandur/redis-cell): one time per bucket, at
//! which it will be full; no process that refills it, and the wait after a denial is exact.

use std::sync::Arc;
use std::time::Duration;

/// No cost and no use is above this, in units: a thousand million US dollars. Sums of it stay far from the end of an
/// `f64`.
const UNITS_MOST: f64 = 1e15;

/// How a counter counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Counter {
    /// Fills by `per_second` up to `burst`; may go into debt by what is settled.
    Bucket {
        /// Units per second, above 0.
        per_second: f64,
        /// What it holds when full, in units, at least 1. No charge takes more.
        burst: f64,
        /// A charge that finds too little may wait this long for its turn ([`Standing::wait`]) instead of being denied.
        patience: Duration,
    },
    /// So much in a UTC day, by the store's clock. A charge above all of it is had of a day of which nothing is used.
    Day {
        /// Units.
        limit: f64,
    },
    /// So many at once. An entry that is not renewed is forgotten.
    Running {
        /// Entries.
        limit: f64,
        /// Until an entry is forgotten.
        lives: Duration,
    },
}

impl Counter {
    /// What a charge of `cost` takes, in units: never more than there is when nothing was taken. What is no number, or
    /// below 0, is nothing.
    #[must_use]
    pub fn takes(self, cost: f64) -> f64 {
        let cost = units(cost);
        match self {
            Self::Bucket { burst, .. } => cost.min(burst),
            // Of a day that allows nothing, nothing is had: it is not a cost of nothing.
            Self::Day { limit } if limit > 0.0 => cost.min(limit),
            Self::Day { .. } | Self::Running { .. } => cost,
        }
    }
}

/// `amount` as a counter can bear it.
pub(crate) const fn units(amount: f64) -> f64 {
    if amount.is_nan() { 0.0 } else { amount.clamp(0.0, UNITS_MOST) }
}

/// What is taken from one counter.
#[derive(Debug, Clone)]
pub struct Debit {
    /// Names the counter within its group.
    pub key: Arc<str>,
    /// How it counts.
    pub counter: Counter,
    /// Must be had, or the whole charge is denied; in units. What is taken is [`Counter::takes`] of it: a cost above
    /// `burst`, or above a day's limit, is taken for that much. 1 for [`Counter::Running`].
    pub cost: f64,
    /// Taken beyond `cost`, as far as there is any, of a bucket: a lease.
    pub extra: f64,
    /// [`Standing::mark`] as this node last saw it: where the store has lost the counter since, it begins from there, and
    /// a bucket at no more than half of its burst. `None`: never seen.
    pub known: Option<f64>,
    /// Given back when not settled within the charge's `lives`. For [`Counter::Running`] always.
    pub reserved: bool,
}

/// All or nothing.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Whose counters; one client's keys have one group.
    pub group: Arc<str>,
    /// Names the reservations of this charge; unique.
    pub id: u128,
    /// Until what is reserved is given back by itself.
    pub lives: Duration,
    /// At least one; each with a key of its own.
    pub debits: Vec<Debit>,
}

/// How a counter stands after a charge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Of [`Debit::extra`], what was had; whole units.
    pub extra: f64,
    /// What is left, in units; below 0 in debt.
    pub left: f64,
    /// Until it is full again (a day: until midnight UTC).
    pub reset: Duration,
    /// The charge's turn comes after this long; zero but for buckets with patience.
    pub wait: Duration,
    /// Opaque: goes back in [`Debit::known`].
    pub mark: f64,
    /// Of a day that denies: what was really used, reservations aside, leaves no room, so the same is not to be had
    /// before midnight. Else `false`.
    pub spent: bool,
}

/// What came of a charge.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Taken; one standing for each debit, in order.
    Admitted(Vec<Standing>),
    /// Nothing was taken.
    Denied {
        /// Index of the debit that has to wait longest.
        by: usize,
        /// Until the same charge would be admitted, if nothing else is charged; 1 s where nobody can say (`Running`, and
        /// a day that is not [`Standing::spent`]).
        retry_after: Duration,
        /// One for each debit, in order.
        standings: Vec<Standing>,
    },
}

/// Trues up one counter.
#[derive(Debug, Clone)]
pub struct Settled {
    /// As charged.
    pub key: Arc<str>,
    /// As charged.
    pub counter: Counter,
    /// As charged: what `cost` came to ([`Counter::takes`]), and `extra` as granted. What `used` is below it is given back, never more.
    pub charged: f64,
    /// What it came to. Above `charged`: taken as well, into debt, which a bucket fills up in ten years at most. What is no
    /// finite number is taken for `charged`.
    pub used: f64,
    /// As charged. A reservation that has run out by now was given back in full, so all of `used` is taken.
    pub reserved: bool,
}

impl Settled {
    /// `used` as a counter can bear it.
    pub(crate) fn used(&self) -> f64 {
        units(if self.used.is_finite() { self.used } else { self.charged })
    }
}

/// What became of a charge.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// As charged.
    pub group: Arc<str>,
    /// As charged.
    pub id: u128,
    /// As charged.
    pub lives: Duration,
    /// Those that change; `Running` ends here whatever it says.
    pub items: Vec<Settled>,
}

/// An entry of a [`Counter::Running`].
#[derive(Debug, Clone)]
pub struct Running {
    /// As charged.
    pub group: Arc<str>,
    /// As charged.
    pub key: Arc<str>,
    /// As charged.
    pub id: u128,
}
