//! Kept answers, and equal requests made once: for a node over its [`Store`], and for the nodes that share one.
//!
//! An answer is looked for in this process's memory, then among those being made here, then in the store, which also
//! says whether another node is making it. Who finds nothing leads; who finds one in the making follows it from its
//! first piece on. Owns the memory tier, the flights, and a bounded queue of answers on their way to the store.
//! With the store away, each node keeps and coalesces for itself. A node that dies while it leads is missed by those who
//! follow it within the life of its marker, and one of them takes over. No wall clock of two machines is compared.
//! Not here: what may be kept, what its key is made of, and how an answer reads. Nothing here waits longer than its
//! caller polls it.

mod busy;
mod entry;
mod flight;
mod flights;
mod follower;
mod key;
mod lead;
mod memory;
mod message;
mod relay;
mod share;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

pub use entry::{Head, Kept};
pub use follower::{Broken, Follower, Joined};
pub use key::Key;
pub use lead::Lead;

use crate::Store;
use crate::cache::Begun;
use busy::{Busy, Hold};
use flight::Flight;
use flights::{Boarded, Flights};
use key::Sealer;
use memory::Memory;

/// Answers on their way to the store; beyond, they are dropped and counted.
const WRITES_MAX: usize = 256;
/// The right to make an answer lives this long unless renewed.
const LIVES: Duration = Duration::from_secs(2);
/// How often the memory tier is rid of what is past its time.
const TEND: Duration = Duration::from_secs(5);
/// Times to live are spread by this part to both sides, so that what came together does not go together.
const JITTER: f64 = 0.1;

/// How a route keeps answers.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Fresh for this long: +-10 %, but exactly where there is a note.
    pub ttl: Duration,
    /// Kept for this long after that ([`Answers::stale`]).
    pub stale: Duration,
    /// Bytes of its pieces above which an answer is not kept.
    pub max_size: usize,
}

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// What is fresh, or being made.
    Normal,
    /// Nothing that was there before: it makes its own answer, shared with nobody, which may be kept.
    Fresh,
    /// As [`Read::Normal`], but nothing older.
    MaxAge(Duration),
    /// What is fresh, and no other way.
    OnlyIfCached,
}

/// What became of looking for an answer.
#[derive(Debug)]
pub enum Found {
    /// It is kept, and this old.
    Hit(Arc<Kept>, Duration),
    /// It is not; the caller is to make it.
    Lead(Lead),
    /// It is being made.
    Follow(Follower),
    /// It is not, and nothing else was asked for.
    Missing,
    /// It cannot be shared: go your own way, store nothing.
    Alone,
    /// The key is that of an answer with another note, kept or being made.
    Conflict,
}

/// The kept and the shared answers of a node.
pub struct Answers {
    store: Store,
    /// Other nodes may be making what is wanted here.
    shared: bool,
    sealer: Sealer,
    memory: Memory,
    flights: Flights,
    timeout: Duration,
    busy: Arc<Busy>,
    writes: mpsc::Sender<Write>,
    /// Until [`Answers::run`] takes it.
    written: Mutex<Option<mpsc::Receiver<Write>>>,
}

struct Write {
    key: Key,
    owner: u128,
    /// `None`: what is there cannot be read and is removed.
    kept: Option<Arc<Kept>>,
    _hold: Hold,
}

impl Answers {
    /// `memory`: bytes of the tier in this process, 0 for none. `secret`: keys and seals are made with it, and nodes
    /// that share answers share it. `timeout` bounds calls to the store that nobody waits for.
    #[must_use]
    pub fn new(store: Store, memory: usize, secret: Option<&[u8]>, timeout: Duration) -> Arc<Self> {
        let shared = store.is_shared();
        Self::with_shared(store, memory, secret, timeout, shared)
    }

    fn with_shared(
        store: Store,
        memory: usize,
        secret: Option<&[u8]>,
        timeout: Duration,
        shared: bool,
    ) -> Arc<Self> {
        let (writes, written) = mpsc::channel(WRITES_MAX);
        Arc::new(Self {
            store,
            shared,
            sealer: Sealer::new(secret),
            memory: Memory::new(memory),
            flights: Flights::new(),
            timeout,
            busy: Arc::default(),
            writes,
            written: Mutex::new(Some(written)),
        })
    }

