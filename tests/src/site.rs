//! A whole installation: HAProxy before three nodes, one Redis, two upstreams. Its nodes are restarted, killed and
//! reloaded under load, and come back on their addresses.
//!
//! Owns all its processes. Each node is behind a lock of its own, so that several things can befall the site at once;
//! who wants a node that is being restarted waits for it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::time::Instant;

use crate::haproxy::Haproxy;
use crate::load::{Answered, Load, Report};
use crate::node::{Node, Setup};
use crate::port::Reserved;
use crate::redis::Redis;
use crate::simulated::Simulated;
use crate::until_within;

/// How soon a reload may be asked to be seen.
pub const VISIBLE: Duration = Duration::from_secs(1);

/// The installation.
pub struct Site {
    /// The store.
    pub redis: Mutex<Redis>,
    /// `x` and `y`; streams over them last one to three seconds.
    pub upstreams: [Simulated; 2],
    /// Before the nodes.
    pub haproxy: Haproxy,
    members: [Member; 3],
    store: String,
    /// Counts configurations, so that each differs from the one before.
    edition: AtomicU32,
}

struct Member {
    name: &'static str,
    data: Reserved,
    admin: Reserved,
    node: Mutex<Option<Node>>,
}

/// A configuration that nobody can use, and where the fault is.
#[derive(Debug, Clone)]
pub struct Faulty {
    /// The file.
    pub yaml: String,
    /// Counted from 1, as the node must say it.
    pub line: usize,
    /// Counted from 1.
    pub column: usize,
}

/// What a killed node may have cost.
#[derive(Debug, Clone, Copy)]
pub struct Killed {
    /// When it was looked how many requests ran on it.
    pub looked: Instant,
    /// So many did.
    pub running: usize,
    /// It had ended.
    pub ended: Instant,
}

impl Killed {
    /// Whether this request was under way when the node was killed.
    pub fn explains(&self, answered: &Answered) -> bool {
        answered.at <= self.ended && answered.at + answered.took >= self.looked
    }
}

impl Site {
    /// Runs it; HAProxy has all nodes up when this returns. `None` when Redis or HAProxy is not installed.
    pub async fn start() -> Option<Self> {
        let redis = Redis::start().await?;
        let upstreams = [Simulated::start("x").await, Simulated::start("y").await];
        for upstream in &upstreams {
            upstream.latency(Duration::from_millis(20));
            upstream.streams_last(Duration::from_secs(1), Duration::from_secs(3));
        }
        let members = ["a", "b", "c"].map(|name| Member {
            name,
            data: Reserved::new(),
            admin: Reserved::new(),
            node: Mutex::new(None),
        });
        let addresses = std::array::from_fn(|n| (members[n].data.address(), members[n].admin.address()));
        let haproxy = Haproxy::before(addresses).await?;
        let store = redis.url();
        let (redis, edition) = (Mutex::new(redis), AtomicU32::new(0));
        let site = Self { redis, upstreams, haproxy, members, store, edition };
        for index in 0..3 {
            site.run(index).await;
        }
        Some(site)
    }

    /// So many requests a second through HAProxy, of which this share is streamed.
    pub fn load(&self, rate: f64, streamed: f64) -> Load {
        Load::at([self.haproxy.address], rate, streamed, &[])
    }

    /// What HAProxy calls it.
    pub fn server(index: usize) -> String {
        format!("gate-{}", index + 1)
    }

