//! What a breaker is told rather than sees: by the registry, by peers, by an operator, by a new configuration.
//!
//! Not here: what it makes of its own evidence (`super`) and how it recovers (`recovery`).

use std::sync::Arc;
use std::time::Instant;

use tidegate_config::used::Health;

use super::{Breaker, Reason, State, Transition};
use crate::window::Window;

impl Breaker {
    /// Opens for a reason found elsewhere. `None` where no traffic flows anyway.
    pub fn open(&mut self, reason: Reason, evidence: String, now: Instant) -> Option<Transition> {
        matches!(self.state, State::Closed | State::Ramping).then(|| self.trip(reason, evidence, now))
    }

    /// Ramps up on the word of a peer that has proven it. `None` where traffic flows, an operator holds it, or this
    /// node's own probes fail: the peer's way to it is not this one.
    pub fn adopt(&mut self, evidence: String, now: Instant) -> Option<Transition> {
        let waits = matches!(self.state, State::Open | State::Shadowing) && !self.forced;
        (waits && self.probes_failed == 0).then(|| self.go(State::Ramping, Reason::Fleet, evidence, now))
    }

    /// The state in which an operator holds it.
    #[must_use]
    pub const fn forced(&self) -> Option<State> {
        if self.forced { Some(self.state) } else { None }
    }

    /// Nothing is known of what it stands for, and users have others: it begins on the ramp.
    pub fn begin(&mut self, now: Instant) -> Transition {
        self.go(State::Ramping, Reason::New, String::new(), now)
    }

    /// Goes on by other rules, wherever it stands.
    pub fn rule(&mut self, rules: Arc<Health>, local: bool, now: Instant) {
        if rules.breaker.window != self.rules.breaker.window {
            let window = rules.breaker.window;
            self.firsts = Window::new(window, now);
            self.ends = Window::new(window * 2, now);
        }
        (self.rules, self.local) = (rules, local);
    }

    /// An operator takes it out (`Disabled`), opens it, closes it, or (`None`) hands it back to the machine, which
    /// then ramps it up.
    pub fn force(&mut self, state: Option<State>, now: Instant) -> Option<Transition> {
        let to = match state {
            Some(State::Shadowing | State::Ramping) => return None,
            Some(State::Closed) => {
                self.forget();
                State::Closed
            }
            Some(to) => to,
            None if self.forced => State::Ramping,
            None => return None,
        };
        self.forced = matches!(to, State::Disabled | State::Open);
        if self.forced {
            self.reason = Some(Reason::Operator);
            self.evidence.clear();
        }
        (to != self.state).then(|| self.go(to, Reason::Operator, String::new(), now))
    }
}
