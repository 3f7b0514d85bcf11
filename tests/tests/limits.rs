//! What clients meet of limits: what each kind counts, over two nodes that share a store, and how a refusal looks.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{answer, until, until_within};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// An upstream that answers everything well, by 5 prompt tokens and 3 completion tokens.
async fn answering() -> Upstream {
    Upstream::start(|seen| vec![Act::Send(answer::to(&seen.json(), "yes"))]).await
}

/// The same, but each answer waits for the gate.
async fn gated() -> (Upstream, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |seen| {
        vec![Act::Wait(held.clone()), Act::Send(answer::to(&seen.json(), "yes"))]
    })
    .await;
    (upstream, gate)
}

/// Two nodes over one store, which is waited for patiently, and one upstream.
async fn pair(redis: &Redis, upstream: &Upstream, more: impl Fn(Setup) -> Setup) -> Nodes {
    Nodes::meet(2, |setup, _| more(setup.patient_store(&redis.url()).upstream("up", &upstream.url()))).await
}

/// Client `x` with these limits and client `y` without.
fn of_x(limits: &'static str) -> impl Fn(Setup) -> Setup {
    move |setup| setup.clients(&[("x", &format!("limits: [{limits}]")), ("y", "")])
}

fn ask(node: &Node, client: &str) -> Call {
    node.chat().bearer(&client_key(client))
}

fn ask_for(node: &Node, client: &str, max_tokens: u64) -> Call {
    let body =
        json!({"model": "m", "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hi"}]});
    node.post("/v1/chat/completions", &body).bearer(&client_key(client))
}

async fn admitted(call: Call) {
    let reply = call.send().await;
    let status = reply.status;
    assert_eq!(status, 200, "{}", reply.text().await);
}

/// A refusal by one of our own limits; gives `retry-after`.
async fn refused(call: Call, kind: &str, code: &str, param: &str) -> u64 {
    let reply = call.send().await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.came_by(), ("", "0"), "it met no upstream");
    let retry_after: u64 = reply.header("retry-after").parse().unwrap();
    assert!(retry_after >= 1);
    let quota = kind == "insufficient_quota";
    assert_eq!(reply.header("x-should-retry") == "false", quota, "whether a retry can help");
    let body = reply.json().await;
    let error = &body["error"];
    assert_eq!(
        (&error["type"], &error["code"], &error["param"]),
        (&json!(kind), &json!(code), &json!(param))
    );
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    retry_after
}

async fn limited(call: Call, param: &str) -> u64 {
    refused(call, "rate_limit_error", "rate_limit_exceeded", param).await
}

async fn spent(call: Call, param: &str) -> u64 {
    refused(call, "insufficient_quota", "insufficient_quota", param).await
}

/// Asks in turn until it is refused for good; how many were served.
async fn served_until_spent(nodes: &Nodes) -> usize {
    let (mut served, mut refusals) = (0, 0);
    until("it to be spent", async || {
        let reply = ask_for(&nodes[served % 2], "x", 3).send().await;
        // One refusal may be for what is reserved and not used, which comes back.
        refusals = if reply.status == 429 { refusals + 1 } else { 0 };
        served += usize::from(reply.status == 200);
        (refusals == 5).then_some(served)
    })
    .await
}

fn number(reply: &Reply, header: &str) -> u64 {
    let value = reply.header(header);
    value.parse().unwrap_or_else(|_| panic!("{header}: {value:?}"))
}

#[tokio::test]
async fn requests_of_a_client_are_counted_over_all_nodes() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, of_x("{requests: 6/min, burst: 3}")).await;
    for node in [&nodes[0], &nodes[1], &nodes[0]] {
        admitted(ask(node, "x")).await;
    }
    for node in nodes.iter() {
        let retry_after = limited(ask(node, "x"), "requests").await;
        assert!((8..=10).contains(&retry_after), "one every ten seconds: {retry_after}");
    }
    assert_eq!(upstream.count(), 3);
    admitted(ask(&nodes[0], "y")).await;
    let denied = [("scope", "client"), ("decision", "denied")];
    assert_eq!(nodes.metric("tidegate_rate_limit_decisions_total", &denied).await as u64, 2);
    assert_eq!(nodes.metric("tidegate_requests_total", &[("status", "limited")]).await as u64, 2);
}

#[tokio::test]
async fn who_waits_as_long_as_told_is_admitted() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, of_x("{requests: 30/min, burst: 1}")).await;
    admitted(ask(&nodes[0], "x")).await;
    let told = limited(ask(&nodes[1], "x"), "requests").await;
    assert!(told <= 2, "{told}");
    tokio::time::sleep(Duration::from_secs(told)).await;
    admitted(ask(&nodes[1], "x")).await;
}

