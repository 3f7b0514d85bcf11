//! Traces: one span per request and one per attempt, by OpenTelemetry's conventions, for a collector that takes OTLP.
//!
//! Owns the process's one tracer: which requests are traced, a bounded queue of ended spans, and the task on the
//! control thread that sends them (`export`). A request that is not traced costs a branch; one that is makes its spans
//! on its own thread and never waits for the queue. While the collector is away spans wait in the queue, and what does
//! not fit is dropped and counted. Without `tracing` in the configuration there is none of this, and a client's
//! `traceparent` goes to upstreams as it came.
//!
//! Spans hold no content and no key, and of headers trace context and the request's id alone. Copies and made-up
//! requests belong to no client's trace and have none.

mod attempt;
mod collector;
mod export;
mod parent;
mod span;
mod wire;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use metrics::{Counter, counter, describe_counter};
use tidegate_config::used::Config;
use tidegate_wire::answer::Dialect;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use attempt::Attempt;
use parent::Parent;
pub use span::{Kind, Span};

/// Ended spans on their way to the collector.
const QUEUE_MAX: usize = 2048;
/// How long the last spans may take when the node ends.
const LAST: Duration = Duration::from_secs(1);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

static TRACER: OnceLock<Tracer> = OnceLock::new();

#[derive(Debug)]
struct Tracer {
    /// Share of the requests without a trace of their own, 0 to 1.
    sample: f64,
    queue: mpsc::Sender<Span>,
    dropped: Counter,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Starts tracing on this runtime, for as long as the process lives, where the configuration asks for it; a later call
/// changes nothing. The error says what of the configuration cannot be used.
pub fn start(config: &Config) -> Result<(), String> {
    let Some(tracing) = &config.tracing else { return Ok(()) };
    if TRACER.get().is_some() {
        return Ok(());
    }
    describe_counter!("tidegate_trace_spans_exported_total", "Spans that the collector took");
    describe_counter!("tidegate_trace_spans_dropped_total", "Spans that did not get to the collector");
    let (exported, dropped) =
        (counter!("tidegate_trace_spans_exported_total"), counter!("tidegate_trace_spans_dropped_total"));
    let collector = collector::Collector::new(tracing, config.dns.hosts.clone())?;
    let (queue, ended) = mpsc::channel(QUEUE_MAX);
    let closing = CancellationToken::new();
    let exporter =
        export::Exporter::new(ended, collector, wire::resource(&config.node), exported, dropped.clone());
    let task = Mutex::new(Some(tokio::spawn(exporter.run(closing.clone(), LAST))));
    let tracer = Tracer { sample: tracing.sample, queue, dropped, closing, task };
    TRACER.set(tracer).map_err(|_| "tracing was started twice".to_owned())
}

/// Sends what is left, within a second, and ends tracing.
pub async fn finish() {
    let Some(tracer) = TRACER.get() else { return };
    tracer.closing.cancel();
    let task = tracer.task.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(task) = task {
        // Bounded by itself; a panic in it has been told already.
        let _ = task.await;
    }
}

/// Forgets whose trace a request belongs to.
pub fn strip(headers: &mut HeaderMap) {
    for name in [TRACEPARENT, TRACESTATE, BAGGAGE] {
        headers.remove(name);
    }
}

/// A request that is traced.
#[derive(Debug)]
pub struct Trace {
    id: u128,
    /// Of the request's own span.
    span: u64,
    /// What the client said.
    parent: Option<Parent>,
    /// The client's `tracestate`, cut where it is long; empty without a parent.
    state: String,
    /// When it began, since 1970.
    begun: Duration,
    attempts: AtomicU32,
}

impl Trace {
    /// `None`: not traced. A client's own trace decides for its requests, else chance does.
    pub fn begin(headers: &HeaderMap) -> Option<Arc<Self>> {
        TRACER.get()?;
        match Parent::of(headers) {
            Some(parent) => parent.is_sampled().then(|| Arc::new(Self::of(parent, headers))),
            None => Self::by_chance(Duration::ZERO),
        }
    }

    /// Of a request that began this long ago and whose word counts for nothing. `None`: not traced.
    pub fn by_chance(ago: Duration) -> Option<Arc<Self>> {
        let tracer = TRACER.get()?;
        (fastrand::f64() < tracer.sample).then(|| Arc::new(Self::anew(ago)))
    }

    fn of(parent: Parent, headers: &HeaderMap) -> Self {
        let state = parent::state(headers);
        Self { id: parent.trace, parent: Some(parent), state, ..Self::anew(Duration::ZERO) }
    }

    fn anew(ago: Duration) -> Self {
        Self {
            id: fastrand::u128(1..),
            span: new_span(),
            parent: None,
            state: String::new(),
            begun: crate::clock::since_1970().saturating_sub(ago),
            attempts: AtomicU32::new(0),
        }
    }

