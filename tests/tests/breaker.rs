//! When a path is taken out of use, by what it does to requests: how soon, what clients see of it, and what never
//! counts against it.

use std::time::Duration;

use serde_json::json;
use tidegate_tests::answer;
use tidegate_tests::load::{Answered, Ask, Load, Report};
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::simulated::{Kind, Mode, Simulated};
use tidegate_tests::upstream::{Act, Upstream};

const SOON: Duration = Duration::from_secs(5);

/// `a` gets everything, `b` what `a` does not answer. A path that opens stays open for the whole test.
async fn primary_and_spare(first_byte: &str) -> (Node, Simulated, Simulated) {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let timeouts = format!("timeouts: {{first_byte: {first_byte}}}");
    let node = Setup::new()
        .upstream_with("a", &a.url(), &timeouts)
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("breaker", "{window: 6s, open_for: 60s, max_open: 60s, stalled_after: 700ms}")
        .health("choice", "{explore: 0%}")
        .start()
        .await;
    (node, a, b)
}

/// One request after another until `a@direct` is open; fails when 100 do not open it.
async fn until_open(node: &Node, ask: impl Fn() -> Ask) -> Report {
    let mut answered: Vec<Answered> = Vec::new();
    while node.path_state("a@direct").await == "closed" {
        assert!(answered.len() < 100, "still closed: {}", Report { answered }.by_second());
        answered.push(ask().send().await);
    }
    Report { answered }
}

/// Users' requests go to `b` alone from here on.
async fn left_alone(node: &Node, a: &Simulated) {
    let before = a.count(Kind::User);
    for ask in [Ask::plain(node), Ask::streamed(node), Ask::plain(node), Ask::streamed(node)] {
        let answered = ask.send().await;
        assert!(answered.ok(), "{answered:?}");
        assert_eq!((answered.path.as_str(), answered.attempts), ("b@direct", 1));
        assert_eq!(answered.said(), "from b");
    }
    assert_eq!(a.count(Kind::User), before, "users' requests at an open path");
}

