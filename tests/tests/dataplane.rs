//! What crosses the gateway and what does not: bytes, headers, credentials, versions; and its own errors.

use std::fmt::Write as _;

use http::Version;
use serde_json::{Value, json};
use tidegate_tests::answer;
use tidegate_tests::ca::Ca;
use tidegate_tests::client::Raw;
use tidegate_tests::h2::H2Upstream;
use tidegate_tests::node::{Node, Setup, upstream_key};
use tidegate_tests::upstream::{Act, Upstream};

async fn answering() -> Upstream {
    Upstream::saying(answer::json(200, &answer::chat("hello"))).await
}

async fn pair() -> (Node, Upstream) {
    let upstream = answering().await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    (node, upstream)
}

fn key_hash(key: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn a_body_goes_upstream_byte_by_byte() {
    let (node, upstream) = pair().await;
    let odd = [
        "{\"z\":1.0,\"model\":\"m\",\"a\":1e400,\"big\":123456789012345678901234567890,\"messages\":[]}"
            .to_owned(),
        "  {\n\t\"messages\" : [ ] , \"model\":\"m\" , \"emoji\":\"\\ud83c\\udf0a 🌊 \\u00e9\" }  \n"
            .to_owned(),
        "{\"model\":\"m\",\"unknown_field\":{\"deep\":[null,true,-0.0]},\"dup\":1,\"dup\":2}".to_owned(),
        format!(
            "{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"{}\"}}]}}",
            "long ".repeat(200_000)
        ),
    ];
    for body in &odd {
        let call = node.call("POST", "/v1/chat/completions").header("content-type", "application/json");
        assert_eq!(call.body(body.clone()).send().await.status, 200, "{body:.200}");
    }
    for (seen, body) in upstream.requests().iter().zip(&odd) {
        assert!(
            seen.body == body.as_bytes(),
            "changed on the way: {:.200}",
            String::from_utf8_lossy(&seen.body)
        );
        assert_eq!(seen.header("content-length").unwrap(), body.len().to_string());
    }
    assert_eq!(upstream.count(), odd.len());
}

#[tokio::test]
async fn an_answer_comes_back_byte_by_byte() {
    let body =
        answer::chat("été 🌊").to_string().replace("{\"choices\"", "{ \"odd\" : 1.50e+0,\n\t\"choices\"");
    assert!(body.contains("1.50e+0"), "{body}");
    let headers = [("content-type", "application/json; charset=utf-8"), ("openai-processing-ms", "12")];
    let upstream = Upstream::saying(answer::whole(200, &headers, &body)).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.header("content-type"), "application/json; charset=utf-8");
    assert_eq!(reply.header("openai-processing-ms"), "12");
    assert_eq!(reply.header("content-length"), body.len().to_string());
    assert_eq!(reply.text().await, body);
}

#[tokio::test]
async fn a_compressed_answer_passes_untouched() {
    // gzip of a chat completion, as a server compressed it.
    let coded: Vec<u8> = (0..1000u32).map(|n| (n * 7919 % 251) as u8).collect();
    let headers =
        [("content-type", "application/json"), ("content-encoding", "gzip"), ("vary", "accept-encoding")];
    let upstream = Upstream::saying(answer::whole(200, &headers, &coded)).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node.chat().header("accept-encoding", "gzip").send().await;
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), ("gzip", "accept-encoding"));
    assert_eq!(reply.bytes().await, coded);
    assert_eq!(upstream.request().header("accept-encoding"), Some("gzip"), "the client's own wish goes on");
}

