//! The data plane's door: accepts connections, speaks TLS, and serves HTTP/1.1 and HTTP/2 on them.
//!
//! Owns the count of open connections: at `max_connections` it stops accepting, so that the rest wait in the
//! kernel's queue or go to another node. Out of file descriptors it waits and goes on. Every wait for a
//! client has a bound: handshake, request head, and a write that the client does not take.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::answer::Answer;
use crate::drain::Drain;
use crate::live::Live;
use crate::patient::Patient;
use crate::request;
use crate::tls::Certificate;
use crate::worker::{Accepted, Workers};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the connection to the first request's whole head.
const FIRST_HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that was accepted just before the door closed has its first request on the way: it gets this long
/// from its beginning, several round trips around the world. A silent one holds up the end of the node no longer.
const LATE_REQUEST: Duration = Duration::from_secs(2);
/// For a later one, from the answer before it: also how long a connection may idle. Longer than the 60 s after
/// which common load balancers drop idle connections, so that it is they who close and no request meets our closing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that takes nothing of its answer for this long is gone (nginx's `send_timeout`).
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Room for the largest head we answer properly ourselves, and some more.
const READ_BUFFER_MAX: usize = 64 * 1024;
/// Wait when the process has no file descriptor left.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
const STREAMS_MAX: u32 = 250;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u16 = 4096;
/// What an HTTP/2 client sends first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between looks at a beginning that could still become either protocol; only a broken client makes us wait.
const PREFACE_LOOK: Duration = Duration::from_millis(10);

/// Binds the listening socket. The error names the address and the key it was written under.
pub fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let context = |e: io::Error| anyhow::anyhow!("{key}: cannot listen on {address}: {e}");
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)
        .map_err(context)?;
    socket.set_reuse_address(true).map_err(context)?;
    socket.set_nonblocking(true).map_err(context)?;
    socket.bind(&address.into()).map_err(context)?;
    socket.listen(BACKLOG.into()).map_err(context)?;
    TcpListener::from_std(socket.into()).map_err(context)
}

/// Accepts until the node closes its door.
pub async fn accept(listener: TcpListener, workers: &Workers<OwnedSemaphorePermit>, live: &Live) {
    let (drain, most) = {
        let gateway = live.gateway();
        (Arc::clone(&gateway.drain), gateway.config.listen.max_connections)
    };
    let most = most.min(Semaphore::MAX_PERMITS);
    metrics::gauge!("tidegate_connections_max").set(most as f64);
    let room = Arc::new(Semaphore::new(most));
    let mut exhausted = false;
    loop {
        let next = async {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { std::future::pending().await };
            (listener.accept().await, permit)
        };
        let (accepted, guard) = tokio::select! {
            biased;
            () = drain.closing.cancelled() => break,
            next = next => next,
        };
        let connection = accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer)));
        match connection {
            Ok((stream, peer)) => {
                exhausted = false;
                workers.deal(Accepted { stream, peer, guard }).await;
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::error!(%error, "cannot accept connections; raise the limit of open files or lower listen.max_connections");
                }
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }
    accept_waiting(listener, &room, workers).await;
}

