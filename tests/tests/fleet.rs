//! What three nodes tell each other over their store: who is there, which paths are open, who shadows, and that one
//! node's own trouble is nobody else's.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::Load;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, SEEN};
use tidegate_tests::redis::Redis;
use tidegate_tests::simulated::{Asked, Kind, Mode, Simulated};
use tidegate_tests::status::States;
use tidegate_tests::until_within;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(20);
/// Shadows at the pace of the test below: two a second.
const PACE: &str = "{shadow_max: 120/min, successes: 3, min_span: 300ms, ramp_step: 300ms, ramp_requests: 3}";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn every_node_tells_of_all() {
    let Some(redis) = Redis::start().await else { return };
    let x = Simulated::start("x").await;
    let nodes = Nodes::meet(3, |setup, _| setup.store(&redis.url()).upstream("x", &x.url())).await;
    for node in nodes.iter() {
        let status = node.status().await;
        assert_eq!(status["store"]["kind"], json!("redis"));
        for peer in status["fleet"].as_array().unwrap() {
            assert_eq!(peer["zone"], "here", "{peer}");
            assert!(peer["version"].is_string() && peer["started_at"].is_string(), "{peer}");
        }
    }
}

#[tokio::test]
async fn a_killed_node_is_missed_within_six_seconds_and_breaks_only_what_it_ran() {
    let Some(redis) = Redis::start().await else { return };
    let x = Simulated::start("x").await;
    let mut nodes =
        Nodes::meet(3, |setup, _| setup.patient_store(&redis.url()).upstream("x", &x.url())).await;
    x.latency(Duration::from_millis(100));
    let load = Load::over(nodes.iter(), 40.0, 0.5, &[]);
    load.more(60).await;
    let dead = nodes[2].address;
    nodes[2].kill().await;
    let killed = Instant::now();
    for node in &nodes[..2] {
        node.until_fleet(SEEN, &["a", "b"]).await;
    }
    assert!(killed.elapsed() <= SEEN);
    let report = load.stop().await;
    let failed: Vec<_> = report.answered.iter().filter(|a| !a.ok()).collect();
    assert!(!failed.is_empty());
    assert!(failed.iter().all(|a| a.to == dead), "{failed:?}");
}

#[tokio::test]
async fn a_node_that_ends_in_order_is_gone_at_once_and_one_that_comes_is_there_at_once() {
    let Some(redis) = Redis::start().await else { return };
    let x = Simulated::start("x").await;
    let node = |setup: Setup| {
        let setup = setup.store(&redis.url()).upstream("x", &x.url());
        setup.listen("drain_grace: 100ms, drain_timeout: 1s")
    };
    let mut nodes = Nodes::meet(3, |setup, _| node(setup)).await;
    nodes[1].process.signal("TERM").await;
    nodes[1].process.ended().await;
    nodes[0].until_fleet(secs(2), &["a", "c"]).await;
    let late = node(Setup::new().named("d")).start().await;
    for node in [&nodes[0], &nodes[2], &late] {
        node.until_fleet(secs(3), &["a", "c", "d"]).await;
    }
}

/// Three nodes with keys of their own at `x`, by which its record tells them apart, and `y`.
async fn keyed(redis: &Redis, x: &Simulated, y: &Simulated) -> Nodes {
    Nodes::meet(3, |setup, name| {
        setup
            .patient_store(&redis.url())
            .upstream_with("x", &x.url(), "keys: [{env: OWN}]")
            .env("OWN", &format!("sk-of-node-{name}"))
            .upstream("y", &y.url())
            .quick_health()
            .health("recovery", PACE)
    })
    .await
}

fn sender(asked: &Asked) -> String {
    let header = asked.seen.header("authorization").unwrap_or_default();
    header.trim_start_matches("Bearer sk-of-node-").to_owned()
}

/// Requests of the gateway's own that a recovery costs, since then.
fn tries(x: &Simulated, since: Instant) -> Vec<Asked> {
    let own = |asked: &Asked| matches!(asked.kind, Kind::Shadow | Kind::Synthetic) && asked.at >= since;
    x.asked().into_iter().filter(own).collect()
}

