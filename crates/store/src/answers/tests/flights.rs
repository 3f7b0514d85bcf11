use super::*;
use futures_util::FutureExt;
use futures_util::future::join_all;

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_have_one_lead_and_all_get_its_answer() {
    let node = Node::single();
    let found = join_all((0..1000).map(|_| node.finds())).await;
    let (leads, mut follows): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| matches!(found, Found::Lead(_)));
    let [found] = leads.try_into().unwrap();
    let lead = lead(found);
    lead.head(head());
    lead.piece("one".into()).await;
    lead.complete(true);
    for found in follows.drain(..) {
        let mut follower = follow(found);
        begins(&mut follower).await;
        assert_eq!(read_out(&mut follower).await, (vec!["one".into()], true));
    }
    assert_eq!(node.flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_late_follower_gets_all_from_the_first_piece_on() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut own = lead.follower();
    lead.head(head());
    lead.piece("one".into()).await;
    begins(&mut own).await;
    assert_eq!(own.piece().await, Some(Ok("one".into())));
    let mut late = node.follows().await;
    assert!(own.piece().now_or_never().is_none());
    lead.piece("two".into()).await;
    lead.complete(false);
    begins(&mut late).await;
    assert_eq!(read_out(&mut late).await, (vec!["one".into(), "two".into()], true));
    assert_eq!(read_out(&mut own).await, (vec!["two".into()], true));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_head_can_be_given_up_and_taken_up_again() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut follower = node.follows().await;
    assert!(tokio::time::timeout(MS, follower.head()).await.is_err());
    lead.head(head());
    begins(&mut follower).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_head_hands_over_once_and_the_next_is_everybodys() {
    let node = Node::single();
    let first = node.leads().await;
    let mut followers: Vec<_> = join_all((0..5).map(|_| node.follows())).await;
    drop(first);
    let heads = join_all(followers.iter_mut().map(|follower| {
        let head = follower.head();
        async { tokio::time::timeout(SECOND, head).await }
    }))
    .await;
    let mut leads: Vec<_> = heads.into_iter().flatten().collect();
    assert_eq!(leads.len(), 1, "{leads:?}");
    let Some(Joined::Lead(second)) = leads.pop() else { panic!("{leads:?}") };
    let joined_since = node.follows().await;
    second.fail_with("why".into());
    for follower in followers.iter_mut().chain([joined_since].iter_mut()) {
        let joined = follower.head().await;
        assert!(matches!(&joined, Joined::Failed(about) if about == "why"), "{joined:?}");
    }
    node.leads().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_own_run_failed_hears_why_and_another_goes_on() {
    let node = Node::single();
    let first = node.leads().await;
    let mut own = first.follower();
    let mut follower = node.follows().await;
    first.fail_with("why".into());
    for _ in 0..2 {
        let joined = own.head().await;
        assert!(matches!(&joined, Joined::Failed(about) if about == "why"), "{joined:?}");
    }
    let second = taken_over(&mut follower).await;
    second.head(head());
    begins(&mut follower).await;
    assert!(matches!(own.head().await, Joined::Failed(_)));
    assert_eq!(own.piece().await, Some(Err(Broken::default())));
    drop(follower);
    assert!(!second.wanted());
}

#[tokio::test(start_paused = true)]
async fn a_client_alone_whose_run_fails_is_not_asked_to_run_again() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut own = lead.follower();
    lead.fail_with("why".into());
    let joined = own.head().await;
    assert!(matches!(&joined, Joined::Failed(about) if about == "why"), "{joined:?}");
    assert_eq!(node.flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_took_over_is_served_by_his_own_run() {
    let node = Node::single();
    let first = node.leads().await;
    let mut follower = node.follows().await;
    first.fail_with("why".into());
    let second = taken_over(&mut follower).await;
    second.head(head());
    second.piece("one".into()).await;
    second.complete(true);
    begins(&mut follower).await;
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], true));
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_nobody_takes_ends_the_flight() {
    let node = Node::single();
    let first = node.leads().await;
    let (one, mut other) = (node.follows().await, node.follows().await);
    drop(first);
    drop(one);
    let second = taken_over(&mut other).await;
    drop((second, other));
    assert_eq!(node.flights.count(), 0);

    let first = node.leads().await;
    let follower = node.follows().await;
    drop(first);
    assert_eq!(node.flights.count(), 1);
    drop(follower);
    assert_eq!(node.flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_head_is_a_broken_end() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut follower = lead.follower();
    lead.head(head());
    lead.piece("one".into()).await;
    drop(lead);
    begins(&mut follower).await;
    assert_eq!(read_out(&mut follower).await, (vec!["one".into()], false));
    node.leads().await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_an_answer_that_breaks_hears_why() {
    let node = Node::single();
    let lead = node.leads().await;
    let (mut own, mut other) = (lead.follower(), node.follows().await);
    lead.head(head());
    lead.piece("one".into()).await;
    lead.break_with("why".into());
    for follower in [&mut own, &mut other] {
        begins(follower).await;
        assert_eq!(follower.piece().await, Some(Ok("one".into())));
        assert_eq!(follower.piece().await, Some(Err(Broken { about: "why".into() })));
    }
    node.leads().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_broken_before_its_head_is_everybodys_failure() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut followers = [lead.follower(), node.follows().await];
    lead.break_with("why".into());
    for follower in &mut followers {
        let joined = follower.head().await;
        assert!(matches!(&joined, Joined::Failed(about) if about == "why"), "{joined:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_what_cannot_be_shared_go_their_own_way() {
    let store = store();
    let (one, other) = (Node::new(&store), Node::new(&store));
    let lead = one.leads().await;
    let (mut here, mut there) = (one.follows().await, other.follows().await);
    lead.alone();
    for follower in [&mut here, &mut there] {
        let joined = follower.head().await;
        assert!(matches!(joined, Joined::Alone), "{joined:?}");
    }
    let found = Node::new(&store).finds().await;
    assert!(matches!(found, Found::Alone), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lead_waits_for_a_slow_follower_and_goes_on_when_it_has_caught_up() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut follower = lead.follower();
    lead.head(head());
    lead.piece(vec![0; MIB].into()).await;
    let mut waits = Box::pin(lead.piece("one".into()));
    assert!(tokio::time::timeout(state::STUCK / 2, &mut waits).await.is_err());
    assert_eq!(follower.piece().await.unwrap().unwrap().len(), MIB);
    assert!(waits.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_takes_nothing_is_cut_off_and_the_others_get_it_all() {
    let node = Node::single();
    let lead = node.leads().await;
    let (mut stuck, mut reads) = (lead.follower(), lead.follower());
    let reader = tokio::spawn(async move { read_out(&mut reads).await });
    lead.head(head());
    let began = tokio::time::Instant::now();
    for _ in 0..5 {
        lead.piece(vec![0; MIB].into()).await;
    }
    assert!(began.elapsed() >= state::HOLD_UP_MAX && began.elapsed() < state::HOLD_UP_MAX + SECOND);
    lead.complete(true);
    let (pieces, whole) = reader.await.unwrap();
    assert!(whole && pieces.len() == 5);
    assert_eq!(stuck.piece().await, Some(Err(Broken::default())));
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_holds_the_others_up_for_two_seconds_in_all_however_it_moves() {
    let node = Node::single();
    let lead = node.leads().await;
    let (mut slow, mut reads) = (lead.follower(), lead.follower());
    let slow = tokio::spawn(async move {
        let mut count = 0;
        loop {
            tokio::time::sleep(SECOND - 100 * MS).await;
            match slow.piece().await {
                Some(Ok(_)) => count += 1,
                end => return (count, end),
            }
        }
    });
    let reader = tokio::spawn(async move { read_out(&mut reads).await });
    lead.head(head());
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        lead.piece(vec![0; MIB].into()).await;
    }
    let took = began.elapsed();
    assert!(took >= state::HOLD_UP_MAX && took < state::HOLD_UP_MAX + 100 * MS, "{took:?}");
    lead.complete(true);
    let (pieces, whole) = reader.await.unwrap();
    assert!(whole && pieces.len() == 20);
    assert_eq!(slow.await.unwrap(), (2, Some(Err(Broken::default()))));
}

#[tokio::test(start_paused = true)]
async fn a_slow_follower_is_not_blamed_while_the_upstream_is_slower() {
    let node = Node::single();
    let lead = node.leads().await;
    let (mut slow, mut reads) = (lead.follower(), lead.follower());
    let reader = tokio::spawn(async move { read_out(&mut reads).await });
    lead.head(head());
    for _ in 0..20 {
        lead.piece(vec![0; MIB / 2].into()).await;
        tokio::time::sleep(10 * SECOND).await;
        slow.piece().await.unwrap().unwrap();
    }
    lead.complete(true);
    assert_eq!(slow.piece().await, None);
    assert!(reader.await.unwrap().1);
}

#[tokio::test(start_paused = true)]
async fn where_all_are_behind_they_are_waited_for_and_then_cut_off() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut followers = [lead.follower(), lead.follower()];
    lead.head(head());
    let began = tokio::time::Instant::now();
    for _ in 0..2 {
        lead.piece(vec![0; MIB].into()).await;
    }
    assert_eq!(began.elapsed(), state::STUCK);
    lead.complete(true);
    for follower in &mut followers {
        assert_eq!(follower.piece().await, Some(Err(Broken::default())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_only_follower_is_cut_off_is_no_longer_wanted() {
    let node = Node::single();
    let lead = node.leads().await;
    let stuck = lead.follower();
    lead.head(head());
    let (_, ()) = tokio::join!(lead.piece(vec![0; 2 * MIB].into()), lead.unwanted());
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_moving_follower_is_not_cut_off() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut slow = lead.follower();
    let reader = tokio::spawn(async move {
        let mut count = 0;
        while let Some(Ok(_)) = slow.piece().await {
            count += 1;
            tokio::time::sleep(state::STUCK - SECOND).await;
        }
        count
    });
    lead.head(head());
    for _ in 0..8 {
        lead.piece(vec![0; MIB].into()).await;
    }
    lead.complete(true);
    assert_eq!(reader.await.unwrap(), 8);
}

#[tokio::test(start_paused = true)]
async fn nobody_joins_once_the_beginning_is_gone_and_it_is_not_held() {
    let node = Node::single();
    let lead = node.leads().await;
    let mut own = lead.follower();
    lead.head(head());
    for _ in 0..2 {
        lead.piece(vec![0; MIB].into()).await;
        own.piece().await.unwrap().unwrap();
    }
    node.leads().await.fail();
    lead.piece("end".into()).await;
    assert_eq!(own.piece().await, Some(Ok("end".into())));
    lead.complete(true);
    assert_eq!(own.piece().await, None);
    node.leads().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_is_told_and_takes_nobody_in() {
    let node = Node::single();
    let lead = node.leads().await;
    let (own, other) = (lead.follower(), node.follows().await);
    drop(own);
    assert!(lead.wanted());
    assert!(tokio::time::timeout(SECOND, lead.unwanted()).await.is_err());
    let (_, ()) = tokio::join!(lead.unwanted(), async { drop(other) });
    assert!(!lead.wanted());
    assert_eq!(node.flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_find_dropped_while_the_store_is_asked_leaves_nothing_behind() {
    let node = Node::single();
    let lead = Lead::new(Flight::new(&node, node.key, "", RULES));
    drop(lead);
    drop(Box::pin(node.finds()));
    assert_eq!(node.flights.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_pieces_are_to_be_had_of_the_lead_for_as_long_as_they_may_be_kept() {
    let node = Node::single();
    let lead = node.leads_by(&Rules { max_size: 2 * MIB, ..RULES }).await;
    let mut reads = lead.follower();
    let reader = tokio::spawn(async move { read_out(&mut reads).await });
    lead.head(head());
    assert!(lead.keeps() && lead.pieces().is_some_and(|pieces| pieces.is_empty()));
    let mut all = Vec::new();
    for n in 0..2 {
        all.push(Bytes::from(vec![n; MIB]));
        lead.piece(Bytes::from(vec![n; MIB])).await;
        assert!(lead.keeps() && lead.pieces().as_ref() == Some(&all));
    }
    lead.piece("x".into()).await;
    assert!(!lead.keeps());
    lead.piece("y".into()).await;
    assert_eq!(lead.pieces(), None);
    lead.complete(true);
    assert!(reader.await.unwrap().1);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_than_may_be_kept_or_a_slow_follower_is_waited_for() {
    const PIECE: usize = 100_000;
    for max_size in [0, MIB, 3 * MIB] {
        let node = Node::single();
        let lead = node.leads_by(&Rules { max_size, ..RULES }).await;
        let (mut slow, mut reads) = (lead.follower(), lead.follower());
        let reader = tokio::spawn(async move { read_out(&mut reads).await });
        let slow = tokio::spawn(async move {
            while let Some(Ok(_)) = slow.piece().await {
                tokio::time::sleep(10 * MS).await;
            }
        });
        lead.head(head());
        let mut most = 0;
        for _ in 0..100 {
            lead.piece(vec![0; PIECE].into()).await;
            most = most.max(lead.flight().lock().pieces.iter().map(Bytes::len).sum());
        }
        assert!(most > MIB / 2 && most <= max_size.max(MIB) + PIECE, "{most}");
        lead.complete(true);
        assert!(reader.await.unwrap().1);
        slow.await.unwrap();
    }
}
