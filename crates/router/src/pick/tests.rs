use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct One {
    share: u32,
    in_band: bool,
    pending: u32,
    score: u32,
    usable: bool,
}

impl Field for Vec<One> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }
    fn share(&self, i: usize) -> u32 {
        self[i].share
    }
    fn in_band(&self, i: usize) -> bool {
        self[i].in_band
    }
    fn pending(&self, i: usize) -> u32 {
        self[i].pending
    }
    fn score(&self, i: usize) -> u32 {
        self[i].score
    }
    fn usable(&self, i: usize) -> bool {
        self[i].usable
    }
}

fn path(percent: u32, pending: u32) -> One {
    One { share: percent * 65535 / 100, in_band: true, pending, score: 1000, usable: true }
}

/// The part of many picks that each path got.
fn parts(field: &Vec<One>) -> Vec<f64> {
    const DRAWS: u64 = 40_000;
    let mut counts = vec![0u32; field.as_slice().len()];
    // A mere counter as the random number: the draws must be good all the same.
    for n in 0..DRAWS {
        counts[pick(field, n).unwrap()] += 1;
    }
    counts.into_iter().map(|c| f64::from(c) / DRAWS as f64).collect()
}

fn near(got: f64, wanted: f64) -> bool {
    (got - wanted).abs() < 0.01
}

#[test]
fn idle_paths_get_their_shares() {
    let got = parts(&vec![path(75, 0), path(20, 0), path(5, 0)]);
    assert!(near(got[0], 0.75) && near(got[1], 0.20) && near(got[2], 0.05), "{got:?}");
}

#[test]
fn load_in_proportion_to_the_shares_changes_nothing() {
    let share = |share, pending| One { share, ..path(0, pending) };
    let got = parts(&vec![share(45_000, 30), share(15_000, 10)]);
    assert!(near(got[0], 0.75), "{got:?}");
}

#[test]
fn the_loaded_one_of_two_loses_every_draw_that_has_the_other_in_it() {
    let got = parts(&vec![path(50, 10), path(50, 1)]);
    assert!(near(got[0], 0.25), "only where both draws are it: {got:?}");
}

#[test]
fn one_outside_of_the_band_goes_as_drawn_and_is_never_the_second_choice() {
    let explored = One { in_band: false, ..path(10, 0) };
    let got = parts(&vec![path(90, 50), explored.clone()]);
    assert!(near(got[1], 0.10), "its idleness attracts nothing: {got:?}");
    let got = parts(&vec![path(90, 0), One { pending: 50, ..explored }]);
    assert!(near(got[1], 0.10), "its load repels nothing: {got:?}");
}

#[test]
fn the_share_of_an_unusable_path_goes_to_the_others() {
    let mut field = vec![path(60, 0), path(30, 0), path(10, 0)];
    field[0].usable = false;
    let got = parts(&field);
    assert!(got[0] == 0.0 && near(got[1], 0.75), "{got:?}");
}

#[test]
fn without_shares_the_best_usable_one_goes() {
    let of = |score, usable| One { share: 0, score, usable, ..path(0, 0) };
    assert_eq!(pick(&vec![of(900, true), of(100, false), of(300, true), of(u32::MAX, true)], 7), Some(2));
    assert_eq!(pick(&vec![One { pending: 2, ..of(u32::MAX, true) }, of(u32::MAX, true)], 7), Some(1));
    assert_eq!(pick(&vec![of(900, false), of(100, false)], 7), None);
    assert_eq!(pick(&Vec::<One>::new(), 7), None);
}

proptest! {
    #[test]
    fn a_usable_path_is_picked_exactly_when_there_is_one(
        field in proptest::collection::vec(
            (prop_oneof![Just(0u32), 1u32..=65535], any::<bool>(), 0u32..1000, any::<u32>(), any::<bool>()),
            0..24,
        ),
        random in any::<u64>(),
    ) {
        let field: Vec<One> = field
            .into_iter()
            .map(|(share, in_band, pending, score, usable)| One { share, in_band, pending, score, usable })
            .collect();
        match pick(&field, random) {
            Some(i) => {
                prop_assert!(field[i].usable);
                let shared = field.iter().any(|p| p.usable && p.share > 0);
                prop_assert!(!shared || field[i].share > 0, "no share, no request, while another has one");
            }
            None => prop_assert!(!field.iter().any(|p| p.usable)),
        }
    }
}
