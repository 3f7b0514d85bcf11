//! One attempt over one path: a connection, the request, the answer up to its first content.
//!
//! Every wait has its bound: `connect` for a new connection, `first_byte` from the beginning of the attempt to
//! the first content, `idle` between pieces, and the request's deadline over all.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use tidegate_health::evidence::Detail;
use tidegate_health::registry::Flight;
use tidegate_router::outcome::{Class, class_of_status};
use tidegate_wire::answer::Dialect;
use tokio::time::{Instant, timeout_at};

use super::connect::{Stage, connection};
use super::verdict::{self, ERROR_BODY_MAX, Media};
use super::{Answered, Body, Failed, OwnWords, plain, traced};
use crate::answer::Held;
use crate::headers;
use crate::request::read::Target;
use crate::request::relay::{Events, Step};
use crate::request::route::Call;
use crate::trace::Attempt;
use crate::upstream::exchange::{self, AnswerBody, Conn};
use crate::upstream::pool::Want;
use crate::upstream::{InFlight, Path};

/// A plain answer up to this size is read whole and checked before it goes out; a larger one is handed through.
const WHOLE_MAX: usize = 8 * 1024 * 1024;
/// Events held back before the first content; more than this without any content is no answer.
const HELD_MAX: usize = 1024 * 1024;
/// How long the body of an error may take.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// A kept connection may turn out closed; so may the next one, if the server closes them all.
const UNSEEN_MAX: u32 = 3;

/// Where an attempt goes, and who hears of it.
pub struct Way<'a> {
    /// The path chosen for it; once there is a connection, the path of that.
    pub path: &'a Arc<Path>,
    /// Another egress of the same upstream, which is connected to as well when `path` takes long to connect: the first
    /// connection that stands gets the request.
    pub rival: Option<&'a Arc<Path>>,
    /// Health's account of it; `None` where health is not to hear of it.
    pub flight: Option<&'a mut Flight>,
    /// It can go elsewhere, so it need not wait for a path that turned out frozen.
    pub movable: bool,
}

impl Way<'_> {
    /// What `step` gives, unless health says before that waiting for it is vain.
    async fn unless_vain<T>(&self, step: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        match self.flight.as_deref().filter(|_| self.movable) {
            None => step.await,
            Some(flight) => tokio::select! {
                biased;
                result = step => result,
                () = flight.abandoned() => Err(Failed::abandoned()),
            },
        }
    }
}

/// One attempt that health does not hear of, waiting `first_byte` at most for the first content.
pub async fn once(
    call: &Call,
    path: &Arc<Path>,
    key: usize,
    first_byte: Duration,
) -> Result<Answered, Failed> {
    by_way(call, Way { path, rival: None, flight: None, movable: false }, key, first_byte).await
}

/// Runs the attempt, waiting `first_byte` at most for the first content. Dropping the future closes or resets what
/// it opened.
pub async fn by_way(
    call: &Call,
    mut way: Way<'_>,
    key: usize,
    first_byte: Duration,
) -> Result<Answered, Failed> {
    let mut span = Attempt::begin(call, way.path);
    let mut result = run(call, &mut way, key, first_byte, span.as_deref_mut()).await;
    if let Some(mut span) = span {
        span.over(way.path);
        traced::tell(span, &mut result);
    }
    result
}

