//! Step 7: an answer that is kept, or that is being made for another client right now.
//!
//! What may be shared is decided by the route (`cache`), the client (`cache-control`, `Idempotency-Key`) and the body
//! (`tidegate_wire::cacheable`). What is shared is made by a run of its own, which no client's leaving ends as long as
//! another waits for it; so the client that began it is served like those that join, and each has its own deadline.
//! While the store is away each node shares among its own clients. Not here: how answers are kept and runs handed over
//! (`tidegate_store::answers`).

mod about;
mod plan;
mod run;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tidegate_store::answers::{Follower, Found, Head, Joined, Kept, Lead, Read};
use tokio::time::{Instant, timeout_at};

use crate::answer::Answer;
use crate::error::GatewayError;
use crate::request::accept::{Accepted, CacheResult};
use crate::request::relay::shared::{Form, Shared};
use crate::request::route::Call;
use about::About;
use plan::Plan;
use run::Made;

/// What came of looking for an answer.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, and a box would cost every request one")]
pub enum Sharing {
    /// There is one.
    Answer(Response<Answer>),
    /// The request goes its own way.
    Alone(Call),
}

/// Looks for a kept answer or a run to join, and begins a run where there is none. `allowed` bounds the wait for the
/// store.
pub async fn share(accepted: &mut Accepted, call: Call, allowed: Duration) -> Result<Sharing, GatewayError> {
    let gateway = Arc::clone(&accepted.gateway);
    let Some(plan) = Plan::of(&gateway, &call) else {
        return if call.parsed.control.only_if_cached {
            Err(GatewayError::NotKept)
        } else {
            Ok(Sharing::Alone(call))
        };
    };
    let asked = Instant::now();
    let found = gateway.answers.find(plan.key, &plan.rules, plan.read, &plan.note, allowed).await;
    let allowed = allowed.saturating_sub(asked.elapsed());
    let answer = match found {
        Found::Hit(kept, age) => hit(accepted, &plan, &kept, age),
        Found::Missing => return Err(GatewayError::NotKept),
        Found::Conflict => return Err(GatewayError::KeyReused),
        Found::Alone => None,
        Found::Lead(lead) => Some(lead_run(accepted, &plan, &call, lead, allowed).await?),
        Found::Follow(follower) => follow(accepted, &plan, &call, follower, allowed).await?,
    };
    Ok(answer.map_or(Sharing::Alone(call), Sharing::Answer))
}

/// A kept answer, in the form the client asked for; `None` where it cannot be had in that form.
fn hit(accepted: &mut Accepted, plan: &Plan, kept: &Arc<Kept>, age: Duration) -> Option<Response<Answer>> {
    let mut response = if plan.is_other(&kept.head) {
        convert(accepted, plan, &kept.head, &kept.pieces)?
    } else {
        let form = plan.form(&kept.head);
        let shared = Shared::replay(Arc::clone(kept), form, accepted.gateway.metrics.streams.clone());
        response(accepted, &kept.head, Answer::Shared(Box::new(shared)))
    };
    response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    accepted.cache = CacheResult::Hit;
    accepted.waive();
    accepted.note(|settle| settle.trail.first_content = Some(settle.trail.start.elapsed()));
    Some(response)
}

/// Waits for an answer that is being made; takes over where its maker fails. `None`: it cannot be shared after all.
async fn follow(
    accepted: &mut Accepted,
    plan: &Plan,
    call: &Call,
    mut follower: Follower,
    allowed: Duration,
) -> Result<Option<Response<Answer>>, GatewayError> {
    let began = Instant::now();
    let joined = timeout_at(call.deadline, follower.head()).await;
    accepted.note(|settle| settle.trail.upstream_wait += began.elapsed());
    let head = match joined.map_err(|_| GatewayError::Deadline)? {
        Joined::Head(head) => head,
        Joined::Lead(lead) => return lead_run(accepted, plan, call, lead, allowed).await.map(Some),
        Joined::Alone => return Ok(None),
        Joined::Conflict => return Err(GatewayError::KeyReused),
        Joined::Failed(about) => return Err(GatewayError::to_follower(&about)),
    };
    let streams = accepted.gateway.metrics.streams.clone();
    let mut shared = Shared::follow(follower, None, plan.form(&head), call.deadline, streams);
    let response = if plan.is_other(&head) {
        let began = Instant::now();
        let all = timeout_at(call.deadline, shared.collect()).await.map_err(|_| GatewayError::Deadline)?;
        accepted.note(|settle| settle.trail.upstream_wait += began.elapsed());
        // Nothing has gone to this client: what broke, or cannot be had in its form, it may have made anew.
        let Some(response) = all.ok().and_then(|pieces| convert(accepted, plan, &head, &pieces)) else {
            return Ok(None);
        };
        response
    } else {
        response(accepted, &head, Answer::Shared(Box::new(shared)))
    };
    accepted.waive();
    if accepted.cache != CacheResult::Stale {
        accepted.cache = CacheResult::Coalesced;
    }
    accepted.note(|settle| settle.trail.first_content = Some(settle.trail.start.elapsed()));
    Ok(Some(response))
}

