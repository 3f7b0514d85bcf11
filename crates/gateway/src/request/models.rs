//! `GET /v1/models`: what the routes admit, merged over their upstreams.
//!
//! Every upstream is asked once, all at the same time, through the attempt engine; one that does not answer
//! is left out, and only when none answers is that an error.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderValue, Response, header};
use tidegate_router::outcome::Class;
use tidegate_wire::models::{Model, models_body, parse_models};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::error::GatewayError;
use crate::request::accept::Accepted;
use crate::request::attempt::{self, Body};
use crate::request::read::Parsed;
use crate::request::route::Call;
use crate::upstream::Path;

/// One upstream that hangs must not hold up what all others have answered.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The merged list, for this client.
pub async fn list(accepted: &mut Accepted, parsed: Parsed) -> Result<Response<Answer>, GatewayError> {
    let gateway = Arc::clone(&accepted.gateway);
    let client = parsed.client;
    let timeout = gateway.routes.iter().map(|r| r.total).max().unwrap_or_default();
    let deadline = Instant::now() + parsed.timeout.map_or(timeout, |t| t.min(timeout));
    let trace = accepted.trace();
    let call = Call {
        parsed,
        route: 0,
        deadline,
        deadline_is_clients: false,
        alternatives: false,
        made_up: false,
        has_stale: false,
        trace,
    };
    let asked = gateway.config.upstreams.iter().enumerate().map(|(index, upstream)| {
        let paths = gateway.paths.iter().filter(|p| p.upstream.config.name == upstream.name);
        let call = &call;
        async move {
            let list = tokio::time::timeout(LIST_TIMEOUT, ask(call, paths)).await;
            (index, list.unwrap_or(Err(Class::Timeout)))
        }
    });
    let started = Instant::now();
    let answers = join_all(asked).await;
    accepted.note(|settle| settle.trail.upstream_wait = started.elapsed());
    let mut models: Vec<Model> = Vec::new();
    let mut failure = None;
    for (upstream, answer) in answers {
        match answer {
            Err(class) => failure = Some(class),
            Ok(found) => models.extend(found.into_iter().filter(|model| {
                let route = gateway.route_of(&model.id).and_then(|r| gateway.routes.get(r));
                route.is_some_and(|r| r.config.to.contains(&upstream)) && gateway.may_use(client, &model.id)
            })),
        }
    }
    if let Some(class) = failure.filter(|_| models.is_empty()) {
        return Err(GatewayError::Upstream(class));
    }
    let mut response = Response::new(Answer::Whole(models_body(&models)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// One upstream's models over the first of its paths that answers.
async fn ask(call: &Call, paths: impl Iterator<Item = &Arc<Path>>) -> Result<Vec<Model>, Class> {
    let mut last = Class::Connect;
    for path in paths {
        match attempt::lone(call, path).await {
            Ok(Body::Whole(bytes, _)) => match parse_models(&bytes) {
                Some(models) => return Ok(models),
                None => last = Class::BadResponse,
            },
            Ok(Body::Passage(..) | Body::Events(..)) => last = Class::BadResponse,
            Err(class) => last = class,
        }
    }
    Err(last)
}
