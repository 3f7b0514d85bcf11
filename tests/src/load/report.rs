//! What became of a load: who was content, who was told to come back, and by which path each was served.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Answered;

/// What became of all requests, in the order in which they were sent.
#[derive(Debug, Clone)]
pub struct Report {
    /// Each of them.
    pub answered: Vec<Answered>,
}

impl Report {
    /// Those sent at or after `from`.
    pub fn since(&self, from: Instant) -> Self {
        Self { answered: self.answered.iter().filter(|a| a.at >= from).cloned().collect() }
    }

    /// Those sent before `to`.
    pub fn before(&self, to: Instant) -> Self {
        Self { answered: self.answered.iter().filter(|a| a.at < to).cloned().collect() }
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.answered.len()
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.answered.is_empty()
    }

    /// What clients were not content with, each with its reason.
    pub fn failed(&self) -> Vec<String> {
        let word = |a: &Answered| {
            let kind = if a.streamed { "streamed" } else { "plain" };
            let by = (&a.path, a.attempts);
            format!("user-{} ({kind}): {} by {by:?} after {:?}: {}", a.user, a.status, a.took, a.text)
        };
        self.answered.iter().filter(|a| !a.ok()).map(word).collect()
    }

    /// Fails unless every client is content; and there must have been clients.
    pub fn assert_all_ok(&self) {
        assert!(!self.is_empty(), "no request was sent");
        let failed = self.failed();
        assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), self.len(), failed.join("\n"));
    }

    /// How many clients were content, when all others were told by a limit to come back later.
    pub fn admitted(&self) -> usize {
        let odd: Vec<_> = self.answered.iter().filter(|a| !a.ok() && !a.limited()).collect();
        assert!(odd.is_empty(), "{} of {} neither served nor limited: {odd:?}", odd.len(), self.len());
        self.answered.iter().filter(|a| a.ok()).count()
    }

    /// From the first request to the last.
    pub fn span(&self) -> Duration {
        match (self.answered.first(), self.answered.last()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => Duration::ZERO,
        }
    }

    /// The share, 0 to 1, that this path answered.
    pub fn share_of(&self, path: &str) -> f64 {
        let count = self.answered.iter().filter(|a| a.path == path).count();
        count as f64 / self.len().max(1) as f64
    }

    /// How many a fallback answered.
    pub fn fallbacks(&self) -> usize {
        self.answered.iter().filter(|a| a.fallback).count()
    }

    /// The longest that any took.
    pub fn longest(&self) -> Duration {
        self.answered.iter().map(|a| a.took).max().unwrap_or_default()
    }

    /// The time that half of those took for which `wanted` holds; zero when there is none.
    pub fn median(&self, wanted: impl Fn(&Answered) -> bool) -> Duration {
        let mut times: Vec<_> = self.answered.iter().filter(|a| wanted(a)).map(|a| a.took).collect();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// For each second since the first: how many each path answered; for the message of a failed test.
    pub fn by_second(&self) -> String {
        let mut seconds: BTreeMap<u64, BTreeMap<&str, usize>> = BTreeMap::new();
        let Some(first) = self.answered.first() else { return String::new() };
        for answered in &self.answered {
            let second = answered.at.duration_since(first.at).as_secs();
            let path = if answered.ok() { answered.path.as_str() } else { "failed" };
            *seconds.entry(second).or_default().entry(path).or_default() += 1;
        }
        seconds.iter().map(|(second, paths)| format!("{second} s: {paths:?}\n")).collect()
    }
}
