//! The tasks that drive `tidegate_health`: probes, copies and made-up requests, sent the way users' requests are.
//!
//! They run on the control thread and over connections of their own, so that a busy data plane does not delay
//! them and they do not stand in its way; copies of live requests run where the request does. A task that fails
//! says so and goes on. Not here: what results mean.

pub mod observe;
pub mod probe;
pub mod shadow;
pub mod spending;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::gateway::Gateway;

/// The clock of everything that decides about health.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Starts what works for one configuration; it ends when another has taken its place.
pub fn start(gateway: &Arc<Gateway>) {
    let spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let replaced = gateway.replaced.clone();
        tokio::spawn(async move { replaced.run_until_cancelled(task).await });
    };
    spawn(Box::pin(Arc::clone(&gateway.health).run(now)));
    for path in &gateway.paths {
        spawn(Box::pin(probe::watch_path(Arc::clone(gateway), Arc::clone(path))));
    }
    for egress in 0..gateway.config.egress.len() {
        spawn(Box::pin(probe::watch_egress(Arc::clone(gateway), egress)));
    }
    spawn(Box::pin(shadow::make_up(Arc::clone(gateway))));
}
