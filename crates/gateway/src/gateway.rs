//! What a node runs by: one value built whole from the configuration and shared by all workers.
//!
//! Owns the paths with their pools, the routes with their budgets, the client table and the node's
//! admission. Building it is the only wiring; nothing here waits. A request runs by the one it began with. The value
//! of the next configuration takes over from this one what has stayed the same (`same` says what that is): pools, keys,
//! breakers, budgets, limits, what is kept and counted. Not here: when a configuration is read (`reload`).

mod same;

use std::collections::HashMap;
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
use tokio_util::sync::CancellationToken;

use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::health::observe;
use crate::history::History;
use crate::limits::Limits;
use crate::metrics::{Metrics, PathMetrics};
use crate::reload::Record;
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
    /// In the order of the file.
    pub upstreams: Vec<Arc<Upstream>>,
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
    pub usage: Arc<Book>,
    /// The other nodes.
    pub fleet: Arc<Fleet>,
    /// Series.
    pub metrics: Metrics,
    /// The last minutes of each path, for the status page.
    pub history: Arc<History>,
    /// Whether this node is going away.
    pub drain: Arc<Drain>,
    /// When it started, for the status page.
    pub started: std::time::SystemTime,
    /// What has been tried to change the configuration.
    pub reloads: Arc<Record>,
    /// Another has taken its place: what works for it in the background stops.
    pub replaced: CancellationToken,
    dns: Arc<Resolver>,
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
    pub budget: Arc<Mutex<Budget>>,
    /// What its answers come from: a change of it makes kept ones another's.
    pub sources: String,
    /// The longest among its upstreams.
    pub total: Duration,
    /// The longest among its upstreams.
    pub stream_total: Duration,
    /// In the order of the file.
    pub fallback: Vec<Fallback>,
    /// When one of them last answered.
    pub fell_back: Arc<Mark>,
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
    pub fn new(config: Config, reloads: Record) -> Result<Self, String> {
        Self::build(config, None, Arc::new(reloads))
    }

    /// What follows this one once the configuration is `config`. Nothing changes for this one by that; whoever puts
    /// the next one in its place calls [`Gateway::hand_over`] just before that. The error says what cannot be used and why.
    pub fn next(&self, config: Config) -> Result<Self, String> {
        Self::build(config, Some(self), Arc::clone(&self.reloads))
    }

    /// From now on `next` is the one that decides; what still runs here ends here.
    pub fn hand_over(&self, next: &Arc<Self>) {
        self.health.hand_over(&next.health, crate::health::now());
        next.admission.resize(&self.admission);
        for upstream in &next.upstreams {
            self.upstreams.iter().for_each(|before| upstream.resize(before));
        }
        self.replaced.cancel();
        for path in self.every_way() {
            if !next.every_way().any(|other| Arc::ptr_eq(&other.pool, &path.pool)) {
                path.pool.retire();
            }
        }
    }

    /// All paths, and their connections aside.
    fn every_way(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.paths.iter().chain(self.paths.iter().filter_map(|path| path.aside.as_ref()))
    }

    fn build(config: Config, old: Option<&Self>, reloads: Arc<Record>) -> Result<Self, String> {
        let now = Instant::now().into_std();
        let dns = match old {
            None => Arc::new(Resolver::new(config.dns.hosts.clone())),
            Some(old) if old.config.dns.hosts == config.dns.hosts => Arc::clone(&old.dns),
            Some(old) => Arc::new(old.dns.with_hosts(config.dns.hosts.clone())),
        };
        let mut ways = Ways { config: &config, old, dns: &dns, upstreams: Vec::new(), paths: Vec::new() };
        let candidates_of = ways.build()?;
        let Ways { upstreams, paths, .. } = ways;
        let setup = setup(&config, old, &paths, &candidates_of);
        let health = Arc::new(match old {
            None => Registry::new(setup, Arc::new(observe::transition), now),
            Some(old) => old.health.next(setup, now),
        });
        let routes = config.routes.iter().map(|said| {
            let before = old.and_then(|old| old.routes.iter().find(|route| route.config.name == said.name));
            route(said, before, &config, &candidates_of, &health, now)
        });
        let routes = routes.collect();
        let clients = config
            .clients
            .as_ref()
            .map(|list| list.iter().enumerate().map(|(index, client)| (client.key_sha256, index)).collect());
        let metrics = Metrics::new(&config, old.map(|old| &old.metrics));
        let shared = match old {
            Some(old) => Shared::of(old, &config),
            None => Shared::new(&config, &metrics)?,
        };
        let Shared { store, limits, answers, usage, fleet, admission, history, drain, started } = shared;
        Ok(Self {
            limits,
            answers,
            usage,
            fleet,
            store,
            routes,
            clients,
            admission,
            metrics,
            history,
            drain,
            started,
            reloads,
            replaced: CancellationToken::new(),
            dns,
            health,
            paths,
            upstreams,
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

    /// Closes what has idled for long.
    pub fn sweep(&self) {
        self.metrics.body_bytes.set(self.admission.body_bytes() as f64);
        for upstream in &self.upstreams {
            upstream.keys.look(Instant::now());
        }
        for path in &self.paths {
            path.pool.sweep(Instant::now());
            if let Some(aside) = &path.aside {
                aside.pool.sweep(Instant::now());
            }
        }
    }
}

/// What belongs to the process rather than to a configuration.
struct Shared {
    store: Store,
    limits: Limits,
    answers: Arc<Answers>,
    usage: Arc<Book>,
    fleet: Arc<Fleet>,
    admission: Arc<Admission>,
    history: Arc<History>,
    drain: Arc<Drain>,
    started: std::time::SystemTime,
}

impl Shared {
    fn new(config: &Config, metrics: &Metrics) -> Result<Self, String> {
        let store = crate::store::shared(config)?;
        let limits = Limits::new(config, store.clone(), crate::store::embedded());
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
            answers: crate::store::answers(config, store.clone()),
            usage: Arc::default(),
            fleet: Arc::new(fleet),
            admission: Arc::new(Admission::new(config.node_limit, metrics.queued.clone())),
            history: Arc::new(History::new(crate::health::now())),
            drain: Arc::default(),
            started: crate::clock::wall(),
            store,
        })
    }

    fn of(old: &Gateway, config: &Config) -> Self {
        Self {
            limits: old.limits.next(config),
            answers: Arc::clone(&old.answers),
            usage: Arc::clone(&old.usage),
            fleet: Arc::clone(&old.fleet),
            admission: Arc::new(old.admission.next(config.node_limit)),
            history: Arc::clone(&old.history),
            drain: Arc::clone(&old.drain),
            started: old.started,
            store: old.store.clone(),
        }
    }
}

