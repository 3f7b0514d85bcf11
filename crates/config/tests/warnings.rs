//! What is said of a file that can be used, but is hardly what was meant.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;

use tidegate_config::{Fault, Purpose, parse};

fn variables() -> BTreeMap<String, String> {
    [("KEY".to_owned(), "a-secret".to_owned())].into()
}

fn lines(warnings: &[Fault]) -> Vec<String> {
    warnings.iter().map(|warning| warning.to_string().strip_prefix("f:").unwrap().to_owned()).collect()
}

#[track_caller]
fn warned(text: &str, want: &[&str]) {
    let loaded = parse("f", text.as_bytes(), &variables(), Purpose::Serve).unwrap();
    assert_eq!(lines(&loaded.warnings), want, "\n{text}");
}

/// Line 1 has this upstream, line 2 one route to it, line 3 begins the rest.
fn one(upstream: &str, rest: &str) -> String {
    format!("upstreams: [{{name: u, {upstream}}}]\nroutes: [{{match: {{model: m}}, to: [u]}}]\n{rest}")
}

const CLIENTS: &str =
    "clients: [{name: c, key_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}]\n";

#[test]
fn an_address_without_a_path() {
    const WARNING: &str =
        "1:33: this address has no path, and most APIs live under /v1, as in https://api.openai.com/v1";
    warned(&one("base_url: 'https://api.openai.com'", ""), &[WARNING]);
    warned(&one("base_url: 'http://127.0.0.1:11434/'", ""), &[WARNING]);
    warned(&one("base_url: 'https://api.openai.com/v1/'", ""), &[]);
}

#[test]
fn keys_in_clear() {
    const WARNING: &str = "1:33: over http:// the keys of this upstream travel in clear, and its host is in no private network: write https://";
    for (host, clear) in [
        ("api.example.com", true),
        ("8.8.8.8", true),
        ("100.128.0.1", true),
        ("[2606:4700::1]", true),
        ("[::ffff:8.8.8.8]", true),
        ("pinned-outside.example.com", true),
        ("127.0.0.1", false),
        ("10.1.2.3", false),
        ("192.168.1.4", false),
        ("169.254.1.1", false),
        ("100.64.0.1", false),
        ("[::1]", false),
        ("[fd00::1]", false),
        ("[fe80::1]", false),
        ("[::ffff:10.0.0.1]", false),
        ("localhost", false),
        ("vllm", false),
        ("vllm.models.svc.cluster.local", false),
        ("pinned-inside.example.com", false),
    ] {
        let hosts = "dns: {hosts: {pinned-inside.example.com: [10.0.0.9], pinned-outside.example.com: [10.0.0.9, 9.9.9.9]}}\n";
        let rest = format!("{CLIENTS}{hosts}");
        let want: &[&str] = if clear { &[WARNING] } else { &[] };
        warned(&one(&format!("base_url: 'http://{host}:8000/v1', keys: [{{env: KEY}}]"), &rest), want);
        // Without keys, or over TLS, nothing is given away.
        warned(&one(&format!("base_url: 'http://{host}:8000/v1'"), &rest), &[]);
        warned(&one(&format!("base_url: 'https://{host}:8000/v1', keys: [{{env: KEY}}]"), &rest), &[]);
    }
}

#[test]
fn a_first_byte_that_comes_too_late() {
    let times = |times: &str| one(&format!("base_url: 'https://u/v1', timeouts: {{{times}}}"), "");
    warned(
        &times("first_byte: 10m"),
        &[
            "1:72: `first_byte` is 600s, over `total`, which is 120s: a request that is not streamed ends before it",
        ],
    );
    warned(
        &times("total: 30s"),
        &[
            "1:67: `first_byte` is 60s, over `total`, which is 30s: a request that is not streamed ends before it",
        ],
    );
    warned(&times("first_byte: 2m"), &[]);
    warned(&times("first_byte: 10m, total: 10m"), &[]);
    // The longest `total` of a route counts for all its upstreams.
    warned(
        "upstreams:\n  - {name: a, base_url: 'https://a/v1', timeouts: {first_byte: 5m}}\n  - {name: b, base_url: 'https://b/v1', timeouts: {total: 6m}}\nroutes: [{match: {model: m}, to: [a, b]}]\n",
        &[],
    );
}

