//! A run: an answer made for all who wait for it.
//!
//! A task of the worker whose client began it, with the route's time, while each client keeps its own. It ends early
//! only when nobody waits any more; one that has an `Idempotency-Key` goes on even then, because the client whose
//! connection broke will ask for it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body as _;
use tidegate_store::answers::{Follower, Head, Kept, Lead, Read};
use tidegate_wire::answer::Dialect;
use tidegate_wire::usage_option::ask_for_usage;
use tidegate_wire::{cacheable, replay, sse};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::about::About;
use super::plan::Plan;
use crate::answer::Answer;
use crate::bill::Bill;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::request::accept::Accepted;
use crate::request::attempt;
use crate::request::relay::{self, Owner, UPSTREAMS_WORD};
use crate::request::route::Call;
use crate::request::settle::End;
use crate::request::trail::Trail;

/// What a run met so far; its last word is there when the body has ended.
pub type Story = Arc<Mutex<Trail>>;

/// A run whose answer has begun.
pub struct Made {
    /// Of the answer.
    pub head: Head,
    /// All that the upstream sent.
    pub headers: HeaderMap,
    /// For the client that began it.
    pub follower: Follower,
}

type Told = oneshot::Sender<Result<Made, GatewayError>>;

/// Begins a run. What it meets is in the first of what is returned; the answer's beginning, or why there is none,
/// comes through the second. `allowed` bounds the wait for the store.
pub async fn start(
    accepted: &mut Accepted,
    plan: &Plan,
    call: &Call,
    lead: Lead,
    allowed: Duration,
) -> (Story, oneshot::Receiver<Result<Made, GatewayError>>) {
    let gateway = Arc::clone(&accepted.gateway);
    let mut call = call.clone();
    // Others may not read the coding that this client does.
    call.parsed.headers.remove(header::ACCEPT_ENCODING);
    if let Some(route) = gateway.routes.get(call.route) {
        call.deadline = Instant::now() + if call.parsed.stream { route.stream_total } else { route.total };
        call.deadline_is_clients = false;
    }
    if plan.converts
        && call.parsed.stream
        && let Some(body) = ask_for_usage(&call.parsed.body)
    {
        // Others may want it, and so does a plain answer that is made of the stream.
        call.parsed.body = body;
    }
    let stale = match plan.read {
        Read::Normal if !plan.rules.stale.is_zero() => {
            gateway.answers.stale(plan.key, &plan.note, allowed).await
        }
        _ => None,
    };
    call.has_stale = stale.is_some();
    let id = accepted.settle.as_ref().map(|settle| settle.trail.request_id.clone());
    let mut trail = Trail::begin(id.unwrap_or(HeaderValue::from_static("0")));
    let mut bill = None;
    accepted.note(|settle| {
        trail.start = settle.trail.start;
        trail.upstream_wait = settle.trail.upstream_wait;
        bill = settle.bill.take();
    });
    let (told, made) = oneshot::channel();
    let story = Arc::new(Mutex::new(trail));
    let run = Run {
        gateway,
        bill,
        story: Arc::clone(&story),
        dialect: plan.dialect,
        idempotent: plan.idempotent,
        max_size: plan.rules.max_size,
        stale,
    };
    crate::worker::spawn(run.go(call, lead, told));
    (story, made)
}

struct Run {
    gateway: Arc<Gateway>,
    bill: Option<Bill>,
    story: Story,
    dialect: Dialect,
    idempotent: bool,
    max_size: usize,
    stale: Option<(Arc<Kept>, Duration)>,
}

