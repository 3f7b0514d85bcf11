//! Leases: of several nodes one tries what recovers.
//!
//! A lease counts from before the call that took it, by this node's own clock, and what may be tried is decided with
//! that time in hand: a process that was stopped and goes on finds its leases lost before it does anything.
//! Canaries of models of ours are not leased: each node must know that its own way to them works.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tidegate_health::registry::SubjectName;
use tidegate_store::Failure;
use tokio::time::{Instant, sleep};

use super::{Fleet, LIVES, WITHIN};
use crate::gateway::Gateway;
use crate::live::Live;

/// How often it is looked what is to be leased.
const LOOK: Duration = Duration::from_millis(250);
/// Held ones are renewed this long after they were taken, and others asked for again.
const RENEW: Duration = Duration::from_secs(2);
/// After a call that got no answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Leases of one node.
const MAX: usize = 64;
/// Calls at once.
const CALLS: usize = 8;

pub(super) type Leases = HashMap<SubjectName, Lease>;

/// What is known of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// Held until then; `None`: another node has it.
    until: Option<Instant>,
    /// When the next call is due.
    next: Instant,
}

impl Lease {
    /// What a call that was sent at `sent` makes of it.
    pub(super) fn after(before: Option<Self>, result: &Result<bool, Failure>, sent: Instant) -> Self {
        match result {
            Ok(true) => Self { until: Some(sent + LIVES), next: sent + RENEW },
            Ok(false) => Self { until: None, next: sent + RENEW },
            Err(_) => Self { until: before.and_then(|lease| lease.until), next: sent + AGAIN },
        }
    }

    /// Until when it may be used, if it may.
    pub(super) fn held(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }
}

/// What the store calls it: by the upstream, so that of all its paths and models one node alone tries any.
pub(super) fn name_of(subject: &SubjectName) -> String {
    let upstream = match &subject.model {
        Some(_) => subject.name.as_str(),
        None => subject.name.rsplit_once('@').map_or(subject.name.as_str(), |(upstream, _)| upstream),
    };
    format!("shadow:{upstream}")
}

impl Fleet {
    pub(super) async fn leases(&self, live: &Live) {
        let drain = Arc::clone(&live.gateway().drain);
        let mut leaving = false;
        loop {
            if self.is_in_touch() {
                self.lease(&live.gateway()).await;
            }
            tokio::select! {
                () = sleep(LOOK.mul_f64(0.8 + 0.4 * fastrand::f64())) => {}
                // Another node may have them at once.
                () = drain.begun.cancelled(), if !leaving => leaving = true,
            }
        }
    }

    /// Takes and renews what is wanted, and gives back what is not.
    async fn lease(&self, gateway: &Gateway) {
        let mut wanted = gateway.health.subjects_to_lease();
        if gateway.drain.is_draining() {
            wanted.clear();
        }
        wanted.truncate(MAX);
        let now = Instant::now();
        let (due, dropped) = {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let dropped: Vec<SubjectName> = leases
                .extract_if(|subject, _| !wanted.contains(subject))
                .map(|(subject, _)| subject)
                .collect();
            let kept: HashSet<String> = wanted.iter().map(name_of).collect();
            wanted.retain(|subject| leases.get(subject).is_none_or(|lease| lease.next <= now));
            let dropped: HashSet<String> = dropped.iter().map(name_of).collect();
            (wanted, dropped.difference(&kept).cloned().collect())
        };
        let take = |subject: SubjectName| async move {
            let name = name_of(&subject);
            let sent = Instant::now();
            let result = self.store.lease(&name, self.instance, LIVES, WITHIN).await;
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let before = leases.get(&subject).copied();
            leases.insert(subject, Lease::after(before, &result, sent));
        };
        stream::iter(due).for_each_concurrent(CALLS, take).await;
        self.tell_health(gateway);
        self.release(dropped).await;
    }

    fn tell_health(&self, gateway: &Gateway) {
        let now = Instant::now();
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let held =
            |(subject, lease): (&SubjectName, &Lease)| Some((subject.clone(), lease.held(now)?.into_std()));
        let held = leases.iter().filter_map(held).collect();
        drop(leases);
        gateway.health.leased(&held);
    }

    /// Gives all back, and tries nothing more.
    pub(super) async fn release_all(&self, gateway: &Gateway) {
        let all = std::mem::take(&mut *self.leases.lock().unwrap_or_else(PoisonError::into_inner));
        gateway.health.leased(&HashMap::new());
        self.release(all.keys().map(name_of).collect()).await;
    }

    async fn release(&self, names: HashSet<String>) {
        let release = |name: String| async move {
            // One that is not given back ends by itself.
            let _ = self.store.release(&name, self.instance, WITHIN).await;
        };
        stream::iter(names).for_each_concurrent(CALLS, release).await;
    }
}
