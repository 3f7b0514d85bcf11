//! Step 9: from the first content to the last byte.
//!
//! Events are relayed whole and untouched, each as soon as it is whole; what the client does not take is not
//! read from the upstream either, so a stream never holds more than one piece of the upstream's and one event.
//! A stream that breaks ends with an error event and without `[DONE]`; a client that leaves drops the body,
//! which closes the upstream's connection.

mod events;
mod owner;
mod passage;
pub mod shared;
mod watch;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response};
use metrics::Gauge;
use tidegate_router::outcome::Class;
use tidegate_wire::answer::{ChunkPeek, Dialect};
use tidegate_wire::error::{DONE, error_event, responses_error_event};

pub use events::{Events, Step};
pub use owner::Owner;
pub use passage::Passage;
use watch::{Alarm, Watch};

use crate::answer::{Answer, Held};
use crate::gateway::Gateway;
use crate::request::attempt::{Answered, Body, verdict};
use crate::request::settle::End;
use crate::trace::Attempt;
use crate::upstream::InFlight;
use tidegate_health::registry::Flight;

/// How a stream ends that its upstream ends with an error event: the client has that, and no other.
pub const UPSTREAMS_WORD: &str = "upstream_error_event";

/// Whom an answer is relayed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// One client.
    Client {
        /// It did not ask for the usage event that comes.
        drop_usage: bool,
    },
    /// A run, whose clients each count as a stream of their own.
    Run,
}

