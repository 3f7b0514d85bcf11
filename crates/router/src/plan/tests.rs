use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

struct World {
    ready: Vec<Option<Duration>>,
    trouble: HashSet<usize>,
    budget: u32,
    left: Duration,
}

impl Surroundings for World {
    fn ready_in(&self, candidate: Candidate) -> Option<Duration> {
        self.ready[candidate.path]
    }
    fn in_trouble(&self, candidate: Candidate) -> bool {
        self.trouble.contains(&candidate.upstream)
    }
    fn spend(&mut self) -> bool {
        let had = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        had
    }
    fn time_left(&self) -> Duration {
        self.left
    }
    fn random(&mut self) -> f64 {
        0.5
    }
}

fn world(paths: usize) -> World {
    World {
        ready: vec![Some(Duration::ZERO); paths],
        trouble: HashSet::new(),
        budget: 10,
        left: Duration::from_secs(120),
    }
}

fn rules(attempts: u32) -> Rules {
    let backoff = Backoff { initial: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(10) };
    Rules { attempts, backoff }
}

/// Upstreams 0 and 1, each over egress 0 and 1.
fn grid() -> Vec<Candidate> {
    (0..4).map(|path| Candidate { path, upstream: path / 2, egress: path % 2 }).collect()
}

fn failed(class: Class) -> Failure {
    Failure { class, retry_after: None }
}

fn path_of(next: Next) -> usize {
    match next {
        Next::Try { candidate, .. } => candidate.path,
        Next::Stop(stop) => panic!("stopped: {stop:?}"),
    }
}

#[test]
fn a_failed_connection_leaves_the_egress_and_a_failed_answer_leaves_the_upstream() {
    let grid = grid();
    for (class, expected) in [
        (Class::Connect, 1),
        (Class::Proxy, 1),
        (Class::ServerError, 2),
        (Class::BadResponse, 2),
        (Class::Timeout, 2),
        (Class::Cut, 2),
        (Class::Busy, 2),
    ] {
        let mut plan = Plan::new(&grid, rules(3), Caution::default());
        let mut world = world(4);
        assert_eq!(path_of(plan.first(&mut world)), 0);
        assert_eq!(path_of(plan.after(grid[0], failed(class), &mut world)), expected, "{class:?}");
    }
}

#[test]
fn an_upstream_that_is_down_behind_every_egress_leaves_an_attempt_for_another() {
    let at = |path, upstream, egress| Candidate { path, upstream, egress };
    let paths = [at(0, 0, 0), at(1, 0, 1), at(2, 0, 2), at(3, 1, 0)];
    let mut plan = Plan::new(&paths, rules(3), Caution::default());
    let mut world = world(4);
    assert_eq!(path_of(plan.first(&mut world)), 0);
    assert_eq!(path_of(plan.after(paths[0], failed(Class::Connect), &mut world)), 1);
    assert_eq!(path_of(plan.after(paths[1], failed(Class::Connect), &mut world)), 3);
}

#[test]
fn another_key_of_the_same_path_comes_before_another_upstream() {
    let grid = grid();
    let mut plan = Plan::new(&grid, rules(3), Caution::default());
    let mut world = world(4);
    plan.first(&mut world);
    assert_eq!(path_of(plan.after(grid[0], failed(Class::Auth), &mut world)), 0);
    world.ready[0] = None;
    world.ready[1] = None;
    assert_eq!(path_of(plan.after(grid[0], failed(Class::Auth), &mut world)), 2);
}

#[test]
fn refused_keys_do_not_use_up_the_attempts() {
    let grid = grid();
    let mut plan = Plan::new(&grid, rules(1), Caution::default());
    let mut world = world(4);
    plan.first(&mut world);
    for _ in 0..8 {
        assert_eq!(path_of(plan.after(grid[0], failed(Class::Auth), &mut world)), 0);
    }
    assert_eq!(plan.after(grid[0], failed(Class::Auth), &mut world), Next::Stop(Stop::AttemptsSpent));
    let mut plan = Plan::new(&grid, rules(1), Caution::default());
    plan.first(&mut world);
    assert_eq!(plan.after(grid[0], failed(Class::ServerError), &mut world), Next::Stop(Stop::AttemptsSpent));
}

#[test]
fn a_lone_path_is_asked_again_after_a_jittered_wait() {
    let lone = [Candidate { path: 0, upstream: 0, egress: 0 }];
    let mut plan = Plan::new(&lone, rules(3), Caution::default());
    let mut world = world(1);
    plan.first(&mut world);
    let next = plan.after(lone[0], failed(Class::ServerError), &mut world);
    assert_eq!(next, Next::Try { candidate: lone[0], after: Duration::from_millis(50) });
    let patient = Failure { class: Class::ServerError, retry_after: Some(Duration::from_secs(2)) };
    let next = plan.after(lone[0], patient, &mut world);
    assert_eq!(next, Next::Try { candidate: lone[0], after: Duration::from_secs(2) });
    assert_eq!(plan.after(lone[0], failed(Class::ServerError), &mut world), Next::Stop(Stop::AttemptsSpent));
}

