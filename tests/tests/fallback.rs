//! What stands in when no upstream of a route is left: the model of ours, fitted requests, honest headers; and
//! what clients get when that is not wanted or not possible either.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::client::Reply;
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::upstream::{Act, Upstream};
use tidegate_tests::{answer, until, until_within};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(5);
const BACK: Duration = Duration::from_secs(15);
const MODEL: &str = "smollm2-135m";

struct Site {
    node: Node,
    a: Simulated,
    b: Simulated,
    local: Simulated,
}

/// Two remote upstreams and a model of ours behind them.
async fn site(local_settings: &str, fallback: &str) -> Site {
    let (a, b, local) =
        (Simulated::start("a").await, Simulated::start("b").await, Simulated::start("local").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream("b", &b.url())
        .upstream_with("local", &local.url(), &format!("local: true{local_settings}"))
        .route_to("a, b", &format!("fallback: [{{upstream: local, model: {MODEL}{fallback}}}]"))
        .quick_health()
        .start()
        .await;
    Site { node, a, b, local }
}

impl Site {
    /// Both remote upstreams die, and the node has noticed.
    async fn cut_off(&self) {
        self.a.kill().await;
        self.b.kill().await;
        for path in ["a@direct", "b@direct"] {
            until_within(SOON, path, async || {
                Ask::plain(&self.node).header("x-tidegate-fallback", "off").send().await;
                (self.node.path_state(path).await == "open").then_some(())
            })
            .await;
        }
    }

    async fn chat(&self, body: &Value) -> Reply {
        self.node.post("/v1/chat/completions", body).send().await
    }
}

#[tokio::test]
async fn when_every_remote_upstream_dies_the_local_model_answers_and_they_get_their_traffic_back() {
    let site = site(", max_in_flight: 50", "").await;
    let load = Load::start(&site.node, 30.0, 0.4);
    load.more(30).await;
    assert_eq!(load.so_far().fallbacks(), 0, "no fallback while all is well");
    assert_eq!(site.node.metric("tidegate_fallback_active", &[]).await, 0.0);
    site.a.kill().await;
    site.b.kill().await;
    load.more(60).await;
    assert_eq!(site.node.metric("tidegate_fallback_active", &[]).await, 1.0);
    site.a.revive().await;
    site.b.revive().await;
    let closed = site.node.until_path_state("a@direct", "closed", BACK).await;
    let closed = closed.max(site.node.until_path_state("b@direct", "closed", BACK).await);
    load.more(30).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert!(report.fallbacks() >= 40, "{} by the fallback\n{}", report.fallbacks(), report.by_second());
    for answered in &report.answered {
        let local = answered.path == "local@direct";
        assert_eq!(answered.fallback, local, "the header tells: {answered:?}");
        assert_eq!(answered.said() == "from local", local);
        let model = answered.text.contains(&format!("\"model\":\"{MODEL}\""));
        assert_eq!(model, local, "the model is the one that answered: {}", answered.text);
    }
    let after = report.since(closed + Duration::from_millis(200));
    assert_eq!(after.fallbacks(), 0, "{}", report.by_second());
    until("no fallback in use", async || {
        (site.node.metric("tidegate_fallback_active", &[]).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_all_remote_upstreams_fail_is_answered_by_the_local_model_at_once() {
    let site = site("", "").await;
    site.a.set(Mode::Status(500, "broken"));
    site.b.set(Mode::Status(500, "broken"));
    for ask in [Ask::plain(&site.node), Ask::streamed(&site.node)] {
        let answered = ask.send().await;
        assert!(answered.ok() && answered.fallback, "{answered:?}");
        assert_eq!((answered.path.as_str(), answered.said().as_str()), ("local@direct", "from local"));
    }
    assert_eq!(site.a.count(Kind::User) + site.b.count(Kind::User), 6, "three tries for each came before");
    assert!(site.a.count(Kind::User) >= 2 && site.b.count(Kind::User) >= 2, "of both");
}

#[tokio::test]
async fn who_wants_no_fallback_gets_503_with_a_time_to_come_back() {
    let site = site("", "").await;
    site.cut_off().await;
    let asked = site.local.count(Kind::User);
    for ask in [Ask::plain(&site.node), Ask::streamed(&site.node)] {
        let answered = ask.header("x-tidegate-fallback", "off").send().await;
        assert_eq!(answered.status, 503, "{answered:?}");
        assert_eq!(answered.error(), ("overloaded_error".into(), "no_healthy_upstream".into()));
        assert!(answered.retry_after.is_some_and(|seconds| seconds >= 1), "{answered:?}");
        assert!(!answered.fallback);
    }
    assert_eq!(site.local.count(Kind::User), asked, "the local model was not asked");
    let answered = Ask::plain(&site.node).send().await;
    assert!(answered.ok() && answered.fallback, "others get it: {answered:?}");
}

#[tokio::test]
async fn when_the_local_model_is_dead_too_clients_hear_503_at_once_and_are_served_when_one_is_back() {
    let site = site("", "").await;
    site.local.kill().await;
    site.cut_off().await;
    until_within(SOON, "local@direct opened", async || {
        Ask::plain(&site.node).send().await;
        (site.node.path_state("local@direct").await == "open").then_some(())
    })
    .await;
    for _ in 0..20 {
        let answered = Ask::plain(&site.node).send().await;
        assert_eq!((answered.status, answered.error().1.as_str()), (503, "no_healthy_upstream"));
        assert!(answered.retry_after.is_some_and(|seconds| seconds >= 1), "{answered:?}");
        assert!(answered.took < Duration::from_millis(500), "{:?}", answered.took);
    }
    site.b.revive().await;
    let answered = until_within(SOON, "an answer", async || {
        let answered = Ask::plain(&site.node).send().await;
        answered.ok().then_some(answered)
    })
    .await;
    assert_eq!((answered.path.as_str(), answered.fallback), ("b@direct", false));
}

#[tokio::test]
async fn beyond_its_slots_and_queue_the_local_model_refuses_at_once() {
    let site = site(", max_in_flight: 2", "").await;
    site.cut_off().await;
    site.local.latency(Duration::from_millis(1500));
    let mut asks = JoinSet::new();
    for _ in 0..20 {
        asks.spawn(Ask::plain(&site.node).send());
    }
    let answered = asks.join_all().await;
    let (ok, refused): (Vec<_>, Vec<_>) = answered.iter().partition(|answered| answered.ok());
    // Two are served, two wait for them; a slot that a synthetic request holds is one less.
    assert!((2..=4).contains(&ok.len()), "{} of 20 were served", ok.len());
    for answered in &refused {
        assert_eq!((answered.status, answered.error().0.as_str()), (503, "overloaded_error"), "{answered:?}");
        assert!(answered.retry_after.is_some_and(|seconds| seconds >= 1), "{answered:?}");
        assert!(answered.took < Duration::from_secs(1), "not at once: {:?}", answered.took);
    }
    // Never more than two at a time: of four, the third began when one of the first had ended.
    let asked: Vec<Instant> = site.local.of(Kind::User).iter().rev().take(ok.len()).map(|a| a.at).collect();
    if let (Some(last), Some(first)) = (asked.first(), asked.last())
        && ok.len() > 2
    {
        assert!(*last - *first >= Duration::from_millis(1300), "{:?}", *last - *first);
    }
    assert_eq!(site.node.path_state("local@direct").await, "closed", "its own bound is no failure");
}

#[tokio::test]
async fn the_request_is_fitted_to_the_local_model() {
    let prompt =
        ", prompt: {system: \"Answer briefly. {original_system}\", max_tokens: 256, keep_last_turns: 2}";
    let site = site("", prompt).await;
    site.cut_off().await;
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let body = json!({"model": "gpt-4o", "max_tokens": 4000, "temperature": 0.2, "x_own_field": [1, 2],
        "messages": [say("system", "You are a pirate."), say("user", "user-1 one"), say("assistant", "aye one"),
            say("user", "user-1 two"), say("assistant", "aye two"), say("user", "user-1 three")]});
    let before = site.local.count(Kind::User);
    let reply = site.chat(&body).await;
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-fallback")), (200, "true"));
    assert_eq!(reply.json().await["model"], MODEL);
    let got = site.local.of(Kind::User)[before].seen.json();
    assert_eq!((&got["model"], &got["max_tokens"]), (&json!(MODEL), &json!(256)), "{got}");
    assert_eq!((&got["temperature"], &got["x_own_field"]), (&json!(0.2), &json!([1, 2])), "the rest stays");
    let expected = json!([
        say("system", "Answer briefly. You are a pirate."),
        say("user", "user-1 two"),
        say("assistant", "aye two"),
        say("user", "user-1 three")
    ]);
    assert_eq!(got["messages"], expected);

    // An upper bound, not a value; and a system prompt where there was none.
    let body =
        json!({"model": "gpt-4o", "max_completion_tokens": 20, "messages": [say("user", "user-1 hi")]});
    let before = site.local.count(Kind::User);
    assert_eq!(site.chat(&body).await.status, 200);
    let got = site.local.of(Kind::User)[before].seen.json();
    assert_eq!((&got["max_completion_tokens"], &got["max_tokens"]), (&json!(20), &Value::Null), "{got}");
    assert_eq!(got["messages"], json!([say("system", "Answer briefly."), say("user", "user-1 hi")]));
}

#[tokio::test]
async fn what_the_local_model_cannot_do_is_503_and_not_its_400() {
    let site = site(", capabilities: [], context_window: 2048", "").await;
    site.cut_off().await;
    let asked = site.local.count(Kind::User);
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}});
    let picture = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]);
    for body in [
        json!({"model": "m", "messages": user(json!("user-1 hi")), "tools": [tool]}),
        json!({"model": "m", "messages": user(json!("user-1 hi")), "response_format": format}),
        json!({"model": "m", "messages": user(picture)}),
        json!({"model": "m", "messages": user(json!("user-1 word ".repeat(2000)))}),
    ] {
        let reply = site.chat(&body).await;
        assert_eq!(reply.status, 503);
        assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
        assert_eq!(reply.error().await.1, "no_healthy_upstream");
    }
    assert_eq!(site.local.count(Kind::User), asked, "it was spared what it cannot do");
    assert!(Ask::plain(&site.node).send().await.fallback, "what it can do it still does");
}

