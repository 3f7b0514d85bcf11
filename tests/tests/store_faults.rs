//! A store that dies, stops, is slow, refuses, forgets, changes its master or cannot be reached by one node: no
//! client fails for it or waits longer than 25 ms, and it is used again when it is back.
//!
//! Every request here costs calls of it: an exact limit, and an answer that is kept.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Load, Report};
use tidegate_tests::node::Setup;
use tidegate_tests::nodes::{Nodes, SEEN, client_key};
use tidegate_tests::redis::cluster::Cluster;
use tidegate_tests::redis::sentinel::Sentinel;
use tidegate_tests::redis::{Redis, behind};
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{answer, until};
use tokio::time::Instant;

/// Requests a second over all nodes.
const OFFERED: f64 = 40.0;
/// What a request may wait for the store, and what a loaded machine may add to any request.
const LONGEST: Duration = Duration::from_millis(25 + 300);
/// Lines of a node's log about one outage.
const WORDS: usize = 4;

async fn answering() -> Upstream {
    Upstream::unrecorded(|seen| vec![Act::Send(answer::to(&seen.json(), "yes"))]).await
}

/// A node that asks the store for every request; client `x` has these limits.
fn node(setup: Setup, store: &str, upstream: &Upstream, x: &str) -> Setup {
    setup
        .store(store)
        .upstream("up", &upstream.url())
        .route_to("up", "cache: {ttl: 1h}")
        .clients(&[("x", &format!("limits: [{x}]"))])
}

const AMPLE: &str = "{requests: 600000/min}, {in_flight: 1000}";
/// One bucket of ten a second.
const TIGHT: &str = "{requests: 600/min, burst: 50}";
const TIGHT_RATE: f64 = 10.0;
const TIGHT_BURST: f64 = 50.0;

async fn three(store: &str, upstream: &Upstream, x: &str) -> Nodes {
    Nodes::meet(3, |setup, _| node(setup, store, upstream, x)).await
}

fn load(nodes: &Nodes) -> Load {
    let key = format!("Bearer {}", client_key("x"));
    Load::over(nodes.iter(), OFFERED, 0.3, &[("authorization", &key)])
}

/// Every node says so, and is ready all the same.
async fn seen_down(nodes: &Nodes) {
    for node in nodes.iter() {
        node.until_store("down").await;
        assert_eq!(node.metric("tidegate_store_up", &[]).await, 0.0);
        assert_eq!(node.admin("/readyz").await.status, 200);
    }
}

/// Every node uses it again, no later than five seconds after `back`.
async fn seen_up(nodes: &Nodes, back: Instant) {
    for node in nodes.iter() {
        let seen = node.until_store("up").await;
        assert!(seen - back < Duration::from_secs(5), "up after {:?}", seen - back);
    }
}

fn assert_unnoticed(report: &Report) {
    report.assert_all_ok();
    assert!(report.longest() <= LONGEST, "the longest took {:?}", report.longest());
}

/// Load through an outage that the nodes see as one.
async fn outage(
    redis: &mut Redis,
    url: &str,
    breaks: impl AsyncFnOnce(&mut Redis),
    heals: impl AsyncFnOnce(&mut Redis),
) {
    let upstream = answering().await;
    let nodes = three(url, &upstream, AMPLE).await;
    let load = load(&nodes);
    load.more(60).await;
    let before: Vec<_> = nodes.iter().map(|node| node.warnings().len()).collect();
    breaks(redis).await;
    seen_down(&nodes).await;
    let known = Instant::now();
    load.more(60).await;
    let settled = Instant::now();
    for (node, before) in nodes.iter().zip(before) {
        let words = &node.warnings()[before..];
        assert!(words.len() <= WORDS, "{} lines for one outage: {words:#?}", words.len());
        assert!(!words.is_empty(), "nothing is said of the outage");
    }
    heals(redis).await;
    seen_up(&nodes, Instant::now()).await;
    load.more(40).await;
    let report = load.stop().await;
    assert_unnoticed(&report);
    // Once it is known to be away nobody waits for it.
    let usual = report.before(known).median(|_| true);
    let away = report.since(known).before(settled).median(|_| true);
    assert!(away <= usual + Duration::from_millis(10), "{away:?} without it, {usual:?} before");
    assert!(nodes[0].store_calls().await > 0.0);
}

