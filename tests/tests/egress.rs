//! Ways out: real proxies with credentials, names that only the proxy can resolve, names the operator resolves.

use tidegate_tests::answer;
use tidegate_tests::ca::Ca;
use tidegate_tests::client::Reply;
use tidegate_tests::node::{Node, Setup};
use tidegate_tests::parts::{BEHIND, Proxy};
use tidegate_tests::upstream::{Act, Upstream, refusing};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

fn wire() -> Act {
    Act::Send(answer::json(200, &answer::chat("hello")))
}

async fn answering() -> Upstream {
    Upstream::doing(vec![wire()]).await
}

/// The egress entry for a proxy.
fn egress(name: &str, scheme: &str, port: u16) -> String {
    format!(
        "{{name: {name}, proxy: \"{scheme}://127.0.0.1:{port}\", username: gate, password: {{env: PASSWORD}}}}"
    )
}

/// One upstream by these ways out, in this order.
async fn by(upstream: &str, ways: &str, entries: &[String], settings: &str, password: &str) -> Node {
    let settings = format!("egress: [{ways}]{settings}");
    Setup::new()
        .upstream_with("a", upstream, &settings)
        .section(&format!("egress: [{}]", entries.join(", ")))
        .env("PASSWORD", password)
        .start()
        .await
}

/// A plain and a streamed request over `path` at the first attempt.
async fn answered_over(node: &Node, path: &str) -> Reply {
    let reply = node.chat_stream().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, (path, "1")));
    assert_eq!(answer::text_of(&reply.text().await), "over a proxy");
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, (path, "1")));
    reply
}

fn both_kinds(seen: &tidegate_tests::upstream::Seen) -> Vec<Act> {
    if seen.json()["stream"] == true {
        vec![Act::Send(answer::stream(&["over ", "a proxy"]))]
    } else {
        vec![wire()]
    }
}

#[tokio::test]
async fn a_plain_upstream_is_reached_through_tinyproxy_with_credentials() {
    let Some(proxy) = Proxy::tinyproxy("gate", "right").await else { return };
    let upstream = Upstream::start(both_kinds).await;
    let node = by(&upstream.url(), "hk", &[egress("hk", "http", proxy.port)], "", "right").await;
    answered_over(&node, "a@hk").await;
    assert!(proxy.logged().contains("CONNECT"), "it went through the proxy: {}", proxy.logged());
    for seen in upstream.requests() {
        assert_eq!(
            (seen.header("proxy-authorization"), seen.header("via")),
            (None, None),
            "a tunnel: {}",
            seen.head
        );
        assert_eq!(seen.target(), "/v1/chat/completions");
    }
}

#[tokio::test]
async fn a_tls_upstream_is_verified_through_tinyproxy() {
    let Some(proxy) = Proxy::tinyproxy("gate", "right").await else { return };
    let ca = Ca::new();
    let setup = Setup::new();
    let authority = setup.file("ca.pem", ca.pem());
    let tls = format!(", tls: {{ca: \"{}\"}}", authority.display());
    let entries = [egress("hk", "http", proxy.port)];

    let good = Upstream::tls(ca.issue(&["localhost"]).server(&["http/1.1"]), both_kinds).await;
    let node = by(&good.url_as("localhost"), "hk", &entries, &tls, "right").await;
    answered_over(&node, "a@hk").await;

    let wrong = Upstream::tls(ca.issue(&["other.test"]).server(&["http/1.1"]), both_kinds).await;
    let node = by(&wrong.url_as("localhost"), "hk", &entries, &tls, "right").await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await.1, "tls", "the proxy's help changes nothing about certificates");
    assert_eq!(wrong.count(), 0);
}

#[tokio::test]
async fn wrong_proxy_credentials_move_to_the_next_way_out() {
    let Some(proxy) = Proxy::tinyproxy("gate", "right").await else { return };
    let upstream = answering().await;
    let node = by(&upstream.url(), "hk, direct", &[egress("hk", "http", proxy.port)], "", "wrong").await;
    asked_until_one_moved(&node, "a@direct").await;
    let failed = [("path", "a@hk"), ("type", "proxy")];
    assert_eq!(node.metric("tidegate_api_errors_total", &failed).await, 1.0);
    assert!(!node.process.output().contains("wrong"), "the log holds the password");
}

#[tokio::test]
async fn a_proxy_that_is_the_only_way_and_refuses_gives_502_connect() {
    let Some(proxy) = Proxy::tinyproxy("gate", "right").await else { return };
    let upstream = answering().await;
    let node = by(&upstream.url(), "hk", &[egress("hk", "http", proxy.port)], "", "wrong").await;
    let reply = node.chat().send().await;
    assert_eq!(reply.status, 502);
    assert_eq!(reply.error().await, ("upstream_error".into(), "connect".into()));
    assert!(reply_has_no_proxy_headers(&node).await);
    assert_eq!(upstream.count(), 0);
}

/// The proxy's demand for credentials is ours to meet, not the client's.
async fn reply_has_no_proxy_headers(node: &Node) -> bool {
    let reply = node.chat().send().await;
    reply.status != 407 && reply.headers.get("proxy-authenticate").is_none()
}