/// Turns an answer in hand into a response.
pub fn relay(gateway: &Gateway, answered: Answered, whom: For) -> Response<Answer> {
    let Answered { status, headers, body, length, deadline, idle, flight, span, .. } = answered;
    let watch = Watch::begin(gateway.drain.cut.clone(), idle, deadline);
    let body = match body {
        Body::Whole(bytes, _) => Answer::Whole(bytes),
        Body::Passage(held, body, place) => {
            Answer::Passage(Box::new(Passage::new(held, body, length, watch, place, span)))
        }
        Body::Events(held, events, place) => {
            let active = if whom == For::Run { Gauge::noop() } else { gateway.metrics.streams.clone() };
            active.increment(1.0);
            Answer::Relay(Box::new(Relay {
                held,
                events: Some(*events),
                watch,
                owner: Owner::None,
                drop_usage: whom == For::Client { drop_usage: true },
                active,
                counted: false,
                flight,
                span,
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

/// A stream on its way to a client.
#[derive(Debug)]
pub struct Relay {
    held: Held,
    /// `None` when all is said.
    events: Option<Events>,
    watch: Watch,
    /// Hears how it went.
    pub owner: Owner,
    drop_usage: bool,
    active: Gauge,
    /// In `upstream_requests_total`.
    counted: bool,
    /// Tells health how the stream ended; dropped where that is the client's doing.
    flight: Option<Flight>,
    /// Of the attempt, where the request is traced.
    span: Option<Box<Attempt>>,
    _place: InFlight,
}

impl Relay {
    /// The next event; `None` at the end. Never an error: a break is told in the stream.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.held.pop_front() {
                return Poll::Ready(Some(bytes));
            }
            if let Some(next) = std::task::ready!(self.poll_next(cx)) {
                return Poll::Ready(next);
            }
        }
    }

    /// What comes next; `None` in it: something that the client does not get.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Option<Bytes>>> {
        let Some(events) = &mut self.events else { return Poll::Ready(Some(None)) };
        let step = match events.poll_step(cx) {
            Poll::Ready(step) => step,
            Poll::Pending => {
                let alarm = std::task::ready!(self.watch.poll(cx));
                return Poll::Ready(Some(self.end_by(&alarm)));
            }
        };
        let dialect = events.dialect;
        if let Some(alarm) = self.watch.piece(matches!(step, Step::Event(..)), cx)
            && matches!(step, Step::Note(_) | Step::Event(..))
        {
            return Poll::Ready(Some(self.end_by(&alarm)));
        }
        match step {
            Step::Note(raw) => Poll::Ready(Some(Some(raw))),
            Step::Event(raw, peek) => {
                events.note(&peek);
                if let Some(trail) = self.owner.trail() {
                    trail.usage = events.usage;
                    trail.emitted = events.emitted;
                }
                if self.drop_usage && is_usage_alone(dialect, &peek) {
                    return Poll::Ready(None);
                }
                if let Some(error) = peek.error.as_ref().filter(|_| !peek.terminal) {
                    self.count(Some(Class::BadResponse));
                    if !verdict::of_error_object(error).clients_fault {
                        self.told(true);
                    }
                    self.finish(End::Interrupted(UPSTREAMS_WORD));
                }
                Poll::Ready(Some(Some(raw)))
            }
            // Some servers never send a finish_reason; `[DONE]` is a terminal signal too.
            Step::Done(raw) => {
                events.let_go();
                self.finish(End::Success);
                Poll::Ready(Some(Some(raw)))
            }
            Step::End if events.finished() || dialect == Dialect::Other => {
                self.finish(End::Success);
                Poll::Ready(Some(done(dialect)))
            }
            Step::End => Poll::Ready(Some(
                self.interrupt("the upstream's stream ended before the answer was finished"),
            )),
            Step::Broken(_) if events.finished() => {
                self.finish(End::Success);
                Poll::Ready(Some(done(dialect)))
            }
            Step::Broken(why) => {
                tracing::debug!(cause = %why, "a stream broke");
                Poll::Ready(Some(
                    self.interrupt("the connection to the upstream broke in the middle of the answer"),
                ))
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
        self.count(Some(Class::Cut));
        self.told(true);
        self.break_off(message, "stream_interrupted")
    }

    fn break_off(&mut self, message: &str, code: &'static str) -> Option<Bytes> {
        let (dialect, number) =
            self.events.as_ref().map_or((Dialect::Other, 0), |events| (events.dialect, events.next_number));
        let id = self.owner.trail().map(|trail| trail.id().to_owned()).unwrap_or_default();
        let message = format!("{message} (request id {id})");
        let event = match dialect {
            Dialect::Responses => responses_error_event(&message, "upstream_error", code, number),
            other => error_event(other, &message, "upstream_error", code),
        };
        self.finish(End::Interrupted(code));
        Some(event)
    }

    /// Counts the attempt, once.
    fn count(&mut self, failure: Option<Class>) {
        if !std::mem::replace(&mut self.counted, true)
            && let Some(path) = self.owner.trail().and_then(|trail| trail.path.as_ref())
        {
            path.metrics.attempt(failure);
        }
    }

    /// Tells health, once, what it may know of the end.
    fn told(&mut self, cut: bool) {
        if let Some(flight) = self.flight.take() {
            flight.end(cut, tokio::time::Instant::now().into_std());
        }
    }

    /// `None`: given up.
    fn end_span(&mut self, end: Option<End>) {
        let Some(mut span) = self.span.take() else { return };
        span.used(self.events.as_ref().and_then(|events| events.usage));
        span.end(end);
    }

    fn finish(&mut self, end: End) {
        self.end_span(Some(end));
        self.events = None;
        // What was not counted as a failure by now went well, up to the end or to where the client left.
        self.count(None);
        if end == End::Success {
            self.told(false);
        }
        self.owner.finish(end);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end_span(None);
        self.count(None);
        self.active.decrement(1.0);
    }
}

/// The event that an upstream sends because it was asked for the usage.
pub fn is_usage_alone(dialect: Dialect, peek: &ChunkPeek) -> bool {
    matches!(dialect, Dialect::Chat | Dialect::Completions)
        && peek.usage.is_some()
        && !peek.content
        && !peek.terminal
        && peek.begun == 0
        && peek.error.is_none()
}

/// What ends a stream whose upstream forgot to.
fn done(dialect: Dialect) -> Option<Bytes> {
    matches!(dialect, Dialect::Chat | Dialect::Completions).then(|| Bytes::from_static(DONE))
}
