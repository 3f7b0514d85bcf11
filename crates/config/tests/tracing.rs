//! What a file says of traces, and what is wrong with it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;

use secrecy::ExposeSecret;
use tidegate_config::{Purpose, Tracing, load, parse};

/// These keys of `tracing` from line 3, column 11.
fn file(tracing: &str) -> String {
    format!(
        "upstreams: [{{name: u, base_url: 'https://u/v1'}}]\nroutes: [{{match: {{model: m}}, to: [u]}}]\ntracing: {{{tracing}}}\n"
    )
}

fn variables() -> BTreeMap<String, String> {
    [("TOKEN", "Bearer hunter2"), ("ODD", "Bearer hüntér2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

#[track_caller]
fn tracing(said: &str) -> Tracing {
    match parse("f", file(said).as_bytes(), &variables(), Purpose::Serve) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, [], "{said}");
            loaded.config.tracing.unwrap()
        }
        Err(faults) => panic!("{faults}\n{said}"),
    }
}

#[track_caller]
fn told(said: &str, want: &[&str]) {
    let faults = parse("f", file(said).as_bytes(), &variables(), Purpose::Serve).unwrap_err();
    let lines: Vec<String> = faults.iter().map(|fault| fault.to_string().replacen("f:3:", "", 1)).collect();
    assert_eq!(lines, want, "{said}");
    assert!(!faults.to_string().contains("hunter2"), "{faults}");
}

#[test]
fn a_collector_alone_gets_one_request_of_a_hundred() {
    let found = tracing("otlp: 'http://127.0.0.1:4318'");
    assert_eq!((found.url.authority.as_str(), found.url.path.as_str()), ("127.0.0.1:4318", ""));
    assert_eq!(found.sample, 0.01);
    assert!(found.headers.is_empty() && found.ca_pem.is_none());
}

#[test]
fn every_key_of_tracing_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(folder.path().join("token"), "Bearer hunter2\n").unwrap();
    let said = "otlp: 'https://Collector/otlp/', sample: 2.5%, headers: {Authorization: {file: token}}, tls: {ca: ca.pem}";
    let path = folder.path().join("tidegate.yaml");
    std::fs::write(&path, file(said)).unwrap();
    let found = load(&path, Purpose::Serve).unwrap().config.tracing.unwrap();
    assert!(found.url.tls && found.url.port == 443);
    assert_eq!((found.url.host.as_str(), found.url.path.as_str()), ("collector", "/otlp"));
    assert_eq!(found.sample, 0.025);
    let headers: Vec<(&str, &str)> =
        found.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    assert_eq!(headers, [("authorization", "Bearer hunter2")]);
    assert_eq!(found.ca_pem.as_deref(), Some("-----BEGIN CERTIFICATE-----\n".as_bytes()));
    assert_eq!(tracing("otlp: 'http://c', sample: 0%").sample, 0.0);
    assert_eq!(tracing("otlp: 'http://c', sample: 100%").sample, 1.0);
}

#[test]
fn a_collector_that_cannot_be_is_refused() {
    told("sample: 1%", &["10: `otlp` is missing: `tracing` needs it"]);
    told("otlp: '127.0.0.1:4317'", &["17: this address has no scheme: write it out, as in https://HOST"]);
    told(
        "otlp: 'grpc://c:4317'",
        &["17: this address has a scheme we do not speak: https:// or http:// is meant"],
    );
    told(
        "otlp: 'http://c:4318/v1/traces'",
        &["17: `otlp` is what stands before /v1/traces: remove that from its end"],
    );
    told("otlp: 'http://c', sample: 101%", &["37: `sample` is over 100%: 0% to 100% is meant"]);
    told(
        "otlp: 'http://c', tls: {ca: none.pem}",
        &[
            "29: `tls` is for a collector over TLS: begin `otlp` with https://, or remove `tls`",
            "39: the file `none.pem` cannot be read: there is no such file",
        ],
    );
}

#[test]
fn headers_are_secrets_under_names_that_http_does_not_need() {
    told(
        "otlp: 'http://c', headers: {authorization: Bearer hunter2}",
        &[
            "54: a secret stands here in clear: keep it out of this file and write {env: NAME} or {file: PATH}",
        ],
    );
    told(
        "otlp: 'http://c', headers: {Host: {env: TOKEN}, 'a b': {env: TOKEN}, x: {env: TOKEN}, X: {env: TOKEN}}",
        &[
            "39: `host` is set by the gateway itself: remove it",
            "59: `a b` is no name of a header",
            "97: `x` is there already",
        ],
    );
    told(
        "otlp: 'http://c', headers: {x: {env: ODD}}",
        &["42: this secret cannot stand in a header: printable ASCII is meant"],
    );
    let unset = file("otlp: 'http://c', headers: {x: {env: UNSET}}");
    let checked = parse("f", unset.as_bytes(), &variables(), Purpose::Check).unwrap();
    assert_eq!(checked.warnings.len(), 1, "{:?}", checked.warnings);
    assert!(checked.config.tracing.unwrap().headers.is_empty());
}

#[test]
fn headers_in_clear_are_warned_of() {
    let warned = |said: &str| {
        let loaded = parse("f", file(said).as_bytes(), &variables(), Purpose::Serve).unwrap();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let with = |host: &str| format!("otlp: '{host}', headers: {{x: {{env: TOKEN}}}}");
    assert_eq!(
        warned(&with("http://otlp.example.com:4318")),
        [
            "f:3:17: over http:// the headers for this collector travel in clear, and its host is in no private network: write https://"
        ]
    );
    for fine in ["https://otlp.example.com", "http://collector:4318", "http://127.0.0.1:4318"] {
        assert_eq!(warned(&with(fine)), [""; 0], "{fine}");
    }
    assert_eq!(warned("otlp: 'http://otlp.example.com:4318'"), [""; 0], "nothing to overhear");
}
