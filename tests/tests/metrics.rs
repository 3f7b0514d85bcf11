//! What Prometheus is given: every promised family with its labels, counts that agree with what was sent, nothing that
//! a linter minds; budgets; the process.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tidegate_tests::client::Reply;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::scrape::Scrape;
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::upstream::{Act, Gate, Upstream, refusing};
use tidegate_tests::{answer, until, until_within};

/// Rests, proofs and a ramp at the pace of a test.
const BACK: Duration = Duration::from_secs(30);
/// More than twice the time within which budgets in a shared store are looked at.
const LOOKED: Duration = Duration::from_secs(40);

/// Clients of the node, counted as they ask.
struct Clients<'a> {
    node: &'a Node,
    sent: u32,
}

impl Clients<'_> {
    async fn ask(&mut self, client: &str, model: &str, streamed: bool) -> Reply {
        self.sent += 1;
        let body = json!({"model": model, "stream": streamed,
            "messages": [{"role": "user", "content": "the same question"}]});
        self.node.post("/v1/chat/completions", &body).bearer(&client_key(client)).send().await
    }

    /// Reads the whole answer, which has to be of this status; gives its header.
    async fn get(&mut self, client: &str, model: &str, streamed: bool, status: u16, header: &str) -> String {
        let reply = self.ask(client, model, streamed).await;
        let (found, header) = (reply.status, reply.header(header).to_owned());
        let text = reply.text().await;
        assert_eq!(found, status, "{client} {model}: {text}\n{}", self.node.process.output());
        header
    }

    async fn well(&mut self, client: &str, model: &str, streamed: bool) {
        self.get(client, model, streamed, 200, "").await;
    }
}

/// Name without prefix, kind, labels.
const CONTRACT: [(&str, &str, &[&str]); 31] = [
    ("requests_total", "counter", &["route", "model", "client", "status"]),
    ("http_request_duration_seconds", "histogram", &["route", "stream"]),
    ("overhead_seconds", "histogram", &[]),
    ("time_to_first_token_seconds", "histogram", &["route", "path"]),
    ("upstream_requests_total", "counter", &["path", "outcome"]),
    ("api_errors_total", "counter", &["type", "path"]),
    ("path_state", "gauge", &["path", "state"]),
    ("path_latency_seconds", "gauge", &["path"]),
    ("egress_up", "gauge", &["egress"]),
    ("egress_latency_seconds", "gauge", &["egress"]),
    ("failovers_total", "counter", &["route", "from", "to"]),
    ("fallback_active", "gauge", &["route"]),
    ("shadow_requests_total", "counter", &["path", "outcome"]),
    ("retries_total", "counter", &["route", "outcome"]),
    ("hedges_total", "counter", &["route", "outcome"]),
    ("cache_requests_total", "counter", &["route", "result"]),
    ("rate_limit_decisions_total", "counter", &["scope", "decision"]),
    ("tokens_total", "counter", &["client", "model", "kind"]),
    ("unpriced_tokens_total", "counter", &["client", "model"]),
    ("cost_usd_total", "counter", &["client", "model"]),
    ("store_up", "gauge", &[]),
    ("store_operation_seconds", "histogram", &["operation"]),
    ("in_flight_requests", "gauge", &[]),
    ("active_streams", "gauge", &[]),
    ("config_last_reload_successful", "gauge", &[]),
    ("config_last_reload_timestamp_seconds", "gauge", &[]),
    // `node` beyond what was promised.
    ("build_info", "gauge", &["version", "config_hash", "node"]),
    ("budget_used_ratio", "gauge", &["scope", "subject", "meter"]),
    ("tasks", "gauge", &[]),
    // What alerts go by, beyond what was promised.
    ("path_own_state", "gauge", &["path", "state"]),
    ("node_draining", "gauge", &[]),
];

