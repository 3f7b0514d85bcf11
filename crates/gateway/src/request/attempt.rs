//! Step 6: one engine for streamed and plain answers. Picks a path, sends, looks at what comes; another path,
//! or the same after a wait, while the plan allows it. Gives an answer only when its first content is in hand,
//! so that until then nothing has gone to the client and everything can still be tried elsewhere.
//!
//! Every attempt starts with fresh state. Not here: which path comes next (`tidegate_router::plan`), one
//! attempt's bytes (`attempt::once`), what follows the first content (`relay`).

mod once;
mod plain;
pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tidegate_router::outcome::{Class, Failure};
use tidegate_router::plan::{Candidate, Caution, Next, Plan, Stop, Surroundings};
use tidegate_wire::answer::Usage;
use tokio::time::Instant;

use crate::answer::Held;
use crate::error::{GatewayError, whole_seconds};
use crate::gateway::{Gateway, Route};
use crate::request::accept::Accepted;
use crate::request::relay::Events;
use crate::request::route::Call;
use crate::upstream::exchange::AnswerBody;
use crate::upstream::keys::Offer;
use crate::upstream::{InFlight, Path};

/// An answer whose first content is in hand.
pub struct Answered {
    /// Of the upstream.
    pub status: StatusCode,
    /// Of the upstream, stripped.
    pub headers: HeaderMap,
    /// What is known of the body.
    pub body: Body,
    /// Of the whole body, as the upstream said.
    pub length: Option<u64>,
    /// No piece may come later.
    pub deadline: Instant,
    /// Longest wait between two pieces.
    pub idle: Duration,
}

/// The body of an answer.
pub enum Body {
    /// All of it, checked.
    Whole(Bytes, Option<Usage>),
    /// The beginning, and the rest as it comes.
    Passage(Held, AnswerBody, InFlight),
    /// Events up to the first content, and the rest.
    Events(Held, Events, InFlight),
}

/// An attempt that gave nothing for the client.
#[derive(Debug)]
pub struct Failed {
    /// What it means for the plan.
    pub failure: Failure,
    /// The upstream's own answer, where it may go to the client when nothing better comes.
    pub answer: Option<Box<OwnWords>>,
    /// The client's own fault: its answer goes out at once, no other path is asked.
    pub clients_fault: bool,
    /// For the log.
    pub detail: String,
}

