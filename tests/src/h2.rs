//! A well-behaved upstream that speaks HTTP/2 alone, by ALPN under TLS.
//!
//! Owns its listener and connections; all end when it is dropped. What it cannot do is misbehave: that is
//! `upstream`'s business.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::answer::{self, DONE, delta, finish, role};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The connection's version.
    pub version: Version,
    /// With scheme and authority.
    pub uri: Uri,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How many connections came before its own.
    pub connection: usize,
}

/// The upstream. Answers chat requests, plain and streamed.
pub struct H2Upstream {
    port: u16,
    requests: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl H2Upstream {
    /// Starts it; `config` must offer `h2`.
    pub async fn start(config: Arc<rustls::ServerConfig>) -> Self {
        Self::leaving_after(config, usize::MAX).await
    }

    /// Says GOAWAY on each connection as soon as this many of its requests have come, as servers do that restart
    /// or balance their load.
    pub async fn leaving_after(config: Arc<rustls::ServerConfig>, requests_each: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(config), Arc::clone(&requests), requests_each));
        Self { port, requests, _tasks: tasks }
    }

    /// The `base_url` for it.
    pub fn url_as(&self, host: &str) -> String {
        format!("https://{host}:{}/v1", self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    requests: Arc<Mutex<Vec<Seen>>>,
    requests_each: usize,
) {
    let mut connections = JoinSet::new();
    let mut count = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, requests) = (tls.clone(), Arc::clone(&requests));
        let connection = count;
        count += 1;
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let (leave, left) = (Arc::new(Semaphore::new(0)), requests_each);
            let counted = Arc::clone(&leave);
            let service = service_fn(move |request: http::Request<Incoming>| {
                counted.add_permits(1);
                let requests = Arc::clone(&requests);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                    let streams = body.windows(13).any(|w| w == b"\"stream\":true");
                    let (version, uri, headers) = (head.version, head.uri, head.headers);
                    requests.lock().unwrap().push(Seen { version, uri, headers, body, connection });
                    Ok::<_, Infallible>(if streams { streamed() } else { plain() })
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            let enough = u32::try_from(left).unwrap_or(u32::MAX);
            tokio::select! {
                _ = serving.as_mut() => {}
                _ = leave.acquire_many(enough) => {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.await;
                }
            }
        });
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn plain() -> Answer {
    let body = Full::new(Bytes::from(answer::chat("over h2").to_string()));
    Response::builder().header("content-type", "application/json").body(body.boxed()).unwrap()
}

fn streamed() -> Answer {
    let parts = [role(), delta("over "), delta("h2"), finish(), DONE.to_owned()];
    let frames = parts.map(|part| Ok(Frame::data(Bytes::from(part))));
    let body = StreamBody::new(stream::iter(frames));
    Response::builder().header("content-type", "text/event-stream").body(BodyExt::boxed(body)).unwrap()
}
