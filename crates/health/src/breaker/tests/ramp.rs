use super::*;

const STEPS: [f64; 5] = [0.05, 0.1, 0.25, 0.5, 1.0];

impl Run {
    /// Ten good requests and ten seconds.
    fn step(&mut self) -> Option<Reason> {
        assert_eq!(self.firsts(10, GOOD), None);
        self.now += SECOND * 10;
        self.tick()
    }

    fn second_step() -> Self {
        let mut run = Self::ramping();
        assert_eq!(run.step(), None);
        assert_eq!(run.breaker.share(), 0.1);
        run
    }

    fn ramp_failed(&mut self) {
        assert_eq!(self.first(BROKEN), Some(Reason::RampFailed));
    }
}

#[test]
fn the_share_rises_by_steps_of_ten_requests_and_ten_seconds_until_it_is_closed() {
    let mut run = Run::ramping();
    for (n, share) in STEPS.into_iter().enumerate() {
        assert_eq!(run.breaker.share(), share);
        run.firsts(10, GOOD);
        assert_eq!(run.pass(Duration::from_millis(9900)), None);
        assert_eq!((run.state(), run.breaker.share()), (State::Ramping, share), "time is lacking");
        assert_eq!(run.pass(TICK), (n == 4).then_some(Reason::Ramped));
    }
    assert_eq!((run.state(), run.breaker.share()), (State::Closed, 1.0));

    let mut run = Run::ramping();
    run.firsts(9, GOOD);
    assert_eq!(run.pass(SECOND * 59), None);
    assert_eq!(run.breaker.share(), 0.05, "requests are lacking");
    assert_eq!(run.first(GOOD), None);
    assert_eq!(run.breaker.share(), 0.1);
}

#[test]
fn on_a_quiet_path_three_requests_in_a_minute_pass_a_step() {
    let mut run = Run::ramping();
    run.firsts(2, GOOD);
    run.now += SECOND * 600;
    assert_eq!((run.tick(), run.breaker.share()), (None, 0.05));
    run.first(GOOD);
    assert_eq!(run.breaker.share(), 0.1);
    run.firsts(3, GOOD);
    run.pass(Duration::from_millis(59_900));
    assert_eq!(run.breaker.share(), 0.1);
    run.pass(TICK);
    assert_eq!(run.breaker.share(), 0.25);
}

#[test]
fn a_failure_at_the_first_step_opens() {
    let mut run = Run::ramping();
    run.firsts(9, GOOD);
    assert_eq!(run.first(BROKEN), Some(Reason::RampFailed));
    assert!(run.rest() >= SECOND * 10, "a setback");

    let mut run = Run::ramping();
    assert_eq!(run.end(true), Some(Reason::RampFailed), "a stream that was cut has failed");
}

#[test]
fn a_later_step_survives_one_failure_and_not_two() {
    let mut run = Run::second_step();
    assert_eq!(run.first(BROKEN), None);
    run.firsts(18, GOOD);
    run.now += SECOND * 10;
    assert_eq!((run.tick(), run.breaker.share()), (None, 0.1), "one of nineteen is over a twentieth");
    run.first(GOOD);
    assert_eq!(run.breaker.share(), 0.25);
    assert_eq!(run.first(BROKEN), None, "each step has its own");
    assert_eq!(run.end(true), Some(Reason::RampFailed));

    let mut run = Run::second_step();
    assert_eq!(run.first(Signal::Bad(Fault::Certificate)), Some(Reason::RampFailed));
}

#[test]
fn late_answers_stop_the_ramp() {
    let mut run = Run::second_step();
    run.firsts(5, GOOD);
    assert_eq!(run.firsts(5, LATE), Some(Reason::RampFailed), "half of them");

    let mut run = Run::second_step();
    run.first(LATE);
    run.firsts(18, GOOD);
    run.now += SECOND * 10;
    assert_eq!((run.tick(), run.breaker.share()), (None, 0.1), "one of nineteen is over a twentieth");
    run.first(GOOD);
    assert_eq!(run.breaker.share(), 0.25);

    run.firsts(3, LATE);
    assert_eq!(run.firsts(47, GOOD), Some(Reason::RampFailed), "3 of 50 stay over a twentieth");
}

