//! Nodes whose wall clocks are an hour ahead and an hour behind: what they share goes by the store's clock and by
//! what is left, so nothing of it changes.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::load::Load;
use tidegate_tests::node::Setup;
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{answer, parts, until_within};
use tokio::time::Instant;

/// Node a has the time, b is an hour ahead, c an hour behind. `None`: not possible here.
async fn three(redis: &Redis, setup: impl Fn(Setup) -> Setup) -> Option<Nodes> {
    parts::faketime()?;
    let nodes = Nodes::meet(3, |plain, name| {
        let plain = setup(plain.patient_store(&redis.url()));
        match name {
            "b" => plain.clock("+1h").unwrap(),
            "c" => plain.clock("-1h").unwrap(),
            _ => plain,
        }
    })
    .await;
    // The hour of each, as 2026-11-21T16.
    let mut hours = Vec::new();
    for node in nodes.iter() {
        let started = node.status().await["node"]["started_at"].as_str().unwrap().to_owned();
        hours.push(started[..13].to_owned());
    }
    let sorted = [hours[2].clone(), hours[0].clone(), hours[1].clone()];
    assert!(sorted.is_sorted() && hours[0] != hours[1] && hours[0] != hours[2], "{hours:?}");
    Some(nodes)
}

async fn numbered() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]).await
}

#[tokio::test]
async fn wrong_clocks_do_not_change_a_limit() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let x = "limits: [{requests: 600/min, burst: 50}, {tokens: 10000000/day}, {in_flight: 500}]";
    let setup = |setup: Setup| setup.upstream("up", &upstream.url()).clients(&[("x", x)]);
    let Some(nodes) = three(&redis, setup).await else { return };
    let key = format!("Bearer {}", client_key("x"));
    let load = Load::over(nodes.iter(), 60.0, 0.2, &[("authorization", &key)]);
    load.more(400).await;
    let report = load.stop().await;
    let one_bucket = 50.0 + 10.0 * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    assert!((admitted - one_bucket).abs() <= 0.01 * one_bucket + 1.0, "{admitted}, one bucket: {one_bucket}");
    for node in nodes.iter() {
        assert!(report.answered.iter().any(|a| a.ok() && a.to == node.address), "one node serves nobody");
    }
}

#[tokio::test]
async fn wrong_clocks_do_not_change_a_cool_down() {
    let Some(redis) = Redis::start().await else { return };
    let limit = answer::error("requests", "rate_limit_exceeded", "slow down");
    let limited = answer::json_with(429, &[("retry-after", "5")], &limit);
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let arrived = times.clone();
    let up = Upstream::start(move |seen| {
        arrived.lock().unwrap().push(Instant::now());
        let wire = if seen.index == 0 { limited.clone() } else { answer::to(&seen.json(), "x") };
        vec![Act::Send(wire)]
    })
    .await;
    let spare = numbered().await;
    let setup = |setup: Setup| setup.upstream("x", &up.url()).upstream("y", &spare.url());
    let Some(nodes) = three(&redis, setup).await else { return };
    // The one that is ahead is told.
    assert_eq!(nodes[1].chat().send().await.status, 200);
    for node in [&nodes[0], &nodes[2]] {
        node.heard().await;
    }
    for node in nodes.iter() {
        until_within(Duration::from_secs(8), "the end of the rest", async || {
            (node.chat().send().await.header("x-tidegate-path") == "x@direct").then_some(())
        })
        .await;
    }
    let times = times.lock().unwrap().clone();
    let rested = times[1] - times[0];
    assert!((5.0..7.0).contains(&rested.as_secs_f64()), "it rested {rested:?}");
}

#[tokio::test]
async fn wrong_clocks_do_not_change_the_age_of_an_answer() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let setup = |setup: Setup| setup.upstream("up", &upstream.url()).route_to("up", "cache: {ttl: 10m}");
    let Some(nodes) = three(&redis, setup).await else { return };
    for (writer, reader) in [(1, 2), (2, 1)] {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": format!("by {writer}")}]});
        let first = nodes[writer].post("/v1/chat/completions", &body).send().await;
        assert_eq!(first.header("x-tidegate-cache"), "miss");
        first.bytes().await;
        let second = until_within(Duration::from_secs(3), "a hit", async || {
            let reply = nodes[reader].post("/v1/chat/completions", &body);
            let reply = reply.header("cache-control", "only-if-cached, max-age=30").send().await;
            (reply.status == 200).then_some(reply)
        })
        .await;
        assert!(second.header("age").parse::<u64>().is_ok_and(|age| age < 30), "{}", second.header("age"));
    }
}

#[tokio::test]
async fn wrong_clocks_do_not_make_a_node_seem_gone() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = numbered().await;
    let Some(nodes) = three(&redis, |setup| setup.upstream("up", &upstream.url())).await else { return };
    let met = Instant::now();
    // Longer than a beat is good for.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while met.elapsed() < Duration::from_secs(7) {
        tick.tick().await;
        for node in nodes.iter() {
            assert_eq!(node.fleet().await, ["a", "b", "c"]);
        }
    }
}
