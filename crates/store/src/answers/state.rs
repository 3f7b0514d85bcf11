//! What is known of a flight, under its lock: its pieces, its phase and who sits where.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::busy::Hold;
use super::entry::Head;

/// A follower too far behind that takes nothing for this long is cut off.
pub(super) const STUCK: Duration = Duration::from_secs(30);
/// A follower too far behind is cut off when followers who are not have waited this long for it in all.
pub(super) const HOLD_UP_MAX: Duration = Duration::from_secs(2);
/// The lead waits while a follower is this many bytes behind.
const BEHIND_MAX: u64 = 1024 * 1024;

#[derive(Default)]
pub(super) struct State {
    pub phase: Phase,
    /// The store has been asked; before, it may still have it, which is not for those who want nothing old.
    pub sought: bool,
    /// Nobody waits any more and the run is being given up: nobody may join.
    pub closed: bool,
    /// Handed over once: the next failure is everybody's.
    pub retried: bool,
    /// What the first run failed of; its own client hears it, whoever tries next.
    pub failure: Option<String>,
    pub head: Option<Head>,
    pub pieces: VecDeque<Bytes>,
    /// Pieces let go of, from the first on.
    pub dropped: usize,
    held: usize,
    pub total: u64,
    pub seats: HashMap<u64, Seat>,
    next_seat: u64,
    /// Until it is over.
    pub hold: Option<Hold>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Led,
    /// The first follower to look takes the lead.
    Offered,
    Over(End),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Whole {
        /// The store has it or gets it.
        stored: bool,
    },
    /// After the head, with the lead's word.
    Broken(String),
    /// Before the head, and nobody here to go on.
    Orphaned,
    Alone,
    Failed(String),
    Conflict,
}

/// Who sits in a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The client of the first run: when that fails, so has he.
    Own,
    Other,
    /// Those of other nodes.
    Remote,
}

/// A follower's place.
pub(super) struct Seat {
    /// The piece it takes next.
    pub next: usize,
    pub taken: u64,
    pub moved: Instant,
    who: Who,
    pub wants: bool,
    pub cut: bool,
    /// The lead waits for it, and so do others.
    holds_up: bool,
    /// For how long that was so.
    held_up: Duration,
    pub waker: Option<Waker>,
}

/// What the lead does about those too far behind.
pub(super) enum Review {
    Go,
    /// Until then, unless one moves.
    Wait(Instant),
    /// Some were cut off: it looks again.
    Cut,
}

impl State {
    pub fn new(hold: Hold) -> Self {
        Self { hold: Some(hold), ..Self::default() }
    }

    pub fn sit(&mut self, who: Who) -> u64 {
        let id = self.next_seat;
        self.next_seat += 1;
        let seat = Seat {
            next: 0,
            taken: 0,
            moved: Instant::now(),
            who,
            wants: true,
            cut: self.dropped > 0,
            holds_up: false,
            held_up: Duration::ZERO,
            waker: None,
        };
        self.seats.insert(id, seat);
        id
    }

    pub fn seat(&mut self, seat: u64) -> Option<&mut Seat> {
        self.seats.get_mut(&seat)
    }

    pub fn is_wanted(&self) -> bool {
        self.seats.values().any(|seat| seat.wants && !seat.cut)
    }

    /// Somebody could take over.
    pub fn has_heir(&self) -> bool {
        self.seats.values().any(|seat| seat.who == Who::Other)
    }

    /// The first run has failed before its head: its own client is done.
    pub fn disown(&mut self, about: String) {
        self.failure = Some(about);
        self.seats.values_mut().filter(|seat| seat.who == Who::Own).for_each(|seat| seat.cut = true);
        self.wake();
    }

    /// What this seat's own run failed of.
    pub fn own_failure(&self, seat: u64) -> Option<&String> {
        self.seats.get(&seat).filter(|seat| seat.who == Who::Own)?;
        self.failure.as_ref()
    }

    /// Accepts an offer to lead.
    pub fn take_over(&mut self) -> bool {
        let offered = self.phase == Phase::Offered;
        if offered {
            self.phase = Phase::Led;
            self.retried = true;
        }
        offered
    }

    /// Looks at those too far behind. The lead has waited for them since `began`, and since `since` as the last review
    /// said.
    pub fn review(&mut self, began: Instant, since: Instant, now: Instant) -> Review {
        let total = self.total;
        let lags = |seat: &Seat| !seat.cut && total - seat.taken > BEHIND_MAX;
        let others = self.seats.values().any(|seat| seat.wants && !seat.cut && !lags(seat));
        let mut review = Review::Go;
        for seat in self.seats.values_mut() {
            if std::mem::take(&mut seat.holds_up) {
                seat.held_up += now - since;
            }
            if !lags(seat) {
                continue;
            }
            seat.holds_up = others;
            let mut until = seat.moved.max(began) + STUCK;
            if others {
                until = until.min(now + HOLD_UP_MAX.saturating_sub(seat.held_up));
            }
            if until <= now {
                seat.cut = true;
                seat.waker.take().into_iter().for_each(Waker::wake);
                review = Review::Cut;
            } else {
                review = match review {
                    Review::Go => Review::Wait(until),
                    Review::Wait(sooner) => Review::Wait(sooner.min(until)),
                    Review::Cut => Review::Cut,
                };
            }
        }
        review
    }

    /// All pieces, while none of them was let go of.
    pub fn all(&self) -> Option<Vec<Bytes>> {
        (self.dropped == 0).then(|| self.pieces.iter().cloned().collect())
    }

    pub fn push(&mut self, piece: Bytes) {
        self.held += piece.len();
        self.total += piece.len() as u64;
        self.pieces.push_back(piece);
    }

    /// Lets go of what everybody has, beyond `max` bytes.
    pub fn trim(&mut self, max: usize) {
        if self.held <= max {
            return;
        }
        let taken = self.seats.values().filter(|seat| !seat.cut).map(|seat| seat.next).min();
        let taken = taken.unwrap_or(self.dropped + self.pieces.len());
        while self.held > max && self.dropped < taken {
            let Some(piece) = self.pieces.pop_front() else { return };
            self.held -= piece.len();
            self.dropped += 1;
        }
    }

    pub fn wake(&mut self) {
        self.seats.values_mut().filter_map(|seat| seat.waker.take()).for_each(Waker::wake);
    }
}
