use super::*;

const NOON: u64 = 43_200;
const LONG: Duration = Duration::from_secs(1_000);

/// So many seconds after noon of a day.
fn at(seconds: u64) -> Moment {
    Moment { steady: Duration::from_secs(seconds), wall: Duration::from_secs(100 * DAY + NOON + seconds) }
}

fn debit(counter: Rule, cost: f64, reserved: bool) -> Debit {
    Debit { key: "key".into(), counter, cost, extra: 0.0, known: None, reserved }
}

fn settled(counter: Rule, charged: f64, used: f64, reserved: bool) -> Settled {
    Settled { key: "key".into(), counter, charged, used, reserved }
}

fn left(counter: &mut Counter, now: Moment) -> f64 {
    counter.standing(Asked::default(), now).left
}

const LIMIT: Rule = Rule::Day { limit: 10.0 };
const BUCKET: Rule = Rule::Bucket { per_second: 1.0, burst: 10.0, patience: Duration::ZERO };

#[test]
fn a_day_begins_anew_at_midnight() {
    let mut counter = Counter::begin(LIMIT, None, at(0));
    counter.take(&debit(LIMIT, 10.0, false), 0.0, 1, LONG, at(0));
    assert_eq!(counter.ask(&debit(LIMIT, 1.0, false), at(0)).denied, Some(Duration::from_secs(NOON)));
    let before = counter.adopt(LIMIT, at(NOON - 1));
    assert_eq!(before.ask(&debit(LIMIT, 1.0, false), at(NOON - 1)).denied, Some(Duration::from_secs(1)));
    assert!(!before.is_full(at(NOON - 1)) && before.is_full(at(NOON)));
    let mut after = before.adopt(LIMIT, at(NOON));
    assert_eq!(left(&mut after, at(NOON)), 10.0);
}

#[test]
fn a_clock_set_back_across_midnight_does_not_begin_the_day_twice() {
    let mut counter = Counter::begin(LIMIT, None, at(NOON));
    counter.take(&debit(LIMIT, 10.0, false), 0.0, 1, LONG, at(NOON));
    let back = at(NOON - 600);
    let counter = counter.adopt(LIMIT, back);
    assert_eq!(counter.ask(&debit(LIMIT, 1.0, false), back).denied, Some(Duration::from_secs(DAY + 600)));
    let year_off = Moment { wall: Duration::from_secs(400 * DAY), ..at(NOON) };
    let mut counter = Counter::begin(LIMIT, None, year_off);
    counter.take(&debit(LIMIT, 10.0, false), 0.0, 1, LONG, year_off);
    assert_eq!(left(&mut counter.adopt(LIMIT, at(NOON)), at(NOON)), 10.0);
}

#[test]
fn what_was_charged_yesterday_is_not_given_back_to_today() {
    for (used, should_be_left) in [(2.0, 7.0), (9.0, 6.0)] {
        let mut counter = Counter::begin(LIMIT, None, at(0));
        counter.take(&debit(LIMIT, 8.0, true), 0.0, 1, LONG * 100, at(0));
        let mut counter = counter.adopt(LIMIT, at(NOON));
        counter.take(&debit(LIMIT, 3.0, false), 0.0, 2, LONG, at(NOON));
        counter.settle(1, &settled(LIMIT, 8.0, used, true), at(NOON));
        assert_eq!(left(&mut counter, at(NOON)), should_be_left);
    }
    let mut counter = Counter::begin(LIMIT, None, at(NOON - 1));
    counter.take(&debit(LIMIT, 8.0, true), 0.0, 1, Duration::from_secs(2), at(NOON - 1));
    let mut counter = counter.adopt(LIMIT, at(NOON));
    counter.take(&debit(LIMIT, 3.0, false), 0.0, 2, LONG, at(NOON));
    assert_eq!(left(&mut counter.adopt(LIMIT, at(NOON + 5)), at(NOON + 5)), 7.0);
}

#[test]
fn the_mark_of_a_day_is_worth_nothing_the_day_after() {
    let mut counter = Counter::begin(LIMIT, None, at(0));
    counter.take(&debit(LIMIT, 7.25, false), 0.0, 1, LONG, at(0));
    let mark = counter.standing(Asked::default(), at(0)).mark;
    assert_eq!(left(&mut Counter::begin(LIMIT, Some(mark), at(1)), at(1)), 2.75);
    assert_eq!(left(&mut Counter::begin(LIMIT, Some(mark), at(NOON)), at(NOON)), 10.0);
}

#[test]
fn a_bucket_is_forgotten_when_it_is_full_and_no_mark_of_it_is_ahead() {
    let mut counter = Counter::begin(BUCKET, None, at(0));
    assert!(counter.is_full(at(0)));
    counter.take(&debit(BUCKET, 6.0, true), 0.0, 1, LONG, at(0));
    let mark = counter.standing(Asked::default(), at(0)).mark;
    counter.settle(1, &settled(BUCKET, 6.0, 0.0, true), at(1));
    assert_eq!(left(&mut counter, at(1)), 10.0);
    assert!(!counter.is_full(at(5)) && counter.is_full(at(6)));
    assert_eq!(left(&mut Counter::begin(BUCKET, Some(mark), at(6)), at(6)), 10.0);
}

#[test]
fn a_counter_with_something_reserved_is_kept() {
    let mut counter = Counter::begin(BUCKET, None, at(0));
    counter.take(&debit(BUCKET, 1.0, true), 0.0, 1, LONG, at(0));
    assert!(!counter.is_full(at(900)));
    counter.sweep(at(1_000));
    assert!(counter.is_full(at(1_000)) && counter.held() == 0);
}

#[test]
fn another_rate_goes_on_from_what_is_owed_and_another_kind_begins_anew() {
    let mut counter = Counter::begin(BUCKET, None, at(0));
    counter.take(&debit(BUCKET, 8.0, false), 0.0, 1, LONG, at(0));
    let wider = Rule::Bucket { per_second: 100.0, burst: 20.0, patience: Duration::ZERO };
    let mut counter = counter.adopt(wider, at(3));
    assert_eq!(left(&mut counter, at(3)), 15.0);
    let mut counter = counter.adopt(LIMIT, at(3));
    assert_eq!(left(&mut counter, at(3)), 10.0);
}

#[test]
fn an_entry_that_has_run_out_is_not_renewed() {
    let running = Rule::Running { limit: 1.0, lives: Duration::from_secs(10) };
    let mut counter = Counter::begin(running, None, at(0));
    counter.take(&debit(running, 1.0, false), 0.0, 1, LONG, at(0));
    counter.renew(1, Duration::from_secs(10), at(9).steady);
    counter.sweep(at(18));
    assert_eq!(
        (counter.held(), counter.standing(Asked::default(), at(18)).reset),
        (1, Duration::from_secs(1))
    );
    counter.renew(1, LONG, at(19).steady);
    counter.sweep(at(19));
    assert_eq!(counter.held(), 0);
}
