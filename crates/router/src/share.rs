//! How the traffic of one route and model is divided among its paths: a pure function of scores, health and
//! what was in force before, worked out a few times a second and read by every request.
//!
//! Owns the shares, who is in the band of good paths, and since when a member has been outside of it. The
//! shares follow the scores without a herd: a path that became the best one doubles its part every two
//! seconds, what it cannot take yet stays where it was. Failover is no balancing: what a path loses that may
//! no longer be used goes to the others at once. Not here: scores, health, and the choice for one request.

use std::time::{Duration, Instant};

/// One path as the caller sees it at this step.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// Lower is better; `None`: never measured, counts as 1.2 times the others' median.
    pub score: Option<Duration>,
    /// The score is older than 60 s or unknown.
    pub stale: bool,
    /// Samples behind the score.
    pub samples: u32,
    /// Of its upstream; at 0 it serves only when no closed path has more.
    pub weight: f64,
    /// Index of its upstream.
    pub upstream: usize,
    /// 0: may not be used; in (0, 1): ramping, grows to this part of its normal share; 1: closed.
    pub ceiling: f64,
}

impl Standing {
    /// What is no number allows nothing.
    fn bound(&self) -> f64 {
        if self.ceiling > 0.0 { self.ceiling.min(1.0) } else { 0.0 }
    }

    fn usable(&self) -> bool {
        self.bound() > 0.0
    }

    fn closed(&self) -> bool {
        self.bound() >= 1.0
    }
}

/// The rules of `health.choice`.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// How much worse than the best a path may be and still share the traffic: 0.2 is 20 %.
    pub band: f64,
    /// How long a path must be outside before it leaves the band.
    pub hysteresis: Duration,
    /// The part of the traffic, 0 to 1, that refreshes stale scores outside of the band.
    pub explore: f64,
}

/// Differences below this are noise, whatever the ratio.
const NOISE: f64 = 0.050;
/// An unknown path is usable, never preferred.
const UNKNOWN: f64 = 1.2;
/// A path this many times worse than the best leaves the band in a fifth of the time.
const FAR: f64 = 2.0;
const FAR_DIVISOR: u32 = 5;
/// A stale path is explored unless it was more than this many times worse.
const EXPLORABLE: f64 = 3.0;
/// With fewer samples a path is a newcomer, and all newcomers together get no more than `NEWCOMERS`.
const ACQUAINTED: u32 = 5;
const NEWCOMERS: f64 = 0.05;
/// A growing path doubles in this part of the hysteresis (2 s of 10 s) and never more slowly, from `START` at least.
const DOUBLINGS: u32 = 5;
const DOUBLING_LONGEST: Duration = Duration::from_secs(2);
const START: f64 = 0.1;
/// A new `Shares` with fewer samples in all is looking around: what it finds is not worth a slow start.
const SETTLED: u32 = 20;

#[derive(Debug, Clone, Default)]
struct Path {
    share: f64,
    in_band: bool,
    outside_since: Option<Instant>,
    ceiling: f64,
}

/// The shares of the paths of one route and model, by index.
#[derive(Debug, Clone)]
pub struct Shares {
    paths: Vec<Path>,
    born: Option<Instant>,
    stepped: Option<Instant>,
}

