//! What a client sees when an upstream fails before its answer has begun, and what each upstream was asked.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use tidegate_tests::answer::{self, DONE};
use tidegate_tests::node::{Node, Setup, upstream_key};
use tidegate_tests::upstream::{Act, Script, Upstream, refusing};
use tidegate_tests::within;
use tokio::time::Instant;

fn good() -> Script {
    vec![Act::Send(answer::json(200, &answer::chat("from b")))]
}

/// A plain and a streamed request meet `broken` first; both are answered by the second path, after one try each.
async fn second_path_answers_after(broken: Script) {
    let first = Upstream::doing(broken).await;
    let second = Upstream::start(|seen| {
        if seen.json()["stream"] == true { vec![Act::Send(answer::stream(&["from ", "b"]))] } else { good() }
    })
    .await;
    let node = Setup::new()
        .upstream_with("a", &first.url(), "timeouts: {first_byte: 300ms}")
        .upstream("b", &second.url())
        .start()
        .await;

    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    assert_eq!(reply.json().await, answer::chat("from b"), "nothing of the first answer is left");
    assert_eq!((first.count(), second.count()), (1, 1), "each path was asked once");
    assert_eq!(first.request().body, second.request().body, "both got the same bytes");

    let reply = node.chat_stream().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    let text = reply.text().await;
    assert_eq!(answer::text_of(&text), "from b");
    assert!(text.ends_with(DONE), "{text}");
    assert_eq!((first.count(), second.count()), (2, 2));
    assert_eq!(
        node.metric("tidegate_failovers_total", &[("from", "a@direct"), ("to", "b@direct")]).await,
        2.0
    );
}

#[tokio::test]
async fn reset_before_the_head_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Reset]).await;
}

#[tokio::test]
async fn close_before_the_head_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Close]).await;
}

#[tokio::test]
async fn a_500_moves_to_the_second_path() {
    let body = answer::error("server_error", "boom", "broken");
    second_path_answers_after(vec![Act::Send(answer::json(500, &body))]).await;
}

#[tokio::test]
async fn a_529_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Send(answer::whole(529, &[], "busy"))]).await;
}

#[tokio::test]
async fn a_captive_portals_page_moves_to_the_second_path() {
    let page = answer::whole(200, &[("content-type", "text/html; charset=utf-8")], "<html>Log in</html>");
    second_path_answers_after(vec![Act::Send(page)]).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_but_moves_to_the_second_path() {
    let portal = answer::whole(302, &[("location", "http://127.0.0.1:1/login")], "");
    second_path_answers_after(vec![Act::Send(portal)]).await;
}

#[tokio::test]
async fn an_empty_answer_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Send(answer::whole(
        200,
        &[("content-type", "application/json")],
        "",
    ))])
    .await;
}

#[tokio::test]
async fn truncated_json_moves_to_the_second_path() {
    let half = &answer::chat("x").to_string()[..60];
    let wire = answer::whole(200, &[("content-type", "application/json")], half);
    second_path_answers_after(vec![Act::Send(wire)]).await;
}

#[tokio::test]
async fn a_body_shorter_than_promised_moves_to_the_second_path() {
    let wire = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\":";
    second_path_answers_after(vec![Act::Send(Bytes::from_static(wire)), Act::Close]).await;
}

#[tokio::test]
async fn a_wrong_content_type_moves_to_the_second_path() {
    let wire = answer::whole(200, &[("content-type", "text/plain")], answer::chat("x").to_string());
    second_path_answers_after(vec![Act::Send(wire)]).await;
}

#[tokio::test]
async fn an_answer_without_choices_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Send(answer::json(
        200,
        &json!({"id": "x", "object": "chat.completion"}),
    ))])
    .await;
}

#[tokio::test]
async fn an_error_object_with_status_200_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Send(answer::json(
        200,
        &answer::error("server_error", "oops", "no"),
    ))])
    .await;
}

#[tokio::test]
async fn silence_beyond_first_byte_moves_to_the_second_path() {
    second_path_answers_after(vec![Act::Stall]).await;
}

