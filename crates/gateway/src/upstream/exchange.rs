//! One request and its answer over one connection.
//!
//! An HTTP/1.1 connection is driven by the very task that waits for the answer: no second task, no channel
//! between threads, and dropping the answer closes the connection, which is what stops an upstream from
//! generating. An HTTP/2 connection is shared and has a task of its own.
//! When the answer has been read to its end the HTTP/1.1 connection goes back to the pool.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::connector::{Connected, Io};
use super::pool::{Pool, Slot};

/// Largest answer head: an upstream that sends more is broken.
const HEAD_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection; servers commonly allow 100 and more.
const STREAMS_MAX: usize = 100;
/// A kept connection that breaks this soon after a request went out was closed before the request came; later the
/// peer may have worked on it.
const UNSEEN_WITHIN: Duration = Duration::from_secs(1);
/// A shared connection with nothing to do is closed after this long.
const SHARED_IDLE_MAX: Duration = Duration::from_secs(55);

type Body1 = Full<Bytes>;

/// An HTTP/1.1 connection between requests.
pub struct H1 {
    sender: http1::SendRequest<Body1>,
    connection: Pin<Box<http1::Connection<TokioIo<Io>, Body1>>>,
    /// The worker whose reactor watches the socket.
    pub worker: usize,
    /// When it last answered.
    pub idle_since: Instant,
    used: bool,
    _slot: Slot,
}

impl std::fmt::Debug for H1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("H1").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl H1 {
    /// Looks at the socket: a peer that closed it, or sent something unasked, makes it useless.
    pub fn is_alive(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.connection.as_mut().poll(&mut context).is_pending() && !self.sender.is_closed()
    }
}

/// A place on, or a handle to, a shared HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct H2 {
    sender: http2::SendRequest<Body1>,
    streams: Arc<Streams>,
}

#[derive(Debug)]
struct Streams {
    running: AtomicUsize,
    /// Milliseconds since `born` at which the last request began.
    last_ms: AtomicUsize,
    born: Instant,
    /// Weak: the pool holds the connection.
    pool: Weak<Pool>,
}

impl H2 {
    /// The connection still takes requests.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Fewer requests run on it than it may carry.
    pub fn has_room(&self) -> bool {
        self.streams.running.load(Ordering::Relaxed) < STREAMS_MAX
    }

    /// Nothing has used it for long.
    pub fn is_stale(&self, now: Instant) -> bool {
        let last = Duration::from_millis(self.streams.last_ms.load(Ordering::Relaxed) as u64);
        self.streams.running.load(Ordering::Relaxed) == 0
            && now.duration_since(self.streams.born) > last + SHARED_IDLE_MAX
    }

    /// A handle for one request.
    pub fn enter(&self, now: Instant) -> Self {
        let since = now.duration_since(self.streams.born).as_millis();
        self.streams.last_ms.store(usize::try_from(since).unwrap_or(usize::MAX), Ordering::Relaxed);
        self.clone()
    }
}

/// A connection a request can be sent over.
#[derive(Debug)]
pub enum Conn {
    /// Its own.
    H1(Box<H1>),
    /// Shared.
    H2(H2),
}