#[tokio::test]
async fn hop_by_hop_headers_end_here_in_both_directions() {
    let headers = [
        ("content-type", "application/json"),
        ("connection", "x-per-hop"),
        ("x-per-hop", "upstream"),
        ("keep-alive", "timeout=5"),
        ("trailer", "x-t"),
        ("x-kept", "yes"),
        ("set-cookie", "session=of-our-account"),
        ("proxy-authenticate", "Basic"),
    ];
    let upstream = Upstream::saying(answer::whole(200, &headers, answer::chat("x").to_string())).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node
        .chat()
        .header("connection", "x-mine, keep-alive")
        .header("x-mine", "1")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic abc")
        .header("cookie", "session=1")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-kept", "yes")
        .header("openai-beta", "assistants=v2")
        .send()
        .await;
    assert_eq!(reply.status, 200);
    for name in ["x-per-hop", "keep-alive", "trailer", "set-cookie", "proxy-authenticate"] {
        assert_eq!(reply.headers.get(name), None, "{name} to the client");
    }
    assert_eq!(reply.header("x-kept"), "yes");
    let seen = upstream.request();
    for name in ["x-mine", "te", "proxy-authorization", "cookie", "x-forwarded-for", "keep-alive"] {
        assert_eq!(seen.header(name), None, "{name} to the upstream");
    }
    assert_eq!((seen.header("x-kept"), seen.header("openai-beta")), (Some("yes"), Some("assistants=v2")));
    assert_eq!(seen.header("host").unwrap(), format!("127.0.0.1:{}", upstream.port()));
}

#[tokio::test]
async fn neither_sides_credential_reaches_the_other() {
    let upstream = answering().await;
    let clients = format!("clients: [{{name: team, key_sha256: {}}}]", key_hash("tg-the-clients-key"));
    let node = Setup::new().upstream("a", &upstream.url()).section(&clients).start().await;
    for name in ["authorization", "api-key", "x-api-key"] {
        let value = if name == "authorization" { "Bearer tg-the-clients-key" } else { "tg-the-clients-key" };
        let reply = node.chat().header(name, value).send().await;
        assert_eq!(reply.status, 200, "{name}");
        let answer = format!("{:?}", reply.headers) + &reply.text().await;
        assert!(!answer.contains(&upstream_key("a")), "{answer}");
    }
    for seen in upstream.requests() {
        assert_eq!(seen.header("authorization").unwrap(), format!("Bearer {}", upstream_key("a")));
        assert!(!seen.head.contains("tg-the-clients-key"), "{}", seen.head);
    }
}

#[tokio::test]
async fn an_upstream_without_keys_gets_no_credential() {
    let upstream = answering().await;
    let node = Setup::new().upstream_without_key("a", &upstream.url()).start().await;
    assert_eq!(node.chat().bearer("sk-whatever-key").send().await.status, 200);
    assert_eq!(upstream.request().header("authorization"), None);
}

#[tokio::test]
async fn a_key_is_read_from_a_file() {
    let upstream = answering().await;
    let setup = Setup::new();
    let file = setup.file("key", "sk-from-a-file\n");
    let keys = format!("keys: [{{file: \"{}\"}}]", file.display());
    let node = setup.upstream_with("a", &upstream.url(), &keys).start().await;
    assert_eq!(node.chat().send().await.status, 200);
    assert_eq!(upstream.request().header("authorization"), Some("Bearer sk-from-a-file"));
}

#[tokio::test]
async fn request_ids_are_the_clients_or_new_and_stand_in_the_log() {
    let (node, _upstream) = pair().await;
    let reply = node.chat().header("x-request-id", "my-id-42").send().await;
    assert_eq!(reply.header("x-request-id"), "my-id-42");
    let (one, two) = (node.chat().send().await, node.chat().send().await);
    assert!(one.header("x-request-id").len() >= 16);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    // One that would forge a log line is replaced.
    let forged = node.chat().header("x-request-id", "a b\"c").send().await;
    assert_ne!(forged.header("x-request-id"), "a b\"c");
    let error = node.call("GET", "/nothing").send().await;
    assert!(!error.header("x-request-id").is_empty(), "errors carry one as well");
    assert_eq!((error.header("x-tidegate-attempts"), error.headers.get("x-tidegate-path")), ("0", None));
    assert_eq!(error.header("x-tidegate-cache"), "bypass");
    node.process.line("the request's line", |line| line.contains("\"my-id-42\"").then_some(())).await;
}

