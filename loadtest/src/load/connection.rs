//! The generator's HTTP/1.1 connections: kept alive, one request at a time, no pool behind the caller's back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// Largest answer head; also the read buffer's limit, so that thousands of connections stay small.
const BUFFER_MAX: usize = 64 * 1024;
/// A small answer (`fetch`) is at most this long.
const FETCH_MAX: usize = 1024 * 1024;

/// Where connections go.
#[derive(Debug, Clone)]
pub struct Target {
    address: SocketAddr,
    host: HeaderValue,
    /// Path of the base URL without a slash at its end.
    base: String,
}

impl Target {
    /// Resolves the host of `url` once. Errors: not an `http://` URL, or the name does not resolve.
    pub async fn resolve(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url}: not a URL"))?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            bail!("{url}: only http:// is measured");
        }
        let authority = uri.authority().with_context(|| format!("{url}: no host"))?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(80);
        let address = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("{url}: the name does not resolve"))?
            .next()
            .with_context(|| format!("{url}: the name has no address"))?;
        Ok(Self {
            address,
            host: HeaderValue::from_str(authority.as_str())?,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The request path for an endpoint of the API, which starts with `/`. Errors: not a path.
    pub fn path(&self, endpoint: &str) -> anyhow::Result<PathAndQuery> {
        Ok(format!("{}{endpoint}", self.base).parse()?)
    }

    /// The `Host` header.
    pub fn host(&self) -> HeaderValue {
        self.host.clone()
    }
}

/// One connection. Dropped, it is closed at once, whatever is still under way on it.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects. Errors: the target refuses.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER_MAX).handshake(TokioIo::new(stream)).await?;
        // How it ended shows in the request that was on it.
        let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { sender, driver })
    }

    /// Waits until the answer before is done with; false: the peer has closed the connection.
    pub async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of its answer. Errors: the connection ended.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.sender.send_request(request).await
    }
}

/// GETs a small answer over a connection of its own. Errors: no connection, a status other than 200, more
/// than 1 MiB, or nothing within `timeout`.
pub async fn fetch(url: &str, timeout: Duration) -> anyhow::Result<Bytes> {
    let ask = async {
        let target = Target::resolve(url).await?;
        let mut connection = Connection::open(&target).await?;
        let mut request = Request::new(Full::default());
        *request.uri_mut() = target.path("")?.into();
        request.headers_mut().insert(header::HOST, target.host());
        let answer = connection.send(request).await?;
        if answer.status() != http::StatusCode::OK {
            bail!("{url}: status {}", answer.status());
        }
        match Limited::new(answer.into_body(), FETCH_MAX).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => bail!("{url}: {error}"),
        }
    };
    tokio::time::timeout(timeout, ask).await.with_context(|| format!("{url}: no answer in {timeout:?}"))?
}
