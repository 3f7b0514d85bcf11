//! The right and the duty to make an answer.
//!
//! Who holds it makes the answer in a task of his own and is himself served as a [`Follower`], so that the run goes on
//! when his client leaves and others still wait. Dropped without a word it has failed.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::entry::{Head, Kept};
use super::flight::Flight;
use super::follower::Follower;
use super::state::{End, Review, Who};

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

    /// The next piece. Waits while a follower is more than 1 MiB behind. Instead of waiting longer, one is cut off that
    /// takes nothing for 30 s, or that has held up followers who are not behind for 2 s in all. The pieces held come to
    /// no more than the larger of [`Rules::max_size`] and 1 MiB, and one piece. Dropped while waiting, the piece
    /// counts.
    ///
    /// [`Rules::max_size`]: super::Rules::max_size
    pub async fn piece(&self, piece: Bytes) {
        self.flight.push(piece);
        let began = Instant::now();
        let mut since = began;
        loop {
            let moved = self.flight.moved.notified();
            let now = Instant::now();
            let review = self.flight.lock().review(began, since, now);
            since = now;
            match review {
                Review::Go => return,
                // Whoever waits for the last follower to leave has to look again.
                Review::Cut => self.flight.moved.notify_waiters(),
                Review::Wait(until) => drop(timeout_at(until, moved).await),
            }
        }
    }

    /// All pieces so far are held, and within [`Rules::max_size`]: what [`Lead::complete`] would store.
    ///
    /// [`Rules::max_size`]: super::Rules::max_size
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.flight.keeps()
    }

    /// All pieces so far, `None` once the first of them is no longer held: sure to be there while [`Lead::keeps`].
    #[must_use]
    pub fn pieces(&self) -> Option<Vec<Bytes>> {
        self.flight.lock().all()
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

    /// As [`Lead::fail`]. `about` goes to the leading client; to everybody where the lead was handed over before, and
    /// as with [`Lead::break_with`] after the head.
    pub fn fail_with(mut self, about: String) {
        self.done = true;
        self.flight.fail(about, false);
    }

    /// The answer turns out not to be one to share: followers without anything yet go their own way.
    pub fn alone(mut self) {
        self.done = true;
        let begun = self.flight.lock().head.is_some();
        self.flight.end(if begun { End::Broken(String::new()) } else { End::Alone });
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

    /// The answer ends here though it is not whole, and nobody tries again. After the head, followers on this node find
    /// `about` in [`Broken`], those of other nodes an empty one; before it, all hear [`Joined::Failed`].
    ///
    /// [`Broken`]: super::Broken
    /// [`Joined::Failed`]: super::Joined::Failed
    pub fn break_with(mut self, about: String) {
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
