//! The life of a request, in ten steps. Each takes what the one before it gave, so that a wrong order does
//! not compile.
//!
//! Nothing goes to the client before the first content is in hand (`attempt`); from then on a stream ends
//! whole or with an error event (`relay`). `settle` is a guard that every request holds from its first
//! moment: whatever happens, it is counted and logged once.

pub mod accept;
pub mod admit;
pub mod attempt;
pub mod authenticate;
pub mod body;
pub mod limit;
pub mod models;
pub mod read;
pub mod relay;
pub mod route;
pub mod settle;
pub mod share;
pub mod trail;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use accept::Accepted;

/// Handles one request. Never fails: every error is an answer. Dropping the future (the client left) stops
/// the upstream call with it.
pub async fn handle(
    gateway: Arc<Gateway>,
    peer: SocketAddr,
    request: http::Request<Incoming>,
) -> http::Response<Answer> {
    let mut accepted = accept::accept(gateway, peer, request);
    // Boxed: a connection keeps room for its largest request future while a stream is relayed for minutes.
    let node = Arc::clone(&accepted.gateway);
    let result = tokio::select! {
        biased;
        result = Box::pin(steps(&mut accepted)) => result,
        () = node.drain.cut.cancelled() => Err(GatewayError::Draining),
    };
    match result {
        Ok(response) => accepted.answer(response),
        Err(error) => accepted.refuse(&error),
    }
}

async fn steps(accepted: &mut Accepted) -> Result<http::Response<Answer>, GatewayError> {
    let authenticated = authenticate::authenticate(accepted)?;
    let parsed = read::read(accepted, authenticated).await?;
    let admitted = admit::admit(accepted, parsed).await?;
    let routed = route::route(accepted, admitted)?;
    match routed {
        route::Routed::Models(mut parsed) => {
            let deadline = Instant::now() + models::LIST_TIMEOUT;
            limit::limit(accepted, &mut parsed, None, deadline).await?;
            models::list(accepted, parsed).await
        }
        route::Routed::Call(mut call) => {
            let allowed = limit::limit(accepted, &mut call.parsed, Some(call.route), call.deadline).await?;
            let call = match share::share(accepted, call, allowed).await? {
                share::Sharing::Answer(response) => return Ok(response),
                share::Sharing::Alone(call) => call,
            };
            let drop_usage = call.parsed.usage_added;
            let gateway = Arc::clone(&accepted.gateway);
            let settle = accepted.settle.as_mut().ok_or(GatewayError::Internal)?;
            let answered = attempt::attempt(&gateway, &mut settle.trail, call).await?;
            Ok(relay::relay(&gateway, answered, relay::For::Client { drop_usage }))
        }
    }
}
