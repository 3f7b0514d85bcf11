//! Prometheus series, by the names of the public interface.
//!
//! Handles are made once per route, path, model and client and kept, so that a request only adds to atomics.
//! Label values come from the configuration or a fixed list; models are the first 100 seen, then `other`.
//! What counts and what is timed the recorder keeps (`recorder`); what is as it is now, and goes with the part of the
//! configuration that it tells of, is written at each scrape ([`text`]).

pub mod exposition;
mod process;
mod recorder;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use tidegate_config::used::Config;
use tidegate_router::outcome::Class;
use tidegate_wire::answer::Usage;

use self::exposition::{Exposition, Kind};
pub use self::recorder::{install, upkeep};
use crate::gateway::Gateway;
use crate::history::Tally;
use crate::request::accept::CacheResult;

const MODELS_MAX: usize = 100;
const OTHER: &str = "other";
/// Labels of `requests_total{status}`, in the order of `Series::requests`.
const STATUSES: [&str; 5] = ["success", "client_error", "limited", "upstream_error", "error"];
/// Labels of `shadow_requests_total{outcome}`.
const SHADOWS: [&str; 4] = ["pass", "fail", "slow", "skipped"];
/// Every class, once.
pub const CLASSES: [Class; 13] = [
    Class::Connect,
    Class::Tls,
    Class::Dns,
    Class::Proxy,
    Class::Timeout,
    Class::ServerError,
    Class::BadResponse,
    Class::Cut,
    Class::RateLimited,
    Class::Quota,
    Class::Auth,
    Class::ModelNotFound,
    Class::Busy,
];

/// All families, as Prometheus reads them. Must be called on the control thread.
pub fn text(gateway: &Gateway, recorded: &PrometheusHandle) -> String {
    let mut text = Exposition::after(recorded.render());
    let node = &gateway.config.node.name;
    text.family("tidegate_build_info", Kind::Gauge, "Version and configuration of this node").sample(
        &[("version", env!("CARGO_PKG_VERSION")), ("config_hash", &gateway.config.hash), ("node", node)],
        1.0,
    );
    crate::health::observe::render(gateway, &mut text);
    crate::limits::near::render(gateway, &mut text);
    gateway.usage.render(gateway, &mut text);
    process::render(&mut text);
    text.into_text()
}

/// Series of the node as a whole, and the tables of the rest.
#[derive(Debug)]
pub struct Metrics {
    /// Requests being worked on.
    pub in_flight: Gauge,
    /// Requests waiting for a place.
    pub queued: Gauge,
    /// Streams being relayed.
    pub streams: Gauge,
    /// Bytes of request bodies in memory.
    pub body_bytes: Gauge,
    /// Client connections.
    pub connections: Gauge,
    /// Gateway time per request.
    pub overhead: Histogram,
    /// By route, for those that have a cache.
    cache: Vec<Vec<Counter>>,
    /// The same of all routes, to be read.
    cache_met: Arc<[AtomicU64; CacheResult::ALL.len()]>,
    routes: Vec<String>,
    clients: Vec<Arc<str>>,
    /// The same through all configurations.
    models: Arc<RwLock<HashMap<String, usize>>>,
    series: RwLock<HashMap<SeriesKey, Arc<Series>>>,
}

/// Indices of route, client and model; `usize::MAX` stands for none.
type SeriesKey = (usize, usize, usize);

/// Counters of one route, model and client.
#[derive(Debug)]
pub struct Series {
    requests: [Counter; STATUSES.len()],
    prompt: Counter,
    completion: Counter,
    cached: Counter,
    unpriced: Counter,
    /// The model's number; `usize::MAX` for none.
    pub model: usize,
    /// Plain, then streamed.
    duration: [Histogram; 2],
}

impl Metrics {
    /// Registers the series of `config`. Those of the configuration `before` go on where names have stayed.
    pub fn new(config: &Config, before: Option<&Self>) -> Self {
        // Rare events count from 0: an increase is only seen from a value that was there before.
        counter!("tidegate_log_lines_dropped_total").increment(0);
        counter!("tidegate_cache_writes_dropped_total").increment(0);
        Self {
            in_flight: gauge!("tidegate_in_flight_requests"),
            queued: gauge!("tidegate_queued_requests"),
            streams: gauge!("tidegate_active_streams"),
            body_bytes: gauge!("tidegate_request_body_bytes"),
            connections: gauge!("tidegate_connections"),
            overhead: histogram!("tidegate_overhead_seconds"),
            cache: config.routes.iter().map(cache_counters).collect(),
            cache_met: before.map(|before| Arc::clone(&before.cache_met)).unwrap_or_default(),
            routes: config.routes.iter().map(|r| r.name.clone()).collect(),
            clients: config.clients.iter().flatten().map(|c| c.name.as_str().into()).collect(),
            models: before.map(|before| Arc::clone(&before.models)).unwrap_or_default(),
            series: RwLock::default(),
        }
    }

