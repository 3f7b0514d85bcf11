//! This process's memory keeps the promises of the store.

#[macro_use]
mod suite;

use std::time::Duration;

use tidegate_store::Store;
use tidegate_store::embedded::{Bounds, Embedded};

use suite::Pair;

/// Noon of some day, and stays there: no case meets midnight.
const NOON: Duration = Duration::from_secs(20_000 * 86_400 + 43_200);

async fn pair() -> Option<Pair> {
    let here = Store::embedded(Embedded::new(Bounds::default(), || NOON));
    Some(Pair { there: here.clone(), here, alive: Box::new(()) })
}

cases!(crate::pair);
