//! How a path comes back: proven by shadows or synthetic requests, then given its traffic step by step, with no
//! client the worse for it; and what never comes back.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::load::{Ask, Load, Report};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Asked, Kind, Mode, Simulated};
use tidegate_tests::status::States;
use tidegate_tests::{until_within, within};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(15);

/// Two upstreams that share the traffic evenly.
async fn pair(settings: &str) -> (Node, Simulated, Simulated) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .route_to("a, b", settings)
        .quick_health()
        .start()
        .await;
    (node, a, b)
}

/// A pair under load whose `a` has been taken out of use for its errors; probes of it are well.
async fn with_a_open(settings: &str, load: &[(&str, &str)]) -> (Node, Simulated, Simulated, Load, Instant) {
    let (node, a, b) = pair(settings).await;
    a.probes_always_good();
    let load = Load::start_with(&node, 40.0, 0.4, load);
    load.more(40).await;
    assert!(a.count(Kind::User) >= 5, "half of the traffic, about: {}", load.so_far().by_second());
    a.set(Mode::Status(500, "outage"));
    let opened = node.until_path_opened("a@direct", SOON).await;
    (node, a, b, load, opened)
}

fn body(asked: &Asked) -> Value {
    asked.seen.json()
}

fn passed(asked: &[Asked], before: Instant) -> usize {
    let proves = |a: &&Asked| a.well && matches!(a.kind, Kind::Shadow | Kind::Synthetic) && a.at < before;
    asked.iter().filter(proves).count()
}

#[tokio::test]
async fn shadows_prove_recovery_and_traffic_ramps_back_without_a_failure() {
    let (node, a, _b, load, opened) = with_a_open("", &[]).await;
    let states = States::follow(&node, "a@direct");
    a.set(Mode::Good);
    let healed = Instant::now();
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    load.more(60).await;
    let report = load.stop().await;
    report.assert_all_ok();

    let asked = a.asked();
    let first = asked.iter().find(|asked| asked.kind == Kind::User && asked.at > healed).unwrap().at;
    assert!(passed(&asked, first) >= 3, "a user's request came before three passes");
    let shadows = a.of(Kind::Shadow);
    assert!(!shadows.is_empty(), "nothing was mirrored under live traffic");
    assert!(shadows.len() <= 20, "{} shadows for one recovery", shadows.len());
    let late = a.count_since(Kind::User, opened + Duration::from_millis(100));
    let ramped = a.count_since(Kind::User, first);
    assert_eq!(late, ramped, "between opening and ramp, no user's request");

    // Five percent of its share at first, all of it at the end.
    let early = report.since(first).before(first + Duration::from_millis(500));
    assert!(early.share_of("a@direct") <= 0.2, "too much at once:\n{}", report.by_second());
    let after = report.since(closed);
    assert!(after.share_of("a@direct") >= 0.25, "its share did not come back:\n{}", report.by_second());
    let way = states.all();
    let position = |state: &str| way.iter().rposition(|s| s == state);
    assert!(position("ramping") < position("closed") && position("ramping").is_some(), "{way:?}");

    let outcome = [("path", "a@direct"), ("outcome", "pass")];
    assert!(node.metric("tidegate_shadow_requests_total", &outcome).await >= 3.0);
    assert_eq!(node.metric("tidegate_requests_total", &[]).await as usize, report.len(), "clients' only");
}

#[tokio::test]
async fn a_shadow_is_a_small_copy_without_its_user() {
    let (node, a, _b) = pair("").await;
    a.probes_always_good();
    a.set(Mode::Status(500, "outage"));
    let content = "user-77 says something";
    let body = json!({"model": "m", "temperature": 0.3, "user": "alice", "metadata": {"ticket": "4711"},
        "store": true, "messages": [{"role": "user", "content": content}]});
    until_within(BACK, "shadows", async || {
        let reply = node.post("/v1/chat/completions", &body).send().await;
        assert_eq!(reply.status, 200);
        (a.count(Kind::Shadow) >= 2).then_some(())
    })
    .await;
    for shadow in a.of(Kind::Shadow) {
        let copy = shadow.seen.json();
        assert_eq!((&copy["model"], &copy["temperature"]), (&json!("m"), &json!(0.3)), "{copy}");
        assert_eq!(copy["messages"], body["messages"]);
        assert_eq!(copy["max_tokens"], 16);
        assert!(copy["user"].is_null() && copy["metadata"].is_null(), "{copy}");
        assert_ne!(copy["store"], true, "{copy}");
    }
}

