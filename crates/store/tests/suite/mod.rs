//! What every store promises, as cases that run against any of them.
//!
//! A test file says `#[macro_use] mod suite;`, makes a [`Pair`] and hands the maker to `cases!`. Time is real, as no
//! clock of a Redis can be stopped: what must not change while a case runs fills too slowly to be seen, and what must
//! change is waited for. Names are new in each case, so that all can use one Redis at once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says where"
)]

pub mod answers;
pub mod charges;
pub mod counters;
pub mod fleet;
pub mod models;
pub mod reservations;
pub mod usage;

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidegate_store::Store;
use tidegate_store::charge::{Charge, Counter, Debit, Settled, Settlement, Standing, Verdict};

/// Longer than any call needs.
pub const WITHIN: Duration = Duration::from_secs(2);
/// Longer than a case runs.
pub const LONG: Duration = Duration::from_secs(60);
/// So little comes of it within a case that sums are as if nothing did, in units per second.
pub const SLOW: f64 = 0.001;
/// Sums agree to this, in units: what a slow counter gets in a case, and the error of a mark.
pub const NEAR: f64 = 0.05;

/// Two handles on the same data, as two nodes have.
pub struct Pair {
    /// One.
    pub here: Store,
    /// The other.
    pub there: Store,
    /// What has to live as long as they do.
    pub alive: Box<dyn Any + Send + Sync>,
}

/// A name that nobody else uses.
pub fn fresh(what: &str) -> String {
    format!("{what}-{:016x}", fastrand::u64(..))
}

/// A group that nobody else uses.
pub fn group() -> Arc<str> {
    fresh("group").into()
}

/// Tries until it gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(10), looking).await;
    seen.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A bucket that fills too slowly to be seen.
pub fn slow(burst: f64) -> Counter {
    bucket(SLOW, burst)
}

/// A bucket without patience.
pub fn bucket(per_second: f64, burst: f64) -> Counter {
    Counter::Bucket { per_second, burst, patience: Duration::ZERO }
}

/// A debit of `cost`.
pub fn debit(key: &str, counter: Counter, cost: f64) -> Debit {
    Debit { key: key.into(), counter, cost, extra: 0.0, known: None, reserved: false }
}

/// A debit of `cost` that is given back when it is not settled.
pub fn reserved(key: &str, counter: Counter, cost: f64) -> Debit {
    Debit { reserved: true, ..debit(key, counter, cost) }
}

/// A charge with a name of its own.
pub fn charge(group: &Arc<str>, debits: &[Debit]) -> Charge {
    Charge { group: Arc::clone(group), id: fastrand::u128(..), lives: LONG, debits: debits.to_vec() }
}

/// What `debits` in `group` come to.
pub async fn take(store: &Store, group: &Arc<str>, debits: &[Debit]) -> Verdict {
    store.charge(&charge(group, debits), WITHIN).await.unwrap()
}

/// The standing of the one debit of a charge that was admitted.
pub fn admitted(verdict: Verdict) -> Standing {
    let Verdict::Admitted(standings) = verdict else { panic!("not admitted: {verdict:?}") };
    assert_eq!(standings.len(), 1);
    standings[0]
}

/// The wait of a charge that was denied.
pub fn denied(verdict: Verdict) -> Duration {
    let Verdict::Denied { retry_after, .. } = verdict else { panic!("not denied: {verdict:?}") };
    retry_after
}

/// What is left in a counter; takes nothing. Not for `Running`.
pub async fn left(store: &Store, group: &Arc<str>, key: &str, counter: Counter) -> f64 {
    admitted(take(store, group, &[debit(key, counter, 0.0)]).await).left
}

/// Settles one debit of `charge`, for which `charged` was taken.
pub async fn settle(store: &Store, charge: &Charge, debit: &Debit, charged: f64, used: f64) {
    let Debit { key, counter, reserved, .. } = debit.clone();
    let settlement = Settlement {
        group: Arc::clone(&charge.group),
        id: charge.id,
        lives: charge.lives,
        items: vec![Settled { key, counter, charged, used, reserved }],
    };
    store.settle(&settlement, WITHIN).await.unwrap();
}

/// As sums are compared.
#[track_caller]
pub fn assert_near(is: f64, should_be: f64) {
    assert!((is - should_be).abs() < NEAR, "{is} should be near {should_be}");
}

/// As waits are compared: what passes between two calls makes them shorter.
#[track_caller]
pub fn assert_about(is: Duration, seconds: f64) {
    let is = is.as_secs_f64();
    assert!(is <= seconds + 0.01 && is > seconds - 2.0, "{is} s should be about {seconds} s");
}

