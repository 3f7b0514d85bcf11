//! The way back: verified passes of copied or made-up requests, then a ramp counted in requests and time.

use std::time::{Duration, Instant};

use super::{Around, Breaker, Fault, Permit, Reason, STRICT, Signal, State, Transition};

/// Copies on their way at once.
const IN_FLIGHT: u32 = 2;
/// Tries of one spell without success.
const TRIES: u32 = 20;
/// A spell without success ends after this many times `min_span`, or `PATIENCE_LEAST`.
const PATIENCE: u32 = 12;
const PATIENCE_LEAST: Duration = Duration::from_secs(5);
/// Where only the way was broken and what it leads to works another way, these prove it.
const LENIENT_PROBES: u32 = 2;
/// Without traffic a step is passed after this many times its length, with fewer requests.
const QUIET_STEPS: u32 = 6;
const QUIET_REQUESTS: u32 = 3;
/// Made-up requests that would have been due while nothing could be tried.
const UNTRIED_INTERVALS: u32 = 3;
/// Share of a step's requests that may fail, or come late.
const FAILED: f64 = 0.05;
/// This many times the requests of a step, and it proves nothing any more.
const STEP_REQUESTS: u32 = 5;

/// What a copied or made-up request showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An answer like any good one, in time.
    Pass,
    /// Good, but later than a recovering path may be.
    Slow,
    /// No answer, or none that could be given to a client.
    Fail(String),
    /// A rate limit, which says nothing of health; for how long.
    Limited(Duration),
    /// It showed nothing: our own bound, our key, a request the copy could not be made fit for.
    Unclear,
    /// It was not sent, and counts against no bound.
    Void,
}

/// Leave to send one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub(crate) permit: Permit,
    /// It counts for a ramp's step, not for passes.
    pub(crate) ramping: bool,
    /// No client's request.
    pub(crate) made_up: bool,
}

/// How far the way back is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Copied and made-up requests are to prove it.
    Shadowing {
        /// Verified passes in a row.
        passes: u32,
        /// As many are needed.
        needed: u32,
        /// Since the first of them.
        took: Duration,
        /// They must span as much at least.
        span: Duration,
        /// Until the next copy may be sent.
        next: Duration,
    },
    /// Users' requests return in steps.
    Ramping {
        /// From 1.
        step: usize,
        /// All of them.
        steps: usize,
        /// Good answers in this step.
        good: u32,
        /// As many are needed.
        needed: u32,
        /// In this step.
        took: Duration,
        /// It takes as long at least.
        length: Duration,
    },
}

#[derive(Debug)]
pub(super) struct Recovery {
    /// In a row.
    passes: u32,
    first_pass: Option<Instant>,
    tries: u32,
    in_flight: u32,
    /// Live requests copied since traffic stopped.
    mirrored: u32,
    next_at: Instant,
    paused_until: Instant,
    begun: Instant,
}

impl Recovery {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            passes: 0,
            first_pass: None,
            tries: 0,
            in_flight: 0,
            mirrored: 0,
            next_at: now,
            paused_until: now,
            begun: now,
        }
    }

    /// Another spell; what it may cost in all goes on.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self { mirrored: self.mirrored, next_at: self.next_at, ..Self::new(now) };
    }
}

#[derive(Debug)]
pub(super) struct Ramp {
    step: usize,
    since: Instant,
    good: u32,
    late: u32,
    failed: u32,
    in_flight: u32,
}

impl Ramp {
    pub(super) const fn new(now: Instant) -> Self {
        Self { step: 0, since: now, good: 0, late: 0, failed: 0, in_flight: 0 }
    }
}

impl Breaker {
    pub(super) fn step_share(&self) -> f64 {
        self.rules.recovery.ramp.get(self.ramp.step).copied().unwrap_or(1.0)
    }

    /// Leave to send a copy of a live request now, or a made-up one; `None`: not now.
    pub fn claim(&mut self, made_up: bool, now: Instant) -> Option<Claim> {
        self.claim_among(made_up, 1, now)
    }

    /// The same where `nodes` try it, each for itself: copies are so many times rarer.
    pub fn claim_among(&mut self, made_up: bool, nodes: u32, now: Instant) -> Option<Claim> {
        let permit = Permit { generation: self.generation };
        if self.forced {
            return None;
        }
        match self.state {
            State::Shadowing => {
                let capped = !made_up
                    && (self.local || self.recovery.mirrored >= self.rules.shadow_budget.per_recovery);
                let recovery = &mut self.recovery;
                if capped
                    || recovery.in_flight >= IN_FLIGHT
                    || now < recovery.next_at.max(recovery.paused_until)
                {
                    return None;
                }
                recovery.in_flight += 1;
                recovery.mirrored += u32::from(!made_up);
                if !made_up {
                    recovery.next_at = now + self.rules.recovery.shadow_every * nodes.max(1);
                }
                Some(Claim { permit, ramping: false, made_up })
            }
            State::Ramping if made_up && self.ramp.in_flight == 0 => {
                self.ramp.in_flight = 1;
                Some(Claim { permit, ramping: true, made_up })
            }
            State::Closed | State::Open | State::Ramping | State::Disabled => None,
        }
    }

