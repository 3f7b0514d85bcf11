//! Input that is meant to hurt: after each, the node still answers, and its memory has stayed where it was.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::json;
use tidegate_tests::answer::{self, delta, piece, role, stream_head};
use tidegate_tests::client::Raw;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::upstream::{Act, Script, Upstream};
use tidegate_tests::within;
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

fn good() -> Script {
    vec![Act::Send(answer::json(200, &answer::chat("hello")))]
}

async fn pair() -> (Node, Upstream) {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    (node, upstream)
}

/// A request's head as it stands on the wire, with these further lines.
fn head(lines: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{lines}\r\n")
}

fn body(say: &str) -> String {
    json!({"model": "m", "messages": [{"role": "user", "content": say}]}).to_string()
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_preface_is_closed() {
    let (node, _upstream) = pair().await;
    let mut silent = Raw::connect(node.address).await;
    let mut half = Raw::connect(node.address).await;
    assert!(half.send("PRI * HTTP/2.0\r\n").await);
    let limit = Duration::from_secs(45);
    assert_eq!(tokio::join!(silent.closes_within(limit), half.closes_within(limit)), (true, true));
    node.still_answers().await;
}

/// Load balancers keep idle connections for a minute and send the next request over them: were it us who closed,
/// that request would be lost.
#[tokio::test]
async fn an_idle_connection_outlives_a_load_balancers_minute() {
    let (node, upstream) = pair().await;
    let mut raw = Raw::connect(node.address).await;
    let request = format!("{}{}", head(&format!("content-length: {}\r\n", body("x").len())), body("x"));
    for round in 1..=2 {
        assert!(raw.send(&request).await);
        let (status, ..) = raw.answer().await.expect("an answer over the same connection");
        assert_eq!((status, upstream.count()), (200, round));
        if round == 1 {
            assert!(!raw.closes_within(Duration::from_secs(61)).await, "closed while idle");
        }
    }
}

/// They are read before a place among the running requests is taken, so something else must bound them.
#[tokio::test]
async fn bodies_beyond_the_nodes_room_are_refused_at_once() {
    let (node, _upstream) = pair().await;
    let mut uploads = Vec::new();
    for _ in 0..30 {
        let mut raw = Raw::connect(node.address).await;
        assert!(raw.send(head(&format!("content-length: {}\r\n", 15 * MIB))).await);
        uploads.push(raw);
    }
    let status = async |mut raw: Raw| {
        let answer = tokio::time::timeout(Duration::from_secs(5), raw.answer()).await;
        answer.ok().flatten().map(|(status, text, _)| (status, text.contains("retry-after")))
    };
    let refused: Vec<_> = join_all(uploads.into_iter().map(status)).await.into_iter().flatten().collect();
    assert_eq!(refused.len(), 30 - 256 / 15, "{refused:?}");
    assert!(refused.iter().all(|answer| *answer == (503, true)), "{refused:?}");
    node.still_answers().await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off_while_others_are_served() {
    let (node, _upstream) = pair().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(node.address).await;
        assert!(raw.send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n").await);
        slow.push(raw);
    }
    node.still_answers().await;
    // A header line each second keeps every connection busy, and gains it nothing.
    let drip = async |mut raw: Raw| {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            if raw.closed() || !raw.send("x-slow: 1\r\n").await {
                return;
            }
        }
    };
    let all = join_all(slow.into_iter().map(drip));
    within(Duration::from_secs(45), "every slow connection cut off", all).await;
    node.still_answers().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let (node, upstream) = pair().await;
    let mut raw = Raw::connect(node.address).await.patient(Duration::from_secs(80));
    raw.send(head("content-length: 100\r\n") + "{").await;
    let (status, head, body) = raw.answer().await.expect("an answer");
    assert_eq!(status, 408, "{head}");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["code"], "request_timeout");
    raw.rest().await;
    assert_eq!(upstream.count(), 0);
    node.still_answers().await;
}

