//! Step 5: from the model to a route and its paths.

use std::sync::Arc;

use tokio::time::Instant;

use crate::error::GatewayError;
use crate::request::accept::Accepted;
use crate::request::admit::Admitted;
use crate::request::read::{Parsed, Target};
use crate::trace::Trace;

/// Where a request goes.
pub enum Routed {
    /// The merged list of models, for a client.
    Models(Parsed),
    /// To an upstream.
    Call(Call),
}

/// A request that an upstream should answer.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is sent.
    pub parsed: Parsed,
    /// Index of its route.
    pub route: usize,
    /// No attempt outlives this.
    pub deadline: Instant,
    /// The client set it, to less than the route allows.
    pub deadline_is_clients: bool,
    /// There is another path: no need to wait long for a connection of this one.
    pub alternatives: bool,
    /// No client waits for it.
    pub made_up: bool,
    /// A kept answer past its time stands in before any fallback does.
    pub has_stale: bool,
    /// Its attempts are spans of this. `None`: it is not traced.
    pub trace: Option<Arc<Trace>>,
}

/// Finds the route.
pub fn route(accepted: &mut Accepted, admitted: Admitted) -> Result<Routed, GatewayError> {
    let Admitted(parsed) = admitted;
    if parsed.target == Target::Models {
        return Ok(Routed::Models(parsed));
    }
    let gateway = &accepted.gateway;
    let index = match &parsed.model {
        Some(model) => {
            if !gateway.may_use(parsed.client, model) {
                return Err(GatewayError::ModelNotAllowed(model.clone()));
            }
            gateway.route_of(model).ok_or_else(|| GatewayError::ModelNotFound(model.clone()))?
        }
        // A client held to some models cannot be let through where it cannot be seen which one it asks for.
        None if parsed.pinned && gateway.is_restricted(parsed.client) => {
            return Err(GatewayError::ModelUnknown);
        }
        None => 0,
    };
    let route = gateway.routes.get(index).ok_or(GatewayError::Internal)?;
    let start = accepted.settle.as_ref().map_or_else(Instant::now, |s| s.trail.start);
    let allowed = if parsed.stream { route.stream_total } else { route.total };
    let deadline_is_clients = parsed.timeout.is_some_and(|t| t < allowed);
    let deadline = start + parsed.timeout.map_or(allowed, |t| t.min(allowed));
    let alternatives = route.candidates.len() > 1 || !route.fallback.is_empty();
    let trace = accepted.trace();
    accepted.note(|settle| settle.route = Some(index));
    Ok(Routed::Call(Call {
        parsed,
        route: index,
        deadline,
        deadline_is_clients,
        alternatives,
        made_up: false,
        has_stale: false,
        trace,
    }))
}
