//! An upstream on raw TCP that does what a test scripts: exact bytes in exact pieces, silence, resets, endless
//! answers. It records every request byte for byte and knows how many calls run and how many were given up.
//!
//! Owns its listener and connections; all end when it is dropped. It parses only what it must to find where a
//! request ends, so nothing a client or gateway sends is tidied up on the way into the record.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::soon;

/// One step of an answer.
#[derive(Debug, Clone)]
pub enum Act {
    /// Puts these bytes on the wire as one write.
    Send(Bytes),
    /// Puts these bytes on the wire this many times.
    Repeat(Bytes, usize),
    /// Goes on when the gate lets one through.
    Wait(Gate),
    /// Goes on after this time: latency.
    Sleep(Duration),
    /// Sends these bytes for as long as the peer takes them.
    Endless(Bytes),
    /// Says nothing more until the peer leaves.
    Stall,
    /// Ends the connection at once with a TCP reset.
    Reset,
    /// Ends the connection in order.
    Close,
}

/// What is done with one request, in order; the connection stays open after the last act.
pub type Script = Vec<Act>;

/// Holds acts back until the test lets them go.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// Shut.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `count` waiting acts through, or the next ones to come.
    pub fn open(&self, count: usize) {
        self.0.add_permits(count);
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How many came before it.
    pub index: usize,
    /// How many connections came before its own.
    pub connection: usize,
    /// Request line and headers, byte for byte.
    pub head: String,
    /// The body, transfer coding removed.
    pub body: Bytes,
}

impl Seen {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The request line's target.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    connections: usize,
    requests: usize,
    /// Requests whose script is running.
    running: usize,
    /// Requests the peer gave up on.
    abandoned: usize,
    sent: u64,
}

struct Shared {
    answer: Box<dyn Fn(&Seen) -> Script + Send + Sync>,
    requests: Mutex<Vec<Seen>>,
    counts: watch::Sender<Counts>,
    keep_bodies: bool,
}

/// The upstream.
pub struct Upstream {
    address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// Answers each request with the script that `answer` gives for it.
    pub async fn start(answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        Self::bind("127.0.0.1:0", None, true, answer).await
    }

    /// The same on an address of the test's choice.
    pub async fn at(address: &str, answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        Self::bind(address, None, true, answer).await
    }

    /// The same without a record of requests, for load.
    pub async fn unrecorded(answer: impl Fn(&Seen) -> Script + Send + Sync + 'static) -> Self {
        Self::bind("127.0.0.1:0", None, false, answer).await
    }

    /// The same behind TLS.
    pub async fn tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(&Seen) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::bind("127.0.0.1:0", Some(config), true, answer).await
    }

    /// On an address of the test's choice, behind TLS when given, without a record of its own.
    pub async fn on(
        address: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Seen) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::bind(address, tls, false, answer).await
    }

    /// Answers everything with these bytes.
    pub async fn saying(wire: Bytes) -> Self {
        Self::start(move |_| vec![Act::Send(wire.clone())]).await
    }

    /// Answers everything with this script.
    pub async fn doing(script: Script) -> Self {
        Self::start(move |_| script.clone()).await
    }

    async fn bind(
        address: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        keep_bodies: bool,
        answer: impl Fn(&Seen) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            requests: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
            keep_bodies,
        });
        let acceptor = tls.map(TlsAcceptor::from);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor.clone(), Arc::clone(&shared)));
        Self { address, tls: acceptor.is_some(), shared, _tasks: tasks }
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The `base_url` for it, by address.
    pub fn url(&self) -> String {
        self.url_as(&self.address.ip().to_string())
    }

    /// The `base_url` for it, by a name.
    pub fn url_as(&self, host: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}/v1", self.address.port())
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The only request; fails unless there is exactly one.
    pub fn request(&self) -> Seen {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests at the upstream");
        requests.remove(0)
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.shared.counts.borrow().requests
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.shared.counts.borrow().connections
    }

    /// How many calls run.
    pub fn running(&self) -> usize {
        self.shared.counts.borrow().running
    }

    /// How many calls the peer gave up before they were answered.
    pub fn abandoned(&self) -> usize {
        self.shared.counts.borrow().abandoned
    }

    /// Bytes of answers the peer's socket has taken.
    pub fn sent(&self) -> u64 {
        self.shared.counts.borrow().sent
    }

    /// Waits until `count` requests have come.
    pub async fn received(&self, count: usize) {
        let mut counts = self.shared.counts.subscribe();
        soon("requests at the upstream", counts.wait_for(|c| c.requests >= count)).await.unwrap();
    }

    /// Waits until `count` calls were given up by the peer.
    pub async fn gave_up(&self, count: usize) {
        let mut counts = self.shared.counts.subscribe();
        soon("calls given up", counts.wait_for(|c| c.abandoned >= count)).await.unwrap();
    }

    /// Waits until no call runs.
    pub async fn idle(&self) {
        let mut counts = self.shared.counts.subscribe();
        soon("no call running at the upstream", counts.wait_for(|c| c.running == 0)).await.unwrap();
    }
}

