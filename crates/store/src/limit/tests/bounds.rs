//! What several nodes admit together in any window, whatever comes when.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(usize),
    Wait(u64),
    /// Of all nodes.
    Fault(u8),
}

fn steps(faults: bool) -> impl Strategy<Value = Vec<Step>> {
    let asks = (0_usize..4).prop_map(Step::Ask);
    let waits = (0_u64..400).prop_map(Step::Wait);
    let fault = (0_u8..3).prop_map(Step::Fault);
    let step = prop_oneof![12 => asks, 3 => waits, u32::from(faults) => fault];
    proptest::collection::vec(step, 1..300)
}

struct History {
    /// When, from the beginning.
    admitted: Vec<Duration>,
    lost: Duration,
}

impl History {
    /// Of all windows that begin at `from` or later, the most by which one exceeds what fills in it.
    fn most_over(&self, from: Duration, per_second: f64) -> f64 {
        let mut most = 0.0_f64;
        let within: Vec<_> = self.admitted.iter().filter(|at| **at >= from).collect();
        for (index, first) in within.iter().enumerate() {
            for (count, last) in within[index..].iter().enumerate() {
                let filled = per_second * (**last - **first).as_secs_f64();
                most = most.max((count + 1) as f64 - filled);
            }
        }
        most
    }
}

/// Runs `steps` on so many nodes; after two thirds of them all lose the store where `loss` says so.
fn history(nodes: u32, pace: Pace, steps: &[Step], loss: bool) -> History {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let store = memory();
        let fleet: Vec<_> = (0..nodes).map(|_| node(&store, nodes)).collect();
        let rules = client(Meter::Requests(pace));
        let began = Instant::now();
        let mut history = History { admitted: Vec::new(), lost: Duration::MAX };
        for (index, step) in steps.iter().enumerate() {
            if loss && index == steps.len() * 2 / 3 {
                fleet.iter().for_each(|node| set(node, DOWN));
                history.lost = began.elapsed();
            }
            match *step {
                Step::Ask(at) => {
                    if let Ok(grant) = ask(&fleet[at % fleet.len()], &rules, 0.0).await {
                        history.admitted.push(began.elapsed());
                        drop(grant);
                    }
                }
                Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                Step::Fault(fault) => fleet.iter().for_each(|node| set(node, fault)),
            }
        }
        history
    })
}

fn pace(per_second: f64, burst: f64) -> Pace {
    Pace { span: Span::Period(SECOND), amount: per_second, burst, smooth: None }
}

const ERROR: f64 = 1e-3;

proptest! {
    #[test]
    fn an_exact_limit_is_never_exceeded(
        nodes in 1_u32..4, rate in 0.5_f64..19.0, burst in 1_u32..40, steps in steps(false)
    ) {
        let burst = f64::from(burst);
        let history = history(nodes, pace(rate, burst), &steps, false);
        let over = history.most_over(Duration::ZERO, rate);
        prop_assert!(over <= burst + ERROR, "{over} of {burst}");
    }

    #[test]
    fn a_leased_limit_is_exceeded_by_no_more_than_the_leases(
        nodes in 1_u32..4, rate in 20.0_f64..200.0, burst in 1_u32..60, steps in steps(false)
    ) {
        let burst = f64::from(burst);
        let leases = f64::from(nodes) * (rate * 0.1).max(1.0);
        let history = history(nodes, pace(rate, burst), &steps, false);
        let over = history.most_over(Duration::ZERO, rate);
        prop_assert!(over <= burst + leases + ERROR, "{over} of {burst} and {leases}");
    }

    #[test]
    fn without_the_store_nodes_together_admit_one_burst_and_what_fills(
        nodes in 1_u32..4, rate in 0.5_f64..19.0, burst in 1_u32..40, steps in steps(false)
    ) {
        let burst = f64::from(burst);
        let history = history(nodes, pace(rate, burst), &steps, true);
        let over = history.most_over(history.lost, rate);
        prop_assert!(over <= burst + f64::from(nodes) + ERROR, "{over} of {burst}");
    }

    #[test]
    fn without_the_store_a_leased_limit_adds_the_leases(
        nodes in 1_u32..4, rate in 20.0_f64..200.0, burst in 1_u32..60, steps in steps(false)
    ) {
        let burst = f64::from(burst);
        let leases = f64::from(nodes) * (rate * 0.1).max(1.0);
        let history = history(nodes, pace(rate, burst), &steps, true);
        let over = history.most_over(history.lost, rate);
        prop_assert!(over <= burst + f64::from(nodes) + leases + ERROR, "{over} of {burst} and {leases}");
    }

    /// What a node has not heard of yet may be admitted twice.
    #[test]
    fn a_store_that_comes_and_goes_costs_one_burst_more(
        nodes in 1_u32..4, rate in 0.5_f64..19.0, burst in 1_u32..40, steps in steps(true)
    ) {
        let burst = f64::from(burst);
        let history = history(nodes, pace(rate, burst), &steps, false);
        let over = history.most_over(Duration::ZERO, rate);
        prop_assert!(over <= 2.0 * burst + 2.0 * f64::from(nodes) + ERROR, "{over} of {burst}");
    }
}
