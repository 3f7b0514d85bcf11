//! How exactly three nodes keep one limit between them: while the store answers, while it is gone, and when a node
//! dies with requests running.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::load::{Load, Report};
use tidegate_tests::node::Setup;
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Gate, Upstream, refusing};
use tidegate_tests::{answer, until_within};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Per second, where a limit says 600/min.
const RATE: f64 = 10.0;
const BURST: f64 = 50.0;
const EXACT: &str = "limits: [{requests: 600/min, burst: 50}]";

async fn answering() -> Upstream {
    Upstream::unrecorded(|seen| vec![Act::Send(answer::to(&seen.json(), "yes"))]).await
}

/// A node of the test's over this store, before an upstream, with client `x`.
fn node(setup: Setup, store: &str, upstream: &Upstream, x: &str) -> Setup {
    setup.patient_store(store).upstream("up", &upstream.url()).clients(&[("x", x)])
}

fn key() -> String {
    format!("Bearer {}", client_key("x"))
}

/// So many requests a second of client `x`, each to a node at random, for so long.
async fn offered(nodes: &Nodes, rate: f64, span: Duration) -> Report {
    let key = key();
    let load = Load::over(nodes.iter(), rate, 0.0, &[("authorization", &key)]);
    tokio::time::sleep(span).await;
    load.stop().await
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn three_nodes_keep_a_limit_as_one_bucket_would() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = Nodes::meet(3, |setup, _| node(setup, &redis.url(), &upstream, EXACT)).await;
    let report = offered(&nodes, 100.0, secs(8)).await;
    let one_bucket = BURST + RATE * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    // The last one may have come just before the next was due.
    assert!((admitted - one_bucket).abs() <= 0.01 * one_bucket + 1.0, "{admitted}, one bucket: {one_bucket}");
}

#[tokio::test]
async fn three_nodes_with_leases_admit_no_more_than_their_leases_on_top() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let limits = "limits: [{requests: 6000/min, burst: 100}]";
    let nodes = Nodes::meet(3, |setup, _| node(setup, &redis.url(), &upstream, limits)).await;
    let report = offered(&nodes, 250.0, secs(5)).await;
    let one_bucket = 100.0 + 100.0 * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    // 100 ms of the limit is ten requests.
    assert!((admitted - one_bucket).abs() <= 3.0 * 10.0 + 2.0, "{admitted}, one bucket: {one_bucket}");
}

#[tokio::test]
async fn a_lease_serves_ten_requests_and_more_for_one_call_of_the_store() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let limits = "limits: [{requests: 60000/min}]";
    let nodes = Nodes::meet(3, |setup, _| node(setup, &redis.url(), &upstream, limits)).await;
    offered(&nodes, 200.0, secs(1)).await.assert_all_ok();
    let calls = async || {
        let mut calls = 0.0;
        for node in nodes.iter() {
            calls += node.store_calls().await;
        }
        calls
    };
    let before = calls().await;
    let report = offered(&nodes, 200.0, secs(4)).await;
    report.assert_all_ok();
    let asked = calls().await - before;
    assert!(asked >= 3.0, "{asked} calls of the store: nothing is shared");
    let each = asked / report.len() as f64;
    assert!(each < 0.1, "{each} calls of the store for a request");
}

#[tokio::test]
async fn a_refusal_that_is_known_costs_no_call_of_the_store() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let limits = "limits: [{requests: 1/min, burst: 1}]";
    let nodes = Nodes::meet(1, |setup, _| node(setup, &redis.url(), &upstream, limits)).await;
    let ask = async || {
        let reply = nodes[0].chat().bearer(&client_key("x")).send().await;
        let status = reply.status.as_u16();
        reply.bytes().await;
        status
    };
    assert_eq!((ask().await, ask().await), (200, 429));
    let (before, scripts) = (nodes[0].store_calls().await, redis.scripts_run().await);
    let begun = Instant::now();
    for _ in 0..300 {
        assert_eq!(ask().await, 429);
    }
    // The beats go on, and what the first request left to do.
    let calls = nodes[0].store_calls().await - before;
    assert!(calls <= 5.0, "{calls} calls of the store for 300 refusals");
    let scripts = redis.scripts_run().await - scripts;
    let others = 10 + 3 * begun.elapsed().as_secs();
    assert!(scripts <= others, "{scripts} scripts run for 300 refusals");
}

