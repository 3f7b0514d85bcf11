//! Between the limits and the attempts: an answer that is kept, or that is being made for another client right now.
//!
//! What may be shared is decided by the route (`cache`), the client (`cache-control`, `Idempotency-Key`) and the body
//! (`tidegate_wire::cacheable`). What is shared is made by a run of its own, which no client's leaving ends as long as
//! another waits for it; so the client that began it is served like those that join. While the store is away each node
//! shares among its own clients. Not here: how answers are kept and runs handed over (`tidegate_store::answers`).

mod about;
mod plan;
mod run;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, StatusCode, header};
use tidegate_store::answers::{Found, Head, Joined, Kept, Lead, Read};
use tokio::time::timeout_at;

use crate::answer::Answer;
use crate::error::GatewayError;
use crate::request::accept::{Accepted, CacheResult};
use crate::request::relay::shared::{Form, Shared};
use crate::request::route::Call;
use about::About;
use plan::Plan;
use run::Made;

/// What came of looking for an answer.
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
    let Some(plan) = Plan::of(&gateway, &call) else { return Ok(Sharing::Alone(call)) };
    let found = gateway.answers.find(plan.key, &plan.rules, plan.read, &plan.note, allowed).await;
    let mut joined = match found {
        Found::Hit(kept, age) => {
            accepted.cache = CacheResult::Hit;
            return kept_answer(accepted, &plan, &kept, age).map(Sharing::Answer);
        }
        Found::Missing => return Err(GatewayError::NotKept),
        Found::Conflict => return Err(GatewayError::KeyReused),
        Found::Alone => return Ok(Sharing::Alone(call)),
        Found::Lead(lead) => Joined::Lead(lead),
        Found::Follow(mut follower) => {
            let joined =
                timeout_at(call.deadline, follower.head()).await.map_err(|_| GatewayError::Deadline)?;
            accepted.cache = CacheResult::Coalesced;
            if let Joined::Head(head) = joined {
                accepted.waive();
                let shared = Shared::follow(follower, None, plan.form(&head));
                return answer(&plan, &call, head, shared).await.map(Sharing::Answer);
            }
            joined
        }
    };
    loop {
        match joined {
            Joined::Lead(lead) => {
                accepted.cache = plan.missed();
                return lead_run(accepted, &plan, &call, lead).await.map(Sharing::Answer);
            }
            Joined::Alone => return Ok(Sharing::Alone(call)),
            Joined::Conflict => return Err(GatewayError::KeyReused),
            Joined::Failed(about) => return Err(GatewayError::to_follower(&about)),
            // Only ever the first thing heard.
            Joined::Head(_) => joined = Joined::Alone,
        }
    }
}

/// Starts the run and serves the client that began it from it.
async fn lead_run(
    accepted: &mut Accepted,
    plan: &Plan,
    call: &Call,
    lead: Lead,
) -> Result<Response<Answer>, GatewayError> {
    let told = run::start(accepted, plan, call, lead).await;
    let told = timeout_at(call.deadline + run::SPARE, told).await.map_err(|_| GatewayError::Deadline)?;
    let Made { head, follower, story, stale } = told.map_err(|_| GatewayError::Internal)??;
    if let Some(settle) = &mut accepted.settle {
        let trail = story.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        settle.trail = trail;
    }
    if stale.is_some() {
        accepted.cache = CacheResult::Stale;
        accepted.note(|settle| settle.trail.path = None);
    }
    let shared = Shared::follow(follower, Some(story), plan.form(&head));
    let mut response = answer(plan, call, head, shared).await?;
    if let Some(age) = stale {
        response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    }
    Ok(response)
}

/// The answer of a run, in the form the client asked for.
async fn answer(
    plan: &Plan,
    call: &Call,
    head: Head,
    mut shared: Shared,
) -> Result<Response<Answer>, GatewayError> {
    let whole =
        StatusCode::from_u16(head.status).is_ok_and(|s| s.is_success()) && head.streamed != plan.stream;
    if whole && plan.converts {
        let all = timeout_at(call.deadline, shared.collect()).await.map_err(|_| GatewayError::Deadline)?;
        let pieces = all.map_err(|_| GatewayError::Upstream(tidegate_router::outcome::Class::Cut))?;
        return convert(plan, &head, &pieces);
    }
    Ok(response(plan, &head, Answer::Shared(Box::new(shared))))
}

/// A kept answer, in the form the client asked for.
fn kept_answer(
    accepted: &mut Accepted,
    plan: &Plan,
    kept: &Arc<Kept>,
    age: Duration,
) -> Result<Response<Answer>, GatewayError> {
    accepted.waive();
    let head = &kept.head;
    let mut response = if head.streamed != plan.stream && plan.converts {
        convert(plan, head, &kept.pieces)?
    } else {
        let shared = Shared::replay(Arc::clone(kept), plan.form(head));
        response(plan, head, Answer::Shared(Box::new(shared)))
    };
    response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    Ok(response)
}

/// A plain answer as a stream, or a stream as a plain answer.
fn convert(plan: &Plan, head: &Head, pieces: &[bytes::Bytes]) -> Result<Response<Answer>, GatewayError> {
    let made = if plan.stream {
        let events =
            pieces.first().and_then(|body| tidegate_wire::replay::unfold(plan.dialect, body, plan.usage));
        events.map(|events| (Answer::Shared(Box::new(Shared::made(events))), "text/event-stream"))
    } else {
        let body = run::folded(plan.dialect, pieces);
        body.map(|body| (Answer::Whole(body.into()), "application/json"))
    };
    // A client waits for it and nothing was sent: better an error that it may repeat than an answer of the wrong form.
    let (body, content_type) = made.ok_or(GatewayError::Internal)?;
    let head = Head { content_type: content_type.to_owned(), about: String::new(), ..head.clone() };
    Ok(response(plan, &head, body))
}

fn response(plan: &Plan, head: &Head, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&head.content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Some(coding) = About::from(head.about.as_str()).coding
        && let Ok(value) = HeaderValue::from_str(coding)
    {
        headers.insert(header::CONTENT_ENCODING, value);
    }
    // No cache on the way may keep what a POST was answered with.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    if plan.is_stream(head) {
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
    response
}

impl Plan {
    fn form(&self, head: &Head) -> Form {
        Form {
            dialect: self.dialect,
            streamed: head.streamed,
            drop_usage: head.streamed && !self.usage,
            length: About::from(head.about.as_str()).length,
        }
    }

    /// A client that brings its own key, or will not have what is kept, gets its answer past the cache.
    const fn missed(&self) -> CacheResult {
        match self.read {
            _ if self.idempotent => CacheResult::Bypass,
            Read::Fresh => CacheResult::Bypass,
            Read::Normal | Read::MaxAge(_) | Read::OnlyIfCached => CacheResult::Miss,
        }
    }

    const fn is_stream(&self, head: &Head) -> bool {
        head.streamed && self.stream
    }
}
