//! What becomes of an event stream on its way: every byte of every event, at once, and an honest end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tidegate_tests::answer::{self, DONE, delta, event, finish, last_piece, piece, role, stream_head};
use tidegate_tests::client::Reply;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::upstream::{Act, Gate, Script, Upstream};
use tidegate_tests::{until, within};
use tokio::time::Instant;

/// A stream in one write per piece, ended in order.
fn pieces<T: AsRef<[u8]>>(parts: &[T]) -> Script {
    let mut wire = vec![Act::Send(stream_head())];
    wire.extend(parts.iter().map(|p| Act::Send(piece(p))));
    wire.push(Act::Send(last_piece()));
    wire
}

/// A stream that ends as `end` says after these parts.
fn broken(parts: &[String], end: Act) -> Script {
    let mut wire = pieces(parts);
    wire.pop();
    wire.push(end);
    wire
}

async fn through(script: Script, settings: &str) -> (Node, Upstream, Reply) {
    let upstream = Upstream::doing(script).await;
    let node = Setup::new().upstream_with("a", &upstream.url(), settings).start().await;
    let reply = node.chat_stream().send().await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("text/event-stream"), "{:?}", reply.headers);
    (node, upstream, reply)
}

/// What the client gets of these parts.
async fn relayed<T: AsRef<[u8]>>(parts: &[T]) -> String {
    let (_node, upstream, reply) = through(pieces(parts), "").await;
    let text = reply.text().await;
    assert_eq!(upstream.count(), 1);
    text
}

