//! What choosing a path costs: `cargo bench -p tidegate-router --bench pick`. Prints nanoseconds per pick,
//! the best and the middle of several rounds, after a warm-up.
#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use tidegate_router::pick::{Field, pick};

const PICKS: u64 = 1_000_000;
const ROUNDS: usize = 11;

struct Path {
    share: AtomicU32,
    in_band: AtomicBool,
    pending: AtomicU32,
    score: AtomicU32,
    usable: AtomicBool,
}

struct Paths(Vec<Path>);

impl Field for Paths {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn share(&self, i: usize) -> u32 {
        self.0.get(i).map_or(0, |p| p.share.load(Relaxed))
    }
    fn in_band(&self, i: usize) -> bool {
        self.0.get(i).is_some_and(|p| p.in_band.load(Relaxed))
    }
    fn pending(&self, i: usize) -> u32 {
        self.0.get(i).map_or(0, |p| p.pending.load(Relaxed))
    }
    fn score(&self, i: usize) -> u32 {
        self.0.get(i).map_or(u32::MAX, |p| p.score.load(Relaxed))
    }
    fn usable(&self, i: usize) -> bool {
        self.0.get(i).is_some_and(|p| p.usable.load(Relaxed))
    }
}

fn paths(n: u32) -> Paths {
    let one = |i| Path {
        share: AtomicU32::new(65535 / n),
        in_band: AtomicBool::new(true),
        pending: AtomicU32::new(i % 7),
        score: AtomicU32::new(20_000 + i),
        usable: AtomicBool::new(true),
    };
    Paths((0..n).map(one).collect())
}

/// Nanoseconds per pick.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn round(field: &Paths) -> f64 {
    let begin = Instant::now();
    for n in 0..PICKS {
        black_box(pick(black_box(field), black_box(n)));
    }
    begin.elapsed().as_secs_f64() * 1e9 / PICKS as f64
}

fn main() {
    for n in [1, 2, 20] {
        let field = paths(n);
        round(&field);
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| round(&field)).collect();
        rounds.sort_by(f64::total_cmp);
        let at = |i: usize| rounds.get(i).copied().unwrap_or_default();
        println!("{n:2} paths: {:6.1} ns a pick, middle {:6.1}", at(0), at(ROUNDS / 2));
    }
}
