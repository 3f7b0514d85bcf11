//! What a node runs by: one value built whole from the configuration and shared by all workers.
//!
//! Owns the paths with their pools, the routes with their budgets, the client table and the node's
//! admission. Building it is the only wiring; nothing here waits.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use tidegate_config::used::{self, Config};
use tidegate_health::mark::Mark;
use tidegate_health::registry::{self, Registry};
use tidegate_router::backoff::Backoff;
use tidegate_router::budget::Budget;
use tidegate_router::plan::{Candidate, Rules};
use tidegate_store::Store;
use tidegate_store::answers::Answers;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::health::observe;
use crate::limits::Limits;
use crate::metrics::{Metrics, PathMetrics};
use crate::request::admit::Admission;
use crate::upstream::connector::Connector;
use crate::upstream::dns::Resolver;
use crate::upstream::pool::Pool;
use crate::upstream::{Path, Upstream, tls};
use crate::usage::Book;

/// Connections for probes and made-up requests, of each path.
const ASIDE_IDLE: usize = 1;
const ASIDE_MAX: usize = 4;

/// One node's state.
#[derive(Debug)]
pub struct Gateway {
    /// The file, checked.
    pub config: Config,
    /// Every upstream over every egress it may use.
    pub paths: Vec<Arc<Path>>,
    /// What is known of them, and which may take traffic.
    pub health: Arc<Registry>,
    /// In the order of the file.
    pub routes: Vec<Route>,
    /// SHA-256 of a key to the client's index; `None`: anyone may call.
    pub clients: Option<HashMap<[u8; 32], usize>>,
    /// Places for running requests.
    pub admission: Arc<Admission>,
    /// What the nodes share.
    pub store: Store,
    /// Which limits hold, and how they stand.
    pub limits: Limits,
    /// Answers that are kept or being made.
    pub answers: Arc<Answers>,
    /// Tokens and money.
    pub usage: Book,
    /// The other nodes.
    pub fleet: Arc<Fleet>,
    /// Series.
    pub metrics: Metrics,
    /// Whether this node is going away.
    pub drain: Drain,
    /// When it started, for the status page.
    pub started: std::time::SystemTime,
}

/// One route at run time.
#[derive(Debug)]
pub struct Route {
    /// Its part of the configuration.
    pub config: used::Route,
    /// Its paths in the order of the file: upstream by upstream, each over its egresses.
    pub candidates: Vec<Candidate>,
    /// When to try again.
    pub rules: Rules,
    /// How often. A few counters behind a lock that is never held across an await.
    pub budget: Mutex<Budget>,
    /// What its answers come from: a change of it makes kept ones another's.
    pub sources: String,
    /// The longest among its upstreams.
    pub total: Duration,
    /// The longest among its upstreams.
    pub stream_total: Duration,
    /// In the order of the file.
    pub fallback: Vec<Fallback>,
    /// When one of them last answered.
    pub fell_back: Mark,
}

/// What stands in when no path of a route is usable.
#[derive(Debug)]
pub struct Fallback {
    /// Its part of the configuration.
    pub config: used::Fallback,
    /// The paths of its upstream.
    pub candidates: Vec<Candidate>,
    /// Each may be tried once.
    pub rules: Rules,
    /// Of the model it asks for, by number; `None`: the client's.
    pub model: Option<usize>,
}

impl Gateway {
    /// The error says which part of the configuration cannot be used and why.
    pub fn new(config: Config) -> Result<Self, String> {
        let dns = Arc::new(Resolver::new(config.dns.hosts.clone()));
        let mut paths: Vec<Arc<Path>> = Vec::new();
        let mut candidates_of: Vec<Vec<Candidate>> = Vec::new();
        for (index, said) in config.upstreams.iter().enumerate() {
            let upstream = Arc::new(Upstream::new(said.clone())?);
            let in_upstream = |e: String| format!("upstream `{}`: {e}", said.name);
            let tls = tls::client_config(said.ca_pem.as_deref(), said.pool.http2).map_err(in_upstream)?;
            let mut candidates = Vec::new();
            for egress_index in &said.egress {
                let egress =
                    config.egress.get(*egress_index).ok_or_else(|| in_upstream("no such egress".into()))?;
                let name = format!("{}@{}", said.name, egress.name);
                let header = HeaderValue::from_str(&name)
                    .map_err(|_| in_upstream("its name or its egress's cannot stand in a header".into()))?;
                let connector = Arc::new(
                    Connector::new(
                        &said.base_url,
                        Arc::clone(&tls),
                        egress.way.clone(),
                        said.pool.http2,
                        Arc::clone(&dns),
                    )
                    .map_err(in_upstream)?,
                );
                candidates.push(Candidate { path: paths.len(), upstream: index, egress: *egress_index });
                let metrics = PathMetrics::new(&name, &config.routes);
                let path = |pool: Pool, aside: Option<Arc<Path>>| Path {
                    index: paths.len(),
                    header: header.clone(),
                    metrics: metrics.clone(),
                    name: name.clone(),
                    upstream: Arc::clone(&upstream),
                    pool: Arc::new(pool),
                    in_flight: AtomicUsize::new(0),
                    aside,
                };
                let aside = path(Pool::new(Arc::clone(&connector), ASIDE_IDLE, ASIDE_MAX), None);
                let pool = Pool::new(connector, said.pool.max_idle, said.pool.max_connections);
                let path = Arc::new(path(pool, Some(Arc::new(aside))));
                paths.push(path);
            }
            candidates_of.push(candidates);
        }
        let now = Instant::now().into_std();
        let health = Arc::new(Registry::new(
            setup(&config, &paths, &candidates_of),
            Box::new(observe::transition),
            now,
        ));
        let routes = config.routes.iter().map(|route| {
            let timeouts = route.to.iter().filter_map(|u| config.upstreams.get(*u)).map(|u| u.timeouts);
            let retry = route.retry;
            Route {
                candidates: route
                    .to
                    .iter()
                    .filter_map(|u| candidates_of.get(*u))
                    .flatten()
                    .copied()
                    .collect(),
                rules: Rules {
                    attempts: retry.attempts,
                    backoff: Backoff { initial: retry.initial, factor: retry.factor, max: retry.max },
                },
                budget: Mutex::new(Budget::new(retry.budget, now)),
                sources: sources(route, &config),
                total: timeouts.clone().map(|t| t.total).max().unwrap_or_default(),
                stream_total: timeouts.map(|t| t.stream_total).max().unwrap_or_default(),
                fallback: route.fallback.iter().map(|said| fallback(said, &candidates_of, &health)).collect(),
                fell_back: Mark::new(now),
                config: route.clone(),
            }
        });
        let clients = config
            .clients
            .as_ref()
            .map(|list| list.iter().enumerate().map(|(index, client)| (client.key_sha256, index)).collect());
        let metrics = Metrics::new(&config);
        let store = crate::store::shared(&config)?;
        let limits = Limits::new(&config, store.clone(), crate::store::embedded());
        let expected = config.store.as_ref().map_or(1, |store| store.expected_nodes);
        let fleet = Fleet::new(store.clone(), config.node.name.clone(), config.node.zone.clone(), expected)
            .with_secret(config.store.as_ref().and_then(|store| store.secret.clone()))
            .with_on_nodes({
                let limiter = Arc::clone(limits.limiter());
                Box::new(move |nodes| {
                    metrics::gauge!("tidegate_fleet_nodes").set(f64::from(nodes));
                    limiter.set_nodes(nodes);
                })
            });
        Ok(Self {
            limits,
            answers: crate::store::answers(&config, store.clone()),
            usage: Book::default(),
            fleet: Arc::new(fleet),
            store,
            routes: routes.collect(),
            clients,
            admission: Arc::new(Admission::new(config.node_limit, metrics.queued.clone())),
            metrics,
            drain: Drain::default(),
            started: crate::clock::wall(),
            health,
            paths,
            config,
        })
    }

