//! Step 7: from the first content to the last byte.
//!
//! Events are relayed whole and untouched, each as soon as it is whole; what the client does not take is not
//! read from the upstream either, so a stream never holds more than one piece of the upstream's and one event.
//! A stream that breaks ends with an error event and without `[DONE]`; a client that leaves drops the body,
//! which closes the upstream's connection.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use metrics::Counter;
use tidegate_router::outcome::Class;
use tidegate_wire::answer::{Chunk, ChunkPeek, Dialect, peek_chunk};
use tidegate_wire::error::{DONE, error_event, responses_error_event};
use tidegate_wire::sse::{Event, Splitter};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::answer::{Answer, Broken, Held};
use crate::request::accept::Accepted;
use crate::request::attempt::{Answered, Body};
use crate::request::settle::{End, Settle};
use crate::upstream::InFlight;
use crate::upstream::exchange::AnswerBody;

/// Largest event; one upstream line must not fill this node's memory.
const EVENT_MAX: usize = 1024 * 1024;
/// Without an event that says anything, comments keep a stream alive only this many times `idle`.
const PROGRESS_FACTOR: u32 = 4;
/// A stream that never pauses looks this often, in pieces, whether the node is going away.
const CUT_LOOK: u32 = 64;
/// How long a finished stream's connection is waited for to become reusable.
const LINGER: Duration = Duration::from_secs(1);

