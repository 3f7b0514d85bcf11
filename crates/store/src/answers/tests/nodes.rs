use super::*;
use crate::answers::message::{Message, Say};
use crate::cache::Renewed;
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

const OWNER: u128 = 7;

fn pair() -> (Store, Node, Node) {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    (store, one, other)
}

/// Another node that leads and speaks for itself.
struct Stranger<'a> {
    store: &'a Store,
    node: &'a Node,
}

impl<'a> Stranger<'a> {
    async fn leads(store: &'a Store, node: &'a Node) -> Self {
        store.begin(&node.key.hex(), OWNER, "", LIVES, ALLOWANCE).await.unwrap();
        Self { store, node }
    }

    async fn says(&self, flight: u128, number: u32, say: Say) {
        let message = Message { flight, number, say };
        self.sends(message.encode(&self.node.sealer, &self.node.key).unwrap()).await;
    }

    async fn sends(&self, piece: Bytes) {
        let renewed = self.store.renew(&self.node.key.hex(), OWNER, &[piece], LIVES, ALLOWANCE).await;
        assert!(matches!(renewed, Ok(Renewed { held: true, .. })), "{renewed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_node_makes_is_followed_from_the_first_piece_on_while_it_is_made() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let _own = lead.follower();
    lead.head(head());
    lead.piece("one".into()).await;
    let mut follower = other.follows().await;
    let mut second = other.follows().await;
    begins(&mut follower).await;
    assert_eq!(follower.piece().await, Some(Ok("one".into())));
    let sent = Instant::now();
    lead.piece("two".into()).await;
    assert_eq!(follower.piece().await, Some(Ok("two".into())));
    assert!(sent.elapsed() <= 150 * MS, "{:?}", sent.elapsed());
    lead.complete(true);
    assert_eq!(follower.piece().await, None);
    assert_eq!(read_out(&mut second).await, (vec!["one".into(), "two".into()], true));
    other.stored(true).await;
    assert_eq!(hit(other.finds().await).0, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_that_is_not_kept_arrives_whole_elsewhere() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut own = lead.follower();
    let mut follower = other.follows().await;
    tokio::spawn(async move { read_out(&mut own).await });
    lead.head(head());
    begins(&mut follower).await;
    let reader = tokio::spawn(async move { read_out(&mut follower).await });
    let pieces: Vec<_> = (0..40_u8).map(|n| Bytes::from(vec![n; 100_000])).collect();
    for piece in &pieces {
        lead.piece(piece.clone()).await;
    }
    lead.complete(true);
    let (read, whole) = reader.await.unwrap();
    assert!(whole && read == pieces);
    assert!(one.reads(Read::OnlyIfCached).await.is_missing(), "4 MB are above the rules");
}

#[tokio::test(start_paused = true)]
async fn a_quick_answer_that_is_not_kept_still_reaches_those_known_to_follow() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut follower = other.follows().await;
    assert!(timeout(SECOND, follower.head()).await.is_err());
    lead.head(head());
    lead.piece("one".into()).await;
    lead.complete(false);
    begins(&mut follower).await;
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], true));
}

#[tokio::test(start_paused = true)]
async fn who_may_have_asked_after_the_end_of_an_answer_that_is_not_kept_makes_his_own() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut follower = other.follows().await;
    lead.head(head());
    lead.piece("one".into()).await;
    lead.complete(false);
    taken_over(&mut follower).await;
}

#[tokio::test(start_paused = true)]
async fn a_leading_node_keeps_its_right_for_as_long_as_it_takes() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let _own = lead.follower();
    let mut follower = other.follows().await;
    assert!(timeout(60 * SECOND, follower.head()).await.is_err());
    lead.head(head());
    begins(&mut follower).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_before_the_head_is_replaced_within_three_seconds() {
    let (store, _, other) = pair();
    let _stranger = Stranger::leads(&store, &other).await;
    let (mut follower, mut second) = (other.follows().await, other.follows().await);
    let died = Instant::now();
    let lead = tokio::select! {
        lead = taken_over(&mut follower) => lead,
        lead = taken_over(&mut second) => lead,
    };
    assert!(died.elapsed() >= LIVES && died.elapsed() < 3 * SECOND, "{:?}", died.elapsed());
    lead.head(head());
    lead.piece("one".into()).await;
    let mut third = Node::new(&store).follows().await;
    begins(&mut third).await;
    lead.complete(true);
    for mut follower in [follower, second, third] {
        begins(&mut follower).await;
        assert_eq!(read_out(&mut follower).await, (vec!["one".into()], true));
    }
}