    /// What came of it.
    pub fn judge(
        &mut self,
        claim: Claim,
        verdict: &Verdict,
        around: Around,
        now: Instant,
    ) -> Option<Transition> {
        if claim.permit.generation != self.generation {
            return None;
        }
        if claim.ramping {
            self.ramp.in_flight = 0;
            let signal = match verdict {
                Verdict::Pass => Signal::Good { slow: None, lagging: false, late: false },
                Verdict::Slow => Signal::Good { slow: None, lagging: false, late: true },
                Verdict::Fail(_) => Signal::Bad(Fault::Broken),
                Verdict::Limited(_) | Verdict::Unclear | Verdict::Void => return None,
            };
            return self.first_ramping(signal, now);
        }
        let recovery = &mut self.recovery;
        recovery.in_flight = recovery.in_flight.saturating_sub(1);
        if *verdict == Verdict::Void && !claim.made_up {
            recovery.mirrored = recovery.mirrored.saturating_sub(1);
            recovery.next_at = now;
        }
        self.verified(verdict, around, now)
    }

    fn verified(&mut self, verdict: &Verdict, around: Around, now: Instant) -> Option<Transition> {
        let recovery = &mut self.recovery;
        match verdict {
            Verdict::Pass => {
                recovery.passes += 1;
                recovery.first_pass.get_or_insert(now);
                self.prove(around, now)
            }
            Verdict::Slow => {
                recovery.tries += 1;
                self.unproven(now)
            }
            Verdict::Fail(why) => Some(self.trip(Reason::ShadowFailed, why.clone(), now)),
            Verdict::Limited(wait) => {
                recovery.paused_until = recovery.paused_until.max(now + *wait);
                None
            }
            Verdict::Unclear | Verdict::Void => None,
        }
    }

    /// A real request went through an open breaker because nothing else was left.
    pub(super) fn first_trickled(
        &mut self,
        signal: Signal,
        around: Around,
        now: Instant,
    ) -> Option<Transition> {
        match signal {
            Signal::Good { late, .. } => {
                if self.state == State::Open {
                    let spell =
                        self.go(State::Shadowing, Reason::Rested, "a request was answered".into(), now);
                    // What it proves is the next tick's to say: one call tells of one transition.
                    self.recovery.tries += u32::from(late);
                    self.recovery.passes += u32::from(!late);
                    self.recovery.first_pass = (!late).then_some(now);
                    return Some(spell);
                }
                self.verified(if late { &Verdict::Slow } else { &Verdict::Pass }, around, now)
            }
            Signal::Bad(_) if self.state == State::Shadowing => {
                self.verified(&Verdict::Fail("a request failed".into()), around, now)
            }
            Signal::Bad(_) => None,
        }
    }

    /// Verified passes in a row, for how many requests may go where nothing else is left.
    #[must_use]
    pub const fn passes(&self) -> u32 {
        match self.state {
            State::Shadowing => self.recovery.passes,
            State::Closed | State::Open | State::Ramping | State::Disabled => 0,
        }
    }

    /// How far the way back is; `None` in the states that are no part of it.
    #[must_use]
    pub fn progress(&self, now: Instant) -> Option<Progress> {
        let rules = &self.rules.recovery;
        let since = |at: Instant| now.saturating_duration_since(at);
        match self.state {
            State::Shadowing => {
                let Recovery { passes, first_pass, next_at, paused_until, .. } = self.recovery;
                Some(Progress::Shadowing {
                    passes,
                    needed: rules.successes,
                    took: first_pass.map(since).unwrap_or_default(),
                    span: rules.min_span,
                    next: next_at.max(paused_until).saturating_duration_since(now),
                })
            }
            State::Ramping => Some(Progress::Ramping {
                step: self.ramp.step + 1,
                steps: rules.ramp.len(),
                good: self.ramp.good,
                needed: rules.ramp_requests,
                took: since(self.ramp.since),
                length: self.step_length(now),
            }),
            State::Closed | State::Open | State::Disabled => None,
        }
    }

