use std::collections::BTreeMap;

use tidegate_config::Purpose;

use super::*;

const FILE: &str = "\
upstreams: [{name: one, base_url: 'http://127.0.0.1:1/v1'}]
routes: [{match: {model: '*'}, to: [one]}]
";

fn limits(more: &str) -> Limits {
    let file = format!("{FILE}{more}");
    let config =
        tidegate_config::parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    Limits::new(&config, crate::store::embedded(), crate::store::embedded())
}

fn output(limits: &Limits, model: &str) -> f64 {
    limits.estimate(Some(0), model, Dialect::Chat, 1, b"{}").output
}

#[test]
fn an_estimate_leaves_nothing_behind() {
    let limits = limits("limits: [{per: client, tokens: 100/min}]\n");
    for n in 0..100 {
        assert_eq!(output(&limits, &format!("made-up-{n}")), OUTPUT);
    }
    assert_eq!(limits.outputs.read().unwrap().count, 0);
    limits.learn(Some(0), "m", 2000);
    assert!(output(&limits, "m") > OUTPUT);
    assert_eq!(output(&limits, "n"), OUTPUT);
    assert_eq!(limits.outputs.read().unwrap().count, 1);
}

#[test]
fn models_beyond_the_bound_share_what_is_learnt() {
    let limits = limits("limits: [{per: client, tokens: 100/min}]\n");
    for n in 0..LEARNT_MAX + 50 {
        limits.learn(Some(0), &format!("m{n}"), 2000);
    }
    assert_eq!(limits.outputs.read().unwrap().count, LEARNT_MAX + 1);
    assert!(output(&limits, "never seen") > output(&limits, "m1"), "learnt from fifty");
}

#[test]
fn tokens_are_counted_only_where_a_limit_that_holds_depends_on_them() {
    let limits = limits(
        "limits: [{per: ip, requests: 5/min}, {per: model, tokens: 100/min}, {per: node, requests: 9/min}]\n",
    );
    let ip = Some("1.2.3.4".parse().unwrap());
    let with_model = limits.applying(None, Some(0), Some("m"), ip);
    assert_eq!((with_model.rules.len(), with_model.counts), (3, true));
    let without = limits.applying(None, Some(0), None, ip);
    assert_eq!((without.rules.len(), without.counts), (2, false));
}

#[test]
fn a_file_without_limits_asks_none() {
    let limits = limits("");
    let applying = limits.applying(None, Some(0), Some("m"), Some("1.2.3.4".parse().unwrap()));
    assert_eq!((applying.rules.capacity(), limits.meters()), (0, false));
    limits.learn(None, "m", 7);
    assert_eq!(limits.outputs.read().unwrap().count, 0);
}
