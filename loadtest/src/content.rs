//! What the mock says, and how the generator knows that it heard all of it, once and in order.
//!
//! A piece is `<n>:<bytes of text>:<text>`, and the text follows from the seed, `n` and its length alone. So a
//! piece that is lost, doubled, moved, shortened or altered is found without the two sides talking about it.
//! Not here: how pieces travel (`mock`, `load`).

use std::fmt::Write as _;
use std::sync::LazyLock;

/// Long enough that two pieces rarely share text, small enough to stay in the cache.
const POOL_BYTES: usize = 32 * 1024;
/// Largest text of one piece.
pub const TEXT_MAX: usize = 8 * 1024 * 1024;
/// Characters of one to four bytes, so that cutting anywhere also cuts inside characters. None needs escaping
/// in JSON: the mock writes pieces without looking at them.
const LETTERS: &str =
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ,.;-_ äöüß éèñ ж д я 中文字 あ 🌊🚪";

static POOL: LazyLock<String> = LazyLock::new(|| {
    let letters: Vec<char> = LETTERS.chars().collect();
    let mut random = fastrand::Rng::with_seed(0x7469_6465);
    let mut pool = String::with_capacity(POOL_BYTES + 4);
    while pool.len() < POOL_BYTES {
        pool.extend(random.choice(&letters));
    }
    pool
});

/// Mixes seed and number (splitmix64's finisher), so that neighbours share nothing.
fn mix(seed: u64, n: u32) -> u64 {
    let mut z = seed ^ u64::from(n).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Feeds `each` with the text of piece `n`, at most `bytes` long (whole characters only, so up to 3 shorter).
fn text(seed: u64, n: u32, bytes: usize, mut each: impl FnMut(&str)) {
    let pool = POOL.as_str();
    let mut from = pool.floor_char_boundary((mix(seed, n) % pool.len() as u64) as usize);
    let mut left = bytes.min(TEXT_MAX);
    loop {
        let rest = pool.get(from..).unwrap_or_default();
        let part = rest.get(..rest.floor_char_boundary(left)).unwrap_or_default();
        each(part);
        left -= part.len();
        if part.len() < rest.len() || left == 0 {
            return;
        }
        from = 0;
    }
}

/// Appends piece `n` of the stream `seed`, its text about `bytes` long (at most `TEXT_MAX`).
pub fn push_piece(out: &mut String, seed: u64, n: u32, bytes: usize) {
    let mut length = 0;
    text(seed, n, bytes, |part| length += part.len());
    // Writing to a String cannot fail.
    let _ = write!(out, "{n}:{length}:");
    text(seed, n, length, |part| out.push_str(part));
}

/// Why a stream is not what the mock sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corrupt {
    /// A piece that is not `<n>:<length>:<text>`.
    Form,
    /// Another piece than the next one: one was lost, doubled or moved.
    Order {
        /// The number that was due.
        want: u32,
        /// The number that came.
        got: u32,
    },
    /// The text is not the one its seed gives.
    Text {
        /// Which piece.
        n: u32,
    },
    /// The stream ended in order, but with another number of pieces.
    Count {
        /// As asked for, or as the end of the stream says.
        want: u32,
        /// How many came.
        got: u32,
    },
}

/// Follows one stream from piece 0 to its end.
#[derive(Debug)]
pub struct Sequence {
    seed: u64,
    next: u32,
}

impl Sequence {
    /// Expects piece 0 of the stream `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    /// Pieces that came so far.
    pub fn pieces(&self) -> u32 {
        self.next
    }

    /// Takes the next piece. Errors: it is not the next one, or not as it was sent.
    pub fn take(&mut self, piece: &str) -> Result<(), Corrupt> {
        let (n, rest) = piece.split_once(':').ok_or(Corrupt::Form)?;
        let (length, said) = rest.split_once(':').ok_or(Corrupt::Form)?;
        let n: u32 = n.parse().map_err(|_| Corrupt::Form)?;
        let length: usize = length.parse().map_err(|_| Corrupt::Form)?;
        if n != self.next {
            return Err(Corrupt::Order { want: self.next, got: n });
        }
        let mut rest = Some(said);
        text(self.seed, n, length, |part| rest = rest.and_then(|rest| rest.strip_prefix(part)));
        if rest != Some("") || said.len() != length {
            return Err(Corrupt::Text { n });
        }
        self.next += 1;
        Ok(())
    }

