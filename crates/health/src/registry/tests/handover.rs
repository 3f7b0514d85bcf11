use super::*;

/// `setup()` with `b` before `a`, so that every number is another one; `keep` says what was there before.
fn turned_around(keep: impl Fn(&str) -> bool) -> Setup {
    let mut setup = setup();
    setup.paths.rotate_left(2);
    setup.upstreams.rotate_left(1);
    for (n, path) in setup.paths.iter_mut().enumerate() {
        path.upstream = 1 - path.upstream;
        path.was = keep(&path.name).then_some((n + 2) % 4);
    }
    for (n, upstream) in setup.upstreams.iter_mut().enumerate() {
        upstream.was = keep(&upstream.name).then_some(1 - n);
    }
    for (n, egress) in setup.egress.iter_mut().enumerate() {
        egress.was = Some(n);
    }
    setup
}

fn not_b(name: &str) -> bool {
    !name.starts_with('b')
}

impl Node {
    /// Runs by `setup` from now on; the registry before.
    fn reload(&mut self, setup: Setup) -> Arc<Registry> {
        let next = Arc::new(self.registry.next(setup, self.now));
        self.registry.hand_over(&next, self.now);
        std::mem::replace(&mut self.registry, next)
    }

    fn state_of(&self, name: &str) -> State {
        self.state(self.registry.path_named(name).unwrap())
    }
}

#[test]
fn what_stays_keeps_its_breakers_estimates_and_shares_under_any_number() {
    let mut node = Node::new().warm();
    node.sends(3, A_PROXY, UNREACHED);
    assert_eq!(node.state(A_PROXY), State::Open);
    let before = node.registry.path_status(B_DIRECT, node.now).unwrap();
    let score = node.registry.score(A_DIRECT, node.model, 1);
    node.told();
    node.reload(turned_around(|_| true));
    assert_eq!(node.state_of("a@proxy"), State::Open);
    let after = node.registry.path_status(B_DIRECT - 2, node.now).unwrap();
    assert_eq!((before.first, before.since, before.state), (after.first, after.since, after.state));
    assert_eq!(node.registry.score(A_DIRECT + 2, node.model, 1), score);
    assert_eq!(node.registry.model(Some("gpt")), node.model);
    assert!(node.told().is_empty(), "nothing has happened to anybody");
}

#[test]
fn what_is_new_or_another_begins_on_the_ramp() {
    let mut node = Node::new().warm();
    node.reload(turned_around(not_b));
    for (name, state) in [
        ("a@direct", State::Closed),
        ("a@proxy", State::Closed),
        ("b@direct", State::Ramping),
        ("b@proxy", State::Ramping),
    ] {
        assert_eq!(node.state_of(name), state, "{name}");
    }
    let told = node.told();
    assert!(told.iter().all(|(_, _, reason)| *reason == Reason::New) && told.len() == 2, "{told:?}");
    let said = node.registry.report(node.now).said;
    assert!(said.iter().all(|said| !said.own), "a beginner has proven nothing: {said:?}");
}

#[test]
fn a_request_of_the_configuration_before_counts_for_what_has_stayed() {
    let mut node = Node::new().warm();
    let mut flights: Vec<Flight> = (0..3).map(|_| node.flight(A_DIRECT)).collect();
    let before = node.reload(turned_around(|_| true));
    for flight in &mut flights {
        flight.failed(Class::Connect, Detail::Plain, node.now);
    }
    assert_eq!(node.state_of("a@direct"), State::Open);
    node.told_of_path("a@direct", Reason::Consecutive);
    assert!(before.report(node.now).said.iter().all(|said| !said.own || said.subject.name != "a@direct"));
    let said = node.registry.report(node.now).said;
    assert!(said.iter().any(|said| said.own && said.subject.name == "a@direct"), "peers are told: {said:?}");
}

#[test]
fn a_request_of_the_configuration_before_says_nothing_of_what_has_changed() {
    let mut node = Node::new().warm();
    let mut flights: Vec<Flight> = (0..3).map(|_| node.flight(B_DIRECT)).collect();
    node.reload(turned_around(not_b));
    node.told();
    for flight in &mut flights {
        flight.failed(Class::Connect, Detail::Plain, node.now);
    }
    assert_eq!(node.state_of("b@direct"), State::Ramping);
    let said = node.registry.report(node.now).said;
    assert!(said.iter().all(|said| !said.own), "{said:?}");
}

#[test]
fn other_rules_hold_at_once_for_what_stays() {
    let mut node = Node::new().warm();
    let mut setup = turned_around(|_| true);
    let mut rules = Health::default();
    rules.breaker.consecutive_failures = 1;
    setup.upstreams.iter_mut().for_each(|upstream| upstream.rules = Arc::new(rules.clone()));
    node.reload(setup);
    let path = node.registry.path_named("b@proxy").unwrap();
    node.send(path, UNREACHED);
    assert_eq!(node.state(path), State::Open);
}

#[test]
fn what_an_operator_and_peers_have_said_holds_on() {
    let mut node = Node::new().warm();
    node.force(A_DIRECT, Some(State::Disabled));
    node.sends(3, B_PROXY, UNREACHED);
    let before = node.registry.report(node.now);
    node.reload(turned_around(|_| true));
    assert_eq!(node.state_of("a@direct"), State::Disabled);
    let mut after = node.registry.report(node.now);
    assert_eq!(after.epoch, before.epoch);
    after.said.sort_by(|one, other| one.subject.cmp(&other.subject));
    let mut said = before.said;
    said.sort_by(|one, other| one.subject.cmp(&other.subject));
    assert_eq!(after.said, said);
}

#[test]
fn a_path_that_an_operator_took_out_stays_out_whatever_its_name_stands_for_now() {
    let mut node = Node::new().warm();
    node.force(B_DIRECT, Some(State::Disabled));
    node.force(B_PROXY, Some(State::Open));
    node.reload(turned_around(not_b));
    assert_eq!((node.state_of("b@direct"), node.state_of("b@proxy")), (State::Disabled, State::Open));
    let path = node.registry.path_named("b@direct").unwrap();
    node.force(path, None);
    assert_eq!(node.state(path), State::Ramping);
}

#[test]
fn fifty_configurations_later_a_request_of_the_first_one_is_still_heard_by_the_last() {
    let mut node = Node::new().warm();
    let mut flights: Vec<Flight> = (0..3).map(|_| node.flight(A_DIRECT)).collect();
    for _ in 0..50 {
        let mut same = setup();
        same.paths.iter_mut().enumerate().for_each(|(n, path)| path.was = Some(n));
        same.upstreams.iter_mut().enumerate().for_each(|(n, upstream)| upstream.was = Some(n));
        node.reload(same);
        node.wait(MS * 100);
    }
    assert!(node.told().is_empty());
    for flight in &mut flights {
        flight.failed(Class::Connect, Detail::Plain, node.now);
    }
    node.told_of_path("a@direct", Reason::Consecutive);
    assert!(node.registry.report(node.now).said.iter().any(|said| said.own));
}
