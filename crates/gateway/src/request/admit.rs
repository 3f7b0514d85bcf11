//! Step 4: a place among the requests this node runs at once.
//!
//! Beyond `in_flight` requests wait in a queue of bounded length and time; beyond that they are told to come
//! back, quickly and without being parsed further.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::Gauge;
use tidegate_config::used::NodeLimit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::GatewayError;
use crate::request::accept::Accepted;
use crate::request::read::Parsed;

/// Request bodies in memory at once, on the whole node: they are read before a place is taken, so the places do not
/// bound them.
const BODIES_MAX: usize = 256 * 1024 * 1024;
/// What is counted; smaller bodies than this are bounded by the connections.
pub const BODY_UNIT: usize = 64 * 1024;

/// The node's places.
#[derive(Debug)]
pub struct Admission {
    bodies: Arc<Semaphore>,
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    in_flight: usize,
    queue: usize,
    queue_timeout: Duration,
    queued: Gauge,
}

impl Admission {
    /// `queued` shows how many wait.
    pub fn new(limit: NodeLimit, queued: Gauge) -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(BODIES_MAX / BODY_UNIT)),
            places: Arc::new(Semaphore::new(limit.in_flight.min(Semaphore::MAX_PERMITS))),
            waiting: Arc::default(),
            in_flight: limit.in_flight.min(Semaphore::MAX_PERMITS),
            queue: limit.queue,
            queue_timeout: limit.queue_timeout,
            queued,
        }
    }

    /// The same places under another bound, which holds from [`Admission::resize`] on.
    pub fn next(&self, limit: NodeLimit) -> Self {
        Self {
            bodies: Arc::clone(&self.bodies),
            places: Arc::clone(&self.places),
            waiting: Arc::clone(&self.waiting),
            in_flight: limit.in_flight.min(Semaphore::MAX_PERMITS),
            queue: limit.queue,
            queue_timeout: limit.queue_timeout,
            queued: self.queued.clone(),
        }
    }

    /// Makes as many places as this bound says of those that `before` had. Where there are to be fewer, those that are
    /// taken go as they are given back. Must be called inside a runtime.
    pub fn resize(&self, before: &Self) {
        crate::places::resize(&self.places, before.in_flight, self.in_flight);
    }

    /// Room for the part of a body above what is `held`, given back when dropped; `None` where none is needed yet.
    pub fn room(
        &self,
        size: usize,
        held: Option<&OwnedSemaphorePermit>,
    ) -> Result<Option<OwnedSemaphorePermit>, GatewayError> {
        let wanted = size / BODY_UNIT;
        let more = wanted.saturating_sub(held.map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(None);
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        Arc::clone(&self.bodies).try_acquire_many_owned(more).map(Some).map_err(|_| GatewayError::Overloaded)
    }

    /// Bytes of request bodies in memory, in whole units.
    pub fn body_bytes(&self) -> usize {
        BODIES_MAX - self.bodies.available_permits() * BODY_UNIT
    }

    /// A place, given back when dropped. Cancel-safe: one who leaves the queue takes no place.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, GatewayError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let joined = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < self.queue).then_some(n + 1));
        if joined.is_err() {
            return Err(GatewayError::Overloaded);
        }
        let _waiting = Waiting::join(self);
        match tokio::time::timeout(self.queue_timeout, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(GatewayError::Overloaded),
        }
    }
}

struct Waiting<'a>(&'a Admission);

impl<'a> Waiting<'a> {
    fn join(admission: &'a Admission) -> Self {
        admission.queued.increment(1.0);
        Self(admission)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queued.decrement(1.0);
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request that may run; its place is held by the settle guard.
pub struct Admitted(pub Parsed);

/// Waits for a place.
pub async fn admit(accepted: &mut Accepted, parsed: Parsed) -> Result<Admitted, GatewayError> {
    let place = accepted.gateway.admission.enter().await?;
    accepted.note(|settle| settle.hold(place));
    Ok(Admitted(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_bound_holds_for_what_comes_and_what_runs_goes_on() {
        let limit = |in_flight| NodeLimit { in_flight, queue: 0, queue_timeout: Duration::from_secs(1) };
        let two = Admission::new(limit(2), Gauge::noop());
        let places = [two.enter().await.unwrap(), two.enter().await.unwrap()];
        let three = two.next(limit(3));
        three.resize(&two);
        let third = three.enter().await.unwrap();
        assert!(three.enter().await.is_err());
        let one = three.next(limit(1));
        one.resize(&three);
        tokio::task::yield_now().await;
        drop(third);
        tokio::task::yield_now().await;
        assert!(one.enter().await.is_err(), "two still run");
        drop(places);
        tokio::task::yield_now().await;
        let _place = one.enter().await.unwrap();
        assert!(one.enter().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let limit = NodeLimit { in_flight: 1, queue: 1, queue_timeout: Duration::from_secs(1) };
        let admission = Arc::new(Admission::new(limit, Gauge::noop()));
        let place = admission.enter().await.unwrap();
        let queued = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.enter().await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(matches!(admission.enter().await, Err(GatewayError::Overloaded)), "the queue is full");
        drop(place);
        assert!(queued.await.unwrap().is_ok());
        let _place = admission.enter().await.unwrap();
        assert!(matches!(admission.enter().await, Err(GatewayError::Overloaded)), "waited for nothing");
        assert_eq!(admission.waiting.load(Ordering::Acquire), 0);
    }
}
