//! Text waiting to be counted, and the bounds of the work that takes.

use std::borrow::Cow;

use serde_json::Value;
use tiktoken::CoreBpe;

use super::{MAX_COUNTED, MAX_RUN};

/// What a request has the model read.
#[derive(Default)]
pub(super) struct Text<'a> {
    pieces: Vec<Cow<'a, str>>,
    /// Of all pieces, in bytes.
    len: usize,
    /// Tokens that are known without counting.
    pub(super) flat: u64,
}

impl<'a> Text<'a> {
    pub(super) fn add(&mut self, text: &'a str) {
        self.len += text.len();
        self.pieces.push(Cow::Borrowed(text));
    }

    pub(super) fn add_json(&mut self, value: &Value) {
        let json = value.to_string();
        self.len += json.len();
        self.pieces.push(Cow::Owned(json));
    }

    pub(super) fn tokens(&self, vocabulary: &CoreBpe) -> u64 {
        if self.len > MAX_COUNTED {
            return self.flat.saturating_add(estimate(self.len));
        }
        let counted = self.pieces.iter().map(|piece| count(vocabulary, piece));
        counted.fold(self.flat, u64::saturating_add)
    }
}

/// A token for each 3.5 bytes, rounded up.
pub fn estimate(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(2).div_ceil(7)
}

fn count(vocabulary: &CoreBpe, text: &str) -> u64 {
    let (mut tokens, mut start) = (0, 0);
    if text.len() > MAX_RUN {
        for run in long_runs(text) {
            tokens += vocabulary.count(text.get(start..run.start).unwrap_or_default()) as u64;
            tokens += estimate(run.len());
            start = run.end;
        }
    }
    tokens + vocabulary.count(text.get(start..).unwrap_or_default()) as u64
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Letter,
    Digit,
    Blank,
    Other,
}

impl Kind {
    fn of(c: char) -> Self {
        if c.is_alphabetic() {
            Self::Letter
        } else if c.is_numeric() {
            Self::Digit
        } else if c.is_whitespace() {
            Self::Blank
        } else {
            Self::Other
        }
    }
}

/// The runs of one kind of character that are longer than [`MAX_RUN`].
fn long_runs(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut kind) = (0, None);
    for (at, next) in text.char_indices().map(|(at, c)| (at, Some(Kind::of(c)))).chain([(text.len(), None)]) {
        if next != kind {
            if at - start > MAX_RUN {
                runs.push(start..at);
            }
            (start, kind) = (at, next);
        }
    }
    runs
}
