//! What the node runs by now, for all that outlives a configuration: listeners, connections, background tasks.
//!
//! Owns the one place where a configuration is replaced by the next. Reading it costs a few nanoseconds and waits for
//! nobody; who has read it keeps it for as long as his work takes.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::gateway::Gateway;

/// The configuration in force.
#[derive(Debug)]
pub struct Live(ArcSwap<Gateway>);

impl Live {
    /// Begins with `gateway`.
    pub fn new(gateway: Gateway) -> Self {
        gateway.limits.watch();
        Self(ArcSwap::from_pointee(gateway))
    }

    /// What to run by from here on.
    pub fn gateway(&self) -> Arc<Gateway> {
        self.0.load_full()
    }

    /// Puts `next` in force: what is begun from now on runs by it. Must be called inside a runtime; one caller at a time.
    pub fn replace(&self, next: Arc<Gateway>) {
        self.gateway().hand_over(&next);
        self.0.store(Arc::clone(&next));
        crate::health::start(&next);
        next.fleet.share_keys(&next);
        next.limits.watch();
    }
}
