//! An upstream's pool of keys: which one signs the next attempt, which ones rest.
//!
//! Owns each key's rests. A rest only ever grows longer: a short hint that comes late must not undo a long
//! one. Requests are spread over the keys that may be used; when the upstream has refused them all, the one
//! refused longest ago is tried, because a refusal may be the upstream's own slip and nothing else can answer.
//! An upstream without keys has one that adds nothing to a request and rests like any other. What is rested here is
//! decided here; other nodes are told, and their word only makes a rest longer (`share`).

mod share;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tidegate_router::outcome::Class;
use tokio::time::Instant;

use share::Part;
pub use share::Rest;

const REFUSED: Duration = Duration::from_secs(300);
const QUOTA_FIRST: Duration = Duration::from_secs(600);
const QUOTA_LONGEST: Duration = Duration::from_secs(3600);
const RATE_FIRST: Duration = Duration::from_secs(5);
const RATE_LONGEST: Duration = Duration::from_secs(60);
/// What a path that only has refused keys is behind every other one.
const LAST_RESORT: Duration = Duration::from_millis(1);
/// Models with a rest of their own per key; beyond this the whole key rests.
const MODELS_MAX: usize = 100;

/// The keys of one upstream on this node.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<Key>,
    turn: AtomicUsize,
    /// Some key has been put to rest since all were last found awake; else none of their locks is taken.
    restless: Arc<AtomicBool>,
    /// `None`: nobody else is told.
    shared: OnceLock<share::Shared>,
}

#[derive(Debug)]
struct Key {
    /// `None`: the upstream wants no key.
    header: Option<HeaderValue>,
    /// A few fields, held for a look or a change, never across an await.
    rests: Arc<Mutex<Rests>>,
}

#[derive(Debug, Default)]
struct Rests {
    refused_until: Option<Instant>,
    /// A refusal until then was proven wrong here.
    forgiven_until: Option<Instant>,
    whole_until: Option<Instant>,
    /// Out of quota until then, as far as is known.
    spent_until: Option<Instant>,
    model_until: HashMap<String, Option<Instant>>,
    quota_in_a_row: u32,
    limited_in_a_row: u32,
}

/// What the ring can offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// Sign with this key.
    Key(usize),
    /// All rest; the first is back after this long.
    Resting(Duration),
}

