//! HAProxy before three nodes with one Redis, a hundred requests a second of which a third are streams of one to three
//! seconds: what befalls nodes, store and upstreams, one after the other and all at once, and no client notices.

use std::time::Duration;

use tidegate_tests::footprint::Footprint;
use tidegate_tests::load::Load;
use tidegate_tests::node::Node;
use tidegate_tests::simulated::Mode;
use tidegate_tests::site::{Site, VISIBLE};
use tidegate_tests::until_within;
use tokio::time::Instant;

const RATE: f64 = 100.0;
const STREAMED: f64 = 0.34;
/// For what has to be closed and given back.
const SETTLED: Duration = Duration::from_secs(60);

async fn site() -> Option<(Site, Load)> {
    let site = Site::start().await?;
    let load = site.load(RATE, STREAMED);
    load.more(150).await;
    Some((site, load))
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request_and_cuts_no_stream() {
    let Some((site, load)) = site().await else { return };
    let begun = Instant::now();
    for index in 0..3 {
        site.restart(index).await;
    }
    let ended = Instant::now();
    load.more(150).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let meanwhile = report.since(begun).before(ended);
    let streams = meanwhile.answered.iter().filter(|a| a.streamed).count();
    assert!(streams > 50, "{streams} of {} were streams", meanwhile.len());
    for index in 0..3 {
        let node = site.node(index).await;
        assert!(
            node.metric("tidegate_requests_total", &[]).await > 0.0,
            "its share came back to node {index}"
        );
    }
}

#[tokio::test]
async fn a_killed_node_costs_only_what_it_ran() {
    let Some((site, load)) = site().await else { return };
    let killed = site.kill(1).await;
    assert!(killed.running > 0, "nothing ran on it");
    site.haproxy.until_server(&Site::server(1), false).await;
    load.more(150).await;
    let back = Instant::now();
    site.revive(1).await;
    load.more(150).await;
    let report = load.stop().await;
    report.assert_only_lost_with(&killed);
    assert!(!report.failed().is_empty(), "streams ran on it");
    report.since(back).assert_all_ok();
}

#[tokio::test]
async fn a_hundred_reloads_fail_no_request_lose_nothing_and_hold_nothing() {
    let Some((site, load)) = site().await else { return };
    for index in 0..3 {
        let forced = site.node(index).await.operate("x@direct", "disable").await;
        assert_eq!(forced.status, 200);
    }
    for n in 0..10 {
        site.reload(n % 3).await;
    }
    load.stop().await.assert_all_ok();
    // Under load the number of connections goes up and down by itself.
    let (a, b, c) = tokio::join!(at_rest(&site, 0), at_rest(&site, 1), at_rest(&site, 2));
    let load = site.load(RATE, STREAMED);
    let mut seen = Vec::new();
    for n in 0..100 {
        let index = n % 3;
        if n % 10 == 5 {
            seen.push(site.reload_faulty(index, n / 10).await);
        } else {
            site.reload(index).await;
        }
    }
    seen.sort();
    // One may have met a pause of the machine's.
    assert!(seen[seen.len() - 2] <= VISIBLE && seen[seen.len() - 1] <= VISIBLE * 5, "seen after {seen:?}");
    load.stop().await.assert_all_ok();
    for (index, before) in [a, b, c].iter().enumerate() {
        let node = site.node(index).await;
        assert_eq!(node.path_state("x@direct").await, "disabled", "forced by hand, and not by the file");
        let applied = node.metric("tidegate_config_reloads_total", &[("outcome", "applied")]).await;
        let refused = node.metric("tidegate_config_reloads_total", &[("outcome", "refused")]).await;
        assert!(applied >= 30.0 && refused >= 3.0, "node {index}: {applied} applied, {refused} refused");
        Footprint::settles(&node, before, SETTLED).await;
    }
}

async fn at_rest(site: &Site, index: usize) -> Footprint {
    Footprint::at_rest(&*site.node(index).await, Duration::from_secs(8)).await
}

/// Writes another file to a node, and waits until it runs by it.
async fn reloaded(node: &Node, yaml: &str) {
    let before = node.status().await["config"]["hash"].clone();
    node.replace_config(yaml);
    until_within(Duration::from_secs(20), "the reload", async || {
        (node.status().await["config"]["hash"] != before).then_some(())
    })
    .await;
}

/// The state of `x@direct`, and since when.
async fn stand(node: &Node) -> (String, String) {
    let path = node.path("x@direct").await;
    let text = |key: &str| path[key].as_str().unwrap().to_owned();
    (text("state"), text("since"))
}

/// Between two times as `2026-01-01T12:00:00.000Z`.
fn millis_between(one: &str, other: &str) -> u64 {
    let of_day = |time: &str| {
        let text = time.split('T').nth(1).unwrap().trim_end_matches('Z');
        text.split([':', '.'])
            .zip([60, 60, 1000, 1])
            .fold(0, |all, (part, next)| (all + part.parse::<i64>().unwrap()) * next)
    };
    of_day(one).abs_diff(of_day(other))
}

#[tokio::test]
async fn a_path_that_tripped_stays_as_it_was_across_reloads() {
    let Some((site, load)) = site().await else { return };
    // It rests for half a minute and more, so that nothing changes by itself meanwhile.
    let at_rest = |index| {
        let (quick, long) = ("open_for: 500ms, max_open: 3s", "open_for: 60s, max_open: 60s");
        let yaml = site.next_yaml(index);
        assert!(yaml.contains(quick), "{yaml}");
        yaml.replace(quick, long)
    };
    for index in 0..3 {
        reloaded(&*site.node(index).await, &at_rest(index)).await;
    }
    // A probe would find out by itself what requests have found out, and that is another trip.
    site.upstreams[0].probes_always_good();
    site.upstreams[0].set(Mode::Status(500, "an outage"));
    for index in 0..3 {
        site.node(index).await.until_path_state("x@direct", "open", Duration::from_secs(20)).await;
    }
    let node = site.node(0).await;
    // What is told of a moment is late by what it took to tell: now and then by more than some milliseconds.
    let mut said = Vec::new();
    for _ in 0..10 {
        said.push(stand(&node).await);
    }
    let (state, since) = said.into_iter().min().unwrap();
    assert_eq!(state, "open");
    for _ in 0..5 {
        reloaded(&node, &at_rest(0)).await;
        // A breaker built anew would be open since then, if at all.
        let mut said: Vec<(String, String)> = Vec::new();
        while !said.last().is_some_and(|(now, at)| *now == state && millis_between(at, &since) <= 5) {
            assert!(said.len() < 20, "{state} since {since}, and after a reload {said:?}");
            said.push(stand(&node).await);
        }
    }
    drop(node);
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn a_restart_of_redis_and_an_outage_of_an_upstream_cost_no_client_an_answer() {
    let Some((site, load)) = site().await else { return };
    site.restart_redis().await;
    load.more(150).await;
    site.upstreams[0].set(Mode::Reset);
    for index in 0..3 {
        site.node(index).await.until_path_opened("x@direct", Duration::from_secs(20)).await;
    }
    load.more(150).await;
    site.upstreams[0].set(Mode::Good);
    for index in 0..3 {
        site.node(index).await.until_path_state("x@direct", "closed", Duration::from_secs(40)).await;
        site.node(index).await.until_store("up").await;
    }
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn all_of_it_at_once_costs_only_what_a_killed_node_ran() {
    let Some((site, load)) = site().await else { return };
    let outage = async {
        site.upstreams[1].set(Mode::Status(503, "an outage"));
        load.more(300).await;
        site.upstreams[1].set(Mode::Good);
    };
    let store = async {
        for _ in 0..3 {
            site.restart_redis().await;
            load.more(100).await;
        }
    };
    let reloads = async {
        for n in 0..12 {
            match n % 4 {
                3 => drop(site.reload_faulty(n % 3, n).await),
                _ => site.reload(n % 3).await,
            }
        }
    };
    let nodes = async {
        site.restart(0).await;
        site.restart(1).await;
        let killed = site.kill(2).await;
        site.haproxy.until_server(&Site::server(2), false).await;
        load.more(50).await;
        site.revive(2).await;
        site.restart(1).await;
        killed
    };
    let (killed, ..) = tokio::join!(nodes, outage, store, reloads);
    load.more(200).await;
    let report = load.stop().await;
    report.assert_only_lost_with(&killed);
}
