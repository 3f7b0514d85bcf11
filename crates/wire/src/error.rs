//! Errors as they stand in bodies: reading an upstream's, in all the shapes upstreams have for them, and writing
//! the gateway's own in OpenAI's shape, which is what SDKs turn into their typed exceptions.
//! Not here: statuses, and what a failure means for a path (the router judges by what is read here).

use bytes::Bytes;
use serde::Serialize;
use serde::de::{MapAccess, SeqAccess};
use serde_json::value::RawValue;

use crate::answer::Dialect;
use crate::lenient::{self, Name, Shape};

/// The event that ends a stream of chat or text completions.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// What an upstream says went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    /// Most specific; a number becomes its text.
    pub code: Option<String>,
    /// The `type` field.
    pub kind: Option<String>,
    /// For people; the error's JSON when it has no message of its own.
    pub message: String,
}

/// Reads an error body: `{"error": {...}}`, `{"error": "text"}`, a bare `{"message", "type", "code"}`, `{"detail":
/// ...}`, Anthropic's `{"type": "error", "error": {...}}`, and any of these as the only item of a list. `None` for
/// any other body, an HTML page for one.
#[must_use]
pub fn parse_error(body: &[u8]) -> Option<UpstreamError> {
    let text = std::str::from_utf8(body).ok()?;
    let raw: &RawValue = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let top = lenient::part::<Body<'_>>(raw);
    top.first.map_or(top.fields, lenient::part::<Fields<'_>>).error()
}

/// The error in an answer that was found to report one.
pub(crate) fn in_answer(body: &[u8]) -> UpstreamError {
    parse_error(body).unwrap_or_else(|| UpstreamError {
        message: String::from_utf8_lossy(body).into_owned(),
        ..UpstreamError::default()
    })
}

/// A document that is an error, or a list of them.
#[derive(Default)]
struct Body<'a> {
    first: Option<&'a RawValue>,
    fields: Fields<'a>,
}

impl<'de> Shape<'de> for Body<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        self.fields.object(map)
    }

    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        self.first = items.next_element()?;
        Fields::default().array(items)
    }
}

/// The fields errors are told with, at whatever depth.
#[derive(Default)]
struct Fields<'a> {
    error: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    msg: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    error_type: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    code: Option<&'a RawValue>,
    detail: Option<&'a RawValue>,
}

impl<'de> Shape<'de> for Fields<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Error => self.error = Some(map.next_value()?),
                Name::Message => self.message = Some(map.next_value()?),
                Name::Msg => self.msg = Some(map.next_value()?),
                Name::Type => self.kind = Some(map.next_value()?),
                Name::ErrorType => self.error_type = Some(map.next_value()?),
                Name::Status => self.status = Some(map.next_value()?),
                Name::Code => self.code = Some(map.next_value()?),
                Name::Detail => self.detail = Some(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

impl<'a> Fields<'a> {
    fn error(self) -> Option<UpstreamError> {
        if let Some(raw) = self.error {
            if raw.get().starts_with('{') {
                let inner = lenient::part::<Fields<'a>>(raw);
                return Some(UpstreamError {
                    code: text(inner.code).or_else(|| text(self.code)),
                    // Google's `status` is the word for its numeric `code`.
                    kind: text(inner.kind).or_else(|| text(inner.status)),
                    message: text(inner.message)
                        .or_else(|| text(inner.detail))
                        .unwrap_or_else(|| raw.get().to_owned()),
                });
            }
            if let Some(message) = text(Some(raw)).filter(|message| !message.is_empty()) {
                return Some(UpstreamError {
                    code: text(self.code),
                    kind: text(self.error_type).or_else(|| text(self.kind)),
                    message: text(self.message).map_or(message.clone(), |more| format!("{message}: {more}")),
                });
            }
        }
        let message = text(self.message).or_else(|| self.detail.and_then(detail))?;
        Some(UpstreamError { code: text(self.code), kind: text(self.kind), message })
    }
}

fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.and_then(lenient::text)
}

