//! One who waits for an answer that is being made.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use thiserror::Error;

use super::entry::Head;
use super::flight::Flight;
use super::lead::Lead;
use super::state::{End, Phase};

/// What a follower is told first.
#[derive(Debug)]
pub enum Joined {
    /// The answer has begun.
    Head(Head),
    /// Who made it has failed: the right is now this follower's, who stays one and is served by its own run.
    Lead(Lead),
    /// It cannot be shared: go your own way, store nothing.
    Alone,
    /// It failed: this client's own run, or the second one. In its own words, empty where it left none.
    Failed(String),
    /// The key belongs to another note.
    Conflict,
}

/// The answer ends here, though it is not whole: its making failed, or this follower took nothing for too long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Error)]
#[error("the answer was cut short")]
pub struct Broken {
    /// Who made it on this node left this word; empty where it left none, or this follower was cut off.
    pub about: String,
}

/// Waits for an answer, and gets all of it from the beginning. Dropping it gives its place back.
pub struct Follower {
    flight: Arc<Flight>,
    seat: u64,
}

impl Follower {
    pub(super) const fn new(flight: Arc<Flight>, seat: u64) -> Self {
        Self { flight, seat }
    }

    /// How the answer begins. Does not end before its making does: the caller bounds it. Cancel-safe; after
    /// [`Joined::Lead`] it waits for the run that this follower then leads.
    pub async fn head(&mut self) -> Joined {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Joined> {
        let mut state = self.flight.lock();
        if let Some(about) = state.own_failure(self.seat) {
            return Poll::Ready(Joined::Failed(about.clone()));
        }
        if let Some(head) = &state.head {
            return Poll::Ready(Joined::Head(head.clone()));
        }
        if state.take_over() {
            drop(state);
            return Poll::Ready(Joined::Lead(Lead::new(Arc::clone(&self.flight))));
        }
        match &state.phase {
            Phase::Over(End::Alone) => Poll::Ready(Joined::Alone),
            Phase::Over(End::Conflict) => Poll::Ready(Joined::Conflict),
            Phase::Over(End::Failed(about)) => Poll::Ready(Joined::Failed(about.clone())),
            Phase::Over(_) => Poll::Ready(Joined::Failed(String::new())),
            Phase::Led | Phase::Offered => {
                if let Some(seat) = state.seat(self.seat) {
                    seat.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// The next piece, from the first on; `None` after the last of a whole answer.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        // The place is marked before looking, so that no piece comes unseen in between.
        let over = {
            let mut state = self.flight.lock();
            let over = match &state.phase {
                Phase::Over(End::Whole { .. }) => Some(None),
                Phase::Over(End::Broken(about)) => Some(Some(Err(Broken { about: about.clone() }))),
                Phase::Over(_) => Some(Some(Err(Broken::default()))),
                Phase::Led | Phase::Offered => None,
            };
            match state.seat(self.seat) {
                Some(seat) if !seat.cut => seat.waker = Some(cx.waker().clone()),
                _ => return Poll::Ready(Some(Err(Broken::default()))),
            }
            over
        };
        match (self.flight.take(self.seat), over) {
            (Some(piece), _) => Poll::Ready(Some(Ok(piece))),
            (None, Some(end)) => Poll::Ready(end),
            (None, None) => Poll::Pending,
        }
    }

    /// As [`Follower::poll_piece`]. Cancel-safe.
    pub async fn piece(&mut self) -> Option<Result<Bytes, Broken>> {
        poll_fn(|cx| self.poll_piece(cx)).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flight.leave(self.seat);
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("key", &self.flight.key).finish_non_exhaustive()
    }
}
