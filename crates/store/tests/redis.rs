//! What the scripts do, on a real server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{Server, WITHIN, store, until};
use tidegate_store::cache::{Begun, Followed, Renewed};
use tidegate_store::charge::{Charge, Counter, Debit, Running, Settled, Settlement, Standing, Verdict};
use tidegate_store::fleet::{Beat, Cooldown};
use tidegate_store::redis::Setup;
use tidegate_store::usage::{Amount, Entry};
use tidegate_store::{Failure, Store};
use tokio::time::{Instant, timeout};

const MINUTE: Duration = Duration::from_secs(60);

fn bucket(per_second: f64, burst: f64) -> Counter {
    Counter::Bucket { per_second, burst, patience: Duration::ZERO }
}

fn debit(key: &str, counter: Counter, cost: f64) -> Debit {
    let reserved = matches!(counter, Counter::Running { .. });
    Debit { key: key.into(), counter, cost, extra: 0.0, known: None, reserved }
}

fn charge(debits: Vec<Debit>) -> Charge {
    Charge { group: "team".into(), id: fastrand::u128(..), lives: MINUTE, debits }
}

fn settled(debit: &Debit, used: f64) -> Settled {
    let Debit { key, counter, cost, reserved, .. } = debit.clone();
    Settled { key, counter, charged: cost, used, reserved }
}

async fn settle(store: &Store, charge: &Charge, items: Vec<Settled>) {
    let settlement = Settlement { group: charge.group.clone(), id: charge.id, lives: charge.lives, items };
    store.settle(&settlement, WITHIN).await.unwrap();
}

async fn admitted(store: &Store, charge: &Charge) -> Vec<Standing> {
    match store.charge(charge, WITHIN).await.unwrap() {
        Verdict::Admitted(standings) => standings,
        denied => panic!("{denied:?}"),
    }
}

async fn denied(store: &Store, charge: &Charge) -> (usize, Duration, Vec<Standing>) {
    match store.charge(charge, WITHIN).await.unwrap() {
        Verdict::Denied { by, retry_after, standings } => (by, retry_after, standings),
        admitted => panic!("{admitted:?}"),
    }
}

/// How much is left, taking nothing.
async fn left(store: &Store, key: &str, counter: Counter) -> f64 {
    admitted(store, &charge(vec![Debit { reserved: false, ..debit(key, counter, 0.0) }])).await[0].left
}

#[tokio::test]
async fn a_bucket_decides_as_its_definition_says_and_never_gives_more_than_burst_and_rate() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    for _ in 0..8 {
        let (per_second, burst) = (10f64.powf(fastrand::f64() * 5.0), 1.0 + fastrand::f64() * 50.0);
        let counter = bucket(per_second, burst);
        let key = format!("b{}", fastrand::u64(..));
        let (began, mut taken, mut full_at) = (Instant::now(), 0.0, f64::NEG_INFINITY);
        for _ in 0..150 {
            let cost = fastrand::f64() * burst * 0.4;
            let (ok, standing) = match store.charge(&charge(vec![debit(&key, counter, cost)]), WITHIN).await {
                Ok(Verdict::Admitted(s)) => (true, s[0]),
                Ok(Verdict::Denied { standings, .. }) => (false, standings[0]),
                Err(e) => panic!("{e}"),
            };
            // The reply says when the bucket is full and how far off that is, so by which time it was decided.
            let now = standing.mark - standing.reset.as_secs_f64() * 1000.0;
            let empty_for = (full_at.max(now) - now) * per_second / 1000.0;
            let slack = burst - empty_for - cost;
            // Within a microsecond either is right.
            if slack.abs() > per_second * 2e-6 {
                assert_eq!(ok, slack > 0.0, "rate {per_second} burst {burst} cost {cost} slack {slack}");
            }
            if ok {
                taken += cost;
            }
            full_at = standing.mark;
        }
        let most = burst + per_second * began.elapsed().as_secs_f64() + per_second * 1e-3;
        assert!(taken <= most, "{taken} of {most}");
    }
}

