//! Step 10: every request is counted and logged exactly once, also when its future or body is dropped.
//!
//! Owns what is known of a request. Its log line holds no body, no query, no header but the request id.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method};
use tokio::sync::OwnedSemaphorePermit;

use crate::bill::Bill;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::log::Format;
use crate::request::limit::Standing;
use crate::request::trail::Trail;
use crate::trace::{self, Span, Trace};

/// Longest client-made text in a log line.
const SHOWN_MAX: usize = 200;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet. Dropped like this, the client has left.
    Running,
    /// Answered.
    Success,
    /// An upstream found a fault of the client's.
    ClientError,
    /// An answer of our own.
    Refused {
        /// Label of `requests_total{status}`.
        status: &'static str,
        /// `error.code`
        code: &'static str,
    },
    /// A stream that began and could not be ended.
    Interrupted(&'static str),
}

impl End {
    /// Of a request that is refused.
    pub const fn of(error: &GatewayError) -> Self {
        Self::Refused { status: error.request_status(), code: error.kind_and_code().1 }
    }

    /// Of an answer that is whole.
    pub fn of_status(status: http::StatusCode) -> Self {
        if status.is_client_error() {
            Self::ClientError
        } else if status.is_server_error() {
            Self::Refused { status: "upstream_error", code: "upstream_5xx" }
        } else {
            Self::Success
        }
    }
}

/// The guard.
#[derive(Debug)]
pub struct Settle {
    gateway: Arc<Gateway>,
    /// What it met.
    pub trail: Trail,
    remote: IpAddr,
    method: Method,
    url: String,
    /// Index.
    pub client: Option<usize>,
    /// Index.
    pub route: Option<usize>,
    /// As the client named it.
    pub model: Option<String>,
    /// Events were asked for.
    pub streamed: bool,
    /// HTTP status of the answer; 0 while there is none.
    pub status: u16,
    /// How its limits stand.
    pub standing: Standing,
    /// `None`: it is not traced.
    pub trace: Option<Arc<Trace>>,
    /// How the cache took part, as clients are told.
    pub cache: &'static str,
    /// What it costs, unless a run pays for it; settled under `model`.
    pub bill: Option<Bill>,
    place: Option<OwnedSemaphorePermit>,
    room: Option<OwnedSemaphorePermit>,
}

impl Settle {
    /// Starts the count.
    pub fn begin(gateway: Arc<Gateway>, request_id: HeaderValue, remote: IpAddr, head: &Parts) -> Self {
        gateway.metrics.in_flight.increment(1.0);
        Self {
            gateway,
            trail: Trail::begin(request_id),
            remote,
            method: head.method.clone(),
            url: head.uri.path().chars().take(SHOWN_MAX).collect(),
            client: None,
            route: None,
            model: None,
            streamed: false,
            status: 0,
            standing: Standing::default(),
            trace: Trace::begin(&head.headers),
            cache: "",
            bill: None,
            place: None,
            room: None,
        }
    }

    /// The client's address.
    pub const fn remote(&self) -> IpAddr {
        self.remote
    }

