//! What to try next: a pure function of what one request has met so far.
//!
//! Owns the list of paths this request has tried and the rules that bound it: attempts, attempts whose fate
//! is unknown, never the same path twice while another exists, waits on the same upstream only. It neither
//! sends nor waits. Not here: whether a path is healthy, which keys rest (the caller says what is usable).

use std::time::Duration;

use crate::backoff::Backoff;
use crate::outcome::{Class, Failure};

/// At most this many attempts may end without our knowing whether the upstream did the work: each may have
/// been billed.
const UNKNOWN_FATES: u32 = 2;
/// Moves to another key are no repeats of what failed, but even a large pool is walked only this far.
const KEY_MOVES: u32 = 8;
/// Moves away from what should never have cost the client a try, at most.
const FORGIVEN: u32 = 2;
/// A rate-limited upstream is waited for only this long when nothing else can answer.
const LONGEST_COOL_WAIT: Duration = Duration::from_secs(5);

/// One path a route may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the path on this node.
    pub path: usize,
    /// Index of its upstream.
    pub upstream: usize,
    /// Index of its egress.
    pub egress: usize,
}

/// A route's rules for trying again.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// All tries together, at least 1.
    pub attempts: u32,
    /// Waits before the same upstream is asked again.
    pub backoff: Backoff,
}

/// What this request allows, beside its route's rules.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caution {
    /// Must not be sent again once an upstream may have seen it.
    pub pinned: bool,
    /// The client is itself repeating: an upstream that failed is not asked twice.
    pub client_repeats: bool,
}

/// What the caller knows at the moment of deciding.
pub trait Surroundings {
    /// When this path could take the request: now (zero), after a wait, or not at all.
    fn ready_in(&self, candidate: Candidate) -> Option<Duration>;
    /// The path that health and load choose for a request's first try; `None` leaves it to the order of the
    /// candidates.
    fn pick(&mut self) -> Option<Candidate> {
        None
    }
    /// The path has still to prove itself: a repeat over it is charged.
    fn in_trouble(&self, candidate: Candidate) -> bool;
    /// How well it answers; smaller is better.
    fn score(&self, _candidate: Candidate) -> u32 {
        0
    }
    /// Asks the route's retry budget for one repeat.
    fn spend(&mut self) -> bool;
    /// What is left of the request's deadline.
    fn time_left(&self) -> Duration;
    /// A number in [0, 1).
    fn random(&mut self) -> f64;
}

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try this path after a wait.
    Try {
        /// The path.
        candidate: Candidate,
        /// Zero: at once.
        after: Duration,
    },
    /// Give the client what there is.
    Stop(Stop),
}

/// Why nothing more is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No path can take the request.
    NothingUsable,
    /// The soonest path is ready only after this long, which is more than a client should wait.
    Cooling(Duration),
    /// Attempts, or attempts of unknown fate, are used up.
    AttemptsSpent,
    /// The route's retry budget is used up.
    BudgetSpent,
    /// An upstream may have seen the request and it must not be sent twice.
    Pinned,
}

impl Stop {
    /// For logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NothingUsable => "nothing_usable",
            Self::Cooling(_) => "cooling",
            Self::AttemptsSpent => "attempts_spent",
            Self::BudgetSpent => "budget_spent",
            Self::Pinned => "pinned",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Tried {
    candidate: Candidate,
    times: u32,
}

/// The tries of one request.
#[derive(Debug)]
pub struct Plan<'a> {
    candidates: &'a [Candidate],
    rules: Rules,
    caution: Caution,
    tried: Vec<Tried>,
    attempts: u32,
    key_moves: u32,
    unknown_fates: u32,
    free_move_used: bool,
    /// Moves to paths not yet asked, away from where nothing was sent.
    unsent_moves: u32,
    forgiven: u32,
    forgive: bool,
    sent: bool,
}

