//! What is said of a faulty file, word for word and with its place.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;

use tidegate_config::{Purpose, load, parse};

fn variables() -> BTreeMap<String, String> {
    [("PASS", "hunter2hunter2"), ("LEAK", "sk-live-abcdefghijkl"), ("BAD", "two\nlines"), ("NONE", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Every message for the text, without the file's name; empty when there is no fault.
fn faults(text: &str) -> Vec<String> {
    match parse("f", text.as_bytes(), &variables(), Purpose::Serve) {
        Ok(_) => Vec::new(),
        Err(faults) => {
            faults.to_string().lines().map(|line| line.strip_prefix("f:").unwrap().to_owned()).collect()
        }
    }
}

#[track_caller]
fn told(text: &str, want: &[&str]) {
    assert_eq!(faults(text), want, "\n{text}");
}

/// A sound file, and then these lines, which begin in line 5.
fn and(lines: &str) -> String {
    format!(
        "upstreams:\n  - {{name: openai, base_url: https://api.openai.com/v1}}\nroutes:\n  - {{match: {{model: gpt-4o}}, to: [openai]}}\n{lines}"
    )
}

/// A sound file whose upstream in line 1 also has these keys, beginning in column 49.
fn upstream(keys: &str) -> String {
    format!(
        "upstreams: [{{name: u, base_url: 'https://u/v1', {keys}}}]\nroutes: [{{match: {{model: m}}, to: [u]}}]\n"
    )
}

/// A sound file whose route in line 2 also has these keys, beginning in column 39.
fn route(keys: &str) -> String {
    format!(
        "upstreams: [{{name: u, base_url: 'https://u/v1'}}]\nroutes: [{{match: {{model: m}}, to: [u], {keys}}}]\n"
    )
}

#[test]
fn the_sound_files_are_sound() {
    for text in [and(""), upstream(""), route("")] {
        told(&text, &[]);
    }
}

#[test]
fn the_whole_file() {
    told("", &["1:1: the file is empty: it needs at least `upstreams` and `routes`"]);
    told("# only words\n", &["1:1: the file is empty: it needs at least `upstreams` and `routes`"]);
    told("- a\n", &["1:1: a list stands here, but a section (`key: value`) is due"]);
    told(
        "log: {}\n",
        &["1:1: `routes` is missing: the file needs it", "1:1: `upstreams` is missing: the file needs it"],
    );
    told(
        "upstreams: []\nroutes: []\n",
        &[
            "1:12: no upstream: requests would have nowhere to go",
            "2:9: no route: every request would be refused",
        ],
    );
    told("a: [\n", &["1:4: not valid YAML: unclosed bracket '['"]);
    told("a:\n\t- b\n", &["2:2: not valid YAML: tabs disallowed within this context (block indentation)"]);
    told("upstreams: @home\n", &["1:12: not valid YAML: a text that begins like this must stand in quotes"]);
    told("a\0b", &["1:1: holds NUL bytes: this is no text file"]);
    let bytes = b"log:\n  level: \xff\n";
    let fault = parse("f", bytes, &variables(), Purpose::Check).unwrap_err();
    assert_eq!(fault.to_string(), "f:2:10: not UTF-8 text: save the file as UTF-8");
}

#[test]
fn unknown_keys_are_all_told_with_what_is_meant() {
    told(
        &and("lisen: {}\nlog: {levl: info, verbose: true}\n"),
        &[
            "5:1: unknown key `lisen`: did you mean `listen`?",
            "6:7: unknown key `levl`: did you mean `level`?",
            "6:19: unknown key `verbose`: `log` has level, bodies and redact",
        ],
    );
    told(
        &upstream("tiemouts: {}, timeouts: {conect: 5s}"),
        &[
            "1:49: unknown key `tiemouts`: did you mean `timeouts`?",
            "1:74: unknown key `conect`: did you mean `connect`?",
        ],
    );
    told(
        &and("log: {level: info, level: debug}\n"),
        &["5:20: `level` is said twice, first in line 5: keep one"],
    );
}

#[test]
fn names_and_references() {
    told(
        "upstreams:\n  - {name: openai, base_url: 'https://a'}\n  - {name: openai, base_url: 'https://b'}\n  - {name: 'a@b', base_url: 'https://c', egress: [hk, direkt, direct, direct]}\negress:\n  - {name: hkg, proxy: 'http://p:3128'}\nroutes:\n  - {match: {model: m}, to: [opnai, opnai, zebra]}\n  - {match: {model: n}}\n  - {to: [openai]}\n  - {match: {model: ''}, to: []}\n",
        &[
            "3:12: upstream `openai` is there already: names are unique",
            "4:12: `a@b` is no name: 1 to 64 letters, digits, `.`, `_` and `-` are meant",
            "4:51: unknown egress `hk`: did you mean `hkg`?",
            "4:55: unknown egress `direkt`: did you mean `direct`?",
            "4:71: `direct` is in this list already",
            "8:30: unknown upstream `opnai`: did you mean `openai`?",
            "8:37: `opnai` is in this list already",
            "8:37: unknown upstream `opnai`: did you mean `openai`?",
            "8:44: unknown upstream `zebra`: the file has openai, openai and a@b",
            "9:5: `to` is missing: a route needs it",
            "10:5: `match` is missing: a route needs it",
            "11:21: no model has this name: write one such as gpt-4o, or a pattern such as gpt-4*",
            "11:30: no upstream: a route goes to at least one",
        ],
    );
    told(
        &route("fallback: [{upstream: locl}], filters: [words]"),
        &[
            "2:61: unknown upstream `locl`: the file has u",
            "2:69: `filters` is not built yet in this version: remove it",
            "2:79: unknown filter `words`: the file has none",
        ],
    );
}

#[test]
fn addresses() {
    for (url, want) in [
        ("api.openai.com/v1", "has no scheme: write it out, as in https://HOST"),
        ("ftp://u", "has a scheme we do not speak: https:// or http:// is meant"),
        (
            "https://me:hunter2@u",
            "holds a user name or a password: they have keys of their own, and secrets stay out of this file",
        ),
        ("https://u/?k=hunter2", "holds a `?` or a `#`: it ends with the path"),
        ("https://u:99999", "has a port that is no number from 1 to 65535"),
    ] {
        let text = format!(
            "upstreams: [{{name: u, base_url: '{url}'}}]\nroutes: [{{match: {{model: m}}, to: [u]}}]\n"
        );
        told(&text, &[&format!("1:33: this address {want}")]);
    }
    told(
        &and(
            "listen: {address: localhost:8080}\nadmin: {address: ':9090'}\ndns: {hosts: {'https://a': [1.2.3.4], b: [c], d: []}}\n",
        ),
        &[
            "5:19: `localhost:8080` is no address: write an IP address and a port, as in 0.0.0.0:8080 or [::]:8080",
            "6:18: `:9090` names no address: write 0.0.0.0:9090 for all of them, or 127.0.0.1:9090 for this machine alone",
            "7:15: `https://a` is no host name: write it alone, without scheme or port",
            "7:43: `c` is no IP address: write one such as 10.1.2.3, not a name",
            "7:50: no address: write at least one, as in [104.18.6.192]",
        ],
    );
    told(
        &and("listen: {address: '0.0.0.0:9090'}\n"),
        &[
            "5:19: `admin` would listen on 127.0.0.1:9090 and `listen` on 0.0.0.0:9090: give them different ports",
        ],
    );
    told(
        &and("listen: {trusted_proxies: [10.0.0.0/8, 10.0.0.1, 10.0.0.0/33]}\n"),
        &["5:50: `10.0.0.0/33` is no network: write one such as 10.0.0.0/8, or a single IP address"],
    );
}

#[test]
fn egress() {
    told(
        &and(
            "egress:\n  - {name: direct, proxy: 'http://p:1'}\n  - {name: a, proxy: 'socks5://p:1'}\n  - {name: b, proxy: 'http://p'}\n  - {name: c, proxy: 'http://p:1/x', username: n}\n  - {name: d, proxy: 'wss://p/t', token: {env: PASS}}\n  - {name: e, proxy: 'http://p:1', token: {env: PASS}, password: {env: PASS}}\n  - {name: f, proxy: 'http://p:1', username: 'a:b', password: {env: PASS}}\n",
        ),
        &[
            "6:12: `direct` always exists, and means no proxy: give this one another name",
            "7:22: socks5:// would resolve names here, where they may be poisoned: write socks5h://, and the proxy does",
            "8:22: this address has no port, and proxies have no usual one: write it, as in http://HOST:3128",
            "9:22: a proxy's address ends with its port: remove the path",
            "9:38: `username` without `password`: a login needs both",
            "10:22: `wss://` is not built yet in this version: remove it",
            "11:36: `token` belongs to a wss:// tunnel: a proxy takes `username` and `password`",
            "11:56: `password` without `username`: a login needs both",
            "12:46: a user name has 1 to 255 bytes, and no colon",
        ],
    );
}

#[test]
fn units_and_ranges() {
    told(
        &upstream(
            "timeouts: {connect: 5, first_byte: 0s, idle: 25h, total: 5 s, stream_total: 99999999999999999999s}",
        ),
        &[
            "1:69: `5` has no unit: a time is written 250ms, 5s, 10m, 1h or 1d",
            "1:84: `first_byte` is 0: 1ms to 24h is meant",
            "1:94: `idle` is over 24h: 1ms to 24h is meant",
            "1:106: `5 s` has no unit we know: a time is written 250ms, 5s, 10m, 1h or 1d",
            "1:125: `99999999999999999999s` is too long",
        ],
    );
    told(
        &upstream("max_in_flight: 0, pool: {max_idle: 200, http2: yes}"),
        &[
            "1:64: `max_in_flight` is 0: 1 to 1000000 is meant",
            "1:84: `max_idle` is 200, over `max_connections`, which is 100",
            "1:96: unknown word `yes`: write auto, off or only",
        ],
    );
    told(&upstream("pool: {max_connections: 5}"), &[]);
    told(
        &route("retry: {attempts: 0, budget: 101%, backoff: {initial: 1m, factor: 0.5, max: 1s}}"),
        &[
            "2:57: `attempts` is 0: 1 to 20 is meant",
            "2:68: `budget` is over 100%: 0% to 100% is meant",
            "2:105: `factor` is 0.5: 1 to 100 is meant",
            "2:115: `max` is shorter than `initial`: waits grow from `initial` (100ms if unsaid) to `max`",
        ],
    );
    told(
        &route("retry: {attempts: '3', budget: 0.1, backoff: {factor: big}}"),
        &[
            "2:57: `3` stands in quotes: write the number without them",
            "2:70: `0.1` has no unit: a share is written 10% or 0.5%",
            "2:93: `big` is no number: write one such as 2 or 0.5",
        ],
    );
    told(
        &and(
            "listen: {max_body: 0B, max_connections: -1, drain_grace: }\nlog: {bodies: yes, redact: ['(', '']}\n",
        ),
        &[
            "5:20: `max_body` is 0B: 1B to 1GiB is meant",
            "5:41: `-1` is negative: a whole number from 0 is due",
            "5:56: nothing stands here: write a time such as 250ms, 5s, 10m or 1h, or remove the key",
            "6:15: `yes` is neither true nor false",
            "6:29: `(` is no regular expression: unclosed group",
            "6:34: this pattern matches the empty text, too, so it would redact between all letters",
        ],
    );
    told(
        &and("listen: {max_body: 16MB}\nlog: {level: [info]}\n"),
        &[
            "5:20: `16MB` is no size: a size is written 100B, 64KiB, 16MiB or 1GiB",
            "6:14: a list stands here, but error, warn, info, debug or trace is due",
        ],
    );
}

#[test]
fn secrets_are_refused_in_clear_and_never_repeated() {
    const CLEAR: &str =
        "a secret stands here in clear: keep it out of this file and write {env: NAME} or {file: PATH}";
    let text = upstream(
        "keys: [sk-abcdefghijkl, hunter2, {hunter2: }, {env: hunter-2}, {env: A, file: b}, {evn: A}]",
    );
    told(
        &text,
        &[
            &format!("1:56: {CLEAR}"),
            &format!("1:73: {CLEAR}"),
            "1:83: unknown key: a reference to a secret, {env: NAME} or {file: PATH}, is due",
            "1:101: no variable can have this name: write the variable's name, not its value",
            "1:112: a reference to a secret, {env: NAME} or {file: PATH}, has exactly one key",
            "1:132: unknown key: did you mean `env`?",
        ],
    );
    // Anywhere, and also when a variable brings it in.
    told(
        &and(
            "node: {name: sk-abcdefghijkl, zone: '${LEAK}'}\nlog: {redact: ['(sk-abcdefghijkl']}\nsk-abcdefghijkl: 1\n",
        ),
        &[
            &format!("5:14: {CLEAR}"),
            &format!("5:37: {CLEAR}"),
            &format!("6:16: {CLEAR}"),
            &format!("7:1: {CLEAR}"),
        ],
    );
    let key = "tg-0123456789012345678901234567890123456789012";
    told(
        &and(&format!("clients: [{{name: c, key_sha256: {key}}}]\n")),
        &[
            "5:33: a client's key stands here in clear: only its SHA-256 belongs in this file, as `tidegate keygen` prints it",
        ],
    );
    for text in [
        text,
        and(&format!("admin: {{token: {key}}}\n")),
        and("egress: [{name: a, proxy: 'http://p:1', username: a, password: hunter2}]\n"),
    ] {
        let all = faults(&text).join("\n");
        assert!(
            !all.is_empty() && !all.contains("hunter2") && !all.contains("sk-a") && !all.contains(key),
            "{all}"
        );
    }
    // What a variable holds is not shown either: the message has the text of the file.
    told(
        &and("listen: {max_body: '${PASS}'}\n"),
        &["5:20: `${PASS}` is no size: a size is written 100B, 64KiB, 16MiB or 1GiB"],
    );
    told(
        &upstream("keys: [{vault: {path: a, field: b}}, {aws: {secret_id: a}}, {vault: {path: a}}]"),
        &[
            "1:57: `vault` secrets are not built yet in this version: use {env: NAME} or {file: PATH}",
            "1:87: `aws` secrets are not built yet in this version: use {env: NAME} or {file: PATH}",
            "1:110: `vault` secrets are not built yet in this version: use {env: NAME} or {file: PATH}",
            "1:117: `field` is missing: a vault secret needs it",
        ],
    );
}

#[test]
fn absent_secrets_are_faults_for_serving_and_warnings_for_a_check() {
    let text = upstream("keys: [{env: ABSENT}, {env: NONE}, {env: BAD}, {file: gone}], tls: {ca: gone.pem}");
    let want = [
        "1:56: the variable ABSENT is not set: set it before the node serves",
        "1:71: the variable NONE is empty: put the secret into it",
        "1:84: the variable BAD holds line breaks or control characters: one secret on one line is due",
        "1:96: the file `gone` cannot be read: there is no such file",
        "1:121: the file `gone.pem` cannot be read: there is no such file",
    ];
    told(&text, &want);
    let checked = parse("f", text.as_bytes(), &variables(), Purpose::Check).unwrap();
    let warnings: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
    let door = "1:1: anyone who reaches 0.0.0.0:8080 may spend your keys: add `clients`, see `tidegate keygen`, or listen on 127.0.0.1";
    let want: Vec<String> = [door].iter().chain(&want).map(|text| format!("f:{text}")).collect();
    assert_eq!(warnings, want);
}

#[test]
fn unset_variables_are_faults_for_both() {
    let text = and("node: {name: '${ABSENT}', zone: '${ABSENT:-hk} ${'}\n");
    let want = [
        "f:5:14: the variable ABSENT is not set: set it, or give a default as in ${ABSENT:-default}",
        "f:5:33: `${` is never closed: write ${NAME} or ${NAME:-default}, or $${ for `${` itself",
    ];
    for purpose in [Purpose::Check, Purpose::Serve] {
        let faults = parse("f", text.as_bytes(), &variables(), purpose).unwrap_err();
        assert_eq!(faults.to_string(), want.join("\n"));
    }
}

#[test]
fn clients() {
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    told(
        &and("clients: []\n"),
        &["5:10: no client: nobody could call; write one, or remove `clients` to let anyone call"],
    );
    told(
        &and(&format!(
            "clients:\n  - {{name: a, key_sha256: {hash}, models: []}}\n  - {{name: b, key_sha256: {}}}\n  - {{name: a, key_sha256: 9f86d08}}\n",
            hash.to_uppercase()
        )),
        &[
            "6:101: no model: this client could ask for nothing; remove `models` to allow all",
            "7:27: client `a` has this very key: give each its own",
            "8:12: client `a` is there already: names are unique",
            "8:27: the SHA-256 of a key is 64 hex digits: `tidegate keygen` prints a key and the entry for it",
        ],
    );
}

#[test]
fn what_is_not_built_is_refused_and_checked_all_the_same() {
    told(
        &and(
            "filters: [{name: f}]\nauth: {signature: {required_for: [tem]}, jwt: {keys: [{kid: k, alg: RS256, secret: {env: A}}]}}\n",
        ),
        &[
            "5:1: `filters` is not built yet in this version: remove it",
            "5:11: `action` is missing: a filter needs it",
            "5:11: this filter looks for nothing: it needs `words_file` or `patterns`",
            "6:1: `auth` is not built yet in this version: remove it",
            "6:35: unknown client `tem`: the file has none",
            "6:55: `public_key` is missing: RS256 needs it",
            "6:76: `secret` does not go with RS256",
        ],
    );
    // What asks for nothing is taken.
    told(&upstream("api: openai"), &[]);
    told(&route("early_commit: 0s, resumable: false, continue: false, limits: []"), &[]);
    told(&and("log: {bodies: false}\nlimits: []\nfilters: []\n"), &[]);
}

#[test]
fn the_whole_schema_is_known() {
    let all = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/whole.yaml")).unwrap();
    let mut refused = Vec::new();
    match parse("f", all.as_bytes(), &variables(), Purpose::Check) {
        Ok(_) => panic!("a file with features that are not built was accepted"),
        Err(faults) => {
            for fault in faults.iter() {
                let what = fault.text().strip_suffix(" is not built yet in this version: remove it");
                match what {
                    Some(what) => refused.push(what.trim_matches('`').to_owned()),
                    None => panic!("{fault}"),
                }
            }
        }
    }
    assert_eq!(
        refused.join(", "),
        "dns.servers, dns.reject, wss://, tls.pins, endpoints, context, filters, signing_secret, auth, filters, \
         batch, conversations"
    );
}

#[test]
fn routes_that_never_match_are_warned_of() {
    let text = "upstreams: [{name: u, base_url: 'https://u/v1/chat/completions'}]\nroutes:\n  - {match: {model: gpt-4o}, to: [u]}\n  - {match: {model: 'gpt*'}, to: [u]}\n  - {match: {model: 'gpt-*-mini'}, to: [u]}\n  - {match: {model: 'gpt-4o'}, to: [u]}\n  - {match: {model: '*'}, to: [u]}\n";
    let loaded = parse("f", text.as_bytes(), &variables(), Purpose::Serve).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "f:1:33: this looks like one endpoint: `base_url` is what stands before /chat/completions",
            "f:5:21: this route never matches: `gpt*` in line 4 comes first and takes all it could",
            "f:6:21: this route never matches: `gpt-4o` in line 3 comes first and takes all it could",
        ]
    );
    let names: Vec<&str> = loaded.config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["gpt-4o", "gpt*", "gpt-*-mini", "gpt-4o#2", "*"]);
}

