//! The operators' listener: metrics, probes, status. Reads open to all who reach it, changes only to the
//! holder of the token, or from loopback when there is none.
//!
//! Runs on the control thread: a busy data plane does not make a probe fail.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::gateway::Gateway;

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    metrics: PrometheusHandle,
}

/// Serves for as long as the process lives.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, metrics: PrometheusHandle) {
    let router = Router::new()
        .route("/", get(page))
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/status", get(status))
        .route("/api/drain", post(drain))
        .with_state(Admin { gateway, metrics });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    if let Err(error) = axum::serve(listener, service).await {
        tracing::error!(%error, "the admin listener ended");
    }
}

async fn page() -> Html<&'static str> {
    Html(include_str!("admin/status.html"))
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], admin.metrics.render())
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let drain = &admin.gateway.drain;
    if drain.is_ready() {
        (StatusCode::OK, "ready\n")
    } else if drain.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn drain(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if !may_change(&admin.gateway, peer, &headers) {
        return refusal();
    }
    admin.gateway.drain.requested.notify_one();
    (StatusCode::ACCEPTED, Json(json!({"draining": true}))).into_response()
}

/// The token where one is configured, else loopback.
fn may_change(gateway: &Gateway, peer: SocketAddr, headers: &HeaderMap) -> bool {
    match &gateway.config.admin.token {
        None => peer.ip().to_canonical().is_loopback(),
        Some(token) => headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "))
            .is_some_and(|shown| {
                aws_lc_rs::constant_time::verify_slices_are_equal(shown, token.expose_secret().as_bytes())
                    .is_ok()
            }),
    }
}

fn refusal() -> Response {
    let message = "this call changes the node: send the admin token as `Authorization: Bearer TOKEN`, or call from loopback where no admin.token is configured";
    let body = json!({"error": {"message": message, "type": "authentication_error", "param": null, "code": "invalid_api_key"}});
    (StatusCode::UNAUTHORIZED, Json(body)).into_response()
}

async fn status(State(admin): State<Admin>) -> Json<serde_json::Value> {
    let gateway = &admin.gateway;
    let config = &gateway.config;
    let now = Instant::now();
    let paths: Vec<_> = gateway
        .paths
        .iter()
        .map(|path| {
            let (open, idle) = path.pool.count();
            let (keys, resting) = path.upstream.keys.count(now);
            json!({
                "name": path.name,
                "in_flight": path.in_flight.load(std::sync::atomic::Ordering::Relaxed),
                "connections": {"open": open, "idle": idle},
                "keys": {"total": keys, "resting": resting},
            })
        })
        .collect();
    let routes: Vec<_> = gateway
        .routes
        .iter()
        .map(|route| {
            let paths: Vec<_> = route
                .candidates
                .iter()
                .filter_map(|c| gateway.paths.get(c.path))
                .map(|p| p.name.as_str())
                .collect();
            json!({"model": route.config.model.as_str(), "paths": paths})
        })
        .collect();
    Json(json!({
        "node": {
            "name": config.node.name,
            "zone": config.node.zone,
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": humantime::format_rfc3339_seconds(gateway.started).to_string(),
            "config_hash": config.hash,
            "draining": gateway.drain.is_draining(),
        },
        "store": {"kind": "embedded", "state": "up"},
        "paths": paths,
        "egress": config.egress.iter().map(|e| json!({"name": e.name})).collect::<Vec<_>>(),
        "routes": routes,
        "fleet": [],
    }))
}
