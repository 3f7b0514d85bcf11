//! Settlements, reservations that run out, and counters that the store has lost.

use std::time::Duration;

use tidegate_store::charge::{Charge, Counter, Debit};

use super::*;

/// So long that a charge is made before it is over, so short that a case can wait for it.
const SHORT: Duration = Duration::from_millis(60);

/// Charges one debit, and gives what was noted of it.
async fn taken(store: &Store, lives: Duration, debit: &Debit) -> (Charge, Standing) {
    let charge = Charge { lives, ..charge(&group(), std::slice::from_ref(debit)) };
    let standing = admitted(store.charge(&charge, WITHIN).await.unwrap());
    (charge, standing)
}

pub async fn what_was_not_used_is_given_back(Pair { here, there, .. }: &Pair) {
    let eight = reserved("tokens", slow(10.0), 8.0);
    let (charge, standing) = taken(here, LONG, &eight).await;
    assert_near(standing.left, 2.0);
    settle(there, &charge, &eight, 8.0, 3.0).await;
    assert_near(left(here, &charge.group, "tokens", slow(10.0)).await, 7.0);
}

pub async fn what_was_used_beyond_is_taken_into_debt(Pair { here, .. }: &Pair) {
    let eight = reserved("tokens", slow(10.0), 8.0);
    let (charge, _) = taken(here, LONG, &eight).await;
    settle(here, &charge, &eight, 8.0, 15.0).await;
    assert_about(denied(take(here, &charge.group, &[debit("tokens", slow(10.0), 1.0)]).await), 6.0 / SLOW);
}

pub async fn what_was_used_beyond_all_measure_leaves_a_counter_that_counts(Pair { here, .. }: &Pair) {
    const TEN_YEARS: f64 = 315_360_000.0;
    let debits = [reserved("tokens", slow(10.0), 8.0), reserved("day", Counter::Day { limit: 10.0 }, 8.0)];
    for used in [1e18, f64::MAX] {
        let all = charge(&group(), &debits);
        here.charge(&all, WITHIN).await.unwrap();
        for debit in &debits {
            settle(here, &all, debit, 8.0, used).await;
            let one = [Debit { cost: 1.0, ..debit.clone() }];
            let Verdict::Denied { retry_after, standings, .. } = take(here, &all.group, &one).await else {
                panic!("admitted");
            };
            assert!(standings[0].left < 0.0 && standings[0].left.is_finite());
            assert!(retry_after.as_secs_f64() < TEN_YEARS + 1.0, "{retry_after:?}");
        }
    }
}

pub async fn an_unreserved_charge_is_trued_up_as_well(Pair { here, .. }: &Pair) {
    let five = debit("tokens", slow(10.0), 5.0);
    let (charge, _) = taken(here, LONG, &five).await;
    settle(here, &charge, &five, 5.0, 1.0).await;
    assert_near(left(here, &charge.group, "tokens", slow(10.0)).await, 9.0);
    let (charge, _) = taken(here, LONG, &five).await;
    settle(here, &charge, &five, 5.0, 7.0).await;
    assert_near(left(here, &charge.group, "tokens", slow(10.0)).await, 3.0);
}

pub async fn a_refund_never_makes_a_bucket_fuller_than_full(Pair { here, .. }: &Pair) {
    let fast = bucket(200.0, 5.0);
    for five in [reserved("tokens", fast, 5.0), debit("tokens", fast, 5.0)] {
        let (charge, _) = taken(here, LONG, &five).await;
        let group = &charge.group;
        until("the bucket to fill", || async {
            (left(here, group, "tokens", fast).await > 4.99).then_some(())
        })
        .await;
        settle(here, &charge, &five, 5.0, 0.0).await;
        assert!(left(here, group, "tokens", fast).await <= 5.0 + NEAR);
    }
}

pub async fn a_lease_gives_back_its_unused_extra(Pair { here, .. }: &Pair) {
    let lease = Debit { extra: 5.0, ..reserved("requests", slow(10.0), 1.0) };
    let (charge, standing) = taken(here, LONG, &lease).await;
    assert_eq!(standing.extra, 5.0);
    settle(here, &charge, &lease, 6.0, 2.0).await;
    assert_near(left(here, &charge.group, "requests", slow(10.0)).await, 8.0);
}

