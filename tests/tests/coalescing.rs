//! Equal requests that come while the first is being answered: one call upstream, whichever nodes they came to, and
//! an answer for everybody whatever becomes of the first.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::answer::{self, DONE, delta, finish, last_piece, piece, role, stream_head};
use tidegate_tests::client::Reply;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::Nodes;
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Gate, Script, Upstream};
use tidegate_tests::{until, within};
use tokio::task::JoinSet;

/// Longer than a node that died is waited for.
const TAKEN_OVER: Duration = Duration::from_secs(8);

/// An upstream whose answers are numbered and wait for the gate.
async fn gated() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let text = format!("answer {}", seen.index);
        vec![Act::Wait(held.clone()), Act::Send(answer::to(&seen.json(), &text))]
    })
    .await;
    (upstream, gate)
}

fn keeping(setup: Setup, upstream: &Upstream) -> Setup {
    setup.upstream("up", &upstream.url()).retry("{attempts: 1}").route_to("up", "cache: {ttl: 1h}")
}

async fn cluster(count: u8, redis: &Redis, upstream: &Upstream) -> Nodes {
    Nodes::meet(count, |setup, _| keeping(setup.patient_store(&redis.url()), upstream)).await
}

fn chat(streamed: bool) -> Value {
    json!({"model": "m", "stream": streamed, "messages": [{"role": "user", "content": "the same"}]})
}

type Asks = JoinSet<Result<Reply, String>>;

fn ask(asks: &mut Asks, node: &Node, streamed: bool) {
    asks.spawn(node.post("/v1/chat/completions", &chat(streamed)).try_send());
}

/// All get a whole answer; what it says, and how many were told that they shared it.
async fn all_served(mut asks: Asks) -> (Vec<String>, usize) {
    let (mut texts, mut shared) = (Vec::new(), 0);
    while let Some(reply) = asks.join_next().await {
        let reply = reply.unwrap().unwrap();
        shared += usize::from(reply.header("x-tidegate-cache") == "coalesced");
        let status = reply.status;
        let text = reply.text().await;
        assert_eq!(status, 200, "{text}");
        texts.push(text);
    }
    texts.sort();
    texts.dedup();
    (texts, shared)
}

async fn a_thousand(redis: &Redis, streamed: bool) -> (usize, usize, Vec<String>) {
    let (upstream, gate) = gated().await;
    let nodes = cluster(3, redis, &upstream).await;
    let mut asks = Asks::new();
    for turn in 0..1000 {
        ask(&mut asks, &nodes[turn % 3], streamed);
    }
    nodes.running(1000).await;
    gate.open(2000);
    let (texts, shared) = all_served(asks).await;
    (upstream.count(), shared, texts)
}

#[tokio::test]
async fn a_thousand_equal_requests_over_three_nodes_are_one_upstream_call() {
    let Some(redis) = Redis::start().await else { return };
    let (calls, shared, texts) = a_thousand(&redis, false).await;
    assert_eq!((calls, texts.len()), (1, 1));
    assert_eq!(shared, 999);
}

#[tokio::test]
async fn a_thousand_equal_streams_over_three_nodes_are_one_upstream_call() {
    let Some(redis) = Redis::start().await else { return };
    let (calls, shared, texts) = a_thousand(&redis, true).await;
    assert_eq!((calls, texts.len()), (1, 1));
    assert_eq!(shared, 999);
    assert!(texts[0].ends_with(DONE), "{texts:?}");
}

#[tokio::test]
async fn a_thousand_equal_requests_are_one_call_for_each_node_without_the_store() {
    let Some(mut redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = cluster(3, &redis, &upstream).await;
    redis.kill().await;
    for node in nodes.iter() {
        node.until_store("down").await;
    }
    let mut asks = Asks::new();
    for turn in 0..1000 {
        ask(&mut asks, &nodes[turn % 3], false);
    }
    nodes.running(1000).await;
    gate.open(2000);
    let (texts, shared) = all_served(asks).await;
    assert_eq!((upstream.count(), shared, texts.len()), (3, 997, 3));
}

#[tokio::test]
async fn requests_of_a_route_without_a_cache_are_not_shared() {
    let (upstream, gate) = gated().await;
    let node = Setup::new().upstream("up", &upstream.url()).start().await;
    let mut asks = Asks::new();
    for _ in 0..5 {
        ask(&mut asks, &node, false);
    }
    upstream.received(5).await;
    gate.open(5);
    assert_eq!(all_served(asks).await.0.len(), 5);
}

#[tokio::test]
async fn those_who_join_a_stream_see_it_from_its_beginning_while_it_runs() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut script: Script = vec![Act::Send(stream_head()), Act::Send(piece(role()))];
        for text in ["one ", "two ", "three"] {
            script.extend([Act::Send(piece(delta(text))), Act::Wait(held.clone())]);
        }
        script.extend([Act::Send(piece(finish())), Act::Send(piece(DONE)), Act::Send(last_piece())]);
        script
    })
    .await;
    let nodes = cluster(2, &redis, &upstream).await;
    let stream = async |node: usize| nodes[node].post("/v1/chat/completions", &chat(true)).send().await;
    let mut first = stream(0).await;
    let says = async |reply: &mut Reply, text: &str| {
        until("the next words", async || reply.event().await.filter(|event| event.contains(text)).map(drop))
            .await;
    };
    says(&mut first, "one").await;
    // One on the same node, one on the other, while the upstream has said one word.
    let mut joined = [stream(0).await, stream(1).await];
    for reply in &mut joined {
        assert_eq!(reply.header("x-tidegate-cache"), "coalesced");
        says(reply, "one").await;
    }
    gate.open(1);
    for reply in joined.iter_mut().chain([&mut first]) {
        says(reply, "two").await;
    }
    gate.open(2);
    for reply in joined.iter_mut().chain([&mut first]) {
        says(reply, "three").await;
        says(reply, "[DONE]").await;
        assert_eq!(reply.event().await, None);
    }
    assert_eq!(upstream.count(), 1);
}

