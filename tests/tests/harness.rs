//! The harness itself: what simulates outages does what it says, for a test can be no truer than its faults.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::client::{Call, Reply};
use tidegate_tests::fault_proxy::{Fault, FaultProxy};
use tidegate_tests::load::{Ask, Load};
use tidegate_tests::node::Setup;
use tidegate_tests::simulated::{Kind, Mode, SYNTHETIC, Simulated};
use tidegate_tests::tunnel::Tunnel;
use tidegate_tests::{answer, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

const BRIEF: Duration = Duration::from_millis(200);

fn call(port: u16, body: &Value) -> Call {
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Call::new(to, "POST", "/v1/chat/completions").body(body.to_string())
}

fn chat(content: &str) -> Value {
    json!({"model": "x", "messages": [{"role": "user", "content": content}]})
}

async fn models(port: u16) -> Result<Reply, String> {
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    Call::new(to, "GET", "/v1/models").try_send().await
}

#[tokio::test]
async fn a_simulated_upstream_knows_who_asks_and_answers_by_its_mode() {
    let a = Simulated::start("a").await;
    let answer = call(a.port(), &chat("user-1 hi")).send().await.json().await;
    assert_eq!(
        (&answer["model"], &answer["choices"][0]["message"]["content"]),
        (&json!("x"), &json!("from a"))
    );
    let mut streamed = chat("user-1 hi");
    streamed["stream"] = json!(true);
    let text = call(a.port(), &streamed).send().await.text().await;
    assert_eq!(answer::text_of(&text), "from a");
    assert!(text.contains("\"model\":\"x\"") && text.ends_with(answer::DONE));
    let mut shadow = chat("user-1 hi");
    shadow["max_tokens"] = json!(16);
    call(a.port(), &shadow).send().await;
    call(a.port(), &chat(SYNTHETIC)).send().await;
    assert_eq!(models(a.port()).await.unwrap().status, 200);
    let kinds: Vec<_> = a.asked().iter().map(|asked| asked.kind).collect();
    assert_eq!(kinds, [Kind::User, Kind::User, Kind::Shadow, Kind::Synthetic, Kind::Probe]);

    a.set(Mode::Half500);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(call(a.port(), &chat("user-1")).send().await.status.as_u16());
    }
    assert_eq!(statuses, [500, 200, 500, 200]);
    a.set(Mode::CutStreams(40));
    let mut cut = 0;
    for _ in 0..10 {
        let broken = call(a.port(), &streamed).send().await.try_bytes().await.is_err();
        cut += usize::from(broken);
    }
    assert_eq!(cut, 4);
    a.set(Mode::OnlyTiny);
    assert_eq!(call(a.port(), &chat("user-1")).send().await.status, 500);
    assert_eq!(call(a.port(), &shadow).send().await.status, 200);

    a.set(Mode::Silent);
    assert!(timeout(BRIEF, call(a.port(), &chat("user-1")).send()).await.is_err());
    assert!(timeout(BRIEF, models(a.port())).await.is_err());
    a.probes_always_good();
    assert_eq!(models(a.port()).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_killed_upstream_refuses_and_a_revived_one_answers_on_its_old_port() {
    let a = Simulated::start("a").await;
    for _ in 0..3 {
        assert_eq!(models(a.port()).await.unwrap().status, 200);
        a.kill().await;
        let error = TcpStream::connect(("127.0.0.1", a.port())).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        a.revive().await;
    }
    assert_eq!(models(a.port()).await.unwrap().status, 200);
    assert_eq!(a.count(Kind::Probe), 4, "the record outlives it");
}

#[tokio::test]
async fn latency_and_an_outlier_delay_users_alone() {
    let a = Simulated::start("a").await;
    a.latency(BRIEF);
    let start = Instant::now();
    models(a.port()).await.unwrap();
    assert!(start.elapsed() < BRIEF);
    call(a.port(), &chat("user-1")).send().await;
    assert!(start.elapsed() >= BRIEF);
    a.latency(Duration::ZERO);
    a.outlier(BRIEF);
    let start = Instant::now();
    call(a.port(), &chat("user-1")).send().await;
    let once = start.elapsed();
    call(a.port(), &chat("user-1")).send().await;
    assert!(once >= BRIEF && start.elapsed() - once < BRIEF);
}

#[tokio::test]
async fn a_fault_proxy_freezes_resets_refuses_delays_thins_and_cuts() {
    let a = Simulated::start("a").await;
    let line = FaultProxy::before_port(a.port()).await;
    let port = line.port();
    let ask = || call(port, &chat("user-1")).try_send();
    assert_eq!(ask().await.unwrap().status, 200);

    line.set(Fault::Freeze).await;
    let held = tokio::spawn(ask());
    assert!(timeout(BRIEF, models(port)).await.is_err(), "nothing passes");
    assert!(!held.is_finished(), "nothing is closed");
    line.set(Fault::Pass).await;
    assert_eq!(held.await.unwrap().unwrap().status, 200, "what was held goes on");

    line.set(Fault::ResetAll).await;
    assert!(ask().await.is_err());
    line.set(Fault::RefuseNew).await;
    assert!(ask().await.unwrap_err().contains("refused"));
    line.set(Fault::Pass).await;
    tidegate_tests::until("the proxy back", async || ask().await.ok()).await;

    line.set(Fault::Delay(BRIEF)).await;
    let start = Instant::now();
    assert_eq!(ask().await.unwrap().status, 200);
    assert!(start.elapsed() >= 2 * BRIEF, "each way: {:?}", start.elapsed());
    line.set(Fault::Throttle(1000)).await;
    let start = Instant::now();
    ask().await.unwrap().bytes().await;
    assert!(start.elapsed() >= 2 * BRIEF, "some 500 bytes: {:?}", start.elapsed());
    line.set(Fault::CutAfter(100)).await;
    let cut = match ask().await {
        Err(_) => true,
        Ok(reply) => reply.try_bytes().await.is_err(),
    };
    assert!(cut);
}

#[tokio::test]
async fn connections_that_stand_are_frozen_and_reset_too() {
    let a = Simulated::start("a").await;
    let line = FaultProxy::before_port(a.port()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", line.port())).await.unwrap();
    let get = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut buffer = [0; 4096];
    stream.write_all(get).await.unwrap();
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    line.set(Fault::Freeze).await;
    stream.write_all(get).await.unwrap();
    assert!(timeout(BRIEF, stream.read(&mut buffer)).await.is_err());
    assert_eq!(a.count(Kind::Probe), 1, "it does not even arrive");
    line.set(Fault::ResetAll).await;
    let error = within(BRIEF, "a reset", stream.read(&mut buffer)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_tunnel_connects_until_a_target_is_blocked() {
    let a = Simulated::start("a").await;
    let tunnel = Tunnel::start().await;
    let connect = async || {
        let mut stream = TcpStream::connect(("127.0.0.1", tunnel.port())).await.unwrap();
        let head = format!("CONNECT 127.0.0.1:{} HTTP/1.1\r\n\r\n", a.port());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut buffer = [0; 512];
        let count = stream.read(&mut buffer).await.unwrap();
        (stream, String::from_utf8_lossy(&buffer[..count]).into_owned())
    };
    let (mut standing, consent) = connect().await;
    assert!(consent.starts_with("HTTP/1.1 200"), "{consent}");
    standing.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 512];
    assert!(standing.read(&mut buffer).await.unwrap() > 0);
    tunnel.block(a.port());
    let ended = within(Duration::from_secs(5), "the end of the tunnel", async {
        while matches!(standing.read(&mut buffer).await, Ok(count) if count > 0) {}
    });
    ended.await;
    let (_, refusal) = connect().await;
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("ERR_CONNECT_FAIL"), "{refusal}");
    assert_eq!(tunnel.opened(), 1);
}

#[tokio::test]
async fn a_load_keeps_its_schedule_and_tells_what_became_of_each() {
    let a = Simulated::start("a").await;
    let node = Setup::new().upstream("a", &a.url()).start().await;
    a.latency(BRIEF);
    let start = Instant::now();
    let load = Load::start_with(&node, 50.0, 0.4, &[("x-own", "1")]);
    load.more(50).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "one after another it were ten seconds: {took:?}");
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(a.count(Kind::User), report.len());
    assert!((report.share_of("a@direct") - 1.0).abs() < 0.001);
    let streamed = report.answered.iter().filter(|answered| answered.streamed).count();
    assert!((report.len() * 3 / 10..=report.len() / 2).contains(&streamed), "{streamed} of {}", report.len());
    assert!(report.answered.iter().all(|answered| answered.said() == "from a" && answered.took >= BRIEF));
    assert_eq!(a.of(Kind::User)[0].seen.header("x-own"), Some("1"));

    a.set(Mode::Status(400, "no"));
    let answered = Ask::plain(&node).send().await;
    assert!(!answered.ok() && answered.error().1 == "simulated", "{answered:?}");
    a.set(Mode::CutStreams(100));
    let answered = Ask::streamed(&node).send().await;
    assert!(answered.status == 200 && !answered.whole && !answered.ok(), "{answered:?}");
}

#[tokio::test]
async fn a_load_reaches_all_its_nodes() {
    let a = Simulated::start("a").await;
    let start = async || Setup::new().upstream("a", &a.url()).start().await;
    let nodes = [start().await, start().await];
    let load = Load::over(&nodes, 100.0, 0.5, &[]);
    load.more(60).await;
    let report = load.stop().await;
    report.assert_all_ok();
    assert_eq!(report.admitted(), report.len());
    for node in &nodes {
        let count = report.answered.iter().filter(|a| a.to == node.address).count();
        assert!(count >= 10, "{count} of {}", report.len());
    }
}

#[tokio::test]
async fn a_node_lives_by_the_clock_it_is_given() {
    let hour = async |offset: &str| {
        let node = Setup::new().upstream("a", "http://127.0.0.1:1/v1").clock(offset)?.start().await;
        let started = node.status().await["node"]["started_at"].as_str().unwrap().to_owned();
        Some(started[..13].to_owned())
    };
    let Some(behind) = hour("-1h").await else { return };
    let ahead = hour("+1h").await.unwrap();
    assert!(behind < ahead, "{behind} {ahead}");
}