#[test]
fn a_made_up_request_stands_in_for_a_live_one() {
    let mut run = Run::ramping();
    assert_eq!(run.breaker.claim(false, run.now), None, "live ones come by themselves");
    for n in 0..10 {
        let claim = run.breaker.claim(true, run.now).unwrap();
        assert_eq!(run.breaker.claim(true, run.now), None, "one at a time");
        assert_eq!(run.judge(claim, &if n == 0 { Verdict::Limited(SECOND) } else { Verdict::Pass }), None);
    }
    run.now += SECOND * 60;
    let claim = run.breaker.claim(true, run.now).unwrap();
    assert_eq!((run.tick(), run.breaker.share()), (None, 0.1));
    assert_eq!(run.breaker.claim(true, run.now), None, "the one on its way is not forgotten with its step");
    assert_eq!(run.judge(claim, &Verdict::Void), None);
    let claim = run.breaker.claim(true, run.now).unwrap();
    assert_eq!(run.judge(claim, &Verdict::Slow), None);
    let claim = run.breaker.claim(true, run.now).unwrap();
    assert_eq!(run.judge(claim, &Verdict::Fail(String::new())), None);
    assert_eq!(run.first(BROKEN), Some(Reason::RampFailed), "the second of its step");
}

#[test]
fn probes_that_fail_end_a_ramp() {
    let mut run = Run::second_step();
    assert_eq!((run.probe(false), run.probe(false)), (None, None));
    run.first(GOOD);
    assert_eq!((run.probe(false), run.probe(false)), (None, None), "an answer says more");
    assert_eq!(run.probe(false), Some(Reason::Probe));
}

#[test]
fn the_third_trip_in_ten_minutes_holds_down_and_makes_the_next_ramp_thrice_as_long() {
    let mut run = Run::ramping();
    run.ramp_failed();
    assert!(run.rest() <= SECOND * 20);
    let mut run = run.rested().proven();
    run.ramp_failed();
    assert_eq!(run.rest(), SECOND * 120);
    run.probe(true);
    run.probe(true);
    let mut run = run.rested().proven();
    assert_eq!(run.step(), None);
    assert_eq!(run.breaker.share(), 0.05);
    run.pass(Duration::from_millis(19_900));
    assert_eq!(run.breaker.share(), 0.05);
    run.pass(TICK);
    assert_eq!(run.breaker.share(), 0.1);
    run.now += SECOND * 900;
    run.step();
    assert_eq!(run.breaker.share(), 0.25, "fifteen minutes later a step is as long as any");
}

#[test]
fn trips_far_apart_are_no_flapping() {
    let mut run = Run::new();
    for _ in 0..5 {
        run.trip();
        assert!(run.rest() <= SECOND * 10);
        run = run.rested().proven().ramped();
        assert_eq!(run.pass(SECOND * 300), None);
    }
}

#[test]
fn setbacks_are_forgotten_one_a_quiet_minute() {
    let mut run = Run::shadowing();
    for _ in 0..3 {
        let claim = run.breaker.claim(true, run.now).unwrap();
        run.judge(claim, &Verdict::Fail(String::new()));
        run = run.rested();
    }
    let mut run = run.proven().ramped();
    assert_eq!(run.breaker.setbacks, 3, "closing alone forgets none");
    run.pass(SECOND * 58);
    run.first(BROKEN);
    run.pass(SECOND * 59);
    assert_eq!(run.breaker.setbacks, 3, "a failure begins the minute anew");
    run.pass(SECOND);
    assert_eq!(run.breaker.setbacks, 2);
    run.pass(SECOND * 60);
    assert_eq!(run.breaker.setbacks, 1);
    run.first(GOOD);
    run.trip();
    assert!((10..=20).contains(&run.rest().as_secs()));
}

#[test]
fn an_operator_who_closes_forgets_all_that_was_held_against_it() {
    let mut run = Run::ramping();
    run.ramp_failed();
    let mut run = run.rested().proven();
    run.ramp_failed();
    run.breaker.force(Some(State::Closed), run.now);
    run.trip();
    assert!(run.rest() <= SECOND * 10);
    let mut run = run.rested().proven();
    run.step();
    assert_eq!(run.breaker.share(), 0.1);
}
