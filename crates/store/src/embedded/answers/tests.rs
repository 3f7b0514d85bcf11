use super::*;

const LONG: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::from_secs(5);

fn value(bytes: usize) -> Bytes {
    vec![b'x'; bytes].into()
}

fn is_there(answers: &mut Answers, key: &str) -> bool {
    answers.look_up(key, NOW).is_some()
}

#[test]
fn the_least_recently_used_makes_room() {
    let mut answers = Answers::new(3 * (SLOT_BYTES + 1_001));
    for key in ["a", "b", "c"] {
        answers.put(key, 1, &value(1_000), LONG, NOW);
    }
    assert!(is_there(&mut answers, "a"));
    answers.put("d", 1, &value(1_000), LONG, NOW);
    assert_eq!(["a", "b", "c", "d"].map(|key| is_there(&mut answers, key)), [true, false, true, true]);
    assert!(answers.bytes <= answers.max_bytes);
}

#[test]
fn an_answer_that_would_cost_all_others_their_place_is_not_kept() {
    let mut answers = Answers::new(4_000);
    answers.put("a", 1, &value(1_000), LONG, NOW);
    answers.put("b", 1, &value(4_000), LONG, NOW);
    assert_eq!(["a", "b"].map(|key| is_there(&mut answers, key)), [true, false]);
    answers.put("a", 1, &value(4_000), LONG, NOW);
    assert_eq!((answers.bytes, answers.slots.len(), answers.order.len()), (0, 0, 0));
}

#[test]
fn pieces_count_and_a_right_beyond_all_bounds_is_lost() {
    let mut answers = Answers::new(4_000);
    assert_eq!(answers.begin("a", 1, "", LONG, NOW), Begun::Lead);
    assert!(answers.renew("a", 1, &[value(2_000)], LONG, NOW).held);
    assert!(answers.bytes > 2_000);
    assert!(answers.renew("a", 1, &[value(2_000)], LONG, NOW).held);
    assert!(!answers.renew("a", 1, &[], LONG, NOW).held);
    assert_eq!(answers.begin("a", 2, "", LONG, NOW), Begun::Lead);
}

#[test]
fn each_renewal_hears_whether_another_has_asked_since_the_last() {
    let mut answers = Answers::new(4_000);
    answers.begin("a", 1, "", LONG, NOW);
    let mut followed = |asks: fn(&mut Answers)| {
        asks(&mut answers);
        answers.renew("a", 1, &[], LONG, NOW).followed
    };
    assert!(!followed(|_| ()));
    assert!(followed(|answers| drop(answers.follow("a", 0, NOW))));
    assert!(!followed(|_| ()));
    assert!(followed(|answers| drop(answers.begin("a", 2, "", LONG, NOW))));
    assert!(followed(|answers| assert_eq!(answers.follow("a", usize::MAX, NOW), Followed::Orphaned)));
    assert!(!followed(|answers| assert!(!answers.renew("a", 2, &[], LONG, NOW).held)));
}

#[test]
fn nothing_is_left_of_what_is_over() {
    let mut answers = Answers::new(100_000);
    answers.put("a", 1, &value(10), LONG, NOW);
    assert_eq!(answers.begin("b", 1, "", LONG, NOW), Begun::Lead);
    assert_eq!(answers.begin("c", 1, "", LONG, NOW), Begun::Lead);
    answers.give_up("c", 1, true, NOW);
    let later = NOW + LONG;
    for key in ["a", "b", "c", "d"] {
        assert_eq!(answers.look_up(key, later - Duration::from_nanos(1)).is_some(), key == "a");
        assert_eq!(answers.follow(key, 0, later), Followed::Orphaned);
    }
    assert_eq!((answers.bytes, answers.slots.len(), answers.order.len()), (0, 0, 0));
}

#[test]
fn slots_are_bounded_where_they_hold_nothing_but_a_right() {
    let mut answers = Answers::new(100 * SLOT_BYTES);
    for n in 0..1_000 {
        assert_eq!(answers.begin(&format!("{n}"), 1, "note", LONG, NOW), Begun::Lead);
        assert!(answers.slots.len() < 100 && answers.slots.len() == answers.order.len());
    }
    assert!(matches!(answers.begin("999", 2, "", LONG, NOW), Begun::Follow(_)));
    assert_eq!(answers.begin("0", 2, "", LONG, NOW), Begun::Lead);
}