#[tokio::test]
async fn a_burst_is_had_exactly_and_the_wait_after_it_is_exact() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(0.01, 10.0);
    for i in 0..10 {
        let standing = admitted(&store, &charge(vec![debit("k", counter, 1.0)])).await[0];
        assert!((standing.left - (9.0 - f64::from(i))).abs() < 0.05, "{standing:?}");
    }
    let (by, retry_after, _) = denied(&store, &charge(vec![debit("k", counter, 1.0)])).await;
    assert_eq!(by, 0);
    assert!(
        retry_after <= Duration::from_secs(100) && retry_after > Duration::from_secs(95),
        "{retry_after:?}"
    );
}

#[tokio::test]
async fn a_charge_is_admitted_when_the_wait_it_was_told_is_over() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(20.0, 1.0);
    admitted(&store, &charge(vec![debit("k", counter, 1.0)])).await;
    let (_, retry_after, _) = denied(&store, &charge(vec![debit("k", counter, 1.0)])).await;
    tokio::time::sleep(retry_after).await;
    admitted(&store, &charge(vec![debit("k", counter, 1.0)])).await;
}

#[tokio::test]
async fn costs_beyond_all_measure_are_answered_and_never_taken_for_the_servers_state() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    // Slow enough that even its burst fills in more milliseconds than a key may live.
    for counter in [bucket(1.0, 10.0), bucket(1e-6, 1e15), Counter::Day { limit: 10.0 }] {
        for n in 0..10 {
            let key = format!("{n}-{counter:?}");
            let c = charge(vec![Debit { reserved: true, ..debit(&key, counter, 1e18) }]);
            let standing = admitted(&store, &c).await[0];
            assert!(standing.left.abs() < 1.0, "{standing:?}");
            let charged = counter.takes(1e18);
            settle(&store, &c, vec![Settled { charged, ..settled(&c.debits[0], 1e300) }]).await;
            denied(&store, &charge(vec![debit(&key, counter, 1.0)])).await;
        }
    }
    assert!(store.is_up());
}

#[tokio::test]
async fn what_lies_under_one_key_is_refused_and_no_reason_to_give_the_server_up() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.ask::<()>(&["SET", "t:v1:day:{team}:string", "x"]).await.unwrap();
    server.ask::<()>(&["HSET", "t:v1:bucket:{team}:hash", "x", "y"]).await.unwrap();
    for _ in 0..20 {
        for (key, counter) in [("string", Counter::Day { limit: 5.0 }), ("hash", bucket(1.0, 10.0))] {
            let verdict = store.charge(&charge(vec![debit(key, counter, 1.0)]), WITHIN).await;
            assert!(matches!(verdict, Err(Failure::Refused(_))), "{verdict:?}");
        }
    }
    assert!(store.is_up());
    admitted(&store, &charge(vec![debit("k", bucket(1.0, 10.0), 1.0)])).await;
}

#[tokio::test]
async fn one_entry_that_is_none_of_ours_keeps_no_other_from_being_renewed() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let short = Counter::Running { limit: 9.0, lives: Duration::from_millis(400) };
    server.ask::<()>(&["SET", "t:v1:running:{alien}:r", "x"]).await.unwrap();
    server.ask::<()>(&["SET", "t:v1:running:{team}:a", "x"]).await.unwrap();
    let mut entries = [("alien", "r"), ("team", "a")]
        .map(|(g, k)| Running { group: g.into(), key: k.into(), id: 1 })
        .to_vec();
    for group in ["team", "zebra"] {
        let c = Charge { group: group.into(), ..charge(vec![debit("r", short, 1.0)]) };
        admitted(&store, &c).await;
        entries.push(Running { group: group.into(), key: "r".into(), id: c.id });
    }
    let renewed = store.still_running(&entries, MINUTE, WITHIN).await;
    assert!(matches!(renewed, Err(Failure::Refused(_))), "{renewed:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    for group in ["team", "zebra"] {
        let look = Charge { group: group.into(), ..charge(vec![debit("r", short, 0.0)]) };
        assert_eq!(admitted(&store, &look).await[0].left, 8.0, "{group}");
    }
}