#[tokio::test]
async fn without_the_store_all_nodes_together_admit_one_burst_and_the_rate() {
    let Some(mut redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = Nodes::meet(3, |setup, _| node(setup, &redis.url(), &upstream, EXACT)).await;
    let key = key();
    let load = Load::over(nodes.iter(), 60.0, 0.0, &[("authorization", &key)]);
    load.more(120).await;
    let killed = Instant::now();
    redis.kill().await;
    for node in nodes.iter() {
        node.until_store("down").await;
    }
    load.more(300).await;
    let lost = killed.elapsed();
    redis.restart().await;
    for node in nodes.iter() {
        let back = node.until_store("up").await;
        assert!(back.elapsed() < secs(5));
    }
    let report = load.stop().await;
    report.admitted();
    let away = report.since(killed).before(killed + lost);
    let (admitted, rate) = (away.admitted() as f64, RATE * lost.as_secs_f64());
    assert!(admitted <= BURST + rate + 3.0, "{admitted} in {lost:?} without the store");
    assert!(admitted >= 0.7 * rate - 3.0, "no more than {admitted} in {lost:?} without the store");
    // The bound holds over all of it, too.
    let all = BURST + RATE * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    assert!(admitted <= all + BURST + 3.0, "{admitted} in all, one bucket: {all}");
}

#[tokio::test]
async fn nodes_that_never_saw_the_store_share_a_limit_by_their_expected_number() {
    let upstream = answering().await;
    let store = refusing().replace("http://", "redis://").replace("/v1", "/0");
    let section = format!("store: {{url: \"{store}\", expected_nodes: 3}}");
    let x = "limits: [{requests: 600/min, burst: 30}]";
    let nodes = Nodes::start(3, |setup, _| {
        setup.section(&section).upstream("up", &upstream.url()).clients(&[("x", x)])
    })
    .await;
    let report = offered(&nodes, 60.0, secs(3)).await;
    let one_bucket = 30.0 + RATE * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    assert!(admitted <= one_bucket + 3.0, "{admitted}, one bucket: {one_bucket}");
    assert!(admitted >= 0.8 * one_bucket - 3.0, "{admitted}, one bucket: {one_bucket}");
}

#[tokio::test]
async fn a_limit_may_be_open_or_closed_while_the_store_is_gone() {
    let upstream = answering().await;
    let store = refusing().replace("http://", "redis://").replace("/v1", "/0");
    let limits = "limits: [{per: model, requests: 60/min, burst: 1, on_store_loss: open}, \
                  {per: client, requests: 600/min, on_store_loss: closed}]";
    let node =
        Setup::new().store(&store).section(limits).upstream("up", &upstream.url()).clients(&[("x", "")]);
    let node = node.start().await;
    let reply = node.chat().bearer(&client_key("x")).send().await;
    assert_eq!(reply.status, 429, "closed");
    assert!(!reply.header("retry-after").is_empty());
    assert_eq!(reply.json().await["error"]["param"], "requests");

    let open = "limits: [{per: model, requests: 60/min, burst: 1, on_store_loss: open}]";
    let node = Setup::new().store(&store).section(open).upstream("up", &upstream.url()).start().await;
    for _ in 0..20 {
        assert_eq!(node.chat().send().await.status, 200, "open");
    }
}

#[tokio::test]
async fn what_a_killed_node_was_running_is_forgotten_when_its_time_is_over() {
    let Some(redis) = Redis::with_clock().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        vec![Act::Wait(held.clone()), Act::Send(answer::json(200, &answer::chat("yes")))]
    })
    .await;
    let limits = "limits: [{in_flight: 2}]";
    let mut nodes = Nodes::meet(2, |setup, _| node(setup, &redis.url(), &upstream, limits)).await;
    let mut running = JoinSet::new();
    for _ in 0..2 {
        running.spawn(nodes[0].chat().bearer(&client_key("x")).try_send());
    }
    upstream.received(2).await;
    nodes[0].kill().await;
    upstream.gave_up(2).await;
    gate.open(100);
    let ask = async || nodes[1].chat().bearer(&client_key("x")).send().await.status.as_u16();
    assert_eq!(ask().await, 429, "nobody can say yet that they will not end");
    // What is not renewed for half a minute is over, by the store's clock.
    redis.advance_clock(secs(31)).await;
    until_within(secs(5), "places", async || (ask().await == 200).then_some(())).await;
}

#[tokio::test]
async fn a_day_ends_by_the_stores_clock() {
    let Some(redis) = Redis::with_clock().await else { return };
    let upstream = answering().await;
    let limits = "limits: [{tokens: 20/day}]";
    let nodes = Nodes::meet(2, |setup, _| node(setup, &redis.url(), &upstream, limits)).await;
    let body = json!({"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]});
    let ask = async |node: usize| {
        let call = nodes[node].post("/v1/chat/completions", &body).bearer(&client_key("x"));
        call.send().await.status.as_u16()
    };
    let mut refusals = 0;
    until_within(secs(5), "the day's tokens to be spent", async || {
        refusals = if ask(0).await == 429 { refusals + 1 } else { 0 };
        (refusals == 5).then_some(())
    })
    .await;
    redis.advance_clock(secs(24 * 3600)).await;
    // The first node was told when to come back and believes it; the other has not asked yet.
    assert_eq!(ask(1).await, 200);
}
