//! Rules, alerts, dashboard and runbook: sound by themselves, of one piece, and each query of them answered by a real
//! Prometheus over a real cluster that has seen an outage and a recovery.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::Node;
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::prometheus::{Prometheus, Query, grafana_types, operands, promtool, read, shipped};
use tidegate_tests::redis::Redis;
use tidegate_tests::simulated::Simulated;
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::upstream::refusing;
use tidegate_tests::{PATIENCE, parts, until, within};
use tokio::process::Command;

const BACK: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(40);
const PATHS: [&str; 2] = ["a@direct", "b@hk"];
/// Panels of what the outage brings about: they have to show that it happened.
const EVENTS: [&str; 4] = ["Transitions", "Failovers", "Retries and hedges", "Copies and made-up requests"];

/// The rules that are alerts.
fn alerts() -> Vec<Value> {
    let rules = read("prometheus/rules.yaml");
    let groups = rules["groups"].as_array().unwrap().iter();
    let all = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
    all.filter(|rule| rule["alert"].is_string()).collect()
}

fn runbook() -> String {
    std::fs::read_to_string(parts::root().join("docs/runbook.md")).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(shipped("grafana/tidegate.json")).unwrap()).unwrap()
}

/// As one who chose all of everything sees it.
fn with_variables(query: &str) -> String {
    let chosen = [
        ("$__rate_interval", "1m"),
        ("$__range", "5m"),
        ("$node", ".*"),
        ("$route", ".*"),
        ("$client", ".*"),
    ];
    let query = chosen.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
    assert!(!query.contains('$'), "an unknown variable in {query}");
    query
}

/// A query for which any number will do.
fn any_number((place, text): (String, String)) -> Query {
    Query { place, text, of_events: false }
}

/// Each query of the dashboard: of its panels, annotations and variables.
fn dashboard_queries() -> Vec<Query> {
    let dashboard = dashboard();
    let mut found = Vec::new();
    let mut events: BTreeSet<_> = EVENTS.into();
    for panel in dashboard["panels"].as_array().unwrap() {
        let of_events = events.remove(panel["title"].as_str().unwrap());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let place = format!("panel {} {} {}", panel["id"], panel["title"], target["refId"]);
            found.push(Query { place, text: with_variables(target["expr"].as_str().unwrap()), of_events });
        }
    }
    assert!(events.is_empty(), "no panels {events:?}");
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        let place = format!("annotation {}", annotation["name"]);
        found.push(any_number((place, with_variables(annotation["target"]["expr"].as_str().unwrap()))));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).unwrap();
        let (series, label) = inner.split_once(", ").unwrap();
        found.push(any_number((
            format!("variable {}", variable["name"]),
            format!("count by ({label}) ({series}{{{label}!=\"\"}})"),
        )));
    }
    found
}

/// The lines in the runbook's blocks of this language, by where they stand.
fn runbook_blocks(language: &str) -> Vec<(String, String)> {
    let (mut found, mut inside) = (Vec::new(), false);
    for (number, line) in runbook().lines().map(str::trim).enumerate() {
        match line.strip_prefix("```") {
            Some(fence) => inside = fence == language,
            None if inside => found.push((format!("docs/runbook.md:{}", number + 1), line.to_owned())),
            None => {}
        }
    }
    found
}

/// The lines for a shell that ask a node or read its log; what changes something or names a host is left out.
fn runbook_lines() -> Vec<String> {
    let mut lines: Vec<_> = runbook_blocks("sh").into_iter().map(|(_, line)| line).collect();
    let asks = ["curl -s $ADMIN/", "curl -s \"$ADMIN/", "jq "];
    lines.retain(|line| asks.iter().any(|start| line.starts_with(start)));
    lines
}

/// Each of them runs beside this node's log; gives what they print together.
async fn run_lines(node: &Node, lines: &[String]) -> Option<String> {
    parts::program("jq")?;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tidegate.log"), node.process.output()).unwrap();
    let mut printed = String::new();
    for line in lines {
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", line]).current_dir(folder.path());
        let ended = within(PATIENCE, line, shell.env("ADMIN", format!("http://{}", node.admin)).output())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{line}: {said}");
        printed.push_str(&String::from_utf8_lossy(&ended.stdout));
    }
    Some(printed)
}