#[tokio::test]
async fn a_stream_that_only_says_who_speaks_moves_to_the_second_path() {
    let wire = [answer::stream_head(), answer::piece(answer::role()), answer::piece(": ping\n\n")].concat();
    second_path_answers_after(vec![Act::Send(wire.into()), Act::Stall]).await;
}

#[tokio::test]
async fn an_error_as_the_first_event_moves_to_the_second_path() {
    let event = answer::event(&answer::error("server_error", "overloaded", "no").to_string());
    let wire = [answer::stream_head(), answer::piece(event), answer::last_piece()].concat();
    second_path_answers_after(vec![Act::Send(wire.into())]).await;
}

#[tokio::test]
async fn a_stream_without_content_moves_to_the_second_path() {
    let wire = [answer::stream_head(), answer::piece(DONE), answer::last_piece()].concat();
    second_path_answers_after(vec![Act::Send(wire.into())]).await;
}

#[tokio::test]
async fn a_refused_connection_moves_to_the_second_path() {
    let second = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &refusing()).upstream("b", &second.url()).start().await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    assert_eq!(second.count(), 1);
    let outcomes = [("path", "a@direct"), ("outcome", "connect")];
    assert_eq!(node.metric("tidegate_upstream_requests_total", &outcomes).await, 1.0);
    let ok = [("path", "b@direct"), ("outcome", "ok")];
    assert_eq!(node.metric("tidegate_upstream_requests_total", &ok).await, 1.0);
}

#[tokio::test]
async fn nothing_reaches_the_client_before_the_first_content() {
    let gate = tidegate_tests::upstream::Gate::new();
    let wire = [answer::stream_head(), answer::piece(answer::role())].concat();
    let first = Upstream::doing(vec![Act::Send(wire.into()), Act::Wait(gate.clone()), Act::Reset]).await;
    let second = Upstream::doing(vec![Act::Send(answer::stream(&["whole"]))]).await;
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    let call = tokio::spawn(node.chat_stream().send());
    first.received(1).await;
    // The role is out, the first path then breaks: had the head been sent on, it would name the first path.
    gate.open(1);
    let reply = call.await.unwrap();
    assert_eq!(reply.came_by(), ("b@direct", "2"));
    let text = reply.text().await;
    assert_eq!(answer::text_of(&text), "whole");
    assert_eq!(text.matches("assistant").count(), 1, "one role, the second path's: {text}");
}

/// Every path fails with `broken`: the client's error by the table of errors.
async fn all_fail(broken: Script, status: u16, kind: &str, code: &str) -> (Node, Upstream, Upstream) {
    let (first, second) = (Upstream::doing(broken.clone()).await, Upstream::doing(broken).await);
    let short = "timeouts: {first_byte: 200ms}";
    let node = Setup::new()
        .upstream_with("a", &first.url(), short)
        .upstream_with("b", &second.url(), short)
        .start()
        .await;
    let reply = node.chat().header("x-stainless-retry-count", "1").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (status, "2"));
    assert_eq!(reply.error().await, (kind.to_owned(), code.to_owned()));
    assert_eq!((first.count(), second.count()), (1, 1), "a client that repeats itself is not repeated for");
    (node, first, second)
}

#[tokio::test]
async fn when_all_answer_500_the_client_gets_502_upstream_5xx() {
    all_fail(vec![Act::Send(answer::whole(500, &[], "x"))], 502, "upstream_error", "upstream_5xx").await;
}

#[tokio::test]
async fn when_all_answer_html_the_client_gets_502_bad_response() {
    let page = answer::whole(200, &[("content-type", "text/html")], "<html>");
    all_fail(vec![Act::Send(page)], 502, "upstream_error", "bad_response").await;
}

#[tokio::test]
async fn when_all_are_silent_the_client_gets_504_timeout() {
    let (_node, first, second) = all_fail(vec![Act::Stall], 504, "upstream_error", "timeout").await;
    first.gave_up(1).await;
    second.gave_up(1).await;
}

#[tokio::test]
async fn when_all_refuse_the_connection_the_client_gets_502_connect() {
    let node = Setup::new().upstream("a", &refusing()).upstream("b", &refusing()).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await, ("upstream_error".into(), "connect".into()));
}

