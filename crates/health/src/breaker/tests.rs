use super::*;

mod ramp;
mod recovery;
mod sequences;
mod trips;

const GOOD: Signal = Signal::Good { slow: Some(false), lagging: false, late: false };
const SLOW: Signal = Signal::Good { slow: Some(true), lagging: false, late: false };
const UNTIMED: Signal = Signal::Good { slow: None, lagging: false, late: false };
const LAGGING: Signal = Signal::Good { slow: Some(false), lagging: true, late: false };
const LATE: Signal = Signal::Good { slow: Some(false), lagging: false, late: true };
const BROKEN: Signal = Signal::Bad(Fault::Broken);
const UNREACHED: Signal = Signal::Bad(Fault::Unreached);
const PAGE: Signal = Signal::Bad(Fault::Page);

const SECOND: Duration = Duration::from_secs(1);

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

/// A breaker and its time.
struct Run {
    breaker: Breaker,
    now: Instant,
    around: Around,
}

impl Run {
    fn new() -> Self {
        Self::by(Health::default())
    }

    fn by(rules: Health) -> Self {
        Self::seeded(rules, 7)
    }

    fn seeded(rules: Health, seed: u64) -> Self {
        let now = start();
        Self { breaker: Breaker::new(Arc::new(rules), false, seed, now), now, around: Around::default() }
    }

    fn first(&mut self, signal: Signal) -> Option<Reason> {
        let permit = Permit { generation: self.breaker.generation() };
        self.breaker.first(signal, permit, self.around, self.now).map(|change| change.reason)
    }

    /// The reason that the last of `n` gave; those before give none.
    fn firsts(&mut self, n: u32, signal: Signal) -> Option<Reason> {
        for i in 1..n {
            assert_eq!(self.first(signal), None, "{i} of {n}");
        }
        self.first(signal)
    }

    fn end(&mut self, cut: bool) -> Option<Reason> {
        let permit = Permit { generation: self.breaker.generation() };
        self.breaker.end(cut, permit, self.now).map(|change| change.reason)
    }

    fn probe(&mut self, passed: bool) -> Option<Reason> {
        self.breaker.probe(passed, self.now).map(|change| change.reason)
    }

    fn judge(&mut self, claim: Claim, verdict: &Verdict) -> Option<Reason> {
        self.breaker.judge(claim, verdict, self.around, self.now).map(|change| change.reason)
    }

    fn tick(&mut self) -> Option<Reason> {
        self.breaker.tick(self.around, self.now).map(|change| change.reason)
    }

    /// Time goes by in ticks, until `most` is over or something changes.
    fn pass(&mut self, most: Duration) -> Option<Reason> {
        let end = self.now + most;
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            if let Some(reason) = self.tick() {
                return Some(reason);
            }
        }
        None
    }

    fn state(&self) -> State {
        self.breaker.state()
    }

    fn rest(&self) -> Duration {
        self.breaker.open_until().unwrap() - self.breaker.since()
    }

    fn trip(&mut self) {
        assert_eq!(self.firsts(5, BROKEN), Some(Reason::Consecutive));
    }

    /// From open to shadowing.
    fn rested(mut self) -> Self {
        assert_eq!(self.pass(self.rest()), Some(Reason::Rested));
        self
    }

    fn shadowing() -> Self {
        let mut run = Self::new();
        run.trip();
        run.rested()
    }

    /// From shadowing to ramping.
    fn proven(mut self) -> Self {
        for _ in 0..5 {
            let claim = self.breaker.claim(false, self.now).unwrap();
            assert_eq!(self.judge(claim, &Verdict::Pass), None);
            self.now += SECOND * 2;
        }
        assert_eq!(self.tick(), Some(Reason::Proven));
        self
    }

    fn ramping() -> Self {
        Self::shadowing().proven()
    }

    /// From ramping to closed.
    fn ramped(mut self) -> Self {
        while self.state() == State::Ramping {
            self.first(GOOD);
            self.now += SECOND;
        }
        assert_eq!(self.breaker.reason(), Some(Reason::Ramped));
        self
    }
}
