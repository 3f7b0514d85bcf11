//! Days, and what runs at once.

use std::time::Duration;

use tidegate_store::charge::{Charge, Counter, Running, Verdict};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

pub async fn a_day_that_is_used_up_denies_until_midnight(Pair { here, there, .. }: &Pair) {
    clear_of_midnight(here).await;
    let group = group();
    let day = Counter::Day { limit: 10.0 };
    let standing = admitted(take(here, &group, &[debit("day", day, 7.0)]).await);
    assert_near(standing.left, 3.0);
    assert!(standing.reset <= DAY && standing.reset > Duration::ZERO);
    let too_much = take(here, &group, &[debit("day", day, 4.0)]).await;
    assert!(spent(too_much).0, "3 are left");
    assert_near(admitted(take(there, &group, &[debit("day", day, 3.0)]).await).left, 0.0);
    let retry_after = denied(take(here, &group, &[debit("day", day, 0.5)]).await);
    assert!(retry_after <= standing.reset && retry_after + Duration::from_secs(2) > standing.reset);
}

/// Whether the one debit of a charge that was denied is of a day that is used up, and the wait.
fn spent(verdict: Verdict) -> (bool, Duration) {
    let Verdict::Denied { retry_after, standings, .. } = verdict else { panic!("not denied: {verdict:?}") };
    (standings[0].spent, retry_after)
}

pub async fn a_day_that_is_only_reserved_denies_for_a_second(Pair { here, there, .. }: &Pair) {
    clear_of_midnight(here).await;
    let (group, day) = (group(), Counter::Day { limit: 10.0 });
    let one = [debit("day", day, 1.0)];
    let [first, second, third] = [6.0, 3.0, 1.0].map(|cost| reserved("day", day, cost));
    let charges = [&first, &second, &third].map(|debit| charge(&group, std::slice::from_ref(debit)));
    for charge in &charges {
        here.charge(charge, WITHIN).await.unwrap();
    }
    assert_eq!(spent(take(there, &group, &one).await), (false, SECOND));
    settle(here, &charges[0], &first, 6.0, 6.0).await;
    assert_eq!(spent(take(there, &group, &one).await), (false, SECOND));
    settle(there, &charges[1], &second, 3.0, 4.0).await;
    let (is_spent, retry_after) = spent(take(here, &group, &one).await);
    assert!(is_spent && retry_after > SECOND, "{retry_after:?}");
    settle(here, &charges[2], &third, 1.0, 0.0).await;
    assert!(spent(take(there, &group, &one).await).0, "10 were used");
    // One that runs out by itself is reserved no longer.
    let other = charge(&super::group(), &[reserved("day", day, 9.0)]);
    let brief = Charge { lives: Duration::from_millis(30), ..other };
    here.charge(&brief, WITHIN).await.unwrap();
    until("the reservation to run out", || async {
        (left(there, &brief.group, "day", day).await > 9.9).then_some(())
    })
    .await;
    admitted(take(here, &brief.group, &[debit("day", day, 10.0)]).await);
    assert!(spent(take(there, &brief.group, &one).await).0);
}

pub async fn more_than_a_whole_day_is_had_of_an_untouched_day_only(Pair { here, .. }: &Pair) {
    clear_of_midnight(here).await;
    let day = Counter::Day { limit: 10.0 };
    let much = reserved("day", day, 1e18);
    let all = charge(&group(), std::slice::from_ref(&much));
    assert_near(admitted(here.charge(&all, WITHIN).await.unwrap()).left, 0.0);
    assert_eq!(spent(take(here, &all.group, std::slice::from_ref(&much)).await), (false, SECOND));
    settle(here, &all, &much, day.takes(1e18), 0.5).await;
    assert_near(left(here, &all.group, "day", day).await, 9.5);
    assert!(spent(take(here, &all.group, &[much]).await).0, "no day is untouched twice");
}

pub async fn a_day_that_allows_nothing_gives_nothing(Pair { here, .. }: &Pair) {
    let nothing = [debit("day", Counter::Day { limit: 0.0 }, 1.0)];
    assert!(spent(take(here, &group(), &nothing).await).0);
}

pub async fn of_equal_waits_the_first_is_named(Pair { here, .. }: &Pair) {
    let group = group();
    let running = |key: &str| debit(key, Counter::Running { limit: 1.0, lives: LONG }, 1.0);
    let both = [debit("free", slow(9.0), 1.0), running("one"), running("other")];
    assert!(matches!(take(here, &group, &both).await, Verdict::Admitted(_)));
    let verdict = take(here, &group, &both).await;
    assert!(matches!(verdict, Verdict::Denied { by: 1, .. }), "{verdict:?}");
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

pub async fn a_look_at_what_runs_counts_nothing(Pair { here, there, .. }: &Pair) {
    let group = group();
    let running = |cost| debit("in_flight", Counter::Running { limit: 2.0, lives: LONG }, cost);
    admitted(take(here, &group, &[running(1.0)]).await);
    for _ in 0..3 {
        assert_near(admitted(take(there, &group, &[running(0.0)]).await).left, 1.0);
    }
    admitted(take(here, &group, &[running(1.0)]).await);
    // Nor is it denied where all places are taken.
    assert_near(admitted(take(there, &group, &[running(0.0)]).await).left, 0.0);
    denied(take(there, &group, &[running(1.0)]).await);
}
