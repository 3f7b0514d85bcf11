//! How many tokens a request will cost, before it is sent: for limits, which reserve by it and settle by the usage the
//! upstream reports. An estimate, therefore, and quick before it is exact: what would take long to count is judged by
//! its length. Owns the choice of a vocabulary and the bounds of the work; the tokenizer's crate shows nowhere outside.
//! Of an answer whose upstream tells no usage, as much as its length says. Not here: what a token costs.

mod text;

use std::sync::OnceLock;

use serde::de::MapAccess;
use serde_json::Value;
use tiktoken::CoreBpe;

use crate::answer::Dialect;
use crate::body::{self, Body, given};
use crate::lenient::{self, Name, Shape};
use text::Text;
pub use text::estimate;

/// The most text of one request that is counted, in bytes; what is longer is estimated. Some 0.2 ms of work, and below
/// 5 ms for text made to be slow.
pub const MAX_COUNTED: usize = 32 << 10;

/// The longest run of one kind of character (letters, digits, blanks, others) that is counted, in bytes. The tokenizer
/// takes such a run as one piece, and gets slow over it; texts in any script have shorter ones.
pub const MAX_RUN: usize = 4 << 10;

/// What a picture, a sound or a file counts: what OpenAI charges for a picture of 1024 x 1024. How large it really is
/// only the upstream knows.
pub const MEDIA_TOKENS: u64 = 765;

/// Tokens each message costs beside its text, and each answer to a conversation, by OpenAI's cookbook.
const PER_MESSAGE: u64 = 3;
/// A name costs one more.
const PER_NAME: u64 = 1;

/// The vocabularies. Cheap to copy: they are loaded once for the process.
#[derive(Clone, Copy)]
pub struct Counter {
    o200k: &'static CoreBpe,
    cl100k: &'static CoreBpe,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl Counter {
    /// Loads the vocabularies: some hundred milliseconds at the first call, so call it at start and not on an async
    /// worker. About 24 MB for the process; each thread that counts adds a memo of 1.2 MB.
    #[must_use]
    pub fn load() -> Self {
        static O200K: OnceLock<CoreBpe> = OnceLock::new();
        static CL100K: OnceLock<CoreBpe> = OnceLock::new();
        Self {
            o200k: O200K.get_or_init(tiktoken::encoding::o200k_base),
            cl100k: CL100K.get_or_init(tiktoken::encoding::cl100k_base),
        }
    }

    /// The tokens of what a request has the model read: messages, prompts or inputs (in other endpoints: all three),
    /// instructions, tools, schemas of the answer.
    ///
    /// Text is counted in cl100k_base for `gpt-4`, `gpt-4-*`, `gpt-3.5*`, `gpt-35*` and `text-embedding-*`, in
    /// o200k_base for all other models, whose own vocabularies are not at hand; a prefix up to `/` or `ft:` does not
    /// count to the name. Tools and schemas count as their JSON. Prompts that are tokens already count themselves. More
    /// text than [`MAX_COUNTED`], runs longer than [`MAX_RUN`], and a body of no known shape are estimated as a token
    /// for each 3.5 bytes.
    #[must_use]
    pub fn prompt_tokens(&self, dialect: Dialect, model: &str, body: &[u8]) -> u64 {
        let Some(whole) = body::read(body) else { return text::estimate(body.len()) };
        let mut text = Text::default();
        read(dialect, &whole, &mut text);
        text.tokens(self.vocabulary(model))
    }

    fn vocabulary(&self, model: &str) -> &'static CoreBpe {
        const OLD: [&str; 4] = ["gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-"];
        let name = model.rsplit('/').next().unwrap_or(model);
        let name = name.strip_prefix("ft:").unwrap_or(name);
        if name == "gpt-4" || OLD.iter().any(|prefix| name.starts_with(prefix)) {
            self.cl100k
        } else {
            self.o200k
        }
    }
}

/// Gathers what the model reads.
fn read<'a>(dialect: Dialect, body: &'a Body, text: &mut Text<'a>) {
    const PROMPTS: [&str; 3] = ["messages", "prompt", "input"];
    let own = body::prompt_key(dialect);
    for key in PROMPTS.into_iter().filter(|key| own.is_none_or(|own| own == *key)) {
        match body.get(key) {
            Some(Value::Array(items)) if items.iter().any(Value::is_object) => {
                text.flat += PER_MESSAGE;
                items.iter().for_each(|item| message(item, text));
            }
            Some(prompt) => prompts(prompt, text),
            None => {}
        }
    }
    if let Some(Value::String(suffix)) = body.get("suffix") {
        text.add(suffix);
    }
    if let Some(instructions) = given(body, "instructions") {
        text.flat += PER_MESSAGE;
        content(instructions, text);
    }
    let format = body.get("text").and_then(|text| text.get("format"));
    let beside = ["tools", "functions", "response_format"].into_iter().filter_map(|key| body.get(key));
    for json in beside.chain(format).filter(|json| body::filled(Some(json))) {
        text.add_json(json);
    }
}