    /// The counters of a request; made on first use.
    pub fn series(&self, route: Option<usize>, client: Option<usize>, model: Option<&str>) -> Arc<Series> {
        let key = (
            route.unwrap_or(usize::MAX),
            client.unwrap_or(usize::MAX),
            model.map_or(usize::MAX, |m| self.model_index(m)),
        );
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(series);
        }
        let route = self.routes.get(key.0).cloned().unwrap_or_default();
        let client = self.client_name(client).to_string();
        let model = match model {
            Some(_) if key.2 == MODELS_MAX => OTHER.to_owned(),
            Some(model) => model.to_owned(),
            None => String::new(),
        };
        let tokens = |kind: &'static str| counter!("tidegate_tokens_total", "client" => client.clone(), "model" => model.clone(), "kind" => kind);
        let duration = |stream: &'static str| histogram!("tidegate_http_request_duration_seconds", "route" => route.clone(), "stream" => stream);
        let series = Arc::new(Series {
            requests: STATUSES.map(|status| {
                counter!(
                    "tidegate_requests_total",
                    "route" => route.clone(),
                    "model" => model.clone(),
                    "client" => client.clone(),
                    "status" => status
                )
            }),
            prompt: tokens("prompt"),
            completion: tokens("completion"),
            cached: tokens("cached"),
            unpriced: counter!("tidegate_unpriced_tokens_total", "client" => client.clone(), "model" => model.clone()),
            model: key.2,
            duration: [duration("false"), duration("true")],
        });
        let mut table = self.series.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(table.entry(key).or_insert(series))
    }

    /// The name of a client's index; empty for none.
    pub fn client_name(&self, client: Option<usize>) -> Arc<str> {
        client.and_then(|client| self.clients.get(client)).cloned().unwrap_or_default()
    }

    /// The name of a model's number.
    pub fn model_name(&self, index: usize) -> String {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let found = models.iter().find(|(_, at)| **at == index).map(|(name, _)| name.clone());
        found.unwrap_or_else(|| if index == MODELS_MAX { OTHER.to_owned() } else { String::new() })
    }

    /// How a request met the cache of its route.
    pub fn cache(&self, route: usize, result: CacheResult) {
        let at = CacheResult::ALL.iter().position(|other| *other == result);
        let Some((at, counter)) = at.and_then(|at| Some((at, self.cache.get(route)?.get(at)?))) else {
            return;
        };
        counter.increment(1);
        if let Some(met) = self.cache_met.get(at) {
            met.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests on routes with a cache met it so, since the start.
    pub fn cache_met(&self, result: CacheResult) -> u64 {
        let at = CacheResult::ALL.iter().position(|other| *other == result);
        at.and_then(|at| self.cache_met.get(at)).map_or(0, |met| met.load(Ordering::Relaxed))
    }

    /// The number of a model. Only a model that some route took gets here, yet a `*` route takes what clients invent: hence the cap.
    fn model_index(&self, model: &str) -> usize {
        {
            let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = models.get(model) {
                return *index;
            }
            // Full for good: a write lock would only make others wait.
            if models.len() >= MODELS_MAX {
                return MODELS_MAX;
            }
        }
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let next = models.len();
        if next >= MODELS_MAX {
            return models.get(model).copied().unwrap_or(MODELS_MAX);
        }
        *models.entry(model.to_owned()).or_insert(next)
    }
}

fn cache_counters(route: &tidegate_config::used::Route) -> Vec<Counter> {
    if route.cache.is_none() {
        return Vec::new();
    }
    let counter = |result: CacheResult| counter!("tidegate_cache_requests_total", "route" => route.name.clone(), "result" => result.word());
    CacheResult::ALL.map(counter).into()
}

impl Series {
    /// A request ended.
    pub fn ended(&self, status: &str, stream: bool, took: Duration) {
        if let Some((counter, _)) = self.requests.iter().zip(STATUSES).find(|(_, s)| *s == status) {
            counter.increment(1);
        }
        let [plain, streamed] = &self.duration;
        if stream { streamed } else { plain }.record(took.as_secs_f64());
    }

    /// An answer was made.
    pub fn used(&self, usage: Usage, priced: bool) {
        self.prompt.increment(usage.prompt);
        self.completion.increment(usage.completion);
        self.cached.increment(usage.cached);
        if !priced {
            self.unpriced.increment(usage.prompt.saturating_add(usage.completion));
        }
    }
}

/// A histogram for each route that may use a path. Of the others nothing would ever be seen but empty buckets at every
/// scrape.
#[derive(Debug, Clone)]
pub struct ByRoute(Box<[Option<Histogram>]>);

impl ByRoute {
    /// Of this route, by index; `None`: it does not use the path.
    pub fn get(&self, route: usize) -> Option<&Histogram> {
        self.0.get(route)?.as_ref()
    }
}

/// Series of one path.
#[derive(Debug, Clone)]
pub struct PathMetrics {
    ok: Counter,
    by_class: Vec<(Counter, Counter)>,
    /// Events dropped because they were not JSON.
    pub malformed: Counter,
    /// Time to first content, by route.
    pub ttft: ByRoute,
    /// The same in numbers that can be read.
    pub tally: Arc<Tally>,
    shadows: [Counter; SHADOWS.len()],
    probes: [Counter; 3],
}

impl PathMetrics {
    /// Registers the series of the path `name`, which leads to this upstream (by index).
    pub fn new(name: &str, upstream: usize, routes: &[tidegate_config::used::Route]) -> Self {
        let path = || name.to_owned();
        let uses = |route: &tidegate_config::used::Route| {
            route.to.contains(&upstream) || route.fallback.iter().any(|said| said.upstream == upstream)
        };
        let outcome =
            |o: &'static str| counter!("tidegate_upstream_requests_total", "path" => path(), "outcome" => o);
        Self {
            ok: outcome("ok"),
            by_class: CLASSES
                .iter()
                .map(|class| {
                    let error_type = class.error_type();
                    (
                        outcome(class.outcome()),
                        counter!("tidegate_api_errors_total", "type" => error_type, "path" => path()),
                    )
                })
                .collect(),
            malformed: counter!("tidegate_malformed_events_total", "path" => path()),
            shadows: SHADOWS
                .map(|o| counter!("tidegate_shadow_requests_total", "path" => path(), "outcome" => o)),
            probes: ["pass", "fail", "skipped"]
                .map(|o| counter!("tidegate_probes_total", "path" => path(), "outcome" => o)),
            tally: Arc::new(Tally::new(routes.len())),
            ttft: ByRoute(
                routes
                    .iter()
                    .map(|route| {
                        uses(route).then(|| {
                            histogram!("tidegate_time_to_first_token_seconds", "route" => route.name.clone(), "path" => path())
                        })
                    })
                    .collect(),
            ),
        }
    }

    /// A copied or made-up request ended; `outcome` is one of `SHADOWS`.
    pub fn shadow(&self, outcome: &str) {
        if let Some((counter, _)) = self.shadows.iter().zip(SHADOWS).find(|(_, o)| *o == outcome) {
            counter.increment(1);
        }
    }

    /// An active probe ended.
    pub fn probe(&self, passed: bool) {
        let [pass, fail, _] = &self.probes;
        if passed { pass } else { fail }.increment(1);
    }

    /// An active probe was not sent, or met a rate limit.
    pub fn probe_skipped(&self) {
        let [_, _, skipped] = &self.probes;
        skipped.increment(1);
    }

    /// An attempt over this path ended, `None` being well.
    pub fn attempt(&self, failure: Option<Class>) {
        self.tally.attempt(failure.is_some());
        let Some(class) = failure else { return self.ok.increment(1) };
        let series = CLASSES.iter().position(|c| *c == class).and_then(|at| self.by_class.get(at));
        if let Some((outcomes, errors)) = series {
            outcomes.increment(1);
            errors.increment(1);
        }
    }
}

/// A request left one path for another: rare, so registered as it happens.
pub fn failover(route: &str, from: &str, to: &str) {
    let (route, from, to) = (route.to_owned(), from.to_owned(), to.to_owned());
    counter!("tidegate_failovers_total", "route" => route, "from" => from, "to" => to).increment(1);
}

/// A repeat on any path ended.
pub fn retry(route: &str, won: bool) {
    let outcome = if won { "won" } else { "lost" };
    counter!("tidegate_retries_total", "route" => route.to_owned(), "outcome" => outcome).increment(1);
}

/// A second try beside a slow first one ended: whether its answer was used.
pub fn hedge(route: &str, won: bool) {
    let outcome = if won { "won" } else { "lost" };
    counter!("tidegate_hedges_total", "route" => route.to_owned(), "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_route_has_a_first_content_only_over_paths_that_it_may_use() {
        let file = "
            upstreams:
              - {name: a, base_url: \"http://127.0.0.1:1/v1\"}
              - {name: b, base_url: \"http://127.0.0.1:2/v1\"}
              - {name: c, base_url: \"http://127.0.0.1:3/v1\"}
            routes:
              - {match: {model: x}, to: [a]}
              - {match: {model: y}, to: [b], fallback: [{upstream: a}]}
              - {match: {model: \"*\"}, to: [b]}
        ";
        let purpose = tidegate_config::Purpose::Serve;
        let config = tidegate_config::parse("f", file.as_bytes(), &BTreeMap::new(), purpose).unwrap().config;
        let has = |upstream| {
            let metrics = PathMetrics::new("u@direct", upstream, &config.routes);
            [0, 1, 2, 3].map(|route| metrics.ttft.get(route).is_some())
        };
        assert_eq!(has(0), [true, true, false, false]);
        assert_eq!(has(1), [false, true, true, false]);
        assert_eq!(has(2), [false; 4]);
    }
}
