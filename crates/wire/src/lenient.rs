//! Reading JSON that may be of any shape: a known field of an unexpected type counts as absent, and never makes
//! a valid document unreadable. Upstreams differ in all the ways their SDKs forgive, so the gateway forgives too.
//! Leaves are read as raw text, which takes numbers out of every range and half surrogate pairs as they are.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

macro_rules! names {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// A key of an object. One list for all objects: where a key means something is decided by who reads it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Name {
            $($name,)*
            ModelInOtherCase,
            StreamInOtherCase,
            Other,
        }

        impl Name {
            fn of(key: &[u8]) -> Self {
                match key {
                    $($text => Self::$name,)*
                    _ if key.eq_ignore_ascii_case(b"model") => Self::ModelInOtherCase,
                    _ if key.eq_ignore_ascii_case(b"stream") => Self::StreamInOtherCase,
                    _ => Self::Other,
                }
            }
        }
    };
}

names! {
    Audio = b"audio",
    Background = b"background",
    CachedTokens = b"cached_tokens",
    Choices = b"choices",
    Code = b"code",
    CompletionTokens = b"completion_tokens",
    Content = b"content",
    Conversation = b"conversation",
    Data = b"data",
    Delta = b"delta",
    Detail = b"detail",
    Error = b"error",
    ErrorType = b"error_type",
    FinishReason = b"finish_reason",
    FunctionCall = b"function_call",
    Id = b"id",
    Index = b"index",
    IncludeUsage = b"include_usage",
    InputTokens = b"input_tokens",
    InputTokensDetails = b"input_tokens_details",
    MaxCompletionTokens = b"max_completion_tokens",
    MaxOutputTokens = b"max_output_tokens",
    MaxTokens = b"max_tokens",
    Message = b"message",
    Model = b"model",
    Msg = b"msg",
    N = b"n",
    Output = b"output",
    OutputTokens = b"output_tokens",
    PreviousResponseId = b"previous_response_id",
    PromptTokens = b"prompt_tokens",
    PromptTokensDetails = b"prompt_tokens_details",
    Reasoning = b"reasoning",
    ReasoningContent = b"reasoning_content",
    Refusal = b"refusal",
    Response = b"response",
    SequenceNumber = b"sequence_number",
    Status = b"status",
    Stream = b"stream",
    StreamOptions = b"stream_options",
    Text = b"text",
    ToolCalls = b"tool_calls",
    Type = b"type",
    Usage = b"usage",
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Raw, like all leaves: serde's own strings refuse half a surrogate pair, and its bytes let control
        // characters pass that JSON forbids.
        let token = <&RawValue>::deserialize(deserializer)?.get().as_bytes();
        let key = token.get(1..token.len() - 1).unwrap_or_default();
        if memchr::memchr(b'\\', key).is_none() {
            return Ok(Self::of(key));
        }
        Ok(serde_json::from_slice::<Wtf8>(token).map_or(Self::Other, |key| Self::of(&key.0)))
    }
}

/// A [`Name`] read the quick way, for events: it fails on a key that holds half a surrogate pair.
pub(crate) struct QuickName(pub(crate) Name);

impl<'de> Deserialize<'de> for QuickName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = QuickName;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, key: &str) -> Result<QuickName, E> {
                Ok(QuickName(Name::of(key.as_bytes())))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

/// What is read out of an object or an array; anything else leaves it at its default.
pub(crate) trait Shape<'de>: Default {
    /// Reads an object to its end.
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }

    /// Reads an array to its end.
    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// A [`Shape`] in serde's terms. It still fails on what cannot be told apart from broken JSON: a number out of
/// range or half a surrogate pair where an object is expected, or such a pair in a quick name.
pub(crate) struct Lenient<T>(pub(crate) T);

impl<'de, T: Shape<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData)).map(Self)
    }
}

struct ShapeVisitor<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for ShapeVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut shape = T::default();
        shape.object(&mut map).map(|()| shape)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<T, A::Error> {
        let mut shape = T::default();
        shape.array(&mut items).map(|()| shape)
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

/// Passes over the value of the key just read.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// Reads a part of a document that is known to be valid JSON.
pub(crate) fn part<'de, T: Shape<'de>>(raw: &'de RawValue) -> T {
    serde_json::from_str::<Lenient<T>>(raw.get()).map(|lenient| lenient.0).unwrap_or_default()
}

/// Whether a value says something: not `null`, `false`, `""`, `[]` or `{}`.
pub(crate) fn filled(raw: &RawValue) -> bool {
    match raw.get() {
        "null" | "false" | "\"\"" | "[]" | "{}" => false,
        text if text.starts_with(['[', '{']) => {
            let inside = text.get(1..text.len() - 1).unwrap_or_default();
            inside.bytes().any(|b| !b.is_ascii_whitespace())
        }
        _ => true,
    }
}

/// A count: whole numbers, also when written as `12.0`; anything else is absent.
pub(crate) fn count(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    if let Ok(whole) = text.parse() {
        return Some(whole);
    }
    let number: f64 = text.parse().ok()?;
    let whole = number as u64;
    // Beyond 2^53 a float no longer says which whole number is meant.
    (whole as f64 == number && whole < 1 << 53).then_some(whole)
}

/// The text of a string, or of a number; half surrogate pairs become U+FFFD.
pub(crate) fn text(raw: &RawValue) -> Option<String> {
    let token = raw.get();
    match token.as_bytes().first()? {
        b'"' => serde_json::from_str(token).ok().or_else(|| {
            serde_json::from_str::<Wtf8>(token)
                .ok()
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
        }),
        b'-' | b'0'..=b'9' => Some(token.to_owned()),
        _ => None,
    }
}

/// A string with half surrogate pairs left in, as bytes.
struct Wtf8(Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Wtf8;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn empty_values_say_nothing() {
        for empty in ["null", "false", "\"\"", "[]", "{}", "[ \n]", "{\t}"] {
            assert!(!filled(raw(empty)), "{empty}");
        }
        for full in ["0", "true", "\" \"", "[0]", "[[]]", "{\"a\":null}", "1e999", "\"\\ud83d\""] {
            assert!(filled(raw(full)), "{full}");
        }
    }

    #[test]
    fn counts_are_whole_and_not_negative() {
        assert_eq!(count(raw("12")), Some(12));
        assert_eq!(count(raw("12.0")), Some(12));
        assert_eq!(count(raw("1.2e1")), Some(12));
        for none in ["-1", "1.5", "1e999", "\"12\"", "null", "[12]", "99999999999999999999999"] {
            assert_eq!(count(raw(none)), None, "{none}");
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced_not_refused() {
        assert_eq!(text(raw(r#""a\ud83d""#)).unwrap().chars().next(), Some('a'));
        assert_eq!(text(raw(r#""\ud83d\ude00""#)).unwrap(), "\u{1f600}");
        assert_eq!(text(raw("429")).unwrap(), "429");
        assert_eq!(text(raw("{}")), None);
    }
}
