//! What a node says it runs by, and what a file would change on it.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tidegate_tests::answer;
use tidegate_tests::node::{Setup, binary, upstream_key};
use tidegate_tests::soon;
use tidegate_tests::upstream::{Act, Gate, Upstream};
use tokio::process::Command;

struct Ended {
    code: i32,
    out: String,
    err: String,
}

async fn check(folder: &Path, file: &str, against: &str) -> Ended {
    let mut command = Command::new(binary());
    command.args(["check", "--config", file, "--against", against]).current_dir(folder);
    command.env_clear().env("HOSTNAME", "elsewhere").stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } = soon("the check", command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

fn setup(upstream: &Upstream) -> Setup {
    Setup::new()
        .upstream("a", &upstream.url())
        .upstream("b", &upstream.url())
        .env("TOKEN", "hunter2-token")
        .admin("token: {env: TOKEN}")
        .section("node: {name: gate-7}\nprices: {\"gpt-4o*\": {input: 2.5, output: 10}, \"*\": {input: 1, output: 1}}")
}

async fn upstream() -> Upstream {
    Upstream::saying(answer::json(200, &answer::chat("x"))).await
}

#[tokio::test]
async fn a_node_says_what_it_runs_by_with_secrets_as_references() {
    let upstream = upstream().await;
    let node = setup(&upstream).start().await;
    let reply = node.admin("/api/config").await;
    assert_eq!(reply.status, 200, "open as every other read, though there is a token");
    assert_eq!(reply.header("content-type"), "application/json");
    let text = reply.text().await;
    assert!(!text.contains("hunter2") && !text.contains(&upstream_key("a")), "{text}");
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["admin"]["token"], json!({"env": "TOKEN"}));
    assert_eq!(config["upstreams"][0]["keys"], json!([{"env": "KEY_a"}]));
    assert_eq!(config["upstreams"][1]["name"], "b");
    assert_eq!(config["listen"]["drain_timeout"], "1m", "a default");
    assert_eq!(config["routes"][0]["retry"]["budget"], "100%");

    // What it says is a file that changes nothing.
    std::fs::write(node.folder().join("again.yaml"), &text).unwrap();
    let ended = check(node.folder(), "again.yaml", &format!("http://{}", node.admin)).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "ok\nno change\n"), "{}", ended.err);
}

#[tokio::test]
async fn check_tells_what_a_file_would_change_on_a_running_node() {
    let upstream = upstream().await;
    let node = setup(&upstream).start().await;
    let url = format!("http://{}/", node.admin);
    let ended = check(node.folder(), "tidegate.yaml", &url).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "ok\nno change\n"), "{}", ended.err);

    let running = std::fs::read_to_string(node.folder().join("tidegate.yaml")).unwrap();
    let changed = running
        .replace("attempts: 3", "attempts: 5")
        .replace("name: b,", "name: c,")
        .replace("to: [a, b]", "to: [a, c]")
        .replace("name: gate-7", "name: gate-8");
    std::fs::write(node.folder().join("next.yaml"), changed).unwrap();
    let ended = check(node.folder(), "next.yaml", &url).await;
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (
            0,
            "ok\n~ node.name: gate-7 -> gate-8 (needs a restart)\n~ routes[\"*\"].retry.attempts: 3 -> 5\n\
             ~ routes[\"*\"].to: [a, b] -> [a, c]\n- upstreams.b\n+ upstreams.c\n"
        ),
        "{}",
        ended.err
    );

    std::fs::write(node.folder().join("faulty.yaml"), running.replace("attempts: 3", "attempts: 0")).unwrap();
    let ended = check(node.folder(), "faulty.yaml", &url).await;
    assert_eq!((ended.code, ended.out.as_str()), (2, ""));
    assert!(ended.err.contains("faulty.yaml:"), "{}", ended.err);
    let ended = check(node.folder(), "tidegate.yaml", "localhost:9090").await;
    assert_eq!(ended.code, 2, "wrong usage: {}", ended.err);
}

#[tokio::test]
async fn a_node_that_cannot_be_asked_is_failed_work() {
    let upstream = upstream().await;
    let setup = setup(&upstream);
    let path = setup.file("tidegate.yaml", setup.yaml());
    let folder = path.parent().unwrap();
    let huge = Upstream::saying(answer::json(200, &json!("x".repeat(9 << 20)))).await;
    let silent = Gate::new();
    let mute = Upstream::doing(vec![Act::Wait(silent)]).await;
    for (url, why) in [
        (tidegate_tests::upstream::refusing(), "refused"),
        (upstream.url(), "no configuration"),
        (huge.url(), "over 8 MiB"),
        (mute.url(), "no answer within 5 s"),
    ] {
        let ended = check(folder, "tidegate.yaml", &url).await;
        assert_eq!((ended.code, ended.out.as_str()), (1, "ok\n"), "{url}: {}", ended.err);
        assert!(ended.err.contains(why), "{url}: {}", ended.err);
    }
    // The data plane is another door.
    let node = setup.start().await;
    let ended = check(node.folder(), "tidegate.yaml", &format!("http://{}", node.address)).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("it answers 404"), "{}", ended.err);
}

#[tokio::test]
async fn the_reference_of_the_binary_is_the_one_in_the_documentation() {
    let mut command = Command::new(binary());
    command.args(["schema", "--format", "markdown"]).stdin(Stdio::null()).kill_on_drop(true);
    let printed = soon("the reference", command.output()).await.unwrap();
    assert!(printed.status.success());
    let page = std::fs::read(tidegate_tests::parts::root().join("docs/configuration.md")).unwrap();
    assert!(
        printed.stdout == page,
        "run `cargo run -p tidegate -- schema --format markdown > docs/configuration.md`"
    );
}
