//! The fault matrix where it is about hosts and about limits: dead and frozen ones, certificates, rate limits over
//! several ways, and clients that repeat themselves.

use std::time::Duration;

use tidegate_tests::ca::Ca;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Setup, upstream_key};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{answer, until, until_within};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(15);

/// A fault before `a` under load, and its end: `b` serves meanwhile, no client notices, `a` gets its traffic back.
async fn under_load(fault: Fault) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    // So that some are under way when it happens.
    a.latency(Duration::from_millis(100));
    b.latency(Duration::from_millis(100));
    let line = FaultProxy::before_port(a.port()).await;
    let node = Setup::new()
        .upstream_with("a", &line.url(), "timeouts: {connect: 1s, first_byte: 15s}")
        .upstream("b", &b.url())
        .quick_health()
        .start()
        .await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(60).await;
    line.set(fault).await;
    node.until_path_opened("a@direct", SOON).await;
    load.more(40).await;
    line.set(Fault::Pass).await;
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    load.more(40).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.longest() < Duration::from_secs(5), "the longest took {:?}", report.longest());
    let share = report.since(closed).share_of("a@direct");
    assert!(share >= 0.2, "its traffic did not come back: {share}\n{}", report.by_second());
    assert!(node.metric("tidegate_failovers_total", &[("from", "a@direct")]).await >= 1.0);
}

#[tokio::test]
async fn a_black_hole_before_an_upstream_costs_no_client_an_answer() {
    under_load(Fault::Freeze).await;
}

#[tokio::test]
async fn resets_before_an_upstream_cost_no_client_an_answer() {
    under_load(Fault::ResetAll).await;
}

#[tokio::test]
async fn connections_cut_before_their_answer_cost_no_client_an_answer() {
    under_load(Fault::CutAfter(0)).await;
}

#[tokio::test]
async fn an_upstream_killed_under_load_costs_no_client_an_answer() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new().upstream("a", &a.url()).upstream("b", &b.url()).quick_health().start().await;
    let load = Load::start(&node, 40.0, 0.4);
    load.more(40).await;
    a.kill().await;
    node.until_path_opened("a@direct", SOON).await;
    load.more(40).await;
    a.revive().await;
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    load.more(40).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.since(closed).share_of("a@direct") >= 0.2, "{}", report.by_second());
}

#[tokio::test]
async fn a_reset_connection_costs_next_to_no_time() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let line = FaultProxy::before_port(a.port()).await;
    line.set(Fault::ResetAll).await;
    let node = Setup::new()
        .upstream_with("a", &line.url(), "probe: {path: none}")
        .upstream("b", &b.url())
        .quick_health()
        // Met again and again.
        .health("breaker", "{consecutive_failures: 1000000, failure_rate: 1.0, min_requests: 1000000}")
        .start()
        .await;
    let load = Load::start(&node, 40.0, 0.0);
    load.more(80).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let (straight, moved) = (report.median(|a| a.attempts == 1), report.median(|a| a.attempts > 1));
    assert!(moved > Duration::ZERO, "none met the reset\n{}", report.by_second());
    assert!(moved < straight + Duration::from_millis(50), "{moved:?} instead of {straight:?}");
}

#[tokio::test]
async fn a_rate_limit_rests_the_key_on_every_way_for_as_long_as_the_upstream_says() {
    let error = answer::error("requests", "rate_limit_exceeded", "slow down");
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let limit = answer::json_with(429, &[("retry-after", "3")], &error);
    let hk = Tunnel::start().await;
    let node = Setup::new()
        .upstream_with("a", &a.url(), "egress: [direct, hk]")
        .upstream_with("b", &b.url(), "weight: 0")
        .section(&format!("egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}]", hk.port()))
        .quick_health()
        .health("choice", "{hysteresis: 1s, explore: 0%}")
        .start()
        .await;
    let load = Load::start(&node, 30.0, 0.4);
    load.more(30).await;
    a.set(Mode::Does(vec![Act::Send(limit)]));
    let asked = a.count(Kind::User);
    a.received(Kind::User, asked + 1).await;
    let limited = a.of(Kind::User)[asked].at;
    a.set(Mode::Good);
    // Five seconds: the rest and what comes after it.
    load.more(150).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let key = format!("Bearer {}", upstream_key("a"));
    let after = a.asked().into_iter().filter(|asked| {
        let paid = asked.kind != Kind::Probe && asked.seen.header("authorization") == Some(key.as_str());
        // What was on its way when the limit was told.
        paid && asked.at > limited + Duration::from_millis(100)
    });
    let next = after.map(|asked| asked.at).min().expect("the key is used again after its rest");
    assert!(next >= limited + Duration::from_secs(3), "again after {:?}", next - limited);
    assert!(next <= limited + Duration::from_millis(4500), "only after {:?}", next - limited);
    for path in ["a@direct", "a@hk"] {
        assert_eq!(node.path_state(path).await, "closed", "{path}: a limit is no failure");
    }
}

