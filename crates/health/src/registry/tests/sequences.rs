use proptest::prelude::*;

use super::*;
use crate::registry::probe::Reached;

#[derive(Debug, Clone)]
enum Step {
    /// Over the path that is chosen.
    Request(Outcome),
    /// Over this path, as a hedge or a retry would.
    Over(usize, Outcome),
    /// It is given up after some time.
    Waits(usize),
    Cut(usize),
    Probe(usize, bool),
    Reached(bool),
    Copy(Verdict),
    MadeUp(Verdict),
    Time(u64),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let class = proptest::sample::select(vec![
        Class::Connect,
        Class::Tls,
        Class::Dns,
        Class::Proxy,
        Class::Timeout,
        Class::ServerError,
        Class::BadResponse,
        Class::Cut,
        Class::RateLimited,
        Class::Quota,
        Class::Auth,
        Class::ModelNotFound,
        Class::Busy,
    ]);
    let detail = prop_oneof![
        6 => Just(Detail::Plain),
        1 => Just(Detail::Page),
        1 => Just(Detail::Certificate),
        1 => Just(Detail::ProxyLogin),
    ];
    prop_oneof![
        1 => Just(Outcome::Good),
        2 => (class, detail).prop_map(|(class, detail)| Outcome::Bad(class, detail)),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => Just(Verdict::Pass),
        1 => Just(Verdict::Slow),
        1 => Just(Verdict::Fail("500".into())),
        1 => Just(Verdict::Limited(SECOND * 20)),
        1 => Just(Verdict::Unclear),
        1 => Just(Verdict::Void),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => outcome().prop_map(Step::Request),
        8 => (0usize..4, outcome()).prop_map(|(path, outcome)| Step::Over(path, outcome)),
        1 => (0usize..4).prop_map(Step::Waits),
        1 => (0usize..4).prop_map(Step::Cut),
        2 => (0usize..4, any::<bool>()).prop_map(|(path, passed)| Step::Probe(path, passed)),
        1 => any::<bool>().prop_map(Step::Reached),
        3 => verdict().prop_map(Step::Copy),
        3 => verdict().prop_map(Step::MadeUp),
        4 => (0u64..20_000).prop_map(Step::Time),
    ]
}

/// `lucky` never fails, whatever is drawn.
fn take(node: &mut Node, step: Step, lucky: usize) {
    let of = |path, outcome| if path == lucky { Outcome::Good } else { outcome };
    let judged = |path, verdict| if path == lucky { Verdict::Pass } else { verdict };
    match step {
        Step::Request(outcome) => {
            let path = match node.choose() {
                Chosen::Path(path) => path,
                Chosen::Fallback => panic!("there is none"),
                Chosen::Nothing => {
                    let trickle = node.registry.trickle(0..4, node.model, node.now).unwrap();
                    node.send(trickle.path, of(trickle.path, outcome));
                    return;
                }
            };
            assert!(node.registry.admits(path, node.model), "{path}");
            node.send(path, of(path, outcome));
        }
        Step::Over(path, outcome) => node.send(path, of(path, outcome)),
        Step::Waits(path) => {
            let flights = [node.flight(path), node.flight(path)];
            node.wait(if path == lucky { MS * 100 } else { SECOND * 7 });
            drop(flights);
        }
        Step::Cut(path) => {
            let mut flight = node.flight(path);
            flight.first(node.now);
            flight.end(path != lucky, node.now);
        }
        Step::Probe(path, passed) => {
            let result = if passed || path == lucky { Ok(MS * 20) } else { Err("503".into()) };
            node.registry.probed(path, result, node.now);
        }
        Step::Reached(up) => {
            let up = up || lucky % 2 == 1;
            let result = if up { Reached::Yes(MS) } else { Reached::No("timeout".into()) };
            node.registry.reached(1, &result, node.now);
        }
        Step::Copy(verdict) => {
            if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
                let verdict = judged(shadow.path, verdict);
                shadow.judge(&verdict, node.now);
            }
        }
        Step::MadeUp(verdict) => {
            for due in node.registry.made_up(node.now) {
                if let MadeUp::Recovery(shadow) = due {
                    let verdict = judged(shadow.path, verdict.clone());
                    shadow.judge(&verdict, node.now);
                }
            }
        }
        Step::Time(ms) => node.wait(MS * ms as u32),
    }
}

/// Live traffic for `span`, over whatever is chosen; the share of it that was answered in the last minute.
fn traffic(node: &mut Node, span: Duration, lucky: usize) -> f64 {
    let end = node.now + span;
    let (mut answered, mut all) = (0.0, 0.0);
    while node.now < end {
        let trickle = match node.choose() {
            Chosen::Path(path) => Err(path),
            _ => node.registry.trickle(0..4, node.model, node.now).ok_or(usize::MAX),
        };
        let path = trickle.as_ref().map_or_else(|path| *path, |trickle| trickle.path);
        node.send(path, if path == lucky { Outcome::Good } else { UNREACHED });
        if end - node.now < SECOND * 60 {
            all += 1.0;
            answered += f64::from(u8::from(path == lucky));
        }
        if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
            let verdict = if shadow.path == lucky { Verdict::Pass } else { Verdict::Fail("dead".into()) };
            shadow.judge(&verdict, node.now);
        }
        node.now += MS * 450;
        node.registry.tick(node.now);
    }
    answered / all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_outcomes_leave_a_route_without_a_way_and_what_works_is_found_again(
        lucky in 0usize..4,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut node = Node::new().warm();
        for step in steps {
            take(&mut node, step, lucky);
            let admitted = node.admitted();
            match node.choose() {
                Chosen::Path(path) => prop_assert!(admitted.contains(&path)),
                chosen => {
                    prop_assert_eq!(chosen, Chosen::Nothing);
                    prop_assert!(admitted.is_empty());
                    prop_assert!(node.registry.trickle(0..4, node.model, node.now).is_some());
                }
            }
            for path in 0..4 {
                let share = node.registry.share_of(path, node.model);
                prop_assert_eq!(share > 0.0, admitted.contains(&path));
            }
        }
        let answered = traffic(&mut node, SECOND * 900, lucky);
        prop_assert!(answered > 0.9, "{} by {:?}", answered, node.states());
    }
}