#[tokio::test]
async fn a_killed_store_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    outage(&mut redis, &url, async |redis| redis.kill().await, async |redis| redis.restart().await).await;
}

#[tokio::test]
async fn a_frozen_store_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    outage(&mut redis, &url, async |redis| redis.freeze().await, async |redis| redis.thaw().await).await;
}

#[tokio::test]
async fn a_store_that_pauses_its_clients_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    // Scripts count as writes; a pause of everything would keep us from ending it.
    let pause = async |redis: &mut Redis| drop(redis.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).await);
    let unpause = async |redis: &mut Redis| drop(redis.command(&["CLIENT", "UNPAUSE"]).await);
    outage(&mut redis, &url, pause, unpause).await;
}

#[tokio::test]
async fn a_slow_store_costs_no_more_than_its_timeout_and_is_left() {
    let Some(mut redis) = Redis::start().await else { return };
    let line = FaultProxy::before_port(redis.port()).await;
    let slow = async |_: &mut Redis| line.set(Fault::Delay(Duration::from_millis(200))).await;
    outage(&mut redis, &behind(&line), slow, async |_| line.set(Fault::Pass).await).await;
}

#[tokio::test]
async fn a_black_hole_before_the_store_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let line = FaultProxy::before_port(redis.port()).await;
    let hole = async |_: &mut Redis| line.set(Fault::Freeze).await;
    outage(&mut redis, &behind(&line), hole, async |_| line.set(Fault::Pass).await).await;
}

/// A store that takes connections and refuses what it is asked.
async fn refuses(breaks: &[&[&str]], heals: &[&[&str]]) {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    let told = async |redis: &mut Redis, lines: &[&[&str]]| {
        for line in lines {
            redis.command(line).await;
        }
    };
    outage(&mut redis, &url, async |redis| told(redis, breaks).await, async |redis| told(redis, heals).await)
        .await;
}

#[tokio::test]
async fn a_store_that_has_become_a_replica_costs_nothing() {
    refuses(&[&["REPLICAOF", "127.0.0.1", "1"]], &[&["REPLICAOF", "NO", "ONE"]]).await;
}

#[tokio::test]
async fn a_store_without_memory_costs_nothing() {
    refuses(&[&["CONFIG", "SET", "maxmemory", "1"]], &[&["CONFIG", "SET", "maxmemory", "0"]]).await;
}

#[tokio::test]
async fn a_store_that_forbids_scripts_costs_nothing() {
    refuses(
        &[&["ACL", "SETUSER", "default", "-eval", "-evalsha"]],
        &[&["ACL", "SETUSER", "default", "+@all"]],
    )
    .await;
}

#[tokio::test]
async fn a_store_that_asks_for_another_password_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    let lock = async |redis: &mut Redis| {
        redis.command(&["CONFIG", "SET", "requirepass", "another"]).await;
        redis.knows("another");
        // Who is connected stays known.
        redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    };
    let unlock = async |redis: &mut Redis| drop(redis.command(&["CONFIG", "SET", "requirepass", ""]).await);
    outage(&mut redis, &url, lock, unlock).await;
}

#[tokio::test]
async fn a_store_that_cannot_save_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    outage(&mut redis, &url, async |redis| redis.cannot_save().await, async |redis| redis.can_save().await)
        .await;
}

#[tokio::test]
async fn a_store_that_is_loading_costs_nothing() {
    let Some(mut redis) = Redis::start().await else { return };
    let url = redis.url();
    let loads = async |redis: &mut Redis| {
        redis
            .command(&["EVAL", "for i = 1, 20 do redis.call('SET', i, string.rep('x', 4096)) end", "0"])
            .await;
        assert_eq!(redis.command(&["SAVE"]).await, "OK");
        redis.load_slowly().await;
    };
    let loaded = async |redis: &mut Redis| {
        redis.until_info("persistence", "loading", "0").await;
    };
    outage(&mut redis, &url, loads, loaded).await;
}

