//! What `/api/status` says: this node, its paths and why they are as they are, its ways out, its routes.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tidegate_health::breaker::Progress;
use tokio::time::Instant;

use crate::gateway::{Gateway, Route};
use crate::health::{now, observe};
use crate::limits::near;
use crate::request::accept::CacheResult;

/// A day's usage is many rows, and nobody but an operator waits for it.
const USAGE_WITHIN: Duration = Duration::from_secs(2);

/// All of it.
pub fn of(gateway: &Gateway) -> Value {
    let config = &gateway.config;
    let egress = gateway.health.egress_status().into_iter().map(|egress| {
        json!({
            "name": egress.name,
            "up": egress.up,
            "latency_ms": egress.latency.map(millis),
            "detail": crate::log::redacted(&egress.detail),
        })
    });
    let mut answered = gateway.history.answered(gateway, now());
    let routes = gateway.routes.iter().enumerate().map(|(index, of)| {
        let answered = answered.get_mut(index).map(Value::take).unwrap_or_default();
        route(gateway, index, of, answered)
    });
    json!({
        "node": {
            "name": config.node.name,
            "zone": config.node.zone,
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": date(gateway.started),
            "config_hash": config.hash,
            "draining": gateway.drain.is_draining(),
            "cut_off": gateway.health.is_cut_off(),
        },
        "config": gateway.reloads.status(&config.hash),
        "store": {
            "kind": gateway.store.kind(),
            "state": if gateway.store.is_up() { "up" } else { "down" },
            "trouble": gateway.store.trouble(),
        },
        "paths": (0..gateway.paths.len()).map(|index| path(gateway, index)).collect::<Vec<_>>(),
        "egress": egress.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "limits": near::status(gateway),
        "fleet": gateway.fleet.status(gateway),
        "cache": cache(gateway),
    })
}

/// Null where no route keeps answers. Bytes and entries are of this node's memory, the rest counts requests on routes
/// with a cache since the start.
fn cache(gateway: &Gateway) -> Value {
    if gateway.config.routes.iter().all(|route| route.cache.is_none()) {
        return Value::Null;
    }
    let (bytes, entries) = gateway.answers.held();
    let met = |result| gateway.metrics.cache_met(result);
    json!({
        "bytes": bytes,
        "max_bytes": gateway.config.node.cache_memory,
        "entries": entries,
        "hits": met(CacheResult::Hit),
        "misses": met(CacheResult::Miss),
        "coalesced": met(CacheResult::Coalesced),
        "stale": met(CacheResult::Stale),
        "bypass": met(CacheResult::Bypass),
    })
}

/// The tokens and the money of a UTC day, by client and model.
pub async fn usage(gateway: &Gateway, days_ago: u32) -> Result<Value, tidegate_store::Failure> {
    // What this node has not told yet belongs to today.
    gateway.usage.tell(gateway).await;
    let spent = gateway.store.spent(days_ago, USAGE_WITHIN).await?;
    let rows = spent.into_iter().map(|row| {
        json!({
            "client": row.client,
            "model": row.model,
            "requests": row.amount.requests,
            "prompt_tokens": row.amount.prompt,
            "completion_tokens": row.amount.completion,
            "cached_tokens": row.amount.cached,
            "usd": row.amount.micro_usd / 1e6,
        })
    });
    Ok(json!({"days_ago": days_ago, "usage": rows.collect::<Vec<_>>()}))
}

/// One path.
pub fn path(gateway: &Gateway, index: usize) -> Value {
    let Some(path) = gateway.paths.get(index) else { return Value::Null };
    let Some(status) = gateway.health.path_status(index, now()) else { return Value::Null };
    let (open, idle) = path.pool.count();
    let (keys, resting) = path.upstream.keys.count(Instant::now());
    let wall = crate::clock::wall();
    let models = status.models.iter().map(|model| {
        json!({
            "model": &*model.model,
            "state": model.state.word(),
            "share": model.share,
            "reason": model.reason.map(|reason| reason.word()),
        })
    });
    json!({
        "name": path.name,
        "state": status.state.word(),
        "share": status.share,
        "own_state": status.own_state.word(),
        "own_share": status.own_share,
        "latency_ms": status.network.map(millis),
        "ttft_ms": status.first.map(millis),
        "in_flight": path.in_flight.load(Ordering::Relaxed),
        "failures": status.failures,
        "open_until": status.open_for.map(|wait| date(wall + wait)),
        "since": date(wall.checked_sub(status.since).unwrap_or(wall)),
        "reason": status.reason.map(|reason| reason.word()),
        "evidence": crate::log::redacted(&status.evidence),
        "recovery": status.progress.map(progress),
        "models": models.collect::<Vec<_>>(),
        "history": gateway.history.of(&path.name),
        "connections": {"open": open, "idle": idle},
        "keys": {"total": keys, "resting": resting},
    })
}

fn progress(progress: Progress) -> Value {
    match progress {
        Progress::Shadowing { passes, needed, took, span, next } => json!({
            "phase": "shadowing",
            "passes": passes,
            "needed": needed,
            "took_ms": millis(took),
            "span_ms": millis(span),
            "next_ms": millis(next),
        }),
        Progress::Ramping { step, steps, good, needed, took, length } => json!({
            "phase": "ramping",
            "step": step,
            "steps": steps,
            "good": good,
            "needed": needed,
            "took_ms": millis(took),
            "length_ms": millis(length),
        }),
    }
}

/// `answered`: how its answers were divided.
fn route(gateway: &Gateway, index: usize, route: &Route, answered: Value) -> Value {
    let names = |candidates: &[tidegate_router::plan::Candidate]| -> Vec<String> {
        candidates.iter().filter_map(|c| gateway.paths.get(c.path)).map(|path| path.name.clone()).collect()
    };
    let fallback: Vec<String> =
        route.fallback.iter().flat_map(|fallback| names(&fallback.candidates)).collect();
    let traffic = gateway.health.divisions(index, now()).into_iter().map(|division| {
        let parts = division.parts.iter().map(|part| {
            let name = gateway.paths.get(part.path).map(|path| path.name.as_str());
            json!({"path": name, "share": part.share, "score_ms": part.score.map(millis)})
        });
        json!({
            "model": division.model.as_deref(),
            "stream": division.streamed,
            "paths": parts.collect::<Vec<_>>(),
        })
    });
    json!({
        "model": route.config.model.as_str(),
        "paths": names(&route.candidates),
        "fallback": fallback,
        "fallback_active": observe::is_on_fallback(route, now()),
        "traffic": traffic.collect::<Vec<_>>(),
        "answered": answered,
    })
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn date(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}
