//! What a file says of health, fallbacks and the choice of a path: the values, what overlays what, and what is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_config::{
    Capabilities, Config, Fallback, Fault, Health, Hedge, Loaded, Probe, Prompt, Purpose, When, parse,
};

/// Upstreams `u` (line 1) and `l` (line 2, with these keys from column 46), a route to `u` (line 4, with these keys
/// from column 34), and then these lines from line 5.
fn file(l: &str, route: &str, rest: &str) -> String {
    let comma = |keys: &str| if keys.is_empty() { String::new() } else { format!(", {keys}") };
    format!(
        "upstreams: [{{name: u, base_url: 'https://u/v1'}},\n  {{name: l, base_url: 'http://127.0.0.1/v1'{}}}]\nroutes:\n  - {{match: {{model: m}}, to: [u]{}}}\n  - {{match: {{model: n}}, to: [l]}}\n{rest}",
        comma(l),
        comma(route)
    )
}

#[track_caller]
fn loaded(text: &str) -> Loaded {
    match parse("f", text.as_bytes(), &BTreeMap::new(), Purpose::Serve) {
        Ok(loaded) => loaded,
        Err(faults) => panic!("{faults}\n{text}"),
    }
}

/// The configuration of a file that gives no cause for a warning.
#[track_caller]
fn config(text: &str) -> Config {
    let loaded = loaded(text);
    assert_eq!(loaded.warnings, [], "\n{text}");
    loaded.config
}

fn lines<'f>(faults: impl IntoIterator<Item = &'f Fault>) -> Vec<String> {
    faults.into_iter().map(|fault| fault.to_string().strip_prefix("f:").unwrap().to_owned()).collect()
}

