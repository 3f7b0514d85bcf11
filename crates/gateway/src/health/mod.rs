//! The tasks that drive `tidegate_health`: probes, copies and made-up requests, sent the way users' requests are.
//!
//! They run on the control thread and over connections of their own, so that a busy data plane does not delay
//! them and they do not stand in its way; copies of live requests run where the request does. A task that fails
//! says so and goes on. Not here: what results mean.

pub mod observe;
pub mod probe;
pub mod shadow;
pub mod spending;

use std::sync::Arc;
use std::time::Instant;

use crate::gateway::Gateway;

/// The clock of everything that decides about health.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Starts all tasks; they live as long as the runtime.
pub fn start(gateway: &Arc<Gateway>) {
    tokio::spawn(Arc::clone(&gateway.health).run(now));
    for path in &gateway.paths {
        tokio::spawn(probe::watch_path(Arc::clone(gateway), Arc::clone(path)));
    }
    for egress in 0..gateway.config.egress.len() {
        tokio::spawn(probe::watch_egress(Arc::clone(gateway), egress));
    }
    tokio::spawn(shadow::make_up(Arc::clone(gateway)));
    tokio::spawn(Arc::clone(&gateway.fleet).run(Arc::clone(gateway)));
}
