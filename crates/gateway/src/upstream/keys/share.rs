//! Rests that are known to all nodes: what a key is called without being said, and what another node's word does.
//!
//! A node tells of a rest as soon as it begins, into a bounded queue: what finds it full is not told, and the other
//! nodes find out by a refusal of their own.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{KeyRing, MODELS_MAX, QUOTA_LONGEST};

/// A rest that grows by less is not told again.
const NEWS: Duration = Duration::from_secs(1);
/// No other node makes a key rest for longer: the longest of our own, with its jitter.
const LONGEST: Duration = QUOTA_LONGEST.saturating_add(Duration::from_secs(360));
/// Models with longer names rest on each node for itself.
const MODEL_MAX: usize = 256;
/// Of a digest.
const NAME_BYTES: usize = 8;

/// A rest to tell other nodes of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// Names key and extent, the same on all nodes: `HASH`, `HASH!` (refused), `HASH$` (out of quota) or `HASH/MODEL`.
    pub name: String,
    /// Its end.
    pub until: Instant,
}

/// What of a key rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Whole,
    /// Out of quota.
    Spent,
    /// Tried only where nothing else is left.
    Refused,
    Model(&'a str),
}

#[derive(Debug)]
pub(super) struct Shared {
    /// In the order of the keys.
    names: Vec<String>,
    tell: mpsc::Sender<Rest>,
}

impl Part<'_> {
    /// `None`: too long to be told.
    fn name(self, key: &str) -> Option<String> {
        match self {
            Self::Whole => Some(key.to_owned()),
            Self::Refused => Some(format!("{key}!")),
            Self::Spent => Some(format!("{key}$")),
            Self::Model(model) => (model.len() <= MODEL_MAX).then(|| format!("{key}/{model}")),
        }
    }
}

impl KeyRing {
    /// From now on other nodes are told of rests through `tell`. `salt` keeps those who read the store from trying keys
    /// against their names. Only the first call counts.
    pub fn share(&self, base_url: &str, salt: Option<&[u8]>, tell: mpsc::Sender<Rest>) {
        let name = |key: &super::Key| {
            let header = key.header.as_ref().map(http::HeaderValue::as_bytes).unwrap_or_default();
            let secret = header.strip_prefix(b"Bearer ").unwrap_or_default();
            name_of(base_url, secret, salt)
        };
        let names = self.keys.iter().map(name).collect();
        // A second call finds it taken, which is as good.
        let _ = self.shared.set(Shared { names, tell });
    }

    /// What the keys are called, in their order; empty while nothing is shared.
    pub fn names(&self) -> &[String] {
        self.shared.get().map(|shared| shared.names.as_slice()).unwrap_or_default()
    }

    /// All rests that have not ended, for nodes that were not told.
    pub fn running(&self, now: Instant) -> Vec<Rest> {
        let mut running = Vec::new();
        for (key, name) in self.keys.iter().zip(self.names()) {
            let rests = key.rests.lock().unwrap_or_else(PoisonError::into_inner);
            let models = rests.model_until.iter().map(|(model, until)| (Part::Model(model), *until));
            let own = [
                (Part::Whole, rests.whole_until),
                (Part::Spent, rests.spent_until),
                (Part::Refused, rests.refused_until),
            ];
            let rest = |(part, until): (Part<'_>, Option<Instant>)| {
                Some(Rest { name: part.name(name)?, until: until.filter(|until| *until > now)? })
            };
            running.extend(own.into_iter().chain(models).filter_map(rest));
        }
        running
    }

    /// Another node's word: a rest that still lasts `left`. Only makes rests longer. False: not one of these keys.
    pub fn apply(&self, name: &str, left: Duration, now: Instant) -> bool {
        let (key, part) = match name.split_once('/') {
            Some((key, model)) => (key, Part::Model(model)),
            None => match (name.strip_suffix('!'), name.strip_suffix('$')) {
                (Some(key), _) => (key, Part::Refused),
                (None, Some(key)) => (key, Part::Spent),
                (None, None) => (name, Part::Whole),
            },
        };
        let until = now + left.min(LONGEST);
        let mut known = false;
        for (held, rests) in self.names().iter().zip(self.keys.iter().map(|key| &key.rests)) {
            if held != key {
                continue;
            }
            known = true;
            let mut rests = rests.lock().unwrap_or_else(PoisonError::into_inner);
            let rests = &mut *rests;
            let rest = match part {
                Part::Whole => &mut rests.whole_until,
                Part::Spent => &mut rests.spent_until,
                // It has worked here since.
                Part::Refused if rests.forgiven_until.is_some_and(|forgiven| until <= forgiven + NEWS) => {
                    continue;
                }
                Part::Refused => &mut rests.refused_until,
                Part::Model(model) => {
                    rests.model_until.retain(|_, until| until.is_some_and(|until| until > now));
                    if rests.model_until.len() >= MODELS_MAX && !rests.model_until.contains_key(model) {
                        continue;
                    }
                    rests.model_until.entry(model.to_owned()).or_default()
                }
            };
            *rest = Some(rest.map_or(until, |held| held.max(until)));
            self.restless.store(true, Ordering::Release);
        }
        known
    }

    /// Tells of a rest that begins, or is now to end far later.
    pub(super) fn tell(&self, index: usize, part: Part<'_>, before: Option<Instant>, until: Instant) {
        let Some(shared) = self.shared.get() else { return };
        if before.is_some_and(|before| until < before + NEWS) {
            return;
        }
        if let Some(name) = shared.names.get(index).and_then(|key| part.name(key)) {
            // A full queue: see above.
            let _ = shared.tell.try_send(Rest { name, until });
        }
    }
}

fn name_of(base_url: &str, secret: &[u8], salt: Option<&[u8]>) -> String {
    let text = [base_url.as_bytes(), b"\0", secret].concat();
    let hex = |bytes: &[u8]| bytes.iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect();
    match salt {
        Some(salt) => hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), &text).as_ref()),
        None => hex(digest::digest(&digest::SHA256, &text).as_ref()),
    }
}
