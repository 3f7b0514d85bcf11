//! The annotated files under `configs/` load, say what their comments say, and fit the schema.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says where"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_config::{Config, Kind, Meter, OnStoreLoss, Per, Purpose, Way, hash_key, parse, schema};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 2, "{names:?}");
    names
}

fn variables() -> BTreeMap<String, String> {
    ["OPENAI_API_KEY", "HK_PROXY_PASSWORD", "REDIS_PASSWORD", "TIDEGATE_STORE_SECRET", "TIDEGATE_ADMIN_TOKEN"]
        .map(|name| (name.to_owned(), format!("value-of-{name}")))
        .into()
}

fn loaded(name: &str) -> Config {
    let text = std::fs::read(folder().join(name)).unwrap();
    match parse(name, &text, &variables(), Purpose::Serve) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, [], "{name}");
            loaded.config
        }
        Err(faults) => panic!("{faults}"),
    }
}

#[test]
fn every_file_serves_once_its_secrets_are_set() {
    for name in names() {
        loaded(&name);
    }
}

#[test]
fn every_file_passes_a_check_without_its_secrets_and_names_them() {
    for name in names() {
        let text = std::fs::read(folder().join(&name)).unwrap();
        let checked = parse(&name, &text, &BTreeMap::new(), Purpose::Check).unwrap();
        assert!(checked.warnings.iter().any(|w| w.text().contains("OPENAI_API_KEY")), "{name}");
        let faults = parse(&name, &text, &BTreeMap::new(), Purpose::Serve).unwrap_err();
        assert!(faults.to_string().contains("the variable OPENAI_API_KEY is not set"), "{name}");
    }
}

#[test]
fn the_single_node_is_what_its_comments_say() {
    let config = loaded("single-node.yaml");
    let [upstream] = config.upstreams.as_slice() else { panic!("one upstream") };
    assert_eq!(upstream.base_url.authority, "api.openai.com");
    assert_eq!(upstream.timeouts.stream_total, Duration::from_secs(600));
    let [client] = config.clients.as_deref().unwrap() else { panic!("one client") };
    assert!(client.models.as_ref().unwrap().iter().any(|glob| glob.matches("gpt-4o")));
    assert_eq!(config.routes[0].retry.budget, 0.1);
    assert_eq!(config.node_limit.in_flight, 1000);
}

#[test]
fn the_china_egress_tries_its_proxies_before_direct() {
    let config = loaded("china-egress.yaml");
    let order: Vec<&str> =
        config.upstreams[0].egress.iter().map(|&index| config.egress[index].name.as_str()).collect();
    assert_eq!(order, ["hk", "sg", "direct"]);
    assert!(
        matches!(&config.egress[1].way, Way::Connect(proxy) if proxy.port == 3128 && proxy.login.is_some())
    );
    assert!(matches!(&config.egress[2].way, Way::Socks5h(proxy) if proxy.login.is_none()));
    assert_eq!(config.dns.hosts["api.openai.com"].len(), 2);
}

#[test]
fn the_cluster_is_what_its_comments_say() {
    let config = loaded("cluster.yaml");
    let store = config.store.unwrap();
    assert_eq!((store.url.kind, store.url.addresses.len()), (Kind::Sentinel, 3));
    assert!(store.password.is_some() && store.secret.is_some());
    assert_eq!(config.node.cache_memory, 256 << 20);
    let [embeddings, rest] = config.routes.as_slice() else { panic!("two routes") };
    assert!(embeddings.cache.unwrap().shared && !rest.cache.unwrap().shared);
    assert_eq!(rest.limits.iter().map(|limit| limit.per).collect::<Vec<_>>(), [Per::Route]);
    let [team, jobs] = config.clients.as_deref().unwrap() else { panic!("two clients") };
    assert_eq!(team.limits.len(), 5);
    let [paced, spent] = jobs.limits.as_slice() else { panic!("two limits") };
    assert!(
        matches!(paced.meter, Meter::Requests(pace) if pace.smooth.is_some_and(|smooth| smooth.queue == 200))
    );
    assert_eq!(spent.on_store_loss, OnStoreLoss::Closed);
    assert_eq!(config.limits.iter().map(|limit| limit.per).collect::<Vec<_>>(), [Per::Ip, Per::Model]);
    // Whatever a client may ask for costs what comes first in the list.
    let price = config.prices.iter().find(|price| price.model.matches("gpt-4o-mini-2024-07-18")).unwrap();
    assert_eq!((price.input, price.output), (0.15, 0.6));
}

#[test]
fn a_key_hashes_to_what_the_file_holds() {
    let text = "upstreams: [{name: u, base_url: 'http://u'}]\n\
                routes: [{match: {model: m}, to: [u]}]\n\
                clients: [{name: c, key_sha256: 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08}]\n";
    let config = parse("t", text.as_bytes(), &BTreeMap::new(), Purpose::Serve).unwrap().config;
    assert_eq!(config.clients.unwrap()[0].key_sha256, hash_key("test"));
}

/// The file as an editor sees it: plain YAML values, variables unfilled.
fn as_json(name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn the_schema_accepts_every_file_and_no_unknown_key() {
    let schema = schema();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for name in names() {
        let mut file = as_json(&name);
        let faults: Vec<String> =
            validator.iter_errors(&file).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert_eq!(faults, [""; 0], "{name}");
        file["upstreams"][0]["timeuts"] = "5s".into();
        assert!(!validator.is_valid(&file), "{name}: an unknown key");
    }
    for (pointer, bad) in
        [("/listen/drain_grace", "5"), ("/routes/0/retry/budget", "0.1"), ("/log/level", "loud")]
    {
        let mut file = as_json("single-node.yaml");
        *file.pointer_mut(pointer).unwrap() = bad.into();
        assert!(!validator.is_valid(&file), "{pointer}: {bad}");
    }
}
