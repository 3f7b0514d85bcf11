//! `store:` as written.

use crate::read::said;
use crate::secret::Secret;
use crate::unit::{Count, Text, Time};

said! {
    /// What nodes share: limits, cache, leases.
    Store: "`store`", needs [url] {
        /// `redis://[USER@]HOST:6379/0`, `redis+sentinel://H1:26379,H2:26379/MASTER/0` or `redis+cluster://H1:7000,H2:7001`;
        /// over TLS `rediss://`, `rediss+sentinel://` or `rediss+cluster://`.
        url: Text,
        /// Password of the store.
        password: Secret,
        /// No request waits longer than this on the store, all calls together. Default 25ms.
        timeout: Time,
        /// Begins every key; nodes that share a store have the same. Default `tidegate:`.
        prefix: Text,
        /// How many nodes a node that never saw the store assumes. Default 1.
        expected_nodes: Count,
        /// Keys the cache hashes; absent: plain SHA-256.
        secret: Secret,
        /// Whom a store over TLS is trusted by.
        tls: StoreTls,
    }
}

said! {
    /// Trust in the certificates of a store over TLS, which are always verified.
    StoreTls: "`store.tls`", needs [ca] {
        /// PEM file with CAs used instead of the built-in ones.
        ca: Text,
    }
}
