//! Who tries what recovers: the holder of its lease, or, where there are no leases, each node by itself and more
//! seldom.
//!
//! A lease has its end with it, so that a process that was stopped for a while tries nothing by one it has lost. Taking
//! and renewing are the gateway's.

use std::collections::HashMap;
use std::time::Instant;

use super::SubjectName;
use crate::breaker::State;
use crate::models;
use crate::registry::{Registry, Subject};

impl Registry {
    /// What this node would try if it were the one to do so: what has rested and proves itself by copies alone.
    ///
    /// A rest ends a wish: another node that is done resting gets its turn, because this one may fail for reasons of its
    /// own.
    #[must_use]
    pub fn subjects_to_lease(&self) -> Vec<SubjectName> {
        let shadows =
            |subject: &Subject| self.gate(*subject).is_some_and(|gate| gate.view().state == State::Shadowing);
        self.subjects().filter(shadows).filter_map(|subject| self.name_of(subject)).collect()
    }

    /// Leases are in force: only what is among these, until its time, is tried by this node.
    pub fn leased(&self, held: &HashMap<SubjectName, Instant>) {
        let held = held.iter().filter_map(|(name, until)| Some((self.subject_of(name)?, *until))).collect();
        self.fleet().leases = Some(held);
    }

    /// There are no leases: each of `nodes` tries for itself, so many times as seldom.
    pub fn unleased(&self, nodes: u32) {
        let mut shared = self.fleet();
        shared.leases = None;
        shared.nodes = nodes;
    }

    /// Whether this node may send copies and made-up requests to what recovers.
    #[must_use]
    pub fn may_try(&self, subject: &SubjectName, now: Instant) -> bool {
        self.subject_of(subject).is_some_and(|subject| self.triers(subject, now).is_some())
    }

    /// How many nodes try a subject; `None`: another one does.
    pub(in crate::registry) fn triers(&self, subject: Subject, now: Instant) -> Option<u32> {
        // A ramp is each node's own, and what cannot be named to others is, too.
        let mine = self.gate(subject).is_none_or(|gate| gate.view().state != State::Shadowing)
            || matches!(subject, Subject::Service(_, models::OTHER));
        let shared = self.fleet();
        match &shared.leases {
            Some(held) => (mine || held.get(&subject).is_some_and(|until| now < *until)).then_some(1),
            None => Some(shared.nodes.max(1)),
        }
    }

    /// Who try without leases; 1 where there are leases.
    pub(in crate::registry) fn nodes_alone(&self) -> u32 {
        let shared = self.fleet();
        if shared.leases.is_some() { 1 } else { shared.nodes.max(1) }
    }
}
