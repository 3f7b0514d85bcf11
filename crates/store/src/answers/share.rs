//! The leading node's side of a flight that other nodes may follow: keeps the right to make the answer, and sends what
//! there is of it once somebody asks.
//!
//! Runs as a task from the moment the store gives the right until the flight is over. With the store away the flight
//! goes on without it: the right lapses, and who followed from afar sees a broken end or makes his own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::busy::Hold;
use super::flight::Flight;
use super::message::{Message, Say};
use super::state::{End, Who};
use super::{Answers, LIVES};
use crate::Failure;

/// The right is renewed this often.
const RENEW: Duration = Duration::from_millis(500);
/// Once followed, the store is asked this often whether it still is.
const HEED: Duration = Duration::from_millis(200);
/// Who has not asked for this long follows no more. Many times what lies between two questions: one may be lost.
const SILENCE: Duration = Duration::from_secs(1);
/// Once followed, pieces go out this often.
const BATCH: Duration = Duration::from_millis(50);
/// Bytes of pieces that one call carries, from where on it takes no more.
const BATCH_MAX: usize = 256 * 1024;
/// Bytes of one answer that go through the store piece by piece; beyond, it is cut for those who follow.
const SHARED_MAX: usize = 16 * 1024 * 1024;
/// Bounds one call to the store.
pub(super) const CALL: Duration = Duration::from_millis(200);
/// A store that takes no pieces for this long is not waited for: the lead may be waiting for us.
const STALLED: Duration = Duration::from_secs(1);
/// The end of an answer that is not stored stays this long for those who follow.
const LINGER: Duration = Duration::from_millis(300);
/// Calls that are tried to say how it ended.
const TRIES: usize = 3;

/// Begins to share a flight whose right the store has given.
pub(super) fn share(flight: Arc<Flight>) {
    let sharing = Sharing {
        _hold: flight.answers.busy.hold(),
        answers: Arc::clone(&flight.answers),
        name: flight.key.hex(),
        seat: None,
        told: false,
        ended: false,
        number: 0,
        sent: 0,
        more: false,
        outbox: Vec::new(),
        renewed: Instant::now(),
        taken: Instant::now(),
        asked: Instant::now(),
        flight,
    };
    tokio::spawn(run(sharing));
}

async fn run(mut sharing: Sharing) {
    loop {
        let (pause, renew) = match sharing.seat {
            None => (RENEW, RENEW),
            // The lead waits for what is far behind.
            Some(_) if sharing.more => (Duration::ZERO, HEED),
            Some(_) => (BATCH, HEED),
        };
        if let Ok(end) = timeout(pause, sharing.flight.ended()).await {
            return sharing.finish(end).await;
        }
        sharing.gather();
        let due = sharing.renewed.elapsed() >= renew;
        if (due || !sharing.outbox.is_empty()) && !sharing.send().await {
            return;
        }
        if sharing.seat.is_some() && sharing.taken.elapsed() > STALLED {
            return;
        }
    }
}

struct Sharing {
    flight: Arc<Flight>,
    answers: Arc<Answers>,
    name: String,
    _hold: Hold,
    /// Its place among the followers, once another node waits.
    seat: Option<u64>,
    /// The head is out.
    told: bool,
    /// Nothing more goes out.
    ended: bool,
    number: u32,
    /// Bytes of pieces.
    sent: usize,
    /// The last batch was full.
    more: bool,
    /// On its way; stays until the store has it.
    outbox: Vec<Bytes>,
    renewed: Instant,
    /// When the store last took what there was.
    taken: Instant,
    /// When another node was last heard to ask.
    asked: Instant,
}

impl Sharing {
    /// The next pieces. Nothing while some are still on their way.
    fn gather(&mut self) {
        let Some(seat) = self.seat else { return };
        self.more = false;
        if !self.outbox.is_empty() || self.ended {
            return;
        }
        let (head, cut) = {
            let mut state = self.flight.lock();
            (state.head.clone(), state.seat(seat).is_none_or(|seat| seat.cut))
        };
        if cut {
            return self.say(if self.told { Say::Broken } else { Say::Alone });
        }
        let Some(head) = head else { return };
        if !self.told {
            self.told = true;
            self.say(Say::Head(head));
        }
        let mut batch = 0;
        while batch < BATCH_MAX
            && let Some(piece) = self.flight.take(seat)
        {
            batch += piece.len();
            self.sent += piece.len();
            if self.sent > SHARED_MAX {
                return self.say(Say::Broken);
            }
            self.say(Say::Piece(piece));
        }
        self.more = batch >= BATCH_MAX;
    }

    fn say(&mut self, say: Say) {
        self.ended |= !matches!(say, Say::Head(_) | Say::Piece(_));
        let message = Message { flight: self.flight.owner, number: self.number, say };
        self.number += 1;
        self.outbox.extend(message.encode(&self.answers.sealer, &self.flight.key));
    }

    /// Renews the right and sends what is on its way. False: there is nothing left to share.
    async fn send(&mut self) -> bool {
        let Flight { owner, .. } = *self.flight;
        let renewed = self.answers.store.renew(&self.name, owner, &self.outbox, LIVES, CALL).await;
        match renewed {
            Ok(renewed) if renewed.held => {
                self.outbox.clear();
                self.renewed = Instant::now();
                self.taken = self.renewed;
                self.heed(renewed.followed);
                true
            }
            Ok(_) | Err(Failure::Refused(_)) => false,
            Err(Failure::Down | Failure::Unknown) => true,
        }
    }

    /// Another node waits, or no longer does.
    fn heed(&mut self, followed: bool) {
        if followed {
            self.asked = Instant::now();
        }
        let mut state = self.flight.lock();
        match self.seat {
            None if followed => self.seat = Some(state.sit(Who::Remote)),
            None => return,
            Some(seat) => {
                if let Some(seat) = state.seat(seat) {
                    seat.wants = self.asked.elapsed() < SILENCE && !self.ended;
                }
            }
        }
        drop(state);
        self.flight.moved.notify_waiters();
    }

    async fn finish(mut self, end: End) {
        let stored = matches!(end, End::Whole { stored: true });
        let last = match end {
            End::Whole { .. } => Say::Whole,
            End::Failed(about) => Say::Failed(about),
            End::Broken(_) => Say::Broken,
            End::Alone => return self.give_up(true).await,
            End::Orphaned | End::Conflict => return self.give_up(false).await,
        };
        // Who has begun to follow since the last call may have asked after the end, and is not to be told of it.
        if self.seat.is_some() {
            self.tell(last).await;
        }
        // An answer that goes into the store takes the marker away with it.
        if !stored {
            if self.seat.is_some() {
                sleep(LINGER).await;
            }
            self.give_up(false).await;
        }
    }

    /// Sends the rest and how it ended.
    async fn tell(&mut self, last: Say) {
        let mut tries = TRIES;
        loop {
            self.gather();
            if self.outbox.is_empty() {
                if self.ended {
                    return;
                }
                self.say(last.clone());
            }
            if !self.send().await {
                return;
            }
            if !self.outbox.is_empty() {
                tries -= 1;
                if tries == 0 {
                    return;
                }
                sleep(BATCH).await;
            }
        }
    }

    async fn give_up(&self, uncacheable: bool) {
        let Flight { owner, .. } = *self.flight;
        // One that fails lapses by itself.
        let _ = self.answers.store.give_up(&self.name, owner, uncacheable, self.answers.timeout).await;
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        if let Some(seat) = self.seat {
            self.flight.leave(seat);
        }
    }
}
