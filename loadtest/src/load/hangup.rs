//! After clients have hung up: how many of their requests the upstream still works on.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::connection::fetch;
use crate::mock::Stats;

/// A gateway has this long to hang up in turn.
pub const GRACE: Duration = Duration::from_millis(1500);
/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// What the upstream still does after the clients are gone.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Leftover {
    /// Requests running when the grace was over, or 0 as soon as none was left.
    pub running: u64,
    /// When none was left, milliseconds after the last client was gone; `None`: some still are.
    pub none_after_ms: Option<u64>,
    /// Requests whose client (the gateway) hung up, since the mock's start.
    pub cancelled: u64,
}

/// Watches the mock's `stats` URL until nothing runs any more, at most 1.5 s. Errors: the mock does not answer.
pub async fn leftover(stats: &str) -> anyhow::Result<Leftover> {
    let start = Instant::now();
    loop {
        let now: Stats = serde_json::from_slice(&fetch(stats, GRACE).await?)?;
        let passed = start.elapsed();
        if now.in_flight == 0 || passed >= GRACE {
            let none_after_ms = (now.in_flight == 0).then_some(passed.as_millis() as u64);
            return Ok(Leftover { running: now.in_flight, none_after_ms, cancelled: now.cancelled });
        }
        tokio::time::sleep(EVERY.min(GRACE - passed)).await;
    }
}
