//! The tier in this process's memory: the most used answers, within a bound in bytes.
//!
//! Needs nothing and is never down. What is past its time stays until it is looked at or [`Memory::tend`] is called,
//! so the bound holds whether or not anybody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Gauge, gauge};
use moka::Expiry;
use moka::sync::Cache;

use super::entry::Kept;
use super::key::Key;

pub(super) struct Memory {
    cache: Option<Cache<Key, Arc<Kept>>>,
    bytes: Gauge,
    entries: Gauge,
}

/// Each has a life of its own.
struct Lives;

impl Expiry<Key, Arc<Kept>> for Lives {
    fn expire_after_create(&self, _: &Key, kept: &Arc<Kept>, _: Instant) -> Option<Duration> {
        Some(kept.left())
    }

    fn expire_after_update(
        &self,
        _: &Key,
        kept: &Arc<Kept>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.left())
    }
}

impl Memory {
    /// `bytes` 0: no tier.
    pub fn new(bytes: usize) -> Self {
        let cache = (bytes > 0).then(|| {
            Cache::builder()
                .max_capacity(bytes as u64)
                .weigher(|_, kept: &Arc<Kept>| u32::try_from(kept.weight()).unwrap_or(u32::MAX))
                .expire_after(Lives)
                .build()
        });
        Self { cache, bytes: gauge!("tidegate_cache_bytes"), entries: gauge!("tidegate_cache_entries") }
    }

    /// What is kept, fresh or stale.
    pub fn get(&self, key: &Key) -> Option<Arc<Kept>> {
        let cache = self.cache.as_ref()?;
        let kept = cache.get(key)?;
        if kept.left().is_zero() {
            cache.invalidate(key);
            return None;
        }
        Some(kept)
    }

    pub fn put(&self, key: Key, kept: Arc<Kept>) {
        if let Some(cache) = &self.cache {
            cache.insert(key, kept);
        }
    }

    /// Removes what is past its time and says how much there is.
    pub fn tend(&self) {
        if let Some(cache) = &self.cache {
            cache.run_pending_tasks();
            self.bytes.set(cache.weighted_size() as f64);
            self.entries.set(cache.entry_count() as f64);
        }
    }

    /// Bytes and answers; what was put or removed within the last moment may be missing.
    pub fn held(&self) -> (u64, u64) {
        self.cache.as_ref().map_or((0, 0), |cache| (cache.weighted_size(), cache.entry_count()))
    }

    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.cache.as_ref().map_or(0, |cache| {
            cache.run_pending_tasks();
            cache.weighted_size()
        })
    }
}
