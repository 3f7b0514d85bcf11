//! What an answer is called, and the seal that shows an entry to be ours.
//!
//! With a secret both are HMAC-SHA256, so that who reads or writes the store can neither guess a request from its
//! key nor put an answer there; without one they are SHA-256, which only finds damage.

use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};

/// Changes when keys are to mean something else.
const KEYS: &[u8] = &[1];
const SEALS: &[u8] = &[2];
/// Bytes of a seal.
pub(super) const SEAL: usize = 16;

/// Names an answer. Equal requests have equal keys, and only they.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub(super) [u8; 32]);

impl Key {
    /// 64 lower-case digits: its name in the store.
    #[must_use]
    pub fn hex(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// Makes keys and seals.
pub(super) struct Sealer(Option<hmac::Key>);

impl Sealer {
    pub fn new(secret: Option<&[u8]>) -> Self {
        Self(secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Each part goes in after its length, so that no two lists of parts read the same.
    pub fn key(&self, parts: &[&[u8]]) -> Key {
        let lengths: Vec<_> = parts.iter().map(|part| (part.len() as u64).to_le_bytes()).collect();
        let sized = lengths.iter().zip(parts).flat_map(|(length, part)| [length.as_slice(), part]);
        Key(self.digest(std::iter::once(KEYS).chain(sized)))
    }

    /// Of an entry under its key: the same bytes under another key have another seal.
    pub fn seal(&self, key: &Key, bytes: &[u8]) -> [u8; SEAL] {
        let digest = self.digest([SEALS, &key.0, bytes].into_iter());
        let mut seal = [0; SEAL];
        seal.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        seal
    }

    pub fn is_sealed(&self, key: &Key, bytes: &[u8], seal: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.seal(key, bytes), seal).is_ok()
    }

    fn digest<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
        let mut out = [0; 32];
        let mut fill = |bytes: &[u8]| out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        if let Some(secret) = &self.0 {
            let mut context = hmac::Context::with_key(secret);
            parts.for_each(|part| context.update(part));
            fill(context.sign().as_ref());
        } else {
            let mut context = digest::Context::new(&digest::SHA256);
            parts.for_each(|part| context.update(part));
            fill(context.finish().as_ref());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_by_where_parts_end_and_by_the_secret() {
        let plain = Sealer::new(None);
        let keyed = Sealer::new(Some(b"secret"));
        let other = Sealer::new(Some(b"Secret"));
        assert_eq!(plain.key(&[b"ab", b"c"]), plain.key(&[b"ab", b"c"]));
        assert_ne!(plain.key(&[b"ab", b"c"]), plain.key(&[b"a", b"bc"]));
        assert_ne!(plain.key(&[b"abc"]), plain.key(&[b"abc", b""]));
        assert_ne!(plain.key(&[b"abc"]), keyed.key(&[b"abc"]));
        assert_ne!(other.key(&[b"abc"]), keyed.key(&[b"abc"]));
        assert_eq!(keyed.key(&[b"abc"]).hex().len(), 64);
    }

    #[test]
    fn a_seal_holds_for_its_key_and_its_bytes_alone() {
        let sealer = Sealer::new(Some(b"secret"));
        let (key, other) = (sealer.key(&[b"a"]), sealer.key(&[b"b"]));
        let seal = sealer.seal(&key, b"bytes");
        assert!(sealer.is_sealed(&key, b"bytes", &seal));
        assert!(!sealer.is_sealed(&other, b"bytes", &seal));
        assert!(!sealer.is_sealed(&key, b"bytez", &seal));
        assert!(!Sealer::new(None).is_sealed(&key, b"bytes", &seal));
        assert!(!sealer.is_sealed(&key, b"bytes", &seal[..8]));
    }
}
