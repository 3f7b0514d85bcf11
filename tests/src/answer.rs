//! What well-behaved OpenAI-compatible servers answer, as the bytes they put on the wire.

use bytes::Bytes;
use serde_json::{Value, json};

/// The end of a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// A plain answer with `content-length`, after which the connection stays open.
pub fn whole(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Bytes {
    let body = body.as_ref();
    let mut head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat().into()
}

/// A plain JSON answer.
pub fn json(status: u16, body: &Value) -> Bytes {
    whole(status, &[("content-type", "application/json")], body.to_string())
}

/// A plain JSON answer with further headers.
pub fn json_with(status: u16, headers: &[(&str, &str)], body: &Value) -> Bytes {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    whole(status, &all, body.to_string())
}

/// A chat completion that says `text`.
pub fn chat(text: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                     "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    })
}

/// An OpenAI error object.
pub fn error(kind: &str, code: &str, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// The head of an event stream in chunked transfer coding.
pub fn stream_head() -> Bytes {
    Bytes::from_static(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )
}

/// One piece of a body in chunked transfer coding.
pub fn piece(data: impl AsRef<[u8]>) -> Bytes {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat().into()
}

/// The end of a body in chunked transfer coding.
pub fn last_piece() -> Bytes {
    Bytes::from_static(b"0\r\n\r\n")
}

/// One `data:` event.
pub fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A chunk of a streamed chat completion that adds `text`.
pub fn delta(text: &str) -> String {
    event(
        &json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
        .to_string(),
    )
}

/// The chunk that only says who speaks: no content yet.
pub fn role() -> String {
    event(
        &json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]})
        .to_string(),
    )
}

/// The chunk that says why the answer ends.
pub fn finish() -> String {
    event(
        &json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        .to_string(),
    )
}

/// A whole streamed chat completion on the wire: role, the texts, the finish, `[DONE]`; each event a piece.
pub fn stream(texts: &[&str]) -> Bytes {
    let mut wire = stream_head().to_vec();
    wire.extend(piece(role()));
    for text in texts {
        wire.extend(piece(delta(text)));
    }
    wire.extend(piece(finish()));
    wire.extend(piece(DONE));
    wire.extend(last_piece());
    wire.into()
}

/// The chunk that tells usage to those who asked for it.
pub fn usage() -> String {
    event(
        &json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
            "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}})
        .to_string(),
    )
}

/// What answers this chat request with `text`: plain or streamed, with `usage` if the stream was asked for it.
pub fn to(asked: &Value, text: &str) -> Bytes {
    if asked["stream"] != true {
        return json(200, &chat(text));
    }
    let mut wire = stream_head().to_vec();
    let mut events = vec![role(), delta(text), finish()];
    if asked["stream_options"]["include_usage"] == true {
        events.push(usage());
    }
    events.push(DONE.to_owned());
    for event in events {
        wire.extend(piece(event));
    }
    wire.extend(last_piece());
    wire.into()
}

/// The text that streamed chat chunks add up to.
pub fn text_of(events: &str) -> String {
    events
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

/// A finished response of the Responses API that says `text`.
pub fn response(text: &str) -> Value {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1, "model": "m", "status": "completed",
        "incomplete_details": null, "error": null,
        "output": [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text, "annotations": []}]}],
        "usage": {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
    })
}

/// What answers this request to Responses with `text`: plain or as events.
pub fn to_response(asked: &Value, text: &str) -> Bytes {
    if asked["stream"] != true {
        return json(200, &response(text));
    }
    let events = [
        json!({"type": "response.created", "sequence_number": 0,
            "response": {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}}),
        json!({"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1",
            "output_index": 0, "content_index": 0, "delta": text}),
        json!({"type": "response.completed", "sequence_number": 2, "response": response(text)}),
    ];
    let mut wire = stream_head().to_vec();
    for event in events {
        wire.extend(piece(format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())));
    }
    wire.extend(last_piece());
    wire.into()
}
