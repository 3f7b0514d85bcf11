//! Answers this node does not look into: files, speech, pages of other APIs.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::Owner;
use super::watch::Watch;
use crate::answer::{Broken, Held};
use crate::request::settle::End;
use crate::trace::Attempt;
use crate::upstream::InFlight;
use crate::upstream::exchange::AnswerBody;

/// Bytes handed through as they come.
#[derive(Debug)]
pub struct Passage {
    /// Bytes to come, where the upstream said how many.
    left: Option<u64>,
    held: Held,
    body: Option<AnswerBody>,
    watch: Watch,
    /// Hears how it went.
    pub owner: Owner,
    /// Of the attempt, where the request is traced.
    span: Option<Box<Attempt>>,
    _place: InFlight,
}

impl Passage {
    /// `held` came first; `left` counts it too.
    pub fn new(
        held: Held,
        body: AnswerBody,
        left: Option<u64>,
        watch: Watch,
        place: InFlight,
        span: Option<Box<Attempt>>,
    ) -> Self {
        Self { left, held, body: Some(body), watch, owner: Owner::None, span, _place: place }
    }

    /// Bytes to come, where the upstream said how many.
    pub const fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next piece; an error when the upstream broke off, which leaves the client's transfer unfinished.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Some(bytes) = self.held.pop_front() {
            self.went(&bytes);
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let end = match body.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => match self.watch.piece(true, cx) {
                None => {
                    self.went(&bytes);
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
        self.finish(end);
        Poll::Ready(if end == End::Success { None } else { Some(Err(Broken)) })
    }

    fn went(&mut self, bytes: &Bytes) {
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        if self.left == Some(0) {
            // Nobody asks again after the last byte.
            self.finish(End::Success);
        }
    }

    fn finish(&mut self, end: End) {
        if let Some(mut span) = self.span.take() {
            span.end(Some(end));
        }
        self.owner.finish(end);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            span.end(None);
        }
    }
}
