//! The copy of a live request that a recovering upstream is tried with, and the made-up request that stands in for
//! one. A copy must cost little, leave nothing behind at the upstream, and say nothing about who asked; a request
//! that cannot be copied so is not mirrored at all. Not here: who may be mirrored where and how often (the router
//! decides, by route, client and budget), and judging the answer.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::answer::Dialect;
use crate::body::{self, Body, given};

/// The longest body that is mirrored, in bytes: 4096 tokens at the 4 bytes a token of English has. Shadows are to
/// prove an upstream at a small price, and short requests prove it as well as long ones.
pub const MAX_BODY: usize = 16 << 10;

/// How a copy differs from the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorRules {
    /// The most tokens its answer may have; a lower bound of the original's stays.
    pub max_tokens: u32,
    /// The model thinks before it answers: it gets all of `max_tokens`, whatever the original allows, and is asked
    /// for little effort. A model cut off while it thinks says nothing, and would look broken.
    pub reasoning: bool,
}

/// Why a request is not mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotMirrored {
    /// It continues or starts something the upstream keeps.
    Stateful,
    /// It may set off tools that run at the upstream: they cost, and some act.
    HostedTools,
    /// It holds or asks for more than text.
    Media,
    /// It asks for more than one answer.
    SeveralChoices,
    /// Its body is longer than [`MAX_BODY`].
    TooLong,
    /// It is not of the endpoint's documented shape, so what it would do is not known.
    Unreadable,
    /// What its endpoint does is not known here.
    OtherEndpoint,
}

impl NotMirrored {
    /// One word, for metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stateful => "stateful",
            Self::HostedTools => "hosted_tools",
            Self::Media => "media",
            Self::SeveralChoices => "several_choices",
            Self::TooLong => "too_long",
            Self::Unreadable => "unreadable",
            Self::OtherEndpoint => "other_endpoint",
        }
    }
}

/// The copy of a live request that a recovering upstream may be sent: its answer bounded, nothing stored, the fields
/// that tell users apart left out, usage reported where it streams. The model stays: which one the upstream calls it
/// is the caller's to know.
///
/// # Errors
/// Every [`NotMirrored`].
pub fn mirror(dialect: Dialect, body: &[u8], rules: MirrorRules) -> Result<Bytes, NotMirrored> {
    if dialect == Dialect::Other {
        return Err(NotMirrored::OtherEndpoint);
    }
    if body.len() > MAX_BODY {
        return Err(NotMirrored::TooLong);
    }
    let mut body = body::read(body).ok_or(NotMirrored::Unreadable)?;
    judge(dialect, &body)?;
    for key in ["user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"] {
        body.remove(key);
    }
    bound(dialect, &mut body, rules);
    if dialect == Dialect::Responses || (dialect == Dialect::Chat && body.contains_key("store")) {
        body.insert("store".to_owned(), false.into());
    }
    if body.get("stream").is_some_and(|stream| stream == true) {
        report_usage(dialect, &mut body);
    }
    Ok(body::write(body))
}

fn judge(dialect: Dialect, body: &Body) -> Result<(), NotMirrored> {
    if body::is_stateful(dialect, body) {
        return Err(NotMirrored::Stateful);
    }
    if body::has_hosted_tools(body) {
        return Err(NotMirrored::HostedTools);
    }
    if !body::wants_text_alone(body) {
        return Err(NotMirrored::Media);
    }
    if ["n", "best_of"].iter().any(|key| given(body, key).is_some_and(|n| n.as_f64() != Some(1.0))) {
        return Err(NotMirrored::SeveralChoices);
    }
    judge_prompt(dialect, body::prompt_key(dialect).and_then(|key| body.get(key)))
}

fn judge_prompt(dialect: Dialect, prompt: Option<&Value>) -> Result<(), NotMirrored> {
    match (dialect, prompt) {
        (Dialect::Chat | Dialect::Responses, Some(Value::Array(items))) if !items.is_empty() => {
            let makeup = body::makeup(dialect, items).ok_or(NotMirrored::Unreadable)?;
            if makeup.references {
                Err(NotMirrored::Stateful)
            } else if makeup.hosted {
                Err(NotMirrored::HostedTools)
            } else if makeup.media {
                Err(NotMirrored::Media)
            } else {
                Ok(())
            }
        }
        (Dialect::Responses | Dialect::Completions | Dialect::Embeddings, Some(Value::String(_))) => Ok(()),
        (Dialect::Completions, Some(Value::Array(prompts))) => match prompts.as_slice() {
            [Value::String(_) | Value::Array(_)] => Ok(()),
            [Value::Number(_), rest @ ..] if rest.iter().all(Value::is_number) => Ok(()),
            // Each prompt of a list gets an answer of its own.
            [_, _, ..] => Err(NotMirrored::SeveralChoices),
            [] | [_] => Err(NotMirrored::Unreadable),
        },
        (Dialect::Embeddings, Some(Value::Array(inputs))) if inputs.iter().any(Value::is_object) => {
            Err(NotMirrored::Media)
        }
        (Dialect::Embeddings, Some(Value::Array(inputs))) if !inputs.is_empty() => Ok(()),
        _ => Err(NotMirrored::Unreadable),
    }
}