#[tokio::test]
async fn a_later_shorter_limit_does_not_shorten_the_rest() {
    let gates = [Gate::new(), Gate::new()];
    let error = answer::error("requests", "rate_limit_exceeded", "slow down");
    let script = gates.clone();
    let a = Upstream::start(move |seen| {
        let limit = |seconds: &str| Act::Send(answer::json_with(429, &[("retry-after", seconds)], &error));
        match seen.index {
            0 => vec![Act::Wait(script[0].clone()), limit("3")],
            1 => vec![Act::Wait(script[1].clone()), limit("1")],
            _ => vec![Act::Send(answer::json(200, &answer::chat("from a")))],
        }
    })
    .await;
    let b = Simulated::start("b").await;
    let node = Setup::new()
        .upstream_with("a", &a.url(), "probe: {path: none}")
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("choice", "{hysteresis: 1s, explore: 0%}")
        .health("breaker", "{stalled_after: 30s}")
        .start()
        .await;
    let (first, second) = (tokio::spawn(Ask::plain(&node).send()), tokio::spawn(Ask::plain(&node).send()));
    a.received(2).await;
    gates[0].open(1);
    b.received(Kind::User, 1).await;
    let limited = Instant::now();
    gates[1].open(1);
    assert!(first.await.unwrap().ok() && second.await.unwrap().ok());
    let again = until("the key used again", async || {
        let answered = Ask::plain(&node).send().await;
        assert!(answered.ok(), "{answered:?}");
        (answered.path == "a@direct").then(Instant::now)
    })
    .await;
    assert!(again - limited >= Duration::from_millis(2800), "after {:?}", again - limited);
}

/// A path whose certificate is no good is open after one attempt; the other serves, and nothing is sent to the first.
#[tokio::test]
async fn a_bad_certificate_opens_its_path_at_once() {
    let ca = Ca::new();
    let stranger = Ca::new();
    for (what, pair) in [
        ("expired", ca.issue_expired(&["127.0.0.1"])),
        ("for another name", ca.issue(&["other.test"])),
        ("of an unknown authority", stranger.issue(&["127.0.0.1"])),
    ] {
        let a = Simulated::tls("a", pair.server(&["http/1.1"])).await;
        let b = Simulated::start("b").await;
        let setup = Setup::new();
        let authority = setup.file("ca.pem", ca.pem());
        let node = setup
            .upstream_with(
                "a",
                &a.url(),
                &format!("probe: {{path: none}}, tls: {{ca: \"{}\"}}", authority.display()),
            )
            .upstream_with("b", &b.url(), "weight: 0")
            .quick_health()
            .health("choice", "{explore: 0%}")
            .health("breaker", "{open_for: 60s, max_open: 60s}")
            .start()
            .await;
        let answered = Ask::plain(&node).send().await;
        assert_eq!((answered.path.as_str(), answered.attempts), ("b@direct", 2), "{what}: {answered:?}");
        assert_eq!(node.path_state("a@direct").await, "open", "{what}");
        let answered = Ask::plain(&node).send().await;
        assert_eq!((answered.path.as_str(), answered.attempts), ("b@direct", 1), "{what}: {answered:?}");
        assert!(a.asked().is_empty(), "{what}: never bypassed");
    }
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_moves_on_in_time() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let line = FaultProxy::before_port(a.port()).await;
    line.set(Fault::Freeze).await;
    let url = format!("https://127.0.0.1:{}/v1", line.port());
    let node = Setup::new()
        .upstream_with("a", &url, "timeouts: {connect: 400ms, first_byte: 15s}, probe: {path: none}")
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("choice", "{explore: 0%}")
        .start()
        .await;
    let mut met = 0;
    until_within(BACK, "a@direct opened", async || {
        let answered = Ask::plain(&node).send().await;
        assert!(answered.ok() && answered.path == "b@direct", "{answered:?}");
        assert!(answered.took < Duration::from_secs(2), "{:?}", answered.took);
        met += 1;
        (node.path_state("a@direct").await != "closed").then_some(())
    })
    .await;
    assert!(met <= 4, "{met} requests waited for a handshake");
}

/// As the SDKs do it: twice more, unless told not to.
async fn as_an_sdk(node_ask: Ask) -> u16 {
    for retry in 0..=2 {
        let answered = node_ask.clone().header("x-stainless-retry-count", &retry.to_string()).send().await;
        let again = matches!(answered.status, 408 | 409 | 429 | 500..) && answered.should_retry != "false";
        if !again {
            return answered.status;
        }
    }
    0
}

#[tokio::test]
async fn clients_that_repeat_themselves_do_not_multiply_the_load_on_failing_upstreams() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.set(Mode::Status(500, "overloaded"));
    b.set(Mode::Status(500, "overloaded"));
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .retry("{attempts: 3, backoff: {initial: 1ms, factor: 2, max: 5ms}, budget: 10%}")
        .quick_health()
        .start()
        .await;
    let mut clients = JoinSet::new();
    let clients_count = 20;
    let each = 15;
    for _ in 0..clients_count {
        let ask = Ask::plain(&node);
        clients.spawn(async move {
            for _ in 0..each {
                assert_ne!(as_an_sdk(ask.clone()).await, 200);
            }
        });
    }
    clients.join_all().await;
    let offered = clients_count * each;
    let load = a.asked().len() + b.asked().len() - a.count(Kind::Probe) - b.count(Kind::Probe);
    assert!(load > 0, "nobody was asked at all");
    assert!(load * 10 <= offered * 12, "{load} calls upstream for {offered} requests");
}
