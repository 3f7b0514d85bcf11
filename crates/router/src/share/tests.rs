use super::*;

mod history;
mod traffic;

const TICK: Duration = Duration::from_millis(100);

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

const fn choice() -> Choice {
    Choice { band: 0.2, hysteresis: Duration::from_secs(10), explore: 0.02 }
}

/// A closed path of its own upstream, measured often.
fn at(upstream: usize, score_ms: u64) -> Standing {
    Standing {
        score: Some(Duration::from_millis(score_ms)),
        stale: false,
        samples: 100,
        weight: 1.0,
        upstream,
        ceiling: 1.0,
    }
}

fn unknown(upstream: usize) -> Standing {
    Standing { score: None, stale: true, samples: 0, ..at(upstream, 0) }
}

/// Shares stepped every 100 ms.
struct Run {
    shares: Shares,
    now: Instant,
}

impl Run {
    fn new(standings: &[Standing]) -> Self {
        let mut run = Self { shares: Shares::new(standings.len()), now: start() };
        run.shares.step(standings, &choice(), run.now);
        run
    }

    /// Steps for `ms`, and gives the shares in percent.
    fn pass(&mut self, standings: &[Standing], ms: u64) -> Vec<f64> {
        for _ in 0..ms / 100 {
            self.now += TICK;
            self.shares.step(standings, &choice(), self.now);
        }
        self.percent()
    }

    /// The same after hysteresis, when nothing is new any more.
    fn settled(standings: &[Standing]) -> Self {
        let mut run = Self::new(standings);
        run.pass(standings, 20_000);
        run
    }

    fn percent(&self) -> Vec<f64> {
        (0..self.shares.paths.len()).map(|i| self.shares.get(i) * 100.0).collect()
    }

    fn band(&self) -> Vec<bool> {
        (0..self.shares.paths.len()).map(|i| self.shares.in_band(i)).collect()
    }
}

#[track_caller]
fn like(got: &[f64], wanted: &[f64]) {
    let near = got.len() == wanted.len() && got.iter().zip(wanted).all(|(g, w)| (g - w).abs() < 0.5);
    assert!(near, "{got:?}, not {wanted:?}");
}

#[test]
fn the_first_step_arrives_at_once() {
    like(&Run::new(&[at(0, 20), at(1, 150)]).percent(), &[100.0, 0.0]);
    like(&Run::new(&[unknown(0), unknown(1)]).percent(), &[50.0, 50.0]);
    assert_eq!(Run::new(&[unknown(0), unknown(1)]).band(), [true, true]);
    like(&Run::new(&[]).percent(), &[]);
}

#[test]
fn a_ceiling_that_is_no_number_allows_nothing() {
    let broken = Standing { ceiling: f64::NAN, ..at(0, 20) };
    like(&Run::new(&[broken, at(1, 150)]).percent(), &[0.0, 100.0]);
}

#[test]
fn weights_divide_among_upstreams_and_evenly_among_the_paths_of_one() {
    let heavy = |upstream| Standing { weight: 3.0, ..at(upstream, 20) };
    like(&Run::new(&[heavy(0), at(1, 20)]).percent(), &[75.0, 25.0]);
    like(&Run::new(&[heavy(0), heavy(0), at(1, 20)]).percent(), &[37.5, 37.5, 25.0]);
    like(&Run::new(&[heavy(0), at(0, 500), at(1, 20)]).percent(), &[75.0, 0.0, 25.0]);
}

#[test]
fn an_upstream_of_weight_zero_serves_only_alone() {
    let spare = Standing { weight: 0.0, ..at(1, 5) };
    let mut run = Run::new(&[at(0, 200), spare]);
    like(&run.percent(), &[100.0, 0.0]);
    assert_eq!(run.band(), [true, false]);
    let lost = Standing { ceiling: 0.0, ..at(0, 200) };
    like(&run.pass(&[lost, spare], 100), &[0.0, 100.0]);
    let ramping = Standing { ceiling: 0.25, ..at(0, 20) };
    like(&run.pass(&[ramping, spare], 20_000), &[25.0, 75.0]);
}

#[test]
fn the_band_is_a_fifth_or_fifty_milliseconds() {
    assert_eq!(Run::new(&[at(0, 20), at(1, 70), at(2, 71)]).band(), [true, true, false]);
    assert_eq!(Run::new(&[at(0, 1000), at(1, 1200), at(2, 1201)]).band(), [true, true, false]);
}

#[test]
fn a_ramping_path_does_not_set_the_band_beside_a_closed_one() {
    let ramping = Standing { ceiling: 0.5, ..at(0, 20) };
    let run = Run::new(&[ramping, at(1, 500)]);
    assert_eq!(run.band(), [false, true], "in by score, but held apart from the choice by load");
    like(&run.percent(), &[25.0, 75.0]);
}

#[test]
fn leaving_takes_ten_seconds_entering_none() {
    let (good, worse) = ([at(0, 100), at(1, 100)], [at(0, 100), at(1, 180)]);
    let mut run = Run::settled(&good);
    run.pass(&worse, 9_900);
    assert_eq!(run.band(), [true, true]);
    run.pass(&good, 100);
    run.pass(&worse, 9_900);
    assert_eq!(run.band(), [true, true], "the time outside was not continuous");
    run.pass(&worse, 300);
    assert_eq!(run.band(), [true, false]);
    run.pass(&good, 100);
    assert_eq!(run.band(), [true, true]);
}

#[test]
fn a_path_more_than_twice_as_slow_leaves_in_two_seconds() {
    let mut run = Run::settled(&[at(0, 100), at(1, 100)]);
    let far = [at(0, 100), at(1, 201)];
    run.pass(&far, 1_900);
    assert_eq!(run.band(), [true, true]);
    run.pass(&far, 300);
    assert_eq!(run.band(), [true, false]);
}