#[tokio::test]
async fn tokens_are_reserved_before_they_are_used() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = pair(&redis, &upstream, of_x("{tokens: 10000/min}")).await;
    let mut asks = JoinSet::new();
    for turn in 0..50 {
        asks.spawn(ask_for(&nodes[turn % 2], "x", 1000).send());
    }
    let mut denied = 0;
    until("all to be decided", async || {
        while let Some(Ok(reply)) = asks.try_join_next() {
            assert_eq!(reply.status, 429);
            denied += 1;
        }
        (denied + upstream.count() == 50).then_some(())
    })
    .await;
    // Each is good for 1000 and its prompt; what the bucket gains meanwhile is less than one.
    let admitted = upstream.count();
    assert!((8..=11).contains(&admitted), "{admitted} of 1000 tokens each by a limit of 10000");
    gate.open(50);
    while let Some(reply) = asks.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_request_larger_than_the_limit_finds_a_full_bucket_enough() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = pair(&redis, &upstream, of_x("{tokens: 600/min}")).await;
    let large = tokio::spawn(ask_for(&nodes[0], "x", 100_000).send());
    upstream.received(1).await;
    limited(ask_for(&nodes[1], "x", 10), "tokens").await;
    gate.open(1);
    assert_eq!(large.await.unwrap().status, 200);
}

#[tokio::test]
async fn requests_that_run_are_counted_over_all_nodes_until_they_end() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = pair(&redis, &upstream, of_x("{in_flight: 2}")).await;
    let mut running = JoinSet::new();
    for node in nodes.iter() {
        running.spawn(ask(node, "x").send());
    }
    upstream.received(2).await;
    for node in nodes.iter() {
        limited(ask(node, "x"), "in_flight").await;
    }
    assert_eq!(upstream.count(), 2);
    gate.open(100);
    while let Some(reply) = running.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
    until("a place", async || (ask(&nodes[1], "x").send().await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let Some(redis) = Redis::start().await else { return };
    let (upstream, gate) = gated().await;
    let nodes = pair(&redis, &upstream, of_x("{in_flight: 1}")).await;
    let running = tokio::spawn(ask(&nodes[0], "x").send());
    upstream.received(1).await;
    limited(ask(&nodes[1], "x"), "in_flight").await;
    running.abort();
    upstream.gave_up(1).await;
    gate.open(100);
    until("a place", async || (ask(&nodes[1], "x").send().await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_spent_budget_refuses_on_every_node_and_no_retry_helps() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    // A dollar a token: eight for each answer.
    let prices = "prices: {\"*\": {input: 1000000, output: 1000000}}";
    let nodes = pair(&redis, &upstream, |s| of_x("{usd: 40/day}")(s).section(prices)).await;
    let served = served_until_spent(&nodes).await;
    assert!((2..=5).contains(&served), "{served} answers of 8 USD by a budget of 40");
    for node in nodes.iter() {
        let until_midnight = spent(ask_for(node, "x", 3), "usd").await;
        assert!(until_midnight <= 86_400, "{until_midnight}");
    }
    admitted(ask_for(&nodes[0], "y", 3)).await;
    let cost = nodes.metric("tidegate_cost_usd_total", &[("client", "x")]).await;
    assert!((cost - 8.0 * served as f64).abs() < 0.01, "{cost} USD for {served} answers");
}

#[tokio::test]
async fn a_days_tokens_refuse_on_every_node_and_no_retry_helps() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, of_x("{tokens: 40/day}")).await;
    let served = served_until_spent(&nodes).await;
    assert!((2..=5).contains(&served), "{served} answers of 8 tokens by a quota of 40");
    for node in nodes.iter() {
        spent(ask_for(node, "x", 3), "tokens").await;
    }
}

#[tokio::test]
async fn an_address_is_the_rightmost_that_no_trusted_proxy_has() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, |setup| {
        setup
            .listen("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]")
            .section("limits: [{per: ip, requests: 6/min, burst: 2}]")
    })
    .await;
    let from = |node: usize, forwarded: &str| nodes[node].chat().header("x-forwarded-for", forwarded);
    admitted(from(0, "203.0.113.1")).await;
    admitted(from(1, "203.0.113.1, 10.1.2.3")).await;
    limited(from(0, "203.0.113.1"), "requests").await;
    limited(from(1, "198.51.100.9, 203.0.113.1"), "requests").await;
    admitted(from(0, "203.0.113.2")).await;
    admitted(from(1, "203.0.113.1, 203.0.113.2")).await;
    limited(from(0, "203.0.113.2"), "requests").await;
}

