use super::*;

#[test]
fn five_failures_in_a_row_open_and_a_success_begins_the_count_anew() {
    let mut run = Run::new();
    assert_eq!(run.firsts(4, BROKEN), None);
    assert!(run.breaker.is_suspect());
    assert_eq!(run.first(GOOD), None);
    assert!(!run.breaker.is_suspect());
    assert_eq!(run.firsts(4, BROKEN), None);
    assert_eq!(run.first(BROKEN), Some(Reason::Consecutive));
    assert_eq!((run.state(), run.breaker.share()), (State::Open, 0.0));
}

#[test]
fn three_connections_in_a_row_that_fail_open() {
    let mut run = Run::new();
    assert_eq!(run.firsts(3, UNREACHED), Some(Reason::Consecutive));

    let mut run = Run::new();
    assert_eq!(run.firsts(2, UNREACHED), None);
    assert_eq!(run.first(BROKEN), None, "an upstream that was reached begins their count anew");
    assert_eq!(run.first(UNREACHED), None);
    assert_eq!(run.first(UNREACHED), Some(Reason::Consecutive), "five of any kind");

    let mut rules = Health::default();
    rules.breaker.consecutive_failures = 2;
    let mut run = Run::by(rules);
    assert_eq!(run.firsts(2, UNREACHED), Some(Reason::Consecutive));
}

#[test]
fn half_of_ten_within_the_window_open() {
    let mut run = Run::new();
    for n in 1..=4 {
        assert_eq!((run.first(GOOD), run.first(BROKEN)), (None, None), "{n} of {}", 2 * n);
    }
    assert_eq!((run.first(GOOD), run.first(BROKEN)), (None, Some(Reason::Rate)));

    let mut run = Run::new();
    for _ in 0..4 {
        run.first(GOOD);
        run.first(BROKEN);
    }
    run.now += SECOND * 61;
    for _ in 0..4 {
        assert_eq!((run.first(GOOD), run.first(BROKEN)), (None, None), "what is older is forgotten");
    }

    let mut run = Run::new();
    for _ in 0..100 {
        run.first(GOOD);
        run.first(GOOD);
        assert_eq!(run.first(BROKEN), None, "a third is less than half");
    }
}

#[test]
fn three_of_ten_streams_cut_open() {
    let mut run = Run::new();
    for _ in 0..7 {
        assert_eq!((run.first(GOOD), run.end(false)), (None, None));
    }
    assert_eq!((run.end(true), run.end(true)), (None, None));
    assert_eq!(run.end(true), Some(Reason::Cuts));

    let mut run = Run::new();
    for n in 0..40 {
        assert_eq!(run.end(n % 4 == 3), None, "a quarter");
    }
}

#[test]
fn slow_answers_open_only_where_others_could_take_the_traffic() {
    let mut run = Run::new();
    assert_eq!(run.firsts(20, SLOW), None);
    run.around.others = true;
    assert_eq!(run.first(SLOW), Some(Reason::Slow));

    let mut run = Run::new();
    run.around.others = true;
    run.firsts(3, GOOD);
    assert_eq!(run.firsts(11, SLOW), None, "11 of 14 are not four fifths");
    assert_eq!(run.first(SLOW), Some(Reason::Slow));

    let mut run = Run::new();
    run.around.others = true;
    run.firsts(100, UNTIMED);
    assert_eq!(
        run.firsts(10, SLOW),
        Some(Reason::Slow),
        "what tells nothing of the time is not in the count"
    );
}

#[test]
fn answers_that_lag_degrade_and_do_not_open() {
    let mut run = Run::new();
    run.around.others = true;
    run.firsts(5, GOOD);
    assert!(run.breaker.is_well(run.now));
    run.firsts(4, LAGGING);
    assert!(!run.breaker.is_degraded(run.now), "nine prove nothing");
    run.first(LAGGING);
    assert!(run.breaker.is_degraded(run.now));
    assert!(!run.breaker.is_well(run.now));
    run.firsts(100, LAGGING);
    assert_eq!(run.state(), State::Closed);
    run.now += SECOND * 61;
    assert!(run.breaker.is_well(run.now) && !run.breaker.is_degraded(run.now));
}

#[test]
fn the_second_page_opens_unless_an_answer_came_between() {
    let mut run = Run::new();
    assert_eq!(run.firsts(2, PAGE), Some(Reason::Page));

    let mut run = Run::new();
    for _ in 0..4 {
        assert_eq!((run.first(PAGE), run.first(GOOD), run.first(GOOD)), (None, None, None));
    }
}

#[test]
fn a_bad_certificate_or_login_opens_at_once() {
    assert_eq!(Run::new().first(Signal::Bad(Fault::Certificate)), Some(Reason::Certificate));
    assert_eq!(Run::new().first(Signal::Bad(Fault::ProxyLogin)), Some(Reason::ProxyLogin));
}

