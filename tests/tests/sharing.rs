//! What each client is owed of an answer that several get, kept or under way: its own form, time, headers and usage,
//! its place in the counts, and nothing that belongs to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::answer::{
    self, DONE, delta, event, finish, last_piece, piece, role, stream_head, text_of,
};
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::Nodes;
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Gate, Upstream, refusing};
use tidegate_tests::{until, until_within, within};
use tokio::task::JoinHandle;

const HOUR: &str = "cache: {ttl: 1h}";
/// In which an upstream is left that nobody wants anything of any more.
const LEFT: Duration = Duration::from_secs(2);
const CUSTOM: [(&str, &str); 4] = [
    ("retry-after", "7"),
    ("location", "/v1/things/1"),
    ("content-disposition", "attachment; filename=a"),
    ("x-custom", "of the upstream"),
];

/// An upstream whose answers are numbered.
async fn numbered() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]).await
}

/// The same, each after the gate let it through.
async fn gated() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let text = format!("answer {}", seen.index);
        vec![Act::Wait(held.clone()), Act::Send(answer::to(&seen.json(), &text))]
    })
    .await;
    (upstream, gate)
}

/// Streams that say "one " and, after the gate let them, "two".
async fn halting() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let begun = [stream_head(), piece(role()), piece(delta("one "))].concat();
        let rest = [piece(delta("two")), piece(finish()), piece(DONE), last_piece()].concat();
        vec![Act::Send(begun.into()), Act::Wait(held.clone()), Act::Send(rest.into())]
    })
    .await;
    (upstream, gate)
}

fn site(upstream: &Upstream, settings: &str) -> Setup {
    Setup::new().upstream("up", &upstream.url()).retry("{attempts: 1}").route_to("up", settings)
}

async fn alone(upstream: &Upstream, settings: &str) -> Node {
    site(upstream, settings).start().await
}

async fn pair(redis: &Redis, upstream: &Upstream, settings: &str) -> Nodes {
    Nodes::meet(2, |setup, _| {
        let setup = setup.patient_store(&redis.url()).upstream("up", &upstream.url());
        setup.retry("{attempts: 1}").route_to("up", settings)
    })
    .await
}

/// The same question each time.
fn chat(node: &Node, streamed: bool) -> Call {
    let body = json!({"model": "m", "stream": streamed, "messages": [{"role": "user", "content": "hi"}]});
    node.post("/v1/chat/completions", &body)
}

fn asking_usage(node: &Node) -> Call {
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hi"}]});
    node.post("/v1/chat/completions", &body)
}

fn cache(reply: &Reply) -> &str {
    assert_eq!(reply.status, 200);
    reply.header("x-tidegate-cache")
}

async fn asked(call: Call) -> (String, String) {
    let reply = call.send().await;
    (cache(&reply).to_owned(), reply.text().await)
}

fn sent(call: Call) -> JoinHandle<Reply> {
    tokio::spawn(call.send())
}

/// One that has begun an answer; then others, who wait for it too.
async fn joined(node: &Node, upstream: &Upstream, calls: Vec<Call>) -> Vec<JoinHandle<Reply>> {
    let before = upstream.count();
    let mut all = Vec::new();
    for call in calls {
        all.push(sent(call));
        upstream.received(before + 1).await;
        running(node, all.len()).await;
    }
    all
}

async fn running(node: &Node, count: usize) {
    until(&format!("{count} requests running"), async || {
        let running = node.metric("tidegate_in_flight_requests", &[]).await;
        (running as usize == count).then_some(())
    })
    .await;
}

/// The lines of the log about requests, once there are so many.
async fn lines(node: &Node, count: usize) -> Vec<Value> {
    until(&format!("{count} requests in the log"), async || {
        let output = node.process.output();
        let all = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let all: Vec<_> = all.filter(|line| line["message"] == "request").collect();
        (all.len() >= count).then_some(all)
    })
    .await
}

async fn says(reply: &mut Reply, text: &str) -> String {
    until(text, async || reply.event().await.filter(|event| event.contains(text))).await
}

