//! Stored answers and the rights to make them, by key, within a number of bytes.
//!
//! What was used longest ago goes first when there is no room. A right that goes this way is to be had again, and its
//! holder hears so when it renews.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics::counter;

use crate::cache::{Begun, Followed, Renewed};

/// What a slot is taken to need beside its key, value and pieces; also what bounds the number of slots.
const SLOT_BYTES: usize = 256;

/// A right to make an answer, or the word that it cannot be shared.
#[derive(Debug)]
struct Marker {
    owner: u128,
    note: String,
    pieces: Vec<Bytes>,
    /// Another has asked since it was renewed.
    followed: bool,
    alone: bool,
    until: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    stored: Option<(Bytes, Duration)>,
    marker: Option<Marker>,
    bytes: usize,
    used: u64,
}

impl Slot {
    fn weigh(&self, key: &str) -> usize {
        let stored = self.stored.as_ref().map_or(0, |(value, _)| value.len());
        let marker = self.marker.as_ref().map_or(0, |marker| {
            marker.note.len()
                + marker.pieces.iter().map(|piece| piece.len() + size_of::<Bytes>()).sum::<usize>()
        });
        SLOT_BYTES + key.len() + stored + marker
    }

    fn found(&self, now: Duration) -> Option<(Bytes, Duration)> {
        self.stored.as_ref().map(|(value, until)| (value.clone(), until.saturating_sub(now)))
    }

    /// The marker, if it is a right that `owner` holds.
    fn held_by(&mut self, owner: u128) -> Option<&mut Marker> {
        self.marker.as_mut().filter(|marker| marker.owner == owner && !marker.alone)
    }
}

/// Answers by key.
#[derive(Debug)]
pub(super) struct Answers {
    slots: HashMap<Arc<str>, Slot>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, Arc<str>>,
    bytes: usize,
    max_bytes: usize,
    uses: u64,
}

impl Answers {
    /// Empty.
    pub fn new(max_bytes: usize) -> Self {
        Self { slots: HashMap::new(), order: BTreeMap::new(), bytes: 0, max_bytes, uses: 0 }
    }

    /// See [`crate::Store::begin`].
    pub fn begin(&mut self, key: &str, owner: u128, note: &str, lives: Duration, now: Duration) -> Begun {
        self.with(key, now, |slot| {
            if let Some((value, left)) = slot.found(now) {
                return Begun::Found(value, left);
            }
            let until = now.saturating_add(lives);
            match &mut slot.marker {
                Some(marker) if marker.alone => Begun::Alone,
                Some(marker) if marker.owner == owner => {
                    marker.until = until;
                    Begun::Lead
                }
                Some(marker) => {
                    marker.followed = true;
                    Begun::Follow(marker.note.clone())
                }
                none => {
                    let (note, pieces) = (note.to_owned(), Vec::new());
                    *none = Some(Marker { owner, note, pieces, followed: false, alone: false, until });
                    Begun::Lead
                }
            }
        })
    }

    /// See [`crate::Store::look_up`].
    pub fn look_up(&mut self, key: &str, now: Duration) -> Option<(Bytes, Duration)> {
        self.with(key, now, |slot| slot.found(now))
    }

    /// See [`crate::Store::renew`].
    pub fn renew(
        &mut self,
        key: &str,
        owner: u128,
        pieces: &[Bytes],
        lives: Duration,
        now: Duration,
    ) -> Renewed {
        self.with(key, now, |slot| match slot.held_by(owner) {
            Some(marker) => {
                marker.until = now.saturating_add(lives);
                marker.pieces.extend_from_slice(pieces);
                Renewed { held: true, followed: std::mem::take(&mut marker.followed) }
            }
            None => Renewed { held: false, followed: false },
        })
    }

    /// See [`crate::Store::follow`].
    pub fn follow(&mut self, key: &str, from: usize, now: Duration) -> Followed {
        self.with(key, now, |slot| {
            if let Some((value, left)) = slot.found(now) {
                return Followed::Found(value, left);
            }
            match &mut slot.marker {
                Some(marker) if marker.alone => Followed::Alone,
                Some(marker) => {
                    marker.followed = true;
                    // Who has more than there is has them of a maker that is gone.
                    marker.pieces.get(from..).map_or(Followed::Orphaned, |new| Followed::Pieces(new.to_vec()))
                }
                None => Followed::Orphaned,
            }
        })
    }

    /// See [`crate::Store::put`].
    pub fn put(&mut self, key: &str, owner: u128, value: &Bytes, kept: Duration, now: Duration) {
        self.with(key, now, |slot| {
            slot.stored = (!kept.is_zero()).then(|| (value.clone(), now.saturating_add(kept)));
            slot.marker.take_if(|marker| marker.owner == owner || marker.alone);
        });
    }

    /// See [`crate::Store::give_up`].
    pub fn give_up(&mut self, key: &str, owner: u128, uncacheable: bool, now: Duration) {
        self.with(key, now, |slot| {
            if let Some(marker) = slot.held_by(owner) {
                marker.alone = uncacheable;
                marker.pieces.clear();
            }
            slot.marker.take_if(|marker| marker.owner == owner && !marker.alone);
        });
    }

    /// See [`crate::Store::forget`].
    pub fn forget(&mut self, key: &str) {
        self.with(key, Duration::ZERO, |slot| slot.stored = None);
    }

    /// Works on the slot of `key` as it is now, and keeps it if there is anything in it.
    fn with<T>(&mut self, key: &str, now: Duration, work: impl FnOnce(&mut Slot) -> T) -> T {
        let (name, mut slot) =
            self.slots.remove_entry(key).unwrap_or_else(|| (Arc::from(key), Slot::default()));
        self.order.remove(&slot.used);
        self.bytes -= slot.bytes;
        slot.stored.take_if(|(_, until)| *until <= now);
        slot.marker.take_if(|marker| marker.until <= now);
        let said = work(&mut slot);
        if slot.stored.is_some() || slot.marker.is_some() {
            self.uses += 1;
            slot.used = self.uses;
            slot.bytes = slot.weigh(key);
            // Kept it would cost all others their place, and then its own.
            if slot.bytes > self.max_bytes {
                return said;
            }
            self.bytes += slot.bytes;
            self.order.insert(slot.used, Arc::clone(&name));
            self.slots.insert(name, slot);
            self.make_room(now);
        }
        said
    }

    fn make_room(&mut self, now: Duration) {
        while self.bytes > self.max_bytes
            && let Some((_, key)) = self.order.pop_first()
        {
            let Some(slot) = self.slots.remove(&key) else { continue };
            self.bytes -= slot.bytes;
            let lived = slot.stored.is_some_and(|(_, until)| until > now)
                || slot.marker.is_some_and(|marker| marker.until > now);
            if lived {
                counter!("tidegate_store_evictions_total", "kind" => "answer").increment(1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