#[tokio::test]
async fn an_address_that_anyone_may_claim_is_not_believed() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let limit = "limits: [{per: ip, requests: 6/min, burst: 2}]";
    let nodes = pair(&redis, &upstream, |setup| setup.section(limit)).await;
    admitted(nodes[0].chat().header("x-forwarded-for", "203.0.113.1")).await;
    admitted(nodes[1].chat().header("x-forwarded-for", "203.0.113.2")).await;
    limited(nodes[0].chat().header("x-forwarded-for", "203.0.113.3"), "requests").await;
}

#[tokio::test]
async fn a_route_a_model_and_every_client_are_counted_apart() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let route = |model: &str, limit: &str| format!("{{match: {{model: \"{model}\"}}, to: [up]{limit}}}");
    let nodes = pair(&redis, &upstream, |setup| {
        setup
            .route(&route("r-*", ", limits: [{requests: 6/min, burst: 2}]"))
            .route(&route("*", ""))
            .clients(&[("x", ""), ("y", "")])
            .section(
                "limits: [{per: model, requests: 6/min, burst: 3}, {per: client, requests: 6/min, burst: 7}]",
            )
    })
    .await;
    let ask = |node: usize, client: &str, model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        nodes[node].post("/v1/chat/completions", &body).bearer(&client_key(client))
    };
    // The route has two, whatever the model.
    admitted(ask(0, "x", "r-1")).await;
    admitted(ask(1, "x", "r-2")).await;
    limited(ask(0, "x", "r-3"), "requests").await;
    // A model has three, whoever asks.
    for (node, client) in [(0, "x"), (1, "y"), (0, "y")] {
        admitted(ask(node, client, "m")).await;
    }
    limited(ask(1, "y", "m"), "requests").await;
    // A client has seven; what another limit refused is not counted.
    for (node, model) in [(0, "n"), (1, "n"), (0, "n"), (1, "o")] {
        admitted(ask(node, "x", model)).await;
    }
    limited(ask(0, "x", "o"), "requests").await;
    admitted(ask(1, "y", "o")).await;
}

#[tokio::test]
async fn a_smooth_limit_paces_requests_instead_of_letting_them_burst() {
    let Some(redis) = Redis::start().await else { return };
    let arrived = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let times = arrived.clone();
    let upstream = Upstream::start(move |seen| {
        times.lock().unwrap().push(Instant::now());
        vec![Act::Send(answer::to(&seen.json(), "yes"))]
    })
    .await;
    let limit = "limits: [{per: model, requests: 1200/min, smooth: true, queue_timeout: 5s}]";
    let nodes = pair(&redis, &upstream, |setup| setup.section(limit)).await;
    let mut asks = JoinSet::new();
    for turn in 0..20 {
        asks.spawn(nodes[turn % 2].chat().send());
    }
    while let Some(reply) = asks.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
    // 50 ms between any two, give or take what a loaded machine adds to a sleep.
    let times = arrived.lock().unwrap().clone();
    let span = *times.last().unwrap() - times[0];
    assert!(span >= Duration::from_millis(19 * 50 - 100), "twenty within {span:?}");
    for window in times.windows(6) {
        let took = window[5] - window[0];
        assert!(took >= Duration::from_millis(5 * 50 - 100), "six within {took:?}");
    }
}

#[tokio::test]
async fn a_smooth_limits_queue_is_bounded() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let limit = "limits: [{per: model, requests: 60/min, smooth: true, queue: 2, queue_timeout: 5s}]";
    let nodes = pair(&redis, &upstream, |setup| setup.section(limit)).await;
    let begun = Instant::now();
    let mut asks = JoinSet::new();
    for _ in 0..20 {
        asks.spawn(nodes[0].chat().send());
    }
    let mut statuses = Vec::new();
    while let Some(reply) = asks.join_next().await {
        statuses.push(reply.unwrap().status.as_u16());
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((1..=3).contains(&served), "one at once and two who wait: {statuses:?}");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn answers_say_what_is_left_in_openais_words() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, of_x("{requests: 60/min}, {tokens: 60000/min}")).await;
    let first = ask_for(&nodes[0], "x", 1000).send().await;
    let second = ask_for(&nodes[1], "x", 10).send().await;
    for (reply, left) in [(&first, 59), (&second, 58)] {
        assert_eq!(number(reply, "x-ratelimit-limit-requests"), 60);
        assert_eq!(number(reply, "x-ratelimit-limit-tokens"), 60_000);
        let requests = number(reply, "x-ratelimit-remaining-requests");
        // One more a second.
        assert!((left..=left + 1).contains(&requests), "{requests} left of 60");
        for header in ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"] {
            let value = reply.header(header);
            let plain = |c: char| c.is_ascii_digit() || ".hms".contains(c);
            assert!(value.starts_with(|c: char| c.is_ascii_digit()) && value.chars().all(plain), "{value}");
            assert!(value.ends_with('s'), "{value}");
        }
    }
    let tokens = number(&first, "x-ratelimit-remaining-tokens");
    assert!((58_900..=59_000).contains(&tokens), "1000 and the prompt are reserved: {tokens}");
    let without = ask(&nodes[0], "y").send().await;
    assert_eq!(without.header("x-ratelimit-limit-requests"), "", "no limit applies");
}

