//! The wall clock, read only where a date is shown or a peer's date is understood. Everything that decides
//! uses tokio's monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as a date.
#[allow(clippy::disallowed_methods)]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Seconds since 1970.
pub fn unix_seconds() -> f64 {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
