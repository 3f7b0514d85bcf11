//! Going away without anyone noticing.
//!
//! Owns the node's stage: serving, draining (unready, still accepting), closing (no new connections, old
//! ones end with their request), cut (what still runs is ended with an error event). Stages only go forward.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const SERVING: u8 = 1;
const DRAINING: u8 = 2;

/// The node's stage.
#[derive(Debug, Default)]
pub struct Drain {
    stage: AtomicU8,
    /// Cancelled when the node is unready for good.
    pub begun: CancellationToken,
    /// Cancelled when connections should end after their current request.
    pub closing: CancellationToken,
    /// Cancelled when what still runs must end.
    pub cut: CancellationToken,
    /// An operator asks the node to go away.
    pub requested: Notify,
}

impl Drain {
    /// The listeners accept.
    pub fn serving(&self) {
        self.stage.fetch_max(SERVING, Ordering::AcqRel);
    }

    /// Unready from now on.
    pub fn begin(&self) {
        self.stage.fetch_max(DRAINING, Ordering::AcqRel);
        self.begun.cancel();
    }

    /// Traffic may be sent here.
    pub fn is_ready(&self) -> bool {
        self.stage.load(Ordering::Acquire) == SERVING
    }

    /// The node is on its way out.
    pub fn is_draining(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= DRAINING
    }
}
