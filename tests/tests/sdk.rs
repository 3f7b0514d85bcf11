//! The real `openai` SDKs, unmodified, pointed at the node by its address alone: before a scripted server of
//! OpenAI's shapes, and before a real model.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tidegate_tests::answer::{self, DONE, delta, event, finish, last_piece, piece, role, stream_head};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::parts::{self, LocalModel};
use tidegate_tests::upstream::{Act, Script, Seen, Upstream};
use tidegate_tests::within;
use tokio::process::Command;

/// SHA-256 of the key the scripts use.
const KEY: &str = "sk-of-this-client";
const KEY_SHA256: &str = "7630fbac27c05a075de375dbf080852430d14551fee4a43f699113c4974d0a6d";

/// A server that answers by the model it is asked for.
fn openai(seen: &Seen) -> Script {
    if seen.target() == "/v1/models" {
        let list =
            ["gpt-4o", "tools"].map(|id| json!({"id": id, "object": "model", "created": 1, "owned_by": "x"}));
        return say(200, &json!({"object": "list", "data": list}));
    }
    if seen.target() == "/v1/models/gpt-4o" {
        return say(200, &json!({"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "x"}));
    }
    let asked = seen.json();
    let streamed = asked["stream"] == true;
    match (seen.target(), asked["model"].as_str().unwrap()) {
        ("/v1/embeddings", _) => {
            assert_eq!(asked["encoding_format"], "base64", "what the SDK asks for reaches the upstream");
            // 1.0, -0.5, 0.25 as little-endian floats.
            let data =
                [0, 1].map(|n| json!({"object": "embedding", "index": n, "embedding": "AACAPwAAAL8AAIA+"}));
            say(
                200,
                &json!({"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}),
            )
        }
        ("/v1/completions", _) => {
            let choice = json!({"text": "done", "index": 0, "finish_reason": "stop", "logprobs": null});
            say(
                200,
                &json!({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}),
            )
        }
        ("/v1/responses", _) => responses(),
        (_, "tools") => tools(streamed),
        (_, "json") => {
            assert_eq!(asked["response_format"], json!({"type": "json_object"}));
            say(200, &answer::chat("{\"ok\": true}"))
        }
        (_, "too-long") => {
            let message = "This model's maximum context length is 4096 tokens.";
            let mut error = answer::error("invalid_request_error", "context_length_exceeded", message);
            error["error"]["param"] = json!("messages");
            say(400, &error)
        }
        (_, "unprocessable") => say(422, &answer::error("invalid_request_error", "odd", "cannot")),
        (_, "limited") => {
            let error = answer::error("requests", "rate_limit_exceeded", "slow down");
            vec![Act::Send(answer::json_with(429, &[("retry-after", "60")], &error))]
        }
        (_, "unpaid") => say(429, &answer::error("insufficient_quota", "insufficient_quota", "pay")),
        (_, "broken") => say(500, &answer::error("server_error", "server_error", "no")),
        (_, "refused") => say(401, &answer::error("invalid_request_error", "invalid_api_key", "who?")),
        (_, "silent") => vec![Act::Stall],
        (_, "cut") => parts_then(&[role(), delta("so far ")], Act::Close),
        (_, "error-inside") => {
            let error = event(&answer::error("server_error", "server_error", "oh no").to_string());
            parts_then(&[role(), delta("so far "), error], Act::Send(last_piece()))
        }
        (_, "recovers") if seen.header("x-stainless-retry-count") == Some("0") => {
            say(500, &answer::error("server_error", "server_error", "no"))
        }
        (_, "recovers") => say(200, &answer::chat("at last")),
        _ if streamed => {
            let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
                "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}});
            let mut parts = vec![role(), delta("Hello, "), delta("世界"), finish()];
            if asked["stream_options"]["include_usage"] == true {
                parts.push(event(&usage.to_string()));
            }
            parts.push(DONE.to_owned());
            parts_then(&parts, Act::Send(last_piece()))
        }
        _ => say(200, &answer::chat("Hello, 世界")),
    }
}

fn say(status: u16, body: &Value) -> Script {
    vec![Act::Send(answer::json(status, body))]
}

fn parts_then(parts: &[String], end: Act) -> Script {
    let mut script = vec![Act::Send(stream_head())];
    script.extend(parts.iter().map(|part| Act::Send(piece(part))));
    script.push(end);
    script
}

fn tools(streamed: bool) -> Script {
    let call = json!({"index": 0, "id": "call_1", "type": "function",
        "function": {"name": "weather", "arguments": "{\"city\": \"Köln\"}"}});
    if !streamed {
        let mut body = answer::chat("");
        body["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        body["choices"][0]["finish_reason"] = json!("tool_calls");
        return say(200, &body);
    }
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let head = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]});
        event(&head.to_string())
    };
    let more = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let mut first = call.clone();
    first["function"]["arguments"] = json!("");
    let parts = [
        chunk(json!({"role": "assistant", "content": null, "tool_calls": [first]}), Value::Null),
        chunk(more("{\"city\": "), Value::Null),
        chunk(more("\"Köln\"}"), Value::Null),
        chunk(json!({}), json!("tool_calls")),
        DONE.to_owned(),
    ];
    parts_then(&parts, Act::Send(last_piece()))
}

fn responses() -> Script {
    let response = |status: &str| {
        json!({"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": "m", "output": [],
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": []})
    };
    let say = |kind: &str, more: Value| {
        let mut body = json!({"type": kind});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("event: {kind}\ndata: {body}\n\n")
    };
    let delta = json!({"sequence_number": 1, "item_id": "i", "output_index": 0, "content_index": 0, "delta": "hi",
        "logprobs": []});
    let parts = [
        say("response.created", json!({"sequence_number": 0, "response": response("in_progress")})),
        say("response.output_text.delta", delta),
        say("response.completed", json!({"sequence_number": 2, "response": response("completed")})),
    ];
    parts_then(&parts, Act::Send(last_piece()))
}

/// The scripted server, and a node that knows one client.
async fn scripted() -> (Node, Upstream) {
    let upstream = Upstream::start(openai).await;
    let allowed = [
        "gpt-*",
        "text-*",
        "tools",
        "json",
        "old",
        "too-long",
        "un*",
        "limited",
        "broken",
        "refused",
        "silent",
        "cut",
        "error-inside",
        "recovers",
    ];
    // The failures that would put its only key to rest have an upstream entry of their own each.
    let mut setup = Setup::new().upstream("main", &upstream.url());
    for name in ["limited", "unpaid", "refused"] {
        setup = setup.upstream(name, &upstream.url());
    }
    let retry = "retry: {attempts: 1}";
    for name in ["limited", "unpaid", "refused"] {
        setup = setup.route(&format!("{{match: {{model: {name}}}, to: [{name}], {retry}}}"));
    }
    for model in allowed.iter().chain(&["forbidden"]).filter(|m| !m.starts_with("un")) {
        setup = setup.route(&format!("{{match: {{model: \"{model}\"}}, to: [main], {retry}}}"));
    }
    setup = setup.route(&format!("{{match: {{model: unprocessable}}, to: [main], {retry}}}"));
    let quoted: Vec<String> = allowed.iter().map(|m| format!("\"{m}\"")).collect();
    let client =
        format!("clients: [{{name: sdk, key_sha256: {KEY_SHA256}, models: [{}]}}]", quoted.join(", "));
    (setup.section(&client).start().await, upstream)
}

/// Runs a script of `tests/sdk` to its end.
async fn run(program: &Path, script: &str, node: &Node, key: &str) {
    let mut command = Command::new(program);
    command.arg(parts::root().join("tests/sdk").join(script));
    command.env("BASE_URL", format!("http://{}/v1", node.address)).env("API_KEY", key);
    if let Some(modules) = parts::node_modules() {
        command.env("NODE_PARTS", modules);
    }
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(variable);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = within(std::time::Duration::from_secs(90), script, command.output()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}:\n{out}\n{err}");
    eprintln!("{}", out.trim());
}

/// What every SDK run leaves behind: our key upstream, the client's nowhere.
fn credentials_stayed_apart(node: &Node, upstream: &Upstream) {
    let requests = upstream.requests();
    assert!(!requests.is_empty());
    for seen in requests {
        assert!(seen.header("authorization").unwrap().starts_with("Bearer sk-of-upstream-"), "{}", seen.head);
        assert!(!seen.head.contains(KEY), "{}", seen.head);
    }
    let log = node.process.output();
    assert!(!log.contains("sk-of-"), "a key in the log:\n{log}");
}

#[tokio::test]
async fn the_python_sdk_chats_streams_calls_tools_and_embeds() {
    let Some(python) = parts::python() else { return };
    let (node, upstream) = scripted().await;
    run(&python, "chat.py", &node, KEY).await;
    credentials_stayed_apart(&node, &upstream);
}

#[tokio::test]
async fn the_python_sdk_raises_its_own_typed_exceptions() {
    let Some(python) = parts::python() else { return };
    let (node, upstream) = scripted().await;
    run(&python, "errors.py", &node, KEY).await;
    credentials_stayed_apart(&node, &upstream);
}

#[tokio::test]
async fn the_node_sdk_chats_streams_calls_tools_and_embeds() {
    let (Some(program), Some(_)) = (parts::program("node"), parts::node_modules()) else { return };
    let (node, upstream) = scripted().await;
    run(&program, "chat.mjs", &node, KEY).await;
    credentials_stayed_apart(&node, &upstream);
}

#[tokio::test]
async fn the_node_sdk_raises_its_own_typed_exceptions() {
    let (Some(program), Some(_)) = (parts::program("node"), parts::node_modules()) else { return };
    let (node, upstream) = scripted().await;
    run(&program, "errors.mjs", &node, KEY).await;
    credentials_stayed_apart(&node, &upstream);
}

#[tokio::test]
async fn a_real_model_answers_through_the_node_plain_and_streamed() {
    let Some(model) = LocalModel::start("sk-of-upstream-main").await else { return };
    let Some(python) = parts::python() else { return };
    let node = Setup::new().upstream("main", &model.url()).start().await;
    run(&python, "local_model.py", &node, "any").await;
    assert!(
        node.metric("tidegate_tokens_total", &[("kind", "completion"), ("model", "smollm2")]).await > 4.0
    );
    assert!(
        node.metric("tidegate_time_to_first_token_seconds_count", &[("path", "main@direct")]).await >= 1.0
    );
    // Without the right key the real server refuses, and that is our trouble, not the client's.
    let node = Setup::new().upstream("wrong", &model.url()).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await.1, "upstream_auth");
}
