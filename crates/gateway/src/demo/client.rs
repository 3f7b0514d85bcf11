//! One request over a connection of its own, sent as any client of the gateway would send it. Not here: what an
//! answer means, and how long to wait for one.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// From the start to the headers; they come with the first content.
    pub wait: Duration,
}

/// Sends a request (a body that is empty: GET) and reads the answer to its end. The error says what broke.
pub async fn call(address: SocketAddr, path: &str, body: Bytes) -> anyhow::Result<Answer> {
    let started = Instant::now();
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(if body.is_empty() { Method::GET } else { Method::POST })
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let wait = started.elapsed();
    let body = body.collect().await?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body, wait })
}
