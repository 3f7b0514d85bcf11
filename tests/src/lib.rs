//! The harness of the end-to-end tests: a real `tidegate` process between scripted, hostile or real upstreams
//! and plain, raw or real clients, all on free ports of loopback.
//!
//! `node` runs the binary under test, `upstream` stands behind it and does to it what a test scripts, `client`
//! stands before it. `answer` holds what well-behaved OpenAI-compatible servers say; `ca` makes certificates;
//! `parts` finds and runs the real counterparts that `scripts/install` brings. For outages: `simulated` is an
//! upstream that changes its behaviour while it runs, `fault_proxy` and `tunnel` stand for the network between,
//! `load` for many clients, `status` follows what the node says of its paths, and `scrape` reads its metrics; `apart`
//! gives a test a network of its own, in which packets are lost and names resolve as it says; `collector` takes traces,
//! `browser` looks at pages. For clusters: `redis` runs stores, `nodes` several nodes over one of them, and `prometheus`
//! watches them; `haproxy` is the load balancer before nodes, `site` an installation of all of these whose nodes come
//! back on their addresses, and `footprint` what a process holds.
//!
//! Nothing here waits for time to pass, latencies aside: every wait is for an event, with a deadline that fails
//! the test.

pub mod answer;
pub mod apart;
pub mod browser;
pub mod ca;
pub mod client;
pub mod collector;
pub mod fault_proxy;
pub mod footprint;
pub mod h2;
pub mod haproxy;
pub mod load;
pub mod node;
pub mod nodes;
pub mod parts;
pub mod port;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod scrape;
pub mod simulated;
pub mod site;
pub mod status;
pub mod tunnel;
pub mod upstream;

use std::time::Duration;

/// Longest wait for anything; far above what a loaded machine needs, so that passing it means a fault.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `event`, and fails the test when it does not come.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    within(PATIENCE, what, event).await
}

/// Waits for `event` at most `limit`, and fails the test when it does not come.
pub async fn within<T>(limit: Duration, what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Limits by day begin anew at midnight UTC: a test of one that would meet it begins after it.
#[expect(clippy::disallowed_methods, reason = "days are the wall clock's")]
pub async fn clear_of_midnight() {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = Duration::from_secs(86_400 - since.as_secs() % 86_400);
    if left < Duration::from_secs(60) {
        tokio::time::sleep(left).await;
    }
}

/// Asks again and again until `probe` gives something, for what tells nobody that it has changed.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, probe).await
}

/// The same at most `limit` long.
pub async fn until_within<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(limit, what, async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if let Some(value) = probe().await {
                return value;
            }
        }
    })
    .await
}