#[test]
fn what_nothing_uses() {
    const FILE: &str = "egress:\n  - {name: hk, proxy: 'http://p:3128'}\n  - {name: sg, proxy: 'http://p:3129'}\nupstreams:\n  - {name: a, base_url: 'https://a/v1', egress: [sg, direct]}\n  - {name: b, base_url: 'https://b/v1'}\nroutes: [{match: {model: m}, to: [b]}]\n";
    const WARNINGS: [&str; 2] = [
        "2:12: no upstream uses this egress: name it in the `egress` of one, or remove it",
        "5:12: no route goes to this upstream: name it in the `to` or a `fallback` of one, or remove it",
    ];
    warned(FILE, &WARNINGS);
    warned(&FILE.replace("[b]", "[b, a]").replace("[sg, direct]", "[sg, hk]"), &[]);
    // A name that is misspelt is a fault of its own, and what it names is no leftover.
    for (word, slip, left) in [("[b]", "[b, aa]", 0), ("[sg, direct]", "[hk, sgg]", 1)] {
        let faulty = FILE.replace(word, slip);
        let faults = parse("f", faulty.as_bytes(), &variables(), Purpose::Serve).unwrap_err();
        assert_eq!(faults.iter().count(), 1, "{faults}");
        assert_eq!(lines(faults.warnings()), [*WARNINGS.get(left).unwrap()], "{faulty}");
    }
}

#[test]
fn keys_for_anyone() {
    let upstream = "base_url: 'https://u/v1', keys: [{env: KEY}]";
    let warning = |place: &str, address: &str| {
        format!(
            "{place}: anyone who reaches {address} may spend your keys: add `clients`, see `tidegate keygen`, or listen on 127.0.0.1"
        )
    };
    warned(&one(upstream, ""), &[&warning("1:1", "0.0.0.0:8080")]);
    warned(&one(upstream, "listen: {max_body: 1MiB}\n"), &[&warning("1:1", "0.0.0.0:8080")]);
    warned(&one(upstream, "listen: {address: '[::]:80'}\n"), &[&warning("3:19", "[::]:80")]);
    for address in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        warned(&one(upstream, &format!("listen: {{address: '{address}'}}\n")), &[]);
    }
    warned(&one(upstream, CLIENTS), &[]);
    warned(&one("base_url: 'https://u/v1'", ""), &[]);
    // For a check the key need not be there to be given away later.
    let checked =
        parse("f", one(upstream, "").as_bytes(), &BTreeMap::new(), Purpose::Check).unwrap().warnings;
    assert_eq!(
        lines(&checked),
        [
            warning("1:1", "0.0.0.0:8080").as_str(),
            "1:56: the variable KEY is not set: set it before the node serves",
        ]
    );
}

#[test]
fn more_paths_than_attempts() {
    let file = |to: &str, retry: &str| {
        format!(
            "egress: [{{name: hk, proxy: 'http://p:1'}}]\nupstreams:\n  - {{name: a, base_url: 'https://a/v1', egress: [hk, direct]}}\n  - {{name: b, base_url: 'https://b/v1'}}\n  - {{name: c, base_url: 'https://c/v1'}}\nroutes:\n  - {{match: {{model: m}}, to: {to}{retry}}}\n  - {{match: {{model: n}}, to: [a]}}\n  - {{match: {{model: o}}, to: [b]}}\n  - {{match: {{model: p}}, to: [c]}}\n"
        )
    };
    warned(
        &file("[a, b, c]", ""),
        &["7:29: 4 paths and 3 attempts: the last may never be reached; raise `retry.attempts`"],
    );
    warned(
        &file("[a, b, c]", ", retry: {attempts: 1}"),
        &["7:58: 4 paths and 1 attempt: the last 3 may never be reached; raise `retry.attempts`"],
    );
    warned(&file("[a, b, c]", ", retry: {attempts: 4}"), &[]);
    warned(&file("[a, b]", ""), &[]);
}

#[test]
fn warnings_come_with_the_faults_of_a_file() {
    let text = "upstreams:\n  - {name: good, base_url: 'https://good'}\n  - {name: bad, base_url: 'ftp://bad'}\nroutes:\n  - {match: {model: m}, to: [good, bad], retry: {attempts: 1}}\n  - {match: {model: m}, to: [good]}\n";
    let faults = parse("f", text.as_bytes(), &variables(), Purpose::Serve).unwrap_err();
    assert_eq!(
        faults.to_string(),
        "f:3:27: this address has a scheme we do not speak: https:// or http:// is meant"
    );
    assert_eq!(
        lines(faults.warnings()),
        [
            "2:28: this address has no path, and most APIs live under /v1, as in https://api.openai.com/v1",
            "6:21: this route never matches: `m` in line 5 comes first and takes all it could",
        ]
    );
}
