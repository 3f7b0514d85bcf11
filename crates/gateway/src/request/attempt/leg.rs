//! The tries over one set of paths: a route's own, or those of a fallback.

use std::sync::Arc;
use std::time::Duration;

use tidegate_config::used::Hedge;
use tidegate_health::baseline::size_of;
use tidegate_router::outcome::Class;
use tidegate_router::plan::{Candidate, Caution, Next, Plan, Rules, Stop};
use tokio::time::Instant;

use super::around::Around;
use super::{Answered, Body, Failed, Story, answer_begins, more_telling, once};
use crate::error::GatewayError;
use crate::gateway::{Gateway, Route};
use crate::health::shadow::form_of;
use crate::request::read::Target;
use crate::request::route::Call;
use crate::request::trail::Trail;
use crate::upstream::Path;
use crate::upstream::keys::Offer;

/// A stream's first content is waited for this many times as long as is usual.
const USUAL_FACTOR: u32 = 4;
/// A part of the time to the first content that is as good as all of it.
const WHOLE_ENOUGH: f64 = 0.9;
/// But never less than this.
const USUAL_LEAST: Duration = Duration::from_secs(10);

/// Paths to try, and how.
pub struct Leg<'a> {
    /// In the order of the file.
    pub candidates: &'a [Candidate],
    /// How often.
    pub rules: Rules,
    /// Of the request as these paths get it, by number.
    pub model: usize,
    /// Whose paths they are.
    pub turn: Turn,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The route's own paths, the first of which health chooses.
    Route {
        /// A fallback stands by, for what paths that are still proving themselves should not take.
        backed: bool,
    },
    /// A fallback's: outside of the route's attempts and budget.
    Fallback,
    /// One path that is shut, because nothing else is left.
    LastResort,
}

impl Turn {
    /// The route's own.
    pub const fn is_route(self) -> bool {
        matches!(self, Self::Route { .. })
    }
}

