//! What is asked of an upstream while nobody needs it: probes that cost nothing and can only open a path, and
//! generations that show a model of ours still works.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::Ask;
use tidegate_tests::node::{Node, Setup, upstream_key};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::status::States;
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{answer, until_within};

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(15);

async fn alone(settings: &str) -> (Node, Simulated) {
    let a = Simulated::start("a").await;
    let node = Setup::new().upstream_with("a", &a.url(), settings).quick_health().start().await;
    (node, a)
}

#[tokio::test]
async fn probes_ask_for_the_models_with_the_upstreams_key_and_count_for_no_client() {
    let (node, a) = alone("").await;
    a.received(Kind::Probe, 4).await;
    for asked in a.of(Kind::Probe) {
        assert_eq!(asked.seen.target(), "/v1/models");
        let key = format!("Bearer {}", upstream_key("a"));
        assert_eq!(asked.seen.header("authorization"), Some(key.as_str()));
        assert!(asked.seen.body.is_empty());
    }
    assert_eq!(a.asked().len(), a.count(Kind::Probe), "nothing that costs money");
    for name in ["tidegate_requests_total", "tidegate_upstream_requests_total", "tidegate_tokens_total"] {
        assert_eq!(node.metric(name, &[]).await, 0.0, "{name}");
    }
    assert_eq!(node.path_state("a@direct").await, "closed");
}

#[tokio::test]
async fn probes_keep_to_their_interval() {
    let (_node, a) = alone("").await;
    a.received(Kind::Probe, 8).await;
    let probes = a.of(Kind::Probe);
    // 300 ms each way jittered by a fifth, and a machine that may be late but never early.
    let took = probes[7].at - probes[0].at;
    assert!(took >= Duration::from_millis(7 * 200), "eight probes in {took:?}");
}

#[tokio::test]
async fn another_path_is_probed_when_said_and_none_when_switched_off() {
    let (_node, a) = alone("probe: {interval: 100ms, path: /status/live}").await;
    a.received(Kind::Probe, 2).await;
    assert_eq!(a.of(Kind::Probe)[0].seen.target(), "/v1/status/live");

    let (node, a) = alone("probe: {path: none}").await;
    for _ in 0..50 {
        assert!(Ask::plain(&node).send().await.ok());
    }
    assert_eq!(a.count(Kind::Probe), 0);
}

#[tokio::test]
async fn an_idle_upstream_that_freezes_is_found_by_its_probes_and_heals_by_itself() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let line = FaultProxy::before_port(a.port()).await;
    let node = Setup::new().upstream("a", &line.url()).upstream("b", &b.url()).quick_health().start().await;
    a.received(Kind::Probe, 2).await;
    line.set(Fault::Freeze).await;
    // Three of 300 ms each, and their intervals between.
    node.until_path_opened("a@direct", SOON).await;
    for _ in 0..4 {
        let answered = Ask::plain(&node).send().await;
        assert_eq!((answered.status, answered.path.as_str(), answered.attempts), (200, "b@direct", 1));
    }
    assert_eq!(a.count(Kind::User), 0);
    line.set(Fault::Pass).await;
    node.until_path_state("a@direct", "closed", BACK).await;
    assert!(a.of(Kind::Synthetic).iter().any(|asked| asked.well), "proven by a generation, not by a probe");
}

#[tokio::test]
async fn a_killed_idle_upstream_is_found_by_its_probes() {
    let (node, a) = alone("").await;
    a.received(Kind::Probe, 1).await;
    a.kill().await;
    node.until_path_opened("a@direct", SOON).await;
    assert_eq!(a.count(Kind::User), 0);
    a.revive().await;
    node.until_path_state("a@direct", "closed", BACK).await;
}