#[tokio::test]
async fn a_dead_proxy_moves_to_the_next_way_out() {
    let upstream = answering().await;
    let dead: u16 = refusing().trim_end_matches("/v1").rsplit(':').next().unwrap().parse().unwrap();
    for scheme in ["http", "socks5h"] {
        let node = by(&upstream.url(), "hk, direct", &[egress("hk", scheme, dead)], "", "any").await;
        asked_until_one_moved(&node, "a@direct").await;
    }
    assert!(upstream.count() >= 2);
}

#[tokio::test]
async fn a_proxy_that_answers_nonsense_moves_to_the_next_way_out() {
    let upstream = answering().await;
    // Speaks before it is asked, and nothing that is SOCKS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let garbage = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        }
    });
    let node = by(&upstream.url(), "sg, direct", &[egress("sg", "socks5h", port)], "", "any").await;
    asked_until_one_moved(&node, "a@direct").await;
    garbage.abort();
}

/// Paths nothing is known of take turns by chance: one of these requests begins with the broken one.
async fn asked_until_one_moved(node: &Node, sound: &str) {
    for _ in 0..100 {
        let reply = node.chat().send().await;
        let (path, attempts) = reply.came_by();
        assert_eq!((reply.status.as_u16(), path), (200, sound));
        if attempts == "2" {
            return;
        }
    }
    panic!("the broken way out was never tried");
}

#[tokio::test]
async fn a_name_only_the_socks_proxy_knows_is_resolved_there() {
    let Some(proxy) = Proxy::microsocks("gate", "right").await else { return };
    let upstream = Upstream::start(both_kinds).await;
    let url = upstream.url_as(BEHIND);
    let node = by(&url, "sg", &[egress("sg", "socks5h", proxy.port)], "", "right").await;
    answered_over(&node, "a@sg").await;
    assert_eq!(upstream.requests()[0].header("host").unwrap(), format!("{BEHIND}:{}", upstream.port()));

    let node = Setup::new().upstream("a", &url).start().await;
    let reply = node.chat().send().await;
    assert_eq!(reply.error().await.1, "dns", "this side cannot resolve the name");
}

#[tokio::test]
async fn a_tls_upstream_is_verified_by_its_name_through_socks() {
    let Some(proxy) = Proxy::microsocks("gate", "right").await else { return };
    let ca = Ca::new();
    let setup = Setup::new();
    let tls = format!(", tls: {{ca: \"{}\"}}", setup.file("ca.pem", ca.pem()).display());
    let upstream = Upstream::tls(ca.issue(&[BEHIND]).server(&["http/1.1"]), both_kinds).await;
    let entries = [egress("sg", "socks5h", proxy.port)];
    let node = by(&upstream.url_as(BEHIND), "sg", &entries, &tls, "right").await;
    answered_over(&node, "a@sg").await;
}

#[tokio::test]
async fn wrong_socks_credentials_move_to_the_next_way_out() {
    let Some(proxy) = Proxy::microsocks("gate", "right").await else { return };
    let upstream = answering().await;
    let node = by(&upstream.url(), "sg, direct", &[egress("sg", "socks5h", proxy.port)], "", "wrong").await;
    asked_until_one_moved(&node, "a@direct").await;
}

#[tokio::test]
async fn when_one_proxy_cannot_reach_the_upstream_the_other_is_asked() {
    let Some(http) = Proxy::tinyproxy("gate", "right").await else { return };
    let Some(socks) = Proxy::microsocks("gate", "right").await else { return };
    let upstream = answering().await;
    // The name exists behind the second proxy alone.
    let entries = [egress("hk", "http", http.port), egress("sg", "socks5h", socks.port)];
    let node = by(&upstream.url_as(BEHIND), "hk, sg", &entries, "", "right").await;
    asked_until_one_moved(&node, "a@sg").await;
    assert_eq!(node.metric("tidegate_failovers_total", &[("from", "a@hk"), ("to", "a@sg")]).await, 1.0);
}

#[tokio::test]
async fn a_name_in_dns_hosts_is_not_asked_of_any_resolver() {
    let upstream = answering().await;
    let node = Setup::new()
        .upstream("a", &upstream.url_as("api.vendor.invalid"))
        .section("dns: {hosts: {api.vendor.invalid: [127.0.0.1]}}")
        .start()
        .await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
    assert_eq!(upstream.request().header("host").unwrap(), format!("api.vendor.invalid:{}", upstream.port()));
}

#[tokio::test]
async fn the_second_address_of_a_name_is_used_when_the_first_refuses() {
    let upstream = Upstream::at("127.0.0.2:0", |_| vec![wire()]).await;
    let node = Setup::new()
        .upstream("a", &upstream.url_as("api.vendor.invalid"))
        .section("dns: {hosts: {api.vendor.invalid: [127.0.0.1, 127.0.0.2]}}")
        .start()
        .await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
}

#[tokio::test]
async fn proxies_named_in_the_environment_are_ignored() {
    let upstream = answering().await;
    let trap = answering().await;
    let proxy = format!("http://127.0.0.1:{}", trap.port());
    let mut setup = Setup::new().upstream("a", &upstream.url());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        setup = setup.env(name, &proxy);
    }
    let node = setup.start().await;
    let reply = node.chat().send().await;
    assert_eq!((reply.status.as_u16(), reply.came_by()), (200, ("a@direct", "1")));
    assert_eq!((upstream.count(), trap.connections()), (1, 0));
}
