//! What one request knows of the paths around it: health's choice, keys, what it has met so far. The plan asks it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_health::registry::{Ask, Chosen};
use tidegate_router::outcome::{Class, Failure};
use tidegate_router::plan::{Candidate, Surroundings};
use tokio::time::Instant;

use super::Failed;
use super::leg::{Leg, Turn};
use crate::gateway::{Gateway, Route};
use crate::request::route::Call;
use crate::request::trail::Trail;
use crate::upstream::Path;

/// What one request knows of the paths around it.
pub struct Around<'a> {
    /// The set of paths.
    leg: &'a Leg<'a>,
    /// This node.
    pub gateway: &'a Arc<Gateway>,
    /// Its route.
    pub route: &'a Route,
    /// As these paths get it.
    pub call: &'a Call,
    /// As these paths are asked for it; empty where none is named.
    pub model: &'a str,
    /// Upstream and key pairs that were refused for this request.
    refused: Vec<(usize, usize)>,
    /// Upstreams that cannot take this request at all.
    barred: Vec<usize>,
    /// By health, for the first try.
    chosen: Option<Candidate>,
}

impl<'a> Around<'a> {
    /// Nothing met yet.
    pub fn new(leg: &'a Leg<'a>, gateway: &'a Arc<Gateway>, route: &'a Route, call: &'a Call) -> Self {
        let model = call.parsed.model.as_deref().unwrap_or_default();
        Self { leg, gateway, route, call, model, refused: Vec::new(), barred: Vec::new(), chosen: None }
    }

    /// Keys of an upstream that were refused for this request.
    pub fn refused_of(&self, upstream: usize) -> impl Iterator<Item = usize> {
        self.refused.iter().filter(move |(u, _)| *u == upstream).map(|(_, key)| *key)
    }

    fn ask<F: Fn(usize) -> bool>(&self, fallback: bool, ready: F) -> Ask<F> {
        Ask {
            model: self.leg.model,
            kind: usize::from(self.call.parsed.stream),
            random: fastrand::u64(..),
            fallback,
            movable: !self.call.parsed.pinned && (self.route.candidates.len() > 1 || fallback),
            ready,
        }
    }

    /// Lets health choose. Whether only paths that are still proving themselves are left, and it is the fallback's
    /// turn.
    pub fn belongs_to_fallback(&mut self) -> bool {
        let Turn::Route { backed } = self.leg.turn else { return false };
        let chosen = self.chosen(backed);
        if let Chosen::Path(place) = chosen {
            self.chosen = self.leg.candidates.get(place).copied();
        }
        chosen == Chosen::Fallback
    }

    /// Something else could take the request from this path.
    pub fn has_other(&self, path: &Path) -> bool {
        self.leg.turn == (Turn::Route { backed: true })
            || self
                .leg
                .candidates
                .iter()
                .any(|c| c.path != path.index && self.gateway.health.admits(c.path, self.leg.model))
    }

    /// A hedge's other attempt failed.
    pub fn failed_beside(&mut self, trail: &mut Trail, (over, key, failed): (usize, usize, Failed)) {
        let Some(path) = self.gateway.paths.get(over) else { return };
        let class = failed.failure.class;
        tracing::debug!(path = %path.name, class = class.error_type(), cause = %failed.detail, "attempt failed");
        path.metrics.attempt(Some(class));
        trail.failures.push((Arc::clone(path), class));
        if let Some(candidate) = self.leg.candidates.iter().find(|c| c.path == over) {
            self.learn(*candidate, key, path, &failed.failure);
        }
    }

    fn chosen(&self, fallback: bool) -> Chosen {
        let now = Instant::now();
        let ready = |place: usize| {
            let path = self.leg.candidates.get(place).and_then(|c| self.gateway.paths.get(c.path));
            path.is_some_and(|path| path.upstream.keys.ready_in(self.model, &[], now) == Some(Duration::ZERO))
        };
        self.gateway.health.choose(self.call.route, &self.ask(fallback, ready), now.into_std())
    }

    /// Another path for a second try: of another upstream if there is one, and the best of them.
    pub fn rival(&self, from: Candidate) -> Option<Candidate> {
        let now = Instant::now();
        let may = |c: &&Candidate| {
            **c != from
                && self.gateway.health.admits(c.path, self.leg.model)
                && !self.gateway.health.is_ramping(c.path, self.leg.model)
                && self.gateway.paths.get(c.path).is_some_and(|path| {
                    path.upstream.keys.ready_in(self.model, &[], now) == Some(Duration::ZERO)
                })
        };
        let rank = |c: &&Candidate| (c.upstream == from.upstream, self.score(**c));
        self.leg.candidates.iter().filter(may).min_by_key(rank).copied()
    }

    /// Another egress to the same upstream, for a race of connections.
    pub fn other_way(&self, path: &Path) -> Option<&Arc<Path>> {
        let from = self.leg.candidates.iter().find(|c| c.path == path.index)?;
        let may = |c: &&Candidate| {
            c.upstream == from.upstream
                && c.path != from.path
                && self.gateway.health.admits(c.path, self.leg.model)
                && !self.gateway.health.is_ramping(c.path, self.leg.model)
        };
        let other = self.leg.candidates.iter().filter(may).min_by_key(|c| self.score(**c))?;
        self.gateway.paths.get(other.path)
    }

    /// Takes note of what a failure says of a key, or of the model.
    pub fn learn(&mut self, candidate: Candidate, key: usize, path: &Path, failure: &Failure) {
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
        if self.barred.contains(&candidate.upstream)
            || !(self.leg.turn == Turn::LastResort
                || self.gateway.health.admits(candidate.path, self.leg.model))
        {
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

    fn pick(&mut self) -> Option<Candidate> {
        self.chosen.take()
    }

    fn in_trouble(&self, candidate: Candidate) -> bool {
        self.gateway.health.is_ramping(candidate.path, self.leg.model)
    }

    fn score(&self, candidate: Candidate) -> u32 {
        self.gateway.health.score(candidate.path, self.leg.model, usize::from(self.call.parsed.stream))
    }

    fn spend(&mut self) -> bool {
        if !self.leg.turn.is_route() {
            return true;
        }
        let mut budget = self.route.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        budget.spend(Instant::now().into_std())
    }

    fn time_left(&self) -> Duration {
        self.call.deadline.saturating_duration_since(Instant::now())
    }

    fn random(&mut self) -> f64 {
        fastrand::f64()
    }
}