    /// What the tier in this process's memory holds: bytes and answers, as of a moment ago.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        self.memory.held()
    }

    /// The key of a request: equal if and only if all parts are, in order.
    #[must_use]
    pub fn key(&self, parts: &[&[u8]]) -> Key {
        self.sealer.key(parts)
    }

    /// Looks for an answer: in memory, among those being made here, and by one call to the store, which `allowance`
    /// bounds. What is found under `key` with another `note` is a [`Found::Conflict`]. Must run within tokio. Dropped
    /// midway, it gives the lead it had to one who has joined meanwhile.
    pub async fn find(
        self: &Arc<Self>,
        key: Key,
        rules: &Rules,
        read: Read,
        note: &str,
        allowance: Duration,
    ) -> Found {
        let flight = || Flight::new(self, key, note, *rules);
        if read == Read::Fresh {
            return Found::Lead(Lead::new(flight()));
        }
        if let Some(kept) = self.memory.get(&key) {
            if kept.note != note {
                return Found::Conflict;
            }
            if read.takes(&kept) {
                let age = kept.age();
                return Found::Hit(kept, age);
            }
        }
        if read == Read::OnlyIfCached {
            return self.look_up(key, note, allowance).await;
        }
        let strict = matches!(read, Read::MaxAge(_));
        match self.flights.board(&key, note, strict, flight) {
            Boarded::New(flight) => self.begin(Lead::new(flight), read, allowance).await,
            Boarded::Seat(flight, seat) => Found::Follow(Follower::new(flight, seat)),
            Boarded::Full => Found::Lead(Lead::new(flight())),
            Boarded::Conflict => Found::Conflict,
        }
    }

    /// What is kept under `key`, however old, and its age: for when no better answer is to be had. Another note's is
    /// none. `allowance` bounds the one call to the store.
    pub async fn stale(&self, key: Key, note: &str, allowance: Duration) -> Option<(Arc<Kept>, Duration)> {
        let kept = match self.memory.get(&key) {
            Some(kept) => kept,
            None => {
                let (entry, left) = self.store.look_up(&key.hex(), allowance).await.ok()??;
                self.read(key, &entry, left)?
            }
        };
        (kept.note == note).then(|| (Arc::clone(&kept), kept.age()))
    }

    /// Writes answers to the store and tends the memory tier, for as long as it is polled. Called a second time it
    /// completes at once.
    pub async fn run(self: Arc<Self>) {
        let taken = self.written.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut written) = taken else { return };
        let mut tick = interval(TEND);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                write = written.recv() => {
                    // Never: `self` holds a sender.
                    let Some(write) = write else { return };
                    self.write(&write).await;
                }
                _ = tick.tick() => self.memory.tend(),
            }
        }
    }

    async fn look_up(&self, key: Key, note: &str, allowance: Duration) -> Found {
        let Ok(Some((entry, left))) = self.store.look_up(&key.hex(), allowance).await else {
            return Found::Missing;
        };
        match self.read(key, &entry, left) {
            Some(kept) if kept.note != note => Found::Conflict,
            Some(kept) if Read::OnlyIfCached.takes(&kept) => {
                let age = kept.age();
                Found::Hit(kept, age)
            }
            _ => Found::Missing,
        }
    }

    async fn begin(self: &Arc<Self>, lead: Lead, read: Read, allowance: Duration) -> Found {
        let flight = Arc::clone(lead.flight());
        let name = flight.key.hex();
        let begun = if self.shared {
            self.store.begin(&name, flight.owner, &flight.note, LIVES, allowance).await
        } else {
            let kept = self.store.look_up(&name, allowance).await;
            kept.map(|kept| kept.map_or(Begun::Lead, |(entry, left)| Begun::Found(entry, left)))
        };
        flight.sought();
        match begun {
            Ok(Begun::Found(entry, left)) => match self.read(flight.key, &entry, left) {
                Some(kept) if kept.note != flight.note => {
                    lead.conflict();
                    Found::Conflict
                }
                Some(kept) if read.takes(&kept) => {
                    lead.fill(&kept);
                    let age = kept.age();
                    Found::Hit(kept, age)
                }
                // Another node may renew it at the same time: the right to make it is had only where there is none.
                _ => Found::Lead(lead),
            },
            Ok(Begun::Lead) => {
                if self.shared {
                    share::share(flight);
                }
                Found::Lead(lead)
            }
            Ok(Begun::Follow(note)) if note != flight.note => {
                lead.conflict();
                Found::Conflict
            }
            Ok(Begun::Follow(_)) => {
                let follower = lead.bystander();
                tokio::spawn(relay::relay(lead));
                Found::Follow(follower)
            }
            Ok(Begun::Alone) => {
                lead.alone();
                Found::Alone
            }
            Err(_) => Found::Lead(lead),
        }
    }

    /// An entry of the store, which goes into memory too. One that cannot be read is removed.
    fn read(&self, key: Key, entry: &Bytes, left: Duration) -> Option<Arc<Kept>> {
        let kept = entry::decode(&self.sealer, &key, entry, left);
        if let Some(kept) = &kept {
            self.memory.put(key, Arc::clone(kept));
        } else {
            tracing::warn!(%key, "a kept answer could not be read: removed");
            // In turn, so that it does not remove what is written in its place. A full queue: the next to meet it will.
            let _ = self.writes.try_send(Write { key, owner: 0, kept: None, _hold: self.busy.hold() });
        }
        kept
    }

    /// Keeps a whole answer. False: the store does not get it.
    fn keep(&self, flight: &Flight, head: Head, pieces: &[Bytes]) -> bool {
        let Rules { ttl, stale, .. } = flight.rules;
        // A note's answer is remembered for as long as was promised.
        let jitter = if flight.note.is_empty() { JITTER * (2.0 * fastrand::f64() - 1.0) } else { 0.0 };
        let ttl = ttl.min(entry::KEPT_MAX).mul_f64(1.0 + jitter);
        let kept = Arc::new(Kept::new(head, pieces, &flight.note, ttl, stale));
        self.memory.put(flight.key, Arc::clone(&kept));
        let (key, owner, hold) = (flight.key, flight.owner, self.busy.hold());
        let queued = self.writes.try_send(Write { key, owner, kept: Some(kept), _hold: hold });
        if queued.is_err() {
            counter!("tidegate_cache_writes_dropped_total").increment(1);
        }
        queued.is_ok()
    }

    /// One that fails is a miss later on; the store says itself when it is away.
    async fn write(&self, write: &Write) {
        let name = write.key.hex();
        let Some(kept) = &write.kept else {
            let _ = self.store.forget(&name, self.timeout).await;
            return;
        };
        let left = kept.left();
        let Some(entry) = entry::encode(&self.sealer, &write.key, kept) else { return };
        if !left.is_zero() {
            let _ = self.store.put(&name, write.owner, &entry, left, self.timeout).await;
        }
    }
}

impl Read {
    fn takes(self, kept: &Kept) -> bool {
        match self {
            Self::Fresh => false,
            Self::Normal | Self::OnlyIfCached => !kept.is_stale(),
            Self::MaxAge(max) => !kept.is_stale() && kept.age() <= max,
        }
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("store", &self.store)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
