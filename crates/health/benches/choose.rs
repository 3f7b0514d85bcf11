//! What choosing the path of a request costs with everything it reads (breakers, estimates, shares):
//! `cargo bench -p tidegate-health --bench choose`. Prints nanoseconds per choice, the best and the middle of several
//! rounds after a warm-up, and the allocations of a choice.
#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_config::used::{Choice, Health};
use tidegate_health::registry::{
    Ask, Chosen, EgressSetup, PathSetup, Registry, RouteSetup, Setup, UpstreamSetup,
};

const CHOICES: u64 = 500_000;
const ROUNDS: usize = 11;

fn registry(paths: usize, now: Instant) -> Arc<Registry> {
    let setup = Setup {
        paths: (0..paths)
            .map(|n| PathSetup {
                name: format!("u{n}@direct"),
                upstream: n,
                egress: 0,
                probed: true,
                was: None,
            })
            .collect(),
        upstreams: (0..paths)
            .map(|n| UpstreamSetup {
                name: format!("u{n}"),
                rules: Arc::new(Health::default()),
                local: false,
                weight: 1.0,
                was: None,
            })
            .collect(),
        egress: vec![EgressSetup { name: "direct".to_owned(), was: None }],
        routes: vec![RouteSetup {
            paths: (0..paths).collect(),
            fallback: vec![vec![0]],
            choice: Choice::default(),
        }],
    };
    let registry = Arc::new(Registry::new(setup, Arc::new(|_| {}), now));
    let model = registry.model(Some("gpt-4o"));
    for path in 0..paths {
        for n in 0..20 {
            let began = now + Duration::from_millis(n);
            registry.begin(path, model, 1, 0, began).first(began + Duration::from_millis(100 + path as u64));
        }
    }
    registry
}

fn choose(registry: &Registry, random: u64, now: Instant) -> Chosen {
    let ask = Ask {
        model: registry.model(Some("gpt-4o")),
        kind: 1,
        random,
        fallback: true,
        movable: true,
        ready: |_: usize| true,
    };
    registry.choose(0, &ask, now)
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn main() {
    for paths in [1, 2, 20] {
        let now = Instant::now();
        let registry = registry(paths, now);
        let now = now + Duration::from_secs(1);
        choose(&registry, 0, now);
        registry.tick(now);
        let mut seed = 1u64;
        let mut round = || {
            let begin = Instant::now();
            for _ in 0..CHOICES {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                black_box(choose(&registry, black_box(seed), now));
            }
            begin.elapsed().as_nanos() as f64 / CHOICES as f64
        };
        round();
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
        times.sort_by(f64::total_cmp);
        let (best, middle) = (times.first().copied(), times.get(ROUNDS / 2).copied());
        let allocations = allocation_counter::measure(|| {
            black_box(choose(&registry, 7, now));
        });
        println!(
            "{paths:2} paths: {:6.1} ns a choice, middle {:6.1}, {} allocations",
            best.unwrap_or_default(),
            middle.unwrap_or_default(),
            allocations.count_total
        );
    }
}