#[test]
fn a_new_best_path_starts_at_a_tenth_and_doubles_every_two_seconds() {
    let mut run = Run::settled(&[at(0, 100), at(1, 300)]);
    like(&run.percent(), &[100.0, 0.0]);
    let swapped = [at(0, 300), at(1, 100)];
    like(&run.pass(&swapped, 100), &[90.0, 10.0]);
    like(&run.pass(&swapped, 2_000), &[80.0, 20.0]);
    like(&run.pass(&swapped, 2_000), &[60.0, 40.0]);
    like(&run.pass(&swapped, 2_000), &[20.0, 80.0]);
    like(&run.pass(&swapped, 1_000), &[0.0, 100.0]);
}

#[test]
fn the_pace_does_not_depend_on_how_often_we_step() {
    let mut run = Run::settled(&[at(0, 100), at(1, 300)]);
    let swapped = [at(0, 300), at(1, 100)];
    run.pass(&swapped, 100);
    run.now += Duration::from_secs(4);
    run.shares.step(&swapped, &choice(), run.now);
    like(&run.percent(), &[60.0, 40.0]);
}

#[test]
fn what_a_lost_path_had_goes_to_the_others_at_once() {
    let mut run = Run::settled(&[at(0, 100), at(1, 100), at(2, 300)]);
    let lost = |i: usize| {
        let mut standings = [at(0, 100), at(1, 100), at(2, 300)];
        standings[..=i].iter_mut().for_each(|s| s.ceiling = 0.0);
        standings
    };
    like(&run.pass(&lost(0), 100), &[0.0, 100.0, 0.0]);
    like(&run.pass(&lost(1), 100), &[0.0, 0.0, 100.0]);
    like(&run.pass(&lost(2), 100), &[0.0, 0.0, 0.0]);
    like(&run.pass(&lost(0), 100), &[0.0, 100.0, 0.0]);
}

#[test]
fn a_ramping_path_has_its_part_of_the_normal_share_and_alone_leaves_the_rest() {
    let ramping = |ceiling| Standing { ceiling, ..at(0, 100) };
    let mut run = Run::settled(&[ramping(0.0), at(1, 100)]);
    let beside = |ceiling| [ramping(ceiling), at(1, 100)];
    like(&run.pass(&beside(0.1), 100), &[5.0, 95.0]);
    like(&run.pass(&beside(0.5), 100), &[10.0, 90.0]);
    like(&run.pass(&beside(0.5), 2_000), &[20.0, 80.0]);
    like(&run.pass(&beside(0.5), 10_000), &[25.0, 75.0]);
    like(&run.pass(&beside(1.0), 2_000), &[50.0, 50.0]);
    like(&run.pass(&beside(0.1), 100), &[5.0, 95.0]);
    let lost = Standing { ceiling: 0.0, ..at(1, 100) };
    like(&run.pass(&[ramping(0.25), lost], 100), &[25.0, 0.0]);
}

#[test]
fn newcomers_have_five_percent_together_until_they_are_known() {
    let known = [at(0, 100), unknown(1), unknown(2)];
    like(&Run::new(&known).percent(), &[95.0, 2.5, 2.5]);
    let mut run = Run::settled(&known);
    like(&run.pass(&[at(0, 100), at(1, 100), unknown(2)], 100), &[85.0, 10.0, 5.0]);
    like(&run.pass(&[at(0, 100), at(1, 100), unknown(2)], 10_000), &[47.5, 47.5, 5.0]);
}

#[test]
fn only_stale_paths_not_too_far_off_are_explored() {
    let stale = |upstream, score| Standing { stale: true, ..at(upstream, score) };
    like(&Run::new(&[at(0, 100), stale(1, 300)]).percent(), &[98.0, 2.0]);
    like(&Run::new(&[at(0, 100), stale(1, 300), stale(2, 200)]).percent(), &[98.0, 1.0, 1.0]);
    like(&Run::new(&[at(0, 100), stale(1, 301)]).percent(), &[100.0, 0.0]);
    like(&Run::new(&[at(0, 100), at(1, 300)]).percent(), &[100.0, 0.0]);
    let ramping = Standing { ceiling: 0.5, ..stale(1, 300) };
    like(&Run::new(&[at(0, 100), ramping]).percent(), &[100.0, 0.0]);
    let far_unknown = [at(0, 100), at(1, 1000), at(2, 1000), unknown(3)];
    like(&Run::new(&far_unknown).percent(), &[98.0, 0.0, 0.0, 2.0]);
}

#[test]
fn newcomers_are_not_held_back_while_nothing_is_known() {
    let slow = Standing { samples: 5, ..at(0, 150) };
    let mut run = Run::new(&[unknown(0), unknown(1)]);
    like(&run.pass(&[slow, unknown(1)], 100), &[50.0, 50.0]);
    let fast = Standing { samples: 3, ..at(1, 20) };
    like(&run.pass(&[slow, fast], 100), &[0.0, 100.0]);
}

#[test]
fn a_ramping_path_that_got_slow_leaves_as_the_others_can_take_it() {
    let others = [at(1, 100), Standing { weight: 0.25, ..at(2, 100) }];
    let ramping = |score| Standing { ceiling: 0.5, weight: 8.0, ..at(0, score) };
    let mut run = Run::settled(&[ramping(100), others[0], others[1]]);
    like(&run.percent(), &[43.2, 45.4, 11.4]);
    let slow = [ramping(900), others[0], others[1]];
    run.pass(&slow, 2_000);
    like(&run.pass(&slow, 2_100), &[0.0, 80.0, 20.0]);
}
