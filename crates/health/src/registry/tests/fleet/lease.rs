use super::*;

#[test]
fn only_the_holder_of_a_lease_tries_and_only_until_it_ends() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    let name = path("a@proxy");
    let shadow = |node: &Node| node.registry.shadow(0, node.model, node.now);
    assert_eq!(node.registry.subjects_to_lease(), std::slice::from_ref(&name));
    node.registry.leased(&HashMap::new());
    assert!(!node.registry.may_try(&name, node.now));
    assert!(shadow(&node).is_none(), "a peer holds it, or may");
    node.wait(SECOND * 30);
    assert!(node.registry.made_up(node.now).is_empty());
    let until = node.now + SECOND * 5;
    node.registry.leased(&HashMap::from([(name.clone(), until)]));
    assert!(node.registry.may_try(&name, node.now));
    shadow(&node).unwrap().judge(&Verdict::Pass, node.now);
    // As if nothing had run for that long.
    node.now = until;
    assert!(!node.registry.may_try(&name, node.now));
    assert!(shadow(&node).is_none());
    node.registry.unleased(1);
    assert!(shadow(&node).is_some(), "the store is away");
}

#[test]
fn without_leases_each_node_tries_as_many_times_as_seldom_as_there_are_nodes() {
    let mut node = Node::new().warm().shadowing(A_PROXY);
    node.registry.unleased(3);
    let mut copies = 0;
    for _ in 0..60 {
        if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
            copies += 1;
            shadow.judge(&Verdict::Unclear, node.now);
        }
        node.wait(MS * 500);
    }
    assert_eq!(copies, 5, "one in six seconds");
}

#[test]
fn of_nodes_that_recover_one_at_a_time_sends_copies() {
    let mut cluster = Cluster::of(3);
    cluster.leases = true;
    for n in 0..3 {
        cluster.breaks(n, A_DIRECT);
    }
    cluster.talk();
    let mut senders = std::collections::HashSet::new();
    for _ in 0..30 {
        for (n, node) in cluster.nodes.iter().enumerate() {
            if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
                senders.insert(n);
                shadow.judge(&Verdict::Unclear, node.now);
            }
        }
        cluster.seconds(1);
    }
    assert_eq!(senders.len(), 1, "{senders:?}");
}
