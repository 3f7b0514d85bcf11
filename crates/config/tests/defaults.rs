//! What a file that says nothing means.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_config::{Capabilities, Health, Http2, Level, Probe, Purpose, Way, parse};

const SHORTEST: &str =
    "upstreams: [{name: u, base_url: 'https://u/v1'}]\nroutes: [{match: {model: m}, to: [u]}]\n";

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = parse("f", SHORTEST.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    assert_eq!((config.node.name.as_str(), config.node.zone.as_str()), ("tidegate-0", ""));
    assert_eq!(config.node.cache_memory, 128 * 1024 * 1024);
    assert!(config.store.is_none() && config.limits.is_empty() && config.prices.is_empty());
    assert!(config.tracing.is_none());

    assert_eq!(config.listen.address.to_string(), "0.0.0.0:8080");
    assert!(config.listen.tls.is_none() && config.listen.trusted_proxies.is_empty());
    assert_eq!((config.listen.max_body, config.listen.max_connections), (16 * 1024 * 1024, 10_000));
    assert_eq!(config.listen.drain_grace, Duration::from_secs(5));
    assert_eq!(config.listen.drain_timeout, Duration::from_secs(60));
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9090");
    assert!(config.admin.token.is_none() && config.dns.hosts.is_empty() && config.clients.is_none());

    let [direct] = config.egress.as_slice() else { panic!("direct alone") };
    assert!(direct.name == "direct" && matches!(direct.way, Way::Direct));

    let [upstream] = config.upstreams.as_slice() else { panic!("one upstream") };
    assert!(upstream.keys.is_empty() && upstream.ca_pem.is_none());
    assert_eq!((upstream.egress.as_slice(), upstream.max_in_flight), ([0].as_slice(), 1000));
    assert_eq!((upstream.weight, upstream.local, upstream.context_window), (1.0, false, None));
    assert_eq!(
        upstream.probe,
        Some(Probe {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            path: "/models".to_owned(),
        })
    );
    assert_eq!(
        upstream.capabilities,
        Capabilities { tools: true, json_schema: true, vision: true, prefill: false }
    );
    let timeouts = upstream.timeouts;
    assert_eq!(
        [timeouts.connect, timeouts.first_byte, timeouts.idle, timeouts.total, timeouts.stream_total],
        [5, 60, 30, 120, 600].map(Duration::from_secs)
    );
    let pool = upstream.pool;
    assert_eq!((pool.max_idle, pool.max_connections, pool.http2), (20, 100, Http2::Auto));

    let [route] = config.routes.as_slice() else { panic!("one route") };
    assert_eq!((route.to.as_slice(), route.shadow), ([0].as_slice(), true));
    assert!(route.fallback.is_empty() && route.hedge.is_none());
    assert!(route.cache.is_none() && route.limits.is_empty());
    let retry = route.retry;
    assert_eq!((retry.attempts, retry.factor, retry.budget), (3, 2.0, 0.1));
    assert_eq!((retry.initial, retry.max), (Duration::from_millis(100), Duration::from_secs(10)));

    let limit = config.node_limit;
    assert_eq!((limit.in_flight, limit.queue, limit.queue_timeout), (1000, 100, Duration::from_secs(1)));
    assert!(config.log.level == Level::Info && config.log.redact.is_empty());
    assert_eq!(config.hash.len(), 16);
}

#[test]
fn health_is_that_of_the_documentation() {
    let config = parse("f", SHORTEST.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    assert_eq!(config.health, Health::default());
    assert!(config.upstreams.iter().all(|upstream| upstream.health == config.health));

    // The section as the documentation has it says what holds without it.
    let whole = include_str!("whole.yaml");
    let (_, section) = whole.split_once("\nhealth:").unwrap();
    let (section, _) = section.split_once("\nclients:").unwrap();
    let spelt = format!("{SHORTEST}health:{section}\n");
    let spelt = parse("f", spelt.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    assert_eq!(spelt.health, config.health);
}

#[test]
fn the_host_names_the_node_and_the_bytes_name_the_file() {
    let host: BTreeMap<String, String> = [("HOSTNAME".to_owned(), "pod-7".to_owned())].into();
    let one = parse("f", SHORTEST.as_bytes(), &host, Purpose::Serve).unwrap().config;
    let other = parse("f", format!("{SHORTEST}#\n").as_bytes(), &host, Purpose::Serve).unwrap().config;
    assert_eq!(one.node.name, "pod-7");
    assert_ne!(one.hash, other.hash);
}
