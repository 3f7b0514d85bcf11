use proptest::prelude::*;

use super::*;

const TAU: Duration = Duration::from_secs(60);

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Samples `gap` apart; gives the estimate and the time of the last one.
fn fed(samples: &[u64], gap: Duration) -> (Estimate, Instant) {
    let mut now = start();
    let mut estimate = Estimate::default();
    for sample in samples {
        now += gap;
        estimate.observe(ms(*sample), now, TAU);
    }
    (estimate, now)
}

fn value(estimate: &Estimate) -> f64 {
    estimate.get().unwrap().as_secs_f64() * 1000.0
}

#[test]
fn nothing_is_known_before_the_first_sample_which_then_is_the_value() {
    let now = start();
    let mut estimate = Estimate::default();
    assert_eq!((estimate.get(), estimate.samples(), estimate.age(now)), (None, 0, None));
    assert_eq!(estimate.drifted(Some(ms(70)), now), None);
    estimate.observe(ms(100), now, TAU);
    assert_eq!((estimate.get(), estimate.samples()), (Some(ms(100)), 1));
    assert_eq!(estimate.age(now + ms(250)), Some(ms(250)));
}

#[test]
fn a_sample_weighs_by_the_time_since_the_one_before() {
    let (busy, _) = fed(&[100, 150], ms(1));
    assert!((value(&busy) - 102.5).abs() < 0.01, "at least a twentieth: {busy:?}");
    let (quiet, _) = fed(&[100, 150], TAU);
    assert!((value(&quiet) - (100.0 + 50.0 * 0.632)).abs() < 0.05, "1 - 1/e after tau: {quiet:?}");
}

#[test]
fn an_outlier_counts_as_twice_or_a_quarter_of_the_value() {
    let (high, _) = fed(&[100, 100, 100, 100, 20_000], ms(1));
    assert!((value(&high) - 105.0).abs() < 0.01, "{high:?}");
    let (low, _) = fed(&[100, 100, 100, 100, 1], ms(1));
    assert!((value(&low) - 96.25).abs() < 0.01, "{low:?}");
    let (two, _) = fed(&[100, 100, 100, 20_000, 100, 20_000], ms(1));
    assert!(value(&two) < 112.0, "two of five are no step: {two:?}");
}

#[test]
fn a_step_is_followed_at_the_third_sample_in_either_direction() {
    let (up, _) = fed(&[20, 20, 20, 20, 20, 150, 160, 170], ms(20));
    assert_eq!(up.get(), Some(ms(150)), "the median of 20 20 150 160 170");
    let (down, _) = fed(&[150, 150, 150, 150, 150, 20, 21, 22], ms(20));
    assert_eq!(down.get(), Some(ms(22)), "the median of 150 150 20 21 22");
    let (mixed, _) = fed(&[100, 100, 100, 1000, 1, 1000, 1], ms(1));
    assert!((80.0..120.0).contains(&value(&mixed)), "both directions are noise, no step: {mixed:?}");
    let (early, _) = fed(&[2000, 20, 20, 20], ms(20));
    assert_eq!(early.get(), Some(ms(20)), "a cold start is forgotten as well");
}

#[test]
fn a_value_of_zero_is_left_again() {
    let (estimate, _) = fed(&[0, 30, 30, 30], ms(20));
    assert_eq!(estimate.get(), Some(ms(30)));
}

#[test]
fn an_idle_value_drifts_to_its_siblings_and_not_to_zero() {
    let (estimate, last) = fed(&[400], ms(1));
    let at = |seconds| estimate.drifted(Some(ms(100)), last + Duration::from_secs(seconds)).unwrap();
    assert_eq!(at(60), ms(400));
    assert_eq!(at(60 + 120), ms(250));
    assert_eq!(at(60 + 240), ms(175));
    assert!((at(86_400).as_secs_f64() - 0.1).abs() < 1e-6);
    assert_eq!(estimate.drifted(None, last + Duration::from_secs(86_400)), Some(ms(400)));
}

proptest! {
    #[test]
    fn the_value_stays_within_what_was_seen(
        samples in proptest::collection::vec((0u64..30_000, 0u64..100_000), 1..60),
        tau_ms in 0u64..120_000,
    ) {
        let mut now = start();
        let mut estimate = Estimate::default();
        for (sample, gap) in &samples {
            now += ms(*gap);
            estimate.observe(ms(*sample), now, ms(tau_ms));
            let seen = samples.iter().map(|(s, _)| *s as f64);
            let (low, high) = seen.fold((f64::MAX, 0.0f64), |(l, h), s| (l.min(s), h.max(s)));
            prop_assert!(value(&estimate) >= low - 0.001 && value(&estimate) <= high + 0.001);
        }
    }

    #[test]
    fn one_outlier_moves_a_busy_path_by_a_tenth_at_most(
        steady in 10u64..1000, outlier in 0u64..100_000, gap in 1u64..1000,
    ) {
        let mut samples = vec![steady; 5];
        samples.push(outlier);
        let (estimate, _) = fed(&samples, ms(gap));
        let moved = value(&estimate) / steady as f64;
        prop_assert!((0.9..=1.1).contains(&moved), "{moved}");
    }

    #[test]
    fn three_samples_of_a_step_arrive_at_it(from in 10u64..5000, factor in 3u64..20, gap in 1u64..2000) {
        let (up, _) = fed(&[from, from, from, from, from, from * factor, from * factor, from * factor], ms(gap));
        prop_assert_eq!(up.get(), Some(ms(from * factor)));
        let (down, _) = fed(&[from * factor, from * factor, from * factor, from, from, from], ms(gap));
        prop_assert_eq!(down.get(), Some(ms(from)));
    }
}
