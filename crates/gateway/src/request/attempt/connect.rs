//! A connection for one attempt: a kept one, a new one, or the faster of two new ones over different egresses.
//!
//! Owns nothing: connections are the pool's. No byte of a request is sent here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidegate_health::registry::Flight;
use tidegate_router::outcome::Class;
use tokio::time::Instant;

use super::Failed;
use super::once::Way;
use crate::request::route::Call;
use crate::upstream::Path;
use crate::upstream::exchange::{self, Conn};
use crate::upstream::pool::{Grant, Slot, Want};

/// After this long without a connection a rival is connected to as well (RFC 8305's Connection Attempt Delay).
const HEAD_START: Duration = Duration::from_millis(250);

/// How far an attempt has come: a request that was never sent may be tried elsewhere at no cost.
pub enum Stage {
    /// For a connection to be free, or leave to open one.
    Waiting,
    /// For one that is being opened.
    Connecting,
    /// For the answer.
    Sent,
}

impl Stage {
    /// What it failed by when its time runs out here.
    pub fn too_late(&self) -> Failed {
        match self {
            Self::Waiting => Failed::new(Class::Busy, "all connections of the path stayed in use"),
            Self::Connecting => {
                Failed::new(Class::Connect, "no connection within the time to the first content")
            }
            Self::Sent => Failed::new(Class::Timeout, "no answer within the time to the first content"),
        }
    }
}

/// A connection of the path, or of its rival.
pub async fn connection<'a>(
    call: &Call,
    way: &Way<'a>,
    want: Want,
    stage: &mut Stage,
) -> Result<(Conn, &'a Arc<Path>), Failed> {
    let path = way.path;
    let take = path.pool.take(want, Instant::now());
    let grant = if call.alternatives {
        let taken = tokio::time::timeout(path.connect_timeout(), take).await;
        taken.map_err(|_| Stage::Waiting.too_late())?
    } else {
        take.await
    };
    match (grant, way.rival) {
        (Grant::H1(h1), _) => Ok((Conn::H1(h1), path)),
        (Grant::H2(h2), _) => Ok((Conn::H2(h2), path)),
        (Grant::Slot(slot), rival) => {
            *stage = Stage::Connecting;
            match rival {
                None => Ok((open(Arc::clone(path), slot).await?, path)),
                Some(rival) => race(path, slot, rival, want, way.flight.as_deref()).await,
            }
        }
    }
}

/// A connection that stands.
async fn open(path: Arc<Path>, slot: Slot) -> Result<Conn, Failed> {
    let connected = path
        .pool
        .connector
        .connect(path.connect_timeout())
        .await
        .map_err(|e| Failed::new(e.class(), e.to_string()).about(e.about()))?;
    exchange::handshake(connected, slot, &path.pool)
        .await
        .map_err(|e| Failed::new(Class::Connect, format!("http handshake: {e}")))
}

/// The first of two connections that stands; the second is begun a little later. No request has gone anywhere yet,
/// so the other one costs nothing: it is finished in the background and kept, or its failure told. An error is the
/// first path's.
async fn race<'a>(
    path: &'a Arc<Path>,
    slot: Slot,
    rival: &'a Arc<Path>,
    want: Want,
    flight: Option<&Flight>,
) -> Result<(Conn, &'a Arc<Path>), Failed> {
    let mut first = Box::pin(open(Arc::clone(path), slot));
    tokio::select! {
        biased;
        conn = &mut first => return conn.map(|conn| (conn, path)),
        () = tokio::time::sleep(HEAD_START) => {}
    }
    let second = async {
        match rival.pool.take(want, Instant::now()).await {
            Grant::H1(h1) => (Ok(Conn::H1(h1)), false),
            Grant::H2(h2) => (Ok(Conn::H2(h2)), false),
            Grant::Slot(slot) => (open(Arc::clone(rival), slot).await, true),
        }
    };
    let mut second = std::pin::pin!(second);
    tokio::select! {
        biased;
        conn = &mut first => match conn {
            Ok(conn) => Ok((conn, path)),
            Err(failed) => match second.await {
                (Ok(conn), _) => {
                    tell(flight, path, &failed);
                    Ok((conn, rival))
                }
                (Err(_), _) => Err(failed),
            },
        },
        (conn, fresh) = &mut second => match conn {
            Err(failed) => {
                tell(flight, rival, &failed);
                first.await.map(|conn| (conn, path))
            }
            Ok(conn) => {
                let now = Instant::now().into_std();
                // A kept connection has no handshake to be fast at.
                if let Some(flight) = flight.filter(|_| fresh) {
                    flight.lost_race(now);
                }
                let account = flight.map(|flight| flight.aside(now));
                tokio::spawn(finish(first, Arc::clone(path), account));
                Ok((conn, rival))
            }
        },
    }
}

async fn finish(
    connecting: impl Future<Output = Result<Conn, Failed>>,
    path: Arc<Path>,
    account: Option<Flight>,
) {
    match connecting.await {
        Ok(Conn::H1(h1)) => path.pool.give_back(*h1, Instant::now()),
        // Shared since it stands.
        Ok(Conn::H2(_)) => {}
        Err(failed) => tell(account.as_ref(), &path, &failed),
    }
}

/// Tells health of a connection over `path` that failed beside the request's own.
fn tell(flight: Option<&Flight>, path: &Path, failed: &Failed) {
    if let Some(flight) = flight {
        let now = Instant::now().into_std();
        let mut account = flight.aside(now);
        account.turn_to(path.index, now);
        account.failed(failed.failure.class, failed.about, now);
    }
}
