//! What is known of limits that are watched.

use super::super::watch::Stand;
use super::*;

/// Every subject had its turn.
const ALL_TURNS: Duration = Duration::from_secs(16);

fn one(limiter: &Limiter, rules: &[Applies]) -> Stand {
    limiter.stands(rules)[0]
}

#[tokio::test(start_paused = true)]
async fn a_day_stands_as_charged_at_once_and_as_settled_after_a_look() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Tokens(per_day(1000.0)));
    limiter.watch([rules.to_vec()]);
    assert_eq!(one(&limiter, &rules), Stand { limit: 1000.0, used: 0.0, reset: Duration::ZERO });
    let grant = ask(&limiter, &rules, 500.0).await.unwrap();
    let stand = one(&limiter, &rules);
    assert_eq!((stand.used, stand.used_ratio()), (500.0, 0.5));
    assert_eq!(stand.reset.as_secs(), 43_200, "noon");
    grant.settle(200.0, 0.0);
    tokio::time::sleep(ALL_TURNS).await;
    assert_eq!(one(&limiter, &rules).used, 200.0);
}

#[tokio::test(start_paused = true)]
async fn what_another_node_takes_is_heard_of_without_a_request_here() {
    let store = memory();
    let nodes = [node(&store, 2), node(&store, 2)];
    let rules = [
        rule(Scope::Client, Meter::Tokens(per_day(1000.0))),
        rule(Scope::Client, Meter::Requests(per_minute(60.0, 10.0))),
        rule(Scope::Client, Meter::InFlight(4)),
    ];
    nodes[0].watch([rules.to_vec()]);
    let runs = ask(&nodes[1], &rules, 300.0).await.unwrap();
    assert_eq!(nodes[0].stands(&rules).iter().map(|s| s.used).collect::<Vec<_>>(), [0.0; 3]);
    // To just after the look.
    tokio::time::sleep(15 * SECOND + Duration::from_millis(1)).await;
    let stands = nodes[0].stands(&rules);
    // The bucket is full again.
    assert_eq!(stands.iter().map(|s| s.used.round()).collect::<Vec<_>>(), [300.0, 0.0, 1.0]);
    runs.settle(300.0, 0.0);
    nodes[1].flush().await;
    assert_eq!(left(&store, &rules[2]).await, 4.0, "a look runs nothing");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_fills_as_time_passes() {
    let limiter = node(&memory(), 1);
    let rules = client(Meter::Requests(per_minute(60.0, 10.0)));
    for _ in 0..8 {
        ask(&limiter, &rules, 0.0).await.unwrap().settle(0.0, 0.0);
    }
    assert_eq!(one(&limiter, &rules).used_ratio(), 0.8);
    tokio::time::advance(5 * SECOND).await;
    let stand = one(&limiter, &rules);
    assert_eq!((stand.used.round(), stand.reset.as_secs_f64().round()), (3.0, 3.0));
}

#[tokio::test(start_paused = true)]
async fn what_is_leased_and_not_used_counts_as_left() {
    let limiter = node(&memory(), 1);
    let rules = client(Meter::Requests(per_minute(6000.0, 100.0)));
    ask(&limiter, &rules, 0.0).await.unwrap().settle(0.0, 0.0);
    assert_eq!(one(&limiter, &rules).used, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_subject_is_looked_at_once_in_fifteen_seconds_and_many_bound_the_calls_of_a_second() {
    let limiter = node(&memory(), 1);
    let subjects = |count: u32| {
        let rule = Arc::new(Rule {
            scope: Scope::Client,
            meter: Meter::Tokens(per_day(9.0)),
            on_store_loss: OnStoreLoss::Share,
        });
        (0..count).map(move |n| vec![Applies::new(Arc::clone(&rule), &format!("client-{n}"))])
    };
    for (count, in_a_minute) in [(1, 4), (30, 120), (2000, 60 * 32)] {
        limiter.watch(subjects(count));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let before = sent(&limiter);
        tokio::time::sleep(60 * SECOND).await;
        let calls = sent(&limiter) - before;
        assert!(calls.abs_diff(in_a_minute) <= in_a_minute / 20, "{count} subjects: {calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_what_was_heard_last_holds_with_what_was_taken_since() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Tokens(per_day(1000.0)));
    limiter.watch([rules.to_vec()]);
    ask(&limiter, &rules, 100.0).await.unwrap().settle(100.0, 0.0);
    tokio::time::sleep(ALL_TURNS).await;
    set(&limiter, DOWN);
    ask(&limiter, &rules, 300.0).await.unwrap().settle(250.0, 0.0);
    assert_eq!(one(&limiter, &rules).used, 350.0);
    tokio::time::sleep(ALL_TURNS).await;
    assert_eq!(one(&limiter, &rules).used, 350.0, "no look changes what the store does not know");
    set(&limiter, UP);
    tokio::time::sleep(ALL_TURNS * 2).await;
    assert_eq!(one(&limiter, &rules).used, 350.0);
    assert_eq!(left(&store, &rules[0]).await, 650.0);
}

#[test]
fn a_limit_that_allows_nothing_is_used_up() {
    let stand = Stand { limit: 0.0, used: 0.0, reset: Duration::ZERO };
    assert_eq!(stand.used_ratio(), 1.0);
}
