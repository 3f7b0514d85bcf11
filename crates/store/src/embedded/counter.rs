//! One counter: its level, and what of it is reserved or running.
//!
//! Reservations that have run out are given back when the counter is next looked at, which comes to the same as if
//! it had been done in time: a bucket only fills in between, a day only counts up.

use std::collections::HashMap;
use std::time::Duration;

use super::Moment;
use super::bucket::{Bucket, Rate};
use crate::charge::{Counter as Rule, Debit, Settled, Standing, units};

const DAY: u64 = 86_400;
/// A mark of a day is its number, wrapped here, times this, plus what was used: in one `f64` to a hundredth of a unit.
const MARK_OF_DAY: f64 = (1_u64 << 40) as f64;
const DAYS_TOLD_APART: u64 = 16;
/// Nobody can say when a running request ends, or what comes back of a reservation.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Level {
    Bucket(Bucket),
    Day { day: u64, used: f64 },
    Running,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    amount: f64,
    until: Duration,
    day: u64,
}

/// What a debit finds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    /// It is too much, for so long.
    pub denied: Option<Duration>,
    /// Until its turn.
    pub wait: Duration,
    /// Had beyond the cost.
    pub extra: f64,
    /// Of a day: not to be had before midnight.
    pub spent: bool,
}

/// A counter.
#[derive(Debug)]
pub(super) struct Counter {
    rule: Rule,
    level: Level,
    held: HashMap<u128, Held>,
    /// Of a day's use, what is only reserved.
    reserved: f64,
    /// No earlier than this does anything held run out.
    soonest: Duration,
    /// As late as any mark that was given out, so that a counter is not taken for lost because it was given back to.
    kept_until: Duration,
    /// When it was last charged, in charges.
    pub touched: u64,
}

impl Counter {
    /// A full one, or one that begins from what is known of it.
    pub fn begin(rule: Rule, known: Option<f64>, now: Moment) -> Self {
        let level = match rule {
            Rule::Bucket { per_second, burst, .. } => {
                let rate = Rate { per_second, burst };
                Level::Bucket(
                    known.map_or(Bucket::full(now.steady), |mark| Bucket::lost(mark, rate, now.steady)),
                )
            }
            Rule::Day { .. } => {
                let day = day(now);
                let of_today = (day % DAYS_TOLD_APART) as f64 * MARK_OF_DAY;
                let used = known.map(|mark| mark - of_today).filter(|used| (0.0..MARK_OF_DAY).contains(used));
                Level::Day { day, used: used.unwrap_or(0.0) }
            }
            Rule::Running { .. } => Level::Running,
        };
        Self {
            rule,
            level,
            held: HashMap::new(),
            reserved: 0.0,
            soonest: Duration::MAX,
            kept_until: Duration::ZERO,
            touched: 0,
        }
    }

    /// Brings it to `now` and under the rule as it is now; one that counted in another way begins anew.
    pub fn adopt(mut self, rule: Rule, now: Moment) -> Self {
        self.sweep(now);
        let same = matches!(
            (self.rule, rule),
            (Rule::Bucket { .. }, Rule::Bucket { .. })
                | (Rule::Day { .. }, Rule::Day { .. })
                | (Rule::Running { .. }, Rule::Running { .. })
        );
        if !same {
            return Self::begin(rule, None, now);
        }
        if let (Level::Bucket(bucket), Some(rate)) = (&mut self.level, rate(self.rule)) {
            bucket.take(0.0, rate, now.steady);
        }
        self.rule = rule;
        self
    }

    /// Gives back what has run out, and begins the day.
    pub fn sweep(&mut self, now: Moment) {
        if let Level::Day { day: at, used } = &mut self.level {
            let today = day(now);
            // A clock set back across midnight must not begin the same day twice.
            if today != *at && today.saturating_add(1) != *at {
                (*at, *used, self.reserved) = (today, 0.0, 0.0);
            }
        }
        if now.steady < self.soonest {
            return;
        }
        let (mut soonest, mut back, mut back_today) = (Duration::MAX, 0.0, 0.0);
        let counted = self.counted_day();
        self.held.retain(|_, held| {
            if held.until > now.steady {
                soonest = soonest.min(held.until);
                return true;
            }
            back += held.amount;
            back_today += if held.day == counted { held.amount } else { 0.0 };
            false
        });
        self.soonest = soonest;
        match (&mut self.level, rate(self.rule)) {
            (Level::Bucket(bucket), Some(rate)) => bucket.take(-back, rate, now.steady),
            (Level::Day { used, .. }, _) => *used = (*used - back_today).max(0.0),
            _ => {}
        }
        self.unreserve(back_today);
    }

    /// Whether `debit` may be had. The counter must be at `now` and under the debit's rule.
    pub fn ask(&self, debit: &Debit, now: Moment) -> Asked {
        let cost = self.rule.takes(debit.cost);
        match (self.level, self.rule) {
            (Level::Bucket(bucket), Rule::Bucket { per_second, burst, patience }) => {
                let rate = Rate { per_second, burst };
                let wait = bucket.wait(cost, rate, now.steady);
                Asked {
                    denied: (wait > patience).then(|| wait.saturating_sub(patience)),
                    wait,
                    extra: bucket.beside(cost, units(debit.extra), rate, now.steady),
                    spent: false,
                }
            }
            (Level::Day { used, .. }, Rule::Day { limit }) => {
                let fits = cost <= 0.0 || used + cost <= limit + 1e-9 * limit.max(1.0);
                let spent = !fits && self.is_spent(cost);
                let wait = || if spent { self.reset(now) } else { ASK_AGAIN };
                Asked { denied: (!fits).then(wait), spent, ..Asked::default() }
            }
            (_, Rule::Running { limit, .. }) => {
                let fits = self.held.len() as f64 + cost <= limit;
                Asked { denied: (!fits).then_some(ASK_AGAIN), ..Asked::default() }
            }
            _ => Asked::default(),
        }
    }