#[tokio::test]
async fn forgotten_scripts_are_brought_again_without_a_failure() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = three(&redis.url(), &upstream, AMPLE).await;
    let before: Vec<_> = nodes.iter().map(|node| node.warnings().len()).collect();
    let load = load(&nodes);
    for _ in 0..5 {
        load.more(20).await;
        redis.command(&["SCRIPT", "FLUSH"]).await;
    }
    load.more(20).await;
    assert_unnoticed(&load.stop().await);
    for (node, before) in nodes.iter().zip(before) {
        assert_eq!(node.store_state().await, "up");
        assert_eq!(node.warnings()[before..], Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_node_starts_and_serves_without_its_store_and_uses_it_when_it_comes() {
    let Some(mut redis) = Redis::start().await else { return };
    redis.kill().await;
    let upstream = answering().await;
    let nodes = Nodes::start(2, |setup, _| node(setup, &redis.url(), &upstream, AMPLE)).await;
    seen_down(&nodes).await;
    let load = load(&nodes);
    load.more(40).await;
    redis.restart().await;
    seen_up(&nodes, Instant::now()).await;
    nodes.met().await;
    assert_unnoticed(&load.stop().await);
}

#[tokio::test]
async fn a_store_is_used_with_its_password_and_not_without() {
    let Some(redis) = Redis::password("opensesame").await else { return };
    let upstream = answering().await;
    let store = format!("store: {{url: \"{}\", password: {{env: STORE_PASSWORD}}}}", redis.url());
    let start = async |password: &str| {
        let setup =
            Setup::new().section(&store).env("STORE_PASSWORD", password).upstream("up", &upstream.url());
        setup.start().await
    };
    let (right, wrong) = (start("opensesame").await, start("opensaysme").await);
    right.until_store("up").await;
    wrong.still_answers().await;
    assert_eq!(wrong.store_state().await, "down");
    let log = wrong.process.output() + &right.process.output();
    assert!(!log.contains("opensesame") && !log.contains("opensaysme"), "{log}");
}

#[tokio::test]
async fn a_store_whose_certificate_nobody_vouches_for_is_not_used() {
    let Some(redis) = Redis::tls().await else { return };
    let upstream = answering().await;
    let node = Setup::new().store(&redis.url()).upstream("up", &upstream.url()).start().await;
    node.still_answers().await;
    until("a word on the certificate", async || {
        node.warnings().iter().any(|line| line.to_lowercase().contains("certificate")).then_some(())
    })
    .await;
    assert_eq!(node.store_state().await, "down");
    assert_eq!(redis.command(&["DBSIZE"]).await, "0");
}

#[tokio::test]
async fn a_valkey_does_as_well() {
    let Some(redis) = Redis::valkey().await else { return };
    let upstream = answering().await;
    let nodes = three(&redis.url(), &upstream, TIGHT).await;
    let load = load(&nodes);
    load.more(120).await;
    let report = load.stop().await;
    let one_bucket = TIGHT_BURST + TIGHT_RATE * report.span().as_secs_f64();
    assert!(report.admitted() as f64 <= one_bucket * 1.01 + 1.0, "{} of {one_bucket}", report.admitted());
}

/// The bound over a change of master: what was counted last may be lost, once.
fn assert_at_most_a_burst_more(report: &Report) {
    let one_bucket = TIGHT_BURST + TIGHT_RATE * report.span().as_secs_f64();
    let admitted = report.admitted() as f64;
    assert!(admitted <= one_bucket + TIGHT_BURST + 3.0, "{admitted}, one bucket: {one_bucket}");
    assert!(admitted >= 0.7 * one_bucket, "{admitted}, one bucket: {one_bucket}");
    assert!(report.longest() <= LONGEST, "the longest took {:?}", report.longest());
}

#[tokio::test]
async fn sentinels_change_the_master_and_nobody_notices() {
    let Some(mut sentinel) = Sentinel::start().await else { return };
    let upstream = answering().await;
    let nodes = three(&sentinel.url(), &upstream, TIGHT).await;
    assert_eq!(nodes[0].status().await["store"]["kind"], json!("redis+sentinel"));
    let load = load(&nodes);
    load.more(80).await;
    sentinel.kill_master().await;
    sentinel.promoted().await;
    seen_up(&nodes, Instant::now()).await;
    load.more(80).await;
    assert_at_most_a_burst_more(&load.stop().await);
    // A node that comes now finds the new one.
    let late = node(Setup::new().named("z"), &sentinel.url(), &upstream, TIGHT).start().await;
    late.until_fleet(SEEN, &["a", "b", "c", "z"]).await;
}

#[tokio::test]
async fn a_cluster_loses_a_master_and_nobody_notices() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let upstream = answering().await;
    let nodes = three(&cluster.url(), &upstream, TIGHT).await;
    assert_eq!(nodes[0].status().await["store"]["kind"], json!("redis+cluster"));
    let load = load(&nodes);
    load.more(80).await;
    cluster.kill_master().await;
    cluster.whole().await;
    seen_up(&nodes, Instant::now()).await;
    load.more(80).await;
    assert_at_most_a_burst_more(&load.stop().await);
    nodes.met().await;
}

/// A store that has lost all gives nobody a full bucket.
async fn forgets(loses: impl AsyncFnOnce(&mut Redis, &Nodes)) {
    let Some(mut redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let x = "{requests: 60/min, burst: 60}";
    let nodes = Nodes::meet(2, |setup, _| {
        let setup = setup.patient_store(&redis.url()).upstream("up", &upstream.url());
        setup.clients(&[("x", &format!("limits: [{x}]"))])
    })
    .await;
    let ask = async |node: usize| nodes[node].chat().bearer(&client_key("x")).send().await.status.as_u16();
    for turn in 0..10 {
        assert_eq!(ask(turn % 2).await, 200);
    }
    loses(&mut redis, &nodes).await;
    let begun = Instant::now();
    let mut admitted = 0;
    while ask(admitted % 2).await == 200 {
        admitted += 1;
        assert!(admitted < 60, "a full bucket");
    }
    let most = 30 + begun.elapsed().as_secs() as usize + 1;
    assert!((20..=most).contains(&admitted), "{admitted}, half of the burst is {most}");
    nodes.met().await;
}

#[tokio::test]
async fn a_store_that_was_emptied_gives_at_most_half_a_burst() {
    forgets(async |redis, _| drop(redis.command(&["FLUSHALL"]).await)).await;
}

#[tokio::test]
async fn a_store_that_came_back_empty_gives_at_most_half_a_burst() {
    forgets(async |redis, nodes| {
        redis.kill().await;
        seen_down(nodes).await;
        redis.restart().await;
        seen_up(nodes, Instant::now()).await;
    })
    .await;
}

#[tokio::test]
async fn a_node_cut_off_from_the_store_serves_its_share_and_comes_back() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let line = FaultProxy::before_port(redis.port()).await;
    let urls = [behind(&line), redis.url()];
    let store = |name: &str| if name == "a" { &urls[0] } else { &urls[1] };
    let nodes = Nodes::meet(3, |setup, name| node(setup, store(name), &upstream, TIGHT)).await;
    let load = load(&nodes);
    load.more(80).await;
    let cut = Instant::now();
    line.set(Fault::Freeze).await;
    nodes[0].until_store("down").await;
    nodes[1].until_fleet(SEEN, &["b", "c"]).await;
    assert_eq!(nodes[1].store_state().await, "up");
    assert_eq!(nodes[0].admin("/readyz").await.status, 200);
    load.more(40).await;
    let span = cut.elapsed().as_secs_f64();
    line.set(Fault::Pass).await;
    nodes.met().await;
    load.more(20).await;
    let report = load.stop().await;
    report.admitted();
    assert!(report.longest() <= LONGEST, "the longest took {:?}", report.longest());
    // The two others keep the whole limit between them, and a its third on top.
    let away = report.since(cut).before(cut + Duration::from_secs_f64(span));
    let of = |own: bool| away.answered.iter().filter(|a| a.ok() && own == (a.to == nodes[0].address)).count();
    let (alone, others) = (of(true) as f64, of(false) as f64);
    assert!(alone <= TIGHT_BURST / 3.0 + TIGHT_RATE / 3.0 * span + 3.0, "{alone} by the node on its own");
    assert!(alone >= 1.0, "the node on its own admits nobody");
    assert!(others <= TIGHT_BURST + TIGHT_RATE * span + 3.0, "{others} by the two others");
}