#[tokio::test]
async fn a_killed_upstream_is_open_after_three_refused_connections() {
    let (node, a, b) = primary_and_spare("10s").await;
    let answered = Ask::plain(&node).send().await;
    assert_eq!((answered.path.as_str(), answered.attempts), ("a@direct", 1));
    a.kill().await;
    let report = until_open(&node, || Ask::plain(&node)).await;
    report.assert_all_ok();
    let met = report.answered.iter().filter(|a| a.attempts > 1).count();
    assert!(met <= 3, "{met} requests met the dead upstream");
    assert_eq!(b.count(Kind::User), report.len(), "each was answered by the spare");
    left_alone(&node, &a).await;
    let reason = node.path("a@direct").await["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| !reason.is_empty()), "what tripped: {reason}");
}

#[tokio::test]
async fn five_errors_in_a_row_open_a_path_whose_probes_are_well() {
    let (node, a, _b) = primary_and_spare("10s").await;
    a.probes_always_good();
    a.set(Mode::Status(500, "broken"));
    until_open(&node, || Ask::plain(&node)).await.assert_all_ok();
    assert_eq!(a.count(Kind::User), 5, "five in a row, no fewer and no more");
    left_alone(&node, &a).await;
    let path = node.path("a@direct").await;
    assert_eq!((&path["state"], &path["share"]), (&json!("open"), &json!(0.0)), "{path}");
    assert!(path["open_until"].is_string() && path["since"].is_string(), "{path}");
    let open = [("path", "a@direct"), ("state", "open")];
    assert_eq!(node.metric("tidegate_path_state", &open).await, 1.0);
    let closed = [("path", "a@direct"), ("state", "closed")];
    assert_eq!(node.metric("tidegate_path_state", &closed).await, 0.0);
}

#[tokio::test]
async fn resets_open_the_path_as_errors_do() {
    let (node, a, _b) = primary_and_spare("10s").await;
    a.probes_always_good();
    a.set(Mode::Reset);
    until_open(&node, || Ask::streamed(&node)).await.assert_all_ok();
    assert!(a.count(Kind::User) <= 5, "{} requests were reset", a.count(Kind::User));
    left_alone(&node, &a).await;
}

#[tokio::test]
async fn every_second_answer_an_error_opens_the_path_within_twenty_requests() {
    let (node, a, _b) = primary_and_spare("10s").await;
    a.probes_always_good();
    a.set(Mode::Half500);
    until_open(&node, || Ask::plain(&node)).await.assert_all_ok();
    let asked = a.count(Kind::User);
    assert!((10..=20).contains(&asked), "open after {asked} requests; fewer than ten prove nothing");
    left_alone(&node, &a).await;
}

#[tokio::test]
async fn the_second_captive_portals_page_opens_the_path() {
    let (node, a, _b) = primary_and_spare("10s").await;
    a.set(Mode::Html);
    until_open(&node, || Ask::plain(&node)).await.assert_all_ok();
    assert_eq!(a.count(Kind::User), 2);
    left_alone(&node, &a).await;
}

#[tokio::test]
async fn answers_without_content_open_the_path() {
    for mode in [Mode::Empty, Mode::Garbage] {
        let (node, a, _b) = primary_and_spare("10s").await;
        a.set(mode.clone());
        until_open(&node, || Ask::plain(&node)).await.assert_all_ok();
        assert!(a.count(Kind::User) <= 5, "{mode:?}: {} requests", a.count(Kind::User));
        left_alone(&node, &a).await;
    }
}

#[tokio::test]
async fn streams_that_break_open_the_path_and_no_client_sees_a_cut_after_that() {
    let (node, a, _b) = primary_and_spare("10s").await;
    a.set(Mode::CutStreams(40));
    let report = until_open(&node, || Ask::streamed(&node)).await;
    let cut: Vec<_> = report.answered.iter().filter(|answered| !answered.ok()).collect();
    assert!(!cut.is_empty(), "no stream was cut");
    for answered in &cut {
        assert_eq!(answered.status, 200);
        assert!(answered.text.contains("\"stream_interrupted\""), "a cut is told: {}", answered.text);
        assert!(!answered.text.contains("[DONE]"), "{}", answered.text);
    }
    assert!((10..=20).contains(&report.len()), "open after {} streams, {} cut", report.len(), cut.len());
    left_alone(&node, &a).await;
}

#[tokio::test]
async fn requests_at_a_frozen_upstream_move_long_before_their_first_byte_timeout() {
    let (node, a, b) = primary_and_spare("15s").await;
    let load = Load::start(&node, 40.0, 0.3);
    load.more(40).await;
    a.set(Mode::Silent);
    let opened = node.until_path_opened("a@direct", SOON).await;
    load.more(40).await;
    let report = load.stop().await;
    report.assert_all_ok();
    let moved = report.answered.iter().filter(|answered| answered.attempts == 2).count();
    assert!(moved >= 2, "{moved} requests moved\n{}", report.by_second());
    assert!(report.longest() < Duration::from_secs(4), "the longest took {:?}", report.longest());
    assert!(a.abandoned() >= moved, "what moved was given up at the frozen upstream");
    // What was on its way when the path opened has arrived by then.
    let late = a.count_since(Kind::User, opened + Duration::from_millis(100));
    assert_eq!(late, 0, "users' requests after it opened");
    assert!(b.count(Kind::User) >= 40);
    left_alone(&node, &a).await;
}

/// Answers well, but later than an operator accepts.
const SLOW: &str = "{slow_call: {after: 150ms, rate: 0.8}, open_for: 60s, max_open: 60s}";

#[tokio::test]
async fn a_path_that_answers_too_late_is_left_while_another_is_there() {
    let (a, b) = (Simulated::start("a").await, Simulated::start("b").await);
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("breaker", SLOW)
        .health("choice", "{hysteresis: 60s, explore: 0%}")
        .start()
        .await;
    a.set(Mode::Slow(Duration::from_millis(400)));
    let load = Load::start(&node, 20.0, 0.5);
    node.until_path_state("a@direct", "open", Duration::from_secs(10)).await;
    load.stop().await.assert_all_ok();
    left_alone(&node, &a).await;
}

#[tokio::test]
async fn the_only_path_is_never_left_for_being_slow() {
    let a = Simulated::start("a").await;
    let setup = Setup::new().upstream("a", &a.url()).quick_health().health("breaker", SLOW);
    let node = setup.start().await;
    a.set(Mode::Slow(Duration::from_millis(300)));
    let load = Load::start(&node, 20.0, 0.5);
    load.more(40).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(node.path_state("a@direct").await, "closed");
    assert_eq!(a.count(Kind::User), report.len());
}

#[tokio::test]
async fn a_model_that_fails_takes_no_other_model_with_it() {
    let a = Upstream::start(|seen| {
        let body = seen.body.as_ref();
        let fails = body.windows(12).any(|w| w == b"model-broken");
        vec![Act::Send(if fails {
            answer::whole(500, &[], "x")
        } else {
            answer::json(200, &answer::chat("a"))
        })]
    })
    .await;
    let b = Upstream::saying(answer::json(200, &answer::chat("b"))).await;
    let node = Setup::new()
        .upstream("a", &a.url())
        .upstream_with("b", &b.url(), "weight: 0")
        .quick_health()
        .health("breaker", "{open_for: 60s, max_open: 60s}")
        .health("choice", "{explore: 0%}")
        .start()
        .await;
    let ask = |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "user-1"}]});
        node.post("/v1/chat/completions", &body).send()
    };
    for _ in 0..20 {
        assert_eq!(ask("model-broken").await.status, 200);
    }
    assert_eq!(ask("model-broken").await.came_by(), ("b@direct", "1"), "this model is left alone at a");
    for _ in 0..10 {
        assert_eq!(ask("model-fine").await.came_by(), ("a@direct", "1"), "the other one is not");
    }
    let path = node.path("a@direct").await;
    assert_eq!(path["state"], "open", "a path's state is the worst of its models': {path}");
    assert!(path["models"].to_string().contains("model-"), "those that differ are named: {path}");
}

