//! What operators and their tools read: probes, metrics by their fixed names, the status.

use serde_json::json;
use tidegate_tests::answer;
use tidegate_tests::client::Call;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::upstream::{Act, Gate, Upstream};

async fn pair() -> (Node, Upstream) {
    let upstream = Upstream::start(|seen| {
        let streamed = !seen.body.is_empty() && seen.json()["stream"] == true;
        vec![Act::Send(if streamed { answer::stream(&["a"]) } else { answer::json(200, &answer::chat("x")) })]
    })
    .await;
    let node =
        Setup::new().upstream("a", &upstream.url()).section("node: {name: gate-7, zone: hk}").start().await;
    (node, upstream)
}

#[tokio::test]
async fn probes_answer_200_on_a_serving_node() {
    let (node, upstream) = pair().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(node.admin(path).await.status, 200, "{path}");
    }
    assert_eq!(node.admin("/nothing").await.status, 404);
    assert_eq!(upstream.connections(), 0, "probes ask no upstream");
    // What the data plane serves and what operators see are apart.
    assert_eq!(node.call("GET", "/metrics").send().await.status, 404);
    assert_eq!(Call::new(node.admin, "POST", "/v1/chat/completions").send().await.status, 404);
}

#[tokio::test]
async fn a_node_is_ready_though_no_upstream_answers() {
    let node = Setup::new().upstream("a", &tidegate_tests::upstream::refusing()).start().await;
    assert_eq!(node.chat().send().await.status, 502);
    assert_eq!(node.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_carry_the_promised_names_and_labels() {
    let (node, _upstream) = pair().await;
    for _ in 0..3 {
        assert_eq!(node.chat().send().await.status, 200);
    }
    let stream = node.chat_stream().send().await;
    assert_eq!(stream.status, 200);
    stream.text().await;
    assert_eq!(node.chat().body("no json").send().await.status, 400);

    let reply = node.admin("/metrics").await;
    assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"), "{:?}", reply.headers);
    let text = reply.text().await;
    for (name, kind) in [
        ("tidegate_requests_total", "counter"),
        ("tidegate_http_request_duration_seconds", "histogram"),
        ("tidegate_overhead_seconds", "histogram"),
        ("tidegate_time_to_first_token_seconds", "histogram"),
        ("tidegate_upstream_requests_total", "counter"),
        ("tidegate_api_errors_total", "counter"),
        ("tidegate_tokens_total", "counter"),
        ("tidegate_in_flight_requests", "gauge"),
        ("tidegate_active_streams", "gauge"),
        ("tidegate_config_last_reload_successful", "gauge"),
        ("tidegate_config_last_reload_timestamp_seconds", "gauge"),
        ("tidegate_build_info", "gauge"),
    ] {
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} as a {kind} in:\n{text}");
    }

    let requests = async |labels: &[(&str, &str)]| node.metric("tidegate_requests_total", labels).await;
    let ok = [("route", "*"), ("model", "m"), ("client", ""), ("status", "success")];
    assert_eq!(requests(&ok).await, 4.0);
    assert_eq!(requests(&[("status", "client_error")]).await, 1.0);
    assert_eq!(requests(&[]).await, 5.0);
    let count = async |name: &str, labels: &[(&str, &str)]| node.metric(name, labels).await;
    let ok = [("path", "a@direct"), ("outcome", "ok")];
    assert_eq!(count("tidegate_upstream_requests_total", &ok).await, 4.0);
    for (stream, expected) in [("true", 1.0), ("false", 3.0)] {
        let labels = [("route", "*"), ("stream", stream)];
        assert_eq!(
            count("tidegate_http_request_duration_seconds_count", &labels).await,
            expected,
            "{stream}"
        );
        let all = [labels[0], labels[1], ("le", "+Inf")];
        assert_eq!(
            count("tidegate_http_request_duration_seconds_bucket", &all).await,
            expected,
            "real buckets"
        );
    }
    let first = [("route", "*"), ("path", "a@direct")];
    assert_eq!(count("tidegate_time_to_first_token_seconds_count", &first).await, 1.0);
    assert_eq!(count("tidegate_tokens_total", &[("kind", "prompt"), ("model", "m")]).await, 15.0);
    assert_eq!(count("tidegate_tokens_total", &[("kind", "completion"), ("model", "m")]).await, 9.0);
    assert_eq!(count("tidegate_build_info", &[]).await, 1.0);
    assert_eq!(count("tidegate_config_last_reload_successful", &[]).await, 1.0);
    let overhead = count("tidegate_overhead_seconds_sum", &[]).await / 5.0;
    assert!(overhead < 0.05, "{overhead} s of its own for a request");
}

#[tokio::test]
async fn models_beyond_the_first_hundred_are_counted_as_other() {
    let (node, _upstream) = pair().await;
    for n in 0..120 {
        let reply =
            node.post("/v1/chat/completions", &json!({"model": format!("invented-{n}")})).send().await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(
        node.metric("tidegate_requests_total", &[("model", "other"), ("status", "success")]).await,
        20.0
    );
    assert_eq!(node.metric("tidegate_requests_total", &[("model", "invented-119")]).await, 0.0);
}

#[tokio::test]
async fn a_model_no_route_takes_is_no_label() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .route("{match: {model: \"gpt-*\"}, to: [a]}")
        .start()
        .await;
    let reply = node.post("/v1/chat/completions", &json!({"model": "made-up-by-a-client"})).send().await;
    assert_eq!(reply.status, 404);
    assert!(!node.admin("/metrics").await.text().await.contains("made-up-by-a-client"));
}

#[tokio::test]
async fn the_status_has_its_promised_shape() {
    let gate = Gate::new();
    let wire = answer::json(200, &answer::chat("x"));
    let upstream = Upstream::doing(vec![Act::Wait(gate.clone()), Act::Send(wire)]).await;
    let node = Setup::new()
        .upstream_with("a", &upstream.url(), "egress: [direct, hk]")
        .section("egress: [{name: hk, proxy: \"http://127.0.0.1:1\"}]\nnode: {name: gate-7, zone: hk}")
        .start()
        .await;
    let running = tokio::spawn(node.chat().send());
    upstream.received(1).await;
    let status = node.admin("/api/status").await.json().await;
    let of = &status["node"];
    assert_eq!((&of["name"], &of["zone"], &of["draining"]), (&json!("gate-7"), &json!("hk"), &json!(false)));
    for field in ["version", "started_at", "config_hash"] {
        assert!(of[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {of}");
    }
    assert!(of["started_at"].as_str().unwrap().ends_with('Z'), "RFC 3339: {of}");
    for list in ["paths", "egress", "routes", "fleet"] {
        assert!(status[list].is_array(), "{list}: {status}");
    }
    assert!(status["store"]["kind"].is_string(), "{status}");
    let names: Vec<_> =
        status["paths"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a@direct", "a@hk"]);
    assert_eq!(status["paths"][0]["in_flight"], 1);
    assert!(!status.to_string().contains("sk-of-upstream"), "no key in the status: {status}");
    gate.open(1);
    assert_eq!(running.await.unwrap().status, 200);
    let status = node.admin("/api/status").await.json().await;
    assert_eq!(status["paths"][0]["in_flight"], 0);

    let page = node.admin("/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text().await.contains("Tidegate"));
}

#[tokio::test]
async fn only_the_holder_of_the_token_changes_the_node() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let setup = Setup::new().upstream("a", &upstream.url()).env("TOKEN", "the-admin-token");
    let node = setup.admin("token: {env: TOKEN}").listen("drain_grace: 60s").start().await;
    let drain = || Call::new(node.admin, "POST", "/api/drain");
    for call in [drain(), drain().bearer("wrong"), drain().bearer("")] {
        let reply = call.send().await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.error().await.0, "authentication_error");
    }
    assert_eq!(node.admin("/readyz").await.status, 200, "nothing was changed");
    assert_eq!(node.admin("/metrics").await.status, 200, "reading is open");
    assert!(drain().bearer("the-admin-token").send().await.status.is_success());
    let unready = async || (node.admin("/readyz").await.status == 503).then_some(());
    tidegate_tests::until("the node to be unready", unready).await;
    assert_eq!(node.admin("/healthz").await.status, 200, "it lives");
    node.still_answers().await;
}
