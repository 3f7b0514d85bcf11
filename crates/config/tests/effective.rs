//! The effective configuration: read again it means the same, and no secret is ever in it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_config::{Config, Purpose, differences, parse, schema};

/// Every section that is built, with values that are no defaults.
const RICH: &str = r#"
node: {name: "${NAME:-gate}", zone: hk, cache_memory: 1GiB}
listen: {address: "127.0.0.1:1", tls: {cert: a.pem, key: b.pem}, max_body: 3KiB, max_connections: 7, drain_grace: 0s,
         drain_timeout: 90s, trusted_proxies: [10.0.0.0/8, "::1"]}
admin: {address: "[::1]:9", token: {env: TOKEN}}
store: {url: "rediss+sentinel://me@h1,h2:7/m/4", password: {env: PASS}, timeout: 30ms, prefix: "t:", expected_nodes: 4,
        secret: {file: /run/secret}, tls: {ca: ca.pem}}
dns: {hosts: {Api.Example.COM: [10.0.0.1, "::1"]}}
egress:
  - {name: hk, proxy: "http://Proxy:3128", username: u, password: {env: PASS}}
  - {name: sg, proxy: "socks5h://proxy:1080"}
upstreams:
  - name: a
    base_url: https://a.example.com/v1/
    api: openai
    keys: [{env: KEY}, {file: key.txt}]
    egress: [sg, direct]
    weight: 0.25
    timeouts: {connect: 1s, first_byte: 2m, idle: 1500ms, total: 1h, stream_total: 1h30m}
    pool: {max_idle: 1, max_connections: 5, http2: off}
    tls: {ca: corp.pem}
    probe: {interval: 1s, timeout: 500ms, path: /health}
    max_in_flight: 3
    local: true
    context_window: 2048
    capabilities: []
    health: {breaker: {open_for: 10m, slow_call: {rate: 0.3}}, recovery: {shadow_max: 7.5/h, ramp: [7%, 33.3%]}, flap: {trips: 1}}
  - {name: b, base_url: "http://[::1]:80", probe: {path: none}}
routes:
  - match: {model: "gpt-4*"}
    to: [a]
    fallback:
      - {upstream: b, when: [rate_limited, unavailable], model: small, prompt: {system: "Say $${ x}. \"{original_system}\"", max_tokens: 2, keep_last_turns: 1}}
    cache: {ttl: 1d, shared: true, only_deterministic: true, stale_if_error: 5m, max_size: 2MiB}
    shadow: false
    retry: {attempts: 5, backoff: {initial: 1ms, factor: 1.5, max: 20ms}, budget: 0.7%}
    hedge: {after: p95}
    limits: [{requests: 0.5/s}, {tokens: 2.5/s}, {in_flight: 3, on_store_loss: open}]
  - {match: {model: "*"}, to: [b, a], hedge: {after: 800ms}}
health:
  breaker: {consecutive_failures: 2, window: 1d}
  recovery: {shadow_sample: 0.1, shadow_max: 7/min, max_latency_ratio: 3}
  synthetic: {prompt: "Réponds: « ok »", max_tokens: 3, interval: 7s, after_idle: 0s}
  shadow_budget: {per_recovery: 0, usd_per_day: 0.5}
  reasoning_models: [x]
  choice: {band: 100%, hysteresis: 0s, explore: 0%}
clients:
  - {name: c, key_sha256: 9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, models: ["gpt-4*"],
     limits: [{requests: 600/min, burst: 50}, {tokens: 2000000/day}, {usd: 0.5/h, on_store_loss: closed}, {usd: 20/day}]}
limits:
  - {per: ip, requests: 300/min, burst: 100}
  - {per: node, in_flight: 9, queue: 0, queue_timeout: 2s}
  - {per: model, requests: 3000/min, smooth: true, queue: 3}
  - {per: node, tokens: 100/h, burst: 7}
  - {per: ip, tokens: 5000000000/h}
prices: {"gpt-4o*": {input: 2.5, output: 10}, "gpt-4*": {input: 1, output: 0.125}, "*": {input: 0, output: 1}}
log: {level: debug, redact: ['a$${3}|b'], bodies: false}
"#;

const SHORTEST: &str =
    "upstreams: [{name: u, base_url: 'https://u/v1'}]\nroutes: [{match: {model: m}, to: [u]}]\n";

fn planted() -> BTreeMap<String, String> {
    ["TOKEN", "PASS", "KEY"].map(|name| (name.to_owned(), format!("hunter2-{name}"))).into()
}

