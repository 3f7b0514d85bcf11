use super::*;

fn fail() -> Verdict {
    Verdict::Fail("500".into())
}

impl Run {
    fn claimed(&mut self, verdict: &Verdict) -> Option<Reason> {
        let claim = self.breaker.claim(true, self.now).unwrap();
        self.judge(claim, verdict)
    }

    fn probed() -> Self {
        let mut run = Self::new();
        run.around.probed = true;
        run.probe(true);
        run
    }
}

#[test]
fn rests_double_with_every_failed_recovery_up_to_the_cap_and_vary_by_half() {
    let mut least = f64::MAX;
    let mut most = 0.0f64;
    for seed in 0..100 {
        let mut run = Run::seeded(Health::default(), seed);
        run.trip();
        for whole in [10, 20, 40, 80, 160, 300, 300, 300] {
            let part = run.rest().as_secs_f64() / f64::from(whole);
            assert!((0.5..=1.0).contains(&part), "{:?} of {whole} s", run.rest());
            least = least.min(part);
            most = most.max(part);
            run = run.rested();
            assert_eq!(run.claimed(&fail()), Some(Reason::ShadowFailed));
        }
    }
    assert!(least < 0.55 && most > 0.95, "{least} {most}");
}

#[test]
fn two_probes_end_a_first_rest_after_half_of_the_usual() {
    let rests_for_long = |rules: &Health| {
        (0..100).map(|seed| Run::seeded(rules.clone(), seed)).find_map(|mut run| {
            run.trip();
            (run.rest() > SECOND * 8).then_some(run)
        })
    };
    let rules = Health::default();
    let mut run = rests_for_long(&rules).unwrap();
    run.probe(true);
    assert!(run.breaker.probe_passed_once());
    assert_eq!(run.pass(SECOND * 6), None, "one may be a slip");
    run.probe(true);
    assert_eq!(run.tick(), Some(Reason::ProbesPass));

    let mut run = rests_for_long(&rules).unwrap();
    run.probe(true);
    run.probe(true);
    assert_eq!(run.pass(Duration::from_millis(4900)), None);
    assert_eq!(run.pass(TICK), Some(Reason::ProbesPass));

    assert_eq!(run.claimed(&fail()), Some(Reason::ShadowFailed));
    run.probe(true);
    run.probe(true);
    assert_eq!(run.pass(SECOND * 9), None, "they promised too much once");
}

#[test]
fn nothing_is_copied_while_probes_fail() {
    let mut run = Run::probed();
    run.trip();
    for _ in 0..100 {
        assert_eq!(run.pass(SECOND * 5), None);
        assert_eq!(run.probe(false), None);
    }
    run.probe(true);
    assert_eq!(run.tick(), Some(Reason::Rested));

    let mut run = Run::new();
    run.around.probed = true;
    run.trip();
    run.probe(false);
    assert_eq!(
        run.pass(run.rest()),
        Some(Reason::Rested),
        "a probe that never passed may ask for the wrong thing"
    );
}

#[test]
fn three_failing_probes_end_a_spell_of_shadowing() {
    let mut run = Run::shadowing();
    assert_eq!((run.probe(false), run.probe(false)), (None, None));
    assert_eq!(run.probe(false), Some(Reason::Probe));
    assert!(run.rest() >= SECOND * 10, "a setback");
}

#[test]
fn five_passes_over_ten_seconds_lead_to_the_ramp() {
    let mut run = Run::shadowing();
    for n in 1..=8 {
        assert_eq!(run.claimed(&Verdict::Pass), None);
        assert_eq!(run.breaker.passes(), n);
    }
    assert_eq!(run.pass(Duration::from_millis(9900)), None);
    assert_eq!(run.pass(TICK), Some(Reason::Proven));
    assert_eq!((run.state(), run.breaker.share()), (State::Ramping, 0.05));

    let mut run = Run::shadowing();
    for _ in 0..4 {
        assert_eq!(run.claimed(&Verdict::Pass), None);
        run.now += SECOND * 10;
    }
    assert_eq!(run.tick(), None, "four are not enough after any time");
    assert_eq!(run.claimed(&Verdict::Pass), Some(Reason::Proven));
}

#[test]
fn a_failed_copy_opens_and_the_next_spell_begins_at_none() {
    let mut run = Run::shadowing();
    for _ in 0..4 {
        run.claimed(&Verdict::Pass);
    }
    assert_eq!(run.claimed(&fail()), Some(Reason::ShadowFailed));
    let run = run.rested();
    assert_eq!(run.breaker.passes(), 0);
}

