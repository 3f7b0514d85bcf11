use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::link::{DOWN, MUTE, REFUSING, SLOW};
use super::*;
use crate::charge::{Charge, Debit, Standing, Verdict};
use crate::embedded::{Bounds, Embedded};

mod bounds;
mod costs;
mod counts;
mod losses;
mod watching;

const UP: u8 = 0;
const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_millis(25);
/// Noon of a UTC day.
const NOON: Duration = Duration::from_secs(20_000 * 86_400 + 43_200);

/// A store in this process; its clock goes by tokio's.
fn memory() -> Store {
    let origin = Instant::now();
    Store::embedded(Embedded::new(Bounds::default(), move || NOON + origin.elapsed()))
}

/// A node of `nodes` on `store`, its upkeep running.
fn node(store: &Store, nodes: u32) -> Arc<Limiter> {
    let limiter = Arc::new(Limiter::with(store.clone(), memory(), nodes, TIMEOUT, true));
    tokio::spawn(Arc::clone(&limiter).run());
    limiter
}

fn set(limiter: &Limiter, fault: u8) {
    limiter.link.fault.store(fault, Ordering::Release);
}

fn sent(limiter: &Limiter) -> usize {
    limiter.link.sent.load(Ordering::Acquire)
}

fn per_minute(amount: f64, burst: f64) -> Pace {
    Pace { span: Span::Period(60 * SECOND), amount, burst, smooth: None }
}

fn per_day(amount: f64) -> Pace {
    Pace { span: Span::Day, amount, burst: amount, smooth: None }
}

fn rule(scope: Scope, meter: Meter) -> Applies {
    lossy(scope, meter, OnStoreLoss::Share)
}

fn lossy(scope: Scope, meter: Meter, on_store_loss: OnStoreLoss) -> Applies {
    Applies::new(Arc::new(Rule { scope, meter, on_store_loss }), "a")
}

fn client(meter: Meter) -> [Applies; 1] {
    [rule(Scope::Client, meter)]
}

const fn asking(tokens: f64) -> Ask {
    let minute = Duration::from_secs(60);
    Ask { requests: 1.0, tokens, micro_usd: 10.0 * tokens, lives: minute, wait_at_most: minute }
}

async fn ask(limiter: &Arc<Limiter>, applies: &[Applies], tokens: f64) -> Result<Grant, Denied> {
    limiter.admit(applies, asking(tokens), &mut Allowance::new(TIMEOUT)).await
}

/// How many of a hundred are admitted now, nothing being settled but requests.
async fn admitted(limiter: &Arc<Limiter>, applies: &[Applies]) -> usize {
    let mut count = 0;
    for _ in 0..100 {
        count += usize::from(ask(limiter, applies, 0.0).await.is_ok());
    }
    count
}

/// How `applies` stands in `store`.
async fn standing(store: &Store, applies: &Applies) -> Standing {
    let debit = Debit {
        key: Arc::clone(&applies.name.key),
        counter: applies.rule.counter(),
        cost: 0.0,
        extra: 0.0,
        known: None,
        reserved: false,
    };
    let group = Arc::clone(&applies.name.group);
    let charge = Charge { group, id: fastrand::u128(..), lives: SECOND, debits: vec![debit] };
    match store.charge(&charge, SECOND).await.unwrap() {
        Verdict::Admitted(standings) | Verdict::Denied { standings, .. } => standings[0],
    }
}

async fn left(store: &Store, applies: &Applies) -> f64 {
    standing(store, applies).await.left.round()
}

