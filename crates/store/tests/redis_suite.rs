//! Redis keeps the promises of the store, for two nodes on one server.

#[macro_use]
mod suite;
mod support;

use suite::Pair;
use support::Server;
use tidegate_store::redis::Setup;

async fn pair() -> Option<Pair> {
    let server = Server::start(&[]).await?;
    let here = server.store().await;
    let there = support::store(Setup { node: "node-2".into(), ..server.setup() }).await;
    Some(Pair { here, there, alive: Box::new(server) })
}

cases!(crate::pair);