#[test]
fn slow_copies_do_not_count_and_twenty_end_the_spell() {
    let mut run = Run::shadowing();
    run.claimed(&Verdict::Pass);
    for _ in 0..19 {
        assert_eq!(run.claimed(&Verdict::Slow), None);
    }
    assert_eq!(run.breaker.passes(), 1);
    assert_eq!(run.claimed(&Verdict::Slow), Some(Reason::ShadowUnproven));
    assert!(run.rest() >= SECOND * 10, "a setback");
}

#[test]
fn two_minutes_of_slow_copies_end_the_spell() {
    let mut run = Run::shadowing();
    assert_eq!(run.pass(SECOND * 100), None);
    assert_eq!(run.claimed(&Verdict::Slow), None);
    assert_eq!(run.pass(Duration::from_millis(19_900)), None);
    assert_eq!(run.pass(TICK), Some(Reason::ShadowUnproven));

    let mut run = Run::shadowing();
    assert_eq!(run.pass(SECOND * 1000), None, "without any try nothing is known");
}

#[test]
fn a_rate_limit_pauses_and_neither_proves_nor_fails() {
    let mut run = Run::shadowing();
    run.claimed(&Verdict::Pass);
    let first = run.breaker.claim(true, run.now).unwrap();
    let second = run.breaker.claim(true, run.now).unwrap();
    assert_eq!(run.judge(first, &Verdict::Limited(SECOND * 30)), None);
    assert_eq!(run.judge(second, &Verdict::Limited(SECOND)), None);
    assert_eq!(run.breaker.passes(), 1);
    run.now += SECOND * 29;
    assert_eq!(run.breaker.claim(true, run.now), None, "the shorter pause takes nothing from the longer");
    run.now += SECOND;
    assert!(run.breaker.claim(true, run.now).is_some());
}

#[test]
fn copies_go_two_at_once_and_one_every_two_seconds() {
    let mut run = Run::shadowing();
    let first = run.breaker.claim(false, run.now).unwrap();
    assert_eq!(run.breaker.claim(false, run.now), None);
    run.now += Duration::from_millis(1999);
    assert_eq!(run.breaker.claim(false, run.now), None);
    run.now += Duration::from_millis(1);
    assert!(run.breaker.claim(false, run.now).is_some());
    run.now += SECOND * 60;
    assert_eq!(run.breaker.claim(false, run.now), None);
    assert_eq!(run.breaker.claim(true, run.now), None, "nor a made-up one beside two");
    assert_eq!(run.judge(first, &Verdict::Void), None);
    assert!(run.breaker.claim(false, run.now).is_some(), "what was given up makes room");
    assert_eq!(run.breaker.passes(), 0);
}

#[test]
fn twenty_live_requests_are_copied_for_a_recovery_and_then_only_made_up_ones_sent() {
    let mut run = Run::shadowing();
    let mut copied = 0;
    for spell in 0..3 {
        for _ in 0..8 {
            run.now += SECOND * 2;
            if let Some(claim) = run.breaker.claim(false, run.now) {
                copied += 1;
                run.judge(claim, &Verdict::Unclear);
            }
        }
        run.now += SECOND * 2;
        assert_eq!(run.claimed(&fail()), Some(Reason::ShadowFailed));
        run = run.rested();
        assert_eq!(run.breaker.mirrored(), copied, "spell {spell}");
    }
    assert_eq!(copied, 20);
    assert!(run.breaker.claim(true, run.now).is_some());

    let mut run = Run::ramping().ramped();
    assert_eq!(run.breaker.mirrored(), 0, "the next one has its own");
    run.trip();
    assert!(run.rested().breaker.claim(false, start() + SECOND * 3600).is_some());
}

#[test]
fn a_copy_that_was_not_sent_counts_against_no_bound_and_one_that_showed_nothing_does() {
    let mut run = Run::shadowing();
    for _ in 0..100 {
        let claim = run.breaker.claim(false, run.now).unwrap();
        assert_eq!(run.judge(claim, &Verdict::Void), None);
        assert_eq!(run.breaker.mirrored(), 0);
    }
    let claim = run.breaker.claim(false, run.now).unwrap();
    assert_eq!(run.judge(claim, &Verdict::Unclear), None);
    assert_eq!((run.breaker.mirrored(), run.breaker.passes()), (1, 0));
    assert_eq!(run.breaker.claim(false, run.now), None);
}

