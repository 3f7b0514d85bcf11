//! What an upstream's answer says, as far as the gateway must know it: has content come, is it the end, is it an
//! error, what did it cost. One pass over the bytes, which are relayed as they are. Fields of an unexpected type
//! count as absent: upstreams differ, and an answer the client's SDK can read must not fail here.
//! Not here: cutting a stream into events (`sse`), and whether a failure is tried elsewhere (the router).

mod document;

use std::fmt;

use document::{Document, Kind};

use crate::error::{self, UpstreamError};
use crate::lenient;

/// Which endpoint's shapes an answer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/chat/completions`
    Chat,
    /// `/completions`
    Completions,
    /// `/embeddings`
    Embeddings,
    /// `/responses`
    Responses,
    /// Any other endpoint that speaks JSON.
    Other,
}

/// The payload of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// `[DONE]`
    Done,
    /// Not a JSON object.
    Malformed,
    /// What the object says.
    Event(ChunkPeek),
}

/// What one event of a stream says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkPeek {
    /// Something the model made, or the end of an answer (an empty answer is an answer). A role alone is not content.
    pub content: bool,
    /// The answer, or one of its choices, is complete with this event; only other choices, usage and `[DONE]` may
    /// follow.
    pub terminal: bool,
    /// The choices of a chat or completion that appear in the event, a bit for each index from 0 to 127 (a missing or
    /// odd index is 0); an answer of several is complete when each of them has ended. 0 in other dialects.
    pub begun: u128,
    /// Those of them with a `finish_reason`.
    pub ended: u128,
    /// The event reports a failure instead.
    pub error: Option<UpstreamError>,
    /// Tokens of the whole answer so far.
    pub usage: Option<Usage>,
    /// The event's number in a stream that numbers them (Responses), from 0.
    pub sequence_number: Option<u64>,
}

/// The most tokens that a figure of [`Usage`] is believed to be: far above any answer, and sums of them overflow nothing.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// Tokens an answer cost; each figure at most [`TOKENS_MAX`], whatever the upstream says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read by the model, those from its cache included.
    pub prompt: u64,
    /// Written by the model, its reasoning included.
    pub completion: u64,
    /// Of the prompt, those found in the upstream's cache.
    pub cached: u64,
}

/// What a plain answer says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerPeek {
    /// `None` when the upstream does not say.
    pub usage: Option<Usage>,
}

/// Why the body of a 200 is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadAnswer {
    /// No bytes, or white space alone.
    Empty,
    /// Not JSON, or not an object (for [`Dialect::Other`]: nor an array).
    NotJson,
    /// JSON without what the endpoint answers with (`choices`; `data` for embeddings; `output` for responses).
    NoChoices,
    /// An error object under a status that says success.
    Error(UpstreamError),
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the upstream said 200 with an empty body"),
            Self::NotJson => f.write_str("the upstream said 200 with a body that is not JSON"),
            Self::NoChoices => f.write_str("the upstream said 200 with JSON that holds no answer"),
            Self::Error(error) => write!(f, "the upstream said 200 with an error: {}", error.message),
        }
    }
}

impl std::error::Error for BadAnswer {}

/// Reads the payload of one event.
///
/// `content` by dialect: chat, a non-empty `content`, `reasoning_content`, `reasoning`, `refusal`, `tool_calls`,
/// `function_call` or `audio` in any choice's delta; completions, a non-empty `text`; responses, a `type` that ends in
/// `.delta` or begins with `response.output_item.`; others, every object. Whatever is terminal is content too.
///
/// `terminal`: a choice with a `finish_reason`; responses, `response.completed`, `response.failed` and
/// `response.incomplete`; others, also a `type` of `message_stop`, or one that ends in `.completed` or `.done`. That
/// last rule ends a stream of several parts with its first part: it keeps a cut from being taken for an end, and no more.
#[must_use]
pub fn peek_chunk(dialect: Dialect, data: &[u8]) -> Chunk {
    if data.trim_ascii() == b"[DONE]" {
        return Chunk::Done;
    }
    let Some(document) = Document::read(data).filter(|d| d.kind == Kind::Object) else {
        return Chunk::Malformed;
    };
    let name = document.name.map_or("", |raw| raw.get().trim_matches('"'));
    let finished = document.choices.finished;
    let (content, terminal) = match dialect {
        Dialect::Chat => (document.choices.delta, finished),
        Dialect::Completions => (document.choices.text, finished),
        Dialect::Responses => (
            name.ends_with(".delta") || name.starts_with("response.output_item."),
            matches!(name, "response.completed" | "response.failed" | "response.incomplete"),
        ),
        Dialect::Embeddings | Dialect::Other => (
            true,
            finished || name == "message_stop" || name.ends_with(".completed") || name.ends_with(".done"),
        ),
    };
    let chosen = matches!(dialect, Dialect::Chat | Dialect::Completions);
    let failed = document.reports_error() || (dialect == Dialect::Responses && name == "error");
    Chunk::Event(ChunkPeek {
        content: content || terminal,
        terminal,
        begun: if chosen { document.choices.begun } else { 0 },
        ended: if chosen { document.choices.ended } else { 0 },
        error: failed.then(|| error::in_answer(data)),
        usage: document.usage.or(document.response.usage),
        sequence_number: document.sequence_number.and_then(lenient::count),
    })
}

/// Judges the body of a plain answer with status 200. Reads all of it, at the speed of a scan, and copies nothing.
///
/// # Errors
/// Why it is no answer of this dialect. [`Dialect::Other`] takes any object or array: an `error` field may be part of
/// what was asked for there, as in a failed job's record.
pub fn peek_answer(dialect: Dialect, body: &[u8]) -> Result<AnswerPeek, BadAnswer> {
    if body.trim_ascii().is_empty() {
        return Err(BadAnswer::Empty);
    }
    let document = Document::read(body).ok_or(BadAnswer::NotJson)?;
    let answered = match (document.kind, dialect) {
        (Kind::Scalar, _) => return Err(BadAnswer::NotJson),
        (_, Dialect::Other) => true,
        (Kind::Array, _) => false,
        (Kind::Object, Dialect::Chat | Dialect::Completions) => document.choices.some,
        (Kind::Object, Dialect::Embeddings) => document.data.is_array,
        // A response that runs in the background has a status and no output yet.
        (Kind::Object, Dialect::Responses) => document.output.is_array || document.identified,
    };
    if answered {
        return Ok(AnswerPeek { usage: document.usage });
    }
    Err(if document.reports_error() {
        BadAnswer::Error(error::in_answer(body))
    } else {
        BadAnswer::NoChoices
    })
}

#[cfg(test)]
mod tests;