#[test]
fn what_opened_while_it_was_waited_for_gives_its_try_to_another() {
    let candidates =
        [Candidate { path: 0, upstream: 0, egress: 0 }, Candidate { path: 1, upstream: 1, egress: 0 }];
    let mut world = world(2);
    world.ready[1] = None;
    let mut plan = Plan::new(&candidates, rules(2), Caution::default());
    assert_eq!(path_of(plan.first(&mut world)), 0);
    let next = plan.after(candidates[0], failed(Class::ServerError), &mut world);
    assert_eq!(path_of(next), 0, "nothing else is usable");
    (world.ready[0], world.ready[1]) = (None, Some(Duration::ZERO));
    world.budget = 0;
    let next = plan.instead(candidates[0], &mut world);
    assert_eq!(next, Next::Try { candidate: candidates[1], after: Duration::ZERO });
    assert_eq!(plan.attempts(), 2);
    world.ready[1] = None;
    assert_eq!(plan.instead(candidates[1], &mut world), Next::Stop(Stop::NothingUsable));
}

#[test]
fn a_spent_budget_stops_repeats_but_not_moves_to_a_sound_upstream() {
    let grid = grid();
    let mut world = world(4);
    world.budget = 0;
    let mut plan = Plan::new(&grid, rules(4), Caution::default());
    plan.first(&mut world);
    assert_eq!(path_of(plan.after(grid[0], failed(Class::ServerError), &mut world)), 2);
    assert_eq!(plan.after(grid[2], failed(Class::ServerError), &mut world), Next::Stop(Stop::BudgetSpent));
    let mut plan = Plan::new(&grid, rules(4), Caution::default());
    world.trouble.insert(1);
    plan.first(&mut world);
    assert_eq!(plan.after(grid[0], failed(Class::ServerError), &mut world), Next::Stop(Stop::BudgetSpent));
}

#[test]
fn what_must_not_be_sent_twice_is_not() {
    let grid = grid();
    let pinned = Caution { pinned: true, ..Caution::default() };
    let mut plan = Plan::new(&grid, rules(3), pinned);
    let mut world = world(4);
    plan.first(&mut world);
    assert_eq!(path_of(plan.after(grid[0], failed(Class::Connect), &mut world)), 1);
    assert_eq!(plan.after(grid[1], failed(Class::Cut), &mut world), Next::Stop(Stop::Pinned));
}

#[test]
fn two_unknown_fates_are_enough() {
    let grid = grid();
    let mut plan = Plan::new(&grid, rules(9), Caution::default());
    let mut world = world(4);
    plan.first(&mut world);
    assert_eq!(path_of(plan.after(grid[0], failed(Class::Timeout), &mut world)), 2);
    assert_eq!(plan.after(grid[2], failed(Class::Timeout), &mut world), Next::Stop(Stop::AttemptsSpent));
}

#[test]
fn a_short_rest_is_waited_for_and_a_long_one_is_told() {
    let lone = [Candidate { path: 0, upstream: 0, egress: 0 }];
    let mut world = world(1);
    let mut plan = Plan::new(&lone, rules(3), Caution::default());
    plan.first(&mut world);
    world.ready[0] = Some(Duration::from_secs(2));
    let next = plan.after(lone[0], failed(Class::RateLimited), &mut world);
    assert_eq!(next, Next::Try { candidate: lone[0], after: Duration::from_secs(2) });
    world.ready[0] = Some(Duration::from_secs(60));
    assert_eq!(
        plan.after(lone[0], failed(Class::RateLimited), &mut world),
        Next::Stop(Stop::Cooling(Duration::from_secs(60)))
    );
}

fn any_class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Connect),
        Just(Class::Tls),
        Just(Class::Dns),
        Just(Class::Proxy),
        Just(Class::Timeout),
        Just(Class::ServerError),
        Just(Class::BadResponse),
        Just(Class::Cut),
    ]
}

proptest! {
    #[test]
    fn no_path_is_tried_twice_while_an_untried_one_is_usable(
        classes in proptest::collection::vec(any_class(), 1..8),
        attempts in 1u32..8,
        usable in proptest::collection::vec(any::<bool>(), 4),
    ) {
        let grid = grid();
        let mut world = world(4);
        world.ready = usable.iter().map(|u| u.then_some(Duration::ZERO)).collect();
        let mut plan = Plan::new(&grid, rules(attempts), Caution::default());
        let mut tried = HashSet::new();
        let mut next = plan.first(&mut world);
        let (mut count, mut unsent) = (0, 0);
        for class in classes {
            let Next::Try { candidate, after } = next else { break };
            count += 1;
            unsent += u32::from(class.never_sent());
            prop_assert!(usable[candidate.path]);
            let untried = (0..4).any(|p| usable[p] && !tried.contains(&p));
            prop_assert!(!untried || tried.insert(candidate.path));
            prop_assert!(after <= LONGEST_COOL_WAIT);
            next = plan.after(candidate, failed(class), &mut world);
        }
        prop_assert!(count <= attempts + unsent, "only what was never sent is beyond the attempts");
        prop_assert_eq!(count, plan.attempts().min(count));
    }
}

#[test]
fn a_dead_upstream_of_many_ways_does_not_use_up_the_attempts() {
    let candidate = |path, upstream, egress| Candidate { path, upstream, egress };
    let ways = [candidate(0, 0, 0), candidate(1, 0, 1), candidate(2, 0, 2), candidate(3, 1, 1)];
    for attempts in [1, 2, 3] {
        let mut world = world(4);
        let mut plan = Plan::new(&ways, rules(attempts), Caution::default());
        let mut next = plan.first(&mut world);
        let mut asked = Vec::new();
        while let Next::Try { candidate, .. } = next {
            asked.push(candidate.upstream);
            if candidate.upstream == 1 {
                break;
            }
            next = plan.after(candidate, failed(Class::Connect), &mut world);
        }
        assert_eq!(asked.last(), Some(&1), "{attempts}: {asked:?}");
        assert!(asked.len() <= 3, "two ways are enough to know: {asked:?}");
    }
}
