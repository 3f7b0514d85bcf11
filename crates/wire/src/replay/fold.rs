//! From a stream to the plain answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{MAX_LIST, Object};
use crate::answer::Dialect;
use crate::body::filled;

/// What of an answer has come so far.
pub(super) struct Answer {
    dialect: Dialect,
    fields: Object,
    choices: BTreeMap<u64, Choice>,
}

/// A choice so far.
#[derive(Default)]
struct Choice {
    /// All but the message and the text.
    fields: Object,
    message: Object,
    /// Calls of tools by their `index`. `None` where none were ever spoken of.
    calls: Option<BTreeMap<u64, Object>>,
    text: String,
}

impl Answer {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, fields: Map::new(), choices: BTreeMap::new() }
    }

    /// Takes the next event. `None` when it fits no answer; then this one is spoilt.
    pub(super) fn add(&mut self, event: Object) -> Option<()> {
        for (key, value) in event {
            match (key.as_str(), value) {
                ("choices", Value::Array(choices)) => {
                    for choice in choices {
                        self.add_choice(choice)?;
                    }
                }
                ("choices", Value::Null) => {}
                ("choices", _) => return None,
                ("error", error) if filled(Some(&error)) => return None,
                // OpenAI pads its events with noise of this name, against those who watch their lengths.
                ("object" | "error" | "obfuscation", _) | ("usage", Value::Null) => {}
                ("id" | "created" | "model", value) => {
                    let known = self.fields.get(&key).is_some_and(says);
                    if !known {
                        self.fields.insert(key, value);
                    }
                }
                (_, value) => last(&mut self.fields, key, value),
            }
        }
        Some(())
    }

    fn add_choice(&mut self, choice: Value) -> Option<()> {
        let Value::Object(mut choice) = choice else { return None };
        let at = index(choice.remove("index").as_ref().unwrap_or(&json!(0)))?;
        let into = self.choices.entry(at).or_default();
        for (key, value) in choice {
            match (self.dialect, key.as_str(), value) {
                (Dialect::Chat, "delta", Value::Object(delta)) => into.add_delta(delta)?,
                (Dialect::Chat, "delta", Value::Null) => {}
                (Dialect::Completions, "text", Value::String(text)) => into.text.push_str(&text),
                (Dialect::Completions, "text", Value::Null) => {}
                (Dialect::Chat, "delta" | "message", _) | (Dialect::Completions, "text", _) => return None,
                (_, "logprobs", Value::Object(more)) => match into.fields.entry(key).or_insert(Value::Null) {
                    Value::Object(logprobs) => {
                        more.into_iter().try_for_each(|(key, more)| join(logprobs, key, more))?;
                    }
                    logprobs @ Value::Null => *logprobs = Value::Object(more),
                    _ => return None,
                },
                (_, _, value) => last(&mut into.fields, key, value),
            }
        }
        Some(())
    }

    /// The answer, less its `object`. `None` when it is not whole.
    pub(super) fn finish(self) -> Option<Object> {
        let Self { dialect, mut fields, choices } = self;
        if choices.is_empty() {
            return None;
        }
        let choices: Option<Vec<Value>> =
            choices.into_iter().map(|(at, choice)| choice.finish(dialect, at)).collect();
        fields.insert("choices".to_owned(), choices?.into());
        Some(fields)
    }
}

impl Choice {
    fn add_delta(&mut self, delta: Object) -> Option<()> {
        for (key, value) in delta {
            match (key.as_str(), value) {
                ("audio", value) if !value.is_null() => return None,
                ("role", value) => last(&mut self.message, key, value),
                ("tool_calls", Value::Array(calls)) => {
                    let known = self.calls.get_or_insert_default();
                    for call in calls {
                        let Value::Object(mut call) = call else { return None };
                        let at = index(&call.remove("index")?)?;
                        add_call(known.entry(at).or_default(), call)?;
                    }
                }
                ("tool_calls", Value::Null) => last(&mut self.message, key, Value::Null),
                ("tool_calls", _) => return None,
                ("function_call", Value::Object(call)) => {
                    match self.message.entry(key).or_insert(Value::Null) {
                        Value::Object(known) => add_named(known, call)?,
                        known @ Value::Null => *known = Value::Object(call),
                        _ => return None,
                    }
                }
                (_, value) => join(&mut self.message, key, value)?,
            }
        }
        Some(())
    }

    fn finish(self, dialect: Dialect, at: u64) -> Option<Value> {
        let Self { mut fields, mut message, calls, text } = self;
        if !fields.get("finish_reason").is_some_and(|reason| reason.is_string() && filled(Some(reason))) {
            return None;
        }
        fields.insert("index".to_owned(), at.into());
        if dialect == Dialect::Completions {
            fields.insert("text".to_owned(), text.into());
            return Some(Value::Object(fields));
        }
        if let Some(calls) = calls {
            let calls: Vec<Value> = calls.into_values().map(Value::Object).collect();
            message.insert("tool_calls".to_owned(), calls.into());
        }
        if message.get("role").is_none_or(Value::is_null) {
            message.insert("role".to_owned(), "assistant".into());
        }
        message.entry("content").or_insert(Value::Null);
        fields.insert("message".to_owned(), Value::Object(message));
        Some(Value::Object(fields))
    }
}

/// 0 to 127.
fn index(value: &Value) -> Option<u64> {
    value.as_u64().filter(|index| *index < MAX_LIST as u64)
}

/// Not `null`, nor what stands where there is nothing to say.
fn says(value: &Value) -> bool {
    filled(Some(value)) && *value != 0
}

/// The last that is not `null` counts.
fn last(fields: &mut Object, key: String, value: Value) {
    if !value.is_null() || !fields.contains_key(&key) {
        fields.insert(key, value);
    }
}

/// Texts and lists are joined, of other values the last counts. `None` for a text after a list, and the like.
fn join(fields: &mut Object, key: String, value: Value) -> Option<()> {
    match (fields.get_mut(&key), value) {
        (Some(Value::String(known)), Value::String(more)) => known.push_str(&more),
        (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
        (Some(Value::String(_) | Value::Array(_)), value) if !value.is_null() => return None,
        (Some(known), Value::String(_) | Value::Array(_)) if !known.is_null() => return None,
        (_, value) => last(fields, key, value),
    }
    Some(())
}

fn add_call(known: &mut Object, call: Object) -> Option<()> {
    for (key, value) in call {
        match (known.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(more)) => add_named(known, more)?,
            (_, value) => same(known, key, value)?,
        }
    }
    Some(())
}

/// A name, and what it is called with.
fn add_named(known: &mut Object, more: Object) -> Option<()> {
    for (key, value) in more {
        match key.as_str() {
            "arguments" | "input" => join(known, key, value)?,
            _ => same(known, key, value)?,
        }
    }
    Some(())
}

/// What is told once. Some servers repeat it, or send it empty the second time; another value is another call, put
/// under the number of this one.
fn same(fields: &mut Object, key: String, value: Value) -> Option<()> {
    match fields.get(&key) {
        Some(known) if filled(Some(known)) => (!filled(Some(&value)) || *known == value).then_some(()),
        _ => {
            last(fields, key, value);
            Some(())
        }
    }
}
