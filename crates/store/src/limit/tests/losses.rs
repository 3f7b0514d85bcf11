//! What is lost on the way: requests that leave, settlements and reports that do not arrive, turns that do not come.

use super::*;

const SOON: Duration = Duration::from_millis(5);

/// Asks, and leaves before the store has answered.
async fn leave(limiter: &Arc<Limiter>, applies: &[Applies], tokens: f64) {
    set(limiter, SLOW);
    assert!(tokio::time::timeout(SOON, ask(limiter, applies, tokens)).await.is_err());
    set(limiter, UP);
}

#[tokio::test(start_paused = true)]
async fn what_was_had_goes_back_when_a_request_leaves_while_another_group_is_asked() {
    let limiter = node(&memory(), 1);
    let own = rule(Scope::Node, Meter::InFlight(1));
    leave(&limiter, &[own.clone(), rule(Scope::Client, Meter::Requests(per_day(100.0)))], 0.0).await;
    limiter.flush().await;
    assert!(limiter.running.all(false).is_empty(), "renewed for ever");
    drop(ask(&limiter, &[own], 0.0).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_a_lease_asked_for_is_not_lost_when_the_request_leaves() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Tokens(per_minute(6e6, 1e6)));
    leave(&limiter, &rules, 5000.0).await;
    tokio::time::sleep(SOON * 2).await;
    // What fills in the meantime is less than 2000.
    let taken = 1e6 - left(&store, &rules[0]).await;
    assert!((13_000.0..=15_000.0).contains(&taken), "{taken}: 5000, and 10 000 ahead");
    set(&limiter, DOWN);
    ask(&limiter, &rules, 10_000.0).await.unwrap().settle(10_000.0, 0.0);
    assert!(!limiter.outage.is_going_on(), "it is held here");
    let held = limiter.leases.of(&rules[0], Instant::now()).unwrap();
    assert_eq!(held.due(true, Instant::now()), -5000.0, "what the request itself asked for goes back");
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_store_misses_is_told_later() {
    for fault in [DOWN, REFUSING] {
        let store = memory();
        let limiter = node(&store, 1);
        let tokens = client(Meter::Tokens(per_day(1000.0)));
        let grant = ask(&limiter, &tokens, 100.0).await.unwrap();
        set(&limiter, fault);
        grant.settle(70.0, 0.0);
        tokio::time::sleep(SECOND).await;
        assert!(limiter.outage.owes());
        set(&limiter, UP);
        tokio::time::sleep(SECOND).await;
        assert_eq!(left(&store, &tokens[0]).await, 830.0, "the reservation is not over");
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(left(&store, &tokens[0]).await, 930.0);
        assert!(!limiter.outage.owes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_the_store_misses_counts_in_the_share() {
    let limiter = node(&memory(), 1);
    let tokens = client(Meter::Tokens(per_day(1000.0)));
    let grant = ask(&limiter, &tokens, 100.0).await.unwrap();
    set(&limiter, DOWN);
    grant.settle(700.0, 0.0);
    tokio::time::sleep(SECOND).await;
    ask(&limiter, &tokens, 300.0).await.unwrap().settle(300.0, 0.0);
    limiter.flush().await;
    assert_eq!(ask(&limiter, &tokens, 1.0).await.unwrap_err().why, Why::Spent);
}

#[tokio::test(start_paused = true)]
async fn settlements_that_find_no_room_are_told_later() {
    let store = memory();
    let limiter = Arc::new(Limiter::with(store.clone(), memory(), 1, TIMEOUT, true));
    let rules = client(Meter::Tokens(per_day(1e6)));
    for _ in 0..QUEUE + 10 {
        ask(&limiter, &rules, 2.0).await.unwrap().settle(1.0, 0.0);
    }
    tokio::spawn(Arc::clone(&limiter).run());
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 1e6 - (QUEUE + 10) as f64);
}

#[tokio::test(start_paused = true)]
async fn what_a_lease_owes_is_told_later() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Tokens(per_minute(6e6, 1e6)));
    let grant = ask(&limiter, &rules, 5000.0).await.unwrap();
    tokio::time::sleep(3 * SECOND).await;
    set(&limiter, DOWN);
    grant.settle(505_000.0, 0.0);
    tokio::time::sleep(SECOND).await;
    set(&limiter, UP);
    limiter.flush().await;
    assert_eq!(left(&store, &rules[0]).await, 500_000.0);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_is_refused_is_sent_again_and_the_outage_goes_on_until_an_answer() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Requests(per_day(100.0)));
    set(&limiter, REFUSING);
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    let number = limiter.outage.begin();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(limiter.outage.begin(), number, "not over");
    limiter.heard();
    limiter.flush().await;
    assert!(limiter.outage.owes());
    set(&limiter, UP);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 99.0);
    assert!(!limiter.outage.owes());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_does_not_come_is_no_loss_of_the_store() {
    let limiter = node(&memory(), 1);
    let meter = Meter::Requests(per_minute(60_000.0, 1000.0));
    let rules = [lossy(Scope::Client, meter, OnStoreLoss::Closed)];
    let lease = limiter.leases.of(&rules[0], Instant::now()).unwrap();
    let _turn = lease.turn.acquire().await.unwrap();
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    assert_eq!((sent(&limiter), limiter.outage.is_going_on()), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_charge_asks_for_what_all_who_wait_need() {
    let limiter = node(&memory(), 1);
    set(&limiter, SLOW);
    let meter = Meter::Tokens(per_minute(6e6, 1e6));
    let rules = [lossy(Scope::Client, meter, OnStoreLoss::Closed)];
    let asks = (0..50).map(|_| ask(&limiter, &rules, 5000.0));
    let grants = futures_util::future::join_all(asks).await;
    assert!(grants.iter().all(Result::is_ok));
    assert_eq!(sent(&limiter), 1);
}
