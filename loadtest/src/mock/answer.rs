//! Answers and their bodies: plain JSON in the shapes of the OpenAI API, faults of plain answers included.
//!
//! Not here: events (`stream`), which answer a request gets (`mod`).

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use super::script::Script;
use super::stream::{Events, Shape};
use super::tally::Running;
use crate::content;

/// The body of any answer of the mock.
#[derive(Debug)]
pub enum Reply {
    /// Sent at once.
    Whole(Option<Bytes>, Option<Running>),
    /// Sent in part; then the connection breaks, or nothing happens any more.
    Part {
        /// What is sent.
        bytes: Option<Bytes>,
        /// Break the connection; else stay silent.
        breaks: bool,
        /// hyper has had the chance to write what it has.
        flushed: bool,
        /// Counts the answer.
        running: Running,
    },
    /// A stream.
    Events(Box<Events>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes, running) => {
                if let Some(running) = running {
                    running.finish();
                }
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Part { bytes, breaks, flushed, running } => {
                if let Some(bytes) = bytes.take() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if !*breaks {
                    return Poll::Pending;
                }
                if !std::mem::replace(flushed, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                running.finish();
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
            }
            Self::Events(events) => events.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None, _))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Part { .. } | Self::Events(_) => SizeHint::default(),
        }
    }
}

/// A whole answer.
pub fn whole(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
    running: Option<Running>,
) -> Response<Reply> {
    let mut answer = Response::new(Reply::Whole(Some(body.into()), running));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer
}

/// A whole JSON answer.
pub fn json(status: StatusCode, body: impl Into<Bytes>, running: Running) -> Response<Reply> {
    whole(status, "application/json", body, Some(running))
}

/// Half of a JSON answer that promises the other half; then the connection breaks or stays silent.
pub fn half(body: String, breaks: bool, running: Running) -> Response<Reply> {
    let promised = body.len();
    let mut bytes = Bytes::from(body);
    bytes.truncate(promised / 2);
    let mut answer = Response::new(Reply::Part { bytes: Some(bytes), breaks, flushed: false, running });
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, promised.into());
    answer
}

/// A streamed answer.
pub fn events(events: Events) -> Response<Reply> {
    let mut answer = Response::new(Reply::Events(Box::new(events)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    answer
}

/// An OpenAI-shaped error with the type and code that real upstreams send with `status`.
pub fn error(status: StatusCode, message: &str, script: &Script, running: Running) -> Response<Reply> {
    let (kind, code) = match status.as_u16() {
        401 => ("authentication_error", "\"invalid_api_key\""),
        403 => ("permission_error", "null"),
        404 => ("invalid_request_error", "\"not_found\""),
        429 => ("rate_limit_error", "\"rate_limit_exceeded\""),
        400..=499 => ("invalid_request_error", "null"),
        _ => ("server_error", "null"),
    };
    // Serialising a str cannot fail.
    let message = serde_json::to_string(message).unwrap_or_default();
    let body = format!(r#"{{"error":{{"message":{message},"type":"{kind}","param":null,"code":{code}}}}}"#);
    let mut answer = json(status, body, running);
    if let Some(seconds) = script.retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// The body of a plain chat or text completion; `model` is a JSON string.
pub fn completion(shape: Shape, seed: u64, model: &str, bytes: usize) -> String {
    let mut body = String::with_capacity(bytes + 400);
    let (id, object, before, after) = match shape {
        Shape::Chat => {
            ("chatcmpl", "chat.completion", "\"message\":{\"role\":\"assistant\",\"content\":\"", "\"}")
        }
        Shape::Completion => ("cmpl", "text_completion", "\"text\":\"", "\""),
    };
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "{{\"id\":\"{id}-{seed:016x}\",\"object\":\"{object}\",\"created\":1700000000,\"model\":{model},\"choices\":[{{\"index\":0,{before}"
    );
    content::push_piece(&mut body, seed, 0, bytes);
    body.push_str(after);
    body.push_str(",\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"total_tokens\":10},\"system_fingerprint\":\"fp_mock\"}");
    body
}

/// One small embedding per input, made from the input's bytes alone, so that answers can be told apart even
/// when a gateway merges or splits requests.
pub fn embeddings<'a>(inputs: impl Iterator<Item = &'a [u8]>, model: &str) -> String {
    let mut body = String::from("{\"object\":\"list\",\"data\":[");
    let mut count = 0_usize;
    for (index, input) in inputs.enumerate() {
        count += 1;
        let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(body, "{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":[");
        for (place, byte) in hash.to_le_bytes().into_iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(body, "{comma}{}", f64::from(byte) / 256.0);
        }
        body.push_str("]}");
    }
    let _ = write!(
        body,
        "],\"model\":{model},\"usage\":{{\"prompt_tokens\":{count},\"total_tokens\":{count}}}}}"
    );
    body
}