#[tokio::test]
async fn an_unknown_host_gives_502_dns() {
    let node = Setup::new().upstream("a", "http://nowhere.invalid/v1").start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await, ("upstream_error".into(), "dns".into()));
}

#[tokio::test]
async fn a_path_is_not_tried_twice_while_another_exists() {
    let broken = vec![Act::Send(answer::whole(500, &[], "x"))];
    let all = [
        Upstream::doing(broken.clone()).await,
        Upstream::doing(broken.clone()).await,
        Upstream::doing(broken).await,
    ];
    let node = Setup::new()
        .upstream("a", &all[0].url())
        .upstream("b", &all[1].url())
        .upstream("c", &all[2].url())
        .start()
        .await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (502, "3"));
    assert_eq!(all.each_ref().map(Upstream::count), [1, 1, 1]);
}

#[tokio::test]
async fn the_only_path_is_tried_again_up_to_the_limit_of_attempts() {
    let flaky =
        Upstream::start(
            |seen| {
                if seen.index < 2 { vec![Act::Send(answer::whole(503, &[], "x"))] } else { good() }
            },
        )
        .await;
    let node = Setup::new().upstream("a", &flaky.url()).start().await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "3")));
    assert_eq!(flaky.count(), 3);
}

#[tokio::test]
async fn attempts_of_unknown_fate_are_at_most_two() {
    let silent = Upstream::doing(vec![Act::Stall]).await;
    let short = "timeouts: {first_byte: 150ms}";
    let retry = "{attempts: 5, backoff: {initial: 1ms, factor: 2, max: 5ms}, budget: 100%}";
    let node = Setup::new().upstream_with("a", &silent.url(), short).retry(retry).start().await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (504, "2"));
    assert_eq!(silent.count(), 2, "each may have been billed");
}

#[tokio::test]
async fn a_keep_alive_connection_closed_while_idle_costs_no_attempt() {
    // Says keep-alive and then closes behind each answer, as servers do when a connection was idle for long.
    let rude = Upstream::doing(vec![Act::Send(answer::json(200, &answer::chat("x"))), Act::Close]).await;
    let node = Setup::new().upstream("a", &rude.url()).start().await;
    for n in 1..=20 {
        let reply = node.chat().send().await;
        assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
        assert_eq!(rude.count(), n);
    }
}

#[tokio::test]
async fn a_rate_limited_key_gives_way_to_the_second_key() {
    let limit = answer::error("requests", "rate_limit_exceeded", "slow down");
    let upstream = Upstream::start(move |seen| {
        if seen.header("authorization") == Some("Bearer sk-first-key") {
            vec![Act::Send(answer::json_with(429, &[("retry-after", "7")], &limit))]
        } else {
            good()
        }
    })
    .await;
    let node = Setup::new()
        .upstream_with("a", &upstream.url(), "keys: [{env: ONE}, {env: TWO}]")
        .env("ONE", "sk-first-key")
        .env("TWO", "sk-second-key")
        .start()
        .await;
    // Whichever key is first in turn, the limited one is used once and then rests for the seven seconds.
    for _ in 0..12 {
        let reply = node.chat().send().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json().await, answer::chat("from b"));
    }
    let limited = upstream
        .requests()
        .iter()
        .filter(|r| r.header("authorization") == Some("Bearer sk-first-key"))
        .count();
    assert_eq!(limited, 1, "Retry-After was honoured");
    assert_eq!(upstream.count(), 13);
}

#[tokio::test]
async fn an_upstream_without_keys_that_limits_is_left_alone_as_long_as_it_asks() {
    let limit = answer::error("requests", "rate_limit_exceeded", "slow down");
    let limited = Upstream::saying(answer::json_with(429, &[("retry-after", "60")], &limit)).await;
    let node = Setup::new().upstream_without_key("a", &limited.url()).start().await;
    for _ in 0..5 {
        let reply = node.chat().send().await;
        assert_eq!(reply.status, 429);
        assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    }
    assert_eq!(limited.count(), 1, "asked once, then left alone");
}

