use proptest::prelude::*;

use super::*;

const HALF_A_SECOND: Duration = Duration::from_millis(500);

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn rate(per_second: f64, burst: f64) -> Rate {
    Rate { per_second, burst }
}

#[test]
fn a_full_bucket_gives_its_burst_and_the_wait_is_exact() {
    let (rate, now) = (rate(2.0, 10.0), at(1_000_000));
    let mut bucket = Bucket::full(now);
    for _ in 0..10 {
        assert_eq!(bucket.wait(1.0, rate, now), Duration::ZERO);
        bucket.take(1.0, rate, now);
    }
    assert_eq!((bucket.left(rate, now), bucket.full_in(rate, now)), (0.0, at(5)));
    assert_eq!(bucket.wait(1.0, rate, now), HALF_A_SECOND);
    assert_eq!(bucket.wait(99.0, rate, now), at(5));
    assert_eq!(bucket.wait(1.0, rate, now + HALF_A_SECOND), Duration::ZERO);
    assert_ne!(bucket.wait(1.0, rate, now + HALF_A_SECOND / 2), Duration::ZERO);
}

#[test]
fn debt_is_filled_up_like_anything_else() {
    let (rate, now) = (rate(2.0, 10.0), at(7));
    let mut bucket = Bucket::full(now);
    bucket.take(30.0, rate, now);
    assert_eq!(bucket.left(rate, now), -20.0);
    assert_eq!(bucket.left(rate, at(17)), 0.0);
    assert_eq!(bucket.left(rate, at(30)), 10.0);
    assert_eq!(bucket.mark(rate, now), 22.0);
    assert_eq!(bucket.wait(0.0, rate, now), Duration::ZERO);
}

#[test]
fn a_lost_bucket_is_at_most_half_full_unless_it_was_full_by_now() {
    let (rate, now) = (rate(2.0, 10.0), at(100));
    assert_eq!(Bucket::lost(100.5, rate, now).left(rate, now), 5.0);
    assert_eq!(Bucket::lost(104.0, rate, now).left(rate, now), 2.0);
    assert_eq!(Bucket::lost(200.0, rate, now).left(rate, now), -190.0);
    for full in [100.000_000_1, 100.0, 20.0] {
        assert_eq!(Bucket::lost(full, rate, now), Bucket::full(now));
    }
}

#[test]
fn a_rate_of_next_to_nothing_waits_for_as_long_as_can_be_said() {
    let (rate, now) = (rate(f64::MIN_POSITIVE, 1.0), at(1));
    let mut bucket = Bucket::full(now);
    bucket.take(1.0, rate, now);
    assert_eq!(bucket.wait(1.0, rate, now), LONGEST);
}

#[test]
fn no_debt_takes_longer_to_fill_than_can_be_said() {
    let (rate, now) = (rate(2.0, 10.0), at(7));
    let mut bucket = Bucket::full(now);
    for _ in 0..2 {
        bucket.take(f64::MAX, rate, now);
        assert_eq!(bucket.full_in(rate, now), LONGEST);
    }
}

fn rates() -> impl Strategy<Value = Rate> {
    (0.01..5_000.0_f64, 1.0..10_000.0_f64).prop_map(|(per_second, burst)| rate(per_second, burst))
}

proptest! {
    #[test]
    fn no_window_admits_more_than_burst_and_rate(
        rate in rates(),
        steps in proptest::collection::vec((0..3_000_000_000_u64, 0.0..1.0_f64), 1..120),
    ) {
        let mut now = at(3_000_000);
        let mut bucket = Bucket::full(now);
        let mut had: Vec<(Duration, f64)> = Vec::new();
        for (nanos, share) in steps {
            now += Duration::from_nanos(nanos);
            let cost = share * rate.burst;
            if bucket.wait(cost, rate, now).is_zero() {
                bucket.take(cost, rate, now);
                had.push((now, cost));
                let mut sum = 0.0;
                for (since, cost) in had.iter().rev() {
                    sum += cost;
                    let most = (now - *since).as_secs_f64().mul_add(rate.per_second, rate.burst);
                    prop_assert!(sum <= most + 2.0 * rate.slack(), "{sum} of {most}");
                }
            }
        }
    }

    #[test]
    fn what_is_denied_is_had_after_its_wait_and_no_sooner(
        rate in rates(), taken in 0.0..3.0_f64, share in 0.01..1.0_f64,
    ) {
        let now = at(3_000_000);
        let mut bucket = Bucket::full(now);
        bucket.take(taken * rate.burst, rate, now);
        let cost = share * rate.burst;
        let wait = bucket.wait(cost, rate, now);
        prop_assert_eq!(bucket.wait(cost, rate, now + wait), Duration::ZERO);
        let sooner = wait.mul_f64(0.99);
        if (wait - sooner).as_secs_f64() * rate.per_second > 2.0 * rate.slack() {
            prop_assert_ne!(bucket.wait(cost, rate, now + sooner), Duration::ZERO);
        }
    }

    #[test]
    fn a_refund_never_makes_it_fuller_than_full_and_a_mark_says_when_it_is(
        rate in rates(), steps in proptest::collection::vec((0..3_000_u64, -2.0..2.0_f64), 1..60),
    ) {
        let mut now = at(3_000_000);
        let mut bucket = Bucket::full(now);
        for (millis, share) in steps {
            now += Duration::from_millis(millis);
            bucket.take(share * rate.burst, rate, now);
            prop_assert!(bucket.left(rate, now) <= rate.burst);
            let full = now + bucket.full_in(rate, now);
            prop_assert!((bucket.mark(rate, now) - full.as_secs_f64()).abs() < MARK_ERROR);
            prop_assert!(rate.burst - bucket.left(rate, full) <= 2.0 * rate.slack());
        }
    }
}
