use super::*;

#[test]
fn copies_go_to_recovering_paths_alone_and_within_bounds() {
    let mut node = Node::new().warm();
    let shadow = |node: &Node| node.registry.shadow(0, node.model, node.now);
    assert!(!node.registry.wants_shadows());
    assert!(shadow(&node).is_none());
    node.sends(3, A_PROXY, UNREACHED);
    node.wait(MS * 100);
    assert!(!node.registry.wants_shadows() && shadow(&node).is_none(), "not while it rests");

    let mut node = Node::new().warm().shadowing(A_PROXY);
    assert!(node.registry.wants_shadows());
    let first = shadow(&node).unwrap();
    assert_eq!((first.path, first.model), (A_PROXY, node.model));
    assert!(shadow(&node).is_none(), "one every two seconds");
    node.wait(SECOND * 2);
    let second = shadow(&node).unwrap();
    node.wait(SECOND * 2);
    assert!(shadow(&node).is_none(), "two at once");
    drop(first);
    assert!(shadow(&node).is_some(), "a dropped one gives its place back");
    drop(second);
    assert!(node.registry.shadow(7, node.model, node.now).is_none(), "no such route");
}

#[test]
fn no_more_copies_than_the_budget_of_a_recovery() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    let mut copies = 0;
    for _ in 0..40 {
        if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
            copies += 1;
            shadow.judge(&Verdict::Unclear, node.now);
        }
        node.wait(SECOND * 2);
    }
    assert_eq!(copies, 20);
}

#[test]
fn five_copies_that_pass_bring_the_path_back_to_its_first_step() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    // Else another way of the same upstream would speak for it.
    node.force(A_DIRECT, Some(State::Disabled));
    node.told();
    for _ in 0..5 {
        assert_eq!(node.admitted(), [B_DIRECT, B_PROXY]);
        node.registry.shadow(0, node.model, node.now).unwrap().judge(&Verdict::Pass, node.now);
        node.wait(SECOND * 2);
    }
    node.wait(MS * 100);
    node.told_of_path("a@proxy", Reason::Proven);
    assert_eq!(node.admitted(), [A_PROXY, B_DIRECT, B_PROXY]);
    assert!((node.registry.share_of(A_PROXY, node.model) - 0.05).abs() < 0.001);
}

#[test]
fn a_copy_that_fails_opens_what_it_was_to_prove_and_nothing_else() {
    let node = Node::new().warm().shadowing(A_PROXY);
    node.registry.shadow(0, node.model, node.now).unwrap().judge(&Verdict::Fail("500".into()), node.now);
    node.told_of_path("a@proxy", Reason::ShadowFailed);

    let mut node = Node::new().warm();
    node.sends(5, A_DIRECT, BROKEN);
    node.wait(SECOND * 10);
    node.told();
    let shadow = node.registry.shadow(0, node.model, node.now).unwrap();
    shadow.judge(&Verdict::Fail("500".into()), node.now);
    node.told_of_model("a", Reason::ShadowFailed);
}

#[test]
fn of_a_model_that_recovers_copies_go_where_its_paths_take_traffic() {
    let mut node = Node::new().warm();
    let other = node.registry.model(Some("mini"));
    node.sends(5, A_DIRECT, BROKEN);
    node.force(A_DIRECT, Some(State::Disabled));
    node.wait(SECOND * 10);
    assert!(node.registry.shadow(0, other, node.now).is_none(), "another model needs none");
    let shadow = node.registry.shadow(0, node.model, node.now).unwrap();
    assert_eq!(shadow.path, A_PROXY);
    shadow.judge(&Verdict::Pass, node.now);
    let service = node.registry.service_of(A_PROXY, node.model).unwrap();
    assert_eq!(service.gate.with(node.now, |breaker| breaker.passes()), 1);
}

#[test]
fn no_copy_goes_where_the_path_or_the_model_is_open() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    node.sends(5, A_DIRECT, BROKEN);
    node.told_of_model("a", Reason::Consecutive);
    assert!(node.registry.shadow(0, node.model, node.now).is_none(), "it could only fail by the model");
    node.force(A_DIRECT, Some(State::Disabled));
    node.wait(SECOND * 10);
    let shadow = node.registry.shadow(0, node.model, node.now).unwrap();
    assert_eq!(shadow.path, A_PROXY, "both prove themselves by it");
    node.told();
    shadow.judge(&Verdict::Fail("500".into()), node.now);
    assert_eq!(node.told().len(), 2);
}

