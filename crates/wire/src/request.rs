//! A peek at a request's body: the few fields that decide where it goes, without building the rest of it.
//! The whole body is validated as JSON all the same, since what is refused here is told to the client in words,
//! and what is let through costs an upstream's time. Not here: bounding the body's size, and judging the model.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::lenient::{self, Name};

/// What of a request's body decides where and how it is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peek {
    /// `None` when the body names none, or names `null`.
    pub model: Option<ModelField>,
    /// The client wants events. Absent and `null` are false.
    pub stream: bool,
    /// `stream_options.include_usage` is true: the client asked for the usage event itself.
    pub include_usage: bool,
    /// The request has an effect beyond its answer (a non-null `previous_response_id` or `conversation`, or
    /// `background: true`): it must not be sent again once an upstream may have seen it.
    pub pinned: bool,
    /// `n`: how many choices are asked for, 1 to 128; 1 where it is missing or odd.
    pub choices: u32,
}

/// The top-level `model` of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// Its value, unescaped.
    pub name: String,
    /// Where its JSON string stands in the body, quotes included; in bytes.
    pub span: Range<usize>,
}

/// Why a body cannot be routed. The text is meant for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeekError {
    /// JSON is UTF-8 by definition.
    NotUtf8,
    /// Where the body stops being JSON; both from 1, the column in bytes.
    InvalidJson {
        /// Counted by newline bytes.
        line: usize,
        /// Counted from the line's first byte; 0 when a line break itself is at fault.
        column: usize,
    },
    /// Valid JSON of another kind.
    NotAnObject,
    /// `model` is neither a string nor `null`.
    ModelNotAString,
    /// `stream` is neither a boolean nor `null`.
    StreamNotABool,
    /// This key stands in the body twice, or beside one that differs from it only in letter case. Readers disagree
    /// on which one counts (Go's, for one, ignores case), and routing by one while the upstream obeys the other
    /// would let a client past its list of models.
    DuplicateKey(&'static str),
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("the body is not UTF-8 text; send JSON encoded as UTF-8"),
            Self::InvalidJson { line, column } => {
                write!(
                    f,
                    "the body is not valid JSON: it breaks at line {line}, column {column}; send one JSON object"
                )
            }
            Self::NotAnObject => {
                f.write_str("the body is JSON but not an object; send {\"model\": \"...\", ...}")
            }
            Self::ModelNotAString => f.write_str("`model` must be a string; send the model's name in quotes"),
            Self::StreamNotABool => {
                f.write_str("`stream` must be true or false, without quotes; leave it out for false")
            }
            Self::DuplicateKey(key) => {
                write!(
                    f,
                    "`{key}` stands in the body more than once (letter case does not count); send it once"
                )
            }
        }
    }
}

impl std::error::Error for PeekError {}

/// Reads what decides a request's way, and validates the whole body. Linear in its length at any depth of
/// nesting; the stack it needs does not grow with the depth.
///
/// # Errors
/// Every [`PeekError`]; a body that is no JSON is reported as such before anything about its fields.
pub fn peek(body: &[u8]) -> Result<Peek, PeekError> {
    let text = std::str::from_utf8(body).map_err(|_| PeekError::NotUtf8)?;
    let first = text.bytes().find(|b| !b.is_ascii_whitespace());
    if first != Some(b'{') {
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => PeekError::NotAnObject,
            Err(error) => invalid(&error),
        });
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    if let Some(key) = fields.duplicate {
        return Err(PeekError::DuplicateKey(key));
    }
    Ok(Peek {
        model: model(text, fields.model)?,
        stream: match fields.stream.map(RawValue::get) {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => return Err(PeekError::StreamNotABool),
        },
        include_usage: fields.include_usage,
        pinned: fields.pinned,
        choices: fields.choices.unwrap_or(1),
    })
}

fn invalid(error: &serde_json::Error) -> PeekError {
    PeekError::InvalidJson { line: error.line(), column: error.column() }
}

fn model(text: &str, raw: Option<&RawValue>) -> Result<Option<ModelField>, PeekError> {
    let Some(token) = raw.map(RawValue::get).filter(|token| *token != "null") else { return Ok(None) };
    if !token.starts_with('"') {
        return Err(PeekError::ModelNotAString);
    }
    // The token is borrowed from the text, so the distance of the two is its place.
    let start = token.as_ptr().addr() - text.as_ptr().addr();
    let span = start..start + token.len();
    match serde_json::from_str::<String>(token) {
        Ok(name) => Ok(Some(ModelField { name, span })),
        // Only a lone surrogate escape is left to fail here: legal JSON grammar, but no text.
        Err(_) => Err(PeekError::ModelNotAString),
    }
}

/// The body with another model's name at the field's place, every other byte as it was. `field` must come from
/// [`peek`] of this very body; a span that lies outside the body leaves it unchanged.
#[must_use]
pub fn replace_model(body: &Bytes, field: &ModelField, model: &str) -> Bytes {
    let (Some(before), Some(after)) = (body.get(..field.span.start), body.get(field.span.end..)) else {
        return body.clone();
    };
    let name = serde_json::Value::from(model).to_string();
    let mut out = Vec::with_capacity(before.len() + name.len() + after.len());
    out.extend_from_slice(before);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(after);
    out.into()
}

/// The known fields of a body, as they stand.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    duplicate: Option<&'static str>,
    include_usage: bool,
    pinned: bool,
    choices: Option<u32>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        let (mut models, mut streams) = (0_u32, 0_u32);
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Model => {
                    fields.model = Some(map.next_value()?);
                    models += 1;
                }
                Name::Stream => {
                    fields.stream = Some(map.next_value()?);
                    streams += 1;
                }
                Name::ModelInOtherCase => {
                    lenient::skip(&mut map)?;
                    models += 1;
                }
                Name::StreamInOtherCase => {
                    lenient::skip(&mut map)?;
                    streams += 1;
                }
                Name::StreamOptions => {
                    let raw: &RawValue = map.next_value()?;
                    fields.include_usage |= lenient::part::<Options>(raw).include_usage;
                }
                Name::PreviousResponseId | Name::Conversation => {
                    fields.pinned |= map.next_value::<&RawValue>()?.get() != "null";
                }
                Name::N => {
                    let asked = lenient::count(map.next_value()?).and_then(|n| u32::try_from(n).ok());
                    fields.choices = asked.filter(|n| (1..=u128::BITS).contains(n));
                }
                Name::Background => fields.pinned |= map.next_value::<&RawValue>()?.get() == "true",
                _ => lenient::skip(&mut map)?,
            }
        }
        // Two of a foreign spelling alone harm nobody: no route was chosen by them.
        fields.duplicate = if fields.model.is_some() && models > 1 {
            Some("model")
        } else if fields.stream.is_some() && streams > 1 {
            Some("stream")
        } else {
            None
        };
        Ok(fields)
    }
}

/// `stream_options`.
#[derive(Default)]
struct Options {
    include_usage: bool,
}

impl<'de> lenient::Shape<'de> for Options {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::IncludeUsage => self.include_usage = map.next_value::<&RawValue>()?.get() == "true",
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
