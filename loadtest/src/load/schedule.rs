//! When the requests of an open loop are due: fixed before the first is sent, so that a slow server cannot
//! make its own exam easier.
//!
//! Latency counts from the due time. Were it counted from the sending, a stall of one second would show as
//! one slow request instead of all the requests that were due in that second (coordinated omission).

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// Arrivals that wait for the generator itself; their due times stand, so a full queue hides nothing.
const QUEUE: usize = 64 * 1024;

/// Evenly spaced arrivals.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    rate: f64,
    count: u64,
}

/// One request to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its number, from 0.
    pub n: u64,
    /// When it is to be sent.
    pub due: Instant,
}

impl Schedule {
    /// `rate` a second (above 0) from `start` on, `count` in all.
    pub fn new(start: Instant, rate: f64, count: u64) -> Self {
        Self { start, rate, count }
    }

    /// As many as are due within `span`.
    pub fn lasting(start: Instant, rate: f64, span: Duration) -> Self {
        Self::new(start, rate, (span.as_secs_f64() * rate).ceil() as u64)
    }

    /// When arrival `n` is due; `None` past the last.
    pub fn due(&self, n: u64) -> Option<Instant> {
        let after = Duration::try_from_secs_f64(n as f64 / self.rate).ok()?;
        if n < self.count { self.start.checked_add(after) } else { None }
    }

    /// Hands out arrivals when they are due, from a thread of its own: the runtime's timer has steps of a
    /// millisecond, the kernel's of about 60 us. Ends after the last, or when the receiver is dropped. Errors:
    /// no thread can be started.
    pub fn run(self) -> std::io::Result<mpsc::Receiver<Arrival>> {
        let (arrivals, receiver) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("arrivals".into()).spawn(move || {
            for n in 0.. {
                let Some(due) = self.due(n) else { return };
                loop {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    std::thread::park_timeout(left);
                }
                if arrivals.blocking_send(Arrival { n, due }).is_err() {
                    return;
                }
            }
        })?;
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_are_even_and_end_with_the_span() {
        let start = Instant::now();
        let schedule = Schedule::lasting(start, 400.0, Duration::from_secs(2));
        assert_eq!(schedule.due(0), Some(start));
        assert_eq!(schedule.due(1), Some(start + Duration::from_micros(2500)));
        assert_eq!(schedule.due(799), Some(start + Duration::from_micros(799 * 2500)));
        assert_eq!(schedule.due(800), None);
    }

    #[test]
    fn due_times_do_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3.0, u64::MAX);
        assert_eq!(schedule.due(3_000_000), Some(start + Duration::from_secs(1_000_000)));
    }

    #[tokio::test]
    async fn a_receiver_that_is_late_still_gets_the_times_fixed_beforehand() {
        let start = Instant::now();
        let mut arrivals = Schedule::new(start, 1000.0, 30).run().unwrap();
        let mut got = vec![arrivals.recv().await.unwrap()];
        // Late by more than the whole schedule.
        tokio::time::sleep_until(start + Duration::from_millis(60)).await;
        while let Some(arrival) = arrivals.recv().await {
            got.push(arrival);
        }
        let expected: Vec<_> = (0..30).map(|n| start + Duration::from_millis(n)).collect();
        assert_eq!(got.iter().map(|arrival| arrival.due).collect::<Vec<_>>(), expected);
    }
}
