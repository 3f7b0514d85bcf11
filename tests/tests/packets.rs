//! Lost packets and black holes of a real network, in namespaces of the test's own: what nobody sends an error for.

use std::time::Duration;

use tidegate_tests::apart::{Packets, apart};
use tidegate_tests::load::Load;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::Simulated;
use tidegate_tests::tunnel::Tunnel;
use tokio::time::Instant;

const FOUND: Duration = Duration::from_secs(10);
const BACK: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_black_hole_of_the_network_is_found_in_time_and_left_again() {
    if !apart("a_black_hole_of_the_network_is_found_in_time_and_left_again").await {
        return;
    }
    let Some(packets) = Packets::new().await else { return };
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(Duration::from_millis(30));
    b.latency(Duration::from_millis(150));
    // What finds it is as shipped; the way back is at the pace of a test.
    let shipped = "probe: {interval: 5s, timeout: 2s}";
    let node = Setup::new()
        .upstream_with("a", &a.url(), shipped)
        .upstream_with("b", &b.url(), shipped)
        .quick_health()
        .health("breaker", "{open_for: 500ms, max_open: 3s}")
        .start()
        .await;
    let load = Load::start(&node, 30.0, 0.5);
    load.more(90).await;
    assert!(load.so_far().share_of("a@direct") >= 0.6, "{}", load.so_far().by_second());
    packets.black_hole(a.port()).await;
    let begun = Instant::now();
    let opened = node.until_path_opened("a@direct", FOUND).await;
    eprintln!("open after {:?}", opened - begun);
    load.more(90).await;
    packets.pass().await;
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    load.more(90).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let longest = report.longest();
    assert!(longest < FOUND + Duration::from_secs(2), "what hung there was moved: {longest:?}");
    assert_eq!(
        report
            .since(opened + Duration::from_millis(100))
            .before(opened + Duration::from_secs(2))
            .share_of("b@direct"),
        1.0,
        "{}",
        report.by_second()
    );
    assert!(report.since(closed).share_of("a@direct") > 0.2, "{}", report.by_second());
}

/// One upstream by two proxies, of which nothing is known to be better.
async fn by_two(a: &Simulated, hk: &Tunnel, sg: &Tunnel) -> Node {
    let egress = |name: &str, port: u16| format!("{{name: {name}, proxy: \"http://127.0.0.1:{port}\"}}");
    Setup::new()
        .upstream_with("a", &a.url(), "egress: [hk, sg]")
        .section(&format!("egress: [{}, {}]", egress("hk", hk.port()), egress("sg", sg.port())))
        .quick_health()
        .start()
        .await
}

/// So many percent are lost on the way by hk: all clients are answered, and hk gets no more than `most` of the
/// traffic from then on, 0 to 1.
async fn lossy(test: &str, percent: u8, most: f64) {
    if !apart(test).await {
        return;
    }
    let Some(packets) = Packets::new().await else { return };
    let a = Simulated::start("a").await;
    let (hk, sg) = (Tunnel::start().await, Tunnel::start().await);
    let node = by_two(&a, &hk, &sg).await;
    let load = Load::start(&node, 40.0, 0.5);
    load.more(120).await;
    let before = load.so_far().share_of("a@hk");
    assert!(before > 0.2, "{before:.2} goes by hk while both are well");
    packets.lose(hk.port(), percent).await;
    let lossy = Instant::now();
    load.more(520).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let after = report.since(lossy).share_of("a@hk");
    eprintln!("{before:.2}, then {after:.2} go by hk");
    assert!(after <= most, "{before:.2}, then {after:.2} go by hk\n{}", report.by_second());
}

#[tokio::test]
async fn five_percent_of_packets_lost_cost_no_client_an_answer() {
    // A tenth to a fifth of the answers come 200 ms later: on average too little to leave a path for.
    lossy("five_percent_of_packets_lost_cost_no_client_an_answer", 5, 0.6).await;
}

#[tokio::test]
async fn thirty_percent_of_packets_lost_move_the_traffic_and_cost_no_client_an_answer() {
    lossy("thirty_percent_of_packets_lost_move_the_traffic_and_cost_no_client_an_answer", 30, 0.2).await;
}