/// `to` alone says `wire` to everything; `large` stands behind it for the cases in `when`.
async fn with_large(wire: bytes::Bytes, when: &str) -> (Node, Upstream, Simulated) {
    let small = Upstream::start(move |seen| {
        let probe = seen.head.starts_with("GET ");
        let models = answer::json(200, &json!({"object": "list", "data": []}));
        vec![Act::Send(if probe { models } else { wire.clone() })]
    })
    .await;
    let large = Simulated::start("large").await;
    let node = Setup::new()
        .upstream("small", &small.url())
        .upstream("large", &large.url())
        .route_to("small", &format!("fallback: [{{upstream: large, model: large-1m, when: [{when}]}}]"))
        .quick_health()
        .start()
        .await;
    (node, small, large)
}

fn too_long() -> bytes::Bytes {
    let text = "This model's maximum context length is 8192 tokens.";
    answer::json(400, &answer::error("invalid_request_error", "context_length_exceeded", text))
}

#[tokio::test]
async fn a_prompt_too_long_for_the_upstream_goes_to_the_larger_model() {
    let (node, _small, large) = with_large(too_long(), "context_length_exceeded").await;
    for ask in [Ask::plain(&node), Ask::streamed(&node)] {
        let answered = ask.send().await;
        assert!(answered.ok() && answered.fallback, "{answered:?}");
        assert_eq!(answered.said(), "from large");
    }
    assert_eq!(large.of(Kind::User)[0].seen.json()["model"], "large-1m");
    assert_eq!(node.path_state("small@direct").await, "closed", "the client's prompt is not its failure");
}

