//! Traces: what a real collector understands of them, whose trace a request belongs to, and that no request is the
//! worse for a collector that is not there.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::ca::Ca;
use tidegate_tests::client::Call;
use tidegate_tests::collector::{Collector, Span};
use tidegate_tests::load::Load;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::client_key;
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{answer, until, until_within};
use tokio::time::Instant;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

async fn answering() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), "a thoughtful answer"))]).await
}

async fn traced(collector: &Collector, sample: &str, upstream: &Upstream) -> Node {
    Setup::new().upstream("a", &upstream.url()).section(&collector.section(sample)).start().await
}

/// A request that is traced whatever the share: what was sent before it is with the collector by the time it is there.
async fn marker(node: &Node, collector: &Collector) {
    let other = "00-11111111111111111111111111111111-2222222222222222-01";
    let call = node.chat().header("x-request-id", "marker").header("traceparent", other);
    assert_eq!(call.send().await.status, 200);
    collector.request("marker").await;
}

async fn line_of(node: &Node, id: &str) -> serde_json::Value {
    node.process
        .line("the request's line", |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["request_id"] == id).then_some(line)
        })
        .await
}

#[tokio::test]
async fn a_request_is_one_span_and_each_of_its_attempts_is_one_below_it() {
    let Some(collector) = Collector::start().await else { return };
    let refusal = answer::json(500, &answer::error("server_error", "oops", "zanzibar failed"));
    let (a, b) = (Upstream::saying(refusal).await, answering().await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .section(&collector.section("100%"))
        .section("node: {name: node-7, zone: hk}")
        .start()
        .await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "tell me of zanzibar"}]});
    let call =
        node.post("/v1/chat/completions", &body).header("x-request-id", "the-first").bearer("sk-of-a-client");
    assert_eq!(call.send().await.came_by(), ("b@direct", "2"));

    let (request, attempts) = collector.request("the-first").await;
    assert_eq!((request.name.as_str(), request.parent.as_str()), ("POST /v1/chat/completions", ""));
    assert!(!request.failed);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/chat/completions"),
        ("url.path", "/v1/chat/completions"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.request.model", "m"),
        ("tidegate.route", "*"),
        ("tidegate.path", "b@direct"),
        ("tidegate.attempts", "2"),
        ("tidegate.cache", "bypass"),
        ("tidegate.fallback", "false"),
        ("error.type", ""),
    ] {
        assert_eq!(request.get(key), value, "{key}");
    }
    let [first, second] = attempts.as_slice() else { panic!("{attempts:?}") };
    for (attempt, upstream) in [(first, &a), (second, &b)] {
        assert_eq!((attempt.name.as_str(), attempt.kind.as_str()), ("chat m", "CLIENT"));
        assert_eq!((&attempt.trace, &attempt.parent), (&request.trace, &request.id));
        assert!(request.start <= attempt.start && attempt.start < attempt.end && attempt.end <= request.end);
        for (key, value) in [
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "m"),
            ("server.address", "127.0.0.1"),
            ("server.port", upstream.port().to_string().as_str()),
        ] {
            assert_eq!(attempt.get(key), value, "{key}");
        }
        let said = upstream.request();
        let told = format!("00-{}-{}-01", request.trace, attempt.id);
        assert_eq!(said.header("traceparent"), Some(told.as_str()), "the upstream's caller is the attempt");
    }
    assert!(first.failed && !second.failed);
    for (key, values) in [
        ("tidegate.path", ["a@direct", "b@direct"]),
        ("http.response.status_code", ["500", "200"]),
        ("error.type", ["server_error", ""]),
        ("gen_ai.response.model", ["", "m"]),
        ("gen_ai.usage.input_tokens", ["", "5"]),
        ("gen_ai.usage.output_tokens", ["", "3"]),
    ] {
        assert_eq!([first.get(key), second.get(key)], values, "{key}");
    }

    assert_eq!(line_of(&node, "the-first").await["trace_id"], request.trace.as_str());
    let all = collector.output();
    for known in ["service.name: Str(tidegate)", "service.instance.id: Str(node-7)", "tidegate.zone: Str(hk)"]
    {
        assert!(all.contains(known), "{known}:\n{all}");
    }
    for secret in ["zanzibar", "thoughtful", "sk-of", "Bearer"] {
        assert!(!all.contains(secret), "{secret}:\n{all}");
    }
    until("three spans counted", async || {
        (node.metric("tidegate_trace_spans_exported_total", &[]).await == 3.0).then_some(())
    })
    .await;
    assert_eq!(node.metric("tidegate_trace_spans_dropped_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_clients_trace_goes_on_through_the_gateway_whatever_the_share() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let node = traced(&collector, "0%", &upstream).await;
    let call = node.chat().header("x-request-id", "of-a-client");
    let call = call.header("traceparent", &parent("01")).header("tracestate", "vendor=of-the-client");
    assert_eq!(call.send().await.status, 200);
    let (request, attempts) = collector.request("of-a-client").await;
    assert_eq!((request.trace.as_str(), request.parent.as_str()), (TRACE, CALLER));
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!((attempt.trace.as_str(), &attempt.parent), (TRACE, &request.id));
    let told = upstream.request();
    assert_eq!(told.header("traceparent"), Some(format!("00-{TRACE}-{}-01", attempt.id).as_str()));
    assert_eq!(told.header("tracestate"), Some("vendor=of-the-client"));
    assert_eq!(line_of(&node, "of-a-client").await["trace_id"], TRACE);
}

#[tokio::test]
async fn what_a_client_does_not_record_is_not_recorded_here_and_goes_on_as_it_came() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let node = traced(&collector, "100%", &upstream).await;
    let call = node.chat().header("x-request-id", "unseen");
    let call = call.header("traceparent", &parent("00")).header("tracestate", "vendor=1");
    assert_eq!(call.send().await.status, 200);
    let told = upstream.request();
    assert_eq!(told.header("traceparent"), Some(parent("00").as_str()));
    assert_eq!(told.header("tracestate"), Some("vendor=1"));
    assert!(line_of(&node, "unseen").await["trace_id"].is_null());
    marker(&node, &collector).await;
    assert!(!collector.output().contains(TRACE));
    assert_eq!(collector.spans().len(), 2, "the marker's");
}

