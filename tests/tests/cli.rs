//! The command line: what each command prints, how it ends, and how a node starts, logs and leaves.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::answer::{self, DONE, delta, finish, last_piece, piece, role, stream_head};
use tidegate_tests::client::Call;
use tidegate_tests::node::{Setup, binary, upstream_key};
use tidegate_tests::parts;
use tidegate_tests::process::Process;
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tidegate_tests::{soon, until, within};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

/// A file that is sound.
const SOUND: &str = "upstreams:\n  - {name: one, base_url: \"https://one.test/v1\"}\nroutes:\n  - {match: {model: \"gpt*\"}, to: [one]}\n";

fn tidegate(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

async fn ends(command: &mut Command) -> Ended {
    soon("the command to end", command.output()).await.unwrap().into()
}

/// Runs a command beside a file with this content.
async fn with_file(yaml: &str, args: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tidegate.yaml"), yaml).unwrap();
    ends(&mut tidegate(folder.path(), args)).await
}

#[tokio::test]
async fn check_says_ok_for_a_sound_file() {
    for args in [&["check"][..], &["check", "--config", "tidegate.yaml"]] {
        let ended = with_file(SOUND, args).await;
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "ok\n", ""));
    }
}

#[tokio::test]
async fn check_takes_the_file_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("elsewhere.yaml");
    std::fs::write(&file, SOUND).unwrap();
    let ended = ends(tidegate(folder.path(), &["check"]).env("TIDEGATE_CONFIG", &file)).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "ok\n"));
}

