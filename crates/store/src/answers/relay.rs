//! The following node's side: an answer that another node makes, given to those who wait for it here.
//!
//! A task that holds the lead of a flight of this node and asks the store for what is new until the end, or until
//! nobody waits here. When the leading node is gone, or the store, before anything came of the answer, one who waits
//! here gets the lead; after that the answer ends broken.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::flight::Flight;
use super::lead::Lead;
use super::message::{Message, Say};
use super::share::{CALL, share};
use super::{Answers, LIVES};
use crate::cache::{Begun, Followed};
use crate::{Failure, Store};

/// How often the store is asked for more.
const POLL: Duration = Duration::from_millis(50);
/// While a piece waits for those who are slow here, the other node is told this often that it is still followed.
const SIGN: Duration = Duration::from_millis(200);
/// A store that gives nothing for this long is not waited for while nothing has come of the answer.
const PATIENCE: Duration = Duration::from_millis(400);

/// Leads with what another node makes.
pub(super) async fn relay(lead: Lead) {
    let flight = Arc::clone(lead.flight());
    let mut relay = Relay { name: flight.key.hex(), from: 0, next: 0, of: None, told: false, flight };
    let mut heard = Instant::now();
    loop {
        let followed = relay.store().follow(&relay.name, relay.from, CALL).await;
        if followed.is_ok() {
            heard = Instant::now();
        }
        let next = match followed {
            Ok(Followed::Pieces(pieces)) => relay.take(&lead, &pieces).await,
            Ok(Followed::Found(entry, left)) => relay.found(&entry, left),
            Ok(Followed::Orphaned) => relay.orphaned().await,
            Ok(Followed::Alone) => Next::Alone,
            Err(Failure::Down | Failure::Unknown) => {
                let patience = if relay.told { LIVES } else { PATIENCE };
                if heard.elapsed() < patience { Next::On } else { Next::Fail }
            }
            Err(Failure::Refused(_)) => Next::Fail,
        };
        match next {
            Next::On => {}
            Next::Whole => return lead.complete(false),
            Next::Filled(kept) => return lead.fill(&kept),
            Next::Fail => return lead.fail(),
            Next::FailAll(about) => return lead.break_with(about),
            Next::Alone => return lead.alone(),
            Next::Conflict => return lead.conflict(),
        }
        tokio::select! {
            () = lead.unwanted() => return,
            () = sleep(POLL) => {}
        }
    }
}

enum Next {
    On,
    Whole,
    Filled(Arc<super::Kept>),
    /// One of those who wait gets the lead, or all see a broken end.
    Fail,
    FailAll(String),
    Alone,
    Conflict,
}

struct Relay {
    flight: Arc<Flight>,
    name: String,
    /// Pieces of the store's that were seen.
    from: usize,
    /// The number of the message that comes next.
    next: u32,
    /// The flight of the other node.
    of: Option<u128>,
    /// The head is out here.
    told: bool,
}

impl Relay {
    fn answers(&self) -> &Answers {
        &self.flight.answers
    }

    fn store(&self) -> &Store {
        &self.answers().store
    }

    async fn take(&mut self, lead: &Lead, pieces: &[Bytes]) -> Next {
        let answers = Arc::clone(&self.flight.answers);
        let decode = |piece| Message::decode(&answers.sealer, &self.flight.key, piece);
        let Some(messages) = pieces.iter().map(decode).collect::<Option<Vec<_>>>() else {
            return Next::Fail;
        };
        // What is known to break is not begun here: one who waits can still have all of it.
        if !self.told && messages.iter().any(|message| message.say == Say::Broken) {
            return Next::Fail;
        }
        for message in messages {
            self.from += 1;
            if *self.of.get_or_insert(message.flight) != message.flight {
                if self.told {
                    return Next::Fail;
                }
                self.restart();
                return Next::On;
            }
            if message.number < self.next {
                continue;
            }
            if message.number > self.next {
                return Next::Fail;
            }
            self.next += 1;
            match message.say {
                Say::Head(head) => {
                    self.told = true;
                    lead.head(head);
                }
                Say::Piece(piece) => self.give(lead, piece).await,
                Say::Whole => return Next::Whole,
                Say::Broken => return Next::Fail,
                Say::Failed(about) => return Next::FailAll(about),
                Say::Alone => return Next::Alone,
            }
        }
        Next::On
    }

    async fn give(&self, lead: &Lead, piece: Bytes) {
        let mut given = pin!(lead.piece(piece));
        while timeout(SIGN, &mut given).await.is_err() {
            // Nothing is that far on: it asks for no piece. Once it is stored, nobody has to be told.
            let sign = self.store().follow(&self.name, usize::MAX, CALL).await;
            if matches!(sign, Ok(Followed::Found(..))) {
                return given.await;
            }
        }
    }

    fn found(&self, entry: &Bytes, left: Duration) -> Next {
        match self.answers().read(self.flight.key, entry, left) {
            Some(kept) if kept.note != self.flight.note => Next::Conflict,
            Some(kept) => Next::Filled(kept),
            None => Next::Fail,
        }
    }

    /// Nobody makes it any more. The right is taken for one who waits here, unless another node has been faster.
    async fn orphaned(&mut self) -> Next {
        if self.told {
            return Next::Fail;
        }
        let Flight { owner, note, .. } = &*self.flight;
        match self.store().begin(&self.name, *owner, note, LIVES, CALL).await {
            Ok(Begun::Found(entry, left)) => self.found(&entry, left),
            Ok(Begun::Lead) => {
                share(Arc::clone(&self.flight));
                Next::Fail
            }
            Ok(Begun::Follow(theirs)) if theirs != *note => Next::Conflict,
            Ok(Begun::Follow(_)) => {
                self.restart();
                Next::On
            }
            Ok(Begun::Alone) => Next::Alone,
            Err(_) => Next::Fail,
        }
    }

    /// From the beginning of another flight.
    fn restart(&mut self) {
        self.from = 0;
        self.next = 0;
        self.of = None;
    }
}