pub async fn a_reservation_that_is_not_settled_is_given_back_and_nothing_else_is(
    Pair { here, there, .. }: &Pair,
) {
    let group = group();
    let debits = [
        Debit { extra: 2.0, ..reserved("tokens", slow(10.0), 8.0) },
        debit("requests", slow(10.0), 4.0),
        reserved("day", Counter::Day { limit: 10.0 }, 7.0),
    ];
    let charge = Charge { lives: SHORT, ..charge(&group, &debits) };
    here.charge(&charge, WITHIN).await.unwrap();
    denied(take(there, &group, &[debit("tokens", slow(10.0), 9.0)]).await);
    until("the reservation to run out", || async {
        (left(there, &group, "tokens", slow(10.0)).await > 9.9).then_some(())
    })
    .await;
    assert_near(left(there, &group, "tokens", slow(10.0)).await, 10.0);
    assert_near(left(there, &group, "requests", slow(10.0)).await, 6.0);
    assert_near(left(there, &group, "day", Counter::Day { limit: 10.0 }).await, 10.0);
}

pub async fn a_settlement_that_comes_too_late_takes_all_that_was_used(Pair { here, .. }: &Pair) {
    let eight = reserved("tokens", slow(10.0), 8.0);
    let (charge, _) = taken(here, SHORT, &eight).await;
    until("the reservation to run out", || async {
        (left(here, &charge.group, "tokens", slow(10.0)).await > 9.9).then_some(())
    })
    .await;
    settle(here, &charge, &eight, 8.0, 3.0).await;
    assert_near(left(here, &charge.group, "tokens", slow(10.0)).await, 7.0);
}

pub async fn a_bucket_that_was_given_back_to_is_not_taken_for_lost(Pair { here, .. }: &Pair) {
    let ten = reserved("tokens", slow(10.0), 10.0);
    let (charge, standing) = taken(here, LONG, &ten).await;
    settle(here, &charge, &ten, 10.0, 0.0).await;
    let again = Debit { known: Some(standing.mark), ..debit("tokens", slow(10.0), 1.0) };
    assert_near(admitted(take(here, &charge.group, &[again]).await).left, 9.0);
    let day = reserved("day", Counter::Day { limit: 10.0 }, 10.0);
    let (charge, standing) = taken(here, LONG, &day).await;
    settle(here, &charge, &day, 10.0, 0.0).await;
    let again = Debit { known: Some(standing.mark), ..debit("day", day.counter, 1.0) };
    assert_near(admitted(take(here, &charge.group, &[again]).await).left, 9.0);
}

/// Where a counter stands at its first charge in a group that has never heard of it, by a mark from another.
async fn found(store: &Store, of: &Debit, mark: f64, cost: f64) -> f64 {
    let seen = Debit { known: Some(mark), cost, ..of.clone() };
    admitted(take(store, &group(), &[seen]).await).left
}

pub async fn a_lost_bucket_begins_from_its_mark_and_at_no_more_than_half(Pair { here, .. }: &Pair) {
    let little = debit("tokens", slow(10.0), 1.0);
    let (_, standing) = taken(here, LONG, &little).await;
    assert_near(found(here, &little, standing.mark, 0.0).await, 5.0);
    let much = debit("tokens", slow(10.0), 8.0);
    let (_, standing) = taken(here, LONG, &much).await;
    assert_near(found(here, &much, standing.mark, 1.0).await, 1.0);
    let group = group();
    let lost = [Debit { known: Some(standing.mark), ..much }];
    for _ in 0..2 {
        assert_about(denied(take(here, &group, &lost).await), 6.0 / SLOW);
    }
}

pub async fn a_bucket_that_was_full_by_now_is_not_taken_for_lost(Pair { here, .. }: &Pair) {
    let fast = debit("requests", bucket(100.0, 2.0), 1.0);
    let (charge, standing) = taken(here, LONG, &fast).await;
    until("the bucket to fill", || async {
        (left(here, &charge.group, "requests", fast.counter).await > 1.99).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_near(found(here, &fast, standing.mark, 1.0).await, 1.0);
}

pub async fn a_lost_day_begins_from_its_mark(Pair { here, .. }: &Pair) {
    clear_of_midnight(here).await;
    let some = debit("day", Counter::Day { limit: 100.0 }, 30.0);
    let (_, standing) = taken(here, LONG, &some).await;
    assert_near(found(here, &some, standing.mark, 5.0).await, 65.0);
}
