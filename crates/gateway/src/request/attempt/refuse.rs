//! What a client is told when nothing answered.

use std::time::Duration;

use http::StatusCode;
use tidegate_router::outcome::Class;
use tidegate_router::plan::Stop;
use tokio::time::Instant;

use super::{Answered, Body, OwnWords, Story};
use crate::error::{GatewayError, whole_seconds};
use crate::gateway::{Gateway, Route};
use crate::request::trail::Trail;

/// What is said when nothing answered: an upstream's own words where they are the client's business, else the
/// cause; where all paths were `shut` from the beginning, that.
pub fn give_up(
    trail: &mut Trail,
    gateway: &Gateway,
    route: &Route,
    model: usize,
    shut: bool,
    stop: Stop,
    story: Story,
) -> Result<Answered, GatewayError> {
    let unhealthy = || {
        let paths = route.candidates.iter().map(|c| c.path);
        let back = gateway.health.back_in(paths, model, Instant::now().into_std());
        GatewayError::NoHealthyUpstream(back.unwrap_or(Duration::from_secs(1)))
    };
    let Some((candidate, failed)) = story.telling else {
        return Err(match stop {
            _ if !route.candidates.iter().any(|c| gateway.health.admits(c.path, model)) => unhealthy(),
            Stop::Cooling(_) if are_spent(gateway, route) => GatewayError::Upstream(Class::Quota),
            Stop::Cooling(wait) => GatewayError::RateLimited(wait),
            Stop::NothingUsable | Stop::AttemptsSpent | Stop::BudgetSpent | Stop::Pinned => unhealthy(),
        });
    };
    tracing::warn!(
        request_id = trail.id(),
        route = %route.config.name,
        path = gateway.paths.get(candidate.path).map(|p| p.name.as_str()).unwrap_or_default(),
        stop = stop.word(),
        cause = %failed.detail,
        "no upstream answered"
    );
    // What we refuse to repeat for its load an SDK should not repeat for us.
    trail.no_retry |= stop == Stop::BudgetSpent;
    let class = failed.failure.class;
    if shut && class.blames_upstream() {
        return Err(unhealthy());
    }
    let Some(words) = failed.answer else {
        return Err(match (class, stop) {
            (Class::RateLimited, Stop::Cooling(wait)) => GatewayError::RateLimited(wait),
            _ => GatewayError::Upstream(class),
        });
    };
    let OwnWords { status, mut headers, body } = *words;
    if status == StatusCode::TOO_MANY_REQUESTS && !headers.contains_key(http::header::RETRY_AFTER) {
        let wait = match stop {
            Stop::Cooling(wait) => wait,
            _ => failed.failure.retry_after.unwrap_or_default(),
        };
        headers.insert(http::header::RETRY_AFTER, whole_seconds(wait));
    }
    if class == Class::Quota {
        headers.insert("x-should-retry", http::HeaderValue::from_static("false"));
    }
    let path = gateway.paths.get(candidate.path).cloned();
    let end = if class == Class::ModelNotFound || failed.clients_fault {
        crate::request::settle::End::ClientError
    } else {
        let error = GatewayError::Upstream(class);
        crate::request::settle::End::of(&error)
    };
    trail.path = path;
    trail.end = end;
    let whole = Body::Whole(body, None);
    Ok(Answered {
        status,
        headers,
        body: whole,
        length: None,
        deadline: Instant::now(),
        idle: Duration::ZERO,
        left: None,
        flight: None,
        span: None,
    })
}

/// Every key of every upstream is out of quota.
fn are_spent(gateway: &Gateway, route: &Route) -> bool {
    let now = Instant::now();
    let mut paths = route.candidates.iter().filter_map(|c| gateway.paths.get(c.path)).peekable();
    paths.peek().is_some() && paths.all(|path| path.upstream.keys.are_spent(now))
}
