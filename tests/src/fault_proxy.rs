//! What goes wrong between two hosts, without root: a TCP proxy before an address that freezes, refuses, resets,
//! delays, thins out or cuts what passes, and can be told another fault at any moment.
//!
//! Owns its port and connections; all end when it is dropped. It knows nothing of HTTP. Lost packets and routes
//! are beyond it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::port::Reserved;

/// What happens to connections, those that stand included unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// Everything is taken and held, nothing is closed: a stopped process or a black hole. What is held goes on
    /// with the next fault that lets it.
    Freeze,
    /// New connections are refused; those that stand go on.
    RefuseNew,
    /// Every connection is reset, new ones as soon as they stand.
    ResetAll,
    /// Each piece waits this long, in either direction.
    Delay(Duration),
    /// So many bytes a second on each connection, in either direction.
    Throttle(u32),
    /// After so many bytes of answers a connection is reset.
    CutAfter(usize),
    /// The first piece of the answer passes, as a proxy's consent to CONNECT does; all after it is held.
    StallAfterConnect,
}

/// The proxy.
#[derive(Debug)]
pub struct FaultProxy {
    port: Reserved,
    fault: watch::Sender<Fault>,
    accepted: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl FaultProxy {
    /// Before `target`, passing everything.
    pub async fn before(target: SocketAddr) -> Self {
        let (fault, follow) = watch::channel(Fault::Pass);
        let (count, accepted) = watch::channel(0);
        let port = Reserved::new();
        let listener = TcpListener::bind(port.address()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(port.address(), listener, target, follow, count));
        Self { port, fault, accepted, _tasks: tasks }
    }

    /// Before a port of loopback.
    pub async fn before_port(target: u16) -> Self {
        Self::before(SocketAddr::from(([127, 0, 0, 1], target))).await
    }

    /// From now on this happens.
    pub async fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
        if fault == Fault::RefuseNew {
            self.port.refuses().await;
        }
    }

    /// Its port on loopback.
    pub const fn port(&self) -> u16 {
        self.port.address().port()
    }

    /// The `base_url` of an upstream behind it.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.port.address())
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        *self.accepted.borrow()
    }
}

async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    target: SocketAddr,
    mut fault: watch::Receiver<Fault>,
    count: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let refuses = *fault.borrow_and_update() == Fault::RefuseNew;
        listener = match listener {
            _ if refuses => None,
            None => Some(TcpListener::bind(address).await.unwrap()),
            some => some,
        };
        let next = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        let stream = tokio::select! {
            changed = fault.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            accepted = next => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
        };
        count.send_modify(|c| *c += 1);
        while connections.try_join_next().is_some() {}
        connections.spawn(carry(stream, target, fault.clone()));
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut fault: watch::Receiver<Fault>) {
    let _ = client.set_nodelay(true);
    let state = fault.wait_for(|fault| *fault != Fault::Freeze).await.map(|fault| *fault);
    let server = match state {
        Ok(Fault::ResetAll) | Err(_) => None,
        Ok(_) => TcpStream::connect(target).await.ok(),
    };
    let Some(mut server) = server else {
        reset(&client);
        return;
    };
    let _ = server.set_nodelay(true);
    let in_order = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, fault.clone(), false),
                pump(from_server, to_client, fault.clone(), true)
            )
        };
        let mut resets = fault.clone();
        tokio::select! {
            done = both => done.is_ok(),
            _ = resets.wait_for(|fault| *fault == Fault::ResetAll) => false,
        }
    };
    if !in_order {
        reset(&client);
        reset(&server);
    }
}

/// Closing then tells the peer with a TCP reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut fault: watch::Receiver<Fault>,
    answers: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        flows(&mut fault, answers && passed > 0).await?;
        let count = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = fault.changed() => continue,
        };
        // What was read before a freeze is held by it, too.
        let now = flows(&mut fault, answers && passed > 0).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        match now {
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(&buffer[..count]).await?;
            }
            Fault::Throttle(rate) => {
                for piece in buffer[..count].chunks(64) {
                    let share = piece.len() as f64 / f64::from(rate.max(1));
                    tokio::time::sleep(Duration::from_secs_f64(share)).await;
                    to.write_all(piece).await?;
                }
            }
            Fault::CutAfter(limit) if answers && passed + count > limit => {
                to.write_all(&buffer[..limit.saturating_sub(passed)]).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            _ => to.write_all(&buffer[..count]).await?,
        }
        passed += count;
    }
}

/// Waits until something may pass; gives the fault it passes under.
async fn flows(fault: &mut watch::Receiver<Fault>, begun: bool) -> io::Result<Fault> {
    let held = |fault: &Fault| *fault == Fault::Freeze || (begun && *fault == Fault::StallAfterConnect);
    fault.wait_for(|fault| !held(fault)).await.map(|fault| *fault).map_err(io::Error::other)
}
