//! Opens a connection along one path: name, TCP, proxy handshake, TLS.
//!
//! Owns nothing that changes. Every failure says which phase it was in, because retries, breakers and
//! operators treat them differently. The whole is bounded by the upstream's `connect`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tidegate_config::used::{BaseUrl, Http2, Way};
use tidegate_health::evidence::Detail;
use tidegate_router::outcome::Class;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::dns::Resolver;
use super::proxy::{self, ProxyError};
use super::socket;

/// No phase may use up the whole of `connect`: of the default 5 s these are 2 s, 4 s and 3 s.
const TCP_PART: f64 = 0.4;
const PROXY_PART: f64 = 0.8;
const TLS_PART: f64 = 0.6;
/// Linux: the process, or the whole system, has too many files open.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The upstream's or the proxy's name has no address.
    #[error("dns: {0}")]
    Dns(String),
    /// TCP to the upstream failed.
    #[error("connect: {0}")]
    Tcp(io::Error),
    /// TCP to the proxy failed, or the proxy refused.
    #[error("proxy: {0}")]
    Proxy(#[from] ProxyError),
    /// The handshake failed or the certificate is not acceptable.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// `connect` ran out in this phase.
    #[error("{phase} took longer than {limit:?}")]
    Timeout {
        /// What was being waited for.
        phase: Phase,
        /// The bound.
        limit: Duration,
    },
}

/// The steps of a connection, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Resolving a name.
    Dns,
    /// TCP to the upstream.
    Tcp,
    /// TCP to a proxy and its handshake.
    Proxy,
    /// TLS handshake.
    Tls,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Tcp => "connect",
            Self::Proxy => "the proxy",
            Self::Tls => "the tls handshake",
        })
    }
}

impl ConnectError {
    /// The class retries and metrics know it by.
    pub fn class(&self) -> Class {
        match self {
            // Out of file descriptors: ours, and no path's fault.
            Self::Tcp(error) | Self::Proxy(ProxyError::Io(error))
                if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) =>
            {
                Class::Busy
            }
            Self::Dns(_) | Self::Timeout { phase: Phase::Dns, .. } => Class::Dns,
            Self::Tcp(_) | Self::Timeout { phase: Phase::Tcp, .. } => Class::Connect,
            Self::Proxy(_) | Self::Timeout { phase: Phase::Proxy, .. } => Class::Proxy,
            Self::Tls(_) | Self::Timeout { phase: Phase::Tls, .. } => Class::Tls,
        }
    }

    /// What of it is certain enough to act on at once.
    pub fn about(&self) -> Detail {
        match self {
            Self::Proxy(ProxyError::Login) => Detail::ProxyLogin,
            Self::Tls(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                match inner {
                    Some(rustls::Error::InvalidCertificate(_)) => Detail::Certificate,
                    _ => Detail::Plain,
                }
            }
            _ => Detail::Plain,
        }
    }
}

/// How one path connects.
#[derive(Debug)]
pub struct Connector {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    way: Way,
    http2: Http2,
    dns: Arc<Resolver>,
}

/// A fresh connection.
#[derive(Debug)]
pub struct Connected {
    /// The bytes.
    pub io: Io,
    /// HTTP/2 was agreed on.
    pub h2: bool,
}

impl Connector {
    /// `tls` is needed when `url` is https. The error names a host that cannot stand in a certificate.
    pub fn new(
        url: &BaseUrl,
        tls: Arc<ClientConfig>,
        way: Way,
        http2: Http2,
        dns: Arc<Resolver>,
    ) -> Result<Self, String> {
        let tls = if url.tls {
            let name = ServerName::try_from(url.host.clone())
                .map_err(|_| format!("`{}` is not a name a certificate can carry", url.host))?;
            Some((tls, name))
        } else {
            None
        };
        Ok(Self { host: url.host.clone(), port: url.port, tls, way, http2, dns })
    }

    /// Connects within `limit`. Cancel-safe: dropping closes what was begun.
    pub async fn connect(&self, limit: Duration) -> Result<Connected, ConnectError> {
        let mut phase = Phase::Dns;
        match tokio::time::timeout(limit, self.phases(&mut phase, limit)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { phase, limit }),
        }
    }

    /// Only as far as the upstream's address, through the proxy where there is one; the connection is closed.
    pub async fn reach(&self, limit: Duration) -> Result<(), ConnectError> {
        let mut phase = Phase::Dns;
        match tokio::time::timeout(limit, self.tcp(&mut phase, limit)).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(ConnectError::Timeout { phase, limit }),
        }
    }

    async fn phases(&self, phase: &mut Phase, limit: Duration) -> Result<Connected, ConnectError> {
        let tcp = self.tcp(phase, limit).await?;
        let Some((tls, name)) = &self.tls else {
            return Ok(Connected { io: Io::Plain(tcp), h2: self.http2 == Http2::Only });
        };
        *phase = Phase::Tls;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), tcp);
        let stream = within(Phase::Tls, limit.mul_f64(TLS_PART), stream).await?.map_err(ConnectError::Tls)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connected { io: Io::Tls(Box::new(stream)), h2 })
    }

    async fn tcp(&self, phase: &mut Phase, limit: Duration) -> Result<TcpStream, ConnectError> {
        match &self.way {
            Way::Direct => {
                let addresses = self.dns.resolve(&self.host, self.port).await.map_err(ConnectError::Dns)?;
                *phase = Phase::Tcp;
                let tcp = socket::connect(&addresses);
                within(Phase::Tcp, limit.mul_f64(TCP_PART), tcp).await?.map_err(ConnectError::Tcp)
            }
            Way::Connect(proxy) | Way::Socks5h(proxy) => {
                let addresses = self.dns.resolve(&proxy.host, proxy.port).await.map_err(ConnectError::Dns)?;
                *phase = Phase::Proxy;
                let handshake = async {
                    let mut tcp = socket::connect(&addresses).await.map_err(ProxyError::Io)?;
                    let login = proxy.login.as_ref();
                    if matches!(self.way, Way::Connect(_)) {
                        proxy::http_connect(&mut tcp, &self.host, self.port, login).await?;
                    } else {
                        proxy::socks5h(&mut tcp, &self.host, self.port, login).await?;
                    }
                    Ok::<_, ProxyError>(tcp)
                };
                Ok(within(Phase::Proxy, limit.mul_f64(PROXY_PART), handshake).await??)
            }
        }
    }
}

async fn within<T>(phase: Phase, limit: Duration, step: impl Future<Output = T>) -> Result<T, ConnectError> {
    tokio::time::timeout(limit, step).await.map_err(|_| ConnectError::Timeout { phase, limit })
}

/// Plain or TLS, without a virtual call per read.
#[derive(Debug)]
pub enum Io {
    /// As it is.
    Plain(TcpStream),
    /// Boxed: the session state would make every plain connection as large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