#[test]
fn a_model_of_ours_is_sent_no_copies() {
    let now = start();
    let breaker = Breaker::new(Arc::new(Health::default()), true, 7, now);
    let mut run = Run { breaker, now, around: Around::default() };
    run.trip();
    let mut run = run.rested();
    assert_eq!(run.breaker.claim(false, run.now), None);
    assert!(run.breaker.claim(true, run.now).is_some());
}

#[test]
fn where_another_way_works_one_pass_and_two_probes_are_enough() {
    let mut run = Run::probed();
    run.around.lenient = true;
    run.trip();
    run.probe(true);
    let mut run = run.rested();
    assert_eq!(run.claimed(&Verdict::Pass), None);
    assert_eq!(run.pass(SECOND), None);
    run.probe(true);
    assert_eq!(run.tick(), Some(Reason::Proven));

    let mut run = Run::probed();
    run.trip();
    run.probe(true);
    run.probe(true);
    let mut run = run.rested_somehow();
    assert_eq!(run.claimed(&Verdict::Pass), None);
    assert_eq!(run.pass(SECOND * 60), None, "elsewhere they are not");
}

impl Run {
    fn rested_somehow(mut self) -> Self {
        assert!(self.pass(SECOND * 10).is_some());
        assert_eq!(self.state(), State::Shadowing);
        self
    }
}

#[test]
fn requests_that_went_though_it_was_open_count_as_passes() {
    let mut run = Run::new();
    run.trip();
    assert_eq!(run.first(BROKEN), None);
    assert_eq!(run.state(), State::Open, "that one fails is no news");
    assert_eq!(run.first(GOOD), Some(Reason::Rested));
    assert_eq!((run.state(), run.breaker.passes()), (State::Shadowing, 1));
    for _ in 0..3 {
        run.now += SECOND * 3;
        assert_eq!(run.first(GOOD), None);
    }
    run.now += SECOND * 3;
    assert_eq!(run.first(LATE), None, "what came late proves nothing");
    assert_eq!(run.first(GOOD), Some(Reason::Proven));

    let mut run = Run::new();
    run.trip();
    run.first(GOOD);
    assert_eq!(run.first(BROKEN), Some(Reason::ShadowFailed));
}

#[test]
fn every_transition_is_told_even_where_one_request_proves_all() {
    let mut rules = Health::default();
    rules.recovery.successes = 1;
    rules.recovery.min_span = Duration::ZERO;
    let mut run = Run::by(rules);
    run.trip();
    assert_eq!(run.first(GOOD), Some(Reason::Rested));
    assert_eq!(run.state(), State::Shadowing);
    assert_eq!(run.tick(), Some(Reason::Proven));
    assert_eq!(run.state(), State::Ramping);
}

#[test]
fn the_way_back_says_how_far_it_is() {
    let run = Run::new();
    assert_eq!(run.breaker.progress(run.now), None);
    let mut run = Run::shadowing();
    assert_eq!(run.claimed(&Verdict::Pass), None);
    run.now += SECOND;
    assert_eq!(run.claimed(&Verdict::Pass), None);
    let Some(Progress::Shadowing { passes, needed, took, span, .. }) = run.breaker.progress(run.now) else {
        panic!("{:?}", run.breaker.progress(run.now));
    };
    assert_eq!((passes, needed, took, span), (2, 5, SECOND, SECOND * 10));

    let mut run = Run::ramping();
    assert_eq!(run.firsts(4, GOOD), None);
    run.now += SECOND * 3;
    let progress =
        Progress::Ramping { step: 1, steps: 5, good: 4, needed: 10, took: SECOND * 3, length: SECOND * 10 };
    assert_eq!(run.breaker.progress(run.now), Some(progress));
}

#[test]
fn what_decided_is_kept_until_something_else_does() {
    let mut run = Run::shadowing();
    assert_eq!(run.claimed(&Verdict::Fail("ä".repeat(300))), Some(Reason::ShadowFailed));
    assert_eq!(run.breaker.evidence(), "ä".repeat(100), "200 bytes at most, and whole characters");
    run.breaker.force(Some(State::Disabled), run.now);
    assert_eq!(run.breaker.evidence(), "");
}
