//! `store:` as written.

use crate::read::said;
use crate::secret::Secret;
use crate::unit::{Count, Text, Time};

said! {
    /// What nodes share: limits, cache, leases.
    Store: "`store`", needs [url] {
        /// `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`.
        url: Text,
        /// Password of the store.
        password: Secret,
        /// No request waits longer than this on the store, all calls together. Default 25ms.
        timeout: Time,
        /// Begins every key. Default `tidegate:`.
        prefix: Text,
        /// How many nodes a node that never saw the store assumes.
        expected_nodes: Count,
        /// Keys the cache hashes; absent: plain SHA-256.
        secret: Secret,
    }
}