#[tokio::test]
async fn a_share_of_nothing_records_nothing_and_a_broken_traceparent_is_none() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let none = traced(&collector, "0%", &upstream).await;
    for odd in ["", "00-nonsense-01", &parent("01").to_uppercase()] {
        let call = none.chat().header("traceparent", odd);
        assert_eq!(call.send().await.status, 200, "{odd:?}");
    }
    assert_eq!(none.chat().send().await.status, 200);
    assert!(upstream.requests()[3].header("traceparent").is_none(), "none is made up");
    marker(&none, &collector).await;
    assert_eq!(collector.spans().len(), 2, "the marker's");

    // Where all are recorded one begins anew, and the broken one with its state goes no further.
    let all = traced(&collector, "100%", &upstream).await;
    let call = all.chat().header("x-request-id", "anew").header("traceparent", "00-nonsense-01");
    assert_eq!(call.header("tracestate", "vendor=1").send().await.status, 200);
    let (request, attempts) = collector.request("anew").await;
    let told = upstream.requests().pop().unwrap();
    let known = format!("00-{}-{}-01", request.trace, attempts[0].id);
    assert_eq!((told.header("traceparent"), told.header("tracestate")), (Some(known.as_str()), None));
}

#[tokio::test]
async fn what_a_stranger_says_of_a_trace_counts_for_nothing() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let start = async |sample: &str| {
        let setup = Setup::new().upstream("a", &upstream.url()).clients(&[("x", "")]);
        setup.section(&collector.section(sample)).start().await
    };
    let ask = async |node: &Node, id: &str, key: &str, flags: &str| {
        let call = node.chat().header("x-request-id", id).bearer(key);
        call.header("traceparent", &parent(flags)).header("tracestate", "vendor=1").send().await.status
    };
    let none = start("0%").await;
    assert_eq!(ask(&none, "refused", "sk-of-nobody", "01").await, 401);
    assert!(line_of(&none, "refused").await["trace_id"].is_null());
    assert_eq!(ask(&none, "known", &client_key("x"), "01").await, 200);
    assert_eq!(collector.request("known").await.0.trace, TRACE);
    assert_eq!(collector.spans().len(), 2, "the client's alone");

    // Chance decides for it, and its trace is its own.
    let all = start("100%").await;
    for (id, flags) in [("recorded", "01"), ("unrecorded", "00")] {
        assert_eq!(ask(&all, id, "sk-of-nobody", flags).await, 401);
        let (request, _) = collector.request(id).await;
        assert_eq!((request.parent.as_str(), request.get("http.response.status_code")), ("", "401"));
        assert_ne!(request.trace, TRACE);
        assert_eq!(line_of(&all, id).await["trace_id"], request.trace.as_str());
    }
    assert_eq!(ask(&all, "unseen", &client_key("x"), "00").await, 200);
    assert!(line_of(&all, "unseen").await["trace_id"].is_null());
}

