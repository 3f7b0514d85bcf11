use std::collections::HashMap;

use super::*;

mod lease;
mod sequences;

/// Nodes that hear each other whenever `talk` is called, and share one clock.
struct Cluster {
    nodes: Vec<Node>,
    /// There are leases, and these nodes hold them.
    leases: bool,
    holders: HashMap<SubjectName, usize>,
}

impl Cluster {
    fn of(n: usize) -> Self {
        let nodes: Vec<Node> = (0..n).map(|_| Node::new()).collect();
        let mut cluster = Self { nodes, leases: false, holders: HashMap::new() };
        cluster.align();
        for node in &mut cluster.nodes {
            for _ in 0..12 {
                for path in 0..4 {
                    node.send(path, Outcome::Good);
                }
            }
        }
        cluster.align();
        cluster
    }

    fn align(&mut self) {
        let now = self.nodes.iter().map(|node| node.now).max().unwrap();
        self.nodes.iter_mut().for_each(|node| node.now = now);
    }

    fn says(&self, n: usize) -> PeerSays {
        let node = &self.nodes[n];
        PeerSays { node: format!("n{n}"), report: node.registry.report(node.now) }
    }

    fn talk(&mut self) {
        self.align();
        let all: Vec<PeerSays> = (0..self.nodes.len()).map(|n| self.says(n)).collect();
        for (n, node) in self.nodes.iter().enumerate() {
            let peers: Vec<PeerSays> =
                all.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, says)| says.clone()).collect();
            node.registry.hear(&peers, node.now);
        }
        if self.leases {
            self.lease();
        }
    }

    /// The first that wants a subject has it for as long as it does.
    fn lease(&mut self) {
        let wants = |n: usize| self.nodes[n].registry.subjects_to_lease();
        self.holders.retain(|name, n| wants(*n).contains(name));
        for (n, node) in self.nodes.iter().enumerate() {
            let mut held = node.registry.subjects_to_lease();
            held.retain(|name| *self.holders.entry(name.clone()).or_insert(n) == n);
            node.registry.leased(&held.into_iter().map(|name| (name, node.now + SECOND * 5)).collect());
        }
    }

    /// Seconds in which all talk and time goes by.
    fn seconds(&mut self, n: u32) {
        for _ in 0..n {
            for node in &mut self.nodes {
                node.wait(SECOND);
                if node.state(B_PROXY) == State::Closed {
                    node.send(B_PROXY, Outcome::Good);
                }
            }
            self.talk();
        }
    }

    fn states(&self, path: usize) -> Vec<State> {
        self.nodes.iter().map(|node| node.state(path)).collect()
    }

    fn breaks(&mut self, n: usize, path: usize) {
        self.align();
        self.nodes[n].sends(3, path, UNREACHED);
        assert_eq!(self.nodes[n].state(path), State::Open);
    }

    /// Proven by five copies.
    fn proves(&mut self, n: usize, path: usize) {
        assert_eq!(self.one_proves(&[n], path), n);
    }

    /// By the first of these.
    fn one_proves(&mut self, nodes: &[usize], path: usize) -> usize {
        for _ in 0..60 {
            for n in nodes {
                let node = &mut self.nodes[*n];
                if let Some(shadow) = node.registry.shadow(0, node.model, node.now) {
                    shadow.judge(&Verdict::Pass, node.now);
                }
                if node.state(path) == State::Ramping {
                    return *n;
                }
            }
            self.seconds(1);
        }
        panic!("not proven");
    }
}

fn path(name: &str) -> SubjectName {
    SubjectName { name: name.to_owned(), model: None }
}

/// Its part of the traffic once it is divided anew.
fn share(node: &mut Node, path: usize) -> f64 {
    for _ in 0..300 {
        node.choose();
        node.wait(MS * 100);
    }
    let parts = node.registry.divisions(0, node.now).remove(0).parts;
    parts[path].share
}

#[test]
fn one_sick_node_opens_nothing_elsewhere_but_makes_it_doubtful() {
    for n in 2..6 {
        let mut cluster = Cluster::of(n);
        cluster.breaks(0, A_DIRECT);
        cluster.talk();
        assert!(cluster.states(A_DIRECT)[1..].iter().all(|state| *state == State::Closed), "{n}");
        assert!(cluster.nodes[1].registry.paths[A_DIRECT].gate.view().degraded);
        cluster.nodes[1].sends(2, A_DIRECT, UNREACHED);
        assert_eq!(cluster.nodes[1].state(A_DIRECT), State::Open, "half as many failures do");
        cluster.nodes[1].told_of_path("a@direct", Reason::Consecutive);
    }
}

