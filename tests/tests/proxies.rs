//! Ways out that fail: proxies that die, freeze, ask for other credentials, stall after their consent, thin out or
//! cannot reach one upstream. The other way serves, and no upstream is blamed for it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_tests::ca::Ca;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::parts::Proxy;
use tidegate_tests::simulated::Simulated;
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::until;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);

/// Two upstreams, each by two proxies, hk and sg, of which nothing is known to be better.
async fn by_two(a: &str, b: &str, hk: u16, sg: u16, settings: &str) -> Node {
    let settings = format!("egress: [hk, sg], timeouts: {{connect: 600ms, first_byte: 15s}}{settings}");
    let egress = |name: &str, port: u16| {
        format!(
            "{{name: {name}, proxy: \"http://127.0.0.1:{port}\", username: gate, password: {{env: PASSWORD}}}}"
        )
    };
    Setup::new()
        .upstream_with("a", a, &settings)
        .upstream_with("b", b, &settings)
        .section(&format!("egress: [{}, {}]", egress("hk", hk), egress("sg", sg)))
        .env("PASSWORD", "right")
        .quick_health()
        .start()
        .await
}

async fn egress_up(node: &Node, name: &str, value: f64) {
    until(&format!("egress {name} {value}"), async || {
        (node.metric("tidegate_egress_up", &[("egress", name)]).await == value).then_some(())
    })
    .await;
}

/// From here on all goes over sg, at the first attempt, and the upstreams are not blamed.
async fn all_by_sg(node: &Node) {
    for path in ["a@sg", "b@sg"] {
        assert_eq!(node.path_state(path).await, "closed", "{path}");
    }
    for _ in 0..8 {
        let answered = Ask::plain(node).send().await;
        assert!(answered.ok() && answered.attempts == 1, "{answered:?}");
        assert!(answered.path.ends_with("@sg"), "{answered:?}");
    }
}

/// A proxy that fails so under load is left for the other; when it is back it is up again.
async fn proxy_fails(fault: Fault) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let line = FaultProxy::before_port(hk.port()).await;
    let node = by_two(&a.url(), &b.url(), line.port(), sg.port(), "").await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(80).await;
    egress_up(&node, "hk", 1.0).await;
    egress_up(&node, "sg", 1.0).await;
    line.set(fault).await;
    egress_up(&node, "hk", 0.0).await;
    load.more(40).await;
    all_by_sg(&node).await;
    assert_eq!(node.metric("tidegate_egress_up", &[("egress", "sg")]).await, 1.0);
    line.set(Fault::Pass).await;
    egress_up(&node, "hk", 1.0).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.longest() < Duration::from_secs(5), "the longest took {:?}", report.longest());
}

#[tokio::test]
async fn a_killed_proxy_is_left_and_its_upstreams_are_not_blamed() {
    proxy_fails(Fault::ResetAll).await;
}

#[tokio::test]
async fn a_frozen_proxy_is_left_and_its_upstreams_are_not_blamed() {
    proxy_fails(Fault::Freeze).await;
}

/// The same with tinyproxy and a signal.
async fn tinyproxy_gets(signal: &str) {
    let Some(hk) = Proxy::tinyproxy("gate", "right").await else { return };
    let Some(sg) = Proxy::tinyproxy("gate", "right").await else { return };
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = by_two(&a.url(), &b.url(), hk.port, sg.port, "").await;
    let load = Load::start(&node, 30.0, 0.3);
    load.more(60).await;
    egress_up(&node, "hk", 1.0).await;
    hk.process.signal(signal).await;
    egress_up(&node, "hk", 0.0).await;
    load.more(30).await;
    all_by_sg(&node).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn tinyproxy_killed_costs_no_client_an_answer() {
    tinyproxy_gets("KILL").await;
}

#[tokio::test]
async fn tinyproxy_stopped_costs_no_client_an_answer() {
    tinyproxy_gets("STOP").await;
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_is_left_at_once() {
    let Some(hk) = Proxy::tinyproxy("gate", "another").await else { return };
    let Some(sg) = Proxy::tinyproxy("gate", "right").await else { return };
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = by_two(&a.url(), &b.url(), hk.port, sg.port, "").await;
    egress_up(&node, "hk", 0.0).await;
    let load = Load::start(&node, 30.0, 0.3);
    load.more(30).await;
    all_by_sg(&node).await;
    load.stop().await.assert_all_ok();
    assert!(!node.process.output().contains("\"right\""), "the log holds the password");
}

#[tokio::test]
async fn an_upstream_blocked_behind_one_proxy_costs_that_path_alone() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let node = by_two(&a.url(), &b.url(), hk.port(), sg.port(), "").await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(60).await;
    hk.block(a.port());
    node.until_path_opened("a@hk", SOON).await;
    load.more(40).await;
    for path in ["a@sg", "b@hk", "b@sg"] {
        assert_eq!(node.path_state(path).await, "closed", "{path}");
    }
    assert_eq!(node.metric("tidegate_egress_up", &[("egress", "hk")]).await, 1.0);
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.share_of("b@hk") > 0.0, "{}", report.by_second());
}

#[tokio::test]
async fn a_proxy_that_stalls_after_its_consent_is_left_when_tls_takes_too_long() {
    let ca = Ca::new();
    let tls = ca.issue(&["127.0.0.1"]).server(&["http/1.1"]);
    let (a, b) = (Simulated::tls("a", Arc::clone(&tls)).await, Simulated::tls("b", tls).await);
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let line = FaultProxy::before_port(hk.port()).await;
    line.set(Fault::StallAfterConnect).await;
    let folder = Setup::new();
    let authority = folder.file("ca.pem", ca.pem());
    let trust = format!(", tls: {{ca: \"{}\"}}", authority.display());
    let node = by_two(&a.url(), &b.url(), line.port(), sg.port(), &trust).await;
    let load = Load::start(&node, 30.0, 0.3);
    load.more(60).await;
    node.until_path_opened("a@hk", SOON).await;
    node.until_path_opened("b@hk", SOON).await;
    all_by_sg(&node).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.longest() < Duration::from_secs(3), "the longest took {:?}", report.longest());
    assert!(hk.opened() > 0 && report.share_of("a@hk") + report.share_of("b@hk") == 0.0);
}

#[tokio::test]
async fn traffic_leaves_a_thin_line() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let line = FaultProxy::before_port(hk.port()).await;
    let node = by_two(&a.url(), &b.url(), line.port(), sg.port(), "").await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(80).await;
    line.set(Fault::Throttle(3000)).await;
    load.more(240).await;
    let settled = Instant::now();
    load.more(80).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let after = report.since(settled);
    let share = after.share_of("a@hk") + after.share_of("b@hk");
    assert!(share <= 0.1, "the thin line still carries {share:.2}\n{}", report.by_second());
}