#[tokio::test]
async fn a_reservation_that_a_full_server_could_not_settle_runs_out_by_itself() {
    let Some(server) = Server::start(&["--maxmemory-policy", "noeviction"]).await else { return };
    let store = server.store().await;
    let (counter, day) = (bucket(0.001, 100.0), Counter::Day { limit: 100.0 });
    let lives = Duration::from_millis(300);
    let c = Charge {
        lives,
        ..charge(vec![
            Debit { reserved: true, ..debit("b", counter, 60.0) },
            Debit { reserved: true, ..debit("d", day, 60.0) },
        ])
    };
    admitted(&store, &c).await;
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    for debit in &c.debits {
        let items = vec![settled(debit, 30.0)];
        let settlement = Settlement { group: c.group.clone(), id: c.id, lives, items };
        let told = store.settle(&settlement, WITHIN).await;
        assert!(matches!(told, Err(Failure::Refused(_))), "{told:?}");
    }
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    until("both are given back", async || {
        left(&store, "b", counter).await > 99.0 && left(&store, "d", day).await == 100.0
    })
    .await;
}

#[tokio::test]
async fn patience_waits_for_its_turn_and_no_longer() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = Counter::Bucket { per_second: 10.0, burst: 1.0, patience: Duration::from_millis(250) };
    let mut waits = Vec::new();
    for _ in 0..3 {
        waits.push(admitted(&store, &charge(vec![debit("k", counter, 1.0)])).await[0].wait.as_secs_f64());
    }
    for (wait, expected) in waits.iter().zip([0.0, 0.1, 0.2]) {
        assert!(*wait <= expected + 1e-6 && *wait > expected - 0.05, "{waits:?}");
    }
    let (_, retry_after, _) = denied(&store, &charge(vec![debit("k", counter, 1.0)])).await;
    assert!(retry_after <= Duration::from_millis(50), "{retry_after:?}");
}

#[tokio::test]
async fn extra_is_whole_units_and_only_what_is_there() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(0.001, 10.0);
    let wanting = |extra| charge(vec![Debit { extra, ..debit("k", counter, 1.5) }]);
    assert_eq!(admitted(&store, &wanting(4.0)).await[0].extra, 4.0);
    assert_eq!(admitted(&store, &wanting(100.0)).await[0].extra, 3.0);
    assert!(left(&store, "k", counter).await < 0.1);
}

#[tokio::test]
async fn a_charge_takes_from_all_counters_or_from_none() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let (wide, narrow) = (bucket(0.001, 100.0), bucket(0.001, 1.0));
    let day = Counter::Day { limit: 50.0 };
    let running = Counter::Running { limit: 5.0, lives: MINUTE };
    let all = |narrow_cost| {
        charge(vec![
            debit("wide", wide, 10.0),
            debit("day", day, 10.0),
            debit("running", running, 1.0),
            debit("narrow", narrow, narrow_cost),
        ])
    };
    admitted(&store, &all(1.0)).await;
    let (by, _, standings) = denied(&store, &all(1.0)).await;
    assert_eq!(by, 3);
    assert!((standings[0].left - 90.0).abs() < 0.1);
    assert_eq!(standings[1].left, 40.0);
    assert_eq!(standings[2].left, 4.0);
    let again = admitted(&store, &all(0.0)).await;
    assert!((again[0].left - 80.0).abs() < 0.1);
    assert_eq!((again[1].left, again[2].left), (30.0, 3.0));
}

#[tokio::test]
async fn who_waits_longest_denies() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let both = || charge(vec![debit("fast", bucket(1.0, 1.0), 1.0), debit("slow", bucket(0.1, 1.0), 1.0)]);
    admitted(&store, &both()).await;
    assert_eq!(denied(&store, &both()).await.0, 1);
}