#[tokio::test(start_paused = true)]
async fn one_node_of_several_takes_over_from_a_dead_one() {
    let (store, one, other) = pair();
    let _stranger = Stranger::leads(&store, &one).await;
    let (mut here, mut there) = (one.follows().await, other.follows().await);
    let (lead, mut waits) = tokio::select! {
        lead = taken_over(&mut here) => (lead, there),
        lead = taken_over(&mut there) => (lead, here),
    };
    assert!(timeout(5 * SECOND, waits.head()).await.is_err());
    lead.head(head());
    begins(&mut waits).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_after_the_head_leaves_a_broken_end() {
    let (store, _, other) = pair();
    let stranger = Stranger::leads(&store, &other).await;
    stranger.says(OWNER, 0, Say::Head(head())).await;
    stranger.says(OWNER, 1, Say::Piece("one".into())).await;
    let mut follower = other.follows().await;
    begins(&mut follower).await;
    let died = Instant::now();
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], false));
    assert!(died.elapsed() < 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_broken_end_is_not_given_it_again() {
    let (store, one, other) = pair();
    for node in [&one, &other] {
        let lead = one.leads().await;
        let _own = lead.follower();
        lead.head(head());
        lead.piece("one".into()).await;
        drop(lead);
        // The marker may still be there.
        let again = match node.finds().await {
            Found::Follow(mut follower) => timeout(SECOND, taken_over(&mut follower)).await.unwrap(),
            found => super::lead(found),
        };
        again.fail();
        tokio::time::sleep(LIVES).await;
    }
    let stranger = Stranger::leads(&store, &other).await;
    for (number, say) in [Say::Head(head()), Say::Piece("one".into()), Say::Broken].into_iter().enumerate() {
        stranger.says(OWNER, number as u32, say).await;
    }
    taken_over(&mut other.follows().await).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_elsewhere_gives_the_lead_to_one_here_and_the_next_is_everybodys() {
    let (store, one, other) = pair();
    let third = Node::new(&store);
    let lead = one.leads().await;
    let (mut there, mut far) = (other.follows().await, third.follows().await);
    lead.fail_with("first".into());
    let (second, mut waits) = tokio::select! {
        lead = taken_over(&mut there) => (lead, far),
        lead = taken_over(&mut far) => (lead, there),
    };
    assert!(timeout(SECOND, waits.head()).await.is_err());
    second.fail_with("second".into());
    let joined = waits.head().await;
    assert!(matches!(&joined, Joined::Failed(about) if about == "second"), "{joined:?}");
}

#[tokio::test(start_paused = true)]
async fn who_follows_from_afar_keeps_a_run_wanted() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let own = lead.follower();
    let mut follower = other.follows().await;
    lead.head(head());
    begins(&mut follower).await;
    drop(own);
    assert!(timeout(SECOND, lead.unwanted()).await.is_err());
    lead.complete(false);
    assert_eq!(read_out(&mut follower).await, (vec![], true));
}

#[tokio::test(start_paused = true)]
async fn a_run_is_given_up_soon_after_both_its_client_and_who_followed_from_afar_have_left() {
    for reads in [false, true] {
        let (_, one, other) = pair();
        let lead = one.leads().await;
        let own = lead.follower();
        let mut follower = other.follows().await;
        let mut late = other.follows().await;
        if reads {
            lead.head(head());
            begins(&mut follower).await;
        } else {
            assert!(timeout(10 * SECOND, follower.head()).await.is_err());
        }
        drop(own);
        drop(follower);
        assert!(timeout(10 * SECOND, lead.unwanted()).await.is_err(), "one is left");
        assert!(late.head().now_or_never().is_some() == reads);
        drop(late);
        assert!(timeout(1500 * MS, lead.unwanted()).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn who_follows_from_afar_and_comes_back_keeps_a_run_wanted() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let own = lead.follower();
    let mut follower = other.follows().await;
    lead.head(head());
    lead.piece("one".into()).await;
    begins(&mut follower).await;
    drop(follower);
    tokio::time::sleep(5 * SECOND).await;
    let mut again = other.follows().await;
    begins(&mut again).await;
    tokio::time::sleep(SECOND).await;
    drop(own);
    assert!(timeout(5 * SECOND, lead.unwanted()).await.is_err());
    lead.complete(false);
    assert_eq!(read_out(&mut again).await, (vec!["one".into()], true));
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_from_afar_keeps_a_run_wanted() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let own = lead.follower();
    let mut follower = other.follows().await;
    lead.head(head());
    begins(&mut follower).await;
    drop(own);
    for _ in 0..4 {
        lead.piece(vec![0; 1 << 20].into()).await;
    }
    // The other node holds more than it may, and waits for its client.
    assert!(timeout(20 * SECOND, lead.unwanted()).await.is_err());
    for _ in 0..4 {
        follower.piece().await.unwrap().unwrap();
    }
    lead.complete(false);
    assert_eq!(read_out(&mut follower).await, (vec![], true));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_idle_has_told_those_who_follow_from_afar_how_it_ended() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut follower = other.follows().await;
    lead.head(head());
    begins(&mut follower).await;
    assert!(timeout(SECOND, one.idle()).await.is_err());
    lead.piece("one".into()).await;
    lead.complete(false);
    assert!(one.idle().now_or_never().is_none());
    one.idle().await;
    // What it has not said by now it never says.
    let said = timeout(MS, read_out(&mut follower)).await;
    assert_eq!(said, Ok((vec!["one".into()], true)));
}

#[tokio::test(start_paused = true)]
async fn who_follows_an_answer_that_breaks_from_afar_hears_no_word() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut follower = other.follows().await;
    lead.head(head());
    begins(&mut follower).await;
    lead.break_with("why".into());
    assert_eq!(follower.piece().await, Some(Err(Broken::default())));
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_goes_to_other_nodes_without_holding_up_those_here() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let (mut own, mut follower) = (lead.follower(), other.follows().await);
    lead.head(head());
    begins(&mut follower).await;
    let here = tokio::spawn(async move { read_out(&mut own).await });
    let there = tokio::spawn(async move { read_out(&mut follower).await });
    let began = Instant::now();
    for _ in 0..150 {
        lead.piece(vec![0; 100_000].into()).await;
    }
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
    lead.complete(false);
    assert!(here.await.unwrap().1);
    let (pieces, whole) = there.await.unwrap();
    assert!(whole && pieces.len() == 150);
}

#[tokio::test(start_paused = true)]
async fn who_follows_from_afar_too_late_goes_his_own_way() {
    let (_, one, other) = pair();
    let lead = one.leads().await;
    let mut own = lead.follower();
    lead.head(head());
    for _ in 0..2 {
        lead.piece(vec![0; 1 << 20].into()).await;
        own.piece().await.unwrap().unwrap();
    }
    let mut follower = other.follows().await;
    let joined = follower.head().await;
    assert!(matches!(joined, Joined::Alone), "{joined:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_twice_is_heard_once() {
    let (store, _, other) = pair();
    let stranger = Stranger::leads(&store, &other).await;
    for _ in 0..2 {
        stranger.says(OWNER, 0, Say::Head(head())).await;
        stranger.says(OWNER, 1, Say::Piece("one".into())).await;
    }
    stranger.says(OWNER, 2, Say::Whole).await;
    let mut follower = other.follows().await;
    begins(&mut follower).await;
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], true));
}