    /// The first route that takes `model`, by index.
    pub fn route_of(&self, model: &str) -> Option<usize> {
        self.config.routes.iter().position(|route| route.model.matches(model))
    }

    /// Whether a client (by index) may use `model`.
    pub fn may_use(&self, client: Option<usize>, model: &str) -> bool {
        let entry = client.and_then(|c| self.config.clients.as_ref()?.get(c));
        entry.and_then(|c| c.models.as_ref()).is_none_or(|globs| globs.iter().any(|g| g.matches(model)))
    }

    /// Whether a client (by index) may use only some models.
    pub fn is_restricted(&self, client: Option<usize>) -> bool {
        let entry = client.and_then(|c| self.config.clients.as_ref()?.get(c));
        entry.is_some_and(|c| c.models.is_some())
    }

    /// Keeps the pools tidy for as long as the process lives.
    pub async fn sweep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            self.metrics.body_bytes.set(self.admission.body_bytes() as f64);
            for path in &self.paths {
                path.pool.sweep(Instant::now());
                path.upstream.keys.look(Instant::now());
                if let Some(aside) = &path.aside {
                    aside.pool.sweep(Instant::now());
                }
                let (open, _) = path.pool.count();
                path.metrics.connections.set(open as f64);
            }
        }
    }
}

fn setup(config: &Config, paths: &[Arc<Path>], candidates_of: &[Vec<Candidate>]) -> registry::Setup {
    let all: Vec<Candidate> = candidates_of.iter().flatten().copied().collect();
    let path = |(path, candidate): (&Arc<Path>, &Candidate)| registry::PathSetup {
        name: path.name.clone(),
        upstream: candidate.upstream,
        egress: candidate.egress,
        probed: path.upstream.config.probe.is_some(),
    };
    let upstream = |upstream: &used::Upstream| registry::UpstreamSetup {
        name: upstream.name.clone(),
        rules: Arc::new(upstream.health.clone()),
        local: upstream.local,
        weight: upstream.weight,
    };
    let route = |route: &used::Route| registry::RouteSetup {
        paths: route.to.iter().filter_map(|u| candidates_of.get(*u)).flatten().map(|c| c.path).collect(),
        fallback: route
            .fallback
            .iter()
            .filter_map(|fallback| candidates_of.get(fallback.upstream))
            .map(|candidates| candidates.iter().map(|c| c.path).collect())
            .collect(),
        choice: config.health.choice,
    };
    registry::Setup {
        paths: paths.iter().zip(&all).map(path).collect(),
        upstreams: config.upstreams.iter().map(upstream).collect(),
        egress: config.egress.iter().map(|egress| egress.name.clone()).collect(),
        routes: config.routes.iter().map(route).collect(),
    }
}

fn sources(route: &used::Route, config: &Config) -> String {
    let mut text = route.name.clone();
    for url in route.to.iter().filter_map(|u| config.upstreams.get(*u)).map(|upstream| &upstream.base_url) {
        text.push('\n');
        text.push_str(&url.authority);
        text.push_str(&url.path);
    }
    text
}

fn fallback(said: &used::Fallback, candidates_of: &[Vec<Candidate>], health: &Registry) -> Fallback {
    let candidates = candidates_of.get(said.upstream).cloned().unwrap_or_default();
    let attempts = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
    let backoff = Backoff { initial: Duration::ZERO, factor: 1.0, max: Duration::ZERO };
    let model = said.model.as_deref().map(|name| health.model(Some(name)));
    Fallback { config: said.clone(), candidates, rules: Rules { attempts, backoff }, model }
}