/// `a` breaks and then gives `mode` for an answer: it gets no traffic back, and no client notices.
async fn stays_out(mode: Mode, outcome: &str) {
    let (node, a, b) = pair("").await;
    a.latency(Duration::from_millis(200));
    b.latency(Duration::from_millis(200));
    a.probes_always_good();
    let load = Load::start(&node, 40.0, 0.4);
    load.more(120).await;
    a.set(Mode::Status(500, "outage"));
    let opened = node.until_path_opened("a@direct", SOON).await;
    a.set(mode);
    let states = States::follow(&node, "a@direct");
    load.more(200).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let late = a.count_since(Kind::User, opened + Duration::from_millis(100));
    assert_eq!(late, 0, "users' requests at an upstream that did not recover: {:?}", states.all());
    assert!(!states.all().iter().any(|s| s == "ramping" || s == "closed"), "{:?}", states.all());
    assert!(a.count(Kind::Shadow) + a.count(Kind::Synthetic) > 0, "it was never asked again");
    let labels = [("path", "a@direct"), ("outcome", outcome)];
    assert!(node.metric("tidegate_shadow_requests_total", &labels).await >= 1.0, "no shadow was `{outcome}`");
}

#[tokio::test]
async fn empty_answers_get_no_traffic_back() {
    stays_out(Mode::Empty, "fail").await;
}

#[tokio::test]
async fn malformed_answers_get_no_traffic_back() {
    stays_out(Mode::Garbage, "fail").await;
}

#[tokio::test]
async fn captive_portals_get_no_traffic_back() {
    stays_out(Mode::Html, "fail").await;
}

#[tokio::test]
async fn answers_five_times_slower_than_before_get_no_traffic_back() {
    stays_out(Mode::Slow(Duration::from_secs(1)), "slow").await;
}

/// Heals without one mirrored request.
async fn heals_unmirrored(settings: &str, headers: &[(&str, &str)]) {
    let (node, a, _b, load, _) = with_a_open(settings, headers).await;
    a.set(Mode::Good);
    let closed = node.until_path_state("a@direct", "closed", BACK).await;
    load.more(40).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(a.count(Kind::Shadow), 0, "mirrored against the client's word");
    assert!(passed(&a.asked(), closed) >= 3, "synthetic requests stand in");
    assert!(report.since(closed).share_of("a@direct") >= 0.2, "{}", report.by_second());
}

#[tokio::test]
async fn a_path_heals_by_synthetic_requests_where_clients_opt_out_of_shadows() {
    heals_unmirrored("", &[("x-tidegate-shadow", "off")]).await;
}

#[tokio::test]
async fn a_path_heals_by_synthetic_requests_where_its_route_allows_no_shadows() {
    heals_unmirrored("shadow: false", &[]).await;
}

#[tokio::test]
async fn a_path_heals_while_nobody_asks_for_anything() {
    let (node, a, _b, load, _) = with_a_open("", &[]).await;
    load.stop().await.assert_all_ok();
    let users = a.count(Kind::User);
    a.set(Mode::Good);
    node.until_path_state("a@direct", "closed", BACK).await;
    assert_eq!(a.count(Kind::User), users, "no user took part");
    let synthetic = a.of(Kind::Synthetic);
    assert!(synthetic.iter().filter(|asked| asked.well).count() >= 3);
    for asked in &synthetic {
        assert_eq!((&body(asked)["model"], &body(asked)["max_tokens"]), (&json!("m"), &json!(16)));
    }
}

#[tokio::test]
async fn requests_with_effects_elsewhere_are_never_mirrored() {
    let (node, a, _b) = pair("").await;
    a.probes_always_good();
    a.set(Mode::Status(500, "outage"));
    let search = json!({"model": "m", "web_search_options": {},
        "messages": [{"role": "user", "content": "user-1 searches"}]});
    let several =
        json!({"model": "m", "n": 3, "messages": [{"role": "user", "content": "user-2 wants more"}]});
    let ask = async |body: &Value| {
        let reply = node.post("/v1/chat/completions", body).send().await;
        assert_eq!(reply.status, 200);
    };
    until_within(SOON, "a@direct opened", async || {
        ask(&several).await;
        (node.path_state("a@direct").await != "closed").then_some(())
    })
    .await;
    a.set(Mode::Good);
    until_within(BACK, "a@direct ramping", async || {
        ask(&search).await;
        ask(&several).await;
        ["ramping", "closed"].contains(&node.path_state("a@direct").await.as_str()).then_some(())
    })
    .await;
    assert_eq!(a.count(Kind::Shadow), 0);
    assert!(a.count(Kind::Synthetic) >= 3, "it healed by synthetic requests");
}

