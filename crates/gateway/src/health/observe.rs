//! What operators hear of health: a log line and a count per transition, gauges of every path and egress.

use metrics::{counter, gauge};
use tidegate_health::breaker::State;
use tidegate_health::registry::Event;

use super::now;
use crate::gateway::Gateway;

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

/// Sets the gauges to what is so now; before every scrape, and not in between.
pub fn gauges(gateway: &Gateway) {
    let now = now();
    for path in &gateway.paths {
        let Some(status) = gateway.health.path_status(path.index, now) else { continue };
        for state in State::ALL {
            gauge!("tidegate_path_state", "path" => path.name.clone(), "state" => state.word())
                .set(f64::from(u8::from(state == status.state)));
        }
        gauge!("tidegate_path_share", "path" => path.name.clone()).set(status.share);
        if let Some(latency) = status.first.or(status.network) {
            gauge!("tidegate_path_latency_seconds", "path" => path.name.clone()).set(latency.as_secs_f64());
        }
    }
    for egress in gateway.health.egress_status() {
        if let Some(up) = egress.up {
            gauge!("tidegate_egress_up", "egress" => egress.name.clone()).set(f64::from(u8::from(up)));
        }
        if let Some(latency) = egress.latency {
            gauge!("tidegate_egress_latency_seconds", "egress" => egress.name.clone())
                .set(latency.as_secs_f64());
        }
    }
    for route in &gateway.routes {
        let name = route.config.name.clone();
        gauge!("tidegate_fallback_active", "route" => name)
            .set(f64::from(u8::from(is_on_fallback(route, now))));
    }
    gauge!("tidegate_node_cut_off").set(f64::from(u8::from(gateway.health.is_cut_off())));
}

/// A fallback has answered a request of the route lately.
pub fn is_on_fallback(route: &crate::gateway::Route, now: std::time::Instant) -> bool {
    route.fell_back.since(now).is_some_and(|since| since < FELL_BACK)
}
