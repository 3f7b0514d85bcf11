//! The right and the duty to make an answer.
//!
//! Who holds it makes the answer in a task of his own and is himself served as a [`Follower`], so that the run goes on
//! when his client leaves and others still wait. Dropped without a word it has failed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::entry::{Head, Kept};
use super::flight::Flight;
use super::follower::Follower;
use super::state::{End, Who};

/// A follower too far behind that takes nothing for this long is cut off.
pub(super) const STUCK: Duration = Duration::from_secs(30);

/// Makes one answer. Dropped without a word it has failed ([`Lead::fail`]).
pub struct Lead {
    flight: Arc<Flight>,
    done: bool,
}

impl Lead {
    pub(super) const fn new(flight: Arc<Flight>) -> Self {
        Self { flight, done: false }
    }

    pub(super) const fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The leading client's own place, to be taken before the run begins: when the run fails before its head, so has
    /// this client ([`Joined::Failed`]), and another gets the lead. Not needed by who got the lead as a follower, and
    /// is one still.
    ///
    /// [`Joined::Failed`]: super::Joined::Failed
    #[must_use]
    pub fn follower(&self) -> Follower {
        let mut state = self.flight.lock();
        let who = if state.retried { Who::Other } else { Who::Own };
        let seat = state.sit(who);
        drop(state);
        Follower::new(Arc::clone(&self.flight), seat)
    }

    /// One who waits for what another makes.
    pub(super) fn bystander(&self) -> Follower {
        let seat = self.flight.lock().sit(Who::Other);
        Follower::new(Arc::clone(&self.flight), seat)
    }

    /// The answer begins. From now on it cannot be handed over. Only the first head counts.
    pub fn head(&self, head: Head) {
        self.flight.set_head(head);
    }

    /// The next piece. Waits while a follower is more than 1 MiB behind; one that takes nothing for 30 s is cut off
    /// instead. Dropped while waiting, the piece counts.
    pub async fn piece(&self, piece: Bytes) {
        self.flight.push(piece);
        let began = Instant::now();
        loop {
            let moved = self.flight.moved.notified();
            let Some(laggard) = self.flight.lock().laggard() else { return };
            tokio::select! {
                () = moved => {}
                () = sleep_until(laggard.max(began) + STUCK) => {
                    self.flight.lock().cut(laggard);
                    // Whoever waits for the last follower to leave has to look again.
                    self.flight.moved.notify_waiters();
                }
            }
        }
    }

    /// The answer is whole. `store`: it may be kept, and is unless it is above [`Rules::max_size`].
    ///
    /// [`Rules::max_size`]: super::Rules::max_size
    pub fn complete(mut self, store: bool) {
        self.done = true;
        let flight = &self.flight;
        if flight.lock().head.is_none() {
            return flight.fail(String::new(), false);
        }
        let all = store.then(|| flight.all()).flatten();
        let stored = all.is_some_and(|(head, pieces)| flight.answers.keep(flight, head, &pieces));
        flight.end(End::Whole { stored });
    }

    /// No answer. Before the head one follower other than the leading client gets the lead, once; after it followers
    /// see a broken end.
    pub fn fail(self) {
        drop(self);
    }

    /// As [`Lead::fail`]. `about` goes to the leading client; where the lead was handed over before, to everybody.
    pub fn fail_with(mut self, about: String) {
        self.done = true;
        self.flight.fail(about, false);
    }

    /// The answer turns out not to be one to share: followers without anything yet go their own way.
    pub fn alone(mut self) {
        self.done = true;
        let begun = self.flight.lock().head.is_some();
        self.flight.end(if begun { End::Broken } else { End::Alone });
    }

    /// Somebody still waits for the answer.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.flight.lock().is_wanted()
    }

    /// Completes when nobody waits for the answer any more. Nobody joins it from then on, so the run may be given up.
    /// Cancel-safe.
    pub async fn unwanted(&self) {
        loop {
            let moved = self.flight.moved.notified();
            if !self.flight.wanted_or_closed() {
                return;
            }
            moved.await;
        }
    }

    /// Everybody who waits hears of the failure; nobody tries again.
    pub(super) fn fail_all(mut self, about: String) {
        self.done = true;
        self.flight.fail(about, true);
    }

    /// The key belongs to another note.
    pub(super) fn conflict(mut self) {
        self.done = true;
        self.flight.end(End::Conflict);
    }

    /// It was there already.
    pub(super) fn fill(mut self, kept: &Kept) {
        self.done = true;
        self.flight.fill(kept);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.done {
            self.flight.fail(String::new(), false);
        }
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("key", &self.flight.key).finish_non_exhaustive()
    }
}
