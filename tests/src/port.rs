//! A port of loopback that stays the test's own while nobody listens on it, so that what stood there can come back.

use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use crate::until;

/// The port.
#[derive(Debug)]
pub struct Reserved {
    address: SocketAddr,
    /// Bound and never listening: connections are refused, and the kernel gives the port to nobody else.
    _socket: TcpSocket,
}

impl Default for Reserved {
    fn default() -> Self {
        Self::new()
    }
}

impl Reserved {
    /// One of the kernel's choice.
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { address: socket.local_addr().unwrap(), _socket: socket }
    }

    /// The address to listen on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until connections are refused.
    pub async fn refuses(&self) {
        until("a refused connection", async || TcpStream::connect(self.address).await.err()).await;
    }
}
