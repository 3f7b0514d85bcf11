//! Sentinel and Redis Cluster: what callers see when a master dies or freezes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use support::{Server, WITHIN, store, until};
use tidegate_store::redis::{Kind, Setup};
use tidegate_store::{Failure, Store};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const BUDGET: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_millis(60);

/// A call on the slot of `name`; however it ends, it ends in time.
async fn lease(store: &Store, name: &str) -> Result<bool, Failure> {
    let began = Instant::now();
    let answer = store.lease(name, 1, MINUTE, BUDGET).await;
    assert!(began.elapsed() < BUDGET + LATE, "{answer:?} after {:?}", began.elapsed());
    answer
}

/// A master, a replica of it that has caught up, and three sentinels.
async fn watched() -> Option<(Server, Server, Vec<Server>, Setup)> {
    let master = Server::start(&[]).await?;
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await?;
    until("the replica has caught up", async || linked(&replica).await).await;
    let config = format!(
        "sentinel monitor main 127.0.0.1 {} 2\n\
         sentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 2000\n",
        master.port
    );
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Server::start_as("redis-sentinel", &[], Some(&config)).await?);
    }
    for sentinel in &sentinels {
        until("the sentinels know each other and the replica", async || {
            let known: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", "main"]).await.unwrap();
            let says = |field: &str, value: &str| known.chunks(2).any(|pair| pair == [field, value]);
            says("num-other-sentinels", "2") && says("num-slaves", "1")
        })
        .await;
    }
    // One that is not there is passed over.
    let mut addresses = vec![("127.0.0.1".to_owned(), 1)];
    addresses.extend(sentinels.iter().map(Server::address));
    let setup = Setup { kind: Kind::Sentinel { master: "main".into() }, addresses, ..master.setup() };
    Some((master, replica, sentinels, setup))
}

async fn linked(replica: &Server) -> bool {
    replica.ask::<String>(&["INFO", "replication"]).await.unwrap().contains("master_link_status:up")
}

#[tokio::test]
async fn the_master_that_sentinel_names_is_used_also_after_the_old_one_dies() {
    let Some((mut master, replica, _sentinels, setup)) = watched().await else { return };
    let store = store(setup).await;
    assert_eq!(store.kind(), "redis+sentinel");
    assert!(store.lease("l", 1, MINUTE, WITHIN).await.unwrap());
    master.kill();
    let took = until("the new master is used", async || lease(&store, "l").await == Ok(true)).await;
    println!("failed over in {took:?}");
    let role: Vec<redis::Value> = replica.ask(&["ROLE"]).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()));
}

#[tokio::test]
async fn a_frozen_master_is_left_for_the_one_that_sentinel_names() {
    let Some((master, replica, _sentinels, setup)) = watched().await else { return };
    let store = store(setup).await;
    master.signal("STOP");
    until("the new master is used", async || lease(&store, "l").await == Ok(true)).await;
    assert_eq!(replica.ask::<i64>(&["EXISTS", "t:v1:lease:{l}"]).await.unwrap(), 1);
    master.signal("CONT");
    // The old one wakes up and still takes itself for the master; nobody asks it.
    for _ in 0..50 {
        assert_eq!(lease(&store, "l").await, Ok(true));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_is_said() {
    let Some((_master, _replica, _sentinels, setup)) = watched().await else { return };
    let setup = Setup { kind: Kind::Sentinel { master: "other".into() }, ..setup };
    let store = Store::redis(tidegate_store::redis::Redis::start(setup).unwrap());
    until("it says why", async || store.trouble().is_some_and(|t| t.contains("no such master"))).await;
}

/// Three masters and three replicas that have caught up.
async fn cluster() -> Option<Vec<Server>> {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        let args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
        nodes.push(Server::start(&args).await?);
    }
    let addresses: Vec<String> = nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
    let made = std::process::Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-replicas", "1", "--cluster-yes"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    for node in &nodes {
        until("the cluster agrees", async || {
            let info: String = node.ask(&["CLUSTER", "INFO"]).await.unwrap();
            let replication: String = node.ask(&["INFO", "replication"]).await.unwrap();
            info.contains("cluster_state:ok")
                && (replication.contains("role:master") && replication.contains("connected_slaves:1")
                    || replication.contains("master_link_status:up"))
        })
        .await;
    }
    Some(nodes)
}

fn setup_of(nodes: &[Server]) -> Setup {
    let addresses = nodes.iter().take(3).map(Server::address).collect();
    Setup { kind: Kind::Cluster, addresses, ..nodes[0].setup() }
}

/// The node that holds the slot of `name`, of those that answer.
async fn holder(nodes: &[Server], name: &str) -> usize {
    for (i, node) in nodes.iter().enumerate() {
        let role: Vec<redis::Value> = node.ask(&["ROLE"]).await.unwrap();
        if role[0] == redis::Value::BulkString(b"master".to_vec())
            && node.ask::<i64>(&["EXISTS", &format!("t:v1:lease:{{{name}}}")]).await == Ok(1)
        {
            return i;
        }
    }
    panic!("nobody holds {name}")
}

#[tokio::test]
async fn in_a_cluster_every_operation_finds_its_node() {
    let Some(nodes) = cluster().await else { return };
    let store = store(setup_of(&nodes)).await;
    assert_eq!(store.kind(), "redis+cluster");
    for i in 0..50 {
        let name = format!("name {i}");
        assert!(store.lease(&name, 1, MINUTE, WITHIN).await.unwrap());
        let begun = store.begin(&name, 1, "", MINUTE, WITHIN).await.unwrap();
        assert_eq!(begun, tidegate_store::cache::Begun::Lead);
        store.put(&name, 1, &bytes::Bytes::from_static(b"x"), MINUTE, WITHIN).await.unwrap();
    }
    let running = |i: u32| tidegate_store::charge::Running {
        group: format!("group {}", i % 10).into(),
        key: "r".into(),
        id: u128::from(i),
    };
    let running: Vec<_> = (0..50).map(running).collect();
    store.still_running(&running, MINUTE, WITHIN).await.unwrap();
    let beat = tidegate_store::fleet::Beat {
        node: "node-1".into(),
        payload: "{}".into(),
        lives: MINUTE,
        epoch: String::new(),
    };
    assert_eq!(store.beat(&beat, WITHIN).await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn a_cluster_whose_master_dies_serves_all_slots_again_within_seconds() {
    let Some(mut nodes) = cluster().await else { return };
    let store = store(setup_of(&nodes)).await;
    assert!(store.lease("l", 1, MINUTE, WITHIN).await.unwrap());
    let holder = holder(&nodes, "l").await;
    nodes[holder].kill();
    let took = until("the slot is served", async || lease(&store, "l").await == Ok(true)).await;
    println!("failed over in {took:?}");
}

#[tokio::test]
async fn a_cluster_whose_master_freezes_serves_all_slots_again_within_seconds() {
    let Some(nodes) = cluster().await else { return };
    let store = store(setup_of(&nodes)).await;
    assert!(store.lease("l", 1, MINUTE, WITHIN).await.unwrap());
    let holder = holder(&nodes, "l").await;
    nodes[holder].signal("STOP");
    let took = until("the slot is served", async || lease(&store, "l").await == Ok(true)).await;
    println!("failed over in {took:?}");
    // It is another that serves it: the frozen one is still frozen.
    nodes[holder].signal("CONT");
}
