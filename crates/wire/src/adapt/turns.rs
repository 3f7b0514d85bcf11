//! The turns of a conversation, and an estimate of what they cost. Not here: what a message's parts mean.

use std::iter::Sum;

use serde_json::{Value, json};

use crate::body;

/// Tokens a message costs besides its text: role and delimiters.
const PER_MESSAGE: usize = 4;

/// Bytes in place of a part that is no text, and whose own length says nothing: about what a model takes for an
/// image, 1000 tokens.
const PER_PART: usize = 3500;

/// How much a model has to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    bytes: usize,
    messages: usize,
}

impl Size {
    /// One message of this text.
    pub(super) fn of_text(text: &str) -> Self {
        Self { bytes: text.len(), messages: 1 }
    }

    /// Text anywhere in a value.
    pub(super) fn of(value: &Value) -> Self {
        Self { bytes: bytes(value), messages: 0 }
    }

    fn of_message(message: &Value) -> Self {
        let fields = message.as_object().into_iter().flatten();
        let bytes = fields
            .map(|(key, value)| match (key.as_str(), value) {
                ("role" | "type" | "id" | "status" | "tool_call_id" | "call_id", _) => 0,
                ("content" | "output", Value::Array(parts)) => parts.iter().map(part_bytes).sum(),
                _ => bytes(value),
            })
            .sum();
        Self { bytes, messages: 1 }
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            messages: self.messages.saturating_add(other.messages),
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            messages: self.messages.saturating_sub(other.messages),
        }
    }

    /// The estimate: 3.5 bytes a token, rounded up. English has about 4, other scripts and code fewer.
    pub(super) fn tokens(self) -> usize {
        self.bytes.saturating_mul(2).div_ceil(7).saturating_add(self.messages.saturating_mul(PER_MESSAGE))
    }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), Self::and)
    }
}

fn part_bytes(part: &Value) -> usize {
    match part {
        Value::String(text) => text.len(),
        _ if body::is_text(part) => {
            ["text", "refusal"].iter().filter_map(|key| part.get(key)).map(bytes).sum()
        }
        _ => PER_PART,
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(entries) => entries.iter().map(|(key, value)| key.len() + bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The text of a content, its parts on lines of their own.
pub(super) fn text(content: &Value) -> String {
    let parts: Vec<&str> = match content {
        Value::String(text) => vec![text],
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str())).collect()
        }
        _ => Vec::new(),
    };
    parts.join("\n")
}

/// Messages in their order.
pub(super) struct Turns<'a>(pub(super) &'a mut Vec<Value>);

impl Turns<'_> {
    /// Leaves the last turns, at least one, and all system messages. Tells whether anything went.
    pub(super) fn keep_last(&mut self, count: usize) -> bool {
        let starts = self.starts();
        let Some(first) = starts.len().checked_sub(count.max(1)).filter(|first| *first > 0) else {
            return false;
        };
        starts.get(first).is_some_and(|first| self.drop_before(*first))
    }

    /// Lets the oldest turns go until the rest, and what is read `beside` it, is no more than `room` tokens. The last
    /// turn and system messages stay; `None` when these are too many. Tells whether anything went.
    pub(super) fn fit(&mut self, beside: Size, room: usize) -> Option<bool> {
        let mut size = self.0.iter().map(Size::of_message).sum::<Size>().and(beside);
        let mut first = 0;
        let mut starts = self.starts().into_iter();
        while size.tokens() > room {
            let next = starts.next()?;
            let goes = self.0.get(first..next)?.iter().filter(|message| !is_system(message));
            size = size.without(goes.map(Size::of_message).sum());
            first = next;
        }
        Some(self.drop_before(first))
    }

    /// The system messages' text, a blank line between two of them.
    pub(super) fn system(&self) -> String {
        let texts =
            self.0.iter().filter(|message| is_system(message)).filter_map(|message| message.get("content"));
        texts.map(text).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    }

    /// Puts one system message in place of all, or none if it is empty. Tells whether anything changed.
    pub(super) fn set_system(&mut self, system: &str) -> bool {
        let same = match self.0.iter().filter(|message| is_system(message)).count() {
            0 => system.is_empty(),
            1 => self.0.first().is_some_and(|first| first["role"] == "system" && first["content"] == system),
            _ => false,
        };
        if same {
            return false;
        }
        self.0.retain(|message| !is_system(message));
        if !system.is_empty() {
            self.0.insert(0, json!({"role": "system", "content": system}));
        }
        true
    }

    /// Whether the last message is the model's own.
    pub(super) fn end_in_an_answer(&self) -> bool {
        self.0.last().is_some_and(|last| role(last) == "assistant")
    }

    fn starts(&self) -> Vec<usize> {
        let users = self.0.iter().enumerate().filter(|(_, message)| role(message) == "user");
        users.map(|(at, _)| at).collect()
    }

    fn drop_before(&mut self, first: usize) -> bool {
        let before = self.0.len();
        let mut at = 0;
        self.0.retain(|message| {
            at += 1;
            at > first || is_system(message)
        });
        self.0.len() < before
    }
}

fn is_system(message: &Value) -> bool {
    matches!(role(message), "system" | "developer")
}

fn role(message: &Value) -> &str {
    message.as_object().map(body::role).unwrap_or_default()
}
