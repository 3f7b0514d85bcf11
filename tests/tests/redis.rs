//! The stores that the harness runs: each is there when it says so, dies, stops and comes back as told, and refuses
//! what it is made to refuse. No node is involved.

use std::time::Duration;

use tidegate_tests::ca::Ca;
use tidegate_tests::redis::Redis;
use tidegate_tests::redis::cluster::Cluster;
use tidegate_tests::redis::sentinel::Sentinel;
use tidegate_tests::until;
use tokio::time::Instant;

const WRITE: [&str; 4] = ["EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", "key"];

#[tokio::test]
async fn a_redis_dies_stops_and_comes_back_empty_on_its_port() {
    let Some(mut redis) = Redis::start().await else { return };
    assert_eq!(redis.command(&["SET", "key", "two\r\nlines"]).await, "OK");
    assert_eq!(redis.command(&["GET", "key"]).await, "two\r\nlines");
    assert_eq!(redis.command(&["EVAL", "return {1, {'a', 'b'}, 2}", "0"]).await, "1\na\nb\n2");
    assert_eq!(redis.scripts_run().await, 1);
    assert_eq!(redis.keys("string").await, ["key"]);
    let url = redis.url();

    redis.freeze().await;
    let asked = Instant::now();
    assert!(redis.try_command(&["PING"]).await.is_err(), "a stopped server answered");
    assert!(asked.elapsed() > Duration::from_secs(1), "a stopped server refused the connection");
    redis.thaw().await;
    assert_eq!(redis.command(&["GET", "key"]).await, "two\r\nlines");

    redis.kill().await;
    assert!(redis.try_command(&["PING"]).await.is_err());
    redis.restart().await;
    assert_eq!((redis.url(), redis.command(&["DBSIZE"]).await), (url, "0".to_owned()));
}

#[tokio::test]
async fn a_redis_asks_for_its_password() {
    let Some(redis) = Redis::password("opensesame").await else { return };
    assert_eq!(redis.command(&WRITE).await, "OK");
    // Those who know only the old word are refused.
    redis.command(&["CONFIG", "SET", "requirepass", "another"]).await;
    let said = redis.command(&WRITE).await;
    assert!(said.starts_with("NOAUTH"), "{said}");
}

#[tokio::test]
async fn a_redis_behind_tls_shows_the_tests_certificate() {
    let Some(redis) = Redis::tls().await else { return };
    assert!(redis.url().starts_with("rediss://"), "{}", redis.url());
    assert_eq!(redis.command(&WRITE).await, "OK");
    // Its port speaks nothing but TLS, and another authority does not vouch for it.
    let stranger = tokio_rustls::TlsConnector::from(Ca::new().client());
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    assert!(stranger.connect(name, stream).await.is_err());
}

#[tokio::test]
async fn a_valkey_runs_scripts_as_a_redis_does() {
    let Some(redis) = Redis::valkey().await else { return };
    assert_eq!(redis.command(&WRITE).await, "OK");
    assert_eq!(redis.info("server", "server_name").await, "valkey");
}

#[tokio::test]
async fn a_store_whose_clock_is_moved_forgets_what_has_expired_by_then() {
    let Some(redis) = Redis::with_clock().await else { return };
    redis.command(&["SET", "key", "v", "PX", "30000"]).await;
    assert_eq!(redis.command(&["GET", "key"]).await, "v");
    redis.advance_clock(Duration::from_secs(40)).await;
    until("the key to expire", async || redis.command(&["GET", "key"]).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_redis_refuses_as_it_is_made_to() {
    let Some(mut redis) = Redis::start().await else { return };
    let refusals: [(&[&str], &[&str], &str); 3] = [
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"], "READONLY"),
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"], "OOM"),
        (
            &["ACL", "SETUSER", "default", "-eval", "-evalsha"],
            &["ACL", "SETUSER", "default", "+@all"],
            "NOPERM",
        ),
    ];
    for (cause, cure, code) in refusals {
        redis.command(cause).await;
        let said = redis.command(&WRITE).await;
        assert!(said.contains(code), "{code}: {said}");
        redis.command(cure).await;
        assert_eq!(redis.command(&WRITE).await, "OK", "after {code}");
    }
    redis.cannot_save().await;
    let said = redis.command(&WRITE).await;
    assert!(said.contains("MISCONF"), "{said}");
    redis.can_save().await;
    assert_eq!(redis.command(&WRITE).await, "OK");

    redis.command(&["EVAL", "for i = 1, 40 do redis.call('SET', i, string.rep('x', 4096)) end", "0"]).await;
    assert_eq!(redis.command(&["SAVE"]).await, "OK");
    redis.load_slowly().await;
    until("LOADING", async || {
        let said = redis.try_command(&WRITE).await.ok()?;
        said.starts_with("LOADING").then_some(())
    })
    .await;
    until("its end", async || (redis.try_command(&WRITE).await.ok()? == "OK").then_some(())).await;
}

#[tokio::test]
async fn sentinels_make_the_replica_master() {
    let Some(mut sentinel) = Sentinel::start().await else { return };
    assert_eq!(sentinel.master.command(&WRITE).await, "OK");
    assert!(sentinel.replica.command(&WRITE).await.contains("READONLY"));
    let killed = Instant::now();
    sentinel.kill_master().await;
    sentinel.promoted().await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert_eq!(sentinel.replica.command(&WRITE).await, "OK");
    assert!(sentinel.url().starts_with("redis+sentinel://127.0.0.1:"), "{}", sentinel.url());
}

#[tokio::test]
async fn a_cluster_is_whole_again_without_a_master() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let alive = cluster.nodes.len();
    cluster.kill_master().await;
    let mut down = 0;
    for node in &cluster.nodes {
        down += usize::from(node.try_command(&["PING"]).await.is_err());
    }
    assert_eq!((alive, down), (6, 1));
    cluster.whole().await;
}