impl<'a> Plan<'a> {
    /// `candidates` are in order of preference.
    #[must_use]
    pub const fn new(candidates: &'a [Candidate], rules: Rules, caution: Caution) -> Self {
        Self {
            candidates,
            rules,
            caution,
            tried: Vec::new(),
            attempts: 0,
            key_moves: 0,
            unknown_fates: 0,
            free_move_used: false,
            unsent_moves: 0,
            forgiven: 0,
            forgive: false,
            sent: false,
        }
    }

    /// Attempts begun so far.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Where the request goes first.
    pub fn first(&mut self, around: &mut impl Surroundings) -> Next {
        if let Some(candidate) = around.pick() {
            self.begin(candidate);
            return Next::Try { candidate, after: Duration::ZERO };
        }
        self.choose(around, None)
    }

    /// What was being waited for may not be asked any more: what else is left, at once. Its try is given back and nothing
    /// is paid again. Who asks `candidate` all the same says so by [`Plan::also`].
    pub fn instead(&mut self, candidate: Candidate, around: &mut impl Surroundings) -> Next {
        self.attempts = self.attempts.saturating_sub(1);
        if let Some(tried) = self.tried.iter_mut().find(|tried| tried.candidate == candidate) {
            tried.times = tried.times.saturating_sub(1);
        }
        self.choose(around, None)
    }

    /// Another path is tried beside the one under way, or took over from it.
    pub fn also(&mut self, candidate: Candidate) {
        self.begin(candidate);
    }

    /// The failure told next befell the request only because of a decision of ours (a path that was still proving
    /// itself, a frozen one that others were stuck on): the move away is neither counted nor charged.
    pub const fn forgive(&mut self) {
        if self.forgiven < FORGIVEN {
            self.forgiven += 1;
            self.forgive = true;
        }
    }

    /// Where it goes after `candidate` failed.
    pub fn after(&mut self, candidate: Candidate, failure: Failure, around: &mut impl Surroundings) -> Next {
        let class = failure.class;
        self.sent |= !class.never_sent();
        self.unknown_fates += u32::from(class.unknown_fate() && !self.forgive);
        if self.caution.pinned && self.sent && !class.of_the_key() {
            return Next::Stop(Stop::Pinned);
        }
        let may_move_on = self.may_change_key(class) || (class.never_sent() && self.has_untried());
        if self.counted() >= self.rules.attempts + u32::from(may_move_on)
            || self.unknown_fates >= UNKNOWN_FATES
        {
            return Next::Stop(Stop::AttemptsSpent);
        }
        let next = self.choose(around, Some((candidate, failure)));
        self.forgive = false;
        next
    }

    /// Attempts that `Rules::attempts` bounds.
    const fn counted(&self) -> u32 {
        self.attempts.saturating_sub(self.key_moves + self.forgiven + self.unsent_moves)
    }

    fn choose(&mut self, around: &mut impl Surroundings, last: Option<(Candidate, Failure)>) -> Next {
        if around.time_left().is_zero() {
            return Next::Stop(Stop::AttemptsSpent);
        }
        let mut best: Option<(Rank, Candidate, Duration)> = None;
        for candidate in self.candidates {
            let Some(ready) = around.ready_in(*candidate) else { continue };
            let rank = self.rank(*candidate, ready, last, around);
            if best.as_ref().is_none_or(|(held, ..)| rank < *held) {
                best = Some((rank, *candidate, ready));
            }
        }
        let Some((_, candidate, ready)) = best else { return Next::Stop(Stop::NothingUsable) };
        if ready > LONGEST_COOL_WAIT.min(around.time_left() / 4) {
            return Next::Stop(Stop::Cooling(ready));
        }
        let Some((from, failure)) = last else {
            self.begin(candidate);
            return Next::Try { candidate, after: ready };
        };
        let class = failure.class;
        let again = self.upstream_times(candidate.upstream) > 0;
        if class == Class::ModelNotFound && again {
            return Next::Stop(Stop::NothingUsable);
        }
        if again && !self.forgive && self.caution.client_repeats && !class.never_sent() && !class.of_the_key()
        {
            return Next::Stop(Stop::AttemptsSpent);
        }
        if !self.forgive && !self.is_free(candidate, class, again, around) && !around.spend() {
            return Next::Stop(Stop::BudgetSpent);
        }
        // Another egress says nothing about an upstream that answered and failed; another upstream does.
        let same_trouble = candidate == from || (again && !class.never_sent() && !class.of_the_key());
        let mut after = ready;
        if same_trouble && !class.of_the_key() {
            let wait = self.rules.backoff.wait(self.times(candidate).saturating_sub(1), around.random());
            after = after.max(wait).max(failure.retry_after.unwrap_or_default());
        }
        // No client should wait longer than this for one upstream's recovery.
        if after > LONGEST_COOL_WAIT.min(around.time_left() / 4) {
            return Next::Stop(Stop::Cooling(after));
        }
        if self.may_change_key(class) && after.is_zero() {
            self.key_moves += 1;
        } else if class.never_sent() && self.times(candidate) == 0 && self.counted() >= self.rules.attempts {
            // It cost no upstream anything, and another may still answer.
            self.unsent_moves += 1;
        } else if self.counted() >= self.rules.attempts {
            return Next::Stop(Stop::AttemptsSpent);
        }
        self.begin(candidate);
        Next::Try { candidate, after }
    }

