//! What a process holds: memory, files, threads, and the tasks that a node counts itself. Growth is a difference
//! of two of these.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::node::Node;
use crate::until_within;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Resident memory, bytes.
    pub resident: u64,
    /// Open files and sockets.
    pub files: u64,
    /// Threads.
    pub threads: u64,
    /// `tidegate_tasks`; `None`: the node does not say.
    pub tasks: Option<u64>,
}

/// Resident memory may grow by a tenth and this much: what an allocator keeps to itself.
const RESIDENT_MORE: u64 = 8 << 20;
/// Connections that are made and closed all the time: the node's to its store, its probes, this test's own.
const FILES_MORE: u64 = 12;
const TASKS_MORE: u64 = 12;

impl Footprint {
    /// Of a node.
    pub async fn of(node: &Node) -> Self {
        let pid = node.process.id();
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count() as u64;
        let text = node.admin("/metrics").await.text().await;
        let tasks = text.lines().filter(|line| line.starts_with("tidegate_tasks")).filter_map(|line| {
            let (_, value) = line.rsplit_once(' ')?;
            value.parse::<f64>().ok()
        });
        let tasks: Vec<f64> = tasks.collect();
        Self {
            resident: node.process.resident(),
            files: count("fd"),
            threads: count("task"),
            tasks: (!tasks.is_empty()).then(|| tasks.iter().sum::<f64>() as u64),
        }
    }

    /// The lesser of each: what was held for a moment is in neither.
    pub fn least(self, other: Self) -> Self {
        Self {
            resident: self.resident.min(other.resident),
            files: self.files.min(other.files),
            threads: self.threads.min(other.threads),
            tasks: self.tasks.zip(other.tasks).map(|(one, other)| one.min(other)),
        }
    }

    /// What it holds more than `before` beyond what is allowed; empty when nothing.
    pub fn growth(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut judge = |what: &str, before: u64, after: u64, allowed: u64| {
            if after > allowed {
                grown.push(format!("{what}: {before} before, {after} after, {allowed} allowed"));
            }
        };
        let resident = before.resident + before.resident / 10 + RESIDENT_MORE;
        judge("resident bytes", before.resident, self.resident, resident);
        judge("files", before.files, self.files, before.files + FILES_MORE);
        // The runtime's threads for blocking work come and go, and are bounded by the kinds of such work.
        judge("threads", before.threads, self.threads, before.threads + 4);
        if let (Some(before), Some(after)) = (before.tasks, self.tasks) {
            judge("tasks", before, after, before + TASKS_MORE);
        }
        grown
    }

    /// The least that a node holds while it is looked at for so long; for one that nobody asks anything of, so that what
    /// is closed late is not counted.
    pub async fn at_rest(node: &Node, lasts: Duration) -> Self {
        let mut least = Self::of(node).await;
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            sleep(Duration::from_millis(500)).await;
            least = least.least(Self::of(node).await);
        }
        least
    }

    /// Waits until a node holds no more than it did `before`, but for what is allowed; what is closed late counts
    /// as closed. Fails with what has grown.
    pub async fn settles(node: &Node, before: &Self, limit: Duration) -> Self {
        let mut last = Vec::new();
        let settled = async {
            until_within(limit * 2, "no growth", async || {
                let now = Self::of(node).await;
                last = now.growth(before);
                last.is_empty().then_some(now)
            })
            .await
        };
        match tokio::time::timeout(limit, settled).await {
            Ok(now) => now,
            Err(_) => panic!("it has grown: {}", last.join("; ")),
        }
    }
}
