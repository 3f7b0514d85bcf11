//! The operators' listener: metrics, probes, status. Reads open to all who reach it, changes only to the
//! holder of the token, or from loopback when there is none.
//!
//! Runs on the control thread: a busy data plane does not make a probe fail.

mod config;
mod page;
mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tidegate_health::breaker;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::gateway::Gateway;
use crate::live::Live;
use crate::reload::{Reloader, Trigger};

#[derive(Clone)]
struct Admin {
    live: Arc<Live>,
    /// `None`: there is no file to read again.
    reloader: Option<Arc<Reloader>>,
    metrics: PrometheusHandle,
}

/// Connections at once; more wait to be accepted. Whoever reaches this address must not use up the files that clients
/// need.
const CONNECTIONS_MAX: usize = 256;
/// For a request's head, and how long a connection may idle: longer than any common scrape interval.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// For a whole request, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// After a failed accept.
const AGAIN: Duration = Duration::from_millis(100);

/// Serves for as long as the process lives.
pub async fn serve(
    listener: TcpListener,
    live: Arc<Live>,
    reloader: Option<Arc<Reloader>>,
    metrics: PrometheusHandle,
) {
    let router = Router::new()
        .route("/", get(page))
        .route("/metrics", get(render))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/status", get(status))
        .route("/api/usage", get(usage))
        .route("/api/config", get(config::get))
        .route("/api/paths/{name}", post(act))
        .route("/api/drain", post(drain))
        .route("/api/reload", post(reload))
        .with_state(Admin { live, reloader, metrics });
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, peer, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "an operator's connection is not accepted");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.call(request);
        async move {
            match timeout(REQUEST_TIMEOUT, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
            }
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "an operator's connection ended");
    }
}

async fn page(State(admin): State<Admin>) -> Response {
    page::page(&status::of(&admin.live.gateway()))
}

async fn render(State(admin): State<Admin>) -> impl IntoResponse {
    let text = crate::metrics::text(&admin.live.gateway(), &admin.metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let gateway = admin.live.gateway();
    let drain = &gateway.drain;
    if drain.is_ready() && gateway.fleet.is_dark(&gateway.health) {
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
    let gateway = admin.live.gateway();
    if let Some(refusal) = refusal(&gateway, peer, &headers) {
        return refusal;
    }
    gateway.drain.requested.notify_one();
    (StatusCode::ACCEPTED, Json(json!({"draining": true}))).into_response()
}

/// Reads the configuration again; answers when it is in force, or what is wrong with it.
async fn reload(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = refusal(&admin.live.gateway(), peer, &headers) {
        return refusal;
    }
    let Some(reloader) = &admin.reloader else {
        return fault(
            StatusCode::NOT_FOUND,
            "this node runs by no file that could be read again",
            "not_found",
        );
    };
    match reloader.reload(Trigger::Api).await {
        Ok(applied) => Json(applied.json()).into_response(),
        Err(faults) => {
            let message = "the configuration is faulty and was not loaded; the one in force goes on";
            let faults: Vec<Value> = faults.iter().map(crate::reload::Fault::json).collect();
            let body = json!({"error": error(message, "invalid_config"), "faults": faults});
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

#[derive(serde::Deserialize)]
struct Form {
    /// `html`: for the page's script.
    #[serde(default)]
    format: String,
}

async fn status(State(admin): State<Admin>, Query(form): Query<Form>) -> Response {
    let status = status::of(&admin.live.gateway());
    if form.format == "html" { page::part(&status) } else { Json(status).into_response() }
}

#[derive(serde::Deserialize)]
struct Day {
    #[serde(default)]
    days_ago: u32,
}

async fn usage(State(admin): State<Admin>, Query(day): Query<Day>) -> Response {
    match status::usage(&admin.live.gateway(), day.days_ago).await {
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
    let gateway = &*admin.live.gateway();
    if let Some(refusal) = refusal(gateway, peer, &headers) {
        return refusal;
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
    (status, Json(json!({"error": error(message, code)}))).into_response()
}

fn error(message: &str, code: &str) -> Value {
    json!({"message": message, "type": "invalid_request_error", "param": null, "code": code})
}

/// Why a call may not change the node, if it may not: the token is asked for where one is configured, else loopback. A
/// page of another site may make an operator's browser send anything, from loopback too, and under a name of its own that
/// leads here: the browser says where it comes from, and without a token only an address or `localhost` is a name for
/// this node.
fn refusal(gateway: &Gateway, peer: SocketAddr, headers: &HeaderMap) -> Option<Response> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let elsewhere = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
        || headers.get(header::ORIGIN).is_some_and(|_| {
            text(header::ORIGIN)
                .and_then(|origin| origin.split_once("://"))
                .is_none_or(|(_, from)| from != host)
        })
        || (gateway.config.admin.token.is_none() && !host.is_empty() && !names_this_machine(host));
    if elsewhere {
        let message = "a page of another site may not change the node: use this node's own page by its address, or a call without a browser";
        let error =
            json!({"message": message, "type": "permission_error", "param": null, "code": "cross_site"});
        return Some((StatusCode::FORBIDDEN, Json(json!({"error": error}))).into_response());
    }
    let may = match &gateway.config.admin.token {
        None => peer.ip().to_canonical().is_loopback(),
        Some(token) => headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.as_bytes().strip_prefix(b"Bearer "))
            .is_some_and(|shown| {
                aws_lc_rs::constant_time::verify_slices_are_equal(shown, token.expose_secret().as_bytes())
                    .is_ok()
            }),
    };
    if may {
        return None;
    }
    let message = "this call changes the node: send the admin token as `Authorization: Bearer TOKEN`, or call from loopback where no admin.token is configured";
    let body = json!({"error": {"message": message, "type": "authentication_error", "param": null, "code": "invalid_api_key"}});
    Some((StatusCode::UNAUTHORIZED, Json(body)).into_response())
}

/// An address or `localhost`, with or without a port.
fn names_this_machine(host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let without_port = name.rsplit_once(':').map_or(name, |(name, _)| name);
    name.parse::<IpAddr>().is_ok() || without_port.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_by_an_address_or_as_localhost() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "localhost",
            "LOCALHOST:9090",
            "10.0.0.5:1",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil:1", "[::1].x"]
        {
            assert!(!names_this_machine(host), "{host}");
        }
    }
}
