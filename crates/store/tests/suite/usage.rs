//! What clients used.

use tidegate_store::Store;
use tidegate_store::usage::{Amount, Entry};

use super::*;

fn entry(client: &str, model: &str, requests: u64, micro_usd: f64) -> Entry {
    let amount = Amount { requests, prompt: 10 * requests, completion: 5, cached: 3, micro_usd };
    Entry { client: client.to_owned(), model: model.to_owned(), amount }
}

/// Of `client`, by model.
async fn of(store: &Store, client: &str, days_ago: u32) -> Vec<(String, Amount)> {
    let spent = store.spent(days_ago, WITHIN).await.unwrap();
    let mut spent: Vec<(String, Amount)> = spent
        .into_iter()
        .filter(|entry| entry.client == client)
        .map(|entry| (entry.model, entry.amount))
        .collect();
    spent.sort_by(|a, b| a.0.cmp(&b.0));
    spent
}

pub async fn usage_adds_up_across_nodes(Pair { here, there, .. }: &Pair) {
    clear_of_midnight(here).await;
    let (client, other) = (fresh("client"), fresh("client"));
    let entries = [entry(&client, "large", 2, 0.25), entry(&client, "small:1/a", 1, 4.0)];
    here.spend(&entries, WITHIN).await.unwrap();
    there.spend(&[entry(&client, "large", 3, 1.5), entry(&other, "large", 7, 0.0)], WITHIN).await.unwrap();
    let large = Amount { requests: 5, prompt: 50, completion: 10, cached: 6, micro_usd: 1.75 };
    let small = Amount { requests: 1, prompt: 10, completion: 5, cached: 3, micro_usd: 4.0 };
    for store in [here, there] {
        let mine = of(store, &client, 0).await;
        assert_eq!(mine, [("large".to_owned(), large), ("small:1/a".to_owned(), small)]);
        assert_eq!(of(store, &other, 0).await.len(), 1);
    }
}

pub async fn usage_of_today_is_not_yesterdays(Pair { here, .. }: &Pair) {
    clear_of_midnight(here).await;
    let client = fresh("client");
    here.spend(&[entry(&client, "large", 2, 0.25)], WITHIN).await.unwrap();
    assert_eq!(of(here, &client, 0).await.len(), 1);
    for days_ago in [1, 39, 40, u32::MAX] {
        assert_eq!(of(here, &client, days_ago).await, []);
    }
}
