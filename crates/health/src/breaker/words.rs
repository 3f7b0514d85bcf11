//! The words a breaker is spoken to in, and answers in: states, reasons, signals, transitions.

use std::time::Instant;

/// Where traffic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Traffic flows.
    Closed,
    /// None.
    Open,
    /// Only copies and made-up requests.
    Shadowing,
    /// A share that rises.
    Ramping,
    /// Taken out by an operator.
    Disabled,
}

impl State {
    /// The word of the interface.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Shadowing => "shadowing",
            Self::Ramping => "ramping",
            Self::Disabled => "disabled",
        }
    }

    /// The state a word stands for.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// All of them, best first.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Ramping, Self::Shadowing, Self::Open, Self::Disabled];
}

/// Why a state was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Failures in a row.
    Consecutive,
    /// Too large a share of failures.
    Rate,
    /// Too many streams broken off.
    Cuts,
    /// Too many slow answers.
    Slow,
    /// Requests wait and nothing answers.
    Stalled,
    /// Active probes failed.
    Probe,
    /// Pages instead of answers.
    Page,
    /// The certificate is not acceptable.
    Certificate,
    /// The egress is to blame.
    Egress,
    /// The upstream is to blame, over every egress.
    Upstream,
    /// The proxy refused our login.
    ProxyLogin,
    /// A mirrored or made-up request failed.
    ShadowFailed,
    /// Mirrored requests did not prove anything in their time.
    ShadowUnproven,
    /// Real requests failed during the ramp.
    RampFailed,
    /// The rest is over.
    Rested,
    /// Probes answer again.
    ProbesPass,
    /// Enough verified passes.
    Proven,
    /// Probes pass, and nothing could be sent that would prove more.
    Untriable,
    /// The ramp was walked to its end.
    Ramped,
    /// Other nodes: enough of them have it open, or one of them has proven it.
    Fleet,
    /// An operator.
    Operator,
    /// The configuration has it since just now.
    New,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; Self::New as usize + 1] = [
        Self::Consecutive,
        Self::Rate,
        Self::Cuts,
        Self::Slow,
        Self::Stalled,
        Self::Probe,
        Self::Page,
        Self::Certificate,
        Self::Egress,
        Self::Upstream,
        Self::ProxyLogin,
        Self::ShadowFailed,
        Self::ShadowUnproven,
        Self::RampFailed,
        Self::Rested,
        Self::ProbesPass,
        Self::Proven,
        Self::Untriable,
        Self::Ramped,
        Self::Fleet,
        Self::Operator,
        Self::New,
    ];

    /// For logs, metrics and the status page.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::Rate => "failure_rate",
            Self::Cuts => "cut_streams",
            Self::Slow => "slow_calls",
            Self::Stalled => "stalled",
            Self::Probe => "probe",
            Self::Page => "html",
            Self::Certificate => "certificate",
            Self::Egress => "egress",
            Self::Upstream => "upstream",
            Self::ProxyLogin => "proxy_login",
            Self::ShadowFailed => "shadow_failed",
            Self::ShadowUnproven => "shadow_unproven",
            Self::RampFailed => "ramp_failed",
            Self::Rested => "rested",
            Self::ProbesPass => "probes_pass",
            Self::Proven => "proven",
            Self::Untriable => "probes_alone",
            Self::Ramped => "ramped",
            Self::Fleet => "fleet",
            Self::Operator => "operator",
            Self::New => "new",
        }
    }
}

/// What one attempt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The first content came.
    Good {
        /// Later than the operator's bound for slow calls; `None` where the time says nothing of that.
        slow: Option<bool>,
        /// Far later than when all was well.
        lagging: bool,
        /// Later than a recovering path may be.
        late: bool,
    },
    /// It failed.
    Bad(Fault),
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was sent: no connection.
    Unreached,
    /// Sent, and no usable answer.
    Broken,
    /// A page came instead of an answer.
    Page,
    /// The certificate is bad.
    Certificate,
    /// The proxy refused our login.
    ProxyLogin,
}

/// What a result was sent under, to be shown with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Of the breaker.
    pub generation: u32,
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// The counts or times that decided.
    pub evidence: String,
    /// When.
    pub at: Instant,
}

/// What surrounds a breaker when it decides.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around {
    /// Another path, or a fallback, could take the traffic.
    pub others: bool,
    /// Active probes run against it.
    pub probed: bool,
    /// What it leads to is known to work another way, so that one pass proves this way.
    pub lenient: bool,
    /// Nothing can be copied or made up for what clients ask of it.
    pub untriable: bool,
}
