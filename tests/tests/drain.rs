//! A node that goes away, clause by clause: what it says of itself, what it still takes, how it ends what runs, what it
//! gives back to the others, and how it is hurried. `cli` has the ways of single streams and requests, `rolling` the
//! whole behind a load balancer.

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_tests::answer::{self, DONE, delta, finish, last_piece, piece, role, stream_head};
use tidegate_tests::ca::Ca;
use tidegate_tests::client::{Call, Raw};
use tidegate_tests::load::Load;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::nodes::{Nodes, SEEN, client_key};
use tidegate_tests::redis::Redis;
use tidegate_tests::simulated::{Asked, Kind, Mode, Simulated};
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{soon, until, until_within, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const NOW: &str = "drain_grace: 0s, drain_timeout: 30s";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stream that waits for the gate before its end.
fn held_stream(gate: &Gate) -> Vec<Act> {
    vec![
        Act::Send([stream_head(), piece(role()), piece(delta("first "))].concat().into()),
        Act::Wait(gate.clone()),
        Act::Send([piece(delta("last")), piece(finish()), piece(DONE), last_piece()].concat().into()),
    ]
}

/// A chat request as it stands on the wire.
fn wire() -> String {
    let body = r#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gate\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn door_closed(node: &Node) {
    until("the door to close", async || TcpStream::connect(node.address).await.is_err().then_some(())).await;
}

async fn good() -> Upstream {
    Upstream::saying(answer::json(200, &answer::chat("x"))).await
}

#[tokio::test]
async fn what_waits_in_the_accept_queue_when_the_door_closes_is_served() {
    let upstream = good().await;
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(NOW).start().await;
    // While it is stopped, the kernel accepts for it.
    node.process.signal("STOP").await;
    node.process.signal("TERM").await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut client = Raw::connect(node.address).await;
        assert!(client.send(wire()).await);
        waiting.push(client);
    }
    node.process.signal("CONT").await;
    for (n, client) in waiting.iter_mut().enumerate() {
        let answer = client.answer().await;
        let (status, head, _) = answer.unwrap_or_else(|| panic!("connection {n} was refused"));
        assert_eq!(status, 200, "connection {n}");
        assert!(head.contains("connection: close"), "{head}");
    }
    assert_eq!(node.process.ended().await.code(), Some(0));
}