#[tokio::test]
async fn a_storm_of_bad_requests_harms_neither_the_path_nor_other_clients() {
    let refusal = answer::error("invalid_request_error", "invalid_value", "temperature is too high");
    let a = Upstream::start(move |seen| {
        if seen.body.windows(13).any(|w| w == b"\"temperature\"") {
            return vec![Act::Send(answer::json(400, &refusal))];
        }
        vec![Act::Send(answer::json(200, &answer::chat("a")))]
    })
    .await;
    let node = Setup::new().upstream("a", &a.url()).upstream("b", &a.url()).quick_health().start().await;
    let bad = json!({"model": "m", "temperature": 900, "messages": [{"role": "user", "content": "user-1"}]});
    for n in 0..300 {
        let reply = node.post("/v1/chat/completions", &bad).send().await;
        assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (400, "1"));
        if n % 10 == 0 {
            let reply = node.chat().send().await;
            assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (200, "1"));
        }
    }
    for path in ["a@direct", "b@direct"] {
        let path = node.path(path).await;
        assert_eq!((&path["state"], path["failures"].as_f64()), (&json!("closed"), Some(0.0)), "{path}");
    }
}

/// `a` serves, unharmed by what its clients did, and quick in the eyes of the node.
async fn unharmed(node: &Node) {
    let path = node.path("a@direct").await;
    assert_eq!((&path["state"], path["failures"].as_f64()), (&json!("closed"), Some(0.0)), "{path}");
    for _ in 0..10 {
        let answered = Ask::plain(node).send().await;
        assert!(answered.ok(), "{answered:?}");
        assert_eq!((answered.path.as_str(), answered.attempts), ("a@direct", 1));
    }
}

#[tokio::test]
async fn clients_with_short_deadlines_do_not_harm_the_path() {
    let (node, a, b) = primary_and_spare("10s").await;
    for _ in 0..10 {
        assert!(Ask::plain(&node).send().await.ok());
    }
    a.latency(Duration::from_millis(500));
    let load = Load::start_with(&node, 40.0, 0.5, &[("x-tidegate-timeout-ms", "100")]);
    load.more(80).await;
    let report = load.stop().await;
    let statuses: Vec<_> = report.answered.iter().map(|answered| answered.status).collect();
    assert!(statuses.iter().all(|status| *status == 504), "{statuses:?}");
    assert_eq!(b.count(Kind::User), 0, "no time was left for another path");
    a.latency(Duration::ZERO);
    unharmed(&node).await;
}

#[tokio::test]
async fn clients_that_leave_stop_the_upstream_and_do_not_harm_the_path() {
    let (node, a, b) = primary_and_spare("10s").await;
    // Before the first content, and in the middle of a stream.
    let begun = [answer::stream_head(), answer::piece(answer::role()), answer::piece(answer::delta("x"))];
    for (script, streamed) in [
        (vec![Act::Stall], false),
        (vec![Act::Stall], true),
        (vec![Act::Send(begun.concat().into()), Act::Stall], true),
    ] {
        a.set(Mode::Does(script));
        let (gone, asked) = (a.abandoned(), a.count(Kind::User));
        let mut replies = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let call = if streamed { node.chat_stream() } else { node.chat() };
            replies.spawn(async move {
                let mut reply = call.send().await;
                while reply.event().await.is_some() {}
            });
        }
        a.received(Kind::User, asked + 10).await;
        replies.shutdown().await;
        tidegate_tests::until_within(Duration::from_secs(1), "calls given up", async || {
            (a.abandoned() >= gone + 10 && a.running() == 0).then_some(())
        })
        .await;
    }
    a.set(Mode::Good);
    unharmed(&node).await;
    assert_eq!(b.count(Kind::User), 0, "nobody was left to move a request for");
}
