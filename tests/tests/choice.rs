//! Which path gets the traffic while all of them are well: by latency, by weight, without being misled by one
//! answer, and quickly when things change.

use std::time::Duration;

use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Load, Report};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Simulated};
use tidegate_tests::tunnel::Tunnel;
use tokio::time::Instant;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

async fn pair(a_latency: Duration, b_latency: Duration) -> (Node, Simulated, Simulated) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(a_latency);
    b.latency(b_latency);
    let node = Setup::new().upstream("a", &a.url()).upstream("b", &b.url()).quick_health().start().await;
    (node, a, b)
}

/// Fails unless this path answered at least this share of what was asked since `from`.
fn mostly(report: &Report, from: Instant, path: &str, share: f64) {
    let there = report.since(from);
    assert!(there.len() >= 20, "{} requests prove nothing", there.len());
    let found = there.share_of(path);
    assert!(found >= share, "{path} answered {found:.2}, not {share}:\n{}", report.by_second());
}

#[tokio::test]
async fn nine_in_ten_go_to_the_faster_upstream_five_seconds_after_the_start() {
    let (node, _a, _b) = pair(ms(20), ms(150)).await;
    let load = Load::start(&node, 50.0, 0.3);
    load.more(250).await;
    let settled = Instant::now();
    load.more(100).await;
    let path = node.path("a@direct").await;
    let report = load.stop().await;
    report.assert_all_ok();
    mostly(&report, settled, "a@direct", 0.9);
    assert!(path["share"].as_f64().is_some_and(|share| share > 0.9), "{path}");
    let latency = path["ttft_ms"].as_f64().unwrap_or_default();
    assert!((15.0..100.0).contains(&latency), "what it was measured at: {path}");
    let slower = node.path("b@direct").await;
    assert_eq!((slower["state"].as_str(), path["state"].as_str()), (Some("closed"), Some("closed")));
    let seconds = node.metric("tidegate_path_latency_seconds", &[("path", "a@direct")]).await;
    assert!(seconds > 0.01 && seconds < 0.1, "{seconds}");
}

#[tokio::test]
async fn traffic_moves_within_ten_seconds_when_the_faster_upstream_becomes_the_slower() {
    let (node, a, b) = pair(ms(20), ms(150)).await;
    let load = Load::start(&node, 50.0, 0.3);
    load.more(200).await;
    let before = Instant::now();
    load.more(50).await;
    a.latency(ms(150));
    b.latency(ms(20));
    // Ten seconds, and one to look at.
    load.more(500).await;
    let settled = Instant::now();
    load.more(50).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let swapped = before + ms(1000);
    assert!(report.since(before).before(swapped).share_of("a@direct") >= 0.8, "{}", report.by_second());
    mostly(&report, settled, "b@direct", 0.9);
}

#[tokio::test]
async fn traffic_leaves_an_upstream_that_becomes_ten_times_slower() {
    let (node, a, _b) = pair(ms(40), ms(100)).await;
    let load = Load::start(&node, 40.0, 0.5);
    load.more(120).await;
    assert!(load.so_far().share_of("a@direct") > 0.5, "{}", load.so_far().by_second());
    a.latency(ms(400));
    load.more(240).await;
    let settled = Instant::now();
    load.more(60).await;
    let report = load.stop().await;
    report.assert_all_ok();
    mostly(&report, settled, "b@direct", 0.9);
    assert_eq!(node.path_state("a@direct").await, "closed", "slow is not broken");
}

#[tokio::test]
async fn one_late_answer_moves_nothing() {
    let (node, a, b) = pair(ms(20), ms(150)).await;
    let load = Load::start(&node, 40.0, 0.0);
    load.more(160).await;
    let before = Instant::now();
    a.outlier(ms(2000));
    load.more(160).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.longest() >= ms(2000), "the late answer was not met");
    mostly(&report, before, "a@direct", 0.9);
    assert_eq!(node.path_state("a@direct").await, "closed");
    assert!(b.count(Kind::User) > 0, "the other one is measured, too");
}

#[tokio::test]
async fn equal_upstreams_share_by_their_weights() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(ms(30));
    b.latency(ms(30));
    let node = Setup::new()
        .upstream_with("a", &a.url(), "weight: 3")
        .upstream_with("b", &b.url(), "weight: 1")
        .quick_health()
        .start()
        .await;
    let load = Load::start(&node, 60.0, 0.3);
    load.more(60).await;
    let settled = Instant::now();
    load.more(400).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let share = report.since(settled).share_of("a@direct");
    assert!((0.65..=0.85).contains(&share), "{share:.2}, not three in four:\n{}", report.by_second());
}

#[tokio::test]
async fn an_upstream_of_weight_zero_serves_only_when_nothing_else_does() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream_with("a", &a.url(), "weight: 0")
        .upstream("b", &b.url())
        .quick_health()
        .health("choice", "{explore: 0%}")
        .start()
        .await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(60).await;
    assert_eq!(a.count(Kind::User), 0);
    b.kill().await;
    load.more(60).await;
    load.stop().await.assert_all_ok();
    assert!(a.count(Kind::User) >= 55, "{}", a.count(Kind::User));
}

#[tokio::test]
async fn of_two_ways_to_one_upstream_the_quicker_carries_the_traffic() {
    let a = Simulated::start("a").await;
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let line = FaultProxy::before_port(hk.port()).await;
    line.set(Fault::Delay(ms(60))).await;
    let node = Setup::new()
        .upstream_with("a", &a.url(), "egress: [hk, sg]")
        .section(&format!(
            "egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}, {{name: sg, proxy: \"http://127.0.0.1:{}\"}}]",
            line.port(),
            sg.port()
        ))
        .quick_health()
        .start()
        .await;
    let load = Load::start(&node, 50.0, 0.3);
    load.more(250).await;
    let settled = Instant::now();
    load.more(100).await;
    let report = load.stop().await;
    report.assert_all_ok();
    mostly(&report, settled, "a@sg", 0.9);
    assert!(hk.opened() > 0, "the slower way is measured, too");
}
