//! What a run has seen: times in histograms, failures by kind, and running totals for the CPU figures.
//!
//! Times are those of requests that succeeded and were due in the window; failures are counted, not timed.
//! The totals count everything, warm-up too: whoever wants a rate takes two readings.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Times below are counted as this.
const SHORTEST_NS: u64 = 1_000;
/// Times above are counted as this.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No connection.
    Connect,
    /// Status 500 to 599.
    Status5xx,
    /// Status 400 to 499.
    Status4xx,
    /// No end within the time.
    Timeout,
    /// The connection ended before the answer did, or a stream ended without `[DONE]`.
    Cut,
    /// Whole, but not what the mock sent.
    Corrupt,
    /// The stream ended in an error event.
    ErrorEvent,
}

impl Failure {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Status5xx => "status_5xx",
            Self::Status4xx => "status_4xx",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::Corrupt => "corrupt",
            Self::ErrorEvent => "error_event",
        }
    }
}

/// Times of one kind.
#[derive(Debug)]
pub struct Times(Option<Histogram<u64>>);

impl Times {
    fn new() -> Self {
        // The bounds are constants that are in order, so this is never `None`.
        Self(Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, 3).ok())
    }

    /// Adds one time; below 1 us and above 1 h it is counted as the bound.
    pub fn record(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.0 {
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            histogram.saturating_record(ns.clamp(SHORTEST_NS, LONGEST_NS));
        }
    }

    /// The usual quantiles; `None`: no time was recorded.
    pub fn summary(&self) -> Option<Summary> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        let us = |ns: u64| ns as f64 / 1000.0;
        Some(Summary {
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        })
    }
}

/// Quantiles of one kind of time, microseconds, each within 0.1 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Summary {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// Running totals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers read to their end and found right.
    pub answered: u64,
    /// Pieces of streams.
    pub pieces: u64,
}

/// Everything one run has seen so far.
#[derive(Debug)]
pub struct Tally {
    /// From due (open loop) or sent (closed loop) to the last byte.
    pub latency: Times,
    /// From the same moment to the first piece of a stream.
    pub first_piece: Times,
    /// Between two pieces of a stream; pieces read together are 1 us (the least) apart.
    pub gap: Times,
    /// From due to really sent: the generator's own lateness. Open loop only.
    pub lag: Times,
    /// Since the beginning.
    pub totals: Totals,
    /// Requests that are measured and over, well or not.
    pub measured: u64,
    /// Clients that hung up as planned.
    pub hung_up: u64,
    /// Since the window opened.
    pub failures: BTreeMap<Failure, u64>,
    /// The first of each kind in words.
    pub examples: BTreeMap<Failure, String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: Times::new(),
            first_piece: Times::new(),
            gap: Times::new(),
            lag: Times::new(),
            totals: Totals::default(),
            measured: 0,
            hung_up: 0,
            failures: BTreeMap::new(),
            examples: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts a failure; `why` is kept when it is the first of its kind.
    pub fn fail(&mut self, failure: Failure, why: impl FnOnce() -> String) {
        *self.failures.entry(failure).or_default() += 1;
        self.examples.entry(failure).or_insert_with(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut times = Times::new();
        assert_eq!(times.summary(), None);
        for us in 1..=1000 {
            times.record(Duration::from_micros(us));
        }
        let summary = times.summary().unwrap();
        let near = |got: f64, want: f64| (got - want).abs() <= want * 0.002;
        assert_eq!(summary.count, 1000);
        assert!(near(summary.p50_us, 500.0) && near(summary.p90_us, 900.0) && near(summary.p99_us, 990.0));
        assert!(near(summary.p999_us, 999.0) && near(summary.max_us, 1000.0) && near(summary.mean_us, 500.5));
    }

    #[test]
    fn times_out_of_range_are_counted_at_the_bound_and_not_lost() {
        let mut times = Times::new();
        times.record(Duration::ZERO);
        times.record(Duration::from_secs(1_000_000));
        let summary = times.summary().unwrap();
        assert_eq!(summary.count, 2);
        assert!(summary.p50_us <= 1.1 && summary.max_us >= 3.5e9);
    }

    #[test]
    fn failures_are_counted_by_kind_with_the_first_example() {
        let mut tally = Tally::default();
        tally.fail(Failure::Cut, || "first".into());
        tally.fail(Failure::Cut, || "second".into());
        tally.fail(Failure::Connect, || "refused".into());
        assert_eq!(tally.failures, BTreeMap::from([(Failure::Connect, 1), (Failure::Cut, 2)]));
        assert_eq!(tally.examples.get(&Failure::Cut).map(String::as_str), Some("first"));
    }
}