#[test]
fn doubt_ends_with_what_it_came_from() {
    let mut cluster = Cluster::of(3);
    cluster.breaks(0, A_DIRECT);
    cluster.talk();
    cluster.nodes[0].force(A_DIRECT, Some(State::Closed));
    cluster.talk();
    cluster.nodes[1].sends(2, A_DIRECT, UNREACHED);
    assert_eq!(cluster.nodes[1].state(A_DIRECT), State::Closed);

    cluster.breaks(2, A_PROXY);
    cluster.talk();
    assert!(cluster.nodes[1].registry.paths[A_PROXY].gate.view().degraded);
    let node = &cluster.nodes[1];
    node.registry.hear(&[], node.now);
    assert!(!node.registry.paths[A_PROXY].gate.view().degraded, "the store is away");
}

#[test]
fn a_doubtful_path_counts_for_half_as_much() {
    let mut cluster = Cluster::of(2);
    let node = &mut cluster.nodes[1];
    for n in 0..80 {
        let mut flight = node.flight(n % 4);
        node.wait(MS * 500);
        flight.first(node.now);
    }
    cluster.align();
    let before = share(&mut cluster.nodes[1], A_DIRECT);
    assert!(before > 0.1, "{before}");
    cluster.breaks(0, A_DIRECT);
    cluster.talk();
    let node = &mut cluster.nodes[1];
    let after = share(node, A_DIRECT);
    assert!(after < before / 2.0, "{before} {after}");
}

#[test]
fn half_of_the_nodes_and_two_at_least_open_it_everywhere() {
    for (nodes, needed) in [(3, 2), (4, 2), (5, 3), (6, 3)] {
        let mut cluster = Cluster::of(nodes);
        for n in 0..needed - 1 {
            cluster.breaks(n, A_DIRECT);
        }
        cluster.talk();
        assert_eq!(cluster.nodes[nodes - 1].state(A_DIRECT), State::Closed, "{nodes}");
        cluster.breaks(needed - 1, A_DIRECT);
        cluster.talk();
        let last = &cluster.nodes[nodes - 1];
        assert_eq!(last.state(A_DIRECT), State::Open, "{nodes}");
        last.told_of_path("a@direct", Reason::Fleet);
    }
}

#[test]
fn a_model_that_was_never_asked_for_opens_too() {
    let mut cluster = Cluster::of(3);
    for n in [0, 1] {
        let node = &mut cluster.nodes[n];
        let mini = node.registry.model(Some("mini"));
        for _ in 0..5 {
            let mut flight = node.registry.begin(B_DIRECT, mini, 1, 0, node.now);
            flight.sent(node.now);
            flight.failed(Class::ServerError, Detail::Plain, node.now);
        }
    }
    cluster.talk();
    let node = &cluster.nodes[2];
    assert_eq!(node.told(), [("b".to_owned(), Some("mini".to_owned()), Reason::Fleet)]);
    assert!(!node.registry.admits(B_PROXY, node.registry.model(Some("mini"))));
    assert!(node.registry.admits(B_PROXY, node.model));
}

#[test]
fn what_was_only_heard_is_no_evidence_and_does_not_keep_itself_open() {
    let mut cluster = Cluster::of(4);
    cluster.breaks(0, A_DIRECT);
    cluster.breaks(1, A_DIRECT);
    cluster.talk();
    assert!(cluster.states(A_DIRECT).iter().all(|state| *state == State::Open));
    for n in [2, 3] {
        let own = |said: &Said| said.own && said.subject == path("a@direct");
        assert!(!cluster.says(n).report.said.iter().any(own), "{n}");
    }
    // Those who saw it recover.
    cluster.nodes[0].force(A_DIRECT, Some(State::Closed));
    cluster.nodes[1].force(A_DIRECT, Some(State::Closed));
    cluster.seconds(3);
    assert_eq!(cluster.states(A_DIRECT)[..2], [State::Closed; 2], "those who heard do not open them again");
    cluster.proves(2, A_DIRECT);
    cluster.seconds(3);
    assert_eq!(cluster.states(A_DIRECT)[2..], [State::Ramping; 2]);
}