#[tokio::test]
async fn a_tracestate_goes_on_whole_and_is_short_and_without_keys_in_spans() {
    let upstream = answering().await;
    let collector =
        Upstream::saying(answer::whole(200, &[("content-type", "application/x-protobuf")], "")).await;
    let section = format!("tracing: {{otlp: \"http://127.0.0.1:{}\", sample: 0%}}", collector.port());
    let node = Setup::new().upstream("a", &upstream.url()).section(&section).start().await;
    let state = format!("key=sk-abcdefghijklmnop,{}", ["vendor=value"; 1000].join(","));
    let call = node.chat().header("traceparent", &parent("01")).header("tracestate", &state);
    assert_eq!(call.send().await.status, 200);
    assert_eq!(upstream.request().header("tracestate"), Some(state.as_str()));
    until("two spans", async || {
        (node.metric("tidegate_trace_spans_exported_total", &[]).await == 2.0).then_some(())
    })
    .await;
    let exports = collector.requests();
    let size: usize = exports.iter().map(|export| export.body.len()).sum();
    assert!(size < 4096, "{size} bytes");
    for export in exports {
        let text = String::from_utf8_lossy(&export.body).into_owned();
        assert!(text.contains("key=[redacted],vendor=value,") && !text.contains("sk-abc"), "{text}");
    }
}

#[tokio::test]
async fn without_tracing_a_clients_trace_goes_through_untouched() {
    let upstream = answering().await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let call = node.chat().header("x-request-id", "through").header("traceparent", &parent("01"));
    let call = call.header("tracestate", "vendor=1").header("baggage", "k=v");
    assert_eq!(call.send().await.status, 200);
    let told = upstream.request();
    assert_eq!(told.header("traceparent"), Some(parent("01").as_str()));
    assert_eq!((told.header("tracestate"), told.header("baggage")), (Some("vendor=1"), Some("k=v")));
    assert!(line_of(&node, "through").await["trace_id"].is_null());
    let series = node.admin("/metrics").await.text().await;
    assert!(!series.contains("tidegate_trace"), "nothing is built that is not asked for");
}

#[tokio::test]
async fn a_stream_is_traced_to_its_end_with_its_usage() {
    let Some(collector) = Collector::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let asked = seen.json();
        if asked["stream"] != true {
            return vec![Act::Send(answer::to(&asked, "plain"))];
        }
        let begun = [answer::stream_head(), answer::piece(answer::delta("a"))].concat();
        let rest = [answer::finish(), answer::usage(), answer::DONE.to_owned()].map(answer::piece).concat();
        let rest = [rest, answer::last_piece().to_vec()].concat();
        vec![Act::Send(begun.into()), Act::Wait(held.clone()), Act::Send(rest.into())]
    })
    .await;
    let node = traced(&collector, "100%", &upstream).await;
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hi"}]});
    let call = node.post("/v1/chat/completions", &body).header("x-request-id", "streamed");
    let mut reply = call.send().await;
    assert!(reply.event().await.unwrap().contains("\"a\""));
    marker(&node, &collector).await;
    let running = collector.spans();
    assert_eq!(running.len(), 2, "the marker's alone, while the stream runs: {running:?}");
    gate.open(1);
    assert!(reply.text().await.ends_with(answer::DONE));
    let (request, attempts) = collector.request("streamed").await;
    let [attempt] = attempts.as_slice() else { panic!("{attempts:?}") };
    let ended = running.iter().map(|span| span.end).max().unwrap();
    for span in [&request, attempt] {
        assert!(span.end > ended && !span.failed, "{span:?}");
        assert_eq!((span.get("gen_ai.request.stream"), span.get("error.type")), ("true", ""));
        let first: f64 = span.get("gen_ai.response.time_to_first_chunk").parse().unwrap();
        assert!(first > 0.0 && first * 1e9 < (span.end - span.start) as f64, "{span:?}");
    }
    assert_eq!(attempt.get("gen_ai.response.model"), "m");
    assert_eq!(attempt.get("gen_ai.usage.input_tokens"), "5");
    assert_eq!(attempt.get("gen_ai.usage.output_tokens"), "3");
}