#[track_caller]
fn told(text: &str, want: &[&str]) {
    let faults = parse("f", text.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap_err();
    assert_eq!(lines(faults.iter()), want, "\n{text}");
}

#[track_caller]
fn warned(text: &str, want: &[&str]) {
    assert_eq!(lines(&loaded(text).warnings), want, "\n{text}");
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const EVERY_HEALTH: &str = "health:
  breaker: {consecutive_failures: 7, failure_rate: 0.25, min_requests: 4, window: 30s, slow_call: {after: 3s, rate: 0.6},
            stalled_after: 800ms, open_for: 2s, max_open: 1m}
  recovery: {shadow_sample: 0.5, shadow_max: 10/s, shadow_max_tokens: 8, successes: 2, min_span: 0s, max_latency_ratio: 1.5,
             latency_floor: 0s, ramp: [20%, 60%], ramp_step: 0s, ramp_requests: 3}
  synthetic: {prompt: hello, max_tokens: 5, interval: 1s, after_idle: 0s}
  flap: {trips: 2, within: 1m, hold: 0s}
  shadow_budget: {per_recovery: 0}
  reasoning_models: [r*]
  choice: {band: 5%, hysteresis: 0s, explore: 0%}
";

#[test]
fn every_key_of_health_is_taken_over() {
    let health = config(&file("", "", EVERY_HEALTH)).health;
    let breaker = health.breaker;
    assert_eq!((breaker.consecutive_failures, breaker.failure_rate, breaker.min_requests), (7, 0.25, 4));
    assert_eq!((breaker.window, breaker.slow_after, breaker.slow_rate), (seconds(30), seconds(3), 0.6));
    assert_eq!(breaker.stalled_after, Duration::from_millis(800));
    assert_eq!((breaker.open_for, breaker.max_open), (seconds(2), seconds(60)));
    let recovery = &health.recovery;
    assert_eq!((recovery.shadow_sample, recovery.shadow_every), (0.5, Duration::from_millis(100)));
    assert_eq!((recovery.shadow_max_tokens, recovery.successes, recovery.min_span), (8, 2, seconds(0)));
    assert_eq!((recovery.max_latency_ratio, recovery.latency_floor), (1.5, seconds(0)));
    // A ramp that stops short goes on to the whole.
    assert_eq!(recovery.ramp, [0.2, 0.6, 1.0]);
    assert_eq!((recovery.ramp_step, recovery.ramp_requests), (seconds(0), 3));
    let synthetic = &health.synthetic;
    assert_eq!((synthetic.prompt.as_str(), synthetic.max_tokens), ("hello", 5));
    assert_eq!((synthetic.interval, synthetic.after_idle), (seconds(1), seconds(0)));
    assert_eq!((health.flap.trips, health.flap.within, health.flap.hold), (2, seconds(60), seconds(0)));
    assert_eq!((health.shadow_budget.per_recovery, health.shadow_budget.usd_per_day), (0, 1.0));
    assert_eq!(health.reasoning_models.iter().map(|glob| glob.as_str()).collect::<Vec<_>>(), ["r*"]);
    let choice = health.choice;
    assert_eq!((choice.band, choice.hysteresis, choice.explore), (0.05, seconds(0), 0.0));
}

#[test]
fn rates_become_the_time_between_two() {
    for (rate, every) in [
        ("30/min", seconds(2)),
        ("600/min", Duration::from_millis(100)),
        ("4/s", Duration::from_millis(250)),
        ("3600/h", seconds(1)),
        ("1/day", seconds(86_400)),
    ] {
        let health = config(&file("", "", &format!("health: {{recovery: {{shadow_max: {rate}}}}}\n"))).health;
        assert_eq!(health.recovery.shadow_every, every, "{rate}");
    }
}

#[test]
fn an_upstream_overrides_single_keys_of_the_file() {
    let own = "health: {breaker: {slow_call: {rate: 0.7}, open_for: 5s}, recovery: {ramp: [50%, 100%]}, reasoning_models: []}";
    let config = config(&file(own, "", EVERY_HEALTH));
    let [u, l] = config.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!(u.health, config.health);

    let mut want = config.health.clone();
    want.breaker.slow_rate = 0.7;
    want.breaker.open_for = seconds(5);
    want.recovery.ramp = vec![0.5, 1.0];
    want.reasoning_models = Vec::new();
    assert_eq!(l.health, want);
    assert_ne!(l.health, Health::default());
}

#[test]
fn the_longest_rest_follows_a_longer_first_one() {
    let config = config(&file("health: {breaker: {open_for: 10m}}", "", ""));
    let breaker = config.upstreams[1].health.breaker;
    assert_eq!((breaker.open_for, breaker.max_open), (seconds(600), seconds(600)));
    assert_eq!(config.health, Health::default());
}

#[test]
fn an_upstream_says_what_it_is() {
    let l = |keys: &str| config(&file(keys, "", "")).upstreams.pop().unwrap();
    let local = l("local: true, weight: 0, context_window: 2048, capabilities: [], probe: {path: none}");
    assert_eq!((local.local, local.weight, local.context_window), (true, 0.0, Some(2048)));
    assert_eq!(local.probe, None);
    assert_eq!(
        local.capabilities,
        Capabilities { tools: false, json_schema: false, vision: false, prefill: false }
    );
    let other =
        l("weight: 2.5, capabilities: [prefill, tools], probe: {interval: 1s, path: '/health?deep=1'}");
    assert_eq!((other.local, other.weight, other.context_window), (false, 2.5, None));
    assert_eq!(
        other.probe,
        Some(Probe { interval: seconds(1), timeout: seconds(2), path: "/health?deep=1".to_owned() })
    );
    assert_eq!(
        other.capabilities,
        Capabilities { tools: true, json_schema: false, vision: false, prefill: true }
    );
}

#[test]
fn an_upstream_that_cannot_be_so_is_refused() {
    told(
        &file(
            "weight: 1001, context_window: 0, capabilities: [tool], probe: {interval: 0s, path: models}",
            "",
            "",
        ),
        &[
            "2:54: `weight` is 1001: 0 to 1000 is meant",
            "2:76: `context_window` is 0: 1 to 1000000000 is meant",
            "2:94: unknown word `tool`: did you mean `tools`?",
            "2:119: `interval` is 0: 1ms to 24h is meant",
            "2:129: a probe's path begins with `/`; `none` switches probes off",
        ],
    );
    for path in ["/a b", "/a#b"] {
        told(
            &file(&format!("probe: {{path: '{path}'}}"), "", ""),
            &["2:60: no request can ask for this path: it has no spaces and no `#`"],
        );
    }
}

#[test]
fn a_route_has_its_fallbacks_in_order() {
    let text = file(
        "local: true",
        "shadow: false, hedge: {after: p95}, fallback: [{upstream: l, when: [context_length_exceeded, rate_limited], model: tiny, prompt: {system: 'Short. {original_system} {\"a\": 1}', max_tokens: 256, keep_last_turns: 6}}, {upstream: l}]",
        "",
    );
    let route = &config(&text).routes[0];
    assert_eq!((route.shadow, route.hedge), (false, Some(Hedge::Percentile(95))));
    let want = [
        Fallback {
            upstream: 1,
            when: When { unavailable: false, context_length_exceeded: true, rate_limited: true },
            model: Some("tiny".to_owned()),
            prompt: Prompt {
                system: Some("Short. {original_system} {\"a\": 1}".to_owned()),
                max_tokens: Some(256),
                keep_last_turns: Some(6),
            },
        },
        Fallback {
            upstream: 1,
            when: When { unavailable: true, context_length_exceeded: false, rate_limited: false },
            model: None,
            prompt: Prompt { system: None, max_tokens: None, keep_last_turns: None },
        },
    ];
    assert_eq!(route.fallback, want);
}

#[test]
fn a_fallback_that_could_not_work_is_refused() {
    told(
        &file(
            "",
            "fallback: [{upstream: x}, {upstream: l, when: []}, {upstream: l, when: [never], model: 'gpt*'}, {upstream: l, model: ''}]",
            "",
        ),
        &[
            "4:56: unknown upstream `x`: the file has u and l",
            "4:80: no case: this fallback would never be tried; write at least one, as in [unavailable]",
            "4:106: unknown word `never`: write unavailable, context_length_exceeded or rate_limited",
            "4:121: a fallback's `model` is sent as it stands: write one model, not a pattern",
            "4:151: no model has this name: write one such as gpt-4o, or a pattern such as gpt-4*",
        ],
    );
    told(
        &file(
            "",
            "fallback: [{upstream: l, prompt: {system: '{original_sytem} {original_system}', max_tokens: 0, keep_last_turns: 0}}]",
            "",
        ),
        &[
            "4:76: unknown placeholder `{original_sytem}`: `{original_system}` is the only one",
            "4:126: `max_tokens` is 0: 1 to 1000000000 is meant",
            "4:146: `keep_last_turns` is 0: 1 to 1000000 is meant",
        ],
    );
}

#[test]
fn a_fallback_that_adds_little_is_warned_of() {
    let with = |fallback: &str| file("", &format!("fallback: [{fallback}]"), "");
    const IN_TO: &str = "4:56: `u` is in `to` of this route, too: what makes its paths unusable there mostly hits this fallback as well";
    const AGAIN: &str = "this fallback is tried already, with the same model, by the one in line 4: remove it, or give it a `model` or a `when` of its own";
    warned(&with("{upstream: u}"), &[IN_TO]);
    warned(&with("{upstream: l}, {upstream: l}"), &[&format!("4:71: {AGAIN}")]);
    warned(
        &with("{upstream: l, model: a}, {upstream: l, model: a, when: [rate_limited, unavailable]}"),
        &[&format!("4:81: {AGAIN}")],
    );
    warned(&with("{upstream: l, model: a}, {upstream: l, model: b}, {upstream: l}"), &[]);
    warned(&with("{upstream: l}, {upstream: l, when: [rate_limited]}"), &[]);
}

#[test]
fn a_local_upstream_beside_remote_ones_is_warned_of() {
    const WARNING: &str = "4:33: a local upstream beside remote ones competes with them by latency: is it meant as a `fallback`?";
    let text = |l: &str, to: &str| file(l, "", "").replace("to: [u]", to);
    warned(&text("local: true", "to: [u, l]"), &[WARNING]);
    warned(&text("local: false", "to: [u, l]"), &[]);
    warned(&text("local: true", "to: [u], fallback: [{upstream: l}]"), &[]);
}

#[test]
fn an_upstream_that_is_only_a_fallback_is_used() {
    let text = file("", "fallback: [{upstream: l}]", "").replace("to: [l]", "to: [u]");
    warned(&text, &[]);
}

#[test]
fn hedges_wait_for_a_percentile_or_a_time() {
    let with = |after: &str| file("", &format!("hedge: {{after: {after}}}"), "");
    for (after, want) in [
        ("p50", Hedge::Percentile(50)),
        ("p99", Hedge::Percentile(99)),
        ("800ms", Hedge::After(Duration::from_millis(800))),
        ("1m30s", Hedge::After(seconds(90))),
    ] {
        assert_eq!(config(&with(after)).routes[0].hedge, Some(want), "{after}");
    }
    for after in ["p49", "p100", "p", "q95", "0s", "2d", "5"] {
        told(&with(after), &["4:49: `after` is p50 to p99, or a time such as 800ms"]);
    }
    told(&file("", "hedge: {}", ""), &["4:41: `after` is missing: `hedge` needs it"]);
}

#[test]
fn health_out_of_range_is_refused() {
    told(
        &file(
            "health: {breaker: {max_open: 5s}, recovery: {successes: 0}}",
            "",
            "health:\n  breaker: {failure_rate: 2, open_for: 10m, max_open: 9m, window: 0s, slow_call: {rate: 0}, stalled_after: 0s}\n  recovery: {ramp: [50%, 20%, 120%], shadow_max: 0/s, min_span: 25h}\n  synthetic: {prompt: ' '}\n  choice: {band: 200%}\n",
        ),
        &[
            "2:75: `max_open` is shorter than `open_for`, which is 600s: rests grow from `open_for` to `max_open`",
            "2:102: `successes` is 0: 1 to 1000000 is meant",
            "7:27: `failure_rate` is 2: 0.001 to 1 is meant",
            "7:55: `max_open` is shorter than `open_for`, which is 600s: rests grow from `open_for` to `max_open`",
            "7:67: `window` is 0: 1ms to 24h is meant",
            "7:89: `rate` is 0: 0.001 to 1 is meant",
            "7:108: `stalled_after` is 0: 1ms to 24h is meant",
            "8:26: a ramp rises: each step is over the one before, and over 0%",
            "8:31: a step of a ramp is over 100%: it is a share of the normal traffic",
            "8:50: `shadow_max` lets nothing through: an amount over 0 is meant",
            "8:65: `min_span` is over 24h: 0ms to 24h is meant",
            "9:23: an empty prompt: write a short one that any model answers",
            "10:18: `band` is over 100%: 0% to 100% is meant",
        ],
    );
    told(
        &file("health: {recovery: {ramp: [], shadow_max: 0.5/day}}", "", ""),
        &[
            "2:72: an empty ramp: write its steps, as in [5%, 25%, 100%]",
            "2:88: `shadow_max` is under 1/day: 1/day or more is meant",
        ],
    );
}

#[test]
fn a_budget_in_usd_is_told_when_nothing_has_a_price() {
    const WARNING: &str = "`usd_per_day` needs `prices`: without them every cost counts as 0, and `per_recovery` alone is a bound";
    let budget = "health: {shadow_budget: {usd_per_day: 3}}";
    let text = file(budget, "", &format!("{budget}\n"));
    warned(&text, &[&format!("2:84: {WARNING}"), &format!("6:39: {WARNING}")]);
    assert_eq!(loaded(&text).config.health.shadow_budget.usd_per_day, 3.0);
    warned(&format!("{text}prices: {{}}\n"), &[&format!("2:84: {WARNING}"), &format!("6:39: {WARNING}")]);
    warned(&format!("{text}prices: {{'m*': {{input: 1, output: 2}}}}\n"), &[]);
}
