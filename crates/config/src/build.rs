//! From what the file says to what the program runs by: ranges, references, and what is built.
//!
//! Owns the order: names first, so that every reference is checked against all of them. Never stops early; a
//! section that cannot be used answers `None` and has said why. A feature that is not built is refused here, not
//! ignored. Not here: how a value is written (`unit`), and what a file may hold (`said`).

mod check;
mod client;
mod doubt;
mod fallback;
mod health;
mod limit;
mod listener;
mod log;
mod network;
mod price;
mod route;
mod store;
mod tracing;
mod unbuilt;
mod upstream;

use std::sync::Arc;

use check::Names;
pub use check::is_label;
pub(crate) use check::{spelt, spelt_time};
pub use doubt::beyond_attempts;

use crate::effective::effective;
use crate::fault::Collector;
use crate::said::File;
use crate::secret::Around;
use crate::used::{self, Config};

/// The whole configuration; `None` when a fault makes it useless.
pub(crate) fn build(
    file: &File,
    hash: String,
    around: &Around<'_>,
    faults: &mut Collector,
) -> Option<Config> {
    let egress_names = Names::new("egress", file.egress.items().iter().map(|item| &item.value.name), faults);
    let upstream_names =
        Names::new("upstream", file.upstreams.items().iter().map(|item| &item.value.name), faults);
    let client_names = Names::new("client", file.clients.items().iter().map(|item| &item.value.name), faults);
    let filter_names = Names::new("filter", file.filters.items().iter().map(|item| &item.value.name), faults);

    let node = listener::node(&file.node, around, faults);
    let listen = listener::listen(&file.listen, around, faults);
    let admin = listener::admin(&file.admin, around, faults);
    listener::apart(file, &listen, &admin, faults);
    let dns = network::dns(&file.dns, faults);
    let egress = network::egress(&file.egress, around, faults);
    let priced = price::is_priced(&file.prices);
    let health = health::health(&file.health, &used::Health::default(), priced, faults);
    let surroundings = upstream::Surroundings { egress: &egress_names, around, health: &health, priced };
    let upstreams = upstream::upstreams(&file.upstreams, &surroundings, faults);
    let routes = route::routes(&file.routes, &upstream_names, &filter_names, faults);
    let clients = client::clients(&file.clients, faults);
    let (node_limit, limits) = limit::own(&file.limits, faults);
    let prices = price::prices(&file.prices, faults);
    let store = store::store(&file.store, around, faults);
    let tracing = tracing::tracing(&file.tracing, around, faults);
    let log = log::log(&file.log, faults);

    unbuilt::auth(&file.auth, &client_names, faults);
    unbuilt::filters(&file.filters, faults);
    unbuilt::batch(&file.batch, faults);
    unbuilt::conversations(&file.conversations, faults);

    let read = doubt::Read {
        file,
        listen: &listen,
        dns: &dns,
        egress: &egress_names,
        upstream_names: &upstream_names,
        upstreams: &upstreams,
        routes: &routes,
        node: &node,
        tracing: tracing.as_ref(),
        priced,
    };
    read.doubt(faults);

    let clients = if file.clients.key().is_some() { Some(clients?) } else { None };
    let mut config = Config {
        node,
        listen,
        admin,
        store,
        dns,
        egress: egress?,
        upstreams: upstreams.into_iter().collect::<Option<_>>()?,
        routes: routes.into_iter().collect::<Option<_>>()?,
        health,
        clients,
        node_limit,
        limits,
        prices,
        tracing,
        log,
        hash,
        effective: Arc::default(),
    };
    config.effective = Arc::new(effective(file, &config));
    Some(config)
}
