//! Places for what runs at once, whose number a new configuration may change.
//!
//! Owns nothing. What runs keeps its place under any number: one semaphore outlives all configurations.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Makes `to` places of `from`. Where there are to be fewer, those that are taken go as they are given back. Must be called
/// inside a runtime.
pub fn resize(places: &Arc<Semaphore>, from: usize, to: usize) {
    if let Some(more) = to.checked_sub(from) {
        return places.add_permits(more);
    }
    let fewer = u32::try_from(from - to).unwrap_or(u32::MAX);
    let places = Arc::clone(places);
    tokio::spawn(async move {
        if let Ok(taken) = places.acquire_many_owned(fewer).await {
            taken.forget();
        }
    });
}