impl Shares {
    /// All shares are 0 until the first step.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self { paths: vec![Path::default(); paths], born: None, stepped: None }
    }

    /// Moves the shares to where `standings` (one per path, in a fixed order) let them go by `now`. Every
    /// 100 ms is a good pace; the result depends little on it.
    pub fn step(&mut self, standings: &[Standing], choice: &Choice, now: Instant) {
        self.paths.resize_with(standings.len(), Path::default);
        let born = *self.born.get_or_insert(now);
        let settling = now.saturating_duration_since(born) < choice.hysteresis;
        let samples = standings.iter().fold(0u32, |sum, s| sum.saturating_add(s.samples));
        let young = settling && samples < SETTLED;
        let at_once = young || self.stepped.is_none();
        let dt = self.stepped.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.stepped = self.stepped.max(Some(now));

        let scores = scores(standings);
        let best = best(standings, &scores);
        let wait = if settling { Duration::ZERO } else { choice.hysteresis };
        self.admit(&scores, best, choice.band, wait, now);

        let mut targets = self.normal(standings, young);
        self.bound(&mut targets, standings);
        self.explore(&mut targets, standings, &scores, best, choice.explore);

        // Worse health is no matter of balance: its part is gone at once.
        let fell = self.paths.iter().zip(standings).map(|(p, s)| at_once || s.bound() < p.ceiling);
        let fell: Vec<bool> = fell.collect();
        let before: Vec<f64> = self.paths.iter().map(|p| p.share).collect();
        let doubling = (choice.hysteresis / DOUBLINGS).clamp(Duration::from_millis(1), DOUBLING_LONGEST);
        let growth = (dt.as_secs_f64() / doubling.as_secs_f64()).min(64.0).exp2();
        let shares = slew(&before, &targets, &fell, growth);
        for ((path, share), standing) in self.paths.iter_mut().zip(shares).zip(standings) {
            path.share = share.clamp(0.0, 1.0);
            path.ceiling = standing.bound();
        }
    }

    /// The path's part of the traffic, 0 to 1. All together 1, but less while every usable path ramps (the
    /// rest is the caller's to place) and 0 while none is usable.
    #[must_use]
    pub fn get(&self, i: usize) -> f64 {
        self.paths.get(i).map_or(0.0, |p| p.share)
    }

    /// Whether the path is closed and one of the good ones, among which load may decide.
    #[must_use]
    pub fn in_band(&self, i: usize) -> bool {
        self.paths.get(i).is_some_and(|p| p.in_band && p.ceiling >= 1.0)
    }

    /// Who is in the band: entering is free, leaving takes `wait` of being outside.
    fn admit(&mut self, scores: &[Option<f64>], best: f64, band: f64, wait: Duration, now: Instant) {
        let limit = (best * (1.0 + band.max(0.0))).max(best + NOISE);
        let far = (best * FAR).max(best + NOISE);
        for (path, score) in self.paths.iter_mut().zip(scores) {
            let Some(score) = score.filter(|s| *s > limit) else {
                path.in_band = score.is_some();
                path.outside_since = None;
                continue;
            };
            let since = *path.outside_since.get_or_insert(now);
            let wait = if score > far { wait / FAR_DIVISOR } else { wait };
            path.in_band &= now.saturating_duration_since(since) < wait;
        }
    }

    /// The shares to reach, as if every ramping path were closed.
    fn normal(&self, standings: &[Standing], young: bool) -> Vec<f64> {
        let members: Vec<Option<&Standing>> =
            self.paths.iter().zip(standings).map(|(p, s)| p.in_band.then_some(s)).collect();
        let weighed = members.iter().flatten().any(|s| s.weight > 0.0);
        let part = |s: &Standing| {
            let siblings = members.iter().flatten().filter(|other| other.upstream == s.upstream).count();
            weight(s, weighed) / siblings as f64
        };
        let mut shares: Vec<f64> = members.iter().map(|member| member.map_or(0.0, part)).collect();
        scale(&mut shares, |_| true, 1.0);

        // Before anything is known it would only keep the better path from being found.
        let acquainted = !young && members.iter().flatten().any(|s| s.closed() && !is_newcomer(s));
        let newcomer = |i: usize| standings.get(i).is_some_and(is_newcomer);
        if acquainted && sum(&shares, newcomer) > NEWCOMERS {
            scale(&mut shares, newcomer, NEWCOMERS);
            scale(&mut shares, |i| !newcomer(i), 1.0 - NEWCOMERS);
        }
        shares
    }

    /// What a ramping path may not have goes to the closed ones.
    fn bound(&self, shares: &mut [f64], standings: &[Standing]) {
        let closed = |i: usize| standings.get(i).is_some_and(Standing::closed);
        for (share, standing) in shares.iter_mut().zip(standings) {
            *share *= standing.bound();
        }
        if sum(shares, closed) <= 0.0 {
            // What is closed, if anything, is a reserve: beside upstreams of more weight it has no share.
            for ((share, path), standing) in shares.iter_mut().zip(&self.paths).zip(standings) {
                if standing.closed() && path.in_band {
                    *share = 1.0;
                }
            }
        }
        let ramping = sum(shares, |i| !closed(i));
        scale(shares, closed, 1.0 - ramping);
    }

    /// Stale scores outside of the band are refreshed by a little traffic.
    fn explore(
        &self,
        shares: &mut [f64],
        standings: &[Standing],
        scores: &[Option<f64>],
        best: f64,
        part: f64,
    ) {
        let explored: Vec<bool> = standings
            .iter()
            .zip(scores)
            .zip(&self.paths)
            .map(|((s, score), path)| {
                let near = score.is_some_and(|score| s.score.is_none() || score <= EXPLORABLE * best);
                near && s.closed() && s.stale && !path.in_band
            })
            .collect();
        let count = explored.iter().filter(|e| **e).count();
        if count > 0 {
            let part = part.clamp(0.0, 1.0);
            for (share, explored) in shares.iter_mut().zip(&explored) {
                *share = if *explored { part / count as f64 } else { *share * (1.0 - part) };
            }
        }
    }
}

