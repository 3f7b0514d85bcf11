//! The shared store as the limiter calls it: every call ends in time, and none is begun without any.

use std::time::Duration;

use crate::charge::{Charge, Running, Settlement, Verdict};
use crate::{Failure, Store};

/// A store, and in tests what is wrong with the way to it.
#[derive(Debug)]
pub(super) struct Link {
    store: Store,
    #[cfg(test)]
    pub(super) fault: std::sync::atomic::AtomicU8,
    /// Calls that were sent.
    #[cfg(test)]
    pub(super) sent: std::sync::atomic::AtomicUsize,
}

/// Nothing arrives.
#[cfg(test)]
pub(super) const DOWN: u8 = 1;
/// What is asked is done, and nobody hears of it.
#[cfg(test)]
pub(super) const MUTE: u8 = 2;
/// What is asked is done after 10 ms.
#[cfg(test)]
pub(super) const SLOW: u8 = 3;
/// Nothing is done.
#[cfg(test)]
pub(super) const REFUSING: u8 = 4;

impl Link {
    pub(super) const fn new(store: Store) -> Self {
        Self {
            store,
            #[cfg(test)]
            fault: std::sync::atomic::AtomicU8::new(0),
            #[cfg(test)]
            sent: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    pub(super) async fn charge(&self, charge: &Charge, within: Duration) -> Result<Verdict, Failure> {
        self.bounded(within, self.store.charge(charge, within)).await
    }

    pub(super) async fn settle(&self, settlement: &Settlement, within: Duration) -> Result<(), Failure> {
        self.bounded(within, self.store.settle(settlement, within)).await
    }

    pub(super) async fn still_running(
        &self,
        running: &[Running],
        lives: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        self.bounded(within, self.store.still_running(running, lives, within)).await
    }

    async fn bounded<T>(
        &self,
        within: Duration,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        if within.is_zero() {
            return Err(Failure::Down);
        }
        #[cfg(test)]
        match self.fault.load(std::sync::atomic::Ordering::Acquire) {
            DOWN => return Err(Failure::Down),
            MUTE => return call.await.and(Err(Failure::Unknown)),
            REFUSING => return Err(Failure::Refused("OOM".to_owned())),
            _ => {
                self.sent.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            }
        }
        #[cfg(test)]
        let call = async {
            if self.fault.load(std::sync::atomic::Ordering::Acquire) == SLOW {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            call.await
        };
        tokio::time::timeout(within, call).await.unwrap_or(Err(Failure::Unknown))
    }
}
