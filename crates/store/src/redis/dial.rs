//! How a Redis is reached: one server, the master that Sentinel names, or a cluster.
//!
//! Every dial asks anew where the master is, so a failover needs nothing but another dial. Nothing here waits
//! without a bound. Not here: when to dial (`slot`).

use std::io;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode, Value,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::{Kind, Setup};

/// TCP, TLS and authentication together.
const CONNECT: Duration = Duration::from_millis(500);
/// A whole dial: several sentinels, or several nodes of a cluster, one of which may be silent.
const DIAL: Duration = Duration::from_secs(2);
/// The crate's own limit, out of the way of the caller's.
const RESPONSE: Duration = Duration::from_secs(30);
/// Commands that wait to be written to one connection.
const PIPELINE: usize = 1024;
/// How often a cluster's driver follows a redirection.
const REDIRECTIONS: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A connection that many callers share. Cheap to clone.
#[derive(Clone)]
pub(super) enum Conn {
    One {
        conn: MultiplexedConnection,
        /// Without TLS, and the server has not answered yet.
        doubtful: bool,
    },
    Cluster(ClusterConnection),
}

impl Conn {
    /// Sends one command. Cancel-safe for the caller; the command may run all the same.
    pub(super) async fn ask(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        match self {
            Self::One { conn, doubtful } => {
                let answer = conn.req_packed_command(cmd).await;
                let answer = if *doubtful { answer.map_err(unanswered) } else { answer }?;
                *doubtful = false;
                answer.extract_error()
            }
            Self::Cluster(conn) => conn.req_packed_command(cmd).await?.extract_error(),
        }
    }

    /// It finds its way to another node by itself.
    pub(super) const fn heals(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// Whether there is what TLS needs. The error says what is wrong with `setup.ca`.
pub(super) fn trustworthy(setup: &Setup) -> Result<(), String> {
    let Some(ca) = &setup.ca else { return Ok(()) };
    if !setup.tls {
        return Err("tls.ca: the store is not reached over TLS".to_owned());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|e| format!("tls.ca: not PEM: {e}"))?;
        roots.add(certificate).map_err(|e| format!("tls.ca: {e}"))?;
    }
    // The crate would take it and then trust nobody.
    if roots.is_empty() { Err("tls.ca: no certificate in it".to_owned()) } else { Ok(()) }
}

/// A connection to send commands over.
pub(super) async fn connect(setup: &Setup) -> RedisResult<Conn> {
    timeout(DIAL, async {
        match &setup.kind {
            Kind::Single => {
                let mut last = nowhere();
                for address in &setup.addresses {
                    match open(setup, node(setup, address)?).await {
                        Ok(conn) => return Ok(Conn::One { conn, doubtful: !setup.tls }),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Kind::Sentinel { master } => {
                let conn = open(setup, self::master(setup, master).await?).await?;
                Ok(Conn::One { conn, doubtful: !setup.tls })
            }
            Kind::Cluster => cluster(setup).await.map(Conn::Cluster),
        }
    })
    .await
    .unwrap_or_else(|_| Err(too_slow()))
}

/// A connection of its own that listens to `channel`.
pub(super) async fn listen(setup: &Setup, channel: &str) -> RedisResult<PubSub> {
    timeout(DIAL, async {
        let nodes = match &setup.kind {
            Kind::Sentinel { master } => vec![self::master(setup, master).await?],
            Kind::Single | Kind::Cluster => {
                setup.addresses.iter().map(|address| node(setup, address)).collect::<Result<_, _>>()?
            }
        };
        let mut last = nowhere();
        for node in nodes {
            let subscribed = timeout(CONNECT, async {
                let mut listener = client(setup, node)?.get_async_pubsub().await?;
                listener.subscribe(channel).await?;
                Ok(listener)
            });
            match subscribed.await.unwrap_or_else(|_| Err(too_slow())) {
                Ok(listener) => return Ok(listener),
                Err(e) => last = e,
            }
        }
        Err(last)
    })
    .await
    .unwrap_or_else(|_| Err(too_slow()))
}

async fn open(setup: &Setup, info: ConnectionInfo) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(RESPONSE))
        .set_pipeline_buffer_size(PIPELINE);
    let opened = client(setup, info)?.get_multiplexed_async_connection_with_config(&config).await;
    if setup.tls { opened } else { opened.map_err(unanswered) }
}

fn client(setup: &Setup, info: ConnectionInfo) -> RedisResult<Client> {
    match certificates(setup) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

fn certificates(setup: &Setup) -> Option<TlsCertificates> {
    setup.ca.clone().map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca) })
}

