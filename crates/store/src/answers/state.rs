//! What is known of a flight, under its lock: its pieces, its phase and who sits where.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;

use super::entry::Head;

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
    /// After the head.
    Broken,
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
    pub waker: Option<Waker>,
}

impl State {
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

    /// When the first of those who are too far behind was last seen to move; `None`: nobody is.
    pub fn laggard(&self) -> Option<Instant> {
        self.lagging().map(|(_, seat)| seat.moved).min()
    }

    /// Cuts off those too far behind who have not moved since.
    pub fn cut(&mut self, since: Instant) {
        let stuck: Vec<u64> =
            self.lagging().filter(|(_, seat)| seat.moved <= since).map(|(id, _)| *id).collect();
        for id in stuck {
            if let Some(seat) = self.seats.get_mut(&id) {
                seat.cut = true;
                seat.waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    fn lagging(&self) -> impl Iterator<Item = (&u64, &Seat)> {
        self.seats.iter().filter(|(_, seat)| !seat.cut && self.total - seat.taken > BEHIND_MAX)
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