#[tokio::test]
async fn tokens_that_were_not_used_come_back() {
    let Some(redis) = Redis::start().await else { return };
    let failing = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fails = failing.clone();
    let upstream = Upstream::start(move |seen| {
        if fails.load(std::sync::atomic::Ordering::Relaxed) {
            return vec![Act::Send(answer::json(500, &answer::error("server_error", "no", "no")))];
        }
        vec![Act::Send(answer::to(&seen.json(), "yes"))]
    })
    .await;
    // A day's tokens come back by settlement alone.
    let nodes = pair(&redis, &upstream, of_x("{tokens: 10000/day}")).await;
    let first = ask_for(&nodes[0], "x", 5000).send().await;
    let left = number(&first, "x-ratelimit-remaining-tokens");
    assert!((4900..=5000).contains(&left), "reserved: {left}");
    first.bytes().await;
    let is_left = async || {
        let reply = ask_for(&nodes[1], "x", 1).send().await;
        let left = number(&reply, "x-ratelimit-remaining-tokens");
        // Eight each have really been used, and this one's reservation is still on.
        (left >= 9500).then_some(left)
    };
    until_within(Duration::from_secs(3), "tokens to come back", is_left).await;
    failing.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(ask_for(&nodes[0], "x", 5000).send().await.status, 502);
    failing.store(false, std::sync::atomic::Ordering::Relaxed);
    until_within(Duration::from_secs(3), "tokens of a failure to come back", is_left).await;
}

#[tokio::test]
async fn usage_is_asked_for_and_taken_out_again() {
    let Some(redis) = Redis::start().await else { return };
    let upstream = answering().await;
    let nodes = pair(&redis, &upstream, of_x("{tokens: 10000/min}")).await;
    let streamed = |options: Value| {
        let mut body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        if !options.is_null() {
            body["stream_options"] = options;
        }
        nodes[0].post("/v1/chat/completions", &body).bearer(&client_key("x"))
    };
    let plain = streamed(json!(null)).send().await.text().await;
    let asked = streamed(json!({"include_usage": true})).send().await.text().await;
    let declined = streamed(json!({"include_usage": false})).send().await.text().await;
    for (index, seen) in upstream.requests().iter().enumerate() {
        assert_eq!(seen.json()["stream_options"]["include_usage"], true, "request {index}");
    }
    for text in [&plain, &declined] {
        assert!(!text.contains("prompt_tokens") && text.ends_with(answer::DONE), "{text}");
        assert_eq!(answer::text_of(text), "yes");
    }
    assert!(asked.contains("\"prompt_tokens\":5") && asked.ends_with(answer::DONE), "{asked}");
    for (kind, tokens) in [("prompt", 15), ("completion", 9)] {
        let counted = nodes.metric("tidegate_tokens_total", &[("client", "x"), ("kind", kind)]).await;
        assert_eq!(counted as u64, tokens, "{kind}");
    }
}

#[tokio::test]
async fn a_node_without_a_store_keeps_limits_of_its_own() {
    let upstream = answering().await;
    let node =
        of_x("{requests: 6/min, burst: 2}, {in_flight: 50}")(Setup::new().upstream("up", &upstream.url()));
    let node = node.start().await;
    admitted(ask(&node, "x")).await;
    admitted(ask(&node, "x")).await;
    limited(ask(&node, "x"), "requests").await;
    admitted(ask(&node, "y")).await;
    let store = node.status().await["store"].clone();
    assert_eq!((&store["kind"], &store["state"]), (&json!("embedded"), &json!("up")), "{store}");
}