/// FastAPI's `detail`: a text, an object, or a list of what is wrong with each field.
fn detail(raw: &RawValue) -> Option<String> {
    lenient::text(raw).or_else(|| {
        let body = lenient::part::<Body<'_>>(raw);
        let fields = body.first.map_or(body.fields, lenient::part::<Fields<'_>>);
        let said = text(fields.msg).or_else(|| text(fields.message)).or_else(|| text(fields.error));
        said.or_else(|| lenient::filled(raw).then(|| raw.get().to_owned()))
    })
}

impl UpstreamError {
    /// Our account there is out of money or quota. Waiting for the next minute does not help.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        self.named(&[
            "insufficient_quota",
            "billing_hard_limit_reached",
            "billing_not_active",
            "insufficient_balance",
        ]) || self.says(&["credit balance", "exceeded your current quota", "insufficient balance"])
    }

    /// The upstream does not have the model, or not for us.
    #[must_use]
    pub fn is_model_not_found(&self) -> bool {
        self.named(&["model_not_found", "DeploymentNotFound"])
            || (self.says(&["model"])
                && (self.says(&["does not exist", "not found", "do not have access to"])
                    || self.named(&["not_found_error", "NotFoundError"])))
    }

    /// The request is longer than the model's context.
    #[must_use]
    pub fn is_context_length(&self) -> bool {
        self.named(&["context_length_exceeded", "exceed_context_size_error"])
            || self.says(&[
                "maximum context length",
                "maximum model length",
                "context length exceeded",
                "exceeds the available context size",
                "exceed context limit",
                "prompt is too long",
            ])
    }

    /// The upstream refuses the content, of the request or of its own answer.
    #[must_use]
    pub fn is_content_filter(&self) -> bool {
        self.named(&[
            "content_filter",
            "content_policy_violation",
            "ResponsibleAIPolicyViolation",
            "moderation_blocked",
        ]) || self.says(&["content management policy", "safety system"])
    }

    fn named(&self, names: &[&str]) -> bool {
        let is = |field: &Option<String>| {
            field.as_deref().is_some_and(|value| names.iter().any(|name| value.eq_ignore_ascii_case(name)))
        };
        is(&self.code) || is(&self.kind)
    }

    fn says(&self, phrases: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        phrases.iter().any(|phrase| message.contains(phrase))
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// The Responses API's event: released SDKs raise on the nested `error`, typed clients read the flat fields.
#[derive(Serialize)]
struct FlatEvent<'a> {
    #[serde(rename = "type")]
    event: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<&'a str>,
    sequence_number: u64,
    error: Told<'a>,
}

/// An error of ours as a body: `{"error": {"message", "type", "param", "code"}}`.
#[must_use]
pub fn error_body(message: &str, kind: &str, code: &str, param: Option<&str>) -> Bytes {
    json(&Envelope { error: Told { message, kind, param, code } }).into()
}

/// An error of ours as the last event of a stream. For Responses its `sequence_number` is 0; where the number that
/// went before is known, [`responses_error_event`] takes the next one.
#[must_use]
pub fn error_event(dialect: Dialect, message: &str, kind: &str, code: &str) -> Bytes {
    match dialect {
        Dialect::Responses => responses_error_event(message, kind, code, 0),
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings | Dialect::Other => {
            event("", &json(&Envelope { error: Told { message, kind, param: None, code } }))
        }
    }
}

/// An error of ours as the last event of a Responses stream.
#[must_use]
pub fn responses_error_event(message: &str, kind: &str, code: &str, sequence_number: u64) -> Bytes {
    let error = Told { message, kind, param: None, code };
    let body = json(&FlatEvent { event: "error", code, message, param: None, sequence_number, error });
    event("event: error\n", &body)
}

fn event(head: &str, body: &[u8]) -> Bytes {
    [head.as_bytes(), b"data: ", body, b"\n\n"].concat().into()
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to memory cannot fail, and these types hold nothing that JSON cannot.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