/// The first client is there before the others, who are on the nodes of these numbers.
async fn first_and_others(nodes: &Nodes, upstream: &Upstream, others: &[usize]) -> (Asks, Asks) {
    let (mut first, mut asks) = (Asks::new(), Asks::new());
    ask(&mut first, &nodes[0], false);
    upstream.received(1).await;
    for (count, node) in others.iter().enumerate() {
        ask(&mut asks, &nodes[*node], false);
        nodes.running(2 + count).await;
    }
    (first, asks)
}

#[tokio::test]
async fn the_first_client_may_leave_and_the_others_get_their_answer() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = cluster(2, &redis, &upstream).await;
    let (first, others) = first_and_others(&nodes, &upstream, &[0, 1]).await;
    drop(first);
    nodes.running(2).await;
    assert_eq!(upstream.abandoned(), 0, "two still wait for it");
    gate.open(9);
    let (texts, _) = all_served(others).await;
    assert!(texts.len() == 1 && texts[0].contains("answer 0"), "{texts:?}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn when_the_last_client_has_left_the_upstream_is_left_too() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, _gate) = gated().await;
    let nodes = cluster(2, &redis, &upstream).await;
    let (first, others) = first_and_others(&nodes, &upstream, &[0]).await;
    drop(first);
    nodes.running(1).await;
    drop(others);
    upstream.gave_up(1).await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_node_takes_over_from_the_one_that_died() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let mut nodes = cluster(3, &redis, &upstream).await;
    let (first, others) = first_and_others(&nodes, &upstream, &[1, 1, 2]).await;
    nodes[0].kill().await;
    drop(first);
    within(TAKEN_OVER, "the other node's call", upstream.received(2)).await;
    gate.open(9);
    let (texts, _) = all_served(others).await;
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(upstream.count(), 2, "one took over for all");
}

#[tokio::test]
async fn when_the_first_fails_one_of_the_others_tries_and_all_get_its_answer() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let answer = match seen.index {
            0 => answer::json(500, &answer::error("server_error", "no", "no")),
            _ => answer::to(&seen.json(), "well"),
        };
        vec![Act::Wait(held.clone()), Act::Send(answer)]
    })
    .await;
    let nodes = cluster(2, &redis, &upstream).await;
    let (mut first, others) = first_and_others(&nodes, &upstream, &[0, 0, 1, 1]).await;
    gate.open(9);
    let (texts, _) = all_served(others).await;
    assert!(texts.len() == 1 && texts[0].contains("well"), "{texts:?}");
    assert_eq!(upstream.count(), 2);
    // The first may have its failure or, as one of them, the answer.
    let first = first.join_next().await.unwrap().unwrap().unwrap();
    assert!([200, 502].contains(&first.status.as_u16()), "{}", first.status);
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_given_to_others() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let mut cut = answer::chat(&format!("cut {}", seen.index));
        cut["choices"][0]["finish_reason"] = json!("length");
        vec![Act::Wait(held.clone()), Act::Send(answer::json(200, &cut))]
    })
    .await;
    let nodes = cluster(2, &redis, &upstream).await;
    let (first, mut others) = first_and_others(&nodes, &upstream, &[0, 1]).await;
    gate.open(9);
    assert_eq!(all_served(first).await.0.len(), 1);
    while let Some(reply) = others.join_next().await {
        assert_eq!(reply.unwrap().unwrap().status, 200);
    }
    // Shared or not, nothing of it stays.
    let calls = upstream.count();
    let reply = nodes[0].post("/v1/chat/completions", &chat(false)).send().await;
    assert!(reply.status == 200 && reply.header("x-tidegate-cache") != "hit");
    assert_eq!(upstream.count(), calls + 1);
}