/// The stream ends here with an error event of the gateway's.
async fn cut_off(mut reply: Reply) {
    let last = says(&mut reply, "error").await;
    assert!(last.contains("stream_interrupted"), "{last}");
    assert_eq!(reply.event().await, None);
}

async fn timed_out(reply: Reply) {
    assert_eq!(reply.status, 504);
    assert_eq!(reply.error().await, ("upstream_error".into(), "timeout".into()));
}

fn assert_has(reply: &Reply, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        assert_eq!(reply.header(name), *value, "{name} of {}", reply.status);
    }
}

#[tokio::test]
async fn plain_and_streamed_responses_never_share_an_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let text = format!("answer {}", seen.index);
        vec![Act::Wait(held.clone()), Act::Send(answer::to_response(&seen.json(), &text))]
    })
    .await;
    let node = alone(&upstream, HOUR).await;
    let ask = |streamed: bool| {
        let body = json!({"model": "m", "input": "hi", "store": false, "stream": streamed});
        sent(node.post("/v1/responses", &body))
    };
    let assert_form = async |reply: Reply, streamed: bool| {
        let kind = reply.header("content-type").to_owned();
        let text = reply.text().await;
        assert_eq!(kind.starts_with("text/event-stream"), streamed, "{kind}");
        assert_eq!(text.starts_with("event: response.created"), streamed, "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).is_ok(), !streamed, "{text}");
    };
    // At once, then one after the other.
    let both = [(ask(false), false), (ask(true), true)];
    upstream.received(2).await;
    gate.open(9);
    for (reply, streamed) in both {
        let reply = reply.await.unwrap();
        assert_eq!(cache(&reply), "miss");
        assert_form(reply, streamed).await;
    }
    for (streamed, came) in [(false, "hit"), (true, "miss"), (false, "hit")] {
        let reply = ask(streamed).await.unwrap();
        assert_eq!(cache(&reply), came, "streamed: {streamed}");
        assert_form(reply, streamed).await;
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn shared_answers_count_as_success_of_every_client() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let calls = (0..3).map(|_| chat(&node, false)).chain([chat(&node, true)]).collect();
    let all = joined(&node, &upstream, calls).await;
    gate.open(9);
    let mut came = Vec::new();
    for reply in all {
        let reply = reply.await.unwrap();
        came.push(cache(&reply).to_owned());
        reply.bytes().await;
    }
    assert_eq!(came, ["miss", "coalesced", "coalesced", "coalesced"]);
    for streamed in [false, true] {
        assert_eq!(asked(chat(&node, streamed)).await.0, "hit");
    }
    for streamed in [false, true] {
        for came in ["bypass", "hit"] {
            let call = chat(&node, streamed).header("idempotency-key", &format!("k-{streamed}"));
            assert_eq!(asked(call).await.0, came);
        }
    }
    let lines = lines(&node, 10).await;
    assert!(lines.iter().all(|line| line["outcome"] == "success" && line["status"] == 200), "{lines:#?}");
    assert!(!node.process.output().contains("client_closed_request"));
    let success = node.metric("tidegate_requests_total", &[("status", "success")]).await;
    let all = node.metric("tidegate_requests_total", &[]).await;
    assert_eq!((success as u64, all as u64, upstream.count()), (10, 10, 3));
}

#[tokio::test]
async fn answers_of_another_node_count_as_success_of_every_client() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = pair(&redis, &upstream, HOUR).await;
    for (streamed, with) in [(false, None), (false, Some("k-1")), (true, Some("k-2"))] {
        let before = upstream.count();
        let call = |node: usize| {
            let call = chat(&nodes[node], streamed);
            if let Some(key) = with { call.header("idempotency-key", key) } else { call }
        };
        let first = sent(call(0));
        upstream.received(before + 1).await;
        let second = sent(call(1));
        nodes.running(2).await;
        gate.open(1);
        let texts = [first.await.unwrap().text().await, second.await.unwrap().text().await];
        assert_eq!(texts[0], texts[1]);
        assert_eq!(asked(call(1)).await.1, texts[0]);
        assert_eq!(upstream.count(), before + 1);
    }
    for (node, count) in [(&nodes[0], 3), (&nodes[1], 6)] {
        let lines = lines(node, count).await;
        assert!(lines.iter().all(|line| line["outcome"] == "success"), "{lines:#?}");
        let success = node.metric("tidegate_requests_total", &[("status", "success")]).await;
        assert_eq!(success as usize, count);
    }
}

