//! A master, its replica and three Sentinels that watch them: who is master changes when the master dies.

use tokio::process::Command;

use super::Redis;
use crate::port::Reserved;
use crate::process::Process;
use crate::{parts, until};

/// What the Sentinels call the master.
pub const MASTER: &str = "gate";

/// The five processes.
#[derive(Debug)]
pub struct Sentinel {
    /// The master at first.
    pub master: Redis,
    /// The replica at first.
    pub replica: Redis,
    ports: Vec<Reserved>,
    _processes: Vec<Process>,
    _folder: tempfile::TempDir,
}

impl Sentinel {
    /// Starts them; `None` when something is not installed. A dead master is noticed after a second. All know of
    /// each other when this returns.
    pub async fn start() -> Option<Self> {
        let program = parts::program("redis-sentinel")?;
        let master = Redis::start().await?;
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await?;
        // Sentinels look for replicas when they start and then only every ten seconds.
        replica.until_info("replication", "master_link_status", "up").await;
        master.until_info("replication", "connected_slaves", "1").await;
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<_> = (0..3).map(|_| Reserved::new()).collect();
        let mut processes = Vec::new();
        for port in &ports {
            let port = port.address().port();
            let config = folder.path().join(format!("{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir \"{}\"\nsentinel monitor {MASTER} 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n",
                folder.path().display(),
                master.port()
            );
            std::fs::write(&config, text).unwrap();
            processes.push(Process::start("sentinel", Command::new(&program).arg(config)));
        }
        let this = Self { master, replica, ports, _processes: processes, _folder: folder };
        for port in &this.ports {
            until("a Sentinel that knows the others", async || {
                let words = ["SENTINEL", "MASTER", MASTER];
                let said = super::wire::ask(port.address(), None, None, &words).await.ok()?;
                let all: Vec<_> = said.lines().collect();
                let has = |key, value| all.chunks(2).any(|pair| pair == [key, value]);
                (has("num-slaves", "1") && has("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        Some(this)
    }

    /// The `store.url` of it.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.ports.iter().map(|port| port.address().to_string()).collect();
        format!("redis+sentinel://{}/{MASTER}/0", hosts.join(","))
    }

    /// `kill -9` of the first master.
    pub async fn kill_master(&mut self) {
        self.master.kill().await;
    }

    /// Waits until the first replica is master and the Sentinels say so.
    pub async fn promoted(&self) {
        self.replica.until_info("replication", "role", "master").await;
        let wanted = self.replica.port().to_string();
        for port in &self.ports {
            until("a Sentinel that names the new master", async || {
                let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
                let said = super::wire::ask(port.address(), None, None, &words).await.ok()?;
                (said.lines().nth(1) == Some(&wanted)).then_some(())
            })
            .await;
        }
    }
}
