//! What copies of requests have cost today, so that a long recovery cannot empty a purse.
//!
//! Counted on each node by the UTC day and by the configured prices, when a copy is sent, at what it may cost at most;
//! a model without a price costs nothing. Made-up requests are a few tokens each and not counted: without them nothing
//! would come back once the day's money is spent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const DAY: u64 = 86_400;

/// The purse of one upstream.
#[derive(Debug, Default)]
pub struct Spending(Mutex<Today>);

#[derive(Debug, Default)]
struct Today {
    day: u64,
    micro_usd: f64,
}

impl Spending {
    /// Takes what a copy may cost; false, and nothing taken, where that is more than is left of `usd_per_day`.
    pub fn take(&self, micro_usd: f64, usd_per_day: f64, since_1970: Duration) -> bool {
        let day = since_1970.as_secs() / DAY;
        let mut today = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != day {
            *today = Today { day, micro_usd: 0.0 };
        }
        let fits = micro_usd <= 0.0 || today.micro_usd + micro_usd <= usd_per_day * 1e6;
        if fits {
            today.micro_usd += micro_usd;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_money_is_spent_once_and_what_is_free_goes_on() {
        let (spending, noon) = (Spending::default(), Duration::from_secs(DAY * 20_000 + DAY / 2));
        assert!(spending.take(600_000.0, 1.0, noon));
        assert!(!spending.take(600_000.0, 1.0, noon));
        assert!(spending.take(400_000.0, 1.0, noon));
        assert!(spending.take(0.0, 1.0, noon) && !spending.take(1.0, 1.0, noon));
        assert!(spending.take(600_000.0, 1.0, noon + Duration::from_secs(DAY / 2)));
    }
}