#[tokio::test]
async fn errors_have_the_shape_and_code_of_the_table() {
    let upstream = answering().await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .route("{match: {model: \"m*\"}, to: [a]}")
        .listen("max_body: 1KiB")
        .start()
        .await;
    let chat = "/v1/chat/completions";
    let json =
        |body: &str| node.call("POST", chat).header("content-type", "application/json").body(body.to_owned());
    let large = json!({"model": "m", "messages": ["x".repeat(2000)]}).to_string();
    let cases = [
        (json("not json"), 400, "invalid_json"),
        (json(""), 400, "invalid_json"),
        (json("[1]"), 400, ""),
        (json("{\"messages\":[]}"), 400, "missing_model"),
        (json("{\"model\":\"other\"}"), 404, "model_not_found"),
        (json(&large), 413, "body_too_large"),
        (node.call("GET", chat), 405, "method_not_allowed"),
        (node.call("DELETE", "/v1/models"), 405, "method_not_allowed"),
        (node.call("GET", "/"), 404, "not_found"),
        (node.call("GET", "/v2/models"), 404, "not_found"),
        (node.call("GET", "/v1/../../etc/passwd"), 404, "not_found"),
        (node.call("GET", "/v1/models/other"), 404, "model_not_found"),
        (json("{\"model\":\"m\"}").header("x-large", &"x".repeat(40 * 1024)), 431, "headers_too_large"),
    ];
    for (call, status, code) in cases {
        let shown = format!("{call:?}").chars().take(300).collect::<String>();
        let reply = call.send().await;
        assert_eq!(reply.status, status, "{shown}");
        assert_eq!(reply.header("content-type"), "application/json", "{shown}");
        if status == 405 {
            assert!(!reply.header("allow").is_empty(), "405 says what is allowed");
        }
        let body = reply.json().await;
        assert_eq!(body["error"]["type"], "invalid_request_error", "{shown}: {body}");
        if !code.is_empty() {
            assert_eq!(body["error"]["code"], code, "{shown}");
        }
        let keys: Vec<_> = body["error"].as_object().unwrap().keys().cloned().collect();
        assert!(
            ["code", "message", "param", "type"].iter().all(|k| keys.contains(&(*k).to_owned())),
            "{body}"
        );
    }
    assert_eq!(upstream.count(), 0, "none of it went upstream");
    assert_eq!(node.metric("tidegate_requests_total", &[("status", "client_error")]).await, 13.0);
    node.still_answers().await;
}

#[tokio::test]
async fn clients_are_known_by_their_keys_and_held_to_their_models() {
    let upstream = answering().await;
    let clients = format!(
        "clients: [{{name: narrow, key_sha256: {}, models: [\"gpt-4*\"]}}, {{name: wide, key_sha256: {}}}]",
        key_hash("tg-narrow-key"),
        key_hash("tg-wide-key")
    );
    let node = Setup::new().upstream("a", &upstream.url()).section(&clients).start().await;
    let chat = |model: &str| node.post("/v1/chat/completions", &json!({"model": model, "messages": []}));
    for call in [
        chat("gpt-4o"),
        chat("gpt-4o").bearer("tg-unknown-key"),
        chat("gpt-4o").header("authorization", "Basic dXNlcjpwYXNz"),
        chat("gpt-4o").header("authorization", "Bearer "),
        node.call("GET", "/v1/models"),
    ] {
        let reply = call.send().await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.error().await, ("authentication_error".into(), "invalid_api_key".into()));
    }
    let reply = chat("o1").bearer("tg-narrow-key").send().await;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.error().await, ("permission_error".into(), "model_not_allowed".into()));
    assert_eq!(upstream.count(), 0);
    assert_eq!(chat("gpt-4o").bearer("tg-narrow-key").send().await.status, 200);
    assert_eq!(chat("o1").bearer("tg-wide-key").send().await.status, 200);
    assert_eq!(chat("gpt-4o").header("authorization", "bearer tg-wide-key").send().await.status, 200);
    let labels = [("client", "narrow"), ("status", "success"), ("model", "gpt-4o")];
    assert_eq!(node.metric("tidegate_requests_total", &labels).await, 1.0);
}

