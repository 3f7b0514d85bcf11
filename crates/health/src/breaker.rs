//! One breaker: whether a path, or a model of an upstream, may take traffic, and how it earns traffic back.
//!
//! A pure machine of (state, evidence, now): CLOSED (traffic flows), OPEN (none), SHADOWING (copies only), RAMPING
//! (a rising share), DISABLED (an operator's). A trip is quick and the way back is slow: only verified passes
//! lead to RAMPING, and only a whole ramp to CLOSED. Every transition begins a new generation, and results of an
//! older one change nothing. Rules and their sources: `docs/failover.md`.
//! Not here: which breaker an outcome speaks of (`evidence`), locks and atomics (`gate`), sending anything.

mod orders;
mod recovery;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_config::used::Health;

use crate::window::{Counts, Window};
pub use recovery::{Claim, Progress, Verdict};
use recovery::{Ramp, Recovery};
pub use words::{Around, Fault, Permit, Reason, Signal, State, Transition};

/// Failures to reach an upstream are cheap and certain, so fewer are needed.
const UNREACHED_IN_A_ROW: u32 = 3;
/// A page instead of an answer, once, may be a slip of a proxy.
const PAGES: u32 = 2;
/// Share of streams broken off that is worse than an outage.
const CUTS: f64 = 0.3;
/// Failed probes in a row.
const PROBES: u32 = 3;
/// Outcomes that are looked at for themselves, whatever came before them in the window.
const LATEST: u32 = 20;
/// Rests double at most this often; the cap on their length is reached long before.
const SETBACKS_MAX: u32 = 16;
/// After a hold-down the ramp's steps are this many times longer.
const STRICT: u32 = 3;
/// What decided is kept to this many bytes; an upstream may have said it.
const EVIDENCE_MAX: usize = 200;

/// The machine.
#[derive(Debug)]
pub struct Breaker {
    rules: Arc<Health>,
    local: bool,
    state: State,
    forced: bool,
    since: Instant,
    reason: Option<Reason>,
    evidence: String,
    generation: u32,
    firsts: Window,
    /// The last outcomes, a bit for each, 1 for a failure: a long good past must not hide what happens now.
    latest: u32,
    latest_count: u32,
    ends: Window,
    in_a_row: u32,
    unreached_in_a_row: u32,
    pages: u32,
    probes_failed: u32,
    probes_passed: u32,
    ever_probed: bool,
    setbacks: u32,
    calm_since: Instant,
    trips: VecDeque<Instant>,
    held: bool,
    strict_until: Option<Instant>,
    /// A peer says that it is open.
    doubted: bool,
    open_until: Instant,
    recovery: Recovery,
    ramp: Ramp,
    seed: u64,
}

impl Breaker {
    /// Closed. `local`: a model of ours, which recovers by made-up requests alone. `seed` is for jitter.
    #[must_use]
    pub fn new(rules: Arc<Health>, local: bool, seed: u64, now: Instant) -> Self {
        let window = rules.breaker.window;
        Self {
            firsts: Window::new(window, now),
            ends: Window::new(window * 2, now),
            recovery: Recovery::new(now),
            ramp: Ramp::new(now),
            rules,
            local,
            state: State::Closed,
            forced: false,
            since: now,
            reason: None,
            evidence: String::new(),
            generation: 0,
            latest: 0,
            latest_count: 0,
            in_a_row: 0,
            unreached_in_a_row: 0,
            pages: 0,
            probes_failed: 0,
            probes_passed: 0,
            ever_probed: false,
            setbacks: 0,
            calm_since: now,
            trips: VecDeque::new(),
            held: false,
            strict_until: None,
            doubted: false,
            open_until: now,
            seed,
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Since when.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// What led to it; `None` from the start.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// The counts or times that decided; empty where there are none.
    #[must_use]
    pub fn evidence(&self) -> &str {
        &self.evidence
    }

    /// Rises with every transition.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Share of its normal traffic, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        match self.state {
            State::Closed => 1.0,
            State::Ramping => self.step_share(),
            State::Open | State::Shadowing | State::Disabled => 0.0,
        }
    }

    /// Until when it is open at least; `None` where it is not, or an operator opened it.
    #[must_use]
    pub fn open_until(&self) -> Option<Instant> {
        (self.state == State::Open && !self.forced).then_some(self.open_until)
    }