#[tokio::test]
async fn a_refund_gives_back_what_was_not_used_and_never_more() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(0.001, 100.0);
    for (used, expected) in [(0.0, 100.0), (30.0, 70.0), (60.0, 10.0), (-50.0, 10.0)] {
        let c = charge(vec![Debit { reserved: true, ..debit("k", counter, 10.0) }]);
        admitted(&store, &c).await;
        settle(&store, &c, vec![settled(&c.debits[0], used)]).await;
        let left = left(&store, "k", counter).await;
        assert!((left - expected).abs() < 0.1, "used {used}: {left}");
    }
}

#[tokio::test]
async fn what_was_used_beyond_the_charge_becomes_debt() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let (counter, day) = (bucket(0.001, 100.0), Counter::Day { limit: 100.0 });
    let c = charge(vec![debit("b", counter, 10.0), Debit { reserved: true, ..debit("d", day, 10.0) }]);
    admitted(&store, &c).await;
    settle(&store, &c, vec![settled(&c.debits[0], 150.0), settled(&c.debits[1], 150.0)]).await;
    let (_, _, standings) = denied(&store, &charge(vec![debit("b", counter, 1.0)])).await;
    assert!((standings[0].left + 50.0).abs() < 0.1, "{standings:?}");
    let (_, retry_after, standings) = denied(&store, &charge(vec![debit("d", day, 1.0)])).await;
    assert_eq!(standings[0].left, -50.0);
    assert!(retry_after <= Duration::from_secs(86_400));
}

#[tokio::test]
async fn a_reservation_that_runs_out_is_given_back_and_settled_late_is_taken_in_full() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let (counter, day) = (bucket(0.001, 100.0), Counter::Day { limit: 100.0 });
    let c = Charge {
        lives: Duration::from_millis(50),
        ..charge(vec![
            Debit { reserved: true, ..debit("b", counter, 60.0) },
            Debit { reserved: true, ..debit("d", day, 60.0) },
        ])
    };
    let taken = admitted(&store, &c).await;
    assert!(taken[0].left < 41.0 && taken[1].left == 40.0);
    until("both are given back", async || {
        left(&store, "b", counter).await > 99.0 && left(&store, "d", day).await == 100.0
    })
    .await;
    settle(&store, &c, vec![settled(&c.debits[0], 30.0), settled(&c.debits[1], 30.0)]).await;
    assert!((left(&store, "b", counter).await - 70.0).abs() < 0.1);
    assert_eq!(left(&store, "d", day).await, 70.0);
}

#[tokio::test]
async fn running_requests_end_by_being_settled_or_by_not_being_renewed() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let short = Counter::Running { limit: 1.0, lives: Duration::from_millis(100) };
    let long = Counter::Running { limit: 1.0, lives: MINUTE };
    let first = charge(vec![debit("r", long, 1.0)]);
    admitted(&store, &first).await;
    assert_eq!(denied(&store, &charge(vec![debit("r", long, 1.0)])).await.1, Duration::from_secs(1));
    settle(&store, &first, vec![settled(&first.debits[0], 0.0)]).await;
    let second = charge(vec![debit("r", short, 1.0)]);
    admitted(&store, &second).await;
    until("it is forgotten", async || {
        matches!(store.charge(&charge(vec![debit("r", short, 1.0)]), WITHIN).await, Ok(Verdict::Admitted(_)))
    })
    .await;
}

#[tokio::test]
async fn running_requests_of_several_groups_are_renewed_by_one_call() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let short = Counter::Running { limit: 9.0, lives: Duration::from_millis(400) };
    let mut entries = Vec::new();
    for group in ["team", "other", ""] {
        let c = Charge { group: group.into(), ..charge(vec![debit("r", short, 1.0)]) };
        admitted(&store, &c).await;
        entries.push(Running { group: group.into(), key: "r".into(), id: c.id });
    }
    store.still_running(&entries, MINUTE, WITHIN).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for group in ["team", "other", ""] {
        let look = Charge { group: group.into(), ..charge(vec![debit("r", short, 0.0)]) };
        assert_eq!(admitted(&store, &look).await[0].left, 8.0, "{group}");
    }
}

