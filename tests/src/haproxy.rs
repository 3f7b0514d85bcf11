//! A real HAProxy before nodes, with the configuration in `deploy/haproxy`: only its addresses are the test's.
//!
//! Owns the process and its folder; both go when it is dropped. A missing HAProxy skips the test as `parts` says.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::process::Command;

use crate::client::Call;
use crate::parts::{self, free_port};
use crate::process::Process;
use crate::{until, until_within};

/// The nodes that the shipped configuration names: address and port of the check.
const SHIPPED: [(&str, &str); 3] =
    [("10.0.0.11:8080", "9090"), ("10.0.0.12:8080", "9090"), ("10.0.0.13:8080", "9090")];

/// The load balancer.
#[derive(Debug)]
pub struct Haproxy {
    /// The process; its log has a line for each request.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    stats: SocketAddr,
    _folder: TempDir,
}

impl Haproxy {
    /// Runs before three nodes, each given by where its clients and its operators connect; the first is called
    /// `gate-1`. `None` when it is not installed. It accepts when this returns.
    pub async fn before(nodes: [(SocketAddr, SocketAddr); 3]) -> Option<Self> {
        let program = parts::program("haproxy")?;
        let shipped = std::fs::read_to_string(parts::root().join("deploy/haproxy/haproxy.cfg")).unwrap();
        let [address, stats] =
            [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut text = replaced(&shipped, "bind :8080", &format!("bind {address}"));
        text = replaced(&text, "bind 127.0.0.1:8404", &format!("bind {stats}"));
        for ((data, admin), (shipped, check)) in nodes.into_iter().zip(SHIPPED) {
            let before = format!("{shipped} port {check}");
            text = replaced(&text, &before, &format!("{data} port {}", admin.port()));
        }
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("haproxy.cfg");
        std::fs::write(&config, text).unwrap();
        let process = Process::start("haproxy", Command::new(program).arg("-db").arg("-f").arg(&config));
        let this = Self { process, address, stats, _folder: folder };
        until("HAProxy to answer", async || {
            let said = this.process.output();
            assert!(!said.contains("Fatal errors"), "{said}");
            this.try_state("gate-1").await
        })
        .await;
        Some(this)
    }

    /// Waits until it sends requests to this server, or no longer does.
    pub async fn until_server(&self, name: &str, up: bool) {
        let word = if up { "UP" } else { "DOWN" };
        until_within(crate::PATIENCE, &format!("{name} {word}"), async || {
            (self.try_state(name).await? == word).then_some(())
        })
        .await;
    }

    /// `UP` or `DOWN`, or a word on the way from one to the other.
    async fn try_state(&self, name: &str) -> Option<String> {
        let reply = Call::new(self.stats, "GET", "/;csv").try_send().await.ok()?;
        let bytes = reply.try_bytes().await.ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let column = text.lines().next()?.split(',').position(|name| name == "status")?;
        let row = text.lines().find(|line| line.starts_with(&format!("nodes,{name},")))?;
        row.split(',').nth(column).map(str::to_owned)
    }
}

/// The shipped file changes with this one.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "`{from}` stands once in deploy/haproxy/haproxy.cfg");
    text.replace(from, to)
}