#[tokio::test]
async fn oversized_headers_are_answered_431() {
    let (node, upstream) = pair().await;
    let one = format!("x-large: {}\r\n", "x".repeat(40 * 1024));
    let many: String = (0..1000).map(|n| format!("x-{n}: {}\r\n", "x".repeat(30))).collect();
    let endless = format!("x-large: {}\r\n", "x".repeat(1 << 20));
    for (name, lines, must_be_read) in
        [("one", one, true), ("many", many, false), ("a megabyte", endless, false)]
    {
        let mut raw = Raw::connect(node.address).await;
        let text = body("hi");
        let sent = raw.send(head(&format!("{lines}content-length: {}\r\n", text.len())) + &text).await;
        match raw.answer().await {
            Some((status, head, _)) => assert_eq!(status, 431, "{name}: {head}"),
            // The kernel may lose an answer when the rest of what we sent is thrown away.
            None => assert!(!must_be_read || !sent, "{name}: closed without an answer"),
        }
        node.still_answers().await;
    }
    assert_eq!(upstream.count(), 3, "only the ordinary requests went upstream");
}

#[tokio::test]
async fn oversized_bodies_are_answered_413_with_and_without_a_length() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).listen("max_body: 64KiB").start().await;
    // Said in advance: nothing of the body is waited for.
    let mut raw = Raw::connect(node.address).await;
    raw.send(head("content-length: 1073741824\r\n")).await;
    let (status, _, error) = raw.answer().await.unwrap();
    assert_eq!(status, 413);
    assert!(String::from_utf8_lossy(&error).contains("body_too_large"));
    // Not said: it is cut off at the limit.
    let mut raw = Raw::connect(node.address).await;
    raw.send(head("transfer-encoding: chunked\r\n")).await;
    let part = piece("x".repeat(16 * 1024));
    let mut sent = 0;
    while sent < 4096 && raw.send(&part).await && !raw.answered().await {
        sent += 1;
    }
    let (status, ..) = raw.answer().await.unwrap();
    assert_eq!(status, 413);
    assert!(sent < 4096, "64 MiB were taken");
    // Exactly the limit is not too large.
    let filler = 64 * 1024 - json!({"model": "m", "pad": ""}).to_string().len();
    let exact = json!({"model": "m", "pad": "x".repeat(filler)});
    assert_eq!(node.post("/v1/chat/completions", &exact).send().await.status, 200);
    let over = json!({"model": "m", "pad": "x".repeat(filler + 1)});
    assert_eq!(node.post("/v1/chat/completions", &over).send().await.status, 413);
    assert_eq!(upstream.count(), 1);
    node.still_answers().await;
}

/// Sends all of an 8 MiB request before it reads, as most clients do; the status it then finds.
async fn status_after_sending_all(node: &Node, path: &str) -> u16 {
    let large = json!({"model": "m", "pad": "x".repeat(8 << 20)}).to_string();
    let mut raw = Raw::connect(node.address).await;
    let length = format!("content-length: {}\r\n", large.len());
    let all = head(&length).replace("/v1/chat/completions", path) + &large;
    assert!(raw.send(all).await, "{path}: the connection was reset under the client's hands");
    raw.answer().await.unwrap_or_else(|| panic!("{path}: the answer was lost in a reset")).0
}