impl Run {
    async fn go(mut self, call: Call, lead: Lead, mut told: Told) {
        let mut trail = self.story().clone();
        let gateway = Arc::clone(&self.gateway);
        let result = tokio::select! {
            biased;
            result = Box::pin(attempt::attempt(&gateway, &mut trail, call)) => result,
            () = self.unwanted(Some(&mut told), &lead) => return self.write(&trail),
            () = gateway.drain.cut.cancelled() => Err(GatewayError::Draining),
        };
        let failed = result.as_ref().map_or(true, |answered| answered.status.is_server_error());
        if failed && let Some((kept, age)) = self.stale.take() {
            return self.stand_in(lead, told, trail, &kept, age).await;
        }
        let answered = match result {
            Ok(answered) => answered,
            Err(error) => {
                trail.end = End::of(&error);
                self.write(&trail);
                // First the client that began it: the others may yet get an answer.
                let about = error.to_followers();
                let _ = told.send(Err(error));
                return lead.fail_with(about);
            }
        };
        let fell_back = trail.fell_back;
        let (parts, mut body) = relay::relay(&gateway, answered, relay::For::Run).into_parts();
        let about = About::of(&body, &parts.headers, fell_back);
        let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let head = Head {
            status: parts.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            streamed: matches!(body, Answer::Relay(_)),
            about: about.write(),
        };
        if matches!(body, Answer::Whole(_)) && trail.end == End::Running {
            trail.end = End::of_status(parts.status);
        }
        self.write(&trail);
        match &mut body {
            Answer::Relay(relay) => relay.owner = Owner::Run(Box::new(trail)),
            Answer::Passage(passage) => passage.owner = Owner::Run(Box::new(trail)),
            Answer::Whole(_) | Answer::Shared(_) => {}
        }
        self.began(&lead, &head, parts.headers, told);
        let judged = !self.idempotent && head.status == 200 && about.is_plain() && !fell_back;
        let mut gathered = Gathered { pieces: judged.then(Vec::new), size: 0, max_size: self.max_size };
        loop {
            let next = tokio::select! {
                biased;
                next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)) => next,
                () = self.unwanted(None, &lead) => return lead.fail(),
            };
            self.hear(&mut body);
            let end = self.story().end;
            match (next, end) {
                (None, _) => break,
                (Some(next), End::Interrupted(code)) => {
                    // The upstream's own word goes on; any other break is told by each client's own event.
                    if code == UPSTREAMS_WORD
                        && let Ok(Ok(piece)) = next.map(http_body::Frame::into_data)
                    {
                        lead.piece(piece).await;
                    }
                    return lead.break_with(code.to_owned());
                }
                (Some(Err(_)), _) => return lead.fail(),
                (Some(Ok(frame)), _) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    gathered.add(&piece);
                    lead.piece(piece).await;
                }
            }
        }
        let may_keep = match gathered.pieces {
            Some(pieces) => self.may_keep(&head, &pieces),
            None => self.idempotent && parts.status.is_success(),
        };
        lead.complete(may_keep);
    }

    /// Serves what was kept, though its time has passed.
    async fn stand_in(mut self, lead: Lead, told: Told, mut trail: Trail, kept: &Kept, age: Duration) {
        self.bill = None;
        trail.end = End::Success;
        trail.usage = None;
        trail.no_retry = false;
        trail.path = None;
        trail.first_content = Some(trail.start.elapsed());
        self.write(&trail);
        let head = Head { about: About::stale(&kept.head.about, age).write(), ..kept.head.clone() };
        self.began(&lead, &head, HeaderMap::new(), told);
        for piece in &kept.pieces {
            lead.piece(piece.clone()).await;
        }
        lead.complete(false);
    }

    /// Lets those who wait know that there is an answer.
    fn began(&self, lead: &Lead, head: &Head, headers: HeaderMap, told: Told) {
        lead.head(head.clone());
        // The client that began it may have left.
        let _ = told.send(Ok(Made { head: head.clone(), headers, follower: lead.follower() }));
    }

    fn may_keep(&self, head: &Head, pieces: &[Bytes]) -> bool {
        if head.streamed {
            folded(self.dialect, pieces).is_some_and(|body| cacheable::may_keep(self.dialect, &body))
        } else {
            matches!(pieces, [body] if cacheable::may_keep(self.dialect, body))
        }
    }

    /// Takes over what the body knows of itself by now.
    fn hear(&self, body: &mut Answer) {
        let owner = match body {
            Answer::Relay(relay) => &mut relay.owner,
            Answer::Passage(passage) => &mut passage.owner,
            Answer::Whole(_) | Answer::Shared(_) => return,
        };
        if let Some(trail) = owner.trail() {
            let mut story = self.story();
            story.usage = trail.usage;
            story.emitted = trail.emitted;
            story.end = trail.end;
        }
    }

    /// Completes when nobody waits: neither the client that began it, where that has not been told yet, nor another.
    async fn unwanted(&self, told: Option<&mut Told>, lead: &Lead) {
        if self.idempotent {
            return std::future::pending().await;
        }
        if let Some(told) = told {
            told.closed().await;
        }
        lead.unwanted().await;
    }

    fn story(&self) -> std::sync::MutexGuard<'_, Trail> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, trail: &Trail) {
        self.story().clone_from(trail);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(bill) = self.bill.take() {
            bill.pay(&self.gateway, &self.story());
        }
    }
}

/// What is looked at before it is kept; given up where it grows too large for that.
struct Gathered {
    pieces: Option<Vec<Bytes>>,
    size: usize,
    max_size: usize,
}

impl Gathered {
    fn add(&mut self, piece: &Bytes) {
        self.size += piece.len();
        if self.size > self.max_size {
            self.pieces = None;
        }
        if let Some(pieces) = &mut self.pieces {
            pieces.push(piece.clone());
        }
    }
}

/// A stream's events as the plain answer they make up.
pub fn folded(dialect: Dialect, pieces: &[Bytes]) -> Option<Vec<u8>> {
    let mut splitter = sse::Splitter::new(usize::MAX);
    let mut events = Vec::new();
    for piece in pieces {
        splitter.push(piece.clone());
        while let Ok(Some(event)) = splitter.next_event() {
            if let Some(data) = event.data().filter(|data| data.trim_ascii() != b"[DONE]") {
                events.push(data.into_owned());
            }
        }
    }
    let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
    replay::fold(dialect, &events)
}
