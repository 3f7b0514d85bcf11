//! An answer in the making: what there is of it so far, and who waits for it.
//!
//! One leads, any number follow, each at a pace of his own: pieces stay until all have taken them, and as long as the
//! flight is small enough to be kept, so that the late still get it from the beginning. Nothing waits in here: [`Lead`]
//! and [`Follower`] do. Owns no connection and no task; when the last of both is gone, so is the flight.
//!
//! [`Lead`]: super::lead::Lead
//! [`Follower`]: super::follower::Follower

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::entry::{Head, Kept};
use super::key::Key;
use super::state::{End, Phase, State, Who};
use super::{Answers, Rules};

/// A flight holds at least this much before it lets go of what all have taken.
const HELD_MIN: usize = 1024 * 1024;

pub(super) struct Flight {
    pub answers: Arc<Answers>,
    pub key: Key,
    pub note: String,
    pub rules: Rules,
    /// Holds the right to make it, in the store.
    pub owner: u128,
    state: Mutex<State>,
    /// A follower has moved or left.
    pub moved: Notify,
    over: Notify,
}

/// What one finds who looks for a flight to join.
pub(super) enum Join {
    Seat(u64),
    /// Another note under the same key.
    Conflict,
    /// It goes on, but not for this one: too late, or perhaps too old.
    Full,
    /// It is as good as over.
    Over,
}

impl Flight {
    pub fn new(answers: &Arc<Answers>, key: Key, note: &str, rules: Rules) -> Arc<Self> {
        let state = State::new(answers.busy.hold());
        Arc::new(Self {
            answers: Arc::clone(answers),
            key,
            note: note.to_owned(),
            rules,
            owner: fastrand::u128(..),
            state: Mutex::new(state),
            moved: Notify::new(),
            over: Notify::new(),
        })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `strict`: takes nothing that was made before now.
    pub fn join(&self, note: &str, strict: bool) -> Join {
        let mut state = self.lock();
        if state.closed
            || !matches!(state.phase, Phase::Led | Phase::Offered | Phase::Over(End::Whole { .. }))
        {
            Join::Over
        } else if self.note != note {
            Join::Conflict
        } else if state.dropped > 0 || strict && !state.sought {
            Join::Full
        } else {
            Join::Seat(state.sit(Who::Other))
        }
    }

    /// The store has been asked.
    pub fn sought(&self) {
        self.lock().sought = true;
    }

    pub fn leave(&self, seat: u64) {
        let mut state = self.lock();
        state.seats.remove(&seat);
        state.trim(self.held_max());
        if state.phase == Phase::Offered && !state.has_heir() {
            self.close(state, End::Orphaned);
        } else {
            drop(state);
        }
        self.moved.notify_waiters();
    }

    /// Takes the next piece, if there is one.
    pub fn take(&self, seat: u64) -> Option<Bytes> {
        let piece = {
            let mut state = self.lock();
            let dropped = state.dropped;
            let next = state.seats.get(&seat)?.next;
            let piece = state.pieces.get(next.checked_sub(dropped)?).cloned()?;
            let seat = state.seats.get_mut(&seat)?;
            seat.next += 1;
            seat.taken += piece.len() as u64;
            seat.moved = Instant::now();
            state.trim(self.held_max());
            piece
        };
        self.moved.notify_waiters();
        Some(piece)
    }

    pub fn set_head(&self, head: Head) {
        let mut state = self.lock();
        state.head.get_or_insert(head);
        state.wake();
    }

    pub fn push(&self, piece: Bytes) {
        let mut state = self.lock();
        state.push(piece);
        state.trim(self.held_max());
        state.wake();
    }

    /// All of it, where that is still here and small enough to be kept.
    pub fn all(&self) -> Option<(Head, Vec<Bytes>)> {
        let state = self.lock();
        self.is_small(&state).then(|| Some((state.head.clone()?, state.all()?)))?
    }

    /// Gives the rest from an answer that is whole; what was given out before must be the beginning of it.
    pub fn fill(&self, kept: &Kept) {
        let mut state = self.lock();
        let begins = state.head.as_ref().is_none_or(|head| *head == kept.head);
        let known = state.pieces.len();
        let same = known <= kept.pieces.len() && state.pieces.iter().zip(&kept.pieces).all(|(a, b)| a == b);
        if !begins || !same || state.dropped > 0 {
            return self.close(state, End::Broken(String::new()));
        }
        state.head.get_or_insert_with(|| kept.head.clone());
        kept.pieces.iter().skip(known).for_each(|piece| state.push(piece.clone()));
        self.close(state, End::Whole { stored: true });
    }

    /// The lead has failed. Before the head, another here may try, once.
    pub fn fail(&self, about: String, everybody: bool) {
        let mut state = self.lock();
        if state.head.is_some() {
            self.close(state, End::Broken(about));
        } else if state.retried || everybody {
            self.close(state, End::Failed(about));
        } else {
            state.disown(about);
            if state.has_heir() && state.phase == Phase::Led {
                state.phase = Phase::Offered;
            } else {
                self.close(state, End::Orphaned);
            }
        }
    }

    pub fn end(&self, end: End) {
        self.close(self.lock(), end);
    }

    /// Nothing happens to one that is over.
    fn close(&self, mut state: MutexGuard<'_, State>, end: End) {
        if matches!(state.phase, Phase::Over(_)) {
            return;
        }
        state.phase = Phase::Over(end);
        state.wake();
        let hold = state.hold.take();
        drop(state);
        self.over.notify_waiters();
        self.answers.flights.remove(self);
        drop(hold);
    }

    /// Completes when it is over. Cancel-safe.
    pub async fn ended(&self) -> End {
        loop {
            let over = self.over.notified();
            if let Phase::Over(end) = &self.lock().phase {
                return end.clone();
            }
            over.await;
        }
    }

    /// Somebody waits for it. If nobody does, nobody will: it takes no one any more.
    pub fn wanted_or_closed(&self) -> bool {
        let wanted = {
            let mut state = self.lock();
            state.closed = !state.is_wanted();
            !state.closed
        };
        if !wanted {
            self.answers.flights.remove(self);
        }
        wanted
    }

    /// All of it is still here, and small enough to be kept.
    pub fn keeps(&self) -> bool {
        self.is_small(&self.lock())
    }

    fn is_small(&self, state: &State) -> bool {
        state.dropped == 0 && state.total <= self.rules.max_size as u64
    }

    fn held_max(&self) -> usize {
        self.rules.max_size.max(HELD_MIN)
    }
}