#[tokio::test]
async fn a_client_in_the_middle_of_sending_too_much_still_reads_the_413() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).listen("max_body: 64KiB").start().await;
    for _ in 0..5 {
        assert_eq!(status_after_sending_all(&node, "/v1/chat/completions").await, 413);
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_client_refused_before_its_body_is_read_still_reads_why() {
    let upstream = Upstream::doing(good()).await;
    let nobody = format!("clients: [{{name: c, key_sha256: {}}}]", "ab".repeat(32));
    let node = Setup::new().upstream("a", &upstream.url()).section(&nobody).start().await;
    for _ in 0..5 {
        assert_eq!(status_after_sending_all(&node, "/v1/chat/completions").await, 401);
    }
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    for _ in 0..5 {
        assert_eq!(status_after_sending_all(&node, "/nowhere").await, 404);
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn json_a_hundred_thousand_deep_does_not_take_the_node_down() {
    let (node, upstream) = pair().await;
    let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let bodies = [
        format!("{{\"model\":\"m\",\"messages\":{}}}", deep("[", "]")),
        format!("{{\"messages\":{}1{},\"model\":\"m\"}}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
        deep("[", "]"),
        "[".repeat(100_000),
        format!("{{\"model\":{}}}", deep("[", "]")),
    ];
    for (n, body) in bodies.into_iter().enumerate() {
        let call = node.call("POST", "/v1/chat/completions").header("content-type", "application/json");
        let reply = call.body(body.clone()).send().await;
        let status = reply.status.as_u16();
        assert!(status == 400 || (status == 200 && n < 2), "body {n}: {status}");
        if status == 200 {
            assert!(upstream.requests().last().unwrap().body == body.as_bytes(), "passed on, so untouched");
        }
    }
    node.still_answers().await;
}

#[tokio::test]
async fn invalid_utf8_is_answered_400() {
    let (node, upstream) = pair().await;
    for bad in [
        &b"{\"model\":\"m\",\"x\":\"\xff\xfe\"}"[..],
        b"{\"model\":\"\xc3\x28\"}",
        b"\xef\xbb",
        b"\x00\x01\x02",
    ] {
        let call = node.call("POST", "/v1/chat/completions").header("content-type", "application/json");
        let reply = call.body(Bytes::copy_from_slice(bad)).send().await;
        assert_eq!(reply.status, 400, "{bad:?}");
        assert_eq!(reply.error().await, ("invalid_request_error".into(), "invalid_json".into()));
    }
    assert_eq!(upstream.count(), 0);
    node.still_answers().await;
}

#[tokio::test]
async fn one_request_never_becomes_two_at_the_upstream() {
    let smuggled = "GET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let text = body("hi");
    let chunked = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
    let length = |n: usize| format!("content-length: {n}\r\n");
    let both = length(chunked.len() + smuggled.len()) + "transfer-encoding: chunked\r\n";
    let te = |value: &str| length(text.len()) + &format!("transfer-encoding: {value}\r\n");
    let cases = [
        ("CL and TE", head(&both) + &chunked + smuggled),
        (
            "TE and CL",
            head(&("transfer-encoding: chunked\r\n".to_owned() + &length(4))) + &chunked + smuggled,
        ),
        (
            "two lengths",
            head(&(length(text.len()) + &length(text.len() + smuggled.len()))) + &text + smuggled,
        ),
        ("a list of lengths", head(&format!("content-length: {}, 0\r\n", text.len())) + &text + smuggled),
        ("a signed length", head(&format!("content-length: +{}\r\n", text.len())) + &text + smuggled),
        ("a space before the colon", head("transfer-encoding : chunked\r\n") + &chunked + smuggled),
        ("a disguised chunked", head(&te("xchunked")) + &text + smuggled),
        ("chunked, identity", head(&te("chunked, identity")) + &chunked + smuggled),
        ("a vertical tab", head(&te("\x0bchunked")) + &chunked + smuggled),
        (
            "a folded line",
            head(&(length(text.len()) + "transfer-encoding:\r\n chunked\r\n")) + &chunked + smuggled,
        ),
        ("a huge chunk", head("transfer-encoding: chunked\r\n") + "ffffffffffffffff1\r\n" + &text + smuggled),
        ("a negative chunk", head("transfer-encoding: chunked\r\n") + "-1\r\n" + &text + smuggled),
        (
            "bare line feeds in chunks",
            head("transfer-encoding: chunked\r\n") + &chunked.replace("\r\n", "\n") + smuggled,
        ),
        (
            "bare carriage returns",
            head(&length(0)).replace("host: x\r\n", "host: x\rGET /v1/smuggled HTTP/1.1\r\n"),
        ),
        ("a null byte", head("x-null: a\0b\r\n")),
    ];
    for (name, wire) in cases {
        let upstream = Upstream::doing(good()).await;
        let node = Setup::new().upstream("a", &upstream.url()).start().await;
        let mut raw = Raw::connect(node.address).await;
        raw.send(&wire).await;
        raw.finish().await;
        let got = raw.rest().await;
        let seen = upstream.requests();
        let smuggled_in = seen.iter().filter(|r| r.target().contains("smuggled")).count();
        let honest = seen.len() - smuggled_in;
        assert!(seen.len() <= 1, "{name}: {} requests upstream, {got:?}", seen.len());
        // What the gateway takes for a request of its own it must have answered as one: never inside another.
        assert!(smuggled_in == 0, "{name}: smuggled through ({honest} honest): {got:?}");
        node.still_answers().await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let upstream = Upstream::start(|seen| {
        let said = seen.json()["messages"][0]["content"].as_str().unwrap().to_owned();
        vec![Act::Send(answer::json(200, &answer::chat(&said)))]
    })
    .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    let mut raw = Raw::connect(node.address).await;
    let wire: String = (0..20)
        .map(|n| {
            let text = body(&format!("number {n}"));
            head(&format!("content-length: {}\r\n", text.len())) + &text
        })
        .collect();
    raw.send(wire).await;
    for n in 0..20 {
        let (status, _, body) = raw.answer().await.unwrap();
        assert_eq!(status, 200);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], format!("number {n}"));
    }
    assert_eq!(upstream.count(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_tiny_chunks_are_one_body_and_hold_up_nobody() {
    let (node, upstream) = pair().await;
    let (before, after) = ("{\"model\":\"m\",\"pad\":\"", "\"}");
    let mut wire = head("transfer-encoding: chunked\r\n").into_bytes();
    wire.extend(piece(before));
    for _ in 0..1_000_000 {
        wire.extend_from_slice(b"1\r\nx\r\n");
    }
    wire.extend(piece(after));
    wire.extend_from_slice(b"0\r\n\r\n");
    let mut raw = Raw::connect(node.address).await;
    let sending = tokio::spawn(async move {
        raw.send(&wire).await;
        raw.answer().await.map(|(status, ..)| status)
    });
    let mut slowest = Duration::ZERO;
    while !sending.is_finished() {
        let start = Instant::now();
        node.still_answers().await;
        slowest = slowest.max(start.elapsed());
    }
    assert_eq!(sending.await.unwrap(), Some(200));
    assert!(slowest < Duration::from_secs(1), "another request took {slowest:?} meanwhile");
    let large = upstream.requests().into_iter().max_by_key(|r| r.body.len()).unwrap();
    assert_eq!(large.body.len(), before.len() + 1_000_000 + after.len());
}

/// Nobody gains memory from a hostile upstream: the second path answers, or the client is told.
async fn survives(hostile: Script, bound: u64) {
    let first = Upstream::start(
        move |seen| if seen.header("x-hostile").is_some() { hostile.clone() } else { good() },
    );
    let (first, second) =
        (first.await, Upstream::start(|seen| answer_kind(seen.json()["stream"] == true)).await);
    let short = "timeouts: {first_byte: 10s, idle: 5s}";
    let node =
        Setup::new().upstream_with("a", &first.url(), short).upstream("b", &second.url()).start().await;
    node.still_answers().await;
    let before = node.process.resident();
    for call in [node.chat(), node.chat_stream()] {
        let reply = call.header("x-hostile", "yes").send().await;
        assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    }
    let grown = node.process.peak().saturating_sub(before);
    assert!(grown < bound, "the node grew by {} KiB", grown >> 10);
    node.still_answers().await;
}

fn answer_kind(streamed: bool) -> Script {
    if streamed { vec![Act::Send(answer::stream(&["x"]))] } else { good() }
}

#[tokio::test]
async fn an_upstream_with_an_endless_header_moves_to_the_second_path() {
    let endless = Bytes::from("x-endless: ".to_owned() + &"x".repeat(64 * 1024));
    survives(vec![Act::Send("HTTP/1.1 200 OK\r\n".into()), Act::Endless(endless)], 8 * MIB).await;
}

#[tokio::test]
async fn an_upstream_with_endless_header_lines_moves_to_the_second_path() {
    let lines = Bytes::from("x-a: b\r\n".repeat(1000));
    survives(vec![Act::Send("HTTP/1.1 200 OK\r\n".into()), Act::Endless(lines)], 8 * MIB).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_http_moves_to_the_second_path() {
    let noise: Vec<u8> = (0..64 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    survives(vec![Act::Endless(noise.into())], 8 * MIB).await;
}

/// A line of 64 MiB after `first`, each part in chunked transfer coding.
fn long_line(first: &str) -> Script {
    let mut script =
        vec![Act::Send(stream_head()), Act::Send(piece(first)), Act::Send(piece("data: {\"x\":\""))];
    script.push(Act::Repeat(piece("x".repeat(64 * 1024)), 1024));
    script.push(Act::Send(piece("\"}\n\n")));
    script
}

#[tokio::test]
async fn a_line_of_64_mib_before_any_content_is_no_answer() {
    let first = Upstream::doing(long_line(&role())).await;
    let second = Upstream::doing(vec![Act::Send(answer::stream(&["x"]))]).await;
    let node = Setup::new().upstream("a", &first.url()).upstream("b", &second.url()).start().await;
    let before = node.process.resident();
    let reply = node.chat_stream().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("b@direct", "2")));
    let grown = node.process.peak().saturating_sub(before);
    assert!(grown < 16 * MIB, "the node grew by {} KiB", grown >> 10);
}

#[tokio::test]
async fn a_line_of_64_mib_inside_a_stream_ends_in_an_error_event() {
    let first = [role(), delta("fine")].concat();
    let script = long_line(&first);
    let upstream =
        Upstream::start(move |seen| if seen.json()["stream"] == true { script.clone() } else { good() })
            .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    node.still_answers().await;
    let before = node.process.resident();
    let text = node.chat_stream().send().await.text().await;
    let rest = text.strip_prefix(&first).unwrap_or_else(|| panic!("{text:.300}"));
    assert!(rest.contains("stream_interrupted") && rest.len() < 1000, "{rest:.300}");
    assert!(!text.contains("[DONE]"));
    let grown = node.process.peak().saturating_sub(before);
    assert!(grown < 16 * MIB, "the node grew by {} KiB", grown >> 10);
    upstream.gave_up(1).await;
    node.still_answers().await;
}

#[tokio::test]
async fn an_error_body_without_end_is_not_read_without_end() {
    let head =
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let script = vec![Act::Send(head.into()), Act::Endless(piece("x".repeat(64 * 1024)))];
    let upstream =
        Upstream::start(move |seen| if seen.header("x-hostile").is_some() { script.clone() } else { good() })
            .await;
    let node = Setup::new().upstream("a", &upstream.url()).start().await;
    node.still_answers().await;
    let before = node.process.resident();
    let reply = node.chat().header("x-hostile", "yes").send().await;
    assert_eq!(reply.status, 400);
    assert!(reply.bytes().await.len() as u64 <= MIB, "the client got all of it");
    let grown = node.process.peak().saturating_sub(before);
    assert!(grown < 8 * MIB, "the node grew by {} KiB", grown >> 10);
    node.still_answers().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_and_are_served_later() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).listen("max_connections: 5").start().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut raw = Raw::connect(node.address).await;
        let text = body("hi");
        raw.send(head(&format!("content-length: {}\r\n", text.len())) + &text).await;
        assert_eq!(raw.answer().await.unwrap().0, 200);
        held.push(raw);
    }
    let waiting = tokio::spawn(node.chat().send());
    let probe = node.admin("/readyz").await;
    assert_eq!(probe.status, 200, "the operators' listener is not held up");
    assert!(!waiting.is_finished());
    held.pop();
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn out_of_file_descriptors_a_node_waits_and_goes_on() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).open_files(128).start().await;
    node.still_answers().await;
    let mut greedy = Vec::new();
    for _ in 0..300 {
        greedy.push(Raw::connect(node.address).await);
    }
    let error = |line: &str| (line.contains("ERROR") && line.contains("open files")).then_some(());
    node.process.line("an error about open files", error).await;
    let spent = node.process.cpu();
    // Among the three hundred nobody is served now; a second of that must cost next to nothing.
    let waited = tokio::time::timeout(Duration::from_secs(1), node.chat().try_send()).await;
    let spun = node.process.cpu() - spent;
    assert!(spun < Duration::from_millis(300), "{spun:?} of CPU in a second of waiting");
    drop((waited, greedy));
    node.still_answers().await;
    let errors = node.process.output().lines().filter(|line| error(line).is_some()).count();
    assert!(errors <= 3, "{errors} lines about the same");
}

#[tokio::test]
async fn a_low_soft_limit_of_open_files_does_not_bound_the_node() {
    let upstream = Upstream::doing(good()).await;
    let node = Setup::new().upstream("a", &upstream.url()).open_files_at_first(64).start().await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(Raw::connect(node.address).await);
    }
    node.still_answers().await;
    assert!(!node.process.output().contains("open files"), "{}", node.process.output());
}