#[test]
fn three_probes_in_a_row_that_fail_open() {
    let mut run = Run::new();
    assert_eq!((run.probe(false), run.probe(false), run.probe(true)), (None, None, None));
    assert_eq!((run.probe(false), run.probe(false)), (None, None));
    assert!(run.breaker.is_suspect());
    assert_eq!(run.first(GOOD), None, "an answer says more than a probe");
    assert!(!run.breaker.is_suspect());
    assert_eq!((run.probe(false), run.probe(false)), (None, None));
    assert_eq!(run.probe(false), Some(Reason::Probe));
    assert_eq!(run.probe(false), None, "it is open already");
}

#[test]
fn no_number_of_probes_closes() {
    let mut run = Run::new();
    run.trip();
    for _ in 0..3600 {
        run.now += SECOND;
        run.probe(true);
        run.tick();
        assert!(matches!(run.state(), State::Open | State::Shadowing));
    }
    assert_eq!(run.state(), State::Shadowing);
}

#[test]
fn what_is_found_elsewhere_opens_what_takes_traffic() {
    let mut run = Run::new();
    let open = |run: &mut Run| run.breaker.open(Reason::Stalled, "2 wait".into(), run.now);
    let change = open(&mut run).unwrap();
    assert_eq!((change.from, change.to, change.reason), (State::Closed, State::Open, Reason::Stalled));
    assert_eq!(change.evidence, "2 wait");
    let until = run.breaker.open_until();
    run.now += SECOND;
    assert_eq!(open(&mut run), None);
    assert_eq!(run.breaker.open_until(), until, "a rest is not made longer while it lasts");
    let mut run = run.rested();
    assert_eq!(open(&mut run), None);
    assert!(open(&mut Run::ramping()).is_some());
}

#[test]
fn a_late_result_of_an_older_generation_changes_nothing() {
    let mut run = Run::new();
    let old = Permit { generation: run.breaker.generation() };
    run.trip();
    let mut run = run.rested().proven();
    let (generation, share) = (run.breaker.generation(), run.breaker.share());
    for _ in 0..20 {
        assert_eq!(run.breaker.first(BROKEN, old, run.around, run.now), None);
        assert_eq!(run.breaker.first(GOOD, old, run.around, run.now), None);
        assert_eq!(run.breaker.end(true, old, run.now), None);
        run.now += SECOND;
    }
    assert_eq!((run.breaker.generation(), run.breaker.share()), (generation, share));
    assert_eq!(run.tick(), None, "nor did they count for the step");

    let mut run = Run::shadowing();
    let claim = run.breaker.claim(false, run.now).unwrap();
    assert_eq!(run.probe(false).or(run.probe(false)).or(run.probe(false)), Some(Reason::Probe));
    assert_eq!(run.judge(claim, &Verdict::Fail(String::new())), None);
    let mut run = run.rested();
    assert_eq!(run.judge(claim, &Verdict::Pass), None);
    assert_eq!(run.breaker.passes(), 0);
}

#[test]
fn an_operator_takes_out_opens_closes_and_hands_back() {
    let mut run = Run::new();
    let force = |run: &mut Run, state| {
        let change = run.breaker.force(state, run.now)?;
        assert_eq!(change.reason, Reason::Operator);
        Some(change.to)
    };
    for state in [State::Disabled, State::Open] {
        assert_eq!(force(&mut run, Some(state)), Some(state));
        assert_eq!(run.pass(SECOND * 1000), None, "until an operator says otherwise");
        assert_eq!((run.first(GOOD), run.breaker.claim(true, run.now)), (None, None));
        assert_eq!(run.breaker.open_until(), None);
        for nothing in [State::Shadowing, State::Ramping] {
            assert_eq!(force(&mut run, Some(nothing)), None);
            assert_eq!(run.pass(SECOND * 1000), None, "{nothing:?} is not for an operator to say");
        }
        assert_eq!(force(&mut run, None), Some(State::Ramping));
        assert_eq!(run.breaker.share(), 0.05);
        assert_eq!(force(&mut run, None), None, "it is handed back already");
    }
    assert_eq!(force(&mut run, Some(State::Closed)), Some(State::Closed));
    assert_eq!(run.firsts(5, BROKEN), Some(Reason::Consecutive), "a closed one still guards");
    assert_eq!(force(&mut run, Some(State::Open)), None, "open as it was, but now until further notice");
    assert_eq!(run.pass(SECOND * 1000), None);
    assert_eq!(force(&mut run, Some(State::Closed)), Some(State::Closed));
    assert_eq!(run.pass(SECOND * 1000), None);
}