fn assert_families(scrape: &Scrape) {
    for (name, kind, labels) in CONTRACT {
        let name = format!("tidegate_{name}");
        let found = scrape.kinds.get(&name).unwrap_or_else(|| panic!("no {name} in:\n{}", scrape.text));
        assert_eq!(found, kind, "{name}");
        let sampled = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
        let series = scrape.series(&sampled, &[]);
        assert!(!series.is_empty(), "{name} has no series");
        let expected: BTreeSet<&str> = labels.iter().copied().collect();
        for sample in &series {
            let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
            assert_eq!(labels, expected, "{name}");
        }
        if kind == "histogram" {
            assert_buckets(scrape, &name);
        }
    }
}

/// Of at least one series of the histogram something was measured, and of all of them the buckets add up.
fn assert_buckets(scrape: &Scrape, name: &str) {
    let counts = scrape.series(&format!("{name}_count"), &[]);
    assert!(counts.iter().any(|count| count.value > 0.0), "{name} was never measured");
    for count in counts {
        let labels: Vec<(&str, &str)> = count.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut buckets: Vec<(f64, f64)> = scrape
            .series(&format!("{name}_bucket"), &labels)
            .iter()
            .map(|bucket| (bucket.labels["le"].parse().unwrap(), bucket.value))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.len() >= 10, "{name}: real buckets: {buckets:?}");
        assert!(buckets.is_sorted_by_key(|(_, below)| *below), "{name}: {buckets:?}");
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count.value), "{name}");
        let sum = scrape.sum(&format!("{name}_sum"), &labels);
        assert_eq!(sum > 0.0, count.value > 0.0, "{name}: {sum} s of {}", count.value);
    }
}

