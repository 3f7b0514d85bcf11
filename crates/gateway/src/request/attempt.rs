//! Step 8: one engine for streamed and plain answers. Picks a path, sends, looks at what comes; another path,
//! or the same after a wait, while the plan allows it. Gives an answer only when its first content is in hand,
//! so that until then nothing has gone to the client and everything can still be tried elsewhere.
//!
//! Every attempt starts with fresh state. The paths of the route come first; when none of them can answer, the
//! route's fallbacks in their order; when there is none, the path that failed longest ago, a few requests at once.
//! Not here: which path comes next (`tidegate_router::plan`), one attempt's bytes (`attempt::once`), what follows
//! the first content (`relay`).

mod around;
mod connect;
mod leg;
pub mod once;
mod plain;
mod refuse;
mod stand_in;
mod traced;
pub mod verdict;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tidegate_health::evidence::Detail;
use tidegate_health::registry::Flight;
use tidegate_router::outcome::{Class, Failure};
use tidegate_router::plan::{Candidate, Stop};
use tidegate_wire::answer::{Dialect, Usage};
use tokio::time::Instant;

use crate::answer::Held;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::request::read::Target;
use crate::request::relay::Events;
use crate::request::route::Call;
use crate::request::trail::Trail;
use crate::trace::Attempt;
use crate::upstream::exchange::AnswerBody;
use crate::upstream::keys::Offer;
use crate::upstream::{InFlight, Path};
use leg::{Leg, Turn};

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
    /// What is left of the tightest limit the upstream speaks of, in 1/1000.
    pub left: Option<u32>,
    /// A stream's end is told to health through it.
    pub flight: Option<Flight>,
    /// Ends with the body, where that is not whole.
    pub span: Option<Box<Attempt>>,
}

/// The body of an answer.
pub enum Body {
    /// All of it, checked.
    Whole(Bytes, Option<Usage>),
    /// The beginning, and the rest as it comes.
    Passage(Held, AnswerBody, InFlight),
    /// Events up to the first content, and the rest.
    Events(Held, Box<Events>, InFlight),
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
    /// More about it, for health.
    pub about: Detail,
    /// Given up on our side, because the path turned out frozen under others.
    pub abandoned: bool,
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
            about: Detail::Plain,
            abandoned: false,
            detail: detail.into(),
        }
    }

    fn about(mut self, about: Detail) -> Self {
        self.about = about;
        self
    }

    fn abandoned() -> Self {
        Self { abandoned: true, ..Self::new(Class::Timeout, "the path turned out frozen or cut off") }
    }

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
                    left: None,
                    flight: None,
                    span: None,
                })
            }
            answer => Err(Self { answer, ..self }),
        }
    }
}

/// What one request has met so far.
#[derive(Default)]
pub struct Story {
    /// The failure that says most to a client.
    telling: Option<(Candidate, Failed)>,
    /// The attempt before.
    last: Option<Candidate>,
    /// A second try went out beside another; there is one at most.
    hedged: bool,
    /// A fallback was given precedence over paths that are still proving themselves.
    deferred: bool,
    /// Some failure was the upstream's or the way's.
    broken: bool,
    /// Some failure was a limit of ours at an upstream.
    limited: bool,
}

/// Tries until there is an answer or nothing more to try.
pub async fn attempt(
    gateway: &Arc<Gateway>,
    trail: &mut Trail,
    call: Call,
) -> Result<Answered, GatewayError> {
    let route = gateway.routes.get(call.route).ok_or(GatewayError::Internal)?;
    let model = gateway.health.model(call.parsed.model.as_deref());
    let now = crate::health::now();
    route.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner).request(now);
    if gateway.health.wants_shadows() {
        crate::health::shadow::mirror(gateway, &call, model);
    }
    let mut story = Story::default();
    let admits = |c: &Candidate| gateway.health.admits(c.path, model);
    let shut = !route.candidates.iter().any(admits);
    let leg = Leg {
        candidates: &route.candidates,
        rules: route.rules,
        model,
        turn: Turn::Route { backed: stand_in::is_alive(gateway, route, &call, model) },
    };
    let mut too_long = None;
    let stop = match leg.run(trail, gateway, route, &call, &mut story).await? {
        Ok(answered) if !stand_in::wants_larger(route, &answered) => return Ok(answered),
        Ok(answered) => {
            too_long = Some(answered);
            Stop::NothingUsable
        }
        Err(stop) => stop,
    };
    let untried = story.last.is_none();
    let why = stand_in::Why {
        unavailable: too_long.is_none()
            && (story.broken || story.deferred || !route.candidates.iter().all(admits)),
        too_long: too_long.is_some(),
        limited: story.limited || matches!(stop, Stop::Cooling(_)),
    };
    if call.has_stale && why.unavailable {
        return refuse::give_up(trail, gateway, route, model, shut, stop, story);
    }
    if stop != Stop::Pinned
        && let Some(answered) = stand_in::answer(trail, gateway, route, &call, why, &mut story).await?
    {
        return Ok(answered);
    }
    if let Some(answered) = too_long {
        return Ok(answered);
    }
    if std::mem::take(&mut story.deferred) {
        // No fallback could take it: the paths that are still proving themselves do.
        let leg = Leg { turn: Turn::Route { backed: false }, ..leg };
        match leg.run(trail, gateway, route, &call, &mut story).await? {
            Ok(answered) => return Ok(answered),
            Err(stop) => return refuse::give_up(trail, gateway, route, model, shut, stop, story),
        }
    }
    if shut && untried && stop == Stop::NothingUsable {
        let paths = route.candidates.iter().map(|c| c.path);
        // Fallbacks may have taken a while to fail.
        if let Some(place) = gateway.health.trickle(paths, model, crate::health::now()) {
            let only: Vec<Candidate> =
                route.candidates.iter().copied().filter(|c| c.path == place.path).collect();
            let rules = tidegate_router::plan::Rules { attempts: 1, ..route.rules };
            let leg = Leg { candidates: &only, rules, model, turn: Turn::LastResort };
            if let Ok(answered) = leg.run(trail, gateway, route, &call, &mut story).await? {
                return Ok(answered);
            }
        }
    }
    refuse::give_up(trail, gateway, route, model, shut, stop, story)
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
        match once::once(call, path, key, path.upstream.config.timeouts.first_byte).await {
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

fn answer_begins(trail: &mut Trail, call: &Call, path: &Arc<Path>, answered: &Answered) {
    let (usage, emitted) = match &answered.body {
        Body::Whole(_, Some(usage)) => (Some(*usage), 0),
        // Nobody counted: what the text comes to is nearer than nothing.
        Body::Whole(body, None) if answered.status.is_success() => {
            let dialect = match &call.parsed.target {
                Target::Upstream { dialect, .. } => *dialect,
                Target::Models => Dialect::Other,
            };
            (None, tidegate_wire::tokens::answer_tokens(dialect, &plain::of(&answered.headers, body)))
        }
        Body::Whole(..) | Body::Passage(..) => (None, 0),
        Body::Events(_, events, _) => (events.usage, events.emitted),
    };
    let streams = matches!(answered.body, Body::Events(..));
    let first = trail.start.elapsed();
    trail.first_content = Some(first);
    trail.usage = usage;
    trail.emitted = emitted;
    trail.path = Some(Arc::clone(path));
    path.metrics.tally.answer(call.route);
    if let Some(ttft) = path.metrics.ttft.get(call.route).filter(|_| streams) {
        ttft.record(first.as_secs_f64());
    }
}