/// A prompt, or several: texts, tokens, or lists of tokens.
fn prompts<'a>(prompt: &'a Value, text: &mut Text<'a>) {
    match prompt {
        Value::String(prompt) => text.add(prompt),
        Value::Number(_) => text.flat += 1,
        Value::Array(all) => all.iter().for_each(|one| prompts(one, text)),
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
}

/// A message, or an item of a Responses input.
fn message<'a>(item: &'a Value, text: &mut Text<'a>) {
    let Value::Object(fields) = item else { return prompts(item, text) };
    text.flat += PER_MESSAGE;
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("content" | "summary" | "output" | "refusal" | "reasoning_content" | "reasoning", value) => {
                content(value, text);
            }
            ("role" | "arguments" | "input" | "text", Value::String(string)) => text.add(string),
            ("name", Value::String(name)) => {
                text.flat += PER_NAME;
                text.add(name);
            }
            ("tool_calls", Value::Array(calls)) => calls.iter().for_each(|call| called(call, text)),
            ("function_call", call @ Value::Object(_)) => named(call, text),
            // A part of an embeddings input that has no message around it.
            ("image_url" | "image", _) => text.flat += MEDIA_TOKENS,
            _ => {}
        }
    }
}

fn called<'a>(call: &'a Value, text: &mut Text<'a>) {
    text.flat += PER_MESSAGE;
    ["function", "custom"].into_iter().filter_map(|kind| call.get(kind)).for_each(|call| named(call, text));
}

fn named<'a>(call: &'a Value, text: &mut Text<'a>) {
    for key in ["name", "arguments", "input"] {
        if let Some(Value::String(string)) = call.get(key) {
            text.add(string);
        }
    }
}

/// A text, or a list of parts.
fn content<'a>(content: &'a Value, text: &mut Text<'a>) {
    match content {
        Value::String(string) => text.add(string),
        Value::Array(parts) => {
            for part in parts {
                match part {
                    Value::String(string) => text.add(string),
                    part if body::is_text(part) => {
                        let said = ["text", "refusal"].into_iter().filter_map(|key| part.get(key)?.as_str());
                        said.for_each(|said| text.add(said));
                    }
                    Value::Object(_) if part.get("role").is_some() => message(part, text),
                    Value::Object(_) => text.flat += MEDIA_TOKENS,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// The most tokens the client allows for an answer: the largest of `max_tokens`, `max_completion_tokens` and
/// `max_output_tokens`, for which of them the upstream obeys is its own affair. `None` when none of them is a number
/// of 0 or more. Numbers beyond 2^64 are 2^64 - 1.
#[must_use]
pub fn asked_output(body: &[u8]) -> Option<u64> {
    let raw = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
    lenient::part::<Bounds>(raw).most
}

/// The tokens of a plain answer whose upstream does not say: one for each 3.5 bytes of the whole body, its JSON
/// included, so rather too many than too few, and never 0. 0 where the model writes no text: embeddings, and endpoints
/// whose answers may be pictures or scores ([`Dialect::Other`]).
#[must_use]
pub fn answer_tokens(dialect: Dialect, body: &[u8]) -> u64 {
    match dialect {
        Dialect::Chat | Dialect::Completions | Dialect::Responses => estimate(body.len()).max(1),
        Dialect::Embeddings | Dialect::Other => 0,
    }
}

#[derive(Default)]
struct Bounds {
    most: Option<u64>,
}

impl<'de> Shape<'de> for Bounds {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::MaxTokens | Name::MaxCompletionTokens | Name::MaxOutputTokens => {
                    let raw: &serde_json::value::RawValue = map.next_value()?;
                    let number = || raw.get().parse::<f64>().ok().filter(|n| *n >= 0.0);
                    // A fraction is no bound an upstream takes, but some would cut it off.
                    self.most = self.most.max(lenient::count(raw).or_else(|| number().map(|n| n as u64)));
                }
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
