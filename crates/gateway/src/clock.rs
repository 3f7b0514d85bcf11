//! The wall clock, read only where a date is shown or a peer's date is understood. Everything that decides
//! uses tokio's monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, as a date.
#[allow(clippy::disallowed_methods)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Since 1970, UTC.
pub fn since_1970() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since 1970.
pub fn unix_seconds() -> f64 {
    since_1970().as_secs_f64()
}