/// The ways to the upstreams while they are built.
struct Ways<'a> {
    config: &'a Config,
    old: Option<&'a Gateway>,
    dns: &'a Arc<Resolver>,
    upstreams: Vec<Arc<Upstream>>,
    paths: Vec<Arc<Path>>,
}

impl Ways<'_> {
    /// The candidates of each upstream.
    fn build(&mut self) -> Result<Vec<Vec<Candidate>>, String> {
        let config = self.config;
        let upstreams = config.upstreams.iter().enumerate();
        upstreams
            .map(|(index, said)| {
                self.upstream(index, said).map_err(|why| format!("upstream `{}`: {why}", said.name))
            })
            .collect()
    }

    fn upstream(&mut self, index: usize, said: &used::Upstream) -> Result<Vec<Candidate>, String> {
        let before = self.old.and_then(|old| old.upstreams.get(same::upstream(&old.config, said)?));
        let upstream = Arc::new(Upstream::new(said.clone(), before.map(Arc::as_ref))?);
        self.upstreams.push(Arc::clone(&upstream));
        // Loads the system's certificates, so once for all ways, and not at all where every way has stayed.
        let mut tls = None;
        let mut candidates = Vec::new();
        for egress_index in &said.egress {
            let egress = self.config.egress.get(*egress_index).ok_or("no such egress")?;
            let name = format!("{}@{}", said.name, egress.name);
            let header = HeaderValue::from_str(&name)
                .map_err(|_| "its name or its egress's cannot stand in a header")?;
            let before = self.old.and_then(|old| old.paths.get(same::path(old, self.config, said, egress)?));
            let pools = match before.and_then(|before| same::pools(before, said)) {
                Some(pools) => pools,
                None => {
                    let tls = match &tls {
                        Some(tls) => tls,
                        None => tls.insert(tls::client_config(said.ca_pem.as_deref(), said.pool.http2)?),
                    };
                    let connector = Connector::new(
                        &said.base_url,
                        Arc::clone(tls),
                        egress.way.clone(),
                        said.pool.http2,
                        Arc::clone(self.dns),
                    );
                    let connector = Arc::new(connector?);
                    let aside = Pool::new(Arc::clone(&connector), ASIDE_IDLE, ASIDE_MAX);
                    let pool = Pool::new(connector, said.pool.max_idle, said.pool.max_connections);
                    (Arc::new(pool), Arc::new(aside))
                }
            };
            candidates.push(Candidate { path: self.paths.len(), upstream: index, egress: *egress_index });
            let mut metrics = PathMetrics::new(&name, index, &self.config.routes);
            let names =
                |config: &Config| config.routes.iter().map(|route| route.name.clone()).collect::<Vec<_>>();
            if let (Some(before), Some(old)) = (before, self.old)
                && names(&old.config) == names(self.config)
            {
                metrics.tally = Arc::clone(&before.metrics.tally);
            }
            let path = |pool: Arc<Pool>, aside: Option<Arc<Path>>| Path {
                index: self.paths.len(),
                header: header.clone(),
                metrics: metrics.clone(),
                name: name.clone(),
                upstream: Arc::clone(&upstream),
                pool,
                in_flight: before.map(|before| Arc::clone(&before.in_flight)).unwrap_or_default(),
                aside,
            };
            let (pool, aside) = pools;
            let path = Arc::new(path(pool, Some(Arc::new(path(aside, None)))));
            self.paths.push(path);
        }
        Ok(candidates)
    }
}