    /// Keeps the node's place until the request has ended.
    pub fn hold(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    /// Keeps the room of the request's body until the request has ended.
    pub fn hold_room(&mut self, room: Option<OwnedSemaphorePermit>) {
        self.room = room;
    }

    fn labels(&self) -> (&'static str, &'static str) {
        match self.trail.end {
            End::Success => ("success", ""),
            End::ClientError => ("client_error", ""),
            End::Running => ("client_error", "client_closed_request"),
            End::Refused { status, code } => (status, code),
            End::Interrupted(code) => ("upstream_error", code),
        }
    }

    fn line(&self, format: Format, took: Duration) -> String {
        let (outcome, code) = self.labels();
        let config = &self.gateway.config;
        let name = |list: Option<&str>| list.unwrap_or_default().to_owned();
        let mut line = Line::begin(format);
        line.text("node", &config.node.name);
        line.text("request_id", self.trail.id());
        if let Some(trace) = &self.trace {
            line.text("trace_id", &trace.hex());
        }
        line.text("remote", &self.remote.to_string());
        line.text("method", self.method.as_str());
        line.text("url", &self.url);
        // 499 is nginx's word for a client that left.
        line.number(
            "status",
            if self.trail.end == End::Running && self.status == 0 { 499 } else { u64::from(self.status) },
        );
        line.text("outcome", outcome);
        if !code.is_empty() {
            line.text("code", code);
        }
        line.text(
            "client",
            &name(self.client.and_then(|c| config.clients.as_ref()?.get(c)).map(|c| c.name.as_str())),
        );
        line.text("route", &name(self.route.and_then(|r| config.routes.get(r)).map(|r| r.name.as_str())));
        line.text(
            "model",
            &self.model.as_deref().unwrap_or_default().chars().take(SHOWN_MAX).collect::<String>(),
        );
        line.text("path", self.trail.path.as_ref().map_or("", |p| p.name.as_str()));
        line.number("attempts", u64::from(self.trail.attempts));
        if !self.trail.failures.is_empty() {
            let failures: Vec<String> = self
                .trail
                .failures
                .iter()
                .map(|(path, class)| format!("{} {}", path.name, class.error_type()))
                .collect();
            line.text("failed", &failures.join(", "));
        }
        if self.trail.fell_back {
            line.flag("fallback", true);
        }
        line.flag("stream", self.streamed);
        line.millis("duration_ms", took);
        if let Some(first) = self.trail.first_content {
            line.millis("first_content_ms", first);
        }
        line.millis("upstream_ms", self.trail.upstream_wait);
        if let Some(usage) = self.trail.usage {
            line.number("prompt_tokens", usage.prompt);
            line.number("completion_tokens", usage.completion);
            line.number("cached_tokens", usage.cached);
        }
        line.end()
    }

    fn span(&self, trace: &Arc<Trace>, took: Duration) -> Span {
        let (_, code) = self.labels();
        let config = &self.gateway.config;
        let method = trace::method(&self.method);
        let endpoint = trace::endpoint(&self.url);
        let name = endpoint.map_or_else(|| method.to_owned(), |(route, _)| format!("{method} {route}"));
        let mut span = trace.request(name, took);
        span.text("http.request.method", method);
        span.text("url.scheme", if config.listen.tls.is_some() { "https" } else { "http" });
        span.text("url.path", &self.url);
        if let Some((route, dialect)) = endpoint {
            span.text("http.route", route);
            span.text("gen_ai.operation.name", trace::operation(dialect).unwrap_or_default());
        }
        if self.status > 0 {
            span.number("http.response.status_code", u64::from(self.status));
        }
        span.text("gen_ai.request.model", self.model.as_deref().unwrap_or_default());
        if self.streamed {
            span.flag("gen_ai.request.stream", true);
            if let Some(first) = self.trail.first_content {
                span.seconds("gen_ai.response.time_to_first_chunk", first);
            }
        }
        span.text("error.type", code);
        if self.status >= 500 || matches!(self.trail.end, End::Interrupted(_)) {
            span.fail();
        }
        let client = self.client.and_then(|c| config.clients.as_ref()?.get(c));
        span.text("tidegate.client", client.map_or("", |client| client.name.as_str()));
        let route = self.route.and_then(|r| config.routes.get(r));
        span.text("tidegate.route", route.map_or("", |route| route.name.as_str()));
        span.text("tidegate.path", self.trail.path.as_ref().map_or("", |path| path.name.as_str()));
        span.number("tidegate.attempts", u64::from(self.trail.attempts));
        span.text("tidegate.cache", self.cache);
        span.flag("tidegate.fallback", self.trail.fell_back);
        span.text("tidegate.request_id", self.trail.id());
        span
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        let took = self.trail.start.elapsed();
        if self.client.is_none() && self.gateway.config.clients.is_some() {
            // What a stranger says of a trace counts for nothing; there have been no attempts.
            self.trace = Trace::by_chance(took);
        }
        let metrics = &self.gateway.metrics;
        metrics.in_flight.decrement(1.0);
        let (status, _) = self.labels();
        // Only a model that a route took becomes a label.
        let model = self.route.and(self.model.as_deref());
        let series = metrics.series(self.route, self.client, model);
        series.ended(status, self.streamed, took);
        if let Some(bill) = self.bill.take() {
            bill.pay_as(&self.gateway, &self.trail, self.model.as_deref(), &series);
        }
        // A stream's relaying is all waiting: what counts is the time before its first content.
        let own = self.trail.first_content.unwrap_or(took).saturating_sub(self.trail.upstream_wait);
        metrics.overhead.record(own.as_secs_f64());
        if let Some(format) = crate::log::requests() {
            crate::log::write(self.line(format, took));
        }
        if let Some(trace) = self.trace.take() {
            self.span(&trace, took).send();
        }
    }
}

/// Builds one line in either format.
struct Line {
    text: String,
    format: Format,
}

impl Line {
    fn begin(format: Format) -> Self {
        let mut text = String::with_capacity(512);
        let now = humantime::format_rfc3339_millis(crate::clock::wall());
        // Writing into a String cannot fail.
        let _ = match format {
            Format::Json => write!(text, r#"{{"timestamp":"{now}","level":"INFO","message":"request""#),
            Format::Text => write!(text, "{now}  INFO request"),
        };
        Self { text, format }
    }

    fn key(&mut self, key: &str) {
        let _ = match self.format {
            Format::Json => write!(self.text, r#","{key}":"#),
            Format::Text => write!(self.text, " {key}="),
        };
    }

    fn text(&mut self, key: &str, value: &str) {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        if self.format == Format::Text && value.is_empty() {
            return;
        }
        self.key(key);
        match self.format {
            Format::Text if value.bytes().all(plain) => self.text.push_str(value),
            Format::Json if value.bytes().all(|b| plain(b) || b == b' ') => {
                self.text.push('"');
                self.text.push_str(value);
                self.text.push('"');
            }
            _ => self.text.push_str(&serde_json::Value::from(value).to_string()),
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    fn millis(&mut self, key: &str, value: Duration) {
        self.key(key);
        let micros = value.as_micros();
        let _ = write!(self.text, "{}.{:03}", micros / 1000, micros % 1000);
    }

    fn end(mut self) -> String {
        self.text.push_str(if self.format == Format::Json { "}\n" } else { "\n" });
        self.text
    }
}
