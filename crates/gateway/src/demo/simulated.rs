//! Simulated upstreams: real servers on real sockets that speak enough of the API for any client, and answer
//! with what they were asked, word by word. Each has a door (`door`) that can be shut. Not here: real models.

pub mod door;

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use door::Door;

/// The simulated upstreams, by what they stand for.
#[derive(Debug)]
pub struct Upstreams {
    /// First choice.
    pub primary: Arc<Door>,
    /// Second choice.
    pub secondary: Arc<Door>,
    /// A small model of one's own.
    pub local: Arc<Door>,
}

#[derive(Debug, Clone, Copy)]
struct Simulated {
    name: &'static str,
    models: &'static [&'static str],
    /// Between two words.
    pace: Duration,
}

/// Starts all three on free ports of 127.0.0.1; they run as long as the runtime.
pub async fn start() -> anyhow::Result<Upstreams> {
    const BIG: &[&str] = &["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];
    let remote = |name| Simulated { name, models: BIG, pace: Duration::from_millis(40) };
    Ok(Upstreams {
        primary: serve(remote("primary")).await?,
        secondary: serve(remote("secondary")).await?,
        local: serve(Simulated {
            name: "local",
            models: &["local-smollm2"],
            pace: Duration::from_millis(80),
        })
        .await?,
    })
}

async fn serve(simulated: Simulated) -> anyhow::Result<Arc<Door>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let router = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/embeddings", post(embedding))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .with_state(simulated);
    let door = Arc::new(Door::new(simulated.name, listener.local_addr()?));
    tokio::spawn(Arc::clone(&door).accept(listener, router));
    Ok(door)
}

fn refuse(message: &str) -> Response {
    let error =
        json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}});
    (StatusCode::BAD_REQUEST, Json(error)).into_response()
}

async fn models(State(simulated): State<Simulated>) -> Json<Value> {
    let data: Vec<Value> = simulated
        .models
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": simulated.name}))
        .collect();
    Json(json!({"object": "list", "data": data}))
}

async fn model(State(simulated): State<Simulated>, Path(id): Path<String>) -> Response {
    if simulated.models.contains(&id.as_str()) {
        return Json(
            json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": simulated.name}),
        )
        .into_response();
    }
    let error = json!({"message": format!("The model `{id}` does not exist"), "type": "invalid_request_error", "param": "model", "code": "model_not_found"});
    (StatusCode::NOT_FOUND, Json(json!({"error": error}))).into_response()
}

async fn chat(State(simulated): State<Simulated>, Json(request): Json<Value>) -> Response {
    let last = request.get("messages").and_then(Value::as_array).and_then(|m| m.last());
    let Some(asked) = last.and_then(|m| m.get("content")) else {
        return refuse("`messages` must hold at least one message with `content`");
    };
    let asked = asked.as_str().unwrap_or("something with parts");
    let answer = format!("This is the simulated upstream `{}`. You said: {asked}", simulated.name);
    let frame = Frame { object: "chat.completion", id: "chatcmpl", model: model_of(&request), chat: true };
    respond(simulated, &request, &answer, asked, frame)
}

async fn completion(State(simulated): State<Simulated>, Json(request): Json<Value>) -> Response {
    let Some(prompt) = request.get("prompt") else { return refuse("`prompt` is missing") };
    let prompt = prompt.as_str().unwrap_or("several prompts");
    let answer = format!(" ... and the simulated upstream `{}` goes on.", simulated.name);
    let frame = Frame { object: "text_completion", id: "cmpl", model: model_of(&request), chat: false };
    respond(simulated, &request, &answer, prompt, frame)
}

async fn embedding(State(_): State<Simulated>, Json(request): Json<Value>) -> Response {
    let Some(input) = request.get("input") else { return refuse("`input` is missing") };
    let texts: Vec<&str> = match input {
        Value::Array(list) => list.iter().map(|t| t.as_str().unwrap_or_default()).collect(),
        other => vec![other.as_str().unwrap_or_default()],
    };
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            // A vector that depends on the text alone is all a toy needs.
            let vector: Vec<f64> = (0..8u32)
                .map(|i| text.bytes().fold(f64::from(i), |sum, b| (sum * 31.0 + f64::from(b)) % 97.0) / 97.0)
                .collect();
            json!({"object": "embedding", "index": index, "embedding": vector})
        })
        .collect();
    let tokens = texts.iter().map(|t| t.split_whitespace().count()).sum::<usize>();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Json(json!({"object": "list", "model": model_of(&request), "data": data, "usage": usage})).into_response()
}

struct Frame {
    object: &'static str,
    id: &'static str,
    model: String,
    chat: bool,
}

impl Frame {
    fn choice(&self, text: Option<&str>, finish: Option<&str>, part: bool) -> Value {
        let mut choice = json!({"index": 0, "finish_reason": finish});
        let (key, value) = match (self.chat, part) {
            (true, true) => ("delta", text.map_or_else(|| json!({}), |t| json!({"content": t}))),
            (true, false) => ("message", json!({"role": "assistant", "content": text})),
            (false, _) => ("text", json!(text.unwrap_or_default())),
        };
        if let Some(object) = choice.as_object_mut() {
            object.insert(key.to_owned(), value);
        }
        choice
    }

    fn body(&self, choices: &[Value], usage: Option<&Value>, part: bool) -> Value {
        let object = if part && self.chat { "chat.completion.chunk" } else { self.object };
        let mut body = json!({
            "id": format!("{}-simulated", self.id), "object": object, "created": 1_700_000_000,
            "model": self.model, "choices": choices,
        });
        if let (Some(object), Some(usage)) = (body.as_object_mut(), usage) {
            object.insert("usage".to_owned(), usage.clone());
        }
        body
    }
}

fn model_of(request: &Value) -> String {
    request.get("model").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}

fn respond(simulated: Simulated, request: &Value, answer: &str, asked: &str, frame: Frame) -> Response {
    let words: Vec<String> = answer.split_inclusive(' ').map(str::to_owned).collect();
    let prompt = asked.split_whitespace().count();
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": words.len(), "total_tokens": prompt + words.len()});
    if request.get("stream").and_then(Value::as_bool) != Some(true) {
        let choice = frame.choice(Some(answer), Some("stop"), false);
        return Json(frame.body(&[choice], Some(&usage), false)).into_response();
    }
    let mut events: Vec<String> = Vec::with_capacity(words.len() + 3);
    for word in &words {
        events.push(format!("data: {}\n\n", frame.body(&[frame.choice(Some(word), None, true)], None, true)));
    }
    events.push(format!("data: {}\n\n", frame.body(&[frame.choice(None, Some("stop"), true)], None, true)));
    if request.pointer("/stream_options/include_usage").and_then(Value::as_bool) == Some(true) {
        events.push(format!("data: {}\n\n", frame.body(&[], Some(&usage), true)));
    }
    events.push("data: [DONE]\n\n".to_owned());
    let pace = simulated.pace;
    let paced = stream::iter(events).then(move |event| async move {
        tokio::time::sleep(pace).await;
        Ok::<_, Infallible>(event)
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(paced)).into_response()
}
