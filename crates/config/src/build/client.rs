//! `clients:`.

use std::collections::HashMap;

use tidegate_router::glob::Glob;

use super::check::{globs, unbuilt};
use super::limit;
use crate::fault::{Collector, quote};
use crate::read::{Item, Said};
use crate::said::client;
use crate::unit::Text;
use crate::used;

/// The clients; `None` when the list is unsaid or one of them cannot be used.
pub(super) fn clients(
    said: &Said<Vec<Item<client::Client>>>,
    faults: &mut Collector,
) -> Option<Vec<used::Client>> {
    let (items, place) = said.at()?;
    if items.is_empty() {
        faults
            .fault(place, "no client: nobody could call; write one, or remove `clients` to let anyone call");
    }
    let mut keys: HashMap<[u8; 32], &str> = HashMap::new();
    let mut all = Vec::with_capacity(items.len());
    for item in items {
        let client = one(&item.value, faults);
        if let (Some(client), Some((Text(name), _)), Some((_, place))) =
            (&client, item.value.name.at(), item.value.key_sha256.at())
        {
            match keys.get(&client.key_sha256) {
                Some(other) => {
                    let text = format!("client {} has this very key: give each its own", quote(other));
                    faults.fault(place, text);
                }
                None => {
                    keys.insert(client.key_sha256, name);
                }
            }
        }
        all.push(client);
    }
    all.into_iter().collect()
}

fn one(said: &client::Client, faults: &mut Collector) -> Option<used::Client> {
    let limits = limit::inner(&said.limits, used::Per::Client, faults);
    unbuilt(&said.signing_secret, "signing_secret", faults);
    globs(&said.models, faults);
    if let Some(([], place)) = said.models.at().map(|(models, place)| (models.as_slice(), place)) {
        faults.fault(place, "no model: this client could ask for nothing; remove `models` to allow all");
    }
    let key_sha256 = said.key_sha256.at().and_then(|(Text(digits), place)| {
        let key = hex(digits);
        if key.is_none() {
            faults.fault(
                place,
                "the SHA-256 of a key is 64 hex digits: `tidegate keygen` prints a key and the entry for it",
            );
        }
        key
    });
    let models = said.models.get().map(|models| models.iter().map(|item| Glob::new(&item.value.0)).collect());
    Some(used::Client { name: said.name.get()?.0.clone(), key_sha256: key_sha256?, models, limits })
}

fn hex(digits: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != key.len() || !rest.is_empty() {
        return None;
    }
    for (byte, &[high, low]) in key.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(key)
}
