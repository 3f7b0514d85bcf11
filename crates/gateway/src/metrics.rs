//! Prometheus series, by the names of the public interface.
//!
//! Handles are made once per route, path, model and client and kept, so that a request only adds to atomics.
//! Label values come from the configuration or a fixed list; models are the first 100 seen, then `other`.
//! Histograms hold their samples until the upkeep task folds them into buckets, scraped or not.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidegate_config::used::Config;
use tidegate_router::outcome::Class;
use tidegate_wire::answer::Usage;

use crate::request::accept::CacheResult;

/// How often samples are folded into buckets; bounds the memory they take between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
const MODELS_MAX: usize = 100;
const OTHER: &str = "other";
/// Latencies from a cache hit to a long generation.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
    120.0,
];
const OVERHEAD_SECONDS: [f64; 13] =
    [0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.8, 1.0];
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

/// Installs the process's recorder. Once per process; the error says that there is one already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .set_buckets_for_metric(Matcher::Full("tidegate_overhead_seconds".into()), &OVERHEAD_SECONDS)?
        .set_buckets_for_metric(Matcher::Full("tidegate_store_operation_seconds".into()), &OVERHEAD_SECONDS)?
        .install_recorder()?;
    describe_counter!("tidegate_requests_total", "Client requests by how they ended");
    describe_counter!("tidegate_upstream_requests_total", "Attempts by path and outcome");
    describe_counter!("tidegate_api_errors_total", "Failed attempts by type and path");
    describe_counter!("tidegate_failovers_total", "Requests that went from one path to another");
    describe_counter!("tidegate_retries_total", "Repeated attempts: won gave the answer, lost failed too");
    describe_counter!("tidegate_tokens_total", "Tokens as the upstreams counted them");
    describe_counter!("tidegate_malformed_events_total", "Stream events that were not JSON and were dropped");
    describe_counter!("tidegate_log_lines_dropped_total", "Log lines lost because stderr did not keep up");
    describe_counter!("tidegate_unpriced_tokens_total", "Tokens of models without a price");
    describe_counter!(
        "tidegate_cache_requests_total",
        "Requests on routes with a cache, by its part in them"
    );
    describe_counter!("tidegate_rate_limit_decisions_total", "Limits asked, by scope and what they said");
    describe_gauge!("tidegate_store_up", "1 while the store answers");
    describe_histogram!("tidegate_store_operation_seconds", "Calls to the store");
    describe_gauge!("tidegate_cache_bytes", "Answers kept in this node's memory");
    describe_gauge!("tidegate_cache_entries", "Answers kept in this node's memory");
    describe_gauge!("tidegate_fleet_nodes", "Nodes that share the store, this one among them");
    describe_histogram!(
        "tidegate_http_request_duration_seconds",
        "From the first byte in to the last byte out"
    );
    describe_histogram!(
        "tidegate_overhead_seconds",
        "Time spent in the gateway itself, upstream waits excluded"
    );
    describe_histogram!(
        "tidegate_time_to_first_token_seconds",
        "From the first byte in to the first content"
    );
    describe_counter!(
        "tidegate_path_transitions_total",
        "Changes of state of a path, or of a model of an upstream"
    );
    describe_counter!("tidegate_shadow_requests_total", "Copied and made-up requests to recovering paths");
    describe_counter!("tidegate_hedges_total", "Second tries beside a slow first one");
    describe_counter!("tidegate_probes_total", "Active probes of a path");
    describe_gauge!("tidegate_path_state", "1 for the state a path is in");
    describe_gauge!("tidegate_path_share", "Share of its normal traffic that a path may take");
    describe_gauge!("tidegate_path_latency_seconds", "Time to the first content over a path, or of a probe");
    describe_gauge!("tidegate_egress_up", "1 while handshakes through an egress work");
    describe_gauge!("tidegate_egress_latency_seconds", "Of a handshake through an egress");
    describe_gauge!("tidegate_fallback_active", "1 while a route lives on a fallback");
    describe_gauge!("tidegate_node_cut_off", "1 while everything that this node tries fails");
    describe_gauge!("tidegate_in_flight_requests", "Requests being worked on");
    describe_gauge!("tidegate_queued_requests", "Requests waiting for a place on this node");
    describe_gauge!("tidegate_active_streams", "Streams being relayed");
    describe_gauge!("tidegate_request_body_bytes", "Request bodies in memory, those above 64 KiB");
    describe_gauge!("tidegate_connections", "Client connections");
    describe_gauge!("tidegate_connections_max", "Client connections that are taken at once");
    describe_gauge!("tidegate_upstream_connections", "Open connections of a path");
    describe_gauge!("tidegate_config_last_reload_successful", "1 when the file on disk is the one in force");
    describe_gauge!(
        "tidegate_config_last_reload_timestamp_seconds",
        "When the configuration in force was loaded"
    );
    describe_gauge!("tidegate_build_info", "Version and configuration of this node");
    Ok(handle)
}

/// Folds histogram samples for as long as the process lives.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
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
        gauge!("tidegate_build_info", "version" => env!("CARGO_PKG_VERSION"), "config_hash" => config.hash.clone(), "node" => config.node.name.clone())
            .set(1.0);
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
        if let Some(counter) = at.and_then(|at| self.cache.get(route)?.get(at)) {
            counter.increment(1);
        }
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

/// Series of one path.
#[derive(Debug, Clone)]
pub struct PathMetrics {
    ok: Counter,
    by_class: Vec<(Counter, Counter)>,
    /// Events dropped because they were not JSON.
    pub malformed: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Time to first content, per route by index.
    pub ttft: Vec<Histogram>,
    shadows: [Counter; SHADOWS.len()],
    probes: [Counter; 3],
}

impl PathMetrics {
    /// Registers the series of the path `name`.
    pub fn new(name: &str, routes: &[tidegate_config::used::Route]) -> Self {
        let path = || name.to_owned();
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
            connections: gauge!("tidegate_upstream_connections", "path" => path()),
            ttft: routes
                .iter()
                .map(|route| {
                    histogram!("tidegate_time_to_first_token_seconds", "route" => route.name.clone(), "path" => path())
                })
                .collect(),
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
