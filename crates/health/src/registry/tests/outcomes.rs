use super::*;
use crate::registry::probe::Reached;

#[test]
fn a_path_that_cannot_be_reached_opens_and_the_route_goes_on_over_the_others() {
    let mut node = Node::new().warm();
    node.sends(2, A_PROXY, UNREACHED);
    assert_eq!(node.admitted(), [A_DIRECT, A_PROXY, B_DIRECT, B_PROXY]);
    node.send(A_PROXY, UNREACHED);
    node.told_of_path("a@proxy", Reason::Consecutive);
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT, B_PROXY]);
    for _ in 0..1000 {
        assert_ne!(node.choose(), Chosen::Path(A_PROXY), "before any tick");
    }
    assert_eq!(
        node.registry.back_in([A_PROXY].into_iter(), node.model, node.now).map(|d| d <= SECOND * 10),
        Some(true)
    );
}

#[test]
fn server_errors_open_the_model_over_every_egress_and_no_other_model() {
    let mut node = Node::new().warm();
    let other = node.registry.model(Some("mini"));
    node.registry.begin(A_DIRECT, other, 1, 0, node.now).first(node.now);
    for n in 0..5 {
        assert_eq!(node.admitted().len(), 4);
        node.send([A_DIRECT, A_PROXY][n % 2], BROKEN);
    }
    node.told_of_model("a", Reason::Consecutive);
    assert_eq!(node.admitted(), [B_DIRECT, B_PROXY]);
    assert!(node.registry.admits(A_DIRECT, other) && node.registry.admits(A_PROXY, other));
    assert_eq!(node.states(), [State::Closed; 4]);
}

#[test]
fn bad_answers_over_all_egresses_of_one_upstream_blame_no_path() {
    let mut node = Node::new().warm();
    for _ in 0..4 {
        node.send(A_DIRECT, BROKEN);
        node.send(B_DIRECT, Outcome::Good);
        node.send(B_PROXY, Outcome::Good);
        node.wait(MS * 100);
        assert_eq!(node.told(), []);
        node.send(A_PROXY, Outcome::Good);
        node.send(A_PROXY, BROKEN);
        node.wait(MS * 100);
        assert_eq!(node.told(), [], "what answers can be reached");
    }
}

#[test]
fn a_node_that_gets_errors_for_answers_is_not_cut_off() {
    let mut node = Node::new();
    for path in 0..4 {
        node.send(path, BROKEN);
    }
    node.wait(MS * 100);
    assert!(!node.registry.is_cut_off());
    for path in 0..4 {
        node.sends(2, path, UNREACHED);
    }
    node.wait(MS * 100);
    assert!(node.registry.is_cut_off());
    node.send(A_DIRECT, Outcome::Good);
    node.wait(MS * 100);
    assert!(!node.registry.is_cut_off());
}

#[test]
fn silence_blames_the_path_where_another_egress_answers() {
    let mut node = Node::new().warm();
    for _ in 0..5 {
        assert_eq!(node.told(), []);
        let mut flight = node.flight(A_PROXY);
        node.send(A_DIRECT, Outcome::Good);
        flight.failed(Class::Timeout, Detail::Plain, node.now);
    }
    node.told_of_path("a@proxy", Reason::Consecutive);
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT, B_PROXY]);

    let mut node = Node::new().warm();
    node.now += SECOND;
    node.sends(5, A_PROXY, SILENT);
    node.told_of_model("a", Reason::Consecutive);

    let mut node = Node::new().warm();
    let mut silent: Vec<Flight> = (0..5).map(|_| node.flight(A_PROXY)).collect();
    node.send(A_DIRECT, Outcome::Good);
    node.send(A_PROXY, Outcome::Good);
    for flight in &mut silent {
        flight.failed(Class::Timeout, Detail::Plain, node.now);
    }
    node.told_of_model("a", Reason::Consecutive);
}

#[test]
fn pages_certificates_and_logins_blame_the_path() {
    let mut node = Node::new().warm();
    node.sends(2, A_PROXY, Outcome::Bad(Class::BadResponse, Detail::Page));
    node.told_of_path("a@proxy", Reason::Page);
    node.send(A_DIRECT, Outcome::Bad(Class::Tls, Detail::Certificate));
    node.told_of_path("a@direct", Reason::Certificate);
    node.send(B_PROXY, Outcome::Bad(Class::Proxy, Detail::ProxyLogin));
    node.told_of_path("b@proxy", Reason::ProxyLogin);
}