/// `x` has failed on all nodes and now answers too slowly to pass: they try it again and again.
async fn tried(nodes: &[Node], x: &Simulated) -> Instant {
    x.probes_always_good();
    x.set(Mode::Status(500, "outage"));
    for node in nodes {
        node.until_path_opened("x@direct", BACK).await;
    }
    x.set(Mode::Slow(Duration::from_millis(800)));
    let slow = Instant::now();
    until_within(BACK, "two tries", async || (tries(x, slow).len() >= 2).then_some(())).await;
    Instant::now()
}

#[tokio::test]
async fn one_node_shadows_for_all_and_its_verdict_is_everybodys() {
    let Some(redis) = Redis::start().await else { return };
    let (x, y) = (Simulated::start("x").await, Simulated::start("y").await);
    let nodes = keyed(&redis, &x, &y).await;
    let load = Load::over(nodes.iter(), 60.0, 0.4, &[]);
    load.more(60).await;
    let begun = tried(&nodes, &x).await;
    load.more(240).await;
    let span = begun.elapsed().as_secs_f64();
    let seen = tries(&x, begun);
    // Two a second from whichever node has the lease; three nodes on their own would send three times as many.
    assert!(seen.len() as f64 <= 3.0 * span + 2.0, "{} tries in {span} s", seen.len());
    assert!(!seen.is_empty(), "nobody tries");
    x.set(Mode::Good);
    let healed = Instant::now();
    for node in nodes.iter() {
        node.until_path_state("x@direct", "closed", BACK).await;
    }
    let users = x.of(Kind::User);
    let first = users.iter().find(|asked| asked.at > healed).unwrap().at;
    let mut passes = tries(&x, healed);
    passes.retain(|asked| asked.at < first);
    // Three are enough, but a rest may pass the lease on in between, and passes are each node's own.
    assert!(passes.len() <= 12, "{} tries after it had healed", passes.len());
    load.more(60).await;
    let report = load.stop().await;
    report.assert_all_ok();
}

#[tokio::test]
async fn a_frozen_nodes_leases_go_to_another_and_it_knows_when_it_wakes() {
    let Some(redis) = Redis::start().await else { return };
    let (x, y) = (Simulated::start("x").await, Simulated::start("y").await);
    let nodes = keyed(&redis, &x, &y).await;
    let mut loads: Vec<_> = nodes.iter().map(|node| Load::start(node, 20.0, 0.4)).collect();
    for load in &loads {
        load.more(20).await;
    }
    let begun = tried(&nodes, &x).await;
    let first = until_within(SOON, "a try", async || tries(&x, begun).last().map(sender)).await;
    let index = usize::from(first.as_bytes()[0] - b'a');
    nodes[index].process.signal("STOP").await;
    let stopped = Instant::now();
    // Nothing that was sent to it is anybody's business here.
    drop(loads.remove(index));
    let second = until_within(secs(9), "a try by another node", async || {
        tries(&x, stopped).iter().map(sender).find(|sender| *sender != first)
    })
    .await;
    nodes[index].process.signal("CONT").await;
    let woken = Instant::now();
    loads[0].more(60).await;
    let mut seen = tries(&x, woken);
    seen.sort_by_key(|asked| asked.at);
    assert!(!seen.is_empty(), "nobody tries");
    // What is made up may belong to a ramp, and ramps are each node's own.
    seen.retain(|asked| asked.kind == Kind::Shadow);
    // A try takes 800 ms, and its rest may pass the lease on: what may not be is two at once.
    let beside = |pair: &&[Asked]| {
        sender(&pair[0]) != sender(&pair[1]) && pair[1].at - pair[0].at < Duration::from_millis(600)
    };
    let beside = seen.windows(2).filter(beside).count();
    // One may have been on its way when it stopped.
    assert!(beside <= 1, "{first}, which slept, and {second} shadow {beside} times side by side");
    for load in loads {
        load.stop().await.assert_all_ok();
    }
}

/// Nodes that each reach `x` and `y` over lines of their own, in the order of the nodes.
struct Lines {
    nodes: Nodes,
    to_x: Vec<FaultProxy>,
    to_y: Vec<FaultProxy>,
    _redis: Redis,
    _upstreams: [Simulated; 2],
}

