//! Kept answers as clients meet them: what is kept and for whom, what a request may say about it, and what comes
//! back. Nodes share a store; answers differ from call to call, so that a kept one is known by what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::answer::{
    self, DONE, delta, event, finish, last_piece, piece, role, stream_head, text_of,
};
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{parts, until, until_within};
use tokio::process::Command;

const HOUR: &str = "cache: {ttl: 1h}";

/// An upstream whose answers are numbered.
async fn numbered() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]).await
}

/// One node without a store, whose route says this of the cache.
async fn alone(upstream: &Upstream, cache: &str) -> Node {
    Setup::new().upstream("up", &upstream.url()).route_to("up", cache).start().await
}

async fn pair(redis: &Redis, upstream: &Upstream, cache: &str) -> Nodes {
    Nodes::meet(2, |setup, _| {
        setup.patient_store(&redis.url()).upstream("up", &upstream.url()).route_to("up", cache)
    })
    .await
}

fn chat(content: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}]})
}

fn streamed(content: &str) -> Value {
    let mut body = chat(content);
    body["stream"] = json!(true);
    body
}

fn post(node: &Node, body: &Value) -> Call {
    node.post("/v1/chat/completions", body)
}

/// What came of the cache, and the body.
async fn asked(call: Call) -> (String, String) {
    let reply = call.send().await;
    let (status, cache) = (reply.status, reply.header("x-tidegate-cache").to_owned());
    let text = reply.text().await;
    assert_eq!(status, 200, "{text}");
    (cache, text)
}

fn assert_hit(reply: &Reply) {
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-cache")), (200, "hit"));
    assert_eq!(reply.came_by(), ("", "0"), "a kept answer met no upstream");
    let age = reply.header("age").parse::<u64>();
    assert!(age.is_ok_and(|age| age < 60), "age: {:?}", reply.header("age"));
}

/// Asks until it is kept: the store is written to while the client already reads.
async fn until_hit(node: &Node, body: &Value) -> Reply {
    until_within(Duration::from_secs(3), "a hit", async || {
        let reply = post(node, body).header("cache-control", "only-if-cached").send().await;
        (reply.status == 200).then_some(reply)
    })
    .await
}

#[tokio::test]
async fn the_second_request_is_answered_by_what_the_first_was_told() {
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    let first = post(&node, &chat("hi")).send().await;
    assert_eq!((first.header("x-tidegate-cache"), first.header("age")), ("miss", ""));
    assert_eq!(first.came_by(), ("up@direct", "1"));
    let first = first.bytes().await;
    let second = post(&node, &chat("hi")).send().await;
    assert_hit(&second);
    assert!(second.header("content-type").starts_with("application/json"));
    assert!(!second.header("x-request-id").is_empty());
    assert_eq!(second.bytes().await, first);
    assert_eq!(upstream.count(), 1);
    assert_eq!(node.metric("tidegate_cache_requests_total", &[("result", "hit")]).await as u64, 1);
    assert_eq!(node.metric("tidegate_cache_requests_total", &[("result", "miss")]).await as u64, 1);
}

#[tokio::test]
async fn a_route_without_a_cache_keeps_nothing() {
    let upstream = numbered().await;
    let node = alone(&upstream, "").await;
    for turn in 0..2 {
        let (_, text) = asked(post(&node, &chat("hi"))).await;
        assert!(text.contains(&format!("answer {turn}")), "{text}");
    }
}

