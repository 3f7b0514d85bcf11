//! The span of one attempt: begun before its connection, ended with its last byte, or when it is given up.
//!
//! Held by whoever holds the attempt, so that dropping that ends the span, too.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tidegate_wire::answer::{Dialect, Usage};
use tidegate_wire::sse::Splitter;
use tokio::time::Instant;

use super::span::{Kind, Span};
use super::{Trace, new_span, operation};
use crate::request::read::Target;
use crate::request::route::Call;
use crate::request::settle::End;
use crate::upstream::Path;

/// What an attempt failed by that nobody waited for any more: the client left, or another attempt was faster.
const CANCELLED: &str = "cancelled";

/// The span of an attempt under way.
#[derive(Debug)]
pub struct Attempt {
    /// Taken when it ends.
    span: Option<Span>,
    path: Arc<Path>,
    /// Of the request's, from 1.
    number: u32,
    begun: Instant,
    usage: Option<Usage>,
    /// `None`: it went well.
    error: Option<Cow<'static, str>>,
}

impl Attempt {
    /// Of a request that is traced, and of nothing else.
    pub fn begin(call: &Call, path: &Arc<Path>) -> Option<Box<Self>> {
        let trace = call.trace.as_ref()?;
        Some(Box::new(Self {
            span: Some(begin(trace, call)),
            path: Arc::clone(path),
            number: trace.next_attempt(),
            begun: Instant::now(),
            usage: None,
            error: Some(Cow::Borrowed(CANCELLED)),
        }))
    }

    /// Tells the upstream whose request this is.
    pub fn put(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.trace.put(span.id, headers);
        }
    }

    /// The path that it really goes over.
    pub fn over(&mut self, path: &Arc<Path>) {
        self.path = Arc::clone(path);
    }

    /// The answer's head has come.
    pub fn head(&mut self, status: StatusCode) {
        if let Some(span) = &mut self.span {
            span.number("http.response.status_code", u64::from(status.as_u16()));
        }
    }

    /// A plain answer is there, uncoded.
    pub fn whole(&mut self, body: &[u8], usage: Option<Usage>) {
        self.usage = usage;
        self.model(body);
    }

    /// A stream's first content is there, after these events.
    pub fn first_content<'a>(&mut self, mut events: impl Iterator<Item = &'a bytes::Bytes>) {
        if let Some(span) = &mut self.span {
            span.seconds("gen_ai.response.time_to_first_chunk", self.begun.elapsed());
        }
        if let Some(first) = events.next() {
            let mut splitter = Splitter::new(first.len());
            splitter.push(first.clone());
            if let Ok(Some(event)) = splitter.next_event()
                && let Some(data) = event.data()
            {
                self.model(&data);
            }
        }
    }

    /// As the upstream counted by now.
    pub fn used(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage);
    }

    /// It went well so far as is known.
    pub fn succeed(&mut self) {
        self.error = None;
    }

    /// A body that came in pieces has ended; `None`: it was given up.
    pub fn end(&mut self, how: Option<End>) {
        match how {
            Some(End::Interrupted(code)) => self.fail(code),
            None | Some(End::Running) => self.fail(CANCELLED),
            Some(End::Success | End::ClientError | End::Refused { .. }) => {}
        }
    }

    /// It failed by `error`, a word of a fixed list or a status.
    pub fn fail(&mut self, error: impl Into<Cow<'static, str>>) {
        self.error = Some(error.into());
    }

    /// What the upstream says its model is.
    fn model(&mut self, json: &[u8]) {
        let Some(span) = &mut self.span else { return };
        let Some(model) = model_of(json) else { return };
        let clean = self.path.upstream.keys.redacted(model.as_bytes());
        let clean = clean.map_or(model, |clean| String::from_utf8_lossy(&clean).into_owned());
        span.text("gen_ai.response.model", &clean);
    }
}

fn begin(trace: &Arc<Trace>, call: &Call) -> Span {
    let parsed = &call.parsed;
    let dialect = match &parsed.target {
        Target::Upstream { dialect, .. } => *dialect,
        Target::Models => Dialect::Other,
    };
    let (method, model) = (super::method(&parsed.method), parsed.model.as_deref().unwrap_or_default());
    let operation = operation(dialect);
    let name = operation.map_or_else(|| method.to_owned(), |operation| format!("{operation} {model}"));
    let now = crate::clock::since_1970();
    let mut span = Span::new(Arc::clone(trace), new_span(), Some(trace.span), Kind::Client, name, (now, now));
    span.text("http.request.method", method);
    if let Some(operation) = operation {
        span.text("gen_ai.operation.name", operation);
        span.text("gen_ai.provider.name", "openai");
    }
    span.text("gen_ai.request.model", model);
    if parsed.stream {
        span.flag("gen_ai.request.stream", true);
    }
    if parsed.choices > 1 {
        span.number("gen_ai.request.choice.count", u64::from(parsed.choices));
    }
    span
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(mut span) = self.span.take() else { return };
        span.end = span.start + self.begun.elapsed();
        let url = &self.path.upstream.config.base_url;
        span.text("server.address", &url.host);
        span.number("server.port", u64::from(url.port));
        span.text("tidegate.path", &self.path.name);
        if let Some(usage) = self.usage {
            span.number("gen_ai.usage.input_tokens", usage.prompt);
            span.number("gen_ai.usage.output_tokens", usage.completion);
            if usage.cached > 0 {
                span.number("gen_ai.usage.cache_read.input_tokens", usage.cached);
            }
        }
        if let Some(error) = &self.error {
            span.text("error.type", error);
            if error != CANCELLED {
                span.fail();
            }
        }
        span.number("tidegate.attempt", u64::from(self.number));
        span.send();
    }
}

/// The model that an answer or an event names.
fn model_of(json: &[u8]) -> Option<String> {
    let said: Said = serde_json::from_slice(json).ok()?;
    said.model.or(said.response.and_then(|inner| inner.model))
}

/// Of an answer or an event, what names the model.
#[derive(Deserialize)]
struct Said {
    model: Option<String>,
    response: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    model: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::model_of;

    #[test]
    fn an_answer_of_any_form_names_its_model() {
        for (json, model) in [
            (r#"{"id": "1", "model": "gpt-4o-2024", "choices": [{"model": "x"}]}"#, Some("gpt-4o-2024")),
            (r#"{"type": "response.created", "response": {"model": "gpt-5", "output": []}}"#, Some("gpt-5")),
            (r#"{"model": null, "response": null}"#, None),
            (r#"{"model": 7}"#, None),
            ("[DONE]", None),
        ] {
            assert_eq!(model_of(json.as_bytes()).as_deref(), model, "{json}");
        }
    }
}
