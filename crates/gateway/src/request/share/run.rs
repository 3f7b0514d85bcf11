//! A run: an answer made for all who wait for it.
//!
//! A task of the worker whose client began it. It ends early only when nobody waits any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http_body::Body as _;
use tidegate_store::answers::{Follower, Head, Kept, Lead};
use tidegate_wire::answer::Dialect;
use tidegate_wire::{cacheable, replay, sse};
use tokio::sync::oneshot;

use super::about::About;
use super::plan::Plan;
use crate::answer::Answer;
use crate::bill::Bill;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::request::accept::Accepted;
use crate::request::attempt;
use crate::request::relay::{self, Owner};
use crate::request::route::Call;
use crate::request::settle::End;
use crate::request::trail::Trail;

/// Beyond the deadline, for the run itself to say that it has passed.
pub const SPARE: Duration = Duration::from_millis(250);

/// What a run met so far; its last word is there when the body has ended.
pub type Story = Arc<Mutex<Trail>>;

/// A run whose answer has begun.
pub struct Made {
    /// Of the answer.
    pub head: Head,
    /// For the client that began it.
    pub follower: Follower,
    /// What it met.
    pub story: Story,
    /// A kept answer past its time stands in; this old.
    pub stale: Option<Duration>,
}

type Told = oneshot::Sender<Result<Made, GatewayError>>;

/// Begins a run; the answer's beginning, or why there is none, comes through what is returned.
pub async fn start(
    accepted: &mut Accepted,
    plan: &Plan,
    call: &Call,
    lead: Lead,
) -> oneshot::Receiver<Result<Made, GatewayError>> {
    let gateway = Arc::clone(&accepted.gateway);
    let mut call = call.clone();
    // Others may not read the coding that this client does.
    call.parsed.headers.remove(header::ACCEPT_ENCODING);
    let stale = if plan.rules.stale.is_zero() {
        None
    } else {
        gateway.answers.stale(plan.key, &plan.note, gateway.limits.timeout()).await
    };
    call.has_stale = stale.is_some();
    let id = accepted.settle.as_ref().map(|settle| settle.trail.request_id.clone());
    let mut trail = Trail::begin(id.unwrap_or(HeaderValue::from_static("0")));
    let mut bill = None;
    accepted.note(|settle| {
        trail.start = settle.trail.start;
        bill = settle.bill.take();
    });
    let (told, made) = oneshot::channel();
    let run = Run {
        gateway,
        bill,
        story: Arc::new(Mutex::new(trail)),
        dialect: plan.dialect,
        idempotent: plan.idempotent,
        stale,
    };
    tokio::spawn(run.go(call, lead, told));
    made
}

struct Run {
    gateway: Arc<Gateway>,
    bill: Option<Bill>,
    story: Story,
    dialect: Dialect,
    idempotent: bool,
    stale: Option<(Arc<Kept>, Duration)>,
}

impl Run {
    async fn go(mut self, call: Call, lead: Lead, mut told: Told) {
        let mut trail = self.story().clone();
        let gateway = Arc::clone(&self.gateway);
        let result = tokio::select! {
            biased;
            result = Box::pin(attempt::attempt(&gateway, &mut trail, call)) => result,
            () = nobody(&mut told, &lead) => return self.write(&trail),
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
        let (parts, mut body) = relay::relay(&gateway, answered, false).into_parts();
        let text =
            |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let head = Head {
            status: parts.status.as_u16(),
            content_type: text(header::CONTENT_TYPE).to_owned(),
            streamed: matches!(body, Answer::Relay(_)),
            about: About::of(&body, text(header::CONTENT_ENCODING)).to_string(),
        };
        let is_plain = text(header::CONTENT_ENCODING).is_empty();
        if matches!(body, Answer::Whole(_)) && trail.end == End::Running {
            trail.end = End::of_status(parts.status);
        }
        self.write(&trail);
        match &mut body {
            Answer::Relay(relay) => relay.owner = Owner::Run(Box::new(trail)),
            Answer::Passage(passage) => passage.owner = Owner::Run(Box::new(trail)),
            Answer::Whole(_) | Answer::Shared(_) => {}
        }
        self.began(&lead, &head, told, None);
        let mut pieces = Vec::new();
        let whole = loop {
            let next = tokio::select! {
                biased;
                next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)) => next,
                () = lead.unwanted() => break false,
            };
            self.hear(&mut body);
            match next {
                None => break true,
                // A break is told by each client's own event.
                Some(_) if matches!(self.story().end, End::Interrupted(_)) => break false,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    pieces.push(piece.clone());
                    lead.piece(piece).await;
                }
            }
        };
        if !whole {
            return lead.fail();
        }
        let may_keep = head.status == 200 && is_plain && !fell_back && self.may_keep(&head, &pieces);
        lead.complete(if self.idempotent { parts.status.is_success() } else { may_keep });
    }

    /// Serves what was kept, though its time has passed.
    async fn stand_in(mut self, lead: Lead, told: Told, mut trail: Trail, kept: &Kept, age: Duration) {
        self.bill = None;
        trail.end = End::Success;
        trail.usage = None;
        trail.no_retry = false;
        trail.path = None;
        self.write(&trail);
        self.began(&lead, &kept.head, told, Some(age));
        for piece in &kept.pieces {
            lead.piece(piece.clone()).await;
        }
        lead.complete(false);
    }

    /// Lets those who wait know that there is an answer.
    fn began(&self, lead: &Lead, head: &Head, told: Told, stale: Option<Duration>) {
        lead.head(head.clone());
        let made =
            Made { head: head.clone(), follower: lead.follower(), story: Arc::clone(&self.story), stale };
        // The client that began it may have left.
        let _ = told.send(Ok(made));
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

/// Nobody waits: neither the client that began it nor any other.
async fn nobody(told: &mut Told, lead: &Lead) {
    told.closed().await;
    lead.unwanted().await;
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
