//! An OpenAI-compatible upstream that costs little, never varies, and fails only when told to.
//!
//! Owns its counters and its listeners. Depends on nothing. Every answer's content follows from a seed: the
//! request's `seed`, or the request's number when it has none.
//! Not here: TLS, HTTP/2, keys: those are what the gateway's own tests are for.

mod answer;
mod script;
mod socket;
mod stream;
mod tally;

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

use answer::Reply;
pub use script::{BadScript, Fault, Script};
use socket::{Ending, Peer};
use stream::{Events, Shape};
pub use tally::Stats;
use tally::{Running, Tally};

/// A larger request is answered 400.
const REQUEST_MAX: usize = 64 * 1024 * 1024;
/// Largest request head.
const HEAD_MAX: usize = 64 * 1024;

/// What a mock does unless a request says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The script of an answer.
    pub script: Script,
    /// Which part of the answers the script's fault strikes, 0 to 1.
    pub fault_rate: f64,
    /// Decides which answers these are.
    pub seed: u64,
}

/// A mock upstream. Cheap to clone; clones share counters.
#[derive(Debug, Clone)]
pub struct Mock {
    settings: Arc<Settings>,
    tally: Arc<Tally>,
}

/// The part of a request the mock looks at.
#[derive(Debug, Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    model: Cow<'a, str>,
    #[serde(default)]
    stream: bool,
    seed: Option<i64>,
    #[serde(borrow)]
    input: Option<Input<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input<'a> {
    #[serde(borrow)]
    One(Cow<'a, str>),
    Many(Vec<String>),
    Other(serde::de::IgnoredAny),
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hung up as the script says")
    }
}

impl std::error::Error for Hangup {}