#[tokio::test]
async fn another_node_answers_with_what_one_was_told() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let nodes = pair(&redis, &upstream, HOUR).await;
    for body in [chat("hi"), streamed("hello")] {
        let (cache, first) = asked(post(&nodes[0], &body)).await;
        assert_eq!(cache, "miss");
        let second = until_hit(&nodes[1], &body).await;
        assert_hit(&second);
        assert_eq!(second.text().await, first, "byte for byte");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_stream_is_replayed_event_for_event() {
    // Spaces, order of keys and a field of the server's own: nothing that a rewrite would leave as it is.
    let odd = event(
        "{\"choices\": [{\"delta\": {\"content\": \"wörld\"},  \"index\": 0}], \"x\": 1.0, \"id\": \"chatcmpl-1\", \
         \"object\": \"chat.completion.chunk\", \"created\": 1, \"model\": \"m\"}",
    );
    let events = [role(), delta("hello "), odd, finish(), DONE.to_owned()];
    let mut wire = stream_head().to_vec();
    wire.extend(events.iter().flat_map(piece));
    wire.extend(last_piece());
    let upstream = Upstream::saying(wire.into()).await;
    let node = alone(&upstream, HOUR).await;
    let (_, first) = asked(post(&node, &streamed("hi"))).await;
    assert_eq!(text_of(&first), "hello wörld");
    let mut second = post(&node, &streamed("hi")).send().await;
    assert_hit(&second);
    assert!(second.header("content-type").starts_with("text/event-stream"));
    let mut replayed = Vec::new();
    while let Some(event) = second.event().await {
        replayed.push(event);
    }
    assert_eq!(replayed.concat(), first);
    assert_eq!(replayed.len(), 5);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn one_entry_serves_plain_and_streamed_requests() {
    for streamed_first in [true, false] {
        let upstream = numbered().await;
        let node = alone(&upstream, HOUR).await;
        let (plain, stream) = (chat("hi"), streamed("hi"));
        let order = if streamed_first { [&stream, &plain] } else { [&plain, &stream] };
        asked(post(&node, order[0])).await;
        let second = post(&node, order[1]).send().await;
        assert_hit(&second);
        let kind = second.header("content-type").to_owned();
        let text = second.text().await;
        if streamed_first {
            assert!(kind.starts_with("application/json"), "{kind}");
            let body: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(body["object"], "chat.completion");
            assert_eq!(body["choices"][0]["message"]["content"], "answer 0");
            assert_eq!(body["choices"][0]["finish_reason"], "stop");
        } else {
            assert!(kind.starts_with("text/event-stream"), "{kind}");
            assert!(text.ends_with(DONE), "{text}");
            assert_eq!(text_of(&text), "answer 0");
            assert!(text.contains("\"finish_reason\":\"stop\""), "{text}");
            assert!(!text.contains("prompt_tokens"), "nobody asked for usage: {text}");
        }
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn the_openai_sdk_reads_kept_answers_either_way() {
    let Some(python) = parts::python() else { return };
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    let script = "import sys, openai\n\
        c = openai.OpenAI(base_url=sys.argv[1], api_key='x', max_retries=0)\n\
        def ask(text, **more): return c.chat.completions.create(model='m', messages=[{'role': 'user', 'content': text}], **more)\n\
        def plain(text): return ask(text).choices[0].message.content\n\
        def stream(text): return ''.join(e.choices[0].delta.content or '' for e in ask(text, stream=True) if e.choices)\n\
        assert plain('one') == stream('one') == stream('one') == 'answer 0'\n\
        assert stream('two') == plain('two') == plain('two') == 'answer 1'\n";
    let mut command = Command::new(python);
    command.args(["-c", script]).arg(format!("http://{}/v1", node.address)).kill_on_drop(true);
    let output = tidegate_tests::within(Duration::from_secs(60), "the SDK", command.output()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_request_may_refuse_what_is_kept() {
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    let ask = async |control: &str| {
        let call = post(&node, &chat("hi"));
        let call = if control.is_empty() { call } else { call.header("cache-control", control) };
        let (cache, text) = asked(call).await;
        let body: Value = serde_json::from_str(&text).unwrap();
        (cache, body["choices"][0]["message"]["content"].as_str().unwrap().to_owned())
    };
    let hit = |number: u8| ("hit".to_owned(), format!("answer {number}"));
    ask("").await;
    assert_eq!(ask("max-age=3600").await, hit(0));
    let (cache, said) = ask("no-cache").await;
    assert_eq!((cache == "hit", said.as_str()), (false, "answer 1"));
    assert_eq!(ask("").await, hit(1), "what it was told is kept");
    let (cache, said) = ask("no-store").await;
    assert_eq!((cache.as_str(), said.as_str()), ("bypass", "answer 2"));
    assert_eq!(ask("").await, hit(1), "what it was told is not kept");
    // A second from now nothing is younger than that.
    until("an answer too old", async || (ask("max-age=0").await.1 == "answer 3").then_some(())).await;
    assert_eq!(ask("only-if-cached").await, hit(3));
}

#[tokio::test]
async fn only_if_cached_asks_no_upstream() {
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    let reply = post(&node, &chat("hi")).header("cache-control", "only-if-cached").send().await;
    assert_eq!(reply.status, 504);
    assert_eq!(reply.came_by(), ("", "0"));
    reply.error().await;
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn clients_share_answers_only_where_the_route_says_so() {
    for (cache, shared) in [(HOUR, false), ("cache: {ttl: 1h, shared: true}", true)] {
        let upstream = numbered().await;
        let setup = Setup::new().upstream("up", &upstream.url()).route_to("up", cache);
        let node = setup.clients(&[("x", ""), ("y", "")]).start().await;
        let ask = async |client: &str| asked(post(&node, &chat("hi")).bearer(&client_key(client))).await;
        assert_eq!(ask("x").await.0, "miss");
        assert_eq!(ask("x").await.0, "hit");
        assert_eq!(ask("y").await.0, if shared { "hit" } else { "miss" });
        assert_eq!(upstream.count(), if shared { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_request_that_differs_in_anything_that_matters_gets_an_answer_of_its_own() {
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    asked(post(&node, &chat("hi"))).await;
    let differing = [
        ("model", json!("n")),
        ("messages", json!([{"role": "user", "content": "Hi"}])),
        ("messages", json!([{"role": "system", "content": "hi"}])),
        ("temperature", json!(1)),
        ("temperature", json!(0)),
        ("top_p", json!(0.5)),
        ("max_tokens", json!(7)),
        ("max_completion_tokens", json!(7)),
        ("n", json!(1)),
        ("seed", json!(1)),
        ("stop", json!("x")),
        ("logprobs", json!(true)),
        ("response_format", json!({"type": "json_object"})),
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("tool_choice", json!("none")),
        ("reasoning_effort", json!("low")),
        ("a_field_of_tomorrow", json!(1)),
        ("a_field_of_tomorrow", json!(2)),
    ];
    for (index, (field, value)) in differing.iter().enumerate() {
        let mut body = chat("hi");
        body[field] = value.clone();
        let (cache, text) = asked(post(&node, &body)).await;
        assert_eq!(cache, "miss", "{field}: {value}");
        assert!(text.contains(&format!("answer {}", index + 1)), "{field}: {text}");
        assert_eq!(asked(post(&node, &body)).await.0, "hit", "{field}: {value}");
    }
    for (field, value) in [
        ("user", json!("alice")),
        ("metadata", json!({"ticket": "4711"})),
        ("safety_identifier", json!("x")),
        ("prompt_cache_key", json!("x")),
        ("service_tier", json!("auto")),
    ] {
        let mut body = chat("hi");
        body[field] = value;
        let (cache, text) = asked(post(&node, &body)).await;
        assert_eq!(cache, "hit", "{field}");
        assert!(text.contains("answer 0"), "{field}: {text}");
    }
    // Order and spaces are nobody's meaning.
    let odd = "{ \"messages\": [{\"content\":\"hi\",  \"role\":\"user\"}],\n\"model\":\"m\"}";
    let call = node.call("POST", "/v1/chat/completions").header("content-type", "application/json").body(odd);
    assert_eq!(asked(call).await.0, "hit");
}

/// What is answered with this at first is not kept.
async fn not_kept(first: Vec<Act>, body: Value) {
    let upstream = Upstream::start(move |seen| match seen.index {
        0 => first.clone(),
        _ => vec![Act::Send(answer::to(&seen.json(), "well"))],
    })
    .await;
    let node = Setup::new()
        .upstream("up", &upstream.url())
        .retry("{attempts: 1}")
        .route_to("up", HOUR)
        .start()
        .await;
    // However it ends for the client.
    if let Ok(reply) = post(&node, &body).try_send().await {
        assert_ne!(reply.header("x-tidegate-cache"), "hit");
        drop(reply.try_bytes().await);
    }
    let (cache, text) = asked(post(&node, &body)).await;
    assert!(cache != "hit" && text.contains("well"), "{cache}: {text}");
    assert_eq!(upstream.count(), 2);
    assert_eq!(asked(post(&node, &body)).await.0, "hit", "a good one is");
}

#[tokio::test]
async fn what_is_no_whole_answer_is_not_kept() {
    let say = |status, body: &Value| vec![Act::Send(answer::json(status, body))];
    not_kept(say(500, &answer::error("server_error", "no", "no")), chat("hi")).await;
    not_kept(say(400, &answer::error("invalid_request_error", "no", "no")), chat("hi")).await;
    for reason in ["length", "content_filter"] {
        let mut cut = answer::chat("cut");
        cut["choices"][0]["finish_reason"] = json!(reason);
        not_kept(say(200, &cut), chat("hi")).await;
    }
    let mut refusal = answer::chat("");
    refusal["choices"][0]["message"]["refusal"] = json!("I cannot");
    not_kept(say(200, &refusal), chat("hi")).await;
}

#[tokio::test]
async fn a_stream_that_broke_is_not_kept() {
    let begun = [stream_head(), piece(role()), piece(delta("so far"))].concat();
    let pause = Act::Sleep(Duration::from_millis(30));
    not_kept(vec![Act::Send(begun.clone().into()), pause, Act::Reset], streamed("hi")).await;
    let error = event(&answer::error("server_error", "no", "no").to_string());
    let with_error = [begun, piece(error).to_vec(), last_piece().to_vec()].concat();
    not_kept(vec![Act::Send(with_error.into())], streamed("hi")).await;
    let cut = delta("cut").replace("\"finish_reason\":null", "\"finish_reason\":\"length\"");
    let wire = [stream_head(), piece(role()), piece(cut), piece(DONE), last_piece()].concat();
    not_kept(vec![Act::Send(wire.into())], streamed("hi")).await;
}

#[tokio::test]
async fn what_is_larger_than_max_size_is_not_kept() {
    let upstream = Upstream::start(|seen| {
        let size = if seen.json()["messages"][0]["content"] == "much" { 5000 } else { 10 };
        vec![Act::Send(answer::to(&seen.json(), &"x".repeat(size)))]
    })
    .await;
    let node = alone(&upstream, "cache: {ttl: 1h, max_size: 2KiB}").await;
    for (content, second) in [("much", "miss"), ("little", "hit")] {
        for body in [chat(content), streamed(content)] {
            asked(post(&node, &body)).await;
        }
        let (cache, text) = asked(post(&node, &chat(content))).await;
        assert_eq!(cache, second, "{content}");
        assert!(text.contains("xxxxxxxxxx"));
    }
}

#[tokio::test]
async fn a_route_may_keep_only_what_is_deterministic() {
    let upstream = numbered().await;
    let node = alone(&upstream, "cache: {ttl: 1h, only_deterministic: true}").await;
    for (field, value, kept) in [
        ("temperature", json!(0), true),
        ("temperature", json!(0.7), false),
        ("seed", json!(7), true),
        ("user", json!("alice"), false),
    ] {
        let mut body = chat("hi");
        body[field] = value.clone();
        asked(post(&node, &body)).await;
        assert_eq!(asked(post(&node, &body)).await.0 == "hit", kept, "{field}: {value}");
    }
}

#[tokio::test]
async fn an_answer_past_its_time_serves_when_every_upstream_is_dead() {
    let Some(redis) = Redis::start().await else { return };
    let dead = Arc::new(AtomicBool::new(false));
    let dies = dead.clone();
    let upstream = Upstream::start(move |seen| {
        if dies.load(Ordering::Relaxed) {
            return vec![Act::Reset];
        }
        vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]
    })
    .await;
    let nodes = pair(&redis, &upstream, "cache: {ttl: 2s, stale_if_error: 1h}").await;
    let (_, first) = asked(post(&nodes[0], &chat("hi"))).await;
    dead.store(true, Ordering::Relaxed);
    for node in nodes.iter() {
        let stale = until_within(Duration::from_secs(8), "a stale answer", async || {
            let reply = post(node, &chat("hi")).send().await;
            assert_eq!(reply.status, 200);
            (reply.header("x-tidegate-cache") == "stale").then_some(reply)
        })
        .await;
        assert!(stale.header("age").parse::<u64>().is_ok_and(|age| (1..60).contains(&age)));
        assert_eq!(stale.text().await, first);
        assert_eq!(post(node, &chat("unheard of")).send().await.status, 502);
    }
    dead.store(false, Ordering::Relaxed);
    let (cache, text) = asked(post(&nodes[0], &chat("hi"))).await;
    assert!(cache == "miss" && text != first, "{cache}: {text}");
}

#[tokio::test]
async fn without_stale_if_error_nothing_past_its_time_is_served() {
    let upstream = Upstream::start(|seen| match seen.index {
        0 => vec![Act::Send(answer::json(200, &answer::chat("yes")))],
        _ => vec![Act::Reset],
    })
    .await;
    let node = alone(&upstream, "cache: {ttl: 1s}").await;
    asked(post(&node, &chat("hi"))).await;
    let mut hits = 0;
    until_within(Duration::from_secs(4), "the end of its time", async || {
        let reply = post(&node, &chat("hi")).send().await;
        hits += usize::from(reply.header("x-tidegate-cache") == "hit");
        (reply.status == 502).then_some(())
    })
    .await;
    assert!(hits > 0, "it was never kept");
}

#[tokio::test]
async fn what_the_store_holds_and_nobody_can_read_is_a_miss() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let store = format!("store: {{url: \"{}\", timeout: 500ms, secret: {{env: STORE_SECRET}}}}", redis.url());
    // Without a tier of its own it reads the store each time.
    let node = Setup::new()
        .named_without_memory("a")
        .section(&store)
        .env("STORE_SECRET", "of the store")
        .upstream("up", &upstream.url())
        .route_to("up", HOUR)
        .start()
        .await;
    node.until_store("up").await;
    let spoils: [&[&str]; 3] =
        [&["SET", "KEY", "nonsense"], &["SETRANGE", "KEY", "40", "#"], &["SET", "KEY", ""]];
    for (turn, spoil) in spoils.iter().enumerate() {
        let body = chat(&format!("turn {turn}"));
        asked(post(&node, &body)).await;
        assert_hit(&until_hit(&node, &body).await);
        for key in redis.keys("string").await {
            if redis.command(&["STRLEN", &key]).await.parse::<usize>().unwrap() > 100 {
                let words: Vec<_> =
                    spoil.iter().map(|w| if *w == "KEY" { key.as_str() } else { w }).collect();
                redis.command(&words).await;
            }
        }
        let (cache, text) = asked(post(&node, &body)).await;
        assert_eq!(cache, "miss", "{spoil:?}");
        assert!(text.contains("answer"), "{text}");
        assert_hit(&until_hit(&node, &body).await);
    }
    assert_eq!(upstream.count(), 6);
    // Neither what was asked nor what was answered is to be read in a name.
    let names = redis.command(&["KEYS", "*"]).await;
    assert!(!names.contains("turn") && names.lines().all(|name| name.starts_with("tidegate:")), "{names}");
}

#[tokio::test]
async fn kept_answers_leave_the_store_by_themselves() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let nodes = pair(&redis, &upstream, HOUR).await;
    asked(post(&nodes[0], &chat("hi"))).await;
    until_hit(&nodes[1], &chat("hi")).await;
    for name in redis.command(&["KEYS", "*"]).await.lines() {
        let left: i64 = redis.command(&["PTTL", name]).await.parse().unwrap();
        assert_ne!(left, -1, "{name} is kept for ever");
    }
}