    /// Copies of live requests since traffic stopped.
    #[must_use]
    pub const fn mirrored(&self) -> u32 {
        self.recovery.mirrored
    }

    fn prove(&mut self, around: Around, now: Instant) -> Option<Transition> {
        let rules = &self.rules.recovery;
        let passes = self.recovery.passes;
        let span =
            self.recovery.first_pass.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
        let enough = passes >= rules.successes && span >= rules.min_span;
        let lenient = around.lenient && passes >= 1 && self.probes_passed >= LENIENT_PROBES;
        (enough || lenient).then(|| {
            self.go(State::Ramping, Reason::Proven, format!("{passes} verified passes over {span:.1?}"), now)
        })
    }

    fn unproven(&mut self, now: Instant) -> Option<Transition> {
        let patience = (self.rules.recovery.min_span * PATIENCE).max(PATIENCE_LEAST);
        let tries = self.recovery.tries;
        let begun = self.recovery.begun;
        (tries >= TRIES
            || (tries > 0 && self.recovery.passes == 0 && now.saturating_duration_since(begun) >= patience))
            .then(|| self.trip(Reason::ShadowUnproven, format!("{tries} answers came too late"), now))
    }

    pub(super) fn tick_shadowing(&mut self, around: Around, now: Instant) -> Option<Transition> {
        self.prove(around, now).or_else(|| self.unproven(now)).or_else(|| self.untriable(around, now))
    }

    /// Requests of a kind that can neither be copied nor made up would keep it here for ever: where probes pass, the
    /// ramp, whose requests can go elsewhere when they fail, has to do.
    fn untriable(&mut self, around: Around, now: Instant) -> Option<Transition> {
        let rules = &self.rules;
        let patience = rules.recovery.min_span
            + rules.synthetic.after_idle
            + rules.synthetic.interval * UNTRIED_INTERVALS;
        let alive = !around.probed || self.probes_passed >= LENIENT_PROBES;
        let long = now.saturating_duration_since(self.recovery.begun) >= patience;
        let untried = self.recovery.passes == 0 && self.recovery.tries == 0 && self.recovery.in_flight == 0;
        (around.untriable && alive && long && untried && now >= self.recovery.paused_until).then(|| {
            self.go(
                State::Ramping,
                Reason::Untriable,
                "probes pass and nothing else could be tried".into(),
                now,
            )
        })
    }

    /// A real request, or one standing in for it, during the ramp.
    pub(super) fn first_ramping(&mut self, signal: Signal, now: Instant) -> Option<Transition> {
        let ramp = &mut self.ramp;
        match signal {
            Signal::Good { late, .. } => {
                ramp.good += 1;
                ramp.late += u32::from(late);
                self.probes_failed = 0;
            }
            Signal::Bad(fault) => {
                ramp.failed += 1;
                if ramp.step == 0 || ramp.failed >= 2 || fault == Fault::Certificate {
                    let text = format!(
                        "{} of {} requests failed at step {}",
                        ramp.failed,
                        ramp.good + ramp.failed,
                        ramp.step + 1
                    );
                    return Some(self.trip(Reason::RampFailed, text, now));
                }
            }
        }
        self.tick_ramping(now)
    }

    fn step_length(&self, now: Instant) -> Duration {
        let strict = self.strict_until.is_some_and(|until| now < until);
        self.rules.recovery.ramp_step * if strict { STRICT } else { 1 }
    }

    pub(super) fn tick_ramping(&mut self, now: Instant) -> Option<Transition> {
        let length = self.step_length(now);
        let rules = &self.rules.recovery;
        let Ramp { step, since, good, late, failed, in_flight } = self.ramp;
        let took = now.saturating_duration_since(since);
        let sound = f64::from(failed) <= FAILED * f64::from(good + failed)
            && f64::from(late) <= FAILED * f64::from(good);
        let counted = good >= rules.ramp_requests
            || (took >= length * QUIET_STEPS && good >= QUIET_REQUESTS.min(rules.ramp_requests));
        if good >= rules.ramp_requests && late * 2 >= good
            || good >= rules.ramp_requests * STEP_REQUESTS && !sound
        {
            let text =
                format!("{late} of {good} answers came too late, {failed} failed, at step {}", step + 1);
            return Some(self.trip(Reason::RampFailed, text, now));
        }
        if took < length || !counted || !sound {
            return None;
        }
        if step + 1 >= rules.ramp.len() {
            return Some(self.go(State::Closed, Reason::Ramped, format!("{} steps", step + 1), now));
        }
        // Each step is a state of its own to late results: what was sent at a smaller share says as much.
        self.ramp = Ramp { step: step + 1, in_flight, ..Ramp::new(now) };
        None
    }
}
