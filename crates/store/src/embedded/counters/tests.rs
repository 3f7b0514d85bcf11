use proptest::prelude::*;

use super::*;
use crate::charge::Counter as Rule;

const BURST: i64 = 1_000;
/// Units per millisecond.
const RATE: i64 = 2;
const DAY_LIMIT: i64 = 900;
const RUNNING: usize = 3;
const RUNS: u64 = 700;
const DAY_MILLIS: u64 = 86_400_000;

const BUCKET: Rule =
    Rule::Bucket { per_second: 1_000.0 * RATE as f64, burst: BURST as f64, patience: Duration::ZERO };
const DAY: Rule = Rule::Day { limit: DAY_LIMIT as f64 };
const IN_FLIGHT: Rule = Rule::Running { limit: RUNNING as f64, lives: Duration::from_millis(RUNS) };
const SLOW: Rule = Rule::Bucket { per_second: 0.001, burst: 5.0, patience: Duration::ZERO };

fn debit(key: &str, counter: Rule, cost: f64) -> Debit {
    Debit { key: key.into(), counter, cost, extra: 0.0, known: None, reserved: false }
}

fn charge(group: &str, id: u128, lives: u64, debits: Vec<Debit>) -> Charge {
    Charge { group: group.into(), id, lives: Duration::from_millis(lives), debits }
}

fn at(millis: u64) -> Moment {
    let steady = Duration::from_millis(millis);
    // A minute before midnight at the start, so that sequences cross it.
    Moment { steady, wall: steady + Duration::from_millis(1_000 * DAY_MILLIS - 60_000) }
}

#[derive(Debug, Clone)]
enum Act {
    Charge { tokens: i64, extra: i64, day: i64, runs: bool, reserved: bool, lives: u64 },
    Settle { nth: usize, tokens: i64, day: i64 },
    Renew { nth: usize },
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let charge = (0..1_200_i64, 0..300_i64, 0..300_i64, any::<bool>(), any::<bool>(), 1..1_500_u64).prop_map(
        |(tokens, extra, day, runs, reserved, lives)| Act::Charge {
            tokens,
            extra,
            day,
            runs,
            reserved,
            lives,
        },
    );
    let settle = (any::<usize>(), 0..1_500_i64, 0..400_i64).prop_map(|(nth, tokens, day)| Act::Settle {
        nth,
        tokens,
        day,
    });
    let renew = any::<usize>().prop_map(|nth| Act::Renew { nth });
    let gap = prop_oneof![8 => 0..400_u64, 1 => 0..30_000_u64];
    proptest::collection::vec((gap, prop_oneof![3 => charge, 2 => settle, 1 => renew]), 1..80)
}

/// A charge that was admitted, in the model: what it took and until when that is reserved.
#[derive(Clone)]
struct Open {
    charge: Charge,
    tokens: i64,
    day: i64,
    charged_on: u64,
    reserved_until: Option<u64>,
    running_until: Option<u64>,
}

/// Counts in whole numbers, a millisecond at a time: nothing is late and nothing is rounded.
#[derive(Default)]
struct Model {
    now: u64,
    owed: i64,
    day: u64,
    used: i64,
    open: Vec<Open>,
}

