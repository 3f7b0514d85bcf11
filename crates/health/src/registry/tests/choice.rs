use super::*;

/// One path of each upstream, direct, with these weights.
fn pair(weights: [f64; 2], fallback: bool) -> Node {
    let mut setup = setup();
    setup.paths.retain(|path| path.egress == 0);
    setup.routes[0] = RouteSetup {
        paths: vec![0, 1],
        fallback: if fallback { vec![vec![2]] } else { Vec::new() },
        ..setup.routes[0].clone()
    };
    for (upstream, weight) in setup.upstreams.iter_mut().zip(weights) {
        upstream.weight = weight;
    }
    let mut node = Node::of(setup).warm();
    node.choose();
    node
}

#[test]
fn equal_upstreams_share_equally_whatever_their_number_of_paths() {
    let mut node = Node::new().warm();
    node.choose();
    node.wait(SECOND * 5);
    for share in node.shares() {
        assert!((230..=270).contains(&share), "{share}");
    }
    node.sends(3, A_PROXY, UNREACHED);
    let shares = node.shares();
    assert_eq!(shares[A_PROXY], 0);
    assert_eq!(shares.iter().sum::<u32>() / 10, 99);
}

#[test]
fn a_weight_divides_among_equals() {
    let mut node = pair([3.0, 1.0], false);
    node.wait(SECOND * 5);
    let shares = node.shares();
    assert!((720..=780).contains(&shares[0]), "{shares:?}");
}

#[test]
fn a_ramping_path_gets_about_its_step() {
    let mut node = pair([1.0, 1.0], false);
    node.wait(SECOND * 15);
    node.force(0, Some(State::Disabled));
    assert_eq!(node.shares()[0], 0);
    node.force(0, None);
    for (step, expected) in [(0.05, 15..=35), (0.1, 35..=65), (0.25, 105..=145)] {
        node.registry.tick(node.now);
        assert!((node.registry.share_of(0, node.model) - step).abs() < 0.001);
        let shares = node.shares();
        assert!(expected.contains(&shares[0]), "half of {step}: {shares:?}");
        for _ in 0..10 {
            node.send(0, Outcome::Good);
            node.send(1, Outcome::Good);
        }
        node.wait(SECOND * 10);
    }
}

#[test]
fn what_cannot_be_moved_goes_over_no_ramping_path_while_another_is_closed() {
    let mut node = pair([1.0, 1.0], false);
    node.force(0, Some(State::Disabled));
    node.force(0, None);
    node.wait(MS * 100);
    assert!(node.registry.is_ramping(0, node.model) && !node.registry.is_ramping(1, node.model));
    for _ in 0..2000 {
        let ask = Ask { movable: false, ..node.ask() };
        assert_eq!(node.registry.choose(0, &ask, node.now), Chosen::Path(1));
    }
    node.force(1, Some(State::Disabled));
    let ask = Ask { movable: false, ..node.ask() };
    assert_eq!(node.registry.choose(0, &ask, node.now), Chosen::Path(0), "alone it takes all");
}

#[test]
fn the_fallback_takes_what_ramping_paths_should_not() {
    let mut node = pair([1.0, 1.0], true);
    let chosen = |node: &mut Node, fallback| {
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            let ask = Ask { fallback, ..node.ask() };
            match node.registry.choose(0, &ask, node.now) {
                Chosen::Path(_) => counts[0] += 1,
                Chosen::Fallback => counts[1] += 1,
                Chosen::Nothing => counts[2] += 1,
            }
        }
        counts
    };
    assert_eq!(chosen(&mut node, true), [10_000, 0, 0]);
    for path in [0, 1] {
        node.force(path, Some(State::Disabled));
    }
    for fallback in [true, false] {
        assert_eq!(chosen(&mut node, fallback), [0, 0, 10_000], "nothing proves itself");
    }
    node.force(0, None);
    node.wait(MS * 200);
    let [paths, fallback, nothing] = chosen(&mut node, true);
    assert!((380..=620).contains(&paths) && nothing == 0, "a twentieth: {paths} {fallback} {nothing}");
    assert_eq!(chosen(&mut node, false), [10_000, 0, 0], "who has no fallback takes what there is");
    let ask = Ask { fallback: true, movable: false, ..node.ask() };
    assert_eq!(node.registry.choose(0, &ask, node.now), Chosen::Fallback);
    node.force(1, Some(State::Closed));
    assert_eq!(chosen(&mut node, true), [10_000, 0, 0]);
}