    /// The end of the stream. Errors: not as many pieces as `want`.
    pub fn finish(&self, want: u32) -> Result<(), Corrupt> {
        if self.next == want { Ok(()) } else { Err(Corrupt::Count { want, got: self.next }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(seed: u64, count: u32, bytes: usize) -> Vec<String> {
        (0..count)
            .map(|n| {
                let mut piece = String::new();
                push_piece(&mut piece, seed, n, bytes);
                piece
            })
            .collect()
    }

    fn verify(seed: u64, pieces: &[String]) -> Result<u32, Corrupt> {
        let mut sequence = Sequence::new(seed);
        pieces.iter().try_for_each(|piece| sequence.take(piece))?;
        Ok(sequence.pieces())
    }

    #[test]
    fn whole_streams_of_every_size_are_accepted() {
        for bytes in [0, 1, 3, 20, 600, POOL_BYTES + 5, 3 * POOL_BYTES] {
            assert_eq!(verify(7, &pieces(7, 20, bytes)), Ok(20), "{bytes} bytes");
        }
    }

    #[test]
    fn a_piece_is_as_long_as_asked_for_up_to_a_character() {
        for (seed, bytes) in (0..200).flat_map(|seed| [(seed, 20), (seed, POOL_BYTES + 9)]) {
            let mut length = 0;
            text(seed, 0, bytes, |part| length += part.len());
            assert!(length <= bytes && length + 3 >= bytes, "{length} of {bytes}");
        }
    }

    #[test]
    fn a_lost_a_doubled_and_a_moved_piece_are_found() {
        let whole = pieces(7, 20, 20);
        let mut lost = whole.clone();
        lost.remove(5);
        assert_eq!(verify(7, &lost), Err(Corrupt::Order { want: 5, got: 6 }));
        let mut doubled = whole.clone();
        doubled.insert(5, whole[5].clone());
        assert_eq!(verify(7, &doubled), Err(Corrupt::Order { want: 6, got: 5 }));
        let mut moved = whole.clone();
        moved.swap(3, 9);
        assert_eq!(verify(7, &moved), Err(Corrupt::Order { want: 3, got: 9 }));
    }

    #[test]
    fn a_lost_end_is_found() {
        let mut sequence = Sequence::new(7);
        for piece in &pieces(7, 19, 20) {
            sequence.take(piece).unwrap();
        }
        assert_eq!(sequence.finish(20), Err(Corrupt::Count { want: 20, got: 19 }));
        assert_eq!(sequence.finish(19), Ok(()));
    }

    #[test]
    fn every_altered_character_is_found() {
        let whole = pieces(7, 1, 40).remove(0);
        for (at, letter) in whole.char_indices() {
            let altered = format!("{}#{}", &whole[..at], &whole[at + letter.len_utf8()..]);
            assert!(verify(7, &[altered]).is_err(), "at byte {at}");
        }
        let shorter = whole[..whole.len() - whole.chars().last().unwrap().len_utf8()].to_owned();
        assert!(verify(7, &[shorter]).is_err());
        assert!(verify(7, &[format!("{whole}x")]).is_err());
    }

    #[test]
    fn a_piece_of_another_stream_is_found() {
        assert_eq!(verify(8, &pieces(7, 1, 40)), Err(Corrupt::Text { n: 0 }));
    }

    #[test]
    fn pieces_need_no_escaping_in_json() {
        let piece = pieces(3, 1, 2 * POOL_BYTES).remove(0);
        assert_eq!(serde_json::to_string(&piece).unwrap(), format!("\"{piece}\""));
    }
}