#[test]
fn files_that_cannot_be_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let said = |name: &str| {
        let text = load(&path(name), Purpose::Check).unwrap_err().to_string();
        text.strip_prefix(&path(name).display().to_string()).unwrap().to_owned()
    };
    assert_eq!(
        said("gone.yaml"),
        ": cannot be read: there is no such file (--config FILE or $TIDEGATE_CONFIG says which file)"
    );
    assert_eq!(
        said(""),
        ": cannot be read: it is a folder (--config FILE or $TIDEGATE_CONFIG says which file)"
    );
    std::fs::write(path("large.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        said("large.yaml"),
        ": is over 1 MiB: a configuration is far smaller, so this is some other file"
    );
    std::fs::write(path("comment.yaml"), vec![b'#'; 1 << 20]).unwrap();
    assert_eq!(said("comment.yaml"), ":1:1: the file is empty: it needs at least `upstreams` and `routes`");
}

#[test]
fn paths_are_relative_to_the_file() {
    use secrecy::ExposeSecret;

    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tls")).unwrap();
    for (name, text) in [
        ("key", "a-secret\r\n"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("tls/cert.pem", "-----BEGIN CERTIFICATE-----\n"),
        ("tls/key.pem", "-----BEGIN PRIVATE KEY-----\n"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let file = folder.path().join("tidegate.yaml");
    std::fs::write(
        &file,
        upstream("keys: [{file: key}], tls: {ca: ca.pem}")
            + "listen: {tls: {cert: tls/cert.pem, key: tls/key.pem}}\n",
    )
    .unwrap();
    let config = load(&file, Purpose::Serve).unwrap().config;
    let upstream = config.upstreams.first().unwrap();
    assert_eq!(upstream.keys.first().unwrap().expose_secret(), "a-secret");
    assert_eq!(upstream.ca_pem.as_deref(), Some("-----BEGIN CERTIFICATE-----\n".as_bytes()));
    assert_eq!(config.listen.tls.unwrap().cert, folder.path().join("tls/cert.pem"));

    std::fs::write(&file, and("listen: {tls: {cert: tls/key.pem, key: tls/cert.pem}}\n")).unwrap();
    let faults = load(&file, Purpose::Serve).unwrap_err().to_string();
    assert!(faults.contains(":5:22: the file `tls/key.pem` holds no certificate in PEM"), "{faults}");
    assert!(faults.contains(":5:40: the file `tls/cert.pem` holds no private key in PEM"), "{faults}");
}
