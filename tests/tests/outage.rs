//! What an outage of the primary upstream costs clients while the node runs as it is shipped, numbers of `health`,
//! probes and `retry` included: nothing, by another path or by the fallback. 50 requests a second, half of them
//! streams. Only the last test runs at the pace of a test: the shipped one holds a path down for minutes.

use std::time::Duration;

use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Load, Report};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::status::States;
use tidegate_tests::until_within;
use tokio::time::Instant;

const RATE: f64 = 50.0;
const STREAMED: f64 = 0.5;
/// Within this a frozen upstream has to be found; others are found sooner.
const FOUND: Duration = Duration::from_secs(10);
/// A request that was under way when its path opened is not a new one.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Who answers instead.
#[derive(Debug, Clone, Copy)]
enum Spare {
    /// An upstream of the route, slower than the primary.
    Other,
    /// The route's fallback alone.
    Fallback,
}

struct Site {
    node: Node,
    a: Simulated,
    line: FaultProxy,
    b: Simulated,
    spare: &'static str,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

async fn site(spare: Spare) -> Site {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let line = FaultProxy::before_port(a.port()).await;
    // Far enough apart for all traffic to be the primary's.
    a.latency(ms(30));
    b.latency(ms(150));
    let setup = Setup::new().own_pace().upstream("a", &line.url());
    let (setup, to, path) = match spare {
        Spare::Other => (setup.upstream("b", &b.url()), "to: [a, b]", "b@direct"),
        Spare::Fallback => (
            setup.upstream_with("local", &b.url(), "local: true, max_in_flight: 1000"),
            "to: [a], fallback: [{upstream: local, model: m}]",
            "local@direct",
        ),
    };
    // The route's own `retry`, with its budget.
    let node = setup.route(&format!("{{match: {{model: \"*\"}}, {to}}}")).start().await;
    Site { node, a, line, b, spare: path }
}

impl Site {
    /// Load under which the primary has most of the traffic.
    async fn loaded(&self) -> Load {
        let load = Load::start(&self.node, RATE, STREAMED);
        load.more(150).await;
        let share = load.so_far().share_of("a@direct");
        assert!(share >= 0.6, "{share} of the traffic is the primary's:\n{}", load.so_far().by_second());
        load
    }

    /// Waits until `a@direct` is open, and longer than its rest at least lasts; nobody noticed, the spare served,
    /// and the primary was spared all but what a recovery may cost.
    async fn assert_unnoticed(&self, load: Load, broken: Instant) -> Report {
        let opened = self.node.until_path_opened("a@direct", FOUND).await;
        let reason = self.node.path("a@direct").await["reason"].clone();
        eprintln!("open after {:?}, {reason}", opened - broken);
        // The rest is five seconds at least and ten at most.
        load.more(550).await;
        let watched = opened.elapsed();
        let state = self.node.path_state("a@direct").await;
        assert!(["open", "shadowing"].contains(&state.as_str()), "{state}");
        let report = load.stop().await;
        report.assert_all_ok();
        let after = report.since(opened + UNDER_WAY);
        assert_eq!(after.share_of(self.spare), 1.0, "{}", report.by_second());
        assert!(after.answered.iter().all(|a| a.attempts <= 1), "none met the broken path again");
        assert!(after.longest() < Duration::from_secs(2), "then quickly: {:?}", after.longest());
        self.assert_spared(opened, watched);
        report
    }

