//! A request's body as a whole, for the few requests that are rewritten: mirrored ones, and those fitted to another
//! model. It owns where each endpoint keeps its text, its state and its bound on tokens. A shape it does not know is
//! told as such and never guessed at: the one place for a request nobody understood is the upstream it was meant for.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::answer::Dialect;

/// A body's top level.
pub(crate) type Body = Map<String, Value>;

/// The memory the values of a body may take beside their text, in bytes. Made of nothing but `{"":0}`, a body would
/// take ninety times its own length; a conversation takes about twice.
const MAX_MEMORY: usize = 64 << 20;

/// Reads a body. `None` when it is no JSON object, is nested deeper than serde_json's 128, would take more than
/// [`MAX_MEMORY`], or holds a number or text that a `Value` cannot hold. Of a key that stands there twice the last
/// counts.
pub(crate) fn read(body: &[u8]) -> Option<Body> {
    (memory(body) <= MAX_MEMORY).then(|| serde_json::from_slice(body).ok()).flatten()
}

/// An upper estimate of what the values take, from the marks that stand before each.
fn memory(body: &[u8]) -> usize {
    // The least node of a map has room for 11 entries; a list grows by doubling.
    const MAP: usize = 640;
    const ENTRY: usize = 2 * size_of::<Value>();
    let (mut sum, mut inside, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b'{' if !inside => sum = sum.saturating_add(MAP),
            b',' | b'[' if !inside => sum = sum.saturating_add(ENTRY),
            _ => {}
        }
    }
    sum
}

/// The body as JSON.
pub(crate) fn write(body: Body) -> Bytes {
    Value::Object(body).to_string().into()
}

/// A field's value; `null` counts as absent.
pub(crate) fn given<'a>(body: &'a Body, key: &str) -> Option<&'a Value> {
    body.get(key).filter(|value| !value.is_null())
}

/// Whether a value says something: not `null`, `false`, `""`, `[]` or `{}`.
pub(crate) fn filled(value: Option<&Value>) -> bool {
    value.is_some_and(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    })
}

/// Whether the answer depends on what the upstream keeps, or leaves something there besides the answer. A stored
/// prompt of the Responses API counts: what stands in it, hosted tools included, is not to be seen from here.
pub(crate) fn is_stateful(dialect: Dialect, body: &Body) -> bool {
    given(body, "previous_response_id").is_some()
        || given(body, "conversation").is_some()
        || body.get("background").is_some_and(|value| value != false && !value.is_null())
        || (dialect == Dialect::Responses && given(body, "prompt").is_some())
}

/// Whether it may set off tools that run at the upstream. A tool of a type unknown here counts as one.
pub(crate) fn has_hosted_tools(body: &Body) -> bool {
    let own = |tool: &Value| {
        tool.get("type").and_then(Value::as_str).is_some_and(|kind| matches!(kind, "function" | "custom"))
    };
    given(body, "web_search_options").is_some()
        || given(body, "tools").is_some_and(|tools| !tools.as_array().is_some_and(|all| all.iter().all(own)))
}

/// Whether the answer is to be text, and neither sound nor pictures.
pub(crate) fn wants_text_alone(body: &Body) -> bool {
    let text_only = match given(body, "modalities") {
        None => true,
        Some(Value::Array(all)) => all.iter().all(|one| one == "text"),
        Some(_) => false,
    };
    text_only && given(body, "audio").is_none()
}

/// The field that holds what the model reads.
pub(crate) fn prompt_key(dialect: Dialect) -> Option<&'static str> {
    match dialect {
        Dialect::Chat => Some("messages"),
        Dialect::Completions => Some("prompt"),
        Dialect::Embeddings | Dialect::Responses => Some("input"),
        Dialect::Other => None,
    }
}

/// What messages, or items of a Responses input, are made of besides text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Makeup {
    /// Images, audio, files, and parts of a type unknown here.
    pub(crate) media: bool,
    /// Calls of the client's own tools, and what these returned.
    pub(crate) tools: bool,
    /// Calls of tools that run at the upstream, and items of a type unknown here.
    pub(crate) hosted: bool,
    /// Items the upstream keeps.
    pub(crate) references: bool,
}

/// What a list of messages is made of. `None` when one of them is of a shape not known here.
pub(crate) fn makeup(dialect: Dialect, items: &[Value]) -> Option<Makeup> {
    let mut all = Makeup::default();
    for item in items {
        let item = item.as_object()?;
        let kind = match item.get("type") {
            Some(Value::String(kind)) if dialect == Dialect::Responses => kind,
            None | Some(_) => "message",
        };
        match kind {
            "message" => all.media |= media(item.get("content"))? || given(item, "audio").is_some(),
            "reasoning" => all.media |= media(item.get("content"))? || media(item.get("summary"))?,
            "function_call" | "custom_tool_call" => all.tools = true,
            "function_call_output" | "custom_tool_call_output" => {
                all.tools = true;
                all.media |= media(item.get("output"))?;
            }
            "item_reference" => all.references = true,
            _ => all.hosted = true,
        }
        all.tools |= matches!(role(item), "tool" | "function")
            || filled(item.get("tool_calls"))
            || filled(item.get("function_call"));
    }
    Some(all)
}

/// Whether a content holds anything but text.
fn media(content: Option<&Value>) -> Option<bool> {
    match content {
        None | Some(Value::Null | Value::String(_)) => Some(false),
        Some(Value::Array(parts)) if parts.iter().all(|part| part.is_string() || part.is_object()) => {
            Some(!parts.iter().all(is_text))
        }
        Some(_) => None,
    }
}

/// Whether a part of a content is text.
pub(crate) fn is_text(part: &Value) -> bool {
    const TEXT: [&str; 6] =
        ["text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text"];
    part.is_string() || part.get("type").and_then(Value::as_str).is_some_and(|kind| TEXT.contains(&kind))
}

/// The role of a message; empty when it has none.
pub(crate) fn role(message: &Body) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

/// The fields that bound the tokens of an answer; the last is the one to set where none is.
pub(crate) fn limit_keys(dialect: Dialect) -> &'static [&'static str] {
    match dialect {
        Dialect::Chat => &["max_completion_tokens", "max_tokens"],
        Dialect::Completions => &["max_tokens"],
        Dialect::Responses => &["max_output_tokens"],
        Dialect::Embeddings | Dialect::Other => &[],
    }
}

/// Bounds the tokens of an answer: lowers the bounds the request has, or sets one. A bound that is no number, or a
/// negative one (some servers take it for none at all), is replaced. Tells whether anything changed.
pub(crate) fn cap(dialect: Dialect, body: &mut Body, most: u32) -> bool {
    let keys = limit_keys(dialect);
    let set: Vec<_> = keys.iter().filter(|key| given(body, key).is_some()).collect();
    let mut changed = false;
    for key in if set.is_empty() { keys.last().into_iter().collect() } else { set } {
        let low =
            body.get(*key).and_then(Value::as_f64).is_some_and(|n| (0.0..=f64::from(most)).contains(&n));
        if !low {
            body.insert((*key).to_owned(), most.into());
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
pub(crate) mod strategy;