    /// Takes what [`Counter::ask`] found, and notes it under `id` where it is reserved.
    pub fn take(&mut self, debit: &Debit, extra: f64, id: u128, lives: Duration, now: Moment) {
        let amount = self.rule.takes(debit.cost) + extra;
        self.add(amount, now);
        let lives = match self.rule {
            // Nothing is counted of a mere look.
            Rule::Running { .. } if amount <= 0.0 => return,
            Rule::Running { lives, .. } => lives,
            _ if debit.reserved => lives,
            _ => return,
        };
        if matches!(self.level, Level::Day { .. }) {
            self.reserved += amount;
        }
        let until = now.steady.saturating_add(lives);
        self.held.insert(id, Held { amount, until, day: self.counted_day() });
        self.soonest = self.soonest.min(until);
    }

    /// Trues up. The counter must be at `now` and under the item's rule.
    pub fn settle(&mut self, id: u128, item: &Settled, now: Moment) {
        if matches!(self.level, Level::Running) {
            self.held.remove(&id);
            return;
        }
        let today = self.counted_day();
        let (charged, of_today) =
            match (item.reserved, item.reserved.then(|| self.held.remove(&id)).flatten()) {
                (true, Some(held)) => (held.amount, held.day == today),
                (true, None) => (0.0, true),
                (false, _) => (units(item.charged), true),
            };
        if item.reserved && of_today {
            self.unreserve(charged);
        }
        let change = item.used() - charged;
        // Yesterday is over: nothing of it is given back to today.
        if change > 0.0 || of_today {
            self.add(change, now);
        }
    }

    /// Lets an entry that is still there run for `lives` more.
    pub fn renew(&mut self, id: u128, lives: Duration, now: Duration) {
        if matches!(self.level, Level::Running)
            && let Some(held) = self.held.get_mut(&id)
            && held.until > now
        {
            held.until = now.saturating_add(lives);
            self.soonest = self.soonest.min(held.until);
        }
    }

    /// How it stands; `asked` is what was had.
    pub fn standing(&mut self, asked: Asked, now: Moment) -> Standing {
        let mark = match (self.level, rate(self.rule)) {
            (Level::Bucket(bucket), Some(rate)) => {
                let full = now.steady.saturating_add(bucket.full_in(rate, now.steady));
                self.kept_until = self.kept_until.max(full);
                bucket.mark(rate, now.steady)
            }
            (Level::Day { day, used }, _) => {
                let used = used.clamp(0.0, MARK_OF_DAY - 1.0);
                ((day % DAYS_TOLD_APART) as f64).mul_add(MARK_OF_DAY, used)
            }
            _ => 0.0,
        };
        let left = match (self.level, self.rule) {
            (Level::Bucket(bucket), Rule::Bucket { per_second, burst, .. }) => {
                bucket.left(Rate { per_second, burst }, now.steady)
            }
            (Level::Day { used, .. }, Rule::Day { limit }) => limit - used,
            (_, Rule::Running { limit, .. }) => limit - self.held.len() as f64,
            _ => 0.0,
        };
        let Asked { extra, wait, spent, .. } = asked;
        Standing { extra, left, reset: self.reset(now), wait, mark, spent }
    }

    /// Nothing would be lost with it.
    pub fn is_full(&self, now: Moment) -> bool {
        self.held.is_empty()
            && match (self.level, rate(self.rule)) {
                (Level::Bucket(bucket), Some(rate)) => {
                    now.steady >= self.kept_until && bucket.full_in(rate, now.steady).is_zero()
                }
                // With its marks out, a day that was given back to would be taken for lost.
                (Level::Day { day: at, .. }, _) => day(now) > at,
                _ => true,
            }
    }

    /// Reservations and running entries.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn add(&mut self, units: f64, now: Moment) {
        match (&mut self.level, rate(self.rule)) {
            (Level::Bucket(bucket), Some(rate)) => bucket.take(units, rate, now.steady),
            (Level::Day { used, .. }, _) => *used = (*used + units).max(0.0),
            _ => {}
        }
    }

    fn unreserve(&mut self, units: f64) {
        // What is left of sums when nothing is reserved is only their error.
        self.reserved = if self.held.is_empty() { 0.0 } else { (self.reserved - units).max(0.0) };
    }

    /// What was really used of a day, reservations aside, leaves no room for so much more.
    fn is_spent(&self, cost: f64) -> bool {
        match (self.level, self.rule) {
            (Level::Day { used, .. }, Rule::Day { limit }) => {
                used - self.reserved + cost > limit + 1e-9 * limit.max(1.0)
            }
            _ => false,
        }
    }

    fn counted_day(&self) -> u64 {
        if let Level::Day { day, .. } = self.level { day } else { 0 }
    }

    fn reset(&self, now: Moment) -> Duration {
        match (self.level, rate(self.rule)) {
            (Level::Bucket(bucket), Some(rate)) => bucket.full_in(rate, now.steady),
            (Level::Day { day, .. }, _) => {
                Duration::from_secs((day + 1).saturating_mul(DAY)).saturating_sub(now.wall)
            }
            _ => {
                self.held.values().map(|held| held.until.saturating_sub(now.steady)).max().unwrap_or_default()
            }
        }
    }
}

fn rate(rule: Rule) -> Option<Rate> {
    match rule {
        Rule::Bucket { per_second, burst, .. } => Some(Rate { per_second, burst }),
        Rule::Day { .. } | Rule::Running { .. } => None,
    }
}

const fn day(now: Moment) -> u64 {
    now.wall.as_secs() / DAY
}

#[cfg(test)]
mod tests;
