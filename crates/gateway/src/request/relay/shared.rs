//! An answer that more than one client gets: kept, as it is being made, or made from one of the other form.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tidegate_store::answers::{Follower, Kept};
use tidegate_wire::answer::{Chunk, Dialect, peek_chunk};
use tidegate_wire::error::{error_event, responses_error_event};
use tidegate_wire::sse::Splitter;

use super::{Owner, is_usage_alone};
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
    /// As it is being made.
    pub fn follow(follower: Follower, story: Option<Arc<Mutex<Trail>>>, form: Form) -> Self {
        Self { source: Source::Run(Box::new(follower)), form, story, owner: Owner::None }
    }

    /// As it was kept.
    pub const fn replay(kept: Arc<Kept>, form: Form) -> Self {
        Self { source: Source::Kept(kept, 0), form, story: None, owner: Owner::None }
    }

    /// Events made from a plain answer.
    pub fn made(events: Vec<Bytes>) -> Self {
        let form = Form { dialect: Dialect::Other, streamed: true, drop_usage: false, length: None };
        Self { source: Source::Made(events.into()), form, story: None, owner: Owner::None }
    }

    /// The size of a body that is known whole.
    pub const fn left(&self) -> Option<u64> {
        self.form.length
    }

    /// All pieces, untouched.
    pub async fn collect(&mut self) -> Result<Vec<Bytes>, Broken> {
        let mut pieces = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| self.poll_piece(cx)).await {
            pieces.push(piece?);
        }
        Ok(pieces)
    }

    /// The next piece for the client. A stream that breaks ends with an error event; another body with an error.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            match std::task::ready!(self.poll_piece(cx)) {
                Some(Ok(piece)) if self.form.drop_usage && is_usage_event(self.form.dialect, &piece) => {}
                Some(Ok(piece)) => {
                    self.form.length = self.form.length.map(|left| left.saturating_sub(piece.len() as u64));
                    return Poll::Ready(Some(Ok(piece)));
                }
                Some(Err(broken)) => return Poll::Ready(Some(self.break_off(broken))),
                None => {
                    self.finish(End::Success);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match &mut self.source {
            Source::Kept(kept, at) => {
                let piece = kept.pieces.get(*at).cloned();
                *at += 1;
                Poll::Ready(piece.map(Ok))
            }
            Source::Run(follower) => {
                follower.poll_piece(cx).map(|next| next.map(|piece| piece.map_err(|_| Broken)))
            }
            Source::Made(events) => Poll::Ready(events.pop_front().map(Ok)),
            Source::Ended => Poll::Ready(None),
        }
    }

    fn break_off(&mut self, broken: Broken) -> Result<Bytes, Broken> {
        let code = match self.story.as_ref().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).end) {
            Some(End::Interrupted(code)) => code,
            _ => "stream_interrupted",
        };
        let id = self.owner.trail().map(|trail| trail.id().to_owned()).unwrap_or_default();
        self.source = Source::Ended;
        self.finish(End::Interrupted(code));
        if !self.form.streamed {
            return Err(broken);
        }
        let message = format!("the answer broke off before it was finished (request id {id})");
        Ok(match self.form.dialect {
            Dialect::Responses => responses_error_event(&message, "upstream_error", code, 0),
            dialect => error_event(dialect, &message, "upstream_error", code),
        })
    }

    fn finish(&mut self, end: End) {
        if let (Some(trail), Some(story)) = (self.owner.trail(), &self.story) {
            let story = story.lock().unwrap_or_else(PoisonError::into_inner);
            trail.usage = story.usage;
            trail.emitted = story.emitted;
        }
        let said = self.owner.trail().is_some_and(|trail| trail.end != End::Running);
        if said {
            // An upstream's own words to the client.
            self.owner = Owner::None;
        } else {
            self.owner.finish(end);
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
