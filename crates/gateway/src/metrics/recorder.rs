//! The process's recorder: counters and histograms, and gauges of the node as a whole.
//!
//! Owns the buckets and what each family is said to be. Histograms hold their samples until [`upkeep`] folds them into
//! buckets, scraped or not.

use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How often samples are folded into buckets; bounds the memory they take between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// Latencies from a cache hit to a long generation.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0,
    120.0,
];
const OVERHEAD_SECONDS: [f64; 13] =
    [0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.8, 1.0];

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
    describe_counter!("tidegate_store_failures_total", "Calls to the store that gave nothing, by reason");
    describe_counter!("tidegate_store_evictions_total", "What the embedded store dropped to make room");
    describe_counter!(
        "tidegate_rate_limit_denials_cached_total",
        "Requests denied without asking the store again"
    );
    describe_counter!(
        "tidegate_settlements_dropped_total",
        "What requests used that the store was not told of in time"
    );
    describe_counter!("tidegate_cache_writes_dropped_total", "Answers that did not get into the store");
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
    describe_gauge!("tidegate_in_flight_requests", "Requests being worked on");
    describe_gauge!("tidegate_queued_requests", "Requests waiting for a place on this node");
    describe_gauge!("tidegate_active_streams", "Streams being relayed");
    describe_gauge!("tidegate_request_body_bytes", "Request bodies in memory, those above 64 KiB");
    describe_gauge!("tidegate_connections", "Client connections");
    describe_gauge!("tidegate_connections_max", "Client connections that are taken at once");
    describe_counter!(
        "tidegate_config_reloads_total",
        "Times the configuration was read again, by what came of it"
    );
    describe_gauge!("tidegate_config_last_reload_successful", "1 when the file on disk is the one in force");
    describe_gauge!(
        "tidegate_config_last_reload_timestamp_seconds",
        "When the configuration in force was loaded"
    );
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