/// What an upstream said itself.
#[derive(Debug)]
pub struct OwnWords {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, stripped.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Failed {
    fn new(class: Class, detail: impl Into<String>) -> Self {
        Self {
            failure: Failure { class, retry_after: None },
            answer: None,
            clients_fault: false,
            detail: detail.into(),
        }
    }
}

impl Failed {
    fn or_clients_fault(mut self) -> Result<Answered, Self> {
        match self.answer.take() {
            Some(words) if self.clients_fault => {
                let OwnWords { status, headers, body } = *words;
                let body = Body::Whole(body, None);
                Ok(Answered {
                    status,
                    headers,
                    body,
                    length: None,
                    deadline: Instant::now(),
                    idle: Duration::ZERO,
                })
            }
            answer => Err(Self { answer, ..self }),
        }
    }
}

/// Tries until there is an answer or nothing more to try.
pub async fn attempt(accepted: &mut Accepted, call: Call) -> Result<Answered, GatewayError> {
    let gateway = Arc::clone(&accepted.gateway);
    let route = gateway.routes.get(call.route).ok_or(GatewayError::Internal)?;
    let parsed = &call.parsed;
    let caution = Caution { pinned: parsed.pinned, client_repeats: parsed.client_repeats };
    let mut plan = Plan::new(&route.candidates, route.rules, caution);
    let mut around = Around {
        gateway: &gateway,
        route,
        model: parsed.model.as_deref().unwrap_or_default(),
        refused: Vec::new(),
        barred: Vec::new(),
        deadline: call.deadline,
    };
    route.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner).request(Instant::now().into_std());
    let mut next = plan.first(&mut around);
    let mut last: Option<Candidate> = None;
    let mut telling: Option<(Candidate, Failed)> = None;
    loop {
        let (candidate, wait) = match next {
            Next::Try { candidate, after } => (candidate, after),
            Next::Stop(stop) => return give_up(accepted, &around, stop, telling),
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let path = gateway.paths.get(candidate.path).ok_or(GatewayError::Internal)?;
        if let Some(from) = last.filter(|from| *from != candidate)
            && let Some(from) = gateway.paths.get(from.path)
        {
            crate::metrics::failover(&route.config.name, &from.name, &path.name);
        }
        let started = Instant::now();
        let refused: Vec<usize> = around.refused_of(candidate.upstream).collect();
        let key = match path.upstream.keys.offer(around.model, &refused, started) {
            Offer::Key(index) => index,
            Offer::Resting(_) => {
                // Another request put the last key to rest since the plan looked.
                let failed = Failed::new(Class::RateLimited, "every key rests");
                next = plan.after(candidate, failed.failure, &mut around);
                last = Some(candidate);
                more_telling(&mut telling, candidate, failed);
                continue;
            }
        };
        accepted.note(|settle| settle.attempts += 1);
        let result = once::once(&call, path, key).await;
        let result = result.or_else(Failed::or_clients_fault);
        let took = started.elapsed();
        let repeat = last.is_some();
        accepted.note(|settle| settle.upstream_wait += took);
        match result {
            Ok(answered) => {
                path.upstream.note(None);
                if !matches!(answered.body, Body::Events(..)) {
                    // A stream is counted when it has ended.
                    path.metrics.attempt(None);
                }
                path.upstream.keys.worked(key);
                if repeat {
                    crate::metrics::retry(&route.config.name, true);
                }
                answer_begins(accepted, &call, path, &answered);
                return Ok(answered);
            }
            Err(failed) => {
                let class = failed.failure.class;
                let clients_own_limit = call.deadline_is_clients && Instant::now() >= call.deadline;
                if clients_own_limit && class == Class::Timeout {
                    return Err(GatewayError::Deadline);
                }
                tracing::debug!(path = %path.name, class = class.error_type(), cause = %failed.detail, "attempt failed");
                path.upstream.note(Some(class));
                path.metrics.attempt(Some(class));
                if repeat {
                    crate::metrics::retry(&route.config.name, false);
                }
                accepted.note(|settle| settle.failures.push((Arc::clone(path), class)));
                around.learn(candidate, key, path, &failed.failure);
                next = plan.after(candidate, failed.failure, &mut around);
                last = Some(candidate);
                more_telling(&mut telling, candidate, failed);
            }
        }
    }
}

/// Keeps the failure that says most to a client: that a limit will pass rather than any other, the last of
/// several, and that a model does not exist only where no upstream said anything else.
fn more_telling(telling: &mut Option<(Candidate, Failed)>, candidate: Candidate, failed: Failed) {
    let weight = |failed: &Failed| match failed.failure.class {
        Class::ModelNotFound => 0,
        Class::RateLimited => 2,
        _ => 1,
    };
    if telling.as_ref().is_none_or(|(_, held)| weight(&failed) >= weight(held)) {
        *telling = Some((candidate, failed));
    }
}

/// One attempt over one path, outside of any plan; a refused key rests and the next one is tried.
pub async fn lone(call: &Call, path: &Arc<Path>) -> Result<Body, Class> {
    let model = call.parsed.model.as_deref().unwrap_or_default();
    let mut refused = Vec::new();
    loop {
        let now = Instant::now();
        let Offer::Key(key) = path.upstream.keys.offer(model, &refused, now) else {
            return Err(if refused.is_empty() { Class::RateLimited } else { Class::Auth });
        };
        match once::once(call, path, key).await {
            Ok(answered) if answered.status.is_success() => {
                path.metrics.attempt(None);
                return Ok(answered.body);
            }
            Ok(_) => return Err(Class::BadResponse),
            Err(Failed { failure: Failure { class, retry_after }, .. }) => {
                path.metrics.attempt(Some(class));
                path.upstream.keys.rest(key, model, class, retry_after, fastrand::f64(), now);
                if !class.of_the_key() {
                    return Err(class);
                }
                refused.push(key);
            }
        }
    }
}

fn answer_begins(accepted: &mut Accepted, call: &Call, path: &Arc<Path>, answered: &Answered) {
    let usage = if let Body::Whole(_, usage) = &answered.body { *usage } else { None };
    let streams = matches!(answered.body, Body::Events(..));
    accepted.note(|settle| {
        let first = settle.start.elapsed();
        settle.first_content = Some(first);
        settle.usage = usage;
        settle.path = Some(Arc::clone(path));
        if let Some(ttft) = path.metrics.ttft.get(call.route).filter(|_| streams) {
            ttft.record(first.as_secs_f64());
        }
    });
}

/// What is said when nothing answered: an upstream's own words where they are the client's business, else the
/// cause.
fn give_up(
    accepted: &mut Accepted,
    around: &Around<'_>,
    stop: Stop,
    telling: Option<(Candidate, Failed)>,
) -> Result<Answered, GatewayError> {
    let Some((candidate, failed)) = telling else {
        return Err(match stop {
            Stop::Cooling(wait) => GatewayError::RateLimited(wait),
            Stop::NothingUsable | Stop::AttemptsSpent | Stop::BudgetSpent | Stop::Pinned => {
                GatewayError::Upstream(Class::Auth)
            }
        });
    };
    tracing::warn!(
        request_id = accepted.settle.as_ref().and_then(|s| s.request_id.to_str().ok()).unwrap_or_default(),
        route = %around.route.config.name,
        path = around.gateway.paths.get(candidate.path).map(|p| p.name.as_str()).unwrap_or_default(),
        stop = stop.word(),
        cause = %failed.detail,
        "no upstream answered"
    );
    // What we refuse to repeat for its load an SDK should not repeat for us.
    accepted.no_retry |= stop == Stop::BudgetSpent;
    let class = failed.failure.class;
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
    let path = around.gateway.paths.get(candidate.path).cloned();
    let end = if class == Class::ModelNotFound || failed.clients_fault {
        crate::request::settle::End::ClientError
    } else {
        let error = GatewayError::Upstream(class);
        crate::request::settle::End::Refused { status: error.request_status(), code: error.kind_and_code().1 }
    };
    accepted.note(|settle| {
        settle.path = path;
        settle.end = end;
    });
    let whole = Body::Whole(body, None);
    Ok(Answered {
        status,
        headers,
        body: whole,
        length: None,
        deadline: Instant::now(),
        idle: Duration::ZERO,
    })
}

/// What one request knows of the paths around it.
struct Around<'a> {
    gateway: &'a Gateway,
    route: &'a Route,
    model: &'a str,
    /// Upstream and key pairs that were refused for this request.
    refused: Vec<(usize, usize)>,
    /// Upstreams that cannot take this request at all.
    barred: Vec<usize>,
    deadline: Instant,
}