#[tokio::test]
async fn models_are_merged_over_upstreams_and_filtered_by_routes_and_clients() {
    let list = |ids: &[&str]| {
        let data: Vec<Value> =
            ids.iter().map(|id| json!({"id": id, "object": "model", "owned_by": "x"})).collect();
        answer::json(200, &json!({"object": "list", "data": data}))
    };
    let first = Upstream::saying(list(&["gpt-4o", "gpt-4o-mini", "whisper-1"])).await;
    let second = Upstream::saying(list(&["llama", "gpt-4o"])).await;
    let broken = Upstream::saying(answer::whole(500, &[], "x")).await;
    let clients = format!(
        "clients: [{{name: all, key_sha256: {}}}, {{name: few, key_sha256: {}, models: [\"llama\"]}}]",
        key_hash("tg-all"),
        key_hash("tg-few")
    );
    let node = Setup::new()
        .upstream("a", &first.url())
        .upstream("b", &second.url())
        .upstream("c", &broken.url())
        .route("{match: {model: \"gpt-*\"}, to: [a]}")
        .route("{match: {model: \"llama\"}, to: [b, c]}")
        .section(&clients)
        .start()
        .await;
    let ids = async |key: &str| {
        let call = node.call("GET", "/v1/models").bearer(key).header("accept-encoding", "gzip");
        let reply = call.send().await;
        assert_eq!(reply.status, 200);
        let body = reply.json().await;
        assert_eq!(body["object"], "list");
        let ids: Vec<_> =
            body["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().into()).collect();
        assert_eq!(body["data"][0]["owned_by"], "x", "entries stay as the upstream wrote them");
        ids
    };
    let mut all: Vec<String> = ids("tg-all").await;
    all.sort();
    assert_eq!(all, ["gpt-4o", "gpt-4o-mini", "llama"]);
    assert_eq!(ids("tg-few").await, ["llama"]);
    let asked = first.requests();
    assert!(
        asked.iter().all(|r| r.header("accept-encoding").is_none()),
        "a list that is merged must come uncoded"
    );
}

#[tokio::test]
async fn what_is_handed_through_keeps_its_length_and_a_condition_its_304() {
    let upstream = Upstream::start(|seen| {
        let headers = [("content-type", "application/octet-stream"), ("etag", "\"1\"")];
        vec![Act::Send(match seen.header("if-none-match") {
            Some(_) => "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".into(),
            None => answer::whole(200, &headers, vec![7; 100_000]),
        })]
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let path = "/v1/files/f/content";
    let reply = node.call("GET", path).header("openai-organization", "org-of-the-client").send().await;
    assert_eq!(reply.header("content-length"), "100000");
    assert_eq!(reply.bytes().await.len(), 100_000);
    assert_eq!(upstream.request().header("openai-organization"), None, "it would not fit our key");
    let reply = node.call("GET", path).header("if-none-match", "\"1\"").send().await;
    assert_eq!(reply.status, 304);
}

#[tokio::test]
async fn one_model_is_asked_of_its_route() {
    let model = json!({"id": "org/m", "object": "model"});
    let upstream = Upstream::saying(answer::json(200, &model)).await;
    let other = answering().await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .upstream("b", &other.url())
        .route("{match: {model: \"x\"}, to: [b]}")
        .route("{match: {model: \"org/*\"}, to: [a]}")
        .start()
        .await;
    let reply = node.call("GET", "/v1/models/org%2Fm").send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json().await, model);
    assert_eq!(upstream.request().target(), "/v1/models/org%2Fm");
    assert_eq!(other.count(), 0);
}

#[tokio::test]
async fn routes_match_in_order_and_each_request_goes_to_its_own_upstream() {
    let (first, second) = (answering().await, answering().await);
    let node = Setup::new()
        .upstream("a", &first.url())
        .upstream("b", &second.url())
        .route("{match: {model: \"gpt-4*\"}, to: [a]}")
        .route("{match: {model: \"*\"}, to: [b]}")
        .start()
        .await;
    for (model, path) in [("gpt-4o", "a@direct"), ("gpt-3", "b@direct"), ("GPT-4o", "b@direct")] {
        let reply = node.post("/v1/chat/completions", &json!({"model": model})).send().await;
        assert_eq!(reply.came_by(), (path, "1"), "{model}");
    }
    // Any POST of JSON with a model is routed by it, known endpoint or not.
    let reply = node.post("/v1/rerank", &json!({"model": "gpt-4o", "query": "q"})).send().await;
    assert_eq!(reply.came_by(), ("a@direct", "1"));
}

#[tokio::test]
async fn other_paths_go_through_unchanged_to_the_first_routes_upstream() {
    let upstream = Upstream::start(|seen| {
        let kind =
            if seen.target().contains("/content") { "application/octet-stream" } else { "application/json" };
        vec![Act::Send(answer::whole(
            200,
            &[("content-type", kind)],
            [&[0, 159, 146, 150], &seen.body[..]].concat(),
        ))]
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node.call("GET", "/v1/files/file-1/content?a=b&c=%20d").send().await;
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.bytes().await, [0, 159, 146, 150].as_slice());
    let form = "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--x--\r\n";
    let call = node.call("POST", "/v1/files").header("content-type", "multipart/form-data; boundary=x");
    let reply = call.body(form).send().await;
    assert_eq!(reply.bytes().await, [&[0, 159, 146, 150], form.as_bytes()].concat());
    assert_eq!(node.call("DELETE", "/v1/files/file-1").send().await.status, 200);
    let seen: Vec<_> =
        upstream.requests().iter().map(|r| r.head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(
        seen,
        [
            "GET /v1/files/file-1/content?a=b&c=%20d HTTP/1.1",
            "POST /v1/files HTTP/1.1",
            "DELETE /v1/files/file-1 HTTP/1.1"
        ]
    );
    let requests = upstream.requests();
    assert_eq!(requests[1].header("content-type"), Some("multipart/form-data; boundary=x"));
}

#[tokio::test]
async fn embeddings_and_completions_are_checked_and_pass() {
    let embedding = json!({"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0,
        "embedding": [0.25, -1.5e-7]}], "usage": {"prompt_tokens": 4, "total_tokens": 4}});
    let completion = json!({"id": "c", "object": "text_completion", "model": "m",
        "choices": [{"text": "hi", "index": 0, "finish_reason": "stop", "logprobs": null}]});
    let (one, two) = (embedding.clone(), completion.clone());
    let upstream = Upstream::start(move |seen| {
        vec![Act::Send(answer::json(200, if seen.target().ends_with("/embeddings") { &one } else { &two }))]
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node.post("/v1/embeddings", &json!({"model": "m", "input": ["a"]})).send().await;
    assert_eq!(reply.json().await, embedding);
    let reply = node.post("/v1/completions", &json!({"model": "m", "prompt": "a"})).send().await;
    assert_eq!(reply.json().await, completion);
    let labels = [("kind", "prompt"), ("model", "m")];
    assert_eq!(node.metric("tidegate_tokens_total", &labels).await, 4.0);
}

#[tokio::test]
async fn http2_in_with_prior_knowledge_is_served() {
    let upstream = Upstream::start(|seen| {
        let streamed = seen.json()["stream"] == true;
        vec![Act::Send(if streamed {
            answer::stream(&["a", "b"])
        } else {
            answer::json(200, &answer::chat("x"))
        })]
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = node.chat().h2().send().await;
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::HTTP_2));
    assert_eq!(reply.json().await, answer::chat("x"));
    let reply = node.chat_stream().h2().send().await;
    assert_eq!(reply.came_by(), ("a@direct", "1"));
    assert_eq!(answer::text_of(&reply.text().await), "ab");
    let reply = node.call("GET", "/v1/nothing/../x").h2().send().await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn http2_in_by_alpn_under_tls_is_served() {
    let ca = Ca::new();
    let upstream = answering().await;
    let setup = Setup::new();
    let pair = ca.issue(&["localhost"]);
    let (cert, key) = (setup.file("cert.pem", &pair.cert), setup.file("key.pem", &pair.key));
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}", cert.display(), key.display());
    let node = setup.upstream("a", &upstream.url()).listen(&tls).start().await;
    let reply = node.chat().tls(ca.client(), "localhost").h2().send().await;
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::HTTP_2));
    let reply = node.chat().tls(ca.client(), "localhost").send().await;
    assert_eq!((reply.status.as_u16(), reply.version), (200, Version::HTTP_11));
}

#[tokio::test]
async fn http2_out_is_chosen_by_alpn_and_shares_one_connection() {
    let ca = Ca::new();
    let upstream = H2Upstream::start(ca.issue(&["localhost"]).server(&["h2"])).await;
    let setup = Setup::new();
    let authority = setup.file("ca.pem", ca.pem());
    let tls = format!("tls: {{ca: \"{}\"}}", authority.display());
    let node = setup.upstream_with("a", &upstream.url_as("localhost"), &tls).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json().await, answer::chat("over h2"));
    let reply = node.chat_stream().send().await;
    assert_eq!(answer::text_of(&reply.text().await), "over h2");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    for seen in &requests {
        assert_eq!(seen.version, Version::HTTP_2);
        assert_eq!(seen.uri.to_string(), format!("{}/chat/completions", upstream.url_as("localhost")));
        assert_eq!(seen.headers["authorization"], format!("Bearer {}", upstream_key("a")));
        assert_eq!(seen.headers.get("host").or(seen.headers.get("connection")), None);
    }
}

#[tokio::test]
async fn connections_to_an_upstream_are_kept_and_bounded() {
    let upstream = answering().await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    for _ in 0..10 {
        assert_eq!(node.chat().send().await.status, 200);
    }
    // Each worker thread keeps its own at most.
    let workers = std::thread::available_parallelism().unwrap().get();
    assert!(upstream.connections() <= workers, "{} connections for 10 requests", upstream.connections());
}

#[tokio::test]
async fn beyond_its_places_a_node_says_503_overloaded_at_once() {
    let gate = tidegate_tests::upstream::Gate::new();
    let wire = answer::json(200, &answer::chat("x"));
    let upstream = Upstream::doing(vec![Act::Wait(gate.clone()), Act::Send(wire)]).await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .section("limits: [{per: node, in_flight: 2, queue: 0, queue_timeout: 1s}]")
        .start()
        .await;
    let running = [tokio::spawn(node.chat().send()), tokio::spawn(node.chat().send())];
    upstream.received(2).await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 503);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(reply.error().await, ("overloaded_error".into(), "overloaded".into()));
    gate.open(2);
    for call in running {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let (node, upstream) = pair().await;
    let body = json!({"model": "m", "messages": []}).to_string();
    let mut raw = Raw::connect(node.address).await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        body.len()
    );
    raw.send(head).await;
    assert_eq!(raw.answer().await.unwrap().0, 100);
    raw.send(&body).await;
    assert_eq!(raw.answer().await.unwrap().0, 200);
    assert_eq!(upstream.request().body, body);
}