fn bound(dialect: Dialect, body: &mut Body, rules: MirrorRules) {
    // A least number of tokens, which some servers know, is refused where it is above the most.
    body.remove("min_tokens");
    if !rules.reasoning {
        body::cap(dialect, body, rules.max_tokens);
        return;
    }
    for key in body::limit_keys(dialect) {
        body.remove(*key);
    }
    think_little(dialect, body, rules.max_tokens);
}

/// Bounds the answer of a model that thinks, in the fields such models take.
fn think_little(dialect: Dialect, body: &mut Body, max_tokens: u32) {
    match dialect {
        Dialect::Chat | Dialect::Other => {
            body.insert("max_completion_tokens".to_owned(), max_tokens.into());
            body.insert("reasoning_effort".to_owned(), "low".into());
        }
        Dialect::Completions => {
            body.insert("max_tokens".to_owned(), max_tokens.into());
        }
        Dialect::Responses => {
            body.insert("max_output_tokens".to_owned(), max_tokens.into());
            set_in(body, "reasoning", "effort", "low".into());
        }
        Dialect::Embeddings => {}
    }
}

fn report_usage(dialect: Dialect, body: &mut Body) {
    if matches!(dialect, Dialect::Chat | Dialect::Completions | Dialect::Other) {
        set_in(body, "stream_options", "include_usage", true.into());
    }
}

/// Sets a field of the object at a key, keeping its others; anything but an object there is replaced.
fn set_in(body: &mut Body, key: &str, field: &str, value: Value) {
    match body.get_mut(key) {
        Some(Value::Object(entries)) => {
            entries.insert(field.to_owned(), value);
        }
        _ => {
            body.insert(key.to_owned(), json!({field: value}));
        }
    }
}

/// A made-up request: `prompt` asked of `model`, its answer at most `max_tokens` long. `reasoning` as in
/// [`MirrorRules`]. Nothing is stored. Embeddings neither stream nor have a bound; for other endpoints it is a chat.
#[must_use]
pub fn synthetic(
    dialect: Dialect,
    model: &str,
    prompt: &str,
    max_tokens: u32,
    reasoning: bool,
    stream: bool,
) -> Bytes {
    let mut body = Body::new();
    body.insert("model".to_owned(), model.into());
    match dialect {
        Dialect::Chat | Dialect::Other => {
            body.insert("messages".to_owned(), json!([{"role": "user", "content": prompt}]));
        }
        Dialect::Completions => {
            body.insert("prompt".to_owned(), prompt.into());
        }
        Dialect::Embeddings => {
            body.insert("input".to_owned(), prompt.into());
        }
        Dialect::Responses => {
            body.insert("input".to_owned(), prompt.into());
            body.insert("store".to_owned(), false.into());
        }
    }
    let shape = if dialect == Dialect::Other { Dialect::Chat } else { dialect };
    if reasoning {
        think_little(shape, &mut body, max_tokens);
    } else {
        body::cap(shape, &mut body, max_tokens);
    }
    if stream && shape != Dialect::Embeddings {
        body.insert("stream".to_owned(), true.into());
        report_usage(shape, &mut body);
    }
    body::write(body)
}

/// Whether a plain answer says anything: text, a call of a tool, a refusal, a vector. For judging a recovering
/// upstream; to a client an empty answer goes as it came.
#[must_use]
pub fn says_something(dialect: Dialect, answer: &[u8]) -> bool {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return false };
    let list = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let filled = |value: Option<&Value>| match value {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(fields)) => !fields.is_empty(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_)) | None => false,
    };
    match dialect {
        Dialect::Chat => list("choices").iter().filter_map(|choice| choice.get("message")).any(|message| {
            const SAYS: [&str; 7] = [
                "content",
                "tool_calls",
                "refusal",
                "reasoning_content",
                "reasoning",
                "function_call",
                "audio",
            ];
            SAYS.iter().any(|key| filled(message.get(key)))
        }),
        Dialect::Completions => list("choices").iter().any(|choice| filled(choice.get("text"))),
        Dialect::Embeddings => list("data").iter().any(|item| filled(item.get("embedding"))),
        Dialect::Responses => !list("output").is_empty(),
        Dialect::Other => true,
    }
}

#[cfg(test)]
mod tests;