/// The request of a connection that was made in the grace is on its way when the door closes.
#[tokio::test]
async fn a_connection_from_before_the_close_may_still_send_its_first_request() {
    let upstream = good().await;
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(NOW).start().await;
    let mut client = Raw::connect(node.address).await;
    node.process.signal("TERM").await;
    door_closed(&node).await;
    assert!(client.send(wire()).await);
    let (status, head, _) = client.answer().await.expect("it was closed before its first request");
    assert_eq!(status, 200);
    assert!(head.contains("connection: close"), "{head}");
    assert!(client.closes_within(secs(5)).await);
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn so_may_one_over_tls() {
    let (ca, upstream) = (Ca::new(), good().await);
    let pair = ca.issue(&["gate.test"]);
    let setup = Setup::new();
    let (cert, key) = (setup.file("tls.crt", &pair.cert), setup.file("tls.key", &pair.key));
    let listen = format!("{NOW}, tls: {{cert: \"{}\", key: \"{}\"}}", cert.display(), key.display());
    let mut node = setup.upstream("a", &upstream.url()).listen(&listen).start().await;
    let connector = tokio_rustls::TlsConnector::from(ca.client());
    let name = rustls_pki_types::ServerName::try_from("gate.test").unwrap();
    let mut client = connector.connect(name, TcpStream::connect(node.address).await.unwrap()).await.unwrap();
    node.process.signal("TERM").await;
    door_closed(&node).await;
    client.write_all(wire().as_bytes()).await.unwrap();
    let mut text = Vec::new();
    soon("the answer and its end", client.read_to_end(&mut text)).await.unwrap();
    assert!(text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text));
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_kept_connection_is_told_to_close_with_the_next_answer() {
    let upstream = good().await;
    let listen = "drain_grace: 60s, drain_timeout: 30s";
    let node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let mut client = Raw::connect(node.address).await;
    client.send(wire()).await;
    let (_, head, _) = client.answer().await.unwrap();
    assert!(!head.contains("connection: close"), "{head}");
    node.process.signal("TERM").await;
    until("readyz to say 503", async || (node.admin("/readyz").await.status == 503).then_some(())).await;
    assert!(client.send(wire()).await, "it stands while the grace lasts");
    let (status, head, _) = client.answer().await.unwrap();
    assert_eq!(status, 200);
    assert!(head.contains("connection: close"), "{head}");
    assert!(client.closes_within(secs(5)).await);
}

/// HTTP/2 in as few frames as it takes.
struct H2(TcpStream);

const MAX_STREAM: u32 = 0x7fff_ffff;

impl H2 {
    async fn connect(to: SocketAddr) -> Self {
        let mut this = Self(TcpStream::connect(to).await.unwrap());
        this.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        this.send(4, 0, 0, &[]).await;
        this
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn ask(&mut self, stream: u32) {
        let mut head = vec![0x83, 0x86];
        // `:path`, `:authority`, `content-type` by their numbers in the static table.
        for (index, value) in [(0x44, "/v1/chat/completions"), (0x41, "gate"), (0x5f, "application/json")] {
            head.extend([index, u8::try_from(value.len()).unwrap()]);
            head.extend(value.as_bytes());
        }
        self.send(1, 4, stream, &head).await;
        let body = br#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#;
        self.send(0, 1, stream, body).await;
    }

    /// The next frame of one of these kinds: kind, flags, stream, payload.
    async fn next(&mut self, kinds: &[u8]) -> (u8, u8, u32, Vec<u8>) {
        soon("a frame", async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                self.0.read_exact(&mut payload).await.unwrap();
                let (kind, flags) = (head[3], head[4]);
                if kind == 4 && flags == 0 {
                    self.send(4, 1, 0, &[]).await;
                }
                if kinds.contains(&kind) {
                    return (kind, flags, u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload);
                }
            }
        })
        .await
    }

    /// Reads until the answer on this stream has ended.
    async fn answered(&mut self, stream: u32) {
        loop {
            let (kind, flags, on, _) = self.next(&[0, 1, 3]).await;
            assert_ne!(kind, 3, "stream {on} was reset");
            if on == stream && flags & 1 == 1 {
                return;
            }
        }
    }

    async fn goaway(&mut self) -> u32 {
        let (.., payload) = self.next(&[7]).await;
        u32::from_be_bytes(payload[..4].try_into().unwrap())
    }
}