impl Model {
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += 1;
            self.owed = (self.owed - RATE).max(0);
            let day = at(self.now).wall.as_millis() as u64 / DAY_MILLIS;
            if day != self.day {
                (self.day, self.used) = (day, 0);
            }
            for open in &mut self.open {
                if open.reserved_until == Some(self.now) {
                    open.reserved_until = None;
                    self.owed = (self.owed - open.tokens).max(0);
                    let back = if open.charged_on == self.day { open.day } else { 0 };
                    self.used = (self.used - back).max(0);
                    (open.tokens, open.day, open.charged_on) = (0, 0, self.day);
                }
                if open.running_until == Some(self.now) {
                    open.running_until = None;
                }
            }
        }
    }

    fn running(&self) -> usize {
        self.open.iter().filter(|open| open.running_until.is_some()).count()
    }

    /// Which debits deny, or the extra that is had.
    fn charge(&mut self, tokens: i64, extra: i64, day: i64, runs: bool) -> Result<i64, [bool; 3]> {
        let left = BURST - self.owed;
        let denied = [
            tokens > 0 && left < tokens.min(BURST),
            day > 0 && self.used + day > DAY_LIMIT,
            runs && self.running() >= RUNNING,
        ];
        if denied.contains(&true) {
            return Err(denied);
        }
        let extra = extra.min(left - tokens).max(0);
        self.owed += tokens.min(BURST) + extra;
        self.used += day;
        Ok(extra)
    }

    fn settle(&mut self, open: &Open, tokens: i64, day: i64) {
        self.owed = (self.owed + tokens - open.tokens).max(0);
        let reserved = open.charge.debits[0].reserved;
        if day > open.day || open.charged_on == self.day || !reserved {
            self.used = (self.used + day - open.day).max(0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_verdict_is_that_of_an_exact_model(acts in acts()) {
        let mut model = Model { day: at(0).wall.as_millis() as u64 / DAY_MILLIS, ..Model::default() };
        let mut counters = Counters::new(1_000, 1_000);
        for (id, (gap, act)) in acts.into_iter().enumerate() {
            model.pass(gap);
            let now = at(model.now);
            match act {
                Act::Charge { tokens, extra, day, runs, reserved, lives } => {
                    let mut debits = vec![
                        Debit { extra: extra as f64, reserved, ..debit("tokens", BUCKET, tokens as f64) },
                        Debit { reserved, ..debit("day", DAY, day as f64) },
                    ];
                    if runs {
                        debits.push(debit("in_flight", IN_FLIGHT, 1.0));
                    }
                    let charge = charge("group", id as u128, lives, debits);
                    let verdict = counters.charge(&charge, now);
                    let should_be = model.charge(tokens, extra, day, runs);
                    let standings = match (verdict, should_be) {
                        (Verdict::Admitted(standings), Ok(extra)) => {
                            prop_assert_eq!(standings[0].extra, extra as f64);
                            model.open.push(Open {
                                charge,
                                tokens: tokens.min(BURST) + extra,
                                day,
                                charged_on: model.day,
                                reserved_until: reserved.then_some(model.now + lives),
                                running_until: runs.then_some(model.now + RUNS),
                            });
                            standings
                        }
                        (Verdict::Denied { by, standings, .. }, Err(denied)) => {
                            prop_assert!(denied[by]);
                            standings
                        }
                        (verdict, should_be) => {
                            return Err(TestCaseError::fail(format!("{verdict:?}, should be {should_be:?}")));
                        }
                    };
                    let left =
                        [BURST - model.owed, DAY_LIMIT - model.used, RUNNING as i64 - model.running() as i64];
                    for (standing, left) in standings.iter().zip(left) {
                        prop_assert!((standing.left - left as f64).abs() < 1e-3, "{standing:?}, not {left}");
                    }
                }
                Act::Settle { nth, tokens, day } if !model.open.is_empty() => {
                    let open = model.open.swap_remove(nth % model.open.len());
                    let charged = [open.tokens, open.day, 1];
                    let items = open.charge.debits.iter().zip(charged).zip([tokens, day, 1]);
                    let items = items.map(|((debit, charged), used)| {
                        let Debit { key, counter, reserved, .. } = debit.clone();
                        Settled { key, counter, charged: charged as f64, used: used as f64, reserved }
                    });
                    let Charge { group, id, lives, .. } = open.charge.clone();
                    counters.settle(&Settlement { group, id, lives, items: items.collect() }, now);
                    model.settle(&open, tokens, day);
                }
                Act::Renew { nth } if !model.open.is_empty() => {
                    let nth = nth % model.open.len();
                    let open = &mut model.open[nth];
                    let running = Running { group: "group".into(), key: "in_flight".into(), id: open.charge.id };
                    counters.renew(&running, Duration::from_millis(RUNS), now.steady);
                    open.running_until = open.running_until.map(|_| model.now + RUNS);
                }
                Act::Settle { .. } | Act::Renew { .. } => {}
            }
        }
    }
}

#[test]
fn the_least_recently_charged_makes_room() {
    let mut counters = Counters::new(16, 1_000);
    for n in 0..=16_u64 {
        let group = format!("group-{n}");
        counters.charge(&charge(&group, u128::from(n), 1_000, vec![debit("requests", SLOW, 5.0)]), at(n));
        // The first is charged again and again, so it is never the oldest.
        counters.charge(&charge("group-0", 0, 1_000, vec![debit("requests", SLOW, 5.0)]), at(n));
    }
    assert_eq!(counters.count, 14);
    let mut denied = |group| {
        let charge = charge(group, 99, 1_000, vec![debit("requests", SLOW, 5.0)]);
        matches!(counters.charge(&charge, at(20)), Verdict::Denied { .. })
    };
    assert!(denied("group-0") && denied("group-16"));
    assert!(!denied("group-1") && !denied("group-2"));
}

#[test]
fn reservations_are_bounded_as_well() {
    let mut counters = Counters::new(1_000, 8);
    for n in 0..100_u64 {
        let group = format!("group-{n}");
        let two = ["a", "b"].map(|key| Debit { reserved: true, ..debit(key, SLOW, 1.0) });
        counters.charge(&charge(&group, u128::from(n), 60_000, two.to_vec()), at(n));
        assert!(counters.held <= 8 && counters.count <= 8, "{} of {}", counters.held, counters.count);
    }
    assert!(counters.groups.contains_key("group-99") && !counters.groups.contains_key("group-0"));
}

#[test]
fn what_is_full_again_is_dropped_before_anything_else_and_in_time() {
    let mut counters = Counters::new(8, 1_000);
    for n in 0..4_u64 {
        counters.charge(&charge("slow", 1, 1_000, vec![debit(&format!("{n}"), SLOW, 5.0)]), at(n));
    }
    for n in 0..4_u64 {
        counters.charge(&charge("fast", 2, 1_000, vec![debit(&format!("{n}"), BUCKET, 5.0)]), at(n));
    }
    assert_eq!(counters.count, 8);
    counters.charge(&charge("slow", 3, 1_000, vec![debit("another", SLOW, 5.0)]), at(500));
    assert_eq!((counters.count, counters.groups.len()), (5, 1));
    counters.charge(&charge("fast", 4, 1_000, vec![debit("0", BUCKET, 5.0)]), at(501));
    counters.charge(&charge("slow", 5, 1_000, vec![debit("another", SLOW, 5.0)]), at(70_000));
    assert_eq!((counters.count, counters.groups.len()), (5, 1));
}

#[test]
fn a_full_counter_is_not_kept() {
    let mut counters = Counters::new(8, 8);
    counters.charge(&charge("group", 1, 1_000, vec![debit("tokens", BUCKET, 0.0)]), at(0));
    let held = Settled { key: "tokens".into(), counter: BUCKET, charged: 5.0, used: 1.0, reserved: false };
    let lives = Duration::from_secs(1);
    counters.settle(&Settlement { group: "group".into(), id: 1, lives, items: vec![held] }, at(1));
    assert_eq!((counters.count, counters.held, counters.groups.len()), (0, 0, 0));
}