#[tokio::test]
async fn promtool_finds_no_fault_in_rules_and_configuration() {
    let Some(()) = promtool(&["check", "rules", "--lint-fatal", "rules.yaml"]).await else { return };
    promtool(&["check", "config", "--lint-fatal", "prometheus.yaml"]).await.unwrap();
}

#[tokio::test]
async fn every_alert_comes_when_it_should_and_not_otherwise() {
    let Some(()) = promtool(&["test", "rules", "rules_test.yaml"]).await else { return };
    let tests = read("prometheus/rules_test.yaml");
    let checks: Vec<_> = tests["tests"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|t| t["alert_rule_test"].as_array().unwrap())
        .collect();
    for alert in alerts() {
        let name = &alert["alert"];
        let expected =
            || checks.iter().filter(|c| c["alertname"] == *name).map(|c| c["exp_alerts"].as_array().unwrap());
        assert!(expected().any(|alerts| !alerts.is_empty()), "no test in which {name} fires");
        assert!(expected().any(Vec::is_empty), "no test in which {name} is silent");
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() {
    let runbook = runbook();
    let sections: BTreeSet<_> = runbook.lines().filter_map(|l| l.strip_prefix("### Tidegate")).collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap().strip_prefix("Tidegate").unwrap().to_owned();
        let notes = &alert["annotations"];
        let url = notes["runbook_url"].as_str().unwrap();
        let anchor = format!("docs/runbook.md#tidegate{}", name.to_lowercase());
        assert!(url.ends_with(&anchor), "{name}: {url}");
        assert!(notes["summary"].is_string() && notes["description"].is_string(), "{alert}");
        assert!(["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{alert}");
        names.insert(name);
    }
    assert_eq!(sections, names.iter().map(String::as_str).collect());
}

#[test]
fn a_query_is_taken_apart_into_what_must_have_an_answer() {
    for (query, parts) in [
        ("up == 0", vec!["up"]),
        ("a{x!=\"b > c\"} / b > 14.4 * 0.001 and c >= bool 5", vec!["a{x!=\"b > c\"} / b", "c"]),
        ("(a < on (job) group_left () sum by (job) (b)) and c == 1", vec!["a", "sum by (job) (b)", "c"]),
        ("a < on (job) group_left () (sum(b) - sum(c))", vec!["a", "sum(b) - sum(c)"]),
        ("sum by (x) (a > 1) == 0 or absent(b{y=\"z\"})", vec!["sum by (x) (a > 1)", "b{y=\"z\"}"]),
        ("sum(a) unless on(x) (b offset 1m)", vec!["sum(a)", "b offset 1m"]),
        ("(a) + (b)", vec!["(a) + (b)"]),
        ("factor and band", vec!["factor", "band"]),
    ] {
        assert_eq!(operands(query), parts, "{query}");
    }
}

#[tokio::test]
async fn the_dashboard_is_one_that_grafana_knows() {
    let Some(modules) = grafana_types() else { return };
    let mut command = Command::new("node");
    command
        .arg(shipped("grafana/check.mjs"))
        .arg(shipped("grafana/tidegate.json"))
        .env("NODE_PARTS", modules);
    // It reads 10,000 lines of types, several times.
    let ended = within(Duration::from_secs(120), "the check", command.output()).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Three nodes over one store, `b` behind a proxy, a model of ours behind both.
async fn cluster(redis: &Redis, a: &Simulated, b: &Simulated, local: &Simulated, hk: &Tunnel) -> Nodes {
    let retry = "retry: {attempts: 3, backoff: {initial: 1ms, factor: 2, max: 20ms}, budget: 100%}";
    Nodes::meet(3, |setup, _| {
        setup
            .patient_store(&redis.url())
            .section(&format!("egress: [{{name: hk, proxy: \"http://127.0.0.1:{}\"}}]", hk.port()))
            .upstream("a", &a.url())
            .upstream_with("b", &b.url(), "egress: [hk]")
            .upstream_with("local", &local.url(), "local: true, max_in_flight: 50")
            .route(&format!("{{match: {{model: kept}}, to: [a, b], cache: {{ttl: 1h}}, {retry}}}"))
            .route(&format!("{{match: {{model: hedged}}, to: [a, b], hedge: {{after: 10ms}}, {retry}}}"))
            .route_to("a, b", "fallback: [{upstream: local}]")
            .section("prices: {m: {input: 1000, output: 2000}}")
            .section(&format!("tracing: {{otlp: \"{}\", sample: 1%}}", refusing()))
            .clients(&[
                ("team", "limits: [{tokens: 200000000/day}, {usd: 20000/day}]"),
                ("small", "limits: [{requests: 1/h}]"),
            ])
            .quick_health()
    })
    .await
}

/// A request of `team` for this model, answered well.
async fn asks(node: &Node, model: &str) {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let reply = node.post("/v1/chat/completions", &body).bearer(&client_key("team")).send().await;
    let status = reply.status;
    assert_eq!(status, 200, "{model}: {}", reply.text().await);
}

/// Waits until both paths are in this state on every node.
async fn all_paths(nodes: &Nodes, state: &str) {
    for node in nodes.iter() {
        for path in PATHS {
            node.until_path_state(path, state, BACK).await;
        }
    }
}

#[tokio::test]
async fn a_prometheus_over_a_cluster_answers_every_query_of_rules_dashboard_and_runbook() {
    let Some(redis) = Redis::start().await else { return };
    let (a, b, local) =
        (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("local").await);
    let hk = Tunnel::start().await;
    // Slower than a hedge waits.
    a.latency(Duration::from_millis(30));
    b.latency(Duration::from_millis(30));
    let nodes = cluster(&redis, &a, &b, &local, &hk).await;
    let Some(prometheus) = Prometheus::scrape(&nodes).await else { return };

    let rules = prometheus.rules().await;
    let of = |rule: &Value| ["name", "query"].map(|key| rule[key].as_str().unwrap().to_owned());
    let rules = rules.iter().map(of).map(|[name, query]| (format!("rule {name}"), query));
    let others = rules.chain(runbook_blocks("promql")).map(any_number);
    let answers = prometheus.follow(others.chain(dashboard_queries()));

    let key = format!("Bearer {}", client_key("team"));
    let load = Load::over(nodes.iter(), 30.0, 0.4, &[("authorization", &key)]);
    for node in nodes.iter() {
        for model in ["kept", "kept", "hedged"] {
            asks(node, model).await;
        }
    }
    let small = format!("Bearer {}", client_key("small"));
    until("a denial", async || {
        let answered = Ask::plain(&nodes[0]).header("authorization", &small).send().await;
        answered.limited().then_some(())
    })
    .await;
    load.more(20).await;

    // An outage: first of one upstream, then of both.
    a.kill().await;
    load.more(20).await;
    b.kill().await;
    for node in nodes.iter() {
        until("the fallback", async || {
            (node.metric("tidegate_fallback_active", &[("route", "*")]).await == 1.0).then_some(())
        })
        .await;
    }
    let notes = prometheus.alert("TidegatePathOpen", &[("path", "a@direct"), ("job", "tidegate")]).await;
    assert_eq!(notes["runbook_url"], "docs/runbook.md#tidegatepathopen");
    assert_eq!(notes["summary"], "No traffic over the path a@direct");
    prometheus.alert("TidegateUpstreamOut", &[("upstream", "b")]).await;
    prometheus.alert("TidegateFallbackActive", &[("route", "*")]).await;

    let lines = runbook_lines();
    assert!(lines.len() > 10, "{lines:?}");
    if let Some(printed) = run_lines(&nodes[0], &lines).await {
        assert!(printed.contains("a@direct") && printed.contains("\"open\""), "{printed}");
    }

    a.revive().await;
    b.revive().await;
    all_paths(&nodes, "closed").await;
    for node in nodes.iter() {
        asks(node, "kept").await;
        node.process.signal("HUP").await;
    }
    // A budget is read from the store now and then; everything else is there within seconds.
    answers.complete(ANSWERED).await;

    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    load.stop().await;
}
