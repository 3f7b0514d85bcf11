use std::collections::BTreeMap;

use tidegate_config::{Purpose, parse};

use super::*;

const FILE: &str = "\
upstreams: [{name: one, base_url: 'https://one/v1'}]
routes:
  - {match: {model: 'gpt*'}, to: [one], limits: [{requests: 3000/min}], cache: {ttl: 1h, shared: true, only_deterministic: true, stale_if_error: 1d}}
  - {match: {model: '*'}, to: [one], cache: {ttl: 90s}}
clients:
  - name: team-a
    key_sha256: '1111111111111111111111111111111111111111111111111111111111111111'
    limits: [{requests: 600/min, burst: 50}, {tokens: 2000000/day}, {in_flight: 50}, {usd: 20/day}]
limits:
  - {per: ip, requests: 300/min, burst: 100}
  - {per: model, requests: 3000/min, smooth: true, on_store_loss: closed}
  - {per: client, tokens: 5000/min, on_store_loss: open}
prices: {'gpt*': {input: 2.5, output: 10}}
";

fn config(file: &str) -> Config {
    parse("f", file.as_bytes(), &BTreeMap::new(), Purpose::Check).unwrap().config
}

fn told(says: impl Fn(&mut String)) -> String {
    let mut out = String::new();
    says(&mut out);
    out
}

#[test]
fn a_cache_is_told_with_whose_it_is_and_where() {
    let of = |file: &str, route: usize| {
        let config = config(file);
        told(|out| says_cache(out, &config, &config.routes[route]))
    };
    assert_eq!(
        of(FILE, 0),
        "cache: answers are kept for 1h, shared by all clients, up to 1048576 bytes; only with temperature 0, a seed or embeddings; for 1day more where no upstream can be reached; in this node's memory\n"
    );
    assert_eq!(
        of(FILE, 1),
        "cache: answers are kept for 1m 30s, each client for itself, up to 1048576 bytes; in this node's memory\n"
    );
    let with_store = format!("{FILE}store: {{url: 'redis://127.0.0.1:6379'}}\n");
    assert!(of(&with_store, 1).ends_with("; in this node's memory and the store\n"));
    assert_eq!(of(&FILE.replace(", cache: {ttl: 90s}", ""), 1), "cache: off\n");
}

#[test]
fn limits_are_told_with_whom_they_count_and_what_holds_without_the_store() {
    let config = config(FILE);
    let client = config.clients.as_deref().and_then(<[Client]>::first);
    let all = told(|out| says_limits(out, &config, &config.routes[0], client));
    let (node, rest) = all.split_once('\n').unwrap();
    assert!(node.starts_with("limits: node in_flight 1000; "), "{node}");
    let rest: Vec<&str> = rest.lines().map(str::trim_start).collect();
    assert_eq!(
        rest.join("\n"),
        "\
each address: 300 requests in 1m, at once 100
this model: 3000 requests in 1m, evenly; up to 100 wait for up to 1s; closed while the store is away
this client: 5000 tokens in 1m, at once 5000; open while the store is away
this route: 3000 requests in 1m, at once 3000
this client: 600 requests in 1m, at once 50
this client: 2000000 tokens a UTC day
this client: 50 requests at once
this client: 20 USD a UTC day"
    );
    let nobody = told(|out| says_limits(out, &config, &config.routes[1], None));
    assert!(!nobody.contains("this client") && !nobody.contains("this route"), "{nobody}");
}

#[test]
fn a_price_is_told_with_the_pattern_it_comes_from() {
    let of = |file: &str, model: &str| told(|out| says_price(out, &config(file), model));
    assert_eq!(of(FILE, "gpt-4o"), "price: 2.5 USD per million tokens read, 10 written, by `gpt*`\n");
    assert_eq!(of(FILE, "llama"), "price: none; its tokens count in unpriced_tokens_total\n");
    let (without, _) = FILE.split_once("prices").unwrap();
    assert_eq!(of(without, "gpt-4o"), "");
}