/// An address nobody listens on: a connection to it is refused.
pub fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/v1", listener.local_addr().unwrap())
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let mut connection = 0;
            shared.counts.send_modify(|c| {
                connection = c.connections;
                c.connections += 1;
            });
            // The peer may leave at any moment; that ends the connection and nothing else.
            let _ = match tls {
                None => {
                    let stream = Arc::new(stream);
                    serve(Tcp(Arc::clone(&stream)), &stream, connection, &shared).await
                }
                Some(acceptor) => {
                    let stream = Arc::new(stream);
                    match acceptor.accept(Tcp(Arc::clone(&stream))).await {
                        Ok(secure) => serve(secure, &stream, connection, &shared).await,
                        Err(error) => Err(error),
                    }
                }
            };
        });
    }
}

/// A socket that can be read and written here and reset from elsewhere.
struct Tcp(Arc<TcpStream>);

impl AsyncRead for Tcp {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        loop {
            std::task::ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return std::task::Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return std::task::Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        loop {
            std::task::ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return std::task::Poll::Ready(result),
            }
        }
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

/// Counts a call as running for as long as it lives.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.counts.send_modify(|c| c.running += 1);
        Self(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|c| c.running -= 1);
    }
}

async fn serve<S: AsyncRead + AsyncWrite>(
    stream: S,
    socket: &TcpStream,
    connection: usize,
    shared: &Shared,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = BytesMut::new();
    while let Some((head, body)) = read_request(&mut reader, &mut writer, &mut buffer).await? {
        let mut index = 0;
        let running = Running::begin(shared);
        shared.counts.send_modify(|c| {
            index = c.requests;
            c.requests += 1;
        });
        let seen = Seen { index, connection, head, body };
        let script = (shared.answer)(&seen);
        if shared.keep_bodies {
            let mut requests = shared.requests.lock().unwrap();
            requests.push(seen);
        }
        for act in script {
            let end = matches!(act, Act::Reset | Act::Close);
            // Whatever is being done ends when the peer leaves; what it sends early waits in the buffer.
            let done = tokio::select! {
                done = perform(&mut writer, socket, shared, act) => done,
                gone = gone(&mut reader, &mut buffer) => Err(gone),
            };
            if let Err(error) = done {
                shared.counts.send_modify(|c| c.abandoned += 1);
                return Err(error);
            }
            if end {
                return Ok(());
            }
        }
        drop(running);
    }
    Ok(())
}

async fn perform<S: AsyncRead + AsyncWrite>(
    writer: &mut WriteHalf<S>,
    socket: &TcpStream,
    shared: &Shared,
    act: Act,
) -> io::Result<()> {
    match act {
        Act::Send(bytes) => send(writer, shared, &bytes).await,
        Act::Repeat(bytes, times) => {
            for _ in 0..times {
                send(writer, shared, &bytes).await?;
            }
            Ok(())
        }
        Act::Endless(bytes) => loop {
            send(writer, shared, &bytes).await?;
        },
        Act::Wait(gate) => {
            gate.0.acquire().await.map_err(io::Error::other)?.forget();
            Ok(())
        }
        Act::Sleep(time) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        Act::Stall => std::future::pending().await,
        Act::Reset => SockRef::from(socket).set_linger(Some(Duration::ZERO)),
        Act::Close => writer.shutdown().await,
    }
}

async fn send<S: AsyncRead + AsyncWrite>(
    writer: &mut WriteHalf<S>,
    shared: &Shared,
    bytes: &Bytes,
) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await?;
    shared.counts.send_modify(|c| c.sent += bytes.len() as u64);
    Ok(())
}

/// Ends when the peer has closed or reset the connection.
async fn gone<S: AsyncRead>(reader: &mut ReadHalf<S>, buffer: &mut BytesMut) -> io::Error {
    loop {
        match reader.read_buf(buffer).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

async fn more<S: AsyncRead>(reader: &mut ReadHalf<S>, buffer: &mut BytesMut) -> io::Result<()> {
    if reader.read_buf(buffer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn find(buffer: &[u8], wanted: &[u8]) -> Option<usize> {
    buffer.windows(wanted.len()).position(|w| w == wanted)
}

/// The next request; `None` when the peer closed between two.
async fn read_request<S: AsyncRead + AsyncWrite>(
    reader: &mut ReadHalf<S>,
    writer: &mut WriteHalf<S>,
    buffer: &mut BytesMut,
) -> io::Result<Option<(String, Bytes)>> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        if reader.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = String::from_utf8_lossy(&buffer.split_to(end)).into_owned();
    let lower = head.to_ascii_lowercase();
    let value =
        |name: &str| lower.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if value("expect").is_some() {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    if value("transfer-encoding").is_some() {
        let mut body = BytesMut::new();
        loop {
            let line = loop {
                match find(buffer, b"\r\n") {
                    Some(end) => break end,
                    None => more(reader, buffer).await?,
                }
            };
            let digits = String::from_utf8_lossy(&buffer[..line]).into_owned();
            buffer.advance(line + 2);
            let size = usize::from_str_radix(digits.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(io::Error::other)?;
            while buffer.len() < size + 2 {
                more(reader, buffer).await?;
            }
            body.extend_from_slice(&buffer[..size]);
            buffer.advance(size + 2);
            if size == 0 {
                return Ok(Some((head, body.freeze())));
            }
        }
    }
    let length: usize = value("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    while buffer.len() < length {
        more(reader, buffer).await?;
    }
    Ok(Some((head, buffer.split_to(length).freeze())))
}
