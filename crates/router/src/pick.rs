//! The path of one request, on the hot path: no allocation, no lock. The caller publishes what `share`
//! worked out last (atomics will do); values that change while we read make a choice a little off, never
//! a wrong one.
//!
//! Owns nothing. Not here: what a path's share should be, and whether a path can take the request.

/// The paths of one route and model as they stand now, by index.
pub trait Field {
    /// How many paths there are.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The path's part of the traffic in 65535ths; 0: none, or not usable now.
    fn share(&self, i: usize) -> u32;
    /// Whether it competes by load; one that explores or ramps does not.
    fn in_band(&self, i: usize) -> bool;
    /// Requests sent that have no content yet.
    fn pending(&self, i: usize) -> u32;
    /// Microseconds; `u32::MAX`: unknown.
    fn score(&self, i: usize) -> u32;
    /// Whether it may take this request.
    fn usable(&self, i: usize) -> bool;
}

/// Draws by share among the usable paths. When the one drawn is in the band, a second is drawn there and the
/// one with fewer pending requests per share goes (power of two choices; the first when equal). Without any
/// share: the usable one with the lowest score, then with the fewest pending. `None`: none is usable.
/// `random` is uniform over all of `u64` and serves both draws.
pub fn pick(field: &impl Field, random: u64) -> Option<usize> {
    let Some(first) = draw(field, mixed(random), |_| true) else { return least(field) };
    if !field.in_band(first) {
        return Some(first);
    }
    let second = draw(field, mixed(random.wrapping_add(STRIDE)), |i| field.in_band(i)).unwrap_or(first);
    let load = |path, other| u64::from(field.pending(path)) * u64::from(field.share(other));
    Some(if load(second, first) < load(first, second) { second } else { first })
}

fn draw(field: &impl Field, random: u64, among: impl Fn(usize) -> bool) -> Option<usize> {
    let share = |i: &usize| if field.usable(*i) && among(*i) { u64::from(field.share(*i)) } else { 0 };
    let total: u64 = (0..field.len()).map(|i| share(&i)).sum();
    let mut left = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let mut drawn = None;
    for i in 0..field.len() {
        let part = share(&i);
        if part > 0 {
            drawn = Some(i);
            if left < part {
                break;
            }
            left -= part;
        }
    }
    drawn
}

fn least(field: &impl Field) -> Option<usize> {
    (0..field.len()).filter(|i| field.usable(*i)).min_by_key(|i| (field.score(*i), field.pending(*i)))
}

/// Of splitmix64 (Steele, Lea, Flood 2014): a poor or reused random number still gives unrelated draws.
const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mixed(random: u64) -> u64 {
    let a = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

#[cfg(test)]
mod tests;