#[tokio::test]
async fn a_prompt_too_long_is_the_clients_400_where_no_fallback_is_meant_for_it() {
    let (node, _small, large) = with_large(too_long(), "unavailable").await;
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.status, answered.error().1.as_str()), (400, "context_length_exceeded"));
    assert_eq!((large.count(Kind::User), answered.fallback), (0, false));

    let (node, _small, large) = with_large(too_long(), "context_length_exceeded").await;
    let answered = Ask::plain(&node).header("x-tidegate-fallback", "off").send().await;
    assert_eq!((answered.status, answered.error().1.as_str()), (400, "context_length_exceeded"));
    assert_eq!(large.count(Kind::User), 0, "an error rather than a fallback was asked for");
}

#[tokio::test]
async fn a_refused_content_is_never_routed_around() {
    let error = answer::error("invalid_request_error", "content_filter", "The response was filtered");
    let wire = answer::json(400, &error);
    let all = "unavailable, context_length_exceeded, rate_limited";
    let (node, _small, large) = with_large(wire, all).await;
    for ask in [Ask::plain(&node), Ask::streamed(&node)] {
        let answered = ask.send().await;
        assert_eq!((answered.status, answered.attempts, answered.fallback), (400, 1, false));
        assert_eq!(answered.error().1, "content_filter");
    }
    assert_eq!(large.count(Kind::User), 0);
}