#[tokio::test]
async fn probes_answered_5xx_open_a_path_and_those_answered_4xx_do_not() {
    for status in [401, 403, 404, 405, 429] {
        let (node, a) = alone("probe: {interval: 50ms, timeout: 300ms}").await;
        a.set(Mode::Status(status, "no models for you"));
        a.received(Kind::Probe, 10).await;
        assert_eq!(node.path_state("a@direct").await, "closed", "{status} says it lives");
    }
    let (node, a) = alone("probe: {interval: 50ms, timeout: 300ms}").await;
    a.set(Mode::Status(503, "down"));
    node.until_path_opened("a@direct", SOON).await;
    assert!(a.count(Kind::Probe) >= 3, "one or two failures are none");
}

#[tokio::test]
async fn two_failed_probes_are_not_enough() {
    // Every third is well.
    let a = Upstream::start(|seen| {
        let well = seen.index % 3 == 2;
        let body = if well { json!({"object": "list", "data": []}) } else { json!({}) };
        vec![Act::Send(answer::json(if well { 200 } else { 500 }, &body))]
    })
    .await;
    let settings = "probe: {interval: 50ms, timeout: 300ms}";
    let node = Setup::new().upstream_with("a", &a.url(), settings).quick_health().start().await;
    let states = States::follow(&node, "a@direct");
    a.received(12).await;
    assert_eq!(states.all(), ["closed"]);
}

#[tokio::test]
async fn probes_that_pass_never_close_a_path_whose_generations_fail() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new().upstream("a", &a.url()).upstream("b", &b.url()).quick_health().start().await;
    a.probes_always_good();
    a.set(Mode::Status(500, "no GPU left"));
    until_within(SOON, "a@direct opened", async || {
        assert!(Ask::plain(&node).send().await.ok());
        (node.path_state("a@direct").await != "closed").then_some(())
    })
    .await;
    let states = States::follow(&node, "a@direct");
    let (users, probes) = (a.count(Kind::User), a.count(Kind::Probe));
    a.received(Kind::Probe, probes + 12).await;
    let all = states.all();
    assert!(!all.iter().any(|state| state == "closed" || state == "ramping"), "{all:?}");
    assert!(Ask::plain(&node).send().await.ok());
    assert_eq!(a.count(Kind::User), users);
}

#[tokio::test]
async fn a_model_of_ours_is_asked_for_a_generation_though_nobody_uses_it() {
    let (a, local) = (Simulated::start("a").await, Simulated::start("local").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream_with("local", &local.url(), "local: true, max_in_flight: 2")
        .route_to("a", "fallback: [{upstream: local, model: smollm2-135m}]")
        .quick_health()
        .start()
        .await;
    // Every 30 s, as the contract has it: the first may be that late.
    local.received_within(Duration::from_secs(35), Kind::Synthetic, 1).await;
    let canary = local.of(Kind::Synthetic)[0].seen.json();
    assert_eq!((&canary["model"], &canary["max_tokens"]), (&json!("smollm2-135m"), &json!(16)), "{canary}");
    assert_eq!(a.count(Kind::Synthetic), 0, "what costs money is not asked without need");
    assert_eq!(node.metric("tidegate_requests_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_model_of_ours_that_fails_its_canaries_is_open_and_recovers_by_synthetic_requests_alone() {
    let local = Simulated::start("local").await;
    let node = Setup::new()
        .upstream_with("local", &local.url(), "local: true, max_in_flight: 4")
        .quick_health()
        .start()
        .await;
    local.probes_always_good();
    local.set(Mode::Status(500, "out of memory"));
    until_within(SOON, "local@direct opened", async || {
        assert!(!Ask::plain(&node).send().await.ok());
        (node.path_state("local@direct").await != "closed").then_some(())
    })
    .await;
    local.set(Mode::Good);
    until_within(BACK, "local@direct closed", async || {
        // Traffic that a remote upstream would get shadows of.
        let _ = Ask::plain(&node).send().await;
        (node.path_state("local@direct").await == "closed").then_some(())
    })
    .await;
    assert_eq!(local.count(Kind::Shadow), 0, "its own requests cost nothing: no need to mirror anyone's");
}
