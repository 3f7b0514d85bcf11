//! The connections of one path.
//!
//! Owns idle HTTP/1.1 connections, the HTTP/2 connections, and the count of everything open. At
//! `max_connections` callers wait in line for one to come back; they wait as long as they like (their
//! attempt has its own bound), and the line is no longer than the requests this node runs at once.
//! Idle connections are closed after 55 s, before common servers close them on us, and looked at before use.
//! Not here: how a connection is opened (`connector`) and spoken over (`exchange`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connector::Connector;
use super::exchange::{H1, H2};

/// Shorter than the idle limits of common servers and load balancers (60 s and more), so that a request
/// rarely meets a connection that is being closed.
const IDLE_MAX: Duration = Duration::from_secs(55);

/// A line this long is cleared of those who have left before another joins; the requests this node runs at
/// once bound it.
const LINE_TIDY: usize = 256;

/// Connections of one path on this node, shared by its workers.
#[derive(Debug)]
pub struct Pool {
    /// How new ones are made.
    pub connector: Arc<Connector>,
    max_idle: usize,
    max_connections: usize,
    /// Guards lists that are only pushed to and popped from.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: VecDeque<H1>,
    shared: Vec<H2>,
    open: usize,
    line: VecDeque<oneshot::Sender<Grant>>,
    /// Nothing is kept any more.
    retired: bool,
}

/// What a caller may use.
#[derive(Debug)]
pub enum Grant {
    /// A kept HTTP/1.1 connection, its own until given back.
    H1(Box<H1>),
    /// A place on an HTTP/2 connection.
    H2(H2),
    /// Leave to open one.
    Slot(Slot),
}

/// Which connections will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Any.
    Any,
    /// Not an idle HTTP/1.1 one: its peer may be closing it. HTTP/2 says what it did not look at.
    NotKept,
    /// One opened now.
    New,
}

/// Leave to have one connection open; given back when dropped, with the connection that holds it.
#[derive(Debug)]
pub struct Slot(Arc<Pool>);

impl Pool {
    /// `max_connections` is at least 1.
    pub fn new(connector: Arc<Connector>, max_idle: usize, max_connections: usize) -> Self {
        Self { connector, max_idle, max_connections, state: Mutex::default() }
    }

    /// A connection, or leave to open one. Waits in line while all are busy; cancel-safe.
    pub async fn take(self: &Arc<Self>, want: Want, now: Instant) -> Grant {
        loop {
            let mut dead = Vec::new();
            let waiting = {
                let mut state = self.lock();
                if want != Want::New
                    && let Some(grant) = state.kept(want, now, &mut dead)
                {
                    return grant;
                }
                if state.open < self.max_connections {
                    state.open += 1;
                    return Grant::Slot(Slot(Arc::clone(self)));
                }
                if want != Want::Any
                    && let Some(oldest) = state.idle.pop_front()
                {
                    // An idle connection gives way to the fresh one that was asked for.
                    dead.push(oldest);
                    None
                } else {
                    let (grant, granted) = oneshot::channel();
                    if state.line.len() >= LINE_TIDY {
                        state.line.retain(|waiting| !waiting.is_closed());
                    }
                    state.line.push_back(grant);
                    Some(granted)
                }
            };
            drop(dead);
            if let Some(granted) = waiting
                && let Ok(grant) = granted.await
            {
                return grant;
            }
        }
    }

    /// Takes back a connection that is ready for another request.
    pub fn give_back(&self, mut connection: H1, now: Instant) {
        connection.idle_since = now;
        let surplus = {
            let mut state = self.lock();
            let mut grant = Grant::H1(Box::new(connection));
            loop {
                let Some(next) = state.line.pop_front() else { break };
                match next.send(grant) {
                    Ok(()) => return,
                    Err(back) => grant = back,
                }
            }
            match grant {
                Grant::H1(connection) if state.idle.len() < self.max_idle && !state.retired => {
                    state.idle.push_back(*connection);
                    None
                }
                other => Some(other),
            }
        };
        drop(surplus);
    }

    /// Room has come up on a shared connection: whoever waits in line looks again.
    pub fn look_again(&self) {
        let line = std::mem::take(&mut self.lock().line);
        // Dropped outside the lock; a waiter whose sender is gone starts over.
        drop(line);
    }

    /// Lets others use an HTTP/2 connection too. Several may be open after a cold start; the sweep closes
    /// those that stay without work.
    pub fn share(&self, connection: H2) {
        {
            let mut state = self.lock();
            state.shared.retain(H2::is_open);
            if !state.retired {
                state.shared.push(connection);
            }
        }
        self.look_again();
    }

    /// Closes what is idle for too long or was closed by the peer.
    pub fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut shared_gone = Vec::new();
        {
            let mut state = self.lock();
            let kept = std::mem::take(&mut state.idle);
            for mut connection in kept {
                if now.duration_since(connection.idle_since) < IDLE_MAX && connection.is_alive() {
                    state.idle.push_back(connection);
                } else {
                    gone.push(connection);
                }
            }
            let (open, closed): (Vec<_>, Vec<_>) =
                std::mem::take(&mut state.shared).into_iter().partition(|c| c.is_open() && !c.is_stale(now));
            state.shared = open;
            shared_gone.extend(closed);
        }
        drop(gone);
        drop(shared_gone);
    }

    /// Closes what is idle, and keeps nothing from now on: the next configuration has no such path. Requests under way
    /// finish, and those of the old configuration that are still to come open connections of their own.
    pub fn retire(&self) {
        let (idle, shared) = {
            let mut state = self.lock();
            state.retired = true;
            (std::mem::take(&mut state.idle), std::mem::take(&mut state.shared))
        };
        drop(idle);
        drop(shared);
    }

    /// Open connections, and those of them that are idle.
    pub fn count(&self) -> (usize, usize) {
        let state = self.lock();
        (state.open, state.idle.len())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The most recently used living connection, this worker's own first. What is found dead goes to `dead`,
    /// to be dropped outside the lock (its slot takes it).
    fn kept(&mut self, want: Want, now: Instant, dead: &mut Vec<H1>) -> Option<Grant> {
        if let Some(shared) = self.shared.iter().find(|c| c.is_open() && c.has_room()) {
            return Some(Grant::H2(shared.enter(now)));
        }
        if want == Want::NotKept {
            return None;
        }
        let worker = crate::worker::current();
        loop {
            let own = self.idle.iter().rposition(|c| c.worker == worker);
            let at = own.or_else(|| self.idle.len().checked_sub(1))?;
            let mut connection = self.idle.remove(at)?;
            if now.duration_since(connection.idle_since) < IDLE_MAX && connection.is_alive() {
                return Some(Grant::H1(Box::new(connection)));
            }
            dead.push(connection);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let pool = &self.0;
        let next = {
            let mut state = pool.lock();
            match state.line.pop_front() {
                // The place changes hands without becoming free in between.
                Some(next) => next,
                None => {
                    state.open -= 1;
                    return;
                }
            }
        };
        // A caller that has left drops the grant, and this runs again for the one behind it.
        drop(next.send(Grant::Slot(Self(Arc::clone(pool)))));
    }
}