#[tokio::test]
async fn a_lost_bucket_begins_at_half_at_most_where_it_was_known() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(0.01, 100.0);
    let mark = admitted(&store, &charge(vec![debit("k", counter, 20.0)])).await[0].mark;
    server.ask::<()>(&["FLUSHALL"]).await.unwrap();
    let known = |cost| charge(vec![Debit { known: Some(mark), ..debit("k", counter, cost) }]);
    denied(&store, &known(51.0)).await;
    let standing = admitted(&store, &known(50.0)).await[0];
    assert!(standing.left < 0.1, "{standing:?}");
    denied(&store, &known(1.0)).await;
}

#[tokio::test]
async fn a_lost_bucket_that_stood_lower_begins_where_it_stood() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let counter = bucket(0.01, 100.0);
    let mark = admitted(&store, &charge(vec![debit("k", counter, 90.0)])).await[0].mark;
    server.ask::<()>(&["FLUSHALL"]).await.unwrap();
    let c = charge(vec![Debit { known: Some(mark), ..debit("k", counter, 0.0) }]);
    let standing = admitted(&store, &c).await[0];
    assert!((standing.left - 10.0).abs() < 0.1, "{standing:?}");
}

#[tokio::test]
async fn a_mark_from_before_a_refund_is_no_loss() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    // Full again 20 ms after the refund, so its key would go long before the mark is past.
    let counter = bucket(50.0, 100.0);
    let c = charge(vec![Debit { reserved: true, ..debit("k", counter, 100.0) }]);
    let mark = admitted(&store, &c).await[0].mark;
    settle(&store, &c, vec![settled(&c.debits[0], 1.0)]).await;
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let again = charge(vec![Debit { known: Some(mark), ..debit("k", counter, 100.0) }]);
    admitted(&store, &again).await;
}

#[tokio::test]
async fn a_lost_day_begins_with_what_was_known_of_it() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let day = Counter::Day { limit: 2.0 };
    let mark = admitted(&store, &charge(vec![debit("usd", day, 1.25)])).await[0].mark;
    server.ask::<()>(&["FLUSHALL"]).await.unwrap();
    let known = |cost| charge(vec![Debit { known: Some(mark), ..debit("usd", day, cost) }]);
    denied(&store, &known(0.751)).await;
    let standing = admitted(&store, &known(0.25)).await[0];
    assert!((standing.left - 0.5).abs() < 1e-9, "{standing:?}");
}

#[tokio::test]
async fn every_key_has_an_expiry_and_the_prefix() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let running = Counter::Running { limit: 5.0, lives: MINUTE };
    let c = charge(vec![
        Debit { reserved: true, ..debit("b", bucket(1.0, 10.0), 1.0) },
        Debit { reserved: true, ..debit("d", Counter::Day { limit: 5.0 }, 1.0) },
        debit("r", running, 1.0),
    ]);
    admitted(&store, &c).await;
    settle(&store, &charge(vec![]), vec![settled(&debit("only settled", bucket(1.0, 1.0), 0.0), 5.0)]).await;
    store.begin("answer", 1, "note", MINUTE, WITHIN).await.unwrap();
    store.begin("answer", 2, "note", MINUTE, WITHIN).await.unwrap();
    store.renew("answer", 1, &[Bytes::from_static(b"piece")], MINUTE, WITHIN).await.unwrap();
    store.begin("given up", 1, "", MINUTE, WITHIN).await.unwrap();
    store.give_up("given up", 1, true, WITHIN).await.unwrap();
    store.put("stored", 1, &Bytes::from_static(b"x"), MINUTE, WITHIN).await.unwrap();
    store.lease("lease", 1, MINUTE, WITHIN).await.unwrap();
    beat(&store, "node-1").await;
    store.cool(&Cooldown { name: "cred".into(), left: MINUTE }, WITHIN).await.unwrap();
    store.spend(&[entry("c", "m", 1)], WITHIN).await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await.unwrap();
    assert!(keys.len() >= 16, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("t:v1:"), "{key}");
        let left: i64 = server.ask(&["PTTL", &key]).await.unwrap();
        // A probe's key may have gone meanwhile.
        assert!(left > 0 || left == -2, "{key}: {left}");
    }
}

