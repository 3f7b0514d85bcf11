//! Active probes: `GET /models` over every path, a handshake through every egress.
//!
//! A connection that opens proves little (a frozen process accepts them), so a path's probe waits for an answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use tidegate_config::used::Probe;
use tidegate_health::registry::Reached;
use tokio::time::{Instant, timeout, timeout_at};

use super::now;
use crate::gateway::Gateway;
use crate::request::attempt::verdict::{self, Media};
use crate::upstream::Path;
use crate::upstream::connector::ConnectError;
use crate::upstream::exchange::{self, Conn};
use crate::upstream::keys::Offer;
use crate::upstream::pool::{Grant, Want};
use crate::upstream::proxy::ProxyError;

/// An answer to a probe is read up to here, so that its connection can be used again.
const ANSWER_MAX: usize = 4 * 1024 * 1024;
/// A handshake through an egress is tried this often, and after a failure as soon as a path's probe is.
const EGRESS_INTERVAL: Duration = Duration::from_secs(10);
const EGRESS_SOON: Duration = Duration::from_secs(1);

/// Probes one path for as long as its configuration is in force. A path that was probed under the one before is due when
/// it would have been.
pub async fn watch_path(gateway: Arc<Gateway>, path: Arc<Path>) {
    let (Some(probe), Some(aside)) = (path.upstream.config.probe.clone(), &path.aside) else { return };
    loop {
        gateway.health.probe_due(path.index, probe.interval, now).await;
        match one(aside, &probe).await {
            Some(result) => {
                if let Err(why) = &result {
                    tracing::debug!(path = %path.name, cause = %why, "a probe failed");
                }
                path.metrics.probe(result.is_ok());
                gateway.health.probed(path.index, result, now());
            }
            None => path.metrics.probe_skipped(),
        }
    }
}

/// Sends one. `None`: a rate limit is in force, and the answer would say nothing of health.
async fn one(path: &Arc<Path>, probe: &Probe) -> Option<Result<Duration, String>> {
    let Offer::Key(key) = path.upstream.keys.offer("", &[], Instant::now()) else { return None };
    let mut want = Want::Any;
    loop {
        let conn = match connection(path, want, probe.timeout).await {
            Ok(conn) => conn,
            Err(why) => return Some(Err(why)),
        };
        let request = match request(path, key, &probe.path, matches!(conn, Conn::H2(_))) {
            Ok(request) => request,
            Err(why) => return Some(Err(why)),
        };
        let sent = Instant::now();
        let by = sent + probe.timeout;
        match timeout_at(by, exchange::send(conn, request, &path.pool)).await {
            Err(_) => return Some(Err(format!("no answer within {:?}", probe.timeout))),
            Ok(Err(error)) if error.unseen && want == Want::Any => want = Want::New,
            Ok(Err(error)) => return Some(Err(verdict::text(&error.source))),
            Ok(Ok(response)) => {
                let took = sent.elapsed();
                let status = response.status();
                let page = verdict::media(response.headers()) == Media::Html && status.is_success();
                let mut body = response.into_body();
                let mut size = 0;
                while size <= ANSWER_MAX {
                    match timeout_at(by, body.next()).await {
                        Err(_) => return Some(Err("the answer stopped in the middle".to_owned())),
                        Ok(None) => break,
                        Ok(Some(Err(error))) => return Some(Err(verdict::text(&error))),
                        Ok(Some(Ok(piece))) => size += piece.len(),
                    }
                }
                return match status.as_u16() {
                    429 => None,
                    500.. => Some(Err(format!("status {status}"))),
                    _ if page => Some(Err("an HTML page instead of an API answer".to_owned())),
                    _ => Some(Ok(took)),
                };
            }
        }
    }
}

async fn connection(path: &Arc<Path>, want: Want, patience: Duration) -> Result<Conn, String> {
    let grant = timeout(patience, path.pool.take(want, Instant::now()));
    match grant.await.map_err(|_| "all connections kept for probes stay in use".to_owned())? {
        Grant::H1(h1) => Ok(Conn::H1(h1)),
        Grant::H2(h2) => Ok(Conn::H2(h2)),
        Grant::Slot(slot) => {
            let limit = path.connect_timeout();
            let connected = path.pool.connector.connect(limit).await.map_err(|e| e.to_string())?;
            let shake = timeout(limit, exchange::handshake(connected, slot, &path.pool));
            shake
                .await
                .map_err(|_| "http handshake: timeout".to_owned())?
                .map_err(|e| format!("http handshake: {e}"))
        }
    }
}

fn request(path: &Path, key: usize, rest: &str, h2: bool) -> Result<Request<Full<Bytes>>, String> {
    let upstream = &path.upstream;
    let url = &upstream.config.base_url;
    let uri = if h2 {
        let scheme = if url.tls { "https" } else { "http" };
        format!("{scheme}://{}{}{rest}", url.authority, url.path)
    } else {
        format!("{}{rest}", url.path)
    };
    let uri: Uri = uri.parse().map_err(|e| format!("the probe's URL cannot be sent: {e}"))?;
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    if !h2 {
        headers.insert(header::HOST, upstream.host.clone());
    }
    if let Some(value) = upstream.keys.header(key) {
        headers.insert(header::AUTHORIZATION, value.clone());
    }
    Ok(request)
}

/// Tries one egress for as long as its configuration is in force: a handshake through it to the address of an upstream that
/// uses it. An upstream that cannot be reached behind it says nothing while another can.
pub async fn watch_egress(gateway: Arc<Gateway>, egress: usize) {
    let name = gateway.config.egress.get(egress).map(|e| e.name.clone()).unwrap_or_default();
    let over = |path: &&Arc<Path>| path.name.rsplit('@').next() == Some(name.as_str());
    let paths: Vec<Arc<Path>> = gateway.paths.iter().filter(over).cloned().collect();
    let probes = paths.iter().filter_map(|path| path.upstream.config.probe.as_ref());
    let Some(interval) = probes.map(|probe| probe.interval * 2).min() else { return };
    let (interval, soon) = (interval.min(EGRESS_INTERVAL), interval.min(EGRESS_SOON));
    let mut first = 0;
    if let Some(since) = gateway.health.egress_tried(egress, now()) {
        tokio::time::sleep(interval.saturating_sub(since)).await;
    }
    loop {
        let mut reached = Reached::No("not tried".to_owned());
        for turn in 0..paths.len() {
            let Some(path) = paths.get((first + turn) % paths.len()) else { break };
            let started = Instant::now();
            reached = match path.pool.connector.reach(path.connect_timeout()).await {
                Ok(()) => Reached::Yes(started.elapsed()),
                Err(ConnectError::Proxy(ProxyError::Login)) => {
                    Reached::Refused("the proxy refused its user name or password".to_owned())
                }
                Err(error) => Reached::No(error.to_string()),
            };
            if !matches!(reached, Reached::No(_)) {
                break;
            }
        }
        first = first.wrapping_add(1);
        if let Reached::No(why) | Reached::Refused(why) = &reached {
            tracing::debug!(egress = %name, cause = %why, "an egress is not usable");
        }
        gateway.health.reached(egress, &reached, now());
        let wait = if gateway.health.egress_fails(egress) { soon } else { interval };
        tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
    }
}