fn limited(seconds: &str) -> bytes::Bytes {
    let error = answer::error("requests", "rate_limit_exceeded", "slow down");
    answer::json_with(429, &[("retry-after", seconds)], &error)
}

#[tokio::test]
async fn when_every_key_is_limited_for_long_the_fallback_answers_where_it_is_meant_to() {
    let (node, small, large) = with_large(limited("60"), "rate_limited").await;
    for n in 1..=3 {
        let answered = Ask::plain(&node).send().await;
        assert!(answered.ok() && answered.fallback, "{answered:?}");
        assert_eq!(large.count(Kind::User), n);
    }
    let asked = small.requests().iter().filter(|seen| seen.head.starts_with("POST ")).count();
    assert_eq!(asked, 1, "the limited key rests");
    assert_eq!(node.path_state("small@direct").await, "closed", "a limit says nothing of health");
}

#[tokio::test]
async fn when_every_key_is_limited_and_no_fallback_is_meant_for_it_the_client_gets_the_429() {
    let (node, _small, large) = with_large(limited("60"), "unavailable").await;
    for _ in 0..3 {
        let answered = Ask::plain(&node).send().await;
        assert_eq!(answered.status, 429, "{answered:?}");
        assert!(answered.retry_after.is_some_and(|seconds| (50..=66).contains(&seconds)), "{answered:?}");
    }
    assert_eq!(large.count(Kind::User), 0);
}

#[tokio::test]
async fn fallbacks_are_tried_in_their_order() {
    let (first, second) = (Simulated::start("first").await, Simulated::start("second").await);
    let node = Setup::new()
        .upstream("gone", &tidegate_tests::upstream::refusing())
        .upstream("first", &first.url())
        .upstream("second", &second.url())
        .route_to("gone", "fallback: [{upstream: first}, {upstream: second}]")
        .quick_health()
        .start()
        .await;
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.said().as_str(), answered.fallback), ("from first", true));
    assert_eq!(first.of(Kind::User)[0].seen.json()["model"], "m", "without `model` the client's own stays");
    first.kill().await;
    for ask in [Ask::plain(&node), Ask::streamed(&node)] {
        let answered = ask.send().await;
        assert_eq!((answered.said().as_str(), answered.fallback), ("from second", true), "{answered:?}");
    }
}