#[tokio::test]
async fn a_path_whose_only_key_was_refused_comes_after_every_other() {
    let refusing = Upstream::saying(answer::json(401, &answer::error("x", "invalid_api_key", "no"))).await;
    let other = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &refusing.url()).upstream("b", &other.url()).start().await;
    for _ in 0..5 {
        assert_eq!(node.chat().send().await.status, 200);
    }
    assert_eq!((refusing.count(), other.count()), (1, 5));
}

#[tokio::test]
async fn a_compressed_error_is_understood_and_another_upstream_asked() {
    let error = answer::error("invalid_request_error", "model_not_found", "no such model");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(error.to_string().as_bytes()).unwrap();
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let lacking = Upstream::saying(answer::whole(404, &headers, gzip.finish().unwrap())).await;
    let other = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &lacking.url()).upstream("b", &other.url()).start().await;
    let reply = node.chat().header("accept-encoding", "br, gzip;q=0.8").send().await;
    assert_eq!((reply.status.as_u16(), lacking.count(), other.count()), (200, 1, 1));
    assert_eq!(lacking.request().header("accept-encoding"), Some("gzip"), "only what this node can read");
}

#[tokio::test]
async fn a_page_instead_of_an_api_error_moves_to_the_second_path() {
    let page = answer::whole(404, &[("content-type", "text/html")], "<h1>not here</h1>");
    second_path_answers_after(vec![Act::Send(page)]).await;
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for_when_nothing_else_can_answer() {
    let limit = answer::error("requests", "rate_limit_exceeded", "slow down");
    let upstream = Upstream::start(move |seen| {
        if seen.index == 0 {
            vec![Act::Send(answer::json_with(429, &[("retry-after", "1")], &limit))]
        } else {
            good()
        }
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let start = Instant::now();
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "2")));
    assert!(start.elapsed() >= Duration::from_secs(1), "asked again after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_long_retry_after_goes_to_the_client_as_the_upstream_said_it() {
    let limit = answer::error("requests", "rate_limit_exceeded", "slow down");
    let wire =
        answer::json_with(429, &[("retry-after", "60"), ("x-ratelimit-remaining-requests", "0")], &limit);
    let upstream = Upstream::saying(wire).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let reply = within(Duration::from_secs(2), "an answer without waiting", node.chat().send()).await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, "60"));
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "0");
    assert_eq!(reply.json().await, limit);
    // The key rests: the upstream is left alone, and the client is told for how long.
    let reply = node.chat().send().await;
    let wait: u64 = reply.header("retry-after").parse().unwrap();
    assert!((55..=66).contains(&wait), "retry-after: {wait}");
    assert_eq!((reply.status.as_u16(), reply.header("x-tidegate-attempts")), (429, "0"));
    assert_eq!(reply.error().await, ("rate_limit_error".into(), "rate_limit_exceeded".into()));
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_refused_key_rests_and_the_client_never_sees_our_401() {
    let refusal =
        answer::error("invalid_request_error", "invalid_api_key", "Incorrect API key: sk-bad-key-1234");
    let upstream = Upstream::start(move |seen| {
        if seen.header("authorization") == Some("Bearer sk-bad-key-1234") {
            vec![Act::Send(answer::json(401, &refusal))]
        } else {
            good()
        }
    })
    .await;
    let node = Setup::new()
        .upstream_with("a", &upstream.url(), "keys: [{env: BAD}, {env: GOOD}]")
        .env("BAD", "sk-bad-key-1234")
        .env("GOOD", "sk-good-key-1234")
        .start()
        .await;
    for _ in 0..10 {
        let reply = node.chat().send().await;
        assert_eq!(reply.status, 200);
    }
    let bad = upstream
        .requests()
        .iter()
        .filter(|r| r.header("authorization") == Some("Bearer sk-bad-key-1234"))
        .count();
    assert_eq!(bad, 1, "the refused key rests");
    assert!(!node.process.output().contains("sk-bad-key"), "the log names the key");
}

