//! The task that sends ended spans: gathers them for a moment, sends up to 512 at once, and keeps those until the
//! collector has taken them or said that it never will.
//!
//! Owns one batch in hand and the receiving end of the queue. While the collector is away it waits and tries again;
//! the queue fills up meanwhile and takes no more, so memory stays bounded. One line in the log for each outage.

use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Span;
use super::collector::{Collector, Trouble};
use super::wire;

/// Spans sent at once.
const BATCH: usize = 512;
/// Spans are gathered this long.
const GATHER: Duration = Duration::from_millis(200);
/// Between two tries of an export: doubled from the first to the second.
const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The task.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Receiver<Span>,
    /// Taken from the queue and not yet by the collector.
    hand: Vec<Span>,
    collector: Collector,
    resource: wire::Resource,
    exported: Counter,
    dropped: Counter,
    /// The last export did not succeed, and the log says so.
    in_trouble: bool,
}

impl Exporter {
    /// Sends what comes through `queue`.
    pub fn new(
        queue: mpsc::Receiver<Span>,
        collector: Collector,
        resource: wire::Resource,
        exported: Counter,
        dropped: Counter,
    ) -> Self {
        Self { queue, hand: Vec::new(), collector, resource, exported, dropped, in_trouble: false }
    }

    /// Runs until `closing`, then sends what is left, within `last`.
    pub async fn run(mut self, closing: CancellationToken, last: Duration) {
        closing.run_until_cancelled(self.pump()).await;
        let _ = timeout(last, self.rest()).await;
        let left = self.hand.len() + self.queue.len();
        if left > 0 {
            self.dropped.increment(left as u64);
            tracing::warn!(spans = left, "the last traces did not get to the collector");
        }
    }

    async fn pump(&mut self) {
        loop {
            if self.hand.is_empty() {
                match self.queue.recv().await {
                    Some(span) => self.hand.push(span),
                    None => return,
                }
                sleep(GATHER).await;
            }
            self.fill();
            let mut wait = WAIT_FIRST;
            while let Err(asked) = self.deliver().await {
                // Nodes that lost the same collector do not all come back to it at once.
                sleep(asked.unwrap_or_else(|| wait.mul_f64(0.5 + 0.5 * fastrand::f64()))).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
    }

    async fn rest(&mut self) {
        self.fill();
        while !self.hand.is_empty() && self.deliver().await.is_ok() {
            self.fill();
        }
    }

    fn fill(&mut self) {
        while self.hand.len() < BATCH
            && let Ok(span) = self.queue.try_recv()
        {
            self.hand.push(span);
        }
    }

    /// Sends what is in hand, and lets go of it when it is taken or refused. The error: it may be tried again, after
    /// this time where the collector said so. Cancel-safe.
    async fn deliver(&mut self) -> Result<(), Option<Duration>> {
        let count = self.hand.len() as u64;
        let body = Bytes::from(wire::request(&self.resource, &self.hand));
        match self.collector.send(body).await {
            Ok(answer) => {
                let (lost, why) = wire::rejected(&answer).unwrap_or_default();
                let lost = lost.min(count);
                self.exported.increment(count - lost);
                self.dropped.increment(lost);
                if lost > 0 {
                    self.trouble(&format!("{lost} spans rejected: {}", crate::log::redacted(&why)));
                } else if std::mem::take(&mut self.in_trouble) {
                    tracing::info!("the collector takes traces again");
                }
                self.hand.clear();
                Ok(())
            }
            Err(Trouble::Refused(why)) => {
                self.dropped.increment(count);
                self.trouble(&why);
                self.hand.clear();
                Ok(())
            }
            Err(Trouble::Away(why, wait)) => {
                self.trouble(&why);
                Err(wait)
            }
        }
    }

    fn trouble(&mut self, cause: &str) {
        if !std::mem::replace(&mut self.in_trouble, true) {
            tracing::warn!(cause, "the collector takes no traces");
        }
    }
}