#[tokio::test]
async fn check_names_every_fault_with_its_place() {
    let faulty = "upstreams:\n  - {name: one, base_url: \"https://one.test/v1\", wieght: 2}\nroutes:\n  - {match: {model: \"gpt*\"}, to: [two]}\n  - {match: {model: x}, to: [one], retry: {attempts: 0}}\n";
    let ended = with_file(faulty, &["check"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (2, ""));
    let faults: Vec<&str> = ended.err.lines().collect();
    for (line, at, words) in [(2, "wieght", "weight"), (4, "two", "two"), (5, "0}", "attempts")] {
        let column = faulty.lines().nth(line - 1).unwrap().find(at).unwrap() + 1;
        let place = format!("tidegate.yaml:{line}:{column}: ");
        let found = faults.iter().any(|fault| fault.starts_with(&place) && fault.contains(words));
        assert!(found, "no fault at {place} about {words}:\n{}", ended.err);
    }
    assert_eq!(faults.len(), 3, "{}", ended.err);
}

#[tokio::test]
async fn an_absent_secret_is_a_warning_in_check_and_a_fault_in_serve() {
    let yaml = SOUND.replace("v1\"}", "v1\", keys: [{env: NOT_THERE}]}");
    let ended = with_file(&yaml, &["check"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "ok\n"));
    assert!(ended.err.contains("NOT_THERE") && ended.err.contains("tidegate.yaml:2:"), "{}", ended.err);
    let ended = with_file(&yaml, &["serve"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("NOT_THERE"), "{}", ended.err);
}

#[tokio::test]
async fn an_unset_variable_is_a_fault_in_both() {
    let yaml = format!("node: {{name: \"${{NOT_SET}}\"}}\n{SOUND}");
    for command in ["check", "serve"] {
        let ended = with_file(&yaml, &[command]).await;
        assert_eq!(ended.code, 2, "{command}");
        assert!(ended.err.contains("tidegate.yaml:1:") && ended.err.contains("NOT_SET"), "{}", ended.err);
    }
    let ended = with_file(&yaml.replace("NOT_SET", "NOT_SET:-gate"), &["check"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[tokio::test]
async fn a_section_that_is_not_built_is_refused_not_ignored() {
    for section in [
        "conversations: {ttl: 1h}",
        "batch: {window: 5ms, max: 8}",
        "filters: [{name: keys, patterns: [\"sk-[a-z]+\"]}]",
        "auth: {signature: {window: 300s}}",
    ] {
        let ended = with_file(&format!("{SOUND}{section}\n"), &["check"]).await;
        assert_eq!(ended.code, 2, "{section}");
        assert!(ended.err.contains("tidegate.yaml:5:"), "{section}: {}", ended.err);
    }
}

#[tokio::test]
async fn a_secret_written_in_clear_is_refused_without_being_repeated() {
    let yaml = SOUND.replace("v1\"}", "v1\", keys: [sk-written-in-clear-1234]}");
    let ended = with_file(&yaml, &["check"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("tidegate.yaml:2:"), "{}", ended.err);
    assert!(!ended.err.contains("sk-written-in-clear-1234"), "{}", ended.err);
}

#[tokio::test]
async fn a_missing_file_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["serve", "check"] {
        let ended = ends(&mut tidegate(folder.path(), &[command, "--config", "nowhere.yaml"])).await;
        assert_eq!(ended.code, 2, "{command}");
        assert!(ended.err.contains("nowhere.yaml"), "{}", ended.err);
    }
    let ended =
        ends(&mut tidegate(folder.path(), &["explain", "--config", "nowhere.yaml", "--model", "m"])).await;
    assert_eq!(ended.code, 2);
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for args in
        [&[][..], &["surve"], &["serve", "--nonsense"], &["explain"], &["--log-format", "xml", "check"]]
    {
        let ended = ends(&mut tidegate(folder.path(), args)).await;
        assert_eq!(ended.code, 2, "{args:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
    for command in ["serve", "check", "demo", "explain", "schema", "keygen"] {
        let ended = ends(&mut tidegate(folder.path(), &[command, "--help"])).await;
        assert_eq!(ended.code, 0, "{command}");
        assert!(
            ended.out.contains(&format!("tidegate {command}")),
            "an example of {command}:\n{}",
            ended.out
        );
        assert!(ended.out.contains("Examples:"), "{command}:\n{}", ended.out);
    }
    let ended = ends(&mut tidegate(folder.path(), &["--version"])).await;
    assert_eq!((ended.code, ended.out.starts_with("tidegate ")), (0, true));
}

#[tokio::test]
async fn a_taken_address_is_failed_work() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let yaml = format!("listen: {{address: \"{address}\"}}\nadmin: {{address: \"127.0.0.1:0\"}}\n{SOUND}");
    let ended = with_file(&yaml, &["serve"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains(&address.to_string()), "{}", ended.err);
}

#[tokio::test]
async fn schema_is_a_json_schema_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let ended = ends(&mut tidegate(folder.path(), &["schema"])).await;
    assert_eq!(ended.code, 0);
    let schema: Value = serde_json::from_str(&ended.out).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{}", schema["$schema"]);
    for section in ["node", "listen", "admin", "upstreams", "routes", "clients", "egress", "dns", "log"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
}

#[tokio::test]
async fn explain_tells_route_paths_and_refusals() {
    let yaml = SOUND.replace("v1\"}", "v1\", egress: [hk, direct]}")
        + "egress: [{name: hk, proxy: \"http://127.0.0.1:1\"}]\n";
    let ended = with_file(&yaml, &["explain", "--model", "gpt-4o"]).await;
    assert_eq!(ended.code, 0);
    let (hk, direct) = (ended.out.find("one@hk"), ended.out.find("one@direct"));
    assert!(hk.is_some() && hk < direct, "paths in their order:\n{}", ended.out);
    assert!(ended.out.contains("gpt*"), "{}", ended.out);
    let ended = with_file(&yaml, &["explain", "--model", "llama"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains("model_not_found"), "{}", ended.out);
}

#[tokio::test]
async fn explain_tells_cache_limits_and_price() {
    let yaml = SOUND.replace("to: [one]}", "to: [one], cache: {ttl: 1h}, limits: [{requests: 3000/min}]}")
        + "store: {url: \"redis://127.0.0.1:6379\"}\nlimits: [{per: ip, tokens: 500/day}]\nprices: {\"gpt*\": {input: 2.5, output: 10}}\n";
    let ended = with_file(&yaml, &["explain", "--model", "gpt-4o"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    for part in [
        "cache: answers are kept for 1h",
        "and the store",
        "each address: 500 tokens a UTC day",
        "this route: 3000 requests in 1m",
        "price: 2.5 USD per million tokens read, 10 written",
    ] {
        assert!(ended.out.contains(part), "{part}:\n{}", ended.out);
    }
}

#[tokio::test]
async fn a_key_from_keygen_opens_the_node_and_only_its_hash_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let made = ends(&mut tidegate(folder.path(), &["keygen", "--name", "team-a"])).await;
    assert_eq!(made.code, 0);
    let (key, entry) = made.out.split_once("\n\n").unwrap();
    assert!(key.len() > 30 && !entry.contains(key), "{}", made.out);
    assert_eq!(made.out.matches(key).count(), 1, "shown once");
    let other = ends(&mut tidegate(folder.path(), &["keygen"])).await;
    assert!(!other.out.contains(key), "each is new");

    let upstream = Upstream::saying(answer::json(200, &answer::chat("hello"))).await;
    let node =
        Setup::new().upstream("a", &upstream.url()).section(&format!("clients:\n{entry}")).start().await;
    assert_eq!(node.chat().send().await.status, 401);
    assert_eq!(node.chat().bearer(&format!("{key}x")).send().await.status, 401);
    assert_eq!(node.chat().bearer(key).send().await.status, 200);
    let labels = [("client", "team-a"), ("status", "success")];
    assert_eq!(node.metric("tidegate_requests_total", &labels).await, 1.0);
    node.process.line("the last request's line", |line| line.contains("team-a").then_some(())).await;
    assert!(!node.process.output().contains(key), "the key is in the log");
}

#[tokio::test]
async fn the_demo_prints_three_curl_lines_that_work_when_pasted() {
    if parts::program("curl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // On ports of the kernel's choice, so that a demo of somebody's own is no hindrance.
    let mut command = tidegate(folder.path(), &["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut demo = Process::start("tidegate demo", &mut command);
    let page = demo
        .line("the status page's address", |line| {
            let at = line.split_whitespace().find(|word| word.starts_with("http://"))?;
            line.contains("Status page").then(|| at.to_owned())
        })
        .await;
    let output = demo.output();
    let lines: Vec<&str> = output.lines().filter(|line| line.trim_start().starts_with("curl ")).collect();
    assert_eq!(lines.len(), 3, "{output}");
    for line in &lines {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).stdin(Stdio::null()).kill_on_drop(true);
        let ended: Ended = soon("curl", shell.output()).await.unwrap().into();
        assert_eq!(ended.code, 0, "{line}: {}", ended.err);
        assert!(!ended.out.contains("\"error\""), "{line}: {}", ended.out);
        if line.contains("\"stream\": true") {
            assert!(ended.out.ends_with(DONE), "{}", ended.out);
            assert!(!answer::text_of(&ended.out).is_empty(), "{}", ended.out);
        } else {
            let body: Value = serde_json::from_str(&ended.out).unwrap();
            let said = body["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty());
            assert!(said || body["data"].as_array().is_some_and(|models| !models.is_empty()), "{body}");
        }
    }
    let admin = page.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    assert!(Call::new(admin, "GET", "/").send().await.text().await.contains("Tidegate"));
    demo.signal("INT").await;
    assert!(demo.ended().await.success());
}

fn outage(folder: &Path) -> Command {
    tidegate(folder, &["demo", "--script", "outage", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
}

#[tokio::test]
async fn the_outage_of_the_demo_is_told_step_by_step_and_no_user_sees_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let run = outage(folder.path()).output();
    let ended: Ended = within(Duration::from_secs(60), "the end of the outage", run).await.unwrap().into();
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    let in_order = |steps: &[&str]| {
        let mut rest = ended.out.as_str();
        for step in steps {
            let at = rest.find(step).unwrap_or_else(|| panic!("no {step:?} in its place:\n{}", ended.out));
            rest = &rest[at..];
        }
    };
    in_order(&[
        "All is well",
        "The primary dies",
        "primary: open",
        "secondary 100 %",
        "The secondary freezes",
        "secondary: open",
        "x-tidegate-fallback: true. Answers: local 100 %",
        "repaired",
        "ramping",
        "closed",
        "Answers of the last",
        " 0 failed",
    ]);
    for upstream in ["primary", "secondary"] {
        let steps =
            ["open", "shadowing", "copy 1 of 3", "copy 3 of 3", "ramping", "ramping, at 100 %", "closed"];
        in_order(&steps.map(|step| format!("{upstream}: {step}")).each_ref().map(String::as_str));
        assert!(ended.out.contains(&format!("the {upstream} saw ")), "{}", ended.out);
    }
    assert_eq!(ended.out.matches("and 0 users' requests.").count(), 2, "{}", ended.out);
}

#[tokio::test]
async fn an_outage_that_is_not_played_to_its_end_is_failed_work() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Process::start("tidegate demo", &mut outage(folder.path()));
    demo.line("the outage's begin", |line| line.contains("The primary dies").then_some(())).await;
    demo.signal("INT").await;
    demo.line("why it ends", |line| line.contains("tidegate demo: interrupted").then_some(())).await;
    assert_eq!(demo.ended().await.code(), Some(1));
}

#[tokio::test]
async fn logs_tell_of_each_request_once_and_hold_no_secret() {
    const CLIENT: &str = "tg-0123456789abcdefghijklmnop";
    let leak =
        answer::error("server_error", "oops", "your key sk-of-upstream-a, Bearer abc.def-ghi, was refused");
    let upstream = Upstream::start(move |seen| {
        let streamed = seen.json()["stream"] == true;
        let fail = seen.header("x-fail").is_some();
        vec![Act::Send(match (fail, streamed) {
            (true, _) => answer::json(500, &leak),
            (_, true) => answer::stream(&["top secret"]),
            _ => answer::json(200, &answer::chat("top secret")),
        })]
    })
    .await;
    let node =
        Setup::new().upstream("a", &upstream.url()).section("log: {redact: ['tok_[0-9]+']}").start().await;
    let prompt =
        json!({"model": "m tok_12345", "messages": [{"role": "user", "content": "a confidential prompt"}]});
    node.post("/v1/chat/completions?key=sk-in-the-query-12345", &prompt)
        .bearer("sk-the-clients-own-key")
        .header("x-request-id", "sk-in-the-request-id")
        .send()
        .await;
    node.chat_stream().bearer(CLIENT).header("x-request-id", "streamed-1").send().await.text().await;
    node.chat().header("x-fail", "1").header("x-request-id", "failed-1").send().await;
    node.call("GET", "/v1/sk-in-the-path-123456").header("x-request-id", "odd-1").send().await;
    node.call("GET", "/nowhere").header("x-request-id", "last-1").send().await;
    node.process.line("the last request's line", |line| line.contains("last-1").then_some(())).await;
    let log = node.process.output();
    for secret in
        ["sk-of-", "sk-the-", "sk-in-", CLIENT, "abc.def-ghi", "tok_12345", "confidential", "top secret"]
    {
        assert!(!log.contains(secret), "{secret} in the log:\n{log}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |id: &str| -> Vec<&Value> {
        lines.iter().filter(|l| l["message"] == "request" && l["request_id"] == id).collect()
    };
    for id in ["streamed-1", "failed-1", "odd-1", "last-1"] {
        assert_eq!(of(id).len(), 1, "{id}:\n{log}");
    }
    let streamed = of("streamed-1")[0];
    assert_eq!((&streamed["path"], &streamed["attempts"]), (&json!("a@direct"), &json!(1)));
    assert_eq!((&streamed["status"], &streamed["stream"]), (&json!(200), &json!(true)));
    assert!(streamed["duration_ms"].as_f64().unwrap() > 0.0);
    let failed = of("failed-1")[0];
    assert_eq!((&failed["status"], &failed["attempts"]), (&json!(502), &json!(3)));
    let plain = lines.iter().find(|l| l["message"] == "request" && l["prompt_tokens"].is_number()).unwrap();
    assert_eq!((&plain["prompt_tokens"], &plain["completion_tokens"]), (&json!(5), &json!(3)));
    assert!(!log.contains(&upstream_key("a")));
}

/// A stream that waits for the gate before its end.
fn held_stream(gate: &Gate) -> Vec<Act> {
    vec![
        Act::Send([stream_head(), piece(role()), piece(delta("first "))].concat().into()),
        Act::Wait(gate.clone()),
        Act::Send([piece(delta("last")), piece(finish()), piece(DONE), last_piece()].concat().into()),
    ]
}

#[tokio::test]
async fn on_sigterm_a_node_is_unready_serves_on_and_finishes_its_streams() {
    let gate = Gate::new();
    let held = held_stream(&gate);
    let upstream = Upstream::start(move |seen| {
        if seen.json()["stream"] == true {
            held.clone()
        } else {
            vec![Act::Send(answer::json(200, &answer::chat("x")))]
        }
    })
    .await;
    let mut node = Setup::new()
        .upstream("a", &upstream.url())
        .listen("drain_grace: 1s, drain_timeout: 30s")
        .start()
        .await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    let start = Instant::now();
    node.process.signal("TERM").await;
    until("readyz to say 503", async || (node.admin("/readyz").await.status == 503).then_some(())).await;
    assert!(start.elapsed() < Duration::from_millis(900), "unready at once, not after the grace");
    assert_eq!(node.admin("/healthz").await.status, 200);
    let status = node.admin("/api/status").await.json().await;
    assert_eq!(status["node"]["draining"], true);
    // So that no client keeps a connection that is about to close under its next request.
    assert_eq!(node.chat().send().await.header("connection"), "close");
    // Load balancers lag: within the grace new connections are served as ever.
    node.still_answers().await;
    until("the door to close", async || TcpStream::connect(node.address).await.is_err().then_some(())).await;
    assert!(start.elapsed() >= Duration::from_secs(1));
    // The stream has outlived the door and ends whole.
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
    assert_eq!(answer::text_of(&text), "first last");
    let ended = within(Duration::from_secs(5), "the end of the node", node.process.ended()).await;
    assert_eq!(ended.code(), Some(0));
}

/// The upstream connection was opened by another worker, which has nothing left to do when the node drains.
#[tokio::test]
async fn a_stream_over_another_workers_connection_finishes_while_draining() {
    let gate = Gate::new();
    let held = held_stream(&gate);
    let upstream = Upstream::start(move |seen| {
        if seen.json()["stream"] == true {
            held.clone()
        } else {
            vec![Act::Send(answer::json(200, &answer::chat("x")))]
        }
    })
    .await;
    let listen = "drain_grace: 0s, drain_timeout: 30s";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let first = node.chat().send().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    assert_eq!(upstream.connections(), 1, "the stream took over the kept connection");
    node.process.signal("TERM").await;
    drop(first);
    until("the door to close", async || TcpStream::connect(node.address).await.is_err().then_some(())).await;
    gate.open(1);
    let text = stream.text().await;
    assert!(text.ends_with(DONE), "{text}");
    assert_eq!(node.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_stream_longer_than_drain_timeout_ends_in_an_error_event() {
    let gate = Gate::new();
    let upstream = Upstream::doing(held_stream(&gate)).await;
    let listen = "drain_grace: 0s, drain_timeout: 500ms";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let mut stream = node.chat_stream().send().await;
    assert_eq!(stream.event().await, Some(role()));
    node.process.signal("TERM").await;
    let text = stream.text().await;
    assert!(text.contains("\"draining\"") && !text.contains("[DONE]"), "{text}");
    assert_eq!(node.process.ended().await.code(), Some(0));
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn a_plain_request_longer_than_drain_timeout_is_told_to_try_another_node() {
    let gate = Gate::new();
    let upstream = Upstream::doing(vec![Act::Wait(gate.clone())]).await;
    let listen = "drain_grace: 0s, drain_timeout: 500ms";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let call = tokio::spawn(node.chat().send());
    upstream.received(1).await;
    node.process.signal("TERM").await;
    let reply = call.await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(reply.error().await, ("overloaded_error".into(), "draining".into()));
    assert_eq!(node.process.ended().await.code(), Some(0));
    upstream.gave_up(1).await;
}

#[tokio::test]
async fn idle_keep_alive_connections_do_not_hold_up_the_end() {
    let upstream = Upstream::saying(answer::json(200, &answer::chat("x"))).await;
    let listen = "drain_grace: 0s, drain_timeout: 30s";
    let mut node = Setup::new().upstream("a", &upstream.url()).listen(listen).start().await;
    let idle = node.chat().send().await;
    let over_h2 = node.chat().h2().send().await;
    let silent = TcpStream::connect(node.address).await.unwrap();
    node.process.signal("TERM").await;
    let ended = within(Duration::from_secs(5), "the end of the node", node.process.ended()).await;
    assert_eq!(ended.code(), Some(0));
    drop((idle, over_h2, silent));
}
