//! Days, and what runs at once.

use std::time::Duration;

use tidegate_store::charge::{Counter, Running, Verdict};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

pub async fn a_day_denies_until_midnight(Pair { here, there, .. }: &Pair) {
    clear_of_midnight(here).await;
    let group = group();
    let day = Counter::Day { limit: 10.0 };
    let standing = admitted(take(here, &group, &[debit("day", day, 7.0)]).await);
    assert_near(standing.left, 3.0);
    assert!(standing.reset <= DAY && standing.reset > Duration::ZERO);
    let retry_after = denied(take(there, &group, &[debit("day", day, 3.5)]).await);
    assert!(retry_after <= standing.reset && retry_after + Duration::from_secs(2) > standing.reset);
    assert_near(admitted(take(there, &group, &[debit("day", day, 3.0)]).await).left, 0.0);
    denied(take(here, &group, &[debit("day", day, 0.5)]).await);
}

pub async fn a_day_is_trued_up(Pair { here, .. }: &Pair) {
    clear_of_midnight(here).await;
    let day = Counter::Day { limit: 10.0 };
    let group = group();
    for (used, should_be_left) in [(2.5, 7.5), (8.5, -1.0)] {
        let six = reserved("day", day, 6.0);
        let charge = charge(&group, std::slice::from_ref(&six));
        admitted(here.charge(&charge, WITHIN).await.unwrap());
        settle(here, &charge, &six, 6.0, used).await;
        assert_near(left(here, &group, "day", day).await, should_be_left);
    }
}

pub async fn so_many_run_at_once_and_one_that_ends_makes_room(Pair { here, there, .. }: &Pair) {
    let group = group();
    let one = debit("in_flight", Counter::Running { limit: 2.0, lives: LONG }, 1.0);
    let first = charge(&group, std::slice::from_ref(&one));
    assert_near(admitted(here.charge(&first, WITHIN).await.unwrap()).left, 1.0);
    assert_near(admitted(take(there, &group, std::slice::from_ref(&one)).await).left, 0.0);
    assert_eq!(denied(take(here, &group, std::slice::from_ref(&one)).await), Duration::from_secs(1));
    settle(there, &first, &one, 1.0, 1.0).await;
    admitted(take(here, &group, std::slice::from_ref(&one)).await);
    denied(take(there, &group, &[one]).await);
}

pub async fn an_entry_that_is_not_renewed_is_forgotten_and_one_that_is_stays(
    Pair { here, there, .. }: &Pair,
) {
    let group = group();
    let one = debit("in_flight", Counter::Running { limit: 2.0, lives: Duration::from_millis(150) }, 1.0);
    let renewed = charge(&group, std::slice::from_ref(&one));
    admitted(here.charge(&renewed, WITHIN).await.unwrap());
    let running = Running { group: Arc::clone(&group), key: Arc::clone(&one.key), id: renewed.id };
    here.still_running(&[running], LONG, WITHIN).await.unwrap();
    admitted(take(here, &group, std::slice::from_ref(&one)).await);
    denied(take(there, &group, std::slice::from_ref(&one)).await);
    let later = debit("in_flight", Counter::Running { limit: 2.0, lives: LONG }, 1.0);
    until("the entry that is not renewed to be forgotten", || async {
        let verdict = take(there, &group, std::slice::from_ref(&later)).await;
        matches!(verdict, Verdict::Admitted(_)).then_some(())
    })
    .await;
    denied(take(there, &group, &[later]).await);
}

pub async fn a_renewal_does_not_bring_back_what_has_ended(Pair { here, there, .. }: &Pair) {
    let group = group();
    let one = debit("in_flight", Counter::Running { limit: 1.0, lives: LONG }, 1.0);
    let ended = charge(&group, std::slice::from_ref(&one));
    admitted(here.charge(&ended, WITHIN).await.unwrap());
    settle(here, &ended, &one, 1.0, 1.0).await;
    let running = Running { group: Arc::clone(&group), key: Arc::clone(&one.key), id: ended.id };
    there.still_running(&[running], LONG, WITHIN).await.unwrap();
    admitted(take(here, &group, &[one]).await);
}

pub async fn a_denied_charge_leaves_nothing_running(Pair { here, .. }: &Pair) {
    let group = group();
    admitted(take(here, &group, &[debit("requests", slow(1.0), 1.0)]).await);
    let one = debit("in_flight", Counter::Running { limit: 1.0, lives: LONG }, 1.0);
    denied(take(here, &group, &[one.clone(), debit("requests", slow(1.0), 1.0)]).await);
    admitted(take(here, &group, &[one]).await);
}