#[tokio::test(start_paused = true)]
async fn a_gap_or_another_flight_midway_is_a_broken_end() {
    for (flight, number) in [(OWNER, 2), (OWNER + 1, 1)] {
        let (store, _, other) = pair();
        let stranger = Stranger::leads(&store, &other).await;
        stranger.says(OWNER, 0, Say::Head(head())).await;
        stranger.says(flight, number, Say::Piece("one".into())).await;
        let mut follower = other.follows().await;
        begins(&mut follower).await;
        assert_eq!(read_out(&mut follower).await, (vec![], false));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_sealed_is_not_believed() {
    let (store, _, other) = pair();
    let stranger = Stranger::leads(&store, &other).await;
    let message = Message { flight: OWNER, number: 0, say: Say::Head(head()) };
    let forger = Sealer::new(None);
    stranger.sends(message.encode(&forger, &other.key).unwrap()).await;
    let mut follower = other.follows().await;
    taken_over(&mut follower).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_began_otherwise_is_not_spliced() {
    let (store, one, other) = pair();
    let stranger = Stranger::leads(&store, &other).await;
    stranger.says(OWNER, 0, Say::Head(head())).await;
    stranger.says(OWNER, 1, Say::Piece("one".into())).await;
    let mut follower = other.follows().await;
    begins(&mut follower).await;
    let fresh = lead(one.reads(Read::Fresh).await);
    fresh.head(head());
    fresh.piece("another".into()).await;
    fresh.complete(true);
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], false));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_waits_here_any_more_the_other_node_is_no_longer_asked() {
    let (store, _, other) = pair();
    let _stranger = Stranger::leads(&store, &other).await;
    let follower = other.follows().await;
    drop(follower);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(other.flights.count(), 0);
}
