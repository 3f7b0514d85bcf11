//! The fields of an answer or event that mean something here, of all dialects, read in one pass.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess};
use serde_json::value::RawValue;

use super::{TOKENS_MAX, Usage};
use crate::lenient::{self, Lenient, Name, QuickName, Shape};

/// A document of any kind. Fields of unexpected types are at their defaults.
#[derive(Default)]
pub(super) struct Document<'a> {
    pub(super) kind: Kind,
    /// `type`
    pub(super) name: Option<&'a RawValue>,
    pub(super) choices: Choices,
    pub(super) data: List,
    pub(super) output: List,
    pub(super) response: Response,
    pub(super) usage: Option<Usage>,
    pub(super) sequence_number: Option<&'a RawValue>,
    /// Has an `id` or a `status` that says something.
    pub(super) identified: bool,
    error: Option<&'a RawValue>,
}

/// What the whole document is.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    #[default]
    Scalar,
}

impl<'a> Document<'a> {
    /// `None` when the bytes are no JSON.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        // The fast way fails on broken JSON, and on a few values that are JSON and beyond serde's data model. The
        // careful way fails on the former alone.
        let fast = serde_json::from_str::<Lenient<Reader<'a, false>>>(text).map(|lenient| lenient.0.0);
        fast.or_else(|_| serde_json::from_str::<Careful<'a>>(text).map(|careful| careful.0)).ok()
    }

    /// A top-level `error` that is an object or a text.
    pub(super) fn reports_error(&self) -> bool {
        self.error.is_some_and(|raw| raw.get().starts_with(['{', '"']) && raw.get() != "\"\"")
    }
}

/// Reads a document; `CAREFUL` separates the scan of a field from its reading, at twice the cost.
#[derive(Default)]
struct Reader<'a, const CAREFUL: bool>(Document<'a>);

impl<'de, const CAREFUL: bool> Shape<'de> for Reader<'de, CAREFUL> {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let document = &mut self.0;
        document.kind = Kind::Object;
        while let Some(name) = key::<_, CAREFUL>(map)? {
            match name {
                Name::Type => document.name = Some(map.next_value()?),
                Name::Choices => document.choices = field::<_, _, CAREFUL>(map)?,
                Name::Data => document.data = field::<_, _, CAREFUL>(map)?,
                Name::Output => document.output = field::<_, _, CAREFUL>(map)?,
                Name::Response => document.response = field::<_, _, CAREFUL>(map)?,
                Name::Usage => document.usage = field::<Tokens, _, CAREFUL>(map)?.usage(),
                Name::Error => document.error = Some(map.next_value()?),
                Name::SequenceNumber => document.sequence_number = Some(map.next_value()?),
                Name::Id | Name::Status => document.identified |= lenient::filled(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }

    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        self.0.kind = Kind::Array;
        Skipped.array(items)
    }
}

fn key<'de, A: MapAccess<'de>, const CAREFUL: bool>(map: &mut A) -> Result<Option<Name>, A::Error> {
    if CAREFUL { map.next_key::<Name>() } else { Ok(map.next_key::<QuickName>()?.map(|quick| quick.0)) }
}

fn field<'de, T: Shape<'de>, A: MapAccess<'de>, const CAREFUL: bool>(map: &mut A) -> Result<T, A::Error> {
    if CAREFUL {
        map.next_value::<&'de RawValue>().map(lenient::part)
    } else {
        map.next_value::<Lenient<T>>().map(|lenient| lenient.0)
    }
}

struct Careful<'a>(Document<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Careful<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        Ok(Self(lenient::part::<Reader<'de, true>>(raw).0))
    }
}

/// Anything, passed over.
#[derive(Default)]
struct Skipped;

impl Shape<'_> for Skipped {}

/// Any list.
#[derive(Default)]
pub(super) struct List {
    pub(super) is_array: bool,
}

impl<'de> Shape<'de> for List {
    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        self.is_array = true;
        Skipped.array(items)
    }
}

/// `choices`, all of them together.
#[derive(Default)]
pub(super) struct Choices {
    /// There is at least one.
    pub(super) some: bool,
    /// A delta has content.
    pub(super) delta: bool,
    /// A `text` is not empty.
    pub(super) text: bool,
    /// A `finish_reason` is given.
    pub(super) finished: bool,
    /// The choices that appear, and those of them with a `finish_reason`; a bit for each index.
    pub(super) begun: u128,
    pub(super) ended: u128,
}

impl<'de> Shape<'de> for Choices {
    fn array<A: SeqAccess<'de>>(&mut self, items: &mut A) -> Result<(), A::Error> {
        while let Some(Lenient(choice)) = items.next_element::<Lenient<Choice>>()? {
            self.some = true;
            self.delta |= choice.delta.filled;
            self.text |= choice.text;
            self.finished |= choice.finished;
            let bit = 1 << choice.index;
            self.begun |= bit;
            self.ended |= if choice.finished { bit } else { 0 };
        }
        Ok(())
    }
}

#[derive(Default)]
struct Choice {
    /// 0 to 127; 0 where it is missing or odd.
    index: u32,
    delta: Delta,
    text: bool,
    finished: bool,
}

impl<'de> Shape<'de> for Choice {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::Delta => self.delta = map.next_value::<Lenient<Delta>>()?.0,
                Name::Text => self.text = lenient::filled(map.next_value()?),
                Name::Index => {
                    let index =
                        lenient::count(map.next_value()?).filter(|index| *index < u64::from(u128::BITS));
                    self.index = index.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
                }
                Name::FinishReason => self.finished = lenient::filled(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Delta {
    filled: bool,
}

impl<'de> Shape<'de> for Delta {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::Content
                | Name::ReasoningContent
                | Name::Reasoning
                | Name::Refusal
                | Name::ToolCalls
                | Name::FunctionCall
                | Name::Audio => self.filled |= lenient::filled(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

/// `response`, as events of the Responses API carry it.
#[derive(Default)]
pub(super) struct Response {
    pub(super) usage: Option<Usage>,
}

impl<'de> Shape<'de> for Response {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::Usage => self.usage = map.next_value::<Lenient<Tokens>>()?.0.usage(),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

/// `usage`, under both of its naming schemes.
#[derive(Default)]
struct Tokens {
    prompt: Option<u64>,
    completion: Option<u64>,
    details: Details,
}

impl Tokens {
    fn usage(self) -> Option<Usage> {
        (self.prompt.is_some() || self.completion.is_some()).then(|| Usage {
            prompt: self.prompt.unwrap_or(0).min(TOKENS_MAX),
            completion: self.completion.unwrap_or(0).min(TOKENS_MAX),
            cached: self.details.cached.unwrap_or(0).min(TOKENS_MAX),
        })
    }
}

impl<'de> Shape<'de> for Tokens {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::PromptTokens | Name::InputTokens => self.prompt = lenient::count(map.next_value()?),
                Name::CompletionTokens | Name::OutputTokens => {
                    self.completion = lenient::count(map.next_value()?);
                }
                Name::PromptTokensDetails | Name::InputTokensDetails => {
                    self.details = map.next_value::<Lenient<Details>>()?.0;
                }
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Details {
    cached: Option<u64>,
}

impl<'de> Shape<'de> for Details {
    fn object<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        while let Some(QuickName(name)) = map.next_key()? {
            match name {
                Name::CachedTokens => self.cached = lenient::count(map.next_value()?),
                _ => lenient::skip(map)?,
            }
        }
        Ok(())
    }
}
