//! One span as it is gathered: names, times, attributes. How it looks on the wire is in `wire`.

use std::sync::Arc;
use std::time::Duration;

use super::Trace;

/// Longest text of an attribute, characters.
const TEXT_MAX: usize = 256;
/// On the wire, of a span and of an attribute, bytes: all but their texts.
const SPAN_SIZE: usize = 96;
const ATTRIBUTE_SIZE: usize = 24;

/// Which side of a call a span stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// We were asked.
    Server,
    /// We asked.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Whole(i64),
    /// Seconds.
    Seconds(f64),
    /// Yes or no.
    Flag(bool),
}

/// A span.
#[derive(Debug)]
pub struct Span {
    /// Whose it is.
    pub(super) trace: Arc<Trace>,
    pub(super) id: u64,
    /// `None`: the trace begins with it.
    pub(super) parent: Option<u64>,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Since 1970.
    pub(super) start: Duration,
    /// Since 1970.
    pub(super) end: Duration,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// Its status is an error.
    pub(super) failed: bool,
}

impl Span {
    pub(super) fn new(
        trace: Arc<Trace>,
        id: u64,
        parent: Option<u64>,
        kind: Kind,
        name: String,
        (start, end): (Duration, Duration),
    ) -> Self {
        Self { trace, id, parent, kind, name, start, end, attributes: Vec::with_capacity(16), failed: false }
    }

    /// Adds a text; an empty one says nothing and is left out.
    pub fn text(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.attributes.push((key, Value::Text(value.chars().take(TEXT_MAX).collect())));
        }
    }

    /// Adds a whole number.
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.attributes.push((key, Value::Whole(i64::try_from(value).unwrap_or(i64::MAX))));
    }

    /// Adds a time in seconds.
    pub fn seconds(&mut self, key: &'static str, value: Duration) {
        self.attributes.push((key, Value::Seconds(value.as_secs_f64())));
    }

    /// Adds a yes or no.
    pub fn flag(&mut self, key: &'static str, value: bool) {
        self.attributes.push((key, Value::Flag(value)));
    }

    /// What it takes in an export at most, before its texts lose what looks like a key.
    pub(super) fn size(&self) -> usize {
        let text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
        let attribute = |(key, value): &(&str, Value)| ATTRIBUTE_SIZE + key.len() + text(value);
        let attributes: usize = self.attributes.iter().map(attribute).sum();
        SPAN_SIZE + self.name.len() + self.trace.state.len() + attributes
    }

    /// What was asked for did not come about.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}
