//! `store:` as the program uses it.
//!
//! Owns nothing that changes. Not here: how a key is read (`build::store`, `url::store`), and connections.

use std::time::Duration;

use secrecy::SecretString;

/// What nodes share their state through.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where it is.
    pub url: StoreUrl,
    /// Sent when a connection begins. `None`: no password.
    pub password: Option<SecretString>,
    /// No request waits longer than this on the store, all calls together; 1ms to 1s. Default 25ms.
    pub timeout: Duration,
    /// Begins every key: 1 to 64 bytes of printable ASCII without spaces and braces. Default `tidegate:`.
    pub prefix: String,
    /// How many nodes a node that never saw the store assumes, 1 to 1000. Default 1.
    pub expected_nodes: u32,
    /// Keys the cache's hashes. `None`: plain SHA-256.
    pub secret: Option<SecretString>,
    /// PEM text of a CA bundle used instead of the built-in roots; only over TLS.
    pub ca_pem: Option<Vec<u8>>,
}

/// `store.url`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// What answers there.
    pub kind: Kind,
    /// Whether connections are made over TLS.
    pub tls: bool,
    /// Host (lower-case, IPv6 without brackets) and port: one of `Single`, 1 to 32 of the others, none twice.
    pub addresses: Vec<(String, u16)>,
    /// User of the data nodes. `None`: the default user.
    pub username: Option<String>,
    /// Number of the database, 0 to 1000000; 0 for a cluster. Default 0.
    pub database: i64,
    /// The master's name; `Sentinel` has one and the others none.
    pub master: Option<String>,
}

/// What answers at a store's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One Redis.
    Single,
    /// Sentinels, which say where the master is.
    Sentinel,
    /// Some nodes of a Redis Cluster, which say where the others are.
    Cluster,
}
