//! A Redis Cluster of six: three masters that share the slots, a replica for each.

use tokio::process::Command;

use super::Redis;
use crate::port::Reserved;
use crate::{parts, until};

/// The six processes.
#[derive(Debug)]
pub struct Cluster {
    /// Masters and replicas, in no order.
    pub nodes: Vec<Redis>,
    _bus: Vec<Reserved>,
}

impl Cluster {
    /// Starts them; `None` when something is not installed. A dead master is noticed after a second and a half.
    /// All slots are served and every replica is up to date when this returns.
    pub async fn start() -> Option<Self> {
        let program = parts::program("redis-cli")?;
        let bus: Vec<_> = (0..6).map(|_| Reserved::new()).collect();
        let mut nodes = Vec::new();
        for port in &bus {
            // The bus has its port 10000 above the other unless told; there may be none.
            let port = port.address().port().to_string();
            let options =
                ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port", &port];
            nodes.push(Redis::with(&options).await?);
        }
        let mut create = Command::new(program);
        create.args(["--cluster", "create"]).args(nodes.iter().map(|n| format!("127.0.0.1:{}", n.port())));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]).kill_on_drop(true);
        let output = crate::soon("a cluster", create.output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        let this = Self { nodes, _bus: bus };
        this.whole().await;
        for node in &this.nodes {
            if node.info("replication", "role").await == "slave" {
                node.until_info("replication", "master_link_status", "up").await;
            }
        }
        Some(this)
    }

    /// The `store.url` of it.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Waits until every process that runs sees all slots served.
    pub async fn whole(&self) {
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            until("cluster_state:ok", async || {
                let said = node.try_command(&["CLUSTER", "INFO"]).await.ok()?;
                let whole = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6"];
                whole.iter().all(|line| said.contains(line)).then_some(())
            })
            .await;
        }
    }

    /// `kill -9` of the master that holds most keys; a replica takes its place when this cluster is whole again.
    pub async fn kill_master(&mut self) {
        let mut most = None;
        for (index, node) in self.nodes.iter().enumerate() {
            if node.info("replication", "role").await == "master" {
                let keys: usize = node.command(&["DBSIZE"]).await.parse().unwrap();
                most = most.max(Some((keys, index)));
            }
        }
        let (_, index) = most.unwrap_or_else(|| panic!("no master"));
        self.nodes[index].kill().await;
        // Until it is missed, those that run take it for alive.
        until("the dead master to be missed", async || {
            let alive = self.nodes.iter().find(|node| node.process.is_some())?;
            let said = alive.try_command(&["CLUSTER", "NODES"]).await.ok()?;
            let dead = format!("127.0.0.1:{}@", self.nodes[index].port());
            said.lines().any(|line| line.contains(&dead) && line.contains(",fail ")).then_some(())
        })
        .await;
    }
}
