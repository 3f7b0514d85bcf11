//! OTLP's messages, as `opentelemetry/proto` 1.x defines them: of each, the fields that are sent or looked at.
//!
//! Texts lose what looks like a key on their way in here, as log lines do.

use prost::Message;
use tidegate_config::used::Node;

use super::parent;
use super::span::{self, Value};

/// The caller's context is known to be of another process, or not.
const HAS_REMOTE: u32 = 0x100;
const REMOTE: u32 = 0x200;
const ERROR: i32 = 2;

/// What is sent.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// What is answered.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// Not all of it was taken.
#[derive(Clone, PartialEq, Message)]
pub struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// Spans of one process.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A process.
#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one library.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A library.
#[derive(Clone, PartialEq, Message)]
pub struct Scope {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
}

/// A span.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
    #[prost(int32, tag = "6")]
    pub kind: i32,
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub flags: u32,
}

/// How it ended.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// An attribute.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// Its value.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 2, 3, 4")]
    pub value: Option<Any>,
}

/// One of these.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Whole(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

/// This process, in every request.
pub fn resource(node: &Node) -> Resource {
    let text = |key, value: &str| pair(key, Any::Text(value.to_owned()));
    let mut attributes = vec![
        text("service.name", "tidegate"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &node.name),
    ];
    if !node.zone.is_empty() {
        attributes.push(text("tidegate.zone", &node.zone));
    }
    Resource { attributes }
}

/// The spans as one request.
pub fn request(resource: &Resource, spans: &[span::Span]) -> Vec<u8> {
    let scope = Scope { name: "tidegate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = ScopeSpans { scope: Some(scope), spans: spans.iter().map(Span::from).collect() };
    let of_this = ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![spans] };
    Request { resource_spans: vec![of_this] }.encode_to_vec()
}

/// How many of the spans a collector that took the request did not take, and why; what cannot be read says nothing.
pub fn rejected(response: &[u8]) -> Option<(u64, String)> {
    let partial = Response::decode(response).ok()?.partial_success?;
    let count = u64::try_from(partial.rejected_spans).ok().filter(|count| *count > 0)?;
    Some((count, partial.error_message))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

impl From<&span::Span> for Span {
    fn from(span: &span::Span) -> Self {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The caller of the request is another process; the attempt's is the request.
        let remote = if span.kind == span::Kind::Server && span.parent.is_some() { REMOTE } else { 0 };
        let attribute = |(key, value): &(&'static str, Value)| {
            let value = match value {
                Value::Text(text) => Any::Text(crate::log::redacted(text)),
                Value::Whole(number) => Any::Whole(*number),
                Value::Seconds(seconds) => Any::Double(*seconds),
                Value::Flag(flag) => Any::Flag(*flag),
            };
            pair(key, value)
        };
        Self {
            trace_id: span.trace.id.to_be_bytes().into(),
            span_id: span.id.to_be_bytes().into(),
            trace_state: crate::log::redacted(&span.trace.state),
            parent_span_id: span.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
            name: crate::log::redacted(&span.name),
            kind: match span.kind {
                span::Kind::Server => 2,
                span::Kind::Client => 3,
            },
            start_time_unix_nano: nanos(span.start),
            end_time_unix_nano: nanos(span.end),
            attributes: span.attributes.iter().map(attribute).collect(),
            status: span.failed.then_some(Status { code: ERROR }),
            flags: u32::from(parent::SAMPLED) | HAS_REMOTE | remote,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_left_out_is_understood() {
        let partial = PartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let said = Response { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(rejected(&said), Some((3, "too old".to_owned())));
        // From the specification's own numbers: field 1 holds field 1, a varint, and field 2, a text.
        assert_eq!(said, [&[0x0a, 11, 0x08, 3, 0x12, 7][..], b"too old"].concat());
        for nothing in [&b""[..], b"{\"partialSuccess\":null}", b"\x0a\x02\x08\x00", b"\xff\xff"] {
            assert_eq!(rejected(nothing), None, "{nothing:?}");
        }
    }
}