/// Starts the run and serves the client that began it from it.
async fn lead_run(
    accepted: &mut Accepted,
    plan: &Plan,
    call: &Call,
    lead: Lead,
    allowed: Duration,
) -> Result<Response<Answer>, GatewayError> {
    accepted.cache = plan.missed();
    let began = Instant::now();
    let (story, told) = run::start(accepted, plan, call, lead, allowed).await;
    let told = timeout_at(call.deadline, told).await;
    accepted.note(|settle| {
        let met = story.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waited = settle.trail.upstream_wait + began.elapsed();
        settle.trail = met;
        if told.is_err() {
            // The run has not come to an end of its own, and its attempt is under way.
            settle.trail.attempts = settle.trail.attempts.max(1);
            settle.trail.upstream_wait = waited;
        }
    });
    // A run that ended without a word has panicked.
    let made = told.map_err(|_| GatewayError::Deadline)?.map_err(|_| GatewayError::Internal)?;
    let Made { head, headers, follower } = made?;
    let streams = accepted.gateway.metrics.streams.clone();
    let mut shared = Shared::follow(follower, Some(story), plan.form(&head), call.deadline, streams);
    if plan.is_other(&head) {
        // Only what was kept before comes in another form than was asked for.
        let all = timeout_at(call.deadline, shared.collect()).await.map_err(|_| GatewayError::Deadline)?;
        let pieces = all.map_err(|_| GatewayError::Internal)?;
        return convert(accepted, plan, &head, &pieces).ok_or(GatewayError::Internal);
    }
    let mut response = response(accepted, &head, Answer::Shared(Box::new(shared)));
    let own: Vec<HeaderName> = response.headers().keys().cloned().collect();
    for (name, value) in headers.iter().filter(|(name, _)| !own.contains(name)) {
        response.headers_mut().append(name, value.clone());
    }
    Ok(response)
}

/// A plain answer as a stream, or a stream as a plain answer.
fn convert(accepted: &mut Accepted, plan: &Plan, head: &Head, pieces: &[Bytes]) -> Option<Response<Answer>> {
    let (body, content_type) = if plan.stream {
        let events = tidegate_wire::replay::unfold(plan.dialect, pieces.first()?, plan.usage)?;
        let shared = Shared::made(events, accepted.gateway.metrics.streams.clone());
        (Answer::Shared(Box::new(shared)), "text/event-stream")
    } else {
        (Answer::Whole(run::folded(plan.dialect, pieces)?.into()), "application/json")
    };
    let head = Head { content_type: content_type.to_owned(), streamed: plan.stream, ..head.clone() };
    Some(response(accepted, &head, body))
}

fn response(accepted: &mut Accepted, head: &Head, body: Answer) -> Response<Answer> {
    let about = About::read(&head.about);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    about.put(headers);
    if let Ok(value) = HeaderValue::from_str(&head.content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    // No cache on the way may keep what a POST was answered with.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if head.streamed {
        // A buffering proxy in front of us would undo the flush per event.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    if let Some(age) = about.stale {
        headers.insert(header::AGE, HeaderValue::from(age));
        accepted.cache = CacheResult::Stale;
    }
    accepted.note(|settle| settle.trail.fell_back |= about.fallback);
    response
}

impl Plan {
    fn form(&self, head: &Head) -> Form {
        Form {
            dialect: self.dialect,
            streamed: head.streamed,
            drop_usage: head.streamed && !self.usage,
            length: About::read(&head.about).length,
        }
    }

    /// The answer is a stream and the client wants none, or the other way round.
    fn is_other(&self, head: &Head) -> bool {
        self.converts
            && head.streamed != self.stream
            && StatusCode::from_u16(head.status).is_ok_and(|status| status.is_success())
    }

    /// A client that names its own request, or will not have what is kept, gets its answer past the cache.
    const fn missed(&self) -> CacheResult {
        match self.read {
            _ if self.idempotent => CacheResult::Bypass,
            Read::Fresh => CacheResult::Bypass,
            Read::Normal | Read::MaxAge(_) | Read::OnlyIfCached => CacheResult::Miss,
        }
    }
}