impl KeyRing {
    /// A key that was in the ring `before` goes on resting. The error is the index of a key that cannot stand in a header.
    pub fn new(keys: &[SecretString], before: Option<&Self>) -> Result<Self, usize> {
        let rests = |header: Option<&HeaderValue>| {
            let known = before.and_then(|ring| ring.keys.iter().find(|key| key.header.as_ref() == header));
            known.map(|key| Arc::clone(&key.rests)).unwrap_or_default()
        };
        let keys = keys.iter().enumerate().map(|(n, secret)| {
            let mut header =
                HeaderValue::try_from(format!("Bearer {}", secret.expose_secret())).map_err(|_| n)?;
            header.set_sensitive(true);
            Ok::<_, usize>(Key { rests: rests(Some(&header)), header: Some(header) })
        });
        let mut keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            keys.push(Key { header: None, rests: rests(None) });
        }
        Ok(Self {
            keys,
            turn: AtomicUsize::new(0),
            restless: before.map(|ring| Arc::clone(&ring.restless)).unwrap_or_default(),
            shared: OnceLock::new(),
        })
    }

    /// Which key may be used for `model` now; not one of `refused`, which the upstream refused for this very
    /// request.
    pub fn offer(&self, model: &str, refused: &[usize], now: Instant) -> Offer {
        if refused.is_empty() && !self.restless.load(Ordering::Acquire) {
            return Offer::Key(self.turn.fetch_add(1, Ordering::Relaxed) % self.keys.len().max(1));
        }
        let start = self.turn.load(Ordering::Relaxed);
        let mut soonest = Duration::MAX;
        let mut least_refused: Option<(Instant, usize)> = None;
        for n in 0..self.keys.len() {
            let index = (start.wrapping_add(n)) % self.keys.len();
            let Some(key) = self.keys.get(index).filter(|_| !refused.contains(&index)) else { continue };
            let rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
            let cooling = rests.cooling(model, now);
            if cooling > Duration::ZERO {
                soonest = soonest.min(cooling);
                continue;
            }
            match rests.refused_until.filter(|until| *until > now) {
                None => {
                    self.turn.store(index.wrapping_add(1), Ordering::Relaxed);
                    return Offer::Key(index);
                }
                Some(until) => {
                    if least_refused.is_none_or(|(held, _)| until < held) {
                        least_refused = Some((until, index));
                    }
                }
            }
        }
        least_refused.map_or(Offer::Resting(soonest), |(_, index)| Offer::Key(index))
    }

    /// How long until some key may be tried; zero: now, `None`: all were refused for this request. Where only keys
    /// are left that the upstream has refused lately it is `LAST_RESORT`, so that any other path comes first.
    pub fn ready_in(&self, model: &str, refused: &[usize], now: Instant) -> Option<Duration> {
        if refused.is_empty() && !self.restless.load(Ordering::Acquire) {
            return Some(Duration::ZERO);
        }
        self.keys
            .iter()
            .enumerate()
            .filter(|(index, _)| !refused.contains(index))
            .map(|(_, key)| {
                let rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
                let refused = rests.refused_until.is_some_and(|until| until > now);
                rests.cooling(model, now).max(if refused { LAST_RESORT } else { Duration::ZERO })
            })
            .min()
    }

    /// All keys are out of quota: waiting for them is vain.
    pub fn are_spent(&self, now: Instant) -> bool {
        self.restless.load(Ordering::Acquire)
            && self.keys.iter().all(|key| {
                let rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
                rests.spent_until.is_some_and(|until| until > now)
            })
    }

    /// The `authorization` value of a key; `None` where none is wanted.
    pub fn header(&self, index: usize) -> Option<&HeaderValue> {
        self.keys.get(index).and_then(|k| k.header.as_ref())
    }

    /// The key answered well.
    pub fn worked(&self, index: usize) {
        if !self.restless.load(Ordering::Acquire) {
            return;
        }
        let Some(key) = self.keys.get(index) else { return };
        let mut rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = rests.refused_until.take() {
            rests.forgiven_until = Some(until);
        }
        rests.quota_in_a_row = 0;
        rests.limited_in_a_row = 0;
    }

    /// Puts a key to rest after a failure that speaks of it; `hint` is what the upstream asked for, `jitter` (0 to 1)
    /// makes it up to a tenth longer so that those who wait do not wake together. Other classes change nothing. Gives the length of a rest that begins; `None` where the key rested already.
    pub fn rest(
        &self,
        index: usize,
        model: &str,
        class: Class,
        hint: Option<Duration>,
        jitter: f64,
        now: Instant,
    ) -> Option<Duration> {
        if !class.of_the_key() {
            return None;
        }
        let mut rests = self.keys.get(index)?.rests.lock().unwrap_or_else(PoisonError::into_inner);
        self.restless.store(true, Ordering::Release);
        let rests = &mut *rests;
        let (until, wait, part) = match class {
            Class::Auth => (&mut rests.refused_until, REFUSED, Part::Refused),
            Class::Quota => {
                let wait = doubled(QUOTA_FIRST, rests.quota_in_a_row, QUOTA_LONGEST);
                rests.quota_in_a_row += 1;
                (&mut rests.spent_until, wait, Part::Spent)
            }
            Class::RateLimited => {
                let wait = hint.unwrap_or_else(|| doubled(RATE_FIRST, rests.limited_in_a_row, RATE_LONGEST));
                rests.limited_in_a_row += 1;
                rests.model_until.retain(|_, until| until.is_some_and(|until| until > now));
                if rests.model_until.len() >= MODELS_MAX && !rests.model_until.contains_key(model) {
                    (&mut rests.whole_until, wait, Part::Whole)
                } else {
                    (rests.model_until.entry(model.to_owned()).or_default(), wait, Part::Model(model))
                }
            }
            _ => return None,
        };
        let wait = wait.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0);
        let begins = until.is_none_or(|held| held <= now);
        let before = until.replace(until.map_or(now + wait, |held| held.max(now + wait)));
        self.tell(index, part, before, now + wait);
        begins.then_some(wait)
    }

    /// Looks whether all keys are awake again; now and then, not per request.
    pub fn look(&self, now: Instant) {
        if !self.restless.load(Ordering::Acquire) {
            return;
        }
        let mut locks = self.keys.iter().map(|key| key.rests.lock().unwrap_or_else(PoisonError::into_inner));
        // All locks are held until the flag is down, so that no rest slips in between.
        let held: Vec<_> = locks.by_ref().collect();
        if held.iter().all(|rests| rests.is_over(now)) {
            self.restless.store(false, Ordering::Release);
        }
    }

    /// How many keys are there and how many of them rest, for the status page.
    pub fn count(&self, now: Instant) -> (usize, usize) {
        let resting = |key: &&Key| {
            let rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
            [rests.refused_until, rests.whole_until, rests.spent_until]
                .into_iter()
                .flatten()
                .any(|until| until > now)
        };
        let keys = || self.keys.iter().filter(|key| key.header.is_some());
        (keys().count(), keys().filter(resting).count())
    }

    /// Replaces our keys in a text that is about to leave this process; `None` where it holds none.
    pub fn redacted(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut clean: Option<Vec<u8>> = None;
        for key in &self.keys {
            let header = key.header.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
            let secret = header.get(b"Bearer ".len()..).unwrap_or_default();
            if secret.len() < 4 {
                continue;
            }
            let text = clean.as_deref().unwrap_or(text);
            let mut kept = 0;
            let mut out = Vec::new();
            for at in memchr::memmem::find_iter(text, secret) {
                out.extend_from_slice(text.get(kept..at).unwrap_or_default());
                out.extend_from_slice(b"[redacted]");
                kept = at + secret.len();
            }
            if kept > 0 {
                out.extend_from_slice(text.get(kept..).unwrap_or_default());
                clean = Some(out);
            }
        }
        clean
    }
}

impl Rests {
    /// Nothing of the past matters any more.
    fn is_over(&self, now: Instant) -> bool {
        let past = |until: &Option<Instant>| until.is_none_or(|until| until <= now);
        past(&self.refused_until)
            && past(&self.whole_until)
            && past(&self.spent_until)
            && self.model_until.values().all(past)
            && self.quota_in_a_row == 0
            && self.limited_in_a_row == 0
    }

    fn cooling(&self, model: &str, now: Instant) -> Duration {
        let left =
            |until: Option<Instant>| until.map_or(Duration::ZERO, |u| u.saturating_duration_since(now));
        left(self.whole_until)
            .max(left(self.spent_until))
            .max(left(self.model_until.get(model).copied().flatten()))
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(times.min(16))).min(longest)
}

#[cfg(test)]
mod tests;
