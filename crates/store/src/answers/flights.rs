//! The flights of this node by key, of those that may be joined. A flight takes itself out when it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::flight::{Flight, Join};
use super::key::Key;

/// Sharded by key, so that finds of different answers do not meet.
pub(super) struct Flights([Mutex<HashMap<Key, Arc<Flight>>>; 16]);

/// What came of boarding.
pub(super) enum Boarded {
    New(Arc<Flight>),
    Seat(Arc<Flight>, u64),
    Conflict,
    Full,
}

impl Flights {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// Joins the flight of `key`, or puts `new` there.
    pub fn board(&self, key: &Key, note: &str, strict: bool, new: impl FnOnce() -> Arc<Flight>) -> Boarded {
        let mut shard = self.shard(key);
        if let Some(flight) = shard.get(key) {
            match flight.join(note, strict) {
                Join::Seat(seat) => return Boarded::Seat(Arc::clone(flight), seat),
                Join::Conflict => return Boarded::Conflict,
                Join::Full => return Boarded::Full,
                Join::Over => {}
            }
        }
        let flight = new();
        shard.insert(*key, Arc::clone(&flight));
        Boarded::New(flight)
    }

    /// Of this flight, not of one that has come after it.
    pub fn remove(&self, flight: &Flight) {
        let mut shard = self.shard(&flight.key);
        if shard.get(&flight.key).is_some_and(|there| std::ptr::eq(Arc::as_ptr(there), flight)) {
            shard.remove(&flight.key);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
        let shard = self.0.get(usize::from(key.0[0]) % self.0.len()).unwrap_or(&self.0[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