#[tokio::test]
async fn a_goaway_costs_no_client_a_failure() {
    let ca = Ca::new();
    let upstream = H2Upstream::leaving_after(ca.issue(&["localhost"]).server(&["h2"]), 3).await;
    let setup = Setup::new();
    let tls = format!("tls: {{ca: \"{}\"}}", setup.file("ca.pem", ca.pem()).display());
    let node = setup.upstream_with("a", &upstream.url_as("localhost"), &tls).start().await;
    for _ in 0..10 {
        let calls: Vec<_> = (0..8).map(|_| tokio::spawn(node.chat().send())).collect();
        for call in calls {
            let reply = call.await.unwrap();
            assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
        }
    }
    let connections = upstream.requests().iter().map(|seen| seen.connection).max().unwrap();
    assert!(connections > 2, "it left {connections} times");
    assert_eq!(node.metric("tidegate_api_errors_total", &[]).await, 0.0);
}

#[tokio::test]
async fn an_upstream_at_its_bound_gives_way_to_another_and_alone_says_503() {
    let gate = tidegate_tests::upstream::Gate::new();
    let wire = answer::json(200, &answer::chat("x"));
    let first = Upstream::doing(vec![Act::Wait(gate.clone()), Act::Send(wire)]).await;
    let second = answering().await;
    let one = "max_in_flight: 1";
    let both = Setup::new().upstream_with("a", &first.url(), one).upstream("b", &second.url()).start().await;
    let alone = Setup::new().upstream_with("a", &first.url(), one).retry("{attempts: 1}").start().await;
    let running = [tokio::spawn(both.chat().send()), tokio::spawn(alone.chat().send())];
    first.received(2).await;
    let reply = both.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-path")), (200, "b@direct"));
    let reply = alone.chat().send().await;
    assert_eq!(reply.status, 503);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(reply.error().await, ("overloaded_error".into(), "overloaded".into()));
    gate.open(2);
    for call in running {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(first.count(), 2, "the bound held");
}

#[tokio::test]
async fn a_slow_plain_body_is_bound_by_idle_and_total_not_by_first_byte() {
    let body = answer::chat("slowly").to_string();
    let gate = tidegate_tests::upstream::Gate::new();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut script = vec![Act::Send(head.into())];
    for byte in body.clone().into_bytes().chunks(40) {
        script.extend([Act::Wait(gate.clone()), Act::Send(byte.to_vec().into())]);
    }
    let upstream = Upstream::doing(script).await;
    let times = "timeouts: {first_byte: 200ms, idle: 2s, total: 10s}";
    let node = Setup::new().upstream_with("a", &upstream.url(), times).start().await;
    let call = tokio::spawn(node.chat().send());
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
    while !call.is_finished() {
        tick.tick().await;
        gate.open(1);
    }
    let reply = call.await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
    assert_eq!(reply.text().await, body);
}

#[tokio::test]
async fn a_plain_answer_that_stops_in_the_middle_is_504_in_time() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\":";
    let upstream = Upstream::doing(vec![Act::Send(head.into()), Act::Stall]).await;
    let by_idle = "timeouts: {idle: 300ms}";
    let by_total = "timeouts: {total: 300ms, first_byte: 250ms, connect: 250ms}";
    for times in [by_idle, by_total] {
        let setup = Setup::new().upstream_with("a", &upstream.url(), times).retry("{attempts: 1}");
        let node = setup.start().await;
        let limit = std::time::Duration::from_secs(3);
        let reply = tidegate_tests::within(limit, "an answer in time", node.chat().send()).await;
        assert_eq!(reply.status, 504, "{times}");
        assert_eq!(reply.error().await, ("upstream_error".into(), "timeout".into()));
    }
    upstream.gave_up(2).await;
}

