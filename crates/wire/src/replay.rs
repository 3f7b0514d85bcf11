//! One answer in both of its forms: a stream folded into the plain answer a client would have got, and a plain answer
//! unfolded into the stream. So that what was kept in one form serves those who ask for the other. What cannot be
//! told without guessing is not converted. Not here: cutting streams into events (`sse`), the pace of a replay, and
//! replaying a stream as it came, which needs no conversion.
//!
//! Chat completions and completions. Responses are not converted, in either direction: their events repeat the items
//! they build at several depths, and nothing here could tell a client's SDK the same story. Embeddings do not stream.

mod fold;
mod unfold;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::answer::Dialect;
use crate::body;

/// The most text one event of an unfolded answer carries, in bytes.
pub const MAX_PIECE: usize = 1 << 10;

/// The most bytes of the fields that every event of an unfolded answer repeats.
pub const MAX_HEAD: usize = 1 << 10;

/// The most choices of an answer, and calls of tools in a choice, that are converted. OpenAI takes 128 choices.
pub const MAX_LIST: usize = 128;

type Object = Map<String, Value>;

/// What the two forms of a dialect's answers are called, in `object`.
struct Names {
    plain: &'static str,
    event: &'static str,
}

impl Names {
    fn of(dialect: Dialect) -> Option<Self> {
        match dialect {
            Dialect::Chat => Some(Self { plain: "chat.completion", event: "chat.completion.chunk" }),
            Dialect::Completions => Some(Self { plain: "text_completion", event: "text_completion" }),
            Dialect::Responses | Dialect::Embeddings | Dialect::Other => None,
        }
    }
}

/// The plain answer that a whole stream makes up; `events` are the payloads of its events in order, without `[DONE]`.
///
/// Choices are merged by `index`: texts and lists are joined (the calls of tools each by their own `index`), of other
/// fields the last that is not `null` counts. `id`, `created` and `model` are the first that say something, for some
/// upstreams open with an event that has none; `usage` is the last one told.
///
/// `None` for other dialects; when there is no choice, or one of them never ended; when an event is no JSON object or
/// reports an error; when anything holds sound, is not of the documented shape, or contradicts what came before.
/// Time and memory grow with the stream, whose length the caller bounds.
#[must_use]
pub fn fold(dialect: Dialect, events: &[&[u8]]) -> Option<Vec<u8>> {
    let names = Names::of(dialect)?;
    let mut answer = fold::Answer::new(dialect);
    for event in events {
        answer.add(body::read(event)?)?;
    }
    let mut whole = answer.finish()?;
    whole.insert("object".to_owned(), names.plain.into());
    Some(Value::Object(whole).to_string().into_bytes())
}

/// A plain answer as OpenAI would have streamed it: whole events, `data: [DONE]` the last of them.
///
/// For each choice in order: the role (chat), the text in pieces of at most [`MAX_PIECE`] bytes, each tool's call and
/// its arguments in such pieces, and the `finish_reason`. Then the usage, where `include_usage` asks for it and the
/// answer tells it. Fields unknown here go along with the first event of what they belong to.
///
/// `None` for other dialects; when the answer has no choice, or one that has not ended; when it reports an error, holds
/// sound, is not of the documented shape, has lists longer than [`MAX_LIST`], or more to repeat than [`MAX_HEAD`].
/// Beside the pieces of texts there are at most three events for each choice, and one for each call.
#[must_use]
pub fn unfold(dialect: Dialect, body: &[u8], include_usage: bool) -> Option<Vec<Bytes>> {
    let names = Names::of(dialect)?;
    let answer = body::read(body).filter(|answer| !body::filled(answer.get("error")))?;
    unfold::events(dialect, names.event, answer, include_usage)
}

#[cfg(test)]
mod tests;
