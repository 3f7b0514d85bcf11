//! Which requests may be answered from an earlier answer, and which answers may be kept for it. Both judge by what is
//! known to be harmless: a shape, a tool or a part of a content that is not known here is not cached, which costs a
//! call and never serves a wrong answer. Not here: the key (`canonical`), and what route, client and `Cache-Control`
//! allow.

use serde_json::Value;

use crate::answer::Dialect;
use crate::body::{self, Body, given};

/// Whether a request may be answered from the cache, and its answer kept there.
///
/// Never: other endpoints than the four; tools that run at the upstream; what continues or starts something the
/// upstream keeps (`background`, `previous_response_id`, `conversation`, a stored `prompt`, `store: true`, and every
/// request to Responses that does not say `store: false`); anything but text in what is asked or wanted; a body of a
/// shape not known here.
///
/// `only_deterministic` further asks for `temperature` 0 or a `seed`. An absent `temperature` is 1. Embeddings are
/// deterministic.
#[must_use]
pub fn may_cache(dialect: Dialect, body: &[u8], only_deterministic: bool) -> bool {
    let Some(body) = body::read(body) else { return false };
    let deterministic = dialect == Dialect::Embeddings
        || body.get("temperature").and_then(Value::as_f64) == Some(0.0)
        || given(&body, "seed").is_some();
    (deterministic || !only_deterministic)
        && !body::is_stateful(dialect, &body)
        && !stores(dialect, &body)
        && !body::has_hosted_tools(&body)
        && body::wants_text_alone(&body)
        && is_plain_text(dialect, &body)
}

/// Whether the upstream is to keep the answer, where the client, who was told so, may look for it.
fn stores(dialect: Dialect, body: &Body) -> bool {
    match given(body, "store") {
        None => dialect == Dialect::Responses,
        Some(store) => *store != false,
    }
}

fn is_plain_text(dialect: Dialect, body: &Body) -> bool {
    let prompt = body::prompt_key(dialect).and_then(|key| body.get(key));
    match (dialect, prompt) {
        (Dialect::Chat | Dialect::Responses, Some(Value::Array(items))) => body::makeup(dialect, items)
            .is_some_and(|makeup| !items.is_empty() && !makeup.media && !makeup.hosted && !makeup.references),
        (Dialect::Completions | Dialect::Embeddings | Dialect::Responses, Some(Value::String(_))) => true,
        (Dialect::Completions | Dialect::Embeddings, Some(Value::Array(all))) => {
            let is_prompt = |one: &Value| match one {
                Value::String(_) | Value::Number(_) => true,
                Value::Array(tokens) => tokens.iter().all(Value::is_number),
                _ => false,
            };
            !all.is_empty() && all.iter().all(is_prompt)
        }
        _ => false,
    }
}

/// Whether a plain answer may be kept: it is whole, ended by the model itself, and says what was asked for.
///
/// Chat and completions: every choice has a `finish_reason` of `stop`, `tool_calls` or `function_call`, none a refusal
/// or sound. Embeddings: `data` holds a vector for each entry. Responses: the `status` is `completed`, and the output
/// is of messages, reasoning and calls of the client's own tools. Never: an error under a 200, other endpoints.
#[must_use]
pub fn may_keep(dialect: Dialect, answer: &[u8]) -> bool {
    let Some(answer) = body::read(answer).filter(|answer| !body::filled(answer.get("error"))) else {
        return false;
    };
    let all = |key: &str, good: fn(&Value) -> bool| {
        answer
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(|items| !items.is_empty() && items.iter().all(good))
    };
    match dialect {
        Dialect::Chat => all("choices", |choice| {
            let message = choice.get("message").and_then(Value::as_object);
            ended_well(choice)
                && message.is_some_and(|message| {
                    !body::filled(message.get("refusal")) && given(message, "audio").is_none()
                })
        }),
        Dialect::Completions => {
            all("choices", |choice| ended_well(choice) && choice.get("text").is_some_and(Value::is_string))
        }
        Dialect::Embeddings => all("data", |entry| body::filled(entry.get("embedding"))),
        Dialect::Responses => {
            answer.get("status").is_some_and(|status| status == "completed")
                && given(&answer, "incomplete_details").is_none()
                && all("output", is_own_output)
        }
        Dialect::Other => false,
    }
}

fn ended_well(choice: &Value) -> bool {
    let reason = choice.get("finish_reason").and_then(Value::as_str);
    matches!(reason, Some("stop" | "tool_calls" | "function_call"))
}

/// Whether an item of a Responses output is neither a refusal nor from a tool that ran at the upstream.
fn is_own_output(item: &Value) -> bool {
    match item.get("type").and_then(Value::as_str) {
        Some("message") => item.get("content").and_then(Value::as_array).is_some_and(|parts| {
            parts.iter().all(|part| part.get("type").is_some_and(|kind| kind == "output_text"))
        }),
        Some("reasoning" | "function_call" | "custom_tool_call") => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
