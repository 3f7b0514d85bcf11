//! A kept answer, and how it is written into the store.
//!
//! Versioned, compressed where that pays, and sealed under its key. What cannot be read in full is no entry at all:
//! the caller takes it for a miss and removes it. No wall clock goes in: an entry says for how long it was to be kept,
//! the store says for how long it still will be, and the difference is its age.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::key::{Key, SEAL, Sealer};

const MAGIC: &[u8] = b"TGA\x01";
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const LEVEL: i32 = 1;
/// Below this, compression costs more than it saves.
const SMALL: usize = 512;
/// What an entry may come to when read: four times the largest answer that a route may keep.
const READ_MAX: usize = 4 * 64 * 1024 * 1024;
/// Each piece takes memory of its own, however short.
const PIECES_MAX: usize = 1 << 20;
/// Longer than anybody keeps an answer; keeps times within what a clock can add.
pub(super) const KEPT_MAX: Duration = Duration::from_hours(24 * 400);

/// What goes before the pieces of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// The `content-type`.
    pub content_type: String,
    /// The pieces are a stream's events, else one body.
    pub streamed: bool,
    /// The caller's own; it comes back as it was.
    pub about: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What goes first.
    pub head: Head,
    /// A stream's whole events, or one body.
    pub pieces: Vec<Bytes>,
    /// As given to `find` by who made it.
    pub(super) note: String,
    /// Fresh until this age.
    pub(super) ttl: Duration,
    /// Kept until this age.
    pub(super) life: Duration,
    /// When it is at that age.
    pub(super) until: Instant,
}

impl Kept {
    /// Copies the pieces together: as they came, each may hold a whole read buffer in memory.
    pub(super) fn new(head: Head, pieces: &[Bytes], note: &str, ttl: Duration, stale: Duration) -> Self {
        let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| all.put_slice(piece));
        let mut all = all.freeze();
        let pieces = pieces.iter().map(|piece| all.split_to(piece.len())).collect();
        // Whole milliseconds, as they are written: else an age would change on the way through the store.
        let whole = |time: Duration| Duration::from_millis(time.min(KEPT_MAX).as_millis() as u64);
        let (ttl, life) = (whole(ttl), whole(ttl.saturating_add(stale)));
        Self { head, pieces, note: note.to_owned(), ttl, life, until: Instant::now() + life }
    }

    /// Since it was made.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.life.saturating_sub(self.left())
    }

    /// Past its time, though still kept.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.age() >= self.ttl
    }

    /// Until it is no longer kept; zero once it is not.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Bytes of memory, roughly.
    pub(super) fn weight(&self) -> usize {
        /// The struct, its place in the tier and the header of a piece.
        const OWN: usize = 384;
        const PIECE: usize = size_of::<Bytes>();
        let text = self.head.content_type.len() + self.head.about.len() + self.note.len();
        OWN + text + self.pieces.iter().map(|piece| PIECE + piece.len()).sum::<usize>()
    }
}

/// `None` for what is too large to be read again.
pub(super) fn encode(sealer: &Sealer, key: &Key, kept: &Kept) -> Option<Bytes> {
    let mut body = Vec::new();
    body.put_u64_le(u64::try_from(kept.ttl.as_millis()).ok()?);
    body.put_u64_le(u64::try_from(kept.life.as_millis()).ok()?);
    put_text(&mut body, &kept.note)?;
    put_head(&mut body, &kept.head)?;
    body.put_u32_le(u32::try_from(kept.pieces.len()).ok()?);
    for piece in &kept.pieces {
        body.put_u32_le(u32::try_from(piece.len()).ok()?);
    }
    kept.pieces.iter().for_each(|piece| body.put_slice(piece));
    if body.len() > READ_MAX || kept.pieces.len() > PIECES_MAX {
        return None;
    }
    let packed = (body.len() > SMALL)
        .then(|| zstd::bulk::compress(&body, LEVEL).ok())
        .flatten()
        .filter(|packed| packed.len() < body.len());
    let mut entry = BytesMut::with_capacity(packed.as_ref().map_or(body.len(), Vec::len) + 32);
    entry.put_slice(MAGIC);
    entry.put_u8(if packed.is_some() { ZSTD } else { PLAIN });
    entry.put_u32_le(u32::try_from(body.len()).ok()?);
    entry.put_slice(packed.as_deref().unwrap_or(&body));
    let seal = sealer.seal(key, &entry);
    entry.put_slice(&seal);
    Some(entry.freeze())
}

/// `left`: for how long the store still keeps it.
pub(super) fn decode(sealer: &Sealer, key: &Key, entry: &Bytes, left: Duration) -> Option<Arc<Kept>> {
    let (sealed, seal) = entry.split_at_checked(entry.len().checked_sub(SEAL)?)?;
    if !sealer.is_sealed(key, sealed, seal) {
        return None;
    }
    let mut rest = entry.slice(..sealed.len());
    if take(&mut rest, MAGIC.len())? != MAGIC {
        return None;
    }
    let packing = rest.try_get_u8().ok()?;
    let size = usize::try_from(rest.try_get_u32_le().ok()?).ok().filter(|size| *size <= READ_MAX)?;
    let mut body = match packing {
        PLAIN => rest,
        ZSTD => Bytes::from(zstd::bulk::decompress(&rest, size).ok()?),
        _ => return None,
    };
    if body.len() != size {
        return None;
    }
    let ttl = Duration::from_millis(body.try_get_u64_le().ok()?);
    let life = Duration::from_millis(body.try_get_u64_le().ok()?);
    if life > KEPT_MAX {
        return None;
    }
    let note = take_text(&mut body)?;
    let head = take_head(&mut body)?;
    let count = usize::try_from(body.try_get_u32_le().ok()?).ok().filter(|count| *count <= PIECES_MAX)?;
    let mut lengths = take(&mut body, count.checked_mul(4)?)?;
    let mut pieces = Vec::with_capacity(count);
    while let Ok(length) = lengths.try_get_u32_le() {
        pieces.push(take(&mut body, usize::try_from(length).ok()?)?);
    }
    let until = Instant::now() + left.min(life);
    body.is_empty().then(|| Arc::new(Kept { head, pieces, note, ttl, life, until }))
}

pub(super) fn put_head(to: &mut impl BufMut, head: &Head) -> Option<()> {
    to.put_u16_le(head.status);
    to.put_u8(u8::from(head.streamed));
    put_text(to, &head.content_type)?;
    put_text(to, &head.about)
}

pub(super) fn take_head(from: &mut Bytes) -> Option<Head> {
    let status = from.try_get_u16_le().ok()?;
    let streamed = match from.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Head { status, streamed, content_type: take_text(from)?, about: take_text(from)? })
}

fn put_text(to: &mut impl BufMut, text: &str) -> Option<()> {
    to.put_u32_le(u32::try_from(text.len()).ok()?);
    to.put_slice(text.as_bytes());
    Some(())
}

fn take_text(from: &mut Bytes) -> Option<String> {
    let length = usize::try_from(from.try_get_u32_le().ok()?).ok()?;
    String::from_utf8(take(from, length)?.into()).ok()
}

fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= from.len()).then(|| from.split_to(length))
}

#[cfg(test)]
mod tests;
