use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    /// `true`: shown with a permit of an older generation.
    First(Signal, bool),
    End(bool, bool),
    Probe(bool),
    /// `true`: made up.
    Claim(bool),
    Judge(usize, Verdict),
    Tick,
    Open,
    Force(Option<State>),
    Around(Around),
}

fn signal() -> impl Strategy<Value = Signal> {
    let fault = prop_oneof![
        4 => Just(Fault::Broken),
        2 => Just(Fault::Unreached),
        1 => Just(Fault::Page),
        1 => Just(Fault::Certificate),
        1 => Just(Fault::ProxyLogin),
    ];
    prop_oneof![
        8 => Just(GOOD),
        1 => (any::<Option<bool>>(), any::<bool>(), any::<bool>())
            .prop_map(|(slow, lagging, late)| Signal::Good { slow, lagging, late }),
        2 => fault.prop_map(Signal::Bad),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        12 => Just(Verdict::Pass),
        2 => Just(Verdict::Slow),
        1 => Just(Verdict::Fail("500".into())),
        1 => (0u64..300).prop_map(|s| Verdict::Limited(Duration::from_secs(s))),
        1 => Just(Verdict::Unclear),
        1 => Just(Verdict::Void),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let state = prop_oneof![Just(None), proptest::sample::select(&State::ALL[..]).prop_map(Some)];
    let around = (any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        20 => (signal(), proptest::bool::weighted(0.1)).prop_map(|(signal, stale)| Event::First(signal, stale)),
        4 => (proptest::bool::weighted(0.2), proptest::bool::weighted(0.1))
            .prop_map(|(cut, stale)| Event::End(cut, stale)),
        6 => proptest::bool::weighted(0.7).prop_map(Event::Probe),
        12 => any::<bool>().prop_map(Event::Claim),
        12 => (any::<usize>(), verdict()).prop_map(|(n, verdict)| Event::Judge(n, verdict)),
        12 => Just(Event::Tick),
        1 => Just(Event::Open),
        1 => state.prop_map(Event::Force),
        2 => around.prop_map(|(others, probed, lenient)| Event::Around(Around { others, probed, lenient, untriable: false })),
    ]
}

/// Small numbers, so that random events walk the whole way.
fn rules() -> impl Strategy<Value = Health> {
    let recovery = (1u32..6, 0u64..10, 0u64..10, 1u32..12, 1usize..6);
    let bounds = (0u32..20, 1u32..4, 0u64..120, 1u64..30, 1u64..10);
    (recovery, bounds).prop_map(
        |((successes, span, step, requests, steps), (budget, trips, hold, open, cap))| {
            let mut rules = Health::default();
            rules.recovery.successes = successes;
            rules.recovery.min_span = SECOND * span as u32;
            rules.recovery.ramp_step = SECOND * step as u32;
            rules.recovery.ramp_requests = requests;
            rules.recovery.ramp = [0.05, 0.1, 0.25, 0.5, 1.0][5 - steps..].to_vec();
            rules.shadow_budget.per_recovery = budget;
            rules.flap.trips = trips;
            rules.flap.hold = SECOND * hold as u32;
            rules.breaker.open_for = SECOND * open as u32;
            rules.breaker.max_open = SECOND * (open * cap) as u32;
            rules
        },
    )
}

/// What is known of a breaker from the events alone.
struct Watch {
    rules: Health,
    breaker: Breaker,
    now: Instant,
    around: Around,
    claims: Vec<Claim>,
    mirrored: u32,
    passes: u32,
    step: usize,
    step_since: Instant,
    step_good: u32,
}

impl Watch {
    fn new(rules: Health, seed: u64) -> Self {
        let now = start();
        Self {
            breaker: Breaker::new(Arc::new(rules.clone()), false, seed, now),
            rules,
            now,
            around: Around::default(),
            claims: Vec::new(),
            mirrored: 0,
            passes: 0,
            step: 0,
            step_since: now,
            step_good: 0,
        }
    }

    fn permit(&self, stale: bool) -> Permit {
        Permit { generation: self.breaker.generation().wrapping_sub(u32::from(stale)) }
    }

    fn seen(&self) -> (State, u32, f64, u32, Option<Instant>) {
        let b = &self.breaker;
        (b.state(), b.generation(), b.share(), b.passes(), b.open_until())
    }

    /// Whether the event is a pass or a good request of the state as it is, and what it changed.
    fn act(&mut self, event: &Event) -> (bool, bool, Option<Transition>) {
        let (now, around) = (self.now, self.around);
        let state = self.breaker.state();
        match event {
            Event::First(signal, stale) => {
                let permit = self.permit(*stale);
                let good = matches!(signal, Signal::Good { .. }) && !stale;
                let pass = good && !matches!(signal, Signal::Good { late: true, .. });
                let pass = pass && matches!(state, State::Open | State::Shadowing);
                (pass, good, self.breaker.first(*signal, permit, around, now))
            }
            Event::End(cut, stale) => {
                let permit = self.permit(*stale);
                (false, false, self.breaker.end(*cut, permit, now))
            }
            Event::Probe(passed) => (false, false, self.breaker.probe(*passed, now)),
            Event::Claim(made_up) => {
                if let Some(claim) = self.breaker.claim(*made_up, now) {
                    self.mirrored += u32::from(!made_up);
                    self.claims.push(claim);
                }
                (false, false, None)
            }
            Event::Judge(n, verdict) => {
                if self.claims.is_empty() {
                    return (false, false, None);
                }
                let claim = self.claims.swap_remove(n % self.claims.len());
                let current = claim.permit == self.permit(false);
                if current && *verdict == Verdict::Void {
                    self.mirrored -= u32::from(!claim.made_up);
                }
                let pass = current && *verdict == Verdict::Pass;
                let good = current && matches!(verdict, Verdict::Pass | Verdict::Slow);
                (pass && state == State::Shadowing, good, self.breaker.judge(claim, verdict, around, now))
            }
            Event::Tick => (false, false, self.breaker.tick(around, now)),
            Event::Open => (false, false, self.breaker.open(Reason::Egress, String::new(), now)),
            Event::Force(state) => (false, false, self.breaker.force(*state, now)),
            Event::Around(around) => {
                self.around = *around;
                (false, false, None)
            }
        }
    }

    fn step(&mut self, event: &Event) {
        let before = self.seen();
        let stale = match event {
            Event::First(_, stale) | Event::End(_, stale) => *stale,
            _ => false,
        };
        let (pass, good, change) = self.act(event);
        self.passes += u32::from(pass);
        self.step_good += u32::from(good);
        if stale {
            assert_eq!((self.seen(), &change), (before, &None), "a stale permit");
        }
        assert_eq!(change.is_some(), before.1 != self.breaker.generation(), "every transition is told");
        match &change {
            Some(change) => {
                assert_eq!((change.from, change.to), (before.0, self.breaker.state()));
                assert_eq!(self.breaker.reason(), Some(change.reason));
                assert_eq!(self.breaker.since(), self.now);
                self.entered(change, event, pass);
            }
            None => assert_eq!(before.0, self.breaker.state()),
        }
        self.bounds();
    }

    fn entered(&mut self, change: &Transition, event: &Event, pass: bool) {
        let operator = matches!(event, Event::Force(_)) && change.reason == Reason::Operator;
        match change.to {
            State::Closed => {
                let ramped = (change.from, change.reason) == (State::Ramping, Reason::Ramped);
                assert!(ramped || operator, "{change:?}");
                assert!(operator || self.step + 1 == self.rules.recovery.ramp.len(), "{change:?}");
                self.mirrored = 0;
            }
            State::Ramping => {
                let proven = (change.from, change.reason) == (State::Shadowing, Reason::Proven);
                let enough =
                    self.passes >= if self.around.lenient { 1 } else { self.rules.recovery.successes };
                assert!(operator || (proven && enough), "{change:?} after {} passes", self.passes);
                (self.step, self.step_since, self.step_good) = (0, self.now, 0);
            }
            State::Shadowing => {
                assert_eq!(change.from, State::Open);
                self.passes = u32::from(pass);
            }
            State::Open => assert_ne!((change.from, change.reason), (State::Disabled, Reason::Probe)),
            State::Disabled => assert!(operator),
        }
    }

    fn bounds(&mut self) {
        let (state, _, share, ..) = self.seen();
        let current = self.permit(false);
        let recovery = &self.rules.recovery;
        match state {
            State::Closed => assert_eq!(share, 1.0),
            State::Open | State::Shadowing | State::Disabled => assert_eq!(share, 0.0),
            State::Ramping if share > recovery.ramp[self.step] => {
                self.step += 1;
                assert_eq!(share, recovery.ramp[self.step], "one step at a time");
                assert!(self.now - self.step_since >= recovery.ramp_step);
                assert!(self.step_good >= recovery.ramp_requests.min(3));
                (self.step_since, self.step_good) = (self.now, 0);
            }
            State::Ramping => assert_eq!(share, recovery.ramp[self.step]),
        }
        if let Some(until) = self.breaker.open_until() {
            let most = self.rules.breaker.max_open.max(self.rules.flap.hold);
            assert!(until - self.breaker.since() <= most);
        }
        let in_flight = self.claims.iter().filter(|claim| claim.permit == current).count();
        assert!(in_flight <= if state == State::Ramping { 1 } else { 2 });
        assert!(self.mirrored <= self.rules.shadow_budget.per_recovery);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn traffic_returns_only_by_verified_passes_and_a_whole_ramp(
        rules in rules(),
        seed: u64,
        events in proptest::collection::vec((0u64..30_000, 0u32..3, event()), 1..300),
    ) {
        let mut watch = Watch::new(rules, seed);
        for (gap, at_once, event) in events {
            // Two of three events follow at once, as in life.
            if at_once == 0 {
                watch.now += Duration::from_millis(gap);
            }
            watch.step(&event);
        }
    }
}