fn route(
    said: &used::Route,
    before: Option<&Route>,
    config: &Config,
    candidates_of: &[Vec<Candidate>],
    health: &Registry,
    now: std::time::Instant,
) -> Route {
    let timeouts = said.to.iter().filter_map(|u| config.upstreams.get(*u)).map(|u| u.timeouts);
    let retry = said.retry;
    let budget = before.filter(|before| before.config.retry.budget.total_cmp(&retry.budget).is_eq());
    Route {
        candidates: said.to.iter().filter_map(|u| candidates_of.get(*u)).flatten().copied().collect(),
        rules: Rules {
            attempts: retry.attempts,
            backoff: Backoff { initial: retry.initial, factor: retry.factor, max: retry.max },
        },
        budget: budget.map_or_else(
            || Arc::new(Mutex::new(Budget::new(retry.budget, now))),
            |before| Arc::clone(&before.budget),
        ),
        sources: sources(said, config),
        total: timeouts.clone().map(|t| t.total).max().unwrap_or_default(),
        stream_total: timeouts.map(|t| t.stream_total).max().unwrap_or_default(),
        fallback: said.fallback.iter().map(|said| fallback(said, candidates_of, health)).collect(),
        fell_back: before.map_or_else(|| Arc::new(Mark::new(now)), |before| Arc::clone(&before.fell_back)),
        config: said.clone(),
    }
}

fn setup(
    config: &Config,
    old: Option<&Gateway>,
    paths: &[Arc<Path>],
    candidates_of: &[Vec<Candidate>],
) -> registry::Setup {
    let all: Vec<Candidate> = candidates_of.iter().flatten().copied().collect();
    let path = |(path, candidate): (&Arc<Path>, &Candidate)| registry::PathSetup {
        name: path.name.clone(),
        upstream: candidate.upstream,
        egress: candidate.egress,
        probed: path.upstream.config.probe.is_some(),
        was: old.and_then(|old| {
            same::path(old, config, &path.upstream.config, config.egress.get(candidate.egress)?)
        }),
    };
    let upstream = |upstream: &used::Upstream| registry::UpstreamSetup {
        name: upstream.name.clone(),
        rules: Arc::new(upstream.health.clone()),
        local: upstream.local,
        weight: upstream.weight,
        was: old.and_then(|old| same::upstream(&old.config, upstream)),
    };
    let egress = |egress: &used::Egress| registry::EgressSetup {
        name: egress.name.clone(),
        was: old.and_then(|old| same::egress(&old.config, config, egress)),
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
        egress: config.egress.iter().map(egress).collect(),
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
