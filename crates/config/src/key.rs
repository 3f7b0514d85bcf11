//! How a client's key is known without being kept.

use aws_lc_rs::digest::{SHA256, digest};

/// SHA-256 of a bearer key: what `key_sha256` holds and what a request's key is looked up by. Keys of 256 random
/// bits need no salt and no slow hash.
#[must_use]
pub fn hash_key(key: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(digest(&SHA256, key.as_bytes()).as_ref()) {
        *to = *from;
    }
    hash
}

/// The first 16 hex digits of the SHA-256 of a file: enough to see that two nodes run by the same one.
pub(crate) fn file_hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
