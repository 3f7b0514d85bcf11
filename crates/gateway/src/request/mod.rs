//! The life of a request, in eight steps. Each takes what the one before it gave, so that a wrong order does
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
pub mod models;
pub mod read;
pub mod relay;
pub mod route;
pub mod settle;

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::body::Incoming;

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
        route::Routed::Models(parsed) => models::list(accepted, parsed).await,
        route::Routed::Call(call) => {
            let answered = attempt::attempt(accepted, call).await?;
            Ok(relay::relay(accepted, answered))
        }
    }
}