/// Fails unless `text` is these events and then one error event of ours, without `[DONE]`.
fn ends_in_error(text: &str, before: &str, code: &str) {
    let rest = text.strip_prefix(before).unwrap_or_else(|| panic!("expected {before:?} first: {text:?}"));
    let data = rest.strip_prefix("data: ").and_then(|r| r.strip_suffix("\n\n"));
    let data = data.unwrap_or_else(|| panic!("expected one error event last: {rest:?}"));
    let error: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(error["error"]["type"], "upstream_error", "{error}");
    assert_eq!(error["error"]["code"], code, "{error}");
    assert!(!text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn a_stream_comes_through_byte_by_byte() {
    let parts = [role(), delta("Grüße"), delta(", 世界 🌊\u{2028}"), finish(), DONE.to_owned()];
    assert_eq!(relayed(&parts).await, parts.concat());
}

#[tokio::test]
async fn crlf_comments_fields_and_multi_line_data_come_through_untouched() {
    let chunk = delta("x");
    let json = chunk.trim_end().strip_prefix("data: ").unwrap();
    let (left, right) = json.split_at(json.find(',').unwrap() + 1);
    let parts = [
        ": a comment before all\n\n".to_owned(),
        role().replace("\n\n", "\r\n\r\n"),
        ": ping\r\n\r\n".to_owned(),
        format!("event: chunk\r\nid: 7\r\nretry: 10\r\ndata:{json}\r\n\r\n"),
        format!("data: {left}\ndata: {right}\n\n"),
        finish(),
        DONE.to_owned(),
    ];
    assert_eq!(relayed(&parts).await, parts.concat());
}

#[tokio::test]
async fn events_split_inside_a_character_and_many_to_a_packet_come_through() {
    let whole = [role(), delta("ä"), delta("世"), delta("🌊"), finish(), DONE.to_owned()].concat();
    let bytes = whole.as_bytes();
    assert_eq!(relayed(&[bytes]).await, whole, "all in one packet");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(relayed(&single).await, whole, "a byte each");
    for cut in [1, 2, 3] {
        let at = whole.find('🌊').unwrap() + cut;
        assert_eq!(relayed(&[&bytes[..at], &bytes[at..]]).await, whole, "cut inside a character");
    }
}

#[tokio::test]
async fn a_missing_done_is_added_after_a_finish_reason() {
    let parts = [role(), delta("x"), finish()];
    assert_eq!(relayed(&parts).await, parts.concat() + DONE);
    let usage =
        event(&json!({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}).to_string());
    let parts = [role(), delta("x"), finish(), usage];
    assert_eq!(relayed(&parts).await, parts.concat() + DONE, "usage after the finish is kept");
}

#[tokio::test]
async fn a_reset_after_the_finish_reason_is_a_complete_answer() {
    let parts = [role(), delta("x"), finish()];
    let gate = Gate::new();
    let mut script = broken(&parts, Act::Wait(gate.clone()));
    script.push(Act::Reset);
    let (_node, _upstream, mut reply) = through(script, "").await;
    for part in &parts {
        assert_eq!(reply.event().await.as_ref(), Some(part));
    }
    gate.open(1);
    assert_eq!(reply.event().await.as_deref(), Some(DONE));
    assert_eq!(reply.event().await, None);
}

#[tokio::test]
async fn a_malformed_event_is_dropped_and_counted() {
    let parts = [role(), delta("a"), event("{\"choices\": [oops"), delta("b"), finish(), DONE.to_owned()];
    let (node, _upstream, reply) = through(pieces(&parts), "").await;
    let expected = [role(), delta("a"), delta("b"), finish(), DONE.to_owned()].concat();
    assert_eq!(reply.text().await, expected);
    assert_eq!(node.metric("tidegate_malformed_events_total", &[("path", "a@direct")]).await, 1.0);
}

#[tokio::test]
async fn a_malformed_event_without_a_terminal_signal_ends_in_an_error_event() {
    let parts = [role(), delta("a"), event("{\"choices\": [{\"finish_re")];
    let text = relayed(&parts).await;
    ends_in_error(&text, &[role(), delta("a")].concat(), "stream_interrupted");
}

#[tokio::test]
async fn a_cut_after_the_first_of_two_choices_is_no_end() {
    let of = |index: u8, rest: &str| event(&format!("{{\"choices\":[{{\"index\":{index},{rest}}}]}}"));
    let parts = [
        of(0, "\"delta\":{\"content\":\"a\"},\"finish_reason\":null"),
        of(0, "\"delta\":{},\"finish_reason\":\"stop\""),
    ];
    let mut script: Vec<Act> = vec![Act::Send(stream_head())];
    script.extend(parts.iter().map(|part| Act::Send(piece(part))));
    script.push(Act::Close);
    let upstream = Upstream::doing(script).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let body = json!({"model": "m", "n": 2, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let text = node.post("/v1/chat/completions", &body).send().await.text().await;
    ends_in_error(&text, &parts.concat(), "stream_interrupted");
}

#[tokio::test]
async fn done_without_a_finish_reason_is_an_end_too() {
    let parts = [role(), delta("a"), DONE.to_owned()];
    assert_eq!(relayed(&parts).await, parts.concat());
}

#[tokio::test]
async fn an_upstream_that_never_pauses_is_held_to_the_deadline() {
    let start = [stream_head(), piece(role()), piece(delta("a"))].concat();
    let upstream = Upstream::doing(vec![Act::Send(start.into()), Act::Endless(piece(delta("more")))]).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let mut reply = node.chat_stream().header("x-tidegate-timeout-ms", "1000").send().await;
    let mut last = String::new();
    let read = async {
        while let Some(event) = reply.event().await {
            last = event;
        }
    };
    within(Duration::from_secs(10), "the end of the stream", read).await;
    assert!(last.contains("stream_interrupted"), "{last}");
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn an_error_object_inside_the_stream_goes_through_and_ends_it() {
    let error = event(&answer::error("server_error", "server_error", "The server had an error").to_string());
    let parts = [role(), delta("a"), error, DONE.to_owned()];
    let text = relayed(&parts).await;
    assert_eq!(text, parts[..3].concat(), "the upstream's own error, and no [DONE]");
}

#[tokio::test]
async fn a_cut_by_reset_ends_in_an_error_event() {
    let parts = [role(), delta("a")];
    let gate = Gate::new();
    let mut script = broken(&parts, Act::Wait(gate.clone()));
    script.push(Act::Reset);
    let (node, _upstream, mut reply) = through(script, "").await;
    for part in &parts {
        assert_eq!(reply.event().await.as_ref(), Some(part));
    }
    gate.open(1);
    ends_in_error(&reply.text().await, "", "stream_interrupted");
    assert_eq!(node.metric("tidegate_upstream_requests_total", &[("outcome", "cut")]).await, 1.0);
    assert_eq!(node.metric("tidegate_requests_total", &[("status", "upstream_error")]).await, 1.0);
}

#[tokio::test]
async fn an_orderly_end_without_a_terminal_signal_ends_in_an_error_event() {
    let parts = [role(), delta("a")];
    ends_in_error(&relayed(&parts).await, &parts.concat(), "stream_interrupted");
}

#[tokio::test]
async fn half_an_event_before_a_cut_is_never_sent() {
    let half = delta("half").as_bytes()[..40].to_vec();
    let parts = [role().into_bytes(), delta("a").into_bytes(), half];
    let mut script = pieces(&parts);
    script.pop();
    script.push(Act::Close);
    let (_node, _upstream, reply) = through(script, "").await;
    ends_in_error(&reply.text().await, &[role(), delta("a")].concat(), "stream_interrupted");
}

#[tokio::test]
async fn a_stall_ends_in_an_error_event_and_gives_up_the_upstream() {
    let parts = [role(), delta("a")];
    let (_node, upstream, reply) = through(broken(&parts, Act::Stall), "timeouts: {idle: 300ms}").await;
    let start = Instant::now();
    ends_in_error(&reply.text().await, &parts.concat(), "stream_interrupted");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn pings_without_progress_end_in_an_error_event() {
    let mut script = broken(&[role(), delta("a")], Act::Send(Bytes::new()));
    let gate = Gate::new();
    for _ in 0..200 {
        script.push(Act::Wait(gate.clone()));
        script.push(Act::Send(piece(": ping\n\n")));
    }
    script.push(Act::Stall);
    let (_node, upstream, reply) = through(script, "timeouts: {idle: 200ms}").await;
    let pings = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            gate.open(1);
        }
    });
    let text = reply.text().await;
    pings.abort();
    assert!(text.contains("stream_interrupted") && !text.contains("[DONE]"), "{text}");
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn a_stream_longer_than_allowed_ends_in_an_error_event() {
    let parts = [role(), delta("a")];
    let settings = "timeouts: {stream_total: 400ms, total: 400ms, first_byte: 300ms}";
    let (_node, upstream, reply) = through(broken(&parts, Act::Stall), settings).await;
    let text = reply.text().await;
    assert!(
        text.starts_with(&parts.concat()) && text.contains("\"error\"") && !text.contains("[DONE]"),
        "{text}"
    );
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let gate = Gate::new();
    let mut parts = vec![role()];
    parts.extend((0..20).map(|n| delta(&format!("word {n} "))));
    parts.extend([finish(), DONE.to_owned()]);
    let mut script = vec![Act::Send(stream_head()), Act::Send(piece(&parts[0]))];
    for part in &parts[1..] {
        script.extend([Act::Send(piece(part)), Act::Wait(gate.clone())]);
    }
    script.push(Act::Send(last_piece()));
    let (_node, _upstream, mut reply) = through(script, "").await;
    assert_eq!(reply.event().await.as_ref(), Some(&parts[0]));
    for part in &parts[1..] {
        // The upstream says nothing more until this event has been seen here.
        let arrived = within(Duration::from_secs(5), "an event by itself", reply.event()).await;
        assert_eq!(arrived.as_ref(), Some(part));
        gate.open(1);
    }
    assert_eq!(reply.event().await, None);
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_upstream_within_a_bound() {
    let filler = piece(delta(&"x".repeat(16 * 1024)));
    let mut script = vec![Act::Send(stream_head()), Act::Send(piece(role())), Act::Endless(filler)];
    script.push(Act::Close);
    let upstream = Upstream::doing(script).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let before = node.process.resident();
    let mut reply = node.chat_stream().send().await;
    assert_eq!(reply.event().await, Some(role()));
    // Nobody reads now. The upstream's sender must come to a halt: equal counts at looks a while apart.
    let mut last = (0, 0);
    let sent = until("the upstream's sender to block", async || {
        let sent = upstream.sent();
        last = if sent == last.0 { (sent, last.1 + 1) } else { (sent, 0) };
        (last.1 >= 25 && sent > 0).then_some(sent)
    })
    .await;
    assert!(sent < 24 << 20, "the upstream could send {} MiB to nobody", sent >> 20);
    let grown = node.process.resident().saturating_sub(before);
    assert!(grown < 8 << 20, "the gateway grew by {} KiB", grown >> 10);
    // And it goes on when the client does.
    assert!(reply.event().await.unwrap().contains("xxxx"));
    drop(reply);
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn an_upstream_that_sends_a_page_instead_of_a_stream_is_a_failure() {
    let page = answer::whole(200, &[("content-type", "text/html")], "<html>Log in</html>");
    let upstream = Upstream::saying(page).await;
    let node = Setup::new().upstream("a", &upstream.url()).retry("{attempts: 1}").start().await;
    let reply = node.chat_stream().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await, ("upstream_error".into(), "bad_response".into()));
}

#[tokio::test]
async fn the_responses_api_streams_through_to_its_own_terminal_event() {
    let say = |kind: &str, more: serde_json::Value| {
        let mut body = json!({"type": kind});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("event: {kind}\ndata: {body}\n\n")
    };
    let parts = [
        say(
            "response.created",
            json!({"sequence_number": 0, "response": {"id": "resp_1", "status": "in_progress"}}),
        ),
        say("response.output_text.delta", json!({"sequence_number": 1, "delta": "hi", "output_index": 0})),
        say(
            "response.completed",
            json!({"sequence_number": 2, "response": {"id": "resp_1", "status": "completed"}}),
        ),
    ];
    let upstream = Upstream::doing(pieces(&parts)).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let body = json!({"model": "m", "input": "hi", "stream": true});
    let reply = node.post("/v1/responses", &body).send().await;
    assert_eq!(reply.text().await, parts.concat(), "nothing is added: this API has no [DONE]");
}

/// A random stream and its random cut into pieces, the same for the same seed.
fn random_stream(seed: u64) -> (String, Vec<Bytes>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let alphabet: Vec<char> = "abc {}[]:,\"\\/\nä世🌊é\u{7f}\u{2028}".chars().collect();
    let mut whole = role();
    for _ in 0..rng.usize(1..10) {
        let text: String = (0..rng.usize(0..40)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect();
        let chunk = delta(&text);
        whole += &match rng.u8(..6) {
            0 => chunk.replace("\n\n", "\r\n\r\n"),
            1 => format!(": ping {seed}\n\n{chunk}"),
            2 => format!("id: {seed}\n{chunk}"),
            _ => chunk,
        };
    }
    whole += &delta("the end");
    whole += &finish();
    whole += DONE;
    let mut rest = whole.as_bytes();
    let mut cut = Vec::new();
    while !rest.is_empty() {
        let most = if rng.bool() { 8 } else { 200 };
        let (now, later) = rest.split_at(rng.usize(1..=most.min(rest.len())));
        cut.push(piece(now));
        rest = later;
    }
    (whole, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_random_streams_lose_reorder_and_alter_nothing() {
    const STREAMS: u64 = 10_000;
    const AT_ONCE: usize = 64;
    let upstream = Upstream::unrecorded(|seen| {
        let seed = seen.header("x-seed").unwrap().parse().unwrap();
        let (_, cut) = random_stream(seed);
        let mut wire = vec![Act::Send(stream_head())];
        // Some pieces share a packet, most do not.
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xC0FFEE);
        let mut packet = Vec::new();
        for piece in cut {
            packet.extend_from_slice(&piece);
            if rng.u8(..4) > 0 {
                wire.push(Act::Send(std::mem::take(&mut packet).into()));
            }
        }
        packet.extend(last_piece());
        wire.push(Act::Send(packet.into()));
        wire
    })
    .await;
    let node = Arc::new(Setup::new().upstream("a", &upstream.url()).start().await);
    let base = fastrand::u64(..) >> 1;
    eprintln!("seed {base}");
    let mut running = FuturesUnordered::new();
    let mut seeds: VecDeque<u64> = (base..base + STREAMS).collect();
    loop {
        while running.len() < AT_ONCE
            && let Some(seed) = seeds.pop_front()
        {
            let node = Arc::clone(&node);
            running.push(tokio::spawn(async move {
                let reply = node.chat_stream().header("x-seed", &seed.to_string()).send().await;
                assert_eq!(reply.status, 200, "seed {seed}");
                let got = reply.bytes().await;
                assert!(
                    got == random_stream(seed).0.as_bytes(),
                    "seed {seed}: {:?}",
                    String::from_utf8_lossy(&got)
                );
            }));
        }
        match running.next().await {
            Some(done) => done.unwrap(),
            None => break,
        }
    }
    assert_eq!(upstream.count() as u64, STREAMS);
}

/// A node that takes two thousand at once.
async fn wide(upstream: &Upstream) -> Arc<Node> {
    let settings = "max_in_flight: 2000, pool: {max_connections: 2000}, timeouts: {idle: 60s}";
    let node = Setup::new()
        .upstream_with("a", &upstream.url(), settings)
        .section("limits: [{per: node, in_flight: 2000, queue: 10, queue_timeout: 1s}]");
    Arc::new(node.start().await)
}

/// A thousand streams, each past its first event.
async fn thousand_streams(node: &Arc<Node>) -> Vec<Reply> {
    let calls: Vec<_> = (0..1000)
        .map(|_| {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                let mut reply = node.chat_stream().send().await;
                assert_eq!(reply.status, 200);
                assert_eq!(reply.event().await, Some(role()));
                reply
            })
        })
        .collect();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.unwrap());
    }
    replies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_thousand_clients_hang_up_no_upstream_call_is_left() {
    let parts = [role(), delta("x")];
    let upstream = Upstream::doing(broken(&parts, Act::Stall)).await;
    let node = wide(&upstream).await;
    let replies = thousand_streams(&node).await;
    assert_eq!(upstream.running(), 1000);
    assert_eq!(node.metric("tidegate_active_streams", &[]).await, 1000.0);
    drop(replies);
    within(Duration::from_millis(1500), "all upstream calls ended", upstream.idle()).await;
    assert_eq!(upstream.abandoned(), 1000);
    until("the gauges to follow", async || {
        let left = node.metric("tidegate_active_streams", &[]).await
            + node.metric("tidegate_in_flight_requests", &[]).await;
        (left == 0.0).then_some(())
    })
    .await;
    assert_eq!(node.metric("tidegate_api_errors_total", &[]).await, 0.0, "nobody's failure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_streams_complete_within_64_mib() {
    let gate = Gate::new();
    let mut script = vec![Act::Send(stream_head()), Act::Send(piece(role())), Act::Send(piece(delta("0 ")))];
    for n in 1..50 {
        // In rounds, so that all thousand are under way until the last.
        script.extend([Act::Wait(gate.clone()), Act::Send(piece(delta(&format!("{n} "))))]);
    }
    script.push(Act::Send([piece(finish()), piece(DONE), last_piece()].concat().into()));
    let upstream = Upstream::doing(script).await;
    let node = wide(&upstream).await;
    let replies = thousand_streams(&node).await;
    gate.open(49 * 1000);
    let expected: String = (0..50).map(|n| format!("{n} ")).collect();
    let ends: Vec<_> = replies
        .into_iter()
        .map(|reply| {
            let expected = expected.clone();
            tokio::spawn(async move {
                let text = reply.text().await;
                assert_eq!(answer::text_of(&text), expected);
                assert!(text.ends_with(DONE), "{text}");
            })
        })
        .collect();
    for end in ends {
        end.await.unwrap();
    }
    assert_eq!(upstream.count(), 1000);
    let peak = node.process.peak();
    eprintln!("peak resident memory: {:.1} MiB", peak as f64 / f64::from(1 << 20));
    if tidegate_tests::node::is_debug_build() {
        eprintln!("skipped: the bound of 64 MiB is for a release build");
    } else {
        assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    }
}
