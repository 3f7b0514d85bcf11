//! The collector: one connection, opened when something is to be sent and kept while it works.
//!
//! Names, TLS and timeouts are those of upstreams. Every export is bounded by a timeout; what may be tried again and
//! what may not is said by the specification of OTLP over HTTP.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tidegate_config::used::{Http2, Tracing, Way};
use tokio::time::timeout;

use crate::upstream::connector::Connector;
use crate::upstream::dns::Resolver;
use crate::upstream::tls;

/// Of one export, as OTLP's exporters have it.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// No answer says more than this.
const ANSWER_MAX: usize = 64 * 1024;
/// A collector may ask for this much patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an export did not succeed.
#[derive(Debug)]
pub enum Trouble {
    /// It may, later; after this time, where the collector said so.
    Away(String, Option<Duration>),
    /// These spans will never be taken.
    Refused(String),
}

/// Where spans go.
#[derive(Debug)]
pub struct Collector {
    connector: Connector,
    uri: Uri,
    headers: HeaderMap,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl Collector {
    /// The error says what of the configuration cannot be used.
    pub fn new(said: &Tracing, hosts: HashMap<String, Vec<IpAddr>>) -> Result<Self, String> {
        let in_section = |e: String| format!("tracing: {e}");
        let tls = tls::client_config(said.ca_pem.as_deref(), Http2::Off).map_err(in_section)?;
        let dns = Arc::new(Resolver::new(hosts));
        let connector = Connector::new(&said.url, tls, Way::Direct, Http2::Off, dns).map_err(in_section)?;
        let unusable = |what: &str| format!("tracing: {what} cannot be sent");
        let uri = format!("{}/v1/traces", said.url.path).parse().map_err(|_| unusable("otlp"))?;
        let mut headers = HeaderMap::new();
        for (name, secret) in &said.headers {
            let value = HeaderValue::from_str(secret.expose_secret());
            let mut value = value.map_err(|_| unusable(&format!("the value of `{name}`")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let host = HeaderValue::from_str(&said.url.authority).map_err(|_| unusable("the host of otlp"))?;
        headers.insert(header::HOST, host);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let agent = concat!("tidegate/", env!("CARGO_PKG_VERSION"));
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(agent));
        Ok(Self { connector, uri, headers, kept: None })
    }

    /// Sends one request; what is answered to one that was taken. Cancel-safe: the connection is closed then, and the
    /// collector may have taken the request.
    pub async fn send(&mut self, body: Bytes) -> Result<Bytes, Trouble> {
        let away = |why: String| Trouble::Away(why, None);
        let exchange = async {
            let (response, sender) = self.exchange(body).await.map_err(away)?;
            let (status, wait) = (response.status(), wait(response.headers()));
            let read = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let answer = read.map_err(|e| away(e.to_string()))?.to_bytes();
            self.kept = Some(sender);
            match status {
                status if status.is_success() => Ok(answer),
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Err(Trouble::Away(format!("status {status}"), wait)),
                status => Err(Trouble::Refused(format!("status {status}"))),
            }
        };
        let result = timeout(TIMEOUT, exchange).await;
        result.unwrap_or_else(|_| Err(away(format!("no answer within {TIMEOUT:?}"))))
    }

    async fn exchange(
        &mut self,
        body: Bytes,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), String> {
        if let Some(mut sender) = self.kept.take()
            && sender.ready().await.is_ok()
            && let Ok(response) = sender.send_request(self.request(body.clone())).await
        {
            return Ok((response, sender));
        }
        // None is kept, or it was closed meanwhile.
        let connected = self.connector.connect(CONNECT).await.map_err(|e| e.to_string())?;
        let shake = http1::handshake(TokioIo::new(connected.io)).await;
        let (mut sender, connection) = shake.map_err(|e| e.to_string())?;
        // Its end is told to who waits for an answer on it.
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(self.request(body)).await.map_err(|e| e.to_string())?;
        Ok((response, sender))
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(PATIENCE))
}