impl Leg<'_> {
    /// The first answer, or why there is none. An error ends the request at once.
    pub async fn run(
        &self,
        trail: &mut Trail,
        gateway: &Arc<Gateway>,
        route: &Route,
        call: &Call,
        story: &mut Story,
    ) -> Result<Result<Answered, Stop>, GatewayError> {
        let parsed = &call.parsed;
        let caution = Caution { pinned: parsed.pinned, client_repeats: parsed.client_repeats };
        let mut plan = Plan::new(self.candidates, self.rules, caution);
        let mut around = Around::new(self, gateway, route, call);
        if around.belongs_to_fallback() {
            story.deferred = true;
            return Ok(Err(Stop::NothingUsable));
        }
        let mut next = plan.first(&mut around);
        loop {
            let (candidate, wait) = match next {
                Next::Try { candidate, after } => (candidate, after),
                Next::Stop(stop) => return Ok(Err(stop)),
            };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                // It may have opened under other requests meanwhile.
                if let Turn::Route { backed } = self.turn
                    && !gateway.health.admits(candidate.path, self.model)
                {
                    match plan.instead(candidate, &mut around) {
                        Next::Stop(_) if !backed => plan.also(candidate),
                        instead => {
                            next = instead;
                            continue;
                        }
                    }
                }
            }
            let path = gateway.paths.get(candidate.path).ok_or(GatewayError::Internal)?;
            if let Some(from) = story.last.filter(|from| *from != candidate)
                && let Some(from) = gateway.paths.get(from.path)
            {
                crate::metrics::failover(&route.config.name, &from.name, &path.name);
            }
            let repeat = story.last.replace(candidate).is_some();
            let started = Instant::now();
            let refused: Vec<usize> = around.refused_of(candidate.upstream).collect();
            let key = match path.upstream.keys.offer(around.model, &refused, started) {
                Offer::Key(index) => index,
                Offer::Resting(_) => {
                    // Another request put the last key to rest since the plan looked.
                    let failed = Failed::new(Class::RateLimited, "every key rests");
                    story.limited = true;
                    next = plan.after(candidate, failed.failure, &mut around);
                    more_telling(&mut story.telling, candidate, failed);
                    continue;
                }
            };
            trail.attempts += 1;
            let unproven = gateway.health.is_ramping(path.index, self.model);
            let mut side = Side::default();
            let (over, key, result) = match self.hedge_after(&around, path, story) {
                None => self.once(&around, path, key, started).await,
                Some(after) => self.hedged(&around, &mut plan, candidate, key, after, &mut side).await,
            };
            trail.upstream_wait += started.elapsed();
            if let Some(lost) = side.lost {
                around.failed_beside(trail, lost);
            }
            if side.begun {
                story.hedged = true;
                trail.attempts += 1;
            }
            let path = gateway.paths.get(over).ok_or(GatewayError::Internal)?;
            let candidate = match self.candidates.iter().find(|c| c.path == over) {
                Some(other) if *other != candidate => {
                    if !side.begun {
                        plan.also(*other);
                    }
                    story.last = Some(*other);
                    *other
                }
                _ => candidate,
            };
            let failed = match result {
                Ok(answered) => {
                    if !matches!(answered.body, Body::Events(..)) {
                        // A stream is counted when it has ended.
                        path.metrics.attempt(None);
                    }
                    path.upstream.keys.worked(key);
                    if repeat && self.turn.is_route() {
                        crate::metrics::retry(&route.config.name, true);
                    }
                    answer_begins(trail, call, path, &answered);
                    return Ok(Ok(answered));
                }
                Err(failed) => failed,
            };
            let class = failed.failure.class;
            if call.deadline_is_clients && Instant::now() >= call.deadline {
                return Err(GatewayError::Deadline);
            }
            tracing::debug!(path = %path.name, class = class.error_type(), cause = %failed.detail, "attempt failed");
            path.metrics.attempt(Some(class));
            if repeat && self.turn.is_route() {
                crate::metrics::retry(&route.config.name, false);
            }
            trail.failures.push((Arc::clone(path), class));
            around.learn(candidate, key, path, &failed.failure);
            story.broken |= class.blames_upstream() || matches!(class, Class::Busy | Class::Auth);
            story.limited |= matches!(class, Class::RateLimited | Class::Quota);
            if failed.abandoned || (unproven && self.turn.is_route()) {
                plan.forgive();
            }
            next = plan.after(candidate, failed.failure, &mut around);
            more_telling(&mut story.telling, candidate, failed);
        }
    }

    /// When a second try may go out beside this one; `None`: none may.
    fn hedge_after(&self, around: &Around<'_>, path: &Path, story: &Story) -> Option<Duration> {
        let call = around.call;
        if story.hedged || call.parsed.pinned || !self.turn.is_route() {
            return None;
        }
        match around.route.config.hedge? {
            Hedge::After(time) => Some(time),
            Hedge::Percentile(percent) => {
                let (kind, size) = (usize::from(call.parsed.stream), size_of(call.parsed.body.len()));
                let now = crate::health::now();
                around.gateway.health.percentile(path.index, self.model, kind, size, percent, now)
            }
        }
    }

    /// One attempt, and after a while a second one over another path beside it, where the retry budget has room: the
    /// first answer wins and the other attempt is dropped. `side` tells what became of the rest.
    async fn hedged(
        &self,
        around: &Around<'_>,
        plan: &mut Plan<'_>,
        candidate: Candidate,
        key: usize,
        after: Duration,
        side: &mut Side,
    ) -> Outcome {
        let gateway = around.gateway;
        let Some(path) = gateway.paths.get(candidate.path) else {
            return (candidate.path, key, Err(Failed::new(Class::Busy, "no such path")));
        };
        let spend = || {
            let mut budget = around.route.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            budget.spend(crate::health::now())
        };
        let mut first = std::pin::pin!(self.once(around, path, key, Instant::now()));
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = tokio::time::sleep(after) => {}
        }
        let Some((rival, rival_key, rival_path)) = around.rival(candidate).and_then(|rival| {
            let path = gateway.paths.get(rival.path)?;
            let refused: Vec<usize> = around.refused_of(rival.upstream).collect();
            match path.upstream.keys.offer(around.model, &refused, Instant::now()) {
                Offer::Key(key) if spend() => Some((rival, key, path)),
                Offer::Key(_) | Offer::Resting(_) => None,
            }
        }) else {
            return first.await;
        };
        side.begun = true;
        plan.also(rival);
        let mut other = std::pin::pin!(self.once(around, rival_path, rival_key, Instant::now()));
        let (won, result) = tokio::select! {
            biased;
            result = &mut first => match result {
                (_, _, Ok(_)) => (false, result),
                (over, key, Err(failed)) => {
                    side.lost = Some((over, key, failed));
                    (true, other.await)
                }
            },
            result = &mut other => match result {
                (_, _, Ok(_)) => (true, result),
                (over, key, Err(failed)) => {
                    side.lost = Some((over, key, failed));
                    (false, first.await)
                }
            },
        };
        crate::metrics::hedge(&around.route.config.name, won && result.2.is_ok());
        result
    }

    /// One attempt, which health hears of, with the path it really went over.
    async fn once(&self, around: &Around<'_>, path: &Arc<Path>, key: usize, started: Instant) -> Outcome {
        let (gateway, call) = (around.gateway, around.call);
        let now = started.into_std();
        let (kind, size) = (usize::from(call.parsed.stream), size_of(call.parsed.body.len()));
        let mut first_byte = path.upstream.config.timeouts.first_byte;
        if call.parsed.stream
            && let Some(usual) = gateway.health.usual_first(path.index, self.model, kind, size, now)
        {
            first_byte = first_byte.min((usual * USUAL_FACTOR).max(USUAL_LEAST));
        }
        let mut flight = gateway.health.begin(path.index, self.model, kind, size, now);
        if let Target::Upstream { dialect, .. } = &call.parsed.target {
            gateway.health.note_form(path.index, self.model, form_of(*dialect));
        }
        let way = once::Way {
            path,
            rival: around.other_way(path),
            flight: Some(&mut flight),
            movable: !call.parsed.pinned && around.has_other(path),
        };
        let result = once::by_way(call, way, key, first_byte).await.or_else(Failed::or_clients_fault);
        let over = flight.path();
        let now = Instant::now();
        let result = match result {
            Ok(mut answered) => {
                // A refusal of the client's own fault comes fast and says nothing of answers.
                if answered.status.is_success() {
                    flight.first(now.into_std());
                    if let Some(left) = answered.left {
                        gateway.health.remaining(over, self.model, left, now.into_std());
                    }
                    answered.flight = matches!(answered.body, Body::Events(..)).then_some(flight);
                }
                Ok(answered)
            }
            Err(failed) => {
                // Who is given less time than an attempt may take has not shown that it would not have answered.
                let allowed = call.deadline.saturating_duration_since(started);
                let cut_short = now >= call.deadline
                    && (call.deadline_is_clients || allowed < first_byte.mul_f64(WHOLE_ENOUGH));
                if !failed.abandoned && !cut_short {
                    flight.failed(failed.failure.class, failed.about, now.into_std());
                }
                Err(failed)
            }
        };
        (over, key, result)
    }
}

/// The path an attempt went over, its key, and what came of it.
type Outcome = (usize, usize, Result<Answered, Failed>);

/// What went on beside the attempt whose result counts.
#[derive(Default)]
struct Side {
    /// A second attempt was begun.
    begun: bool,
    /// One of the two failed, and the other one's result was taken.
    lost: Option<(usize, usize, Failed)>,
}