/// Not in the last seconds of a UTC day, by the store's clock: the day must not change while a case runs.
pub async fn clear_of_midnight(store: &Store) {
    let group = group();
    until("midnight to pass", || async {
        let probe = debit("day", Counter::Day { limit: 1.0 }, 0.0);
        let reset = admitted(take(store, &group, &[probe]).await).reset;
        (reset > Duration::from_secs(5)).then_some(())
    })
    .await;
}

/// Makes a test of each case, in a module named after its file.
macro_rules! cases {
    ($make:path) => {
        cases!(@tests $make;
            charges: [
                a_bucket_gives_its_burst_and_then_denies_for_as_long_as_it_takes,
                a_denied_charge_is_admitted_after_its_wait,
                a_cost_above_the_burst_is_had_of_a_full_bucket_and_charged_as_the_burst,
                what_is_no_amount_takes_nothing,
                a_cost_of_nothing_is_had_even_in_debt,
                a_patient_charge_is_told_its_turn_and_denied_beyond_its_patience,
                nothing_is_taken_where_one_debit_denies,
                the_debit_that_waits_longest_is_named,
                extra_is_had_in_whole_units_as_far_as_there_is_any,
                groups_are_apart,
                two_nodes_take_from_one_counter,
                no_more_is_admitted_than_burst_and_rate,
            ];
            reservations: [
                what_was_not_used_is_given_back,
                what_was_used_beyond_is_taken_into_debt,
                what_was_used_beyond_all_measure_leaves_a_counter_that_counts,
                an_unreserved_charge_is_trued_up_as_well,
                a_refund_never_makes_a_bucket_fuller_than_full,
                a_lease_gives_back_its_unused_extra,
                a_reservation_that_is_not_settled_is_given_back_and_nothing_else_is,
                a_settlement_that_comes_too_late_takes_all_that_was_used,
                a_bucket_that_was_given_back_to_is_not_taken_for_lost,
                a_lost_bucket_begins_from_its_mark_and_at_no_more_than_half,
                a_bucket_that_was_full_by_now_is_not_taken_for_lost,
                a_lost_day_begins_from_its_mark,
            ];
            counters: [
                a_day_that_is_used_up_denies_until_midnight,
                a_day_that_is_only_reserved_denies_for_a_second,
                more_than_a_whole_day_is_had_of_an_untouched_day_only,
                a_day_that_allows_nothing_gives_nothing,
                of_equal_waits_the_first_is_named,
                a_day_is_trued_up,
                so_many_run_at_once_and_one_that_ends_makes_room,
                an_entry_that_is_not_renewed_is_forgotten_and_one_that_is_stays,
                a_renewal_does_not_bring_back_what_has_ended,
                a_denied_charge_leaves_nothing_running,
                a_look_at_what_runs_counts_nothing,
            ];
            answers: [
                the_first_to_ask_leads_and_the_others_follow,
                a_stored_answer_is_found_by_all,
                an_answer_is_kept_for_its_time,
                an_answer_of_any_bytes_comes_back_as_it_was,
                a_right_that_is_not_renewed_goes_to_the_next,
                a_right_that_is_renewed_is_kept,
                pieces_come_in_order_from_where_they_are_wanted,
                a_right_given_back_is_to_be_had,
                an_answer_that_cannot_be_shared_sends_all_their_own_way_for_a_time,
                only_the_holder_gives_a_right_back,
                a_look_takes_no_right,
                a_forgotten_answer_is_made_anew,
            ];
            fleet: [
                a_lease_is_one_owners_until_released,
                a_lease_that_is_not_renewed_goes_to_the_next,
                nodes_see_each_other_by_name,
                a_node_that_leaves_or_falls_silent_is_gone,
                all_hear_the_same_epoch,
                a_cool_down_is_seen_by_all_and_never_shortened,
                a_cool_down_ends,
                a_cool_down_is_hinted_at,
            ];
            usage: [
                usage_adds_up_across_nodes,
                usage_of_today_is_not_yesterdays,
            ];
        );

        mod models {
            #[test]
            fn two_nodes_agree_with_an_exact_model_on_every_verdict() {
                crate::suite::models::two_nodes_agree_with_an_exact_model_on_every_verdict($make);
            }
        }
    };
    (@tests $make:path; $($file:ident: [$($case:ident),* $(,)?];)*) => {
        $(mod $file {
            $(#[tokio::test]
            async fn $case() {
                let Some(pair) = $make().await else { return };
                crate::suite::$file::$case(&pair).await;
            })*
        })*
    };
}
