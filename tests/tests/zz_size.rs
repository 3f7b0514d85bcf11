//! x
use std::mem::size_of_val;
use tidegate_tests::*;
#[tokio::test]
async fn sizes() {
    let Some(redis) = redis::Redis::start().await else { return };
    let node = node::Setup::new().upstream("a", "http://127.0.0.1:1/v1").start().await;
    eprintln!("call {}", size_of_val(&node.chat()));
    eprintln!("send {}", size_of_val(&node.chat().send()));
    eprintln!("status {}", size_of_val(&node.status()));
    eprintln!("until_store {}", size_of_val(&node.until_store("up")));
    eprintln!("until_fleet {}", size_of_val(&node.until_fleet(nodes::SEEN, &["a"])));
    eprintln!(
        "setup {} start {}",
        size_of_val(&node::Setup::new()),
        size_of_val(&node::Setup::new().start())
    );
    eprintln!(
        "redis start {} command {} keys {}",
        size_of_val(&redis::Redis::start()),
        size_of_val(&redis.command(&[])),
        size_of_val(&redis.keys(""))
    );
    eprintln!(
        "sentinel {} cluster {}",
        size_of_val(&redis::sentinel::Sentinel::start()),
        size_of_val(&redis::cluster::Cluster::start())
    );
    eprintln!("meet {}", size_of_val(&nodes::Nodes::meet(3, |s, _| s)));
    eprintln!("ask {}", size_of_val(&load::Ask::plain(&node).send()));
    eprintln!("sim {}", size_of_val(&simulated::Simulated::start("a")));
    eprintln!("up {}", size_of_val(&upstream::Upstream::start(|_| vec![])));
}
