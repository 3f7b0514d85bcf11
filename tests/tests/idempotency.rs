//! `Idempotency-Key`: who asks a second time gets what the first was told, on any node, and pays once.

use serde_json::{Value, json};
use tidegate_tests::answer;
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Gate, Upstream};

async fn numbered() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]).await
}

async fn pair(redis: &Redis, upstream: &Upstream) -> Nodes {
    Nodes::meet(2, |setup, _| {
        setup
            .patient_store(&redis.url())
            .upstream("up", &upstream.url())
            .retry("{attempts: 1}")
            .clients(&[("x", ""), ("y", "")])
    })
    .await
}

fn chat(content: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": content}]})
}

fn keyed(node: &Node, client: &str, key: &str, body: &Value) -> Call {
    let call = node.post("/v1/chat/completions", body).bearer(&client_key(client));
    call.header("idempotency-key", key)
}

async fn text(call: Call) -> String {
    let reply = call.send().await;
    let status = reply.status;
    let text = reply.text().await;
    assert_eq!(status, 200, "{text}");
    text
}

async fn assert_reused(reply: Reply) {
    assert_eq!(reply.status, 422);
    assert_eq!(reply.came_by(), ("", "0"), "it met no upstream");
    let (kind, code) = reply.error().await;
    assert_eq!((kind.as_str(), code.as_str()), ("invalid_request_error", "idempotency_key_reused"));
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_ones_answer_on_any_node() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let nodes = pair(&redis, &upstream).await;
    let mut streamed = chat("hello");
    streamed["stream"] = json!(true);
    for (key, body) in [("k-1", chat("hi")), ("k-2", streamed)] {
        let first = text(keyed(&nodes[0], "x", key, &body)).await;
        assert_eq!(text(keyed(&nodes[0], "x", key, &body)).await, first, "byte for byte");
        // Stored or still on its way to the store: the other node may not ask for it again.
        assert_eq!(text(keyed(&nodes[1], "x", key, &body)).await, first, "on the other node");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn without_a_key_every_request_is_its_own() {
    let upstream = numbered().await;
    let node = Setup::new().upstream("up", &upstream.url()).start().await;
    for _ in 0..2 {
        assert_eq!(node.chat().send().await.status, 200);
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_node_without_a_store_keeps_the_promise_by_itself() {
    let upstream = numbered().await;
    let node = Setup::new().upstream("up", &upstream.url()).start().await;
    let ask = async || text(node.chat().header("idempotency-key", "k")).await;
    assert_eq!(ask().await, ask().await);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_request_joins_the_one_with_its_key_that_still_runs() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let text = format!("answer {}", seen.index);
        vec![Act::Wait(held.clone()), Act::Send(answer::to(&seen.json(), &text))]
    })
    .await;
    let nodes = pair(&redis, &upstream).await;
    let first = tokio::spawn(text(keyed(&nodes[0], "x", "k", &chat("hi"))));
    upstream.received(1).await;
    let same = tokio::spawn(text(keyed(&nodes[0], "x", "k", &chat("hi"))));
    let other = tokio::spawn(text(keyed(&nodes[1], "x", "k", &chat("hi"))));
    nodes.running(3).await;
    for node in nodes.iter() {
        assert_reused(keyed(node, "x", "k", &chat("something else")).send().await).await;
    }
    gate.open(9);
    let first = first.await.unwrap();
    assert_eq!((same.await.unwrap(), other.await.unwrap()), (first.clone(), first));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_key_with_another_body_is_refused() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let nodes = pair(&redis, &upstream).await;
    text(keyed(&nodes[0], "x", "k", &chat("hi"))).await;
    for node in nodes.iter() {
        assert_reused(keyed(node, "x", "k", &chat("something else")).send().await).await;
    }
    assert!(text(keyed(&nodes[0], "x", "k", &chat("hi"))).await.contains("answer 0"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn clients_have_keys_of_their_own() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let nodes = pair(&redis, &upstream).await;
    let x = text(keyed(&nodes[0], "x", "k", &chat("hi"))).await;
    let y = text(keyed(&nodes[0], "y", "k", &chat("hi"))).await;
    assert_ne!(x, y);
    for (client, first) in [("x", &x), ("y", &y)] {
        assert_eq!(text(keyed(&nodes[1], client, "k", &chat("hi"))).await, *first);
    }
    text(keyed(&nodes[1], "y", "k2", &chat("something else"))).await;
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_failure_is_not_kept_for_the_next_try() {
    let Some(redis) = Redis::start().await else { return };
    for status in [400, 500] {
        let upstream = Upstream::start(move |seen| {
            let wire = match seen.index {
                0 => answer::json(status, &answer::error("invalid_request_error", "no", "no")),
                _ => answer::to(&seen.json(), "well"),
            };
            vec![Act::Send(wire)]
        })
        .await;
        let nodes = pair(&redis, &upstream).await;
        let key = format!("k-{status}");
        let first = keyed(&nodes[0], "x", &key, &chat("hi")).send().await.status.as_u16();
        assert_eq!(first, if status == 500 { 502 } else { 400 });
        for node in nodes.iter() {
            assert!(text(keyed(node, "x", &key, &chat("hi"))).await.contains("well"));
        }
        assert_eq!(upstream.count(), 2, "a good answer is kept");
    }
}