#[tokio::test]
async fn http2_is_told_to_go_away_first_and_loses_what_it_sent_meanwhile_never() {
    let upstream = good().await;
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(NOW).start().await;
    let mut client = H2::connect(node.address).await;
    client.ask(1).await;
    client.answered(1).await;
    node.process.signal("TERM").await;
    assert_eq!(client.goaway().await, MAX_STREAM, "a warning: whatever is on its way counts");
    let (.., ping) = client.next(&[6]).await;
    // On its way when the warning came.
    client.ask(3).await;
    client.answered(3).await;
    client.send(6, 1, 0, &ping).await;
    assert_eq!(client.goaway().await, 3, "the last that was taken");
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_http2_stream_finishes_after_the_door_has_closed() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(NOW).start().await;
    let mut stream = node.chat_stream().h2().send().await;
    assert_eq!(stream.event().await, Some(role()));
    node.process.signal("TERM").await;
    door_closed(&node).await;
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn who_still_waits_for_a_place_at_the_end_is_told_to_try_another_node() {
    let upstream = Upstream::doing(vec![Act::Stall]).await;
    let mut node = Setup::new()
        .upstream("a", &upstream.url())
        .listen("drain_grace: 0s, drain_timeout: 500ms")
        .section("limits: [{per: node, in_flight: 1, queue: 1, queue_timeout: 60s}]")
        .start()
        .await;
    let running = tokio::spawn(node.chat().send());
    upstream.received(1).await;
    let queued = tokio::spawn(node.chat().send());
    until("one in the queue", async || {
        (node.metric("tidegate_queued_requests", &[]).await == 1.0).then_some(())
    })
    .await;
    node.process.signal("TERM").await;
    for call in [running, queued] {
        let reply = call.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "1"));
        assert_eq!(reply.error().await, ("overloaded_error".into(), "draining".into()));
    }
    assert_eq!(node.process.ended().await.code(), Some(0));
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_and_leaves_streams_five_seconds() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let listen = "drain_grace: 600s, drain_timeout: 600s";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let (mut short, mut long) = (node.chat_stream().send().await, node.chat_stream().send().await);
    for stream in [&mut short, &mut long] {
        assert_eq!(stream.event().await, Some(role()));
    }
    node.process.signal("TERM").await;
    until("readyz to say 503", async || (node.admin("/readyz").await.status == 503).then_some(())).await;
    assert!(TcpStream::connect(node.address).await.is_ok(), "the grace lasts");
    node.process.signal("TERM").await;
    let hurried = Instant::now();
    door_closed(&node).await;
    gate.open(1);
    let (first, second) = tokio::join!(short.text(), long.text());
    let whole = [&first, &second].iter().filter(|text| text.ends_with(DONE)).count();
    let told = [&first, &second].iter().filter(|text| text.contains("\"draining\"")).count();
    assert_eq!((whole, told), (1, 1), "one ends in time: {first}\n{second}");
    assert!(hurried.elapsed() >= Duration::from_millis(4500), "{:?}", hurried.elapsed());
    assert_eq!(within(secs(15), "the end of the node", node.process.ended()).await.code(), Some(0));
}

#[tokio::test]
async fn an_operators_drain_is_the_same_as_a_signal() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let listen = "drain_grace: 1s, drain_timeout: 30s";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    let asked = Instant::now();
    assert!(Call::new(node.admin, "POST", "/api/drain").send().await.status.is_success());
    until("readyz to say 503", async || (node.admin("/readyz").await.status == 503).then_some(())).await;
    assert_eq!(node.admin("/healthz").await.status, 200);
    door_closed(&node).await;
    assert!(asked.elapsed() >= secs(1), "the grace lasted {:?}", asked.elapsed());
    // As an orchestrator does after its hook; it hurries nothing.
    node.process.signal("TERM").await;
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_a_cut_stream_has_used_is_known_to_the_others() {
    let Some(redis) = Redis::start().await else { return };
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let mut nodes = Nodes::meet(2, |setup, _| {
        let setup = setup.patient_store(&redis.url()).clients(&[("team", "")]);
        setup.listen("drain_grace: 0s, drain_timeout: 300ms").upstream("a", &upstream.url())
    })
    .await;
    let mut stream = nodes[0].chat_stream().bearer(&client_key("team")).send().await;
    assert_eq!(stream.event().await, Some(role()));
    nodes[0].process.signal("TERM").await;
    let text = stream.text().await;
    assert!(text.contains("\"draining\"") && !text.contains("[DONE]"), "{text}");
    assert_eq!(nodes[0].process.ended().await.code(), Some(0));
    // All is told by the time the process has ended.
    let usage = nodes[1].admin("/api/usage").await.json().await;
    let row = usage["usage"].as_array().and_then(|rows| rows.iter().find(|row| row["client"] == "team"));
    let row = row.unwrap_or_else(|| panic!("no usage of the client: {usage}"));
    assert_eq!(row["requests"], 1, "{usage}");
    assert!(
        row["prompt_tokens"].as_u64().unwrap() + row["completion_tokens"].as_u64().unwrap() > 0,
        "{usage}"
    );
}