#[tokio::test]
async fn the_first_clients_time_cuts_nobody_elses_stream() {
    let (upstream, gate) = halting().await;
    let node = alone(&upstream, HOUR).await;
    let mut first = chat(&node, true).header("x-tidegate-timeout-ms", "1500").send().await;
    says(&mut first, "one").await;
    let mut second = chat(&node, true).send().await;
    assert_eq!(cache(&second), "coalesced");
    says(&mut second, "one").await;
    cut_off(first).await;
    assert_eq!(upstream.abandoned(), 0);
    gate.open(1);
    let rest = second.text().await;
    assert!(text_of(&rest) == "two" && rest.ends_with(DONE), "{rest}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn the_first_clients_time_before_an_answer_ends_its_own_wait_alone() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let short = chat(&node, false).header("x-tidegate-timeout-ms", "1500");
    let mut all = joined(&node, &upstream, vec![short, chat(&node, false)]).await;
    let second = all.pop().unwrap();
    timed_out(all.pop().unwrap().await.unwrap()).await;
    assert_eq!(upstream.abandoned(), 0);
    gate.open(9);
    let second = second.await.unwrap();
    assert_eq!(cache(&second), "coalesced");
    assert!(second.text().await.contains("answer 0"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_first_client_whose_time_ends_hears_of_the_attempt_and_its_wait_is_the_upstreams() {
    let (upstream, _gate) = gated().await;
    for settings in ["", HOUR] {
        let node = alone(&upstream, settings).await;
        let reply = chat(&node, false).header("x-tidegate-timeout-ms", "1000").send().await;
        assert_eq!((settings, reply.came_by()), (settings, ("", "1")));
        timed_out(reply).await;
        lines(&node, 1).await;
        let own = node.metric("tidegate_overhead_seconds_sum", &[]).await;
        assert!(own < 0.5, "{own} s of waiting for the upstream count as the gateway's own: {settings:?}");
    }
}

#[tokio::test]
async fn who_joined_an_answer_keeps_its_own_time() {
    let (upstream, gate) = halting().await;
    let node = alone(&upstream, HOUR).await;
    let mut first = chat(&node, true).send().await;
    says(&mut first, "one").await;
    let short = |streamed: bool| chat(&node, streamed).header("x-tidegate-timeout-ms", "500");
    let (streamed, plain) = tokio::join!(short(true).send(), short(false).send());
    assert_eq!(cache(&streamed), "coalesced");
    cut_off(streamed).await;
    // Of a plain answer nothing had gone out yet.
    timed_out(plain).await;
    gate.open(1);
    assert!(first.text().await.ends_with(DONE));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn who_waits_for_an_answer_to_begin_keeps_its_own_time() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let short = |streamed: bool| chat(&node, streamed).header("x-tidegate-timeout-ms", "500");
    let first = sent(chat(&node, false));
    upstream.received(1).await;
    let (plain, streamed) = tokio::join!(short(false).send(), short(true).send());
    timed_out(plain).await;
    timed_out(streamed).await;
    gate.open(1);
    assert!(first.await.unwrap().text().await.contains("answer 0"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_answer_that_makes_no_stream_is_asked_for_again() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        if seen.json()["stream"] == true {
            return vec![Act::Send(answer::stream(&["anew"]))];
        }
        let mut body = answer::chat("plain");
        body["choices"][0].as_object_mut().unwrap().remove("index");
        vec![Act::Wait(held.clone()), Act::Send(answer::json(200, &body))]
    })
    .await;
    let node = alone(&upstream, HOUR).await;
    // While it is being made, and once it is kept.
    let mut all = joined(&node, &upstream, vec![chat(&node, false), chat(&node, true)]).await;
    gate.open(9);
    let streamed = all.pop().unwrap().await.unwrap();
    assert!(cache(&streamed) != "coalesced" && text_of(&streamed.text().await) == "anew");
    assert!(all.pop().unwrap().await.unwrap().text().await.contains("plain"));
    assert_eq!(asked(chat(&node, false)).await.0, "hit");
    let (came, text) = asked(chat(&node, true)).await;
    assert!(came != "hit" && text_of(&text) == "anew", "{came}: {text}");
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn what_an_upstream_refuses_keeps_its_headers() {
    let body = answer::error("requests", "rate_limit_exceeded", "slow down");
    let wire = answer::json_with(429, &CUSTOM, &body);
    for with in [None, Some("k")] {
        for streamed in [false, true] {
            let upstream = Upstream::saying(wire.clone()).await;
            let node = alone(&upstream, if with.is_none() { HOUR } else { "" }).await;
            let call = chat(&node, streamed);
            let call = if let Some(key) = with { call.header("idempotency-key", key) } else { call };
            let reply = call.send().await;
            assert_eq!(reply.status, 429);
            assert_has(&reply, &CUSTOM);
            assert_eq!(reply.came_by(), ("up@direct", "1"));
            assert_eq!(reply.json().await, body);
        }
    }
}

#[tokio::test]
async fn who_joined_a_refusal_hears_when_to_come_back_and_no_more() {
    let gate = Gate::new();
    let held = gate.clone();
    let body = answer::error("requests", "rate_limit_exceeded", "slow down");
    let wire = answer::json_with(429, &CUSTOM, &body);
    let upstream = Upstream::start(move |_| vec![Act::Wait(held.clone()), Act::Send(wire.clone())]).await;
    let node = alone(&upstream, HOUR).await;
    let calls = vec![chat(&node, false), chat(&node, false), chat(&node, true)];
    let mut all = joined(&node, &upstream, calls).await;
    gate.open(1);
    assert_has(&all.remove(0).await.unwrap(), &CUSTOM);
    for reply in all {
        let reply = reply.await.unwrap();
        assert_eq!(reply.status, 429);
        assert_has(&reply, &[("retry-after", "7"), ("x-custom", "")]);
        assert_eq!(reply.json().await, body);
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn headers_of_an_upstream_are_the_first_clients_and_those_of_the_answer_everyones() {
    for (settings, with) in [(HOUR, None), ("", Some("k"))] {
        let upstream = Upstream::saying(answer::json_with(200, &CUSTOM, &answer::chat("yes"))).await;
        let node = alone(&upstream, settings).await;
        let call = chat(&node, false);
        let call = if let Some(key) = with { call.header("idempotency-key", key) } else { call };
        let first = call.clone().send().await;
        assert_has(&first, &CUSTOM);
        let second = call.send().await;
        assert_eq!(cache(&second), "hit");
        assert_has(&second, &CUSTOM[1..3]);
        assert_has(&second, &[("x-custom", "")]);
    }
}

#[tokio::test]
async fn a_header_that_comes_twice_reaches_the_first_client_twice() {
    let twice = [("x-custom", "one"), ("x-custom", "two")];
    for settings in ["", HOUR] {
        let upstream = Upstream::saying(answer::json_with(200, &twice, &answer::chat("yes"))).await;
        let reply = chat(&alone(&upstream, settings).await, false).send().await;
        assert_eq!(reply.headers.get_all("x-custom").iter().count(), 2, "{settings:?}");
    }
}

#[tokio::test]
async fn when_all_clients_of_a_node_have_left_the_upstream_is_left_in_two_seconds() {
    let (upstream, _gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let all = joined(&node, &upstream, vec![chat(&node, false), chat(&node, false)]).await;
    all.iter().for_each(JoinHandle::abort);
    within(LEFT, "the upstream left before an answer", upstream.gave_up(1)).await;
    let (upstream, _gate) = halting().await;
    let node = alone(&upstream, HOUR).await;
    let mut streams = [chat(&node, true).send().await, chat(&node, true).send().await];
    for stream in &mut streams {
        says(stream, "one").await;
    }
    drop(streams);
    within(LEFT, "the upstream left in a stream", upstream.gave_up(1)).await;
    assert_eq!(upstream.count(), 1);
}

/// Waits until this node, which makes an answer, has heard who waits for it on others by now.
async fn followed(node: &Node) {
    let renewals =
        async || node.metric("tidegate_store_operation_seconds_count", &[("operation", "renew")]).await;
    let before = renewals().await;
    until("two renewals", async || (renewals().await >= before + 2.0).then_some(())).await;
}

#[tokio::test]
async fn when_the_clients_of_two_nodes_have_left_a_stream_the_upstream_is_left_in_two_seconds() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, _gate) = halting().await;
    let nodes = pair(&redis, &upstream, HOUR).await;
    let mut streams = Vec::new();
    for node in nodes.iter() {
        let mut stream = chat(node, true).send().await;
        says(&mut stream, "one").await;
        streams.push(stream);
    }
    assert_eq!((cache(&streams[1]), upstream.count()), ("coalesced", 1));
    followed(&nodes[0]).await;
    drop(streams);
    within(LEFT, "the upstream left", upstream.gave_up(1)).await;
}

#[tokio::test]
async fn when_the_clients_of_two_nodes_have_left_before_an_answer_the_upstream_is_left_in_two_seconds() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, _gate) = gated().await;
    let nodes = pair(&redis, &upstream, HOUR).await;
    let first = sent(chat(&nodes[0], false));
    upstream.received(1).await;
    let second = sent(chat(&nodes[1], false));
    nodes.running(2).await;
    followed(&nodes[0]).await;
    [first, second].iter().for_each(JoinHandle::abort);
    within(LEFT, "the upstream left", upstream.gave_up(1)).await;
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_huge_answer_with_a_key_of_its_own_is_not_held() {
    const MIB: usize = 1024 * 1024;
    let part = vec![7; 64 * 1024];
    for (framing, part, end) in [
        (format!("content-length: {}", 64 * MIB), part.clone().into(), "".into()),
        ("transfer-encoding: chunked".to_owned(), piece(&part), last_piece()),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n{framing}\r\n\r\n");
        let script = vec![Act::Send(head.into()), Act::Repeat(part, 1024), Act::Send(end)];
        let upstream = Upstream::doing(script).await;
        let node = alone(&upstream, "").await;
        let body = json!({"model": "m", "input": "hi", "voice": "alloy"});
        let call = || node.post("/v1/audio/speech", &body).header("idempotency-key", "k");
        let before = node.process.resident();
        assert_eq!(call().send().await.bytes().await.len(), 64 * MIB);
        let grown = node.process.peak().saturating_sub(before);
        assert!(grown < 32 * MIB as u64, "the node grew by {} KiB: {framing}", grown >> 10);
        // Too much to be remembered: made anew.
        assert_eq!(call().send().await.status, 200);
        assert_eq!(upstream.count(), 2);
    }
}

#[tokio::test]
async fn a_failure_on_a_route_with_a_cache_tells_of_its_attempts() {
    let upstream = Upstream::saying(answer::json(500, &answer::error("server_error", "no", "no"))).await;
    let node = Setup::new().upstream("up", &upstream.url()).route_to("up", HOUR).start().await;
    for (turn, streamed) in [false, true].into_iter().enumerate() {
        let reply = chat(&node, streamed).send().await;
        assert_eq!(reply.status, 502);
        assert_eq!(reply.came_by(), ("", "3"));
        assert_eq!(reply.error().await, ("upstream_error".into(), "upstream_5xx".into()));
        let line = lines(&node, turn + 1).await.remove(turn);
        assert_eq!((&line["attempts"], &line["outcome"]), (&json!(3), &json!("upstream_error")), "{line}");
        let failed = line["failed"].as_str().unwrap_or_default();
        assert_eq!(failed.matches("up@direct").count(), 3, "{line}");
    }
    assert_eq!(upstream.count(), 6);
}

#[tokio::test]
async fn a_fallbacks_answer_says_so_to_all_who_share_it_and_is_not_kept() {
    let (upstream, gate) = gated().await;
    let node = Setup::new()
        .upstream("dead", &refusing())
        .upstream("up", &upstream.url())
        .retry("{attempts: 1}")
        .route_to("dead", "fallback: [{upstream: up}], cache: {ttl: 1h}")
        .start()
        .await;
    let calls = vec![chat(&node, false), chat(&node, false), chat(&node, true)];
    let all = joined(&node, &upstream, calls).await;
    gate.open(9);
    for (reply, came) in all.into_iter().zip(["miss", "coalesced", "coalesced"]) {
        let reply = reply.await.unwrap();
        assert_eq!((cache(&reply), reply.header("x-tidegate-fallback")), (came, "true"));
        assert!(reply.text().await.contains("answer 0"));
    }
    assert_eq!(upstream.count(), 1);
    let (came, text) = asked(chat(&node, false)).await;
    assert!(came == "miss" && text.contains("answer 1"), "{came}: {text}");
}

#[tokio::test]
async fn the_usage_of_a_kept_stream_is_for_those_who_want_it() {
    let upstream = numbered().await;
    let node = alone(&upstream, HOUR).await;
    for turn in ["miss", "hit"] {
        let (came, text) = asked(chat(&node, true)).await;
        assert_eq!(came, turn);
        assert!(text_of(&text) == "answer 0" && text.ends_with(DONE), "{text}");
        assert!(!text.contains("prompt_tokens"), "nobody asked for it: {text}");
    }
    let reply = chat(&node, false).send().await;
    assert_eq!(cache(&reply), "hit");
    assert_eq!(reply.json().await["usage"], answer::chat("")["usage"]);
    let (came, text) = asked(asking_usage(&node)).await;
    assert_eq!(came, "hit");
    assert!(text.contains(&answer::usage()) && text.ends_with(DONE), "{text}");
    assert_eq!(upstream.request().json()["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn who_joins_a_stream_gets_its_usage_as_it_asked() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let calls = vec![chat(&node, true), asking_usage(&node), chat(&node, false), chat(&node, true)];
    let all = joined(&node, &upstream, calls).await;
    gate.open(9);
    for (reply, wants) in all.into_iter().zip([false, true, true, false]) {
        let text = reply.await.unwrap().text().await;
        assert_eq!(text.contains("prompt_tokens"), wants, "{text}");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_header_that_the_upstream_gets_makes_an_answer_of_its_own() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let of = |tenant: &str| chat(&node, false).header("x-tenant", tenant);
    let both = [sent(of("a")), sent(of("b"))];
    upstream.received(2).await;
    gate.open(9);
    let mut texts = Vec::new();
    for reply in both {
        let reply = reply.await.unwrap();
        assert_eq!(cache(&reply), "miss");
        texts.push(reply.text().await);
    }
    assert_ne!(texts[0], texts[1]);
    for (tenant, text) in [("a", &texts[0]), ("b", &texts[1])] {
        assert_eq!(asked(of(tenant)).await, ("hit".to_owned(), text.clone()));
        let call = of(tenant).header("user-agent", "another").header("x-stainless-lang", "python");
        assert_eq!(asked(call).await, ("hit".to_owned(), text.clone()));
    }
    assert_eq!(asked(of("c")).await.0, "miss");
    assert_eq!(asked(chat(&node, false)).await.0, "miss");
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_client_that_broke_off_finds_its_answer_by_its_key_on_any_node() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        let wait = Act::Wait(held.clone());
        if seen.json()["stream"] != true {
            return vec![wait, Act::Send(answer::json(200, &answer::chat("all of it")))];
        }
        let begun = [stream_head(), piece(role()), piece(delta("all "))].concat();
        let rest = [piece(delta("of it")), piece(finish()), piece(DONE), last_piece()].concat();
        vec![Act::Send(begun.into()), wait, Act::Send(rest.into())]
    })
    .await;
    let nodes = pair(&redis, &upstream, "").await;
    for (calls, streamed) in [(1, false), (2, true)] {
        let call = |node: usize| {
            chat(&nodes[node], streamed).header("idempotency-key", if streamed { "stream" } else { "plain" })
        };
        let first = sent(call(0));
        upstream.received(calls).await;
        if streamed {
            says(&mut first.await.unwrap(), "all").await;
        } else {
            first.abort();
        }
        nodes.running(0).await;
        // While it still runs, on either node, and afterwards.
        let mut again = vec![sent(call(0)), sent(call(1))];
        nodes.running(2).await;
        assert_eq!(upstream.abandoned(), 0);
        gate.open(1);
        upstream.idle().await;
        again.extend([sent(call(0)), sent(call(1))]);
        for reply in again {
            let text = reply.await.unwrap().text().await;
            let said = if streamed { text_of(&text) } else { text.clone() };
            assert!(said.contains("all of it"), "{text}");
        }
        assert_eq!(upstream.count(), calls);
    }
}

#[tokio::test]
async fn a_client_that_broke_off_finds_its_answer_by_its_key_after_it_was_made() {
    let (upstream, gate) = gated().await;
    let node = alone(&upstream, HOUR).await;
    let call = || chat(&node, false).header("idempotency-key", "k");
    let first = sent(call());
    upstream.received(1).await;
    first.abort();
    running(&node, 0).await;
    gate.open(1);
    upstream.idle().await;
    assert_eq!(upstream.abandoned(), 0);
    assert!(asked(call()).await.1.contains("answer 0"));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_form_sent_again_with_another_boundary_is_the_same_request() {
    let upstream = Upstream::start(|seen| {
        vec![Act::Send(answer::json(200, &json!({"text": format!("answer {}", seen.index)})))]
    })
    .await;
    let node = alone(&upstream, "").await;
    let upload = |boundary: &str, content: &str| {
        let bare = boundary.trim_matches('"');
        let part = |what: &str| format!("--{bare}\r\ncontent-disposition: form-data; name={what}\r\n");
        let body = [
            part("model"),
            "\r\nm\r\n".to_owned(),
            part("file; filename=a.wav"),
            format!("\r\n{content}\r\n--{bare}--\r\n"),
        ];
        let kind = format!("multipart/form-data; boundary={boundary}");
        let call = node.call("POST", "/v1/audio/transcriptions").header("content-type", &kind);
        call.body(body.concat()).header("idempotency-key", "k")
    };
    let (came, first) = asked(upload("one-boundary", "sound")).await;
    assert_eq!(came, "bypass");
    for boundary in ["another", "\"a third\"", "one-boundary"] {
        assert_eq!(asked(upload(boundary, "sound")).await, ("hit".to_owned(), first.clone()), "{boundary}");
    }
    let other = upload("another", "another sound").send().await;
    assert_eq!(other.status, 422);
    assert_eq!(other.error().await.1, "idempotency_key_reused");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn only_if_cached_where_nothing_is_kept_asks_no_upstream() {
    let upstream = numbered().await;
    let node = alone(&upstream, "").await;
    for streamed in [false, true] {
        let reply = chat(&node, streamed).header("cache-control", "only-if-cached").send().await;
        assert_eq!(reply.status, 504);
        assert_eq!(reply.came_by(), ("", "0"));
        assert_eq!(reply.error().await.1, "only_if_cached");
    }
    assert_eq!(upstream.count(), 0);
}

/// In nobody's spelling but the upstream's.
fn odd_error() -> String {
    event("{\"error\":  {\"message\": \"of the upstream\", \"type\": \"server_error\", \"code\": \"odd\"}}")
}

/// A first stream that says "one " and, after the gate let it, breaks off with an error event; then good ones.
async fn failing() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        if seen.index > 0 {
            return vec![Act::Send(answer::to(&seen.json(), "well"))];
        }
        let begun = [stream_head(), piece(role()), piece(delta("one "))].concat();
        let rest = [piece(odd_error()), piece(DONE), last_piece()].concat();
        vec![Act::Send(begun.into()), Act::Wait(held.clone()), Act::Send(rest.into())]
    })
    .await;
    (upstream, gate)
}

#[tokio::test]
async fn an_upstreams_own_error_event_reaches_all_who_share_the_stream() {
    let (upstream, gate) = failing().await;
    let node = alone(&upstream, HOUR).await;
    let both = [chat(&node, true).send().await, chat(&node, true).send().await];
    assert_eq!(cache(&both[1]), "coalesced");
    gate.open(1);
    for reply in both {
        assert_eq!(reply.text().await, [role(), delta("one "), odd_error()].concat());
    }
    assert_eq!(text_of(&asked(chat(&node, true)).await.1), "well");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_stream_that_an_upstream_ends_with_an_error_counts_as_one_for_all_who_share_it() {
    let (upstream, gate) = failing().await;
    let node = alone(&upstream, HOUR).await;
    let both = [chat(&node, true).send().await, chat(&node, true).send().await];
    gate.open(1);
    for reply in both {
        assert!(reply.text().await.ends_with(&odd_error()));
    }
    let lines = lines(&node, 2).await;
    assert!(lines.iter().all(|line| line["outcome"] == "upstream_error"), "{lines:#?}");
}

#[tokio::test]
async fn waiting_for_anothers_answer_is_no_time_of_the_gateways_own() {
    for streamed in [false, true] {
        let upstream = Upstream::start(|seen| {
            let wire = answer::to(&seen.json(), "slow");
            vec![Act::Sleep(Duration::from_secs(1)), Act::Send(wire)]
        })
        .await;
        let node = alone(&upstream, HOUR).await;
        let calls = vec![chat(&node, streamed), chat(&node, streamed), chat(&node, !streamed)];
        let all = joined(&node, &upstream, calls).await;
        for (reply, came) in all.into_iter().zip(["miss", "coalesced", "coalesced"]) {
            let reply = reply.await.unwrap();
            assert_eq!(cache(&reply), came);
            reply.bytes().await;
        }
        lines(&node, 3).await;
        let count = node.metric("tidegate_overhead_seconds_count", &[]).await;
        let sum = node.metric("tidegate_overhead_seconds_sum", &[]).await;
        assert!(count as u64 == 3 && sum < 0.5, "{sum} s of {count} requests, streamed: {streamed}");
    }
}

/// Numbered answers until it dies.
async fn mortal() -> (Upstream, Arc<AtomicBool>) {
    let dead = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&dead);
    let upstream = Upstream::start(move |seen| {
        if dies.load(Ordering::Relaxed) {
            return vec![Act::Reset];
        }
        vec![Act::Send(answer::to(&seen.json(), &format!("answer {}", seen.index)))]
    })
    .await;
    (upstream, dead)
}

async fn until_stale(call: impl Fn() -> Call) -> Reply {
    until_within(Duration::from_secs(4), "a stale answer", async || {
        let reply = call().send().await;
        (cache(&reply) == "stale").then_some(reply)
    })
    .await
}

#[tokio::test]
async fn who_wants_nothing_kept_gets_no_stale_answer_either() {
    let (upstream, dead) = mortal().await;
    let node = alone(&upstream, "cache: {ttl: 1s, stale_if_error: 1h}").await;
    asked(chat(&node, false)).await;
    dead.store(true, Ordering::Relaxed);
    let fresh = async || {
        let reply = chat(&node, false).header("cache-control", "no-cache").send().await;
        assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-cache")), (502, "bypass"));
        assert_eq!(reply.header("age"), "");
    };
    fresh().await;
    until_stale(|| chat(&node, false)).await;
    fresh().await;
}

#[tokio::test]
async fn a_stale_answer_comes_in_the_form_that_was_asked_for() {
    for kept_as_stream in [false, true] {
        let (upstream, dead) = mortal().await;
        let node = alone(&upstream, "cache: {ttl: 1s, stale_if_error: 1h}").await;
        asked(chat(&node, kept_as_stream)).await;
        dead.store(true, Ordering::Relaxed);
        for streamed in [kept_as_stream, !kept_as_stream] {
            let reply = until_stale(|| chat(&node, streamed)).await;
            let kind = reply.header("content-type").to_owned();
            let text = reply.text().await;
            assert_eq!(kind.starts_with("text/event-stream"), streamed, "{kind}: {text}");
            assert_eq!(text.ends_with(DONE), streamed, "{text}");
        }
    }
}
