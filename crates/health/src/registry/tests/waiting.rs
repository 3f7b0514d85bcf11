use super::*;

#[tokio::test]
async fn requests_that_wait_in_vain_open_the_path_and_are_let_go() {
    let mut node = Node::new().warm();
    let flights = [node.flight(A_DIRECT), node.flight(A_DIRECT)];
    let elsewhere = node.flight(B_DIRECT);
    let (in_vain, alone) = (flights[0].abandoned(), elsewhere.abandoned());
    tokio::pin!(in_vain, alone);
    node.wait(Duration::from_millis(4900));
    assert_eq!(node.told(), []);
    assert!(waits(&mut in_vain).await && waits(&mut alone).await);
    node.wait(Duration::from_secs(2));
    node.told_of_path("a@direct", Reason::Stalled);
    assert!(!waits(&mut in_vain).await);
    assert!(waits(&mut alone).await, "one alone on a path may just be long");
}

async fn waits(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    tokio::select! {
        biased;
        () = future => false,
        () = std::future::ready(()) => true,
    }
}

#[test]
fn waiting_beside_answers_is_not_in_vain() {
    let mut node = Node::new().warm();
    let flights: Vec<Flight> = (0..10).map(|_| node.flight(A_DIRECT)).collect();
    for _ in 0..20 {
        node.send(A_DIRECT, Outcome::Good);
        node.wait(SECOND);
    }
    assert_eq!(node.told(), []);
    drop(flights);
}

#[test]
fn where_another_model_answers_over_the_path_the_waiting_ones_blame_theirs() {
    let mut node = Node::new().warm();
    let other = node.registry.model(Some("mini"));
    let _flights = [node.flight(A_DIRECT), node.flight(A_DIRECT)];
    for _ in 0..7 {
        node.registry.begin(A_DIRECT, other, 1, 0, node.now).first(node.now);
        node.wait(SECOND);
    }
    node.told_of_model("a", Reason::Stalled);
}

#[test]
fn a_flight_that_is_dropped_waits_no_more() {
    let mut node = Node::new().warm();
    let cell = node.registry.known_cell(A_DIRECT, node.model).unwrap();
    assert_eq!(cell.pending(), 0);
    let (dropped, mut failed, mut answered) =
        (node.flight(A_DIRECT), node.flight(A_DIRECT), node.flight(A_DIRECT));
    assert_eq!(cell.pending(), 3);
    drop(dropped);
    assert_eq!(cell.pending(), 2);
    failed.failed(Class::Timeout, Detail::Plain, node.now);
    assert_eq!(cell.pending(), 1);
    answered.first(node.now);
    assert_eq!(cell.pending(), 0);
    drop((failed, answered));
    assert_eq!(cell.pending(), 0);
    node.wait(SECOND * 20);
    assert_eq!(node.told(), []);
}

#[tokio::test]
async fn a_shut_model_does_not_move_other_models() {
    let mut node = Node::new().warm();
    let _long = node.flight(A_DIRECT);
    node.sends(5, A_DIRECT, BROKEN);
    assert!(!node.registry.admits(A_DIRECT, node.model));
    let other = node.registry.model(Some("other model"));
    node.wait(MS * 5200);
    let mut flight = node.registry.begin(A_DIRECT, other, 1, 0, node.now);
    flight.sent(node.now);
    assert!(node.registry.admits(A_DIRECT, other));
    let abandoned = flight.abandoned();
    tokio::pin!(abandoned);
    assert!(waits(&mut abandoned).await);
    node.registry.tick(node.now + MS * 100);
    assert!(waits(&mut abandoned).await, "another model's request is moved");
}
