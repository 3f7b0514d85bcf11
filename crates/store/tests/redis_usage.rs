//! The usage of a day in Redis, where a sum would overflow or what is kept is no number.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use support::{Server, WITHIN};
use tidegate_store::Failure;
use tidegate_store::usage::{Amount, Entry};

fn entry(client: &str, completion: u64) -> Entry {
    let amount = Amount { requests: 1, prompt: 10, completion, cached: 0, micro_usd: 0.5 };
    Entry { client: client.into(), model: "m".into(), amount }
}

/// The key of the day that a first call has made.
async fn day(server: &Server) -> String {
    let keys: Vec<String> = server.ask(&["KEYS", "*usage*"]).await.unwrap();
    let [key] = &keys[..] else { panic!("{keys:?}") };
    key.clone()
}

#[tokio::test]
async fn a_sum_that_would_overflow_stops_and_the_rest_adds_up() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    let many = [entry("a", 1), entry("b", u64::MAX), entry("c", 3)];
    for _ in 0..3 {
        store.spend(&many, WITHIN).await.unwrap();
    }
    let amount = |completion| Amount { requests: 3, prompt: 30, completion, cached: 0, micro_usd: 1.5 };
    let spent: Vec<Amount> = store.spent(0, WITHIN).await.unwrap().iter().map(|entry| entry.amount).collect();
    assert_eq!(spent, [amount(3), amount(1 << 53), amount(9)]);
}

#[tokio::test]
async fn usage_is_added_whole_or_not_at_all() {
    let Some(server) = Server::start(&[]).await else { return };
    let store = server.store().await;
    store.spend(&[entry("a", 1), entry("b", 1)], WITHIN).await.unwrap();
    let key = day(&server).await;
    server.ask::<()>(&["HSET", &key, "cb\0m", "none of ours"]).await.unwrap();
    for _ in 0..2 {
        let refused = store.spend(&[entry("a", 1), entry("b", 1)], WITHIN).await.unwrap_err();
        assert!(matches!(&refused, Failure::Refused(text) if text.contains("not a number")), "{refused}");
    }
    assert_eq!(server.ask::<u64>(&["HGET", &key, "ra\0m"]).await.unwrap(), 1);
    server.ask::<()>(&["HSET", &key, "cb\0m", "1"]).await.unwrap();
    store.spend(&[entry("a", 1), entry("b", 1), entry("a", 1)], WITHIN).await.unwrap();
    let spent: Vec<u64> =
        store.spent(0, WITHIN).await.unwrap().iter().map(|entry| entry.amount.requests).collect();
    assert_eq!(spent, [3, 2], "one client may come twice");
}