/// Speaks HTTP over a fresh connection. An HTTP/2 one is shared through the pool at once.
pub async fn handshake(connected: Connected, slot: Slot, pool: &Arc<Pool>) -> hyper::Result<Conn> {
    let io = TokioIo::new(connected.io);
    let now = Instant::now();
    if !connected.h2 {
        let (sender, connection) =
            http1::Builder::new().max_buf_size(HEAD_MAX).handshake::<_, Body1>(io).await?;
        return Ok(Conn::H1(Box::new(H1 {
            sender,
            connection: Box::pin(connection),
            worker: crate::worker::current(),
            idle_since: now,
            used: false,
            _slot: slot,
        })));
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .handshake::<_, Body1>(io)
        .await?;
    tokio::spawn(async move {
        // Whoever waits for an answer on it learns of its end; there is nobody else to tell.
        let _ = connection.await;
        drop(slot);
    });
    let streams = Streams {
        running: AtomicUsize::new(0),
        last_ms: AtomicUsize::new(0),
        born: now,
        pool: Arc::downgrade(pool),
    };
    let shared = H2 { sender, streams: Arc::new(streams) };
    pool.share(shared.clone());
    Ok(Conn::H2(shared))
}

/// Why no answer's head came.
#[derive(Debug)]
pub struct SendError {
    /// The cause, for the log.
    pub source: hyper::Error,
    /// A kept connection had been closed by the peer before it took the request, or an HTTP/2 server said
    /// that it did not look at it: nobody's failure, to be sent again at once.
    pub unseen: bool,
}

/// Sends a request and waits for the answer's head. Dropping the future closes an HTTP/1.1 connection and
/// resets an HTTP/2 stream.
pub async fn send(
    conn: Conn,
    mut request: Request<Body1>,
    pool: &Arc<Pool>,
) -> Result<Response<AnswerBody>, SendError> {
    match conn {
        Conn::H1(mut h1) => {
            let kept = std::mem::replace(&mut h1.used, true);
            let sent = Instant::now();
            *request.version_mut() = Version::HTTP_11;
            let mut answer = std::pin::pin!(h1.sender.try_send_request(request));
            let connection = &mut h1.connection;
            let result = std::future::poll_fn(|cx| {
                // The answer can only come out of driving the connection, which wakes this task itself; the
                // inner future needs no waker of its own.
                let mut quiet = Context::from_waker(Waker::noop());
                let ended = connection.as_mut().poll(cx).is_ready();
                match answer.as_mut().poll(&mut quiet) {
                    Poll::Pending if ended => answer.as_mut().poll(cx),
                    other => other,
                }
            })
            .await;
            match result {
                Ok(response) => {
                    let pool = Arc::clone(pool);
                    Ok(response.map(|body| AnswerBody::H1 { body, h1: Some(h1), pool }))
                }
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let source = error.into_error();
                    let unseen = unsent
                        || (kept && sent.elapsed() < UNSEEN_WITHIN && closed_before_answering(&source));
                    Err(SendError { source, unseen })
                }
            }
        }
        Conn::H2(mut h2) => {
            *request.version_mut() = Version::HTTP_2;
            let place = Place::take(&h2.streams);
            match h2.sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(|body| AnswerBody::H2 { body, _place: place })),
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let source = error.into_error();
                    let unseen = unsent || refused_unseen(&source);
                    Err(SendError { source, unseen })
                }
            }
        }
    }
}

fn closed_before_answering(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|s| s.downcast_ref::<std::io::Error>());
    error.is_incomplete_message()
        || error.is_canceled()
        || io.is_some_and(|e| {
            matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        })
}

/// RFC 9113 8.7: REFUSED_STREAM, and streams that a graceful GOAWAY left out, were not processed.
fn refused_unseen(error: &hyper::Error) -> bool {
    std::error::Error::source(error).and_then(|s| s.downcast_ref::<h2::Error>()).is_some_and(|e| {
        e.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (e.is_go_away() && e.is_remote() && e.reason() == Some(h2::Reason::NO_ERROR))
    })
}

/// A running request on a shared connection.
#[derive(Debug)]
pub struct Place(Arc<Streams>);

impl Place {
    fn take(streams: &Arc<Streams>) -> Self {
        streams.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.running.fetch_sub(1, Ordering::Relaxed);
        if before >= STREAMS_MAX
            && let Some(pool) = self.0.pool.upgrade()
        {
            pool.look_again();
        }
    }
}

/// An answer's body, with the connection it comes over.
#[derive(Debug)]
pub enum AnswerBody {
    /// Drives its connection as it is read.
    H1 {
        /// What hyper parsed.
        body: Incoming,
        /// `None` once read to the end.
        h1: Option<Box<H1>>,
        /// Where the connection goes then.
        pool: Arc<Pool>,
    },
    /// A stream of a shared connection.
    H2 {
        /// What hyper parsed.
        body: Incoming,
        /// Counts it as running.
        _place: Place,
    },
}

impl AnswerBody {
    /// The next piece; `None` at the end, an error when the connection broke first. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// As `next`; trailers are passed over.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            let frame = match self {
                Self::H2 { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
                Self::H1 { body, h1, pool } => ready!(poll_h1(body, h1, pool, cx)),
            };
            match frame {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

fn poll_h1(
    body: &mut Incoming,
    h1: &mut Option<Box<H1>>,
    pool: &Arc<Pool>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let Some(connection) = h1 else { return Poll::Ready(None) };
    // As in `send`: only driving the connection below can fill the body.
    let mut quiet = Context::from_waker(Waker::noop());
    let mut polled = Pin::new(&mut *body).poll_frame(&mut quiet);
    if polled.is_pending() {
        let ended = connection.connection.as_mut().poll(cx).is_ready();
        polled = Pin::new(&mut *body).poll_frame(if ended { cx } else { &mut quiet });
    }
    if let Poll::Ready(None) = polled
        && let Some(mut finished) = h1.take()
        && finished.is_alive()
        && finished.sender.is_ready()
    {
        pool.give_back(*finished, Instant::now());
    }
    polled
}