/// Turns an answer in hand into a response.
pub fn relay(accepted: &mut Accepted, answered: Answered) -> Response<Answer> {
    let Answered { status, headers, body, length, deadline, idle } = answered;
    let gateway = &accepted.gateway;
    let watch = Watch::begin(gateway.drain.cut.clone(), idle, deadline);
    let body = match body {
        Body::Whole(bytes, _) => Answer::Whole(bytes),
        Body::Passage(held, body, place) => Answer::Passage(Box::new(Passage {
            left: length,
            held,
            body: Some(body),
            watch,
            settle: None,
            _place: place,
        })),
        Body::Events(held, events, place) => {
            gateway.metrics.streams.increment(1.0);
            Answer::Relay(Box::new(Relay {
                held,
                events: Some(events),
                watch,
                settle: None,
                active: gateway.metrics.streams.clone(),
                counted: false,
                _place: place,
            }))
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if matches!(response.body(), Answer::Relay(_)) {
        // A buffering proxy in front of us would undo the flush per event.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    response
}

/// The events of one upstream answer.
#[derive(Debug)]
pub struct Events {
    body: Option<AnswerBody>,
    splitter: Splitter,
    dialect: Dialect,
    malformed: Counter,
    /// How many choices an answer has.
    choices: u32,
    /// The choices that came to an end, a bit for each; one that has begun and not ended leaves the answer open.
    begun: u128,
    ended: u128,
    /// A terminal event came where there are no choices.
    terminal: bool,
    /// Of the next event, where a stream numbers them.
    next_number: u64,
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum Step {
    /// An event that says something, and what.
    Event(Bytes, ChunkPeek),
    /// A comment, or an event without data.
    Note(Bytes),
    /// `[DONE]`
    Done(Bytes),
    /// The body ended as it should.
    End,
    /// It did not.
    Broken(String),
}

impl Events {
    /// Reads `body` as events; what is not JSON is dropped and counted.
    pub fn new(body: AnswerBody, dialect: Dialect, choices: u32, malformed: Counter) -> Self {
        Self {
            body: Some(body),
            splitter: Splitter::new(EVENT_MAX),
            dialect,
            malformed,
            choices,
            begun: 0,
            ended: 0,
            terminal: false,
            next_number: 0,
        }
    }

    /// Takes note of what an event said about the end.
    pub fn note(&mut self, peek: &ChunkPeek) {
        self.begun |= peek.begun;
        self.ended |= peek.ended;
        self.terminal |= peek.terminal && peek.ended == 0;
    }

    /// The answer is complete: every choice that was asked for, or has begun, has ended.
    fn finished(&self) -> bool {
        self.terminal || (self.ended.count_ones() >= self.choices && self.begun & !self.ended == 0)
    }

    /// The next step; cancel-safe.
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match self.splitter.next_event() {
                Ok(Some(event)) => {
                    if let Some(step) = self.understand(event) {
                        return Poll::Ready(step);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(too_large) => {
                    self.body = None;
                    return Poll::Ready(Step::Broken(too_large.to_string()));
                }
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Step::End) };
            match std::task::ready!(body.poll_data(cx)) {
                Some(Ok(bytes)) => self.splitter.push(bytes),
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Step::Broken(super::attempt::verdict::text(&error)));
                }
                None => {
                    self.body = None;
                    if let Some(step) = self.splitter.finish().and_then(|last| self.understand(last)) {
                        return Poll::Ready(step);
                    }
                }
            }
        }
    }

    fn understand(&mut self, event: Event) -> Option<Step> {
        let Some(data) = event.data() else { return Some(Step::Note(event.raw.clone())) };
        match peek_chunk(self.dialect, &data) {
            Chunk::Done => Some(Step::Done(event.raw.clone())),
            Chunk::Event(peek) => {
                self.next_number = peek.sequence_number.map_or(self.next_number, |n| n.saturating_add(1));
                Some(Step::Event(event.raw.clone(), peek))
            }
            // Another API's events may be anything; only those we know must be JSON.
            Chunk::Malformed if self.dialect == Dialect::Other => {
                let peek = ChunkPeek { content: true, ..ChunkPeek::default() };
                Some(Step::Event(event.raw.clone(), peek))
            }
            Chunk::Malformed => {
                self.malformed.increment(1);
                None
            }
        }
    }

    /// Nothing more is wanted. The rest of the transfer, usually nothing, is read so that the connection can
    /// be used again; not for long.
    fn let_go(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        let mut context = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(ended) = body.poll_data(&mut context) {
            if ended.is_some() {
                drop(body);
            }
            return;
        }
        tokio::spawn(async move {
            let _ = timeout(LINGER, body.next()).await;
        });
    }
}

/// The clocks of a running answer.
#[derive(Debug)]
struct Watch {
    idle: Duration,
    deadline: Instant,
    last_piece: Instant,
    last_event: Instant,
    pieces: u32,
    alarm: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Why an answer is ended before its upstream ends it.
enum Alarm {
    Stalled,
    Deadline,
    Draining,
}

impl Watch {
    fn begin(cut: tokio_util::sync::CancellationToken, idle: Duration, deadline: Instant) -> Self {
        let now = Instant::now();
        Self {
            idle,
            deadline,
            last_piece: now,
            last_event: now,
            pieces: 0,
            alarm: Box::pin(sleep_until((now + idle).min(deadline))),
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    /// A piece came. The alarm is not set again for each: it finds out when it goes off. An upstream that is never
    /// slow never lets it go off, so what does not depend on slowness is looked at here.
    fn piece(&mut self, event: bool, cx: &mut Context<'_>) -> Option<Alarm> {
        self.last_piece = Instant::now();
        if event {
            self.last_event = self.last_piece;
        }
        self.pieces = self.pieces.wrapping_add(1);
        if self.last_piece >= self.deadline {
            Some(Alarm::Deadline)
        } else if self.pieces.is_multiple_of(CUT_LOOK) && self.cut.as_mut().poll(cx).is_ready() {
            Some(Alarm::Draining)
        } else {
            None
        }
    }

    fn due(&self) -> Instant {
        let stall = self.last_event + self.idle * PROGRESS_FACTOR;
        (self.last_piece + self.idle).min(stall).min(self.deadline)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Alarm> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Alarm::Draining);
        }
        loop {
            std::task::ready!(self.alarm.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(Alarm::Deadline);
            }
            let due = self.due();
            if now >= due {
                return Poll::Ready(Alarm::Stalled);
            }
            self.alarm.as_mut().reset(due);
        }
    }
}

/// A stream on its way to a client.
#[derive(Debug)]
pub struct Relay {
    held: Held,
    /// `None` when all is said.
    events: Option<Events>,
    watch: Watch,
    /// Settled when the body ends or is dropped.
    pub settle: Option<Box<Settle>>,
    active: metrics::Gauge,
    /// In `upstream_requests_total`.
    counted: bool,
    _place: InFlight,
}

impl Relay {
    /// The next event; `None` at the end. Never an error: a break is told in the stream.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(bytes) = self.held.pop_front() {
            return Poll::Ready(Some(bytes));
        }
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        let step = match events.poll_step(cx) {
            Poll::Ready(step) => step,
            Poll::Pending => {
                let alarm = std::task::ready!(self.watch.poll(cx));
                return Poll::Ready(self.end_by(&alarm));
            }
        };
        let dialect = events.dialect;
        if let Some(alarm) = self.watch.piece(matches!(step, Step::Event(..)), cx)
            && matches!(step, Step::Note(_) | Step::Event(..))
        {
            return Poll::Ready(self.end_by(&alarm));
        }
        match step {
            Step::Note(raw) => Poll::Ready(Some(raw)),
            Step::Event(raw, peek) => {
                events.note(&peek);
                if let Some(usage) = peek.usage
                    && let Some(settle) = &mut self.settle
                {
                    settle.usage = Some(usage);
                }
                if peek.error.is_some() && !peek.terminal {
                    self.finish(End::Interrupted("upstream_error_event"));
                }
                Poll::Ready(Some(raw))
            }
            // Some servers never send a finish_reason; `[DONE]` is a terminal signal too.
            Step::Done(raw) => {
                events.let_go();
                self.finish(End::Success);
                Poll::Ready(Some(raw))
            }
            Step::End if events.finished() || dialect == Dialect::Other => {
                self.finish(End::Success);
                Poll::Ready(done(dialect))
            }
            Step::End => {
                Poll::Ready(self.interrupt("the upstream's stream ended before the answer was finished"))
            }
            Step::Broken(_) if events.finished() => {
                self.finish(End::Success);
                Poll::Ready(done(dialect))
            }
            Step::Broken(why) => {
                tracing::debug!(cause = %why, "a stream broke");
                Poll::Ready(
                    self.interrupt("the connection to the upstream broke in the middle of the answer"),
                )
            }
        }
    }

    fn end_by(&mut self, alarm: &Alarm) -> Option<Bytes> {
        let Some(events) = &mut self.events else { return None };
        let dialect = events.dialect;
        if events.finished() {
            self.finish(End::Success);
            return done(dialect);
        }
        match alarm {
            Alarm::Draining => self.break_off("this gateway node is shutting down", "draining"),
            Alarm::Stalled => self.interrupt("the upstream stopped in the middle of the answer"),
            // The time allowed is ours or the client's: no fault of the upstream's.
            Alarm::Deadline => self
                .break_off("the answer took longer than the time allowed for a stream", "stream_interrupted"),
        }
    }

    fn interrupt(&mut self, message: &str) -> Option<Bytes> {
        if let Some(settle) = &self.settle
            && let Some(path) = &settle.path
        {
            path.upstream.note(Some(Class::Cut));
            path.metrics.attempt(Some(Class::Cut));
            self.counted = true;
        }
        self.break_off(message, "stream_interrupted")
    }

    fn break_off(&mut self, message: &str, code: &'static str) -> Option<Bytes> {
        let (dialect, number) =
            self.events.as_ref().map_or((Dialect::Other, 0), |events| (events.dialect, events.next_number));
        let id = self.settle.as_ref().and_then(|s| s.request_id.to_str().ok()).unwrap_or_default();
        let message = format!("{message} (request id {id})");
        let event = match dialect {
            Dialect::Responses => responses_error_event(&message, "upstream_error", code, number),
            other => error_event(other, &message, "upstream_error", code),
        };
        self.finish(End::Interrupted(code));
        Some(event)
    }

    fn finish(&mut self, end: End) {
        self.events = None;
        self.count_as_ok();
        if let Some(mut settle) = self.settle.take() {
            settle.end = end;
        }
    }
}

