//! Leases, nodes and cool-downs.

use std::time::Duration;

use tidegate_store::Store;
use tidegate_store::fleet::{Beat, Cooldown, Fleet};

use super::*;

const SHORT: Duration = Duration::from_millis(60);

async fn lease(store: &Store, name: &str, owner: u128, lives: Duration) -> bool {
    store.lease(name, owner, lives, WITHIN).await.unwrap()
}

async fn beat(store: &Store, node: &str, payload: &str, lives: Duration) -> Fleet {
    let (node, payload) = (node.to_owned(), payload.to_owned());
    store.beat(&Beat { node, payload, lives, epoch: String::new() }, WITHIN).await.unwrap()
}

async fn cool(store: &Store, name: &str, left: Duration) {
    store.cool(&Cooldown { name: name.to_owned(), left }, WITHIN).await.unwrap();
}

/// Word of the nodes of a case among all there are.
fn words(fleet: &Fleet, case: &str) -> Vec<String> {
    assert!(fleet.nodes.is_sorted_by(|a, b| a.node < b.node));
    fleet.nodes.iter().filter(|peer| peer.node.starts_with(case)).map(|peer| peer.payload.clone()).collect()
}

async fn cooling(store: &Store, name: &str) -> Option<Duration> {
    let fleet = beat(store, &fresh("looker"), "{}", SHORT).await;
    fleet.cooldowns.iter().find(|cooldown| cooldown.name == name).map(|cooldown| cooldown.left)
}

pub async fn a_lease_is_one_owners_until_released(Pair { here, there, .. }: &Pair) {
    let name = fresh("lease");
    assert!(lease(here, &name, 1, LONG).await);
    assert!(lease(here, &name, 1, LONG).await);
    assert!(!lease(there, &name, 2, LONG).await);
    there.release(&name, 2, WITHIN).await.unwrap();
    assert!(!lease(there, &name, 2, LONG).await);
    here.release(&name, 1, WITHIN).await.unwrap();
    assert!(lease(there, &name, 2, LONG).await);
    here.release(&name, 1, WITHIN).await.unwrap();
    assert!(!lease(here, &name, 1, LONG).await);
}

pub async fn a_lease_that_is_not_renewed_goes_to_the_next(Pair { here, there, .. }: &Pair) {
    let (renewed, name) = (fresh("lease"), fresh("lease"));
    let lives = Duration::from_millis(150);
    assert!(lease(here, &renewed, 1, lives).await);
    assert!(lease(here, &renewed, 1, LONG).await);
    assert!(lease(here, &name, 1, lives).await);
    until("the lease to be had", || async { lease(there, &name, 2, LONG).await.then_some(()) }).await;
    assert!(!lease(here, &name, 1, LONG).await);
    assert!(!lease(there, &renewed, 2, LONG).await);
}

pub async fn nodes_see_each_other_by_name(Pair { here, there, .. }: &Pair) {
    let case = fresh("node");
    let (a, b) = (format!("{case}-a"), format!("{case}-b"));
    assert_eq!(words(&beat(there, &b, "{\"at\":1}", LONG).await, &case), ["{\"at\":1}"]);
    assert_eq!(words(&beat(here, &a, "{}", LONG).await, &case), ["{}", "{\"at\":1}"]);
    let fleet = beat(there, &b, "{\"at\":2}", LONG).await;
    assert_eq!(words(&fleet, &case), ["{}", "{\"at\":2}"]);
    let ages: Vec<Duration> =
        fleet.nodes.iter().filter(|peer| peer.node.starts_with(&case)).map(|peer| peer.age).collect();
    assert!(ages.iter().all(|age| *age < Duration::from_secs(5)) && ages[1] <= ages[0], "{ages:?}");
}

pub async fn a_node_that_leaves_or_falls_silent_is_gone(Pair { here, there, .. }: &Pair) {
    let case = fresh("node");
    let [me, leaver, silent] = ["me", "leaver", "silent"].map(|who| format!("{case}-{who}"));
    beat(there, &leaver, "leaver", LONG).await;
    assert_eq!(words(&beat(here, &me, "me", LONG).await, &case), ["leaver", "me"]);
    there.leave(&leaver, WITHIN).await.unwrap();
    assert_eq!(words(&beat(here, &me, "me", LONG).await, &case), ["me"]);
    assert_eq!(words(&beat(there, &silent, "silent", Duration::from_millis(150)).await, &case).len(), 2);
    until("the silent one to be gone", || async {
        (words(&beat(here, &me, "me", LONG).await, &case) == ["me"]).then_some(())
    })
    .await;
}

pub async fn all_hear_the_same_epoch(Pair { here, there, .. }: &Pair) {
    let first = beat(here, &fresh("node"), "{}", SHORT).await.epoch;
    assert!(!first.is_empty());
    let node = fresh("node");
    assert_eq!(beat(there, &node, "{}", SHORT).await.epoch, first);
    let again = Beat { node, payload: "{}".to_owned(), lives: SHORT, epoch: first.clone() };
    assert_eq!(there.beat(&again, WITHIN).await.unwrap().epoch, first);
}

pub async fn a_cool_down_is_seen_by_all_and_never_shortened(Pair { here, there, .. }: &Pair) {
    let name = fresh("credential");
    assert_eq!(cooling(here, &name).await, None);
    for (asked, holds) in [(20, 20), (5, 20), (40, 40)] {
        cool(here, &name, Duration::from_secs(asked)).await;
        assert_about(cooling(there, &name).await.unwrap(), holds as f64);
    }
}

pub async fn a_cool_down_ends(Pair { here, there, .. }: &Pair) {
    let name = fresh("credential");
    cool(here, &name, Duration::from_millis(150)).await;
    assert!(cooling(there, &name).await.is_some());
    until("the cool-down to end", || async { cooling(there, &name).await.is_none().then_some(()) }).await;
}

pub async fn a_cool_down_is_hinted_at(Pair { here, there, .. }: &Pair) {
    let listener = there.clone();
    let heard = tokio::spawn(async move { listener.hinted().await });
    let name = fresh("credential");
    until("a hint", || async {
        cool(here, &name, SHORT).await;
        heard.is_finished().then_some(())
    })
    .await;
    heard.await.unwrap();
}
