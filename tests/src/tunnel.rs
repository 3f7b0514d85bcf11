//! A small CONNECT proxy of the harness's own, for tests that need one way out to work and another to fail in a
//! manner no real proxy can be told to. It asks for no credentials; `parts` has the real ones.
//!
//! Owns its listener and tunnels; all end when it is dropped.

use std::collections::HashSet;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The proxy.
#[derive(Debug)]
pub struct Tunnel {
    port: u16,
    blocked: watch::Sender<HashSet<u16>>,
    opened: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Tunnel {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (blocked, follow) = watch::channel(HashSet::new());
        let (count, opened) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                while tunnels.try_join_next().is_some() {}
                let (follow, count) = (follow.clone(), count.clone());
                // Either side may leave at any moment; that ends the tunnel and nothing else.
                tunnels.spawn(async move { drop(carry(stream, follow, count).await) });
            }
        });
        Self { port, blocked, opened, _tasks: tasks }
    }

    /// Its port on loopback.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From now on this target cannot be reached from here: tunnels to it end, and CONNECT is answered as squid does.
    pub fn block(&self, target: u16) {
        self.blocked.send_modify(|blocked| {
            blocked.insert(target);
        });
    }

    /// How many tunnels were opened.
    pub fn opened(&self) -> usize {
        *self.opened.borrow()
    }
}

async fn carry(
    mut client: TcpStream,
    mut blocked: watch::Receiver<HashSet<u16>>,
    count: watch::Sender<usize>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let port = target.rsplit(':').next().and_then(|p| p.parse::<u16>().ok()).unwrap_or_default();
    let reachable = !blocked.borrow().contains(&port);
    let server = if reachable { TcpStream::connect(&target).await.ok() } else { None };
    let Some(mut server) = server else {
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\nX-Squid-Error: ERR_CONNECT_FAIL 111\r\n\
                        Content-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(refusal).await;
    };
    server.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    count.send_modify(|c| *c += 1);
    tokio::select! {
        done = tokio::io::copy_bidirectional(&mut client, &mut server) => done.map(drop),
        _ = blocked.wait_for(|blocked| blocked.contains(&port)) => Ok(()),
    }
}
