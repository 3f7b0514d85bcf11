//! A key that an upstream told to wait, as all nodes of a cluster keep to it: what one was told, no other has to
//! find out, and nobody cuts it short.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::answer;
use tidegate_tests::load::Load;
use tidegate_tests::node::Setup;
use tidegate_tests::nodes::Nodes;
use tidegate_tests::redis::Redis;
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::until_within;
use tidegate_tests::upstream::{Act, Gate, Seen, Upstream};
use tokio::time::Instant;

/// Until a word of one node has reached the others.
const SPREADS: Duration = Duration::from_millis(300);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wait(seconds: u64) -> Act {
    let error = answer::error("requests", "rate_limit_exceeded", "slow down");
    Act::Send(answer::json_with(429, &[("retry-after", &seconds.to_string())], &error))
}

fn well(name: &str, seen: &Seen) -> Act {
    Act::Send(answer::to(&seen.json(), &format!("from {name}")))
}

async fn answering(name: &'static str) -> Upstream {
    Upstream::start(move |seen| vec![well(name, seen)]).await
}

/// Nodes before `x` and, when it is given, `y`, which is asked when `x` cannot answer.
async fn nodes(count: u8, redis: &Redis, x: &Upstream, y: Option<&Upstream>) -> Nodes {
    Nodes::meet(count, |setup, _| {
        let setup = setup.patient_store(&redis.url()).upstream("x", &x.url());
        match y {
            Some(y) => setup.upstream("y", &y.url()),
            None => setup,
        }
    })
    .await
}

#[tokio::test]
async fn a_key_that_was_told_to_wait_seven_seconds_rests_on_every_node() {
    let Some(redis) = Redis::start().await else { return };
    let (x, y) = (Simulated::start("x").await, Simulated::start("y").await);
    let nodes = Nodes::meet(3, |setup, _| {
        setup.patient_store(&redis.url()).upstream("x", &x.url()).upstream("y", &y.url()).quick_health()
    })
    .await;
    x.set(Mode::Does(vec![wait(7)]));
    until_within(secs(5), "a request at x", async || {
        assert_eq!(nodes[0].chat().send().await.status, 200);
        (x.count(Kind::User) > 0).then_some(())
    })
    .await;
    x.set(Mode::Good);
    let told = x.of(Kind::User).last().unwrap().at;
    let spread = Instant::now().max(told + SPREADS);
    let load = Load::over(nodes.iter(), 40.0, 0.3, &[]);
    let back = until_within(secs(12), "x to be used again", async || {
        x.of(Kind::User).iter().map(|asked| asked.at).find(|at| *at > spread)
    })
    .await;
    load.more(20).await;
    load.stop().await.assert_all_ok();
    let rested = back - told;
    assert!(rested >= secs(7), "it rested {rested:?}");
    assert!(rested <= secs(10), "it rested {rested:?}");
    assert_eq!(nodes[0].path_state("x@direct").await, "closed", "a limit is no failure");
}

/// Two nodes are told at nearly the same time to wait so many seconds: the longer holds, on both.
async fn the_longer_holds(first: u64, second: u64) {
    let Some(redis) = Redis::start().await else { return };
    let gates = [Gate::new(), Gate::new()];
    let held = gates.clone();
    let x = Upstream::start(move |seen| match seen.index {
        0 => vec![Act::Wait(held[0].clone()), wait(first)],
        1 => vec![Act::Wait(held[1].clone()), wait(second)],
        _ => vec![well("x", seen)],
    })
    .await;
    let y = answering("y").await;
    let nodes = nodes(2, &redis, &x, Some(&y)).await;
    for (index, node) in nodes.iter().enumerate() {
        let asked = tokio::spawn(node.chat().send());
        x.received(index + 1).await;
        if index == 1 {
            gates[0].open(1);
            until_within(secs(5), "the first answer", async || (y.count() >= 1).then_some(())).await;
            gates[1].open(1);
            assert_eq!(asked.await.unwrap().status, 200);
        }
    }
    until_within(secs(5), "both answers", async || (y.count() >= 2).then_some(())).await;
    let told = Instant::now();
    // The shorter one is over by then.
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while told.elapsed() < secs(4) {
        tick.tick().await;
        for node in nodes.iter() {
            assert_eq!(node.chat().send().await.header("x-tidegate-path"), "y@direct");
        }
    }
    assert_eq!(x.count(), 2);
}

#[tokio::test]
async fn a_longer_wait_lengthens_a_shorter_one() {
    the_longer_holds(1, 60).await;
}

#[tokio::test]
async fn a_shorter_wait_does_not_shorten_a_longer_one() {
    the_longer_holds(60, 1).await;
}

