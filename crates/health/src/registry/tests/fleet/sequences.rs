use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Fails(usize, usize),
    Works(usize, usize),
    Proves(usize),
    Talk,
    Time(u32),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, 0usize..4).prop_map(|(n, path)| Step::Fails(n, path)),
        2 => (0usize..3, 0usize..4).prop_map(|(n, path)| Step::Works(n, path)),
        2 => (0usize..3).prop_map(Step::Proves),
        4 => Just(Step::Talk),
        3 => (1u32..15).prop_map(Step::Time),
        1 => (0usize..3).prop_map(Step::Restart),
    ]
}

/// Copies that any node may send now pass.
fn prove(node: &mut Node) {
    while let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
        shadow.judge(&Verdict::Pass, node.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Node 0 has no failure of its own, and node 1 alone has any.
    #[test]
    fn whatever_one_node_goes_through_the_others_stay_closed(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut cluster = Cluster::of(3);
        for step in steps {
            take(&mut cluster, step, |n| n == 1);
            for n in [0, 2] {
                prop_assert_eq!(cluster.nodes[n].states(), [State::Closed; 4]);
            }
        }
    }

    #[test]
    fn whatever_nodes_tell_each_other_all_come_back_once_all_is_well(
        steps in proptest::collection::vec(step(), 1..80),
        leases in any::<bool>(),
    ) {
        let mut cluster = Cluster::of(3);
        cluster.leases = leases;
        for step in steps {
            take(&mut cluster, step, |_| true);
        }
        for _ in 0..400 {
            for node in &mut cluster.nodes {
                prove(node);
                for path in node.admitted() {
                    node.sends(2, path, Outcome::Good);
                }
            }
            cluster.seconds(1);
        }
        for node in &cluster.nodes {
            prop_assert_eq!(node.states(), [State::Closed; 4]);
        }
    }
}

fn take(cluster: &mut Cluster, step: Step, sick: impl Fn(usize) -> bool) {
    cluster.align();
    match step {
        Step::Fails(n, path) if sick(n) => cluster.nodes[n].sends(2, path, UNREACHED),
        Step::Fails(n, path) | Step::Works(n, path) => cluster.nodes[n].send(path, Outcome::Good),
        Step::Proves(n) => prove(&mut cluster.nodes[n]),
        Step::Talk => cluster.talk(),
        Step::Time(n) => cluster.seconds(n),
        Step::Restart(n) => {
            let now = cluster.nodes[n].now;
            let mut node = Node::new();
            node.now = now;
            cluster.nodes[n] = node.warm();
        }
    }
    cluster.align();
}
