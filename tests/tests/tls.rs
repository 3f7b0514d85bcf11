//! TLS on both sides: certificates that change while the node runs, and certificates that must be refused.

use serde_json::json;
use tidegate_tests::answer;
use tidegate_tests::ca::{Ca, Pair};
use tidegate_tests::client::Reply;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::parts;
use tidegate_tests::process::Process;
use tidegate_tests::upstream::Upstream;
use tidegate_tests::{soon, until};
use tokio::process::Command;

async fn answering() -> Upstream {
    Upstream::saying(answer::json(200, &answer::chat("hello"))).await
}

/// A node whose listener shows `pair`.
async fn listening(pair: &Pair, upstream: &Upstream) -> Node {
    let setup = Setup::new();
    let (cert, key) = (setup.file("cert.pem", &pair.cert), setup.file("key.pem", &pair.key));
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}", cert.display(), key.display());
    setup.upstream("a", &upstream.url()).listen(&tls).start().await
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_new_connections_without_a_restart() {
    let (old, new) = (Ca::new(), Ca::new());
    let upstream = answering().await;
    let node = listening(&old.issue(&["localhost"]), &upstream).await;
    assert_eq!(node.chat().tls(old.client(), "localhost").send().await.status, 200);
    assert!(node.chat().tls(new.client(), "localhost").try_send().await.is_err(), "not yet the new one");

    let pair = new.issue(&["localhost"]);
    std::fs::write(node.folder().join("cert.pem"), &pair.cert).unwrap();
    std::fs::write(node.folder().join("key.pem"), &pair.key).unwrap();
    let shown = async || node.chat().tls(new.client(), "localhost").try_send().await.ok();
    assert_eq!(until("the new certificate", shown).await.status, 200);
    assert!(node.chat().tls(old.client(), "localhost").try_send().await.is_err(), "the old one is gone");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_leaves_the_old_one_in_force() {
    let ca = Ca::new();
    let upstream = answering().await;
    let node = listening(&ca.issue(&["localhost"]), &upstream).await;
    // A first look at the files must have happened, or the change would be taken for the beginning.
    assert_eq!(node.chat().tls(ca.client(), "localhost").send().await.status, 200);
    std::fs::write(node.folder().join("cert.pem"), "not a certificate").unwrap();
    let refusal = |line: &str| (line.contains("cert.pem") && line.contains("ERROR")).then_some(());
    node.process.line("an error about the file", refusal).await;
    assert_eq!(node.chat().tls(ca.client(), "localhost").send().await.status, 200);
}

#[tokio::test]
async fn a_client_that_offers_only_tls_1_1_is_refused() {
    let Some(openssl) = parts::program("openssl") else { return };
    let ca = Ca::new();
    let upstream = answering().await;
    let node = listening(&ca.issue(&["localhost"]), &upstream).await;
    let connect = async |version: &str| {
        let mut command = Command::new(&openssl);
        let to = node.address.to_string();
        command.args(["s_client", "-connect", &to, version, "-cipher", "DEFAULT:@SECLEVEL=0"]);
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = soon("openssl", command.output()).await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(connect("-tls1_2").await.contains("BEGIN CERTIFICATE"), "1.2 is spoken");
    let refused = connect("-tls1_1").await;
    assert!(!refused.contains("BEGIN CERTIFICATE"), "{refused}");
    assert!(refused.contains("SSL alert number"), "the node says why it hangs up: {refused}");
}

/// One request through a node that trusts `ca` for an upstream reached by `host`.
async fn asked(upstream: &Upstream, host: &str, ca: Option<&Ca>) -> (Reply, Node) {
    let setup = Setup::new();
    let settings = ca.map(|ca| format!("tls: {{ca: \"{}\"}}", setup.file("ca.pem", ca.pem()).display()));
    let node = setup.upstream_with("a", &upstream.url_as(host), &settings.unwrap_or_default()).start().await;
    (node.chat().send().await, node)
}

async fn upstream_with(pair: Pair) -> Upstream {
    let wire = answer::json(200, &answer::chat("hello"));
    let script = vec![tidegate_tests::upstream::Act::Send(wire)];
    Upstream::tls(pair.server(&["http/1.1"]), move |_| script.clone()).await
}

async fn refused(upstream: &Upstream, host: &str, ca: Option<&Ca>) {
    let (reply, node) = asked(upstream, host, ca).await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await, ("upstream_error".into(), "tls".into()));
    assert_eq!(upstream.count(), 0, "not a byte of the request was sent");
    let outcome = [("path", "a@direct"), ("outcome", "tls")];
    assert!(node.metric("tidegate_upstream_requests_total", &outcome).await >= 1.0);
}

#[tokio::test]
async fn an_upstream_under_a_custom_authority_is_trusted_by_name_and_by_address() {
    let ca = Ca::new();
    let upstream = upstream_with(ca.issue(&["localhost", "127.0.0.1"])).await;
    for host in ["localhost", "127.0.0.1"] {
        let (reply, _node) = asked(&upstream, host, Some(&ca)).await;
        assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")), "{host}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::new();
    refused(&upstream_with(ca.issue(&["other.test"])).await, "localhost", Some(&ca)).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Ca::new();
    refused(&upstream_with(ca.issue_expired(&["localhost"])).await, "localhost", Some(&ca)).await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let ca = Ca::new();
    let upstream = upstream_with(ca.issue(&["localhost"])).await;
    refused(&upstream, "localhost", Some(&Ca::new())).await;
    refused(&upstream, "localhost", None).await;
}

#[tokio::test]
async fn an_upstream_that_speaks_only_tls_1_1_is_refused() {
    let Some(openssl) = parts::program("openssl") else { return };
    let ca = Ca::new();
    let pair = ca.issue(&["localhost"]);
    let setup = Setup::new();
    let (cert, key) = (setup.file("cert.pem", &pair.cert), setup.file("key.pem", &pair.key));
    let authority = setup.file("ca.pem", ca.pem());
    let port = parts::free_port();
    let mut command = Command::new(openssl);
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-tls1_1", "-www"]);
    command.args(["-cipher", "DEFAULT:@SECLEVEL=0", "-cert"]).arg(&cert).arg("-key").arg(&key);
    let server = Process::start("openssl s_server", &mut command);
    server.line("ACCEPT", |line| line.contains("ACCEPT").then_some(())).await;
    let tls = format!("tls: {{ca: \"{}\"}}", authority.display());
    let node = setup.upstream_with("a", &format!("https://localhost:{port}/v1"), &tls).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await.1, "tls");
}

#[tokio::test]
async fn a_plain_server_where_tls_is_expected_is_refused() {
    let upstream = answering().await;
    let url = format!("https://127.0.0.1:{}/v1", upstream.port());
    let node = Setup::new().upstream_with("a", &url, "timeouts: {connect: 300ms}").start().await;
    let reply = node.post("/v1/embeddings", &json!({"model": "m", "input": "a"})).send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await.1, "tls");
    assert_eq!(upstream.count(), 0);
}
