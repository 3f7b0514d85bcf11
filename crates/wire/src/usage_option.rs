//! Usage of streams. OpenAI tells the tokens of a streamed answer only to those who ask for it, and the gateway must
//! know them: it asks in the client's stead, and takes the answer out again where the client had not asked. Bytes that
//! need no change stay as they came. Not here: dialects that always tell (Responses), and what tokens are counted for.

use bytes::Bytes;
use serde::de::MapAccess;
use serde_json::value::RawValue;

use crate::answer::Dialect;
use crate::lenient::{self, Lenient, Name, QuickName, Shape};

const ASKED: &str = r#"{"include_usage":true}"#;

/// The body of a streamed chat or completion with `stream_options.include_usage: true` put in, all other bytes as they
/// were. `None` when nothing is to be done: it asks already, it does not stream, or `stream_options` (or
/// `include_usage` in it) is of an unexpected kind or stands there twice, which is the upstream's to judge.
#[must_use]
pub fn ask_for_usage(body: &Bytes) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let top = lenient::part::<Top<'_>>(raw);
    if !top.streams {
        return None;
    }
    let at = |token: &str| token.as_ptr().addr() - text.as_ptr().addr();
    let (start, end, put) = match top.options {
        Found::No => {
            let (at, comma) = opened(text, at(raw.get()))?;
            (at, at, format!(r#""stream_options":{ASKED}{comma}"#))
        }
        Found::Once(token @ "null") => (at(token), at(token) + token.len(), ASKED.to_owned()),
        Found::Once(token) if token.starts_with('{') => match include_usage(token) {
            Found::No => {
                let (at, comma) = opened(text, at(token))?;
                (at, at, format!(r#""include_usage":true{comma}"#))
            }
            Found::Once(value @ ("false" | "null")) => {
                (at(value), at(value) + value.len(), "true".to_owned())
            }
            Found::Once(_) | Found::Twice => return None,
        },
        Found::Once(_) | Found::Twice => return None,
    };
    let (before, after) = (text.get(..start)?, text.get(end..)?);
    let mut out = Vec::with_capacity(before.len() + put.len() + after.len());
    for part in [before, &put, after] {
        out.extend_from_slice(part.as_bytes());
    }
    Some(out.into())
}

/// The place behind the brace that opens this object, and what a member put there needs behind it.
fn opened(text: &str, object: usize) -> Option<(usize, &'static str)> {
    let inside = object + 1;
    let next = text.get(inside..)?.bytes().find(|byte| !byte.is_ascii_whitespace())?;
    Some((inside, if next == b'}' { "" } else { "," }))
}

/// A field's value, as it stands.
#[derive(Default, Clone, Copy)]
enum Found<'a> {
    #[default]
    No,
    Once(&'a str),
    Twice,
}

impl<'a> Found<'a> {
    fn and(self, value: &'a RawValue) -> Self {
        match self {
            Self::No => Self::Once(value.get()),
            Self::Once(_) | Self::Twice => Self::Twice,
        }
    }
}

#[derive(Default)]
struct Top<'a> {
    streams: bool,
    options: Found<'a>,
}

impl<'de> Shape<'de> for Top<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Stream => self.streams = map.next_value::<&RawValue>()?.get() == "true",
                Name::StreamOptions => self.options = self.options.and(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

fn include_usage(options: &str) -> Found<'_> {
    serde_json::from_str::<&RawValue>(options)
        .map(|raw| lenient::part::<Options<'_>>(raw).include_usage)
        .unwrap_or_default()
}

/// `stream_options`.
#[derive(Default)]
struct Options<'a> {
    include_usage: Found<'a>,
}

impl<'de> Shape<'de> for Options<'de> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::IncludeUsage => self.include_usage = self.include_usage.and(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

/// Whether the payload of an event is the one that a chat or completion streams only because usage was asked for:
/// `choices` is an empty list, `usage` an object, and there is no error. Azure's first event (no choices, the judgement
/// of the prompt, no usage) is not.
#[must_use]
pub fn is_usage_event(dialect: Dialect, data: &[u8]) -> bool {
    if !matches!(dialect, Dialect::Chat | Dialect::Completions) {
        return false;
    }
    let event =
        std::str::from_utf8(data).ok().and_then(|text| serde_json::from_str::<Lenient<Event>>(text).ok());
    event.is_some_and(|Lenient(event)| event.no_choices && event.usage && !event.failed)
}

#[derive(Default)]
struct Event {
    no_choices: bool,
    usage: bool,
    failed: bool,
}

impl<'de> Shape<'de> for Event {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::Choices => {
                    let choices: &RawValue = map.next_value()?;
                    self.no_choices = choices.get().starts_with('[') && !lenient::filled(choices);
                }
                Name::Usage => self.usage = map.next_value::<&RawValue>()?.get().starts_with('{'),
                Name::Error => self.failed = lenient::filled(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