#[tokio::test]
async fn every_promised_family_is_there_after_mixed_traffic_and_counts_what_was_sent() {
    let Some(redis) = Redis::start().await else { return };
    tidegate_tests::clear_of_midnight().await;
    let (a, b, c) = (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("c").await);
    a.probes_always_good();
    let hk = Tunnel::start().await;
    let unprobed = "probe: {path: none}";
    let retry = "retry: {attempts: 3, backoff: {initial: 1ms, factor: 2, max: 5ms}, budget: 100%}";
    let node = Setup::new()
        .patient_store(&redis.url())
        .upstream("a", &a.url())
        .upstream_with("b", &b.url(), "weight: 0")
        .upstream("c", &c.url())
        .upstream_with("far", &c.url(), "egress: [hk]")
        .upstream_with("dead", &refusing(), unprobed)
        .upstream_with("gone", &refusing(), unprobed)
        .section(&format!("egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}]", hk.port()))
        .section("prices: {\"m*\": {input: 2.5, output: 10}}")
        .section("limits: [{per: ip, requests: 100000/min}, {per: model, requests: 100000/min}]")
        .clients(&[
            ("team", "limits: [{tokens: 1000000/day}, {usd: 5/day}, {requests: 60000/min}, {in_flight: 50}]"),
            ("plain", "limits: [{tokens: 1000/day}]"),
            ("small", "limits: [{requests: 2/day}]"),
        ])
        .route(&format!(
            "{{match: {{model: m}}, to: [a, b], {retry}, hedge: {{after: 300ms}}, limits: [{{requests: 100000/day}}]}}"
        ))
        .route(&format!("{{match: {{model: kept}}, to: [c], {retry}, cache: {{ttl: 1h}}}}"))
        .route(&format!("{{match: {{model: m-far}}, to: [far], {retry}}}"))
        .route(&format!("{{match: {{model: lost}}, to: [dead, gone], {retry}}}"))
        .route(&format!(
            "{{match: {{model: backed}}, to: [dead], {retry}, fallback: [{{upstream: c, when: [unavailable]}}]}}"
        ))
        .quick_health()
        .health("breaker", "{window: 6s, open_for: 500ms, max_open: 3s, stalled_after: 30s}")
        .start()
        .await;
    let mut clients = Clients { node: &node, sent: 0 };

    for _ in 0..4 {
        clients.well("team", "m", false).await;
        clients.well("team", "m", true).await;
        clients.well("plain", "m", false).await;
    }
    clients.well("team", "m-far", false).await;
    for expected in ["miss", "hit"] {
        assert_eq!(clients.get("team", "kept", false, 200, "x-tidegate-cache").await, expected);
    }
    for status in [200, 200, 429] {
        clients.get("small", "m", false, status, "").await;
    }
    clients.get("team", "lost", false, 502, "").await;
    assert_eq!(clients.get("team", "backed", false, 200, "x-tidegate-fallback").await, "true");
    assert_eq!(node.metric("tidegate_fallback_active", &[("route", "backed")]).await, 1.0);
    clients.sent += 1;
    assert_eq!(node.chat().send().await.status, 401);
    let whole = node.post("/v1/chat/completions", &json!({"model": "unknown"})).bearer(&client_key("team"));
    clients.sent += 1;
    assert_eq!(whole.send().await.status, 404);
    a.outlier(Duration::from_secs(5));
    assert_eq!(clients.get("team", "m", false, 200, "x-tidegate-path").await, "b@direct", "hedged");

    a.set(Mode::Status(500, "outage"));
    assert_eq!(clients.get("team", "m", false, 200, "x-tidegate-attempts").await, "2", "failed over");
    until_within(BACK, "a taken out of use", async || {
        clients.well("team", "m", false).await;
        (node.path_state("a@direct").await != "closed").then_some(())
    })
    .await;
    a.set(Mode::Good);
    let mut streamed = false;
    until_within(BACK, "a back in use", async || {
        streamed = !streamed;
        clients.well("team", "m", streamed).await;
        (node.path_state("a@direct").await == "closed").then_some(())
    })
    .await;
    let (shadows, probes) = (a.count(Kind::Shadow) + a.count(Kind::Synthetic), a.count(Kind::Probe));
    assert!(shadows >= 3 && probes >= 1, "{shadows} proofs, {probes} probes");
    let sent = f64::from(clients.sent);

    // What was used is settled behind the answers, and looked at in turns.
    let scrape = until_within(LOOKED, "budgets as settled", async || {
        let scrape = Scrape::of(&node).await;
        let used = scrape.sum("tidegate_budget_used_ratio", &[("subject", "plain"), ("meter", "tokens")]);
        ((used - 4.0 * 8.0 / 1000.0).abs() < 1e-9).then_some(scrape)
    })
    .await;
    assert_families(&scrape);

    let sum = |name: &str, labels: &[(&str, &str)]| scrape.sum(&format!("tidegate_{name}"), labels);
    let failed = [("client_error", 2.0), ("limited", 1.0), ("upstream_error", 1.0), ("error", 0.0)];
    for (status, expected) in failed {
        assert_eq!(sum("requests_total", &[("status", status)]), expected, "{status}");
    }
    assert_eq!(sum("requests_total", &[("status", "success")]), sent - 4.0);
    assert_eq!(sum("http_request_duration_seconds_count", &[]), sent, "no copy and no probe is a request");
    assert_eq!(sum("overhead_seconds_count", &[]), sent);
    assert_eq!(sum("requests_total", &[("route", "m"), ("model", "m"), ("client", "plain")]), 4.0);
    // All but the kept answer came over a path once.
    assert_eq!(sum("upstream_requests_total", &[("outcome", "ok")]), sent - 4.0 - 1.0);
    assert_eq!(sum("upstream_requests_total", &[("path", "far@hk"), ("outcome", "ok")]), 1.0);
    let errors = |path, kind| sum("api_errors_total", &[("path", path), ("type", kind)]);
    assert!(errors("a@direct", "server_error") >= 1.0);
    assert_eq!(sum("upstream_requests_total", &[("outcome", "5xx")]), errors("a@direct", "server_error"));
    assert!(errors("dead@direct", "connect") >= 1.0);
    let from_a = [("route", "m"), ("from", "a@direct"), ("to", "b@direct")];
    assert!(sum("failovers_total", &from_a) >= 1.0);
    assert!(sum("retries_total", &[("route", "m"), ("outcome", "won")]) >= 1.0);
    assert!(sum("retries_total", &[("route", "lost"), ("outcome", "lost")]) >= 1.0);
    assert!(sum("hedges_total", &[("route", "m"), ("outcome", "won")]) >= 1.0);
    let proofs = [("path", "a@direct"), ("outcome", "pass")];
    assert!(sum("shadow_requests_total", &proofs) >= 3.0);
    for (result, expected) in [("hit", 1.0), ("miss", 1.0), ("stale", 0.0), ("coalesced", 0.0)] {
        assert_eq!(sum("cache_requests_total", &[("route", "kept"), ("result", result)]), expected);
    }
    let decisions =
        |scope, decision| sum("rate_limit_decisions_total", &[("scope", scope), ("decision", decision)]);
    assert_eq!((decisions("client", "denied"), decisions("ip", "denied")), (1.0, 0.0));
    assert!(decisions("client", "allowed") > 10.0 && decisions("model", "allowed") > 10.0);
    assert!(decisions("route", "allowed") > 10.0);

    let plain = |kind| sum("tokens_total", &[("client", "plain"), ("model", "m"), ("kind", kind)]);
    assert_eq!((plain("prompt"), plain("completion")), (20.0, 12.0));
    let cost = sum("cost_usd_total", &[("client", "plain"), ("model", "m")]);
    assert!((cost - (20.0 * 2.5 + 12.0 * 10.0) / 1e6).abs() < 1e-12, "{cost}");
    assert_eq!(sum("unpriced_tokens_total", &[("model", "kept")]), 8.0, "a kept answer costs nothing");
    assert_eq!(sum("unpriced_tokens_total", &[("model", "m")]), 0.0);
    let budget = |subject, meter| sum("budget_used_ratio", &[("subject", subject), ("meter", meter)]);
    assert_eq!(budget("small", "requests"), 1.0);
    assert!(budget("team", "usd") > 0.0 && budget("team", "tokens") > 0.0);
    assert!(budget("m", "requests") > 0.0, "of the route");
    let states = scrape.series("tidegate_path_state", &[("path", "a@direct")]);
    let current: Vec<_> = states.iter().filter(|s| s.value == 1.0).map(|s| &s.labels["state"]).collect();
    assert_eq!(current, ["closed"]);
    assert_eq!(sum("egress_up", &[("egress", "hk")]), 1.0);
    assert!(sum("path_latency_seconds", &[("path", "a@direct")]) > 0.0);
    assert_eq!((sum("in_flight_requests", &[]), sum("active_streams", &[])), (0.0, 0.0));
    assert_eq!((sum("store_up", &[]), sum("build_info", &[])), (1.0, 1.0));
    assert!(sum("store_operation_seconds_count", &[("operation", "charge")]) >= 10.0);
    assert_eq!(sum("config_last_reload_successful", &[]), 1.0);
    assert!(sum("config_last_reload_timestamp_seconds", &[]) > 1.7e9);

    for name in scrape.kinds.keys() {
        assert!(name.starts_with("tidegate_") || name.starts_with("process_"), "{name}");
    }
    assert!(!scrape.text.contains("sk-of-"), "no key is told");
    if let Some(found) = scrape.lint().await {
        assert_eq!(found, "", "promtool");
    }
}

