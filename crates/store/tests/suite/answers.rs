//! Stored answers and the right to make one.

use std::time::Duration;

use bytes::Bytes;
use tidegate_store::Store;
use tidegate_store::cache::{Begun, Followed, Renewed};

use super::*;

/// Some calls fit in, on a busy machine as well; short enough to be waited out.
const BRIEF: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(60);
const ME: u128 = 1;
const OTHER: u128 = u128::MAX;

async fn begin(store: &Store, key: &str, owner: u128, lives: Duration) -> Begun {
    store.begin(key, owner, &format!("note of {owner}"), lives, WITHIN).await.unwrap()
}

async fn renew(store: &Store, key: &str, owner: u128, pieces: &[&'static str]) -> Renewed {
    let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
    store.renew(key, owner, &pieces, LONG, WITHIN).await.unwrap()
}

async fn follow(store: &Store, key: &str, from: usize) -> Followed {
    store.follow(key, from, WITHIN).await.unwrap()
}

async fn put(store: &Store, key: &str, owner: u128, value: &'static str, kept: Duration) {
    store.put(key, owner, &Bytes::from_static(value.as_bytes()), kept, WITHIN).await.unwrap();
}

async fn look_up(store: &Store, key: &str) -> Option<String> {
    let (value, left) = store.look_up(key, WITHIN).await.unwrap()?;
    // Nothing may be left of what ends within the millisecond.
    assert!(left <= LONG);
    Some(String::from_utf8(value.to_vec()).unwrap())
}

pub async fn the_first_to_ask_leads_and_the_others_follow(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    assert_eq!(begin(there, &key, OTHER, LONG).await, Begun::Follow(format!("note of {ME}")));
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    assert_eq!(begin(there, &fresh("answer"), OTHER, LONG).await, Begun::Lead);
}

pub async fn a_stored_answer_is_found_by_all(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    put(here, &key, ME, "first", LONG).await;
    assert_eq!(look_up(there, &key).await.as_deref(), Some("first"));
    let Begun::Found(value, left) = begin(there, &key, OTHER, LONG).await else { panic!("not found") };
    assert!(value == "first" && left <= LONG && left + Duration::from_secs(5) > LONG);
    assert!(matches!(follow(there, &key, 0).await, Followed::Found(value, _) if value == "first"));
    assert!(!renew(here, &key, ME, &[]).await.held);
    put(there, &key, OTHER, "second", LONG).await;
    assert_eq!(look_up(here, &key).await.as_deref(), Some("second"));
}

pub async fn an_answer_is_kept_for_its_time(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    put(here, &key, ME, "brief", BRIEF).await;
    assert_eq!(look_up(there, &key).await.as_deref(), Some("brief"));
    until("the answer to go", || async { look_up(there, &key).await.is_none().then_some(()) }).await;
    assert_eq!(begin(there, &key, OTHER, LONG).await, Begun::Lead);
}

pub async fn an_answer_of_any_bytes_comes_back_as_it_was(Pair { here, there, .. }: &Pair) {
    for value in [Bytes::new(), (0..=255_u8).cycle().take(300_000).collect()] {
        let key = fresh("answer");
        here.put(&key, ME, &value, LONG, WITHIN).await.unwrap();
        assert_eq!(there.look_up(&key, WITHIN).await.unwrap().unwrap().0, value);
    }
}

pub async fn a_right_that_is_not_renewed_goes_to_the_next(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, SHORT).await, Begun::Lead);
    until("the right to be had", || async {
        (begin(there, &key, OTHER, LONG).await == Begun::Lead).then_some(())
    })
    .await;
    assert!(!renew(here, &key, ME, &["late"]).await.held);
    assert!(renew(there, &key, OTHER, &[]).await.held);
    assert_eq!(follow(here, &key, 0).await, Followed::Pieces(Vec::new()));
}

pub async fn a_right_that_is_renewed_is_kept(Pair { here, there, .. }: &Pair) {
    let (key, other) = (fresh("answer"), fresh("answer"));
    assert_eq!(begin(here, &key, ME, BRIEF).await, Begun::Lead);
    assert!(renew(here, &key, ME, &[]).await.held);
    assert_eq!(begin(here, &other, ME, BRIEF).await, Begun::Lead);
    until("the other right to be had", || async {
        (begin(there, &other, OTHER, LONG).await == Begun::Lead).then_some(())
    })
    .await;
    assert!(matches!(begin(there, &key, OTHER, LONG).await, Begun::Follow(_)));
}