#[tokio::test]
async fn a_large_plain_answer_passes_whole_and_a_cut_one_is_not_ended_in_order() {
    let numbers = "0.123456789,".repeat(2_000_000);
    let body = format!("{{\"object\":\"list\",\"data\":[{{\"embedding\":[{numbers}0]}}],\"model\":\"m\"}}");
    let whole = answer::whole(200, &[("content-type", "application/json")], &body);
    let cut = whole.slice(..whole.len() - 1000);
    let upstream = Upstream::start(move |seen| match seen.header("x-cut") {
        Some(_) => vec![Act::Send(cut.clone()), Act::Close],
        None => vec![Act::Send(whole.clone())],
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let ask = || node.post("/v1/embeddings", &json!({"model": "m", "input": "x"}));
    let got = ask().send().await.bytes().await;
    assert!(got == body.as_bytes(), "{} of {} bytes", got.len(), body.len());
    let broken = ask().header("x-cut", "1").send().await;
    assert_eq!(broken.status, 200);
    assert!(broken.try_bytes().await.is_err(), "a client must be able to see that it is not whole");
    let peak = node.process.peak() >> 20;
    assert!(tidegate_tests::node::is_debug_build() || peak < 64, "{peak} MiB for an answer of 24 MiB");
}

#[tokio::test]
async fn an_event_stream_nobody_asked_for_is_no_plain_answer() {
    let upstream = Upstream::saying(answer::stream(&["x"])).await;
    let node = Setup::new().upstream("a", &upstream.url()).retry("{attempts: 1}").start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await.1, "bad_response");
}