async fn run(
    call: &Call,
    way: &mut Way<'_>,
    key: usize,
    first_byte: Duration,
    span: Option<&mut Attempt>,
) -> Result<Answered, Failed> {
    let upstream = &way.path.upstream;
    let timeouts = upstream.config.timeouts;
    let first_by = (Instant::now() + first_byte).min(call.deadline);
    let place = match upstream.enter_now() {
        // Nobody waits for what is made up, and it must not stand before those who do.
        None if call.made_up => None,
        None => timeout_at(first_by, upstream.enter()).await.ok().flatten(),
        place => place,
    };
    let place = place.ok_or_else(|| Failed::new(Class::Busy, "the upstream's max_in_flight is reached"))?;
    let _running = Running::begin(way.path);
    let mut stage = Stage::Waiting;
    let response = match timeout_at(first_by, head(call, way, key, &mut stage, span.as_deref())).await {
        Ok(response) => response?,
        Err(_) => return Err(stage.too_late()),
    };
    let path = way.path;
    let (mut parts, body) = response.into_parts();
    let status = parts.status;
    if let Some(span) = span {
        span.head(status);
    }
    if status.is_success() {
        let pace = Pace { idle: timeouts.idle, first_by, deadline: call.deadline };
        let body = way.unless_vain(success(call, path, &parts.headers, body, place, &pace)).await?;
        let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let left = left(&parts.headers);
        headers::toward_client(&mut parts.headers);
        let (headers, deadline, idle) = (parts.headers, call.deadline, timeouts.idle);
        return Ok(Answered {
            status,
            headers,
            body,
            length,
            deadline,
            idle,
            left,
            flight: None,
            span: None,
        });
    }
    let by = (Instant::now() + ERROR_BODY_TIMEOUT).min(call.deadline);
    let text = read_up_to(body, ERROR_BODY_MAX, by).await;
    let judged = plain::of(&parts.headers, &text).into_owned();
    let redacted = path.upstream.keys.redacted(&judged);
    let text = match redacted {
        None => text,
        Some(clean) => {
            // The readable form goes out in its stead.
            parts.headers.remove(header::CONTENT_ENCODING);
            clean.into()
        }
    };
    let hint = tidegate_router::retry_after::hint(
        |name| parts.headers.get(name).and_then(|v| v.to_str().ok()),
        crate::clock::wall(),
    );
    let media = verdict::media(&parts.headers);
    headers::toward_client(&mut parts.headers);
    let mut class = verdict::of_error(class_of_status(status.as_u16()), status, &judged);
    if let Target::Upstream { model, shaped: true, .. } = &call.parsed.target
        && class.is_none()
    {
        if media == Media::Html {
            // Not the API's word on the request: a wrong base_url, or a proxy's page.
            class = Some(Class::BadResponse);
        } else if model.is_some() && status == StatusCode::NOT_FOUND {
            class = Some(Class::ModelNotFound);
        }
    }
    match class {
        Some(class) => {
            let mut failed = Failed::new(class, format!("status {}", status.as_u16()));
            if class == Class::BadResponse && media == Media::Html {
                failed.about = Detail::Page;
            }
            failed.failure.retry_after = hint;
            if verdict::is_clients_business(class, status) {
                failed.answer = Some(Box::new(OwnWords { status, headers: parts.headers, body: text }));
            }
            Err(failed)
        }
        None => {
            let body = Body::Whole(text, None);
            Ok(Answered {
                length: None,
                status,
                headers: parts.headers,
                body,
                deadline: call.deadline,
                idle: timeouts.idle,
                left: None,
                flight: None,
                span: None,
            })
        }
    }
}

/// What is left of the tighter of the upstream's limits, in 1/1000, where it says so.
fn left(headers: &HeaderMap) -> Option<u32> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let part = |remaining: &str, limit: &str| {
        let (remaining, limit) = (number(remaining)?, number(limit)?);
        (limit > 0.0).then(|| (remaining / limit * 1000.0).clamp(0.0, 1000.0) as u32)
    };
    let requests = part("x-ratelimit-remaining-requests", "x-ratelimit-limit-requests");
    let tokens = part("x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens");
    requests.into_iter().chain(tokens).min()
}

/// Limits of the pieces of an answer.
struct Pace {
    idle: Duration,
    first_by: Instant,
    deadline: Instant,
}

/// Counts an attempt as running on its path.
struct Running<'a>(&'a Path);

