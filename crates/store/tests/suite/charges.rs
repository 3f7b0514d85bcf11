//! Charges: all or nothing, exact waits.

use std::time::Duration;

use tidegate_store::charge::{Counter, Debit, Verdict};
use tokio::time::Instant;

use super::*;

pub async fn a_bucket_gives_its_burst_and_then_denies_for_as_long_as_it_takes(Pair { here, .. }: &Pair) {
    let group = group();
    let one = [debit("requests", slow(3.0), 1.0)];
    for should_be_left in [2.0, 1.0, 0.0] {
        let standing = admitted(take(here, &group, &one).await);
        assert_near(standing.left, should_be_left);
        assert_about(standing.reset, (3.0 - should_be_left) / SLOW);
        assert_eq!((standing.wait, standing.extra), (Duration::ZERO, 0.0));
    }
    let Verdict::Denied { by, retry_after, standings } = take(here, &group, &one).await else {
        panic!("admitted");
    };
    assert_eq!((by, standings.len()), (0, 1));
    assert_about(retry_after, 1.0 / SLOW);
    assert_near(standings[0].left, 0.0);
    assert_about(standings[0].reset, 3.0 / SLOW);
}

pub async fn a_denied_charge_is_admitted_after_its_wait(Pair { here, .. }: &Pair) {
    let group = group();
    let two = [debit("requests", bucket(25.0, 2.0), 2.0)];
    admitted(take(here, &group, &two).await);
    let wait = denied(take(here, &group, &two).await);
    assert!(wait <= Duration::from_millis(80) && wait > Duration::ZERO, "{wait:?}");
    tokio::time::sleep(wait).await;
    admitted(take(here, &group, &two).await);
}

pub async fn a_cost_above_the_burst_is_had_of_a_full_bucket_and_charged_as_the_burst(
    Pair { here, .. }: &Pair,
) {
    for cost in [10.0, 1e18, f64::MAX, f64::INFINITY] {
        let much = reserved("tokens", slow(4.0), cost);
        let all = charge(&group(), std::slice::from_ref(&much));
        assert_near(admitted(here.charge(&all, WITHIN).await.unwrap()).left, 0.0);
        assert_about(denied(take(here, &all.group, std::slice::from_ref(&much)).await), 4.0 / SLOW);
        let one = [debit("tokens", slow(4.0), 1.0)];
        assert_about(denied(take(here, &all.group, &one).await), 1.0 / SLOW);
        settle(here, &all, &much, much.counter.takes(cost), 3.0).await;
        assert_near(left(here, &all.group, "tokens", slow(4.0)).await, 1.0);
    }
}

pub async fn what_is_no_amount_takes_nothing(Pair { here, .. }: &Pair) {
    let group = group();
    let day = Counter::Day { limit: 4.0 };
    for cost in [f64::NAN, f64::NEG_INFINITY, -3.0] {
        let debits = ["tokens", "day"].map(|key| Debit {
            extra: cost,
            reserved: true,
            ..debit(key, if key == "day" { day } else { slow(4.0) }, cost)
        });
        let charge = charge(&group, &debits);
        assert!(matches!(here.charge(&charge, WITHIN).await.unwrap(), Verdict::Admitted(_)));
        for debit in &debits {
            settle(here, &charge, debit, 0.0, cost).await;
        }
    }
    assert_near(left(here, &group, "tokens", slow(4.0)).await, 4.0);
    assert_near(left(here, &group, "day", day).await, 4.0);
}

pub async fn a_cost_of_nothing_is_had_even_in_debt(Pair { here, .. }: &Pair) {
    let group = group();
    let day = Counter::Day { limit: 4.0 };
    let much = [debit("tokens", slow(4.0), 10.0), debit("day", day, 4.0)];
    let charge = charge(&group, &much);
    here.charge(&charge, WITHIN).await.unwrap();
    settle(here, &charge, &much[0], 4.0, 10.0).await;
    settle(here, &charge, &much[1], 4.0, 10.0).await;
    assert_near(left(here, &group, "tokens", slow(4.0)).await, -6.0);
    assert_near(left(here, &group, "day", day).await, -6.0);
}