impl Relay {
    /// The upstream did its part, up to the end or to where the client left.
    fn count_as_ok(&mut self) {
        if !std::mem::replace(&mut self.counted, true)
            && let Some(path) = self.settle.as_ref().and_then(|s| s.path.as_ref())
        {
            path.metrics.attempt(None);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.count_as_ok();
        self.active.decrement(1.0);
    }
}

/// What ends a stream whose upstream forgot to.
fn done(dialect: Dialect) -> Option<Bytes> {
    matches!(dialect, Dialect::Chat | Dialect::Completions).then(|| Bytes::from_static(DONE))
}

/// Bytes handed through as they come.
#[derive(Debug)]
pub struct Passage {
    /// Bytes to come, where the upstream said how many.
    pub left: Option<u64>,
    held: Held,
    body: Option<AnswerBody>,
    watch: Watch,
    /// Settled when the body ends or is dropped.
    pub settle: Option<Box<Settle>>,
    _place: InFlight,
}

impl Passage {
    /// The next piece; an error when the upstream broke off, which leaves the client's transfer unfinished.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(bytes) = self.held.pop_front() {
            self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let end = match body.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => match self.watch.piece(true, cx) {
                None => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(_) => End::Interrupted("stream_interrupted"),
            },
            Poll::Ready(None) => End::Success,
            Poll::Ready(Some(Err(_))) => End::Interrupted("stream_interrupted"),
            Poll::Pending => {
                std::task::ready!(self.watch.poll(cx));
                End::Interrupted("stream_interrupted")
            }
        };
        self.body = None;
        if let Some(mut settle) = self.settle.take() {
            settle.end = end;
        }
        Poll::Ready(if end == End::Success { None } else { Some(Err(Broken)) })
    }
}