impl<'a> Running<'a> {
    fn begin(path: &'a Path) -> Self {
        path.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(path)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gets a connection and the answer's head over it.
async fn head(
    call: &Call,
    way: &mut Way<'_>,
    key: usize,
    stage: &mut Stage,
    span: Option<&Attempt>,
) -> Result<Response<AnswerBody>, Failed> {
    let mut unseen = 0;
    loop {
        *stage = Stage::Waiting;
        // What must not be sent twice never goes over a connection that may turn out closed.
        let want = match (unseen, call.parsed.pinned) {
            (0, false) => Want::Any,
            (0, true) => Want::NotKept,
            _ => Want::New,
        };
        let (conn, path) = way.unless_vain(connection(call, way, want, stage)).await?;
        way.path = path;
        if let Some(flight) = way.flight.as_deref_mut() {
            let now = Instant::now().into_std();
            flight.turn_to(path.index, now);
            flight.sent(now);
        }
        let mut request = request(call, path, key, matches!(conn, Conn::H2(_)))?;
        if let Some(span) = span {
            span.put(request.headers_mut());
        }
        *stage = Stage::Sent;
        let sent = way.unless_vain(async { Ok(exchange::send(conn, request, &path.pool).await) });
        match sent.await? {
            Ok(response) => return Ok(response),
            Err(error) if error.unseen && unseen < UNSEEN_MAX => unseen += 1,
            Err(error) => return Err(verdict::of_send(&error)),
        }
    }
}

fn request(call: &Call, path: &Path, key: usize, h2: bool) -> Result<Request<Full<Bytes>>, Failed> {
    let upstream = &path.upstream;
    let url = &upstream.config.base_url;
    let rest = match &call.parsed.target {
        Target::Models => "/models",
        Target::Upstream { rest, .. } => rest,
    };
    // HTTP/2 carries scheme and authority in the request itself, HTTP/1.1 the authority in `host`.
    let uri = if h2 {
        let scheme = if url.tls { "https" } else { "http" };
        format!("{scheme}://{}{}{rest}", url.authority, url.path)
    } else {
        format!("{}{rest}", url.path)
    };
    let uri = Uri::from_maybe_shared(Bytes::from(uri))
        .map_err(|e| Failed::new(Class::BadResponse, format!("the URL cannot be sent on: {e}")))?;
    let mut request = Request::new(Full::new(call.parsed.body.clone()));
    *request.method_mut() = call.parsed.method.clone();
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = call.parsed.headers.clone();
    if !h2 {
        headers.insert(header::HOST, upstream.host.clone());
    }
    if let Some(value) = upstream.keys.header(key) {
        headers.insert(header::AUTHORIZATION, value.clone());
    }
    Ok(request)
}

async fn success(
    call: &Call,
    path: &Path,
    headers: &HeaderMap,
    body: AnswerBody,
    place: InFlight,
    pace: &Pace,
) -> Result<Body, Failed> {
    let (dialect, shaped) = match &call.parsed.target {
        Target::Models => (Dialect::Other, true),
        Target::Upstream { dialect, shaped, .. } => (*dialect, *shaped),
    };
    let coded = plain::is_coded(headers);
    match verdict::media(headers) {
        Media::Events if !coded && (call.parsed.stream || !shaped || dialect == Dialect::Other) => {
            let events = Events::new(body, dialect, call.parsed.choices, path.metrics.malformed.clone());
            first_content(events, place, pace).await
        }
        _ if !shaped => Ok(Body::Passage(Held::new(), body, place)),
        Media::Html => {
            Err(Failed::new(Class::BadResponse, "an HTML page instead of an API answer").about(Detail::Page))
        }
        Media::Json if call.parsed.stream && dialect != Dialect::Other => {
            // Some servers put their errors here, whatever was asked for; the error says whose fault it is.
            whole(dialect, body, headers, place, pace).await?;
            Err(Failed::new(Class::BadResponse, "a stream was asked for and the answer is plain JSON"))
        }
        _ if call.parsed.stream && dialect != Dialect::Other => Err(Failed::new(
            Class::BadResponse,
            "a stream was asked for and the answer is not text/event-stream",
        )),
        Media::Json | Media::None => whole(dialect, body, headers, place, pace).await,
        // Speech, images: an endpoint of its own kind.
        Media::Other if dialect == Dialect::Other => Ok(Body::Passage(Held::new(), body, place)),
        Media::Events | Media::Other => {
            Err(Failed::new(Class::BadResponse, "the answer's content type is not application/json"))
        }
    }
}

/// Reads a plain answer to its end and looks at it; one that is too large to hold is handed through from here.
async fn whole(
    dialect: Dialect,
    mut body: AnswerBody,
    headers: &HeaderMap,
    place: InFlight,
    pace: &Pace,
) -> Result<Body, Failed> {
    let mut held = Held::new();
    let mut size = 0;
    loop {
        let by = (Instant::now() + pace.idle).min(pace.deadline);
        let piece = timeout_at(by, body.next())
            .await
            .map_err(|_| Failed::new(Class::Timeout, "the answer stopped in the middle"))?;
        match piece {
            Some(Ok(bytes)) => {
                size += bytes.len();
                held.push_back(bytes);
                if size > WHOLE_MAX {
                    return Ok(Body::Passage(held, body, place));
                }
            }
            Some(Err(error)) => return Err(Failed::new(Class::Cut, verdict::text(&error))),
            None => break,
        }
    }
    let bytes = joined(held, size);
    let judged = plain::of(headers, &bytes);
    if plain::is_coded(headers) && matches!(judged, Cow::Borrowed(_)) {
        // Coded in a way we did not ask for and cannot read: the client may.
        return Ok(Body::Whole(bytes, None));
    }
    match tidegate_wire::answer::peek_answer(dialect, &judged) {
        Ok(peek) => Ok(Body::Whole(bytes.clone(), peek.usage)),
        Err(bad) => Err(verdict::of_bad_answer(bad)),
    }
}

/// Reads events until one has content; those before it are held with it.
async fn first_content(mut events: Events, place: InFlight, pace: &Pace) -> Result<Body, Failed> {
    let mut held = Held::new();
    let mut size = 0;
    let read = async {
        loop {
            let step = std::future::poll_fn(|cx| events.poll_step(cx)).await;
            let raw = match step {
                Step::Event(raw, peek) => {
                    if let Some(error) = peek.error {
                        return Err(verdict::of_error_object(&error));
                    }
                    let content = peek.content || peek.terminal;
                    events.note(&peek);
                    held.push_back(raw.clone());
                    if content {
                        return Ok(());
                    }
                    raw
                }
                Step::Note(raw) => {
                    held.push_back(raw.clone());
                    raw
                }
                Step::Done(_) | Step::End => {
                    return Err(Failed::new(Class::BadResponse, "the stream ended without any content"));
                }
                Step::Broken(why) => return Err(Failed::new(Class::Cut, why)),
            };
            size += raw.len();
            if size > HELD_MAX {
                return Err(Failed::new(Class::BadResponse, "too much without any content"));
            }
        }
    };
    match timeout_at(pace.first_by, read).await {
        Ok(Ok(())) => Ok(Body::Events(held, Box::new(events), place)),
        Ok(Err(failed)) => Err(failed),
        Err(_) => Err(Failed::new(Class::Timeout, "no content within the time to the first content")),
    }
}

fn joined(mut pieces: Held, size: usize) -> Bytes {
    match (pieces.pop_front(), pieces.is_empty()) {
        (None, _) => Bytes::new(),
        (Some(only), true) => only,
        (Some(first), false) => {
            let mut whole = BytesMut::with_capacity(size);
            whole.extend_from_slice(&first);
            for piece in pieces {
                whole.extend_from_slice(&piece);
            }
            whole.freeze()
        }
    }
}

/// At most `max` bytes of a body whose end matters less than its beginning.
async fn read_up_to(mut body: AnswerBody, max: usize, by: Instant) -> Bytes {
    let mut pieces = Held::new();
    let mut size = 0;
    while size < max
        && let Ok(Some(Ok(bytes))) = timeout_at(by, body.next()).await
    {
        size += bytes.len();
        pieces.push_back(bytes);
    }
    let mut whole = joined(pieces, size);
    whole.truncate(max);
    whole
}
