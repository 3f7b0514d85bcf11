//! An answer that more than one client gets: kept, as it is being made, or made from one of the other form.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use metrics::Gauge;
use tidegate_store::answers::{self, Follower, Kept};
use tidegate_wire::answer::{Chunk, Dialect, peek_chunk};
use tidegate_wire::error::{error_event, responses_error_event};
use tidegate_wire::sse::Splitter;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Owner, UPSTREAMS_WORD, is_usage_alone};
use crate::answer::Broken;
use crate::request::settle::End;
use crate::request::trail::Trail;

/// How its pieces look.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Of the events.
    pub dialect: Dialect,
    /// Pieces are events; else they are the body.
    pub streamed: bool,
    /// The client did not ask for the usage event.
    pub drop_usage: bool,
    /// Bytes of the body, where that is known.
    pub length: Option<u64>,
}

/// The body.
#[derive(Debug)]
pub struct Shared {
    source: Source,
    form: Form,
    /// Of the run, for the client that began it.
    story: Option<Arc<Mutex<Trail>>>,
    /// The client's own time.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Streams being relayed, where this is one.
    active: Option<Gauge>,
    /// Hears how it went.
    pub owner: Owner,
}

#[derive(Debug)]
enum Source {
    Kept(Arc<Kept>, usize),
    Run(Box<Follower>),
    Made(VecDeque<Bytes>),
    Ended,
}

impl Shared {
    /// As it is being made; not beyond `deadline`.
    pub fn follow(
        follower: Follower,
        story: Option<Arc<Mutex<Trail>>>,
        form: Form,
        deadline: Instant,
        streams: Gauge,
    ) -> Self {
        let mut shared = Self::of(Source::Run(Box::new(follower)), form, streams);
        shared.story = story;
        shared.deadline = Some(Box::pin(sleep_until(deadline)));
        shared
    }

    /// As it was kept.
    pub fn replay(kept: Arc<Kept>, form: Form, streams: Gauge) -> Self {
        Self::of(Source::Kept(kept, 0), form, streams)
    }

    /// Events made from a plain answer.
    pub fn made(events: Vec<Bytes>, streams: Gauge) -> Self {
        let form = Form { dialect: Dialect::Other, streamed: true, drop_usage: false, length: None };
        Self::of(Source::Made(events.into()), form, streams)
    }

    fn of(source: Source, form: Form, streams: Gauge) -> Self {
        let active = form.streamed.then_some(streams);
        if let Some(active) = &active {
            active.increment(1.0);
        }
        Self { source, form, story: None, deadline: None, active, owner: Owner::None }
    }

    /// The size of a body that is known whole.
    pub const fn left(&self) -> Option<u64> {
        self.form.length
    }

    /// All pieces, untouched.
    pub async fn collect(&mut self) -> Result<Vec<Bytes>, Broken> {
        let mut pieces = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| self.poll_piece(cx)).await {
            pieces.push(piece.map_err(|_| Broken)?);
        }
        Ok(pieces)
    }

    /// Whose request it answers. A body of no bytes has ended with that.
    pub fn belongs_to(&mut self, owner: Owner) {
        self.owner = owner;
        if self.form.length == Some(0) {
            self.finish(None);
        }
    }

    /// The next piece for the client. A stream that breaks ends with an error event; another body with an error.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            let Poll::Ready(next) = self.poll_piece(cx) else {
                let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                std::task::ready!(deadline.as_mut().poll(cx));
                let words = "the answer took longer than the time allowed";
                return Poll::Ready(Some(self.break_off(words, "stream_interrupted")));
            };
            match next {
                Some(Ok(piece)) if self.form.drop_usage && is_usage_event(self.form.dialect, &piece) => {}
                Some(Ok(piece)) => {
                    let left = self.form.length.map(|left| left.saturating_sub(piece.len() as u64));
                    self.form.length = left;
                    if left == Some(0) {
                        // Nobody asks again after the last byte.
                        self.finish(None);
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Some(Err(broken)) => {
                    if broken.about == UPSTREAMS_WORD && self.form.streamed {
                        self.source = Source::Ended;
                        self.finish(Some(End::Interrupted(UPSTREAMS_WORD)));
                        return Poll::Ready(None);
                    }
                    let code = if broken.about == "draining" { "draining" } else { "stream_interrupted" };
                    let words = "the answer broke off before it was finished";
                    return Poll::Ready(Some(self.break_off(words, code)));
                }
                None => {
                    self.finish(None);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, answers::Broken>>> {
        match &mut self.source {
            Source::Kept(kept, at) => {
                let piece = kept.pieces.get(*at).cloned();
                *at += 1;
                Poll::Ready(piece.map(Ok))
            }
            Source::Run(follower) => follower.poll_piece(cx),
            Source::Made(events) => Poll::Ready(events.pop_front().map(Ok)),
            Source::Ended => Poll::Ready(None),
        }
    }

    /// What the run says of its end, to the client that began it.
    fn told(&self) -> Option<End> {
        self.story.as_ref().map(|story| story.lock().unwrap_or_else(PoisonError::into_inner).end)
    }

    fn break_off(&mut self, words: &str, code: &'static str) -> Result<Bytes, Broken> {
        let id = self.owner.trail().map(|trail| trail.id().to_owned()).unwrap_or_default();
        self.source = Source::Ended;
        self.finish(Some(End::Interrupted(code)));
        if !self.form.streamed {
            return Err(Broken);
        }
        let message = format!("{words} (request id {id})");
        Ok(match self.form.dialect {
            Dialect::Responses => responses_error_event(&message, "upstream_error", code, 0),
            dialect => error_event(dialect, &message, "upstream_error", code),
        })
    }

    /// `None`: as its status says, or as the run said.
    fn finish(&mut self, end: Option<End>) {
        let told = self.told().filter(|told| *told != End::Running);
        if let (Some(trail), Some(story)) = (self.owner.trail(), &self.story) {
            let story = story.lock().unwrap_or_else(PoisonError::into_inner);
            trail.usage = story.usage;
            trail.emitted = story.emitted;
        }
        let end = end.or(told).unwrap_or_else(|| self.owner.end_of_whole());
        self.owner.finish(end);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(active) = &self.active {
            active.decrement(1.0);
        }
    }
}

fn is_usage_event(dialect: Dialect, piece: &Bytes) -> bool {
    if memchr::memmem::find(piece, b"\"usage\"").is_none() {
        return false;
    }
    let mut splitter = Splitter::new(piece.len());
    splitter.push(piece.clone());
    let Ok(Some(event)) = splitter.next_event() else { return false };
    event.data().is_some_and(|data| match peek_chunk(dialect, &data) {
        Chunk::Event(peek) => is_usage_alone(dialect, &peek),
        Chunk::Done | Chunk::Malformed => false,
    })
}
