//! What a cost comes to, whatever it is, and how long a denial lasts.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_cost_beyond_all_measure_takes_a_full_bucket_and_no_more() {
    for (amount, burst) in [(60.0, 100.0), (6e6, 1e6)] {
        let store = memory();
        let limiter = node(&store, 1);
        let rules = client(Meter::Tokens(per_minute(amount, burst)));
        let grant = ask(&limiter, &rules, 1e18).await.unwrap();
        assert_eq!(left(&store, &rules[0]).await, 0.0, "of {burst}");
        grant.settle(burst / 10.0, 0.0);
        limiter.flush().await;
        assert_eq!(left(&store, &rules[0]).await, burst * 0.9);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_amount_takes_nothing_and_spoils_nothing() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = [
        rule(Scope::Client, Meter::Tokens(per_minute(60.0, 100.0))),
        rule(Scope::Model, Meter::Tokens(per_minute(6e6, 1e6))),
        rule(Scope::Route, Meter::Usd(per_day(1000.0))),
    ];
    for cost in [f64::NAN, f64::NEG_INFINITY, -50.0] {
        for used in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -50.0] {
            ask(&limiter, &rules, cost).await.unwrap().settle(used, used);
        }
    }
    tokio::time::sleep(2 * SECOND).await;
    let left = [left(&store, &rules[0]).await, left(&store, &rules[1]).await, left(&store, &rules[2]).await];
    assert_eq!(left, [100.0, 1e6, 1000.0]);
}

#[tokio::test(start_paused = true)]
async fn a_day_that_is_only_reserved_denies_for_a_second_and_one_that_is_used_up_until_midnight() {
    let limiter = node(&memory(), 1);
    let rules = client(Meter::Tokens(per_day(100.0)));
    let first = ask(&limiter, &rules, 80.0).await.unwrap();
    let second = ask(&limiter, &rules, 20.0).await.unwrap();
    let denied = ask(&limiter, &rules, 1.0).await.unwrap_err();
    assert_eq!((denied.why, denied.retry_after), (Why::Rate, SECOND));
    first.settle(30.0, 0.0);
    limiter.flush().await;
    ask(&limiter, &rules, 10.0).await.unwrap().settle(10.0, 0.0);
    second.settle(60.0, 0.0);
    limiter.flush().await;
    let denied = ask(&limiter, &rules, 1.0).await.unwrap_err();
    assert_eq!((denied.why, denied.retry_after.as_secs().div_ceil(3600)), (Why::Spent, 12));
}

#[tokio::test(start_paused = true)]
async fn more_than_a_whole_day_is_had_once_and_of_an_untouched_day_only() {
    let limiter = node(&memory(), 1);
    let rules = client(Meter::Tokens(per_day(100.0)));
    ask(&limiter, &rules, 5000.0).await.unwrap().settle(40.0, 0.0);
    limiter.flush().await;
    assert_eq!(ask(&limiter, &rules, 5000.0).await.unwrap_err().why, Why::Spent);
    ask(&limiter, &rules, 60.0).await.unwrap().settle(60.0, 0.0);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_more_than_a_share_of_a_touched_day_is_not_had() {
    let limiter = node(&memory(), 1);
    let rules = client(Meter::Tokens(per_day(100.0)));
    ask(&limiter, &rules, 90.0).await.unwrap().settle(90.0, 0.0);
    set(&limiter, DOWN);
    let denied = ask(&limiter, &rules, 50.0).await.unwrap_err();
    assert_eq!((denied.why, denied.retry_after), (Why::Rate, SECOND));
    drop(ask(&limiter, &rules, 10.0).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_wait_takes_no_turn_and_keeps_no_other_from_waiting() {
    let limiter = node(&memory(), 1);
    let smooth = Some(Smooth { queue: 9, timeout: 60 * SECOND });
    let rules = client(Meter::Requests(Pace { smooth, ..per_minute(60.0, 1.0) }));
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    let hasty = Ask { wait_at_most: SECOND / 2, ..asking(0.0) };
    for _ in 0..3 {
        let denied = limiter.admit(&rules, hasty, &mut Allowance::new(TIMEOUT)).await.unwrap_err();
        assert_eq!((denied.why, denied.retry_after.as_secs_f64().round()), (Why::Rate, 1.0));
    }
    let grant = ask(&limiter, &rules, 0.0).await.unwrap();
    assert_eq!(grant.wait.as_secs_f64().round(), 1.0, "its turn is the first");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_each_request_waits_as_long_as_it_can() {
    let limiter = node(&memory(), 1);
    let smooth = Some(Smooth { queue: 9, timeout: 60 * SECOND });
    let rules = client(Meter::Requests(Pace { smooth, ..per_minute(60.0, 1.0) }));
    set(&limiter, DOWN);
    let hasty = Ask { wait_at_most: SECOND / 2, ..asking(0.0) };
    drop(limiter.admit(&rules, hasty, &mut Allowance::new(TIMEOUT)).await.unwrap());
    assert!(limiter.admit(&rules, hasty, &mut Allowance::new(TIMEOUT)).await.is_err());
    assert_eq!(ask(&limiter, &rules, 0.0).await.unwrap().wait.as_secs_f64().round(), 1.0);
}

#[tokio::test(start_paused = true)]
async fn limits_of_one_kind_and_span_are_kept_apart_though_some_are_leased() {
    let fast = |burst| rule(Scope::Client, Meter::Requests(per_minute(60_000.0 + burst, burst)));
    let slow = rule(Scope::Client, Meter::Requests(per_minute(60.0, 5.0)));
    for rules in [[fast(900.0), slow.clone()], [slow, fast(900.0)], [fast(7.0), fast(5.0)]] {
        let store = memory();
        let limiter = node(&store, 1);
        assert_eq!(admitted(&limiter, &rules).await, 5);
        let apart = Applies::apart(&rules);
        limiter.flush().await;
        for rule in &apart {
            let full = standing(&store, rule).await.left + 5.0;
            let Meter::Requests(pace) = rule.rule.meter else { unreachable!() };
            assert!((full - pace.burst).abs() < 1.0, "{full} of {pace:?}");
        }
    }
}