    fn assert_spared(&self, opened: Instant, watched: Duration) {
        let since = |kind| self.a.count_since(kind, opened + UNDER_WAY);
        assert_eq!(since(Kind::User), 0, "users' requests at a path that is open");
        // 30 a minute, and one that a whole number of intervals leaves over.
        let most = watched.as_secs() / 2 + 1;
        let (copies, made_up) = (since(Kind::Shadow) as u64, since(Kind::Synthetic) as u64);
        assert!(copies + made_up <= most, "{copies} shadows and {made_up} synthetic in {watched:?}");
        let probes = since(Kind::Probe) as u64;
        assert!(probes <= watched.as_secs() + 2, "{probes} probes in {watched:?}");
    }
}

async fn behaves(mode: Mode, spare: Spare) {
    let site = site(spare).await;
    let load = site.loaded().await;
    site.a.probes_always_good();
    site.a.set(mode);
    let broken = Instant::now();
    site.assert_unnoticed(load, broken).await;
}

async fn killed(spare: Spare) {
    let site = site(spare).await;
    let load = site.loaded().await;
    // The line before it answers as the dead host's kernel would.
    site.a.kill().await;
    site.line.set(Fault::ResetAll).await;
    site.line.set(Fault::RefuseNew).await;
    let broken = Instant::now();
    let report = site.assert_unnoticed(load, broken).await;
    assert!(report.longest() < Duration::from_secs(2), "the longest took {:?}", report.longest());
}

async fn black_holed(spare: Spare) {
    let site = site(spare).await;
    let load = site.loaded().await;
    site.line.set(Fault::Freeze).await;
    let broken = Instant::now();
    let report = site.assert_unnoticed(load, broken).await;
    let longest = report.longest();
    assert!(longest < FOUND + Duration::from_secs(2), "what hung there was moved: {longest:?}");
}

#[tokio::test]
async fn a_killed_primary_costs_nothing_where_another_upstream_is_there() {
    killed(Spare::Other).await;
}

#[tokio::test]
async fn a_killed_primary_costs_nothing_where_only_the_fallback_is_there() {
    killed(Spare::Fallback).await;
}

#[tokio::test]
async fn a_black_hole_costs_nothing_where_another_upstream_is_there() {
    black_holed(Spare::Other).await;
}

#[tokio::test]
async fn a_black_hole_costs_nothing_where_only_the_fallback_is_there() {
    black_holed(Spare::Fallback).await;
}

#[tokio::test]
async fn nothing_but_500_costs_nothing_where_another_upstream_is_there() {
    behaves(Mode::Status(500, "outage"), Spare::Other).await;
}

#[tokio::test]
async fn nothing_but_500_costs_nothing_where_only_the_fallback_is_there() {
    behaves(Mode::Status(500, "outage"), Spare::Fallback).await;
}

#[tokio::test]
async fn html_costs_nothing() {
    behaves(Mode::Html, Spare::Other).await;
}

#[tokio::test]
async fn garbage_costs_nothing() {
    behaves(Mode::Garbage, Spare::Other).await;
}

#[tokio::test]
async fn resets_cost_nothing() {
    behaves(Mode::Reset, Spare::Other).await;
}

/// Every second request fails at the primary from now on; gives what became of ten seconds of them, and the moment
/// from which on another five were sent.
async fn half_broken(site: &Site) -> (Report, Instant) {
    let load = site.loaded().await;
    site.a.probes_always_good();
    site.a.set(Mode::Half500);
    load.more(500).await;
    let settled = Instant::now();
    load.more(250).await;
    let report = load.stop().await;
    report.assert_all_ok();
    (report, settled)
}

#[tokio::test]
async fn every_second_answer_a_500_costs_nothing_where_another_upstream_is_there() {
    let (report, settled) = half_broken(&site(Spare::Other).await).await;
    let share = report.since(settled).share_of("a@direct");
    assert!(share <= 0.1, "after ten seconds it still has {share:.2}\n{}", report.by_second());
}

/// Nothing draws the traffic away before the path opens, and what went well in the last minute keeps it closed.
#[tokio::test]
async fn every_second_answer_a_500_costs_nothing_where_only_the_fallback_is_there() {
    let (report, settled) = half_broken(&site(Spare::Fallback).await).await;
    let after = report.since(settled);
    assert!(after.fallbacks() * 3 >= after.len(), "{}", report.by_second());
    assert!(report.longest() < Duration::from_secs(2), "the longest took {:?}", report.longest());
}

#[tokio::test]
async fn a_primary_ten_times_slower_loses_its_traffic_and_nobody_an_answer() {
    let site = site(Spare::Other).await;
    let load = site.loaded().await;
    site.a.set(Mode::Slow(ms(300)));
    // Fifteen seconds, and two to look at.
    load.more(750).await;
    let settled = Instant::now();
    load.more(100).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let share = report.since(settled).share_of("b@direct");
    assert!(share >= 0.9, "{share:.2} moved\n{}", report.by_second());
    assert!(report.longest() < Duration::from_secs(2), "the longest took {:?}", report.longest());
    assert_eq!(site.node.path_state("a@direct").await, "closed", "slow is not broken");
    assert!(site.b.count(Kind::User) >= 90);
}

/// A process that the kernel has stopped: it still takes connections, and what is sent, and says nothing.
#[tokio::test]
async fn a_stopped_process_is_found_within_ten_seconds_and_nobody_notices() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    a.latency(ms(30));
    b.latency(ms(150));
    // A second node is a server like others; nothing but its signals is of interest.
    let server = Setup::new().upstream("behind", &a.url()).start().await;
    let node = Setup::new()
        .own_pace()
        .upstream("a", &format!("http://{}/v1", server.address))
        .upstream("b", &b.url())
        .route("{match: {model: \"*\"}, to: [a, b]}")
        .start()
        .await;
    let load = Load::start(&node, RATE, STREAMED);
    load.more(150).await;
    assert!(load.so_far().share_of("a@direct") >= 0.6, "{}", load.so_far().by_second());
    server.process.signal("STOP").await;
    let stopped = Instant::now();
    let opened = node.until_path_opened("a@direct", FOUND).await;
    eprintln!("open after {:?}", opened - stopped);
    load.more(100).await;
    let seen = a.count(Kind::User);
    server.process.signal("CONT").await;
    // What it had taken before it was stopped has been given up by now.
    load.more(100).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let late = a.count(Kind::User) - seen;
    let taken = report.since(stopped).before(opened).len();
    assert!(late <= taken, "{late} users' requests at a path that is open");
    assert_eq!(report.since(opened + UNDER_WAY).share_of("b@direct"), 1.0, "{}", report.by_second());
}