#[test]
fn what_speaks_of_a_key_or_of_our_own_bounds_never_counts() {
    let mut node = Node::new();
    for class in [Class::RateLimited, Class::Quota, Class::Auth, Class::ModelNotFound, Class::Busy] {
        for path in 0..4 {
            node.sends(30, path, Outcome::Bad(class, Detail::Plain));
        }
        node.wait(SECOND);
    }
    for path in 0..4 {
        for _ in 0..30 {
            drop(node.flight(path));
        }
    }
    node.wait(SECOND * 30);
    assert_eq!(node.told(), []);
    assert!(!node.registry.is_cut_off());
}

#[test]
fn cut_streams_open_the_model() {
    let node = Node::new();
    for n in 0..10 {
        assert_eq!(node.told(), []);
        let mut flight = node.flight(A_DIRECT);
        flight.first(node.now);
        flight.end(n >= 7, node.now);
    }
    node.told_of_model("a", Reason::Cuts);
}

#[test]
fn slow_first_contents_open_unless_no_other_upstream_could_take_them() {
    let slow = |node: &mut Node, n| {
        let flights: Vec<Flight> = (0..n).map(|_| node.flight(A_DIRECT)).collect();
        node.now += SECOND * 16;
        for mut flight in flights {
            flight.first(node.now);
        }
    };
    let mut node = Node::new();
    for path in [B_DIRECT, B_PROXY] {
        node.force(path, Some(State::Disabled));
    }
    node.told();
    slow(&mut node, 20);
    assert_eq!(node.told(), []);
    node.force(B_DIRECT, Some(State::Closed));
    node.told();
    slow(&mut node, 1);
    node.told_of_model("a", Reason::Slow);

    let plain = |node: &mut Node, n, seconds| {
        let begin = |_| node.registry.begin(A_DIRECT, node.model, 0, 0, node.now);
        let flights: Vec<Flight> = (0..n).map(begin).collect();
        node.now += SECOND * seconds;
        for mut flight in flights {
            flight.first(node.now);
        }
    };
    let mut node = Node::new();
    plain(&mut node, 20, 30);
    plain(&mut node, 20, 30);
    assert_eq!(node.told(), [], "30 s are usual for these plain answers");
    node.wait(SECOND * 60);
    plain(&mut node, 20, 90);
    node.told_of_model("a", Reason::Slow);
}

#[test]
fn two_upstreams_lost_over_one_egress_open_the_egress() {
    let mut node = Node::new().warm();
    node.sends(2, A_PROXY, UNREACHED);
    node.wait(MS * 100);
    assert_eq!(node.told(), [], "one may be blocked behind it");
    node.send(B_PROXY, UNREACHED);
    node.send(A_DIRECT, Outcome::Good);
    node.wait(MS * 100);
    assert_eq!(node.told(), [], "once may be chance");
    node.send(B_PROXY, UNREACHED);
    node.send(A_DIRECT, Outcome::Good);
    node.wait(MS * 100);
    let told = node.told();
    assert_eq!(told.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a@proxy", "b@proxy"]);
    assert!(told.iter().all(|(.., reason)| *reason == Reason::Egress));
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT]);
}

#[test]
fn two_egresses_lost_to_one_upstream_open_the_upstream() {
    let mut node = Node::new().warm();
    node.sends(2, A_PROXY, UNREACHED);
    node.sends(2, A_DIRECT, UNREACHED);
    node.send(B_PROXY, Outcome::Good);
    node.send(B_DIRECT, Outcome::Good);
    node.wait(MS * 100);
    let told = node.told();
    assert_eq!(told.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["a@direct", "a@proxy"]);
    assert!(told.iter().all(|(.., reason)| *reason == Reason::Upstream));
    assert_eq!(node.admitted(), [B_DIRECT, B_PROXY]);
}

