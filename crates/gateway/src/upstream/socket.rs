//! TCP: several addresses of one name, socket options.
//!
//! Addresses are tried in turn, the next one 250 ms after the last or as soon as it fails (RFC 8305's
//! Connection Attempt Delay), and the first connection wins; the others are dropped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// More addresses than this are not worth a client's time.
const ADDRESSES: usize = 6;
/// A peer that acknowledges nothing for this long is gone: a dropped link is silent otherwise.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Connects to the first address that answers. Cancel-safe: dropping closes what was begun.
pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().take(ADDRESSES);
    let mut racing = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to");
    if let Some(first) = waiting.next() {
        racing.push(TcpStream::connect(*first));
    }
    while !racing.is_empty() {
        let more = waiting.len() > 0;
        tokio::select! {
            Some(result) = racing.next() => match result {
                Ok(stream) => {
                    tune(&stream);
                    return Ok(stream);
                }
                Err(error) => {
                    last_error = error;
                    if let Some(next) = waiting.next() {
                        racing.push(TcpStream::connect(*next));
                    }
                }
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if more => {
                if let Some(next) = waiting.next() {
                    racing.push(TcpStream::connect(*next));
                }
            }
        }
    }
    Err(last_error)
}

/// Options of a connection to an upstream or proxy. A refused option costs speed or a later detection,
/// never the request, so failures are let pass.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_living_one() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = closed.local_addr().unwrap();
        drop(closed);
        let living = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = living.local_addr().unwrap();
        let stream = connect(&[dead, address]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(connect(&[dead]).await.is_err());
        assert!(connect(&[]).await.is_err());
    }
}
