//! What this node is still making, sharing or writing, so that its end can wait for that.
//!
//! A number, and who waits for none. A flight counts until it is over, its sharing until other nodes have its end, an
//! answer on its way to the store until it is there. With the store away the last two give up by themselves. Nothing
//! here ends anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::Answers;

#[derive(Default)]
pub(super) struct Busy {
    holds: AtomicUsize,
    none: Notify,
}

/// Counts for as long as it lives.
pub(super) struct Hold(Arc<Busy>);

impl Busy {
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.holds.fetch_add(1, Ordering::SeqCst);
        Hold(Arc::clone(self))
    }

    async fn none(&self) {
        loop {
            let none = self.none.notified();
            if self.holds.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.holds.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

impl Answers {
    /// Completes when no flight of this node is led any more, other nodes have the end of those they follow, and no
    /// answer is on its way to the store; for the end of the node, after its last request has come. Those who follow
    /// here may still be reading. Needs [`Answers::run`] to be polled. Not bounded: a flight takes as long as its
    /// upstream. Cancel-safe.
    pub async fn idle(&self) {
        self.busy.none().await;
    }
}