#[tokio::test]
async fn streams_that_break_or_are_left_say_so() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = Upstream::start(|seen| {
        let asked = seen.json();
        if asked["stream"] != true {
            return vec![Act::Send(answer::to(&asked, "plain"))];
        }
        let begun = [answer::stream_head(), answer::piece(answer::delta("a"))].concat();
        let last = if asked["model"] == "breaks" { Act::Close } else { Act::Stall };
        vec![Act::Send(begun.into()), last]
    })
    .await;
    let node = traced(&collector, "100%", &upstream).await;
    let stream = async |model: &str| {
        let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        node.post("/v1/chat/completions", &body).header("x-request-id", model).send().await
    };
    assert!(stream("breaks").await.text().await.contains("stream_interrupted"));
    let (request, attempts) = collector.request("breaks").await;
    assert!(request.failed && attempts[0].failed);
    assert_eq!([request.get("error.type"), attempts[0].get("error.type")], ["stream_interrupted"; 2]);

    let mut reply = stream("left").await;
    assert!(reply.event().await.is_some());
    drop(reply);
    let (request, attempts) = collector.request("left").await;
    assert!(!request.failed && !attempts[0].failed, "it is nobody's failure");
    assert_eq!(request.get("error.type"), "client_closed_request");
    assert_eq!(attempts[0].get("error.type"), "cancelled");
}

#[tokio::test]
async fn a_kept_answer_is_a_request_without_an_attempt() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let node = Setup::new()
        .upstream("a", &upstream.url())
        .route_to("a", "cache: {ttl: 1h}")
        .section(&collector.section("100%"))
        .start()
        .await;
    for (id, cache, attempts) in [("made", "miss", "1"), ("kept", "hit", "0")] {
        assert_eq!(node.chat().header("x-request-id", id).send().await.header("x-tidegate-cache"), cache);
        let (request, children) = collector.request(id).await;
        assert_eq!((request.get("tidegate.cache"), request.get("tidegate.attempts")), (cache, attempts));
        assert_eq!(children.len().to_string(), attempts);
    }
}

#[tokio::test]
async fn refusals_and_other_endpoints_are_named_without_what_a_client_made_up() {
    let Some(collector) = Collector::start().await else { return };
    let upstream =
        Upstream::saying(answer::json(200, &json!({"id": "x", "object": "list", "data": []}))).await;
    let node = traced(&collector, "100%", &upstream).await;
    let secret = "sk-abcdefghijklmnop";
    let found =
        node.call("GET", &format!("/v1/models/{secret}")).header("x-request-id", "model").send().await;
    assert_eq!(found.status, 200);
    let (request, attempts) = collector.request("model").await;
    assert_eq!((request.name.as_str(), attempts[0].name.as_str()), ("GET /v1/models/{id}", "GET"));
    assert_eq!(request.get("url.path"), "/v1/models/[redacted]");

    let through = node.call("GET", "/v1/files").header("x-request-id", "through").send().await;
    through.bytes().await;
    let (request, attempts) = collector.request("through").await;
    assert_eq!((request.name.as_str(), request.get("url.path")), ("GET /v1/*", "/v1/files"));
    assert_eq!([request.get("error.type"), attempts[0].get("error.type")], ["", ""]);

    let refused = node.post("/v1/chat/completions", &json!({"messages": []})).header("x-request-id", "none");
    assert_eq!(refused.send().await.status, 400);
    let (request, _) = collector.request("none").await;
    assert_eq!(
        (request.get("error.type"), request.get("http.response.status_code")),
        ("missing_model", "400")
    );
    assert!(!request.failed, "the client's fault is none of the server's");
    assert!(!collector.output().contains(secret));
}

#[tokio::test]
async fn copies_and_made_up_requests_belong_to_no_clients_trace() {
    let Some(collector) = Collector::start().await else { return };
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .route_to("a, b", "")
        .quick_health()
        .section(&collector.section("0%"))
        .start()
        .await;
    a.probes_always_good();
    let said =
        [("traceparent", parent("01")), ("tracestate", "v=1".to_owned()), ("baggage", "k=v".to_owned())];
    let said: Vec<(&str, &str)> = said.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let load = Load::start_with(&node, 40.0, 0.4, &said);
    a.received(Kind::User, 5).await;
    a.set(Mode::Status(500, "outage"));
    a.received(Kind::Shadow, 2).await;
    a.received(Kind::Probe, 1).await;
    load.stop().await.assert_all_ok();
    for asked in a.asked() {
        let known = ["traceparent", "tracestate", "baggage"].map(|name| asked.seen.header(name).is_some());
        assert_eq!(known, [asked.kind == Kind::User; 3], "{:?}: {}", asked.kind, asked.seen.head);
    }
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
}