#[tokio::test]
async fn a_draining_node_is_counted_no_more_and_still_seen() {
    let Some(redis) = Redis::start().await else { return };
    let x = Simulated::start("x").await;
    let nodes = Nodes::meet(3, |setup, _| {
        let setup = setup.patient_store(&redis.url()).upstream("x", &x.url());
        setup.listen("drain_grace: 600s, drain_timeout: 1s")
    })
    .await;
    for node in nodes.iter() {
        assert_eq!(node.metric("tidegate_fleet_nodes", &[]).await, 3.0);
    }
    nodes[0].process.signal("TERM").await;
    for node in nodes.iter() {
        until_within(SEEN, "two nodes that share limits", async || {
            (node.metric("tidegate_fleet_nodes", &[]).await == 2.0).then_some(())
        })
        .await;
    }
    // Prometheus, which scrapes all three, may subtract it.
    for (node, expected) in nodes.iter().zip([1.0, 0.0, 0.0]) {
        assert_eq!(node.metric("tidegate_node_draining", &[]).await, expected);
    }
    let status = nodes[1].status().await;
    let fleet = status["fleet"].as_array().unwrap();
    let of = fleet.iter().find(|node| node["name"] == "a").unwrap_or_else(|| panic!("{status}"));
    assert_eq!(of["state"], "draining", "{status}");
    // It serves on all the same.
    nodes[0].still_answers().await;
}

/// Who sent this, where each node has a key of its own.
fn sender(asked: &Asked) -> String {
    let header = asked.seen.header("authorization").unwrap_or_default();
    header.trim_start_matches("Bearer sk-of-node-").to_owned()
}

#[tokio::test]
async fn a_draining_node_hands_over_what_it_was_trying() {
    let Some(redis) = Redis::start().await else { return };
    let (x, y) = (Simulated::start("x").await, Simulated::start("y").await);
    let nodes = Nodes::meet(3, |setup, name| {
        setup
            .patient_store(&redis.url())
            .upstream_with("x", &x.url(), "keys: [{env: OWN}]")
            .env("OWN", &format!("sk-of-node-{name}"))
            .upstream("y", &y.url())
            .quick_health()
            // More than there is time for: it is tried again and again, and passes without end.
            .health("recovery", "{shadow_max: 1200/min, successes: 1000, min_span: 300ms}")
            .listen("drain_grace: 600s, drain_timeout: 1s")
    })
    .await;
    let load = Load::over(nodes.iter(), 40.0, 0.4, &[]);
    load.more(40).await;
    x.probes_always_good();
    x.set(Mode::Status(500, "outage"));
    for node in nodes.iter() {
        node.until_path_opened("x@direct", secs(20)).await;
    }
    x.set(Mode::Good);
    let good = Instant::now();
    let tries = |since: Instant| -> Vec<String> {
        let own = |asked: &Asked| matches!(asked.kind, Kind::Shadow | Kind::Synthetic) && asked.at >= since;
        x.asked().iter().filter(|asked| own(asked)).map(sender).collect()
    };
    let holder = until_within(secs(20), "three tries", async || {
        let tries = tries(good);
        (tries.len() >= 3).then(|| tries.last().cloned())?
    })
    .await;
    let index = usize::from(holder.as_bytes()[0] - b'a');
    nodes[index].process.signal("TERM").await;
    let told = Instant::now();
    until_within(SEEN * 2, "another node that tries it", async || {
        tries(told).iter().any(|name| *name != holder).then_some(())
    })
    .await;
    let handed = Instant::now();
    until_within(secs(20), "three more tries", async || (tries(handed).len() >= 3).then_some(())).await;
    assert!(!tries(handed).contains(&holder), "{holder} goes on: {:?}", tries(handed));
    load.stop().await.assert_all_ok();
}
