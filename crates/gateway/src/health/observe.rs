//! What operators hear of health: a log line and a count per transition, gauges of every path and egress.

use metrics::counter;
use tidegate_health::breaker::State;
use tidegate_health::registry::Event;

use super::now;
use crate::gateway::Gateway;
use crate::metrics::exposition::{Exposition, Family, Kind};

/// A fallback that answered this long ago is still what a route lives on.
const FELL_BACK: std::time::Duration = std::time::Duration::from_secs(10);

/// Logs and counts a transition.
pub fn transition(event: &Event) {
    let Event { name, model, transition } = event;
    let (from, to, reason) = (transition.from.word(), transition.to.word(), transition.reason.word());
    let model = model.as_deref().unwrap_or_default();
    let evidence = transition.evidence.as_str();
    if matches!(transition.to, State::Open | State::Disabled) {
        tracing::warn!(path = %name, model, from, to, reason, evidence, "traffic stops");
    } else {
        tracing::info!(path = %name, model, from, to, reason, evidence, "traffic state");
    }
    counter!("tidegate_path_transitions_total", "path" => name.clone(), "from" => from, "to" => to, "reason" => reason)
        .increment(1);
}

/// Adds how paths, ways out and routes are now.
pub fn render(gateway: &Gateway, text: &mut Exposition) {
    let now = now();
    let paths: Vec<_> = gateway
        .paths
        .iter()
        .filter_map(|path| Some((path, gateway.health.path_status(path.index, now)?)))
        .collect();
    let mut states = text.family(
        "tidegate_path_state",
        Kind::Gauge,
        "1 for the state a path is in, the worst of its own and its models'",
    );
    for (path, status) in &paths {
        sample_states(&mut states, &path.name, status.state);
    }
    let mut states = text.family(
        "tidegate_path_own_state",
        Kind::Gauge,
        "1 for the state a path is in, whatever single models of it are",
    );
    for (path, status) in &paths {
        sample_states(&mut states, &path.name, status.own_state);
    }
    let mut shares = text.family(
        "tidegate_path_share",
        Kind::Gauge,
        "Share of its normal traffic that a path may take, whatever single models of it may",
    );
    for (path, status) in &paths {
        shares.sample(&[("path", &path.name)], status.own_share);
    }
    let mut latencies = text.family(
        "tidegate_path_latency_seconds",
        Kind::Gauge,
        "Time to the first content over a path, or of a probe",
    );
    for (path, status) in &paths {
        if let Some(latency) = status.first.or(status.network) {
            latencies.sample(&[("path", &path.name)], latency.as_secs_f64());
        }
    }
    let mut connections =
        text.family("tidegate_upstream_connections", Kind::Gauge, "Open connections of a path");
    for (path, _) in &paths {
        connections.sample(&[("path", &path.name)], path.pool.count().0 as f64);
    }
    let ways = gateway.health.egress_status();
    let mut up = text.family("tidegate_egress_up", Kind::Gauge, "1 while handshakes through an egress work");
    for egress in &ways {
        if let Some(is) = egress.up {
            up.sample(&[("egress", &egress.name)], f64::from(u8::from(is)));
        }
    }
    let mut latencies =
        text.family("tidegate_egress_latency_seconds", Kind::Gauge, "Of a handshake through an egress");
    for egress in &ways {
        if let Some(latency) = egress.latency {
            latencies.sample(&[("egress", &egress.name)], latency.as_secs_f64());
        }
    }
    let mut fallbacks =
        text.family("tidegate_fallback_active", Kind::Gauge, "1 while a route lives on a fallback");
    for route in &gateway.routes {
        let is = f64::from(u8::from(is_on_fallback(route, now)));
        fallbacks.sample(&[("route", &route.config.name)], is);
    }
    let cut_off = f64::from(u8::from(gateway.health.is_cut_off()));
    text.gauge("tidegate_node_cut_off", "1 while everything that this node tries fails", cut_off);
    let draining = f64::from(u8::from(gateway.drain.is_draining()));
    text.gauge("tidegate_node_draining", "1 while this node is on its way out", draining);
}

fn sample_states(family: &mut Family<'_>, path: &str, current: State) {
    for state in State::ALL {
        family.sample(&[("path", path), ("state", state.word())], f64::from(u8::from(state == current)));
    }
}

/// A fallback has answered a request of the route lately.
pub fn is_on_fallback(route: &crate::gateway::Route, now: std::time::Instant) -> bool {
    route.fell_back.since(now).is_some_and(|since| since < FELL_BACK)
}