#[tokio::test]
async fn budgets_and_other_limits_are_told_as_they_stand_without_a_store_too() {
    tidegate_tests::clear_of_midnight().await;
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .clients(&[
            ("idle", "limits: [{usd: 5/day}]"),
            ("busy", "limits: [{tokens: 2000/day}, {tokens: 10000/day}, {requests: 10/min}]"),
        ])
        .start()
        .await;
    for _ in 0..3 {
        let reply = node.chat().bearer(&client_key("busy")).send().await;
        assert_eq!(reply.status, 200);
        reply.text().await;
    }
    let used = async |subject: &str, meter: &str| {
        let scrape = Scrape::of(&node).await;
        let labels = [("scope", "client"), ("subject", subject), ("meter", meter)];
        let series = scrape.series("tidegate_budget_used_ratio", &labels);
        assert_eq!(series.len(), 1, "{subject} {meter}: {series:?}");
        series[0].value
    };
    // Of two the tighter one, as settled and not as estimated.
    until("24 of 2000 tokens", async || ((used("busy", "tokens").await - 0.012).abs() < 1e-9).then_some(()))
        .await;
    assert_eq!(used("idle", "usd").await, 0.0);
    let status = node.status().await;
    let limits = status["limits"].as_array().unwrap();
    let limit = |subject: &str, limit: &str| {
        let found = limits.iter().find(|near| near["subject"] == subject && near["limit"] == limit);
        let found = found.unwrap_or_else(|| panic!("{subject} {limit}: {limits:?}"));
        assert_eq!(found["scope"], "client");
        (found["used_ratio"].as_f64().unwrap(), found["resets_in_s"].as_f64().unwrap())
    };
    assert_eq!((limits.len(), limit("idle", "usd: 5/day").0), (4, 0.0));
    assert!((limit("busy", "tokens: 10000/day").0 - 0.0024).abs() < 1e-9, "{limits:?}");
    let (used, resets_in) = limit("busy", "requests: 10/min");
    assert!(
        used <= 0.3 && resets_in <= 18.0,
        "a bucket of which three were taken at most: {used}, {resets_in}"
    );
    let ratios: Vec<f64> = limits.iter().map(|near| near["used_ratio"].as_f64().unwrap()).collect();
    assert!(ratios.is_sorted_by(|a, b| a >= b), "the nearest first: {ratios:?}");
}

