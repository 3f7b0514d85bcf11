//! The store, as the configuration asks for it.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use tidegate_config::used::{self, Config, Kind};
use tidegate_store::Store;
use tidegate_store::answers::Answers;
use tidegate_store::embedded::{Bounds, Embedded};
use tidegate_store::redis::{self, Redis};

/// Calls that no client waits for.
const ASIDE: Duration = Duration::from_millis(250);

/// This process's own, also for what is counted on this node alone and while the store is away.
pub fn embedded() -> Store {
    Store::embedded(Embedded::new(Bounds::default(), crate::clock::since_1970))
}

/// What the nodes share; not waited for. Must be called inside a runtime that lives as long as the process.
pub fn shared(config: &Config) -> Result<Store, String> {
    let Some(store) = &config.store else {
        metrics::gauge!("tidegate_store_up").set(1.0);
        return Ok(embedded());
    };
    let used::StoreUrl { kind, tls, addresses, username, database, master } = store.url.clone();
    let setup = redis::Setup {
        kind: match kind {
            Kind::Single => redis::Kind::Single,
            Kind::Sentinel => redis::Kind::Sentinel { master: master.unwrap_or_default() },
            Kind::Cluster => redis::Kind::Cluster,
        },
        tls,
        ca: store.ca_pem.clone(),
        addresses,
        username,
        password: store.password.clone(),
        database,
        prefix: store.prefix.clone(),
        node: config.node.name.clone(),
    };
    Redis::start(setup).map(Store::redis).map_err(|why| format!("store: {why}"))
}

/// Kept answers, in this node's memory and in `store`.
pub fn answers(config: &Config, store: Store) -> Arc<Answers> {
    let secret = config.store.as_ref().and_then(|store| store.secret.as_ref());
    let secret = secret.map(|secret| secret.expose_secret().as_bytes());
    Answers::new(store, config.node.cache_memory, secret, ASIDE)
}