#[test]
fn a_sample_of_none_copies_none() {
    let mut setup = setup();
    let mut rules = Health::default();
    rules.recovery.shadow_sample = 0.0;
    setup.upstreams[0].rules = Arc::new(rules);
    let mut node = Node::of(setup).warm().shadowing(A_PROXY);
    for _ in 0..100 {
        assert!(node.registry.shadow(0, node.model, node.now).is_none());
        node.wait(MS * 100);
    }
}

#[test]
fn a_copy_is_in_time_within_twice_the_usual_and_always_below_the_floor() {
    let mut node = Node::new().shadowing(A_PROXY);
    let in_time = |node: &mut Node| {
        let shadow = node.registry.shadow(0, node.model, node.now).unwrap();
        node.wait(SECOND * 2);
        shadow.in_time(1, 0, node.now)
    };
    assert_eq!(in_time(&mut node), SECOND * 15, "nothing is known of it");

    let mut node = Node::new().warm().shadowing(A_PROXY);
    assert_eq!(in_time(&mut node), MS * 500, "usual are 50 ms");

    let mut node = Node::new();
    for _ in 0..20 {
        let mut flight = node.flight(A_DIRECT);
        node.now += SECOND * 4;
        flight.first(node.now);
    }
    let mut node = node.shadowing(A_PROXY);
    let bound = in_time(&mut node).as_secs_f64();
    assert!((8.0..=10.0).contains(&bound), "{bound}");
}

#[test]
fn made_up_requests_stand_in_where_live_ones_are_lacking() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    let made_up = |node: &Node| {
        let due = node.registry.made_up(node.now);
        due.into_iter().map(|due| match due {
            MadeUp::Recovery(shadow) => shadow,
            MadeUp::Canary { .. } => panic!("none of these models is ours"),
        })
    };
    node.registry.mirrored(A_PROXY, node.model, node.now);
    node.wait(Duration::from_millis(9900));
    assert_eq!(made_up(&node).count(), 0);
    node.wait(MS * 100);
    let due: Vec<Shadow> = made_up(&node).collect();
    assert_eq!(
        due.iter().map(|shadow| (shadow.path, shadow.model)).collect::<Vec<_>>(),
        [(A_PROXY, node.model)]
    );
    drop(due);
    node.wait(SECOND * 9);
    assert_eq!(made_up(&node).count(), 0, "one every ten seconds");
    node.wait(SECOND);
    assert_eq!(made_up(&node).count(), 1);
    node.wait(SECOND * 600);
    assert_eq!(made_up(&node).count(), 1);
    node.wait(SECOND * 59);
    assert_eq!(made_up(&node).count(), 0, "rarer where nobody has asked for ten minutes");
    node.wait(SECOND);
    assert_eq!(made_up(&node).count(), 1);
}

#[test]
fn an_idle_path_comes_all_the_way_back_by_made_up_requests() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    for _ in 0..2 * 3600 {
        for due in node.registry.made_up(node.now) {
            if let MadeUp::Recovery(shadow) = due {
                shadow.judge(&Verdict::Pass, node.now);
            }
        }
        if node.state(A_PROXY) == State::Closed {
            let reasons: Vec<Reason> = node.told().into_iter().map(|(.., reason)| reason).collect();
            assert_eq!(reasons, [Reason::Proven, Reason::Ramped]);
            return;
        }
        node.wait(SECOND);
    }
    panic!("{:?}", node.state(A_PROXY));
}

#[test]
fn a_path_that_never_had_a_request_is_tried_without_a_model() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.registry.probed(B_PROXY, Err("refused".into()), node.now);
    }
    node.wait(SECOND * 11);
    let due = node.registry.made_up(node.now);
    let [MadeUp::Recovery(shadow)] = &due[..] else { panic!("{due:?}") };
    assert_eq!((shadow.path, shadow.model), (B_PROXY, models::NONE));
    assert!(node.registry.made_up(node.now).is_empty(), "one at a time");
}

#[test]
fn a_model_of_ours_is_always_tried_and_never_sent_copies() {
    let mut setup = setup();
    setup.upstreams[0].local = true;
    let mut node = Node::of(setup);
    node.registry.expect(0, node.model, node.now);
    let canaries = |node: &Node| {
        let due = node.registry.made_up(node.now);
        due.iter().filter(|due| matches!(due, MadeUp::Canary { path: A_DIRECT | A_PROXY, .. })).count()
    };
    assert_eq!(canaries(&node), 2, "over each of its paths");
    node.wait(SECOND * 29);
    assert_eq!(canaries(&node), 0);
    node.wait(SECOND);
    assert_eq!(canaries(&node), 2);

    let node = node.shadowing(A_DIRECT);
    assert!(node.registry.shadow(0, node.model, node.now).is_none());
}
