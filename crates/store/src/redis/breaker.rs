//! When a connection that still stands is no longer worth asking.
//!
//! A timeout is no broken connection: a frozen server, or a path that swallows what is sent, would be asked for
//! ever. A pure machine of (answers, now), one for each connection, so what a former one did counts for nothing.
//! Not here: how the way back is found (`slot`).

use std::time::Duration;

use tokio::time::Instant;

/// Timeouts in a row. All calls that were under way at once count as one: they tell of one moment.
const IN_A_ROW: u32 = 3;
/// Failures within the span, answers between them or not; those under way at once count as one again.
const FAILURES: u32 = 5;
/// Calls within the span from which their failing share counts.
const CALLS: u32 = 20;
const SPAN: Duration = Duration::from_secs(1);
const PARTS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    calls: u32,
    failed: u32,
    waves: u32,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Breaker {
    began: Instant,
    /// Number of the current part since `began`.
    part: u64,
    counts: [Counts; PARTS],
    in_a_row: u32,
    /// When the last wave was counted.
    wave: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, part: 0, counts: [Counts::default(); PARTS], in_a_row: 0, wave: None }
    }

    /// A call was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.in_a_row = 0;
        let counts = self.now(now);
        counts.calls = counts.calls.saturating_add(1);
    }

    /// A call that began at `started` was not answered in time, or was refused for the state the server is in.
    /// Gives why the connection should be given up, if it should.
    pub(super) fn failed(&mut self, started: Instant, now: Instant, in_time: bool) -> Option<&'static str> {
        let new = self.wave.is_none_or(|wave| started >= wave);
        if new {
            self.wave = Some(now);
            self.in_a_row = if in_time { 0 } else { self.in_a_row.saturating_add(1) };
        }
        let counts = self.now(now);
        counts.calls = counts.calls.saturating_add(1);
        counts.failed = counts.failed.saturating_add(1);
        counts.waves = counts.waves.saturating_add(u32::from(new));
        let all = self.counts.iter().fold(Counts::default(), |all, part| Counts {
            calls: all.calls.saturating_add(part.calls),
            failed: all.failed.saturating_add(part.failed),
            waves: all.waves.saturating_add(part.waves),
        });
        if self.in_a_row >= IN_A_ROW {
            Some("no answer in time, several times in a row")
        } else if all.waves >= FAILURES {
            Some("several failures within a second")
        } else if all.calls >= CALLS && all.failed.saturating_mul(2) >= all.calls {
            Some("half of the calls within a second failed")
        } else {
            None
        }
    }

    /// The counts of the part that `now` is in; parts that have passed out of the span are emptied.
    fn now(&mut self, now: Instant) -> &mut Counts {
        let length = SPAN.as_millis() as u64 / PARTS as u64;
        let part = now.saturating_duration_since(self.began).as_millis() as u64 / length;
        let passed = part.saturating_sub(self.part).min(PARTS as u64) as usize;
        self.part = self.part.max(part);
        // The newest is at the front.
        self.counts.rotate_right(passed);
        for counts in self.counts.iter_mut().take(passed) {
            *counts = Counts::default();
        }
        let [newest, ..] = &mut self.counts;
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn three_timeouts_in_a_row_are_enough() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        assert_eq!(breaker.failed(t, t + ms(25), false), None);
        assert_eq!(breaker.failed(t + ms(25), t + ms(50), false), None);
        assert!(breaker.failed(t + ms(50), t + ms(75), false).is_some());
    }

    #[test]
    fn an_answer_begins_the_row_anew() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        for i in 0..20 {
            let at = t + ms(1000 * i);
            assert_eq!(breaker.failed(at, at + ms(25), false), None);
            assert_eq!(breaker.failed(at + ms(25), at + ms(50), false), None);
            breaker.answered(at + ms(60));
        }
    }

    #[test]
    fn calls_under_way_at_once_count_as_one() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        for _ in 0..19 {
            assert_eq!(breaker.failed(t, t + ms(25), false), None);
        }
    }

    #[test]
    fn half_of_twenty_calls_within_a_second_are_enough() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        for _ in 0..10 {
            breaker.answered(t);
        }
        for _ in 0..9 {
            assert_eq!(breaker.failed(t, t + ms(900), false), None);
        }
        assert!(breaker.failed(t, t + ms(900), false).is_some());
    }

    #[test]
    fn what_is_older_than_a_second_counts_no_more() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        for i in 0..50 {
            let at = t + ms(300 * i);
            assert_eq!(breaker.failed(at, at + ms(1), true), None, "at {i}");
        }
    }

    #[test]
    fn five_refusals_within_a_second_are_enough() {
        let t = Instant::now();
        let mut breaker = Breaker::new(t);
        for i in 0..4 {
            assert_eq!(breaker.failed(t + ms(10 * i), t + ms(10 * i + 1), true), None);
        }
        assert!(breaker.failed(t + ms(50), t + ms(51), true).is_some());
    }
}
