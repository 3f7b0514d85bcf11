//! Leases: for a fast limit the node takes ahead what the next moments need, so that most requests are decided
//! without the store. What is leased is gone from the shared counter at once; so nodes together exceed a limit by no
//! more than what they hold, each at most 100 ms of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::rule::{Applies, Name, full};
use crate::charge::{Counter, Standing};

/// What is not used in this time goes back.
const VALID: Duration = Duration::from_secs(1);
/// More is fetched when less than this part is left.
const LOW: f64 = 0.25;
/// Leases held at once; the counters of more are charged for each request.
const LEASES_MOST: usize = 10_000;

/// What this node holds of one counter.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) applies: Applies,
    pub(super) counter: Counter,
    /// One charge at a time.
    pub(super) turn: Arc<Semaphore>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    left: f64,
    size: f64,
    until: Instant,
    /// What those who wait for their turn ask for, together.
    needed: f64,
    /// To be taken from the shared counter; below 0: to be given back.
    due: f64,
    standing: Option<(Standing, Instant)>,
}

impl Lease {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `cost`, or nothing. `Some(true)`: and more should be fetched.
    pub(super) fn take(&self, cost: f64, now: Instant) -> Option<bool> {
        let mut held = self.held();
        held.expire(now);
        (held.left >= cost).then(|| {
            held.left -= cost;
            held.left < held.size * LOW
        })
    }

    /// `cost` is waited for until what this gives is dropped: whoever charges meanwhile asks for it as well.
    pub(super) fn need(self: &Arc<Self>, cost: f64) -> Needed {
        self.held().needed += cost;
        Needed { lease: Arc::clone(self), cost }
    }

    /// How much to take ahead: at most `most`, half of a fair part of what is left, and a unit in any case; more only
    /// for those who wait for it.
    pub(super) fn wants(&self, most: f64, nodes: u32, now: Instant) -> f64 {
        let mut held = self.held();
        held.expire(now);
        let left = held.standing.map_or(full(self.counter), |(standing, _)| standing.left);
        held.size = most.min(left / (2.0 * f64::from(nodes.max(1)))).floor().max(1.0);
        (held.size.max(held.needed.ceil()) - held.left).max(0.0).floor()
    }

    /// A charge came back with `standing`.
    pub(super) fn fill(&self, standing: Standing, now: Instant) {
        let mut held = self.held();
        held.left += standing.extra.max(0.0);
        held.until = now + VALID;
        held.standing = Some((standing, now));
    }

    /// How the counter stood last, with what is held of it.
    pub(super) fn standing(&self, now: Instant) -> Option<Standing> {
        let held = self.held();
        let (standing, at) = held.standing?;
        let reset = standing.reset.saturating_sub(now.saturating_duration_since(at));
        Some(Standing { left: standing.left + held.left, reset, ..standing })
    }

    /// `charged` was taken, `used` is what it came to. What comes back stays here as far as a lease may hold it.
    pub(super) fn settle(&self, charged: f64, used: f64, now: Instant) {
        let mut held = self.held();
        held.expire(now);
        let more = used - charged;
        let kept = if more > 0.0 {
            more.min(held.left)
        } else if now < held.until {
            more.max(-(held.size - held.left).max(0.0))
        } else {
            0.0
        };
        held.left -= kept;
        held.due += more - kept;
    }

    /// What the shared counter is yet to hear; what is no longer valid, or with `all` everything, is given back.
    pub(super) fn due(&self, all: bool, now: Instant) -> f64 {
        let mut held = self.held();
        if all {
            held.until = now;
        }
        held.expire(now);
        std::mem::take(&mut held.due)
    }
}

impl Held {
    fn expire(&mut self, now: Instant) {
        if now >= self.until {
            self.due -= std::mem::take(&mut self.left);
        }
    }
}

/// What somebody waits for.
#[derive(Debug)]
pub(super) struct Needed {
    lease: Arc<Lease>,
    cost: f64,
}

impl Drop for Needed {
    fn drop(&mut self) {
        let mut held = self.lease.held();
        held.needed = (held.needed - self.cost).max(0.0);
    }
}

/// All leases of a node.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<Name, Arc<Lease>>>);

impl Leases {
    fn table(&self) -> MutexGuard<'_, HashMap<Name, Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease for `applies`; `None`: there are too many.
    pub(super) fn of(&self, applies: &Applies, now: Instant) -> Option<Arc<Lease>> {
        let counter = applies.rule.counter();
        let mut table = self.table();
        if let Some(lease) = table.get(&applies.name).filter(|lease| lease.counter == counter) {
            return Some(Arc::clone(lease));
        }
        if table.len() >= LEASES_MOST {
            return None;
        }
        let held = Held { left: 0.0, size: 1.0, until: now, needed: 0.0, due: 0.0, standing: None };
        let (applies, turn) = (applies.clone(), Arc::new(Semaphore::new(1)));
        let lease = Arc::new(Lease { applies, counter, turn, held: Mutex::new(held) });
        table.insert(lease.applies.name.clone(), Arc::clone(&lease));
        Some(lease)
    }

    /// What is held of a counter, in units.
    pub(super) fn held(&self, name: &Name, now: Instant) -> f64 {
        let lease = self.table().get(name).map(Arc::clone);
        lease.map_or(0.0, |lease| {
            let held = lease.held();
            if now < held.until { held.left } else { 0.0 }
        })
    }

    /// All that the store is yet to hear of leases, each with its amount as [`Lease::due`]; those not in use are
    /// forgotten.
    pub(super) fn due(&self, all: bool, now: Instant) -> Vec<(Arc<Lease>, f64)> {
        let mut due = Vec::new();
        self.table().retain(|_, lease| {
            let amount = lease.due(all, now);
            if amount != 0.0 {
                due.push((Arc::clone(lease), amount));
                return true;
            }
            now < lease.held().until || Arc::strong_count(lease) > 1
        });
        due
    }
}