#[test]
fn what_one_has_proven_ramps_up_everywhere_within_two_seconds() {
    let mut cluster = Cluster::of(3);
    cluster.leases = true;
    cluster.breaks(0, A_DIRECT);
    cluster.breaks(1, A_DIRECT);
    cluster.talk();
    assert_eq!(cluster.states(A_DIRECT), [State::Open; 3]);
    let prover = cluster.one_proves(&[0, 1, 2], A_DIRECT);
    let ramps = cluster.states(A_DIRECT).iter().filter(|state| **state == State::Ramping).count();
    assert_eq!(ramps, 1);
    cluster.talk();
    cluster.seconds(2);
    assert_eq!(cluster.states(A_DIRECT), [State::Ramping; 3]);
    let other = (prover + 1) % 3;
    assert_eq!(cluster.nodes[other].told().last().unwrap().2, Reason::Fleet);
    // The old evidence of others opens nothing again.
    cluster.seconds(5);
    assert_eq!(cluster.states(A_DIRECT), [State::Ramping; 3]);
}

#[test]
fn a_recovery_older_than_what_was_seen_here_since_is_not_followed() {
    let mut cluster = Cluster::of(3);
    cluster.breaks(0, A_DIRECT);
    cluster.talk();
    cluster.proves(0, A_DIRECT);
    cluster.talk();
    cluster.breaks(1, A_DIRECT);
    cluster.seconds(4);
    assert_ne!(cluster.states(A_DIRECT)[1], State::Ramping);
    cluster.breaks(2, A_DIRECT);
    cluster.talk();
    assert_eq!(cluster.states(A_DIRECT)[0], State::Open, "newer evidence of two opens what was proven");
}

#[test]
fn a_recovery_is_not_followed_while_probes_from_here_fail() {
    let mut cluster = Cluster::of(3);
    cluster.breaks(0, A_DIRECT);
    cluster.breaks(1, A_DIRECT);
    cluster.talk();
    let node = &cluster.nodes[2];
    node.registry.probed(A_DIRECT, Err("timeout".into()), node.now);
    cluster.proves(0, A_DIRECT);
    cluster.seconds(4);
    assert_eq!(cluster.states(A_DIRECT)[1], State::Ramping);
    assert_ne!(cluster.states(A_DIRECT)[2], State::Ramping);
    let node = &cluster.nodes[2];
    node.registry.probed(A_DIRECT, Ok(MS), node.now);
    cluster.seconds(4);
    assert_eq!(cluster.states(A_DIRECT)[2], State::Ramping);
}

#[test]
fn nodes_that_are_cut_off_say_nothing_and_do_not_count() {
    let mut cluster = Cluster::of(3);
    for n in [0, 1] {
        for path in 0..4 {
            cluster.breaks(n, path);
        }
        let node = &mut cluster.nodes[n];
        node.registry.tick(node.now);
        assert!(node.registry.is_cut_off());
        assert_eq!(cluster.says(n).report.said, []);
    }
    cluster.talk();
    assert_eq!(cluster.nodes[2].states(), [State::Closed; 4]);
    // Back again, and what they have open is their own affair still.
    for n in [0, 1] {
        let node = &mut cluster.nodes[n];
        node.wait(SECOND * 11);
        assert!(!node.registry.is_cut_off());
        assert!(!node.registry.admits(A_DIRECT, node.model));
    }
    cluster.talk();
    assert_eq!(cluster.nodes[2].states(), [State::Closed; 4]);
    assert!(!cluster.nodes[2].registry.paths[A_DIRECT].gate.view().degraded);
}

#[test]
fn slowness_alone_takes_the_last_way_from_nobody() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[0];
    let slow = |n: &str, reason: Reason, epoch| PeerSays {
        node: n.to_owned(),
        report: Report {
            epoch,
            cut_off: false,
            said: vec![Said {
                subject: path("b@direct"),
                state: State::Open,
                reason: Some(reason.word().into()),
                own: true,
                epoch,
            }],
        },
    };
    for path in [A_DIRECT, A_PROXY, B_PROXY] {
        node.force(path, Some(State::Disabled));
    }
    node.registry.hear(&[slow("n1", Reason::Slow, 90), slow("n2", Reason::Slow, 91)], node.now);
    assert_eq!(node.state(B_DIRECT), State::Closed);
    node.registry.hear(&[slow("n1", Reason::Rate, 92), slow("n2", Reason::Rate, 93)], node.now);
    assert_eq!(node.state(B_DIRECT), State::Open);
}