impl Lines {
    async fn start() -> Option<Self> {
        let redis = Redis::start().await?;
        let upstreams = [Simulated::start("x").await, Simulated::start("y").await];
        let (mut to_x, mut to_y) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            to_x.push(FaultProxy::before_port(upstreams[0].port()).await);
            to_y.push(FaultProxy::before_port(upstreams[1].port()).await);
        }
        let nodes = Nodes::meet(3, |setup, name| {
            let index = usize::from(name.as_bytes()[0] - b'a');
            setup
                .patient_store(&redis.url())
                .upstream("x", &to_x[index].url())
                .upstream("y", &to_y[index].url())
                .quick_health()
        })
        .await;
        Some(Self { nodes, to_x, to_y, _redis: redis, _upstreams: upstreams })
    }

    async fn ready(&self, index: usize) -> u16 {
        self.nodes[index].admin("/readyz").await.status.as_u16()
    }

    async fn until_ready(&self, index: usize, status: u16) {
        until_within(BACK, &format!("/readyz {status} on node {index}"), async || {
            (self.ready(index).await == status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn one_sick_node_opens_a_path_for_itself_alone_and_two_for_all() {
    let Some(site) = Lines::start().await else { return };
    let load = Load::over(site.nodes.iter(), 60.0, 0.4, &[]);
    load.more(60).await;
    let others: Vec<_> = site.nodes[1..].iter().map(|node| States::follow(node, "x@direct")).collect();
    site.to_x[0].set(Fault::ResetAll).await;
    site.nodes[0].until_path_opened("x@direct", SOON).await;
    load.more(200).await;
    for states in &others {
        assert_eq!(states.all(), ["closed"], "one node's word is not enough");
    }
    site.to_x[1].set(Fault::ResetAll).await;
    site.nodes[1].until_path_opened("x@direct", SOON).await;
    site.nodes[2].until_path_opened("x@direct", SOON).await;
    let reason = site.nodes[2].path("x@direct").await["reason"].to_string();
    assert!(reason.contains("fleet"), "{reason}");
    site.to_x[0].set(Fault::Pass).await;
    site.to_x[1].set(Fault::Pass).await;
    for node in site.nodes.iter() {
        node.until_path_state("x@direct", "closed", BACK).await;
    }
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn a_node_in_the_dark_is_not_ready_and_harms_no_other() {
    let Some(site) = Lines::start().await else { return };
    let load = Load::over(&site.nodes[1..], 40.0, 0.4, &[]);
    load.more(40).await;
    let own = Load::start(&site.nodes[0], 10.0, 0.0);
    let others: Vec<_> = site.nodes[1..].iter().map(|node| States::follow(node, "x@direct")).collect();
    for line in [&site.to_x[0], &site.to_y[0]] {
        line.set(Fault::ResetAll).await;
    }
    site.until_ready(0, 503).await;
    assert_eq!(site.nodes[0].admin("/healthz").await.status, 200);
    load.more(80).await;
    drop(own);
    for (index, states) in others.iter().enumerate() {
        assert_eq!(site.ready(index + 1).await, 200);
        assert_eq!(states.all(), ["closed"], "its word does not count");
    }
    for line in [&site.to_x[0], &site.to_y[0]] {
        line.set(Fault::Pass).await;
    }
    site.until_ready(0, 200).await;
    load.stop().await.assert_all_ok();
}

#[tokio::test]
async fn when_every_node_is_cut_off_every_node_stays_ready() {
    let Some(site) = Lines::start().await else { return };
    let load = Load::over(site.nodes.iter(), 30.0, 0.0, &[]);
    load.more(30).await;
    for line in site.to_x.iter().chain(&site.to_y) {
        line.set(Fault::ResetAll).await;
    }
    for node in site.nodes.iter() {
        node.until_path_opened("x@direct", SOON).await;
        node.until_path_opened("y@direct", SOON).await;
    }
    // Taking all of them out of use would leave clients not even a fallback.
    until_within(SOON, "all ready", async || {
        for index in 0..3 {
            if site.ready(index).await != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
    load.more(60).await;
    for index in 0..3 {
        assert_eq!(site.ready(index).await, 200, "node {index}");
    }
}