#[tokio::test]
async fn an_upstream_that_comes_and_goes_all_the_time_is_let_in_ever_more_rarely() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new().quick_health().upstream("a", &a.url()).upstream("b", &b.url()).start().await;
    let states = States::follow(&node, "a@direct");
    let load = Load::start(&node, RATE, STREAMED);
    load.more(50).await;
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    let (begun, half) = (Instant::now(), Duration::from_secs(10));
    for round in 0..20 {
        a.set(if round % 2 == 0 { Mode::Status(500, "down") } else { Mode::Good });
        second.tick().await;
    }
    let report = load.stop().await;
    let failed = report.failed();
    assert!(failed.len() * 1000 <= report.len(), "of {}:\n{}", report.len(), failed.join("\n"));
    let bad = |asked: &&tidegate_tests::simulated::Asked| asked.kind == Kind::User && !asked.well;
    let asked = a.asked();
    let early = asked.iter().filter(bad).filter(|asked| asked.at < begun + half).count();
    let late = asked.iter().filter(bad).filter(|asked| asked.at >= begun + half).count();
    assert!(early >= 1 && late <= early, "{early}, then {late} requests failed there: {:?}", states.all());
    let (first, second) = states.trips_around(begun + half);
    assert!(first >= 1, "the outage was met: {:?}", states.all());
    assert!(second <= first, "{first} trips, then {second}: {:?}", states.all());
    assert!(first + second <= 5, "of ten outages {} were met: {:?}", first + second, states.all());
    // And it is not left for good.
    a.set(Mode::Good);
    until_within(Duration::from_secs(30), "a@direct back", async || {
        (node.path_state("a@direct").await == "closed").then_some(())
    })
    .await;
}