#[tokio::test]
async fn a_short_wait_is_waited_for_on_a_node_that_was_not_told_itself() {
    let Some(redis) = Redis::start().await else { return };
    let times = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let arrived = times.clone();
    let x = Upstream::start(move |seen| {
        arrived.lock().unwrap().push(Instant::now());
        vec![if seen.index == 0 { wait(4) } else { well("x", seen) }]
    })
    .await;
    let nodes = nodes(2, &redis, &x, None).await;
    let first = tokio::spawn(nodes[0].chat().send());
    x.received(1).await;
    nodes[1].heard().await;
    let second = nodes[1].chat().send().await;
    assert_eq!((first.await.unwrap().status, second.status), (http::StatusCode::OK, http::StatusCode::OK));
    let times = times.lock().unwrap().clone();
    assert_eq!(times.len(), 3);
    assert!(times[1] - times[0] >= secs(4), "asked again after {:?}", times[1] - times[0]);
}

#[tokio::test]
async fn a_long_wait_goes_to_the_fallback_or_to_the_client_on_a_node_that_was_not_told_itself() {
    let Some(redis) = Redis::start().await else { return };
    for fallback in [true, false] {
        let x = Upstream::doing(vec![wait(60)]).await;
        let local = answering("local").await;
        let nodes = Nodes::meet(2, |setup, _| {
            let setup = setup.patient_store(&redis.url()).upstream("x", &x.url());
            let setup = setup.upstream_with("local", &local.url(), "local: true");
            let spare = if fallback {
                "fallback: [{upstream: local, when: [unavailable, rate_limited], model: m}]"
            } else {
                "retry: {attempts: 1}"
            };
            setup.route(&format!("{{match: {{model: \"*\"}}, to: [x], {spare}}}"))
        })
        .await;
        let first = nodes[0].chat().send().await;
        nodes[1].heard().await;
        let second = nodes[1].chat().send().await;
        for reply in [first, second] {
            if fallback {
                assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-fallback")), (200, "true"));
                continue;
            }
            assert_eq!(reply.status, 429);
            let retry_after: u64 = reply.header("retry-after").parse().unwrap();
            assert!((50..=70).contains(&retry_after), "{retry_after}");
            let (_, code) = reply.error().await;
            assert_eq!(code, "rate_limit_exceeded");
        }
        assert_eq!(x.count(), 1, "fallback: {fallback}");
    }
}

#[tokio::test]
async fn a_key_out_of_quota_gives_way_to_the_other_key_on_every_node() {
    let Some(redis) = Redis::start().await else { return };
    let spent = |seen: &Seen| seen.header("authorization") == Some("Bearer sk-spent");
    let quota = answer::json(429, &answer::error("insufficient_quota", "insufficient_quota", "pay"));
    let x = Upstream::start(move |seen| {
        vec![if spent(seen) { Act::Send(quota.clone()) } else { well("x", seen) }]
    })
    .await;
    let nodes = Nodes::meet(2, |setup, _| {
        setup
            .patient_store(&redis.url())
            .upstream_with("x", &x.url(), "keys: [{env: ONE}, {env: TWO}]")
            .env("ONE", "sk-spent")
            .env("TWO", "sk-full")
    })
    .await;
    let by_spent = || x.requests().iter().filter(|seen| spent(seen)).count();
    until_within(secs(5), "the spent key's turn", async || {
        assert_eq!(nodes[0].chat().send().await.status, 200);
        (by_spent() == 1).then_some(())
    })
    .await;
    nodes[1].heard().await;
    for _ in 0..10 {
        assert_eq!(nodes[1].chat().send().await.status, 200);
    }
    assert_eq!(by_spent(), 1, "one node found out for both");
}

#[tokio::test]
async fn a_quota_that_is_out_everywhere_is_told_to_clients_as_final() {
    let Some(redis) = Redis::start().await else { return };
    let quota = answer::json(429, &answer::error("insufficient_quota", "insufficient_quota", "pay"));
    let x = Upstream::saying(quota).await;
    let nodes = nodes(2, &redis, &x, None).await;
    for node in nodes.iter() {
        let reply = node.chat().send().await;
        assert_eq!((reply.status.as_u16(), reply.header("x-should-retry")), (429, "false"));
        assert_eq!(reply.json().await["error"]["code"], json!("insufficient_quota"));
        nodes[1].heard().await;
    }
}

#[tokio::test]
async fn without_the_store_each_node_may_be_told_once() {
    let Some(mut redis) = Redis::start().await else { return };
    let x = Upstream::doing(vec![wait(60)]).await;
    let y = answering("y").await;
    let nodes = Nodes::meet(3, |setup: Setup, _| {
        setup.patient_store(&redis.url()).upstream("x", &x.url()).upstream("y", &y.url())
    })
    .await;
    redis.kill().await;
    for node in nodes.iter() {
        node.until_store("down").await;
    }
    for _ in 0..5 {
        for node in nodes.iter() {
            assert_eq!(node.chat().send().await.status, 200);
        }
    }
    assert_eq!(x.count(), 3);
}
