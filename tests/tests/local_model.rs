//! The real thing at the end of the line: a model of 135 million parameters under llama.cpp takes over from remote
//! upstreams that die under load, within its two slots.

use std::time::Duration;

use serde_json::Value;
use tidegate_tests::load::{Answered, Ask, Load};
use tidegate_tests::node::{Setup, upstream_key};
use tidegate_tests::parts::LocalModel;
use tidegate_tests::simulated::Simulated;
use tidegate_tests::{until, until_within};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);
const MODEL: &str = "smollm2";
const MOST_TOKENS: u64 = 8;

/// Written by the model itself, under its own name, and no longer than allowed.
fn is_the_models(answered: &Answered) {
    assert!(answered.fallback, "{answered:?}");
    assert_eq!((answered.path.as_str(), answered.status), ("local@direct", 200));
    let said = answered.said();
    assert!(!said.trim().is_empty() && !said.starts_with("from "), "{answered:?}");
    assert!(answered.text.contains(&format!("\"model\":\"{MODEL}\"")), "{}", answered.text);
    if answered.streamed {
        let pieces = answered.text.lines().filter(|line| line.contains("\"content\":\"")).count();
        assert!(pieces >= 2, "piece by piece: {}", answered.text);
        assert!(pieces as u64 <= MOST_TOKENS + 2, "{pieces} pieces: {}", answered.text);
    } else {
        let body: Value = serde_json::from_str(&answered.text).unwrap();
        let tokens = body["usage"]["completion_tokens"].as_u64().unwrap();
        assert!((1..=MOST_TOKENS).contains(&tokens), "{tokens} tokens: {}", answered.text);
    }
}

#[tokio::test]
async fn a_real_local_model_takes_over_under_load_and_gives_the_traffic_back() {
    let Some(model) = LocalModel::start(&upstream_key("local")).await else { return };
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .upstream_with("local", &model.url(), "local: true, max_in_flight: 2, context_window: 2048")
        .route_to(
            "a, b",
            &format!(
                "fallback: [{{upstream: local, model: {MODEL}, prompt: {{max_tokens: {MOST_TOKENS}}}}}]"
            ),
        )
        .quick_health()
        .start()
        .await;
    let load = Load::start(&node, 3.0, 0.5);
    load.more(6).await;
    assert_eq!(load.so_far().fallbacks(), 0);
    a.kill().await;
    b.kill().await;
    load.more(24).await;
    until("the fallback in use", async || {
        (node.metric("tidegate_fallback_active", &[]).await == 1.0).then_some(())
    })
    .await;
    a.revive().await;
    b.revive().await;
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    let closed = closed.max(node.until_path_state("b@direct", "closed", BACK).await);
    load.more(9).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let (local, remote): (Vec<_>, Vec<_>) =
        report.answered.iter().partition(|answered| answered.path == "local@direct");
    local.iter().for_each(|answered| is_the_models(answered));
    assert!(local.iter().any(|a| a.streamed) && local.iter().any(|a| !a.streamed), "{}", report.by_second());
    assert!(local.len() >= 20, "{}", report.by_second());
    assert!(remote.iter().all(|a| !a.fallback && a.said().starts_with("from ")));
    let after = report.since(closed + Duration::from_millis(200));
    assert!(!after.is_empty() && after.fallbacks() == 0, "{}", report.by_second());
}

#[tokio::test]
async fn a_real_local_model_is_never_asked_for_more_than_its_slots() {
    let Some(model) = LocalModel::start(&upstream_key("local")).await else { return };
    let a = Simulated::start("a").await;
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream_with("local", &model.url(), "local: true, max_in_flight: 2")
        // Longer answers, so that the burst meets full slots.
        .route_to(
            "a",
            &format!("fallback: [{{upstream: local, model: {MODEL}, prompt: {{max_tokens: 100}}}}]"),
        )
        .quick_health()
        .start()
        .await;
    a.kill().await;
    until_within(SOON, "a@direct opened", async || {
        Ask::plain(&node).header("x-tidegate-fallback", "off").send().await;
        (node.path_state("a@direct").await == "open").then_some(())
    })
    .await;
    let mut asks = JoinSet::new();
    for n in 0..30 {
        asks.spawn(if n % 2 == 0 { Ask::plain(&node) } else { Ask::streamed(&node) }.send());
    }
    let mut most = 0;
    let mut answered = Vec::new();
    while answered.len() < 30 {
        let path = node.path("local@direct").await;
        most = most.max(path["in_flight"].as_u64().unwrap());
        while let Some(done) = asks.try_join_next() {
            answered.push(done.unwrap());
        }
    }
    assert!((1..=2).contains(&most), "{most} at once on two slots");
    let (ok, refused): (Vec<_>, Vec<_>) = answered.iter().partition(|answered| answered.ok());
    assert!((2..=4).contains(&ok.len()), "{} of 30 were served", ok.len());
    for answered in refused {
        assert_eq!((answered.status, answered.error().0.as_str()), (503, "overloaded_error"), "{answered:?}");
        assert!(answered.retry_after.is_some_and(|seconds| seconds >= 1), "{answered:?}");
        assert!(answered.took < Duration::from_secs(1), "not at once: {:?}", answered.took);
    }
    // Nothing is left in a queue that the next would have to wait for.
    let next = Ask::plain(&node).send().await;
    assert!(next.ok() && next.fallback, "{next:?}");
}