async fn cluster(setup: &Setup) -> RedisResult<ClusterConnection> {
    let nodes: Vec<ConnectionInfo> =
        setup.addresses.iter().map(|address| node(setup, address)).collect::<Result<_, _>>()?;
    let mut builder = ClusterClient::builder(nodes)
        .connection_timeout(CONNECT)
        .response_timeout(RESPONSE)
        .overall_response_timeout(Some(RESPONSE))
        .retries(REDIRECTIONS)
        .tcp_settings(tcp());
    if setup.tls {
        builder = builder.tls(TlsMode::Secure);
    }
    if let Some(certificates) = certificates(setup) {
        builder = builder.certs(certificates);
    }
    if let Some(username) = &setup.username {
        builder = builder.username(username);
    }
    if let Some(password) = &setup.password {
        builder = builder.password(password.expose_secret());
    }
    builder.build()?.get_async_connection().await
}

/// Where the master is: the first sentinel that knows one which takes itself for a master.
async fn master(setup: &Setup, name: &str) -> RedisResult<ConnectionInfo> {
    let mut last = nowhere();
    for sentinel in &setup.addresses {
        match timeout(CONNECT * 2, named(setup, sentinel, name)).await.unwrap_or_else(|_| Err(too_slow())) {
            Ok(info) => return Ok(info),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn named(setup: &Setup, sentinel: &(String, u16), name: &str) -> RedisResult<ConnectionInfo> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    // Sentinels mostly ask for no password, and refuse one that they do not ask for.
    let open_to_all = address(setup, sentinel).into_connection_info()?.set_tcp_settings(tcp());
    let answer = match asked(setup, open_to_all, &question).await {
        Err(e) if e.code() == Some("NOAUTH") => {
            let info = node(setup, sentinel)?;
            let database = info.redis_settings().clone().set_db(0);
            asked(setup, info.set_redis_settings(database), &question).await
        }
        answer => answer,
    };
    let (host, port): (String, u16) = redis::from_redis_value(answer?)
        .map_err(|_| RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, "no such master")))?;
    let info = node(setup, &(host, port))?;
    let role = asked(setup, info.clone(), &redis::cmd("ROLE")).await?;
    match role {
        Value::Array(parts) if parts.first().is_some_and(|role| said(role) == Some(b"master")) => Ok(info),
        _ => Err((ErrorKind::Client, "what Sentinel names is no master").into()),
    }
}

async fn asked(setup: &Setup, info: ConnectionInfo, question: &Cmd) -> RedisResult<Value> {
    let conn = open(setup, info).await?;
    Conn::One { conn, doubtful: !setup.tls }.ask(question).await
}

fn said(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn node(setup: &Setup, at: &(String, u16)) -> RedisResult<ConnectionInfo> {
    // CLIENT SETINFO is unknown to 6.2 and to proxies.
    let mut redis = RedisConnectionInfo::default().set_db(setup.database).set_skip_set_lib_name();
    if let Some(username) = &setup.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &setup.password {
        redis = redis.set_password(password.expose_secret());
    }
    Ok(address(setup, at).into_connection_info()?.set_tcp_settings(tcp()).set_redis_settings(redis))
}

fn address(setup: &Setup, (host, port): &(String, u16)) -> ConnectionAddr {
    if setup.tls {
        ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host.clone(), *port)
    }
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 5).with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(USER_TIMEOUT);
    settings
}

/// A server that was sent no TLS and wants it closes the connection without a word.
fn unanswered(error: RedisError) -> RedisError {
    if error.is_connection_dropped() && !error.is_connection_refusal() {
        let text = format!("{error} before any answer: a TLS port needs a rediss address");
        return io::Error::new(io::ErrorKind::ConnectionReset, text).into();
    }
    error
}

fn too_slow() -> RedisError {
    (ErrorKind::Client, "no connection in time").into()
}

fn nowhere() -> RedisError {
    (ErrorKind::Client, "no address").into()
}