pub async fn pieces_come_in_order_from_where_they_are_wanted(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(follow(there, &key, 0).await, Followed::Orphaned);
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    assert_eq!(renew(here, &key, ME, &[]).await, Renewed { held: true, followed: false });
    assert_eq!(follow(there, &key, 0).await, Followed::Pieces(Vec::new()));
    assert_eq!(renew(here, &key, ME, &["a", "b"]).await, Renewed { held: true, followed: true });
    assert_eq!(renew(here, &key, ME, &["c"]).await, Renewed { held: true, followed: false });
    for (from, wanted) in [(0, &["a", "b", "c"][..]), (2, &["c"]), (3, &[])] {
        let wanted = wanted.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
        assert_eq!(follow(there, &key, from).await, Followed::Pieces(wanted));
    }
    // Who has more than there is has them of a maker that is gone.
    assert_eq!(follow(there, &key, 4).await, Followed::Orphaned);
    // Each renewal hears whether another has asked since the last.
    let followed = async || renew(here, &key, ME, &[]).await.followed;
    assert!(followed().await && !followed().await);
    assert_eq!(follow(there, &key, usize::MAX).await, Followed::Orphaned);
    assert!(!renew(there, &key, OTHER, &[]).await.followed, "it is not the other's to hear");
    assert!(followed().await && !followed().await);
    assert!(matches!(begin(there, &key, OTHER, LONG).await, Begun::Follow(_)));
    assert!(followed().await && !followed().await);
    // The right is still there, and the pieces.
    assert!(matches!(follow(there, &key, 2).await, Followed::Pieces(pieces) if pieces == ["c"]));
}

pub async fn a_right_given_back_is_to_be_had(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    assert!(renew(here, &key, ME, &["old"]).await.held);
    here.give_up(&key, ME, false, WITHIN).await.unwrap();
    assert_eq!(follow(there, &key, 0).await, Followed::Orphaned);
    assert_eq!(begin(there, &key, OTHER, LONG).await, Begun::Lead);
    assert_eq!(follow(here, &key, 0).await, Followed::Pieces(Vec::new()), "pieces of the one before");
}

pub async fn an_answer_that_cannot_be_shared_sends_all_their_own_way_for_a_time(
    Pair { here, there, .. }: &Pair,
) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, BRIEF).await, Begun::Lead);
    here.give_up(&key, ME, true, WITHIN).await.unwrap();
    assert_eq!(follow(there, &key, 0).await, Followed::Alone);
    assert_eq!(begin(there, &key, OTHER, LONG).await, Begun::Alone);
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Alone);
    until("that to be over", || async {
        (begin(there, &key, OTHER, LONG).await == Begun::Lead).then_some(())
    })
    .await;
}

pub async fn only_the_holder_gives_a_right_back(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    for uncacheable in [false, true] {
        there.give_up(&key, OTHER, uncacheable, WITHIN).await.unwrap();
    }
    assert!(!renew(there, &key, OTHER, &["alien"]).await.held);
    assert!(renew(here, &key, ME, &[]).await.held);
    assert_eq!(follow(there, &key, 0).await, Followed::Pieces(Vec::new()));
}

pub async fn a_look_takes_no_right(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    assert_eq!(look_up(here, &key).await, None);
    assert_eq!(follow(here, &key, 0).await, Followed::Orphaned);
    assert_eq!(begin(there, &key, OTHER, LONG).await, Begun::Lead);
    assert_eq!(look_up(here, &key).await, None);
}

pub async fn a_forgotten_answer_is_made_anew(Pair { here, there, .. }: &Pair) {
    let key = fresh("answer");
    put(here, &key, ME, "wrong", LONG).await;
    there.forget(&key, WITHIN).await.unwrap();
    assert_eq!(look_up(here, &key).await, None);
    assert_eq!(begin(here, &key, ME, LONG).await, Begun::Lead);
    there.forget(&key, WITHIN).await.unwrap();
    assert!(renew(here, &key, ME, &[]).await.held, "the right to make it is not the answer");
}