#[tokio::test(start_paused = true)]
async fn a_slow_limit_admits_its_burst_on_all_nodes_together_and_says_when_to_come_back() {
    let store = memory();
    let nodes = [node(&store, 2), node(&store, 2)];
    let rules = client(Meter::Requests(per_minute(60.0, 5.0)));
    assert_eq!(admitted(&nodes[0], &rules[..]).await, 5);
    let denied = ask(&nodes[1], &rules, 0.0).await.unwrap_err();
    assert_eq!((denied.scope, denied.meter, denied.why), (Scope::Client, "requests", Why::Rate));
    assert!(denied.retry_after.abs_diff(SECOND) < Duration::from_millis(1), "{denied:?}");
    let line = denied.requests.unwrap();
    assert_eq!((line.limit, line.remaining, line.reset.as_secs_f64().round()), (5.0, 0.0, 5.0));
    tokio::time::advance(SECOND).await;
    assert_eq!(admitted(&nodes[1], &rules[..]).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_denial_holds_without_the_store_until_its_time_and_only_for_no_less() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Tokens(per_minute(60.0, 10.0)));
    ask(&limiter, &rules, 7.0).await.unwrap().settle(7.0, 0.0);
    let first = ask(&limiter, &rules, 5.0).await.unwrap_err().retry_after;
    limiter.flush().await;
    let before = sent(&limiter);
    tokio::time::advance(SECOND).await;
    let again = ask(&limiter, &rules, 6.0).await.unwrap_err().retry_after;
    assert_eq!((first - again, sent(&limiter)), (SECOND, before));
    ask(&limiter, &rules, 4.0).await.unwrap().settle(4.0, 0.0);
    tokio::time::advance(SECOND + Duration::from_millis(1)).await;
    ask(&limiter, &rules, 1.0).await.unwrap().settle(1.0, 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_is_not_held_back_by_an_old_denial() {
    let limiter = node(&memory(), 1);
    assert_eq!(admitted(&limiter, &client(Meter::Requests(per_day(3.0)))).await, 3);
    assert_eq!(admitted(&limiter, &client(Meter::Requests(per_day(8.0)))).await, 5);
}

#[tokio::test(start_paused = true)]
async fn when_one_limit_denies_the_others_get_all_back() {
    let store = memory();
    let limiter = node(&store, 1);
    let wide = rule(Scope::Client, Meter::Requests(per_minute(60.0, 50.0)));
    let fast = rule(Scope::Route, Meter::Requests(per_minute(60_000.0, 1000.0)));
    let narrow = rule(Scope::Model, Meter::Requests(per_minute(1.0, 1.0)));
    let rules = [wide.clone(), narrow, fast.clone()];
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    tokio::time::sleep(60 * SECOND).await;
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    // Another node's denial, so that this one has to ask and be told.
    let other = node(&store, 1);
    assert_eq!(ask(&other, &rules, 0.0).await.unwrap_err().scope, Scope::Model);
    other.flush().await;
    limiter.flush().await;
    assert_eq!((left(&store, &wide).await, left(&store, &fast).await), (49.0, 999.0));
}

#[tokio::test(start_paused = true)]
async fn settling_gives_back_what_was_not_used_and_takes_what_was_used_beyond() {
    let store = memory();
    let limiter = node(&store, 1);
    let (tokens, usd) = (Meter::Tokens(per_day(1000.0)), Meter::Usd(per_day(10_000.0)));
    let rules = [rule(Scope::Client, tokens), rule(Scope::Client, usd)];
    ask(&limiter, &rules, 400.0).await.unwrap().settle(100.0, 1000.0);
    limiter.flush().await;
    assert_eq!((left(&store, &rules[0]).await, left(&store, &rules[1]).await), (900.0, 9000.0));
    ask(&limiter, &rules, 400.0).await.unwrap().settle(1100.0, 1000.0);
    limiter.flush().await;
    assert_eq!((left(&store, &rules[0]).await, left(&store, &rules[1]).await), (-200.0, 8000.0));
    let denied = ask(&limiter, &rules, 1.0).await.unwrap_err();
    assert_eq!((denied.meter, denied.why), ("tokens", Why::Spent));
    assert_eq!(denied.retry_after.as_secs().div_ceil(3600), 12, "until midnight");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_dropped_has_used_nothing_but_the_request() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = [Meter::Requests(per_day(10.0)), Meter::Tokens(per_day(100.0)), Meter::InFlight(1)]
        .map(|meter| rule(Scope::Client, meter));
    let grant = ask(&limiter, &rules, 60.0).await.unwrap();
    let denied = ask(&limiter, &rules, 10.0).await.unwrap_err();
    assert_eq!((denied.meter, denied.retry_after), ("in_flight", SECOND));
    drop(grant);
    limiter.flush().await;
    assert_eq!((left(&store, &rules[0]).await, left(&store, &rules[1]).await), (9.0, 100.0));
    drop(ask(&limiter, &rules, 60.0).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_runs_stays_counted_while_its_node_lives_and_30_s_longer() {
    let store = memory();
    let limiter = Arc::new(Limiter::with(store.clone(), memory(), 1, TIMEOUT, true));
    let upkeep = tokio::spawn(Arc::clone(&limiter).run());
    let other = node(&store, 1);
    let rules = client(Meter::InFlight(1));
    let grant = ask(&limiter, &rules, 0.0).await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(SECOND).await;
        assert!(ask(&other, &rules, 0.0).await.is_err());
    }
    upkeep.abort();
    tokio::time::sleep(31 * SECOND).await;
    assert!(ask(&other, &rules, 0.0).await.is_ok());
    drop(grant);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_settles_comes_back_after_its_lives() {
    let store = memory();
    let limiter = Arc::new(Limiter::with(store.clone(), memory(), 1, TIMEOUT, true));
    let rules = client(Meter::Tokens(per_day(100.0)));
    let grant = ask(&limiter, &rules, 60.0).await.unwrap();
    grant.settle(50.0, 0.0);
    assert_eq!(left(&store, &rules[0]).await, 40.0, "nobody runs the upkeep");
    tokio::time::advance(61 * SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 100.0);
}

#[tokio::test(start_paused = true)]
async fn a_smooth_limit_queues_so_many_and_denies_the_rest() {
    let limiter = node(&memory(), 1);
    let smooth = Some(Smooth { queue: 3, timeout: 60 * SECOND });
    let rules = client(Meter::Requests(Pace { smooth, ..per_minute(6000.0, 1.0) }));
    let mut waits = Vec::new();
    while let Ok(grant) = ask(&limiter, &rules, 0.0).await {
        waits.push(grant.wait.as_secs_f64() * 1000.0);
    }
    assert_eq!(waits.iter().map(|ms| ms.round()).collect::<Vec<_>>(), [0.0, 10.0, 20.0, 30.0]);
}

#[tokio::test(start_paused = true)]
async fn the_headline_is_the_tightest_limit() {
    let limiter = node(&memory(), 1);
    let rules = [
        rule(Scope::Client, Meter::Requests(per_minute(600.0, 50.0))),
        rule(Scope::Client, Meter::Requests(per_day(20.0))),
        rule(Scope::Ip, Meter::Requests(per_minute(300.0, 100.0))),
        rule(Scope::Client, Meter::Tokens(per_minute(1000.0, 1000.0))),
    ];
    let grant = ask(&limiter, &rules, 250.0).await.unwrap();
    let (requests, tokens) = (grant.requests.unwrap(), grant.tokens.unwrap());
    assert_eq!((requests.limit, requests.remaining), (20.0, 19.0));
    assert_eq!((tokens.limit, tokens.remaining, tokens.reset), (1000.0, 750.0, 15 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn two_limits_of_one_kind_and_span_are_both_kept() {
    let limiter = node(&memory(), 1);
    let rules = [8.0, 5.0].map(|burst| rule(Scope::Client, Meter::Requests(per_minute(60.0 + burst, burst))));
    assert_eq!(admitted(&limiter, &rules).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_node_limit_is_of_this_node_alone_and_needs_no_store() {
    let store = memory();
    let nodes = [node(&store, 2), node(&store, 2)];
    let rules = [rule(Scope::Node, Meter::Requests(per_minute(60.0, 5.0)))];
    set(&nodes[1], DOWN);
    for limiter in &nodes {
        assert_eq!((admitted(limiter, &rules).await, sent(limiter)), (5, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_node_admits_its_share_of_what_was_left() {
    let limiter = node(&memory(), 1);
    limiter.set_nodes(4);
    let rules = client(Meter::Requests(per_minute(60.0, 40.0)));
    for _ in 0..8 {
        drop(ask(&limiter, &rules, 0.0).await.unwrap());
    }
    set(&limiter, DOWN);
    assert_eq!(admitted(&limiter, &rules).await, 8, "32 were left");
    tokio::time::advance(4 * SECOND).await;
    assert_eq!(admitted(&limiter, &rules).await, 1);
    tokio::time::advance(600 * SECOND).await;
    assert_eq!(admitted(&limiter, &rules).await, 10);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_open_admits_all_and_closed_nothing() {
    let limiter = node(&memory(), 1);
    set(&limiter, DOWN);
    let meter = Meter::Requests(per_minute(60.0, 5.0));
    let open = lossy(Scope::Client, meter, OnStoreLoss::Open);
    let closed = lossy(Scope::Model, meter, OnStoreLoss::Closed);
    assert_eq!(admitted(&limiter, std::slice::from_ref(&open)).await, 100);
    let denied = ask(&limiter, &[open, closed], 0.0).await.unwrap_err();
    assert_eq!((denied.scope, denied.why, denied.retry_after), (Scope::Model, Why::StoreLost, SECOND));
}

#[tokio::test(start_paused = true)]
async fn without_the_store_a_day_is_shared_by_what_was_left_and_begins_anew_at_midnight() {
    let limiter = node(&memory(), 2);
    let rules = client(Meter::Tokens(per_day(1000.0)));
    ask(&limiter, &rules, 200.0).await.unwrap().settle(200.0, 0.0);
    set(&limiter, DOWN);
    ask(&limiter, &rules, 350.0).await.unwrap().settle(350.0, 0.0);
    assert_eq!(ask(&limiter, &rules, 100.0).await.unwrap_err().why, Why::Rate, "50 are left");
    ask(&limiter, &rules, 50.0).await.unwrap().settle(50.0, 0.0);
    limiter.flush().await;
    assert_eq!(ask(&limiter, &rules, 1.0).await.unwrap_err().why, Why::Spent);
    tokio::time::sleep(43_201 * SECOND).await;
    ask(&limiter, &rules, 500.0).await.unwrap().settle(500.0, 0.0);
    assert!(ask(&limiter, &rules, 1.0).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn without_the_store_what_runs_is_shared() {
    let limiter = node(&memory(), 3);
    let rules = client(Meter::InFlight(10));
    set(&limiter, DOWN);
    let mut grants = Vec::new();
    while let Ok(grant) = ask(&limiter, &rules, 0.0).await {
        grants.push(grant);
    }
    assert_eq!(grants.len(), 3);
    tokio::time::sleep(100 * SECOND).await;
    assert!(ask(&limiter, &rules, 0.0).await.is_err(), "kept counted");
    grants.clear();
    limiter.flush().await;
    assert!(ask(&limiter, &rules, 0.0).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_store_is_told_what_was_used_without_it() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Tokens(per_day(1000.0)));
    set(&limiter, DOWN);
    ask(&limiter, &rules, 100.0).await.unwrap().settle(70.0, 0.0);
    let running = ask(&limiter, &rules, 100.0).await.unwrap();
    set(&limiter, UP);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 830.0);
    running.settle(30.0, 0.0);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 900.0, "trued up after the outage");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_could_not_be_sent_is_sent_later() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Requests(per_day(100.0)));
    set(&limiter, DOWN);
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    limiter.heard();
    limiter.flush().await;
    assert!(limiter.outage.owes());
    set(&limiter, UP);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 99.0);
}

#[tokio::test(start_paused = true)]
async fn a_charge_without_an_answer_is_decided_here_and_never_given_back() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Tokens(per_day(1000.0)));
    set(&limiter, MUTE);
    let grant = ask(&limiter, &rules, 100.0).await.unwrap();
    set(&limiter, UP);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 800.0, "what was asked stands, and what was admitted is told");
    grant.settle(0.0, 0.0);
    tokio::time::sleep(SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 900.0);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 1000.0, "it ran out by itself");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_and_goes_gives_nobody_a_new_burst() {
    let store = memory();
    let limiter = node(&store, 2);
    let rules = client(Meter::Requests(per_minute(0.01, 40.0)));
    let mut count = 0;
    for _ in 0..20 {
        set(&limiter, DOWN);
        count += admitted(&limiter, &rules).await;
        set(&limiter, UP);
        tokio::time::sleep(SECOND).await;
    }
    assert!((35..=40).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_costs_no_more_than_the_allowance() {
    let limiter = node(&memory(), 1);
    set(&limiter, SLOW);
    let rules = [Scope::Client, Scope::Model, Scope::Ip]
        .map(|scope| rule(scope, Meter::Requests(per_minute(60.0, 5.0))));
    let mut allowance = Allowance::new(TIMEOUT);
    for (millis, asked) in [(15, 3), (5, 6), (0, 9), (0, 9)] {
        drop(limiter.admit(&rules, asking(0.0), &mut allowance).await.unwrap());
        assert_eq!((allowance.left().as_millis(), sent(&limiter)), (millis, asked));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_limit_is_asked_for_once_in_many_requests() {
    let limiter = node(&memory(), 2);
    let rules = client(Meter::Requests(per_minute(60_000.0, 1000.0)));
    let mut count = 0;
    for _ in 0..1000 {
        count += usize::from(ask(&limiter, &rules, 0.0).await.is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(count, 1000);
    assert!(sent(&limiter) < 25, "{}", sent(&limiter));
}

#[tokio::test(start_paused = true)]
async fn one_charge_at_a_time_fills_a_lease_for_all_who_wait() {
    let limiter = node(&memory(), 2);
    set(&limiter, SLOW);
    let rules = client(Meter::Requests(per_minute(60_000.0, 1000.0)));
    let asks = (0..50).map(|_| ask(&limiter, &rules, 0.0));
    let grants = futures_util::future::join_all(asks).await;
    assert!(grants.iter().all(Result::is_ok));
    assert_eq!(sent(&limiter), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_leased_lasts_a_second_without_the_store_and_then_goes_back() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Requests(per_minute(1200.0, 1000.0)));
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    assert_eq!(left(&store, &rules[0]).await, 997.0, "one and a lease of 100 ms");
    set(&limiter, DOWN);
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    assert!(!limiter.outage.is_going_on());
    set(&limiter, UP);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(left(&store, &rules[0]).await, 1000.0);
    drop(ask(&limiter, &rules, 0.0).await.unwrap());
    limiter.flush().await;
    assert_eq!(left(&store, &rules[0]).await, 999.0, "a drain gives it back at once");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_lease_are_trued_up() {
    let store = memory();
    let limiter = node(&store, 1);
    let rules = client(Meter::Tokens(per_minute(6e6, 1e6)));
    ask(&limiter, &rules, 5000.0).await.unwrap().settle(50_000.0, 0.0);
    limiter.flush().await;
    assert_eq!(left(&store, &rules[0]).await, 950_000.0);
    ask(&limiter, &rules, 40_000.0).await.unwrap().settle(0.0, 0.0);
    limiter.flush().await;
    assert_eq!(left(&store, &rules[0]).await, 950_000.0);
}

#[tokio::test(start_paused = true)]
async fn so_many_nodes_are_believed_in_as_was_said_last_and_as_are_expected_before() {
    let limiter = node(&memory(), 3);
    assert_eq!(limiter.nodes(), 3);
    for (said, nodes) in [(5, 5), (2, 2), (0, 1)] {
        limiter.set_nodes(said);
        tokio::time::advance(3600 * SECOND).await;
        assert_eq!(limiter.nodes(), nodes);
    }
}