#[tokio::test]
async fn a_frozen_collector_delays_no_request_and_costs_spans_alone() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let node = traced(&collector, "100%", &upstream).await;
    marker(&node, &collector).await;
    collector.freeze().await;
    let before = node.process.resident();
    // Each is two spans; 2048 wait, and 512 are on their way.
    let many = async |count: usize| {
        let mut longest = Duration::ZERO;
        for _ in 0..count {
            let asked = Instant::now();
            let reply = node.chat().send().await;
            assert_eq!(reply.status, 200);
            reply.bytes().await;
            longest = longest.max(asked.elapsed());
        }
        longest
    };
    let longest = tokio::join!(many(400), many(400), many(400), many(400));
    let longest = [longest.0, longest.1, longest.2, longest.3].into_iter().max().unwrap();
    assert!(longest < Duration::from_secs(5), "one took {longest:?}");
    let dropped = node.metric("tidegate_trace_spans_dropped_total", &[]).await;
    assert!((600.0..=1200.0).contains(&dropped), "{dropped} of 3200 dropped");
    let grown = node.process.resident().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    collector.thaw().await;
    until_within(Duration::from_secs(60), "what waited", async || {
        let exported = node.metric("tidegate_trace_spans_exported_total", &[]).await;
        (exported >= 2.0 + 3200.0 - dropped).then_some(())
    })
    .await;
    assert_eq!(node.metric("tidegate_trace_spans_dropped_total", &[]).await, dropped);
}