#[test]
fn an_egress_opens_after_three_failed_handshakes_or_one_refused_login_and_direct_never() {
    let node = Node::new();
    let no = Reached::No("timeout".into());
    for _ in 0..5 {
        node.registry.reached(0, &no, node.now);
    }
    assert_eq!(node.told(), []);
    assert!(node.registry.egress_fails(0));

    for result in [&no, &no, &Reached::Yes(MS), &no, &no] {
        node.registry.reached(1, result, node.now);
    }
    assert_eq!(node.told(), []);
    assert_eq!(node.registry.egress_status()[1].up, Some(true));
    node.registry.reached(1, &no, node.now);
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT]);
    assert!(node.told().iter().all(|(.., reason)| *reason == Reason::Egress));
    let status = &node.registry.egress_status()[1];
    assert_eq!((status.name.as_str(), status.up, status.detail.as_str()), ("proxy", Some(false), "timeout"));
    node.registry.reached(1, &Reached::Yes(MS), node.now);
    assert!(!node.registry.egress_fails(1));
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT], "a handshake alone brings no traffic back");

    let node = Node::new();
    node.registry.reached(1, &Reached::Refused("407".into()), node.now);
    assert!(node.told().iter().all(|(.., reason)| *reason == Reason::ProxyLogin));
    assert_eq!(node.admitted(), [A_DIRECT, B_DIRECT]);
}

#[test]
fn three_failed_probes_open_the_path_and_say_by_what() {
    let node = Node::new();
    for _ in 0..3 {
        assert_eq!(node.state(B_PROXY), State::Closed);
        node.registry.probed(B_PROXY, Err("503".into()), node.now);
    }
    let log = node.log.lock().unwrap();
    let (name, model, change) = &log[0];
    assert_eq!((name.as_str(), model, change.reason), ("b@proxy", &None, Reason::Probe));
    assert_eq!(change.evidence, "3 probes in a row failed; the last: 503");
}

#[test]
fn status_shows_the_worst_of_a_path_and_its_models() {
    let mut node = Node::new().warm();
    let status = |node: &Node, path| node.registry.path_status(path, node.now).unwrap();
    let well = status(&node, A_DIRECT);
    assert_eq!((well.state, well.share, well.failures, well.reason), (State::Closed, 1.0, 0, None));
    assert_eq!((well.own_state, well.own_share), (State::Closed, 1.0));
    assert_eq!(well.first.map(|first| first.as_millis()), Some(50));
    node.sends(5, A_DIRECT, BROKEN);
    for path in [A_DIRECT, A_PROXY] {
        let ill = status(&node, path);
        assert_eq!((ill.state, ill.share, ill.reason), (State::Open, 0.0, Some(Reason::Consecutive)));
        assert_eq!((ill.own_state, ill.own_share), (State::Closed, 1.0), "its other models flow");
        assert_eq!(ill.failures, 5);
        assert!(ill.open_for.is_some_and(|rest| rest <= SECOND * 10));
        let [model] = &ill.models[..] else { panic!("{:?}", ill.models) };
        assert_eq!((&*model.model, model.state, model.share), ("gpt", State::Open, 0.0));
    }
    assert_eq!(status(&node, B_DIRECT).state, State::Closed);
    node.force(A_DIRECT, Some(State::Disabled));
    let out = status(&node, A_DIRECT);
    assert_eq!((out.state, out.own_state, out.own_share), (State::Disabled, State::Disabled, 0.0));
    node.force(A_DIRECT, Some(State::Closed));
    assert_eq!(status(&node, A_DIRECT).state, State::Closed, "an operator closes the path and its models");
    assert!(node.registry.path_status(9, node.now).is_none());
}

#[test]
fn a_node_without_traffic_whose_other_paths_answer_probes_is_not_cut_off() {
    let mut setup = setup();
    setup.paths.iter_mut().for_each(|path| path.probed = true);
    let mut node = Node::of(setup).warm();
    node.registry.probed(B_DIRECT, Ok(MS), node.now);
    node.wait(SECOND * 15);
    for _ in 0..3 {
        node.registry.probed(A_DIRECT, Err("refused".into()), node.now);
        node.wait(SECOND);
    }
    assert!(!node.registry.is_cut_off());
    node.registry.probed(B_DIRECT, Err("timeout".into()), node.now);
    node.wait(SECOND);
    assert!(node.registry.is_cut_off());
}