#[test]
fn only_what_is_ready_is_chosen() {
    let mut node = Node::new().warm();
    for _ in 0..1000 {
        let base = node.ask();
        let ask = Ask {
            model: base.model,
            kind: base.kind,
            random: base.random,
            fallback: false,
            movable: true,
            ready: |i| i == B_PROXY,
        };
        assert_eq!(node.registry.choose(0, &ask, node.now), Chosen::Path(B_PROXY));
    }
    let ask = node.ask();
    assert_eq!(node.registry.choose(7, &ask, node.now), Chosen::Nothing, "no such route");
}

#[test]
fn waiting_requests_turn_others_away() {
    let mut node = pair([1.0, 1.0], false);
    node.wait(SECOND);
    let _waiting: Vec<Flight> = (0..20).map(|_| node.flight(0)).collect();
    let shares = node.shares();
    assert!((220..=280).contains(&shares[0]), "the better of two draws: {shares:?}");
}

#[test]
fn a_slow_path_loses_its_traffic_without_opening() {
    let mut node = pair([1.0, 1.0], false);
    node.wait(SECOND * 15);
    for _ in 0..20 {
        let mut flight = node.flight(0);
        node.send(1, Outcome::Good);
        node.now += SECOND;
        flight.first(node.now);
        node.choose();
        node.wait(SECOND);
    }
    assert!(node.shares()[0] <= 30, "{:?}", node.shares());
    assert_eq!(node.told(), []);
}

#[test]
fn where_all_is_open_a_few_go_where_the_last_failure_is_longest_ago() {
    let mut node = Node::new().warm();
    for path in [B_PROXY, A_DIRECT, B_DIRECT, A_PROXY] {
        node.sends(3, path, UNREACHED);
    }
    assert_eq!((node.admitted(), node.choose()), (vec![], Chosen::Nothing));
    assert!(node.registry.trickle(0..4, node.model, node.now).is_none(), "not what failed just now");
    node.now += MS * 500;
    let trickle = |node: &Node| node.registry.trickle(0..4, node.model, node.now);
    let taken: Vec<Trickle> = std::iter::from_fn(|| trickle(&node)).collect();
    let order: Vec<usize> = taken.iter().map(|trickle| trickle.path).collect();
    let expected = [B_PROXY, B_PROXY, A_DIRECT, A_DIRECT, B_DIRECT, B_DIRECT, A_PROXY, A_PROXY];
    assert_eq!(order, expected, "two at once each");
    drop(taken);
    assert_eq!(trickle(&node).map(|trickle| trickle.path), Some(B_PROXY), "places are given back");
    node.send(B_PROXY, BROKEN);
    node.now += MS * 500;
    assert_eq!(trickle(&node).map(|trickle| trickle.path), Some(A_DIRECT), "any failure sends it to the end");

    node.send(A_DIRECT, Outcome::Good);
    assert_eq!(node.state(A_DIRECT), State::Shadowing);
    let taken: Vec<Trickle> = std::iter::from_fn(|| trickle(&node)).collect();
    assert_eq!(
        taken.iter().filter(|trickle| trickle.path == A_DIRECT).count(),
        4,
        "a pass makes room for more"
    );
    drop(taken);

    for path in [A_DIRECT, B_DIRECT] {
        node.force(path, Some(State::Disabled));
    }
    for path in [A_PROXY, B_PROXY] {
        node.force(path, Some(State::Open));
    }
    assert!(trickle(&node).is_none(), "an operator's word holds");
}

#[test]
fn choosing_allocates_nothing() {
    let mut node = Node::new().warm();
    node.choose();
    let counted = allocation_counter::measure(|| {
        node.choose();
    });
    assert_eq!(counted.count_total, 0);
}
