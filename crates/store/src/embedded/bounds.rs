//! How much a node keeps in its memory.

/// How much is kept at most. What goes beyond makes the least recently used go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Counters of limits. One that had to go begins full, unless [`crate::charge::Debit::known`] says more of it.
    pub counters: usize,
    /// Reservations and running entries, of all counters together.
    pub reservations: usize,
    /// Bytes of stored answers and of those in the making, with their keys.
    pub answer_bytes: usize,
    /// Leases, cool-downs and nodes, of each; where they are full a new lease is refused and a new cool-down forgotten.
    pub names: usize,
    /// Pairs of client and model in a day; what comes beyond is counted under the client and the model `other`.
    pub usage_per_day: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            counters: 100_000,
            reservations: 400_000,
            answer_bytes: 64 << 20,
            names: 10_000,
            usage_per_day: 100_000,
        }
    }
}
