//! The task that sends ended spans: gathers them for a moment, or until 512 are there, sends those at once, and keeps
//! them until the collector has taken them or said that it never will.
//!
//! Owns one batch in hand and the receiving end of the queue. While the collector is away it waits and tries again;
//! the queue fills up meanwhile and takes no more, so memory stays bounded. One line in the log for each outage.

use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Span;
use super::collector::{Collector, Trouble};
use super::wire;

/// Spans sent at once.
const BATCH: usize = 512;
/// No span is added to as many bytes.
const BATCH_SIZE: usize = 1 << 20;
/// Spans are gathered this long, unless a batch is there before.
const GATHER: Duration = Duration::from_millis(200);
/// Whether one is there is looked at this often: no request pays for waking the task.
const LOOK: Duration = Duration::from_millis(20);
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
        // What ends from now on is refused, and counted by who sends it.
        self.queue.close();
        let mut left = self.hand.len() as u64;
        while self.queue.recv().await.is_some() {
            left += 1;
        }
        if left > 0 {
            self.dropped.increment(left);
            tracing::warn!(spans = left, "the last traces did not get to the collector");
        }
    }

    async fn pump(&mut self) {
        loop {
            match self.queue.recv().await {
                Some(span) => self.hand.push(span),
                None => return,
            }
            self.gather().await;
            self.fill();
            let mut wait = WAIT_FIRST;
            while let Err(asked) = self.deliver().await {
                // Nodes that lost the same collector do not all come back to it at once.
                sleep(asked.unwrap_or_else(|| wait.mul_f64(0.5 + 0.5 * fastrand::f64()))).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
    }

    /// Until a batch is there, or for a moment.
    async fn gather(&self) {
        let end = Instant::now() + GATHER;
        while self.hand.len() + self.queue.len() < BATCH && Instant::now() < end {
            sleep(LOOK).await;
        }
    }

    async fn rest(&mut self) {
        self.fill();
        while !self.hand.is_empty() && self.deliver().await.is_ok() {
            self.fill();
        }
    }

    fn fill(&mut self) {
        let mut size: usize = self.hand.iter().map(Span::size).sum();
        while self.hand.len() < BATCH
            && size < BATCH_SIZE
            && let Ok(span) = self.queue.try_recv()
        {
            size += span.size();
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt as _, Full};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use prost::Message as _;
    use tidegate_config::used::{BaseUrl, Tracing};
    use tokio::net::TcpListener;

    use super::*;
    use crate::trace::{Kind, Trace};

    /// How many spans an export had, and how many bytes.
    type Exports = Arc<Mutex<Vec<(usize, usize)>>>;

    /// A collector that takes all, at once; its port.
    async fn collector() -> (u16, Exports) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let exports = Exports::default();
        let taken = Arc::clone(&exports);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&taken);
                let take = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let taken = Arc::clone(&taken);
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let size = body.len();
                        let said = wire::Request::decode(body).unwrap();
                        taken.lock().unwrap().push((said.resource_spans[0].scope_spans[0].spans.len(), size));
                        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::new())))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), take));
            }
        });
        (port, exports)
    }

    struct Running {
        queue: mpsc::Sender<Span>,
        exported: Arc<AtomicU64>,
        dropped: Arc<AtomicU64>,
        closing: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        fn to(port: u16, last: Duration) -> Self {
            let (queue, ended) = mpsc::channel(crate::trace::QUEUE_MAX);
            let (host, authority) = ("127.0.0.1".to_owned(), format!("127.0.0.1:{port}"));
            let url = BaseUrl { tls: false, host, port, path: String::new(), authority };
            let said = Tracing { url, sample: 1.0, headers: Vec::new(), ca_pem: None };
            let collector = Collector::new(&said, HashMap::new()).unwrap();
            let (exported, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let counters =
                (Counter::from_arc(Arc::clone(&exported)), Counter::from_arc(Arc::clone(&dropped)));
            let resource = wire::Resource { attributes: Vec::new() };
            let exporter = Exporter::new(ended, collector, resource, counters.0, counters.1);
            let closing = CancellationToken::new();
            let task = tokio::spawn(exporter.run(closing.clone(), last));
            Self { queue, exported, dropped, closing, task }
        }

        /// Exported and dropped by the end.
        async fn end(self) -> (u64, u64) {
            self.closing.cancel();
            self.task.await.unwrap();
            (self.exported.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
        }
    }

    fn span(trace: &Arc<Trace>) -> Span {
        let now = crate::clock::since_1970();
        Span::new(
            Arc::clone(trace),
            7,
            None,
            Kind::Server,
            "POST /v1/chat/completions".to_owned(),
            (now, now),
        )
    }

    fn trace() -> Arc<Trace> {
        Arc::new(Trace::anew(Duration::ZERO))
    }

    #[tokio::test]
    async fn a_fast_collector_gets_all_of_thousands_a_second() {
        let (port, exports) = collector().await;
        let running = Running::to(port, Duration::from_secs(5));
        let trace = trace();
        for _ in 0..100 {
            for _ in 0..100 {
                running.queue.try_send(span(&trace)).expect("there is room");
            }
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(running.end().await, (10_000, 0));
        let exports = exports.lock().unwrap();
        assert!(exports.iter().all(|(spans, _)| *spans <= BATCH), "{exports:?}");
        assert!(exports.len() <= 50, "they are gathered: {exports:?}");
    }

    #[tokio::test]
    async fn few_spans_leave_together_after_a_moment() {
        let (port, exports) = collector().await;
        let running = Running::to(port, Duration::ZERO);
        let trace = trace();
        for _ in 0..3 {
            running.queue.try_send(span(&trace)).unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let begun = Instant::now();
        while running.exported.load(Ordering::Relaxed) < 3 && begun.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(exports.lock().unwrap().iter().map(|(spans, _)| *spans).collect::<Vec<_>>(), [3]);
        assert_eq!(running.end().await, (3, 0));
    }

    #[tokio::test]
    async fn an_export_is_bounded_in_bytes() {
        let (port, exports) = collector().await;
        let running = Running::to(port, Duration::from_secs(5));
        let trace = trace();
        // The longest texts: 20 of 256 characters, 4 bytes each.
        let text = "\u{1f30a}".repeat(300);
        for _ in 0..200 {
            let mut span = span(&trace);
            (0..20).for_each(|_| span.text("gen_ai.response.model", &text));
            running.queue.try_send(span).unwrap();
        }
        assert_eq!(running.end().await, (200, 0));
        let exports = exports.lock().unwrap();
        assert!(exports.iter().all(|(_, size)| *size < BATCH_SIZE + (32 << 10)), "{exports:?}");
    }

    #[test]
    fn a_span_takes_no_more_than_is_said() {
        let mut headers = http::HeaderMap::new();
        let from = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03";
        headers.insert("traceparent", from.parse().unwrap());
        headers.insert("tracestate", ["k=v"; 128].join(",").parse().unwrap());
        let trace = Trace::of(crate::trace::Parent::of(&headers).unwrap(), &headers);
        let mut span = Arc::new(trace).request("x".repeat(300), Duration::from_secs(1));
        span.text("a", &"x".repeat(300));
        span.number("b", u64::MAX);
        span.seconds("c", Duration::from_millis(1));
        span.flag("d", true);
        span.fail();
        let encoded = wire::Span::from(&span).encoded_len();
        let size = span.size();
        assert!(encoded < size && size < encoded + 128, "{encoded} of {size}");
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_counts_as_dropped() {
        // Connections are taken by the kernel, and nothing is answered.
        let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let running = Running::to(frozen.local_addr().unwrap().port(), Duration::from_millis(50));
        let (trace, queue) = (trace(), running.queue.clone());
        for _ in 0..600 {
            running.queue.try_send(span(&trace)).unwrap();
        }
        sleep(Duration::from_millis(10)).await;
        assert_eq!(running.end().await, (0, 600));
        assert!(queue.try_send(span(&trace)).is_err(), "who comes later counts itself");
    }
}