#[tokio::test]
async fn a_group_without_a_name_is_a_group() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let c = Charge { group: "".into(), ..charge(vec![debit("k", bucket(1.0, 1.0), 1.0)]) };
    admitted(&store, &c).await;
    denied(&store, &c).await;
}

#[tokio::test]
async fn one_makes_an_answer_and_others_follow_it() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let begin = async |owner| store.begin("k", owner, "a note", MINUTE, WITHIN).await.unwrap();
    let piece = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(store.look_up("k", WITHIN).await, Ok(None));
    assert_eq!(begin(1).await, Begun::Lead);
    assert_eq!(store.renew("k", 1, &[], MINUTE, WITHIN).await, Ok(Renewed { held: true, followed: false }));
    assert_eq!(begin(2).await, Begun::Follow("a note".into()));
    assert_eq!(store.renew("k", 2, &[], MINUTE, WITHIN).await, Ok(Renewed { held: false, followed: false }));
    let pieces = [piece("one"), piece("\0two\r\n")];
    let renewed = store.renew("k", 1, &pieces, MINUTE, WITHIN).await;
    assert_eq!(renewed, Ok(Renewed { held: true, followed: true }));
    assert_eq!(store.follow("k", 0, WITHIN).await, Ok(Followed::Pieces(pieces.to_vec())));
    assert_eq!(store.follow("k", 1, WITHIN).await, Ok(Followed::Pieces(vec![pieces[1].clone()])));
    assert_eq!(store.follow("k", 2, WITHIN).await, Ok(Followed::Pieces(vec![])));
    store.put("k", 1, &piece("whole"), MINUTE, WITHIN).await.unwrap();
    match store.follow("k", 2, WITHIN).await.unwrap() {
        Followed::Found(value, kept) => assert!(value == piece("whole") && kept <= MINUTE),
        other => panic!("{other:?}"),
    }
    assert!(matches!(begin(3).await, Begun::Found(value, _) if value == piece("whole")));
    assert!(matches!(store.look_up("k", WITHIN).await, Ok(Some((_, kept))) if kept > MINUTE / 2));
    store.forget("k", WITHIN).await.unwrap();
    assert_eq!(begin(3).await, Begun::Lead);
}

#[tokio::test]
async fn a_right_that_is_given_up_goes_to_the_next_or_to_nobody() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let begin = async |owner| store.begin("k", owner, "", MINUTE, WITHIN).await.unwrap();
    begin(1).await;
    begin(2).await;
    store.give_up("k", 2, true, WITHIN).await.unwrap();
    assert_eq!(store.follow("k", 0, WITHIN).await, Ok(Followed::Pieces(vec![])), "it was not 2's to give up");
    store.give_up("k", 1, false, WITHIN).await.unwrap();
    assert_eq!(store.follow("k", 0, WITHIN).await, Ok(Followed::Orphaned));
    assert_eq!(begin(2).await, Begun::Lead);
    store.give_up("k", 2, true, WITHIN).await.unwrap();
    assert_eq!(begin(1).await, Begun::Alone);
    assert_eq!(store.follow("k", 0, WITHIN).await, Ok(Followed::Alone));
}