    /// Its trace's id, as logs and collectors write it.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// The request's own span, which took this long.
    pub fn request(self: &Arc<Self>, name: String, took: Duration) -> Span {
        let parent = self.parent.map(|parent| parent.span);
        Span::new(Arc::clone(self), self.span, parent, Kind::Server, name, (self.begun, self.begun + took))
    }

    /// The number of the attempt that begins, from 1.
    fn next_attempt(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What an upstream is told: that its caller is the span `span` of this trace.
    fn put(&self, span: u64, headers: &mut HeaderMap) {
        let random = self.parent.map_or(0, |parent| parent.flags & parent::RANDOM);
        let value = Parent { trace: self.id, span, flags: parent::SAMPLED | random }.to_string();
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(TRACEPARENT, value);
        }
        if self.parent.is_none() {
            // It speaks of a trace that this request does not belong to.
            headers.remove(TRACESTATE);
        }
    }
}

impl Span {
    /// It has ended: off to the collector, or dropped and counted where too many wait.
    pub fn send(self) {
        if let Some(tracer) = TRACER.get()
            && tracer.queue.try_send(self).is_err()
        {
            tracer.dropped.increment(1);
        }
    }
}

fn new_span() -> u64 {
    fastrand::u64(1..)
}

/// The endpoint a URL's path belongs to, without what a client made up, and how its answers look.
pub fn endpoint(path: &str) -> Option<(&'static str, Dialect)> {
    Some(match path.trim_end_matches('/') {
        "/v1/chat/completions" => ("/v1/chat/completions", Dialect::Chat),
        "/v1/completions" => ("/v1/completions", Dialect::Completions),
        "/v1/embeddings" => ("/v1/embeddings", Dialect::Embeddings),
        "/v1/responses" => ("/v1/responses", Dialect::Responses),
        "/v1/models" => ("/v1/models", Dialect::Other),
        path if path.starts_with("/v1/models/") => ("/v1/models/{id}", Dialect::Other),
        path if path.starts_with("/v1/") => ("/v1/*", Dialect::Other),
        _ => return None,
    })
}

/// `gen_ai.operation.name`
pub const fn operation(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::Chat | Dialect::Responses => Some("chat"),
        Dialect::Completions => Some("text_completion"),
        Dialect::Embeddings => Some("embeddings"),
        Dialect::Other => None,
    }
}

/// A method of HTTP's own; clients may invent others.
pub fn method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    const FROM: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03";

    #[test]
    fn an_upstream_hears_of_the_clients_trace_and_of_the_attempt() {
        let mut said = headers(&[(TRACEPARENT, FROM), (TRACESTATE, "a=1,b=2")]);
        let trace = Trace::of(Parent::of(&said).unwrap(), &said);
        assert_eq!(trace.hex(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.state, "a=1,b=2");
        trace.put(0x1234, &mut said);
        assert_eq!(said[TRACEPARENT], "00-0af7651916cd43dd8448eb211c80319c-0000000000001234-03");
        assert_eq!(said[TRACESTATE], "a=1,b=2");
        strip(&mut said);
        assert!(said.is_empty());
    }

    #[test]
    fn a_state_without_a_trace_goes_no_further() {
        let mut said = headers(&[(TRACEPARENT, "00-nonsense"), (TRACESTATE, "a=1")]);
        assert_eq!(Parent::of(&said), None);
        let trace = Trace::anew(Duration::ZERO);
        assert!(trace.parent.is_none() && trace.state.is_empty() && trace.id != 0);
        trace.put(7, &mut said);
        assert_eq!(said[TRACEPARENT], format!("00-{}-0000000000000007-01", trace.hex()));
        assert!(!said.contains_key(TRACESTATE));
    }

    #[test]
    fn a_state_goes_to_upstreams_whole_and_into_spans_cut() {
        let long = ["k=v"; 200].join(",");
        let mut said = headers(&[(TRACEPARENT, FROM), (TRACESTATE, &long)]);
        let trace = Trace::of(Parent::of(&said).unwrap(), &said);
        assert_eq!(trace.state, ["k=v"; 128].join(","));
        trace.put(7, &mut said);
        assert_eq!(said[TRACESTATE], long);
    }

    #[test]
    fn names_hold_nothing_that_a_client_made_up() {
        assert_eq!(endpoint("/v1/chat/completions/"), Some(("/v1/chat/completions", Dialect::Chat)));
        assert_eq!(endpoint("/v1/models/sk-abcdefgh"), Some(("/v1/models/{id}", Dialect::Other)));
        assert_eq!(endpoint("/v1/files/77"), Some(("/v1/*", Dialect::Other)));
        assert_eq!(endpoint("/etc/passwd"), None);
        assert_eq!(method(&http::Method::from_bytes(b"BREW").unwrap()), "_OTHER");
    }
}
