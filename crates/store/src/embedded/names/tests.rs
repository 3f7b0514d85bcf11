use super::*;

const LONG: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::from_secs(5);

fn beat(node: &str) -> Beat {
    Beat { node: node.to_owned(), payload: "{}".to_owned(), lives: LONG, epoch: String::new() }
}

fn cool(names: &mut Names, name: &str, now: Duration) {
    names.cool(&Cooldown { name: name.to_owned(), left: LONG }, now);
}

fn cooling(names: &mut Names, now: Duration) -> Vec<String> {
    let fleet = names.beat(&beat("me"), now).unwrap();
    fleet.cooldowns.into_iter().map(|cooldown| cooldown.name).collect()
}

#[test]
fn a_lease_beyond_the_bound_is_refused_until_another_is_over() {
    let mut names = Names::new(2);
    assert!(names.lease("a", 1, LONG, NOW) && names.lease("b", 1, LONG, NOW));
    assert!(!names.lease("c", 1, LONG, NOW));
    assert!(names.lease("b", 1, LONG * 2, NOW));
    assert!(names.lease("c", 1, LONG, NOW + LONG));
    assert_eq!(names.leases.len(), 2);
}

#[test]
fn a_cool_down_beyond_the_bound_is_forgotten_until_another_is_over() {
    let mut names = Names::new(2);
    for name in ["a", "b", "c"] {
        cool(&mut names, name, NOW);
    }
    assert_eq!(cooling(&mut names, NOW), ["a", "b"]);
    cool(&mut names, "c", NOW + LONG);
    assert_eq!(cooling(&mut names, NOW + LONG), ["c"]);
}

#[test]
fn a_node_beyond_the_bound_is_refused() {
    let mut names = Names::new(1);
    assert!(names.beat(&beat("a"), NOW).is_some() && names.beat(&beat("a"), NOW).is_some());
    assert!(names.beat(&beat("b"), NOW).is_none());
    assert!(names.beat(&beat("b"), NOW + LONG).is_some());
}

#[test]
fn each_filling_has_a_name_of_its_own() {
    let [mut one, mut other] = [Names::new(1), Names::new(1)];
    assert_ne!(one.beat(&beat("a"), NOW).unwrap().epoch, other.beat(&beat("a"), NOW).unwrap().epoch);
}