fn is_newcomer(s: &Standing) -> bool {
    s.closed() && s.samples < ACQUAINTED
}

fn weight(s: &Standing, weighed: bool) -> f64 {
    match (weighed, s.weight > 0.0) {
        (false, _) => 1.0,
        (true, true) => s.weight.min(1e9),
        (true, false) => 0.0,
    }
}

/// Scores in seconds; `None`: not to be used now.
fn scores(standings: &[Standing]) -> Vec<Option<f64>> {
    let weighed = standings.iter().any(|s| s.closed() && s.weight > 0.0);
    let candidate = |s: &&Standing| s.usable() && (!weighed || s.weight > 0.0);
    let mut known: Vec<f64> =
        standings.iter().filter(candidate).filter_map(|s| s.score).map(|s| s.as_secs_f64()).collect();
    known.sort_by(f64::total_cmp);
    let middle = |i: usize| known.get(i).copied().unwrap_or_default();
    let unknown = UNKNOWN * (middle(known.len().saturating_sub(1) / 2) + middle(known.len() / 2)) / 2.0;
    standings
        .iter()
        .map(|s| candidate(&s).then(|| s.score.map_or(unknown, |score| score.as_secs_f64())))
        .collect()
}

/// The lowest score of the closed candidates, or of all when none is closed.
fn best(standings: &[Standing], scores: &[Option<f64>]) -> f64 {
    let lowest = |closed: bool| {
        let among = standings.iter().zip(scores).filter(|(s, _)| !closed || s.closed());
        among.filter_map(|(_, score)| *score).min_by(f64::total_cmp)
    };
    lowest(true).or_else(|| lowest(false)).unwrap_or_default()
}

fn sum(shares: &[f64], chosen: impl Fn(usize) -> bool) -> f64 {
    shares.iter().enumerate().filter(|(i, _)| chosen(*i)).map(|(_, share)| share).sum()
}

/// Makes the chosen ones sum to `to`, in proportion; all zero they stay.
fn scale(shares: &mut [f64], chosen: impl Fn(usize) -> bool, to: f64) {
    let total = sum(shares, &chosen);
    if total > 0.0 {
        for (_, share) in shares.iter_mut().enumerate().filter(|(i, _)| chosen(*i)) {
            *share *= to / total;
        }
    }
}

/// One step from `from` to `to`; the result sums to what `to` does. Those `at_once` arrive, the others grow
/// by the factor `growth`, from `START` at least. What growing ones cannot take yet stays with the shrinking
/// ones, all of which are as far on their way; what those never had (a path was lost) goes to the growing
/// ones after all.
fn slew(from: &[f64], to: &[f64], at_once: &[bool], growth: f64) -> Vec<f64> {
    let slewed = |((from, to), at_once): ((&f64, &f64), &bool)| {
        if *at_once { *to } else { to.min((from * growth).max(START)) }
    };
    let mut next: Vec<f64> = from.iter().zip(to).zip(at_once).map(slewed).collect();
    let excess = |((from, to), at_once): ((&f64, &f64), &bool)| {
        if *at_once { 0.0 } else { (from - to).max(0.0) }
    };
    let excess: Vec<f64> = from.iter().zip(to).zip(at_once).map(excess).collect();
    let short = to.iter().zip(&next).map(|(to, next)| to - next).sum::<f64>();
    let held = excess.iter().sum::<f64>();
    let stays = if held > 0.0 { (short / held).min(1.0) } else { 0.0 };
    let missing = if short > 0.0 { (1.0 - stays * held / short).max(0.0) } else { 0.0 };
    for ((next, to), excess) in next.iter_mut().zip(to).zip(&excess) {
        *next += missing * (to - *next) + stays * excess;
    }
    next
}

#[cfg(test)]
mod tests;
