//! The operators' listener: metrics, probes, status. Reads open to all who reach it, changes only to the
//! holder of the token, or from loopback when there is none.
//!
//! Runs on the control thread: a busy data plane does not make a probe fail.

mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tidegate_health::breaker;
use tokio::net::TcpListener;

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
        .route("/api/usage", get(usage))
        .route("/api/paths/{name}", post(act))
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
    crate::health::observe::gauges(&admin.gateway);
    let text = admin.metrics.render() + &admin.gateway.usage.render(&admin.gateway);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let drain = &admin.gateway.drain;
    if drain.is_ready() && admin.gateway.fleet.is_dark(&admin.gateway.health) {
        (StatusCode::SERVICE_UNAVAILABLE, "cut off from every upstream\n")
    } else if drain.is_ready() {
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

async fn status(State(admin): State<Admin>) -> Json<Value> {
    Json(status::of(&admin.gateway))
}

#[derive(serde::Deserialize)]
struct Day {
    #[serde(default)]
    days_ago: u32,
}

async fn usage(State(admin): State<Admin>, Query(day): Query<Day>) -> Response {
    match status::usage(&admin.gateway, day.days_ago).await {
        Ok(usage) => Json(usage).into_response(),
        Err(why) => {
            let message = format!("{why}; what this node has yet to tell is kept until then");
            fault(StatusCode::SERVICE_UNAVAILABLE, &message, "store_unavailable")
        }
    }
}

/// Takes a path out, opens or closes it, or hands it back to its breaker.
async fn act(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let gateway = &admin.gateway;
    if !may_change(gateway, peer, &headers) {
        return refusal();
    }
    let Some(path) = gateway.health.path_named(&name) else {
        let known: Vec<&str> = gateway.paths.iter().map(|path| path.name.as_str()).collect();
        let message = match tidegate_config::nearest(&name, known.iter().copied()) {
            Some(near) => format!("there is no path `{name}`: did you mean `{near}`?"),
            None => format!("there is no path `{name}`; GET /api/status lists them"),
        };
        return fault(StatusCode::NOT_FOUND, &message, "not_found");
    };
    let action = serde_json::from_slice::<Value>(&body).ok();
    let state = match action.as_ref().and_then(|body| body.get("action")).and_then(Value::as_str) {
        Some("disable") => Some(breaker::State::Disabled),
        Some("open") => Some(breaker::State::Open),
        Some("close") => Some(breaker::State::Closed),
        Some("enable") => None,
        _ => {
            let message = "send {\"action\": \"disable\"}; the actions are disable, enable, open and close";
            return fault(StatusCode::BAD_REQUEST, message, "unknown_action");
        }
    };
    gateway.health.force(path, state, crate::health::now());
    Json(status::path(gateway, path)).into_response()
}

fn fault(status: StatusCode, message: &str, code: &str) -> Response {
    let error = json!({"message": message, "type": "invalid_request_error", "param": null, "code": code});
    (status, Json(json!({"error": error}))).into_response()
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
