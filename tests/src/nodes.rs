//! Several nodes of one cluster: one configuration but for their names, one store, the same upstreams.
//!
//! What a cluster needs of `Setup` and of a `Node` is here as well: a store, clients with keys, a clock that is
//! wrong, and what a node says of its store and of its peers.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use tokio::time::Instant;

use crate::node::{Node, Setup};
use crate::{parts, until_within};

/// Longest time that the store's return or a peer's coming and going may take to be seen.
pub const SEEN: Duration = Duration::from_secs(6);

/// The key of the client called `name`.
pub fn client_key(name: &str) -> String {
    format!("sk-of-client-{name}")
}

impl Setup {
    /// Its name among the nodes.
    pub fn named(self, name: &str) -> Self {
        self.section(&format!("node: {{name: {name}, zone: here}}"))
    }

    /// A node without a tier of its own in front of the store's answers.
    pub fn named_without_memory(self, name: &str) -> Self {
        self.section(&format!("node: {{name: {name}, zone: here, cache_memory: 0B}}"))
    }

    /// A store with the shipped settings.
    pub fn store(self, url: &str) -> Self {
        self.section(&format!("store: {{url: \"{url}\"}}"))
    }

    /// A store that is waited for longer than any machine is slow, where no fault is under test.
    pub fn patient_store(self, url: &str) -> Self {
        self.section(&format!("store: {{url: \"{url}\", timeout: 500ms}}"))
    }

    /// Clients, each with `client_key(name)` and settings, as `limits: [{requests: 60/min}]`. Once for each node.
    pub fn clients(self, clients: &[(&str, &str)]) -> Self {
        let mut section = "clients:\n".to_owned();
        for (name, settings) in clients {
            let hash: String = digest(&SHA256, client_key(name).as_bytes())
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let more = if settings.is_empty() { String::new() } else { format!(", {settings}") };
            section.push_str(&format!("  - {{name: {name}, key_sha256: {hash}{more}}}\n"));
        }
        self.section(section.trim_end())
    }

    /// A wall clock that is so far off, as `+1h`; `None` when libfaketime is not installed.
    pub fn clock(self, offset: &str) -> Option<Self> {
        let library = parts::faketime()?;
        let this = self.env("LD_PRELOAD", &library.display().to_string()).env("FAKETIME", offset);
        Some(this.env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
    }
}

impl Node {
    /// `kill -9`; it has ended when this returns.
    pub async fn kill(&mut self) {
        self.process.signal("KILL").await;
        self.process.ended().await;
    }

    /// What it says of its store: `up` or `down`.
    pub async fn store_state(&self) -> String {
        let status = self.status().await;
        let state = status["store"]["state"].as_str();
        state.unwrap_or_else(|| panic!("no state of the store: {status}")).to_owned()
    }

    /// Waits until it says so, as long as it may take to be seen; gives the moment.
    pub async fn until_store(&self, state: &str) -> Instant {
        until_within(SEEN, &format!("the store {state}"), async || {
            (self.store_state().await == state).then(Instant::now)
        })
        .await
    }

    /// The names of the nodes it knows of, in order.
    pub async fn fleet(&self) -> Vec<String> {
        let status = self.status().await;
        let all = status["fleet"].as_array().unwrap_or_else(|| panic!("no fleet: {status}"));
        let name = |node: &Value| node["name"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = all.iter().map(name).collect();
        names.sort();
        names
    }

    /// Waits until it knows of these and no others, at most `limit`; the names in order.
    pub async fn until_fleet(&self, limit: Duration, names: &[&str]) {
        until_within(limit, &format!("a fleet of {names:?}"), async || {
            (self.fleet().await == names).then_some(())
        })
        .await;
    }

    /// Waits until it has heard all that its peers have said by now: one beat may have begun before.
    pub async fn heard(&self) {
        let beats =
            async || self.metric("tidegate_store_operation_seconds_count", &[("operation", "beat")]).await;
        let before = beats().await;
        until_within(SEEN, "two beats", async || (beats().await >= before + 2.0).then_some(())).await;
    }

    /// Calls of the store so far, those by which nodes hear of each other aside.
    pub async fn store_calls(&self) -> f64 {
        let count = "tidegate_store_operation_seconds_count";
        self.metric(count, &[]).await - self.metric(count, &[("operation", "beat")]).await
    }

    /// Lines of its log that somebody should look at.
    pub fn warnings(&self) -> Vec<String> {
        let bad = |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
        self.process.output().lines().filter(bad).map(str::to_owned).collect()
    }
}

/// The nodes.
#[derive(Debug)]
pub struct Nodes(Vec<Node>);

impl Nodes {
    /// So many, called a, b, c and so on, each as `setup` says of its name. They accept when this returns; whether
    /// they have met is another matter.
    pub async fn start(count: u8, setup: impl Fn(Setup, &str) -> Setup) -> Self {
        let names = (b'a'..b'a' + count).map(|letter| char::from(letter).to_string());
        let starts = names.map(|name| setup(Setup::new().named(&name), &name).start());
        Self(futures_util::future::join_all(starts).await)
    }

    /// The same, and they know of each other.
    pub async fn meet(count: u8, setup: impl Fn(Setup, &str) -> Setup) -> Self {
        let nodes = Self::start(count, setup).await;
        nodes.met().await;
        nodes
    }

    /// Waits until each knows of all and has the store.
    pub async fn met(&self) {
        let names: Vec<_> = (b'a'..).take(self.len()).map(|letter| char::from(letter).to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for node in &self.0 {
            node.until_store("up").await;
            node.until_fleet(SEEN, &names).await;
        }
    }

    /// The sum over all nodes of a series, as `Node::metric`.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for node in &self.0 {
            sum += node.metric(name, labels).await;
        }
        sum
    }

    /// Waits until so many requests of clients run on all nodes together.
    pub async fn running(&self, count: usize) {
        until_within(crate::PATIENCE, &format!("{count} requests running"), async || {
            let running = self.metric("tidegate_in_flight_requests", &[]).await;
            (running as usize == count).then_some(())
        })
        .await;
    }
}

impl Deref for Nodes {
    type Target = [Node];

    fn deref(&self) -> &[Node] {
        &self.0
    }
}

impl DerefMut for Nodes {
    fn deref_mut(&mut self) -> &mut [Node] {
        &mut self.0
    }
}
