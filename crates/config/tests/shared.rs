//! What a file says of the state nodes share: the store, limits, caches and prices; what is wrong with them, and what
//! is hardly meant.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on says where"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use tidegate_config::{
    Cache, Config, Fault, Kind, Limit, Loaded, Meter, OnStoreLoss, Pace, Per, Purpose, Smooth, Span, load,
    parse,
};

const CLIENT: &str = "name: c, key_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const PRICES: &str = "prices: {'*': {input: 1, output: 2}}\n";

fn variables() -> BTreeMap<String, String> {
    [("PASS", "hunter2"), ("SECRET", "a-secret")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// A route in line 2 with these keys from column 39, and then these lines from line 3.
fn file(route: &str, rest: &str) -> String {
    let comma = if route.is_empty() { "" } else { ", " };
    format!(
        "upstreams: [{{name: u, base_url: 'https://u/v1'}}]\nroutes: [{{match: {{model: m}}, to: [u]{comma}{route}}}]\n{rest}"
    )
}

#[track_caller]
fn loaded(text: &str) -> Loaded {
    match parse("f", text.as_bytes(), &variables(), Purpose::Serve) {
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
    let faults = parse("f", text.as_bytes(), &variables(), Purpose::Serve).unwrap_err();
    assert_eq!(lines(faults.iter()), want, "\n{text}");
}

#[track_caller]
fn warned(text: &str, want: &[&str]) {
    assert_eq!(lines(&loaded(text).warnings), want, "\n{text}");
}

const SECOND: Span = Span::Period(Duration::from_secs(1));
const MINUTE: Span = Span::Period(Duration::from_secs(60));

fn pace(span: Span, amount: f64, burst: f64) -> Pace {
    Pace { span, amount, burst, smooth: None }
}

#[test]
fn a_store_of_one_line_has_the_documented_rest() {
    let store = config(&file("", "store: {url: 'redis://Redis'}\n")).store.unwrap();
    assert_eq!((store.url.kind, store.url.tls, store.url.database), (Kind::Single, false, 0));
    assert_eq!(store.url.addresses, [("redis".to_owned(), 6379)]);
    assert!(store.url.username.is_none() && store.url.master.is_none());
    assert!(store.password.is_none() && store.secret.is_none() && store.ca_pem.is_none());
    assert_eq!((store.timeout, store.expected_nodes), (Duration::from_millis(25), 1));
    assert_eq!(store.prefix, "tidegate:");
}

#[test]
fn every_key_of_a_store_is_taken_over() {
    let text = "store: {url: 'rediss+sentinel://me@h1,h2:7/m/4', password: {env: PASS}, timeout: 1s, prefix: 't/1:', expected_nodes: 1000, secret: {env: SECRET}}\n";
    let store = config(&file("", text)).store.unwrap();
    assert_eq!((store.url.kind, store.url.tls, store.url.database), (Kind::Sentinel, true, 4));
    assert_eq!(store.url.addresses, [("h1".to_owned(), 26379), ("h2".to_owned(), 7)]);
    assert_eq!((store.url.username.as_deref(), store.url.master.as_deref()), (Some("me"), Some("m")));
    assert_eq!(store.password.unwrap().expose_secret(), "hunter2");
    assert_eq!(store.secret.unwrap().expose_secret(), "a-secret");
    assert_eq!((store.timeout, store.expected_nodes), (Duration::from_secs(1), 1000));
    assert_eq!(store.prefix, "t/1:");
}

#[test]
fn a_store_that_cannot_be_is_refused() {
    told(
        &file(
            "",
            "store: {url: 'valkey://h', timeout: 0s, prefix: 'a b', expected_nodes: 0, password: hunter2}\n",
        ),
        &[
            "3:14: this address has a scheme we do not speak: redis://, redis+sentinel:// or redis+cluster:// is meant, with TLS rediss://, rediss+sentinel:// or rediss+cluster://",
            "3:37: `timeout` is 0ms: 1ms to 1s is meant",
            "3:49: `prefix` is 1 to 64 letters, digits and signs in ASCII, without spaces, `{` and `}`",
            "3:72: `expected_nodes` is 0: 1 to 1000 is meant",
            "3:85: a secret stands here in clear: keep it out of this file and write {env: NAME} or {file: PATH}",
        ],
    );
    told(
        &file(
            "",
            "store:\n  url: redis://me:hunter2@h\n  timeout: 1001ms\n  prefix: '{t}'\n  expected_nodes: 1001\n  secret: {env: GONE}\n",
        ),
        &[
            "4:8: this address holds a password: keep it out of this file and write `password: {env: NAME}`",
            "5:12: `timeout` is 1001ms: 1ms to 1s is meant",
            "6:11: `prefix` is 1 to 64 letters, digits and signs in ASCII, without spaces, `{` and `}`",
            "7:19: `expected_nodes` is 1001: 1 to 1000 is meant",
            "8:11: the variable GONE is not set: set it before the node serves",
        ],
    );
    told(&file("", "store: {}\n"), &["3:8: `url` is missing: `store` needs it"]);
    for prefix in ["", "é", "a\\tb", &"p".repeat(65)] {
        told(
            &file("", &format!("store: {{url: 'redis://h', prefix: \"{prefix}\"}}\n")),
            &["3:35: `prefix` is 1 to 64 letters, digits and signs in ASCII, without spaces, `{` and `}`"],
        );
    }
    for (url, want) in [
        ("h:6379", "has no scheme: write it out, as in redis://HOST"),
        ("redis:///0", "has no host: write it after ://"),
        ("redis://h:0", "has a port that is no number from 1 to 65535"),
        ("redis://h/x", "has a database that is no number from 0 to 1000000"),
        (
            "redis://h1,h2",
            "has several hosts, and redis:// is one: redis+sentinel:// or redis+cluster:// is meant",
        ),
        (
            "redis+sentinel://h1,h2",
            "names no master: write what the sentinels call it after the hosts, as in redis+sentinel://h1:26379,h2:26379/mymaster/0",
        ),
        ("redis+cluster://h1,h2/1", "ends after its hosts: a cluster has database 0 alone"),
    ] {
        let want = format!("3:14: this address {want}");
        told(&file("", &format!("store: {{url: '{url}'}}\n")), &[&want]);
    }
}

#[test]
fn a_store_over_tls_may_have_a_ca_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let pem = "-----BEGIN CERTIFICATE-----\n";
    std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
    std::fs::write(folder.path().join("key.pem"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let path = folder.path().join("tidegate.yaml");
    let read = |store: &str| {
        std::fs::write(&path, file("", &format!("store: {store}\n"))).unwrap();
        load(&path, Purpose::Serve)
    };
    for scheme in ["rediss://h", "rediss+cluster://h", "rediss+sentinel://h/m"] {
        let store = read(&format!("{{url: '{scheme}', tls: {{ca: ca.pem}}}}")).unwrap().config.store.unwrap();
        assert_eq!(store.ca_pem.as_deref(), Some(pem.as_bytes()));
    }
    const PLAIN: &str = "`tls` is for a store over TLS: begin `url` with rediss://, rediss+sentinel:// or rediss+cluster://, or remove `tls`";
    for (store, want) in [
        (
            "{url: 'rediss://h', tls: {ca: gone.pem}}",
            "3:38: the file `gone.pem` cannot be read: there is no such file",
        ),
        ("{url: 'rediss://h', tls: {ca: key.pem}}", "3:38: the file `key.pem` holds no certificate in PEM"),
        ("{url: 'rediss://h', tls: {ca: ''}}", "3:38: the path is empty: write where the certificate is"),
        ("{url: 'rediss://h', tls: {}}", "3:33: `ca` is missing: `store.tls` needs it"),
        ("{url: 'redis://h', tls: {ca: ca.pem}}", &format!("3:27: {PLAIN}")),
        ("{url: 'redis+cluster://h', tls: {ca: ca.pem}}", &format!("3:35: {PLAIN}")),
        ("{url: 'redis+sentinel://h/m', tls: {ca: ca.pem}}", &format!("3:38: {PLAIN}")),
    ] {
        let faults = read(store).unwrap_err().to_string();
        assert_eq!(faults.strip_prefix(&format!("{}:", path.display())), Some(want), "{store}");
    }
}

#[test]
fn the_limits_of_a_file_stand_in_its_order_but_for_what_runs_at_once_on_a_node() {
    let text = "limits:
  - {per: ip, requests: 300/min, burst: 100}
  - {per: node, in_flight: 9, queue: 0, queue_timeout: 2s}
  - {per: model, requests: 3000/min, smooth: true, on_store_loss: share}
  - {per: route, tokens: 2.5/s, on_store_loss: open}
  - {per: client, usd: 0.5/h, on_store_loss: closed}
  - {per: node, tokens: 100/h, burst: 7}
  - {per: ip, in_flight: 5}
  - {per: client, tokens: 2000000/day}
  - {per: node, requests: 0.2/s, smooth: false}
";
    let config = config(&file("", &format!("{text}{PRICES}clients: [{{{CLIENT}}}]\n")));
    let node = config.node_limit;
    assert_eq!((node.in_flight, node.queue, node.queue_timeout), (9, 0, Duration::from_secs(2)));
    let hour = Span::Period(Duration::from_secs(3600));
    let smooth = Smooth { queue: 100, timeout: Duration::from_secs(1) };
    let want = [
        (Per::Ip, Meter::Requests(pace(MINUTE, 300.0, 100.0)), OnStoreLoss::Share),
        (
            Per::Model,
            Meter::Requests(Pace { span: MINUTE, amount: 3000.0, burst: 1.0, smooth: Some(smooth) }),
            OnStoreLoss::Share,
        ),
        (Per::Route, Meter::Tokens(pace(SECOND, 2.5, 2.5)), OnStoreLoss::Open),
        (Per::Client, Meter::Usd(pace(hour, 500_000.0, 500_000.0)), OnStoreLoss::Closed),
        (Per::Node, Meter::Tokens(pace(hour, 100.0, 7.0)), OnStoreLoss::Share),
        (Per::Ip, Meter::InFlight(5), OnStoreLoss::Share),
        (Per::Client, Meter::Tokens(pace(Span::Day, 2e6, 2e6)), OnStoreLoss::Share),
        // A bucket of less than one would never let anything through.
        (Per::Node, Meter::Requests(pace(SECOND, 0.2, 1.0)), OnStoreLoss::Share),
    ];
    assert_eq!(config.limits, want.map(|(per, meter, on_store_loss)| Limit { per, meter, on_store_loss }));
}

#[test]
fn a_route_and_a_client_have_limits_of_their_own() {
    let route = "limits: [{requests: 10/s, smooth: true, queue: 3, queue_timeout: 5s}, {in_flight: 2}]";
    let clients = format!(
        "clients: [{{{CLIENT}, limits: [{{usd: 20/day}}, {{usd: 3/min, burst: 5, on_store_loss: closed}}]}}]\n"
    );
    let config = config(&file(route, &format!("{clients}{PRICES}")));
    let smooth = Some(Smooth { queue: 3, timeout: Duration::from_secs(5) });
    let share = OnStoreLoss::Share;
    assert_eq!(
        config.routes[0].limits,
        [
            Limit {
                per: Per::Route,
                meter: Meter::Requests(Pace { span: SECOND, amount: 10.0, burst: 1.0, smooth }),
                on_store_loss: share,
            },
            Limit { per: Per::Route, meter: Meter::InFlight(2), on_store_loss: share },
        ]
    );
    assert_eq!(
        config.clients.unwrap()[0].limits,
        [
            Limit { per: Per::Client, meter: Meter::Usd(pace(Span::Day, 2e7, 2e7)), on_store_loss: share },
            Limit {
                per: Per::Client,
                meter: Meter::Usd(pace(MINUTE, 3e6, 5e6)),
                on_store_loss: OnStoreLoss::Closed,
            },
        ]
    );
    assert!(config.limits.is_empty());
}

#[test]
fn a_limit_that_cannot_be_is_refused() {
    const ONE: &str = "a limit has exactly one of `requests`, `tokens`, `usd` and `in_flight`";
    told(
        &file(
            "",
            "limits:
  - {per: node, in_flight: 0, requests: 1/s}
  - {requests: 0/s}
  - {per: ip, requests: 5}
  - {per: ip}
  - {per: key, tokens: 1/s, queue: 5}
  - {per: ip, requests: 1/s, burst: 0}
  - {per: ip, tokens: 0.5/day}
  - {per: ip, requests: 1000000000000001/s}
  - {per: ip, usd: 1000000001/s}
",
        ),
        &[
            &format!("4:5: {ONE}"),
            "4:28: `in_flight` is 0: 1 to 1000000 is meant",
            "5:5: `per` is missing: ip, node, route, model or client",
            "5:16: `requests` lets nothing through: an amount over 0 is meant",
            "6:25: `5` has no period: a rate is written 10/s, 600/min, 100/h or 2000000/day",
            &format!("7:5: {ONE}"),
            "8:11: unknown word `key`: write ip, node, route, model or client",
            "8:29: `queue` belongs to a limit that waits: one with `smooth: true`, or with `per: node` and `in_flight`",
            "9:37: `burst` is 0: 1 to 1000000000 is meant",
            "10:23: `tokens` lets nothing through in a day: a larger amount is meant",
            "11:25: `requests` is over 1e15: no limit at all",
            "12:20: `usd` is over 1e9: no limit at all",
        ],
    );
}

#[test]
fn a_limit_has_only_what_goes_with_it() {
    const DAY: &str = "a /day limit is a UTC day, not a bucket";
    const QUEUE: &str =
        "belongs to a limit that waits: one with `smooth: true`, or with `per: node` and `in_flight`";
    told(
        &file(
            "",
            "limits:
  - {per: ip, requests: 5/day, burst: 2}
  - {per: ip, requests: 5/day, smooth: true}
  - {per: ip, requests: 5/s, smooth: true, burst: 2}
  - {per: ip, tokens: 5/s, smooth: true, queue: 4}
  - {per: ip, requests: 5/s, queue: 4, queue_timeout: 1s}
  - {per: ip, in_flight: 5, burst: 2, smooth: true}
  - {per: node, in_flight: 5, burst: 2, smooth: true, on_store_loss: open}
  - {per: node, requests: 5/s, on_store_loss: share, queue: 4}
  - {per: node, in_flight: 6}
  - {per: model, requests: 5/s, smooth: maybe, queue: 4}
  - {per: ip, requests: 5/s, smooth: true, queue: 1000001, queue_timeout: 0s}
",
        ),
        &[
            &format!("4:32: {DAY}"),
            &format!("5:32: {DAY}"),
            "6:44: `burst` does not go with `smooth`, which lets no burst through",
            "7:28: `smooth` is for `requests` alone: it does not go with `tokens`",
            &format!("8:30: `queue` {QUEUE}"),
            &format!("8:40: `queue_timeout` {QUEUE}"),
            "9:29: `burst` does not go with `in_flight`, which is no rate",
            "9:39: `smooth` does not go with `in_flight`, which is no rate",
            "10:31: `burst` does not go with `in_flight`, which is no rate",
            "10:41: `smooth` does not go with `in_flight`, which is no rate",
            "10:55: `on_store_loss` does not go with `per: node`: nothing of it is in the store",
            "11:32: `on_store_loss` does not go with `per: node`: nothing of it is in the store",
            &format!("11:54: `queue` {QUEUE}"),
            "12:5: the node has an `in_flight` already, in line 10",
            "13:41: `maybe` is neither true nor false",
            "14:51: `queue` is 1000001: 0 to 1000000 is meant",
            "14:75: `queue_timeout` is 0: 1ms to 24h is meant",
        ],
    );
    told(
        &file(
            "limits: [{per: ip, requests: 1/s}]",
            &format!("clients: [{{{CLIENT}, limits: [{{per: client, in_flight: 0}}]}}]\n"),
        ),
        &[
            "2:49: `per` belongs to the file's own `limits`: these are a route's own",
            "3:109: `per` belongs to the file's own `limits`: these are a client's own",
            "3:133: `in_flight` is 0: 1 to 1000000 is meant",
        ],
    );
}

#[test]
fn a_route_says_what_it_caches() {
    let of = |cache: &str| config(&file(&format!("cache: {cache}"), "")).routes[0].cache.unwrap();
    assert_eq!(
        of("{ttl: 1s}"),
        Cache {
            ttl: Duration::from_secs(1),
            shared: false,
            only_deterministic: false,
            stale_if_error: Duration::ZERO,
            max_size: 1024 * 1024,
        }
    );
    assert_eq!(
        of("{ttl: 30d, shared: true, only_deterministic: true, stale_if_error: 720h, max_size: 64MiB}"),
        Cache {
            ttl: Duration::from_secs(30 * 86_400),
            shared: true,
            only_deterministic: true,
            stale_if_error: Duration::from_secs(30 * 86_400),
            max_size: 64 * 1024 * 1024,
        }
    );
    told(
        &file("cache: {ttl: 999ms, stale_if_error: 31d, max_size: 1023B}", ""),
        &[
            "2:52: `ttl` is 999ms: 1s to 30d is meant",
            "2:75: `stale_if_error` is 31d: 0ms to 30d is meant",
            "2:90: `max_size` is 1023B: 1KiB to 64MiB is meant",
        ],
    );
    told(
        &file("cache: {ttl: 2592001s, max_size: 65MiB}", ""),
        &["2:52: `ttl` is 2592001s: 1s to 30d is meant", "2:72: `max_size` is 65MiB: 1KiB to 64MiB is meant"],
    );
    told(&file("cache: {}", ""), &["2:46: `ttl` is missing: `cache` needs it"]);
}

#[test]
fn a_node_says_how_much_memory_answers_may_take() {
    let of = |size: &str| config(&file("", &format!("node: {{cache_memory: {size}}}\n"))).node.cache_memory;
    assert_eq!((of("0B"), of("1GiB"), of("64GiB")), (0, 1 << 30, 64 << 30));
    told(
        &file("", "node: {cache_memory: 65GiB}\n"),
        &["3:22: `cache_memory` is 65GiB: 0B to 64GiB is meant"],
    );
}

#[test]
fn prices_stand_in_the_order_of_the_file() {
    let text = "prices:\n  gpt-4o-mini: {input: 0.15, output: 0.60}\n  'gpt-4*': {input: 2.50, output: 10}\n  '*': {input: 0, output: 1000000}\n";
    let prices = config(&file("", text)).prices;
    let prices: Vec<_> =
        prices.iter().map(|price| (price.model.as_str(), price.input, price.output)).collect();
    assert_eq!(prices, [("gpt-4o-mini", 0.15, 0.6), ("gpt-4*", 2.5, 10.0), ("*", 0.0, 1e6)]);
    told(
        &file(
            "",
            "prices:\n  a: {input: -1, output: 1000001}\n  'b c': {input: 1, output: free}\n  d: {input: 1}\n",
        ),
        &[
            "4:14: `input` is -1: 0 to 1000000 is meant",
            "4:26: `output` is 1000001: 0 to 1000000 is meant",
            "5:3: no model has this name: write one such as gpt-4o, or a pattern such as gpt-4*",
            "5:29: `free` is no number: write one such as 2 or 0.5",
            "6:6: `output` is missing: a price needs it",
        ],
    );
    warned(
        &file("", "prices:\n  'a*': {input: 1, output: 1}\n  ab: {input: 1, output: 1}\n"),
        &["5:3: this price never matches: `a*` in line 4 comes first and takes all it could"],
    );
}

#[test]
fn limits_that_never_hold_are_warned_of() {
    const NOBODY: &str = "3:16: without `clients` nobody is one, and this limit holds for no request: write `clients`, or `per: ip`";
    let limits = "limits: [{per: client, requests: 1/s}]\n";
    warned(&file("", limits), &[NOBODY]);
    warned(&file("", &format!("{limits}clients: [{{{CLIENT}}}]\n")), &[]);

    const FREE: &str = "`usd` needs `prices`: without them every request costs 0, and this limit never holds";
    let text = file(
        "limits: [{usd: 1/h}]",
        &format!("limits: [{{per: ip, usd: 1/day}}]\nclients: [{{{CLIENT}, limits: [{{usd: 20/day}}]}}]\n"),
    );
    let want = ["2:54", "3:25", "4:114"].map(|place| format!("{place}: {FREE}"));
    warned(&text, &want.each_ref().map(String::as_str));
    warned(&format!("{text}prices: {{}}\n"), &want.each_ref().map(String::as_str));
    warned(&format!("{text}{PRICES}"), &[]);
    // A fault among the prices is no reason to say that there are none.
    let faulty = format!("{text}prices: {{m: {{input: 1}}}}\n");
    let faults = parse("f", faulty.as_bytes(), &variables(), Purpose::Serve).unwrap_err();
    assert_eq!(faults.iter().count(), 1);
    assert_eq!(faults.warnings(), []);
}

#[test]
fn caches_that_lie_open_or_keep_nothing_are_warned_of() {
    const OPEN: &str = "3:14: hashes of prompts lie in Redis unkeyed, and who reads them can try what was asked: add `secret: {env: NAME}`, the same on every node";
    const NOTHING: &str = "2:39: nothing is kept: there is no `store`, and `node.cache_memory` is 0; raise it, or remove `cache`";
    let cache = "cache: {ttl: 1h}";
    warned(&file(cache, "store: {url: 'redis://h'}\n"), &[OPEN]);
    warned(&file("", "store: {url: 'redis://h'}\n"), &[]);
    warned(&file(cache, "store: {url: 'redis://h', secret: {env: SECRET}}\n"), &[]);
    warned(&file(cache, "node: {cache_memory: 0B}\n"), &[NOTHING]);
    warned(&file("", "node: {cache_memory: 0B}\n"), &[]);
    warned(&file(cache, "node: {cache_memory: 0B}\nstore: {url: 'redis://h', secret: {env: SECRET}}\n"), &[]);
    // For a check the secret need not be there.
    let absent = file(cache, "store: {url: 'redis://h', secret: {env: GONE}}\n");
    let checked = parse("f", absent.as_bytes(), &variables(), Purpose::Check).unwrap();
    assert_eq!(
        lines(&checked.warnings),
        ["3:35: the variable GONE is not set: set it before the node serves"]
    );
}

proptest! {
    #[test]
    fn any_limit_is_refused_or_lets_something_through(
        per in "(ip|node|route|model|client)",
        meter in "(requests|tokens|usd): [0-9]{1,16}(\\.[0-9]{1,9})?/(s|min|h|day)",
        more in prop::collection::btree_set("(burst: [0-9]{1,11}|smooth: (true|false)|queue: [0-9]{1,3}|on_store_loss: open)", 0..3),
    ) {
        let more: String = more.iter().map(|more| format!(", {more}")).collect();
        let text = file("", &format!("limits: [{{per: {per}, {meter}{more}}}]\n"));
        if let Ok(loaded) = parse("f", text.as_bytes(), &variables(), Purpose::Serve) {
            let [limit] = loaded.config.limits.as_slice() else { panic!("one limit\n{text}") };
            let (Meter::Requests(pace) | Meter::Tokens(pace) | Meter::Usd(pace)) = limit.meter else {
                panic!("a rate\n{text}")
            };
            prop_assert!(pace.amount > 0.0 && pace.amount <= 1e15 && pace.burst >= 1.0 && pace.burst.is_finite());
            prop_assert!(pace.span != Span::Day || (pace.burst == pace.amount && pace.smooth.is_none()));
            prop_assert!(pace.smooth.is_none() || matches!(limit.meter, Meter::Requests(_)));
        }
    }
}
