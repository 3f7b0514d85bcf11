//! Names that no longer resolve, or lead elsewhere: a real name server that dies, denies, hangs or errs, in
//! namespaces of the test's own. The node takes an answer as good for 30 s, hence the length of these tests.

use std::time::Duration;

use tidegate_tests::apart::{Names, Packets, apart};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::Simulated;
use tidegate_tests::upstream::Upstream;
use tidegate_tests::{answer, until_within};
use tokio::time::Instant;

const NAME: &str = "api.primary.test";
const GOOD: &str = "--host-record=api.primary.test,127.0.0.1";
/// After which the node asks again.
const ASKED_AGAIN: Duration = Duration::from_secs(40);

fn url(port: u16) -> String {
    format!("http://{NAME}:{port}/v1")
}

/// Each request has a connection of its own, so a name is looked up for each.
const COLD: &str = "pool: {max_idle: 0}";

#[tokio::test]
async fn a_name_server_that_denies_hangs_errs_or_dies_costs_no_client_an_answer() {
    if !apart("a_name_server_that_denies_hangs_errs_or_dies_costs_no_client_an_answer").await {
        return;
    }
    let Some(mut names) = Names::new().await else { return };
    names.answer(&[GOOD]).await;
    let a = Simulated::start("a").await;
    let node = Setup::new().own_pace().upstream_with("a", &url(a.port()), COLD).start().await;
    let load = Load::start(&node, 10.0, 0.5);
    load.more(10).await;
    names.answer(&["--address=/api.primary.test/"]).await;
    names.told(ASKED_AGAIN, NAME, "NXDOMAIN").await;
    load.more(20).await;
    // It asks others, who do not answer.
    names.answer(&["--server=127.0.0.1#5399"]).await;
    names.told(Duration::from_secs(10), NAME, "forwarded").await;
    load.more(20).await;
    names.answer(&["--local=/other.test/"]).await;
    names.told(Duration::from_secs(10), NAME, "REFUSED").await;
    load.more(20).await;
    names.kill().await;
    // The node asks every five seconds.
    load.more(60).await;
    names.answer(&[GOOD]).await;
    names.told(Duration::from_secs(10), NAME, "is 127.0.0.1").await;
    load.more(20).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.longest() < Duration::from_secs(2), "the longest took {:?}", report.longest());
    assert_eq!(node.path_state("a@direct").await, "closed", "no upstream is blamed for it");
}

#[tokio::test]
async fn a_name_that_moves_to_a_dead_address_costs_no_client_an_answer() {
    if !apart("a_name_that_moves_to_a_dead_address_costs_no_client_an_answer").await {
        return;
    }
    let (Some(mut names), Some(packets)) = (Names::new().await, Packets::new().await) else { return };
    names.answer(&[GOOD]).await;
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    b.latency(Duration::from_millis(150));
    let node = Setup::new()
        .own_pace()
        .upstream_with("a", &url(a.port()), COLD)
        .upstream("b", &b.url())
        .start()
        .await;
    let load = Load::start(&node, 10.0, 0.5);
    load.more(30).await;
    assert!(load.so_far().share_of("a@direct") >= 0.5, "{}", load.so_far().by_second());
    packets.black_hole_address("127.0.0.9").await;
    names.answer(&["--host-record=api.primary.test,127.0.0.9"]).await;
    names.told(ASKED_AGAIN, NAME, "127.0.0.9").await;
    let opened = node.until_path_opened("a@direct", Duration::from_secs(15)).await;
    load.more(30).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let after = report.since(opened + Duration::from_millis(100));
    assert_eq!(after.share_of("b@direct"), 1.0, "{}", report.by_second());
}

async fn cold_node(port: u16) -> Node {
    Setup::new()
        .own_pace()
        .upstream_with("a", &url(port), &format!("{COLD}, probe: {{path: none}}"))
        .start()
        .await
}

#[tokio::test]
async fn of_two_addresses_a_dead_one_costs_a_quarter_of_a_second() {
    if !apart("of_two_addresses_a_dead_one_costs_a_quarter_of_a_second").await {
        return;
    }
    let (Some(mut names), Some(packets)) = (Names::new().await, Packets::new().await) else { return };
    // Answers on 127.0.0.1 alone. The system puts addresses of the newer protocol first.
    let a = Upstream::saying(answer::json(200, &answer::chat("from a"))).await;
    for dead in ["::1", "127.0.0.9"] {
        packets.pass().await;
        packets.black_hole_address(dead).await;
        names.answer(&[&format!("--address=/{NAME}/{dead}"), &format!("--address=/{NAME}/127.0.0.1")]).await;
        let node = cold_node(a.port()).await;
        let begun = Instant::now();
        for _ in 0..8 {
            let answered = Ask::plain(&node).send().await;
            assert!(answered.ok() && answered.attempts == 1, "{dead}: {answered:?}");
            assert!(answered.took < Duration::from_millis(700), "{dead}: {:?}", answered.took);
        }
        names.told(Duration::from_secs(1), NAME, dead).await;
        eprintln!("{dead}: eight in {:?}", begun.elapsed());
        until_within(Duration::from_secs(1), "still closed", async || {
            (node.path_state("a@direct").await == "closed").then_some(())
        })
        .await;
    }
}