impl Around<'_> {
    fn refused_of(&self, upstream: usize) -> impl Iterator<Item = usize> {
        self.refused.iter().filter(move |(u, _)| *u == upstream).map(|(_, key)| *key)
    }

    fn learn(&mut self, candidate: Candidate, key: usize, path: &Path, failure: &Failure) {
        let class = failure.class;
        if class.of_the_key() {
            let now = Instant::now();
            let begins =
                path.upstream.keys.rest(key, self.model, class, failure.retry_after, fastrand::f64(), now);
            if class != Class::RateLimited {
                self.refused.push((candidate.upstream, key));
            }
            if let Some(wait) = begins {
                tracing::warn!(
                    upstream = %path.upstream.config.name,
                    key = key + 1,
                    reason = class.error_type(),
                    rest_s = wait.as_secs(),
                    "a key rests"
                );
            }
        } else if class == Class::ModelNotFound {
            self.barred.push(candidate.upstream);
        }
    }
}

impl Surroundings for Around<'_> {
    fn ready_in(&self, candidate: Candidate) -> Option<Duration> {
        if self.barred.contains(&candidate.upstream) {
            return None;
        }
        let path = self.gateway.paths.get(candidate.path)?;
        let keys = &path.upstream.keys;
        if self.refused.is_empty() {
            return keys.ready_in(self.model, &[], Instant::now());
        }
        let refused: Vec<usize> = self.refused_of(candidate.upstream).collect();
        keys.ready_in(self.model, &refused, Instant::now())
    }

    fn in_trouble(&self, upstream: usize) -> bool {
        let candidate = self.route.candidates.iter().find(|c| c.upstream == upstream);
        candidate.and_then(|c| self.gateway.paths.get(c.path)).is_some_and(|p| p.upstream.in_trouble())
    }

    fn spend(&mut self) -> bool {
        let mut budget = self.route.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        budget.spend(Instant::now().into_std())
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn random(&mut self) -> f64 {
        fastrand::f64()
    }
}