pub async fn a_patient_charge_is_told_its_turn_and_denied_beyond_its_patience(Pair { here, .. }: &Pair) {
    let group = group();
    let patience = Duration::from_millis(2_500);
    let one = [debit("requests", Counter::Bucket { per_second: 1.0, burst: 1.0, patience }, 1.0)];
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(admitted(take(here, &group, &one).await).wait);
    }
    assert_eq!(waits[0], Duration::ZERO);
    assert_about(waits[1], 1.0);
    assert_about(waits[2], 2.0);
    assert!(waits[1] > Duration::ZERO && waits[2] > waits[1], "{waits:?}");
    let retry_after = denied(take(here, &group, &one).await);
    assert!(retry_after > Duration::ZERO, "its turn would come after 3 s");
    assert_about(retry_after, 0.5);
}

pub async fn nothing_is_taken_where_one_debit_denies(Pair { here, .. }: &Pair) {
    let group = group();
    admitted(take(here, &group, &[debit("tokens", slow(5.0), 5.0)]).await);
    let both = [
        reserved("requests", slow(10.0), 4.0),
        debit("tokens", slow(5.0), 1.0),
        debit("day", Counter::Day { limit: 9.0 }, 3.0),
    ];
    let Verdict::Denied { by, retry_after, standings } = take(here, &group, &both).await else {
        panic!("admitted");
    };
    assert_eq!((by, standings.len()), (1, 3));
    assert_about(retry_after, 1.0 / SLOW);
    assert_near(standings[0].left, 10.0);
    assert_near(standings[2].left, 9.0);
    assert_near(left(here, &group, "requests", slow(10.0)).await, 10.0);
    assert_near(left(here, &group, "day", Counter::Day { limit: 9.0 }).await, 9.0);
}

pub async fn the_debit_that_waits_longest_is_named(Pair { here, .. }: &Pair) {
    let group = group();
    let running = Counter::Running { limit: 1.0, lives: LONG };
    let all = [
        debit("requests", slow(3.0), 3.0),
        debit("tokens", slow(50.0), 50.0),
        debit("in_flight", running, 1.0),
        debit("free", slow(9.0), 1.0),
    ];
    assert!(matches!(take(here, &group, &all).await, Verdict::Admitted(standings) if standings.len() == 4));
    let Verdict::Denied { by, retry_after, .. } = take(here, &group, &all).await else { panic!("admitted") };
    assert_eq!(by, 1);
    assert_about(retry_after, 50.0 / SLOW);
}

pub async fn extra_is_had_in_whole_units_as_far_as_there_is_any(Pair { here, .. }: &Pair) {
    let group = group();
    let lease = |cost, extra| [Debit { extra, ..debit("requests", slow(10.5), cost) }];
    let some = admitted(take(here, &group, &lease(1.0, 2.0)).await);
    assert_near(some.left, 7.5);
    assert_near(some.extra, 2.0);
    let rest = admitted(take(here, &group, &lease(1.0, 100.0)).await);
    assert_eq!(rest.extra, 6.0);
    assert_near(rest.left, 0.5);
    let none = admitted(take(here, &group, &lease(0.0, 5.0)).await);
    assert_eq!(none.extra, 0.0);
    assert_near(none.left, 0.5);
}

pub async fn groups_are_apart(Pair { here, .. }: &Pair) {
    let (one, other) = (group(), group());
    let all = [debit("requests", slow(2.0), 2.0)];
    admitted(take(here, &one, &all).await);
    denied(take(here, &one, &all).await);
    admitted(take(here, &other, &all).await);
}

pub async fn two_nodes_take_from_one_counter(Pair { here, there, .. }: &Pair) {
    let group = group();
    let tasks = (0..80).map(|n| {
        let (store, group) = (if n % 2 == 0 { here.clone() } else { there.clone() }, Arc::clone(&group));
        tokio::spawn(async move {
            let one = [debit("requests", slow(25.0), 1.0)];
            matches!(take(&store, &group, &one).await, Verdict::Admitted(_))
        })
    });
    let mut had = 0;
    for task in tasks.collect::<Vec<_>>() {
        had += u32::from(task.await.unwrap());
    }
    assert_eq!(had, 25);
}

pub async fn no_more_is_admitted_than_burst_and_rate(Pair { here, there, .. }: &Pair) {
    let group = group();
    let one = [debit("requests", bucket(200.0, 20.0), 1.0)];
    let began = Instant::now();
    let mut had = 0;
    while began.elapsed() < Duration::from_millis(150) {
        for store in [here, there] {
            had += u32::from(matches!(take(store, &group, &one).await, Verdict::Admitted(_)));
        }
        tokio::task::yield_now().await;
    }
    let most = 200.0_f64.mul_add(began.elapsed().as_secs_f64(), 20.0);
    assert!(f64::from(had) <= most + NEAR, "{had} of {most}");
    assert!(had > 20, "nothing came back");
}