    /// The node, which is not restarted while this is held; waits until it runs.
    pub async fn node(&self, index: usize) -> MappedMutexGuard<'_, Node> {
        until_within(crate::PATIENCE * 3, "the node", async || {
            let place = self.members[index].node.lock().await;
            MutexGuard::try_map(place, Option::as_mut).ok()
        })
        .await
    }

    fn setup(&self, index: usize, edition: u32) -> Setup {
        let member = &self.members[index];
        let [x, y] = &self.upstreams;
        let mut setup = Setup::new()
            .on(member.data.address(), member.admin.address())
            .named(member.name)
            .listen("drain_grace: 2s, drain_timeout: 20s")
            // A limit that nobody meets puts the store in the way of every request.
            .section(&format!(
                "store: {{url: \"{}\", expected_nodes: 3}}\nlimits: [{{per: model, requests: 600000/min}}]",
                self.store
            ))
            .section(&format!("prices: {{\"m\": {{input: {}.5, output: 10.0}}}}", edition + 1))
            .quick_health()
            .upstream("x", &x.url())
            .upstream("y", &y.url());
        if edition % 3 == 1 {
            setup = setup.upstream_without_key("z", &y.url());
        }
        setup
    }

    /// A file that no node had yet: other prices, and at every third an upstream more.
    pub fn next_yaml(&self, index: usize) -> String {
        self.setup(index, self.edition.fetch_add(1, Ordering::Relaxed) + 1).yaml()
    }

    /// A file with a fault of the kind of this number.
    pub fn faulty_yaml(&self, index: usize, kind: usize) -> Faulty {
        let mut yaml = self.next_yaml(index);
        let line = yaml.lines().count() + 1;
        let (more, column) = match kind % 4 {
            // An unknown section, an unknown key, another type, and no YAML.
            0 => ("upstream: []\n", 1),
            1 => ("conversations: {ttl: 24h, keep: all}\n", 27),
            2 => ("log: {level: [loud]}\n", 14),
            _ => ("tracing: {otlp: [\"unfinished\n", 18),
        };
        yaml.push_str(more);
        Faulty { yaml, line, column }
    }

    async fn run(&self, index: usize) {
        let member = &self.members[index];
        let mut place = member.node.lock().await;
        *place = Some(self.setup(index, self.edition.load(Ordering::Relaxed)).start().await);
        drop(place);
        self.haproxy.until_server(&Self::server(index), true).await;
    }

    /// Ends a node by SIGTERM, as a roll-out does, and starts it anew on its addresses; HAProxy has it up again when this
    /// returns. Fails unless it ended in order.
    pub async fn restart(&self, index: usize) {
        let mut place = self.members[index].node.lock().await;
        let mut old = place.take().unwrap();
        old.process.signal("TERM").await;
        let ended = old.process.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", old.process.output());
        drop((old, place));
        self.run(index).await;
    }

    /// `kill -9`; it stays away until `revive`.
    pub async fn kill(&self, index: usize) -> Killed {
        let mut place = self.members[index].node.lock().await;
        let mut old = place.take().unwrap();
        let looked = Instant::now();
        let running = old.metric("tidegate_in_flight_requests", &[]).await as usize;
        old.kill().await;
        Killed { looked, running, ended: Instant::now() }
    }

    /// A new process in place of a killed one.
    pub async fn revive(&self, index: usize) {
        self.run(index).await;
    }

    /// Kills Redis and starts it again, empty.
    pub async fn restart_redis(&self) {
        let mut redis = self.redis.lock().await;
        redis.kill().await;
        redis.restart().await;
    }

    /// Writes another file to a node, as a roll-out of a configuration does, and waits until it runs by it.
    pub async fn reload(&self, index: usize) {
        let node = self.node(index).await;
        let before = node.status().await["config"]["hash"].clone();
        node.replace_config(&self.next_yaml(index));
        until_within(crate::PATIENCE, "the reload", async || {
            let config = node.status().await["config"].clone();
            (config["hash"] != before && config["last_reload"]["successful"] == true).then_some(())
        })
        .await;
    }

    /// Writes a faulty file to a node, and waits until the metric, the log and the status all say so; then writes the
    /// file it runs by again. Gives how long the slowest of them took, and what it said.
    pub async fn reload_faulty(&self, index: usize, kind: usize) -> Duration {
        let node = self.node(index).await;
        let good = std::fs::read_to_string(node.config_file()).unwrap();
        let faulty = self.faulty_yaml(index, kind);
        let lines = node.process.count();
        let begun = Instant::now();
        node.replace_config(&faulty.yaml);
        node.until_refused(&faulty, lines).await;
        let took = begun.elapsed();
        node.replace_config(&good);
        node.until_content().await;
        took
    }
}

impl Node {
    /// The file it was started with.
    pub fn config_file(&self) -> std::path::PathBuf {
        self.folder().join("tidegate.yaml")
    }

    /// Another file in its place, renamed so that it is never seen half written.
    pub fn replace_config(&self, yaml: &str) {
        let new = self.folder().join("tidegate.yaml.new");
        std::fs::write(&new, yaml).unwrap();
        std::fs::rename(new, self.config_file()).unwrap();
    }

    /// What the last reload came to: 1 or 0.
    pub async fn last_reload(&self) -> f64 {
        self.metric("tidegate_config_last_reload_successful", &[]).await
    }

    /// Waits until metric, status and log say that the last file is faulty and where; of the log, lines after the first
    /// `lines`.
    pub async fn until_refused(&self, faulty: &Faulty, lines: usize) {
        let place = (faulty.line as u64, faulty.column as u64);
        let mut seen = String::new();
        let all = async {
            until_within(crate::PATIENCE * 2, "the fault", async || {
                let last = self.status().await["config"]["last_reload"].clone();
                let told = last["faults"].as_array().is_some_and(|faults| {
                    faults
                        .iter()
                        .any(|f| (f["line"].as_u64(), f["column"].as_u64()) == (Some(place.0), Some(place.1)))
                });
                let at = format!("{}:{}", place.0, place.1);
                let is = |line: &str| line.contains(&at) && !line.contains("\"INFO\"");
                let logged = self.process.said_since(lines, is);
                let metric = self.last_reload().await;
                seen = format!("status: {last}; logged: {logged}; metric: {metric}");
                (told && logged && metric == 0.0 && last["successful"] == false).then_some(())
            })
            .await;
        };
        if tokio::time::timeout(crate::PATIENCE, all).await.is_err() {
            panic!("a fault at {place:?} is not seen: {seen}");
        }
    }

    /// Waits until the last reload was a good one.
    pub async fn until_content(&self) {
        until_within(crate::PATIENCE, "a good reload", async || {
            (self.last_reload().await == 1.0).then_some(())
        })
        .await;
    }
}

impl Report {
    /// Fails unless all that failed was under way when this node was killed, and no more than ran on it.
    pub fn assert_only_lost_with(&self, killed: &Killed) {
        let failed: Vec<_> = self.answered.iter().filter(|a| !a.ok()).collect();
        let unexplained: Vec<_> = failed.iter().filter(|a| !killed.explains(a)).collect();
        assert!(
            unexplained.is_empty(),
            "{} of {} failed otherwise: {unexplained:?}",
            unexplained.len(),
            self.len()
        );
        // What was sent while it was looked may have come to run there as well.
        let sent = self.answered.iter().filter(|a| a.at >= killed.looked && a.at <= killed.ended).count();
        let most = killed.running + sent;
        assert!(failed.len() <= most, "{} failed, and {most} at most ran on the node", failed.len());
    }
}