    /// A failed probe or attempt has not been followed by a good one.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.probes_failed > 0 || self.in_a_row > 0
    }

    /// An attempt failed and none has answered since.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.state == State::Closed && self.in_a_row > 0
    }

    /// A peer says that it is open: half as much as usual trips it.
    #[must_use]
    pub const fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Whether a peer says that it is open.
    pub const fn doubt(&mut self, doubted: bool) {
        self.doubted = doubted;
    }

    /// One probe has passed since the last failure; another may end a rest.
    #[must_use]
    pub const fn probe_passed_once(&self) -> bool {
        self.probes_passed == 1
    }

    /// Failures in the window.
    pub fn failures(&mut self, now: Instant) -> u32 {
        self.firsts.sum(now).bad + self.ends.sum(now).bad
    }

    /// Nothing failed, lagged or was slow within the window: what is seen now is normal.
    pub fn is_well(&mut self, now: Instant) -> bool {
        let counts = self.firsts.sum(now);
        self.state == State::Closed && counts.bad == 0 && counts.lagging == 0
    }

    /// Half of the answers are far slower than they used to be.
    pub fn is_degraded(&mut self, now: Instant) -> bool {
        let counts = self.firsts.sum(now);
        counts.good >= self.rules.breaker.min_requests && counts.lagging * 2 >= counts.good
    }

    /// An attempt came to its first content or failed.
    pub fn first(
        &mut self,
        signal: Signal,
        permit: Permit,
        around: Around,
        now: Instant,
    ) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        match self.state {
            State::Closed => self.first_closed(signal, around, now),
            State::Ramping => self.first_ramping(signal, now),
            // Sent although it is open, because nothing else was left: a pass like any verified one.
            State::Open | State::Shadowing if !self.forced => self.first_trickled(signal, around, now),
            State::Open | State::Shadowing | State::Disabled => None,
        }
    }

    fn first_closed(&mut self, signal: Signal, around: Around, now: Instant) -> Option<Transition> {
        let breaker = &self.rules.breaker;
        let (rate, slow_rate) = (breaker.failure_rate, breaker.slow_rate);
        let least = self.enough(breaker.min_requests);
        let in_a_row = self.enough(breaker.consecutive_failures);
        let unreached_in_a_row = self.enough(UNREACHED_IN_A_ROW);
        match signal {
            Signal::Good { slow, lagging, .. } => {
                self.remember(false);
                self.in_a_row = 0;
                self.unreached_in_a_row = 0;
                self.pages = 0;
                self.probes_failed = 0;
                let counts = Counts {
                    good: 1,
                    bad: 0,
                    timed: slow.is_some().into(),
                    slow: (slow == Some(true)).into(),
                    lagging: lagging.into(),
                };
                self.firsts.add(counts, now);
                let seen = self.firsts.sum(now);
                if slow == Some(true)
                    && around.others
                    && seen.timed >= least
                    && reaches(seen.slow, seen.timed, slow_rate)
                {
                    let text = format!(
                        "{} of {} answers over {:?}",
                        seen.slow, seen.timed, self.rules.breaker.slow_after
                    );
                    return Some(self.trip(Reason::Slow, text, now));
                }
                None
            }
            Signal::Bad(fault) => {
                self.remember(true);
                self.in_a_row += 1;
                self.unreached_in_a_row =
                    if fault == Fault::Unreached { self.unreached_in_a_row + 1 } else { 0 };
                self.pages += u32::from(fault == Fault::Page);
                self.calm_since = now;
                self.firsts.add(Counts { bad: 1, ..Counts::default() }, now);
                let seen = self.firsts.sum(now);
                let in_a_row_now = self.in_a_row;
                let (reason, text) = if fault == Fault::Certificate {
                    (Reason::Certificate, "the certificate is not acceptable".to_owned())
                } else if fault == Fault::ProxyLogin {
                    (Reason::ProxyLogin, "the proxy refused our login".to_owned())
                } else if self.pages >= PAGES {
                    (Reason::Page, format!("{} pages instead of answers", self.pages))
                } else if self.unreached_in_a_row >= unreached_in_a_row.min(in_a_row) {
                    (Reason::Consecutive, format!("{} connections in a row failed", self.unreached_in_a_row))
                } else if in_a_row_now >= in_a_row {
                    (Reason::Consecutive, format!("{in_a_row_now} failures in a row"))
                } else if seen.total() >= least && reaches(seen.bad, seen.total(), rate) {
                    (Reason::Rate, format!("{} of {} requests failed", seen.bad, seen.total()))
                } else if around.others
                    && self.latest_count >= least.max(LATEST)
                    && reaches(self.latest.count_ones(), LATEST, rate)
                {
                    (
                        Reason::Rate,
                        format!("{} of the last {LATEST} requests failed", self.latest.count_ones()),
                    )
                } else {
                    return None;
                };
                Some(self.trip(reason, text, now))
            }
        }
    }

    /// A stream ended whole, or was cut after its first content.
    pub fn end(&mut self, cut: bool, permit: Permit, now: Instant) -> Option<Transition> {
        if permit.generation != self.generation || !matches!(self.state, State::Closed | State::Ramping) {
            return None;
        }
        if cut && self.state == State::Ramping {
            return self.first_ramping(Signal::Bad(Fault::Broken), now);
        }
        if cut {
            self.calm_since = now;
        }
        self.ends.add(Counts { good: u32::from(!cut), bad: u32::from(cut), ..Counts::default() }, now);
        let seen = self.ends.sum(now);
        let least = self.enough(self.rules.breaker.min_requests);
        if cut && seen.total() >= least && reaches(seen.bad, seen.total(), CUTS) {
            let text = format!("{} of {} streams were cut", seen.bad, seen.total());
            return Some(self.trip(Reason::Cuts, text, now));
        }
        None
    }

    /// A probe came back. It may open, and let a rest end early; it never closes.
    pub fn probe(&mut self, passed: bool, now: Instant) -> Option<Transition> {
        if passed {
            self.ever_probed = true;
            self.probes_failed = 0;
            self.probes_passed += 1;
            return None;
        }
        self.probes_passed = 0;
        self.probes_failed += 1;
        let trips = matches!(self.state, State::Closed | State::Ramping | State::Shadowing);
        (trips && self.probes_failed >= self.enough(PROBES))
            .then(|| self.trip(Reason::Probe, format!("{} probes in a row failed", self.probes_failed), now))
    }

    /// Lets time pass: rests end, ramps rise, setbacks are forgotten.
    pub fn tick(&mut self, around: Around, now: Instant) -> Option<Transition> {
        if self.forced {
            return None;
        }
        match self.state {
            State::Closed => {
                let window = self.rules.breaker.window;
                if self.setbacks > 0
                    && now.saturating_duration_since(self.calm_since.max(self.since)) >= window
                {
                    self.setbacks -= 1;
                    self.calm_since = now;
                }
                None
            }
            State::Open => self.tick_open(around, now),
            State::Shadowing => self.tick_shadowing(around, now),
            State::Ramping => self.tick_ramping(now),
            State::Disabled => None,
        }
    }

    fn tick_open(&mut self, around: Around, now: Instant) -> Option<Transition> {
        // Where probes say that it is still down, a copy of a request would only cost another setback.
        let alive = !around.probed || !self.ever_probed || self.probes_passed > 0;
        if alive && now >= self.open_until {
            return Some(self.go(State::Shadowing, Reason::Rested, String::new(), now));
        }
        let early = self.since + self.rules.breaker.open_for / 2;
        let answers = self.probes_passed >= 2 && self.setbacks == 0 && !self.held;
        (answers && now >= early).then(|| {
            self.go(
                State::Shadowing,
                Reason::ProbesPass,
                format!("{} probes passed", self.probes_passed),
                now,
            )
        })
    }

    /// Traffic stops.
    fn trip(&mut self, reason: Reason, evidence: String, now: Instant) -> Transition {
        let rules = Arc::clone(&self.rules);
        let flap = &rules.flap;
        let within = flap.within;
        self.trips.retain(|at| now.saturating_duration_since(*at) < within);
        if matches!(self.state, State::Closed | State::Ramping) {
            self.trips.push_back(now);
            while self.trips.len() > flap.trips.max(1) as usize {
                self.trips.pop_front();
            }
        }
        if self.state != State::Closed {
            self.setbacks = (self.setbacks + 1).min(SETBACKS_MAX);
        }
        self.held = self.trips.len() >= flap.trips.max(1) as usize;
        if self.held {
            self.strict_until = Some(now + within + within / 2);
        }
        let jitter = 0.5 + 0.5 * self.random();
        let breaker = &rules.breaker;
        let rest = breaker.open_for.saturating_mul(1 << self.setbacks).min(breaker.max_open).mul_f64(jitter);
        let rest = if self.held { rest.max(flap.hold) } else { rest };
        self.open_until = now + rest;
        self.probes_passed = 0;
        let held = if self.held { "; held down for flapping" } else { "" };
        self.go(State::Open, reason, format!("{evidence}{held}"), now)
    }

    fn go(&mut self, to: State, reason: Reason, evidence: String, now: Instant) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.reason = Some(reason);
        self.evidence.clear();
        self.evidence
            .push_str(evidence.get(..evidence.floor_char_boundary(EVIDENCE_MAX)).unwrap_or_default());
        self.generation = self.generation.wrapping_add(1);
        self.in_a_row = 0;
        self.unreached_in_a_row = 0;
        self.pages = 0;
        match to {
            State::Shadowing => self.recovery.begin(now),
            State::Ramping => self.ramp = Ramp::new(now),
            State::Closed => {
                self.latest = 0;
                self.latest_count = 0;
                self.firsts.clear();
                self.ends.clear();
                self.recovery = Recovery::new(now);
                self.calm_since = now;
                self.held = false;
            }
            State::Open | State::Disabled => {}
        }
        Transition { from, to, reason, evidence, at: now }
    }

    /// A limit of a trip, as it holds now.
    const fn enough(&self, limit: u32) -> u32 {
        if self.doubted { limit.div_ceil(2) } else { limit }
    }

    fn remember(&mut self, failed: bool) {
        self.latest = (self.latest << 1 | u32::from(failed)) & ((1 << LATEST) - 1);
        self.latest_count = self.latest_count.saturating_add(1);
    }

    fn forget(&mut self) {
        self.setbacks = 0;
        self.trips.clear();
        self.held = false;
        self.strict_until = None;
        self.probes_failed = 0;
    }

    /// In [0, 1); splitmix64.
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn reaches(part: u32, whole: u32, share: f64) -> bool {
    f64::from(part) >= share * f64::from(whole)
}

/// Longer than this from one wake-up to the next changes nothing that a client could see.
pub const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
