//! What holds whatever happens to the paths.

use proptest::prelude::*;

use super::*;

/// Sums of shares are exact to this.
const DUST: f64 = 1e-9;

const PATHS: usize = 5;

#[derive(Debug, Clone)]
struct Event {
    gap_ms: u64,
    path: usize,
    score: Option<u64>,
    stale: bool,
    samples: u32,
    ceiling: f64,
}

fn events(ceilings: &[f64]) -> impl Strategy<Value = Vec<Event>> + use<> {
    let score = proptest::option::weighted(0.9, prop_oneof![10u64..400, 10u64..20_000]);
    let ceiling = proptest::sample::select(ceilings.to_vec());
    let event = (1u64..1500, 0..PATHS, score, any::<bool>(), 0u32..12, ceiling).prop_map(
        |(gap_ms, path, score, stale, samples, ceiling)| Event {
            gap_ms,
            path,
            score,
            stale,
            samples,
            ceiling,
        },
    );
    proptest::collection::vec(event, 1..150)
}

/// Three upstreams of these weights over five paths.
fn standings(weights: [u32; 3]) -> Vec<Standing> {
    (0..PATHS).map(|i| Standing { weight: f64::from(weights[i % 3]), ..unknown(i % 3) }).collect()
}

/// Steps through the events, each changing one path, and shows every state with the time since the start.
fn live(
    mut standings: Vec<Standing>,
    events: &[Event],
    mut look: impl FnMut(&Shares, &[Standing], Duration) -> Result<(), TestCaseError>,
) -> Result<Shares, TestCaseError> {
    let origin = start();
    let mut now = origin;
    let mut shares = Shares::new(PATHS);
    for event in events {
        standings[event.path] = Standing {
            score: event.score.map(Duration::from_millis),
            stale: event.stale || event.score.is_none(),
            samples: event.samples,
            ceiling: event.ceiling,
            ..standings[event.path]
        };
        for _ in 0..event.gap_ms.div_ceil(100) {
            shares.step(&standings, &choice(), now);
            look(&shares, &standings, now - origin)?;
            now += Duration::from_millis(event.gap_ms.min(100));
        }
    }
    Ok(shares)
}

/// Over any two seconds without a turn of health no share more than doubles, from a tenth on.
fn no_stampede(standings: Vec<Standing>, events: &[Event]) -> Result<(), TestCaseError> {
    let mut past: Vec<(Duration, Vec<f64>)> = Vec::new();
    let mut ceilings = Vec::new();
    live(standings, events, |shares, standings, at| {
        let now: Vec<f64> = (0..PATHS).map(|i| shares.get(i)).collect();
        let held: Vec<f64> = standings.iter().map(|s| s.ceiling).collect();
        let young = at < choice().hysteresis && standings.iter().map(|s| s.samples).sum::<u32>() < SETTLED;
        if held != ceilings || young {
            past.clear();
            ceilings = held;
        }
        past.retain(|(then, _)| at - *then <= DOUBLING_LONGEST);
        for (then, before) in &past {
            for (now, before) in now.iter().zip(before) {
                let bound = (2.0 * before).max(2.0 * START);
                prop_assert!(*now <= bound + DUST, "{before} at {then:?}, {now} at {at:?}");
            }
        }
        past.push((at, now));
        Ok(())
    })?;
    Ok(())
}

proptest! {
    #[test]
    fn shares_are_whole_and_nobody_has_more_than_health_allows(
        weights in [0u32..4, 0u32..4, 0u32..4],
        events in events(&[0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 1.0, 1.0]),
    ) {
        let mut before = vec![0.0; PATHS];
        live(standings(weights), &events, |shares, standings, _| {
            let now: Vec<f64> = (0..PATHS).map(|i| shares.get(i)).collect();
            let sum: f64 = now.iter().sum();
            prop_assert!(sum <= 1.0 + DUST, "{sum}");
            if standings.iter().any(Standing::closed) {
                prop_assert!((sum - 1.0).abs() <= DUST, "{sum}");
                prop_assert!((0..PATHS).any(|i| shares.in_band(i)), "somebody is good");
            }
            let normal = shares.normal(standings, false);
            let young = shares.normal(standings, true);
            for (i, s) in standings.iter().enumerate() {
                prop_assert!((0.0..=1.0).contains(&now[i]));
                prop_assert!(now[i] <= s.ceiling + DUST, "{now:?} at {i}");
                // What it had it may give up slowly, as any other path would.
                let bound = (s.ceiling * normal[i].max(young[i])).max(before[i]);
                prop_assert!(s.closed() || now[i] <= bound + DUST, "{} of {bound}", now[i]);
            }
            before = now;
            Ok(())
        })?;
    }

    #[test]
    fn no_share_more_than_doubles_in_two_seconds_while_health_stands(
        weights in [0u32..4, 0u32..4, 0u32..4],
        events in events(&[0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ) {
        no_stampede(standings(weights), &events)?;
    }

    #[test]
    fn nor_does_it_beside_paths_that_ramp(
        weights in [0u32..4, 0u32..4, 0u32..4],
        mut events in events(&[1.0]),
        mut ceilings in proptest::collection::vec(proptest::sample::select(vec![0.05, 0.25, 0.5, 1.0]), PATHS),
    ) {
        // With all of them ramping the sum itself may change.
        ceilings[4] = 1.0;
        let mut standings = standings(weights);
        for (standing, ceiling) in standings.iter_mut().zip(&ceilings) {
            standing.ceiling = *ceiling;
        }
        for event in &mut events {
            event.ceiling = ceilings[event.path];
        }
        no_stampede(standings, &events)?;
    }

    #[test]
    fn whatever_was_before_steady_scores_end_in_the_weights(
        weights in [1u32..4, 1u32..4, 1u32..4],
        events in events(&[0.0, 0.25, 1.0]),
    ) {
        let mut shares = live(standings(weights), &events, |_, _, _| Ok(()))?;
        let steady: Vec<Standing> =
            standings(weights).iter().map(|s| Standing { weight: s.weight, ..at(s.upstream, 100) }).collect();
        let mut now = shares.stepped.unwrap();
        for _ in 0..200 {
            now += TICK;
            shares.step(&steady, &choice(), now);
        }
        let total = f64::from(weights.iter().sum::<u32>());
        for (i, s) in steady.iter().enumerate() {
            let siblings = steady.iter().filter(|o| o.upstream == s.upstream).count() as f64;
            prop_assert!((shares.get(i) - s.weight / total / siblings).abs() < 1e-6);
        }
    }
}