#[tokio::test]
async fn when_the_only_key_is_refused_the_client_gets_502_upstream_auth() {
    for status in [401, 403] {
        let refusal =
            answer::error("invalid_request_error", "invalid_api_key", "Incorrect key sk-of-upstream-a");
        let upstream = Upstream::saying(answer::json(status, &refusal)).await;
        let node = Setup::new().upstream("a", &upstream.url()).start().await;
        let reply = node.chat().send().await;
        assert_eq!((reply.status.as_u16(), reply.header("x-should-retry")), (502, "false"));
        assert!(reply.headers.get("www-authenticate").is_none());
        let text = reply.text().await;
        assert!(text.contains("\"upstream_auth\"") && !text.contains("sk-of"), "{text}");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_spent_quota_moves_to_another_upstream_and_its_key_rests() {
    let spent = answer::error("insufficient_quota", "insufficient_quota", "You exceeded your current quota");
    let first = Upstream::saying(answer::json(429, &spent)).await;
    let second = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    assert_eq!(node.chat().send().await.came_by(), ("b@direct", "2"));
    assert_eq!(node.chat().send().await.came_by(), ("b@direct", "1"), "the key rests for minutes");
    assert_eq!(first.count(), 1);
}

#[tokio::test]
async fn a_spent_quota_without_alternative_tells_the_client_not_to_retry() {
    for (status, kind) in [(429, "insufficient_quota"), (400, "insufficient_quota"), (402, "billing")] {
        let spent = answer::error(kind, "insufficient_quota", "You exceeded your current quota");
        let upstream = Upstream::saying(answer::json(status, &spent)).await;
        let node = Setup::new().upstream("a", &upstream.url()).start().await;
        let reply = node.chat().send().await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-should-retry")),
            (429, "false"),
            "upstream said {status}"
        );
        assert!(!reply.header("retry-after").is_empty());
        assert_eq!(reply.error().await.1, "insufficient_quota");
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_model_one_upstream_lacks_is_asked_for_elsewhere() {
    let unknown = answer::error("invalid_request_error", "model_not_found", "The model `m` does not exist");
    let first = Upstream::saying(answer::json(404, &unknown)).await;
    let second = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    assert_eq!(node.chat().send().await.came_by(), ("b@direct", "2"));
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[tokio::test]
async fn a_model_nobody_has_is_the_upstreams_404() {
    let unknown = answer::error("invalid_request_error", "model_not_found", "The model `m` does not exist");
    let wire = answer::json(404, &unknown);
    let (first, second) = (Upstream::saying(wire.clone()).await, Upstream::saying(wire).await);
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json().await, unknown);
    assert_eq!((first.count(), second.count()), (1, 1));
}

#[tokio::test]
async fn a_clients_fault_goes_through_with_the_upstreams_own_body() {
    for status in [400, 404, 409, 413, 415, 422] {
        let body =
            format!("{{ \"error\":{{\"message\":\"été\",  \"code\":\"odd_{status}\",\"weird\":1.50}} }}");
        let headers = [("content-type", "application/json; charset=utf-8"), ("x-upstream-says", "why")];
        let first = Upstream::saying(answer::whole(status, &headers, &body)).await;
        let second = Upstream::doing(good()).await;
        let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
        for call in [node.chat(), node.chat_stream()] {
            let reply = call.send().await;
            assert_eq!((reply.status.as_u16(), reply.came_by()), (status, ("a@direct", "1")));
            assert_eq!(reply.header("content-type"), "application/json; charset=utf-8");
            assert_eq!(reply.header("x-upstream-says"), "why");
            assert_eq!(reply.text().await, body);
        }
        assert_eq!((first.count(), second.count()), (2, 0), "not retried");
    }
}

#[tokio::test]
async fn the_retry_budget_bounds_the_load_on_failing_upstreams() {
    let broken = Upstream::saying(answer::whole(500, &[], "x")).await;
    let retry = "{attempts: 3, backoff: {initial: 1ms, factor: 2, max: 2ms}, budget: 10%}";
    let node = Setup::new().upstream("a", &broken.url()).retry(retry).start().await;
    let offered = 300;
    let mut told = String::new();
    for _ in 0..offered {
        let reply = node.chat().send().await;
        assert_eq!(reply.status, 502);
        told = reply.header("x-should-retry").to_owned();
    }
    assert_eq!(told, "false", "what we refuse to repeat, an SDK should not repeat for us");
    // A tenth of the requests, and the one a second that is always allowed.
    let repeats = broken.count() - offered;
    assert!(repeats > 0, "nothing was repeated");
    assert!(repeats <= offered / 10 + 30, "{repeats} repeats of {offered} requests");
}

#[tokio::test]
async fn the_clients_deadline_gives_504_and_stops_the_upstream() {
    let silent = Upstream::doing(vec![Act::Stall]).await;
    let spare = Upstream::doing(vec![Act::Stall]).await;
    let node = Setup::new().upstream("a", &silent.url()).upstream("b", &spare.url()).start().await;
    for call in [node.chat(), node.chat_stream()] {
        let start = Instant::now();
        let reply = call.header("x-tidegate-timeout-ms", "300").send().await;
        let took = start.elapsed();
        assert_eq!(reply.status, 504);
        assert_eq!(reply.error().await, ("upstream_error".into(), "timeout".into()));
        assert!(took >= Duration::from_millis(290) && took < Duration::from_secs(2), "{took:?}");
    }
    silent.gave_up(2).await;
    assert_eq!(spare.count(), 0, "no time was left for another path");
    assert!(silent.requests().iter().all(|r| r.header("x-tidegate-timeout-ms").is_none()));
}

#[tokio::test]
async fn a_deadline_that_is_no_number_is_refused() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    for value in ["soon", "-1", "0", "1.5"] {
        let reply = node.chat().header("x-tidegate-timeout-ms", value).send().await;
        assert_eq!(reply.status, 400, "{value}");
        assert_eq!(reply.error().await.0, "invalid_request_error");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_request_with_side_effects_is_not_sent_twice() {
    let broken = Upstream::saying(answer::whole(500, &[], "x")).await;
    let second = Upstream::saying(answer::json(200, &json!({"id": "batch_1"}))).await;
    let node = Setup::new().upstream("a", &broken.url()).upstream("b", &second.url()).start().await;
    let reply =
        node.post("/v1/batches", &json!({"input_file_id": "f", "endpoint": "/v1/embeddings"})).send().await;
    assert_eq!(reply.status, 502);
    let responses = json!({"model": "m", "input": "hi", "background": true});
    let reply = node.post("/v1/responses", &responses).send().await;
    assert_eq!(reply.status, 502);
    assert_eq!((broken.count(), second.count()), (2, 0));
}

#[tokio::test]
async fn a_request_with_side_effects_may_move_while_nothing_was_sent() {
    let second = Upstream::saying(answer::json(200, &json!({"id": "batch_1"}))).await;
    let node = Setup::new().upstream("a", &refusing()).upstream("b", &second.url()).start().await;
    let reply =
        node.post("/v1/batches", &json!({"input_file_id": "f", "endpoint": "/v1/embeddings"})).send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    assert_eq!(second.count(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_upstream_and_is_nobodys_failure() {
    let silent = Upstream::doing(vec![Act::Stall]).await;
    let node = Setup::new().upstream("a", &silent.url()).start().await;
    let call = tokio::spawn(node.chat().send());
    silent.received(1).await;
    let start = Instant::now();
    call.abort();
    silent.gave_up(1).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(node.metric("tidegate_api_errors_total", &[]).await, 0.0);
    assert_eq!(silent.count(), 1, "and is not tried again");
}

#[tokio::test]
async fn every_upstream_is_asked_with_its_own_key() {
    let first = Upstream::doing(vec![Act::Send(answer::whole(500, &[], ""))]).await;
    let second = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    assert_eq!(node.chat().bearer("sk-the-clients-own").send().await.status, 200);
    for (upstream, name) in [(first, "a"), (second, "b")] {
        let expected = format!("Bearer {}", upstream_key(name));
        let request = upstream.request();
        assert_eq!(request.header("authorization"), Some(expected.as_str()));
        assert!(!request.head.contains("sk-the-clients-own"), "{}", request.head);
    }
}
