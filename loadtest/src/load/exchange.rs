//! One request and its answer, read to the end and checked.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::{Connection, Target};
use super::events::{Fault, Reader, check_plain};
use super::plan::{Mode, Plan};
use super::tally::{Failure, Tally};

/// What every request of a run shares.
#[derive(Debug)]
pub struct Client {
    /// Where requests go.
    pub target: Target,
    path: PathAndQuery,
    key: Option<HeaderValue>,
    /// A request's body up to its seed, and from there on.
    body: (String, String),
    mode: Mode,
    seed: u64,
    want: Option<u32>,
    timeout: Duration,
    hangup_after: Option<u32>,
    tally: Mutex<Tally>,
}

/// A request to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// Its number.
    pub n: u64,
    /// Latency counts from here.
    pub since: Instant,
    /// It is measured; else it only warms up.
    pub measured: bool,
    /// `since` was fixed beforehand.
    pub scheduled: bool,
}

impl Client {
    /// Prepares what `plan` asks for. Errors: the URL cannot be used, or the key is no header value.
    pub async fn new(plan: &Plan) -> anyhow::Result<Self> {
        let target = Target::resolve(&plan.url).await?;
        let path = target.path("/chat/completions")?;
        let key = plan.key.as_ref().map(|key| HeaderValue::from_str(&format!("Bearer {key}"))).transpose()?;
        let model = match plan.script.as_str() {
            "" => plan.model.clone(),
            script => format!("{}?{script}", plan.model),
        };
        let model = serde_json::to_string(&model)?;
        let stream = plan.mode == Mode::Stream;
        let before = format!("{{\"model\":{model},\"stream\":{stream},\"seed\":");
        let after = ",\"messages\":[{\"role\":\"user\",\"content\":\"";
        let end = "\"}]}";
        // A seed has up to 20 digits.
        let filler = plan.request_bytes.saturating_sub(before.len() + after.len() + end.len() + 20);
        let body = (before, format!("{after}{}{end}", "x".repeat(filler)));
        let want = plan
            .script
            .split('&')
            .filter_map(|setting| setting.strip_prefix("chunks=")?.parse().ok())
            .next_back();
        Ok(Self {
            target,
            path,
            key,
            body,
            mode: plan.mode,
            seed: plan.seed,
            want,
            timeout: plan.timeout,
            hangup_after: plan.hangup_after,
            tally: Mutex::default(),
        })
    }

    /// The tally. A panic while it was locked spoils no counter, so poison is ignored.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, seed: u64) -> Request<Full<Bytes>> {
        // The API's seed is a signed number.
        let body = format!("{}{}{}", self.body.0, seed.cast_signed(), self.body.1);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone().into();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.target.host());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            headers.insert(header::AUTHORIZATION, key.clone());
        }
        request
    }

    /// Makes one request on `connection`, opening it first when needed, and counts how it went. Leaves the
    /// connection only when it can be used again.
    pub async fn exchange(&self, connection: &mut Option<Connection>, due: Due) {
        // Taken out, so that whatever goes wrong closes it.
        let (result, kept) =
            match tokio::time::timeout(self.timeout, self.converse(connection.take(), due)).await {
                Ok(Ok((over, kept))) => (Ok(over), Some(kept)),
                Ok(Err(fault)) => (Err(fault), None),
                Err(_) => (Err((Failure::Timeout, format!("no end within {:?}", self.timeout))), None),
            };
        let now = Instant::now();
        let mut tally = self.tally();
        match result {
            Ok(Over::Answered) => {
                tally.totals.answered += 1;
                if due.measured {
                    tally.measured += 1;
                    tally.latency.record(now.saturating_duration_since(due.since));
                }
                *connection = kept;
            }
            Ok(Over::HungUp) => {
                tally.hung_up += 1;
                tally.measured += u64::from(due.measured);
            }
            Err((failure, why)) if due.measured => {
                tally.measured += 1;
                tally.fail(failure, || why);
            }
            Err(_) => {}
        }
    }

    async fn converse(&self, connection: Option<Connection>, due: Due) -> Result<(Over, Connection), Fault> {
        let kept = match connection {
            Some(mut kept) => kept.ready().await.then_some(kept),
            None => None,
        };
        let mut connection = match kept {
            Some(kept) => kept,
            None => {
                Connection::open(&self.target).await.map_err(|error| (Failure::Connect, error.to_string()))?
            }
        };
        if due.scheduled && due.measured {
            let now = Instant::now();
            self.tally().lag.record(now.saturating_duration_since(due.since));
        }
        let seed = self.seed.wrapping_add(due.n);
        let answer = connection.send(self.request(seed)).await.map_err(broken)?;
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(self.refused(status, answer.into_body()).await);
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let (expected, name): (&[u8], _) = match self.mode {
            Mode::Plain => (b"application/json", "JSON"),
            Mode::Stream => (b"text/event-stream", "a stream"),
        };
        if !kind.starts_with(expected) {
            let kind = String::from_utf8_lossy(kind);
            return Err((Failure::Corrupt, format!("{kind} where {name} is meant")));
        }
        let over = match self.mode {
            Mode::Plain => {
                let body = answer.into_body().collect().await.map_err(broken)?.to_bytes();
                check_plain(&body, seed)?;
                Over::Answered
            }
            Mode::Stream => self.stream(answer.into_body(), seed, due).await?,
        };
        Ok((over, connection))
    }

    async fn stream(&self, mut body: Incoming, seed: u64, due: Due) -> Result<Over, Fault> {
        let mut reader = Reader::new(seed, self.want);
        let mut last: Option<Instant> = None;
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
            let now = Instant::now();
            let mut tally = self.tally();
            reader.take(&bytes, || {
                tally.totals.pieces += 1;
                if due.measured {
                    match last.replace(now) {
                        None => tally.first_piece.record(now.saturating_duration_since(due.since)),
                        Some(last) => tally.gap.record(now.saturating_duration_since(last)),
                    }
                }
            })?;
            if self.hangup_after.is_some_and(|after| reader.pieces() >= after) {
                return Ok(Over::HungUp);
            }
        }
        reader.end()?;
        Ok(Over::Answered)
    }

    async fn refused(&self, status: StatusCode, body: Incoming) -> Fault {
        let failure = match status.as_u16() {
            500..=599 => Failure::Status5xx,
            400..=499 => Failure::Status4xx,
            _ => Failure::Corrupt,
        };
        let body = match http_body_util::Limited::new(body, 4096).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(_) => String::from("(a long or broken body)"),
        };
        (failure, format!("{status} {body}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Answered,
    HungUp,
}

fn broken(error: hyper::Error) -> Fault {
    (Failure::Cut, error.to_string())
}
