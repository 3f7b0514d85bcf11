//! What the node says of its paths: asked once, awaited, or followed for as long as a test runs.
//!
//! The node tells nobody when a path changes, so it is asked every 20 ms.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Call, Reply};
use crate::node::Node;
use crate::until_within;

async fn ask(admin: SocketAddr) -> Value {
    Call::new(admin, "GET", "/api/status").send().await.json().await
}

fn find(status: &Value, list: &str, name: &str) -> Value {
    let found = status[list].as_array().and_then(|all| all.iter().find(|entry| entry["name"] == name));
    found.cloned().unwrap_or_else(|| panic!("no `{name}` among `{list}`: {status}"))
}

impl Node {
    /// `GET /api/status`.
    pub async fn status(&self) -> Value {
        ask(self.admin).await
    }

    /// What it says of one path.
    pub async fn path(&self, name: &str) -> Value {
        find(&self.status().await, "paths", name)
    }

    /// The state of one path.
    pub async fn path_state(&self, name: &str) -> String {
        let path = self.path(name).await;
        path["state"].as_str().unwrap_or_else(|| panic!("no state: {path}")).to_owned()
    }

    /// Waits until a path is in this state, at most `limit`; gives the moment at which it was seen there.
    pub async fn until_path_state(&self, name: &str, state: &str, limit: Duration) -> Instant {
        let mut last = String::new();
        until_within(limit, &format!("{name} {state}"), async || {
            let now = self.path_state(name).await;
            if now != last {
                // Shown with a failure: the way it went.
                eprintln!("{name}: {now}");
                last.clone_from(&now);
            }
            (now == state).then(Instant::now)
        })
        .await
    }

    /// Waits until a path is open or has left that state again, at most `limit`: it was taken out of use.
    pub async fn until_path_opened(&self, name: &str, limit: Duration) -> Instant {
        until_within(limit, &format!("{name} opened"), async || {
            (self.path_state(name).await != "closed").then(Instant::now)
        })
        .await
    }

    /// `POST /api/paths/{name}` with this action, from loopback and without a token.
    pub async fn operate(&self, name: &str, action: &str) -> Reply {
        Call::new(self.admin, "POST", &format!("/api/paths/{name}"))
            .header("content-type", "application/json")
            .body(json!({"action": action}).to_string())
            .send()
            .await
    }
}

/// The states of one path as they come, as far as 20 ms show them.
#[derive(Debug)]
pub struct States {
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
    _task: JoinSet<()>,
}

impl States {
    /// Follows the path from now on.
    pub fn follow(node: &Node, name: &str) -> Self {
        let (admin, name) = (node.admin, name.to_owned());
        let seen = Arc::new(Mutex::new(Vec::<(Instant, String)>::new()));
        let all = Arc::clone(&seen);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                let state = find(&ask(admin).await, "paths", &name)["state"].as_str().unwrap().to_owned();
                let mut seen = all.lock().unwrap();
                if seen.last().is_none_or(|(_, last)| *last != state) {
                    seen.push((Instant::now(), state));
                }
            }
        });
        Self { seen, _task: task }
    }

    /// Each state, once for each time it was entered.
    pub fn all(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(_, state)| state.clone()).collect()
    }

    /// When this state was first seen.
    pub fn first(&self, state: &str) -> Option<Instant> {
        self.seen.lock().unwrap().iter().find(|(_, s)| s == state).map(|(at, _)| *at)
    }

    /// How often the path was taken out of use while it served.
    pub fn trips(&self) -> usize {
        self.tripped().len()
    }

    /// How often before this moment, and how often after it.
    pub fn trips_around(&self, moment: Instant) -> (usize, usize) {
        let tripped = self.tripped();
        let before = tripped.iter().filter(|at| **at < moment).count();
        (before, tripped.len() - before)
    }

    fn tripped(&self) -> Vec<Instant> {
        let serves = |state: &str| state == "closed" || state == "ramping";
        let seen = self.seen.lock().unwrap();
        let trips = seen.windows(2).filter(|pair| serves(&pair[0].1) && !serves(&pair[1].1));
        trips.map(|pair| pair[1].0).collect()
    }
}
