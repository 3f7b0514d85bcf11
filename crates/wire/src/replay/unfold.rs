//! From a plain answer to the stream.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{MAX_HEAD, MAX_LIST, MAX_PIECE, Object};
use crate::answer::Dialect;

/// Fields that every event repeats.
const HEAD: [&str; 5] = ["id", "created", "model", "system_fingerprint", "service_tier"];

/// Texts of a message that are sent in pieces, in the order a model writes them.
const TEXTS: [&str; 4] = ["reasoning_content", "reasoning", "content", "refusal"];

/// The events written so far.
struct Stream {
    head: Object,
    /// Goes along with the first event.
    rest: Object,
    events: Vec<Bytes>,
}

impl Stream {
    fn send(&mut self, choices: Value, usage: Option<Value>) {
        let mut event = self.head.clone();
        event.append(&mut self.rest);
        event.insert("choices".to_owned(), choices);
        if let Some(usage) = usage {
            event.insert("usage".to_owned(), usage);
        }
        self.events.push(format!("data: {}\n\n", Value::Object(event)).into());
    }
}

pub(super) fn events(
    dialect: Dialect,
    name: &str,
    mut answer: Object,
    include_usage: bool,
) -> Option<Vec<Bytes>> {
    let Some(Value::Array(choices)) = answer.remove("choices") else { return None };
    let usage = answer.remove("usage").filter(|usage| include_usage && usage.is_object());
    answer.remove("error");
    answer.insert("object".to_owned(), name.into());
    let mut head = Map::new();
    for key in HEAD.into_iter().chain(["object"]) {
        head.extend(answer.remove_entry(key));
    }
    if choices.is_empty()
        || choices.len() > MAX_LIST
        || Value::Object(head.clone()).to_string().len() > MAX_HEAD
    {
        return None;
    }
    let mut stream = Stream { head, rest: answer, events: Vec::new() };
    // Those who asked for the usage get a `null` for it until it comes.
    let pending = usage.is_some().then_some(Value::Null);
    let mut seen = 0_u128;
    for choice in choices {
        let Value::Object(mut fields) = choice else { return None };
        let index = fields.remove("index")?.as_u64().filter(|index| *index < MAX_LIST as u64)?;
        if seen & (1 << index) != 0 {
            return None;
        }
        seen |= 1 << index;
        let finish_reason =
            fields.remove("finish_reason").filter(|r| r.as_str().is_some_and(|r| !r.is_empty()))?;
        let logprobs = fields.remove("logprobs");
        let mut choice = Choice { stream: &mut stream, pending: &pending, index, logprobs, rest: fields };
        match dialect {
            Dialect::Chat => choice.message()?,
            _ => choice.completion()?,
        }
        choice.end(dialect, finish_reason);
    }
    if usage.is_some() {
        stream.send(json!([]), usage);
    }
    stream.events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Some(stream.events)
}

/// A choice on its way into the stream.
struct Choice<'a> {
    stream: &'a mut Stream,
    pending: &'a Option<Value>,
    index: u64,
    /// Goes along with the first text.
    logprobs: Option<Value>,
    /// Goes along with the first event.
    rest: Object,
}

impl Choice<'_> {
    fn send(&mut self, key: &str, value: Value, finish_reason: Value) {
        let mut choice = std::mem::take(&mut self.rest);
        choice.insert("index".to_owned(), self.index.into());
        choice.insert(key.to_owned(), value);
        choice.insert("finish_reason".to_owned(), finish_reason);
        self.stream.send(json!([choice]), self.pending.clone());
    }

    fn text(&mut self, key: &str, value: Value) {
        if let Some(logprobs) = self.logprobs.take() {
            self.rest.insert("logprobs".to_owned(), logprobs);
        }
        self.send(key, value, Value::Null);
    }

    fn completion(&mut self) -> Option<()> {
        let Value::String(text) = self.rest.remove("text")? else { return None };
        for piece in pieces(&text) {
            self.text("text", piece.into());
        }
        Some(())
    }

    fn message(&mut self) -> Option<()> {
        let Value::Object(mut message) = self.rest.remove("message")? else { return None };
        if message.get("audio").is_some_and(|audio| !audio.is_null()) {
            return None;
        }
        let mut texts = Vec::new();
        for key in TEXTS {
            match message.get_mut(key) {
                Some(Value::String(text)) => texts.push((key, std::mem::take(text))),
                None | Some(Value::Null) => {}
                Some(_) => return None,
            }
        }
        let calls = calls(&mut message)?;
        let function_call = match message.get_mut("function_call") {
            None | Some(Value::Null) => None,
            Some(Value::Object(call)) => Some(std::mem::take(call)),
            Some(_) => return None,
        };
        if function_call.is_some() {
            message.remove("function_call");
        }
        message.entry("role").or_insert_with(|| "assistant".into());
        self.send("delta", Value::Object(message), Value::Null);
        for (key, text) in texts {
            for piece in pieces(&text) {
                let delta = json!({key: piece});
                if key == "content" || key == "refusal" {
                    self.text("delta", delta);
                } else {
                    self.send("delta", delta, Value::Null);
                }
            }
        }
        for (at, call) in calls.into_iter().enumerate() {
            self.call(at, call);
        }
        if let Some(mut call) = function_call {
            let (_, arguments) = take_arguments(&mut call).unwrap_or_default();
            self.send("delta", json!({"function_call": call}), Value::Null);
            for piece in pieces(&arguments) {
                self.send("delta", json!({"function_call": {"arguments": piece}}), Value::Null);
            }
        }
        Some(())
    }

    fn call(&mut self, at: usize, mut call: Object) {
        let mut arguments = None;
        for kind in ["function", "custom"] {
            if let Some(Value::Object(named)) = call.get_mut(kind) {
                arguments = take_arguments(named).map(|(key, text)| (kind, key, text));
            }
        }
        call.insert("index".to_owned(), at.into());
        self.send("delta", json!({"tool_calls": [call]}), Value::Null);
        let Some((kind, key, text)) = arguments else { return };
        for piece in pieces(&text) {
            let call = json!({"index": at, kind: {key: piece}});
            self.send("delta", json!({"tool_calls": [call]}), Value::Null);
        }
    }

    fn end(mut self, dialect: Dialect, finish_reason: Value) {
        if let Some(logprobs) = self.logprobs.take() {
            self.rest.insert("logprobs".to_owned(), logprobs);
        }
        match dialect {
            Dialect::Chat => self.send("delta", json!({}), finish_reason),
            _ => self.send("text", "".into(), finish_reason),
        }
    }
}

/// Takes the calls of tools out of a message; an empty list stays there. `None` when they are odd.
fn calls(message: &mut Object) -> Option<Vec<Object>> {
    let Some(Value::Array(calls)) = message.get_mut("tool_calls") else {
        return message.get("tool_calls").is_none_or(Value::is_null).then(Vec::new);
    };
    if calls.len() > MAX_LIST {
        return None;
    }
    let calls: Vec<Value> = std::mem::take(calls);
    if !calls.is_empty() {
        message.remove("tool_calls");
    }
    calls.into_iter().map(|call| if let Value::Object(call) = call { Some(call) } else { None }).collect()
}

/// Empties the text a tool is called with.
fn take_arguments(named: &mut Object) -> Option<(&'static str, String)> {
    ["arguments", "input"].into_iter().find_map(|key| match named.get_mut(key) {
        Some(Value::String(text)) => Some((key, std::mem::take(text))),
        _ => None,
    })
}

/// A text in pieces of at most [`MAX_PIECE`] bytes; none of an empty one.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let mut end = text.len().min(MAX_PIECE);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at_checked(end)?;
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