/// Accepts what waits in the kernel's queue, and closes the door: closing it alone would reset those connections,
/// whose requests may have been sent.
async fn accept_waiting(
    listener: TcpListener,
    room: &Arc<Semaphore>,
    workers: &Workers<OwnedSemaphorePermit>,
) {
    let Ok(listener) = listener.into_std() else { return };
    let by = Instant::now() + LATE_REQUEST;
    for _ in 0..BACKLOG {
        // Where all connections are taken, those that end now make room.
        let Ok(Ok(guard)) = timeout_at(by, Arc::clone(room).acquire_owned()).await else { return };
        match listener.accept() {
            Ok((stream, peer)) if stream.set_nonblocking(true).is_ok() => {
                workers.deal(Accepted { stream, peer, guard }).await;
            }
            Ok(_) => {}
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Nothing to take it with: what ends now gives something back.
            Err(_) if Instant::now() < by => tokio::time::sleep(EXHAUSTED_WAIT).await,
            Err(_) => return,
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection to its end.
pub async fn serve(
    live: Arc<Live>,
    certificate: Option<Arc<Certificate>>,
    accepted: Accepted<OwnedSemaphorePermit>,
) {
    let Accepted { stream, peer, guard } = accepted;
    let first = Arc::new(First::awaited());
    let (drain, _open) = {
        let gateway = live.gateway();
        (Arc::clone(&gateway.drain), Open::count(&gateway))
    };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    // Without it an event waits for the client's acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    match certificate {
        None => {
            let looked = tokio::select! {
                looked = tokio::time::timeout(FIRST_HEAD_TIMEOUT, begins_as_http2(&stream)) => looked,
                // It has asked for nothing and may ask another node.
                () = first.late(&drain) => return,
            };
            let stream = Patient::new(stream, WRITE_TIMEOUT);
            match looked {
                Ok(Ok(false)) => serve_http1(live, &drain, peer, stream, first).await,
                Ok(Ok(true)) => Box::pin(serve_http2(live, &drain, peer, stream, first)).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "connection ended"),
                Err(_) => tracing::debug!(%peer, "the first request took too long"),
            }
        }
        // Boxed: the session's state would make every plain connection as large.
        Some(certificate) => Box::pin(secure(live, &drain, certificate, peer, stream, first)).await,
    }
    drop(guard);
}

/// Looks at the first bytes without taking them. HTTP/2 without TLS is spoken with prior knowledge only.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut seen).await?;
        let begun = seen.get(..n).unwrap_or_default();
        if n == 0 || !PREFACE.starts_with(begun) {
            return Ok(false);
        }
        if n == PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(PREFACE_LOOK).await;
    }
}

async fn secure(
    live: Arc<Live>,
    drain: &Drain,
    certificate: Arc<Certificate>,
    peer: SocketAddr,
    stream: TcpStream,
    first: Arc<First>,
) {
    let stream = Patient::new(stream, WRITE_TIMEOUT);
    let handshake = TlsAcceptor::from(certificate.config()).accept(stream);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(live, drain, peer, stream, first).await
        }
        Ok(Ok(stream)) => serve_http1(live, drain, peer, stream, first).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "tls handshake failed"),
        Err(_) => tracing::debug!(%peer, "tls handshake took too long"),
    }
}

/// A connection's first request.
struct First {
    /// Since when it is awaited.
    since: Instant,
    come: AtomicBool,
}

impl First {
    fn awaited() -> Self {
        Self { since: Instant::now(), come: AtomicBool::new(false) }
    }

    fn has_come(&self) -> bool {
        self.come.load(Ordering::Relaxed)
    }

    /// Completes when the node closes and this request need not be awaited any longer.
    async fn late(&self, drain: &Drain) {
        drain.closing.cancelled().await;
        if !self.has_come() {
            tokio::time::sleep_until(self.since + LATE_REQUEST).await;
        }
    }
}

/// What a connection does with each request; notes that one has come.
fn service(
    live: Arc<Live>,
    peer: SocketAddr,
    first: Arc<First>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Answer>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Answer>, Infallible>> + Send,
> {
    service_fn(move |incoming| {
        first.come.store(true, Ordering::Relaxed);
        let gateway = live.gateway();
        async move { Ok(request::handle(gateway, peer, incoming).await) }
    })
}

async fn serve_http1<S>(live: Arc<Live>, drain: &Drain, peer: SocketAddr, stream: S, first: Arc<First>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service(live, peer, Arc::clone(&first));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(READ_BUFFER_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    drive(connection, http1::Connection::graceful_shutdown, drain, peer, &first).await;
}

/// Runs a connection to its end, gracefully once the node closes, and not at all when its first request does not come.
async fn drive<C, E>(connection: C, shut: fn(Pin<&mut C>), drain: &Drain, peer: SocketAddr, first: &First)
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = std::pin::pin!(connection);
    let mut first_head = std::pin::pin!(tokio::time::sleep(FIRST_HEAD_TIMEOUT));
    let mut waiting = true;
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result,
            () = first.late(drain) => {
                shut(connection.as_mut());
                break connection.await;
            }
            () = first_head.as_mut(), if waiting => {
                waiting = false;
                if !first.has_come() {
                    tracing::debug!(%peer, "the first request took too long");
                    return;
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn serve_http2<S>(live: Arc<Live>, drain: &Drain, peer: SocketAddr, stream: S, first: Arc<First>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service(live, peer, Arc::clone(&first));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(READ_BUFFER_MAX).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    drive(connection, http2::Connection::graceful_shutdown, drain, peer, &first).await;
}

struct Open(metrics::Gauge);

impl Open {
    fn count(gateway: &crate::gateway::Gateway) -> Self {
        let gauge = gateway.metrics.connections.clone();
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
