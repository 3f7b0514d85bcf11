//! Sections whose feature is not built: each is refused by name, and checked all the same, so that one reading
//! shows every fault.

use std::time::Duration;

use super::check::{Names, count, time, unbuilt, unbuilt_list};
use crate::fault::Collector;
use crate::read::{Item, Said};
use crate::said::client::{Alg, Auth};
use crate::said::filter::Filter;
use crate::said::{Batch, Conversations};

pub(super) fn auth(said: &Said<Auth>, clients: &Names<'_>, faults: &mut Collector) {
    unbuilt(said, "auth", faults);
    let Some(auth) = said.get() else { return };
    if let Some(jwt) = auth.jwt.get() {
        time(&jwt.max_age, "max_age", Duration::ZERO, faults);
        for item in jwt.keys.items() {
            let key = &item.value;
            let Some(&alg) = key.alg.get() else { continue };
            let shared = matches!(alg, Alg::Hs256 | Alg::Hs384 | Alg::Hs512);
            let (due, other) = if shared {
                (("secret", key.secret.key()), ("public_key", key.public_key.key()))
            } else {
                (("public_key", key.public_key.key()), ("secret", key.secret.key()))
            };
            if due.1.is_none() {
                faults.fault(item.place, format!("`{}` is missing: {} needs it", due.0, alg.word()));
            }
            if let Some(place) = other.1 {
                faults.fault(place, format!("`{}` does not go with {}", other.0, alg.word()));
            }
        }
    }
    if let Some(signature) = auth.signature.get() {
        time(&signature.window, "window", Duration::ZERO, faults);
        for item in signature.required_for.items() {
            clients.find(&item.value.0, item.place, faults);
        }
    }
}

pub(super) fn filters(said: &Said<Vec<Item<Filter>>>, faults: &mut Collector) {
    unbuilt_list(said, "filters", faults);
    for item in said.items() {
        if item.value.words_file.key().is_none() && item.value.patterns.key().is_none() {
            faults.fault(item.place, "this filter looks for nothing: it needs `words_file` or `patterns`");
        }
    }
}

pub(super) fn batch(said: &Said<Batch>, faults: &mut Collector) {
    unbuilt(said, "batch", faults);
    let Some(batch) = said.get() else { return };
    time(&batch.window, "window", Duration::ZERO, faults);
    count(&batch.max, "max", 1..=10_000, 0, faults);
}

pub(super) fn conversations(said: &Said<Conversations>, faults: &mut Collector) {
    unbuilt(said, "conversations", faults);
}