#[tokio::test]
async fn a_right_that_is_not_renewed_is_to_be_had() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    store.begin("k", 1, "", Duration::from_millis(50), WITHIN).await.unwrap();
    until("it is to be had", async || store.follow("k", 0, WITHIN).await == Ok(Followed::Orphaned)).await;
    assert_eq!(store.begin("k", 2, "", MINUTE, WITHIN).await, Ok(Begun::Lead));
    assert_eq!(store.renew("k", 1, &[], MINUTE, WITHIN).await.map(|r| r.held), Ok(false));
}

#[tokio::test]
async fn pieces_of_another_leader_do_not_continue_the_old_ones() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let lives = Duration::from_millis(50);
    store.begin("k", 1, "", lives, WITHIN).await.unwrap();
    store.renew("k", 1, &[Bytes::from_static(b"a"), Bytes::from_static(b"b")], lives, WITHIN).await.unwrap();
    until("another begins", async || store.begin("k", 2, "", MINUTE, WITHIN).await == Ok(Begun::Lead)).await;
    store.renew("k", 2, &[Bytes::from_static(b"c")], MINUTE, WITHIN).await.unwrap();
    assert_eq!(store.follow("k", 2, WITHIN).await, Ok(Followed::Orphaned));
}

#[tokio::test]
async fn a_lease_has_one_holder() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let lease = async |owner, lives| store.lease("l", owner, lives, WITHIN).await.unwrap();
    assert!(lease(1, MINUTE).await);
    assert!(!lease(2, MINUTE).await);
    store.release("l", 2, WITHIN).await.unwrap();
    assert!(!lease(2, MINUTE).await);
    store.release("l", 1, WITHIN).await.unwrap();
    assert!(lease(2, MINUTE).await);
    assert!(lease(2, Duration::from_millis(50)).await, "its own is renewed");
    until("it runs out", async || lease(1, MINUTE).await).await;
}

async fn beat(store: &Store, node: &str) -> tidegate_store::fleet::Fleet {
    beat_for(store, node, MINUTE).await
}

async fn beat_for(store: &Store, node: &str, lives: Duration) -> tidegate_store::fleet::Fleet {
    let payload = format!("{{\"of\": \"{node} \\n\"}}");
    let beat = Beat { node: node.into(), payload, lives, epoch: String::new() };
    store.beat(&beat, WITHIN).await.unwrap()
}

#[tokio::test]
async fn nodes_hear_of_each_other_until_they_leave_or_fall_silent() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    beat(&store, "b").await;
    beat_for(&store, "c", Duration::from_millis(50)).await;
    let fleet = beat(&store, "a").await;
    assert_eq!(fleet.nodes[0].payload, "{\"of\": \"a \\n\"}");
    assert!(fleet.nodes.iter().all(|peer| peer.age < WITHIN));
    until("the silent one is gone", async || {
        let names: Vec<String> = beat(&store, "a").await.nodes.into_iter().map(|peer| peer.node).collect();
        names == ["a", "b"]
    })
    .await;
    store.leave("b", WITHIN).await.unwrap();
    assert_eq!(beat(&store, "a").await.nodes.len(), 1);
}

#[tokio::test]
async fn a_store_that_lost_what_it_held_has_another_epoch() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let first = beat(&store, "a").await.epoch;
    assert!(!first.is_empty());
    assert_eq!(beat(&store, "b").await.epoch, first);
    server.ask::<()>(&["FLUSHALL"]).await.unwrap();
    assert_ne!(beat(&store, "a").await.epoch, first);
}

#[tokio::test]
async fn a_cool_down_is_only_ever_extended() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let cool = async |left| store.cool(&Cooldown { name: "cred".into(), left }, WITHIN).await.unwrap();
    cool(MINUTE).await;
    cool(Duration::from_secs(1)).await;
    let cooling = beat(&store, "a").await.cooldowns;
    assert!(cooling.len() == 1 && cooling[0].left > Duration::from_secs(55), "{cooling:?}");
    cool(MINUTE * 2).await;
    assert!(beat(&store, "a").await.cooldowns[0].left > MINUTE);
}

