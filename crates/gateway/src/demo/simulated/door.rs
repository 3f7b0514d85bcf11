//! What stands in front of a simulated upstream: lets requests in, drops them or leaves them waiting, and notes
//! what kind each was.
//!
//! Answers that have begun are let to finish, as they are when a process is told to stop: a stream that is cut
//! after its first words cannot be moved by any gateway. Not here: the answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::demo::users::WORDS;

/// No user of a demo asks for less: what does is a copy, or made up.
const FEW_TOKENS: u64 = 16;
/// Requests that are remembered.
const KEPT: usize = 20_000;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What becomes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are answered.
    Up,
    /// Their connection is closed without an answer.
    Down,
    /// They are taken, and never answered.
    Hanging,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A user, through the gateway.
    User,
    /// The gateway, with a copy of a user's request.
    Copy,
    /// The gateway, with a request of its own.
    MadeUp,
    /// The gateway's prober.
    Probe,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    kind: Kind,
    /// It was let in.
    passed: bool,
}

/// How many requests of each kind came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// `Kind::User`
    pub users: usize,
    /// `Kind::Copy`
    pub copies: usize,
    /// Of those, the ones that are answered.
    pub copies_answered: usize,
    /// `Kind::MadeUp`
    pub made_up: usize,
    /// `Kind::Probe`
    pub probes: usize,
}

/// One simulated upstream, from outside.
#[derive(Debug)]
pub struct Door {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    mode: AtomicU8,
    seen: Mutex<VecDeque<Seen>>,
}

impl Door {
    /// Up.
    pub fn new(name: &'static str, address: SocketAddr) -> Self {
        Self { name, address, mode: AtomicU8::new(Mode::Up as u8), seen: Mutex::default() }
    }

    /// Holds for requests from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    /// What came within a span of time, whatever became of it.
    pub fn seen(&self, within: Range<Instant>) -> Counts {
        let mut counts = Counts::default();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for Seen { kind, passed, .. } in seen.iter().filter(|seen| within.contains(&seen.at)) {
            counts.copies_answered += usize::from(*kind == Kind::Copy && *passed);
            *match kind {
                Kind::User => &mut counts.users,
                Kind::Copy => &mut counts.copies,
                Kind::MadeUp => &mut counts.made_up,
                Kind::Probe => &mut counts.probes,
            } += 1;
        }
        counts
    }

    /// Takes connections for as long as the runtime lives.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, router: Router) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (door, router) = (Arc::clone(&self), router.clone());
            let service = service_fn(move |request| Arc::clone(&door).pass(request, router.clone()));
            // It fails whenever the other side goes away, or when a request is dropped.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn pass(
        self: Arc<Self>,
        request: Request<Incoming>,
        router: Router,
    ) -> anyhow::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mode = self.mode.load(Ordering::Relaxed);
        self.note(kind_of(&head.method, &body), mode == Mode::Up as u8);
        if mode == Mode::Down as u8 {
            anyhow::bail!("down");
        }
        if mode == Mode::Hanging as u8 {
            return std::future::pending().await;
        }
        let request = Request::from_parts(head, Full::new(body));
        let answer: Result<_, Infallible> = TowerToHyperService::new(router).call(request).await;
        Ok(answer?)
    }

    fn note(&self, kind: Kind, passed: bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= KEPT {
            seen.pop_front();
        }
        seen.push_back(Seen { at: Instant::now(), kind, passed });
    }
}

fn kind_of(method: &Method, body: &Bytes) -> Kind {
    if method == Method::GET {
        return Kind::Probe;
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let most = ["max_tokens", "max_completion_tokens"].iter().find_map(|key| body.get(key)?.as_u64());
    if most.is_none_or(|most| most > FEW_TOKENS) {
        return Kind::User;
    }
    let words = body.pointer("/messages/0/content").and_then(Value::as_str).unwrap_or_default();
    if words.starts_with(WORDS) { Kind::Copy } else { Kind::MadeUp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_copies_made_up_requests_and_users_are_told_apart() {
        let kind = |method: Method, body: &str| kind_of(&method, &Bytes::copy_from_slice(body.as_bytes()));
        let chat = |words: &str, rest: &str| {
            format!(r#"{{"messages":[{{"role":"user","content":"{words}"}}]{rest}}}"#)
        };
        assert_eq!(kind(Method::GET, ""), Kind::Probe);
        assert_eq!(kind(Method::POST, &chat(WORDS, "")), Kind::User);
        assert_eq!(kind(Method::POST, &chat(WORDS, r#","max_tokens":256"#)), Kind::User);
        assert_eq!(kind(Method::POST, &chat(WORDS, r#","max_tokens":16"#)), Kind::Copy);
        assert_eq!(
            kind(Method::POST, &chat("Reply with: ok", r#","max_completion_tokens":16"#)),
            Kind::MadeUp
        );
    }

    #[test]
    fn only_what_came_within_the_span_is_counted() {
        let door = Door::new("a", SocketAddr::from(([127, 0, 0, 1], 1)));
        let before = Instant::now();
        door.note(Kind::User, true);
        door.note(Kind::Copy, true);
        door.note(Kind::Copy, false);
        let after = Instant::now() + Duration::from_millis(1);
        let counts = Counts { users: 1, copies: 2, copies_answered: 1, ..Counts::default() };
        assert_eq!(door.seen(before..after), counts);
        assert_eq!(door.seen(after..after + Duration::from_secs(1)), Counts::default());
    }
}