#[tokio::test]
async fn what_another_node_spends_of_a_budget_is_told_without_a_request_here() {
    let Some(redis) = Redis::start().await else { return };
    tidegate_tests::clear_of_midnight().await;
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let nodes = Nodes::start(2, |setup, _| {
        let clients = [("team", "limits: [{tokens: 10000/day}]")];
        setup.patient_store(&redis.url()).upstream("a", &upstream.url()).clients(&clients)
    })
    .await;
    for _ in 0..5 {
        let reply = nodes[0].chat().bearer(&client_key("team")).send().await;
        assert_eq!(reply.status, 200);
        reply.text().await;
    }
    let labels = [("scope", "client"), ("subject", "team"), ("meter", "tokens")];
    until_within(LOOKED, "40 of 10000 tokens", async || {
        let used = Scrape::of(&nodes[1]).await.sum("tidegate_budget_used_ratio", &labels);
        ((used - 0.004).abs() < 1e-9).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_process_is_told_of_and_its_tasks_end_with_what_they_were_for() {
    let gate = Gate::new();
    let wire = answer::json(200, &answer::chat("x"));
    let upstream = Upstream::doing(vec![Act::Wait(gate.clone()), Act::Send(wire)]).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let value = async |name: &str| {
        let scrape = Scrape::of(&node).await;
        let series = scrape.series(name, &[]);
        assert_eq!(series.len(), 1, "{name}");
        series[0].value
    };
    let (tasks, files) = (value("tidegate_tasks").await, value("process_open_fds").await);
    assert!(tasks >= 1.0 && files >= 3.0, "{tasks} {files}");
    assert!(value("process_max_fds").await >= files);
    assert!(value("process_threads").await >= 3.0);
    assert!(value("process_resident_memory_bytes").await > 1e6);
    assert!(value("process_cpu_seconds_total").await < 600.0);
    let started = value("process_start_time_seconds").await;
    let loaded = value("tidegate_config_last_reload_timestamp_seconds").await;
    // The kernel tells the machine's start in whole seconds.
    assert!((-5.0..60.0).contains(&(loaded - started)), "began at {started}, had its file at {loaded}");

    let mut running = tokio::task::JoinSet::new();
    for _ in 0..20 {
        running.spawn(node.chat().send());
    }
    upstream.received(20).await;
    assert!(value("tidegate_tasks").await >= tasks + 20.0, "a task for each client's connection");
    assert!(value("process_open_fds").await >= files + 40.0, "two sockets for each");
    gate.open(20);
    while let Some(reply) = running.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
    // Idle connections to the upstream have no task. Two for the scrape.
    until("tasks to end", async || (value("tidegate_tasks").await <= tasks + 2.0).then_some(())).await;
}
