//! Clients of the node: well-behaved ones over HTTP/1.1, HTTP/2 and TLS that see every event as it arrives, and
//! a raw one that puts any bytes on the wire.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use crate::{PATIENCE, soon, within};

/// A request about to be sent on a connection of its own.
#[derive(Debug, Clone)]
pub struct Call {
    to: SocketAddr,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    h2: bool,
    tls: Option<(Arc<rustls::ClientConfig>, &'static str)>,
}

impl Call {
    /// A request without a body.
    pub fn new(to: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            to,
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            h2: false,
            tls: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::try_from(value).unwrap());
        self
    }

    /// Adds a bearer key.
    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Over HTTP/2: with prior knowledge in clear, by ALPN under TLS.
    pub const fn h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// Over TLS, with the server called `name`.
    pub fn tls(mut self, config: Arc<rustls::ClientConfig>, name: &'static str) -> Self {
        self.tls = Some((config, name));
        self
    }

    /// Sends it and waits for the head of the answer.
    pub async fn send(self) -> Reply {
        self.try_send().await.unwrap_or_else(|e| panic!("no answer: {e}"))
    }

    /// The same where a failure is expected; the error is its text.
    pub async fn try_send(self) -> Result<Reply, String> {
        // Boxed: it is 30 KiB, and what awaits it moves it about on the stack of a test.
        let exchange = Box::pin(self.exchange());
        soon("the answer's head", exchange).await.map_err(|e| format!("{e:?}"))
    }

    async fn exchange(self) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.to).await?;
        stream.set_nodelay(true)?;
        match self.tls.clone() {
            None => self.over(stream).await,
            Some((config, name)) => {
                let mut config = (*config).clone();
                config.alpn_protocols = vec![if self.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
                let connector = TlsConnector::from(Arc::new(config));
                let stream = connector.connect(ServerName::try_from(name)?, stream).await?;
                if self.h2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err("the server did not choose h2".into());
                }
                self.over(stream).await
            }
        }
    }

    async fn over<S>(self, stream: S) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        let (response, connection) = if self.h2 {
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            *request.uri_mut() = format!("{scheme}://{}{}", self.to, self.path).parse()?;
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            let connection = Connection(tokio::spawn(async move { drop(connection.await) }).abort_handle());
            (sender.send_request(request).await?, connection)
        } else {
            *request.uri_mut() = self.path.parse()?;
            if !request.headers().contains_key("host") {
                request.headers_mut().insert("host", HeaderValue::try_from(self.to.to_string())?);
            }
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = Connection(tokio::spawn(async move { drop(connection.await) }).abort_handle());
            (sender.send_request(request).await?, connection)
        };
        let (head, body) = response.into_parts();
        Ok(Reply {
            status: head.status,
            version: head.version,
            headers: head.headers,
            body,
            buffer: BytesMut::new(),
            _connection: connection,
        })
    }
}

/// An answer whose body comes as it is asked for. Dropping it closes the connection.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// HTTP version.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    _connection: Connection,
}

/// The task that drives a connection; dropping this closes it.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reply {
    /// A header's value, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The path that answered, and after how many attempts.
    pub fn came_by(&self) -> (&str, &str) {
        (self.header("x-tidegate-path"), self.header("x-tidegate-attempts"))
    }

    async fn fill(&mut self) -> Result<bool, hyper::Error> {
        loop {
            match soon("the next piece of the answer", self.body.frame()).await {
                None => return Ok(false),
                Some(Err(error)) => return Err(error),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// The rest of the body; the error says how it broke off.
    pub async fn try_bytes(mut self) -> Result<Bytes, String> {
        while self.fill().await.map_err(|e| format!("{e:?}"))? {}
        Ok(std::mem::take(&mut self.buffer).freeze())
    }

    /// The rest of the body.
    pub async fn bytes(self) -> Bytes {
        self.try_bytes().await.unwrap_or_else(|e| panic!("the answer broke off: {e}"))
    }

    /// The rest of the body as text.
    pub async fn text(self) -> String {
        String::from_utf8(self.bytes().await.into()).unwrap()
    }

    /// The body as JSON.
    pub async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// `type` and `code` of an error answer.
    pub async fn error(self) -> (String, String) {
        let body = self.json().await;
        let word = |key: &str| body["error"][key].as_str().unwrap_or_default().to_owned();
        assert!(body["error"]["message"].is_string(), "an error has a message: {body}");
        (word("type"), word("code"))
    }

    /// The next whole event with its blank line, as soon as it is there; `None` at the end of the body.
    pub async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                return Some(String::from_utf8(self.buffer.split_to(end + 2).into()).unwrap());
            }
            if !self.fill().await.unwrap_or_else(|e| panic!("the stream broke off: {e:?}")) {
                assert!(self.buffer.is_empty(), "half an event at the end: {:?}", self.buffer);
                return None;
            }
        }
    }
}

/// A connection on which a test puts what it likes.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    patience: Duration,
}

impl Raw {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new(), patience: PATIENCE }
    }

    /// Waits this long for bytes, for a limit of the node's that is longer than usual.
    pub const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Puts bytes on the wire; `false` when the peer has closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("the peer to take the bytes", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        // The peer may have closed before.
        let _ = self.stream.shutdown().await;
    }

    /// The peer has closed, as far as is known by now.
    pub fn closed(&self) -> bool {
        match self.stream.try_read(&mut [0; 256]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Something of an answer is here.
    pub async fn answered(&mut self) -> bool {
        tokio::task::yield_now().await;
        if self.stream.try_read_buf(&mut self.buffer).is_err() {
            return !self.buffer.is_empty();
        }
        !self.buffer.is_empty()
    }

    /// The next answer: status, head and body by its length, chunked coding removed. `None` when the peer closed.
    pub async fn answer(&mut self) -> Option<(u16, String, Bytes)> {
        let end = self.find(0, b"\r\n\r\n").await? + 4;
        let head = String::from_utf8_lossy(&self.buffer.split_to(end)).to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let value =
            |name: &str| head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        if value("transfer-encoding").is_none() {
            let length: usize = value("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            while self.buffer.len() < length {
                self.fill().await?;
            }
            let body = self.buffer.split_to(length).freeze();
            return Some((status, head, body));
        }
        let mut body = BytesMut::new();
        loop {
            let line = self.find(0, b"\r\n").await?;
            let size =
                usize::from_str_radix(std::str::from_utf8(&self.buffer.split_to(line)).ok()?, 16).ok()?;
            while self.buffer.len() < size + 4 {
                self.fill().await?;
            }
            let data = self.buffer.split_to(size + 4);
            body.extend_from_slice(&data[2..size + 2]);
            if size == 0 {
                return Some((status, head, body.freeze()));
            }
        }
    }

    /// The peer closes within `limit`; what it sends before is kept.
    pub async fn closes_within(&mut self, limit: Duration) -> bool {
        let closed =
            async { while matches!(self.stream.read_buf(&mut self.buffer).await, Ok(n) if n > 0) {} };
        tokio::time::timeout(limit, closed).await.is_ok()
    }

    /// Reads until the peer closes; what it sent.
    pub async fn rest(&mut self) -> Bytes {
        soon("the peer to close", async { while self.fill().await.is_some() {} }).await;
        self.buffer.split().freeze()
    }

    async fn find(&mut self, from: usize, wanted: &[u8]) -> Option<usize> {
        loop {
            let found = self.buffer[from..].windows(wanted.len()).position(|w| w == wanted);
            if let Some(at) = found {
                return Some(from + at);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer);
        match within(self.patience, "bytes from the peer", read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}
