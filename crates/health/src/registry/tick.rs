//! What happens without any request: rests end, ramps rise, frozen paths are found, blame is shared out, traffic
//! is divided anew.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Registry, Subject};
use crate::breaker::{Reason, State, TICK};
use crate::cell::KINDS;
use crate::evidence::{self, Culprit, Experience};

/// A path is frozen when this many wait in vain, or all where two do.
const STALLED: u32 = 5;
const STALLED_ALL: u32 = 2;
/// Waiting this many times the usual is in vain.
const IN_VAIN: u32 = 3;
/// Failures of the last sixth of a breaker's window (10 s of 60 s) are set beside each other.
const CORRELATED: u32 = 6;
const IN_A_ROW: u32 = 2;

impl super::PathHealth {
    /// Something was answered over it.
    pub(super) fn is_good(&self, now: Instant) {
        self.good.set(now);
        self.bad_in_a_row.store(0, Relaxed);
    }

    /// A failure that speaks of it.
    pub(super) fn is_bad(&self, now: Instant) {
        self.bad.set(now);
        self.bad_in_a_row.fetch_add(1, Relaxed);
    }
}

impl Registry {
    /// Runs for as long as the process lives. What it does takes microseconds per path.
    pub async fn run(self: Arc<Self>, clock: impl Fn() -> Instant) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.tick(clock());
        }
    }

    /// One step, at `now`.
    pub fn tick(&self, now: Instant) {
        self.look_around();
        self.follow_fleet(now);
        let mut recovering = 0;
        for (path, health) in self.paths.iter().enumerate() {
            let subject = Subject::Path(path);
            let around = self.around(subject);
            let change = health.gate.with(now, |breaker| breaker.tick(around, now));
            self.note(subject, change);
            recovering += u32::from(health.gate.view().state == State::Shadowing);
        }
        for upstream in 0..self.upstreams.len() {
            let probed = self.paths.iter().any(|path| path.upstream == upstream && path.probed);
            for (model, service) in self.services(upstream) {
                let subject = Subject::Service(upstream, model);
                let mut around = self.around(subject);
                around.probed = probed;
                let change = service.gate.with(now, |breaker| breaker.tick(around, now));
                self.note(subject, change);
                recovering += u32::from(service.gate.view().state == State::Shadowing);
            }
        }
        self.recovering.store(recovering, Relaxed);
        self.find_stalled(now);
        self.share_out_blame(now);
        self.divide_all(now);
    }

    /// Which paths and upstreams are not the last that could take their routes' traffic.
    pub(super) fn look_around(&self) {
        let admits = |path: &usize| self.paths.get(*path).is_some_and(|health| health.gate.view().admits());
        let replaced = |of: &dyn Fn(&usize) -> bool| {
            let mut routes = self.routes.iter().filter(|route| route.paths.iter().any(of)).peekable();
            // What no route names stands in for others: nothing stands in for it.
            routes.peek().is_some()
                && routes.all(|route| {
                    let stands_in = |paths: &Vec<usize>| paths.iter().any(|path| !of(path) && admits(path));
                    route.paths.iter().any(|other| !of(other) && admits(other))
                        || route.fallback.iter().any(stands_in)
                })
        };
        for (path, health) in self.paths.iter().enumerate() {
            health.others.store(replaced(&|other| *other == path), Relaxed);
        }
        for (index, upstream) in self.upstreams.iter().enumerate() {
            let of = |path: &usize| self.paths.get(*path).is_some_and(|health| health.upstream == index);
            upstream.others.store(replaced(&of), Relaxed);
        }
    }

    /// A window of outcomes is blind to requests that only wait: these are counted while they do.
    fn find_stalled(&self, now: Instant) {
        for (path, health) in self.paths.iter().enumerate() {
            let Some(upstream) = self.upstreams.get(health.upstream) else { continue };
            for (model, service) in self.services(health.upstream) {
                let Some(cell) = self.known_cell(path, model) else { continue };
                for kind in 0..KINDS {
                    let Some(waiting) = cell.waiting.get(kind) else { continue };
                    let all = waiting.all();
                    if all == 0 {
                        continue;
                    }
                    let breaker = &upstream.rules.breaker;
                    if !health.gate.view().admits() || !service.gate.view().admits() {
                        // It opened for another reason, and who still waits behind it waits in vain.
                        if waiting.older_than(breaker.stalled_after, now) > 0 {
                            let shut = if health.gate.view().admits() { &service.gate } else { &health.gate };
                            shut.abandoned.notify_waiters();
                        }
                        continue;
                    }
                    let patience = match service.slowest_p95(kind, now) {
                        Some(usual) => usual * IN_VAIN,
                        // How long a plain answer may take, or one that is thought over first, nobody can say.
                        None if kind == 0 || service.reasons() => continue,
                        None => breaker.slow_after,
                    };
                    let patience = patience.max(breaker.stalled_after);
                    let old = waiting.older_than(patience, now);
                    let silent = |since: Option<Duration>| since.is_none_or(|since| since >= patience);
                    if old > 0 && silent(cell.answered.since(now)) {
                        health.suspect.notify_one();
                    }
                    let stalled = old >= STALLED || (old == all && old >= STALLED_ALL);
                    if !stalled || !silent(cell.answered.since(now)) {
                        continue;
                    }
                    // A long plain answer is silent for as long as it is made: its upstream must be so otherwise, too.
                    if kind == 0 && health.probed && health.answers_probes.load(Relaxed) {
                        continue;
                    }
                    let evidence =
                        format!("{old} requests wait for over {patience:.1?} and nothing is answered");
                    // Where other models are answered over the same path, and this one over no other, it is the model.
                    let begun = now.checked_sub(patience).unwrap_or(now);
                    let elsewhere = self.answered_elsewhere(path, model, begun, now);
                    let (subject, gate) = if elsewhere || silent(health.good.since(now)) {
                        (Subject::Path(path), &health.gate)
                    } else {
                        (Subject::Service(health.upstream, model), &service.gate)
                    };
                    health.is_bad(now);
                    let change = gate.with(now, |breaker| breaker.open(Reason::Stalled, evidence, now));
                    self.note(subject, change);
                }
            }
        }
    }

    fn share_out_blame(&self, now: Instant) {
        let experience = |health: &super::PathHealth| Experience {
            upstream: health.upstream,
            egress: health.egress,
            good: health.good.since(now),
            // One failure alone happens on any line.
            bad: health.bad.since(now).filter(|_| health.bad_in_a_row.load(Relaxed) >= IN_A_ROW),
        };
        let paths: Vec<Experience> = self.paths.iter().map(experience).collect();
        let within =
            self.upstreams.iter().map(|u| u.rules.breaker.window).min().unwrap_or_default() / CORRELATED;
        self.cut_off.store(evidence::is_cut_off(&paths, within) && !self.some_answers(within, now), Relaxed);
        for culprit in evidence::correlate(&paths, within) {
            match culprit {
                Culprit::Egress(egress) => {
                    self.open_all(
                        |health| health.egress == egress,
                        Reason::Egress,
                        "several upstreams fail over it and work over others",
                        now,
                    );
                }
                Culprit::Upstream(upstream) => {
                    self.open_all(
                        |health| health.upstream == upstream,
                        Reason::Upstream,
                        "it fails over several egresses that work for others",
                        now,
                    );
                }
            }
        }
    }

    /// Some path without traffic answers its probes. Those that were not asked `within` this time are asked at once.
    fn some_answers(&self, within: Duration, now: Instant) -> bool {
        let mut some = false;
        for health in self.paths.iter().filter(|health| health.probed) {
            let (reached, bad) = (health.reached.since(now), health.bad.since(now));
            if reached.is_none_or(|reached| reached > within) && bad.is_none_or(|bad| bad > within) {
                health.suspect.notify_one();
            }
            some |= reached.is_some_and(|reached| bad.is_none_or(|bad| reached < bad));
        }
        some
    }

    pub(super) fn open_all(
        &self,
        which: impl Fn(&super::PathHealth) -> bool,
        reason: Reason,
        evidence: &str,
        now: Instant,
    ) {
        for (path, health) in self.paths.iter().enumerate().filter(|(_, health)| which(health)) {
            let change = health.gate.with(now, |breaker| breaker.open(reason, evidence.to_owned(), now));
            self.note(Subject::Path(path), change);
        }
    }
}
