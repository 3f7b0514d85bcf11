use super::*;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_kept_answer_is_a_hit_with_its_age_until_its_time_is_up() {
    let node = Node::single();
    node.keeps(&RULES, &["one", "two"]).await;
    assert_eq!(hit(node.finds().await), (vec!["one".into(), "two".into()], Duration::ZERO));
    advance(50 * 60 * SECOND).await;
    assert_eq!(hit(node.finds().await).1, 50 * 60 * SECOND);
    advance(17 * 60 * SECOND).await;
    lead(node.finds().await);
}

#[tokio::test(start_paused = true)]
async fn times_to_live_are_spread() {
    let node = Node::single();
    let mut ttls = Vec::new();
    for n in 0..50_u8 {
        let key = node.key(&[&[n]]);
        let lead = lead(node.find(key, &RULES, Read::Normal, "", ALLOWANCE).await);
        lead.head(head());
        lead.complete(true);
        ttls.push(node.memory.get(&key).unwrap().ttl);
    }
    ttls.sort();
    assert!(ttls[0] >= HOUR.mul_f64(0.9) && ttls[49] <= HOUR.mul_f64(1.1));
    assert!(ttls[49] - ttls[0] > HOUR / 20);
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_note_is_kept_for_exactly_its_time() {
    let node = Node::single();
    for n in 0..50_u8 {
        let key = node.key(&[&[n]]);
        let lead = lead(node.find(key, &RULES, Read::Normal, "a note", ALLOWANCE).await);
        lead.head(head());
        lead.complete(true);
        assert_eq!(node.memory.get(&key).unwrap().ttl, HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn another_node_finds_it_in_the_store_with_its_age() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    one.keeps(&RULES, &["one", "two"]).await;
    one.stored(true).await;
    advance(60 * SECOND).await;
    let (pieces, age) = hit(other.finds().await);
    assert_eq!(pieces, ["one", "two"]);
    assert!(age >= 60 * SECOND && age < 61 * SECOND, "{age:?}");
    store.forget(&one.key.hex(), ALLOWANCE).await.unwrap();
    assert_eq!(hit(other.finds().await).1, age, "from memory");
}

#[tokio::test(start_paused = true)]
async fn without_memory_the_store_alone_answers() {
    let node = Node::with(&store(), 0, false, true);
    node.keeps(&RULES, &["one"]).await;
    node.stored(true).await;
    assert_eq!(hit(node.finds().await).0, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_to_be_had_for_as_long_as_the_rules_say_from_memory_and_store() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::with(&store, 0, true, true));
    let rules = Rules { stale: HOUR, ..RULES };
    assert!(one.stale(one.key, "", ALLOWANCE).await.is_none());
    one.keeps(&rules, &["one"]).await;
    one.stored(true).await;
    advance(70 * 60 * SECOND).await;
    for node in [&one, &other] {
        let lead = node.leads_by(&rules).await;
        let (kept, age) = node.stale(node.key, "", ALLOWANCE).await.unwrap();
        assert_eq!(kept.pieces, ["one"]);
        assert!(kept.is_stale() && age >= 70 * 60 * SECOND && age < 71 * 60 * SECOND, "{age:?}");
        assert!(node.stale(node.key, "another", ALLOWANCE).await.is_none());
        lead.fail();
    }
    advance(60 * 60 * SECOND).await;
    for node in [&one, &other] {
        assert!(node.stale(node.key, "", ALLOWANCE).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_replaced_in_memory_and_store() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    let rules = Rules { stale: HOUR, ..RULES };
    one.keeps(&rules, &["old"]).await;
    one.stored(true).await;
    advance(70 * 60 * SECOND).await;
    one.keeps(&rules, &["new"]).await;
    assert_eq!(hit(one.finds().await).0, ["new"]);
    let fresh = async {
        while other.reads(Read::OnlyIfCached).await.is_missing() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SECOND, fresh).await.unwrap();
    assert_eq!(hit(other.finds().await).0, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_not_to_be_stored_is_not_kept() {
    let node = Node::single();
    node.keeps(&Rules { max_size: 5, ..RULES }, &["one", "two"]).await;
    let lead = node.leads().await;
    lead.head(head());
    lead.complete(false);
    node.keeps(&Rules { max_size: 6, ..RULES }, &["one", "two"]).await;
    assert_eq!(hit(node.finds().await).0.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_read_is_a_miss_and_removed() {
    let store = store();
    let node = Node::new(&store);
    let foreign = Answers::with_shared(store.clone(), 0, Some(b"another secret"), SECOND, true);
    let key = foreign.key(&[]);
    let kept = Kept::new(head(), &[Bytes::from("x")], "", HOUR, HOUR);
    let entry = entry::encode(&foreign.sealer, &key, &kept).unwrap();
    for value in [Bytes::from("garbage"), Bytes::new(), entry] {
        store.put(&node.key.hex(), 1, &value, HOUR, ALLOWANCE).await.unwrap();
        lead(node.finds().await).fail();
        node.stored(false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_it_fresh_does_not_read_but_keeps() {
    let node = Node::single();
    node.keeps(&RULES, &["old"]).await;
    let (one, other) = (lead(node.reads(Read::Fresh).await), lead(node.reads(Read::Fresh).await));
    one.head(head());
    one.piece("new".into()).await;
    one.complete(true);
    other.fail();
    assert_eq!(hit(node.finds().await).0, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn a_maximum_age_is_heeded() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    one.keeps(&RULES, &["old"]).await;
    one.stored(true).await;
    advance(60 * SECOND).await;
    for node in [&one, &other] {
        hit(node.reads(Read::MaxAge(61 * SECOND)).await);
        lead(node.reads(Read::MaxAge(59 * SECOND)).await).fail();
    }
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_neither_leads_nor_follows() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    let lead = one.leads().await;
    for node in [&one, &other] {
        assert!(node.reads(Read::OnlyIfCached).await.is_missing());
    }
    lead.head(head());
    lead.complete(true);
    one.stored(true).await;
    for node in [&one, &other] {
        hit(node.reads(Read::OnlyIfCached).await);
    }
}

#[tokio::test(start_paused = true)]
async fn another_note_under_the_same_key_is_a_conflict_wherever_it_is() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    let asks = async |node: &Node, read| {
        let found = node.find(node.key, &RULES, read, "another", ALLOWANCE).await;
        assert!(matches!(found, Found::Conflict), "{found:?}");
    };
    let lead = one.leads().await;
    asks(&one, Read::Normal).await;
    asks(&other, Read::Normal).await;
    lead.head(head());
    lead.complete(true);
    asks(&one, Read::Normal).await;
    one.stored(true).await;
    asks(&other, Read::OnlyIfCached).await;
    asks(&Node::new(&store), Read::Normal).await;
    hit(other.finds().await);
    assert_eq!((one.flights.count(), other.flights.count()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn writes_beyond_the_queue_are_dropped_and_nobody_waits() {
    let store = store();
    let node = Node::with(&store, 1 << 20, false, false);
    let mut keys = Vec::new();
    for n in 0..=WRITES_MAX {
        let key = node.key(&[&n.to_le_bytes()]);
        let lead = lead(node.find(key, &RULES, Read::Normal, "", ALLOWANCE).await);
        lead.head(head());
        lead.complete(true);
        hit(node.find(key, &RULES, Read::Normal, "", ALLOWANCE).await);
        keys.push(key);
    }
    tokio::spawn(Arc::clone(&node).run());
    let there = async |key: &Key| store.look_up(&key.hex(), ALLOWANCE).await.unwrap().is_some();
    while !there(&keys[WRITES_MAX - 1]).await {
        tokio::task::yield_now().await;
    }
    while node.writes.capacity() < WRITES_MAX {
        tokio::task::yield_now().await;
    }
    assert!(there(&keys[0]).await && !there(&keys[WRITES_MAX]).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_idle_when_nothing_is_made_and_all_is_written() {
    let store = store();
    let node = Node::with(&store, 1 << 20, false, false);
    let idle = async || tokio::time::timeout(SECOND, node.idle()).await.is_ok();
    assert!(idle().await);
    let first = node.leads().await;
    let mut follower = node.follows().await;
    assert!(!idle().await);
    first.fail();
    assert!(!idle().await, "one who waits may take over");
    let second = taken_over(&mut follower).await;
    second.head(head());
    second.complete(true);
    assert!(!idle().await, "it is not written yet");
    tokio::spawn(Arc::clone(&node).run());
    assert!(idle().await);
    assert!(store.look_up(&node.key.hex(), ALLOWANCE).await.unwrap().is_some());
    let fresh = lead(node.reads(Read::Fresh).await);
    assert!(!idle().await);
    let (_, ()) = tokio::join!(node.idle(), async { fresh.fail() });
    drop(follower);
}

#[tokio::test(start_paused = true)]
async fn memory_stays_within_its_bytes() {
    let node = Node::with(&store(), 20_000, false, true);
    for n in 0..200_u8 {
        let key = node.key(&[&[n]]);
        let lead = lead(node.find(key, &RULES, Read::Normal, "", ALLOWANCE).await);
        lead.head(head());
        lead.piece(vec![n; 1000].into()).await;
        lead.complete(true);
    }
    let weight = node.memory.weight();
    assert!(weight > 10_000 && weight <= 20_000, "{weight}");
}