    fn has_untried(&self) -> bool {
        self.candidates.iter().any(|candidate| self.times(*candidate) == 0)
    }

    const fn may_change_key(&self, class: Class) -> bool {
        class.of_the_key() && self.key_moves < KEY_MOVES
    }

    /// A move that adds no load to a failing upstream is not charged: to one that this request has not yet
    /// asked and that is not in trouble, to another key, or (once) after a failure that sent nothing.
    fn is_free(&mut self, to: Candidate, class: Class, again: bool, around: &impl Surroundings) -> bool {
        if class.of_the_key() || class == Class::Busy || (!again && !around.in_trouble(to)) {
            return true;
        }
        class.never_sent() && !std::mem::replace(&mut self.free_move_used, true)
    }

    fn rank(
        &self,
        candidate: Candidate,
        ready: Duration,
        last: Option<(Candidate, Failure)>,
        around: &impl Surroundings,
    ) -> Rank {
        let (unproven, score) = (around.in_trouble(candidate), around.score(candidate));
        let waits = ready > Duration::ZERO;
        let Some((from, failure)) = last else {
            return Rank { waits, unproven, score, ready, ..Rank::default() };
        };
        let same_upstream = candidate.upstream == from.upstream;
        let same_egress = candidate.egress == from.egress;
        let class = failure.class;
        // What the failure speaks of is left behind: the way out, the upstream, or only the key.
        let in_blame = if class.of_the_key() {
            u8::from(!same_upstream)
        } else if class.never_sent() && class != Class::Busy {
            u8::from(same_egress)
        } else {
            u8::from(same_upstream)
        };
        let times = if class.of_the_key() && same_upstream && candidate == from {
            // The same path with another key is a new try.
            0
        } else {
            self.times(candidate)
        };
        // Two failures behind different egresses: it is time for another upstream.
        let upstream_times =
            if class.of_the_key() { 0 } else { self.upstream_times(candidate.upstream).saturating_sub(1) };
        Rank { waits, times, unproven, upstream_times, in_blame, score, ready }
    }

    fn begin(&mut self, candidate: Candidate) {
        self.attempts += 1;
        match self.tried.iter_mut().find(|t| t.candidate == candidate) {
            Some(tried) => tried.times += 1,
            None => self.tried.push(Tried { candidate, times: 1 }),
        }
    }

    fn times(&self, candidate: Candidate) -> u32 {
        self.tried.iter().find(|t| t.candidate == candidate).map_or(0, |t| t.times)
    }

    fn upstream_times(&self, upstream: usize) -> u32 {
        self.tried.iter().filter(|t| t.candidate.upstream == upstream).map(|t| t.times).sum()
    }
}

/// Smaller is better; the order of the fields is the order of importance.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    waits: bool,
    times: u32,
    unproven: bool,
    upstream_times: u32,
    in_blame: u8,
    score: u32,
    ready: Duration,
}

#[cfg(test)]
mod tests;