#[tokio::test]
async fn an_upstream_well_for_tiny_answers_alone_falls_back_from_the_ramp_unseen_by_clients() {
    let (node, a, _b, load, opened) = with_a_open("", &[]).await;
    let states = States::follow(&node, "a@direct");
    a.set(Mode::OnlyTiny);
    node.until_path_state("a@direct", "ramping", BACK).await;
    until_within(BACK, "open again", async || {
        let all = states.all();
        let ramped = all.iter().position(|s| s == "ramping")?;
        all.iter().skip(ramped).any(|s| s == "open").then_some(())
    })
    .await;
    load.more(40).await;
    load.stop().await.assert_all_ok();
    assert!(!states.all().iter().any(|s| s == "closed"), "{:?}", states.all());
    let ramped = a.count_since(Kind::User, opened + Duration::from_millis(100));
    let ramps = states.all().iter().filter(|s| *s == "ramping").count();
    // The first failure of the first step, or the second of a later one, and what was under way with it.
    assert!(ramped >= 1 && ramped <= 4 * ramps.max(1), "{ramped} users' requests in {ramps} ramps");
}

#[tokio::test]
async fn an_upstream_that_comes_and_goes_is_held_down_and_clients_do_not_notice() {
    let (node, a, _b) = pair("").await;
    let states = States::follow(&node, "a@direct");
    let load = Load::start(&node, 40.0, 0.4);
    load.more(20).await;
    let mut half = tokio::time::interval(Duration::from_millis(500));
    half.tick().await;
    let begun = Instant::now();
    for round in 0..12 {
        a.set(if round % 2 == 0 { Mode::Status(500, "down") } else { Mode::Good });
        half.tick().await;
    }
    let (middle, end) = (begun + Duration::from_secs(3), Instant::now());
    a.set(Mode::Good);
    let report = load.stop().await;
    let failed = report.failed();
    assert!(failed.len() * 1000 <= report.len(), "of {}:\n{}", report.len(), failed.join("\n"));
    let bad = |asked: &&Asked| asked.kind == Kind::User && !asked.well;
    let asked = a.asked();
    let early = asked.iter().filter(bad).filter(|asked| asked.at < middle).count();
    let late = asked.iter().filter(bad).filter(|asked| asked.at >= middle && asked.at < end).count();
    assert!(early >= 1, "the first outage was met");
    assert!(late <= early, "{early} requests failed there at first and {late} later: {:?}", states.all());
    assert!(states.trips() <= 4, "it was let back in again and again: {:?}", states.all());
}

#[tokio::test]
async fn rests_grow_while_an_upstream_stays_down() {
    let (node, a, _b, load, _) = with_a_open("", &[]).await;
    // Rests of 0.5 s, doubled and jittered up to 3 s: in 8 s a handful of tries, not sixteen.
    load.more(320).await;
    load.stop().await.assert_all_ok();
    let tries = a.of(Kind::Shadow).len() + a.of(Kind::Synthetic).len();
    assert!((1..=12).contains(&tries), "{tries} tries in eight seconds");
    assert_ne!(node.path_state("a@direct").await, "closed");
}

#[tokio::test]
async fn the_only_upstream_is_still_tried_while_it_is_open_and_serves_as_soon_as_it_is_back() {
    let a = Simulated::start("a").await;
    let node = Setup::new()
        .upstream("a", &a.url())
        .quick_health()
        .health("breaker", "{window: 6s, open_for: 60s, max_open: 60s}")
        .start()
        .await;
    a.kill().await;
    until_within(SOON, "a@direct opened", async || {
        let answered = Ask::plain(&node).send().await;
        assert!(!answered.ok());
        (node.path_state("a@direct").await == "open").then_some(())
    })
    .await;
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.status, answered.error().1.as_str()), (503, "no_healthy_upstream"), "{answered:?}");
    assert!(answered.retry_after.is_some_and(|seconds| seconds >= 1));
    a.revive().await;
    // Nothing else is left, so the trickle that finds it open does not wait for the rest to end.
    until_within(SOON, "an answer", async || Ask::plain(&node).send().await.ok().then_some(())).await;
}

#[tokio::test]
async fn a_restarted_node_needs_no_ramp_for_its_only_upstream() {
    let a = Simulated::start("a").await;
    let node = Setup::new().upstream("a", &a.url()).quick_health().start().await;
    let answered = within(SOON, "answers", async {
        let mut answered = Vec::new();
        for _ in 0..20 {
            answered.push(Ask::plain(&node).send().await);
        }
        answered
    })
    .await;
    Report { answered }.assert_all_ok();
    assert_eq!(a.count(Kind::User), 20);
}
