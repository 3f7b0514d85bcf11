//! The route's fallbacks: what stands in when its own paths cannot answer, with the request fitted to it.
//!
//! A fallback is outside of the route's attempts and budget. One that cannot serve a request (tools, a picture, a
//! prompt beyond its window) is passed over: the client then hears of the trouble, not of the stand-in's limits.

use std::sync::Arc;

use http::StatusCode;
use tidegate_wire::adapt::{Able, Adaptation, adapt};
use tidegate_wire::answer::Dialect;
use tidegate_wire::error::parse_error;
use tokio::time::Instant;

use super::leg::{Leg, Turn};
use super::{Answered, Body, Story};
use crate::error::GatewayError;
use crate::gateway::{Fallback, Gateway, Route};
use crate::request::read::Target;
use crate::request::route::Call;
use crate::request::trail::Trail;

/// Why the route's own paths did not answer.
#[derive(Debug, Clone, Copy)]
pub struct Why {
    /// Broken, or shut off.
    pub unavailable: bool,
    /// The prompt is longer than the model takes.
    pub too_long: bool,
    /// Every key rests.
    pub limited: bool,
}

impl Why {
    const fn fits(self, fallback: &Fallback) -> bool {
        let when = fallback.config.when;
        (self.unavailable && when.unavailable)
            || (self.too_long && when.context_length_exceeded)
            || (self.limited && when.rate_limited)
    }
}

fn dialect(call: &Call) -> Option<Dialect> {
    match &call.parsed.target {
        Target::Upstream { dialect: Dialect::Other, .. } | Target::Models => None,
        Target::Upstream { dialect, .. } => Some(*dialect),
    }
}

/// Some fallback would take a request that finds no path of its own.
pub fn is_alive(gateway: &Gateway, route: &Route, call: &Call, model: usize) -> bool {
    if route.fallback.is_empty() || call.parsed.no_fallback || call.parsed.pinned || dialect(call).is_none() {
        return false;
    }
    route.fallback.iter().any(|fallback| {
        let model = fallback.model.unwrap_or(model);
        fallback.config.when.unavailable
            && fallback.candidates.iter().any(|c| gateway.health.admits(c.path, model))
    })
}

/// The upstream found the prompt too long, and some fallback takes longer ones.
pub fn wants_larger(route: &Route, answered: &Answered) -> bool {
    route.fallback.iter().any(|fallback| fallback.config.when.context_length_exceeded)
        && matches!(answered.status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE)
        && matches!(&answered.body, Body::Whole(text, _) if parse_error(text).is_some_and(|e| e.is_context_length()))
}

/// The first fallback's answer; `None` where none can.
pub async fn answer(
    trail: &mut Trail,
    gateway: &Arc<Gateway>,
    route: &Route,
    call: &Call,
    why: Why,
    story: &mut Story,
) -> Result<Option<Answered>, GatewayError> {
    let Some(dialect) = dialect(call).filter(|_| !call.parsed.no_fallback) else { return Ok(None) };
    for fallback in route.fallback.iter().filter(|fallback| why.fits(fallback)) {
        let Some(fitted) = fit(gateway, fallback, call, dialect) else { continue };
        let model = gateway.health.model(fitted.parsed.model.as_deref());
        let leg =
            Leg { candidates: &fallback.candidates, rules: fallback.rules, model, turn: Turn::Fallback };
        if let Ok(answered) = leg.run(trail, gateway, route, &fitted, story).await? {
            if !answered.status.is_success() {
                // A client that did not ask for this model is not bothered with its complaints.
                tracing::warn!(
                    route = %route.config.name,
                    model = fitted.parsed.model.as_deref().unwrap_or_default(),
                    status = answered.status.as_u16(),
                    "the fallback refused a request"
                );
                continue;
            }
            route.fell_back.set(Instant::now().into_std());
            trail.fell_back = true;
            trail.stand_in = fitted.parsed.model.filter(|_| fallback.config.model.is_some());
            return Ok(Some(answered));
        }
    }
    Ok(None)
}

fn fit(gateway: &Gateway, fallback: &Fallback, call: &Call, dialect: Dialect) -> Option<Call> {
    let said = &fallback.config;
    let upstream = gateway.config.upstreams.get(said.upstream)?;
    let adaptation = Adaptation {
        model: said.model.as_deref(),
        system: said.prompt.system.as_deref(),
        max_tokens: said.prompt.max_tokens,
        keep_last_turns: said.prompt.keep_last_turns,
    };
    let can = upstream.capabilities;
    let able = Able {
        tools: can.tools,
        json_schema: can.json_schema,
        vision: can.vision,
        prefill: can.prefill,
        context_window: upstream.context_window,
    };
    match adapt(dialect, &call.parsed.body, &adaptation, &able) {
        Ok(body) => {
            let mut fitted = call.clone();
            fitted.parsed.body = body;
            if said.model.is_some() {
                fitted.parsed.model.clone_from(&said.model);
            }
            fitted.alternatives = fallback.candidates.len() > 1;
            Some(fitted)
        }
        Err(unable) => {
            tracing::debug!(upstream = %upstream.name, reason = unable.word(), "a request does not fit the fallback");
            None
        }
    }
}
