//! Whole sequences against a model that counts in whole numbers.

use std::future::Future;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tidegate_store::charge::{Charge, Counter, Debit, Settled, Settlement, Verdict};

use super::*;

const BURST: i64 = 20;
const DAY: i64 = 50;
const RUNNING: i64 = 3;
/// A unit of the bucket takes longer than a day, so that who waits longest is certain.
const RATE: f64 = 1e-6;

#[derive(Debug, Clone)]
struct Step {
    there: bool,
    act: Act,
}

#[derive(Debug, Clone)]
enum Act {
    Charge { tokens: i64, extra: i64, day: i64, runs: bool, reserved: bool },
    Settle { nth: usize, tokens: i64, day: i64 },
}

/// Of a charge that was admitted: what it took.
struct Open {
    charge: Charge,
    tokens: i64,
    day: i64,
    runs: bool,
}

#[derive(Default)]
struct Model {
    owed: i64,
    used: i64,
    running: i64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let charge = (0..25_i64, 0..6_i64, 0..20_i64, any::<bool>(), any::<bool>())
        .prop_map(|(tokens, extra, day, runs, reserved)| Act::Charge { tokens, extra, day, runs, reserved });
    let settle = (any::<usize>(), 0..30_i64, 0..25_i64).prop_map(|(nth, tokens, day)| Act::Settle {
        nth,
        tokens,
        day,
    });
    let step = (any::<bool>(), prop_oneof![charge, settle]).prop_map(|(there, act)| Step { there, act });
    proptest::collection::vec(step, 1..40)
}

impl Model {
    /// Index of the debit that denies, or the extra that is had.
    fn charge(&mut self, tokens: i64, extra: i64, day: i64, runs: bool) -> Result<i64, usize> {
        let left = BURST - self.owed;
        if tokens > 0 && left < tokens.min(BURST) {
            return Err(0);
        }
        if day > 0 && self.used + day > DAY {
            return Err(1);
        }
        if runs && self.running == RUNNING {
            return Err(2);
        }
        let extra = extra.min(left - tokens).max(0);
        self.owed += tokens.min(BURST) + extra;
        self.used += day;
        self.running += i64::from(runs);
        Ok(extra)
    }

    fn settle(&mut self, open: &Open, tokens: i64, day: i64) {
        self.owed = (self.owed + tokens - open.tokens).max(0);
        self.used = (self.used + day - open.day).max(0);
        self.running -= i64::from(open.runs);
    }
}

async fn step(
    store: &Store,
    group: &Arc<str>,
    model: &mut Model,
    open: &mut Vec<Open>,
    act: &Act,
) -> Result<(), TestCaseError> {
    let bucket = Counter::Bucket { per_second: RATE, burst: BURST as f64, patience: Duration::ZERO };
    let counted = Counter::Day { limit: DAY as f64 };
    let running = Counter::Running { limit: RUNNING as f64, lives: LONG };
    match *act {
        Act::Charge { tokens, extra, day, runs, reserved } => {
            let mut debits = vec![
                Debit { extra: extra as f64, reserved, ..debit("tokens", bucket, tokens as f64) },
                Debit { reserved, ..debit("day", counted, day as f64) },
            ];
            if runs {
                debits.push(debit("in_flight", running, 1.0));
            }
            let charge = charge(group, &debits);
            let verdict = store.charge(&charge, WITHIN).await.unwrap();
            let should_be = model.charge(tokens, extra, day, runs);
            let standings = match (verdict, should_be) {
                (Verdict::Admitted(standings), Ok(extra)) => {
                    prop_assert_eq!(standings[0].extra, extra as f64);
                    open.push(Open { charge, tokens: tokens.min(BURST) + extra, day, runs });
                    standings
                }
                (Verdict::Denied { by, standings, .. }, Err(should_be)) => {
                    prop_assert_eq!(by, should_be);
                    standings
                }
                (verdict, should_be) => {
                    return Err(TestCaseError::fail(format!("{verdict:?}, should be {should_be:?}")));
                }
            };
            let left = [BURST - model.owed, DAY - model.used, RUNNING - model.running];
            for (standing, left) in standings.iter().zip(left) {
                prop_assert!((standing.left - left as f64).abs() < NEAR, "{standing:?}, should be {left}");
            }
        }
        Act::Settle { nth, tokens, day } => {
            if open.is_empty() {
                return Ok(());
            }
            let done = open.swap_remove(nth % open.len());
            let (charged, used) = ([done.tokens, done.day, 1], [tokens, day, 1]);
            let items = done.charge.debits.iter().zip(charged).zip(used).map(|((debit, charged), used)| {
                let Debit { key, counter, reserved, .. } = debit.clone();
                Settled { key, counter, charged: charged as f64, used: used as f64, reserved }
            });
            let Charge { group, id, lives, .. } = done.charge.clone();
            let settlement = Settlement { group, id, lives, items: items.collect() };
            store.settle(&settlement, WITHIN).await.unwrap();
            model.settle(&done, tokens, day);
        }
    }
    Ok(())
}

pub fn two_nodes_agree_with_an_exact_model_on_every_verdict<F: Future<Output = Option<Pair>>>(
    make: impl Fn() -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(Pair { here, there, alive }) = runtime.block_on(make()) else { return };
    runtime.block_on(clear_of_midnight(&here));
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let run = |steps: Vec<Step>| {
        runtime.block_on(async {
            let (group, mut model, mut open) = (group(), Model::default(), Vec::new());
            for Step { there: elsewhere, act } in &steps {
                let store = if *elsewhere { &there } else { &here };
                step(store, &group, &mut model, &mut open, act).await?;
            }
            Ok(())
        })
    };
    runner.run(&steps(), run).unwrap();
    drop(alive);
}