#[tokio::test]
async fn a_collector_that_dies_is_one_line_in_the_log_and_gets_what_waited_when_it_is_back() {
    let Some(mut collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let node = traced(&collector, "100%", &upstream).await;
    marker(&node, &collector).await;
    collector.kill().await;
    for id in ["waits-1", "waits-2"] {
        assert_eq!(node.chat().header("x-request-id", id).send().await.status, 200);
    }
    let about = |line: &str| line.contains("the collector takes no traces").then_some(());
    node.process.line("a line about the collector", about).await;
    collector.revive().await;
    collector.request("waits-1").await;
    collector.request("waits-2").await;
    let again = |line: &str| line.contains("the collector takes traces again").then_some(());
    node.process.line("a line about its return", again).await;
    let output = node.process.output();
    assert_eq!(output.lines().filter(|line| about(line).is_some()).count(), 1, "{output}");
    assert_eq!(node.metric("tidegate_trace_spans_dropped_total", &[]).await, 0.0);
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_node_ends() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let mut node = Setup::new()
        .upstream("a", &upstream.url())
        .listen("drain_grace: 0s, drain_timeout: 5s")
        .section(&collector.section("100%"))
        .start()
        .await;
    assert_eq!(node.chat().header("x-request-id", "the-last").send().await.status, 200);
    node.process.signal("TERM").await;
    assert!(node.process.ended().await.success());
    collector.request("the-last").await;
}

#[tokio::test]
async fn a_node_ends_in_time_though_its_collector_is_frozen_and_says_what_is_lost() {
    let Some(collector) = Collector::start().await else { return };
    let upstream = answering().await;
    let mut node = Setup::new()
        .upstream("a", &upstream.url())
        .listen("drain_grace: 0s, drain_timeout: 5s")
        .section(&collector.section("100%"))
        .start()
        .await;
    marker(&node, &collector).await;
    collector.freeze().await;
    assert_eq!(node.chat().send().await.status, 200);
    let told = Instant::now();
    node.process.signal("TERM").await;
    assert!(node.process.ended().await.success());
    assert!(told.elapsed() < Duration::from_secs(8), "{:?}", told.elapsed());
    let lost =
        |line: &str| line.contains("the last traces did not get to the collector").then(|| line.to_owned());
    let lost = node.process.line("a line about what is lost", lost).await;
    assert!(lost.contains("\"spans\":2"), "{lost}");
}

#[tokio::test]
async fn a_collector_behind_tls_is_verified_and_gets_the_headers_it_wants() {
    let ca = Ca::new();
    let taken = answer::whole(200, &[("content-type", "application/x-protobuf")], "");
    let collector = Upstream::tls(ca.issue(&["localhost"]).server(&["http/1.1"]), move |_| {
        vec![Act::Send(taken.clone())]
    })
    .await;
    let upstream = answering().await;
    let start = async |ca: &Ca| {
        let setup = Setup::new();
        let trusted = setup.file("ca.pem", ca.pem());
        let section = format!(
            "tracing: {{otlp: \"https://localhost:{}/otlp\", sample: 100%, headers: {{Authorization: {{env: OTLP}}}}, tls: {{ca: \"{}\"}}}}",
            collector.port(),
            trusted.display()
        );
        setup
            .upstream("a", &upstream.url())
            .section(&section)
            .env("OTLP", "Bearer for-the-collector")
            .start()
            .await
    };
    let stranger = start(&Ca::new()).await;
    assert_eq!(stranger.chat().send().await.status, 200);
    let refused =
        |line: &str| (line.contains("takes no traces") && line.contains("certificate")).then_some(());
    stranger.process.line("a line about the certificate", refused).await;
    assert_eq!(collector.count(), 0, "nothing is sent to a stranger");

    let node = start(&ca).await;
    assert_eq!(node.chat().send().await.status, 200);
    collector.received(1).await;
    let export = collector.request();
    assert_eq!(export.target(), "/otlp/v1/traces");
    assert_eq!(export.header("authorization"), Some("Bearer for-the-collector"));
    assert_eq!(export.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(export.header("host"), Some(format!("localhost:{}", collector.port()).as_str()));
    for log in [stranger.process.output(), node.process.output()] {
        assert!(!log.contains("for-the-collector"), "{log}");
    }
}

#[tokio::test]
async fn spans_that_a_collector_refuses_are_dropped_and_the_next_ones_sent() {
    let upstream = answering().await;
    let collector = Upstream::start(|seen| {
        let status = if seen.index == 0 { 400 } else { 200 };
        vec![Act::Send(answer::whole(status, &[("content-type", "application/x-protobuf")], ""))]
    })
    .await;
    let section = format!("tracing: {{otlp: \"http://127.0.0.1:{}\", sample: 100%}}", collector.port());
    let node = Setup::new().upstream("a", &upstream.url()).section(&section).start().await;
    assert_eq!(node.chat().send().await.status, 200);
    let counted = async |name: &str| {
        until(name, async || (node.metric(name, &[]).await == 2.0).then_some(())).await;
    };
    counted("tidegate_trace_spans_dropped_total").await;
    assert_eq!(node.chat().send().await.status, 200);
    counted("tidegate_trace_spans_exported_total").await;
    assert_eq!((collector.count(), collector.connections()), (2, 1), "one connection for both");
}

#[tokio::test]
async fn the_list_of_models_is_traced_with_all_that_were_asked() {
    let Some(collector) = Collector::start().await else { return };
    let list = answer::json(200, &json!({"object": "list", "data": [{"id": "m", "object": "model"}]}));
    let (a, b) = (Upstream::saying(list.clone()).await, Upstream::saying(list).await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .section(&collector.section("100%"))
        .start()
        .await;
    let listed = Call::new(node.address, "GET", "/v1/models").header("x-request-id", "list").send().await;
    assert_eq!(listed.status, 200);
    let spans = until("three spans", async || {
        let spans = collector.spans();
        (spans.len() == 3).then_some(spans)
    })
    .await;
    let request = spans.iter().find(|span| span.is_request()).unwrap();
    assert_eq!(request.name, "GET /v1/models");
    let mut paths: Vec<&str> =
        spans.iter().filter(|s| s.parent == request.id).map(|s: &Span| s.get("tidegate.path")).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a@direct", "b@direct"]);
}

#[tokio::test]
async fn of_two_attempts_side_by_side_the_slower_one_is_cancelled_and_no_failure() {
    let Some(collector) = Collector::start().await else { return };
    let (a, b) = (Upstream::doing(vec![Act::Stall]).await, answering().await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .route_to("a, b", "hedge: {after: 50ms}")
        .section(&collector.section("100%"))
        .start()
        .await;
    assert_eq!(node.chat().header("x-request-id", "hedged").send().await.came_by(), ("b@direct", "2"));
    let (request, attempts) = collector.request("hedged").await;
    let [slow, fast] = attempts.as_slice() else { panic!("{attempts:?}") };
    assert_eq!([slow.get("tidegate.path"), fast.get("tidegate.path")], ["a@direct", "b@direct"]);
    assert_eq!([slow.get("error.type"), fast.get("error.type")], ["cancelled", ""]);
    assert!(!slow.failed && !fast.failed && !request.failed);
    assert!(slow.start < fast.start && fast.start < slow.end, "side by side");
}