#[tokio::test]
async fn a_cool_down_ends() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    store.cool(&Cooldown { name: "cred".into(), left: Duration::from_millis(50) }, WITHIN).await.unwrap();
    until("it has ended", async || beat(&store, "a").await.cooldowns.is_empty()).await;
}

#[tokio::test]
async fn a_cool_down_is_hinted_to_other_nodes_and_not_to_oneself() {
    let Some(server) = Server::start(&[]).await else { return };
    let one = server.store().await;
    let other = store(Setup { node: "node-2".into(), ..server.setup() }).await;
    until("both listen", async || {
        let n: Vec<(String, i64)> = server.ask(&["PUBSUB", "NUMSUB", "t:v1:hint"]).await.unwrap();
        n[0].1 == 2
    })
    .await;
    one.cool(&Cooldown { name: "cred".into(), left: MINUTE }, WITHIN).await.unwrap();
    timeout(WITHIN, other.hinted()).await.unwrap();
    other.cool(&Cooldown { name: "cred".into(), left: MINUTE * 2 }, WITHIN).await.unwrap();
    timeout(WITHIN, one.hinted()).await.unwrap();
    // `one` heard of one cool-down, of which there were two: of its own it heard nothing.
    assert!(timeout(Duration::from_millis(50), one.hinted()).await.is_err());
}

fn entry(client: &str, model: &str, n: u64) -> Entry {
    #[allow(clippy::cast_precision_loss)]
    let amount =
        Amount { requests: n, prompt: 10 * n, completion: 2 * n, cached: n, micro_usd: 0.5 * n as f64 };
    Entry { client: client.into(), model: model.into(), amount }
}

#[tokio::test]
async fn usage_adds_up_by_client_and_model() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    store.spend(&[entry("a", "m", 1), entry("", "other", 4)], WITHIN).await.unwrap();
    store.spend(&[entry("a", "m", 2), entry("a", "n", 5)], WITHIN).await.unwrap();
    let spent = store.spent(0, WITHIN).await.unwrap();
    assert_eq!(spent, [entry("", "other", 4), entry("a", "m", 3), entry("a", "n", 5)]);
    assert_eq!(store.spent(1, WITHIN).await, Ok(vec![]));
    let many: Vec<Entry> = (0..1000).map(|i| entry("many", &format!("m{i}"), 1)).collect();
    store.spend(&many, WITHIN).await.unwrap();
    assert_eq!(store.spent(0, WITHIN).await.unwrap().len(), 1003);
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_sent_them() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    for _ in 0..3 {
        assert!(store.lease("l", 1, MINUTE, WITHIN).await.unwrap());
        server.ask::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
    }
    assert!(store.is_up());
}

#[tokio::test]
async fn a_key_that_is_none_of_ours_is_refused_and_the_store_stays_up() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    server.ask::<()>(&["LPUSH", "t:v1:lease:{l}", "x"]).await.unwrap();
    for _ in 0..20 {
        let refused = store.lease("l", 1, MINUTE, WITHIN).await.unwrap_err().to_string();
        assert!(refused.contains("WRONGTYPE"), "{refused}");
    }
    assert!(store.is_up());
}

#[test]
fn runtimes_of_other_threads_share_the_connection() {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some((server, store)) = control.block_on(async {
        let server = Server::start(&[]).await?;
        let store = server.store().await;
        Some((server, store))
    }) else {
        return;
    };
    let workers = (0..4).map(|i| {
        let store = store.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for _ in 0..100 {
                    store.lease(&format!("l{i}"), 1, MINUTE, WITHIN).await.unwrap();
                }
            });
        })
    });
    let workers: Vec<_> = workers.collect();
    control
        .block_on(until("all are done", async || workers.iter().all(std::thread::JoinHandle::is_finished)));
    for worker in workers {
        worker.join().unwrap();
    }
    drop(server);
}