#[track_caller]
fn read(text: &str, environment: &BTreeMap<String, String>) -> Config {
    match parse("f", text.as_bytes(), environment, Purpose::Check) {
        Ok(loaded) => loaded.config,
        Err(faults) => panic!("{faults}\n{text}"),
    }
}

fn effective(text: &str) -> Arc<Value> {
    read(text, &planted()).effective
}

/// Everything of a configuration but what comes of the bytes alone.
fn meaning(mut config: Config) -> String {
    config.hash.clear();
    config.effective = Arc::default();
    format!("{config:?}")
}

/// Reads what is effective as a file, in both spellings of JSON, with no variable set.
#[track_caller]
fn means_the_same_again(text: &str) {
    let first = read(text, &BTreeMap::new());
    for spelt in [first.effective.to_string(), format!("{:#}", first.effective)] {
        let again = read(&spelt, &BTreeMap::new());
        assert_eq!(again.effective, first.effective, "{text}");
        assert_eq!(meaning(again), meaning(read(text, &BTreeMap::new())), "{text}");
    }
    assert_eq!(differences(&first.effective, &first.effective), []);
}

#[test]
fn read_again_it_means_the_same() {
    for text in [RICH, SHORTEST] {
        means_the_same_again(text);
    }
    for name in ["single-node", "china-egress", "cluster", "local-fallback"] {
        let path = format!("{}/../../configs/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        means_the_same_again(&std::fs::read_to_string(path).unwrap());
    }
}

#[test]
fn a_file_that_says_little_shows_its_defaults() {
    let all = effective(SHORTEST);
    assert_eq!(all["node"], json!({"name": "tidegate-0", "cache_memory": "128MiB"}));
    assert_eq!(
        all["listen"],
        json!({
            "address": "0.0.0.0:8080", "max_body": "16MiB", "max_connections": 10000, "drain_grace": "5s",
            "drain_timeout": "1m", "trusted_proxies": [],
        })
    );
    assert_eq!(
        all["upstreams"][0]["timeouts"],
        json!({"connect": "5s", "first_byte": "1m", "idle": "30s", "total": "2m", "stream_total": "10m"})
    );
    assert_eq!(all["upstreams"][0]["health"], all["health"]);
    assert_eq!(all["health"]["recovery"]["ramp"], json!(["5%", "10%", "25%", "50%", "100%"]));
    assert_eq!(all["health"]["recovery"]["shadow_max"], "30/min");
    assert_eq!(
        all["limits"],
        json!([{"per": "node", "in_flight": 1000, "queue": 100, "queue_timeout": "1s"}])
    );
    for absent in ["store", "clients", "dns", "auth", "tracing"] {
        assert!(all.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn a_file_that_says_much_shows_what_is_in_force() {
    let all = effective(RICH);
    assert_eq!(all["node"]["name"], "gate", "the variable is filled in");
    assert_eq!(all["upstreams"][0]["keys"], json!([{"env": "KEY"}, {"file": "key.txt"}]));
    assert_eq!(all["admin"]["token"], json!({"env": "TOKEN"}));
    assert_eq!(all["store"]["secret"], json!({"file": "/run/secret"}));
    assert_eq!(all["egress"][0]["password"], json!({"env": "PASS"}));
    let health = &all["upstreams"][0]["health"];
    assert_eq!(health["recovery"]["ramp"], json!(["7%", "33.3%", "100%"]), "the whole ends a ramp");
    assert_eq!((&health["breaker"]["max_open"], &health["breaker"]["window"]), (&json!("10m"), &json!("1d")));
    assert_eq!(health["recovery"]["shadow_max"], "7.5/h");
    assert_eq!(all["upstreams"][1]["health"]["recovery"]["shadow_max"], "7/min");
    assert_eq!(all["upstreams"][1]["probe"], json!({"path": "none"}));
    assert_eq!(all["routes"][0]["retry"]["budget"], "0.7%");
    assert_eq!(all["limits"][2]["burst"], Value::Null);
    assert_eq!((&all["limits"][1]["in_flight"], all["limits"].as_array().unwrap().len()), (&json!(9), 5));
    let models: Vec<&str> = all["prices"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|p| p.as_object().unwrap().keys())
        .map(|k| &**k)
        .collect();
    assert_eq!(models, ["gpt-4o*", "gpt-4*", "*"], "their order counts");
}

#[test]
fn a_price_list_is_read_in_its_order_and_holds_each_model_once() {
    let list =
        format!("{SHORTEST}prices: [{{b: {{input: 1, output: 2}}}}, {{a: {{input: 3, output: 4}}}}]\n");
    let models: Vec<String> =
        read(&list, &planted()).prices.iter().map(|price| price.model.as_str().to_owned()).collect();
    assert_eq!(models, ["b", "a"]);
    let twice =
        format!("{SHORTEST}prices: [{{b: {{input: 1, output: 2}}}}, {{b: {{input: 3, output: 4}}}}]\n");
    let faults = parse("f", twice.as_bytes(), &planted(), Purpose::Check).unwrap_err();
    assert_eq!(faults.to_string(), "f:3:39: `b` is said twice: keep one");
}

#[test]
fn no_secret_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key.txt"), "hunter2-of-the-file\n").unwrap();
    let name = folder.path().join("f.yaml").display().to_string();
    struct Around(BTreeMap<String, String>);
    impl tidegate_config::Environment for Around {
        fn variable(&self, name: &str) -> Option<String> {
            self.0.get(name).cloned()
        }
        fn read(&self, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
            std::fs::read(path)
        }
    }
    let loaded = parse(&name, RICH.as_bytes(), &Around(planted()), Purpose::Check).unwrap();
    assert!(loaded.warnings.iter().all(|warning| !warning.text().contains("key.txt")), "the file was read");
    assert_eq!(loaded.config.upstreams[0].keys.len(), 2);
    let told = loaded.config.effective.to_string();
    assert!(!told.contains("hunter2"), "{told}");
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
}

#[test]
fn no_address_with_a_password_gets_so_far() {
    for section in [
        "store: {url: 'redis://me:hunter2@h'}",
        "egress: [{name: e, proxy: 'http://me:hunter2@h:1'}]",
        "dns: {servers: ['https://me:hunter2@h/dns-query']}",
        "tracing: {otlp: 'http://me:hunter2@h:4318'}",
    ] {
        let faults =
            parse("f", format!("{SHORTEST}{section}\n").as_bytes(), &planted(), Purpose::Check).unwrap_err();
        assert!(!faults.to_string().contains("hunter2"), "{section}");
    }
}

#[test]
fn it_fits_the_schema() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    for text in [RICH, SHORTEST] {
        let effective = effective(text);
        let wrong: Vec<String> = schema
            .iter_errors(&effective)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert_eq!(wrong, [""; 0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_said_means_the_same_again(
        millis in 1_u64..86_400_000,
        bytes in 1_u64..(1 << 30),
        share in 0.0_f64..=100.0,
        digits in 0_usize..6,
        rate in 0.01_f64..1e6,
        weight in 0.0_f64..=1000.0,
        prompt in "[ -~é中\n]{1,40}",
        models in prop::collection::btree_set("[a-z*.-]{1,6}", 1..5).prop_map(Vec::from_iter).prop_shuffle(),
        flags in any::<[bool; 3]>(),
    ) {
        let prices: Vec<Value> = models.iter().map(|model| json!({model: {"input": weight, "output": rate}})).collect();
        // `{word}` is a placeholder there, and any but one a fault.
        let system = prompt.replace(['{', '}'], "");
        let text = json!({
            "listen": {"max_body": format!("{bytes}B"), "drain_grace": format!("{millis}ms")},
            "upstreams": [{
                "name": "u", "base_url": "https://u/v1", "weight": weight, "local": flags[0],
                "health": {"recovery": {"shadow_max": format!("{rate:.digits$}/s")}},
            }],
            "routes": [{
                "match": {"model": "m"}, "to": ["u"], "shadow": flags[1],
                "fallback": [{"upstream": "u", "prompt": {"system": system}}],
                "retry": {"budget": format!("{share:.digits$}%")},
                "limits": [{"tokens": format!("{rate:.digits$}/min")}, {"usd": format!("{rate:.2}/h")}],
            }],
            "limits": [{"per": "ip", "requests": format!("{rate:.digits$}/min"), "smooth": flags[2]}],
            "health": {"synthetic": {"prompt": format!("x{}", prompt.replace("${", "$${"))}},
            "prices": prices,
        });
        let text = text.to_string();
        // Amounts that round to nothing are faults, which is no matter here.
        prop_assume!(parse("f", text.as_bytes(), &BTreeMap::new(), Purpose::Check).is_ok());
        means_the_same_again(&text);
    }
}