impl Mock {
    /// A mock that has served nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), tally: Arc::default() }
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.tally.stats()
    }

    /// A listener for `serve`; several may share one address, one for each thread. Errors: the address cannot
    /// be bound.
    pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
        socket::listen(address)
    }

    /// Serves connections until dropped, each in a task of its own. Needs a runtime with I/O and time. Errors:
    /// the listener cannot be used at all; a failed accept is waited out.
    pub async fn serve(&self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, or a client that is gone already: either passes.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            tokio::spawn(self.clone().converse(stream));
        }
    }

    async fn converse(self, stream: tokio::net::TcpStream) {
        let _connected = self.tally.connected();
        let ending = Ending::default();
        let peer = TokioIo::new(Peer::new(stream, ending.clone()));
        let service = service_fn(|request| self.answer(request, ending.clone()));
        // A connection that ends badly ended as its client or its script wanted; the counters tell.
        let _ = http1::Builder::new().max_buf_size(HEAD_MAX).serve_connection(peer, service).await;
    }

    async fn answer(&self, request: Request<Incoming>, ending: Ending) -> Result<Response<Reply>, Hangup> {
        let (head, body) = request.into_parts();
        if head.uri.path() == "/stats" {
            let stats = serde_json::to_vec(&self.stats()).unwrap_or_default();
            return Ok(answer::whole(StatusCode::OK, "application/json", stats, None));
        }
        let number = self.tally.next_request();
        let running = self.tally.begin();
        let mut script = self.settings.script.clone();
        if !self.strikes(number) {
            script.fault = None;
        }
        let refuse =
            |status, message: &str, running| Ok(answer::error(status, message, &Script::default(), running));
        if let Err(bad) = script.apply_headers(&head.headers) {
            return refuse(StatusCode::BAD_REQUEST, &bad.to_string(), running);
        }
        let shape = match (&head.method, head.uri.path()) {
            (&Method::GET, "/v1/models") => {
                return Ok(match StatusCode::from_u16(script.status) {
                    Ok(StatusCode::OK) => answer::json(StatusCode::OK, MODELS, running),
                    status => {
                        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                        answer::error(status, "as the script says", &script, running)
                    }
                });
            }
            (&Method::POST, "/v1/chat/completions") => Some(Shape::Chat),
            (&Method::POST, "/v1/completions") => Some(Shape::Completion),
            (&Method::POST, "/v1/embeddings") => None,
            _ => return refuse(StatusCode::NOT_FOUND, "no such endpoint", running),
        };
        let Ok(body) = Limited::new(body, REQUEST_MAX).collect().await else {
            return refuse(StatusCode::BAD_REQUEST, "the body is broken or too large", running);
        };
        let body = body.to_bytes();
        let asked: Asked<'_> = match serde_json::from_slice(&body) {
            Ok(asked) => asked,
            Err(bad) => return refuse(StatusCode::BAD_REQUEST, &bad.to_string(), running),
        };
        if let Err(bad) = script.apply_model(&asked.model).and_then(|()| script.apply_headers(&head.headers))
        {
            return refuse(StatusCode::BAD_REQUEST, &bad.to_string(), running);
        }
        self.perform(script, shape, &asked, number, ending, running).await
    }

    async fn perform(
        &self,
        script: Script,
        shape: Option<Shape>,
        asked: &Asked<'_>,
        number: u64,
        ending: Ending,
        mut running: Running,
    ) -> Result<Response<Reply>, Hangup> {
        if script.fault.is_some() {
            self.tally.fault();
        }
        let status = StatusCode::from_u16(script.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status != StatusCode::OK {
            return Ok(answer::error(status, "as the script says", &script, running));
        }
        if script.fault == Some(Fault::Html) {
            return Ok(answer::whole(StatusCode::OK, "text/html; charset=utf-8", PORTAL, Some(running)));
        }
        let seed = asked.seed.map_or(number, i64::cast_unsigned);
        // Serialising a str cannot fail.
        let model = serde_json::to_string(&asked.model).unwrap_or_default();
        if let Some(shape) = shape
            && asked.stream
        {
            return Ok(answer::events(Events::new(script, shape, seed, model, ending, running)));
        }
        if !script.ttft.is_zero() {
            tokio::time::sleep(script.ttft).await;
        }
        let body = match (shape, &asked.input) {
            (Some(shape), _) => answer::completion(shape, seed, &model, script.body_bytes),
            (None, Some(Input::One(text))) => answer::embeddings(std::iter::once(text.as_bytes()), &model),
            (None, Some(Input::Many(texts))) => {
                answer::embeddings(texts.iter().map(String::as_bytes), &model)
            }
            (None, Some(Input::Other(_)) | None) => answer::embeddings(std::iter::once(&b""[..]), &model),
        };
        match script.fault {
            None | Some(Fault::NoDone | Fault::Html) => Ok(answer::json(StatusCode::OK, body, running)),
            Some(Fault::Reset) => {
                ending.reset();
                running.finish();
                Err(Hangup)
            }
            Some(Fault::Cut) => Ok(answer::half(body, true, running)),
            Some(Fault::Stall) => Ok(answer::half(body, false, running)),
            Some(Fault::Garbage) => Ok(answer::json(StatusCode::OK, Bytes::from(body).slice(1..), running)),
            Some(Fault::Error) => {
                Ok(answer::error(StatusCode::INTERNAL_SERVER_ERROR, "as the script says", &script, running))
            }
        }
    }

    /// Whether the flags' fault strikes request `number`: the same numbers in every run with the same seed.
    fn strikes(&self, number: u64) -> bool {
        let mut draw =
            fastrand::Rng::with_seed(self.settings.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        draw.f64() < self.settings.fault_rate
    }
}

const MODELS: &str =
    r#"{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"loadtest"}]}"#;
const PORTAL: &str = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Sign in to use this network.</body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_about_as_often_as_said_and_repeatably() {
        let mock = |seed| Mock::new(Settings { fault_rate: 0.15, seed, ..Settings::default() });
        let struck = |seed| (0..10_000).filter(|n| mock(seed).strikes(*n)).collect::<Vec<u64>>();
        let first = struck(1);
        assert!((1300..1700).contains(&first.len()), "{}", first.len());
        assert_eq!(first, struck(1));
        assert_ne!(first, struck(2));
    }
}
